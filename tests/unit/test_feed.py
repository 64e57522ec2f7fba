"""The feed under everything a channel, a shard and an order store can do to it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from promise_svc.adapters.ats_table import catch_up
from promise_svc.adapters.ats_table import feed as feed_module
from promise_svc.application.ports import ShardNews
from promise_svc.domain.sharding import START
from promise_svc.workers.feed_loop import FeedLoop
from tests.support.feed_rig import SKU, Rig, image, started


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = Rig()
    yield rig
    await rig.feed.close()


async def test_a_start_loads_the_order_store_and_the_outbox_after_it(rig: Rig) -> None:
    """What the relay has not carried yet is there too, and the scan is not needed."""
    rig.world.start_epoch()
    rig.world.write(image(1), image(7, "old"))
    rig.world.relay()
    rig.world.write(image(2), image(9, "new"))
    await rig.start()

    assert rig.feed.ready.is_set()
    assert rig.observed.sources == ["order_store"]
    rig.assert_level()


async def test_the_outbox_of_a_shard_that_is_level_is_not_read(rig: Rig) -> None:
    """At a start nearly all are: the order store has everything, and what is new brings news."""
    rig.world.start_epoch()
    rig.world.write(image(7))
    rig.world.relay()

    await rig.start()

    assert rig.world.calls == ["copy_positions", "read_meta"]
    rig.assert_level()


async def test_an_empty_shard_is_ready(rig: Rig) -> None:
    """A cluster that has sold nothing yet can serve."""
    await rig.start()

    assert rig.feed.ready.is_set()
    assert rig.table.at(0) == START


async def test_news_are_followed_without_asking_anybody(rig: Rig) -> None:
    """The common case costs no read."""
    world = await started(rig)
    world.calls.clear()
    world.write(image(4), image(5, "b"))
    world.write(image(6))

    rig.assert_level()
    assert world.calls == []


async def test_a_heartbeat_moves_the_clock_of_an_idle_shard(rig: Rig) -> None:
    """An idle shard is as fresh as its last heartbeat."""
    world = await started(rig)
    world.heartbeat()

    rig.assert_level()
    assert rig.observed.gap_count == 0


async def test_a_lost_message_is_filled_from_the_outbox(rig: Rig) -> None:
    """The next message shows the gap; both arrive."""
    world = await started(rig)
    world.write(image(4), image(9, "lost"), announce=False)
    world.write(image(5))
    await rig.settle()

    rig.assert_level()
    assert rig.observed.gap_count == 1
    assert rig.observed.sources == ["order_store"]


async def test_a_gap_of_many_batches_is_filled_without_a_resync(rig: Rig) -> None:
    """The outbox is read to its end, batch by batch."""
    world = await started(rig)
    for value in range(catch_up.OUTBOX_BATCH * 2 + 1):
        world.write(image(value), announce=False)
    world.heartbeat()
    await rig.settle()

    rig.assert_level()
    assert rig.observed.sources == ["order_store"]


async def test_a_heartbeat_reveals_a_lost_message(rig: Rig) -> None:
    """The last message before silence may be the lost one."""
    world = await started(rig)
    world.write(image(4), announce=False)
    world.heartbeat()
    await rig.settle()

    rig.assert_level()


async def test_a_silent_channel_is_noticed_by_the_check(rig: Rig) -> None:
    """Nothing arrives at all: only asking helps. A shard that spoke is not asked."""
    world = await started(rig)
    rig.feed.check()
    await rig.settle()
    world.write(image(4), announce=False)
    world.calls.clear()
    rig.feed.check()
    await rig.settle()
    rig.assert_level()
    asked = len(world.calls)
    world.write(image(5))
    rig.feed.check()
    await rig.settle()

    assert asked > 0
    assert len(world.calls) == asked


async def test_a_duplicate_changes_nothing(rig: Rig) -> None:
    """Old images never overwrite newer ones."""
    world = await started(rig)
    first = world.write(image(4))
    world.write(image(5))
    world.tell(first)
    await rig.settle()

    rig.assert_level()
    assert rig.observed.gap_count == 0


async def test_a_message_that_overlaps_brings_only_its_new_part(rig: Rig) -> None:
    """Messages may carry events the table has already."""
    world = await started(rig)
    first = world.write(image(4))
    second = world.write(image(5), announce=False)
    world.tell(second._replace(events=first.events + second.events))

    rig.assert_level()
    assert rig.observed.gap_count == 0


async def test_reordered_messages_end_level(rig: Rig) -> None:
    """The later one causes a fill, the earlier one is then a duplicate."""
    world = await started(rig)
    first = world.write(image(4), announce=False)
    second = world.write(image(5), announce=False)
    world.tell(second)
    world.tell(first)
    await rig.settle()

    rig.assert_level()


async def test_news_during_a_fill_wait_for_it(rig: Rig) -> None:
    """What arrives meanwhile is applied after the fill, in order, once."""
    world = await started(rig)
    world.held_back = asyncio.Event()
    world.write(image(4), announce=False)
    world.write(image(5))
    await asyncio.sleep(0)
    world.write(image(6))
    assert rig.table.ats(SKU) == 3
    world.held_back.set()
    await rig.settle()

    rig.assert_level()


async def test_news_during_the_first_load_are_not_lost(rig: Rig) -> None:
    """The feed subscribes before it reads."""
    rig.world.start_epoch()
    rig.world.write(image(1))
    rig.world.relay()
    rig.world.held_back = asyncio.Event()
    rig.feed.start()
    await asyncio.sleep(0)
    rig.world.write(image(2))
    rig.world.held_back.set()
    await rig.settle()

    rig.assert_level()


async def test_one_shard_is_caught_up_by_one_task(rig: Rig) -> None:
    """Gaps, checks and heartbeats during a fill start no second one."""
    world = await started(rig)
    world.calls.clear()
    world.held_back = asyncio.Event()
    for value in range(5):
        world.write(image(value), announce=False)
        world.heartbeat()
        rig.feed.check()
        await asyncio.sleep(0)
    assert world.calls == ["read_meta"]
    world.held_back.set()
    await rig.settle()

    rig.assert_level()


async def test_the_buffer_is_bounded_and_the_outbox_makes_up(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flood during a fill drops the oldest messages, never their content."""
    monkeypatch.setattr(feed_module, "WAITING_MAX", 3)
    world = await started(rig)
    world.held_back = asyncio.Event()
    for value in range(20):
        world.write(image(value), announce=value > 0)
    world.held_back.set()
    await rig.settle()

    assert rig.observed.dropped_count > 0
    rig.assert_level()


