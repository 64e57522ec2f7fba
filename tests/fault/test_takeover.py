"""A shard comes back: after a kill, after a loss, with another history, met by two at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from promise_svc.adapters.ats_index.index import ClusterAtsIndex
from promise_svc.adapters.embedded import EmbeddedValkey
from promise_svc.adapters.order_store.pool import PoolConfig
from promise_svc.adapters.order_store.store import PostgresOrderStore
from promise_svc.application.relay import Relay
from promise_svc.application.takeover import Takeover
from promise_svc.domain.events import EventType
from promise_svc.domain.inventory import PositionKey
from promise_svc.domain.reservation import (
    ClaimDraft,
    CreateStep,
    LegLine,
    Outcome,
    ResolveStep,
    State,
    SupplyRow,
)
from promise_svc.domain.sharding import START, Position
from promise_svc.errors import Fork, InvariantBroken, NotServing
from tests.support.shards import TIMEOUT, new_index

SHARD = 7
pytestmark = pytest.mark.fault


class Silent:
    """A relay's observer that remembers alarms."""

    def __init__(self) -> None:
        self.alarms: list[InvariantBroken] = []

    def carried(self, shard: int, event_count: int, newest_ms: int) -> None: ...
    def fenced(self, shard: int) -> None: ...
    def alarmed(self, shard: int, error: InvariantBroken) -> None:
        self.alarms.append(error)


Connect = Callable[[EmbeddedValkey], Awaitable[ClusterAtsIndex]]


@pytest.fixture
async def connected(key_prefix: str) -> AsyncIterator[Connect]:
    indexes: list[ClusterAtsIndex] = []

    async def connect(engine: EmbeddedValkey) -> ClusterAtsIndex:
        indexes.append(new_index(engine.urls, key_prefix))
        await indexes[-1].start(fsync=True)
        return indexes[-1]

    yield connect
    for index in indexes:
        index.close()


async def take_over(index: ClusterAtsIndex, store: PostgresOrderStore) -> None:
    await Takeover(index, store, lambda *_: None).run(SHARD)


async def hold(index: ClusterAtsIndex, rid: str, units: int = 1) -> Outcome:
    step = CreateStep(
        rid,
        1,
        "plan",
        600_000,
        0,
        0,
        (LegLine("A", "n1", "", units),),
        ClaimDraft("body", 0, (SHARD,), "{}"),
    )
    return Outcome((await index.create(SHARD, [step], TIMEOUT))[0].outcome)


async def stock(index: ClusterAtsIndex, units: int) -> None:
    await index.sync_supply(SHARD, [SupplyRow("A", "n1", "", units, 0, "", 0)], TIMEOUT)


async def drained(index: ClusterAtsIndex, store: PostgresOrderStore) -> Silent:
    observer = Silent()
    await Relay(index, store, observer).drain(SHARD)
    return observer


@pytest.fixture
async def store(database: str) -> AsyncIterator[PostgresOrderStore]:
    opened = await PostgresOrderStore.open(PoolConfig(url=database, connections_max=2))
    yield opened
    await opened.close()


Engine = Callable[[str], EmbeddedValkey]


@pytest.fixture
def engines(tmp_path: Path) -> Iterator[Engine]:
    def started(name: str) -> EmbeddedValkey:
        engine = EmbeddedValkey(tmp_path / name)
        engine.start()
        running.append(engine)
        return engine

    running: list[EmbeddedValkey] = []
    yield started
    for engine in running:
        engine.stop()


async def test_a_killed_shard_serves_nobody_until_it_is_taken_over_and_has_everything(
    engines: Engine, connected: Connect, store: PostgresOrderStore
) -> None:
    engine = engines("one")
    index = await connected(engine)
    await take_over(index, store)
    await stock(index, 5)
    await hold(index, "r-1", 2)
    await drained(index, store)
    await hold(index, "r-2", 3)

    await asyncio.to_thread(engine.kill)
    await asyncio.to_thread(engine.restart)
    index = await connected(engine)
    with pytest.raises(NotServing):
        await hold(index, "r-3")
    with pytest.raises(NotServing):
        await index.read_positions(SHARD, ["A"], TIMEOUT)
    await take_over(index, store)
    late = await hold(index, "r-3")
    alarms = (await drained(index, store)).alarms

    assert late is Outcome.INSUFFICIENT, "both holds survived the kill"
    assert not alarms
    meta = await index.read_meta(SHARD, TIMEOUT)
    assert meta.at == Position(2, 1) == await store.cursor(SHARD)
    events = await store.read_events(SHARD, START, 100)
    assert [event.at for event in events] == [(1, 1), (1, 2), (1, 3), (1, 4), (2, 1)]
    assert events[-1].event.previous == Position(1, 4)


