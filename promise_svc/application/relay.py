"""Carry each shard's outbox to the order store, effectively once.

Every step may be the last one of this process. Nothing but the order store's cursor says what was
carried: the append compares and sets it, and marking the durable position is repeated until it
succeeded once. Two relays on one shard cost work, never a duplicate.

Events come with the shard's news, so the outbox is read only where news left something out. What
was carried is told to all processes at once, in one message a commit; each shard's own mark, which
trims its outbox and outlives the message, follows now and then.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple, Protocol

from promise_svc.application.fork import refuse_fork
from promise_svc.application.ports import AtsIndex, OrderStore, ShardEvents, ShardMeta, ShardNews
from promise_svc.domain.events import StoredEvent
from promise_svc.domain.sharding import START, Position
from promise_svc.errors import (
    InvariantBroken,
    PreconditionFailed,
    PromiseServiceError,
    SequenceGap,
    Unavailable,
)

BATCH_EVENTS_MAX = 500
"""Events of one append: about 30 ms of PostgreSQL, which another shard's confirm can bear."""

CARRIED_EVENTS_MAX = 1_000
"""Events of one append of many shards; those of the rest wait for the next."""

ROUNDS_MAX = 20
"""Appends of one drain; a busy shard then lets the others have their turn."""

ASK_SECONDS = 5.0
"""How long a cursor that nothing moves is believed: a restored backup moves it back in silence."""

MARK_SECONDS = 0.5
"""Between two marks. Each is a step of its shard, and nobody waits for it: those of all shards go
together, for a node syncs its file once for what it hears at once, and others wait meanwhile."""

NEWS_SECONDS = 1.0
"""How long news are believed. Shorter than any failover: what a shard said before one it may have
lost, and its outbox must be asked."""

NEWS_EVENTS_MAX = 2_000
"""Events a shard may keep waiting here; beyond them the outbox is read."""


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


