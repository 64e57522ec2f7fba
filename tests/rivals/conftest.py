"""A shop with two shoppers on connections of their own, on a real server and real engines."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterable

import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration

from promise_svc.v1 import availability_service_pb2 as availability_pb
from promise_svc.v1 import network_service_pb2 as network_pb
from promise_svc.v1 import reservation_service_pb2 as pb
from promise_svc.v1 import supply_service_pb2 as supply_pb
from promise_svc.v1 import types_pb2
from tests.e2e.conftest import Client, Served, served

__all__ = ["served"]

SHIP = types_pb2.FULFILLMENT_METHOD_SHIP_TO_ADDRESS
PICKUP = types_pb2.FULFILLMENT_METHOD_PICKUP_IN_STORE
CHICAGO = types_pb2.Address(
    country="US",
    postal_code="60601",
    coordinates=types_pb2.Coordinates(latitude_degrees=41.88, longitude_degrees=-87.63),
)
CUTOFF_HOUR = 14
HELD = pb.CREATE_RESERVATION_OUTCOME_HELD
INSUFFICIENT = pb.CREATE_RESERVATION_OUTCOME_INSUFFICIENT_STOCK
STRONG = types_pb2.Consistency(strong=True)
SECONDS = 10.0

_names = itertools.count(1)


class Shop:
    """One shopper's, or one feed's, view of the service."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def stock(self, **on_hand: int) -> str:
        """A new SKU with so many units at these nodes."""
        sku = f"sku-{next(_names)}"
        rows = [supply_pb.SupplyRow(sku=sku, node_id=n, on_hand=q) for n, q in on_hand.items()]
        items = network_pb.UpsertItemsRequest(items=[network_pb.Item(sku=sku)])
        await self.client.network.UpsertItems(items, timeout=SECONDS)
        reply = await self.sync(rows)
        applied = supply_pb.SUPPLY_OUTCOME_APPLIED
        assert [row.outcome for row in reply.results] == [applied] * len(rows)
        return sku

    async def bundle(self, **components: int) -> str:
        """A new bundle of these SKUs, by their names with ``-`` for ``_``."""
        sku = f"set-{next(_names)}"
        parts = [
            network_pb.BundleComponent(sku=name.replace("_", "-"), quantity=quantity)
            for name, quantity in components.items()
        ]
        items = network_pb.UpsertItemsRequest(items=[network_pb.Item(sku=sku, components=parts)])
        reply = await self.client.network.UpsertItems(items, timeout=SECONDS)
        assert [x.outcome for x in reply.results] == [network_pb.UPSERT_OUTCOME_CREATED]
        return sku

    async def sync(
        self, rows: Iterable[supply_pb.SupplyRow], source: str = "erp", sequence: int = 1
    ) -> supply_pb.SyncSupplyResponse:
        """Absolute counts."""
        report = supply_pb.SyncSupplyRequest(source=source, source_sequence=sequence, rows=rows)
        return await self.client.supply.SyncSupply(report, timeout=SECONDS)

    async def adjust(
        self, sku: str, delta: int, key: str = "", node_id: str = "dc"
    ) -> supply_pb.SupplyRowResult:
        """Add or take units."""
        request = supply_pb.AdjustSupplyRequest(
            idempotency_key=key or f"k-{next(_names)}",
            reason="test",
            rows=[supply_pb.SupplyDelta(sku=sku, node_id=node_id, quantity_delta=delta)],
        )
        return (await self.client.supply.AdjustSupply(request, timeout=SECONDS)).results[0]

    async def look(
        self, *skus: str, consistency: types_pb2.Consistency = STRONG, **scope: object
    ) -> list[availability_pb.Availability]:
        """Each SKU with the figures of its nodes; ``scope`` is `nodes` or `node_group_id`."""
        request = availability_pb.QueryAvailabilityRequest(
            entries=[availability_pb.AvailabilityQuery(sku=sku, **scope) for sku in skus],  # type: ignore[arg-type]
            consistency=consistency,
            view=availability_pb.AVAILABILITY_VIEW_BREAKDOWN,
        )
        reply = await self.client.availability.QueryAvailability(request, timeout=SECONDS)
        return list(reply.entries)

    async def ats(self, sku: str, **scope: object) -> int:
        """What can be sold at this very instant."""
        return (await self.look(sku, **scope))[0].ats

    async def figures(self, sku: str) -> tuple[int, int, int]:
        """On hand, reserved, committed, over all nodes, at this very instant."""
        nodes = [node.breakdown for node in (await self.look(sku))[0].nodes]
        return (
            sum(node.on_hand for node in nodes),
            sum(node.reserved for node in nodes),
            sum(node.committed for node in nodes),
        )

    async def create(self, request: pb.CreateReservationRequest) -> pb.CreateReservationResponse:
        return await self.client.reservation.CreateReservation(request, timeout=SECONDS)

    async def confirm(self, reservation_id: str) -> pb.ConfirmReservationResponse:
        request = pb.ConfirmReservationRequest(reservation_id=reservation_id)
        return await self.client.reservation.ConfirmReservation(request, timeout=SECONDS)

    async def extend(self, reservation_id: str, seconds: int) -> pb.ExtendReservationResponse:
        request = pb.ExtendReservationRequest(
            reservation_id=reservation_id, ttl=Duration(seconds=seconds)
        )
        return await self.client.reservation.ExtendReservation(request, timeout=SECONDS)

    async def release(self, reservation_id: str) -> pb.ReleaseReservationResponse:
        request = pb.ReleaseReservationRequest(reservation_id=reservation_id)
        return await self.client.reservation.ReleaseReservation(request, timeout=SECONDS)


