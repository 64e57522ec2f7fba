"""Promise, then hold exactly that, over gRPC against a server process."""

from __future__ import annotations

import asyncio
import itertools
import random
import sys
from pathlib import Path

import grpc
import grpc.aio
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from promise_svc.v1 import (
    admin_service_pb2 as admin_pb,
)
from promise_svc.v1 import (
    network_service_pb2 as network_pb,
)
from promise_svc.v1 import (
    promise_service_pb2 as promise_pb,
)
from promise_svc.v1 import (
    reservation_service_pb2 as pb,
)
from promise_svc.v1 import (
    supply_service_pb2 as supply_pb,
)
from promise_svc.v1 import types_pb2
from tests.e2e import conftest
from tests.e2e.conftest import Client, Served

SHIP = types_pb2.FULFILLMENT_METHOD_SHIP_TO_ADDRESS
CHICAGO = types_pb2.Address(
    country="US",
    postal_code="60601",
    coordinates=types_pb2.Coordinates(latitude_degrees=41.88, longitude_degrees=-87.63),
)
HELD = pb.CREATE_RESERVATION_OUTCOME_HELD
TIMEOUT = 10
pytestmark = pytest.mark.timeout(60)
names = itertools.count(1)


@pytest.fixture
async def shop(client: Client) -> Client:
    """A client of a server with two nodes that ship by ground every day; idempotent."""
    network = client.network
    daily = network_pb.Calendar(calendar_id="daily", working_days=range(1, 8))
    cutoff = network_pb.TimeOfDay(hours=23, minutes=59)
    method = network_pb.NodeMethod(fulfillment_method=SHIP, cutoff_time=cutoff)
    nodes = [
        network_pb.Node(
            node_id=node_id,
            node_type=network_pb.NODE_TYPE_DISTRIBUTION_CENTER,
            address=CHICAGO,
            time_zone="America/Chicago",
            calendar_id="daily",
            methods=[method],
        )
        for node_id in ("east", "west")
    ]
    ground = network_pb.CarrierService(
        carrier_service="ground",
        calendar_id="daily",
        currency_code="USD",
        base_cost_micros=5_000_000,
    )
    lanes = [
        network_pb.Lane(
            node_id=node.node_id,
            country="US",
            carrier_service="ground",
            transit_business_days_min=1,
            transit_business_days_max=3,
        )
        for node in nodes
    ]
    calendars = network_pb.UpsertCalendarsRequest(calendars=[daily])
    await network.UpsertCalendars(calendars, timeout=TIMEOUT)
    await network.UpsertNodes(network_pb.UpsertNodesRequest(nodes=nodes), timeout=TIMEOUT)
    services = network_pb.UpsertCarrierServicesRequest(carrier_services=[ground])
    await network.UpsertCarrierServices(services, timeout=TIMEOUT)
    await network.UpsertLanes(network_pb.UpsertLanesRequest(lanes=lanes), timeout=TIMEOUT)
    return client


async def stocked(shop: Client, **on_hand: int) -> str:
    """A new SKU with so many units at the nodes."""
    sku = f"quoted-{next(names)}"
    items = network_pb.UpsertItemsRequest(items=[network_pb.Item(sku=sku)])
    await shop.network.UpsertItems(items, timeout=TIMEOUT)
    await counted(shop, sku, **on_hand)
    return sku


async def counted(shop: Client, sku: str, **on_hand: int) -> None:
    rows = [
        supply_pb.SupplyRow(sku=sku, node_id=node_id, on_hand=units)
        for node_id, units in on_hand.items()
    ]
    report = supply_pb.SyncSupplyRequest(source="erp", source_sequence=next(names), rows=rows)
    await shop.supply.SyncSupply(report, timeout=TIMEOUT)


def lines(*wanted: tuple[str, int]) -> list[types_pb2.Line]:
    return [
        types_pb2.Line(line_id=f"{index}", sku=sku, quantity=quantity)
        for index, (sku, quantity) in enumerate(wanted)
    ]


async def promised(shop: Client, *wanted: tuple[str, int]) -> promise_pb.DeliveryPromise:
    """The best option for a cart."""
    request = promise_pb.PromiseCartRequest(lines=lines(*wanted), address=CHICAGO)
    return (await shop.promise.PromiseCart(request, timeout=TIMEOUT)).options[0]


