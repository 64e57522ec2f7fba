"""One loop over all shards that calls one use case for each: resolver and sweeper."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress

from promise_svc.errors import InvariantBroken

_AT_ONCE = 8
_BACK_OFF_SECONDS_MAX = 5.0

BROKEN_SECONDS = 60.0
"""How long a shard that showed what cannot be is left alone: not for ever, for what was seen may
have been repaired, and not for less, for each look is an alarm."""


class ShardLoop:
    """Visits every shard once a round, a few at a time, with jitter between rounds.

    A shard that fails is left out for a growing while, whatever the failure was; the others go on.
    """

    def __init__(
        self,
        *,
        shard_count: int,
        visit: Callable[[int], Awaitable[int]],
        seconds: float,
        on_count: Callable[[int], None],
        on_error: Callable[[int, Exception], None],
    ) -> None:
        """``on_error`` hears of every failed visit; an InvariantBroken comes again only after
        ``BROKEN_SECONDS``."""
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
            if count:
                self._on_count(count)
        except Exception as error:  # a bug met in one shard must not end the loop for the others
            self._put_off(shard, error)
            self._on_error(shard, error)
        else:
            self._failures.pop(shard, None)

    def _put_off(self, shard: int, error: Exception) -> None:
        failures = self._failures.get(shard, 0) + 1
        self._failures[shard] = failures
        # The exponent is bounded, or a shard away for an hour would overflow a float.
        delay = min(_BACK_OFF_SECONDS_MAX, self._seconds * 2 ** min(failures, 16))
        if isinstance(error, InvariantBroken):
            delay = BROKEN_SECONDS
        now = asyncio.get_running_loop().time()
        self._skip_until[shard] = now + delay * random.uniform(0.5, 1.0)
