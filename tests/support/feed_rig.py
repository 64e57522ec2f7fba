"""One shard, its channel and the order store, each of which can be away; and a feed on them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any

from promise_svc.adapters.ats_table.feed import AtsFeed
from promise_svc.adapters.ats_table.table import AtsTable
from promise_svc.application.ports import AtsIndex, OrderStore, ShardMeta, ShardNews
from promise_svc.domain.events import Event, EventType, PositionImage, StoredEvent
from promise_svc.domain.inventory import PositionKey, StockPosition
from promise_svc.domain.sharding import START, Position
from promise_svc.errors import Unavailable
from tests.support.copied import copied

SKU = "sku-1"


def image(on_hand: int, sku: str = SKU) -> PositionImage:
    return PositionImage(sku, "node-1", "", StockPosition(on_hand=on_hand))


class World:
    """One shard with its outbox and channel, and the order store; each can be away."""

    shard_count = 1

    def __init__(self) -> None:
        self.history: list[StoredEvent] = []
        self.outbox: list[StoredEvent] = []
        self.stored = 0
        self.epoch = 0
        self.time_ms = 1000
        self.index_away = False
        self.store_away = False
        self.store_lost = False
        self.calls: list[str] = []
        self.listener: Callable[[ShardNews], None] | None = None
        self.held_back: asyncio.Event | None = None

    # The shard.

    @property
    def position(self) -> Position:
        return self.history[-1].at if self.history else START

    def write(self, *images: PositionImage, announce: bool = True) -> ShardNews:
        at = Position(self.position.epoch, self.position.sequence + 1)
        return self._record(at, Event(EventType.SUPPLY_SYNCED, 0, "", positions=images), announce)

    def start_epoch(self, *, lost: int = 0, announce: bool = True) -> ShardNews:
        """A takeover, of a shard that may have lost its last events."""
        if lost:
            del self.history[-lost:], self.outbox[-lost:]
        self.epoch += 1
        at = Position(self.epoch, 1)
        event = Event(EventType.EPOCH_STARTED, 0, "", previous=self.position)
        return self._record(at, event, announce)

    def _record(self, at: Position, event: Event, announce: bool) -> ShardNews:
        self.time_ms += 10
        stored = StoredEvent(0, at, event._replace(time_ms=self.time_ms), b"")
        self.history.append(stored)
        self.outbox.append(stored)
        news = ShardNews(0, at, START, self.time_ms, (stored,))
        if announce:
            self.tell(news)
        return news

    def heartbeat(self, *, announce: bool = True) -> ShardNews:
        self.time_ms += 10
        news = ShardNews(0, self.position, START, self.time_ms, ())
        if announce:
            self.tell(news)
        return news

    def tell(self, news: ShardNews) -> None:
        if self.listener is not None:
            self.listener(news)

    def relay(self) -> None:
        """Bring the order store level."""
        self.stored = len(self.history)

    def trim(self) -> None:
        """Let the outbox forget everything."""
        self.outbox.clear()

    # The ports.

    def subscribe(self, listener: Callable[[ShardNews], None]) -> Callable[[], None]:
        self.listener = listener

        def unsubscribe() -> None:
            self.listener = None

        return unsubscribe

    async def _ask(self, call: str, away: bool) -> None:
        self.calls.append(call)
        if self.held_back is not None:
            await self.held_back.wait()
        await asyncio.sleep(0)
        if away:
            raise Unavailable(f"{call}: away")

    async def read_meta(self, shard: int, timeout: float) -> ShardMeta:
        await self._ask("read_meta", self.index_away)
        return ShardMeta("o", f"process-{self.epoch}", self.position, START, self.time_ms, 0)

    async def read_outbox(
        self, shard: int, after: Position, limit: int, timeout: float
    ) -> list[StoredEvent]:
        await self._ask("read_outbox", self.index_away)
        return [stored for stored in self.outbox if stored.at > after][:limit]

    async def scan(self, shard: int) -> Any:
        await self._ask("scan", self.index_away)
        rows: dict[PositionKey, StockPosition] = {}
        for stored in self.history:
            rows |= {PositionKey(*one[:3]): one.row for one in stored.event.positions}
        return rows, {}, {}

    async def copy_positions(self, shard: int) -> tuple[Position, bytes]:
        await self._ask("copy_positions", self.store_away)
        if self.store_lost:
            return START, copied(START, ())
        events = self.history[: self.stored]
        rows = {one[:3]: one for stored in events for one in stored.event.positions}
        at = events[-1].at if events else START
        return at, copied(at, rows.values())


class Observed:
    def __init__(self) -> None:
        self.sources: list[str] = []
        self.gap_count = 0
        self.reasons: list[str] = []
        self.dropped_count = 0

    def loaded(self, shard: int, source: str) -> None:
        self.sources.append(source)

    def gap(self, shard: int) -> None:
        self.gap_count += 1

    def failed(self, shard: int, reason: str) -> None:
        self.reasons.append(reason)

    def dropped(self, shard: int, news_count: int) -> None:
        self.dropped_count += news_count


class Rig:
    """A feed on a world, with a back-off the test lets pass."""

    def __init__(self) -> None:
        self.world = World()
        self.table = AtsTable(1)
        self.observed = Observed()
        self.waits: list[float] = []
        self.retry = asyncio.Event()
        world: Any = self.world
        index: AtsIndex = world
        store: OrderStore = world
        self.feed = AtsFeed(
            index,
            store,
            world,
            self.table,
            self.observed,
            jitter=random.Random(1),
            sleep=self._sleep,
        )

    async def _sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        await self.retry.wait()
        self.retry.clear()

    async def settle(self, *, stuck: bool = False) -> None:
        """Run until the feed is level, or waits after a failure when ``stuck``."""
        waits = len(self.waits)
        async with asyncio.timeout(30):
            while self.feed.catching_up_count() and not (stuck and len(self.waits) > waits):
                await asyncio.sleep(0)

    async def start(self) -> None:
        self.feed.start()
        await self.settle()

    def assert_level(self) -> None:
        """The table has exactly what the shard's history adds up to."""
        rows: dict[str, int] = {}
        for stored in self.world.history:
            rows |= {one.sku: one.row.on_hand for one in stored.event.positions}
        assert rows == {sku: self.table.ats(sku) for sku in rows}
        assert self.table.counts()[0] == len(rows)
        assert self.table.at(0) == self.world.position
        assert self.table.as_of(SKU)[1] == self.world.time_ms


async def started(rig: Rig, values: Sequence[int] = (1, 2, 3)) -> World:
    rig.world.start_epoch()
    for value in values:
        rig.world.write(image(value))
    rig.world.relay()
    await rig.start()
    return rig.world
