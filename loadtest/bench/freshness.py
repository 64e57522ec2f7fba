"""How soon a change is seen, and what a sold-out SKU costs and takes to come back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc.aio

from loadtest.bench.context import BODIES_MIN, Bench
from loadtest.bench.row import Row, row
from loadtest.bodies import CREATE
from loadtest.channel import open_channel
from loadtest.driver.process import Load, drive
from loadtest.workload import Workload
from promise_svc.v1 import availability_service_pb2 as availability_pb
from promise_svc.v1 import availability_service_pb2_grpc as availability_grpc
from promise_svc.v1 import reservation_service_pb2 as reservation_pb
from promise_svc.v1 import supply_service_pb2 as supply_pb
from promise_svc.v1 import supply_service_pb2_grpc as supply_grpc

REST_SECONDS = 2.0


def change_visible(bench: Bench) -> Iterator[Row]:
    """From the acknowledgement of a change until a read shows it, while reads run."""
    path = bench.bodies("read-half", bench.workload("availability_read").take(BODIES_MIN))
    capacity = bench.drive(path, Load(connections=4, streams=16, seconds=1.5)).record.rate
    found, load = asyncio.run(_watch_changes(bench, path, capacity / 2))
    found.sort()
    yield row(
        "change_visible_p99_ms",
        found[int(0.99 * len(found))],
        "ms",
        "<= 10",
        f"{len(found)} AdjustSupply calls of one row, each followed by reads without pause "
        f"over grpc.aio, so one read's time is part of it; 1 worker; reads meanwhile: "
        f"{load.shape()}; median {found[len(found) // 2]:.2f} ms",
    )


async def _watch_changes(bench: Bench, path: Path, rate: float) -> tuple[list[float], Load]:
    load = Load(connections=4, streams=16, seconds=bench.seconds + 1, rate=rate)
    target, found = bench.host.target, []
    running = asyncio.create_task(asyncio.to_thread(drive, target, [path], load))
    async with open_channel(target) as channel:
        supply = supply_grpc.SupplyServiceStub(channel)
        reads = availability_grpc.AvailabilityServiceStub(channel)
        sku, node = bench.catalog.hot_skus[-1], bench.catalog.centers[0]
        query = availability_pb.QueryAvailabilityRequest(
            entries=[availability_pb.AvailabilityQuery(sku=sku)],
            view=availability_pb.AVAILABILITY_VIEW_TOTAL,
        )
        number = 0
        while not running.done():
            before = (await reads.QueryAvailability(query)).entries[0].ats
            number += 1
            await supply.AdjustSupply(
                supply_pb.AdjustSupplyRequest(
                    idempotency_key=f"seen-{time.time_ns()}",
                    reason="bench",
                    rows=[supply_pb.SupplyDelta(sku=sku, node_id=node, quantity_delta=-1)],
                )
            )
            begun = time.perf_counter()
            while (await reads.QueryAvailability(query)).entries[0].ats != before - 1:
                pass
            found.append((time.perf_counter() - begun) * 1000)
        await running
    return found, load


def sold_out(bench: Bench) -> Iterator[Row]:
    """What a refusal costs the index, and how soon a restock is sold."""
    host = bench.host
    bench.quiet()
    path = bench.bodies("sold-out", bench.workload("sold_out", named_nodes=False).take(BODIES_MIN))
    rest_before = _calls_at_rest(bench)
    before, begun = host.shard_calls(), time.monotonic()
    driven = bench.drive(path, Load(connections=4, streams=8, seconds=bench.seconds, once=True))
    calls, passed = host.shard_calls() - before, time.monotonic() - begun
    # The calmer of two rests is taken off, so that what is left is rather too much than too little.
    rest = min(rest_before, _calls_at_rest(bench))
    calls_made = max(0.0, calls - rest * passed)
    refused = driven.record.count(CREATE, 0, 60)
    yield row(
        "sold_out_index_calls",
        calls_made / max(1, refused),
        "calls",
        "<= 0.01",
        f"FCALLs by INFO commandstats less those of {rest:.0f}/s at rest, over "
        f"{refused:,} INSUFFICIENT_STOCK; {driven.how}",
    )
    restocked = sorted(asyncio.run(_restocks(bench)))
    expired = sorted(asyncio.run(_expiries(bench)))
    yield row(
        "sold_out_recovery_ms",
        max(restocked[-1], expired[-1]),
        "ms",
        "<= 20",
        f"until CreateReservation, asked without pause, is HELD: from the acknowledgement of a "
        f"restock (worst of {len(restocked)} {restocked[-1]:.1f}, median "
        f"{restocked[len(restocked) // 2]:.1f}), and from the expire_time of the last unit's hold "
        f"(worst of {len(expired)} {expired[-1]:.1f}, median {expired[len(expired) // 2]:.1f})",
    )


def _calls_at_rest(bench: Bench) -> float:
    """Function calls a second while nobody asks for anything."""
    before = bench.host.shard_calls()
    time.sleep(REST_SECONDS)
    return (bench.host.shard_calls() - before) / REST_SECONDS


async def _restocks(bench: Bench) -> list[float]:
    found = []
    asking = bench.workload("sold_out", named_nodes=False)
    async with open_channel(bench.host.target) as channel:
        for sku in bench.catalog.sold_out_skus[:20]:
            await _restock(bench, channel, sku)
            begun = time.time()
            found.append(1000 * (await _until_held(asking, channel, sku) - begun))
    return found


async def _expiries(bench: Bench) -> list[float]:
    found = []
    asking = bench.workload("sold_out", named_nodes=False)
    workload = bench.workload("sold_out", named_nodes=False, ttl_seconds=1.0)
    async with open_channel(bench.host.target) as channel:
        create: Any = channel.unary_unary(CREATE)
        for sku in bench.catalog.sold_out_skus[20:25]:
            await _restock(bench, channel, sku)
            await asyncio.sleep(0.5)
            step = workload.create([(sku, 1)], workload.destination())
            reply = reservation_pb.CreateReservationResponse.FromString(await create(step.message))
            due = reply.reservation.expire_time.ToNanoseconds() / 1e9
            await asyncio.sleep(max(0.0, due - time.time()))
            found.append(1000 * (await _until_held(asking, channel, sku) - due))
    return found


async def _restock(bench: Bench, channel: grpc.aio.Channel, sku: str) -> None:
    delta = supply_pb.SupplyDelta(sku=sku, node_id=bench.catalog.centers[0], quantity_delta=1)
    request = supply_pb.AdjustSupplyRequest(
        idempotency_key=f"restock-{time.time_ns()}", reason="bench", rows=[delta]
    )
    await supply_grpc.SupplyServiceStub(channel).AdjustSupply(request)


async def _until_held(asking: Workload, channel: grpc.aio.Channel, sku: str) -> float:
    """When a reservation of one unit was held; tries for 5 s."""
    create: Any = channel.unary_unary(CREATE)
    stop = time.time() + 5
    while time.time() < stop:
        step = asking.create([(sku, 1)], asking.destination())
        if (await create(step.message))[:2] == b"\x08\x01":
            break
    return time.time()
