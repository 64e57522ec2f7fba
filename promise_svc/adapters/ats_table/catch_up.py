"""Brings one shard of the ATS table level with its shard, by reading.

A *fill* applies the outbox after the table's position. A *resync* replaces the shard's rows: the
order store's positions at its cursor, then the outbox after it; where those cannot do it, a scan of
the shard and every event since it began. Readers see a resync only when it is complete.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import NamedTuple

from promise_svc.application.ports import AtsIndex, AtsSink, OrderStore
from promise_svc.domain.events import EventType, PositionImage, StoredEvent
from promise_svc.domain.sharding import Position
from promise_svc.errors import DeadlineExceeded, OutcomeUnknown, PromiseServiceError, Unavailable

STEP_IMAGES = 1000
"""Images written before the loop gets its turn: under half a millisecond."""

STEP_COPIED = 3000
"""Rows read as they were copied before the loop gets its turn: a third of a millisecond."""

OUTBOX_BATCH = 500
"""Events of one read."""

SCAN_PAUSE_SECONDS = 0.05
"""Shards are scanned one at a time with this pause: they have selling to do."""


class Point(NamedTuple):
    """How far a shard was followed; time 0 when it is not known."""

    at: Position
    time_ms: int


class OutboxLacks(Exception):
    """The outbox does not lead from where we stand to where the shard stands."""


class CatchUp:
    """Reads and writes; when to do so is the feed's decision, one call at a time per shard.

    Both ways raise what the ports raise. ``loaded(shard, point, source)`` follows each load.
    """

    def __init__(
        self,
        index: AtsIndex,
        store: OrderStore,
        table: AtsSink,
        loaded: Callable[[int, Point, str], None],
        *,
        timeout: float,
        pause: Callable[[float], Awaitable[None]],
    ) -> None:
        self._index = index
        self._store = store
        self._table = table
        self._loaded = loaded
        self._timeout = timeout
        self._pause = pause
        self._scans = asyncio.Semaphore(1)

    async def fill(self, shard: int, waiting: Position) -> Point:
        """Apply the outbox up to where the shard stands, at least to ``waiting``; OutboxLacks when
        it does not lead there."""

        def write(point: Point, images: list[PositionImage]) -> None:
            self._table.apply(shard, point.at, point.time_ms, images)

        at = self._table.at(shard)
        point = await self._replay(shard, at, write)
        if point.at < waiting:
            raise OutboxLacks
        self._table.apply(shard, point.at, point.time_ms, ())
        return point

    async def resync(self, shard: int, *, absent: bool) -> None:
        """``absent``: nothing of the shard was ever loaded, so an old copy is better than none."""
        try:
            try:
                at, rows = await self._store.copy_positions(shard)
            except (Unavailable, DeadlineExceeded, OutcomeUnknown):
                await self._scan(shard)
                return
            await self._stage_copied(shard, rows)
            try:
                point = await self._replay(shard, at, self._stager(shard))
            except OutboxLacks:
                self._table.unstage(shard)
                await self._scan(shard)
                return
            except PromiseServiceError:
                if absent:
                    self._load(shard, Point(at, 0), "order_store")
                raise
            self._load(shard, point, "order_store")
        finally:
            self._table.unstage(shard)

    async def _scan(self, shard: int) -> None:
        """Ask the shard itself. A scan is not atomic, but every event since it began is applied
        over it, and images are absolute: the end is exact."""
        async with self._scans:
            began = await self._index.read_meta(shard, self._timeout)
            positions, _, _ = await self._index.scan(shard)
            await self._stage(shard, [PositionImage(*key, row) for key, row in positions.items()])
            try:
                point = await self._replay(shard, began.at, self._stager(shard))
            except OutboxLacks as error:
                raise Unavailable("the outbox was trimmed during a scan", shard=shard) from error
            ended = await self._index.read_meta(shard, self._timeout)
            # A failover in between may have lost events whose rows the scan had already read.
            if (ended.process, ended.at.epoch) != (began.process, began.at.epoch):
                raise Unavailable("a takeover overtook the scan", shard=shard)
            self._load(shard, point, "index")
            await self._pause(SCAN_PAUSE_SECONDS)

    def _load(self, shard: int, point: Point, source: str) -> None:
        self._table.load(shard, point.at, point.time_ms, ())
        self._loaded(shard, point, source)

    async def _stage(self, shard: int, images: Sequence[PositionImage]) -> None:
        for begin in range(0, len(images), STEP_IMAGES):
            self._table.stage(shard, images[begin : begin + STEP_IMAGES])
            await asyncio.sleep(0)

    async def _stage_copied(self, shard: int, rows: bytes) -> None:
        offset = 0
        while True:
            offset = self._table.stage_copied(shard, rows, offset, STEP_COPIED)
            if not offset:
                return
            await asyncio.sleep(0)

    def _stager(self, shard: int) -> Callable[[Point, list[PositionImage]], None]:
        return lambda _, images: self._table.stage(shard, images)

    async def _replay(
        self, shard: int, at: Position, write: Callable[[Point, list[PositionImage]], None]
    ) -> Point:
        """Hand all events after ``at`` to ``write``, in steps; where the shard stood at the end.

        Raises OutboxLacks when the outbox does not lead from ``at`` to the shard's position.
        """
        meta = await self._index.read_meta(shard, self._timeout)
        time_ms = 0
        more = meta.at != at  # of what is written from now on there will be news
        while more:
            events = await self._index.read_outbox(shard, at, OUTBOX_BATCH, self._timeout)
            more = len(events) == OUTBOX_BATCH
            for step in _steps(events):
                if not continues(at, step):
                    raise OutboxLacks
                at, time_ms = step[-1].at, step[-1].event.time_ms
                write(Point(at, time_ms), images_of(step))
                await asyncio.sleep(0)
        if at < meta.at:
            raise OutboxLacks
        return Point(at, max(time_ms, meta.time_ms) if at == meta.at else time_ms)


def continues(at: Position, events: Sequence[StoredEvent]) -> bool:
    """Whether ``events`` follow ``at`` one by one, epochs by their named predecessor."""
    for stored in events:
        if not follows(at, stored):
            return False
        at = stored.at
    return True


def follows(at: Position, stored: StoredEvent) -> bool:
    """Whether ``stored`` is the next event after ``at``."""
    if stored.event.type == EventType.EPOCH_STARTED:
        return stored.event.previous == at
    return stored.at == (at.epoch, at.sequence + 1)


def images_of(events: Sequence[StoredEvent]) -> list[PositionImage]:
    return [image for stored in events for image in stored.event.positions]


def _steps(events: Sequence[StoredEvent]) -> Iterator[list[StoredEvent]]:
    """Cut at event borders into runs of about ``STEP_IMAGES`` images."""
    step: list[StoredEvent] = []
    size = 0
    for stored in events:
        step.append(stored)
        size += len(stored.event.positions) + 1
        if size >= STEP_IMAGES:
            yield step
            step, size = [], 0
    if step:
        yield step
