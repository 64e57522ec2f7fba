"""Keeps the ATS table following the shards.

Each shard is either *following*, when its news are applied as they come, or *catching up*, when
one task brings the table level and news wait in a bounded buffer:

    news continue the table       -> applied                          (following)
    news are old                  -> they only move the clock
    news leave something out      -> fill from the outbox             (catching up)
    the outbox cannot fill it     -> resync: positions of the order store at its cursor, then the
                                     outbox after it; the shard itself when those cannot do it
    a shard fell silent           -> fill: a lost channel shows no gap

The outbox is written in the step that publishes the news, so a fill that starts after a message
arrived reaches it; if even a resync does not, the message is of a history the shard has lost.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Protocol

from promise_svc.adapters.ats_table.catch_up import (
    CatchUp,
    OutboxLacks,
    Point,
    continues,
    follows,
    images_of,
)
from promise_svc.application.ports import AtsIndex, AtsSink, OrderStore, ShardChannels, ShardNews
from promise_svc.domain.sharding import START, Position
from promise_svc.errors import PromiseServiceError

WAITING_MAX = 1000
"""News a shard may keep waiting; beyond it the oldest go, and the outbox has them."""

BACK_OFF_SECONDS_MIN = 0.1
BACK_OFF_SECONDS_MAX = 5.0
"""Between tries of a shard that fails: doubling, with jitter."""

JITTER = 0.25


class FeedObserver(Protocol):
    """Who counts. Calls are made in line, so they must be quick and raise nothing."""

    def loaded(self, shard: int, source: str) -> None:
        """The shard's rows were replaced; ``source`` is ``order_store`` or ``index``."""
        ...

    def gap(self, shard: int) -> None:
        """Something was missing before a message."""
        ...

    def failed(self, shard: int, reason: str) -> None:
        """Catching up failed with this reason code and will be tried again."""
        ...

    def dropped(self, shard: int, news_count: int) -> None:
        """Messages were given up: the buffer was full, or the shard has lost their history."""
        ...


class _Follower:
    """What the feed knows of one shard."""

    __slots__ = ("heard", "loaded", "news", "resync", "task", "time_ms")

    def __init__(self) -> None:
        self.loaded = False
        self.resync = True
        self.heard = False
        self.time_ms = 0
        """Shard time up to which the table is known to be level."""
        self.news: deque[ShardNews] = deque()
        self.task: asyncio.Task[None] | None = None


