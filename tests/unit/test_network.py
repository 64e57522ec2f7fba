"""Documents, their checks, and the look-ups of a snapshot."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta

import pytest

from promise_svc.domain.geography import EARTH_RADIUS_M, distance_m
from promise_svc.domain.network import (
    CarrierService,
    Document,
    FulfillmentMethod,
    Item,
    ItemLimit,
    Lane,
    NodeCapacity,
    NodeGroup,
    NodeMethod,
    NodeStatus,
)
from promise_svc.domain.network_validation import (
    EXCEPTIONS_MAX,
    BrokenReference,
    ReferenceReason,
    broken_reference,
    names_a_lane,
    violations,
)
from tests.support.networks import (
    PICKUP,
    SHIP,
    a_calendar,
    a_lane,
    a_method,
    a_node,
    a_service,
    a_snapshot,
)


@pytest.mark.parametrize(
    "document",
    [
        a_node(),
        NodeGroup(node_group_id="g", node_ids=("DC1",)),
        Item(sku="S"),
        a_calendar(),
        a_service(),
        a_lane(),
    ],
    ids=lambda document: type(document).__name__,
)
def test_a_sound_document_has_no_violation(document: Document) -> None:
    """What the builders make is accepted."""
    assert violations(document) == []


def method(**changes: int) -> NodeMethod:
    return replace(a_method(), **changes)


def _capacity(fulfillment_method: FulfillmentMethod, orders: int = 5) -> NodeCapacity:
    return NodeCapacity(fulfillment_method=fulfillment_method, orders_per_day_max=orders)


@pytest.mark.parametrize(
    ("document", "field", "reason"),
    [
        (replace(a_node(), node_id=""), "node_id", "INVALID_ID"),
        (replace(a_node(), node_id="x" * 65), "node_id", "INVALID_ID"),
        (replace(a_node(), node_id="a b"), "node_id", "INVALID_ID"),
        (replace(a_node(), time_zone="Mars/Olympus"), "time_zone", "UNKNOWN_TIME_ZONE"),
        (
            replace(a_node(), latitude=90.001),
            "address.coordinates.latitude_degrees",
            "OUT_OF_RANGE",
        ),
        (
            replace(a_node(), longitude=float("nan")),
            "address.coordinates.longitude_degrees",
            "OUT_OF_RANGE",
        ),
        (replace(a_node(), country="us"), "address.country", "INVALID_COUNTRY"),
        (replace(a_node(), name="a\nb"), "name", "INVALID_TEXT"),
        (
            replace(a_node(), methods=(method(handling_business_days=61),)),
            "methods[0].handling_business_days",
            "OUT_OF_RANGE",
        ),
        (
            replace(a_node(), methods=(method(handling_minutes=1441),)),
            "methods[0].handling_duration",
            "OUT_OF_RANGE",
        ),
        (
            replace(a_node(), capacities=(_capacity(PICKUP),)),
            "capacities[0].fulfillment_method",
            "DOES_NOT_FIT",
        ),
        (
            replace(a_node(), capacities=(_capacity(SHIP, 1_000_001),)),
            "capacities[0].orders_per_day_max",
            "OUT_OF_RANGE",
        ),
        (
            replace(a_node(), capacities=(_capacity(SHIP), _capacity(SHIP))),
            "capacities[1].fulfillment_method",
            "REPEATED",
        ),
        (
            replace(a_node(), methods=(method(), method())),
            "methods[1].fulfillment_method",
            "REPEATED",
        ),
        (NodeGroup(node_group_id="g", node_ids=("ok", "")), "node_ids[1]", "INVALID_ID"),
        (NodeGroup(node_group_id="g", node_ids=("a",) * 10_001), "node_ids", "TOO_MANY"),
        (Item(sku="S", weight_grams=-1), "weight_grams", "OUT_OF_RANGE"),
        (
            Item(sku="S", customer_limit=ItemLimit(quantity_max=0)),
            "customer_limit.quantity_max",
            "OUT_OF_RANGE",
        ),
        (
            Item(sku="S", customer_limit=ItemLimit(quantity_max=1, window_ms=59_999)),
            "customer_limit.window",
            "OUT_OF_RANGE",
        ),
        (a_calendar(working_days=frozenset({0})), "working_days", "OUT_OF_RANGE"),
        (
            a_calendar(
                exceptions={
                    date(2020, 1, 1) + timedelta(days=i): True for i in range(EXCEPTIONS_MAX + 1)
                }
            ),
            "exceptions",
            "TOO_MANY",
        ),
        (replace(a_service(), currency_code="usd"), "currency_code", "INVALID_CURRENCY_CODE"),
        (a_service(base=10**12 + 1), "base_cost_micros", "OUT_OF_RANGE"),
        (a_lane(transit=(3, 2)), "transit_business_days_max", "OUT_OF_RANGE"),
        (a_lane(transit=(0, 61)), "transit_business_days_max", "OUT_OF_RANGE"),
        (replace(a_lane(), node_group_id="g"), "origin", "REQUIRED"),
        (replace(a_lane(), node_id=""), "origin", "REQUIRED"),
    ],
)
def test_a_bad_field_is_named_with_its_path_and_reason(
    document: Document, field: str, reason: str
) -> None:
    """Exactly one complaint, about that field."""
    assert [(field, reason)] == [(v.field, v.reason) for v in violations(document)]


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (a_node(calendar_id="lunar"), ("UNKNOWN_CALENDAR", "lunar")),
        (NodeGroup(node_group_id="g", node_ids=("DC1", "X")), ("UNKNOWN_NODE", "X")),
        (replace(a_service(), calendar_id="lunar"), ("UNKNOWN_CALENDAR", "lunar")),
        (replace(a_service("other"), currency_code="EUR"), ("CURRENCY_MISMATCH", "")),
        (replace(a_service(), currency_code="EUR"), None),  # the only service may change
        (a_lane("X"), ("UNKNOWN_NODE", "X")),
        (a_lane("G", from_group=True), ("UNKNOWN_NODE_GROUP", "G")),
        (a_lane(carrier_service="pigeon"), ("UNKNOWN_CARRIER_SERVICE", "pigeon")),
        (Item(sku="S", shard_key="style"), ("SHARD_KEY_FIXED", "")),
        (Item(sku="S", shard_key="S"), None),
        (Item(sku="S", name="old stock elsewhere"), None),
        (Item(sku="new", shard_key="style"), None),
        (Item(sku="new"), ("SHARD_KEY_FIXED", "")),
        (a_node(), None),
    ],
)
def test_a_name_that_is_not_in_the_network_is_told(
    document: Document, expected: tuple[str, str] | None
) -> None:
    """Reason and missing name, as the contract's outcomes have them."""
    known = a_snapshot(a_node(), a_service(), Item(sku="S")).documents

    found = broken_reference(document, known, lambda item: item.shard_key == "style")

    assert found == (expected and BrokenReference(ReferenceReason(expected[0]), expected[1]))


