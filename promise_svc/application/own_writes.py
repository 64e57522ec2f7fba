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
        self._heard = asyncio.Event()

    def heard(self) -> None:
        """News came. Waiters look again at the next turn, when the feed has used it."""
        asyncio.get_running_loop().call_soon(self._heard.set)

    async def visible(self, shards: Iterable[int]) -> None:
        """Return when the table has what these shards have answered to this process so far."""
        behind = [shard for shard in shards if self._behind(shard)]
        if not behind:
            return
        deadline = asyncio.get_running_loop().time() + WAIT_SECONDS_MAX
        try:
            async with asyncio.timeout_at(deadline):
                while any(self._behind(shard) for shard in behind):
                    self._heard.clear()
                    await self._heard.wait()
        except TimeoutError:
            return

    def _behind(self, shard: int) -> bool:
        return self._table_at(shard) < self._index.seen(shard)
