"""Finish or abort what a dead worker left, and expire what is due."""

from __future__ import annotations

from promise_svc.application.ports import AtsIndex
from promise_svc.application.several_shards import SeveralShards
from promise_svc.application.tasks import OwnedTasks

_TIMEOUT = 5.0
_BATCH = 100


class Resolver:
    """Reads a shard's open list; needs no order store. Safe beside any number of others."""

    def __init__(self, index: AtsIndex, tasks: OwnedTasks) -> None:
        self._index = index
        self._shards = SeveralShards(index, tasks)

    async def resolve(self, shard: int) -> int:
        """Bring overdue claims of one shard to their end; how many were."""
        finished = 0
        for rid, claim in await self._index.open_claims(shard, _BATCH, _TIMEOUT):
            finished += await self._shards.finish(rid, shard, claim)
        return finished


class Sweeper:
    """Gives back due holds, so that reads see them free; decisions never wait for it."""

    def __init__(self, index: AtsIndex) -> None:
        self._index = index

    async def sweep(self, shard: int) -> int:
        """Expire everything due in one shard, in chunks; how many legs were. Each chunk also tells
        the followers of the shard how far it is."""
        expired = 0
        while True:
            reply = await self._index.sweep(shard, _BATCH, _TIMEOUT)
            expired += reply.expired_legs
            if not reply.more:
                return expired