def chosen(lanes: list[Lane]) -> list[tuple[str, int]]:
    return [(lane.carrier_service, lane.transit_business_days_max) for lane in lanes]


@pytest.mark.parametrize(
    "lane",
    [a_lane("dc-1"), a_lane("a:b/c", postal_prefix="60-6"), a_lane("stores", from_group=True)],
)
def test_a_lane_has_a_name_that_a_lane_can_have(lane: Lane) -> None:
    assert names_a_lane(lane.lane_id)


@pytest.mark.parametrize(
    "name",
    [
        "n1>US",
        "60-6",
        "n1>US:>ground",
        "node:>US:>ground",
        "shop:n1>US:>ground",
        "node:n1>us:>ground",
        "node:n1>US:60-6>ground",
        "node:n1>US:60a>ground",
        "node:n1>US>ground",
        "node:n1>US:>",
        "node:n1>US:>ground>",
        "node:n 1>US:>ground",
        f"node:n1>US:{'6' * 17}>ground",
    ],
)
def test_a_name_that_no_lane_can_have_is_none(name: str) -> None:
    assert not names_a_lane(name)


def test_the_longest_postal_prefix_wins_for_each_service() -> None:
    """Case, spaces and hyphens do not matter; services come by id."""
    snapshot = a_snapshot(
        a_node(),
        a_lane(transit=(1, 5)),
        a_lane(transit=(1, 3), postal_prefix="94"),
        a_lane(transit=(1, 2), postal_prefix="941-0"),
        a_lane(carrier_service="air", transit=(1, 1)),
    )

    assert chosen(snapshot.lanes("DC1", "US", "9 4107")) == [("air", 1), ("ground", 2)]
    assert chosen(snapshot.lanes("DC1", "US", "94207")) == [("air", 1), ("ground", 3)]
    assert chosen(snapshot.lanes("DC1", "US", "10001")) == [("air", 1), ("ground", 5)]
    assert chosen(snapshot.lanes("DC1", "CA", "94107")) == []
    assert chosen(snapshot.lanes("nowhere", "US", "94107")) == []


