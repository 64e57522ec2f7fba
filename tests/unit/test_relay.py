"""The relay carries every event exactly once, wherever it is stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest

from promise_svc.application.fork import refuse_fork
from promise_svc.application.ports import ShardNews
from promise_svc.application.relay import MARK_SECONDS, NEWS_SECONDS, ROUNDS_MAX, Relay
from promise_svc.domain.events import StoredEvent
from promise_svc.domain.sharding import START, Position
from promise_svc.errors import (
    Fork,
    InvariantBroken,
    NotServing,
    OutcomeUnknown,
    SequenceGap,
    Unavailable,
)
from tests.support.fake_order_store import FakeOrderStore
from tests.support.fake_outbox import FakeOutbox, Observed
from tests.support.stored_events import History


class World:
    """One shard, its outbox, the order store, and any number of relays."""

    def __init__(self) -> None:
        self.outbox = FakeOutbox()
        self.store = FakeOrderStore()
        self.observed = Observed()
        self.history = History(0)

    def relay(self, batch_events_max: int = 3) -> Relay:
        return Relay(
            self.outbox,
            self.store,
            self.observed,
            batch_events_max=batch_events_max,  # type: ignore[arg-type]
        )

    def write(self, count: int) -> list[StoredEvent]:
        events = [] if self.history.at != START else [self.history.start_epoch()]
        events += [self.history.sync("a", i) for i in range(count - len(events))]
        self.outbox.write(*events)
        return events

    async def stored(self) -> list[StoredEvent]:
        return await self.store.read_events(0, START, 10_000)


@pytest.fixture
async def world() -> World:
    return World()


async def test_a_drain_carries_all_in_bounded_batches_and_marks_them(world: World) -> None:
    """Eight events, three an append; each is told, the shard is marked at the end."""
    events = world.write(8)

    drained = await world.relay().drain(0)

    assert (drained.event_count, drained.at, drained.more) == (8, Position(1, 8), False)
    assert await world.stored() == events
    assert world.outbox.told == [{0: Position(1, s)} for s in (3, 6, 8)]
    assert world.outbox.marks == [(0, Position(1, 8))]
    assert world.store.append_count == 3
    assert world.observed.carried_counts == {0: 8}


async def test_an_empty_shard_is_left_alone(world: World) -> None:
    """Nothing to carry, nothing to mark."""
    drained = await world.relay().drain(0)

    assert (drained.event_count, drained.at) == (0, START)
    assert world.outbox.marks == []


async def test_an_idle_shard_costs_one_read(world: World) -> None:
    """Neither the order store nor the mark is asked again."""
    world.write(2)
    relay = world.relay()
    await relay.drain(0)
    world.store.fail_next = Unavailable("must not be asked")

    await relay.drain(0)

    assert world.outbox.marks == [(0, Position(1, 2))]


async def test_a_busy_shard_gives_way_after_some_rounds(world: World) -> None:
    """The drain is bounded and says that there is more."""
    world.write(ROUNDS_MAX + 5)
    relay = world.relay(batch_events_max=1)

    first, second = await relay.drain(0), await relay.drain(0)

    assert (first.event_count, first.more) == (ROUNDS_MAX, True)
    assert (second.event_count, second.more) == (5, False)


async def test_a_relay_killed_between_commit_and_mark_is_finished_by_the_next(
    world: World,
) -> None:
    """Stored but not marked: a new relay finds an empty outbox tail and still marks."""
    events = world.write(2)
    await world.store.append(0, START, events)

    drained = await world.relay().drain(0)

    assert drained.event_count == 0
    assert world.outbox.durable == {0: Position(1, 2)}


async def test_what_is_marked_durable_has_been_stored_before(world: World) -> None:
    """Who waits for ``recorded`` hears of the mark, so it may never run ahead of the commit."""
    world.write(7)
    tell, checked = world.outbox.tell_durable, list[Position]()

    async def told(at: Mapping[int, Position], timeout: float) -> None:
        assert at[0] <= await world.store.cursor(0)
        checked.append(at[0])
        await tell(at, timeout)

    world.outbox.tell_durable = told  # type: ignore[method-assign]
    await world.relay().drain(0)

    assert checked == [Position(1, 3), Position(1, 6), Position(1, 7)]


async def test_events_that_came_as_news_are_not_read_again(world: World) -> None:
    """Once the cursor is known, the outbox is not asked for what the shard has said, nor whether
    there is more than it said."""
    world.write(2)
    relay = world.relay()
    await relay.drain(0)
    world.outbox.before["read_outbox"] = _at(1, _raise(Unavailable("must not be asked")))

    relay.hear(_news(world.write(1)))
    relay.hear(_news(world.write(2)))
    carried = await relay.drain(0), await relay.drain(0)

    assert [drained.event_count for drained in carried] == [3, 0]
    assert [stored.at.sequence for stored in await world.stored()] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("lost", [0, 1, 2])
async def test_news_that_left_something_out_send_the_relay_to_the_outbox(
    world: World, lost: int
) -> None:
    """News may be lost, whichever they are; nothing is carried that does not follow."""
    world.write(2)
    relay = world.relay(batch_events_max=2)
    await relay.drain(0)

    news = [_news(world.write(1)) for _ in range(3)]
    for number, message in enumerate(news):
        if number != lost:
            relay.hear(message)
    relay.hear(ShardNews(0, Position(1, 5), START, 0, ()))
    drained = await relay.drain(0)

    assert (await world.store.cursor(0), drained.more) == (Position(1, 5), False)


async def test_news_from_before_a_failover_are_not_carried(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard that failed over may have lost what it had said; after a second it is asked."""
    world.write(2)
    relay = world.relay()
    await relay.drain(0)
    lost = [world.history.sync("a", 1)]
    relay.hear(_news(lost))

    loop = asyncio.get_running_loop()
    now = loop.time()
    monkeypatch.setattr(loop, "time", lambda: now + NEWS_SECONDS)
    await relay.drain(0)

    assert await world.store.cursor(0) == Position(1, 2)


