"""follow: make legs follow their claims, or probe them. Twin: ``lua/follow.lua``."""

from __future__ import annotations

from promise_svc.domain.ledger.records import LETTING_GO, leg_may_move
from promise_svc.domain.ledger.state import ShardState
from promise_svc.domain.reservation import OPEN, FollowStep, Outcome, State, StepReply


def follow(shard: ShardState, step: FollowStep, now_ms: int) -> StepReply:
    """Make a leg follow its claim; a missing leg that must not come alive gets a tombstone."""
    shard.advance(now_ms)
    rid, target = step.reservation_id, State(step.target)
    leg = shard.legs.get(rid)
    # Home pinned the claim in time: its leg's own time does not count against it, as long as
    # nobody has given the units to another.
    if leg is not None and (target is not State.CONFIRMED or leg.attempt != step.attempt):
        leg = shard.leg_now(rid)
    barring = target is State.PENDING or target in LETTING_GO
    if leg is not None and leg.attempt != step.attempt:
        if barring and leg.attempt < step.attempt and leg.state == State.HELD:
            # Home is at a later attempt, so no claim will ever speak for this leg.
            shard.move_leg(rid, leg, State.ABORTED)
            shard.emit(rid)
        elif leg.attempt > step.attempt or leg.state in OPEN or leg.state == State.CONFIRMED:
            return shard.other_plan(leg, step.attempt)
        leg = None
    if leg is None:
        if barring:
            shard.bar(rid, step.attempt)
        return shard.reply(Outcome.MISSING, "")
    if target is State.PENDING:
        return shard.leg_reply(Outcome.DONE, leg)
    if leg.state == target:
        if target is State.HELD:  # home has spoken for it
            shard.doubted.pop(rid, None)
        return shard.leg_reply(Outcome.REPEATED, leg)
    if target in LETTING_GO and leg.state not in OPEN and leg.state != State.CONFIRMED:
        return shard.leg_reply(Outcome.REPEATED, leg)
    if not leg_may_move(State(leg.state), target):
        return shard.leg_reply(Outcome.REFUSED, leg)
    moved = shard.move_leg(rid, leg, target)
    shard.emit(rid)
    return shard.leg_reply(Outcome.DONE, moved)
