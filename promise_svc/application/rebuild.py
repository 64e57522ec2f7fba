"""Order store -> a shard of the index, under a new epoch.

A shard that was lost rebuilds itself at the next call, by takeover. This is for one that is there
and wrong: what it has is thrown away first.
"""

from __future__ import annotations

from typing import NamedTuple

from promise_svc.application.ports import AtsIndex, OrderStore
from promise_svc.application.takeover import Takeover
from promise_svc.domain.sharding import Position
from promise_svc.errors import PreconditionFailed

_TIMEOUT = 10.0

ATTEMPTS_MAX = 5
"""A shard that is written to while it is thrown away is tried again; a busy one never holds still.
"""


class Rebuilt(NamedTuple):
    """What became of one shard."""

    shard: int
    before: Position
    """Where it stood."""
    lost_event_count: int
    """Events of its last epoch that the order store never had; 0 unless they were given up."""
    after: Position
    """Where it serves now."""


class Rebuild:
    """The use case of the command. Its servers may run: they meet a new epoch, as after a loss."""

    def __init__(self, index: AtsIndex, store: OrderStore, takeover: Takeover) -> None:
        self._index = index
        self._store = store
        self._takeover = takeover

    async def run(self, shard: int, *, lose_unrecorded: bool = False) -> Rebuilt:
        """Throw the shard away and take it over from the order store.

        PreconditionFailed, and nothing is done, when it has events that the order store has not
        (unless ``lose_unrecorded``), or when it never holds still. Idempotency answers of
        adjustments and resolved reservations outside the window are not brought back. Cost: all
        events of the shard are read and applied.
        """
        for _ in range(ATTEMPTS_MAX):
            at = (await self._index.read_meta(shard, _TIMEOUT)).at
            cursor = await self._store.cursor(shard)
            ahead = _ahead(at, cursor)
            if ahead and not lose_unrecorded:
                raise PreconditionFailed(
                    f"shard {shard} stands at {tuple(at)}, the order store at {tuple(cursor)}: "
                    "wait for the relay, or give up what it has not carried",
                    shard=shard,
                )
            if await self._index.clear(shard, at, _TIMEOUT):
                await self._takeover.run(shard)
                after = (await self._index.read_meta(shard, _TIMEOUT)).at
                return Rebuilt(shard, at, ahead, after)
        raise PreconditionFailed(
            f"shard {shard} was written to each time: keep callers away and try again", shard=shard
        )


def _ahead(at: Position, cursor: Position) -> int:
    if at <= cursor:
        return 0
    return at.sequence - (cursor.sequence if cursor.epoch == at.epoch else 0)
