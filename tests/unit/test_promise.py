"""Promising a cart, and planning a reservation, over fakes of the ports."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, time

import pytest

from promise_svc.application.promise import (
    PlannedUnits,
    PlanRequest,
    PromiseCartReply,
    PromiseCartRequest,
    PromiseOutcome,
    plan,
)
from promise_svc.application.stock import Consistency
from promise_svc.domain.network import (
    Document,
    FulfillmentMethod,
    Item,
    NodeGroup,
    NodeStatus,
    NodeType,
)
from promise_svc.domain.reach import Address, Line, UnfulfilledReason
from promise_svc.errors import InvalidRequest
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
MONDAY, TUESDAY = date(2026, 11, 23), date(2026, 11, 24)
SAN_FRANCISCO = Address(country="US", postal_code="94107", latitude=37.77, longitude=-122.42)
STORE = [a_method(), a_method(PICKUP, time(18), minutes=60, opening_time=time(9))]


@pytest.fixture
def market() -> Market:
    return a_market()


def a_market() -> Market:
    """Two DCs, a store and a vendor that ship by ground from one group."""
    return Market(
        NOW,
        a_node("DC1"),
        a_node("DC2", latitude=37.0, longitude=-122.0),
        a_node("STORE", methods=STORE, node_type=NodeType.STORE),
        a_node("VENDOR", methods=[a_method(days=2)], node_type=NodeType.VENDOR),
        NodeGroup(node_group_id="all", node_ids=("DC1", "DC2", "STORE", "VENDOR")),
        a_service("ground", base=5_000_000, kilogram=1_000_000),
        a_lane("all", "ground", (1, 2), from_group=True),
        Item(sku="S", weight_grams=1500),
        Item(sku="T"),
    )


def cart(*lines: tuple[str, int], **changes: object) -> PromiseCartRequest:
    numbered = tuple(Line(str(i), sku, quantity) for i, (sku, quantity) in enumerate(lines, 1))
    request = PromiseCartRequest(lines=numbered, address=SAN_FRANCISCO)
    return request._replace(**changes)  # type: ignore[arg-type]


def places(reply: PromiseCartReply, option: int = 0) -> list[tuple[str, list[tuple[str, int]]]]:
    return [
        (shipment.node_id, [(part.line_id, part.quantity) for part in shipment.lines])
        for shipment in reply.options[option].shipments
    ]


def refusals(reply: PromiseCartReply) -> list[tuple[str, UnfulfilledReason, int | None]]:
    return [tuple(line) for line in reply.unfulfilled_lines]  # type: ignore[misc]


async def test_a_cart_gets_a_plan_with_dates_cost_and_how_long_it_stands(market: Market) -> None:
    """Friday noon, ground in one to two weekdays, 3 kg at one a kilogram plus five."""
    market.table.put("S", "DC1", 5)

    reply = await market.promise(cart(("S", 2)))

    assert PromiseOutcome.COMPLETE is reply.outcome
    assert places(reply) == [("DC1", [("1", 2)])]
    option = reply.options[0]
    assert (option.earliest_delivery_date, option.latest_delivery_date) == (MONDAY, TUESDAY)
    assert (option.total_cost_micros, reply.currency_code) == (8_000_000, "USD")
    assert ms("2026-11-20T17:00", CHICAGO) == option.expire_ms == reply.expire_ms
    assert (reply.network_version, reply.order_ms) == (VERSION, NOW)
    assert reply.freshness[:3] == (NOW - 1000, 1000, False)
    assert option.exact


async def test_an_order_in_the_future_is_promised_from_its_own_day(market: Market) -> None:
    """Ordered on Monday noon."""
    market.table.put("S", "DC1", 5)

    reply = await market.promise(cart(("S", 2), order_ms=ms("2026-11-23T12:00", CHICAGO)))

    assert reply.options[0].shipments[0].ship_date == MONDAY


async def test_one_unit_in_each_of_two_nodes_fulfills_a_line_of_two(market: Market) -> None:
    """The line is split, its parts add up."""
    market.table.put("S", "DC1", 1)
    market.table.put("S", "DC2", 1)

    reply = await market.promise(cart(("S", 2)))

    assert places(reply) == [("DC1", [("1", 1)]), ("DC2", [("1", 1)])]


async def test_the_split_limit_refuses_what_does_not_fit(market: Market) -> None:
    """Enough stock, one shipment too few; the line before it is still promised."""
    market.table.put("T", "DC2", 1)
    market.table.put("S", "DC1", 1)
    market.table.put("S", "DC2", 1)

    reply = await market.promise(cart(("T", 1), ("S", 2), max_shipments=1))

    assert PromiseOutcome.PARTIAL is reply.outcome
    assert places(reply) == [("DC2", [("1", 1)])]
    assert refusals(reply) == [("2", UnfulfilledReason.SPLIT_LIMIT, 2)]


async def test_repeats_of_a_sku_are_summed_before_stock_is_checked(market: Market) -> None:
    """Three are there: two lines of two do not both fit, a line of one after them does."""
    market.table.put("S", "DC1", 3)

    reply = await market.promise(cart(("S", 2), ("S", 2), ("S", 1)))

    assert places(reply) == [("DC1", [("1", 2), ("3", 1)])]
    assert refusals(reply) == [("2", UnfulfilledReason.INSUFFICIENT_STOCK, 3)]


async def test_an_off_node_is_never_planned(market: Market) -> None:
    """Its stock does not count either."""
    market.table.put("S", "DC1", 9)
    market.table.put("S", "DC2", 1)
    market.add(a_node("DC1", status=NodeStatus.OFF))

    reply = await market.promise(cart(("S", 2)))

    assert refusals(reply) == [("1", UnfulfilledReason.INSUFFICIENT_STOCK, 1)]
    assert (reply.outcome, reply.expire_ms) == (PromiseOutcome.NONE, None)


async def test_inbound_and_withheld_stock_is_not_promised(market: Market) -> None:
    """Only ATS here and now counts."""
    market.table.put("S", "DC1", 9, bucket="po-1")
    market.table.put("S", "DC2", 9, held=3, committed=3, safety_stock=2)

    assert (await market.promise(cart(("S", 1)))).outcome is PromiseOutcome.COMPLETE
    assert refusals(await market.promise(cart(("S", 2)))) == [
        ("1", UnfulfilledReason.INSUFFICIENT_STOCK, 1)
    ]


async def test_a_drop_ship_vendor_sends_with_its_own_handling(market: Market) -> None:
    """Two business days of handling: leaves on Tuesday."""
    market.table.put("S", "VENDOR", 9)

    shipment = (await market.promise(cart(("S", 1)))).options[0].shipments[0]

    assert (shipment.node_id, shipment.ship_date) == ("VENDOR", TUESDAY)


async def test_the_nearer_of_two_equal_nodes_sends(market: Market) -> None:
    """Dates and costs are the same; DC2 stands near San Francisco. Without coordinates of the
    destination the smaller id does."""
    market.table.put("S", "DC1", 9)
    market.table.put("S", "DC2", 9)
    nowhere = replace(SAN_FRANCISCO, latitude=None)

    assert places(await market.promise(cart(("S", 1)))) == [("DC2", [("1", 1)])]
    assert places(await market.promise(cart(("S", 1), address=nowhere))) == [("DC1", [("1", 1)])]


async def test_services_are_options_earliest_first(market: Market) -> None:
    """Air is dearer and earlier; the caller may ask for one of them or for fewer options."""
    market.table.put("S", "DC1", 9)
    market.add(a_service("air", base=30_000_000), a_lane("all", "air", (1, 1), from_group=True))

    both = await market.promise(cart(("S", 1)))
    one = await market.promise(cart(("S", 1), max_options=1))
    ground = await market.promise(cart(("S", 1), carrier_services=("ground",)))

    def services(reply: PromiseCartReply) -> list[str]:
        return [option.shipments[0].carrier_service for option in reply.options]

    assert [services(r) for r in (both, one, ground)] == [["air", "ground"], ["air"], ["ground"]]
    assert [option.latest_delivery_date for option in both.options] == [MONDAY, TUESDAY]


async def test_a_lanes_own_base_cost_wins_over_the_services(market: Market) -> None:
    """3 kg at one a kilogram stay; two replaces five. Costs round up to a whole millionth."""
    market.table.put("S", "DC1", 2)
    market.add(a_lane("DC1", "ground", (1, 2), base=2_000_000))
    cheaper = await market.promise(cart(("S", 2)))
    market.add(a_service("ground", base=5, kilogram=1))
    rounded = await market.promise(cart(("S", 1)))

    assert cheaper.options[0].total_cost_micros == 5_000_000
    assert rounded.options[0].total_cost_micros == 2_000_002


async def test_with_too_few_options_allowed_the_earliest_of_all_stays_in(market: Market) -> None:
    """Best is one late shipment; the split that arrives first is not cut off."""
    market.table.put("S", "DC1", 1)
    market.table.put("S", "DC2", 1)
    market.table.put("S", "VENDOR", 2)
    market.add(a_service("slow", base=1), a_lane("VENDOR", "slow", (9, 9)))

    reply = await market.promise(cart(("S", 2), max_options=2))

    assert [[shipment.node_id for shipment in option.shipments] for option in reply.options] == [
        ["VENDOR"],
        ["DC1", "DC2"],
    ]


async def test_the_same_request_gets_the_same_answer(market: Market) -> None:
    """Whatever the order in which the table lists positions."""
    for node_id in ("DC1", "DC2", "STORE", "VENDOR"):
        market.table.put("S", node_id, 1)
        market.table.put("T", node_id, 2)
    request = cart(("S", 2), ("T", 3), address=replace(SAN_FRANCISCO, latitude=None))

    first = await market.promise(request)
    for rows in market.table.stock.values():
        rows.reverse()

    assert first == await market.promise(request)


async def test_a_strong_promise_reads_the_shards(market: Market) -> None:
    """The table has nothing, the shard has all."""
    market.index.stock = {"S": {"DC1": 2}}

    reply = await market.promise(cart(("S", 2), consistency=Consistency(strong=True)))

    assert (places(reply), reply.freshness.age_ms) == ([("DC1", [("1", 2)])], 0)


async def test_pickup_is_promised_from_that_node_alone(market: Market) -> None:
    """Ready an hour after the order; other nodes' stock does not help."""
    market.table.put("S", "STORE", 2)
    market.table.put("S", "DC1", 9)

    reply = await market.promise(cart(("S", 2), address=None, pickup_node_id="STORE"))
    short = await market.promise(cart(("S", 3), address=None, pickup_node_id="STORE"))

    shipment = reply.options[0].shipments[0]
    assert (
        shipment.node_id,
        shipment.fulfillment_method,
        shipment.carrier_service,
    ) == ("STORE", PICKUP, "")
    assert (shipment.ready_ms, shipment.cost_micros) == (NOW + 3_600_000, 0)
    assert date(2026, 11, 20) == shipment.ship_date == reply.options[0].latest_delivery_date
    assert refusals(short) == [("1", UnfulfilledReason.INSUFFICIENT_STOCK, 2)]


