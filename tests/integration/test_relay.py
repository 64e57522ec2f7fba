"""From a shard's Function to a row: the relay between a real Valkey and a real PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import NamedTuple

import pytest

from promise_svc.adapters.ats_index.index import ClusterAtsIndex
from promise_svc.adapters.embedded import EmbeddedValkey
from promise_svc.adapters.order_store import PoolConfig, PostgresOrderStore
from promise_svc.application.relay import Relay
from promise_svc.domain.inventory import PositionKey
from promise_svc.domain.reservation import ClaimDraft, CreateStep, LegLine, SupplyRow
from promise_svc.domain.sharding import START, Position
from promise_svc.errors import SequenceGap
from promise_svc.workers.relay_loop import RelayLoop
from tests.support.copied import positions_of
from tests.support.fake_outbox import Observed
from tests.support.shards import TIMEOUT, new_index, running_index, serve_all

SHARDS = 4


class Engines(NamedTuple):
    """Both engines with every shard serving, and who counts."""

    index: ClusterAtsIndex
    store: PostgresOrderStore
    observed: Observed


@pytest.fixture
async def engines(valkey: EmbeddedValkey, database: str, key_prefix: str) -> AsyncIterator[Engines]:
    store = await PostgresOrderStore.open(PoolConfig(url=database))
    async with running_index(valkey.urls, key_prefix, SHARDS) as index:
        await serve_all(index)
        yield Engines(index, store, Observed())
    await store.close()


async def test_what_the_shards_hold_is_what_the_order_store_has(engines: Engines) -> None:
    """Positions, claims and bytes of every shard, and the durable mark back in the shard."""
    index, store, observed = engines
    for shard in range(SHARDS):
        await _supply(index, shard, count=20)
        await _reserve(index, shard, count=10)
    relay = Relay(index, store, observed, batch_events_max=7)

    for shard in range(SHARDS):
        await relay.drain(shard)

    for shard in range(SHARDS):
        positions, _, claims = await index.scan(shard)
        meta = await index.read_meta(shard, TIMEOUT)
        cursor, images = await positions_of(store, shard)
        assert cursor == meta.at == meta.durable
        assert {PositionKey(*image[:3]): image.row for image in images} == positions
        assert len(claims) == 10
        for reservation_id, claim in claims.items():
            stored = await store.reservation(reservation_id)
            assert stored is not None and (stored.claim, stored.home) == (claim, shard)
        assert await store.read_events(shard, START, 1000) == await index.read_outbox(
            shard, START, 1000, TIMEOUT
        )


async def test_a_takeover_is_carried_on(engines: Engines) -> None:
    """Events of two epochs in one drain."""
    index, store, observed = engines
    await _supply(index, 0, count=3)
    meta = await index.read_meta(0, TIMEOUT)
    await index._command(0, TIMEOUT, b"HSET", index.keys.meta[0], b"owner", b"a dead process")
    await index.take_over(0, meta.at, TIMEOUT)
    await _supply(index, 0, count=3, on_hand=7)

    drained = await Relay(index, store, observed).drain(0)

    assert drained.at.epoch == meta.at.epoch + 1
    assert drained.at == (await index.read_meta(0, TIMEOUT)).durable


async def test_an_outbox_that_lost_an_entry_stops_its_shard_only(
    engines: Engines, valkey: EmbeddedValkey
) -> None:
    """The loop alarms for one shard and carries the other."""
    index, store, observed = engines
    for shard in (0, 1):
        for on_hand in (1, 2, 3):
            await _supply(index, shard, count=5, on_hand=on_hand)
    lost = (await index.read_outbox(0, START, 10, TIMEOUT))[2].at
    await index._command(0, TIMEOUT, b"XDEL", index.keys.outbox[0], b"%d-%d" % lost)
    stop = asyncio.Event()
    relay_loop = RelayLoop(Relay(index, store, observed), SHARDS, observed)
    task = asyncio.create_task(relay_loop.run(stop))

    async with asyncio.timeout(30):
        while not (observed.stops and observed.carried_counts.get(1)):
            observed.seen.clear()
            await observed.seen.wait()
    stop.set()
    await task

    assert observed.stops == [(0, SequenceGap.reason)]
    assert await store.cursor(0) == START  # a batch with a gap is refused as a whole
    assert await store.cursor(1) == (await index.read_meta(1, TIMEOUT)).at


async def test_what_the_order_store_lacks_is_never_trimmed(
    valkey: EmbeddedValkey, key_prefix: str
) -> None:
    """Marked half-way and with no window kept: the first half may go, all of the second stays."""
    index = new_index(valkey.urls, key_prefix, SHARDS, outbox_kept=0)
    await index.start(fsync=True)
    await serve_all(index)
    await _supply(index, 0, count=400)
    end = await _reserve(index, 0, count=400)
    durable = Position(end.epoch, end.sequence // 2)

    await index.mark_durable(0, durable, TIMEOUT)

    kept = [stored.at for stored in await index.read_outbox(0, START, 1000, TIMEOUT)]
    lacking = [Position(end.epoch, n) for n in range(durable.sequence + 1, end.sequence + 1)]
    index.close()
    assert kept[-len(lacking) :] == lacking
    assert len(lacking) < len(kept) < end.sequence, "something was trimmed"


async def _supply(index: ClusterAtsIndex, shard: int, *, count: int, on_hand: int = 100) -> None:
    rows = [SupplyRow(f"sku{shard}-{i}", "node", "", on_hand, 0, "", 0) for i in range(count)]
    await index.sync_supply(shard, rows, TIMEOUT)


async def _reserve(index: ClusterAtsIndex, shard: int, *, count: int) -> Position:
    steps = [
        CreateStep(
            f"r{shard}-{i}", 1, "plan", 60_000, 0, 0,
            (LegLine(f"sku{shard}-{i}", "node", "", 1),),
            ClaimDraft("body", 0, (shard,), '{"owner_id": "o"}'),
        )
        for i in range(count)
    ]  # fmt: skip
    replies = await index.create(shard, steps, TIMEOUT)
    return Position(replies[-1].epoch, replies[-1].sequence)