async def test_an_epoch_that_continues_is_followed(rig: Rig) -> None:
    """A takeover that lost nothing names the table's position: no read is needed."""
    world = await started(rig)
    world.calls.clear()
    world.start_epoch()
    world.write(image(4))

    rig.assert_level()
    assert world.calls == []


async def test_an_epoch_that_lost_events_resyncs(rig: Rig) -> None:
    """The table may have shown events the shard has lost: they must go, whole SKUs included."""
    world = await started(rig)
    world.write(image(4), image(8, "ghost"))
    world.start_epoch(lost=1)
    world.write(image(5))
    await rig.settle()

    rig.assert_level()
    assert rig.table.rows("ghost") is None
    assert rig.observed.sources == ["order_store", "order_store"]


async def test_an_epoch_that_is_reused_resyncs(rig: Rig) -> None:
    """A loss that took the epoch's beginning along reuses identities: time tells, position not."""
    world = await started(rig)
    world.start_epoch()
    world.write(image(4), image(8, "ghost"))
    world.epoch -= 1
    world.start_epoch(lost=2)
    await rig.settle()

    rig.assert_level()
    assert rig.table.rows("ghost") is None


async def test_a_message_of_lost_history_is_given_up(rig: Rig) -> None:
    """Its events exist nowhere any more: the feed neither waits for them nor spins."""
    world = await started(rig)
    world.write(image(4), announce=False)
    late = world.write(image(5), announce=False)
    del world.history[-2:], world.outbox[-2:]
    world.tell(late)
    await rig.settle()

    assert rig.observed.dropped_count == 1
    assert rig.table.ats(SKU) == 3
    assert rig.table.at(0) == world.position


async def test_a_trimmed_outbox_resyncs_from_the_order_store(rig: Rig) -> None:
    """One that fell behind the window does not hold the outbox back."""
    world = await started(rig)
    world.write(image(4), image(6, "b"), announce=False)
    world.relay()
    world.trim()
    world.write(image(5))
    await rig.settle()

    rig.assert_level()
    assert rig.observed.sources == ["order_store", "order_store"]


