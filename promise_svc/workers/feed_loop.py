"""Owns the ATS table's feed: starts it, asks silent shards now and then, closes it."""

from __future__ import annotations

import asyncio
import random
from typing import Protocol

CHECK_SECONDS = 2.0
"""A shard that says nothing for this long is asked; heartbeats come several times as often."""

JITTER = 0.25


class Feed(Protocol):
    """What the loop needs of a feed."""

    def start(self) -> None:
        """Begin to follow, in tasks of its own."""
        ...

    def check(self) -> None:
        """Ask the shards that said nothing since the last check."""
        ...

    async def close(self) -> None: ...


class FeedLoop:
    """Runs one feed. The feed's own tasks retry; this loop only sets the pace of checks."""

    def __init__(
        self,
        feed: Feed,
        *,
        check_seconds: float = CHECK_SECONDS,
        jitter: random.Random | None = None,
    ) -> None:
        self._feed = feed
        self._check_seconds = check_seconds
        self._random = jitter or random.Random()

    async def run(self, stop: asyncio.Event) -> None:
        """Work until ``stop`` is set; the feed is closed on every way out."""
        self._feed.start()
        try:
            while not await self._stopped(stop):
                self._feed.check()
        finally:
            await self._feed.close()

    async def _stopped(self, stop: asyncio.Event) -> bool:
        seconds = self._check_seconds * self._random.uniform(1 - JITTER, 1 + JITTER)
        try:
            async with asyncio.timeout(seconds):
                return await stop.wait()
        except TimeoutError:
            return False
