"""Carts filled from supply on its way: where allowed, after stock here now, by when it arrives."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from promise_svc.application.promise import (
    CartPromiser,
    PlanRequest,
    PromiseCartReply,
    PromiseCartRequest,
    PromiseOutcome,
    plan,
)
from promise_svc.application.quote import PromisedPlan, Quote
from promise_svc.application.quoted_lines import quoted_lines
from promise_svc.application.stock import StockSource
from promise_svc.domain.inventory import ARRIVED
from promise_svc.domain.network import Item, NodeGroup, SourcingRule
from promise_svc.domain.reach import Address, Line, UnfulfilledReason
from promise_svc.domain.reservation import CreateOutcome
from tests.support.fake_ats_reader import FakeAtsReader, FakeClock
from tests.support.fake_stock_index import FakeStockIndex
from tests.support.networks import (
    CHICAGO,
    PICKUP,
    SHIP,
    VERSION,
    a_lane,
    a_method,
    a_node,
    a_service,
    a_snapshot,
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


class World:
    def __init__(self) -> None:
        self.snapshot = a_snapshot(*DOCUMENTS)
        self.table = FakeAtsReader(NOW - 1000)

    async def promise(self, *lines: tuple[str, int], **other: Any) -> PromiseCartReply:
        numbered = tuple(Line(str(i), *line) for i, line in enumerate(lines, 1))
        request = PromiseCartRequest(lines=numbered, address=CHICAGOAN, allow_backorder=True)
        clock = FakeClock(NOW)
        stock = StockSource(
            table=self.table, index=FakeStockIndex(NOW), network=lambda: self.snapshot, clock=clock
        )
        promiser = CartPromiser(stock=stock, network=lambda: self.snapshot, clock=clock)
        return await promiser.promise_cart(request._replace(**other), timeout=1.0)


@pytest.fixture
def world() -> World:
    return World()


def told(reply: PromiseCartReply) -> list[tuple[str, date, list[tuple[str, str, int]]]]:
    """Node, ship date and (line, bucket, units) of each shipment of the first option."""
    return [
        (x.node_id, x.ship_date, [(y.line_id, y.bucket, y.quantity) for y in x.lines])
        for x in reply.options[0].shipments
    ]


async def test_only_who_allows_it_is_promised_what_is_not_here(world: World) -> None:
    """With the date of its arrival, and with what is withheld of it left out."""
    world.table.put("S", "DC1", 5, bucket="po-1", safety_stock=2, arrival_ms=SOON)

    assert (await world.promise(("S", 1), allow_backorder=False)).outcome is PromiseOutcome.NONE
    assert told(await world.promise(("S", 3))) == [("DC1", WEDNESDAY, [("1", "po-1", 3)])]
    refused = (await world.promise(("S", 4))).unfulfilled_lines
    assert [(x.reason, x.ats) for x in refused] == [(UnfulfilledReason.INSUFFICIENT_STOCK, 0)]


async def test_stock_here_now_comes_first_and_then_the_earliest_arrival(world: World) -> None:
    """Though another node's later supply could send all in one shipment."""
    world.table.put("S", "DC2", 9, bucket="po-9", arrival_ms=LATER)
    world.table.put("S", "DC1", 2, bucket="po-1", arrival_ms=SOON)
    world.table.put("S", "DC1", 1)
    friday = date(2026, 11, 20)

    assert told(await world.promise(("S", 1))) == [("DC1", friday, [("1", "", 1)])]
    assert told(await world.promise(("S", 2))) == [("DC1", WEDNESDAY, [("1", "po-1", 2)])]
    assert told(await world.promise(("S", 3))) == [
        ("DC1", friday, [("1", "", 1)]),
        ("DC1", WEDNESDAY, [("1", "po-1", 2)]),
    ]
    assert told(await world.promise(("S", 9))) == [("DC2", DECEMBER, [("1", "po-9", 9)])]


async def test_a_line_that_is_here_does_not_wait_for_one_that_is_not(world: World) -> None:
    """T is on its way too, and would make one shipment of the two: it leaves today."""
    world.table.put("S", "DC1", 9, bucket="po-1", arrival_ms=SOON)
    world.table.put("T", "DC1", 9, bucket="po-2", arrival_ms=SOON)
    world.table.put("T", "DC2", 1)

    assert told(await world.promise(("S", 1), ("T", 1))) == [
        ("DC2", date(2026, 11, 20), [("2", "", 1)]),
        ("DC1", WEDNESDAY, [("1", "po-1", 1)]),
    ]