async def test_a_lost_shard_is_rebuilt_from_the_order_store(
    engines: Engine, connected: Connect, store: PostgresOrderStore
) -> None:
    first = await connected(engines("one"))
    await take_over(first, store)
    await stock(first, 5)
    await hold(first, "held", 1)
    await hold(first, "sold", 2)
    await first.resolve(SHARD, [ResolveStep("sold", State.CONFIRMED)], TIMEOUT)
    await drained(first, store)

    second = await connected(engines("two"))
    told: list[tuple[int, Position, int]] = []
    await Takeover(second, store, lambda *done: told.append(done)).run(SHARD)

    assert told == [(SHARD, Position(2, 1), (await store.cursor(SHARD)).sequence)]
    positions, legs, claims = await second.scan(SHARD)
    row = positions[PositionKey("A", "n1")]
    assert (row.on_hand, row.held, row.committed) == (5, 1, 2)
    assert {rid: claim.state for rid, claim in claims.items()} == {
        "held": State.HELD,
        "sold": State.CONFIRMED,
    }
    assert legs["held"].state == State.HELD
    assert await hold(second, "other", 3) is Outcome.INSUFFICIENT
    assert await hold(second, "held", 1) is Outcome.REPEATED
    released = await second.resolve(SHARD, [ResolveStep("held", State.RELEASED)], TIMEOUT)
    assert released[0].outcome == Outcome.DONE
    assert (await store.cursor(SHARD)).epoch == 1
    assert not (await drained(second, store)).alarms


async def test_a_shard_that_lost_its_last_events_gets_them_back_before_it_serves(
    engines: Engine, connected: Connect, store: PostgresOrderStore
) -> None:
    """A failover to a replica that lags: the order store is ahead of the shard."""
    ahead = await connected(engines("one"))
    await take_over(ahead, store)
    await stock(ahead, 5)
    await drained(ahead, store)
    behind = await connected(engines("two"))
    await behind.restore(SHARD, await store.read_events(SHARD, START, 100), TIMEOUT)
    await hold(ahead, "r-1", 5)
    await drained(ahead, store)

    await take_over(behind, store)

    assert await hold(behind, "r-2") is Outcome.INSUFFICIENT
    assert (await behind.read_meta(SHARD, TIMEOUT)).at == Position(2, 1)


async def test_a_shard_with_another_history_stays_shut(
    engines: Engine, connected: Connect, store: PostgresOrderStore
) -> None:
    ours, theirs = [await connected(engines(name)) for name in ("one", "two")]
    await take_over(theirs, store)
    await take_over(ours, store)
    await stock(theirs, 5)
    await stock(ours, 9)
    await drained(theirs, store)
    engine = engines("three")
    forked = await connected(engine)
    await forked.restore(SHARD, await ours.read_outbox(SHARD, START, 9, TIMEOUT), TIMEOUT)
    outbox = forked.keys.outbox[SHARD]
    for event in await ours.read_outbox(SHARD, START, 9, TIMEOUT):
        entry = f"{event.at.epoch}-{event.at.sequence}"
        await forked._command(SHARD, TIMEOUT, b"XADD", outbox, entry, b"e", event.payload)

    with pytest.raises(Fork):
        await take_over(forked, store)
    with pytest.raises(NotServing):
        await hold(forked, "r-1")
    await hold(ours, "r-2")
    with pytest.raises(Fork):
        await drained(ours, store)
    assert (await store.cursor(SHARD)).sequence == 2, "nothing of the other history was merged"


async def test_two_processes_that_take_over_at_once_start_one_epoch(
    engines: Engine, connected: Connect, store: PostgresOrderStore
) -> None:
    engine = engines("one")
    indexes = [await connected(engine) for _ in range(4)]

    await asyncio.gather(*(take_over(index, store) for index in indexes))

    started = await indexes[0].read_outbox(SHARD, START, 9, TIMEOUT)
    assert [event.event.type for event in started] == [EventType.EPOCH_STARTED]
    assert (await indexes[0].read_meta(SHARD, TIMEOUT)).at == Position(1, 1)


async def test_a_rebuilt_shard_refuses_plans_of_an_older_network(
    engines: Engine, connected: Connect, store: PostgresOrderStore
) -> None:
    """A node was switched off before the index was lost; nobody may still sell from it."""
    version = await store.upsert_network("node", {"n1": '{"status": "OFF"}'})
    index = await connected(engines("one"))
    await take_over(index, store)
    await stock(index, 5)

    assert version > 0
    assert await hold(index, "r-1") is Outcome.NETWORK_CHANGED
