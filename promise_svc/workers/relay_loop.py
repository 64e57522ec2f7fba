"""Drains every shard again and again: at once when woken, else every poll interval."""

from __future__ import annotations

import asyncio
import random
from typing import Protocol

from promise_svc.application.relay import Relay
from promise_svc.errors import InvariantBroken, PromiseServiceError

POLL_SECONDS = 1.0
"""How long an event may lie unseen when its news was lost, and the heartbeat after them too."""

BACK_OFF_SECONDS_MIN = 0.05
BACK_OFF_SECONDS_MAX = 1.0
"""Between tries of a shard that fails: doubling, each with jitter."""

JITTER = 0.25
"""Every wait is varied by up to this share, so that processes do not fall into step."""

_STOP = -1
"""No shard: wakes a worker that has nothing to do."""


class LoopObserver(Protocol):
    """Who counts."""

    def failed(self, shard: int, reason: str, error: str) -> None:
        """A drain failed with this reason code and will be tried again."""
        ...

    def faulted(self, shard: int, error: Exception) -> None:
        """The same of a bug."""
        ...

    def stopped(self, shard: int, reason: str) -> None:
        """A shard is left alone from now on: only ``resume`` or a restart tries it again."""
        ...


class RelayLoop:
    """One loop over all shards, at most ``concurrency`` of them at a time.

    A shard is drained by one task at a time. One that was woken meanwhile is drained once more.
    """

    def __init__(
        self,
        relay: Relay,
        shard_count: int,
        observer: LoopObserver,
        *,
        concurrency: int = 64,
        poll_seconds: float = POLL_SECONDS,
        jitter: random.Random | None = None,
    ) -> None:
        self._relay = relay
        self._shards = range(shard_count)
        self._observer = observer
        self._concurrency = concurrency
        self._poll_seconds = poll_seconds
        self._random = jitter or random.Random()
        self._due: asyncio.Queue[int] = asyncio.Queue()
        self._queued: set[int] = set()
        self._draining: set[int] = set()
        self._again: set[int] = set()
        self._back_off: dict[int, float] = {}
        self._waiting: dict[int, asyncio.TimerHandle] = {}
        self._stopped: dict[int, str] = {}

    @property
    def stopped(self) -> dict[int, str]:
        """Shards left alone, with the reason code of the alarm."""
        return dict(self._stopped)

    def wake(self, shard: int) -> None:
        """Drain ``shard`` soon. Cheap; from the event loop's thread only.

        A shard that waits after a failure waits on, a stopped one stays stopped.
        """
        if shard in self._stopped or shard in self._waiting or shard in self._queued:
            return
        if shard in self._draining:
            self._again.add(shard)
            return
        self._queued.add(shard)
        self._due.put_nowait(shard)

    def resume(self, shard: int) -> None:
        """Try a stopped shard again, after somebody has looked."""
        self._stopped.pop(shard, None)
        self.wake(shard)

    async def run(self, stop: asyncio.Event) -> None:
        """Work until ``stop`` is set, then finish the drains in hand."""
        async with asyncio.TaskGroup() as tasks:
            poller = tasks.create_task(self._poll())
            workers = [tasks.create_task(self._work(stop)) for _ in range(self._concurrency)]
            await stop.wait()
            poller.cancel()
            for _ in workers:
                self._due.put_nowait(_STOP)
            await asyncio.wait(workers)
            for timer in self._waiting.values():
                timer.cancel()
            self._waiting.clear()

    async def _poll(self) -> None:
        while True:
            for shard in self._shards:
                self.wake(shard)
            await asyncio.sleep(self._varied(self._poll_seconds))

    async def _work(self, stop: asyncio.Event) -> None:
        while True:
            shard = await self._due.get()
            if stop.is_set():
                return
            self._queued.discard(shard)
            self._draining.add(shard)
            try:
                await self._drain(shard)
            finally:
                self._draining.discard(shard)
            if shard in self._again:
                self._again.discard(shard)
                self.wake(shard)

    async def _drain(self, shard: int) -> None:
        try:
            drained = await self._relay.drain(shard)
        except InvariantBroken as error:
            self._stopped[shard] = error.reason
            self._observer.stopped(shard, error.reason)
        except PromiseServiceError as error:
            self._observer.failed(shard, error.reason, error.message)
            self._retry_later(shard)
        except Exception as error:  # a bug must not end the loop for the other shards
            self._observer.faulted(shard, error)
            self._retry_later(shard)
        else:
            self._back_off.pop(shard, None)
            if drained.more:
                self._again.add(shard)

    def _retry_later(self, shard: int) -> None:
        self._again.discard(shard)
        seconds = self._back_off.get(shard, BACK_OFF_SECONDS_MIN)
        self._back_off[shard] = min(2 * seconds, BACK_OFF_SECONDS_MAX)
        loop = asyncio.get_running_loop()
        self._waiting[shard] = loop.call_later(self._varied(seconds), self._retry, shard)

    def _retry(self, shard: int) -> None:
        del self._waiting[shard]
        self.wake(shard)

    def _varied(self, seconds: float) -> float:
        return seconds * self._random.uniform(1 - JITTER, 1 + JITTER)