async def test_what_arrives_together_leaves_together(world: World) -> None:
    """Lines of two SKUs from three buckets of one node and hour are one shipment."""
    for bucket, units in (("po-1", 2), ("po-2", 2)):
        world.table.put("S", "DC1", units, bucket=bucket, arrival_ms=SOON)
    world.table.put("T", "DC1", 1, bucket="po-3", arrival_ms=SOON)

    assert told(await world.promise(("S", 3), ("T", 1))) == [
        ("DC1", WEDNESDAY, [("1", "po-1", 2), ("1", "po-2", 1), ("2", "po-3", 1)])
    ]


@pytest.mark.parametrize("arrival_ms", [0, NOW, NOW - 1, ARRIVED])
async def test_a_bucket_that_nobody_can_date_is_promised_to_nobody(
    world: World, arrival_ms: int
) -> None:
    """Without a date, overdue, or here already: what is left of that is stock here now."""
    world.table.put("S", "DC1", 5, bucket="po-1", arrival_ms=arrival_ms)

    assert (await world.promise(("S", 1))).outcome is PromiseOutcome.NONE


async def test_it_can_be_collected_once_it_is_here(world: World) -> None:
    """At the node it goes to, on the day it arrives."""
    world.table.put("S", "DC1", 5, bucket="po-1", arrival_ms=SOON)
    other = {"address": None, "pickup_node_id": "DC1", "fulfillment_methods": (PICKUP,)}

    reply = await world.promise(("S", 1), **other)

    assert told(reply) == [("DC1", WEDNESDAY, [("1", "po-1", 1)])]


async def test_rules_hold_for_the_node_it_goes_to(world: World) -> None:
    """A rule that excludes DC2 excludes what is on its way there."""
    rule = SourcingRule(rule_id="r", node_group_id="second", excluded=True)
    world.snapshot = a_snapshot(*DOCUMENTS, rule)
    world.table.put("S", "DC2", 5, bucket="po-1", arrival_ms=SOON)
    assert (await world.promise(("S", 1))).outcome is PromiseOutcome.NONE

    world.table.put("S", "DC1", 5, bucket="po-2", arrival_ms=LATER)
    assert told(await world.promise(("S", 1))) == [("DC1", DECEMBER, [("1", "po-2", 1)])]


async def test_a_quote_stands_until_its_supply_is_put_off(world: World) -> None:
    """Held from the same bucket; told as DATE_MOVED where the arrival moved back; once it is here,
    from stock here now."""
    world.table.put("S", "DC1", 5, bucket="po-1", arrival_ms=SOON)
    shipments = (await world.promise(("S", 2))).options[0].shipments
    quote = Quote("q", VERSION, "US", "60601", "", "", PromisedPlan("USD", shipments))

    held = quoted_lines(world.snapshot, world.table, quote, 4, NOW)
    assert [x.planned_units for x in held.lines] == [(("DC1", "po-1", 2, 0, 0),)]

    world.table.put("S", "DC1", 5, bucket="po-1", arrival_ms=LATER)
    refused = quoted_lines(world.snapshot, world.table, quote, 4, NOW).refusals
    assert [(x.line_id, x.outcome) for x in refused] == [("1", CreateOutcome.DATE_MOVED)]

    world.table.put("S", "DC1", 0, bucket="po-1", arrival_ms=ARRIVED)
    arrived = quoted_lines(world.snapshot, world.table, quote, 4, NOW)
    assert [x.planned_units for x in arrived.lines] == [(("DC1", "", 2, 0, 0),)]


@pytest.mark.parametrize("allowed", [False, True])
def test_a_hold_is_sourced_from_what_is_not_here_only_where_allowed(
    world: World, allowed: bool
) -> None:
    """The plan of a reservation is that of the promise, or a refusal."""
    world.table.put("S", "DC1", 2, bucket="po-1", arrival_ms=SOON)
    request = PlanRequest(
        lines=(Line("1", "S", 2),),
        fulfillment_method=SHIP,
        address=CHICAGOAN,
        order_ms=NOW,
        allow_backorder=allowed,
    )

    planned = plan(world.snapshot, world.table, request)

    assert planned.units == ({"1": (("DC1", "po-1", 2, 0, 0),)} if allowed else {})


def test_what_a_shard_said_of_a_bucket_counts(world: World) -> None:
    """Units of one bucket that the table still shows and the shard has not are not planned."""
    for bucket in ("po-1", "po-2"):
        world.table.put("S", "DC1", 2, bucket=bucket, arrival_ms=SOON)
    request = PlanRequest(
        lines=(Line("1", "S", 2),),
        fulfillment_method=SHIP,
        address=CHICAGOAN,
        order_ms=NOW,
        taken={("S", "DC1\npo-1"): 1},
        allow_backorder=True,
    )

    planned = plan(world.snapshot, world.table, request)

    assert [unit[:3] for unit in planned.units["1"]] == [("DC1", "po-1", 1), ("DC1", "po-2", 1)]
