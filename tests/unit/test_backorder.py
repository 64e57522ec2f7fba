"""Carts filled from supply on its way: where allowed, after stock here now, by when it arrives."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from promise_svc.application.promise import (
    PlanRequest,
    PromiseCartReply,
    PromiseCartRequest,
    PromiseOutcome,
    plan,
)
from promise_svc.application.quote import PromisedPlan, Quote
from promise_svc.application.quoted_lines import quoted_lines
from promise_svc.domain.inventory import ARRIVED
from promise_svc.domain.network import Item, NodeGroup, SourcingRule
from promise_svc.domain.reach import Address, Line, UnfulfilledReason
from promise_svc.domain.reservation import CreateOutcome
from tests.support.market import Market
from tests.support.networks import (
    CHICAGO,
    PICKUP,
    SHIP,
    VERSION,
    a_lane,
    a_method,
    a_node,
    a_service,
    ms,
)

NOW = ms("2026-11-20T12:00", CHICAGO)  # a Friday
SOON, LATER = ms("2026-11-25T09:00", CHICAGO), ms("2026-12-07T09:00", CHICAGO)
WEDNESDAY, DECEMBER = date(2026, 11, 25), date(2026, 12, 7)
CHICAGOAN = Address(country="US", postal_code="60601")
DOCUMENTS = (
    a_node("DC1", methods=[a_method(), a_method(PICKUP)]),
    a_node("DC2"),
    NodeGroup(node_group_id="all", node_ids=("DC1", "DC2")),
    NodeGroup(node_group_id="second", node_ids=("DC2",)),
    a_service("ground", base=5_000_000, kilogram=1_000_000),
    a_lane("all", "ground", (1, 2), from_group=True),
    Item(sku="S"),
    Item(sku="T"),
)


@pytest.fixture
def market() -> Market:
    return Market(NOW, *DOCUMENTS)


async def promise(market: Market, *lines: tuple[str, int], **other: Any) -> PromiseCartReply:
    numbered = tuple(Line(str(i), *line) for i, line in enumerate(lines, 1))
    request = PromiseCartRequest(lines=numbered, address=CHICAGOAN, allow_backorder=True)
    return await market.promise(request._replace(**other))


def told(reply: PromiseCartReply) -> list[tuple[str, date, list[tuple[str, str, int]]]]:
    """Node, ship date and (line, bucket, units) of each shipment of the first option."""
    return [
        (x.node_id, x.ship_date, [(y.line_id, y.bucket, y.quantity) for y in x.lines])
        for x in reply.options[0].shipments
    ]


async def test_only_who_allows_it_is_promised_what_is_not_here(market: Market) -> None:
    """With the date of its arrival, and with what is withheld of it left out."""
    market.table.put("S", "DC1", 5, bucket="po-1", safety_stock=2, arrival_ms=SOON)

    assert (await promise(market, ("S", 1), allow_backorder=False)).outcome is PromiseOutcome.NONE
    assert told(await promise(market, ("S", 3))) == [("DC1", WEDNESDAY, [("1", "po-1", 3)])]
    refused = (await promise(market, ("S", 4))).unfulfilled_lines
    assert [(x.reason, x.ats) for x in refused] == [(UnfulfilledReason.INSUFFICIENT_STOCK, 0)]


async def test_stock_here_now_comes_first_and_then_the_earliest_arrival(market: Market) -> None:
    """Though another node's later supply could send all in one shipment."""
    market.table.put("S", "DC2", 9, bucket="po-9", arrival_ms=LATER)
    market.table.put("S", "DC1", 2, bucket="po-1", arrival_ms=SOON)
    market.table.put("S", "DC1", 1)
    friday = date(2026, 11, 20)

    assert told(await promise(market, ("S", 1))) == [("DC1", friday, [("1", "", 1)])]
    assert told(await promise(market, ("S", 2))) == [("DC1", WEDNESDAY, [("1", "po-1", 2)])]
    assert told(await promise(market, ("S", 3))) == [
        ("DC1", friday, [("1", "", 1)]),
        ("DC1", WEDNESDAY, [("1", "po-1", 2)]),
    ]
    assert told(await promise(market, ("S", 9))) == [("DC2", DECEMBER, [("1", "po-9", 9)])]


async def test_a_line_that_is_here_does_not_wait_for_one_that_is_not(market: Market) -> None:
    """T is on its way too, and would make one shipment of the two: it leaves today."""
    market.table.put("S", "DC1", 9, bucket="po-1", arrival_ms=SOON)
    market.table.put("T", "DC1", 9, bucket="po-2", arrival_ms=SOON)
    market.table.put("T", "DC2", 1)

    assert told(await promise(market, ("S", 1), ("T", 1))) == [
        ("DC2", date(2026, 11, 20), [("2", "", 1)]),
        ("DC1", WEDNESDAY, [("1", "po-1", 1)]),
    ]


