"""create: open claims, take legs. Twin: ``lua/create.lua``."""

from __future__ import annotations

from promise_svc.domain.inventory import PositionKey, StockPosition, drawn
from promise_svc.domain.ledger.limits import counted, counted_of, windowed
from promise_svc.domain.ledger.records import limited_to
from promise_svc.domain.ledger.state import ShardState
from promise_svc.domain.reservation import (
    CONTENDED_MS,
    DOUBT_MS,
    OPEN,
    RECORD_LAYOUT,
    RESOLVE_AFTER_MS,
    ClaimRecord,
    CreateStep,
    LegRecord,
    Outcome,
    Shortfall,
    State,
    StepReply,
)

_BARRED = frozenset({Outcome.INSUFFICIENT, Outcome.NETWORK_CHANGED, Outcome.LIMITED})
"""Refusals of a leg that leave a tombstone."""


def create(shard: ShardState, step: CreateStep, now_ms: int) -> StepReply:
    """Open a claim, take a leg, or both: everything the step names, or nothing of it.

    A refused leg of several leaves a tombstone: whoever sends this attempt again fails too,
    so the attempt may be aborted without asking who else drives it.
    """
    shard.advance(now_ms)
    rid = step.reservation_id
    home = rid if step.claim else ""
    claim_outcome = _check_claim(shard, step)
    if claim_outcome not in (Outcome.DONE, Outcome.REPEATED):
        return shard.reply(claim_outcome, home)
    opening = bool(step.claim) and claim_outcome is Outcome.DONE
    leg_outcome, shortfalls, contended = _check_leg(shard, step)
    if leg_outcome not in (Outcome.DONE, Outcome.REPEATED):
        if step.multi and leg_outcome in _BARRED:
            shard.bar(rid, step.attempt)
        if opening and step.multi and step.claim and not step.claim.reacquires:
            _open_claim(shard, step, State.ABORTED)
            shard.emit(rid)
        met = shard.legs.get(rid)
        attempt = met.attempt if met else 0
        reply = shard.reply(leg_outcome, home, shortfalls, contended)
        if leg_outcome is Outcome.RESOLVED and shard.ended(rid) == step.attempt:
            reply = reply._replace(state=State.EXPIRED)
        return reply._replace(attempt=attempt)
    if step.lines and leg_outcome is Outcome.DONE:
        _take_leg(shard, step)
    if opening:
        _open_claim(shard, step, State.PENDING if step.multi else State.HELD)
    done = shard.emit(rid)
    return shard.reply(Outcome.DONE if done else Outcome.REPEATED, home)


def _check_claim(shard: ShardState, step: CreateStep) -> Outcome:
    if not step.claim:
        return Outcome.DONE
    draft = step.claim
    claim = shard.claim_now(step.reservation_id)
    if claim is None:
        late = draft.create_ms and shard.time_ms - draft.create_ms > shard.window_ms
        return Outcome.WINDOW_PASSED if late else Outcome.DONE
    if claim.state == State.ABORTED:
        if not claim.settled:
            return Outcome.UNSETTLED
        return Outcome.DONE if step.attempt > claim.attempt else Outcome.STALE_ATTEMPT
    if claim.body_hash != draft.body_hash:
        return Outcome.BODY_DIFFERS
    if claim.state == State.EXPIRED and draft.reacquires and step.attempt > claim.attempt:
        return Outcome.DONE if claim.settled else Outcome.UNSETTLED
    if claim.attempt == step.attempt and claim.plan_hash == step.plan_hash:
        return Outcome.REPEATED
    return Outcome.EXISTS


def _check_leg(shard: ShardState, step: CreateStep) -> tuple[Outcome, tuple[Shortfall, ...], int]:
    if not step.lines:
        return Outcome.REPEATED, (), 0
    leg = shard.leg_now(step.reservation_id)
    if leg is not None:
        outcome = _meet_leg(leg, step)
        if outcome is not None:
            return outcome, (), 0
        if leg.state in OPEN:
            shard.end_leg(step.reservation_id, leg, State.ABORTED)
    if step.network_version < shard.network_floor:
        return Outcome.NETWORK_CHANGED, (), 0
    older = _older_leg(shard, step)
    limited = _limited(shard, step, older)
    if limited:
        return Outcome.LIMITED, limited, 0
    shortfalls: list[Shortfall] = []
    contended = 0
    # Units that drew on a segment's share go back there: no other segment gets them.
    ours = older is not None and older.segment in ("", step.segment)
    lines = older.lines if older else ()
    own = {line[:3]: line.quantity for line in lines if ours or line.limit >= 0}
    for index, line in enumerate(step.lines):
        key = PositionKey(*line[:3])
        mine = own.get(key, 0)
        left = shard.make_room(line, line.quantity - mine, step.segment) + mine
        if left < line.quantity:
            known = key in shard.positions
            shortfalls.append(Shortfall(index, max(0, left), int(known)))
            young = known and shard.positions[key].multi_hold_ms > shard.time_ms - CONTENDED_MS
            contended |= int(young)
    outcome = Outcome.INSUFFICIENT if shortfalls else Outcome.DONE
    return outcome, tuple(shortfalls), contended if shortfalls else 0


