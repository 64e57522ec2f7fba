"""Whoever wrote through this process reads it here, and waits for nobody else's writes."""

from __future__ import annotations

import asyncio

from promise_svc.application.own_writes import WAIT_SECONDS_MAX, OwnWrites
from promise_svc.domain.sharding import Position


class World:
    """Two shards, where they stand, and where the table stands with them."""

    def __init__(self) -> None:
        self.seen_at = [Position(1, 5), Position(1, 5)]
        self.table = [Position(1, 5), Position(1, 5)]
        self.own_writes = OwnWrites(self, self.table.__getitem__)  # type: ignore[arg-type]

    def seen(self, shard: int) -> Position:
        return self.seen_at[shard]

    def hear(self, shard: int, sequence: int) -> None:
        """The feed is told after us, in the same turn."""
        self.own_writes.heard(shard)
        self.table[shard] = Position(1, sequence)


async def test_a_level_table_is_not_waited_for() -> None:
    """The answer leaves at once."""
    waiting = World().own_writes.visible([0, 1])

    assert await _turns(asyncio.ensure_future(waiting), 1)


async def test_an_answer_waits_for_its_own_writes_and_for_no_later_ones() -> None:
    """Under load a shard is always ahead of the table: only what was answered is waited for."""
    world = World()
    world.seen_at = [Position(1, 7), Position(1, 6)]
    waiting = asyncio.ensure_future(world.own_writes.visible([0, 1]))
    assert not await _turns(waiting, 3)

    world.seen_at = [Position(1, 9), Position(1, 9)]
    world.hear(0, 6)
    world.hear(1, 6)
    assert not await _turns(waiting, 3), "shard 0 is not level yet"
    world.hear(0, 7)

    assert await _turns(waiting, 3)


async def test_a_table_that_hears_nothing_is_given_up() -> None:
    """The answer is true, only the table is late."""
    world = World()
    world.seen_at[0] = Position(1, 6)

    async with asyncio.timeout(40 * WAIT_SECONDS_MAX):
        await world.own_writes.visible([0])


async def _turns(task: asyncio.Future[None], count: int) -> bool:
    """Whether it is done after some turns of the loop."""
    for _ in range(count):
        await asyncio.sleep(0)
    return task.done()
