"""Claims, legs and positions as of now; nothing is written. Twin: ``lua/read.lua``."""

from __future__ import annotations

from promise_svc.domain.events import PositionImage
from promise_svc.domain.inventory import ARRIVED, PositionKey, StockPosition, drawn, passed_on
from promise_svc.domain.ledger.records import claim_due, due, since
from promise_svc.domain.ledger.state import ShardState
from promise_svc.domain.reservation import ClaimRecord, LegRecord, Outcome, State, StepReply


def read_claim(shard: ShardState, rid: str, now_ms: int) -> StepReply:
    """A claim as of now; writes nothing."""
    time_ms = max(shard.time_ms, now_ms)
    claim = shard.claims.get(rid)
    if claim is None:
        return StepReply(Outcome.MISSING, *shard.at, time_ms)
    if claim_due(claim, time_ms):
        claim = claim._replace(state=State.EXPIRED)
    return StepReply(Outcome.DONE, *shard.at, time_ms, claim.state, claim)


def read_leg(shard: ShardState, rid: str, now_ms: int) -> LegRecord | tuple[()]:
    """A leg as of now; writes nothing."""
    leg = shard.legs.get(rid)
    if leg is None:
        return ()
    if due(leg, max(shard.time_ms, now_ms)):
        return leg._replace(state=State.EXPIRED)
    return leg


def read_positions(shard: ShardState, sku: str, now_ms: int) -> list[PositionImage]:
    """Positions of a SKU with due holds given back, ordered by node and bucket."""
    time_ms = max(shard.time_ms, now_ms)
    rows = {key: row for key, row in sorted(shard.positions.items()) if key.sku == sku}
    for leg in shard.legs.values():
        for line in leg.lines if due(leg, time_ms) else ():
            key = PositionKey(*line[:3])
            if key in rows:
                row = drawn(rows[key], leg.segment, -line.quantity, since(leg))
                rows[key] = row._replace(held=row.held - line.quantity)
    for key in [key for key, row in rows.items() if row.arrival_ms == ARRIVED]:
        place = key._replace(bucket="")
        row, here = passed_on(rows[key], rows.get(place, StockPosition()))
        if row != rows[key]:
            rows[key], rows[place] = row, here
    return [PositionImage(*key, row) for key, row in sorted(rows.items())]


def open_claims(shard: ShardState, now_ms: int, limit: int) -> list[tuple[str, ClaimRecord]]:
    """Claims whose resolve time has come, oldest first."""
    time_ms = max(shard.time_ms, now_ms)
    overdue = sorted((at, rid) for rid, at in shard.open_until.items() if at <= time_ms)
    return [(rid, shard.claims[rid]) for _, rid in overdue[:limit]]
