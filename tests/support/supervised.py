"""`promise-svc serve --workers` on embedded engines, as a test looks at it from outside."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import psutil

from loadtest.host import free_port
from promise_svc.v1 import (
    admin_service_pb2,
    admin_service_pb2_grpc,
    availability_service_pb2,
    availability_service_pb2_grpc,
    network_service_pb2,
    network_service_pb2_grpc,
    reservation_service_pb2,
    reservation_service_pb2_grpc,
    supply_service_pb2,
    supply_service_pb2_grpc,
    types_pb2,
)

SKU = "sku-1"
UNITS = 1_000_000
HELD = reservation_service_pb2.CREATE_RESERVATION_OUTCOME_HELD
CONFIRMED = reservation_service_pb2.TRANSITION_OUTCOME_CONFIRMED
PLACE = types_pb2.Address(
    country="US",
    postal_code="60601",
    coordinates=types_pb2.Coordinates(latitude_degrees=41.88, longitude_degrees=-87.63),
)


class Supervised:
    """The process tree. Methods block unless they are coroutines."""

    def __init__(self, folder: Path, *, workers: int = 2, **settings: str) -> None:
        self.log_path = folder / "server.log"
        self.port = free_port()
        self.metrics_port = free_port()
        command = [sys.executable, "-m", "promise_svc", "serve", "--workers", str(workers)]
        environment = {
            **os.environ,
            "PROMISE_LISTEN": f"127.0.0.1:{self.port}",
            "PROMISE_METRICS_LISTEN": f"127.0.0.1:{self.metrics_port}",
            "PROMISE_DATA_DIR": str(folder / "data"),
            "PROMISE_SHARD_COUNT": "8",
            "PROMISE_LAME_DUCK_SECONDS": "0.2",
            "PROMISE_DRAIN_SECONDS": "5",
            **settings,
        }
        with self.log_path.open("ab") as log:
            self._read_from = log.tell()
            self.process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    def log(self) -> str:
        """What this start has logged so far."""
        return self.log_path.read_bytes()[self._read_from :].decode(errors="replace")

    async def logged(self, text: str, seconds: float = 60.0) -> None:
        """Return when the log has ``text``."""
        await until(lambda: text in self.log(), seconds, self.log)

    async def serving(self) -> None:
        """Return when the supervisor says that all of them are."""
        await until(
            lambda: "Ctrl-C to stop" in self.log() or self.process.poll() is not None,
            60,
            self.log,
        )
        assert self.process.poll() is None, self.log()

    def children(self) -> dict[str, int]:
        """Process ids of the supervisor's children by name: worker-1, worker-2, background."""
        found = {}
        for child in psutil.Process(self.process.pid).children():
            try:
                words = child.cmdline()
            except psutil.NoSuchProcess:
                continue  # it ends at this moment
            if "child" in words:
                role, number = words[words.index("child") + 1 :][:2]
                found[f"{role}-{number}" if role == "worker" else role] = child.pid
        return found

    def everybody(self) -> list[psutil.Process]:
        """The supervisor and all below it, engines included."""
        supervisor = psutil.Process(self.process.pid)
        return [supervisor, *supervisor.children(recursive=True)]

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics") as reply:
            text = reply.read().decode()
        total = 0.0
        for line in text.splitlines():
            match = re.fullmatch(rf"{name}(?:\{{(.*)\}})? (\S+)", line)
            if match and all(f'{k}="{v}"' in (match[1] or "") for k, v in labels.items()):
                total += float(match[2])
        return total

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def kill(self) -> None:
        """kill -9 the supervisor, if it runs."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(30)

    def peers(self, pid: int) -> set[int]:
        """The callers' ports of a process's connections."""
        connections = psutil.Process(pid).net_connections("tcp")
        return {c.raddr.port for c in connections if c.raddr and c.laddr.port == self.port}


class Caller:
    """One channel with a connection of its own. It tries nothing twice that a server has seen: only
    a call that waited to be sent as a connection's end was announced, as every channel does."""

    def __init__(self, target: str) -> None:
        self.channel = grpc.aio.insecure_channel(
            target,
            options=[
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.min_reconnect_backoff_ms", 100),
            ],
        )
        availability: Any = availability_service_pb2_grpc.AvailabilityServiceStub(self.channel)
        reservation: Any = reservation_service_pb2_grpc.ReservationServiceStub(self.channel)
        self._query = availability.QueryAvailability
        self._create = reservation.CreateReservation
        self._confirm = reservation.ConfirmReservation

    async def ats(self, timeout: float = 10.0) -> int:
        request = availability_service_pb2.QueryAvailabilityRequest(
            entries=[availability_service_pb2.AvailabilityQuery(sku=SKU)]
        )
        reply = await self._query(request, timeout=timeout)
        return int(reply.entries[0].ats)

    async def hold(self, reservation_id: str) -> int:
        """One unit; the outcome."""
        request = reservation_service_pb2.CreateReservationRequest(
            reservation_id=reservation_id,
            owner_id="shopper",
            address=PLACE,
            fulfillment_method=types_pb2.FULFILLMENT_METHOD_SHIP_TO_ADDRESS,
            lines=[
                reservation_service_pb2.ReservationRequestLine(line_id="1", sku=SKU, quantity=1)
            ],
        )
        return int((await self._create(request, timeout=10)).outcome)

    async def confirm(self, reservation_id: str, timeout: float = 20.0) -> int:
        """The outcome; by default the order store has it then."""
        request = reservation_service_pb2.ConfirmReservationRequest(reservation_id=reservation_id)
        return int((await self._confirm(request, timeout=timeout)).outcome)

    async def close(self) -> None:
        await self.channel.close()