async def test_what_several_shards_said_is_carried_in_one_append_and_told_in_one_message(
    world: World,
) -> None:
    """A shard whose cursor is not known yet, or of which something is missing, is left to a drain
    of its own."""
    histories = [History(shard) for shard in range(4)]
    relay = world.relay()
    for shard in (0, 1, 2):
        world.outbox.write(histories[shard].start_epoch())
        await relay.drain(shard)
    world.outbox.told.clear()
    said = [[history.sync("a", 1)] for history in histories[:2]]
    missed, unknown = [histories[2].sync("a", n) for n in (1, 2)], [histories[3].start_epoch()]
    for events in (*said, missed[1:], unknown):
        relay.hear(_news(events))

    left = await relay.carry([0, 1, 2, 3])

    assert left == [2, 3]
    assert world.outbox.told == [{0: Position(1, 2), 1: Position(1, 2)}]
    cursors = await world.store.cursors()
    assert (cursors, world.observed.carried_counts) == (
        {0: Position(1, 2), 1: Position(1, 2), 2: Position(1, 1)},
        {0: 2, 1: 2, 2: 1},
    )


async def test_marks_of_all_shards_are_made_together_now_and_then(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each shard that was carried since the last marks gets one, and no append makes one sooner:
    a node would sync its file for each."""
    histories = [History(shard) for shard in range(3)]
    relay = world.relay()
    for shard, history in enumerate(histories):
        world.outbox.write(history.start_epoch())
        await relay.drain(shard)
    loop, marks = asyncio.get_running_loop(), []

    async def carry(shard: int) -> None:
        relay.hear(_news([histories[shard].sync("a", 1)]))
        world.outbox.marks.clear()
        await relay.carry([shard])
        marks.append(sorted(world.outbox.marks))

    await carry(0)
    await carry(1)
    await carry(2)
    now = loop.time()
    monkeypatch.setattr(loop, "time", lambda: now + MARK_SECONDS)
    await carry(0)

    first, last = Position(1, 2), Position(1, 3)
    assert marks == [[(0, first)], [], [], [(0, last), (1, first), (2, first)]]


@pytest.mark.parametrize("committed", [False, True])
async def test_a_shard_whose_append_failed_is_not_told_and_is_drained(
    world: World, committed: bool
) -> None:
    """Whether the events were stored or not, the drain asks, and carries what is left."""
    relay = world.relay()
    world.write(2)
    await relay.drain(0)
    world.outbox.told.clear()
    relay.hear(_news(world.write(1)))
    lost = OutcomeUnknown("the connection was lost")
    setattr(world.store, "fail_after_next" if committed else "fail_next", lost)

    left = await relay.carry([0])

    assert (left, world.outbox.told) == ([0], [])
    await relay.drain(0)
    assert await world.store.cursor(0) == Position(1, 3)


@pytest.mark.parametrize("call", ["read_outbox", "read_meta", "mark_durable"])
@pytest.mark.parametrize("nth", range(1, 5))
async def test_a_relay_killed_at_any_await_loses_and_doubles_nothing(
    world: World, call: str, nth: int
) -> None:
    """The task is cancelled at the nth call; the same relay and a new one both finish."""
    events = world.write(7)
    relay = world.relay()
    world.outbox.before[call] = _at(nth, _cancel)
    task = asyncio.create_task(relay.drain(0))
    await asyncio.wait([task])
    world.outbox.before.clear()

    await relay.drain(0)
    await world.relay().drain(0)

    assert await world.stored() == events
    assert world.outbox.durable == {0: Position(1, 7)}
    assert world.observed.alarms == []


async def test_an_append_with_unknown_outcome_is_looked_up(world: World) -> None:
    """Committed, but the answer was lost: the next drain asks for the cursor and goes on."""
    events = world.write(5)
    relay = world.relay()
    world.store.fail_after_next = OutcomeUnknown("the connection was lost")
    with pytest.raises(OutcomeUnknown):
        await relay.drain(0)

    drained = await relay.drain(0)

    assert drained.event_count == 2
    assert world.observed.fences == []
    assert await world.stored() == events
    assert world.outbox.durable == {0: Position(1, 5)}


async def test_a_mark_that_failed_is_made_up_for(world: World) -> None:
    """The shard did not answer to the mark; nothing new was written since."""
    world.write(2)
    relay = world.relay()
    world.outbox.before["mark_durable"] = _at(1, _raise(NotServing("restarting")))
    with pytest.raises(NotServing):
        await relay.drain(0)

    await relay.drain(0)

    assert world.outbox.durable == {0: Position(1, 2)}


async def test_two_relays_on_one_shard_share_the_work(world: World) -> None:
    """They race step by step; the fence lets one of them win each time."""
    events = world.write(40)
    relays = [world.relay(), world.relay(batch_events_max=2)]

    await asyncio.gather(*(relay.drain(0) for relay in relays))
    await asyncio.gather(*(relay.drain(0) for relay in relays))

    assert await world.stored() == events
    assert max(told[0] for told in world.outbox.told) == Position(1, 40)
    assert world.observed.carried_counts == {0: 40}
    assert world.observed.fences


async def test_an_old_cursor_before_a_trimmed_outbox_is_no_alarm(world: World) -> None:
    """Another relay carried and trimmed what ours has not seen."""
    world.write(2)
    ours = world.relay()
    await ours.drain(0)
    world.write(3)
    await world.relay().drain(0)
    world.outbox.trim(0, Position(1, 4))
    world.write(1)

    drained = await ours.drain(0)

    assert drained.at == Position(1, 6)
    assert world.observed.alarms == []


async def test_a_trimmed_outbox_is_an_alarm(world: World) -> None:
    """The first entry after the cursor is gone: never skipped."""
    world.write(2)
    relay = world.relay()
    await relay.drain(0)
    world.write(3)
    world.outbox.trim(0, Position(1, 3))

    with pytest.raises(SequenceGap):
        await relay.drain(0)

    assert world.observed.alarms == [(0, "SEQUENCE_GAP")]
    assert await world.store.cursor(0) == Position(1, 2)


async def test_an_outbox_lost_as_a_whole_is_an_alarm(world: World) -> None:
    """Empty, though the shard stands further than the order store."""
    world.write(4)
    world.outbox.trim(0, Position(1, 4))

    with pytest.raises(SequenceGap):
        await world.relay().drain(0)

    assert world.observed.alarms == [(0, "SEQUENCE_GAP")]


async def test_a_new_epoch_is_carried_on(world: World) -> None:
    """EPOCH_STARTED follows the last event of the epoch before."""
    first = world.write(2)
    epoch = world.history.start_epoch()
    world.outbox.write(epoch)
    second = world.write(2)

    drained = await world.relay().drain(0)

    assert drained.at == Position(2, 3)
    assert await world.stored() == [*first, epoch, *second]


async def test_two_bodies_under_one_identity_are_an_alarm(world: World) -> None:
    """The store keeps what it had, the cursor stays."""
    events = world.write(2)
    await world.store.append(0, START, events)
    world.store.set_cursor(0, Position(1, 1))
    world.outbox.entries[0] = [History(0, Position(1, 1)).sync("a", 999)]

    with pytest.raises(Fork):
        await world.relay().drain(0)

    assert world.observed.alarms == [(0, "FORK")]
    assert await world.stored() == events
    assert world.outbox.durable == {}


async def test_a_broken_entry_is_an_alarm(world: World) -> None:
    """What cannot be read cannot be carried, and must not be passed over."""
    world.outbox.before["read_outbox"] = _at(1, _raise(InvariantBroken("no event")))

    with pytest.raises(InvariantBroken):
        await world.relay().drain(0)

    assert world.observed.alarms == [(0, "INVARIANT_BROKEN")]


async def test_an_order_store_away_is_no_alarm(world: World) -> None:
    """The events stay in the outbox until it is back."""
    events = world.write(2)
    relay = world.relay()
    world.store.fail_next = Unavailable("away")
    with pytest.raises(Unavailable):
        await relay.drain(0)

    await relay.drain(0)

    assert await world.stored() == events
    assert world.observed.alarms == []


def _at(nth: int, action: Callable[[], Awaitable[None]]) -> Callable[[int], Awaitable[None]]:
    count = 0

    async def before(_shard: int) -> None:
        nonlocal count
        count += 1
        if count == nth:
            await action()

    return before


async def _cancel() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


def _raise(error: Exception) -> Callable[[], Awaitable[None]]:
    async def action() -> None:
        raise error

    return action


async def test_an_order_store_set_back_is_brought_level_without_any_new_event(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing happens in the shard any more; the relay still asks now and then where it stands."""
    events = world.write(2)
    relay = world.relay()
    await relay.drain(0)
    world.store = FakeOrderStore()
    relay._store = world.store
    monkeypatch.setattr("promise_svc.application.relay.ASK_SECONDS", 0.0)

    await relay.drain(0)

    assert await world.stored() == events


async def test_an_order_store_set_back_while_compared_is_no_fork(world: World) -> None:
    """The cursor was read before, the event after: there is nothing to compare, and no alarm."""
    world.write(2)
    await world.relay().drain(0)

    with pytest.raises(Unavailable):
        await refuse_fork(world.outbox, FakeOrderStore(), 0, Position(1, 2), 1.0)  # type: ignore[arg-type]


async def test_an_order_store_filled_again_while_compared_is_no_fork(world: World) -> None:
    """It was set back when the event was asked for; another relay has carried it since."""
    world.write(2)
    await world.relay().drain(0)
    store, empty = world.store, [list[StoredEvent]()]

    class Refilled:
        async def read_events(self, *args: Any) -> Any:
            return empty.pop() if empty else await store.read_events(*args)

        cursor = store.cursor

    await refuse_fork(world.outbox, Refilled(), 0, Position(1, 2), 1.0)  # type: ignore[arg-type]

    assert not empty


def _news(events: list[StoredEvent]) -> ShardNews:
    return ShardNews(
        events[-1].shard, events[-1].at, START, events[-1].event.time_ms, tuple(events)
    )
