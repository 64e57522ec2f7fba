"""The loop over shards: what one shard meets is no other shard's trouble."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable

import pytest

from promise_svc.errors import InvariantBroken, Unavailable
from promise_svc.telemetry import Metrics
from promise_svc.workers import shard_loop
from promise_svc.workers.shard_loop import ShardLoop


class Visits:
    """What a loop over three shards did; shard 1 raises ``error``."""

    def __init__(self, error: Exception) -> None:
        self.error: Exception | None = error
        self.counts: Counter[int] = Counter()
        self.told: list[Exception] = []
        self._moved = asyncio.Event()
        self.loop = ShardLoop(
            shard_count=3,
            visit=self.visit,
            seconds=0.001,
            on_count=lambda _: None,
            on_error=lambda _shard, error: self.told.append(error),
        )

    async def visit(self, shard: int) -> int:
        self.counts[shard] += 1
        self._moved.set()
        if shard == 1 and self.error is not None:
            raise self.error
        return 0

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not condition():
                self._moved.clear()
                await self._moved.wait()


@contextlib.asynccontextmanager
async def running(visits: Visits) -> AsyncIterator[None]:
    stop = asyncio.Event()
    task = asyncio.create_task(visits.loop.run(stop))
    yield
    stop.set()
    await asyncio.wait_for(task, 30)


@pytest.mark.parametrize("error", [IndexError("a bug"), Unavailable("away")])
async def test_whatever_a_visit_raises_the_loop_goes_on(error: Exception) -> None:
    """The other shards are visited, and so is the failed one, again and again."""
    visits = Visits(error)

    async with running(visits):
        await visits.until(lambda: visits.counts[0] >= 10 and visits.counts[1] >= 3)

    assert visits.told[:2] == [error, error]


async def test_a_shard_that_showed_what_cannot_be_is_tried_again_after_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not with every round, and not never."""
    visits = Visits(InvariantBroken("a leg nobody asked for"))

    async with running(visits):
        await visits.until(lambda: visits.counts[0] >= 20)
    assert visits.counts[1] == 1

    monkeypatch.setattr(shard_loop, "BROKEN_SECONDS", 0.01)
    again = Visits(InvariantBroken("a leg nobody asked for"))
    async with running(again):
        await again.until(lambda: again.counts[1] >= 2)


async def test_what_cannot_be_is_counted_and_its_message_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An operator must learn what was seen, not only that something was; a bug shows its trace."""
    metrics = Metrics()
    loop = metrics.loop("resolver")

    loop.stopped(7, "INVARIANT_BROKEN", "a leg nobody asked for")
    try:
        raise IndexError("a bug")
    except IndexError as error:
        loop.faulted(7, error, "r-1")

    broken, bug = caplog.records
    assert broken.__dict__["promise_fields"]["error"] == "a leg nobody asked for"
    assert bug.exc_info is not None
    assert bug.__dict__["promise_fields"]["reservation_id"] == "r-1"
    labels = {"loop": "resolver", "reason": "INVARIANT_BROKEN"}
    assert metrics.registry.get_sample_value("promise_loop_stopped_shards_total", labels) == 1