async def test_without_the_order_store_the_shard_is_asked(rig: Rig) -> None:
    """PostgreSQL away at start does not keep the table empty."""
    rig.world.start_epoch()
    rig.world.write(image(1), image(2, "b"))
    rig.world.store_away = True
    rig.feed.start()
    async with asyncio.timeout(30):
        await rig.feed.ready.wait()
    rig.retry.set()
    await rig.settle()

    assert rig.observed.sources == ["index"]
    rig.assert_level()


async def test_a_write_during_a_scan_is_not_lost(rig: Rig) -> None:
    """A scan is not atomic: events since its beginning are applied over it."""
    rig.world.start_epoch()
    rig.world.write(image(1))
    rig.world.store_away = True
    scan = rig.world.scan

    async def scan_then_write(shard: int) -> Any:
        scanned = await scan(shard)
        rig.world.write(image(2), image(3, "b"), announce=False)
        return scanned

    rig.world.scan = scan_then_write  # type: ignore[method-assign]
    rig.retry.set()
    await rig.start()

    rig.assert_level()


async def test_a_failover_during_a_scan_begins_it_again(rig: Rig) -> None:
    """The scan has seen rows of events that were then lost, and no event will correct them."""
    rig.world.start_epoch()
    rig.world.write(image(1))
    rig.world.store_away = True
    scan = rig.world.scan

    async def write_scan_lose(shard: int) -> Any:
        rig.world.write(image(2), image(3, "ghost"), announce=False)
        scanned = await scan(shard)
        rig.world.start_epoch(lost=1, announce=False)
        rig.world.scan = scan  # type: ignore[method-assign]
        return scanned

    rig.world.scan = write_scan_lose  # type: ignore[method-assign]
    rig.feed.start()
    await rig.settle(stuck=True)
    assert rig.table.rows("ghost") is None
    rig.retry.set()
    await rig.settle(stuck=True)
    rig.retry.set()
    await rig.settle()

    rig.assert_level()
    assert rig.table.rows("ghost") is None


async def test_an_order_store_set_back_makes_the_feed_ask_the_shard(rig: Rig) -> None:
    """Neither the store nor the outbox has the rows: the shard has."""
    rig.world.start_epoch()
    rig.world.write(image(1))
    rig.world.trim()
    rig.world.store_lost = True
    rig.retry.set()
    await rig.start()

    assert rig.observed.sources == ["index"]
    rig.assert_level()


async def test_a_shard_away_at_start_shows_its_old_rows_without_a_time(rig: Rig) -> None:
    """An old copy says that its age is unknown; when the shard is back it catches up."""
    rig.world.start_epoch()
    rig.world.write(image(1))
    rig.world.relay()
    rig.world.write(image(2))
    rig.world.index_away = True
    rig.feed.start()
    await rig.settle(stuck=True)

    assert rig.feed.ready.is_set()
    assert rig.table.ats(SKU) == 1
    assert rig.table.as_of(SKU)[1] == 0
    assert rig.observed.reasons == ["UNAVAILABLE"]
    rig.world.index_away = False
    rig.retry.set()
    await rig.settle()
    rig.assert_level()


async def test_a_shard_away_while_following_comes_back(rig: Rig) -> None:
    """Reads go on from the old copy; waits grow, within bounds, and the gap is filled at last."""
    world = await started(rig)
    world.index_away = True
    rig.feed.check()
    rig.feed.check()
    for _ in range(12):
        await rig.settle(stuck=True)
        rig.retry.set()
    assert rig.table.ats(SKU) == 3
    world.write(image(4), announce=False)
    world.index_away = False
    await rig.settle()

    rig.assert_level()
    assert rig.waits[0] < rig.waits[4] < rig.waits[-1] <= feed_module.BACK_OFF_SECONDS_MAX * 1.25
    assert rig.observed.sources == ["order_store"]


async def test_with_everything_away_the_feed_is_not_ready(rig: Rig) -> None:
    """Nothing is invented: an empty table is not ready."""
    rig.world.index_away = rig.world.store_away = True
    rig.feed.start()
    await rig.settle(stuck=True)

    assert not rig.feed.ready.is_set()


