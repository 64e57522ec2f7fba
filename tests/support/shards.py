"""Real shards for tests, with a clock the test owns.

A shard's time never falls, so a test that writes a time far ahead of the wall clock into the
shard's meta stops its clock there and moves it by writing again.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator

import redis

from promise_svc.adapters.ats_index.index import ClusterAtsIndex
from promise_svc.adapters.ats_index.topology import Topology, parse_urls
from promise_svc.domain.sharding import Position

WINDOW_MS = 3_600_000
TIMEOUT = 5.0


def new_index(
    urls: tuple[str, ...] | list[str],
    key_prefix: str,
    shard_count: int = 64,
    outbox_kept: int = 1_000,
) -> ClusterAtsIndex:
    """An index that is not started."""
    seeds, access = parse_urls(urls)
    return ClusterAtsIndex(
        Topology(seeds, access),
        access,
        key_prefix=key_prefix,
        shard_count=shard_count,
        window_ms=WINDOW_MS,
        outbox_kept=outbox_kept,
    )


@contextlib.asynccontextmanager
async def running_index(
    urls: tuple[str, ...] | list[str], key_prefix: str, shard_count: int = 64
) -> AsyncIterator[ClusterAtsIndex]:
    """A started index whose shards are taken over from nothing when they are first spoken to."""
    index = new_index(urls, key_prefix, shard_count)
    await index.start(fsync=True)

    async def recover(shard: int) -> None:
        meta = await index.read_meta(shard, TIMEOUT)
        if meta.owner != meta.process:
            await index.take_over(shard, meta.at, TIMEOUT)

    index.recover = recover
    try:
        yield index
    finally:
        index.close()


class ShardClock:
    """Stops the clocks of some shards (all, if none is named) a day ahead, and moves them."""

    def __init__(self, index: ClusterAtsIndex, url: str, *shards: int) -> None:
        self._keys = [index.keys.meta[shard] for shard in shards or range(index.shard_count)]
        self._client = redis.Redis.from_url(url)
        self.now_ms = int(time.time() * 1000) + 86_400_000
        self.advance(0)

    def advance(self, milliseconds: int) -> None:
        self.now_ms += milliseconds
        pipeline = self._client.pipeline(transaction=False)
        for key in self._keys:
            pipeline.hset(key, "time", str(self.now_ms))
        pipeline.execute()

    def ahead(self, shard: int, milliseconds: int) -> None:
        """Until the next advance, one shard's clock is so far ahead of the others'."""
        self._client.hset(self._keys[shard], "time", str(self.now_ms + milliseconds))

    def close(self) -> None:
        self._client.close()


async def serve_all(index: ClusterAtsIndex) -> list[Position]:
    """Take every shard over; where each stands then."""
    return [
        await index.take_over(shard, (await index.read_meta(shard, TIMEOUT)).at, TIMEOUT)
        for shard in range(index.shard_count)
    ]
