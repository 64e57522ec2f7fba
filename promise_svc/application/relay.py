"""Carry each shard's outbox to the order store, effectively once.

Every step may be the last one of this process. Nothing but the order store's cursor says what was
carried: the outbox is read after it, the append compares and sets it, and marking the durable
position is repeated until it succeeded once. Two relays on one shard cost work, never a duplicate.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple, Protocol

from promise_svc.application.fork import refuse_fork
from promise_svc.application.ports import AtsIndex, OrderStore, ShardMeta
from promise_svc.domain.events import StoredEvent
from promise_svc.domain.sharding import START, Position
from promise_svc.errors import InvariantBroken, PreconditionFailed, SequenceGap, Unavailable

BATCH_EVENTS_MAX = 500
"""Events of one append: about 30 ms of PostgreSQL, which another shard's confirm can bear."""

ROUNDS_MAX = 20
"""Appends of one drain; a busy shard then lets the others have their turn."""

ASK_SECONDS = 5.0
"""How long a cursor that nothing moves is believed: a restored backup moves it back in silence."""


class RelayObserver(Protocol):
    """Who counts. Calls are made in line, so they must be quick and raise nothing."""

    def carried(self, shard: int, event_count: int, newest_ms: int) -> None:
        """``event_count`` events were stored; the newest is of shard time ``newest_ms``."""
        ...

    def fenced(self, shard: int) -> None:
        """Another relay had moved the cursor."""
        ...

    def alarmed(self, shard: int, error: InvariantBroken) -> None:
        """A gap or a fork: the shard's events cannot be carried until somebody looked."""
        ...


class Drained(NamedTuple):
    """What one drain did."""

    event_count: int
    at: Position
    more: bool
    """The bound of one drain was met; there may be more in the outbox."""


class Relay:
    """Drains shards. One task at a time may drain a given shard; any number different ones."""

    def __init__(
        self,
        index: AtsIndex,
        store: OrderStore,
        observer: RelayObserver,
        *,
        batch_events_max: int = BATCH_EVENTS_MAX,
        timeout: float = 5.0,
    ) -> None:
        self._index = index
        self._store = store
        self._observer = observer
        self._batch_events_max = batch_events_max
        self._timeout = timeout
        self._cursors: dict[int, Position] = {}
        self._marked: dict[int, Position] = {}
        self._asked: dict[int, float] = {}

    async def drain(self, shard: int) -> Drained:
        """Carry what the outbox has, up to ``ROUNDS_MAX`` batches, and mark it durable.

        Raises Unavailable, NotServing or OutcomeUnknown when it should be tried again later, and
        SequenceGap, Fork or InvariantBroken, after alarming the observer, when it should not.
        """
        try:
            return await self._drain(shard)
        except BaseException as error:
            # The append may have happened: the next drain asks the order store where it stands.
            self._cursors.pop(shard, None)
            if isinstance(error, InvariantBroken):
                self._observer.alarmed(shard, error)
            raise

    async def _drain(self, shard: int) -> Drained:
        cursor = self._cursors.get(shard)
        if cursor is None:
            cursor = await self._start(shard)
        carried = 0
        for _ in range(ROUNDS_MAX):
            events = await self._read(shard, cursor)
            if not events and await self._set_back(shard, cursor):
                cursor = await self._start(shard)
                continue
            if not events:
                await self._mark(shard, cursor)
                return Drained(carried, cursor, more=False)
            ours = await self._append(shard, cursor, events)
            carried += ours
            cursor = self._cursors[shard]
            await self._mark(shard, cursor)
            if 0 < ours < self._batch_events_max:
                # The outbox ended here when it was read; later events come with news of their own.
                return Drained(carried, cursor, more=False)
        return Drained(carried, cursor, more=True)

    async def _start(self, shard: int) -> Position:
        """Ask the order store where it stands, and the shard whether its outbox begins there."""
        cursor = await self._store.cursor(shard)
        meta = await self._index.read_meta(shard, self._timeout)
        if meta.at > cursor and not await self._read(shard, cursor, limit=1):
            await self._refuse_lost_outbox(shard, cursor, meta)
        common = min(meta.at, cursor)
        await refuse_fork(self._index, self._store, shard, common, self._timeout)
        self._cursors[shard] = cursor
        self._asked[shard] = asyncio.get_running_loop().time()
        return cursor

    async def _set_back(self, shard: int, cursor: Position) -> bool:
        """Whether the order store, asked now and then, stands elsewhere than at ``cursor``."""
        now = asyncio.get_running_loop().time()
        if now < self._asked[shard] + ASK_SECONDS:
            return False
        self._asked[shard] = now
        return await self._store.cursor(shard) != cursor

    async def _refuse_lost_outbox(self, shard: int, cursor: Position, meta: ShardMeta) -> None:
        # Another relay may have carried and trimmed it since we asked.
        if await self._store.cursor(shard) == cursor:
            raise SequenceGap(
                f"shard {shard} stands at {meta.at.epoch}-{meta.at.sequence}, the order store at "
                f"{cursor.epoch}-{cursor.sequence}, and the outbox holds nothing between",
                shard=shard,
            )
        raise Unavailable(f"another relay carries shard {shard}", shard=shard)

    async def _read(self, shard: int, cursor: Position, limit: int = 0) -> list[StoredEvent]:
        limit = limit or self._batch_events_max
        return await self._index.read_outbox(shard, cursor, limit, self._timeout)

    async def _append(self, shard: int, cursor: Position, events: list[StoredEvent]) -> int:
        """Move the cursor by the append, or to where another relay has moved it; returns how many
        events were ours."""
        try:
            self._cursors[shard] = await self._store.append(shard, cursor, events)
        except (PreconditionFailed, SequenceGap) as error:
            # A gap may only mean that our cursor is old and the outbox trimmed behind a newer one.
            newer = await self._store.cursor(shard)
            if newer == cursor and isinstance(error, SequenceGap):
                raise
            self._observer.fenced(shard)
            # Whoever moved it may have another history: begin as at the start.
            await self._start(shard)
            return 0
        self._observer.carried(shard, len(events), events[-1].event.time_ms)
        return len(events)

    async def _mark(self, shard: int, cursor: Position) -> None:
        """Tell the shard, once, what the order store has; waiting confirms complete by it."""
        if cursor in (START, self._marked.get(shard)):
            return
        await self._index.mark_durable(shard, cursor, self._timeout)
        self._marked[shard] = cursor
