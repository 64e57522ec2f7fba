"""Embedded engines that are killed under the server come back by themselves."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import pytest

from promise_svc.v1 import network_service_pb2 as network_pb
from promise_svc.v1 import reservation_service_pb2 as pb
from promise_svc.v1 import supply_service_pb2 as supply_pb
from promise_svc.v1 import types_pb2
from tests.e2e.conftest import ROOT, Client
from tests.e2e.test_shopper import a_node

SECONDS_MAX = 60


@pytest.fixture
async def alone(tmp_path: Path) -> AsyncIterator[tuple[Client, Path]]:
    """A served process with engines of its own, and their folder."""
    script = str(Path(__file__).with_name("served_alone.py"))
    with (tmp_path / "stderr.log").open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, script, str(tmp_path / "data")],
            cwd=ROOT,
            env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        assert process.stdout is not None
        port = await asyncio.to_thread(process.stdout.readline)
        assert port, (tmp_path / "stderr.log").read_text()[-4000:]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{int(port)}") as channel:
            yield Client(channel), tmp_path / "data"
        process.terminate()
        assert await asyncio.to_thread(process.wait, 60) == 0
        process.stdout.close()


@pytest.mark.parametrize("engine", ["valkey/node-0", "postgres"])
async def test_a_killed_engine_comes_back_and_sells_again(
    alone: tuple[Client, Path], engine: str
) -> None:
    """Nobody does anything: holds and recorded confirms succeed again, and old ones stand."""
    client, folder = alone
    await stock(client)
    before = await sell(client)
    pid = int((folder / engine / "pid").read_text())

    os.kill(pid, signal.SIGKILL)
    after = await sell(client)
    still = await client.reservation.GetReservation(
        pb.GetReservationRequest(reservation_id=before), timeout=10
    )

    assert after != before
    assert still.reservation.state == pb.Reservation.STATE_CONFIRMED


async def stock(client: Client) -> None:
    """A node, an item and plenty of it."""
    daily = network_pb.Calendar(calendar_id="daily", working_days=list(range(1, 8)))
    await client.network.UpsertCalendars(
        network_pb.UpsertCalendarsRequest(calendars=[daily]), timeout=10
    )
    nodes = [a_node("n1", network_pb.NODE_TYPE_STORE, types_pb2.FULFILLMENT_METHOD_SHIP_TO_ADDRESS)]
    await client.network.UpsertNodes(network_pb.UpsertNodesRequest(nodes=nodes), timeout=10)
    items = network_pb.UpsertItemsRequest(items=[network_pb.Item(sku="A")])
    await client.network.UpsertItems(items, timeout=10)
    rows = [supply_pb.SupplyRow(sku="A", node_id="n1", on_hand=1_000)]
    report = supply_pb.SyncSupplyRequest(source="erp", source_sequence=1, rows=rows)
    reply = await client.supply.SyncSupply(report, timeout=10)
    assert reply.results[0].outcome == supply_pb.SUPPLY_OUTCOME_APPLIED


async def sell(client: Client) -> str:
    """Hold and confirm, recorded, tried again while an engine is away; the reservation's id."""
    deadline = time.monotonic() + SECONDS_MAX
    while True:
        rid = secrets.token_hex(8)
        try:
            hold = pb.CreateReservationRequest(
                reservation_id=rid,
                owner_id="shopper",
                lines=[pb.ReservationRequestLine(line_id="l", sku="A", quantity=1, node_id="n1")],
                fulfillment_method=types_pb2.FULFILLMENT_METHOD_SHIP_TO_ADDRESS,
            )
            held = await client.reservation.CreateReservation(hold, timeout=5)
            confirm = pb.ConfirmReservationRequest(reservation_id=rid)
            sold = await client.reservation.ConfirmReservation(confirm, timeout=5)
            assert (held.outcome, sold.outcome) == (1, 1)
            return rid
        except grpc.aio.AioRpcError:
            assert time.monotonic() < deadline, "it did not come back"
            await asyncio.sleep(0.2)