@pytest.mark.parametrize(
    ("change", "documents", "reason"),
    [
        ({}, [Item(sku="other")], UnfulfilledReason.UNKNOWN_SKU),
        ({"pickup_node_id": "X", "address": None}, [], UnfulfilledReason.UNKNOWN_NODE),
        (
            {"pickup_node_id": "STORE", "address": None},
            [a_node("STORE", methods=STORE, status=NodeStatus.OFF)],
            UnfulfilledReason.NODE_OFF,
        ),
        (
            {"pickup_node_id": "DC1", "address": None},
            [],
            UnfulfilledReason.METHOD_NOT_OFFERED,
        ),
        (
            {"excluded_node_ids": frozenset({"DC1", "DC2", "STORE", "VENDOR"})},
            [],
            UnfulfilledReason.METHOD_NOT_OFFERED,
        ),
        ({"carrier_services": ("pigeon",)}, [], UnfulfilledReason.NO_LANE),
        (
            {"address": Address(country="CA", postal_code="K1A")},
            [],
            UnfulfilledReason.NO_LANE,
        ),
        (
            {"pickup_node_id": "STORE", "address": None},
            [a_node("STORE", methods=STORE, calendar_id="unknown")],
            UnfulfilledReason.NO_DATE,
        ),
    ],
)
async def test_a_line_nobody_can_serve_says_why_and_names_no_stock(
    market: Market,
    change: dict[str, object],
    documents: list[Document],
    reason: UnfulfilledReason,
) -> None:
    """The furthest step any node reached; ATS is left out, because no node could have served."""
    market.table.put("S", "STORE", 9)
    market.table.put("S", "DC1", 9)
    market.table.put("X", "DC1", 9)
    market.add(*documents)
    sku = "X" if reason is UnfulfilledReason.UNKNOWN_SKU else "S"

    reply = await market.promise(cart((sku, 1), **change))

    assert [("1", reason, None)] == refusals(reply)
    assert (reply.outcome, reply.options) == (PromiseOutcome.NONE, ())


