"""One loop over all shards that calls one use case for each: resolver and sweeper."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress

from promise_svc.errors import InvariantBroken, PromiseServiceError

_AT_ONCE = 8
_BACK_OFF_SECONDS_MAX = 5.0


class ShardLoop:
    """Visits every shard once a round, a few at a time, with jitter between rounds.

    A shard that fails is left out for a growing while; the others go on.
    """

    def __init__(
        self,
        *,
        shard_count: int,
        visit: Callable[[int], Awaitable[int]],
        seconds: float,
        on_count: Callable[[int], None],
        on_error: Callable[[int, PromiseServiceError], None],
    ) -> None:
        self._shard_count = shard_count
        self._visit = visit
        self._seconds = seconds
        self._on_count = on_count
        self._on_error = on_error
        self._failures: dict[int, int] = {}
        self._skip_until: dict[int, float] = {}

    async def run(self, stop: asyncio.Event) -> None:
        """Until ``stop`` is set."""
        slots = asyncio.Semaphore(_AT_ONCE)

        async def visit(shard: int) -> None:
            async with slots:
                await self._visit_one(shard)

        while not stop.is_set():
            now = asyncio.get_running_loop().time()
            due = [s for s in range(self._shard_count) if self._skip_until.get(s, 0.0) <= now]
            await asyncio.gather(*(visit(shard) for shard in due))
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), self._seconds * random.uniform(0.8, 1.2))

    async def _visit_one(self, shard: int) -> None:
        try:
            count = await self._visit(shard)
        except PromiseServiceError as error:
            self._put_off(shard)
            self._on_error(shard, error)
            if isinstance(error, InvariantBroken):
                self._skip_until[shard] = float("inf")
            return
        self._failures.pop(shard, None)
        if count:
            self._on_count(count)

    def _put_off(self, shard: int) -> None:
        failures = self._failures.get(shard, 0) + 1
        self._failures[shard] = failures
        delay = min(_BACK_OFF_SECONDS_MAX, self._seconds * 2**failures)
        now = asyncio.get_running_loop().time()
        self._skip_until[shard] = now + delay * random.uniform(0.5, 1.0)
