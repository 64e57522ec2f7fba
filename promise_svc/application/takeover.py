"""The one path that makes a shard serve again: after a restart, a failover, a slot move, a loss.

Compare with the order store, replay what it has more, start the next epoch. A shard whose last
event differs from the order store's event of the same name has another history: that is a fork,
and it stays shut until somebody has looked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence

from promise_svc.application.fork import refuse_fork
from promise_svc.application.ports import AtsIndex, OrderStore
from promise_svc.domain.events import StoredEvent
from promise_svc.domain.sharding import Position
from promise_svc.errors import PreconditionFailed

_TIMEOUT = 10.0
_CHUNK = 500

RESTORED_BYTES_MAX = 131_072
"""Payload of one call that restores, unless one event has more: some 2,500 positions, which keep a
shard's process from its other shards for 15 ms."""


class Takeover:
    """Single flight per shard in this process; between processes the shard itself decides."""

    def __init__(
        self, index: AtsIndex, store: OrderStore, on_done: Callable[[int, Position, int], None]
    ) -> None:
        """``on_done`` hears of each shard that serves again: where it starts, and how many events
        it had lost and got back from the order store."""
        self._index = index
        self._store = store
        self._on_done = on_done
        self._running: dict[int, asyncio.Future[None]] = {}

    async def run(self, shard: int) -> None:
        """Make ``shard`` serve. Returns at once if it does already.

        Raises Unavailable without the order store: whether events are missing cannot be known.
        """
        running = self._running.get(shard)
        if running is None:
            running = asyncio.ensure_future(self._run(shard))
            self._running[shard] = running
            running.add_done_callback(lambda done: self._ended(shard, done))
        await asyncio.shield(running)

    def _ended(self, shard: int, done: asyncio.Future[None]) -> None:
        self._running.pop(shard, None)
        # Where every caller has given up meanwhile, nobody else reads the outcome.
        if not done.cancelled():
            done.exception()

    async def _run(self, shard: int) -> None:
        meta = await self._index.read_meta(shard, _TIMEOUT)
        if meta.owner == meta.process:
            return
        at, restored_count = meta.at, 0
        cursor = await self._store.cursor(shard)
        await refuse_fork(self._index, self._store, shard, min(meta.at, cursor), _TIMEOUT)
        try:
            while at < cursor:
                events = await self._store.read_events(shard, at, _CHUNK)
                if not events:
                    break
                for step in _steps(events):
                    await self._index.restore(shard, step, _TIMEOUT)
                    at = step[-1].at
                restored_count += len(events)
            started = await self._index.take_over(shard, at, _TIMEOUT)
        except PreconditionFailed:
            # Another process was faster; if it has not finished, the next call tries again.
            return
        # The floor is no event, so a rebuilt shard has none: stale plans must not slip through.
        version = await self._store.network_version()
        await self._index.raise_network_floor(shard, version, _TIMEOUT)
        self._on_done(shard, started, restored_count)


def _steps(events: Sequence[StoredEvent]) -> Iterator[list[StoredEvent]]:
    step: list[StoredEvent] = []
    size = 0
    for stored in events:
        size += len(stored.payload)
        if step and size > RESTORED_BYTES_MAX:
            yield step
            step, size = [], len(stored.payload)
        step.append(stored)
    yield step
