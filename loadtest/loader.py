"""Loads a catalog into a server through its socket, as network edits and stock feeds would."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import grpc.aio

from loadtest.catalog import SHARD_COUNT, Catalog
from loadtest.channel import open_channel
from loadtest.scenario import load_scenario
from promise_svc.hotpath import shard_of
from promise_svc.v1 import network_service_pb2 as network_pb
from promise_svc.v1 import network_service_pb2_grpc as network_grpc
from promise_svc.v1 import supply_service_pb2 as supply_pb
from promise_svc.v1 import supply_service_pb2_grpc as supply_grpc

BATCH_MAX = 1_000
CONCURRENCY = 4
DEADLINE_SECONDS = 30.0

OnProgress = Callable[[int, int], None]


async def load_catalog(
    target: str, catalog: Catalog, on_progress: OnProgress = lambda _done, _total: None
) -> float:
    """Network, items, then every position; returns positions a second. Loading again is safe."""
    async with open_channel(target) as channel:
        await _load_network(network_grpc.NetworkServiceStub(channel), catalog)
        rows = sorted(catalog.rows(), key=lambda row: shard_of(row.sku, SHARD_COUNT))
        begun = time.monotonic()
        await sync_rows(channel, rows, source_sequence=1, on_progress=on_progress)
        return len(rows) / (time.monotonic() - begun)


async def sync_rows(
    channel: grpc.aio.Channel,
    rows: Sequence[supply_pb.SupplyRow],
    *,
    source_sequence: int,
    on_progress: OnProgress = lambda _done, _total: None,
) -> None:
    """Send absolute counts, CONCURRENCY calls at a time. Raises RuntimeError for a refused row."""
    stub = supply_grpc.SupplyServiceStub(channel)
    slots = asyncio.Semaphore(CONCURRENCY)
    done = 0

    async def send(page: Sequence[supply_pb.SupplyRow]) -> None:
        nonlocal done
        request = supply_pb.SyncSupplyRequest(
            source="loadtest", source_sequence=source_sequence, rows=page
        )
        async with slots:
            reply = await stub.SyncSupply(request, timeout=DEADLINE_SECONDS)
        refused = [r for r in reply.results if r.outcome > supply_pb.SUPPLY_OUTCOME_UNCHANGED]
        if refused:
            raise RuntimeError(f"{len(refused)} rows were refused, the first so: {refused[0]}")
        done += len(page)
        on_progress(done, len(rows))

    await asyncio.gather(*(send(page) for page in _pages(rows)))


async def _load_network(stub: Any, catalog: Catalog) -> None:
    pb, network = network_pb, catalog.network
    parts: tuple[tuple[Any, Any, str, Iterable[Any]], ...] = (
        (stub.UpsertCalendars, pb.UpsertCalendarsRequest, "calendars", network.calendars),
        (stub.UpsertNodes, pb.UpsertNodesRequest, "nodes", network.nodes),
        (stub.UpsertNodeGroups, pb.UpsertNodeGroupsRequest, "node_groups", network.node_groups),
        (stub.UpsertItems, pb.UpsertItemsRequest, "items", catalog.items()),
        (stub.UpsertCarrierServices, pb.UpsertCarrierServicesRequest, "carrier_services",
         network.carrier_services),
        (stub.UpsertLanes, pb.UpsertLanesRequest, "lanes", network.lanes),
    )  # fmt: skip
    for method, request, field, entries in parts:
        for page in _pages(entries):
            reply = await method(request(**{field: page}), timeout=DEADLINE_SECONDS)
            refused = [r for r in reply.results if r.outcome > pb.UPSERT_OUTCOME_UNCHANGED]
            if refused:
                raise RuntimeError(f"{field}: {len(refused)} were refused: {refused[0]}")


def _pages(entries: Iterable[Any]) -> Iterator[list[Any]]:
    left = iter(entries)
    while page := list(islice(left, BATCH_MAX)):
        yield page


def main(target: str, name: str) -> None:
    """Load the catalog of a scenario."""
    scenario = load_scenario(name)
    asyncio.run(load_catalog(target, Catalog(scenario.catalog, scenario.seed)))


if __name__ == "__main__":
    main(*sys.argv[1:])
