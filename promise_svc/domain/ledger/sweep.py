"""sweep: expire what is due, name legs in doubt, close old accounts. Twin: ``lua/sweep.lua``."""

from __future__ import annotations

from promise_svc.domain.capacity import ACCOUNT_LOOK_MS
from promise_svc.domain.events import Event, EventType, PositionImage
from promise_svc.domain.inventory import StockPosition
from promise_svc.domain.ledger.records import claim_due, due
from promise_svc.domain.ledger.state import ShardState
from promise_svc.domain.reservation import DOUBT_MS, SweepReply


def sweep(shard: ShardState, limit: int, now_ms: int) -> SweepReply:
    """Expire up to ``limit`` due legs and ``limit`` due claims, longest due first; name up to
    ``limit`` legs that home should be asked about, and name them again if nobody does; look at up
    to ``limit`` accounts of days long past."""
    shard.advance(now_ms)
    asked = sorted((at, rid) for rid, at in shard.doubted.items() if at <= shard.time_ms)
    legs = sorted(
        (leg.expire_ms, rid) for rid, leg in shard.legs.items() if due(leg, shard.time_ms)
    )
    claims = sorted(
        (claim.expire_ms, rid)
        for rid, claim in shard.claims.items()
        if claim_due(claim, shard.time_ms)
    )
    for _, rid in legs[:limit]:
        shard.expire_leg(rid, shard.legs[rid])
    for _, rid in claims[:limit]:
        shard.expire_claim(rid, shard.claims[rid])
    doubtful = tuple(
        rid
        for _, rid in asked[:limit]
        if rid in shard.doubted and not due(shard.legs[rid], shard.time_ms)
    )
    shard.doubted.update(dict.fromkeys(doubtful, shard.time_ms + DOUBT_MS))
    old_count = _close_accounts(shard, limit)
    more = max(len(legs), len(claims), len(asked), old_count) > limit
    return SweepReply(min(len(legs), limit), min(len(claims), limit), int(more), doubtful)


def _close_accounts(shard: ShardState, limit: int) -> int:
    """One event for all that are deleted; those with orders that have not left are kept. How many
    there were to look at."""
    old = sorted(
        (at, f"{key.sku}\t{key.node_id}", key)
        for key, at in shard.accounts.items()
        if at <= shard.time_ms
    )
    closed = []
    for _, _, key in old[:limit]:
        row = shard.positions[key]
        if row.held or row.committed:
            shard.accounts[key] = shard.time_ms + ACCOUNT_LOOK_MS
        else:
            closed.append(PositionImage(*key, StockPosition()))
            shard.close(key)
    if closed:
        shard.append(Event(EventType.ACCOUNTS_CLOSED, shard.time_ms, "", positions=tuple(closed)))
    return len(old)
