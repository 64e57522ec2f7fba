"""From product page to a row in PostgreSQL, over gRPC, against a server process."""

from __future__ import annotations

import asyncio
import itertools

import asyncpg
import grpc
import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc

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
    reservation_service_pb2 as pb,
)
from promise_svc.v1 import (
    supply_service_pb2 as supply_pb,
)
from promise_svc.v1 import (
    types_pb2,
)
from tests.e2e.conftest import Client, Served

SHIP = types_pb2.FULFILLMENT_METHOD_SHIP_TO_ADDRESS
PICKUP = types_pb2.FULFILLMENT_METHOD_PICKUP_IN_STORE
CHICAGO = types_pb2.Address(
    country="US",
    postal_code="60601",
    coordinates=types_pb2.Coordinates(latitude_degrees=41.88, longitude_degrees=-87.63),
)
pytestmark = pytest.mark.timeout(60)
names = itertools.count(1)


@pytest.fixture
async def shop(client: Client) -> Client:
    """A client of a server that has a DC and a store; idempotent, so once a test is fine."""
    every_day = network_pb.Calendar(calendar_id="daily", working_days=range(1, 8))
    await client.network.UpsertCalendars(
        network_pb.UpsertCalendarsRequest(calendars=[every_day]), timeout=10
    )
    nodes = [
        a_node("dc", network_pb.NODE_TYPE_DISTRIBUTION_CENTER, SHIP),
        a_node("store", network_pb.NODE_TYPE_STORE, PICKUP, SHIP),
    ]
    await client.network.UpsertNodes(network_pb.UpsertNodesRequest(nodes=nodes), timeout=10)
    ground = network_pb.CarrierService(
        carrier_service="ground",
        calendar_id="daily",
        currency_code="USD",
        base_cost_micros=5_000_000,
    )
    await client.network.UpsertCarrierServices(
        network_pb.UpsertCarrierServicesRequest(carrier_services=[ground]), timeout=10
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
    await client.network.UpsertLanes(network_pb.UpsertLanesRequest(lanes=lanes), timeout=10)
    return client


def a_node(node_id: str, node_type: int, *methods: int) -> network_pb.Node:
    return network_pb.Node(
        node_id=node_id,
        node_type=node_type,
        address=CHICAGO,
        time_zone="America/Chicago",
        calendar_id="daily",
        methods=[
            network_pb.NodeMethod(
                fulfillment_method=method, cutoff_time=network_pb.TimeOfDay(hours=23, minutes=59)
            )
            for method in methods
        ],
    )


async def stocked(shop: Client, dc: int, store: int = 0) -> str:
    """A new SKU with so many units at the two nodes."""
    sku = f"sku-{next(names)}"
    items = network_pb.UpsertItemsRequest(items=[network_pb.Item(sku=sku)])
    await shop.network.UpsertItems(items, timeout=10)
    report = supply_pb.SyncSupplyRequest(
        source="erp",
        source_sequence=1,
        rows=[
            supply_pb.SupplyRow(sku=sku, node_id="dc", on_hand=dc),
            supply_pb.SupplyRow(sku=sku, node_id="store", on_hand=store),
        ],
    )
    reply = await shop.supply.SyncSupply(report, timeout=10)
    assert [row.outcome for row in reply.results] == [supply_pb.SUPPLY_OUTCOME_APPLIED] * 2
    assert await ats(shop, sku, strong=False) == dc + store, "who wrote it reads it"
    return sku


def hold(*lines: tuple[str, int], rid: str = "", **fields: object) -> pb.CreateReservationRequest:
    return pb.CreateReservationRequest(
        reservation_id=rid or f"r-{next(names)}",
        owner_id="shopper",
        lines=[
            pb.ReservationRequestLine(line_id=f"{index}", sku=sku, quantity=quantity)
            for index, (sku, quantity) in enumerate(lines)
        ],
        address=CHICAGO,
        fulfillment_method=SHIP,
        **fields,  # type: ignore[arg-type]
    )


async def take(shop: Client, request: pb.CreateReservationRequest) -> None:
    """Create, and have it."""
    reply = await shop.reservation.CreateReservation(request, timeout=10)
    assert reply.outcome == pb.CREATE_RESERVATION_OUTCOME_HELD, reply


async def ats(shop: Client, sku: str, *, strong: bool = True) -> int:
    reply = await shop.availability.QueryAvailability(
        availability_pb.QueryAvailabilityRequest(
            entries=[availability_pb.AvailabilityQuery(sku=sku)],
            consistency=types_pb2.Consistency(strong=strong),
        ),
        timeout=10,
    )
    return reply.entries[0].ats


async def test_a_shopper_goes_from_product_page_to_a_row(shop: Client, served: Served) -> None:
    """See, find, promise, hold, confirm; then PostgreSQL has it and the audit finds nothing."""
    first, second = await stocked(shop, 5, 2), await stocked(shop, 7)

    seen = await ats(shop, first)
    near = await shop.availability.FindPickupNodes(
        availability_pb.FindPickupNodesRequest(
            origin=CHICAGO, lines=[types_pb2.Line(line_id="1", sku=first, quantity=2)]
        ),
        timeout=10,
    )
    cart = await shop.promise.PromiseCart(
        promise_pb.PromiseCartRequest(
            lines=[
                types_pb2.Line(line_id="0", sku=first, quantity=3),
                types_pb2.Line(line_id="1", sku=second, quantity=1),
            ],
            address=CHICAGO,
            consistency=types_pb2.Consistency(strong=True),
        ),
        timeout=10,
    )
    request = hold((first, 3), (second, 1))
    held = await shop.reservation.CreateReservation(request, timeout=10)
    confirmed = await shop.reservation.ConfirmReservation(
        pb.ConfirmReservationRequest(reservation_id=request.reservation_id), timeout=10
    )

    assert seen == 7
    assert [node.node_id for node in near.nodes] == ["store"]
    assert cart.outcome == promise_pb.PROMISE_OUTCOME_COMPLETE
    assert cart.options[0].shipments[0].node_id == "dc"
    assert cart.options[0].total_cost.amount_micros == 5_000_000
    assert held.outcome == pb.CREATE_RESERVATION_OUTCOME_HELD
    assert held.durability_mode == types_pb2.DURABILITY_MODE_FSYNC
    assert confirmed.outcome == pb.TRANSITION_OUTCOME_CONFIRMED
    assert confirmed.durability_mode == types_pb2.DURABILITY_MODE_RECORDED
    assert (await ats(shop, first), await ats(shop, second)) == (4, 6)
    assert await rows_of(served, request.reservation_id) == 1
    audit = await shop.admin.Verify(admin_pb.VerifyRequest(), timeout=60)
    assert (audit.consistent, audit.oversold_count) == (True, 0), audit


async def rows_of(served: Served, reservation_id: str) -> int:
    connection = await asyncpg.connect(served.order_store_url)
    try:
        return await connection.fetchval(
            "SELECT count(*) FROM reservations WHERE reservation_id = $1", reservation_id
        )
    finally:
        await connection.close()


async def test_the_same_hold_again_is_told_and_not_taken_twice(shop: Client) -> None:
    """Another body under its id is refused by name, wherever its SKU lives."""
    skus = [await stocked(shop, 5) for _ in range(4)]
    request = hold((skus[0], 2))

    first = await shop.reservation.CreateReservation(request, timeout=10)
    again = await shop.reservation.CreateReservation(request, timeout=10)

    assert (first.replayed, again.replayed) == (False, True)
    assert again.reservation.lines == first.reservation.lines
    assert await ats(shop, skus[0]) == 3
    for sku in skus[1:]:
        other = hold((sku, 2), rid=request.reservation_id)
        error = await error_of(shop.reservation.CreateReservation(other, timeout=10))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert reason_of(error) == "IDEMPOTENCY_KEY_REUSED"
        assert await ats(shop, sku) == 5


async def test_two_buyers_of_the_last_unit(shop: Client) -> None:
    """One holds it, the other is told the true ATS."""
    sku = await stocked(shop, 1)

    replies = await asyncio.gather(
        *(shop.reservation.CreateReservation(hold((sku, 1)), timeout=10) for _ in range(8))
    )

    outcomes = sorted(reply.outcome for reply in replies)
    assert outcomes[0] == pb.CREATE_RESERVATION_OUTCOME_HELD
    assert outcomes[1] > pb.CREATE_RESERVATION_OUTCOME_HELD
    refused = [reply for reply in replies if reply.outcome != outcomes[0]]
    assert {reply.line_outcomes[0].ats for reply in refused} == {0}
    assert await ats(shop, sku) == 0
    late = await shop.reservation.CreateReservation(hold((sku, 1)), timeout=10)
    assert [late.line_outcomes[0].HasField("ats"), late.line_outcomes[0].ats] == [True, 0]


async def test_a_released_hold_can_be_sold_again(shop: Client) -> None:
    """Twice asked, once done; confirming it afterwards is an outcome, not an error."""
    sku = await stocked(shop, 2)
    request = hold((sku, 2))
    await take(shop, request)
    release = pb.ReleaseReservationRequest(reservation_id=request.reservation_id)

    first = await shop.reservation.ReleaseReservation(release, timeout=10)
    again = await shop.reservation.ReleaseReservation(release, timeout=10)
    late = await shop.reservation.ConfirmReservation(
        pb.ConfirmReservationRequest(reservation_id=request.reservation_id), timeout=10
    )
    found = await shop.reservation.GetReservation(
        pb.GetReservationRequest(reservation_id=request.reservation_id), timeout=10
    )

    assert (first.outcome, first.replayed) == (pb.TRANSITION_OUTCOME_RELEASED, False)
    assert (again.outcome, again.replayed) == (pb.TRANSITION_OUTCOME_RELEASED, True)
    assert late.outcome == pb.TRANSITION_OUTCOME_ALREADY_RELEASED
    assert found.reservation.state == pb.Reservation.STATE_RELEASED
    assert await ats(shop, sku) == 2


async def test_an_order_is_taken_back(shop: Client) -> None:
    """A mere hold is not: NOT_CONFIRMED."""
    sku = await stocked(shop, 2)
    request = hold((sku, 2))
    await take(shop, request)
    cancel = pb.CancelReservationRequest(reservation_id=request.reservation_id)

    early = await shop.reservation.CancelReservation(cancel, timeout=10)
    await shop.reservation.ConfirmReservation(
        pb.ConfirmReservationRequest(reservation_id=request.reservation_id), timeout=10
    )
    cancelled = await shop.reservation.CancelReservation(cancel, timeout=10)

    assert early.outcome == pb.TRANSITION_OUTCOME_NOT_CONFIRMED
    assert cancelled.outcome == pb.TRANSITION_OUTCOME_CANCELLED
    assert await ats(shop, sku) == 2


async def test_an_order_leaves_in_two_parcels_and_the_books_balance(shop: Client) -> None:
    """On hand falls by what left; the audit finds nothing."""
    sku, other = await stocked(shop, 5), await stocked(shop, 5)
    request = hold((sku, 2), (other, 1))
    await take(shop, request)
    rid, call = request.reservation_id, shop.reservation
    await call.ExtendReservation(pb.ExtendReservationRequest(reservation_id=rid), timeout=10)
    await call.ConfirmReservation(pb.ConfirmReservationRequest(reservation_id=rid), timeout=10)
    line = pb.LineUnits(line_id=request.lines[0].line_id, quantity=1)

    nameless = await error_of(
        call.FulfillReservation(
            pb.FulfillReservationRequest(reservation_id=rid, lines=[line]), timeout=10
        )
    )
    parcel = await call.FulfillReservation(
        pb.FulfillReservationRequest(
            reservation_id=rid, lines=[line], idempotency_key="parcel-1", durability_mode=4
        ),
        timeout=10,
    )
    rest = await call.FulfillReservation(
        pb.FulfillReservationRequest(reservation_id=rid), timeout=10
    )
    audit = await shop.admin.Verify(admin_pb.VerifyRequest(), timeout=60)

    assert nameless.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (parcel.outcome, parcel.reservation.state) == (4, pb.Reservation.STATE_CONFIRMED)
    assert parcel.reservation.lines[0].fulfilled_quantity == 1
    assert (rest.outcome, rest.reservation.state) == (4, pb.Reservation.STATE_FULFILLED)
    assert (await ats(shop, sku), await ats(shop, other)) == (3, 4)
    assert list(audit.findings) == []


async def test_a_hold_ends_by_the_clock(shop: Client) -> None:
    """Exact in a strong read and in Get, swept or not."""
    sku = await stocked(shop, 2)
    request = hold((sku, 2), ttl=Duration(seconds=1))
    await take(shop, request)
    assert await ats(shop, sku) == 0

    async with asyncio.timeout(30):
        while await ats(shop, sku) != 2:
            await asyncio.sleep(0.02)

    found = await shop.reservation.GetReservation(
        pb.GetReservationRequest(reservation_id=request.reservation_id), timeout=10
    )
    assert found.reservation.state == pb.Reservation.STATE_EXPIRED


async def test_a_rule_that_was_deleted_rules_no_more(shop: Client) -> None:
    """From the answer on; what is in use is told by what uses it, and nodes stay."""
    sku = await stocked(shop, 5)
    item = network_pb.Item(sku=sku, handling_class="odd")
    await shop.network.UpsertItems(network_pb.UpsertItemsRequest(items=[item]), timeout=10)
    rule = network_pb.SourcingRule(rule_id="no-odd", handling_class="odd", excluded=True)
    rules = network_pb.UpsertSourcingRulesRequest(sourcing_rules=[rule])
    await shop.network.UpsertSourcingRules(rules, timeout=10)
    refused = await shop.reservation.CreateReservation(hold((sku, 1)), timeout=10)

    async def delete(kind: int, *names: str) -> list[tuple[int, str]]:
        request = network_pb.DeleteNetworkEntriesRequest(kind=kind, names=names)
        reply = await shop.network.DeleteNetworkEntries(request, timeout=10)
        return [(result.outcome, result.used_by.split(" ")[0]) for result in reply.results]

    deleted = await delete(network_pb.NETWORK_ENTRY_KIND_SOURCING_RULE, "no-odd", "none")
    used = await delete(network_pb.NETWORK_ENTRY_KIND_CARRIER_SERVICE, "ground")
    held = await shop.reservation.CreateReservation(hold((sku, 1)), timeout=10)

    assert refused.outcome == pb.CREATE_RESERVATION_OUTCOME_EXCLUDED_BY_RULE
    assert deleted == [
        (network_pb.DELETE_OUTCOME_DELETED, ""),
        (network_pb.DELETE_OUTCOME_NOT_THERE, ""),
    ]
    assert used == [(network_pb.DELETE_OUTCOME_IN_USE, "lane")]
    assert held.outcome == pb.CREATE_RESERVATION_OUTCOME_HELD
    for kind, names in ((0, ["x"]), (1, []), (1, ["x", "x"]), (1, ["bad id!"]), (4, ["dc>US:>x"])):
        with pytest.raises(grpc.aio.AioRpcError, match="INVALID_ARGUMENT"):
            await delete(kind, *names)


async def test_a_node_switched_off_sells_nothing_more(shop: Client) -> None:
    """From the moment the call is answered, also for a hold that names it."""
    sku = await stocked(shop, 5)
    off = network_pb.SetNodeStatusRequest(node_id="dc", node_status=types_pb2.NODE_STATUS_OFF)
    on = network_pb.SetNodeStatusRequest(node_id="dc", node_status=types_pb2.NODE_STATUS_ON)
    await shop.network.SetNodeStatus(off, timeout=10)
    try:
        named = hold((sku, 1))
        named.lines[0].node_id = "dc"
        reply = await shop.reservation.CreateReservation(named, timeout=10)
        assert reply.outcome == pb.CREATE_RESERVATION_OUTCOME_NODE_OFF
        assert await ats(shop, sku) == 0
    finally:
        back = await shop.network.SetNodeStatus(on, timeout=10)
    assert back.previous_node_status == types_pb2.NODE_STATUS_OFF
    assert await ats(shop, sku) == 5


async def test_unknown_names_are_outcomes(shop: Client) -> None:
    """Beside answers for what is known."""
    sku = await stocked(shop, 5)
    reply = await shop.availability.QueryAvailability(
        availability_pb.QueryAvailabilityRequest(
            entries=[
                availability_pb.AvailabilityQuery(sku="nothing"),
                availability_pb.AvailabilityQuery(sku=sku),
                availability_pb.AvailabilityQuery(
                    sku=sku, nodes=availability_pb.NodeList(node_ids=["nowhere"])
                ),
                availability_pb.AvailabilityQuery(sku=sku, node_group_id="none"),
            ],
            consistency=types_pb2.Consistency(strong=True),
        ),
        timeout=10,
    )
    supplied = await shop.supply.SyncSupply(
        supply_pb.SyncSupplyRequest(
            source="erp",
            source_sequence=2,
            rows=[
                supply_pb.SupplyRow(sku="nothing", node_id="dc", on_hand=1),
                supply_pb.SupplyRow(sku=sku, node_id="nowhere", on_hand=1),
            ],
        ),
        timeout=10,
    )

    assert [(entry.outcome, entry.ats) for entry in reply.entries] == [
        (10, 0), (1, 5), (30, 0), (20, 0),
    ]  # fmt: skip
    assert [row.outcome for row in supplied.results] == [20, 30]


async def test_a_wrong_request_is_told_field_by_field(shop: Client) -> None:
    """Nothing of it is done."""
    request = hold(("a b", 0), rid="-")

    error = await error_of(shop.reservation.CreateReservation(request, timeout=10))

    status = Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])
    bad = BadRequest()
    status.details[1].Unpack(bad)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert {violation.field for violation in bad.field_violations} == {
        "reservation_id", "lines[0].sku", "lines[0].quantity",
    }  # fmt: skip


