"""revise and conform: change a claim, and make its legs what the change says.

Twin: ``lua/revise.lua``.
"""

from __future__ import annotations

from promise_svc.domain.events import EventType
from promise_svc.domain.inventory import PositionKey, StockPosition, drawn
from promise_svc.domain.ledger.limits import counted, counted_of
from promise_svc.domain.ledger.records import limited_to, since
from promise_svc.domain.ledger.state import ShardState
from promise_svc.domain.reservation import (
    OPEN,
    RESOLVE_AFTER_MS,
    ConformStep,
    LegLine,
    LegRecord,
    Outcome,
    ReviseStep,
    Shortfall,
    State,
    StepReply,
    may_move,
)

_CONFORMED = frozenset({State.HELD, State.CONFIRMED, State.FULFILLED, State.CANCELLED})
_CLOSED = frozenset({State.FULFILLED, State.CANCELLED})


def revise(shard: ShardState, step: ReviseStep, now_ms: int) -> StepReply:
    """Change a claim's lines or expiry, or close it, if it is still as it was read."""
    shard.advance(now_ms)
    rid, source, target = step.reservation_id, State(step.source), State(step.target)
    claim = shard.claim_now(rid)
    if claim is None:
        return shard.reply(Outcome.MISSING, rid)
    if claim.attempt != step.attempt:
        return shard.reply(Outcome.OTHER_PLAN, rid)
    if claim.change != step.change:
        return shard.reply(Outcome.REVISION_DIFFERS, rid)
    stays = source is target and source in (State.HELD, State.CONFIRMED)
    if claim.state != source or not (stays or (target in _CLOSED and may_move(source, target))):
        return shard.reply(Outcome.REFUSED, rid)
    legs = step.legs or claim.legs
    leg = shard.leg_now(rid) if shard.number in legs else None
    wanted = ConformStep(rid, step.attempt, step.change + 1, step.target, 0, step.lines)
    if shard.number in legs:
        if leg is None or leg.attempt != claim.attempt or not _may_conform(leg, wanted):
            return shard.reply(Outcome.REFUSED, rid)
        if 0 < step.network_version < shard.network_floor:
            return shard.reply(Outcome.NETWORK_CHANGED, rid)
        shortfalls = _growth_limited(shard, leg, wanted.lines)
        if shortfalls:
            return shard.reply(Outcome.LIMITED, rid, shortfalls)
        shortfalls = _growth_refused(shard, leg, wanted.lines)
        if shortfalls:
            return shard.reply(Outcome.INSUFFICIENT, rid, shortfalls)
    alone = legs == (shard.number,)
    shard.set_claim(
        rid,
        claim._replace(
            state=target,
            revision=step.revision,
            expire_ms=step.expire_ms,
            legs=legs,
            body=step.body,
            settled=int(alone),
            change=step.change + 1,
        ),
    )
    if leg is not None:
        _conform_leg(shard, rid, leg, wanted, step.expire_ms)
    if alone:
        shard.open_until.pop(rid, None)
    else:
        shard.open_until[rid] = shard.time_ms + RESOLVE_AFTER_MS
    shard.emit(rid, EventType.RESERVATION_REVISED if stays else None)
    return shard.reply(Outcome.DONE if alone else Outcome.NEEDS_FOLLOW, rid)


def conform(shard: ShardState, step: ConformStep, now_ms: int) -> StepReply:
    """Make a leg what a change of its claim says, or refuse and leave it as it is."""
    shard.advance(now_ms)
    rid, target = step.reservation_id, State(step.target)
    leg = shard.leg_now(rid)
    if leg is None:
        return shard.reply(Outcome.MISSING, "")
    if leg.attempt != step.attempt:
        return shard.other_plan(leg, step.attempt)
    if leg.state not in OPEN and leg.state != State.CONFIRMED:
        return shard.leg_reply(Outcome.REPEATED, leg)
    if not step.lines:
        return _lengthen(shard, rid, leg, shard.time_ms + step.ttl_ms)
    overtaken = target is State.HELD and leg.state == State.CONFIRMED
    if step.change < leg.change or overtaken:
        return shard.leg_reply(Outcome.REPEATED, leg)
    wanted = step.lines
    if step.keeps:
        step = step._replace(lines=_with_what_goes(leg, wanted))
    if not _may_conform(leg, step):
        return shard.leg_reply(Outcome.REFUSED, leg)
    expire_ms = shard.time_ms + step.ttl_ms if step.ttl_ms else leg.expire_ms
    if leg == _conformed(leg, step, expire_ms):
        return shard.leg_reply(Outcome.REPEATED, leg)
    if 0 < step.network_version < shard.network_floor:
        return shard.leg_reply(Outcome.NETWORK_CHANGED, leg)
    shortfalls = _growth_limited(shard, leg, wanted)
    if shortfalls:
        return shard.leg_reply(Outcome.LIMITED, leg)._replace(shortfalls=shortfalls)
    shortfalls = _growth_refused(shard, leg, step.lines)
    if shortfalls:
        return shard.leg_reply(Outcome.INSUFFICIENT, leg)._replace(shortfalls=shortfalls)
    moved = _conform_leg(shard, rid, leg, step, expire_ms)
    same = leg.state == moved.state or target is State.HELD
    shard.emit(rid, EventType.LEG_REVISED if same else None)
    return shard.leg_reply(Outcome.DONE, moved)


