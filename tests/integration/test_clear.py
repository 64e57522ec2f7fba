"""Throwing a shard of the index away: all of it, or nothing."""

from __future__ import annotations

import asyncio

import redis

from promise_svc.adapters.ats_index.index import ClusterAtsIndex
from promise_svc.adapters.embedded import EmbeddedValkey
from promise_svc.domain.reservation import SupplyRow
from promise_svc.domain.sharding import START, Position
from tests.support.shards import TIMEOUT, running_index

SKUS = 500


def rows(first: int, on_hand: int, count: int = SKUS) -> list[SupplyRow]:
    return [SupplyRow(f"sku-{first + n}", "node", "", on_hand, 0, "", 0) for n in range(count)]


async def at(index: ClusterAtsIndex, shard: int) -> Position:
    return (await index.read_meta(shard, TIMEOUT)).at


async def test_a_shard_is_cleared_where_it_was_seen(
    empty_valkey: EmbeddedValkey, key_prefix: str
) -> None:
    """Every key of it goes, none of another shard; where it moved since, nothing does."""
    async with running_index(empty_valkey.urls, key_prefix, 2) as index:
        for shard in (0, 1):
            await index.sync_supply(shard, rows(0, 5), TIMEOUT)
        seen = await at(index, 0)
        await index.sync_supply(0, rows(0, 6), TIMEOUT)

        assert not await index.clear(0, seen, TIMEOUT)
        assert len((await index.scan(0))[0]) == SKUS

        assert await index.clear(0, await at(index, 0), TIMEOUT)
        assert await at(index, 0) == START
        with redis.Redis.from_url(empty_valkey.urls[0]) as engine:
            assert list(engine.scan_iter(f"{index.keys.bases[0]}*")) == []
        assert len((await index.scan(1))[0]) == SKUS


async def test_a_shard_that_is_written_to_is_cleared_whole_or_not(
    empty_valkey: EmbeddedValkey, key_prefix: str
) -> None:
    """Never a part: a position that a write left behind would have no event in the new history.
    One write, a little later each time, so that some come while the keys are looked for."""
    async with running_index(empty_valkey.urls, key_prefix, 1) as index:
        kept = 0
        for attempt in range(40):
            for part in range(4):
                await index.sync_supply(0, rows(part * SKUS, attempt + 1), TIMEOUT)

            async def write(delay: float = attempt * 0.0005) -> None:
                await asyncio.sleep(delay)
                await index.sync_supply(0, rows(10_000, 1, 1), TIMEOUT)

            cleared, _ = await asyncio.gather(index.clear(0, await at(index, 0), TIMEOUT), write())

            positions = len((await index.scan(0))[0])
            if cleared:  # the write began a new history: EPOCH_STARTED, then its own event
                assert (positions, (await at(index, 0)).sequence) in {(1, 2), (0, 0)}
            else:
                assert positions == 4 * SKUS + 1
                kept += 1
            await index.clear(0, await at(index, 0), TIMEOUT)

        assert kept > 0, "no write ever came between: the test showed nothing"
