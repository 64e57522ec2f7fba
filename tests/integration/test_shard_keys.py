"""Two SKUs of one style on a real Valkey: one shard, one step, and the table that follows it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from promise_svc.adapters.ats_index.index import ClusterAtsIndex
from promise_svc.adapters.ats_table.table import AtsTable
from promise_svc.adapters.embedded import EmbeddedValkey
from promise_svc.domain.inventory import PositionKey
from promise_svc.domain.network import Item
from promise_svc.domain.reservation import CreateOutcome, SupplyRow
from promise_svc.domain.sharding import START, shard_of
from tests.support.networks import a_node, a_snapshot
from tests.support.reservation_world import NODES, World, a_cart
from tests.support.shards import TIMEOUT, ShardClock, running_index, serve_all

SHARDS = 16
SKUS = ("shirt-red", "shirt-blue")
STYLE = "shirt"
HOME = shard_of(STYLE, SHARDS)
RID = next(rid for i in range(1000) if shard_of(rid := f"r-{i}", SHARDS) == HOME)
"""A reservation whose home is the style's shard, as our client makes them."""


@pytest.fixture
async def index(valkey: EmbeddedValkey, key_prefix: str) -> AsyncIterator[ClusterAtsIndex]:
    async with running_index(valkey.urls, key_prefix, SHARDS) as index:
        await serve_all(index)
        yield index


@pytest.fixture
async def world(index: ClusterAtsIndex, valkey: EmbeddedValkey) -> AsyncIterator[World]:
    """Five of each SKU at n1, in the style's shard."""
    clock = ShardClock(index, valkey.urls[0], HOME)
    world = World(index, lambda _: clock.now_ms, clock.now_ms)
    items = [Item(sku=sku, shard_key=STYLE) for sku in SKUS]
    world.network.now = a_snapshot(*map(a_node, NODES), *items)
    rows = [SupplyRow(sku, "n1", "", 5, 0, "", 0) for sku in SKUS]
    await index.sync_supply(HOME, rows, TIMEOUT)
    yield world
    clock.close()


async def test_two_skus_of_one_style_are_held_in_one_step(
    world: World, index: ClusterAtsIndex
) -> None:
    """One call to one shard, one leg with both lines, and the last unit of one refuses both."""
    assert HOME not in {shard_of(sku, SHARDS) for sku in SKUS}
    worker = world.worker()

    held = await worker.reservations.create(a_cart(RID, SKUS, 4), TIMEOUT)
    calls = list(worker.index.calls)
    refused = await world.worker().reservations.create(a_cart("other", SKUS, 2), TIMEOUT)

    assert held.outcome is CreateOutcome.HELD
    assert [call for call in calls if call[0] == "create"] == [("create", HOME)]
    assert {shard for _, shard in calls} == {HOME}
    assert refused.outcome is CreateOutcome.INSUFFICIENT_STOCK
    positions, legs, _ = await index.scan(HOME)
    assert {sku: positions[PositionKey(sku, "n1")].held for sku in SKUS} == dict.fromkeys(SKUS, 4)
    assert sorted(line.sku for line in legs[RID].lines) == sorted(SKUS)
    await world.check()


async def test_the_table_reads_a_style_from_its_shard(world: World, index: ClusterAtsIndex) -> None:
    """What the shard says of its SKUs loads and applies, and their age is that of the shard."""
    await world.worker().reservations.create(a_cart(RID, SKUS, 2), TIMEOUT)
    table = AtsTable(SHARDS)
    first, *later = await index.read_outbox(HOME, START, 100, TIMEOUT)
    table.load(HOME, first.at, first.event.time_ms, first.event.positions)
    for stored in later:
        table.apply(HOME, stored.at, stored.event.time_ms, stored.event.positions)

    assert [table.ats(sku) for sku in SKUS] == [3, 3]
    assert [table.shard(sku) for sku in SKUS] == [HOME, HOME]
    assert {table.as_of(sku)[0] for sku in SKUS} == {later[-1].at}
