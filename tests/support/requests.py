"""A decoder and a good request for each kind of request, and what is wrong with a broken one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf.duration_pb2 import Duration

from promise_svc.errors import InvalidRequest
from promise_svc.rpc.convert import (
    admin,
    availability,
    network,
    promise,
    quote,
    reservation,
    supply,
)
from promise_svc.v1 import (
    admin_service_pb2 as admin_pb,
)
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

NOW_MS = 1_800_000_000_000
TTL = reservation.TtlLimits()
US = types_pb2.Address(country="US", postal_code="60601")
QUANTITY_MAX = 2**31 - 1
SHARD_COUNT = 64

DECODERS: dict[type, Callable[[Any], Any]] = {
    availability_pb.QueryAvailabilityRequest: availability.query_from,
    availability_pb.FindPickupNodesRequest: lambda r: availability.pickup_from(r, NOW_MS),
    promise_pb.PromiseCartRequest: lambda r: promise.cart_from(r, NOW_MS),
    reservation_pb.CreateReservationRequest: lambda r: reservation.create_from(r, NOW_MS, TTL),
    reservation_pb.PromiseAndReserveRequest: lambda r: quote.promise_and_reserve_from(
        r, NOW_MS, TTL
    ),
    reservation_pb.GetReservationRequest: reservation.get_from,
    reservation_pb.ConfirmReservationRequest: reservation.transition_from,
    reservation_pb.ReleaseReservationRequest: reservation.transition_from,
    reservation_pb.CancelReservationRequest: reservation.change_from,
    reservation_pb.FulfillReservationRequest: reservation.change_from,
    reservation_pb.AmendReservationRequest: reservation.change_from,
    reservation_pb.TransferReservationRequest: reservation.transfer_from,
    reservation_pb.ExtendReservationRequest: lambda r: reservation.extend_from(r, TTL),
    supply_pb.SyncSupplyRequest: supply.sync_from,
    supply_pb.AdjustSupplyRequest: lambda r: supply.adjust_from(r, NOW_MS),
    supply_pb.SetProtectionLevelsRequest: supply.levels_from,
    supply_pb.RecordSaleRequest: lambda r: supply.sale_from(r, NOW_MS),
    network_pb.UpsertNodesRequest: network.nodes_from,
    network_pb.UpsertNodeGroupsRequest: network.node_groups_from,
    network_pb.UpsertItemsRequest: network.items_from,
    network_pb.UpsertCalendarsRequest: network.calendars_from,
    network_pb.UpsertCarrierServicesRequest: network.carrier_services_from,
    network_pb.UpsertLanesRequest: network.lanes_from,
    network_pb.SetNodeStatusRequest: network.node_status_from,
    admin_pb.VerifyRequest: lambda r: admin.verify_from(r, SHARD_COUNT),
}


def decode(request: Any) -> Any:
    return DECODERS[type(request)](request)


def complaints(request: Any) -> set[tuple[str, str]]:
    """Field and reason of everything wrong with a request; empty when it is taken."""
    try:
        decode(request)
    except InvalidRequest as error:
        return {(violation.field, violation.reason) for violation in error.violations}
    return set()


# -- good requests, one of each ---------------------------------------------------------------


def a_query() -> Any:
    return availability_pb.QueryAvailabilityRequest(
        entries=[availability_pb.AvailabilityQuery(sku="a")]
    )


def a_search() -> Any:
    return availability_pb.FindPickupNodesRequest(
        origin=types_pb2.Address(coordinates=types_pb2.Coordinates(latitude_degrees=41)),
        lines=[types_pb2.Line(line_id="1", sku="a", quantity=1)],
    )


def a_cart() -> Any:
    return promise_pb.PromiseCartRequest(
        lines=[types_pb2.Line(line_id="1", sku="a", quantity=1)], address=US
    )


def a_create() -> Any:
    return reservation_pb.CreateReservationRequest(
        reservation_id="r",
        owner_id="o",
        lines=[reservation_pb.ReservationRequestLine(line_id="1", sku="a", quantity=1)],
        address=US,
        fulfillment_method=types_pb2.FULFILLMENT_METHOD_SHIP_TO_ADDRESS,
    )


def a_promise_and_reserve() -> Any:
    return reservation_pb.PromiseAndReserveRequest(
        reservation_id="r",
        owner_id="o",
        lines=[types_pb2.Line(line_id="1", sku="a", quantity=1)],
        address=US,
        fulfillment_method=types_pb2.FULFILLMENT_METHOD_SHIP_TO_ADDRESS,
    )


def a_confirm() -> Any:
    return reservation_pb.ConfirmReservationRequest(reservation_id="r")


def a_sync() -> Any:
    return supply_pb.SyncSupplyRequest(
        source="erp",
        source_sequence=1,
        rows=[supply_pb.SupplyRow(sku="a", node_id="n", on_hand=1)],
    )


def an_adjustment() -> Any:
    return supply_pb.AdjustSupplyRequest(
        idempotency_key="k",
        reason="damage",
        rows=[supply_pb.SupplyDelta(sku="a", node_id="n", quantity_delta=-1)],
    )


def a_share() -> Any:
    row = supply_pb.ProtectionLevel(sku="a", node_id="n", segment="web", level=2)
    return supply_pb.SetProtectionLevelsRequest(rows=[row])


def a_sale() -> Any:
    return supply_pb.RecordSaleRequest(
        sale_id="s", lines=[supply_pb.SaleLine(sku="a", node_id="n", quantity=1)]
    )


def an_upsert_of_nodes() -> Any:
    address = types_pb2.Address(
        country="US", coordinates=types_pb2.Coordinates(latitude_degrees=41)
    )
    method = network_pb.NodeMethod(
        fulfillment_method=types_pb2.FULFILLMENT_METHOD_SHIP_TO_ADDRESS,
        cutoff_time=network_pb.TimeOfDay(hours=17),
    )
    node = network_pb.Node(
        node_id="n",
        node_type=network_pb.NODE_TYPE_STORE,
        address=address,
        time_zone="America/Chicago",
        calendar_id="c",
        methods=[method],
    )
    return network_pb.UpsertNodesRequest(nodes=[node])


def an_upsert_of_groups() -> Any:
    group = network_pb.NodeGroup(node_group_id="g", node_ids=["n"])
    return network_pb.UpsertNodeGroupsRequest(node_groups=[group])


def an_upsert_of_items() -> Any:
    return network_pb.UpsertItemsRequest(items=[network_pb.Item(sku="a")])


def an_upsert_of_calendars() -> Any:
    calendar = network_pb.Calendar(
        calendar_id="c",
        working_days=[1, 2],
        exceptions=[network_pb.CalendarException(date=types_pb2.Date(year=2026, month=12, day=25))],
    )
    return network_pb.UpsertCalendarsRequest(calendars=[calendar])


def an_upsert_of_services() -> Any:
    service = network_pb.CarrierService(carrier_service="s", calendar_id="c", currency_code="USD")
    return network_pb.UpsertCarrierServicesRequest(carrier_services=[service])


def an_upsert_of_lanes() -> Any:
    lane = network_pb.Lane(node_id="n", country="US", carrier_service="s")
    return network_pb.UpsertLanesRequest(lanes=[lane])


def a_status() -> Any:
    return network_pb.SetNodeStatusRequest(node_id="n", node_status=types_pb2.NODE_STATUS_OFF)


def an_audit() -> Any:
    return admin_pb.VerifyRequest(shard_ids=[0])


GOOD = [
    a_query, a_search, a_cart, a_create, a_confirm, a_sync, an_adjustment, a_sale,
    an_upsert_of_nodes, an_upsert_of_groups, an_upsert_of_items, an_upsert_of_calendars,
    an_upsert_of_services, an_upsert_of_lanes, a_status, an_audit, a_promise_and_reserve,
]  # fmt: skip


def seconds(value: float) -> Duration:
    found = Duration()
    found.FromMilliseconds(round(value * 1000))
    return found


def put(request: Any, path: str, value: Any) -> Any:
    """Set ``lines[0].sku`` and the like; messages are copied, None adds an empty message."""
    *parents, last = path.split(".")
    target = request
    for part in parents:
        name, _, index = part.partition("[")
        target = getattr(target, name)
        if index:
            target = target[int(index.rstrip("]"))]
    name, _, index = last.partition("[")
    if index:
        getattr(target, name)[int(index.rstrip("]"))] = value
    elif hasattr(value, "DESCRIPTOR"):
        getattr(target, name).CopyFrom(value)
    else:
        setattr(target, name, value)
    return request