async def reserved(shop: Client, token: str, **fields: object) -> pb.CreateReservationResponse:
    request = pb.CreateReservationRequest(owner_id="shopper", quote_token=token, **fields)  # type: ignore[arg-type]
    return await shop.reservation.CreateReservation(request, timeout=TIMEOUT)


def places(reservation: pb.Reservation) -> set[tuple[str, str, int]]:
    return {
        (units.node_id, line.sku, units.quantity)
        for line in reservation.lines
        for units in line.planned_units
    }


async def test_the_plan_shown_is_the_plan_held_with_its_dates(shop: Client) -> None:
    """A split cart, held by its token alone; dates are there at the hold, later, and confirmed."""
    sku = await stocked(shop, east=2, west=2)
    option = await promised(shop, (sku, 3))
    await counted(shop, sku, east=9)

    held = await reserved(shop, option.quote_token)
    again = await reserved(shop, option.quote_token)
    await shop.reservation.ConfirmReservation(
        pb.ConfirmReservationRequest(reservation_id=option.reservation_id), timeout=TIMEOUT
    )
    read = await shop.reservation.GetReservation(
        pb.GetReservationRequest(reservation_id=option.reservation_id), timeout=TIMEOUT
    )

    assert (held.outcome, held.replayed) == (HELD, False)
    assert (again.outcome, again.replayed) == (HELD, True)
    assert held.reservation.reservation_id == option.reservation_id
    assert places(held.reservation) == {
        (shipment.node_id, line.sku, line.quantity)
        for shipment in option.shipments
        for line in shipment.lines
    }
    assert {node for node, _, _ in places(held.reservation)} == {"east", "west"}
    assert list(held.reservation.shipments) == list(option.shipments)
    assert list(read.reservation.shipments) == list(option.shipments)
    assert read.reservation.state == pb.Reservation.STATE_CONFIRMED
    audit = await shop.admin.Verify(admin_pb.VerifyRequest(), timeout=60)
    assert (audit.consistent, audit.oversold_count) == (True, 0), audit


async def test_a_node_that_went_off_is_told_and_a_new_promise_is_held(shop: Client) -> None:
    sku = await stocked(shop, east=1, west=1)
    option = await promised(shop, (sku, 1))
    node_id = option.shipments[0].node_id

    async def switch(status: int) -> None:
        request = network_pb.SetNodeStatusRequest(node_id=node_id, node_status=status)  # type: ignore[arg-type]
        await shop.network.SetNodeStatus(request, timeout=TIMEOUT)

    await switch(types_pb2.NODE_STATUS_OFF)
    try:
        refused = await reserved(shop, option.quote_token)
        other = await promised(shop, (sku, 1))
        held = await reserved(shop, other.quote_token)
    finally:
        await switch(types_pb2.NODE_STATUS_ON)

    (line,) = refused.line_outcomes
    assert refused.outcome == line.outcome == pb.CREATE_RESERVATION_OUTCOME_NODE_OFF
    assert line.node_id == node_id
    assert not refused.HasField("reservation")
    assert held.outcome == HELD
    assert places(held.reservation) == {({"east": "west", "west": "east"}[node_id], sku, 1)}


async def test_of_many_tokens_for_the_last_unit_one_is_held(shop: Client) -> None:
    """All were promised the same unit in good faith; the others hear that 0 are left."""
    sku = await stocked(shop, east=1)
    options = [await promised(shop, (sku, 1)) for _ in range(8)]

    replies = await asyncio.gather(*(reserved(shop, x.quote_token) for x in options))

    refused = [reply.line_outcomes[0] for reply in replies if reply.outcome != HELD]
    assert len(refused) == 7
    assert {(line.outcome, line.ats, line.node_id) for line in refused} == {
        (pb.CREATE_RESERVATION_OUTCOME_INSUFFICIENT_STOCK, 0, "east")
    }


async def test_what_is_no_token_of_ours_is_refused_by_name(
    shop: Client, rng: random.Random
) -> None:
    """Changed, cut, foreign or noise: always the same reason, never a fault."""
    sku = await stocked(shop, east=1)
    token = (await promised(shop, (sku, 1))).quote_token
    alphabet = "ABCXYZabcxyz0189-_.=+ é"

    def broken() -> str:
        at = rng.randrange(len(token))
        changed = token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]
        noise = "".join(rng.choices(alphabet, k=rng.randrange(1, 300)))
        return rng.choice([changed, token[:at] or "A", token + token, noise, "A" * 20_000])

    for _ in range(150):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await reserved(shop, broken())
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert reason_of(raised.value) == "QUOTE_TOKEN_INVALID"
    assert (await reserved(shop, token)).outcome == HELD


