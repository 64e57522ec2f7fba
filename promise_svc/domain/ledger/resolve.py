"""resolve: move claims at their home shard. Twin: ``lua/resolve.lua``."""

from __future__ import annotations

from promise_svc.domain.ledger.records import is_replacing, leg_may_move
from promise_svc.domain.ledger.state import ShardState
from promise_svc.domain.reservation import (
    OPEN,
    RESOLVE_AFTER_MS,
    ClaimRecord,
    Outcome,
    ResolveStep,
    State,
    StepReply,
    may_move,
)


def resolve(shard: ShardState, step: ResolveStep, now_ms: int) -> StepReply:
    """Move a claim, once; the home shard's own leg follows in the same step."""
    shard.advance(now_ms)
    rid, target = step.reservation_id, State(step.target)
    if step.successor and target is State.ABORTED:
        return _bar_successor(shard, step)
    claim = shard.claim_now(rid)
    if claim is None:
        return shard.reply(Outcome.MISSING, rid)
    if step.attempt and step.attempt != claim.attempt:
        return shard.reply(Outcome.OTHER_PLAN, rid)
    if step.revision and step.revision != claim.revision:
        return shard.reply(Outcome.REVISION_DIFFERS, rid)
    if is_replacing(claim) and target is not State.ABORTED:
        return shard.reply(Outcome.UNSETTLED, rid)
    if target is State.SUPERSEDED:
        return _supersede(shard, rid, claim, step)
    if target is State.ABORTED and claim.reacquired:
        target = State.EXPIRED
    if claim.state == target:
        return shard.reply(Outcome.REPEATED, rid)
    if target is State.CONFIRMED:
        return _confirm(shard, rid, claim, pinned=bool(step.pinned))
    if target in (State.HELD, State.FULFILLED) or not may_move(State(claim.state), target):
        return shard.reply(Outcome.REFUSED, rid)
    if target is State.CANCELLED and claim.change:
        # Some units may have left already: what is cancelled, the claim's body must say.
        return shard.reply(Outcome.NEEDS_REVISION, rid)
    return _decide(shard, rid, claim, target)


def _confirm(shard: ShardState, rid: str, claim: ClaimRecord, *, pinned: bool) -> StepReply:
    if claim.state not in OPEN:
        return shard.reply(Outcome.REFUSED, rid)
    leg = shard.leg_now(rid) if shard.number in claim.legs else None
    # Home's own leg is confirmed as its claim is pinned, like the others: it expires no more.
    standing = OPEN if claim.state != State.PINNED else OPEN | {State.CONFIRMED}
    lost = shard.number in claim.legs and (
        leg is None or leg.attempt != claim.attempt or leg.state not in standing
    )
    if lost:
        came = leg is not None and leg.attempt == claim.attempt and leg.state != State.ABORTED
        if claim.state != State.HELD and not came:
            # Opened shard by shard, and the leg is still on its way: now it must not come.
            if leg is None or not (leg.state in OPEN or leg.state == State.CONFIRMED):
                shard.bar(rid, claim.attempt)
            _decide(shard, rid, claim, State.ABORTED)
        else:
            # Only a leg sent again with a shorter life can be gone before its claim.
            _decide(shard, rid, claim, State.EXPIRED)
        return shard.reply(Outcome.REFUSED, rid)
    followed = pinned and claim.state == State.PINNED
    if claim.legs == (shard.number,) or followed:
        return _decide(shard, rid, claim, State.CONFIRMED, followed=followed)
    if claim.state == State.PINNED:
        return shard.reply(Outcome.REPEATED, rid)
    shard.set_claim(rid, claim._replace(state=State.PINNED, settled=0))
    if leg is not None:
        shard.move_leg(rid, leg, State.CONFIRMED)
    shard.open_until[rid] = shard.time_ms + RESOLVE_AFTER_MS
    shard.emit(rid)
    return shard.reply(Outcome.NEEDS_PINS, rid)


def _decide(
    shard: ShardState, rid: str, claim: ClaimRecord, target: State, *, followed: bool = False
) -> StepReply:
    # Legs may still have to conform to a change that was decided before.
    alone = (followed and not claim.change) or claim.legs == (shard.number,)
    if target is State.EXPIRED:
        # A leg may end before its claim, if its message came first: then it ended now.
        claim = claim._replace(expire_ms=min(claim.expire_ms, shard.time_ms))
    shard.set_claim(rid, claim._replace(state=target, settled=int(alone)))
    leg = shard.leg_now(rid) if shard.number in claim.legs else None
    ours = leg is not None and leg.attempt == claim.attempt
    if leg is not None and ours and leg_may_move(State(leg.state), target):
        shard.move_leg(rid, leg, target)
    if alone:
        shard.open_until.pop(rid, None)
    else:
        shard.open_until[rid] = shard.time_ms + RESOLVE_AFTER_MS
    shard.emit(rid)
    return shard.reply(Outcome.DONE if alone else Outcome.NEEDS_FOLLOW, rid)


def _supersede(shard: ShardState, rid: str, claim: ClaimRecord, step: ResolveStep) -> StepReply:
    """The one step in which a hold makes way for another of its owner."""
    named = step.successor, step.successor_attempt
    if claim.state == State.SUPERSEDED:
        same = named == (claim.successor, claim.successor_attempt)
        return shard.reply(Outcome.REPEATED if same else Outcome.REFUSED, rid)
    barred = shard.legs.get(_succession(step))
    if not step.successor or (barred and barred.attempt >= step.successor_attempt):
        return shard.reply(Outcome.REFUSED, rid)
    if claim.state != State.HELD:
        return shard.reply(Outcome.REFUSED, rid)
    successor, attempt = named
    claim = claim._replace(successor=successor, successor_attempt=attempt)
    return _decide(shard, rid, claim, State.SUPERSEDED)


def _bar_successor(shard: ShardState, step: ResolveStep) -> StepReply:
    """That attempt shall never take the claim's place; REFUSED where it has."""
    rid, named = step.reservation_id, (step.successor, step.successor_attempt)
    claim = shard.claims.get(rid)
    if claim is not None and named == (claim.successor, claim.successor_attempt):
        return shard.reply(Outcome.REFUSED, rid)
    barred = shard.legs.get(_succession(step))
    if barred is None or barred.attempt < step.successor_attempt:
        shard.bar(_succession(step), step.successor_attempt)
    return shard.reply(Outcome.DONE, rid)


def _succession(step: ResolveStep) -> str:
    """Where the tombstone of one reservation's claim to another's place lies, among the legs."""
    return f"{step.successor}\n{step.reservation_id}"