def a_hold(
    *lines: tuple[str, int] | tuple[str, int, str], ttl_seconds: int = 0, **fields: object
) -> pb.CreateReservationRequest:
    """A new reservation of SKU, units and, where named, node."""
    request = pb.CreateReservationRequest(
        reservation_id=f"r-{next(_names)}",
        owner_id="shopper",
        fulfillment_method=SHIP,
        address=None if "pickup_node_id" in fields else CHICAGO,
        ttl=Duration(seconds=ttl_seconds) if ttl_seconds else None,
    )
    for number, line in enumerate(lines):
        node_id = line[2] if len(line) == 3 else ""
        request.lines.add(line_id=str(number), sku=line[0], quantity=line[1], node_id=node_id)
    for name, value in fields.items():
        setattr(request, name, value)
    return request


def plan_of(reply: pb.CreateReservationResponse) -> dict[str, int]:
    """Node -> units held there."""
    plan: dict[str, int] = {}
    for line in reply.reservation.lines:
        for units in line.planned_units:
            plan[units.node_id] = plan.get(units.node_id, 0) + units.quantity
    return plan


@pytest.fixture
async def shop(served: Served) -> AsyncIterator[Shop]:
    """One shopper; the network is there, and loading it again changes nothing."""
    async with connected(f"127.0.0.1:{served.port}") as shop:
        await load_network(shop.client)
        yield shop


@pytest.fixture
async def rival(served: Served, shop: Shop) -> AsyncIterator[Shop]:
    """Another one, on a connection of their own."""
    async with connected(f"127.0.0.1:{served.port}") as rival:
        yield rival


class connected:  # noqa: N801 - used as a function
    """A shop on a connection of its own."""

    def __init__(self, target: str) -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        self._channel = grpc.aio.insecure_channel(target, options=options)

    async def __aenter__(self) -> Shop:
        return Shop(Client(self._channel))

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()


async def load_network(client: Client) -> None:
    """A center and two stores in Chicago, and a center in Los Angeles that closes at two."""
    pb_, network = network_pb, client.network
    every_day = pb_.Calendar(calendar_id="daily", working_days=range(1, 8))
    await network.UpsertCalendars(pb_.UpsertCalendarsRequest(calendars=[every_day]), timeout=10)
    nodes = [
        a_node("dc", pb_.NODE_TYPE_DISTRIBUTION_CENTER, SHIP),
        a_node("store", pb_.NODE_TYPE_STORE, PICKUP, SHIP),
        a_node(
            "west", pb_.NODE_TYPE_DISTRIBUTION_CENTER, SHIP,
            zone="America/Los_Angeles", cutoff=pb_.TimeOfDay(hours=CUTOFF_HOUR),
        ),
        a_node("popup", pb_.NODE_TYPE_STORE, PICKUP, SHIP),
    ]  # fmt: skip
    await network.UpsertNodes(pb_.UpsertNodesRequest(nodes=nodes), timeout=10)
    groups = [
        pb_.NodeGroup(node_group_id="online", name="online", node_ids=["dc", "west"]),
        pb_.NodeGroup(node_group_id="downtown", name="downtown", node_ids=["dc", "store"]),
    ]
    await network.UpsertNodeGroups(pb_.UpsertNodeGroupsRequest(node_groups=groups), timeout=10)
    ground = pb_.CarrierService(
        carrier_service="ground", calendar_id="daily", currency_code="USD",
        base_cost_micros=5_000_000,
    )  # fmt: skip
    await network.UpsertCarrierServices(
        pb_.UpsertCarrierServicesRequest(carrier_services=[ground]), timeout=10
    )
    lanes = [
        pb_.Lane(
            node_id=node.node_id, country="US", carrier_service="ground",
            transit_business_days_min=1, transit_business_days_max=3,
        )
        for node in nodes
    ]  # fmt: skip
    await network.UpsertLanes(pb_.UpsertLanesRequest(lanes=lanes), timeout=10)


def a_node(
    node_id: str,
    node_type: int,
    *methods: int,
    zone: str = "America/Chicago",
    cutoff: network_pb.TimeOfDay | None = None,
) -> network_pb.Node:
    cutoff_time = cutoff or network_pb.TimeOfDay(hours=23, minutes=59)
    return network_pb.Node(
        node_id=node_id,
        node_type=node_type,  # type: ignore[arg-type]
        address=CHICAGO,
        time_zone=zone,
        calendar_id="daily",
        methods=[
            network_pb.NodeMethod(fulfillment_method=m, cutoff_time=cutoff_time)  # type: ignore[arg-type]
            for m in methods
        ],
    )


async def until(condition: object, seconds: float = 30.0) -> None:
    """Return when an async condition holds; TimeoutError when it does not in time."""
    async with asyncio.timeout(seconds):
        while not await condition():  # type: ignore[operator]
            await asyncio.sleep(0.01)
