"""The shards' side of stock reads: a dictionary that can be slow, away or counted."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from promise_svc.domain.events import PositionImage
from promise_svc.domain.inventory import StockPosition
from promise_svc.domain.sharding import Position
from promise_svc.errors import PromiseServiceError


class FakeStockIndex:
    """Answers from ``stock`` (SKU -> node -> on hand) at ``time_ms``.

    ``calls`` lists (shard, SKUs). With ``gate`` set, reads wait for it; ``failures`` raise by
    shard.
    """

    def __init__(self, time_ms: int, shard_count: int = 4) -> None:
        self.shard_count = shard_count
        self.time_ms = time_ms
        self.stock: dict[str, dict[str, int]] = {}
        self.calls: list[tuple[int, tuple[str, ...]]] = []
        self.failures: dict[int, PromiseServiceError] = {}
        self.gate: asyncio.Event | None = None
        self.entered = asyncio.Event()

    async def read_positions(
        self, shard: int, skus: Sequence[str], timeout: float
    ) -> tuple[Position, int, list[list[PositionImage]]]:
        self.calls.append((shard, tuple(skus)))
        self.entered.set()
        if self.gate is not None:
            await self.gate.wait()
        if shard in self.failures:
            raise self.failures[shard]
        answers = [
            [PositionImage(sku, node, "", StockPosition(on_hand)) for node, on_hand in rows.items()]
            for sku in skus
            for rows in [self.stock.get(sku, {})]
        ]
        return Position(2, 9), self.time_ms, answers