def test_a_nodes_own_lane_wins_over_its_groups_and_then_the_smaller_group() -> None:
    """Even where the group's prefix is longer."""
    groups = [NodeGroup(node_group_id=g, node_ids=("DC1", "DC2")) for g in ("west", "all")]
    snapshot = a_snapshot(
        a_node(),
        a_node("DC2"),
        *groups,
        a_lane("DC1", transit=(1, 9)),
        a_lane("west", transit=(1, 4), postal_prefix="94", from_group=True),
        a_lane("all", transit=(1, 3), postal_prefix="94", from_group=True),
        a_lane("all", transit=(1, 7), from_group=True),
    )

    assert chosen(snapshot.lanes("DC1", "US", "94107")) == [("ground", 9)]
    assert chosen(snapshot.lanes("DC2", "US", "94107")) == [("ground", 3)]
    assert chosen(snapshot.lanes("DC2", "US", "10001")) == [("ground", 7)]


def test_the_shard_key_is_the_items_or_the_sku() -> None:
    """Unknown SKUs are their own key."""
    snapshot = a_snapshot(Item(sku="S"), Item(sku="T", shard_key="style"))

    assert [snapshot.shard_key(sku) for sku in ("S", "T", "U")] == ["S", "style", "U"]


def test_a_node_is_switched_on_unless_off_or_unknown() -> None:
    """Only known nodes that are ON may be sold from."""
    snapshot = a_snapshot(a_node("on"), a_node("off", status=NodeStatus.OFF))

    assert [snapshot.switched_on(n) for n in ("on", "off", "never")] == [True, False, False]


def within(places: dict[str, tuple[float, float]], latitude: float, longitude: float,
           radius_m: float) -> list[str]:  # fmt: skip
    nodes = [a_node(n, latitude=at[0], longitude=at[1]) for n, at in places.items()]
    found = a_snapshot(*nodes).nodes_within(latitude, longitude, radius_m)
    return [node.node_id for _, node in found]


def test_nodes_are_found_across_the_antimeridian() -> None:
    """Fiji lies on both sides of 180 degrees; 0.2 degrees there are 21 km."""
    places = {"east": (-17.0, 179.9), "west": (-17.0, -179.9), "far": (-17.0, 178.0)}

    assert within(places, -17.0, 179.95, 30_000) == ["east", "west"]
    assert within(places, -17.0, -179.95, 30_000) == ["west", "east"]


def test_nodes_are_found_around_the_poles() -> None:
    """Half a degree from the pole every longitude is near."""
    places = {"a": (89.5, 0.0), "b": (89.5, 180.0), "c": (89.5, -90.0), "south": (-89.5, 0.0)}

    assert within(places, 89.6, 0.0, 120_000) == ["a", "c", "b"]
    assert sorted(within(places, 90.0, 0.0, 60_000)) == ["a", "b", "c"]


def test_the_radius_is_inclusive_and_nearest_come_first_then_ids() -> None:
    """One degree of latitude is about 111 km."""
    places = {"b": (1.0, 0.0), "a": (-1.0, 0.0), "near": (0.5, 0.0)}
    degree_m = distance_m(0, 0, 1, 0)

    assert within(places, 0.0, 0.0, degree_m) == ["near", "a", "b"]
    assert within(places, 0.0, 0.0, degree_m - 1) == ["near"]
    assert within(places, 45.0, 0.0, degree_m) == []


def test_distances_are_those_of_the_sphere() -> None:
    """Zero, a quarter, and half of the circumference."""
    quarter = EARTH_RADIUS_M * 3.141592653589793 / 2

    assert distance_m(12.3, 45.6, 12.3, 45.6) == 0
    assert distance_m(0, 0, 90, 123) == pytest.approx(quarter)
    assert distance_m(10, 20, -10, -160) == pytest.approx(2 * quarter)


def test_the_currency_is_that_of_the_services() -> None:
    """Empty before there is one."""
    service: CarrierService = a_service()

    assert (a_snapshot().currency_code, a_snapshot(service).currency_code) == ("", "USD")