async def test_what_is_not_there_is_not_found(shop: Client) -> None:
    """For reads and for moves."""
    for call in (
        shop.reservation.GetReservation(pb.GetReservationRequest(reservation_id="x"), timeout=10),
        shop.reservation.ConfirmReservation(
            pb.ConfirmReservationRequest(reservation_id="x"), timeout=10
        ),
    ):
        error = await error_of(call)
        assert (error.code(), reason_of(error)) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")


async def test_a_read_says_how_fresh_it_is(shop: Client) -> None:
    """From the table with its age; from the shard with none."""
    sku = await stocked(shop, 5)
    entries = [availability_pb.AvailabilityQuery(sku=sku)]

    table = await shop.availability.QueryAvailability(
        availability_pb.QueryAvailabilityRequest(entries=entries), timeout=10
    )
    shard = await shop.availability.QueryAvailability(
        availability_pb.QueryAvailabilityRequest(
            entries=entries, consistency=types_pb2.Consistency(strong=True)
        ),
        timeout=10,
    )

    assert table.entries[0].as_of.epoch == shard.entries[0].as_of.epoch == 1
    assert 0 < table.entries[0].as_of.sequence <= shard.entries[0].as_of.sequence
    assert 0 <= table.freshness.age.ToMilliseconds() < 5_000
    assert shard.freshness.age.ToMilliseconds() == 0