class _Heard:
    """What a shard's news said lately: its position, and the events up to it."""

    __slots__ = ("at", "events", "when")

    def __init__(self) -> None:
        self.at = START
        self.events: deque[StoredEvent] = deque()
        self.when = 0.0
        """Loop time of the oldest news that ``events`` are from, or of the last without any."""


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
        self._marked_when: dict[int, float] = {}
        self._unmarked: dict[int, Position] = {}
        """Carried since marks were made last."""
        self._marks_when = -MARK_SECONDS
        self._asked: dict[int, float] = {}
        self._heard = [_Heard() for _ in range(index.shard_count)]
        self._untold: dict[int, Position] = {}

    def hear(self, news: ShardNews) -> bool:
        """Keep what a shard has just said, for the next drain; whether there is one to be made.
        Cheap, and may be left out."""
        heard, events = self._heard[news.shard], news.events
        if events and heard.events and not _follows(heard.events[-1].at, events[0].at):
            heard.events.clear()
        if len(heard.events) > NEWS_EVENTS_MAX:
            heard.events.clear()
        if not heard.events:
            heard.when = asyncio.get_running_loop().time()
        heard.events.extend(events)
        heard.at = news.at
        return bool(events) or news.at > self._cursors.get(news.shard, news.at)

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

    async def carry(self, shards: Iterable[int]) -> list[int]:
        """What the news of these shards brought, in one append and without a task a shard: nearly
        all that is ever carried. Returns the shards that must be drained: those of which more than
        news is needed, and those whose append did not simply succeed, whatever the reason."""
        batches, rest, room = list[ShardEvents](), list[int](), CARRIED_EVENTS_MAX
        for shard in shards:
            cursor, most = self._cursors.get(shard), min(room, self._batch_events_max)
            events = self._told(shard, cursor, most) if cursor is not None and most else None
            if events and cursor is not None:
                batches.append(ShardEvents(shard, cursor, events))
                room -= len(events)
            if events is None or self._heard[shard].events:
                rest.append(shard)
        if not batches:
            return rest
        moved: dict[int, Position] = {}
        try:
            for batch, error in zip(batches, await self._store.append_all(batches), strict=True):
                if error is None:
                    last = batch.events[-1]
                    self._cursors[batch.shard] = moved[batch.shard] = last.at
                    self._observer.carried(batch.shard, len(batch.events), last.event.time_ms)
                elif isinstance(error, PreconditionFailed):
                    self._observer.fenced(batch.shard)
        except PromiseServiceError:
            pass
        finally:
            # The append may have happened: the next drain asks the order store where it stands.
            unknown = [batch.shard for batch in batches if batch.shard not in moved]
            for shard in unknown:
                self._cursors.pop(shard, None)
        if moved:
            await self._tell_and_mark(moved)
        return rest + [shard for shard in unknown if shard not in rest]

    async def _tell_and_mark(self, moved: dict[int, Position]) -> None:
        # A mark that fails is made again; and the message is said again by the marks.
        tell = self._index.tell_durable(moved, self._timeout)
        self._unmarked.update(moved)
        marks, now = [], asyncio.get_running_loop().time()
        if now - self._marks_when >= MARK_SECONDS:
            marks = [self._mark(shard, cursor) for shard, cursor in self._unmarked.items()]
            self._marks_when, self._unmarked = now, {}
        for done in await asyncio.gather(tell, *marks, return_exceptions=True):
            if isinstance(done, BaseException) and not isinstance(done, PromiseServiceError):
                raise done

    async def _drain(self, shard: int) -> Drained:
        cursor = self._cursors.get(shard)
        if cursor is None:
            cursor = await self._start(shard)
        carried, more = 0, True
        for _ in range(ROUNDS_MAX):
            events = await self._read(shard, cursor)
            if not events and await self._set_back(shard, cursor):
                cursor = await self._start(shard)
                continue
            ours = await self._append(shard, cursor, events) if events else 0
            carried += ours
            cursor = self._cursors[shard]
            # The outbox ended here when it was read; later events come with news of their own.
            more = bool(events) and not 0 < ours < self._batch_events_max
            if not more:
                break
        if self._due(shard):
            await self._mark(shard, cursor)
        return Drained(carried, cursor, more)

    async def _start(self, shard: int) -> Position:
        """Ask the order store where it stands, and the shard whether its outbox begins there."""
        cursor = await self._store.cursor(shard)
        meta = await self._index.read_meta(shard, self._timeout)
        if meta.at > cursor and not await self._index.read_outbox(shard, cursor, 1, self._timeout):
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

    async def _read(self, shard: int, cursor: Position) -> list[StoredEvent]:
        """Events after the cursor: from the news where they follow it, else from the outbox."""
        limit = self._batch_events_max
        events = self._told(shard, cursor, limit)
        if events is not None:
            return events
        self._heard[shard].events.clear()
        return await self._index.read_outbox(shard, cursor, limit, self._timeout)

    def _told(self, shard: int, cursor: Position, limit: int) -> list[StoredEvent] | None:
        """Events after the cursor that came as news; None where the outbox must be asked."""
        heard = self._heard[shard]
        if asyncio.get_running_loop().time() - heard.when >= NEWS_SECONDS:
            return None
        told = heard.events
        while told and told[0].at <= cursor:
            told.popleft()
        if told and _follows(cursor, told[0].at):
            return [told.popleft() for _ in range(min(limit, len(told)))]
        return [] if not told and heard.at == cursor else None

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
        await self._tell(shard, self._cursors[shard])
        self._observer.carried(shard, len(events), events[-1].event.time_ms)
        return len(events)

    async def _tell(self, shard: int, cursor: Position) -> None:
        """Say what the order store has; waiting confirms complete by it. Appends that were written
        together are told together, by whoever comes first."""
        self._untold[shard] = cursor
        if len(self._untold) > 1:
            return
        try:
            await asyncio.sleep(0)
        finally:
            told, self._untold = self._untold, {}
        with suppress(PromiseServiceError):  # the marks say it too, later
            await self._index.tell_durable(told, self._timeout)

    async def _mark(self, shard: int, cursor: Position) -> None:
        """Note in the shard, now and then, what the order store has."""
        if cursor in (START, self._marked.get(shard)):
            return
        now = asyncio.get_running_loop().time()
        await self._index.mark_durable(shard, cursor, self._timeout)
        self._marked[shard], self._marked_when[shard] = cursor, now

    def _due(self, shard: int) -> bool:
        """Whether its last mark is old enough for another."""
        now = asyncio.get_running_loop().time()
        return now - self._marked_when.get(shard, -MARK_SECONDS) >= MARK_SECONDS


def _follows(before: Position, at: Position) -> bool:
    """Within one epoch; the next one begins with a look at the outbox."""
    return at == (before.epoch, before.sequence + 1)
