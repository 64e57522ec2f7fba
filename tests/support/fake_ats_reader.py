"""The ATS table as a dictionary, a network of plain values, and a clock that stands still."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from promise_svc.application.ports import AtsRow
from promise_svc.domain.inventory import StockPosition, ats
from promise_svc.domain.sharding import Position


class FakeClock:
    """Moves only when told."""

    def __init__(self, now_ms: int) -> None:
        self.now = now_ms

    def now_ms(self) -> int:
        return self.now

    def monotonic(self) -> float:
        return self.now / 1000


class FakeAtsReader:
    """``stock`` is SKU -> rows, ``shards`` SKU -> shard; every shard stands at ``at``, followed up
    to ``time_ms``, but those in ``clocks``."""

    def __init__(self, time_ms: int) -> None:
        self.stock: dict[str, list[AtsRow]] = {}
        self.shards: dict[str, int] = {}
        self.kept: dict[str, dict[tuple[str, str], StockPosition]] = {}
        """SKU -> positions that keep shares for segments."""
        self.clocks: dict[int, tuple[Position, int]] = {}
        self.at = Position(1, 7)
        self.time_ms = time_ms
        self.search = None  # plans are the specification's

    def put(
        self,
        sku: str,
        node_id: str,
        on_hand: int,
        *,
        bucket: str = "",
        committed: int = 0,
        held: int = 0,
        safety_stock: int = 0,
        arrival_ms: int = 0,
    ) -> None:
        """Set one position."""
        rows = [r for r in self.stock.get(sku, []) if (r.node_id, r.bucket) != (node_id, bucket)]
        row = AtsRow(node_id, bucket, on_hand, committed, held, safety_stock, arrival_ms)
        self.stock[sku] = [*rows, row]

    def rows(self, sku: str) -> Sequence[AtsRow] | None:
        return self.stock.get(sku)

    def ats(self, sku: str, node_ids: Sequence[str] | None = None) -> int:
        return sum(
            ats(row.on_hand, row.committed, row.held, row.safety_stock)
            for row in self.stock.get(sku, [])
            if not row.bucket and (node_ids is None or row.node_id in node_ids)
        )

    def protected(self, sku: str) -> Mapping[tuple[str, str], StockPosition]:
        return self.kept.get(sku, {})

    def shard(self, sku: str) -> int | None:
        return self.shards.get(sku)

    def clock(self, shard: int) -> tuple[Position, int]:
        return self.clocks.get(shard, (self.at, self.time_ms))

    def as_of(self, sku: str) -> tuple[Position, int]:
        return self.at, self.time_ms
