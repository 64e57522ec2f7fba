"""One real server a module, on the run's real engines, with a small network loaded over gRPC."""

from __future__ import annotations

import asyncio
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import grpc.aio
import pytest

from promise_svc.adapters.embedded import EmbeddedPostgres, EmbeddedValkey
from promise_svc.config import ClusterConfig
from promise_svc.v1 import (
    admin_service_pb2_grpc,
    availability_service_pb2_grpc,
    network_service_pb2_grpc,
    promise_service_pb2_grpc,
    reservation_service_pb2_grpc,
    supply_service_pb2_grpc,
)

ROOT = Path(__file__).parents[2]


@dataclass
class Served:
    """A server process."""

    process: subprocess.Popen[str]
    port: int
    order_store_url: str
    index_urls: tuple[str, ...]
    cluster: ClusterConfig

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


class Client:
    """A channel with every stub."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.availability = availability_service_pb2_grpc.AvailabilityServiceStub(channel)
        self.promise = promise_service_pb2_grpc.PromiseServiceStub(channel)
        self.reservation = reservation_service_pb2_grpc.ReservationServiceStub(channel)
        self.supply = supply_service_pb2_grpc.SupplyServiceStub(channel)
        self.network = network_service_pb2_grpc.NetworkServiceStub(channel)
        self.admin = admin_service_pb2_grpc.AdminServiceStub(channel)


@pytest.fixture(scope="module")
def served(
    valkey: EmbeddedValkey, postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    name = f"test_{secrets.token_hex(6)}"
    asyncio.run(_execute(postgres.dsn_of("postgres"), f'CREATE DATABASE "{name}"'))
    log = tmp_path_factory.mktemp("served") / "stderr.log"
    prefix = f"t{secrets.token_hex(4)}"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [
                sys.executable,
                str(Path(__file__).with_name("served.py")),
                postgres.dsn_of(name),
                prefix,
                *valkey.urls,
            ],
            cwd=ROOT,
            env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        assert process.stdout is not None
        port = process.stdout.readline()
        assert port, f"the server did not start:\n{log.read_text()[-4000:]}"
        cluster = ClusterConfig(shard_count=8, key_prefix=prefix)
        yield Served(process, int(port), postgres.dsn_of(name), tuple(valkey.urls), cluster)
        if process.poll() is None:
            process.terminate()
        process.wait(30)
        process.stdout.close()
    asyncio.run(_execute(postgres.dsn_of("postgres"), f'DROP DATABASE "{name}" WITH (FORCE)'))


@pytest.fixture
async def client(served: Served) -> AsyncIterator[Client]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{served.port}") as channel:
        yield Client(channel)


async def _execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
