"""Carries what shards say as they say it, all of them together; drains each by itself when it was
left out there, and every poll interval."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from typing import Protocol

from promise_svc.application.relay import Relay
from promise_svc.errors import InvariantBroken, PromiseServiceError

POLL_SECONDS = 1.0
"""How long an event may lie unseen when its news was lost, and the heartbeat after them too."""

BACK_OFF_SECONDS_MIN = 0.05
BACK_OFF_SECONDS_MAX = 1.0
"""Between tries of a shard that fails: doubling, each with jitter."""

GATHER_SECONDS = 0.005
"""How long the shards that were woken wait for others to be carried with. A statement of the order
store costs about a millisecond of CPU before its first event, and a RECORDED answer waits no longer
for this than for one fsync of a slow disk."""

GATHER_BESIDE_SECONDS = 0.015
"""The same while another append is in flight: then so much happens that fewer statements count."""

CARRIERS_MAX = 2
"""Appends of many shards in flight: one is gathered while the other commits."""

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
    """One loop over all shards. Those that are woken are carried together; what that leaves is
    drained, at most ``concurrency`` shards at a time.

    A shard is in one hand at a time. One that was woken meanwhile has its turn once more.
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
        self._woken: set[int] = set()
        self._carriers: set[asyncio.Task[None]] = set()
        self._gathering = self._ending = False

    @property
    def stopped(self) -> dict[int, str]:
        """Shards left alone, with the reason code of the alarm."""
        return dict(self._stopped)

    def wake(self, shard: int) -> None:
        """Carry what ``shard`` has, soon. Cheap; from the event loop's thread only.

        A shard that waits after a failure waits on, a stopped one stays stopped.
        """
        if self._has_its_turn(shard):
            return
        self._woken.add(shard)
        self._start_carrier()

    def _start_carrier(self) -> None:
        if self._gathering or self._ending or len(self._carriers) >= CARRIERS_MAX:
            return
        self._gathering = True
        carrier = asyncio.get_running_loop().create_task(self._carry_woken())
        self._carriers.add(carrier)
        carrier.add_done_callback(self._carrier_ended)

    def _carrier_ended(self, carrier: asyncio.Task[None]) -> None:
        self._carriers.discard(carrier)
        if self._woken:
            self._start_carrier()

    async def _carry_woken(self) -> None:
        alone = len(self._carriers) <= 1
        await asyncio.sleep(GATHER_SECONDS if alone else GATHER_BESIDE_SECONDS)
        self._gathering = False
        shards, self._woken = self._woken - self._queued - self._draining, set()
        self._draining |= shards
        rest: Iterable[int] = shards
        try:
            rest = await self._relay.carry(shards)
        except Exception as error:  # a bug must not end the loop; the drains meet it again
            for shard in shards:
                self._observer.faulted(shard, error)
        self._draining -= shards
        for shard in rest:
            self._enqueue(shard)
        self._woken |= (self._again & shards) - self._queued
        self._again -= shards

    def _enqueue(self, shard: int) -> None:
        """Drain ``shard`` by itself, soon."""
        if self._has_its_turn(shard):
            return
        self._queued.add(shard)
        self._due.put_nowait(shard)

    def _has_its_turn(self, shard: int) -> bool:
        """Whether there is nothing to do for it now; one that is in hand gets another turn."""
        if shard in self._stopped or shard in self._waiting or shard in self._queued:
            return True
        if shard in self._draining:
            self._again.add(shard)
            return True
        return False

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
            self._ending = True
            if self._carriers:
                await asyncio.wait(set(self._carriers))
            for _ in workers:
                self._due.put_nowait(_STOP)
            await asyncio.wait(workers)
            for timer in self._waiting.values():
                timer.cancel()
            self._waiting.clear()

    async def _poll(self) -> None:
        while True:
            for shard in self._shards:
                self._enqueue(shard)
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
