"""A million SKUs beside ten thousand, and a lost index rebuilt; on the small service."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from loadtest.bench.context import Bench, Driven
from loadtest.bench.row import Row, row
from loadtest.bodies import CHECK, QUERY, Session, Step
from loadtest.catalog import Catalog, sku_name
from loadtest.channel import open_blocking_channel
from loadtest.driver.process import Load
from promise_svc.v1 import availability_service_pb2 as availability_pb
from promise_svc.v1 import availability_service_pb2_grpc as availability_grpc

FILLED = (sys.executable, "-m", "loadtest.bench.filled", "serve")
SKUS = 1_000
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
    before = _drive(bench, "query", _queries(catalog, few), sku_name(few - 1))
    host.stop_server()
    began = time.monotonic()
    host.serve(
        FILLED,
        LOADTEST_FILL_FIRST=str(few),
        LOADTEST_FILL_SKUS=str(many - few),
        LOADTEST_FILL_NODES=",".join(_nodes(catalog)),
    )
    filled = time.monotonic() - began
    after = _drive(bench, "query-filled", _queries(catalog, many), sku_name(many - 1))
    check = _drive(bench, "check-filled", _checks(catalog, many), sku_name(many - 1))
    host.stop_server()
    host.serve()
    shape = f"{SKUS:,} random SKUs x 10 named nodes, {BODIES} distinct bodies"
    source = f"all but {few:,} SKUs put straight into the table before SERVING ({filled:.0f} s)"
    yield row(
        "pickup_filter_cpu_us",
        check.front_us,
        "us",
        "<= 100",
        f"CheckAvailability, {shape}, {many:,} SKUs, {source}; the same asked of "
        f"QueryAvailability {after.front_us:,.0f} us; {check.how}",
    )
    yield row(
        "availability_growth_skus",
        after.front_us / before.front_us,
        "ratio (low)",
        "<= 1.5",
        f"QueryAvailability, view TOTAL, {shape}: {many:,} SKUs over {few:,}, "
        f"{after.front_us:,.0f} us over {before.front_us:,.0f} us; {source}; {after.how}",
    )


def _drive(bench: Bench, name: str, sessions: Iterator[Session], last_sku: str) -> Driven:
    """Two calls at a time; raises ValueError where the last SKU has no stock."""
    _demand_stock(bench.small.target, last_sku)
    path = bench.bodies(name, sessions)
    bench.drive(path, Load(connections=2, streams=2, seconds=0.5), bench.small)
    return bench.drive(path, Load(connections=2, streams=2, seconds=bench.seconds), bench.small)


def _demand_stock(target: str, sku: str) -> None:
    """Without any, refusals would be measured."""
    query = availability_pb.QueryAvailabilityRequest(
        entries=[availability_pb.AvailabilityQuery(sku=sku)]
    )
    with open_blocking_channel(target) as channel:
        stub: Any = availability_grpc.AvailabilityServiceStub(channel)
        if not stub.QueryAvailability(query, timeout=5).entries[0].ats:
            raise ValueError(f"{sku} has no stock")


def _queries(catalog: Catalog, sku_count: int) -> Iterator[Session]:
    nodes = availability_pb.NodeList(node_ids=_nodes(catalog))
    for skus in _drawn(sku_count):
        entries = [availability_pb.AvailabilityQuery(sku=sku, nodes=nodes) for sku in skus]
        request = availability_pb.QueryAvailabilityRequest(entries=entries)
        yield (Step(QUERY, request.SerializeToString()),)


def _checks(catalog: Catalog, sku_count: int) -> Iterator[Session]:
    nodes = availability_pb.NodeList(node_ids=_nodes(catalog))
    for skus in _drawn(sku_count):
        request = availability_pb.CheckAvailabilityRequest(skus=skus, nodes=nodes)
        yield (Step(CHECK, request.SerializeToString()),)


def _drawn(sku_count: int) -> Iterator[list[str]]:
    rng = random.Random(3)
    for _ in range(BODIES):
        yield [sku_name(number) for number in rng.sample(range(sku_count), SKUS)]


def _nodes(catalog: Catalog) -> Sequence[str]:
    return catalog.nodes_of(catalog.skus[0])