@pytest.mark.parametrize(
    ("method", "change"),
    [
        (FulfillmentMethod.LOCAL_DELIVERY, {}),
        (PICKUP, {}),
        (SHIP, {"address": None, "pickup_node_id": "STORE"}),
        (FulfillmentMethod.SHIP_TO_STORE, {"address": None, "pickup_node_id": "STORE"}),
    ],
)
async def test_a_method_that_does_not_fit_or_is_not_built_is_refused_by_field(
    market: Market, method: FulfillmentMethod, change: dict[str, object]
) -> None:
    """Never answered as if it were out of stock."""
    with pytest.raises(InvalidRequest) as caught:
        await market.promise(cart(("S", 1), fulfillment_methods=(method,), **change))

    assert [(violation.field, violation.reason) for violation in caught.value.violations] == [
        ("fulfillment_methods[0]", "METHOD_NOT_SUPPORTED")
    ]


def wants(*lines: tuple[str, int], **changes: object) -> PlanRequest:
    numbered = tuple(Line(str(i), sku, quantity) for i, (sku, quantity) in enumerate(lines, 1))
    request = PlanRequest(
        lines=numbered, fulfillment_method=SHIP, address=SAN_FRANCISCO, order_ms=NOW
    )
    return replace(request, **changes)  # type: ignore[arg-type]


