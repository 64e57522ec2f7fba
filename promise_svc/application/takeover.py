"""The one path that makes a shard serve again: after a restart, a failover, a slot move, a loss.

Compare with the order store, replay what it has more, start the next epoch. A shard whose last
event differs from the order store's event of the same name has another history: that is a fork,
and it stays shut until somebody has looked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from promise_svc.application.ports import AtsIndex, OrderStore, ShardMeta
from promise_svc.domain.sharding import START, Position
from promise_svc.errors import Fork, PreconditionFailed

_TIMEOUT = 10.0
_CHUNK = 500


class Takeover:
    """Single flight per shard in this process; between processes the shard itself decides."""

    def __init__(
        self, index: AtsIndex, store: OrderStore, on_done: Callable[[int, Position], None]
    ) -> None:
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
            running.add_done_callback(lambda _: self._running.pop(shard, None))
        await asyncio.shield(running)

    async def _run(self, shard: int) -> None:
        meta = await self._index.read_meta(shard, _TIMEOUT)
        if meta.owner == meta.process:
            return
        at = meta.at
        cursor = await self._store.cursor(shard)
        await self._refuse_fork(shard, meta, cursor)
        while at < cursor:
            events = await self._store.read_events(shard, at, _CHUNK)
            if not events:
                break
            await self._index.restore(shard, events, _TIMEOUT)
            at = events[-1].at
        try:
            started = await self._index.take_over(shard, at, _TIMEOUT)
        except PreconditionFailed:
            # Another process was faster; if it has not finished, the next call tries again.
            return
        self._on_done(shard, started)

    async def _refuse_fork(self, shard: int, meta: ShardMeta, cursor: Position) -> None:
        """Compare the newest event that both may have."""
        common = min(meta.at, cursor)
        if common == START:
            return
        before = Position(common.epoch, common.sequence - 1)
        ours = await self._index.read_outbox(shard, before, 1, _TIMEOUT)
        theirs = await self._store.read_events(shard, before, 1)
        if not ours or not theirs or ours[0].at != theirs[0].at:
            # The shard keeps only a window of its outbox; then there is nothing to compare.
            return
        if ours[0].payload != theirs[0].payload:
            raise Fork(
                f"shard {shard}: the index and the order store have different events "
                f"{common.epoch}-{common.sequence}; neither is touched until somebody has looked",
                shard=shard,
            )
