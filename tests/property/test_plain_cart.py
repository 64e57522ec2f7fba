"""Carts promised straight from the table, by the compiled search, against the specification."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promise_svc.application import plain_cart
from promise_svc.application import promise as use_case
from promise_svc.application.capacity import Capacity
from promise_svc.application.plain_cart import promise_in_crowd
from promise_svc.domain import cart
from promise_svc.domain.delivery import Shipment
from promise_svc.domain.network import (
    Item,
    build_snapshot,
    with_items,
)
from promise_svc.hotpath import COMPILED
from tests.support.shop import Shop

pytestmark = pytest.mark.skipif(not COMPILED, reason="pure mode has nothing compiled")


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
def test_the_compiled_search_changes_no_answer(seed: int) -> None:
    """Options with their dates, shipments, costs and order, refused lines, freshness: all of a
    reply, whatever the network, the stock and the cart; stock and items change on the way."""
    shop = Shop(random.Random(seed))
    for _ in range(8):
        request = shop.request()

        assert shop.asked(request, compiled=False) == shop.asked(request, compiled=True)
        wanted = shop.plan_request()
        assert shop.planned(wanted, compiled=False) == shop.planned(wanted, compiled=True)
        if shop.rng.random() < 0.3:
            shop.stock_up()
        if shop.rng.random() < 0.2:
            documents = shop.snapshot.documents
            heavier = Item(sku="A", weight_grams=shop.rng.randint(0, 9999))
            documents = replace(documents, items=documents.items | {"A": heavier})
            shop.snapshot = with_items(shop.snapshot, shop.snapshot.version + 1, documents)
        if shop.rng.random() < 0.1:
            shop.snapshot = build_snapshot(9, shop.snapshot.documents)


@pytest.mark.parametrize("work_max", [0, 2, 9])
def test_work_runs_out_in_both_alike(work_max: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was found until then, and that it may not be the best, is said by both; an order's
    priorities share the work."""
    monkeypatch.setattr(cart, "WORK_MAX", work_max)
    monkeypatch.setattr(plain_cart, "WORK_MAX", work_max)
    for seed in range(12):
        shop = Shop(random.Random(seed))
        for _ in range(6):
            request = shop.request()._replace(explain=False)

            assert shop.asked(request, compiled=False) == shop.asked(request, compiled=True)


def test_most_carts_are_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of carts that can be promised whole all but those with something special: so the test above
    compares what it should."""
    seen: Counter[bool] = Counter()

    def counted(*args: Any, **options: Any) -> Any:
        found = promise_in_crowd(*args, **options)
        seen[found is not None] += 1
        return found

    monkeypatch.setattr(use_case, "promise_in_crowd", counted)
    for seed in range(20):
        shop = Shop(random.Random(seed))
        for _ in range(10):
            shop.asked(shop.request(), compiled=True)

    assert seen[True] > 50
    assert seen[False] > 20


@pytest.mark.parametrize("rounds_max", [0, 1, plain_cart.FULL_ROUNDS_MAX])
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_in_a_crowd_it_changes_no_answer_either(rounds_max: int, seed: int) -> None:
    """Nodes are bounded, and full on some days or on all: shipments still are the specification's,
    and so are their days of work; days fill on the way. Full nodes are met one by one, or all are
    looked at. Of plans that are equal but for their nodes another one may be told, once."""
    shop, ties = Shop(random.Random(seed), crowd=True), 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain_cart, "FULL_ROUNDS_MAX", rounds_max)
        for _ in range(6):
            shop.fill_days()
            request = shop.request()
            Capacity(shop.snapshot, shop.table).crowded = shop.rng.random() < 0.5

            asked = [shop.asked(request, compiled=x) for x in (False, True)]
            wanted = shop.plan_request()
            planned = [shop.planned(wanted, compiled=x) for x in (False, True)]
            assert _worth([x.shipments for x in asked[0].options]) == _worth(
                [x.shipments for x in asked[1].options]
            )
            assert _worth([planned[0].shipments]) == _worth([planned[1].shipments])
            ties += (asked[0] != asked[1]) + (planned[0] != planned[1])
    assert ties <= 1, "of equal plans another one may be told, which is rare"


def _worth(options: Sequence[Sequence[Shipment]]) -> list[object]:
    """What makes one plan better than another, but for how far its nodes are."""
    return [
        (len(x), sum(s.cost_micros for s in x), max((s.latest_delivery_date for s in x), default=0))
        for x in options
    ]


def test_whole_carts_in_a_crowd_are_plain_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many best plans need a full node, and the compiled search takes them: else a cart at a peak
    would cost a hundred times as much."""
    taken: list[bool] = []
    met_full = 0
    at_all = Capacity.full_nodes

    def counted(*args: Any, **options: Any) -> Any:
        found = promise_in_crowd(*args, **options)
        taken.append(found is not None)
        return found

    def full_nodes(self: Capacity, *args: Any) -> Any:
        nonlocal met_full
        found = at_all(self, *args)
        met_full += bool(found)
        return found

    monkeypatch.setattr(use_case, "promise_in_crowd", counted)
    monkeypatch.setattr(Capacity, "full_nodes", full_nodes)
    whole: Counter[bool] = Counter()
    for seed in range(30):
        shop = Shop(random.Random(seed), crowd=True)
        for _ in range(6):
            shop.fill_days()
            taken.clear()
            reply = shop.asked(shop.request()._replace(segment=""), compiled=True)
            if reply.outcome is use_case.PromiseOutcome.COMPLETE and taken:
                whole[taken[0]] += 1

    assert met_full > 20
    assert whole[True] > 20 * whole[False]
