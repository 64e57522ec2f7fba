"""Reserves through the use case, without gRPC, in this process; prints held, us each, us/s at rest.

A relay must run beside it.

Usage: python -m loadtest.bench.core BODIES SECONDS ORDER_STORE_URL INDEX_URL...
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import uvloop

from loadtest.bodies import read_bodies
from promise_svc.application.reservation import Reservations
from promise_svc.application.reservation_body import CreateCommand
from promise_svc.bootstrap.collector import collect_seldom
from promise_svc.bootstrap.service import Service
from promise_svc.config import ClusterConfig, ProcessConfig
from promise_svc.rpc.convert.reservation import TtlLimits, create_from
from promise_svc.rpc.reservation import ReservationServicer
from promise_svc.v1 import reservation_service_pb2 as pb

CONCURRENCY = 64
REST_SECONDS = 2.0
TIMEOUT_SECONDS = 10.0


async def _main(bodies: str, seconds: str, store_url: str, *index_urls: str) -> None:
    process = ProcessConfig(index_urls=index_urls, order_store_url=store_url, background=False)
    now_ms, ttl = int(time.time() * 1000), TtlLimits(900_000, 14_400_000)
    commands = [
        create_from(pb.CreateReservationRequest.FromString(entry.message), now_ms, ttl)
        for (entry,) in read_bodies(Path(bodies))
    ]
    async with Service(ClusterConfig(), process) as service:
        await asyncio.sleep(1)
        collect_seldom()
        begun = time.process_time()
        await asyncio.sleep(REST_SECONDS)
        rest = (time.process_time() - begun) / REST_SECONDS
        cpu, wall = time.process_time(), time.monotonic()
        held = await _reserve(service, commands, wall + float(seconds))
        passed = time.monotonic() - wall
        burned = time.process_time() - cpu - rest * passed
    print(held, 1e6 * burned / max(1, held), round(1e6 * rest))


async def _reserve(service: Service, commands: list[CreateCommand], stop: float) -> int:
    use_case, left, held = _use_case(service), iter(commands), 0

    async def worker() -> None:
        nonlocal held
        while time.monotonic() < stop:
            command = next(left, None)
            if command is None:
                return
            result = await use_case.create(command, TIMEOUT_SECONDS)
            held += result.outcome.name == "HELD"

    await asyncio.gather(*(worker() for _ in range(CONCURRENCY)))
    return held


def _use_case(service: Service) -> Reservations:
    """The composition root keeps its use cases to itself; the servicer has it."""
    for servicer in service.servicers:
        if isinstance(servicer, ReservationServicer):
            return servicer._reservations
    raise LookupError("no ReservationServicer")


if __name__ == "__main__":
    uvloop.run(_main(*sys.argv[1:]))
