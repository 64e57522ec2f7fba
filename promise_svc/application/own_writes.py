"""Whoever wrote through this process reads it here: the table is waited for, briefly.

The shards' news comes to the table at about the time the answer comes to the caller, and sometimes
a moment later. Other processes' tables are as fresh as their answers say.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from promise_svc.application.ports import AtsIndex
from promise_svc.domain.sharding import Position

WAIT_SECONDS_MAX = 0.025
"""Then the answer leaves all the same: it is true, only the table is late."""


class OwnWrites:
    """One a process. Cost where the table is level: a comparison a shard."""

    def __init__(self, index: AtsIndex, table_at: Callable[[int], Position]) -> None:
        self._index = index
        self._table_at = table_at
        self._waiting: dict[int, list[tuple[Position, asyncio.Future[None]]]] = {}

    def heard(self, shard: int) -> None:
        """News came. Who waits for them looks at the next turn, when the feed has used them."""
        if shard in self._waiting:
            asyncio.get_running_loop().call_soon(self._look, shard)

    async def visible(self, shards: Iterable[int]) -> None:
        """Return when the table has what these shards have answered to this process so far; what
        they answer meanwhile is not waited for."""
        loop = asyncio.get_running_loop()
        waits: list[asyncio.Future[None]] = []
        for shard in shards:
            seen = self._index.seen(shard)
            if self._table_at(shard) < seen:
                waits.append(loop.create_future())
                self._waiting.setdefault(shard, []).append((seen, waits[-1]))
        if not waits:
            return
        timer = loop.call_later(WAIT_SECONDS_MAX, _end, waits)
        try:
            for wait in waits:
                await wait
        finally:
            timer.cancel()
            _end(waits)

    def _look(self, shard: int) -> None:
        at, waiting = self._table_at(shard), self._waiting.pop(shard, [])
        _end(wait for seen, wait in waiting if seen <= at)
        if later := [entry for entry in waiting if not entry[1].done()]:
            self._waiting[shard] = later


def _end(waits: Iterable[asyncio.Future[None]]) -> None:
    for wait in waits:
        if not wait.done():
            wait.set_result(None)