class AtsFeed:
    """The one writer of an ATS table. All methods belong to the event loop's thread."""

    def __init__(
        self,
        index: AtsIndex,
        store: OrderStore,
        channels: ShardChannels,
        table: AtsSink,
        observer: FeedObserver,
        *,
        concurrency: int = 4,
        timeout: float = 5.0,
        jitter: random.Random | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._channels = channels
        self._table = table
        self._observer = observer
        self._random = jitter or random.Random()
        self._sleep = sleep
        self._followers = [_Follower() for _ in range(index.shard_count)]
        self._turns = asyncio.Semaphore(concurrency)
        self._reader = CatchUp(
            index, store, table, self._loaded, timeout=timeout, pause=self._pause
        )
        self._unsubscribe: Callable[[], None] | None = None
        self._closed = False
        self._missing = index.shard_count
        self.ready = asyncio.Event()
        """Set once every shard was loaded; stale from then on, but never absent."""

    def start(self) -> None:
        """Subscribe, then load all shards in the background."""
        self._unsubscribe = self._channels.subscribe(self._hear)
        for shard in range(len(self._followers)):
            self._catch_up(shard)

    async def close(self) -> None:
        """Stop following. Idempotent; the table stays as it is."""
        self._closed = True
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
        tasks = [follower.task for follower in self._followers if follower.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def check(self) -> None:
        """Ask the shards that said nothing since the last check; called every few seconds."""
        for shard, follower in enumerate(self._followers):
            if not follower.heard:
                self._catch_up(shard)
            follower.heard = False

    def catching_up_count(self) -> int:
        """Shards that are not level at the moment."""
        return sum(follower.task is not None for follower in self._followers)

    def _hear(self, news: ShardNews) -> None:
        follower = self._followers[news.shard]
        follower.heard = True
        if follower.task is None:
            try:
                if self._follow(news):
                    return
                self._observer.gap(news.shard)
            except ValueError:  # a row beyond the table's limits: nothing was applied
                self._observer.failed(news.shard, "INTERNAL")
                follower.resync = True
        if len(follower.news) >= WAITING_MAX:
            follower.news.popleft()
            self._observer.dropped(news.shard, 1)
        follower.news.append(news)
        self._catch_up(news.shard)

    def _follow(self, news: ShardNews) -> bool:
        """Apply what continues the table; False, and nothing done, when something is missing."""
        at = self._table.at(news.shard)
        follower = self._followers[news.shard]
        if len(news.events) == 1 and follows(at, news.events[0]) and news.at == news.events[0].at:
            # Nearly all news: what the rest of this does, in a fifth of its time.
            self._table.apply(news.shard, news.at, news.time_ms, news.events[0].event.positions)
            follower.time_ms = max(follower.time_ms, news.time_ms)
            return True
        if _rewritten(news, at, follower.time_ms):
            follower.resync = True
            return False
        fresh = [stored for stored in news.events if stored.at > at]
        reached = fresh[-1].at if fresh else at
        if news.at > reached or not continues(at, fresh):
            return False
        self._table.apply(news.shard, reached, news.time_ms, images_of(fresh))
        follower.time_ms = max(follower.time_ms, news.time_ms)
        return True

    def _catch_up(self, shard: int) -> None:
        follower = self._followers[shard]
        if follower.task is None and not self._closed:
            follower.task = asyncio.create_task(
                self._level(shard, follower), name=f"ats-feed-{shard}"
            )

    async def _level(self, shard: int, follower: _Follower) -> None:
        """Catch up until the waiting news are used up; the only writer of a shard meanwhile."""
        back_off = BACK_OFF_SECONDS_MIN
        try:
            while True:
                try:
                    async with self._turns:
                        await self._synchronize(shard, follower)
                        if await self._use_waiting(follower):
                            return
                    back_off = BACK_OFF_SECONDS_MIN
                    continue
                except PromiseServiceError as error:
                    self._observer.failed(shard, error.reason)
                except Exception:  # a bug must not leave the shard stale in silence; it is counted
                    self._observer.failed(shard, "INTERNAL")
                    follower.resync = True
                await self._pause(back_off)
                back_off = min(2 * back_off, BACK_OFF_SECONDS_MAX)
        finally:
            follower.task = None

    async def _synchronize(self, shard: int, follower: _Follower) -> None:
        """Reach where the shard stands, by a fill if that can do it, else by a resync."""
        if not follower.resync:
            waiting = max((news.at for news in follower.news), default=START)
            try:
                point = await self._reader.fill(shard, waiting)
                follower.time_ms = max(follower.time_ms, point.time_ms)
                return
            except OutboxLacks:
                follower.resync = True
        before = list(follower.news)
        await self._reader.resync(shard, absent=not follower.loaded)
        # What arrived before the resync and is still ahead of it is history the shard has lost.
        at = self._table.at(shard)
        lost = [news for news in before if news.at > at and news in follower.news]
        for news in lost:
            follower.news.remove(news)
        if lost:
            self._observer.dropped(shard, len(lost))

    async def _use_waiting(self, follower: _Follower) -> bool:
        """Apply waiting news; False when one of them shows another gap. No await at the end: what
        arrives after it is applied directly."""
        while follower.news:
            if not self._follow(follower.news[0]):
                self._observer.gap(follower.news[0].shard)
                return False
            follower.news.popleft()
            if follower.news:
                await asyncio.sleep(0)
        return True

    def _loaded(self, shard: int, point: Point, source: str) -> None:
        follower = self._followers[shard]
        follower.time_ms = point.time_ms
        follower.resync = False
        self._observer.loaded(shard, source)
        if not follower.loaded:
            follower.loaded = True
            self._missing -= 1
            if self._missing == 0:
                self.ready.set()

    async def _pause(self, seconds: float) -> None:
        await self._sleep(seconds * self._random.uniform(1 - JITTER, 1 + JITTER))


def _rewritten(news: ShardNews, at: Position, time_ms: int) -> bool:
    """Whether the shard, later than we know it, is behind us: it lost events, and even reuses their
    identities when the loss took the epoch's beginning along. A shard's time never falls."""
    return (news.at < at and news.time_ms > time_ms) or any(
        stored.at <= at and stored.event.time_ms > time_ms for stored in news.events
    )