def reason_of(error: grpc.aio.AioRpcError) -> str:
    metadata = dict(error.trailing_metadata() or ())
    status = Status.FromString(metadata["grpc-status-details-bin"])  # type: ignore[arg-type]
    info = ErrorInfo()
    assert status.details[0].Unpack(info)
    return info.reason


async def test_a_token_of_one_host_is_held_by_another(shop: Client, served: Served) -> None:
    """Nobody configured a key: the second host finds the first one's in the order store."""
    sku = await stocked(shop, east=2)
    option = await promised(shop, (sku, 2))
    script = str(Path(conftest.__file__).with_name("served.py"))
    process = await asyncio.create_subprocess_exec(
        sys.executable, script, served.order_store_url, served.cluster.key_prefix,
        *served.index_urls,
        env={"PYTHONPATH": str(conftest.ROOT), "PATH": "/usr/bin:/bin"},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        port = int(await process.stdout.readline())
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            held = await reserved(Client(channel), option.quote_token)
    finally:
        process.terminate()
        await process.wait()

    assert held.outcome == HELD
    assert list(held.reservation.shipments) == list(option.shipments)


async def test_an_answer_for_another_moment_has_no_token_and_says_why(shop: Client) -> None:
    sku = await stocked(shop, east=1)
    request = promise_pb.PromiseCartRequest(lines=lines((sku, 1)), address=CHICAGO)
    request.order_time.GetCurrentTime()

    reply = await shop.promise.PromiseCart(request, timeout=TIMEOUT)

    assert reply.options[0].quote_token == ""
    assert reply.options[0].no_quote_reason == promise_pb.NO_QUOTE_REASON_ORDER_TIME_GIVEN


async def test_a_cart_is_promised_and_held_in_one_step(shop: Client) -> None:
    """What PromiseCart would show first, held; a retry tells the same, and so does a read."""
    first, second = await stocked(shop, east=3, west=1), await stocked(shop, west=2)
    shown = await promised(shop, (first, 1), (second, 2))
    request = pb.PromiseAndReserveRequest(
        reservation_id=f"one-step-{next(names)}",
        owner_id="shopper",
        lines=lines((first, 1), (second, 2)),
        address=CHICAGO,
        fulfillment_method=SHIP,
    )

    held = await shop.reservation.PromiseAndReserve(request, timeout=TIMEOUT)
    await counted(shop, second, east=50)
    again = await shop.reservation.PromiseAndReserve(request, timeout=TIMEOUT)
    read = await shop.reservation.GetReservation(
        pb.GetReservationRequest(reservation_id=request.reservation_id), timeout=TIMEOUT
    )

    assert (held.outcome, held.replayed) == (HELD, False)
    assert list(held.delivery_promise.shipments) == list(shown.shipments)
    assert held.delivery_promise.expire_time == shown.expire_time
    assert (again.replayed, again.delivery_promise) == (True, held.delivery_promise)
    assert list(read.reservation.shipments) == list(shown.shipments)
    assert places(read.reservation) == {("west", first, 1), ("west", second, 2)}


async def test_a_cart_that_cannot_be_held_in_one_step_says_why_by_line(shop: Client) -> None:
    sku, gone = await stocked(shop, east=3), await stocked(shop, east=1)
    request = pb.PromiseAndReserveRequest(
        reservation_id=f"one-step-{next(names)}",
        owner_id="shopper",
        lines=lines((sku, 1), (gone, 2)),
        address=CHICAGO,
        fulfillment_method=SHIP,
    )

    reply = await shop.reservation.PromiseAndReserve(request, timeout=TIMEOUT)

    assert reply.outcome == pb.CREATE_RESERVATION_OUTCOME_INSUFFICIENT_STOCK
    assert [(line.outcome, line.ats) for line in reply.line_outcomes] == [
        (pb.CREATE_RESERVATION_OUTCOME_OTHER_LINE_REFUSED, 0),
        (pb.CREATE_RESERVATION_OUTCOME_INSUFFICIENT_STOCK, 1),
    ]
    assert not reply.HasField("reservation") and not reply.HasField("delivery_promise")
