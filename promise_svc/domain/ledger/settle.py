"""settle: note at home that every leg has followed. Twin: ``lua/settle.lua``."""

from __future__ import annotations

from promise_svc.domain.ledger.records import is_replacing
from promise_svc.domain.ledger.state import ShardState
from promise_svc.domain.reservation import Outcome, SettleStep, State, StepReply


def settle(shard: ShardState, step: SettleStep, now_ms: int) -> StepReply:
    """Note that every leg has followed; a PENDING claim is HELD from here on."""
    shard.advance(now_ms)
    rid = step.reservation_id
    claim = shard.claim_now(rid)
    if claim is None:
        return shard.reply(Outcome.MISSING, rid)
    if (claim.attempt, claim.state, claim.change) != step[1:4]:
        return shard.reply(Outcome.REFUSED, rid)
    if is_replacing(claim) and not step.replaced:
        return shard.reply(Outcome.REFUSED, rid)
    if claim.settled or claim.state == State.PINNED:
        return shard.reply(Outcome.REPEATED, rid)
    shard.open_until.pop(rid, None)
    if claim.state == State.PENDING:
        shard.set_claim(rid, claim._replace(state=State.HELD, settled=1))
        shard.emit(rid)
    else:
        # Not an event: a claim that is settled twice after a replay does no harm.
        shard.claims[rid] = claim._replace(settled=1)
    return shard.reply(Outcome.DONE, rid)