@asynccontextmanager
async def callers(service: Supervised, count: int) -> AsyncIterator[list[Caller]]:
    """Channels that have made their connections, at least one to each worker."""
    async with asyncio.timeout(30):
        while True:
            found = [Caller(service.target) for _ in range(count)]
            await asyncio.gather(*(caller.ats() for caller in found))
            workers = [pid for name, pid in service.children().items() if name != "background"]
            if all(service.peers(pid) for pid in workers):
                break
            await asyncio.gather(*(caller.close() for caller in found))
    try:
        yield found
    finally:
        await asyncio.gather(*(caller.close() for caller in found))


async def stock(service: Supervised) -> None:
    """Returns when every worker sells it."""
    await load_stock(service.target)
    async with callers(service, 8) as found, asyncio.timeout(30):
        for number, caller in enumerate(found):
            while await caller.hold(f"first-{number}") != HELD:
                await asyncio.sleep(0.05)  # another worker's network comes a second later


async def load_stock(target: str) -> None:
    """A network of one node with many units of one SKU."""
    async with grpc.aio.insecure_channel(target) as channel:
        network: Any = network_service_pb2_grpc.NetworkServiceStub(channel)
        supply: Any = supply_service_pb2_grpc.SupplyServiceStub(channel)
        pb = network_service_pb2
        every_day = pb.Calendar(calendar_id="daily", working_days=range(1, 8))
        node = pb.Node(
            node_id="dc",
            node_type=pb.NODE_TYPE_DISTRIBUTION_CENTER,
            address=PLACE,
            time_zone="America/Chicago",
            calendar_id="daily",
            methods=[
                pb.NodeMethod(
                    fulfillment_method=types_pb2.FULFILLMENT_METHOD_SHIP_TO_ADDRESS,
                    cutoff_time=pb.TimeOfDay(hours=23, minutes=59),
                )
            ],
        )
        ground = pb.CarrierService(
            carrier_service="ground", calendar_id="daily", currency_code="USD",
            base_cost_micros=5_000_000,
        )  # fmt: skip
        lane = pb.Lane(
            node_id="dc", country="US", carrier_service="ground",
            transit_business_days_min=1, transit_business_days_max=3,
        )  # fmt: skip
        await network.UpsertCalendars(pb.UpsertCalendarsRequest(calendars=[every_day]), timeout=10)
        await network.UpsertNodes(pb.UpsertNodesRequest(nodes=[node]), timeout=10)
        await network.UpsertCarrierServices(
            pb.UpsertCarrierServicesRequest(carrier_services=[ground]), timeout=10
        )
        await network.UpsertLanes(pb.UpsertLanesRequest(lanes=[lane]), timeout=10)
        await network.UpsertItems(pb.UpsertItemsRequest(items=[pb.Item(sku=SKU)]), timeout=10)
        row = supply_service_pb2.SupplyRow(sku=SKU, node_id="dc", on_hand=UNITS)
        await supply.SyncSupply(
            supply_service_pb2.SyncSupplyRequest(source="erp", source_sequence=1, rows=[row]),
            timeout=10,
        )


async def audited(service: Supervised) -> Any:
    """What AdminService/Verify says."""
    async with grpc.aio.insecure_channel(service.target) as channel:
        admin: Any = admin_service_pb2_grpc.AdminServiceStub(channel)
        return await admin.Verify(admin_service_pb2.VerifyRequest(), timeout=60)


async def until(
    condition: Callable[[], bool], seconds: float, tell: Callable[[], object] = lambda: ""
) -> None:
    """Return when another process has made ``condition`` true; AssertionError after a time."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, tell()
        await asyncio.sleep(0.02)
