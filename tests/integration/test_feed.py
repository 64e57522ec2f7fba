"""The ATS table behind real engines: a Valkey that is killed, a channel that is cut, an outbox that
is trimmed; under asyncio's loop and under uvloop, whose transports differ."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator

import pytest
import redis
import uvloop

from promise_svc.adapters.ats_index.index import ClusterAtsIndex
from promise_svc.adapters.ats_index.news import NewsChannels
from promise_svc.adapters.ats_index.topology import parse_urls
from promise_svc.adapters.ats_table.feed import AtsFeed
from promise_svc.adapters.ats_table.table import AtsTable
from promise_svc.adapters.embedded import EmbeddedValkey
from promise_svc.adapters.order_store import PoolConfig, PostgresOrderStore
from promise_svc.application.ports import AtsRow, ShardNews
from promise_svc.application.relay import Relay
from promise_svc.application.resolver import Sweeper
from promise_svc.application.takeover import Takeover
from promise_svc.domain.reservation import (
    ClaimDraft,
    CreateStep,
    LegLine,
    Outcome,
    ResolveStep,
    State,
    SupplyRow,
)
from promise_svc.domain.sharding import START
from promise_svc.workers.relay_loop import RelayLoop
from promise_svc.workers.shard_loop import ShardLoop
from tests.support import fake_outbox, feed_rig
from tests.support.shards import TIMEOUT, new_index

SHARDS = 4
OUTBOX_KEPT = 10
EVENTS_TRIMMED = 150
"""An engine trims whole nodes of a stream: 100 entries, as it comes."""

HEARTBEAT_SECONDS = 0.05
LEVEL_SECONDS_MAX = 30.0
pytestmark = [pytest.mark.fault, pytest.mark.timeout(60)]

Scenario = Callable[["System"], Awaitable[None]]
Run = Callable[[Scenario], None]


class System:
    """Everything between a shard and a read, as a process runs it, and who counts."""

    def __init__(
        self, engine: EmbeddedValkey, index: ClusterAtsIndex, store: PostgresOrderStore
    ) -> None:
        self.engine = engine
        self.index = index
        self.store = store
        self.table = AtsTable(SHARDS)
        self.observed = feed_rig.Observed()
        self.relay = RelayLoop(Relay(index, store, fake_outbox.Observed()), SHARDS, self)
        self.news = NewsChannels(index, index.topology, parse_urls(engine.urls)[1])
        self.feed = AtsFeed(
            index, store, self.news, self.table, self.observed, jitter=random.Random(1)
        )
        self.reasons: list[str] = []
        self._heard = asyncio.Event()

    def failed(self, shard: int, reason: str, error: str = "") -> None:
        self.reasons.append(reason)

    def faulted(self, shard: int, error: Exception) -> None:
        raise error

    def stopped(self, shard: int, reason: str) -> None:
        self.reasons.append(reason)

    def hear(self, news: ShardNews) -> None:
        self._heard.set()
        if news.events:
            self.relay.wake(news.shard)

    async def count(self, on_hand: int, *, sku_count: int = 3) -> None:
        """A supply feed reports so many units of some SKUs of every shard."""
        for shard in range(SHARDS):
            rows = [SupplyRow(sku(shard, i), "n1", "", on_hand, 0, "", 0) for i in range(sku_count)]
            await self.index.sync_supply(shard, rows, TIMEOUT)

    async def hold(self, name: str, ttl_ms: int = 60_000) -> None:
        """Two units of one SKU of every shard."""
        for shard in range(SHARDS):
            line = LegLine(sku(shard, 0), "n1", "", 2)
            draft = ClaimDraft("body", 0, (shard,), '{"owner_id": "o"}')
            step = CreateStep(f"{name}-{shard}", 1, "plan", ttl_ms, 0, 0, (line,), draft)
            reply = (await self.index.create(shard, [step], TIMEOUT))[0]
            assert Outcome(reply.outcome) is Outcome.DONE

    async def confirm(self, name: str) -> None:
        for shard in range(SHARDS):
            step = ResolveStep(f"{name}-{shard}", State.CONFIRMED)
            await self.index.resolve(shard, [step], TIMEOUT)

    async def level(self) -> None:
        """Wait until the table and the order store have every shard as the shard has itself."""
        async with asyncio.timeout(LEVEL_SECONDS_MAX):
            for shard in range(SHARDS):
                while not await self._level(shard):
                    await self.next_news()

    async def _level(self, shard: int) -> bool:
        at = (await self.index.read_meta(shard, TIMEOUT)).at
        if self.table.at(shard) != at or await self.store.cursor(shard) != at:
            return False
        rows: dict[str, list[AtsRow]] = {}
        for key, row in (await self.index.scan(shard))[0].items():
            rows.setdefault(key.sku, []).append(AtsRow(key.node_id, key.bucket, *row[:4]))
        if self.table.at(shard) != at:  # it went on while it was scanned
            return False
        assert rows == {name: list(self.table.rows(name) or ()) for name in rows}
        assert {self.table.as_of(name)[0] for name in rows} <= {at}
        return True

    async def next_news(self) -> None:
        """Heartbeats come all the time."""
        self._heard.clear()
        await self._heard.wait()

    def ats(self) -> list[int]:
        """What readers are told of the first SKU of each shard."""
        return [self.table.ats(sku(shard, 0)) for shard in range(SHARDS)]


def sku(shard: int, number: int) -> str:
    """A SKU that a shard key put into ``shard``, as its hash does not say so."""
    return f"sku-{shard}-{number}"


@contextlib.asynccontextmanager
async def running(engine: EmbeddedValkey, dsn: str, key_prefix: str) -> AsyncIterator[System]:
    store = await PostgresOrderStore.open(PoolConfig(url=dsn, connections_max=4))
    index = new_index(engine.urls, key_prefix, SHARDS, OUTBOX_KEPT)
    await index.start(fsync=True)
    index.recover = Takeover(index, store, lambda *_: None).run
    system = System(engine, index, store)
    system.news.start()
    system.news.subscribe(system.hear)
    sweeper = ShardLoop(
        shard_count=SHARDS,
        visit=Sweeper(index).sweep,
        seconds=HEARTBEAT_SECONDS,
        on_count=lambda _: None,
        on_error=lambda shard, error: system.failed(shard, getattr(error, "reason", "INTERNAL")),
    )
    stop = asyncio.Event()
    loops = [asyncio.create_task(loop.run(stop)) for loop in (sweeper, system.relay)]
    system.feed.start()
    try:
        async with asyncio.timeout(LEVEL_SECONDS_MAX):
            await system.feed.ready.wait()
        yield system
    finally:
        stop.set()
        await asyncio.gather(*loops)
        await system.feed.close()
        await system.news.close()
        index.close()
        await store.close()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    """This module's own: it is killed."""
    with EmbeddedValkey(tmp_path_factory.mktemp("feed"), durability="fsync") as engine:
        yield engine


