"""Finish or abort what a dead worker left, and expire what is due."""

from __future__ import annotations

import asyncio
import contextlib
from typing import NamedTuple, Protocol

from promise_svc.application.ports import AtsIndex, OpenClaim
from promise_svc.application.several_shards import Orphans, SeveralShards
from promise_svc.application.tasks import OwnedTasks
from promise_svc.domain.reservation import State
from promise_svc.errors import InvariantBroken, PromiseServiceError, Unavailable
from promise_svc.hotpath import shard_of

_TIMEOUT = 5.0
_BATCH = 100
_AT_ONCE = 16

_BACK_OFF_SECONDS = (1.0, 60.0)
"""Between tries of a claim that cannot be finished: doubling from the first to the second."""

_PUT_OFF_MAX = 1_000
"""Claims of a shard that may be put off; beyond it they are tried every round."""


class ResolverObserver(Protocol):
    """Who counts."""

    def resolved(self, state: State) -> None:
        """A claim found in ``state`` was brought to its end."""
        ...

    def failed(self, shard: int, reservation_id: str, error: Exception) -> None:
        """A claim could not be brought to its end; it is tried again later."""
        ...


class _Silent:
    def resolved(self, state: State) -> None: ...
    def failed(self, shard: int, reservation_id: str, error: Exception) -> None: ...


class _PutOff(NamedTuple):
    until: float
    seconds: float


class Resolver:
    """Reads a shard's open list; needs no order store. Safe beside any number of others.

    A claim that cannot be finished, because a shard of it is away or it contradicts its legs, is
    told to the observer and left alone for a growing while: it keeps no other from its end.
    """

    def __init__(
        self, index: AtsIndex, tasks: OwnedTasks, observer: ResolverObserver | None = None
    ) -> None:
        self._index = index
        self._shards = SeveralShards(index, tasks)
        self._observer = observer or _Silent()
        self._put_off: dict[int, dict[str, _PutOff]] = {}

    async def resolve(self, shard: int) -> int:
        """Bring overdue claims of one shard to their end; how many were.

        Raises only when the open list itself cannot be read.
        """
        put_off = self._put_off.setdefault(shard, {})
        limit = _BATCH + len(put_off)
        claims = await self._index.open_claims(shard, limit, _TIMEOUT)
        open_now = {claim.reservation_id for claim in claims}
        for rid in [rid for rid in put_off if rid not in open_now]:
            del put_off[rid]  # another worker finished it
        now = asyncio.get_running_loop().time()
        due = [c for c in claims if c.reservation_id not in put_off
               or put_off[c.reservation_id].until <= now]  # fmt: skip
        slots = asyncio.Semaphore(_AT_ONCE)

        async def finish(claim: OpenClaim) -> bool:
            async with slots:
                return await self._finish(shard, claim)

        return sum(await asyncio.gather(*(finish(claim) for claim in due)))

    async def _finish(self, shard: int, open_claim: OpenClaim) -> bool:
        rid, claim = open_claim
        try:
            if not await self._shards.finish(rid, shard, claim):
                raise Unavailable("a shard of the reservation did not answer")
        except Exception as error:  # whatever it is, it concerns this claim alone
            self._leave_alone(shard, rid, error)
            self._observer.failed(shard, rid, error)
            return False
        self._put_off[shard].pop(rid, None)
        self._observer.resolved(State(claim.state))
        return True

    def _leave_alone(self, shard: int, rid: str, error: Exception) -> None:
        put_off = self._put_off[shard]
        first, longest = _BACK_OFF_SECONDS
        if isinstance(error, InvariantBroken):
            first = longest
        seconds = min(longest, put_off[rid].seconds * 2 if rid in put_off else first)
        if rid in put_off or len(put_off) < _PUT_OFF_MAX:
            put_off[rid] = _PutOff(asyncio.get_running_loop().time() + seconds, seconds)


class Sweeper:
    """Gives back due holds, so that reads see them free; decisions never wait for it. Asks home
    about legs that nobody has spoken for."""

    def __init__(self, index: AtsIndex) -> None:
        self._index = index
        self._orphans = Orphans(index)

    async def sweep(self, shard: int) -> int:
        """Expire everything due in one shard, in chunks; how many legs were. Each chunk also tells
        the followers of the shard how far it is."""
        expired = 0
        while True:
            reply = await self._index.sweep(shard, _BATCH, _TIMEOUT)
            expired += reply.expired_legs
            await asyncio.gather(*(self._ask(shard, rid) for rid in reply.doubtful))
            if not reply.more:
                return expired

    async def _ask(self, shard: int, rid: str) -> None:
        """What fails here the next round asks again."""
        home = shard_of(rid, self._index.shard_count)
        with contextlib.suppress(PromiseServiceError):
            await self._orphans.ask_home(rid, home, shard)
