"""A million SKUs beside ten thousand, and a lost index rebuilt; on the small service."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from loadtest.bench.context import Bench, Driven
from loadtest.bench.row import Row, row
from loadtest.bodies import QUERY, Session, Step
from loadtest.catalog import Catalog, sku_name
from loadtest.channel import open_blocking_channel
from loadtest.driver.process import Load
from promise_svc.v1 import availability_service_pb2 as availability_pb
from promise_svc.v1 import availability_service_pb2_grpc as availability_grpc

FILLED = (sys.executable, "-m", "loadtest.bench.filled", "serve")
FILTER_SKUS = 1_000
BODIES = 200
"""Distinct calls; with their SKUs 200,000 random ones."""


def rebuild(bench: Bench) -> Iterator[Row]:
    """The index is emptied; a start fills it from the order store."""
    host = bench.small
    host.stop_server()
    host.lose_shards()
    passed = host.serve()
    seconds = float(host.serving.get("seconds", passed))
    bench.quiet(host)
    cells = bench.small_catalog.cell_count
    yield row(
        "rebuild_positions_s",
        cells / seconds,
        "positions/s",
        ">= 100,000",
        f"{cells:,} positions, every key of the index lost, {seconds:.2f} s by the server's log "
        f"from its connections to SERVING, so the load of its table is in it too; "
        f"{passed:.2f} s with the interpreter's start",
    )


def sku_growth(bench: Bench) -> Iterator[Row]:
    """1,000 SKUs at ten nodes a call: of those loaded, then of a million."""
    host, catalog = bench.small, bench.small_catalog
    few, many = len(catalog.skus), (100_000 if bench.short else 1_000_000)
    before = _filter(bench, catalog, few)
    host.stop_server()
    began = time.monotonic()
    host.serve(
        FILLED,
        LOADTEST_FILL_FIRST=str(few),
        LOADTEST_FILL_SKUS=str(many - few),
        LOADTEST_FILL_NODES=",".join(catalog.nodes_of(catalog.skus[0])),
    )
    filled = time.monotonic() - began
    after = _filter(bench, catalog, many)
    host.stop_server()
    host.serve()
    how = (
        f"QueryAvailability, {FILTER_SKUS:,} random SKUs x 10 named nodes, view TOTAL, {BODIES} "
        f"distinct bodies"
    )
    yield row(
        "pickup_filter_cpu_us",
        after.front_us,
        "us",
        "<= 100",
        f"{how}, {many:,} SKUs, of which all but {few:,} were put straight into the table before "
        f"SERVING ({filled:.0f} s); {after.how}",
    )
    yield row(
        "availability_growth_skus",
        after.front_us / before.front_us,
        "ratio (low)",
        "<= 1.5",
        f"{how}: {many:,} SKUs over {few:,}, {after.front_us:,.0f} us over {before.front_us:,.0f} "
        f"us; {before.how}",
    )


def _filter(bench: Bench, catalog: Catalog, sku_count: int) -> Driven:
    _demand_stock(bench.small.target, sku_name(sku_count - 1))
    path: Path = bench.bodies(f"filter-{sku_count}", _filters(catalog, sku_count))
    bench.drive(path, Load(connections=2, streams=2, seconds=0.5), bench.small)
    return bench.drive(path, Load(connections=2, streams=2, seconds=bench.seconds), bench.small)


def _demand_stock(target: str, sku: str) -> None:
    """Raises ValueError where the last SKU has nothing: then it is refusals that are measured."""
    query = availability_pb.QueryAvailabilityRequest(
        entries=[availability_pb.AvailabilityQuery(sku=sku)]
    )
    with open_blocking_channel(target) as channel:
        stub: Any = availability_grpc.AvailabilityServiceStub(channel)
        if not stub.QueryAvailability(query, timeout=5).entries[0].ats:
            raise ValueError(f"{sku} has no stock")


def _filters(catalog: Catalog, sku_count: int) -> Iterator[Session]:
    rng = random.Random(3)
    nodes = availability_pb.NodeList(node_ids=catalog.nodes_of(catalog.skus[0]))
    for _ in range(BODIES):
        request = availability_pb.QueryAvailabilityRequest(
            entries=[
                availability_pb.AvailabilityQuery(sku=sku_name(number), nodes=nodes)
                for number in rng.sample(range(sku_count), FILTER_SKUS)
            ],
        )
        yield (Step(QUERY, request.SerializeToString()),)