@pytest.fixture(params=["asyncio", "uvloop"])
def run(
    request: pytest.FixtureRequest, engine: EmbeddedValkey, database: str, key_prefix: str
) -> Run:
    """Plays a scenario on a system of its own, under one of the two loops."""
    new_loop = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}[request.param]

    async def play(scenario: Scenario) -> None:
        async with running(engine, database, key_prefix) as system:
            await scenario(system)

    def run(scenario: Scenario) -> None:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            coroutine: Coroutine[None, None, None] = play(scenario)
            runner.run(coroutine)

    return run


def cut_channels(engine: EmbeddedValkey) -> int:
    """Cut the connections that news come by; how many there were."""
    with redis.Redis.from_url(engine.urls[0]) as client:
        return int(client.execute_command("CLIENT", "KILL", "TYPE", "pubsub"))


def test_the_table_follows_supply_and_reservations(run: Run) -> None:
    """Counts, holds, confirmations and expiries, each within the news of it."""

    async def scenario(system: System) -> None:
        await system.count(9)
        await system.level()
        assert system.ats() == [9] * SHARDS
        await system.hold("kept")
        await system.hold("sold")
        await system.confirm("sold")
        await system.hold("due", ttl_ms=1)
        await system.level()
        async with asyncio.timeout(LEVEL_SECONDS_MAX):
            while system.ats() != [5] * SHARDS:  # until the sweeper has given back what was due
                await system.level()

        assert system.observed.sources == ["order_store"] * SHARDS
        assert system.observed.reasons == []

    run(scenario)


def test_a_killed_shard_is_followed_into_its_next_epoch(run: Run) -> None:
    """Reads go on from the copy; after the takeover it is level again, without a load."""

    async def scenario(system: System) -> None:
        await system.count(9)
        await system.hold("before")
        await system.level()
        await asyncio.to_thread(system.engine.kill)
        assert system.ats() == [7] * SHARDS
        await asyncio.to_thread(system.engine.restart)
        async with asyncio.timeout(LEVEL_SECONDS_MAX):
            while min(system.table.at(shard).epoch for shard in range(SHARDS)) < 2:
                await system.next_news()
        await system.hold("after")
        await system.level()

        assert system.ats() == [5] * SHARDS
        assert system.observed.sources == ["order_store"] * SHARDS

    run(scenario)


def test_a_cut_channel_leaves_a_gap_that_the_outbox_fills(run: Run) -> None:
    """What was published meanwhile reached nobody; the next heartbeat shows it."""

    async def scenario(system: System) -> None:
        await system.count(9)
        await system.level()
        before = system.observed.gap_count
        for on_hand in range(10, 30):  # a channel that was fast to come back missed nothing
            assert cut_channels(system.engine) == 1
            await system.count(on_hand)
            await system.level()
            assert system.ats() == [on_hand] * SHARDS
            if system.observed.gap_count > before:
                break

        assert system.observed.gap_count > before
        assert system.observed.sources == ["order_store"] * SHARDS

    run(scenario)


def test_a_feed_behind_the_trimmed_outbox_loads_from_the_order_store(run: Run) -> None:
    """It was away for longer than the outbox keeps; nobody waits for it."""

    async def scenario(system: System) -> None:
        await system.count(9)
        await system.level()
        behind = system.table.at(0)
        await system.news.close()
        counts = [
            SupplyRow(sku(0, 0), "n1", "", units, 0, "", 0) for units in range(EVENTS_TRIMMED)
        ]
        await asyncio.gather(*(system.index.sync_supply(0, [row], TIMEOUT) for row in counts))
        end = (await system.index.read_meta(0, TIMEOUT)).at
        await system.news.wait_durable(0, end, end.epoch, TIMEOUT)
        first = (await system.index.read_outbox(0, START, 1, TIMEOUT))[0].at
        assert first > behind._replace(sequence=behind.sequence + 1), "it was trimmed"
        system.news.start()
        await system.level()

        assert system.table.ats(sku(0, 0)) == EVENTS_TRIMMED - 1
        assert system.observed.sources == ["order_store"] * (SHARDS + 1)

    run(scenario)
