"""The ATS index made of reference ledgers: what the audit reads, and the steps to make it."""

from __future__ import annotations

from collections.abc import Sequence

from promise_svc.adapters.event_codec import encode_event
from promise_svc.application.ports import OpenClaim, ShardMeta
from promise_svc.domain.events import StoredEvent
from promise_svc.domain.inventory import PositionKey, StockPosition
from promise_svc.domain.ledger import ShardLedger
from promise_svc.domain.reservation import ClaimRecord, LegRecord, StepReply
from promise_svc.domain.sharding import Position


class LedgerIndex:
    """Reads of ``AtsIndex`` over ``ledgers``, which a test moves by hand; ``now_ms`` is theirs.

    ``busy`` names shards that move each time they are scanned.
    """

    def __init__(self, shard_count: int, window_ms: int) -> None:
        self.shard_count = shard_count
        self.ledgers = [ShardLedger(shard, window_ms) for shard in range(shard_count)]
        self.now_ms = 1_700_000_000_000
        self.busy: set[int] = set()
        for ledger in self.ledgers:
            ledger.take_over(self.now_ms)

    def stored_events(self, shard: int) -> list[StoredEvent]:
        """The shard's whole outbox."""
        events = self.ledgers[shard].events
        return [StoredEvent(shard, at, event, encode_event(event)) for at, event in events]

    async def read_meta(self, shard: int, timeout: float) -> ShardMeta:
        ledger = self.ledgers[shard]
        return ShardMeta("p", "p", ledger.at, ledger.at, max(ledger.time_ms, self.now_ms), 0)

    async def scan(
        self, shard: int
    ) -> tuple[dict[PositionKey, StockPosition], dict[str, LegRecord], dict[str, ClaimRecord]]:
        ledger = self.ledgers[shard]
        if shard in self.busy:
            ledger.take_over(self.now_ms)
        return dict(ledger.positions), dict(ledger.legs), dict(ledger.claims)

    async def read_claims(
        self, shard: int, reservation_ids: Sequence[str], timeout: float
    ) -> list[StepReply]:
        return [self.ledgers[shard].read_claim(rid, self.now_ms) for rid in reservation_ids]

    async def read_legs(
        self, shard: int, reservation_ids: Sequence[str], timeout: float
    ) -> list[LegRecord | tuple[()]]:
        return [self.ledgers[shard].read_leg(rid, self.now_ms) for rid in reservation_ids]

    async def open_claims(self, shard: int, limit: int, timeout: float) -> list[OpenClaim]:
        return [OpenClaim(*claim) for claim in self.ledgers[shard].open_claims(self.now_ms, limit)]

    async def read_outbox(
        self, shard: int, after: Position, limit: int, timeout: float
    ) -> list[StoredEvent]:
        return [stored for stored in self.stored_events(shard) if stored.at > after][:limit]