def _lengthen(shard: ShardState, rid: str, leg: LegRecord, expire_ms: int) -> StepReply:
    if leg.state not in OPEN:
        return shard.leg_reply(Outcome.REFUSED, leg)
    if expire_ms <= leg.expire_ms:
        return shard.leg_reply(Outcome.REPEATED, leg)
    leg = leg._replace(expire_ms=expire_ms)
    shard.set_leg(rid, leg)
    shard.emit(rid, EventType.LEG_REVISED)
    return shard.leg_reply(Outcome.DONE, leg)


def _conform_leg(
    shard: ShardState, rid: str, leg: LegRecord, step: ConformStep, expire_ms: int
) -> LegRecord:
    """Units first become committed where the claim's are, then change line by line."""
    target = State(step.target)
    committed = target is not State.HELD
    if committed and leg.state in OPEN:
        leg = shard.move_leg(rid, leg, State.CONFIRMED)
    before = {line[:3]: line for line in leg.lines}
    wanted = {line[:3] for line in step.lines}
    gone = [LegLine(*line[:3], 0) for line in leg.lines if line[:3] not in wanted]
    for line in (*step.lines, *gone):
        key = PositionKey(*line[:3])
        old = before.get(key, LegLine(*key, 0))
        if old[:5] != line[:5]:
            row = limited_to(line, shard.positions.get(key, StockPosition()))
            row = _changed(row, old, line, committed)
            shard.set_position(key, drawn(row, leg.segment, -_given_back(old, line), since(leg)))
            shard.pass_on(key)
    moved = _conformed(leg, step, expire_ms)
    shard.set_leg(rid, moved)
    return moved


def _may_conform(leg: LegRecord, step: ConformStep) -> bool:
    """Whether a leg lives and can become what the step says, stock apart."""
    target = State(step.target)
    if leg.state not in OPEN and leg.state != State.CONFIRMED:
        return False
    if target not in _CONFORMED or (target is State.HELD and leg.state == State.CONFIRMED):
        return False
    wanted = {line[:3]: line for line in step.lines}
    if len(wanted) != len(step.lines):
        return False
    if any(line.fulfilled and line[:3] not in wanted for line in leg.lines):
        return False  # what left stays told
    before = {line[:3]: line for line in leg.lines}
    for key, line in wanted.items():
        left_with = line.fulfilled - before.get(key, LegLine(*key, 0)).fulfilled
        if left_with < 0 or left_with > before.get(key, LegLine(*key, 0)).quantity:
            return False
        if (target is State.HELD and left_with) or (target in _CLOSED and line.quantity):
            return False
        if target is State.CANCELLED and line.fulfilled:
            return False  # what left in part is FULFILLED
    return True


def _growth_limited(
    shard: ShardState, leg: LegRecord, lines: tuple[LegLine, ...]
) -> tuple[Shortfall, ...]:
    """Lines that grow, of which the owner would have more than a limit allows."""
    before = counted_of(leg)
    after = counted(leg.owner, leg.limits, lines, alive=True)
    grown = {key: after[key] - before.get(key, 0) for key in after}
    return shard.over_limit(leg.owner, leg.limits, grown, {}, lines)


def _growth_refused(
    shard: ShardState, leg: LegRecord, lines: tuple[LegLine, ...]
) -> tuple[Shortfall, ...]:
    """Lines that want more units than the leg has and than are left."""
    before = {line[:3]: line for line in leg.lines}
    shortfalls = []
    for index, line in enumerate(lines):
        key = PositionKey(*line[:3])
        growth = -_given_back(before.get(key, LegLine(*key, 0)), line)
        if growth > 0:
            left = shard.make_room(line, growth, leg.segment)
            if left < growth:
                known = int(key in shard.positions)
                shortfalls.append(Shortfall(index, max(0, left), known))
    return tuple(shortfalls)


def _with_what_goes(leg: LegRecord, wanted: tuple[LegLine, ...]) -> tuple[LegLine, ...]:
    """The lines wanted, first, and whatever the leg has beyond them."""
    before = {line[:3]: line for line in leg.lines}
    named = {line[:3] for line in wanted}

    def most(line: LegLine) -> LegLine:
        old = before.get(line[:3], line)
        kept = old.quantity - (line.fulfilled - old.fulfilled)
        return line._replace(quantity=max(line.quantity, kept))

    return (*map(most, wanted), *(line for line in leg.lines if line[:3] not in named))


def _conformed(leg: LegRecord, step: ConformStep, expire_ms: int) -> LegRecord:
    """The leg after the step. A pinned leg of a held claim stays pinned."""
    state = leg.state if step.target == State.HELD else step.target
    return leg._replace(state=state, expire_ms=expire_ms, lines=step.lines, change=step.change)


def _changed(row: StockPosition, old: LegLine, new: LegLine, committed: bool) -> StockPosition:
    """Counters of a position whose leg line changes. On hand stops at zero: a count that was
    corrected meanwhile may say that there is less than what left. What left still counts in an
    account."""
    fulfilled, given_back = new.fulfilled - old.fulfilled, _given_back(old, new)
    counts = new.limit >= 0
    if not committed:
        return row._replace(held=row.held - given_back)
    return row._replace(
        on_hand=row.on_hand if counts else max(0, row.on_hand - fulfilled),
        safety_stock=row.safety_stock + (fulfilled if counts else 0),
        committed=row.committed - fulfilled - given_back,
        confirmed_total=row.confirmed_total + max(0, -given_back),
        cancelled_total=row.cancelled_total + max(0, given_back),
        fulfilled_total=row.fulfilled_total + fulfilled,
    )


def _given_back(old: LegLine, new: LegLine) -> int:
    """Units that go back into stock between two versions of a line; below zero, units wanted."""
    return old.quantity - (new.fulfilled - old.fulfilled) - new.quantity