async def test_a_sale_at_the_till_is_taken_below_zero_and_shows_as_shortage(shop: Client) -> None:
    """Three held of four, two more sold at the till: the hold stands, and one unit is short."""
    sku = await stocked(shop, 4)
    await shop.reservation.CreateReservation(hold((sku, 3)), timeout=10)
    sale = supply_pb.RecordSaleRequest(
        sale_id=f"till-{sku}", lines=[supply_pb.SaleLine(sku=sku, node_id="dc", quantity=2)]
    )

    first, again = [await shop.supply.RecordSale(sale, timeout=10) for _ in range(2)]
    late = supply_pb.AdjustSupplyRequest(
        idempotency_key="old", reason="receipt", create_time=Timestamp(seconds=1),
        rows=[supply_pb.SupplyDelta(sku=sku, node_id="dc", quantity_delta=9)],
    )  # fmt: skip
    refused = await shop.supply.AdjustSupply(late, timeout=10)
    view = availability_pb.QueryAvailabilityRequest(
        entries=[availability_pb.AvailabilityQuery(sku=sku)],
        view=availability_pb.AVAILABILITY_VIEW_BREAKDOWN,
    )
    entry = (await shop.availability.QueryAvailability(view, timeout=10)).entries[0]

    told = [(row.outcome, row.on_hand, row.shortage) for row in first.results]
    assert told == [(supply_pb.SUPPLY_OUTCOME_APPLIED, 2, 1)]
    assert [row.replayed for row in again.results] == [True]
    assert [row.outcome for row in refused.results] == [
        supply_pb.SUPPLY_OUTCOME_IDEMPOTENCY_WINDOW_PASSED
    ]
    dc = next(node for node in entry.nodes if node.node_id == "dc").breakdown
    assert (entry.ats, dc.on_hand, dc.reserved, dc.shortage) == (0, 2, 3, 1)


async def test_sigterm_ends_the_server_cleanly(client: Client, served: Served) -> None:
    """Last in this file: it was serving, then it drains and exits with 0."""
    health = health_pb2_grpc.HealthStub(client.channel)
    before = await health.Check(health_pb2.HealthCheckRequest(), timeout=10)

    code = await asyncio.to_thread(served.stop)

    assert before.status == health_pb2.HealthCheckResponse.SERVING
    assert code == 0


async def error_of(call: grpc.aio.UnaryUnaryCall) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return raised.value


def reason_of(error: grpc.aio.AioRpcError) -> str:
    status = Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])
    info = ErrorInfo()
    status.details[0].Unpack(info)
    return info.reason