async def test_a_row_beyond_the_limits_is_reported_and_the_rest_lives(rig: Rig) -> None:
    """The listener never raises into the channel; the shard stays as it was."""
    world = await started(rig)
    world.write(image(-1))
    await rig.settle(stuck=True)

    assert "INTERNAL" in rig.observed.reasons
    assert rig.table.ats(SKU) == 3


async def test_a_large_shard_is_loaded_in_steps(rig: Rig) -> None:
    """Other tasks get their turn between some thousand rows and the next."""
    rig.world.start_epoch()
    rig.world.write(*(image(1, f"s{number}") for number in range(30_000)))
    rig.world.relay()
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counter = asyncio.create_task(count_turns())
    await rig.start()
    counter.cancel()

    assert rig.table.counts()[0] == 30_000
    assert turns >= 10


async def test_close_stops_every_task_and_the_subscription(rig: Rig) -> None:
    """After close nothing is written and nothing runs; closing twice is fine."""
    rig.world.index_away = rig.world.store_away = True
    rig.feed.start()
    await rig.settle(stuck=True)
    await rig.feed.close()
    await rig.feed.close()
    rig.feed.check()

    assert rig.feed.catching_up_count() == 0
    assert rig.world.listener is None
    assert [task for task in asyncio.all_tasks() if "ats-feed" in task.get_name()] == []


async def test_random_histories_end_level(rng: random.Random) -> None:
    """Whatever is lost, doubled, swapped or cut off: one heartbeat later the table is level."""
    for _ in range(60):
        rig = Rig()
        await started(rig)
        await torment(rig, rng)
        rig.world.index_away = rig.world.store_away = False
        rig.world.heartbeat()
        async with asyncio.timeout(30):
            while rig.feed.catching_up_count():
                rig.retry.set()
                await asyncio.sleep(0)
        rig.assert_level()
        await rig.feed.close()


async def torment(rig: Rig, rng: random.Random) -> None:
    late: list[ShardNews] = []
    for step in range(60):
        news = torment_once(rig, rng, step)
        late += [news] if news else []
        for one in rng.sample(late, min(len(late), rng.randrange(3))):
            rig.world.tell(one)
            if rng.random() < 0.8:
                late.remove(one)
        for _ in range(rng.randrange(8)):
            rig.retry.set()
            await asyncio.sleep(0)


def torment_once(rig: Rig, rng: random.Random, step: int) -> ShardNews | None:
    """One thing that happens, and its message, not yet told."""
    world = rig.world
    choice = rng.randrange(12)
    if choice == 0:
        unstored = min(len(world.history) - world.stored, len(world.outbox))
        return world.start_epoch(lost=min(unstored, rng.randrange(3)), announce=False)
    if choice == 1:
        return world.heartbeat(announce=False)
    if choice == 2:
        world.relay()
    elif choice == 3:
        world.relay()
        world.trim()
    elif choice == 4:
        world.index_away = not world.index_away
    elif choice == 5:
        world.store_away = not world.store_away
    elif choice == 6:
        rig.feed.check()
    else:
        return world.write(image(step), image(step, f"s{rng.randrange(5)}"), announce=False)
    return None


class CountingFeed:
    def __init__(self, stop: asyncio.Event) -> None:
        self.calls: list[str] = []
        self.stop = stop

    def start(self) -> None:
        self.calls.append("start")

    def check(self) -> None:
        self.calls.append("check")
        if len(self.calls) == 4:
            self.stop.set()

    async def close(self) -> None:
        self.calls.append("close")


async def test_the_loop_checks_until_stopped_and_closes_the_feed() -> None:
    """One start, checks at the pace given, one close."""
    stop = asyncio.Event()
    feed = CountingFeed(stop)
    await FeedLoop(feed, check_seconds=0.001).run(stop)

    assert feed.calls == ["start", "check", "check", "check", "close"]


async def test_the_loop_closes_the_feed_when_it_is_cancelled() -> None:
    """No way out leaves the feed's tasks behind."""
    feed = CountingFeed(asyncio.Event())
    running = asyncio.create_task(FeedLoop(feed, check_seconds=60).run(feed.stop))
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)

    assert feed.calls == ["start", "close"]
