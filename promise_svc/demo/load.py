"""Tell the service the network and the stock, as a retailer's systems would."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from promise_svc.demo.client import Client, at_most
from promise_svc.demo.network import DemoNetwork
from promise_svc.demo.stock import DemoStock
from promise_svc.demo.story import Story
from promise_svc.errors import InvariantBroken
from promise_svc.hotpath import stable_hash
from promise_svc.v1 import network_service_pb2 as network_pb
from promise_svc.v1 import supply_service_pb2 as supply_pb

BATCH_MAX = 1_000
"""The contract's limit of entries a call."""

FEED_CONCURRENCY = 6
FEED_PARTS = 64
"""The default number of shards."""


async def load_network(
    client: Client, network: DemoNetwork, items: Sequence[network_pb.Item], story: Story
) -> None:
    """Upsert everything, in the order the contract asks for."""
    pb, stub = network_pb, client.network
    uploads: tuple[tuple[str, Callable[..., Any], Callable[..., Any], str, Sequence[Any]], ...] = (
        ("calendars", stub.UpsertCalendars, pb.UpsertCalendarsRequest, "calendars",
         network.calendars),
        ("nodes", stub.UpsertNodes, pb.UpsertNodesRequest, "nodes", network.nodes),
        ("node groups", stub.UpsertNodeGroups, pb.UpsertNodeGroupsRequest, "node_groups",
         network.node_groups),
        ("items", stub.UpsertItems, pb.UpsertItemsRequest, "items", items),
        ("carrier services", stub.UpsertCarrierServices, pb.UpsertCarrierServicesRequest,
         "carrier_services", network.carrier_services),
        ("lanes", stub.UpsertLanes, pb.UpsertLanesRequest, "lanes", network.lanes),
    )  # fmt: skip
    start = time.monotonic()
    with story.progress("network", sum(len(entries) for *_, entries in uploads)) as ticker:
        for name, method, request, field, entries in uploads:
            for page in _pages(entries):
                reply = await client.insist(method, request(**{field: page}))
                _refuse_refusals(name, reply.results, network_pb.UPSERT_OUTCOME_UNCHANGED)
                ticker.advance(len(page))
    counts = ", ".join(f"{len(entries):,} {name}" for name, *_, entries in uploads)
    story.step(f"network: {counts}", (time.monotonic() - start) * 1000)


async def load_stock(client: Client, stock: DemoStock, story: Story) -> None:
    """Send all counts as one report of one feed."""
    start = time.monotonic()
    with story.progress("stock", len(stock.rows)) as ticker:

        async def send(page: Sequence[supply_pb.SupplyRow]) -> None:
            request = supply_pb.SyncSupplyRequest(source="erp", source_sequence=1, rows=page)
            reply = await client.insist(client.supply.SyncSupply, request)
            _refuse_refusals("stock", reply.results, supply_pb.SUPPLY_OUTCOME_UNCHANGED)
            ticker.advance(len(page))

        # Any order is right; rows that are decided together travel together.
        rows = sorted(stock.rows, key=lambda row: stable_hash(row.sku) % FEED_PARTS)
        await at_most(FEED_CONCURRENCY, [partial(send, page) for page in _pages(rows)])
    seconds = time.monotonic() - start
    rate = len(rows) / seconds
    story.step(f"stock: {len(rows):,} positions, {rate:,.0f} a second", seconds * 1000)


def _refuse_refusals(name: str, results: Sequence[Any], last_good: int) -> None:
    refused = [result for result in results if result.outcome > last_good]
    if refused:
        raise InvariantBroken(f"{len(refused)} {name} were refused, the first so: {refused[0]}")


def _pages(entries: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for first in range(0, len(entries), BATCH_MAX):
        yield entries[first : first + BATCH_MAX]
