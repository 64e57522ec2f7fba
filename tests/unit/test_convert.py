"""Requests become values, or one InvalidRequest that names every wrong field."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from promise_svc.domain.inventory import ARRIVED
from promise_svc.domain.network import FulfillmentMethod
from promise_svc.errors import InvalidRequest
from promise_svc.rpc.convert.fields import VIOLATIONS_MAX
from promise_svc.v1 import (
    availability_service_pb2 as availability_pb,
)
from promise_svc.v1 import (
    network_service_pb2 as network_pb,
)
from promise_svc.v1 import (
    promise_service_pb2 as promise_pb,
)
from promise_svc.v1 import (
    reservation_service_pb2 as reservation_pb,
)
from promise_svc.v1 import (
    supply_service_pb2 as supply_pb,
)
from promise_svc.v1 import types_pb2
from tests.support.random_messages import random_message
from tests.support.requests import (
    DECODERS,
    GOOD,
    NOW_MS,
    US,
    a_cart,
    a_confirm,
    a_create,
    a_promise_and_reserve,
    a_query,
    a_sale,
    a_search,
    a_status,
    a_sync,
    an_adjustment,
    an_audit,
    an_upsert_of_calendars,
    an_upsert_of_groups,
    an_upsert_of_items,
    an_upsert_of_lanes,
    an_upsert_of_nodes,
    an_upsert_of_services,
    complaints,
    decode,
    put,
    seconds,
)

QUANTITY_MAX = 2**31 - 1


@pytest.mark.parametrize("build", GOOD)
def test_a_good_request_is_taken(build: Callable[[], Any]) -> None:
    """What the tests below break is whole to begin with."""
    assert complaints(build()) == set()


# -- limits: values that pass, values that do not and why ------------------------------------


IDS = [
    (a_query, "entries[0].sku", False),
    (a_query, "entries[0].entry_id", True),
    (a_query, "entries[0].segment", True),
    (a_query, "entries[0].node_group_id", False),
    (a_search, "lines[0].line_id", False),
    (a_search, "lines[0].sku", False),
    (a_search, "segment", True),
    (a_cart, "pickup_node_id", False),
    (a_cart, "segment", True),
    (a_create, "reservation_id", False),
    (a_create, "owner_id", False),
    (a_create, "lines[0].line_id", False),
    (a_create, "lines[0].sku", False),
    (a_create, "lines[0].node_id", True),
    (a_create, "segment", True),
    (a_promise_and_reserve, "reservation_id", False),
    (a_promise_and_reserve, "owner_id", False),
    (a_promise_and_reserve, "lines[0].sku", False),
    (a_promise_and_reserve, "segment", True),
    (a_confirm, "reservation_id", False),
    (a_sync, "source", False),
    (a_sync, "rows[0].sku", False),
    (a_sync, "rows[0].node_id", False),
    (a_sync, "rows[0].bucket", True),
    (an_adjustment, "idempotency_key", False),
    (an_adjustment, "rows[0].sku", False),
    (a_sale, "sale_id", False),
    (a_sale, "lines[0].sku", False),
    (a_sale, "lines[0].node_id", False),
    (an_upsert_of_nodes, "nodes[0].node_id", False),
    (an_upsert_of_nodes, "nodes[0].calendar_id", False),
    (an_upsert_of_groups, "node_groups[0].node_group_id", False),
    (an_upsert_of_groups, "node_groups[0].node_ids[0]", False),
    (an_upsert_of_items, "items[0].sku", False),
    (an_upsert_of_items, "items[0].shard_key", True),
    (an_upsert_of_items, "items[0].handling_class", True),
    (an_upsert_of_calendars, "calendars[0].calendar_id", False),
    (an_upsert_of_services, "carrier_services[0].carrier_service", False),
    (an_upsert_of_services, "carrier_services[0].calendar_id", False),
    (an_upsert_of_lanes, "lanes[0].node_id", False),
    (an_upsert_of_lanes, "lanes[0].node_group_id", False),
    (an_upsert_of_lanes, "lanes[0].carrier_service", False),
    (a_status, "node_id", False),
]


@pytest.mark.parametrize(("build", "path", "optional"), IDS)
def test_an_id_keeps_to_its_alphabet_and_length(build: Any, path: str, optional: bool) -> None:
    """1 to 64 bytes, first a letter or digit; empty only where it is optional."""
    for good in ("a", "Z9", "9._:/-", "x" * 64):
        assert complaints(put(build(), path, good)) == set()

    assert (path, "TOO_LONG") in complaints(put(build(), path, "x" * 65))
    assert (path, "TOO_LONG") in complaints(put(build(), path, "é" * 33))
    for bad in (" ", "-a", ".a", "a b", "a\n", "é", "a\0", "日"):
        assert (path, "BAD_CHARACTERS") in complaints(put(build(), path, bad))
    empty = complaints(put(build(), path, ""))
    assert empty == set() if optional else (path, "REQUIRED") in empty


RANGES = [
    (a_search, "lines[0].quantity", 1, QUANTITY_MAX),
    (a_search, "radius_meters", 1, 500_000),
    (a_search, "limit", 1, 200),
    (a_search, "origin.coordinates.latitude_degrees", -90, 90),
    (a_search, "origin.coordinates.longitude_degrees", -180, 180),
    (a_cart, "lines[0].quantity", 1, QUANTITY_MAX),
    (a_cart, "max_options", 1, 20),
    (a_cart, "max_shipments", 1, 20),
    (a_create, "lines[0].quantity", 1, QUANTITY_MAX),
    (a_promise_and_reserve, "lines[0].quantity", 1, QUANTITY_MAX),
    (a_confirm, "expected_revision", 1, 2**31 - 1),
    (a_sync, "source_sequence", 1, 2**53),
    (a_sync, "rows[0].on_hand", 0, QUANTITY_MAX),
    (a_sync, "rows[0].safety_stock", 0, QUANTITY_MAX),
    (a_sync, "rows[0].deducted_total", 0, 2**53),
    (an_adjustment, "rows[0].quantity_delta", -QUANTITY_MAX, QUANTITY_MAX),
    (a_sale, "lines[0].quantity", 1, QUANTITY_MAX),
    (an_upsert_of_nodes, "nodes[0].address.coordinates.latitude_degrees", -90, 90),
    (an_audit, "shard_ids[0]", 0, 63),
    (an_audit, "max_findings", 1, 10_000),
    (an_upsert_of_nodes, "nodes[0].methods[0].handling_business_days", 0, 60),
    (an_upsert_of_nodes, "nodes[0].methods[0].cutoff_time.hours", 0, 23),
    (an_upsert_of_nodes, "nodes[0].methods[0].cutoff_time.minutes", 0, 59),
    (an_upsert_of_nodes, "nodes[0].methods[0].opening_time.hours", 0, 23),
    (an_upsert_of_items, "items[0].weight_grams", 0, 10_000_000),
    (an_upsert_of_services, "carrier_services[0].base_cost_micros", 0, 10**12),
    (an_upsert_of_services, "carrier_services[0].cost_per_kilogram_micros", 0, 10**12),
    (an_upsert_of_lanes, "lanes[0].base_cost_micros", 0, 10**12),
    (an_upsert_of_lanes, "lanes[0].transit_business_days_max", 0, 60),
]
ZERO_IS_DEFAULT = {"radius_meters", "limit", "max_options", "max_shipments", "max_findings"}


@pytest.mark.parametrize(("build", "path", "low", "high"), RANGES)
def test_a_number_passes_up_to_its_limits_and_no_further(
    build: Any, path: str, low: int, high: int
) -> None:
    """At the limit it is taken, one beyond it is OUT_OF_RANGE."""
    assert complaints(put(build(), path, low)) == set()
    assert complaints(put(build(), path, high)) == set()

    assert (path, "OUT_OF_RANGE") in complaints(put(build(), path, high + 1))
    if path in ZERO_IS_DEFAULT:
        assert complaints(put(build(), path, 0)) == set()
        low = 0
    assert (path, "OUT_OF_RANGE") in complaints(put(build(), path, low - 1))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_coordinates_are_numbers(value: float) -> None:
    """NaN is in no range."""
    path = "origin.coordinates.longitude_degrees"

    assert complaints(put(a_search(), path, value)) == {(path, "OUT_OF_RANGE")}


def test_a_change_of_nothing_is_refused() -> None:
    """0 is between the limits of a change, and still none."""
    path = "rows[0].quantity_delta"

    assert complaints(put(an_adjustment(), path, 0)) == {(path, "OUT_OF_RANGE")}


COUNTS = [
    (a_query, "entries", 1_000, lambda i: availability_pb.AvailabilityQuery(sku=f"s{i}")),
    (a_search, "lines", 200, lambda i: types_pb2.Line(line_id=f"{i}", sku="a", quantity=1)),
    (a_cart, "lines", 2_000, lambda i: types_pb2.Line(line_id=f"{i}", sku="a", quantity=1)),
    (
        a_create,
        "lines",
        2_000,
        lambda i: reservation_pb.ReservationRequestLine(line_id=f"{i}", sku="a", quantity=1),
    ),
    (
        a_promise_and_reserve,
        "lines",
        2_000,
        lambda i: types_pb2.Line(line_id=f"{i}", sku="a", quantity=1),
    ),
    (a_sync, "rows", 1_000, lambda i: supply_pb.SupplyRow(sku=f"s{i}", node_id="n")),
    (
        an_adjustment,
        "rows",
        1_000,
        lambda i: supply_pb.SupplyDelta(sku="a", node_id="n", quantity_delta=1),
    ),
    (
        a_sale,
        "lines",
        1_000,
        lambda i: supply_pb.SaleLine(sku="a", node_id="n", quantity=1),
    ),
    (an_upsert_of_items, "items", 1_000, lambda i: network_pb.Item(sku=f"s{i}")),
]


@pytest.mark.parametrize(("build", "name", "most", "entry"), COUNTS)
def test_a_batch_has_one_to_so_many_entries(build: Any, name: str, most: int, entry: Any) -> None:
    """Empty, full and one too many."""

    def of(count: int) -> Any:
        request = build()
        request.ClearField(name)
        getattr(request, name).extend(entry(index) for index in range(count))
        return request

    assert complaints(of(1)) == set()
    assert complaints(of(most)) == set()
    assert complaints(of(0)) == {(name, "REQUIRED")}
    assert complaints(of(most + 1)) == {(name, "TOO_MANY")}


def test_nodes_of_a_scope_are_one_to_two_thousand() -> None:
    """And all entries together 50,000 where nodes are listed."""

    def of(count: int, entries: int = 1, view: int = 0) -> Any:
        entry = availability_pb.AvailabilityQuery(sku="a")
        entry.nodes.node_ids.extend(f"n{index}" for index in range(count))
        entry.nodes.SetInParent()
        return availability_pb.QueryAvailabilityRequest(entries=[entry] * entries, view=view)

    path = "entries[0].nodes.node_ids"
    assert complaints(of(2_000)) == set()
    assert complaints(of(0)) == {(path, "REQUIRED")}
    assert complaints(of(2_001)) == {(path, "TOO_MANY")}
    assert complaints(of(2_000, 25, 2)) == set()
    assert complaints(of(2_000, 26, 1)) == set()
    assert complaints(of(2_000, 26, 2)) == {("entries", "TOO_MANY")}


ENUMS = [
    (a_query, "view", 4, True),
    (a_create, "fulfillment_method", 1, False),
    (a_create, "durability_mode", 4, True),
    (a_promise_and_reserve, "fulfillment_method", 1, False),
    (a_promise_and_reserve, "durability_mode", 4, True),
    (a_confirm, "durability_mode", 4, True),
    (an_upsert_of_nodes, "nodes[0].node_type", 4, False),
    (an_upsert_of_nodes, "nodes[0].node_status", 2, True),
    (an_upsert_of_nodes, "nodes[0].methods[0].fulfillment_method", 5, False),
    (a_status, "node_status", 2, False),
]


@pytest.mark.parametrize(("build", "path", "last", "optional"), ENUMS)
def test_an_enum_has_a_value_we_know(build: Any, path: str, last: int, optional: bool) -> None:
    """UNSPECIFIED is taken only where a default is told; numbers we do not know, never."""
    assert complaints(put(build(), path, last)) == set()
    for unknown in (99, -1, 2**31 - 1):
        assert complaints(put(build(), path, unknown)) == {(path, "UNKNOWN_ENUM_VALUE")}
    assert complaints(put(build(), path, 0)) == (set() if optional else {(path, "REQUIRED")})


@pytest.mark.parametrize(
    ("build", "path", "names"),
    [
        (a_search, "lines", ["line_id"]),
        (a_cart, "lines", ["line_id"]),
        (a_create, "lines", ["line_id"]),
        (a_promise_and_reserve, "lines", ["line_id"]),
        (a_sync, "rows", [""]),
        (an_upsert_of_nodes, "nodes", ["node_id"]),
        (an_upsert_of_items, "items", ["sku"]),
        (an_upsert_of_lanes, "lanes", [""]),
    ],
)
def test_a_name_stands_once(build: Any, path: str, names: list[str]) -> None:
    """The second one is the DUPLICATE."""
    request = build()
    getattr(request, path).append(getattr(request, path)[0])

    wanted = {(f"{path}[1].{name}".rstrip("."), "DUPLICATE") for name in names}
    assert complaints(request) == wanted


@pytest.mark.parametrize(
    ("bucket", "arrived", "arrival_s", "refused"),
    [
        ("po-1", False, 5, ""),
        ("po-1", True, None, ""),
        ("po-1", False, -5, "arrival_time"),
        ("po-1", False, 2**40, "arrival_time"),
        ("po-1", True, 5, "arrival_time"),
        ("", False, 5, "arrival_time"),
        ("", True, None, "arrived"),
    ],
)
def test_only_a_bucket_arrives_and_it_is_expected_or_here(
    bucket: str, arrived: bool, arrival_s: int | None, refused: str
) -> None:
    """Stock here now has no date, nor has what is here; dates lie within reason."""
    request = a_sync()
    request.rows[0].bucket, request.rows[0].arrived = bucket, arrived
    if arrival_s is not None:
        request.rows[0].arrival_time.seconds = arrival_s

    told = complaints(request)

    assert {path for path, _ in told} == ({f"rows[0].{refused}"} if refused else set())
    if not refused:
        assert decode(request).rows[0].arrival_ms == (ARRIVED if arrived else 5_000)


@pytest.mark.parametrize("deducted", [None, 0, 5])
def test_a_figure_may_say_how_many_units_of_orders_it_took_off(deducted: int | None) -> None:
    """Then it may be below zero; 0 says that it took off none, which is not to say nothing."""
    request = a_sync()
    if deducted is not None:
        request.rows[0].on_hand, request.rows[0].deducted_total = -4, deducted

    assert decode(request).rows[0].deducted == (-1 if deducted is None else deducted)


def test_what_a_figure_took_off_is_of_stock_here_now() -> None:
    request = a_sync()
    request.rows[0].deducted_total = 1
    request.rows[0].bucket = "po-1"

    assert complaints(request) == {("rows[0].deducted_total", "NOT_ALLOWED")}


def test_the_same_sku_may_stand_on_several_lines() -> None:
    """They are summed later, by the use case."""
    request = a_create()
    request.lines.append(
        reservation_pb.ReservationRequestLine(line_id="2", sku="a", quantity=QUANTITY_MAX)
    )

    assert [line.sku for line in decode(request).lines] == ["a", "a"]


def test_a_position_may_be_changed_several_times_in_one_call() -> None:
    """Changes are applied in order; counts would contradict each other."""
    request = an_adjustment()
    request.rows.append(request.rows[0])

    assert complaints(request) == set()


# -- times ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "path", "low", "high"),
    [
        (a_create, "ttl", 1.0, 4 * 3600.0),
        (a_promise_and_reserve, "ttl", 1.0, 4 * 3600.0),
        (a_query, "consistency.max_age", 0.0, 3600.0),
        (an_upsert_of_nodes, "nodes[0].methods[0].handling_duration", 0.0, 24 * 3600.0),
    ],
)
def test_a_duration_keeps_to_its_limits(build: Any, path: str, low: float, high: float) -> None:
    """To the millisecond; what is no duration at all is refused too."""
    assert complaints(put(build(), path, seconds(low))) == set()
    assert complaints(put(build(), path, seconds(high))) == set()
    for bad in (
        seconds(low - 0.001),
        seconds(high + 0.001),
        Duration(seconds=2**63 - 1),
        Duration(seconds=-(2**63)),
        Duration(nanos=2**31 - 1),
    ):
        assert complaints(put(build(), path, bad)) == {(path, "OUT_OF_RANGE")}


def at(time_ms: int) -> Timestamp:
    found = Timestamp()
    found.FromMilliseconds(time_ms)
    return found


@pytest.mark.parametrize(
    ("build", "path", "low", "high"),
    [
        (a_create, "create_time", 1, NOW_MS + 300_000),
        (a_promise_and_reserve, "create_time", 1, NOW_MS + 300_000),
        (an_adjustment, "create_time", 1, NOW_MS + 300_000),
        (a_sale, "create_time", 1, NOW_MS + 300_000),
        (a_cart, "order_time", NOW_MS - 366 * 86_400_000, NOW_MS + 366 * 86_400_000),
        (a_search, "order_time", NOW_MS - 366 * 86_400_000, NOW_MS + 366 * 86_400_000),
    ],
)
def test_an_instant_keeps_to_its_limits(build: Any, path: str, low: int, high: int) -> None:
    """Not too far ahead, and an instant at all."""
    assert complaints(put(build(), path, at(low))) == set()
    assert complaints(put(build(), path, at(high))) == set()
    for bad in (
        at(low - 1),
        at(high + 1),
        Timestamp(seconds=2**63 - 1),
        Timestamp(seconds=-(2**63)),
        Timestamp(seconds=1_800_000_000, nanos=10**9),
        Timestamp(seconds=1_800_000_000, nanos=-1),
    ):
        assert complaints(put(build(), path, bad)) == {(path, "OUT_OF_RANGE")}


@pytest.mark.parametrize(
    ("year", "month", "day", "valid"),
    [
        (1970, 1, 1, True),
        (9999, 12, 31, True),
        (2028, 2, 29, True),
        (2027, 2, 29, False),
        (1969, 12, 31, False),
        (10_000, 1, 1, False),
        (2026, 13, 1, False),
        (2026, 0, 1, False),
        (2026, 4, 31, False),
        (2026, 4, 0, False),
        (2026, -1, -1, False),
    ],
)
def test_a_date_is_one_of_the_calendar(year: int, month: int, day: int, valid: bool) -> None:
    """1970 to 9999, leap days included."""
    path = "calendars[0].exceptions[0].date"
    request = an_upsert_of_calendars()
    request.calendars[0].exceptions[0].date.CopyFrom(
        types_pb2.Date(year=year, month=month, day=day)
    )

    assert complaints(request) == (set() if valid else {(path, "INVALID_DATE")})


# -- what belongs together --------------------------------------------------------------------


def test_a_destination_is_needed_unless_every_line_names_its_node() -> None:
    """Sourcing needs it, nothing else does."""
    request = a_create()
    request.ClearField("destination")
    assert complaints(request) == {("address", "REQUIRED")}

    request.lines[0].node_id = "n"
    assert complaints(request) == set()


@pytest.mark.parametrize("number", [2, 3, 4])
def test_a_pickup_does_not_fit_an_address(number: int) -> None:
    """Nor the other way round."""
    assert complaints(put(a_create(), "fulfillment_method", number)) == {
        ("fulfillment_method", "DOES_NOT_FIT")
    }
    request = put(a_cart(), "pickup_node_id", "n")
    request.fulfillment_methods.extend([number, 1])
    assert complaints(request) == {("fulfillment_methods[1]", "DOES_NOT_FIT")}


def test_pickup_nodes_are_looked_for_by_pickup_methods_only() -> None:
    """PICKUP_IN_STORE when nothing is said."""
    assert decode(a_search()).fulfillment_method is FulfillmentMethod.PICKUP_IN_STORE
    assert complaints(put(a_search(), "fulfillment_method", 4)) == set()
    assert complaints(put(a_search(), "fulfillment_method", 1)) == {
        ("fulfillment_method", "DOES_NOT_FIT")
    }


def test_a_method_is_considered_once() -> None:
    """The second is the DUPLICATE."""
    request = a_cart()
    request.fulfillment_methods.extend([1, 1])

    assert complaints(request) == {("fulfillment_methods[1]", "DUPLICATE")}


@pytest.mark.parametrize(
    ("country", "postal_code", "wrong"),
    [
        ("", "60601", ("address.country", "REQUIRED")),
        ("us", "60601", ("address.country", "BAD_CHARACTERS")),
        ("USA", "60601", ("address.country", "BAD_CHARACTERS")),
        ("US", "", ("address.postal_code", "REQUIRED")),
        ("US", " - ", ("address.postal_code", "REQUIRED")),
        ("US", "1" * 17, ("address.postal_code", "TOO_LONG")),
    ],
)
def test_a_destination_names_country_and_postal_code(
    country: str, postal_code: str, wrong: tuple[str, str]
) -> None:
    """As much as a lane is found by."""
    address = types_pb2.Address(country=country, postal_code=postal_code)

    assert complaints(put(a_cart(), "address", address)) == {wrong}


def test_an_origin_is_coordinates_or_country_and_postal_code() -> None:
    """None is refused, either is taken."""
    request = a_search()
    request.ClearField("origin")
    assert complaints(request) == {("origin", "REQUIRED")}

    request.origin.CopyFrom(US)
    assert complaints(request) == set()


def test_a_node_needs_place_zone_and_cutoff() -> None:
    """Each is named by itself."""
    request = an_upsert_of_nodes()
    request.nodes[0].address.ClearField("coordinates")
    request.nodes[0].time_zone = "America/Chicagoo"
    request.nodes[0].methods[0].ClearField("cutoff_time")

    assert complaints(request) == {
        ("nodes[0].address.coordinates", "REQUIRED"),
        ("nodes[0].time_zone", "UNKNOWN_TIME_ZONE"),
        ("nodes[0].methods[0].cutoff_time", "REQUIRED"),
    }


def test_transit_takes_no_less_than_its_least() -> None:
    """The most contradicts the fewest."""
    request = an_upsert_of_lanes()
    request.lanes[0].transit_business_days_min = 3
    request.lanes[0].transit_business_days_max = 2

    assert complaints(request) == {("lanes[0].transit_business_days_max", "DOES_NOT_FIT")}


def test_a_reason_is_text_without_control_characters() -> None:
    """1 to 256 bytes for a change of stock."""
    assert complaints(put(an_adjustment(), "reason", "x" * 256)) == set()
    assert complaints(put(an_adjustment(), "reason", "é" * 129)) == {("reason", "TOO_LONG")}
    assert complaints(put(an_adjustment(), "reason", "")) == {("reason", "REQUIRED")}
    assert complaints(put(an_adjustment(), "reason", "a\x07")) == {("reason", "BAD_CHARACTERS")}


# -- how many complaints, and none but InvalidRequest -----------------------------------------


def test_all_wrong_fields_are_named_at_once() -> None:
    """A caller corrects a request in one round."""
    request = a_create()
    request.reservation_id = ""
    request.lines[0].quantity = 0
    request.ttl.CopyFrom(seconds(0))

    assert complaints(request) == {
        ("reservation_id", "REQUIRED"),
        ("lines[0].quantity", "OUT_OF_RANGE"),
        ("ttl", "OUT_OF_RANGE"),
    }


def test_complaints_are_bounded() -> None:
    """The rest of a request that is wrong everywhere is not read."""
    line = types_pb2.Line()
    request = promise_pb.PromiseCartRequest(lines=[line] * 2_000)

    with pytest.raises(InvalidRequest) as raised:
        decode(request)

    assert len(raised.value.violations) == VIOLATIONS_MAX


@pytest.mark.parametrize("kind", DECODERS, ids=lambda kind: kind.__name__)
def test_whatever_comes_is_taken_or_refused(kind: type, rng: random.Random) -> None:
    """Never another exception than InvalidRequest, and every complaint has path and reason."""
    for _ in range(300):
        request = random_message(kind, rng)
        try:
            decode(request)
        except InvalidRequest as error:
            assert 1 <= len(error.violations) <= VIOLATIONS_MAX
            assert all(field and reason for field, reason, _ in error.violations)
