"""The ATS index made of reference ledgers: AtsIndex without an engine."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from promise_svc.adapters.event_codec import encode_event
from promise_svc.application.ports import OpenClaim, ShardMeta
from promise_svc.domain.events import PositionImage, StoredEvent
from promise_svc.domain.inventory import PositionKey, StockPosition
from promise_svc.domain.ledger import ShardLedger
from promise_svc.domain.reservation import (
    AdjustRow,
    ClaimRecord,
    ConformStep,
    CreateStep,
    FollowStep,
    LegRecord,
    ProtectRow,
    ResolveStep,
    ReviseStep,
    SettleStep,
    StepReply,
    SupplyReply,
    SupplyRow,
    SweepReply,
)
from promise_svc.domain.sharding import START, Position
from promise_svc.errors import NotServing, PreconditionFailed


class FakeAtsIndex:
    """Every shard is a ShardLedger under one clock, which only the test moves."""

    def __init__(self, shard_count: int = 64, now_ms: int = 1_800_000_000_000) -> None:
        self.shard_count = shard_count
        self.now_ms = now_ms
        self.process = "process-1"
        self.ledgers = [ShardLedger(shard) for shard in range(shard_count)]
        self.owners = [""] * shard_count
        self.durable = [START] * shard_count
        self.bound_to = ""

    def seen(self, shard: int) -> Position:
        return self.ledgers[shard].at

    def serve_all(self) -> None:
        """Take every shard over."""
        for shard, ledger in enumerate(self.ledgers):
            ledger.take_over(self.now_ms)
            self.owners[shard] = self.process

    async def create(
        self, shard: int, steps: Sequence[CreateStep], timeout: float
    ) -> list[StepReply]:
        return await self._each(shard, "create", steps)

    async def resolve(
        self, shard: int, steps: Sequence[ResolveStep], timeout: float
    ) -> list[StepReply]:
        return await self._each(shard, "resolve", steps)

    async def follow(
        self, shard: int, steps: Sequence[FollowStep], timeout: float
    ) -> list[StepReply]:
        return await self._each(shard, "follow", steps)

    async def settle(
        self, shard: int, steps: Sequence[SettleStep], timeout: float
    ) -> list[StepReply]:
        return await self._each(shard, "settle", steps)

    async def revise(
        self, shard: int, steps: Sequence[ReviseStep], timeout: float
    ) -> list[StepReply]:
        return await self._each(shard, "revise", steps)

    async def conform(
        self, shard: int, steps: Sequence[ConformStep], timeout: float
    ) -> list[StepReply]:
        return await self._each(shard, "conform", steps)

    async def read_claims(
        self, shard: int, reservation_ids: Sequence[str], timeout: float
    ) -> list[StepReply]:
        return await self._each(shard, "read_claim", reservation_ids)

    async def read_legs(
        self, shard: int, reservation_ids: Sequence[str], timeout: float
    ) -> list[LegRecord | tuple[()]]:
        return await self._each(shard, "read_leg", reservation_ids)

    async def read_positions(
        self, shard: int, skus: Sequence[str], timeout: float
    ) -> tuple[Position, int, list[list[PositionImage]]]:
        images = await self._each(shard, "read_positions", skus)
        return self.ledgers[shard].at, self.now_ms, images

    async def sync_supply(
        self, shard: int, rows: Sequence[SupplyRow], timeout: float
    ) -> list[SupplyReply]:
        return (await self._serving(shard)).sync_supply(rows, self.now_ms)

    async def protect(
        self, shard: int, rows: Sequence[ProtectRow], timeout: float
    ) -> list[SupplyReply]:
        return (await self._serving(shard)).protect(rows, self.now_ms)

    async def adjust_supply(
        self, shard: int, rows: Sequence[AdjustRow], timeout: float
    ) -> list[SupplyReply]:
        return (await self._serving(shard)).adjust_supply(rows, self.now_ms)

    async def sweep(self, shard: int, limit: int, timeout: float) -> SweepReply:
        return (await self._serving(shard)).sweep(limit, self.now_ms)

    async def open_claims(self, shard: int, limit: int, timeout: float) -> list[OpenClaim]:
        found = (await self._serving(shard)).open_claims(self.now_ms, limit)
        return [OpenClaim(*claim) for claim in found]

    async def read_outbox(
        self, shard: int, after: Position, limit: int, timeout: float
    ) -> list[StoredEvent]:
        await asyncio.sleep(0)
        later = [(at, event) for at, event in self.ledgers[shard].events if at > after]
        return [StoredEvent(shard, at, event, encode_event(event)) for at, event in later[:limit]]

    async def mark_durable(self, shard: int, at: Position, timeout: float) -> None:
        await self._serving(shard)
        self.durable[shard] = max(self.durable[shard], at)

    async def tell_durable(self, at: Mapping[int, Position], timeout: float) -> None:
        await asyncio.sleep(0)

    async def raise_network_floor(self, shard: int, version: int, timeout: float) -> None:
        (await self._serving(shard)).raise_network_floor(version)

    async def read_meta(self, shard: int, timeout: float) -> ShardMeta:
        await asyncio.sleep(0)
        ledger = self.ledgers[shard]
        return ShardMeta(
            self.owners[shard],
            self.process,
            ledger.at,
            self.durable[shard],
            max(ledger.time_ms, self.now_ms),
            ledger.network_floor,
        )

    async def take_over(self, shard: int, expected: Position, timeout: float) -> Position:
        await asyncio.sleep(0)
        if self.owners[shard] == self.process or self.ledgers[shard].at != expected:
            raise PreconditionFailed("it serves, or stands elsewhere")
        self.owners[shard] = self.process
        return self.ledgers[shard].take_over(self.now_ms)

    async def clear(self, shard: int, expected: Position, timeout: float) -> bool:
        await asyncio.sleep(0)
        if self.ledgers[shard].at != expected:
            return False
        self.ledgers[shard], self.owners[shard] = ShardLedger(shard), ""
        self.durable[shard] = START
        return True

    async def restore(self, shard: int, events: Sequence[StoredEvent], timeout: float) -> None:
        await asyncio.sleep(0)
        if self.owners[shard] == self.process:
            raise PreconditionFailed("it serves")
        self.ledgers[shard].restore((stored.at, stored.event) for stored in events)

    async def cluster_id(self, timeout: float) -> str:
        await asyncio.sleep(0)
        return self.bound_to

    async def bind_cluster(self, cluster_id: str, timeout: float) -> str:
        await asyncio.sleep(0)
        self.bound_to = self.bound_to or cluster_id
        return self.bound_to

    async def scan(
        self, shard: int
    ) -> tuple[dict[PositionKey, StockPosition], dict[str, LegRecord], dict[str, ClaimRecord]]:
        ledger = self.ledgers[shard]
        return dict(ledger.positions), dict(ledger.legs), dict(ledger.claims)

    async def _each(self, shard: int, verb: str, steps: Sequence[Any]) -> list[Any]:
        ledger = await self._serving(shard)
        return [getattr(ledger, verb)(step, self.now_ms) for step in steps]

    async def _serving(self, shard: int) -> ShardLedger:
        """The network takes a turn of the loop, so that concurrent calls interleave."""
        await asyncio.sleep(0)
        if self.owners[shard] != self.process:
            raise NotServing(f"shard {shard} awaits a takeover")
        return self.ledgers[shard]
