"""The shards as the relay sees them: an outbox each, a durable mark, nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from promise_svc.application.ports import ShardMeta
from promise_svc.domain.events import StoredEvent
from promise_svc.domain.sharding import START, Position
from promise_svc.errors import PromiseServiceError


class FakeOutbox:
    """``before[name]`` is awaited before the call of that name does anything: it may raise, wait
    or change the world. A removed entry means it was trimmed."""

    def __init__(self, shard_count: int = 4) -> None:
        self.shard_count = shard_count
        self.entries: dict[int, list[StoredEvent]] = {s: [] for s in range(shard_count)}
        self.at: dict[int, Position] = {}
        self.durable: dict[int, Position] = {}
        self.marks: list[tuple[int, Position]] = []
        self.told: list[dict[int, Position]] = []
        self.floors: dict[int, int] = {}
        self.floor_errors: dict[int, PromiseServiceError] = {}
        self.before: dict[str, Callable[[int], Awaitable[None]]] = {}

    def write(self, *events: StoredEvent) -> None:
        """What the shard's Functions do."""
        for stored in events:
            self.entries[stored.shard].append(stored)
            self.at[stored.shard] = stored.at

    def trim(self, shard: int, up_to: Position) -> None:
        """Forget entries up to and including ``up_to``."""
        self.entries[shard] = [e for e in self.entries[shard] if e.at > up_to]

    async def read_outbox(
        self, shard: int, after: Position, limit: int, timeout: float
    ) -> list[StoredEvent]:
        await self._before("read_outbox", shard)
        return [e for e in self.entries[shard] if e.at > after][:limit]

    async def mark_durable(self, shard: int, at: Position, timeout: float) -> None:
        await self._before("mark_durable", shard)
        self.durable[shard] = max(at, self.durable.get(shard, START))
        self.marks.append((shard, at))

    async def tell_durable(self, at: Mapping[int, Position], timeout: float) -> None:
        await self._before("tell_durable", min(at))
        self.told.append(dict(at))

    async def read_meta(self, shard: int, timeout: float) -> ShardMeta:
        await self._before("read_meta", shard)
        at = self.at.get(shard, START)
        return ShardMeta("me", "me", at, self.durable.get(shard, START), 0, 0)

    async def raise_network_floor(self, shard: int, version: int, timeout: float) -> None:
        error = self.floor_errors.get(shard)
        if error is not None:
            raise error
        self.floors[shard] = max(version, self.floors.get(shard, 0))

    async def _before(self, name: str, shard: int) -> None:
        await asyncio.sleep(0)
        if name in self.before:
            await self.before[name](shard)


class Observed:
    """Observer of relay and loop that keeps what it was told; ``seen`` is set at each call."""

    def __init__(self) -> None:
        self.carried_counts: dict[int, int] = {}
        self.fences: list[int] = []
        self.alarms: list[tuple[int, str]] = []
        self.failures: list[tuple[int, str]] = []
        self.stops: list[tuple[int, str]] = []
        self.seen = asyncio.Event()

    def carried(self, shard: int, event_count: int, newest_ms: int) -> None:
        self.carried_counts[shard] = self.carried_counts.get(shard, 0) + event_count
        self.seen.set()

    def fenced(self, shard: int) -> None:
        self.fences.append(shard)

    def alarmed(self, shard: int, error: PromiseServiceError) -> None:
        self.alarms.append((shard, error.reason))

    def failed(self, shard: int, reason: str, error: str) -> None:
        self.failures.append((shard, reason))
        self.seen.set()

    def faulted(self, shard: int, error: Exception) -> None:
        self.failures.append((shard, "INTERNAL"))
        self.seen.set()

    def stopped(self, shard: int, reason: str) -> None:
        self.stops.append((shard, reason))
        self.seen.set()
