"""Stock feeds, a cold start, and a shard killed under the service."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from loadtest.bench.context import Bench
from loadtest.bench.row import Row, row
from loadtest.bodies import CREATE
from loadtest.channel import open_blocking_channel, open_channel
from loadtest.driver.process import Load, drive
from loadtest.host import Cpu
from loadtest.loader import sync_rows
from loadtest.recorder import RunRecord
from promise_svc.v1 import supply_service_pb2 as supply_pb

FEED_ROWS = 40_000
RESERVE_RATE = 20.0
REST_SECONDS = 3.0


def supply(bench: Bench) -> Iterator[Row]:
    """Absolute rows that change every position, and what reserves feel meanwhile."""
    host = bench.host
    bench.quiet()
    rows = [_more(each) for each in islice(bench.catalog.rows(), FEED_ROWS)]
    load = Load(connections=2, streams=32, seconds=bench.seconds * 2, rate=RESERVE_RATE, once=True)

    def sales(name: str) -> list[Path]:
        count = int(RESERVE_RATE * load.seconds * 1.5) + 50
        return [bench.bodies(name, bench.workload("reserve").take(count))]

    calm = drive(host.target, sales("calm"), load)
    bench.quiet()

    async def feed() -> None:
        async with open_channel(host.target) as channel:
            await sync_rows(channel, rows, source_sequence=2)

    async def both() -> tuple[float, Cpu, RunRecord]:
        busy = asyncio.create_task(asyncio.to_thread(drive, host.target, sales("fed"), load))
        before, begun = host.cpu(), time.monotonic()
        await feed()
        # The reserves go on for some seconds; what they and the rest cost then is not the feed's.
        return time.monotonic() - begun, host.cpu().since(before), await busy

    passed, burned, fed = asyncio.run(both())
    p99 = calm.latency(CREATE).percentile_ms(99), fed.latency(CREATE).percentile_ms(99)
    growth = p99[1] / max(1e-9, p99[0])
    per_core = len(rows) / max(1e-9, burned.shards)
    yield row(
        "supply_rows_s",
        per_core,
        "rows/s",
        ">= 50,000, reserve p99 <= 2 x",
        f"{len(rows):,} changed rows in {passed:.1f} s ({len(rows) / passed:,.0f}/s by the "
        f"clock), 1,000 a call, 4 calls at once, per core-second of Valkey, these reserves and the "
        f"background meanwhile included; reserve p99 at "
        f"{RESERVE_RATE:.0f}/s {p99[0]:.1f} ms before, {p99[1]:.1f} ms meanwhile; server CPU "
        f"{1e6 * burned.front / len(rows):.0f} us a row; machine idle "
        f"{burned.idle_share:.0%}",
        meets=per_core >= 50_000 and growth <= 2,
    )
    yield row(
        "supply_load_rows_s",
        bench.load_rate,
        "rows/s",
        "",
        f"first load of {bench.catalog.cell_count:,} positions, by the clock",
    )


def rest(bench: Bench) -> Iterator[Row]:
    """What the service burns while nobody calls: heartbeats, sweeps, the feed."""
    bench.host  # noqa: B018 - starts it
    bench.quiet()
    before = bench.host.cpu()
    time.sleep(REST_SECONDS)
    burned = bench.host.cpu().since(before)
    how = (
        f"{REST_SECONDS:.0f} s without a call, 64 shards, {bench.catalog.cell_count:,} positions; "
        f"in every row whose load is small this is part of it"
    )
    for name in ("front", "shards", "store"):
        share = 1000 * getattr(burned, name) / burned.at
        yield row(f"rest_{name}_cpu_ms_s", share, "ms of CPU a second", "", how)


def cold_start(bench: Bench) -> Iterator[Row]:
    """From connecting to the order store until SERVING, after a stop in order."""
    host = bench.host
    bench.quiet()
    host.stop_server()
    passed = host.serve()
    seconds = float(host.serving.get("seconds", passed))
    cells = bench.catalog.cell_count
    yield row(
        "cold_start_cells_s",
        cells / seconds,
        "cells/s",
        ">= 600,000",
        f"{cells:,} positions in {seconds:.2f} s by the server's log (takeovers and "
        f"connections in it); {passed:.2f} s with the interpreter's start",
    )


def takeover(bench: Bench) -> Iterator[Row]:
    """kill -9 of the one Valkey process, started again at once, until a reservation is held."""
    host = bench.host
    bench.quiet()
    workload = bench.workload("reserve")
    begun = time.monotonic()
    host.kill_shards()
    host.restart_shards()
    back = time.monotonic() - begun
    with open_blocking_channel(host.target) as channel:
        create: Any = channel.unary_unary(CREATE)
        while time.monotonic() - begun < 60:
            step = workload.create(workload.cart(), workload.destination())
            try:
                if create(step.message, timeout=5)[:2] == b"\x08\x01":
                    break
            except grpc.RpcError:
                time.sleep(0.01)
    passed = time.monotonic() - begun
    yield row(
        "takeover_ms",
        passed * 1000,
        "ms",
        "<= 4,000",
        f"kill -9 to the first HELD; Valkey's own restart and its 2 s of waiting as a "
        f"primary are {back * 1000:,.0f} ms of it; all 64 shards; no replica",
    )


def _more(each: supply_pb.SupplyRow) -> supply_pb.SupplyRow:
    changed = supply_pb.SupplyRow()
    changed.CopyFrom(each)
    changed.on_hand += 1
    return changed