async def test_what_arrives_together_leaves_together(market: Market) -> None:
    """Lines of two SKUs from three buckets of one node and hour are one shipment."""
    for bucket, units in (("po-1", 2), ("po-2", 2)):
        market.table.put("S", "DC1", units, bucket=bucket, arrival_ms=SOON)
    market.table.put("T", "DC1", 1, bucket="po-3", arrival_ms=SOON)

    assert told(await promise(market, ("S", 3), ("T", 1))) == [
        ("DC1", WEDNESDAY, [("1", "po-1", 2), ("1", "po-2", 1), ("2", "po-3", 1)])
    ]


@pytest.mark.parametrize("arrival_ms", [0, NOW, NOW - 1, ARRIVED])
async def test_a_bucket_that_nobody_can_date_is_promised_to_nobody(
    market: Market, arrival_ms: int
) -> None:
    """Without a date, overdue, or here already: what is left of that is stock here now."""
    market.table.put("S", "DC1", 5, bucket="po-1", arrival_ms=arrival_ms)

    assert (await promise(market, ("S", 1))).outcome is PromiseOutcome.NONE


async def test_it_can_be_collected_once_it_is_here(market: Market) -> None:
    """At the node it goes to, on the day it arrives."""
    market.table.put("S", "DC1", 5, bucket="po-1", arrival_ms=SOON)
    other = {"address": None, "pickup_node_id": "DC1", "fulfillment_methods": (PICKUP,)}

    reply = await promise(market, ("S", 1), **other)

    assert told(reply) == [("DC1", WEDNESDAY, [("1", "po-1", 1)])]


async def test_rules_hold_for_the_node_it_goes_to(market: Market) -> None:
    """A rule that excludes DC2 excludes what is on its way there."""
    rule = SourcingRule(rule_id="r", node_group_id="second", excluded=True)
    market.add(rule)
    market.table.put("S", "DC2", 5, bucket="po-1", arrival_ms=SOON)
    assert (await promise(market, ("S", 1))).outcome is PromiseOutcome.NONE

    market.table.put("S", "DC1", 5, bucket="po-2", arrival_ms=LATER)
    assert told(await promise(market, ("S", 1))) == [("DC1", DECEMBER, [("1", "po-2", 1)])]


async def test_a_quote_stands_until_its_supply_is_put_off(market: Market) -> None:
    """Held from the same bucket; told as DATE_MOVED where the arrival moved back; once it is here,
    from stock here now."""
    market.table.put("S", "DC1", 5, bucket="po-1", arrival_ms=SOON)
    shipments = (await promise(market, ("S", 2))).options[0].shipments
    quote = Quote("q", VERSION, "US", "60601", "", "", PromisedPlan("USD", shipments))

    held = quoted_lines(market.snapshot, market.table, quote, 4, NOW)
    assert [x.planned_units for x in held.lines] == [(("DC1", "po-1", 2, 0, 0),)]

    market.table.put("S", "DC1", 5, bucket="po-1", arrival_ms=LATER)
    refused = quoted_lines(market.snapshot, market.table, quote, 4, NOW).refusals
    assert [(x.line_id, x.outcome) for x in refused] == [("1", CreateOutcome.DATE_MOVED)]

    market.table.put("S", "DC1", 0, bucket="po-1", arrival_ms=ARRIVED)
    arrived = quoted_lines(market.snapshot, market.table, quote, 4, NOW)
    assert [x.planned_units for x in arrived.lines] == [(("DC1", "", 2, 0, 0),)]


@pytest.mark.parametrize("allowed", [False, True])
def test_a_hold_is_sourced_from_what_is_not_here_only_where_allowed(
    market: Market, allowed: bool
) -> None:
    """The plan of a reservation is that of the promise, or a refusal."""
    market.table.put("S", "DC1", 2, bucket="po-1", arrival_ms=SOON)
    request = PlanRequest(
        lines=(Line("1", "S", 2),),
        fulfillment_method=SHIP,
        address=CHICAGOAN,
        order_ms=NOW,
        allow_backorder=allowed,
    )

    planned = plan(market.snapshot, market.table, request)

    assert planned.units == ({"1": (("DC1", "po-1", 2, 0, 0),)} if allowed else {})


def test_what_a_shard_said_of_a_bucket_counts(market: Market) -> None:
    """Units of one bucket that the table still shows and the shard has not are not planned."""
    for bucket in ("po-1", "po-2"):
        market.table.put("S", "DC1", 2, bucket=bucket, arrival_ms=SOON)
    request = PlanRequest(
        lines=(Line("1", "S", 2),),
        fulfillment_method=SHIP,
        address=CHICAGOAN,
        order_ms=NOW,
        taken={("S", "DC1\npo-1"): 1},
        allow_backorder=True,
    )

    planned = plan(market.snapshot, market.table, request)

    assert [unit[:3] for unit in planned.units["1"]] == [("DC1", "po-1", 1), ("DC1", "po-2", 1)]
