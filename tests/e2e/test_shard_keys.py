"""Shard keys over gRPC: two SKUs of one style are sold from one shard, and stay there."""

from __future__ import annotations

import asyncio

import pytest

from promise_svc.domain.sharding import shard_of
from promise_svc.v1 import (
    availability_service_pb2 as availability_pb,
)
from promise_svc.v1 import (
    network_service_pb2 as network_pb,
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
from tests.e2e.conftest import Client

SHARDS = 8
"""As ``served.py`` has it."""

SKUS = ("dress-red", "dress-blue")
STYLE = "dress-17"
NODE = "style-node"
TIMEOUT = 10
pytestmark = pytest.mark.timeout(60)


@pytest.fixture
async def shop(client: Client) -> Client:
    """A client of a server that has a store and both items."""
    calendar = network_pb.Calendar(calendar_id="daily", working_days=range(1, 8))
    await client.network.UpsertCalendars(
        network_pb.UpsertCalendarsRequest(calendars=[calendar]), timeout=TIMEOUT
    )
    node = network_pb.Node(
        node_id=NODE,
        node_type=network_pb.NODE_TYPE_STORE,
        address=types_pb2.Address(
            country="US",
            postal_code="60601",
            coordinates=types_pb2.Coordinates(latitude_degrees=41.88, longitude_degrees=-87.63),
        ),
        time_zone="America/Chicago",
        calendar_id="daily",
        methods=[
            network_pb.NodeMethod(
                fulfillment_method=types_pb2.FULFILLMENT_METHOD_PICKUP_IN_STORE,
                cutoff_time=network_pb.TimeOfDay(hours=23, minutes=59),
            )
        ],
    )
    await client.network.UpsertNodes(network_pb.UpsertNodesRequest(nodes=[node]), timeout=TIMEOUT)
    for sku in SKUS:
        assert await upsert(client, sku, STYLE) in ("CREATED", "UNCHANGED")
    return client


async def upsert(client: Client, sku: str, shard_key: str) -> str:
    """The outcome of an item."""
    items = [network_pb.Item(sku=sku, shard_key=shard_key)]
    reply = await client.network.UpsertItems(
        network_pb.UpsertItemsRequest(items=items), timeout=TIMEOUT
    )
    name = network_pb.UpsertOutcome.Name(reply.results[0].outcome)
    return name.removeprefix("UPSERT_OUTCOME_")


async def seen(client: Client, *, strong: bool) -> availability_pb.QueryAvailabilityResponse:
    return await client.availability.QueryAvailability(
        availability_pb.QueryAvailabilityRequest(
            entries=[availability_pb.AvailabilityQuery(sku=sku) for sku in SKUS],
            consistency=types_pb2.Consistency(strong=strong),
        ),
        timeout=TIMEOUT,
    )


async def until_seen(client: Client, ats: int) -> None:
    """Wait for the table, which hears of the shards' changes a moment later."""
    async with asyncio.timeout(TIMEOUT):
        while [entry.ats for entry in (await seen(client, strong=False)).entries] != [ats, ats]:
            await asyncio.sleep(0.005)


async def test_two_skus_of_one_style_are_stocked_read_and_held_in_one_shard(shop: Client) -> None:
    """Neither of them in the shard of its own hash; then their shard key stays what it is."""
    home = shard_of(STYLE, SHARDS)
    assert home not in {shard_of(sku, SHARDS) for sku in SKUS}
    report = supply_pb.SyncSupplyRequest(
        source="erp",
        source_sequence=1,
        rows=[supply_pb.SupplyRow(sku=sku, node_id=NODE, on_hand=5) for sku in SKUS],
    )
    synced = await shop.supply.SyncSupply(report, timeout=TIMEOUT)
    assert [row.outcome for row in synced.results] == [supply_pb.SUPPLY_OUTCOME_APPLIED] * 2
    await until_seen(shop, 5)
    request = pb.CreateReservationRequest(
        reservation_id="styled",
        owner_id="shopper",
        lines=[
            pb.ReservationRequestLine(line_id=sku, sku=sku, quantity=2, node_id=NODE)
            for sku in SKUS
        ],
        pickup_node_id=NODE,
        fulfillment_method=types_pb2.FULFILLMENT_METHOD_PICKUP_IN_STORE,
    )

    held = await shop.reservation.CreateReservation(request, timeout=TIMEOUT)

    assert held.outcome == pb.CREATE_RESERVATION_OUTCOME_HELD, held
    await until_seen(shop, 3)
    strong = (await seen(shop, strong=True)).entries
    assert [(entry.ats, entry.as_of.shard_id) for entry in strong] == [(3, home)] * 2
    away = next(key for key in "abcdefgh" if shard_of(key, SHARDS) != home)
    assert [await upsert(shop, SKUS[0], key) for key in (away, "", STYLE)] == [
        "SHARD_KEY_FIXED",
        "SHARD_KEY_FIXED",
        "UNCHANGED",
    ]
