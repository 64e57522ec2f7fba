"""The ATS table alone: look-ups of a batch beside a C loop, and bytes a cell."""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from loadtest.bench.context import Bench
from loadtest.bench.row import Row, row
from loadtest.driver.process import BUILD_FOLDER
from promise_svc import hotpath
from promise_svc.v1 import availability_service_pb2 as availability_pb

SHARDS = 64
NODES = 20
ANCHOR = Path(__file__).parents[1] / "anchors" / "lookup.c"
LOOKUPS = 2_000_000


def table(bench: Bench) -> Iterator[Row]:
    """In a process of its own: 10 M cells are memory that must not be counted elsewhere."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        try:
            ours = _measure(1_000_000 if bench.short else 10_000_000)
            os.write(write, " ".join(map(str, ours)).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as told:
        text = told.read()
    os.waitpid(child, 0)
    if not text:
        yield row("table_lookup_vs_c", None, "ratio (high)", ">= 0.5", "the measurement failed")
        return
    cells, ours_ns, size, seconds = map(float, text.split())
    anchor_ns = _c_loop(int(cells))
    yield row(
        "c_lookup_ns",
        anchor_ns,
        "ns",
        "",
        f"{ANCHOR.name}: {cells:,.0f} cells of 16 bytes, {LOOKUPS:,} random ones",
    )
    yield row(
        "table_lookup_vs_c",
        anchor_ns / ours_ns,
        "ratio (high)",
        ">= 0.5",
        f"CheckAvailability of 1,000 random SKUs at a random node, from the request's bytes to "
        f"the reply's without a front, {ours_ns:.0f} ns of CPU a SKU, {cells:,.0f} cells, "
        f"{NODES} nodes a SKU; C loop {anchor_ns:.1f} ns",
    )
    yield row(
        "table_bytes_per_cell",
        size / cells,
        "bytes",
        "<= 32",
        f"AtsTable.memory_size() at {cells:,.0f} cells; one process; filled at "
        f"{cells / seconds:,.0f} cells/s",
    )


def _measure(cells: int) -> tuple[int, float, int, float]:
    made = hotpath.ats_table(SHARDS, lambda values: values)
    skus = [f"sku-{number:07}" for number in range(cells // NODES)]
    nodes = [f"store-{number:04}" for number in range(NODES)]
    begun = time.process_time()
    by_shard: dict[int, list[str]] = {shard: [] for shard in range(SHARDS)}
    for sku in skus:
        by_shard[hotpath.shard_of(sku, SHARDS)].append(sku)
    counters = (1000, 3, 2, 2)
    for shard, mine in by_shard.items():
        images = ((sku, node, "", counters) for sku in mine for node in nodes)
        made.load(shard, 1, 1, 1, images)
    filled = time.process_time() - begun
    rng = random.Random(5)
    reads = hotpath.availability_reads(made, feed_behind_ms=1, protected=set())
    assert reads is not None, "the bench runs compiled"
    reads.follow(dict.fromkeys(nodes, True), {}, ())
    bodies = [
        availability_pb.CheckAvailabilityRequest(
            skus=rng.choices(skus, k=1000),
            nodes=availability_pb.NodeList(node_ids=[rng.choice(nodes)]),
        ).SerializeToString()
        for _ in range(LOOKUPS // 1000)
    ]
    begun = time.process_time()
    answered = sum(reads.check(body, 1) is not None for body in bodies)
    ns = (time.process_time() - begun) / LOOKUPS * 1e9
    assert answered == len(bodies)
    return made.cell_count(), ns, made.memory_size(), filled


def _c_loop(cells: int) -> float:
    binary = BUILD_FOLDER / "lookup"
    BUILD_FOLDER.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cc", "-O2", "-o", str(binary), str(ANCHOR)], check=True)
    told = subprocess.run(
        [str(binary), str(cells), str(LOOKUPS)], check=True, capture_output=True, text=True
    )
    return float(told.stdout.split()[0])
