"""The exact search against brute force over every allocation of small carts."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from itertools import combinations, product

from hypothesis import given, settings
from hypothesis import strategies as st

from promise_svc.domain.frontier import any_plan, best_plan, frontier
from promise_svc.domain.offers import Offers
from promise_svc.domain.search import Search
from promise_svc.domain.sourcing import (
    Candidate,
    DeliveryOption,
    Demand,
    SourcingPlan,
    Work,
    shipment_cost_nanos,
)
from tests.support.plain_search import plain_plan

MONDAY = date(2026, 11, 23)

Key = tuple[int, date, int, int]


@st.composite
def carts(draw: st.DrawFn) -> tuple[tuple[Demand, ...], tuple[Candidate, ...], int]:
    sku_count = draw(st.integers(1, 3))
    demands = tuple(
        Demand(f"S{i}", draw(st.integers(1, 3)), draw(st.integers(0, 3))) for i in range(sku_count)
    )
    candidates = tuple(
        Candidate(
            f"N{i}",
            tuple(draw(st.integers(0, 3)) for _ in demands),
            tuple(
                DeliveryOption(
                    f"O{j}",
                    MONDAY + timedelta(days=draw(st.integers(0, 2))),
                    draw(st.integers(0, 4)),
                    draw(st.integers(0, 2000)),
                )
                for j in range(draw(st.integers(1, 2)))
            ),
            draw(st.integers(0, 3)),
        )
        for i in range(draw(st.integers(0, 4)))
    )
    return demands, candidates, draw(st.integers(1, 3))


@settings(max_examples=300, deadline=None)
@given(carts())
def test_the_best_plan_is_the_one_brute_force_finds(
    cart: tuple[tuple[Demand, ...], tuple[Candidate, ...], int],
) -> None:
    """Shipments, latest date, cost and distance equal the least over every allocation."""
    demands, candidates, max_shipments = cart
    keys = list(all_keys(demands, candidates, max_shipments))

    plan = best_plan(demands, candidates, max_shipments=max_shipments)

    assert (min(keys) if keys else None) == (None if plan is None else key_of(plan))
    assert plan is None or plan.exact
    assert plan is None or plan.shipment_count_bound == len(plan.shipments)


@settings(max_examples=300, deadline=None)
@given(carts())
def test_the_frontier_holds_the_best_plan_for_each_date_that_can_be_kept(
    cart: tuple[tuple[Demand, ...], tuple[Candidate, ...], int],
) -> None:
    """(shipments, date, cost) equals brute force's best by (shipments, cost) for each date, less
    the beaten ones, in order; the first is the best plan."""
    demands, candidates, max_shipments = cart
    keys = list(all_keys(demands, candidates, max_shipments))
    kept = {
        min((count, cost, latest) for count, latest, cost, _ in keys if latest <= day)
        for day in {key[1] for key in keys}
    }
    seen = {(count, latest, cost) for count, cost, latest in kept}
    expected = sorted(key for key in seen if not any(beats(other, key) for other in seen))

    plans = frontier(demands, candidates, max_shipments=max_shipments)

    assert expected == [key_of(plan)[:3] for plan in plans]
    assert plans[:1] == [
        p for p in [best_plan(demands, candidates, max_shipments=max_shipments)] if p
    ]


@settings(max_examples=200, deadline=None)
@given(carts(), st.randoms(use_true_random=False))
def test_a_plan_fills_every_demand_from_stock_that_exists_whatever_the_input_order(
    cart: tuple[tuple[Demand, ...], tuple[Candidate, ...], int], random: object
) -> None:
    """Units add up, no node sends more than it has, and shuffled candidates change nothing."""
    demands, candidates, max_shipments = cart
    shuffled = list(candidates)
    random.shuffle(shuffled)  # type: ignore[attr-defined]

    plan = best_plan(demands, candidates, max_shipments=max_shipments)

    assert plan == best_plan(demands, tuple(shuffled), max_shipments=max_shipments)
    if plan is not None:
        stock = {candidate.node_id: candidate.ats for candidate in candidates}
        sent = zip(*(shipment.quantities for shipment in plan.shipments), strict=True)
        assert [demand.quantity for demand in demands] == [sum(units) for units in sent]
        assert all(
            have >= units
            for shipment in plan.shipments
            for have, units in zip(stock[shipment.node_id], shipment.quantities, strict=True)
        )
        assert all(any(shipment.quantities) for shipment in plan.shipments)


@settings(max_examples=200, deadline=None)
@given(carts(), st.integers(0, 6))
def test_a_search_cut_short_never_claims_more_than_it_knows(
    cart: tuple[tuple[Demand, ...], tuple[Candidate, ...], int], work_max: int
) -> None:
    """With any work bound the plan is real, its bound holds, and exact means equal to the best."""
    demands, candidates, max_shipments = cart
    keys = list(all_keys(demands, candidates, max_shipments))

    plan = best_plan(demands, candidates, max_shipments=max_shipments, work=Work(work_max))

    if plan is not None:
        assert key_of(plan) in keys
        assert plan.shipment_count_bound <= min(keys)[0]
        assert not plan.exact or key_of(plan) == min(keys)


@st.composite
def crowds(draw: st.DrawFn) -> tuple[tuple[Demand, ...], tuple[Candidate, ...], int]:
    """Many nodes of few kinds: most are surpassed by others, ties abound."""
    options = tuple(
        tuple(
            DeliveryOption(
                f"O{j}",
                MONDAY + timedelta(days=draw(st.integers(0, 2))),
                draw(st.integers(0, 2)),
                draw(st.integers(0, 1)),
            )
            for j in range(draw(st.integers(1, 2)))
        )
        for _ in range(2)
    )
    demands = tuple(
        Demand(f"S{i}", draw(st.integers(1, 4)), draw(st.integers(0, 1000)))
        for i in range(draw(st.integers(1, 3)))
    )
    candidates = tuple(
        Candidate(
            f"N{i:02}",
            tuple(draw(st.integers(0, 2)) for _ in demands),
            draw(st.sampled_from(options)),
            draw(st.integers(0, 3)),
        )
        for i in range(draw(st.integers(0, 14)))
    )
    return demands, candidates, draw(st.integers(1, 4))


@settings(max_examples=400, deadline=None)
@given(crowds(), st.integers(0, 2))
def test_leaving_out_surpassed_nodes_changes_no_plan(
    cart: tuple[tuple[Demand, ...], tuple[Candidate, ...], int], days: int
) -> None:
    """Node for node and unit for unit the plan, ties included, of a search that leaves nothing out;
    and some plan is found exactly where there is one."""
    demands, candidates, max_shipments = cart
    day = MONDAY + timedelta(days=days)
    expected = plain_plan(demands, candidates, day, max_shipments)

    offers = Offers(demands, candidates, max_shipments)

    assert expected == Search(demands, offers, day, max_shipments, Work(10**9)).run()
    late = plain_plan(demands, candidates, MONDAY + timedelta(days=2), max_shipments)
    some = any_plan(demands, candidates, max_shipments=max_shipments, work=Work(10**9))
    assert (late is None) == (some is None)


def key_of(plan: SourcingPlan) -> Key:
    return (
        len(plan.shipments),
        plan.latest_delivery_date,
        plan.cost_nanos,
        plan.distance_meters,
    )


def beats(key: tuple[int, date, int], other: tuple[int, date, int]) -> bool:
    return key != other and all(a <= b for a, b in zip(key, other, strict=True))


def all_keys(
    demands: tuple[Demand, ...], candidates: tuple[Candidate, ...], max_shipments: int
) -> Iterator[Key]:
    for count in range(1, max_shipments + 1):
        for nodes in combinations(candidates, count):
            fills = [
                fillings(demand.quantity, [n.ats[i] for n in nodes])
                for i, demand in enumerate(demands)
            ]
            for filling in product(*fills):
                sent = list(zip(*filling, strict=True))
                if not all(any(units) for units in sent):
                    continue
                grams = [
                    sum(u * d.weight_grams for u, d in zip(units, demands, strict=True))
                    for units in sent
                ]
                for options in product(*(node.options for node in nodes)):
                    pairs = zip(options, grams, strict=True)
                    yield (
                        count,
                        max(option.latest_delivery_date for option in options),
                        sum(shipment_cost_nanos(option, weight) for option, weight in pairs),
                        sum(node.distance_meters for node in nodes),
                    )


def fillings(quantity: int, stock: list[int]) -> list[tuple[int, ...]]:
    ranges = (range(min(have, quantity) + 1) for have in stock)
    return [units for units in product(*ranges) if sum(units) == quantity]