def _meet_leg(leg: LegRecord, step: CreateStep) -> Outcome | None:
    """What an existing leg says to a create step; None when it makes way."""
    if leg.attempt == step.attempt and step.change:
        if leg.change < step.change and leg.state not in (State.CONFIRMED, State.FULFILLED):
            return None
        same = leg.change == step.change and leg.state in OPEN
        return Outcome.REPEATED if same else Outcome.RESOLVED
    if leg.attempt == step.attempt and leg.state != State.ABORTED:
        if leg.plan_hash != step.plan_hash:
            return Outcome.OTHER_PLAN
        alive = leg.state in OPEN or leg.state == State.CONFIRMED
        return Outcome.REPEATED if alive else Outcome.RESOLVED
    if leg.attempt >= step.attempt:
        return Outcome.RESOLVED
    if leg.state in OPEN or leg.state == State.CONFIRMED:
        return Outcome.OTHER_PLAN
    # What left is told by its leg alone: limits of a window count it.
    return Outcome.RESOLVED if leg.state == State.FULFILLED else None


def _older_leg(shard: ShardState, step: CreateStep) -> LegRecord | None:
    """What the hold to be replaced has here. Until one of the two is let go, both count as
    held: others find less, never more."""
    leg = shard.leg_now(step.replaces) if step.replaces else None
    if leg is None or (leg.attempt, leg.state) != (step.replaced_attempt, State.HELD):
        return None
    return leg


def _limited(shard: ShardState, step: CreateStep, older: LegRecord | None) -> tuple[Shortfall, ...]:
    """Lines of which the owner would have more than a limit allows."""
    limits = windowed(step.limits, shard.time_ms)
    wanted = counted(step.owner, limits, step.lines, alive=True)
    own = counted_of(older) if older else {}
    return shard.over_limit(step.owner, limits, wanted, own, step.lines)


def _take_leg(shard: ShardState, step: CreateStep) -> None:
    since = shard.at.epoch, shard.at.sequence + 1
    for line in step.lines:
        key = PositionKey(*line[:3])
        row = limited_to(line, shard.positions.get(key, StockPosition()))
        row = drawn(row, step.segment, line.quantity, since)
        row = row._replace(held=row.held + line.quantity)
        shard.set_position(key, row._replace(multi_hold_ms=shard.time_ms) if step.multi else row)
    shard.set_leg(
        step.reservation_id,
        LegRecord(
            RECORD_LAYOUT,
            State.HELD,
            step.attempt,
            step.plan_hash,
            shard.time_ms + step.ttl_ms,
            step.multi,
            step.lines,
            step.change,
            shard.ended(step.reservation_id),
            step.replaces,
            step.segment,
            step.owner if step.limits else "",
            windowed(step.limits, shard.time_ms),
            *(since if step.segment else (0, 0)),
        ),
    )
    if step.multi and not step.claim:
        shard.doubted[step.reservation_id] = shard.time_ms + DOUBT_MS


def _open_claim(shard: ShardState, step: CreateStep, state: State) -> None:
    assert step.claim
    draft, rid = step.claim, step.reservation_id
    before = shard.claims.get(rid) if draft.reacquires else None
    shard.set_claim(
        rid,
        ClaimRecord(
            RECORD_LAYOUT,
            state,
            step.attempt,
            before.revision if before else 1,
            draft.body_hash,
            step.plan_hash,
            before.create_ms if before else shard.time_ms,
            shard.time_ms + step.ttl_ms,
            draft.legs,
            draft.body,
            0,
            0,
            1 - step.multi,
            0,
            draft.reacquires,
            step.replaces,
            step.replaced_attempt,
        ),
    )
    if step.multi:
        shard.open_until[rid] = shard.time_ms + RESOLVE_AFTER_MS