async def test_a_plan_is_the_first_option_of_the_promise(market: Market) -> None:
    """Line by line, node by node."""
    market.table.put("S", "DC1", 2)
    market.table.put("S", "DC2", 2)
    market.table.put("T", "DC2", 5)

    planned = plan(market.snapshot, market.table, wants(("S", 3), ("T", 1), ("T", 2)))
    promised = await market.promise(cart(("S", 3), ("T", 1), ("T", 2)))

    units = {
        (line_id, here.node_id, here.quantity)
        for line_id, parts in planned.units.items()
        for here in parts
    }
    assert units == {
        (part.line_id, shipment.node_id, part.quantity)
        for shipment in promised.options[0].shipments
        for part in shipment.lines
    }
    assert sorted(planned.units) == ["1", "2", "3"]
    assert (PlannedUnits("DC2", "", 1),) == planned.units["2"]
    assert planned.network_version == VERSION


def test_a_plan_is_for_all_lines_or_for_none(market: Market) -> None:
    """One short line refuses the plan; only the short one is named."""
    market.table.put("S", "DC1", 2)

    planned = plan(market.snapshot, market.table, wants(("S", 2), ("T", 1)))

    assert planned.units == {}
    assert list(planned.unfulfilled_lines) == [("2", UnfulfilledReason.INSUFFICIENT_STOCK, 0)]


@pytest.mark.parametrize("method", [FulfillmentMethod.LOCAL_DELIVERY, PICKUP])
def test_a_plan_complains_of_the_one_method_it_has(
    market: Market, method: FulfillmentMethod
) -> None:
    """A reservation names one method, so the path has no index."""
    with pytest.raises(InvalidRequest) as caught:
        plan(market.snapshot, market.table, wants(("S", 1), fulfillment_method=method))

    assert [(violation.field, violation.reason) for violation in caught.value.violations] == [
        ("fulfillment_method", "METHOD_NOT_SUPPORTED")
    ]


async def test_what_is_sold_out_is_told_as_zero(market: Market) -> None:
    """Nodes could serve it, and have none: 0, never left out."""
    market.table.put("S", "DC1", 0)

    planned = plan(market.snapshot, market.table, wants(("S", 1)))
    reply = await market.promise(cart(("S", 1)))

    told = [("1", UnfulfilledReason.INSUFFICIENT_STOCK, 0)]
    assert list(planned.unfulfilled_lines) == refusals(reply) == told


def test_units_the_reservation_takes_by_name_are_gone_for_the_plan(market: Market) -> None:
    """Two of three are taken at DC1: the plan goes to DC2 for the second unit."""
    market.table.put("S", "DC1", 3)
    market.table.put("S", "DC2", 1)

    planned = plan(market.snapshot, market.table, wants(("S", 2), taken={("S", "DC1"): 2}))

    assert {PlannedUnits("DC1", "", 1), PlannedUnits("DC2", "", 1)} == set(planned.units["1"])


def test_excluded_nodes_are_not_planned(market: Market) -> None:
    """Even where they are best."""
    market.table.put("S", "DC1", 9)
    market.table.put("S", "DC2", 9)

    planned = plan(
        market.snapshot, market.table, wants(("S", 1), excluded_node_ids=frozenset({"DC2"}))
    )

    assert (PlannedUnits("DC1", "", 1),) == planned.units["1"]


def test_a_pickup_is_planned_at_its_node(market: Market) -> None:
    """And refused where the node lacks it."""
    market.table.put("S", "STORE", 1)
    at_store = {"fulfillment_method": PICKUP, "address": None, "pickup_node_id": "STORE"}

    planned = plan(market.snapshot, market.table, wants(("S", 1), **at_store))
    short = plan(market.snapshot, market.table, wants(("S", 2), **at_store))

    assert (PlannedUnits("STORE", "", 1),) == planned.units["1"]
    assert list(short.unfulfilled_lines) == [("1", UnfulfilledReason.INSUFFICIENT_STOCK, 1)]
