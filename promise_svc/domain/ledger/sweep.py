"""sweep: expire what is due, and name the legs in doubt. Twin: ``lua/sweep.lua``."""

from __future__ import annotations

from promise_svc.domain.ledger.records import claim_due, due
from promise_svc.domain.ledger.state import ShardState
from promise_svc.domain.reservation import DOUBT_MS, SweepReply


def sweep(shard: ShardState, limit: int, now_ms: int) -> SweepReply:
    """Expire up to ``limit`` due legs and ``limit`` due claims, longest due first; name up to
    ``limit`` legs that home should be asked about, and name them again if nobody does."""
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
    more = len(legs) > limit or len(claims) > limit or len(asked) > limit
    return SweepReply(min(len(legs), limit), min(len(claims), limit), int(more), doubtful)
