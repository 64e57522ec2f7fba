"""The relay's loop: woken at once, polling else, one task a shard, failures kept apart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from promise_svc.application.relay import Relay
from promise_svc.domain.sharding import START, Position
from promise_svc.errors import Unavailable
from promise_svc.workers.relay_loop import RelayLoop
from tests.support.fake_order_store import FakeOrderStore
from tests.support.fake_outbox import FakeOutbox, Observed
from tests.support.stored_events import History

NEVER = 3600.0
"""Poll interval of loops that must live on being woken."""


class World:
    """Four shards and the parts of a loop over them."""

    def __init__(self) -> None:
        self.outbox = FakeOutbox()
        self.store = FakeOrderStore()
        self.observed = Observed()
        self.histories = [History(shard) for shard in range(4)]
        self.stop = asyncio.Event()
        self.tasks: list[asyncio.Task[None]] = []

    def start(self, poll_seconds: float = NEVER, concurrency: int = 2) -> RelayLoop:
        relay = Relay(self.outbox, self.store, self.observed)  # type: ignore[arg-type]
        loop = RelayLoop(
            relay, 4, self.observed, concurrency=concurrency, poll_seconds=poll_seconds
        )
        self.tasks.append(asyncio.create_task(loop.run(self.stop)))
        return loop

    def begin(self, *shards: int) -> None:
        for shard in shards:
            self.outbox.write(self.histories[shard].start_epoch())

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not condition():
                self.observed.seen.clear()
                await self.observed.seen.wait()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    world.stop.set()
    await asyncio.gather(*world.tasks)


async def test_what_lies_in_the_outboxes_at_start_is_carried(world: World) -> None:
    """The first poll comes at once."""
    world.begin(0, 1, 2, 3)

    world.start()

    await world.until(lambda: len(world.observed.carried_counts) == 4)


async def test_a_woken_shard_is_drained_without_waiting_for_the_poll(world: World) -> None:
    """Later events, no poll: news alone moves them."""
    world.begin(0, 1, 2, 3)
    loop = world.start()
    await world.until(lambda: len(world.observed.carried_counts) == 4)
    world.outbox.write(world.histories[2].sync("a", 1))

    loop.wake(2)

    await world.until(lambda: world.observed.carried_counts[2] == 2)


async def test_lost_news_are_made_up_for_by_the_poll(world: World) -> None:
    """Nobody wakes the shard."""
    world.begin(0)
    world.start(poll_seconds=0.01)
    await world.until(lambda: 0 in world.observed.carried_counts)

    world.begin(1)

    await world.until(lambda: 1 in world.observed.carried_counts)


async def test_a_shard_is_drained_by_one_task_at_a_time(world: World) -> None:
    """Woken ten times while it is drained: once more afterwards, never beside it."""
    inside = reads = 0
    most = 0
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def before(shard: int) -> None:
        nonlocal inside, most, reads
        if shard != 0:
            return
        reads += 1
        inside += 1
        most = max(most, inside)
        entered.set()
        await go_on.wait()
        inside -= 1

    world.begin(0, 1)
    world.outbox.before["read_meta"] = before
    loop = world.start(concurrency=4)
    await entered.wait()
    world.outbox.write(world.histories[0].sync("a", 1))
    for _ in range(10):
        loop.wake(0)

    go_on.set()
    await world.until(lambda: world.observed.carried_counts.get(0) == 2)

    assert (most, reads) == (1, 1)


async def test_news_during_the_last_step_of_a_drain_are_not_lost(world: World) -> None:
    """The outbox was found empty, then an event was written, then the drain ended."""
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def before(shard: int) -> None:
        entered.set()
        await go_on.wait()

    start = world.histories[0].start_epoch()
    await world.store.append(0, START, [start])
    world.outbox.before["mark_durable"] = before
    loop = world.start()
    await entered.wait()
    world.outbox.write(world.histories[0].sync("a", 1))

    loop.wake(0)
    go_on.set()

    await world.until(lambda: world.observed.carried_counts.get(0) == 1)


async def test_a_fork_stops_its_shard_and_no_other(world: World) -> None:
    """The alarm is counted, the shard is left alone until somebody resumes it."""
    world.begin(0, 1)
    loop = world.start()
    await world.until(lambda: len(world.observed.carried_counts) == 2)
    lost, kept = world.histories[0].sync("a", 1), world.histories[0].sync("a", 2)
    world.outbox.write(kept)
    loop.wake(0)
    await world.until(lambda: bool(world.observed.stops))
    world.outbox.write(world.histories[1].sync("a", 1))

    loop.wake(0)
    loop.wake(1)
    await world.until(lambda: world.observed.carried_counts[1] == 2)

    assert world.observed.stops == [(0, "SEQUENCE_GAP")] == world.observed.alarms
    assert loop.stopped == {0: "SEQUENCE_GAP"}
    world.outbox.entries[0].insert(-1, lost)
    loop.resume(0)
    await world.until(lambda: world.observed.carried_counts[0] == 3)
    assert loop.stopped == {}


async def test_a_failing_shard_is_tried_again(world: World) -> None:
    """The order store is away for one call; nobody wakes the shard."""
    world.begin(0)
    world.store.fail_next = Unavailable("away")

    world.start()

    await world.until(lambda: 0 in world.observed.carried_counts)
    assert [reason for _, reason in world.observed.failures] == ["UNAVAILABLE"]


async def test_a_bug_in_one_drain_does_not_end_the_loop(world: World) -> None:
    """It is counted and tried again, as INTERNAL."""
    failed = False

    async def before(shard: int) -> None:
        nonlocal failed
        if not failed:
            failed = True
            raise ZeroDivisionError

    world.begin(0, 1)
    world.outbox.before["read_meta"] = before

    world.start()

    await world.until(lambda: len(world.observed.carried_counts) == 2)
    assert [reason for _, reason in world.observed.failures] == ["INTERNAL"]


async def test_stopping_finishes_the_drain_in_hand(world: World) -> None:
    """What was read is stored and marked before the loop ends."""
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def before(shard: int) -> None:
        entered.set()
        await go_on.wait()

    world.begin(0)
    world.outbox.before["mark_durable"] = before
    world.start()
    await entered.wait()

    world.stop.set()
    await asyncio.sleep(0)
    assert not world.tasks[0].done()
    go_on.set()
    await world.tasks[0]

    assert world.outbox.durable == {0: Position(1, 1)}
