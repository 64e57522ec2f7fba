"""The reference ledger of one shard: what every Function must do, in plain Python.

The Functions in ``adapters/ats_index/lua`` are its twins; one Hypothesis suite runs over both, and
the fake index of the tests is made of these. Slow and obvious on purpose. Time is passed in.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from promise_svc.domain.events import Event, EventType, PositionImage
from promise_svc.domain.inventory import (
    ARRIVED,
    PROTECTIONS_MAX,
    QUANTITY_MAX,
    PositionKey,
    Protection,
    StockPosition,
    ats,
    drawn,
    for_segment,
    passed_on,
    protected_units,
    shortage,
)
from promise_svc.domain.reservation import (
    CONTENDED_MS,
    DOUBT_MS,
    OPEN,
    RECORD_LAYOUT,
    RESOLVE_AFTER_MS,
    AdjustRow,
    ClaimRecord,
    ConformStep,
    CreateStep,
    CustomerLimit,
    FollowStep,
    LegLine,
    LegRecord,
    Outcome,
    ProtectRow,
    ResolveStep,
    ReviseStep,
    SettleStep,
    Shortfall,
    State,
    StepReply,
    SupplyReply,
    SupplyRow,
    SweepReply,
    may_move,
)
from promise_svc.domain.sharding import START, Position

_CLAIM_EVENT = {
    State.PENDING: EventType.RESERVATION_OPENED,
    State.HELD: EventType.RESERVATION_HELD,
    State.PINNED: EventType.RESERVATION_PINNED,
    State.CONFIRMED: EventType.RESERVATION_CONFIRMED,
    State.RELEASED: EventType.RESERVATION_RELEASED,
    State.CANCELLED: EventType.RESERVATION_CANCELLED,
    State.EXPIRED: EventType.RESERVATION_EXPIRED,
    State.FULFILLED: EventType.RESERVATION_FULFILLED,
    State.ABORTED: EventType.RESERVATION_ABORTED,
    State.SUPERSEDED: EventType.RESERVATION_SUPERSEDED,
}
_LEG_EVENT = {
    State.HELD: EventType.LEG_HELD,
    State.PINNED: EventType.LEG_PINNED,
    State.CONFIRMED: EventType.LEG_CONFIRMED,
    State.RELEASED: EventType.LEG_RELEASED,
    State.CANCELLED: EventType.LEG_CANCELLED,
    State.EXPIRED: EventType.LEG_EXPIRED,
    State.FULFILLED: EventType.LEG_FULFILLED,
    State.ABORTED: EventType.LEG_ABORTED,
    State.SUPERSEDED: EventType.LEG_SUPERSEDED,
}
_FOLLOWED = frozenset(
    {
        State.CONFIRMED,
        State.RELEASED,
        State.CANCELLED,
        State.EXPIRED,
        State.ABORTED,
        State.SUPERSEDED,
    }
)
_LETTING_GO = frozenset({State.RELEASED, State.EXPIRED, State.ABORTED, State.SUPERSEDED})
_GIVING_BACK = _LETTING_GO | {State.CANCELLED}
_CONFORMED = frozenset({State.HELD, State.CONFIRMED, State.FULFILLED, State.CANCELLED})
_CLOSED = frozenset({State.FULFILLED, State.CANCELLED})
_BARRED = frozenset({Outcome.INSUFFICIENT, Outcome.NETWORK_CHANGED, Outcome.LIMITED})
"""Refusals of a leg that leave a tombstone."""
_KEYED = frozenset({EventType.SUPPLY_ADJUSTED, EventType.SALE_RECORDED})


class ShardLedger:
    """Positions, claims, legs and events of one shard, decided by one caller at a time."""

    def __init__(self, shard: int, window_ms: int = 3_600_000) -> None:
        self.shard = shard
        self.window_ms = window_ms
        self.positions: dict[PositionKey, StockPosition] = {}
        self.legs: dict[str, LegRecord] = {}
        self.claims: dict[str, ClaimRecord] = {}
        self.adjustments: dict[str, tuple[str, int, int, int]] = {}
        self.open_until: dict[str, int] = {}
        self.doubted: dict[str, int] = {}
        """Legs taken without their claim, by when home is to be asked about them."""
        self.taken: dict[tuple[str, str, int], int] = {}
        """Counter, owner, window -> units that its legs have."""
        self.events: list[tuple[Position, Event]] = []
        self.at = START
        self.time_ms = 0
        self.network_floor = 0
        self._touched_positions: dict[PositionKey, None] = {}
        self._touched_leg: LegRecord | tuple[()] = ()
        self._touched_claim: ClaimRecord | tuple[()] = ()

    # -- a reservation's steps --------------------------------------------------------------

    def create(self, step: CreateStep, now_ms: int) -> StepReply:
        """Open a claim, take a leg, or both: everything the step names, or nothing of it.

        A refused leg of several leaves a tombstone: whoever sends this attempt again fails too,
        so the attempt may be aborted without asking who else drives it.
        """
        self._advance(now_ms)
        rid = step.reservation_id
        home = rid if step.claim else ""
        claim_outcome = self._check_claim(step)
        if claim_outcome not in (Outcome.DONE, Outcome.REPEATED):
            return self._reply(claim_outcome, home)
        opening = bool(step.claim) and claim_outcome is Outcome.DONE
        leg_outcome, shortfalls, contended = self._check_leg(step)
        if leg_outcome not in (Outcome.DONE, Outcome.REPEATED):
            if step.multi and leg_outcome in _BARRED:
                self._bar(rid, step.attempt)
            if opening and step.multi and step.claim and not step.claim.reacquires:
                self._open_claim(step, State.ABORTED)
                self._emit(rid)
            met = self.legs.get(rid)
            attempt = met.attempt if met else 0
            reply = self._reply(leg_outcome, home, shortfalls, contended)
            if leg_outcome is Outcome.RESOLVED and self._ended(rid) == step.attempt:
                reply = reply._replace(state=State.EXPIRED)
            return reply._replace(attempt=attempt)
        if step.lines and leg_outcome is Outcome.DONE:
            self._take_leg(step)
        if opening:
            self._open_claim(step, State.PENDING if step.multi else State.HELD)
        done = self._emit(rid)
        return self._reply(Outcome.DONE if done else Outcome.REPEATED, home)

    def resolve(self, step: ResolveStep, now_ms: int) -> StepReply:
        """Move a claim, once; the home shard's own leg follows in the same step."""
        self._advance(now_ms)
        rid, target = step.reservation_id, State(step.target)
        if step.successor and target is State.ABORTED:
            return self._bar_successor(step)
        claim = self._claim_now(rid)
        if claim is None:
            return self._reply(Outcome.MISSING, rid)
        if step.attempt and step.attempt != claim.attempt:
            return self._reply(Outcome.OTHER_PLAN, rid)
        if step.revision and step.revision != claim.revision:
            return self._reply(Outcome.REVISION_DIFFERS, rid)
        if _is_replacing(claim) and target is not State.ABORTED:
            return self._reply(Outcome.UNSETTLED, rid)
        if target is State.SUPERSEDED:
            return self._supersede(rid, claim, step)
        if target is State.ABORTED and claim.reacquired:
            target = State.EXPIRED
        if claim.state == target:
            return self._reply(Outcome.REPEATED, rid)
        if target is State.CONFIRMED:
            return self._confirm(rid, claim, pinned=bool(step.pinned))
        if target in (State.HELD, State.FULFILLED) or not may_move(State(claim.state), target):
            return self._reply(Outcome.REFUSED, rid)
        if target is State.CANCELLED and claim.change:
            # Some units may have left already: what is cancelled, the claim's body must say.
            return self._reply(Outcome.NEEDS_REVISION, rid)
        return self._decide(rid, claim, target)

    def revise(self, step: ReviseStep, now_ms: int) -> StepReply:
        """Change a claim's lines or expiry, or close it, if it is still as it was read."""
        self._advance(now_ms)
        rid, source, target = step.reservation_id, State(step.source), State(step.target)
        claim = self._claim_now(rid)
        if claim is None:
            return self._reply(Outcome.MISSING, rid)
        if claim.attempt != step.attempt:
            return self._reply(Outcome.OTHER_PLAN, rid)
        if claim.change != step.change:
            return self._reply(Outcome.REVISION_DIFFERS, rid)
        stays = source is target and source in (State.HELD, State.CONFIRMED)
        if claim.state != source or not (stays or (target in _CLOSED and may_move(source, target))):
            return self._reply(Outcome.REFUSED, rid)
        legs = step.legs or claim.legs
        leg = self._leg_now(rid) if self.shard in legs else None
        wanted = ConformStep(rid, step.attempt, step.change + 1, step.target, 0, step.lines)
        if self.shard in legs:
            if leg is None or leg.attempt != claim.attempt or not _may_conform(leg, wanted):
                return self._reply(Outcome.REFUSED, rid)
            if 0 < step.network_version < self.network_floor:
                return self._reply(Outcome.NETWORK_CHANGED, rid)
            shortfalls = self._growth_limited(leg, wanted.lines)
            if shortfalls:
                return self._reply(Outcome.LIMITED, rid, shortfalls)
            shortfalls = self._growth_refused(leg, wanted.lines)
            if shortfalls:
                return self._reply(Outcome.INSUFFICIENT, rid, shortfalls)
        alone = legs == (self.shard,)
        self._set_claim(
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
            self._conform_leg(rid, leg, wanted, step.expire_ms)
        if alone:
            self.open_until.pop(rid, None)
        else:
            self.open_until[rid] = self.time_ms + RESOLVE_AFTER_MS
        self._emit(rid, EventType.RESERVATION_REVISED if stays else None)
        return self._reply(Outcome.DONE if alone else Outcome.NEEDS_FOLLOW, rid)

    def conform(self, step: ConformStep, now_ms: int) -> StepReply:
        """Make a leg what a change of its claim says, or refuse and leave it as it is."""
        self._advance(now_ms)
        rid, target = step.reservation_id, State(step.target)
        leg = self._leg_now(rid)
        if leg is None:
            return self._reply(Outcome.MISSING, "")
        if leg.attempt != step.attempt:
            return self._other_plan(leg, step.attempt)
        if leg.state not in OPEN and leg.state != State.CONFIRMED:
            return self._leg_reply(Outcome.REPEATED, leg)
        if not step.lines:
            return self._lengthen(rid, leg, self.time_ms + step.ttl_ms)
        overtaken = target is State.HELD and leg.state == State.CONFIRMED
        if step.change < leg.change or overtaken:
            return self._leg_reply(Outcome.REPEATED, leg)
        wanted = step.lines
        if step.keeps:
            step = step._replace(lines=_with_what_goes(leg, wanted))
        if not _may_conform(leg, step):
            return self._leg_reply(Outcome.REFUSED, leg)
        expire_ms = self.time_ms + step.ttl_ms if step.ttl_ms else leg.expire_ms
        if leg == _conformed(leg, step, expire_ms):
            return self._leg_reply(Outcome.REPEATED, leg)
        if 0 < step.network_version < self.network_floor:
            return self._leg_reply(Outcome.NETWORK_CHANGED, leg)
        shortfalls = self._growth_limited(leg, wanted)
        if shortfalls:
            return self._leg_reply(Outcome.LIMITED, leg)._replace(shortfalls=shortfalls)
        shortfalls = self._growth_refused(leg, step.lines)
        if shortfalls:
            return self._leg_reply(Outcome.INSUFFICIENT, leg)._replace(shortfalls=shortfalls)
        moved = self._conform_leg(rid, leg, step, expire_ms)
        same = leg.state == moved.state or target is State.HELD
        self._emit(rid, EventType.LEG_REVISED if same else None)
        return self._leg_reply(Outcome.DONE, moved)

    def _lengthen(self, rid: str, leg: LegRecord, expire_ms: int) -> StepReply:
        if leg.state not in OPEN:
            return self._leg_reply(Outcome.REFUSED, leg)
        if expire_ms <= leg.expire_ms:
            return self._leg_reply(Outcome.REPEATED, leg)
        leg = leg._replace(expire_ms=expire_ms)
        self._set_leg(rid, leg)
        self._emit(rid, EventType.LEG_REVISED)
        return self._leg_reply(Outcome.DONE, leg)

    def follow(self, step: FollowStep, now_ms: int) -> StepReply:
        """Make a leg follow its claim; a missing leg that must not come alive gets a tombstone."""
        self._advance(now_ms)
        rid, target = step.reservation_id, State(step.target)
        leg = self.legs.get(rid)
        # Home pinned the claim in time: its leg's own time does not count against it, as long as
        # nobody has given the units to another.
        if leg is not None and (target is not State.CONFIRMED or leg.attempt != step.attempt):
            leg = self._leg_now(rid)
        barring = target is State.PENDING or target in _LETTING_GO
        if leg is not None and leg.attempt != step.attempt:
            if barring and leg.attempt < step.attempt and leg.state == State.HELD:
                # Home is at a later attempt, so no claim will ever speak for this leg.
                self._move_leg(rid, leg, State.ABORTED)
                self._emit(rid)
            elif leg.attempt > step.attempt or leg.state in OPEN or leg.state == State.CONFIRMED:
                return self._other_plan(leg, step.attempt)
            leg = None
        if leg is None:
            if barring:
                self._bar(rid, step.attempt)
            return self._reply(Outcome.MISSING, "")
        if target is State.PENDING:
            return self._leg_reply(Outcome.DONE, leg)
        if leg.state == target:
            if target is State.HELD:  # home has spoken for it
                self.doubted.pop(rid, None)
            return self._leg_reply(Outcome.REPEATED, leg)
        if target in _LETTING_GO and leg.state not in OPEN and leg.state != State.CONFIRMED:
            return self._leg_reply(Outcome.REPEATED, leg)
        if not _leg_may_move(State(leg.state), target):
            return self._leg_reply(Outcome.REFUSED, leg)
        moved = self._move_leg(rid, leg, target)
        self._emit(rid)
        return self._leg_reply(Outcome.DONE, moved)

    def settle(self, step: SettleStep, now_ms: int) -> StepReply:
        """Note that every leg has followed; a PENDING claim is HELD from here on."""
        self._advance(now_ms)
        rid = step.reservation_id
        claim = self._claim_now(rid)
        if claim is None:
            return self._reply(Outcome.MISSING, rid)
        if (claim.attempt, claim.state, claim.change) != step[1:4]:
            return self._reply(Outcome.REFUSED, rid)
        if _is_replacing(claim) and not step.replaced:
            return self._reply(Outcome.REFUSED, rid)
        if claim.settled or claim.state == State.PINNED:
            return self._reply(Outcome.REPEATED, rid)
        self.open_until.pop(rid, None)
        if claim.state == State.PENDING:
            self._set_claim(rid, claim._replace(state=State.HELD, settled=1))
            self._emit(rid)
        else:
            # Not an event: a claim that is settled twice after a replay does no harm.
            self.claims[rid] = claim._replace(settled=1)
        return self._reply(Outcome.DONE, rid)

    def read_claim(self, rid: str, now_ms: int) -> StepReply:
        """A claim as of now; writes nothing."""
        time_ms = max(self.time_ms, now_ms)
        claim = self.claims.get(rid)
        if claim is None:
            return StepReply(Outcome.MISSING, *self.at, time_ms)
        if _claim_due(claim, time_ms):
            claim = claim._replace(state=State.EXPIRED)
        return StepReply(Outcome.DONE, *self.at, time_ms, claim.state, claim)

    def read_leg(self, rid: str, now_ms: int) -> LegRecord | tuple[()]:
        """A leg as of now; writes nothing."""
        leg = self.legs.get(rid)
        if leg is None:
            return ()
        if _due(leg, max(self.time_ms, now_ms)):
            return leg._replace(state=State.EXPIRED)
        return leg

    def read_positions(self, sku: str, now_ms: int) -> list[PositionImage]:
        """Positions of a SKU with due holds given back, ordered by node and bucket."""
        time_ms = max(self.time_ms, now_ms)
        rows = {key: row for key, row in sorted(self.positions.items()) if key.sku == sku}
        for leg in self.legs.values():
            for line in leg.lines if _due(leg, time_ms) else ():
                key = PositionKey(*line[:3])
                if key in rows:
                    row = drawn(rows[key], leg.segment, -line.quantity, _since(leg))
                    rows[key] = row._replace(held=row.held - line.quantity)
        for key in [key for key, row in rows.items() if row.arrival_ms == ARRIVED]:
            place = key._replace(bucket="")
            row, here = passed_on(rows[key], rows.get(place, StockPosition()))
            if row != rows[key]:
                rows[key], rows[place] = row, here
        return [PositionImage(*key, row) for key, row in sorted(rows.items())]

    def open_claims(self, now_ms: int, limit: int) -> list[tuple[str, ClaimRecord]]:
        """Claims whose resolve time has come, oldest first."""
        time_ms = max(self.time_ms, now_ms)
        overdue = sorted((at, rid) for rid, at in self.open_until.items() if at <= time_ms)
        return [(rid, self.claims[rid]) for _, rid in overdue[:limit]]

    def sweep(self, limit: int, now_ms: int) -> SweepReply:
        """Expire up to ``limit`` due legs and ``limit`` due claims, longest due first; name up to
        ``limit`` legs that home should be asked about, and name them again if nobody does."""
        self._advance(now_ms)
        asked = sorted((at, rid) for rid, at in self.doubted.items() if at <= self.time_ms)
        legs = sorted(
            (leg.expire_ms, rid) for rid, leg in self.legs.items() if _due(leg, self.time_ms)
        )
        claims = sorted(
            (claim.expire_ms, rid)
            for rid, claim in self.claims.items()
            if _claim_due(claim, self.time_ms)
        )
        for _, rid in legs[:limit]:
            self._expire_leg(rid, self.legs[rid])
        for _, rid in claims[:limit]:
            self._expire_claim(rid, self.claims[rid])
        doubtful = tuple(
            rid
            for _, rid in asked[:limit]
            if rid in self.doubted and not _due(self.legs[rid], self.time_ms)
        )
        self.doubted.update(dict.fromkeys(doubtful, self.time_ms + DOUBT_MS))
        more = len(legs) > limit or len(claims) > limit or len(asked) > limit
        return SweepReply(min(len(legs), limit), min(len(claims), limit), int(more), doubtful)

    # -- supply -----------------------------------------------------------------------------

    def sync_supply(self, rows: Sequence[SupplyRow], now_ms: int) -> list[SupplyReply]:
        """Set absolute counts; one event for all rows that change something."""
        self._advance(now_ms)
        replies = [self._sync_row(row) for row in rows]
        self._emit("", EventType.SUPPLY_SYNCED)
        return [reply._replace(epoch=self.at.epoch, sequence=self.at.sequence) for reply in replies]

    def protect(self, rows: Sequence[ProtectRow], now_ms: int) -> list[SupplyReply]:
        """Set shares of segments; one event for all rows that change something. A share that goes
        on keeps what it has taken. TOO_MANY_SEGMENTS where a position has PROTECTIONS_MAX."""
        self._advance(now_ms)
        replies = [self._protect_row(row) for row in rows]
        self._emit("", EventType.PROTECTION_SET)
        return [reply._replace(epoch=self.at.epoch, sequence=self.at.sequence) for reply in replies]

    def _protect_row(self, row: ProtectRow) -> SupplyReply:
        key = PositionKey(*row[:3])
        old = self.positions.get(key, StockPosition())
        shares = {share.segment: share for share in old.protected}
        began = self.at.epoch, self.at.sequence + 1
        before = shares.get(row.segment, Protection(row.segment, 0, 0, *began))
        if before.level == row.level:
            return self._supply_reply(Outcome.UNCHANGED, key)
        if not before.level and len(shares) == PROTECTIONS_MAX:
            return self._supply_reply(Outcome.TOO_MANY_SEGMENTS, key)
        shares[row.segment] = before._replace(level=row.level)
        protected = tuple(share for share in shares.values() if share.level)
        self._set_position(key, old._replace(protected=protected))
        return self._supply_reply(Outcome.DONE, key)

    def adjust_supply(self, rows: Sequence[AdjustRow], now_ms: int) -> list[SupplyReply]:
        """Change counts, each row once per idempotency key; one event a row. A row without a SKU
        only claims its key; a sale takes what is there and owes the rest."""
        self._advance(now_ms)
        return [self._adjust_row(row) for row in rows]

    def raise_network_floor(self, version: int) -> None:
        """Refuse new legs planned on an older network from now on."""
        self.network_floor = max(self.network_floor, version)

    # -- life of the shard ------------------------------------------------------------------

    def take_over(self, now_ms: int) -> Position:
        """Start the next epoch."""
        self._advance(now_ms)
        previous = self.at
        self.at = Position(previous.epoch + 1, 0)
        self._append(Event(EventType.EPOCH_STARTED, self.time_ms, "", previous=previous))
        return self.at

    def restore(self, events: Iterable[tuple[Position, Event]]) -> None:
        """Apply after-images in order; rules do not run again."""
        for at, event in events:
            self.at, self.time_ms = at, max(self.time_ms, event.time_ms)
            for image in event.positions:
                self.positions[PositionKey(*image[:3])] = image.row
            if event.leg:
                self._count(event.subject, event.leg)
                self.legs[event.subject] = event.leg
                self.doubted.pop(event.subject, None)
                if event.leg.state == State.HELD and event.leg.multi and not event.claim:
                    self.doubted[event.subject] = self.time_ms + DOUBT_MS
            if event.claim:
                self._restore_claim(event.subject, event.claim)
            if event.type in _KEYED:
                row = event.positions[0].row if event.positions else StockPosition()
                answer = row.on_hand, ats(*for_segment(row, "")), shortage(*row[:4])
                self.adjustments[event.subject] = (event.note, *answer)

    # -- checks: no writes but expiry of what is due ------------------------------------------

    def _check_claim(self, step: CreateStep) -> Outcome:
        if not step.claim:
            return Outcome.DONE
        draft = step.claim
        claim = self._claim_now(step.reservation_id)
        if claim is None:
            late = draft.create_ms and self.time_ms - draft.create_ms > self.window_ms
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

    def _check_leg(self, step: CreateStep) -> tuple[Outcome, tuple[Shortfall, ...], int]:
        if not step.lines:
            return Outcome.REPEATED, (), 0
        leg = self._leg_now(step.reservation_id)
        if leg is not None:
            outcome = _meet_leg(leg, step)
            if outcome is not None:
                return outcome, (), 0
            if leg.state in OPEN:
                self._end_leg(step.reservation_id, leg, State.ABORTED)
        if step.network_version < self.network_floor:
            return Outcome.NETWORK_CHANGED, (), 0
        older = self._older_leg(step)
        limited = self._limited(step, older)
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
            left = self._make_room(line, line.quantity - mine, step.segment) + mine
            if left < line.quantity:
                known = key in self.positions
                shortfalls.append(Shortfall(index, max(0, left), int(known)))
                young = known and self.positions[key].multi_hold_ms > self.time_ms - CONTENDED_MS
                contended |= int(young)
        outcome = Outcome.INSUFFICIENT if shortfalls else Outcome.DONE
        return outcome, tuple(shortfalls), contended if shortfalls else 0

    def _older_leg(self, step: CreateStep) -> LegRecord | None:
        """What the hold to be replaced has here. Until one of the two is let go, both count as
        held: others find less, never more."""
        leg = self._leg_now(step.replaces) if step.replaces else None
        if leg is None or (leg.attempt, leg.state) != (step.replaced_attempt, State.HELD):
            return None
        return leg

    def _limited(self, step: CreateStep, older: LegRecord | None) -> tuple[Shortfall, ...]:
        """Lines of which the owner would have more than a limit allows."""
        limits = _windowed(step.limits, self.time_ms)
        wanted = _counted(step.owner, limits, step.lines, alive=True)
        own = _counted_of(older) if older else {}
        return self._over(step.owner, limits, wanted, own, step.lines)

    def _growth_limited(self, leg: LegRecord, lines: tuple[LegLine, ...]) -> tuple[Shortfall, ...]:
        """Lines that grow, of which the owner would have more than a limit allows."""
        before = _counted_of(leg)
        after = _counted(leg.owner, leg.limits, lines, alive=True)
        grown = {key: after[key] - before.get(key, 0) for key in after}
        return self._over(leg.owner, leg.limits, grown, {}, lines)

    def _over(
        self,
        owner: str,
        limits: tuple[CustomerLimit, ...],
        wanted: dict[tuple[str, str, int], int],
        own: dict[tuple[str, str, int], int],
        lines: tuple[LegLine, ...],
    ) -> tuple[Shortfall, ...]:
        left: dict[str, int] = {}
        for limit in limits:
            key = limit.counter, owner, limit.window
            more, most = wanted.get(key, 0), limit.quantity_max + own.get(key, 0)
            if more > 0 and self._have(owner, key, most - more) + more > most:
                left[limit.sku] = max(0, most - self.taken.get(key, 0))
        return tuple(
            Shortfall(index, left[line.sku], 1)
            for index, line in enumerate(lines)
            if line.sku in left
        )

    def _have(self, owner: str, key: tuple[str, str, int], most: int) -> int:
        """Units of a counter, after expiring just enough due legs of its owner if too many."""
        due = sorted(
            (leg.expire_ms, rid)
            for rid, leg in self.legs.items()
            if leg.limits and leg.owner == owner and _due(leg, self.time_ms)
        )
        for _, rid in due:
            if self.taken.get(key, 0) <= most:
                break
            self._expire_leg(rid, self.legs[rid])
        return self.taken.get(key, 0)

    def _count(self, rid: str, leg: LegRecord) -> None:
        """Counters follow every change of a leg, whatever made it."""
        before = self.legs.get(rid)
        was, now = _counted_of(before) if before else {}, _counted_of(leg)
        for key in was.keys() | now.keys():
            units = self.taken.get(key, 0) + now.get(key, 0) - was.get(key, 0)
            self.taken[key] = max(0, units)

    def _make_room(self, line: LegLine, quantity: int, segment: str) -> int:
        """Units left at a line's position for a segment, after expiring just enough due legs of its
        SKU if too few."""
        key = PositionKey(*line[:3])
        left = self._left(line, segment)
        if left >= quantity or key not in self.positions:
            return left
        due = sorted(
            (leg.expire_ms, rid)
            for rid, leg in self.legs.items()
            if _due(leg, self.time_ms) and any(line.sku == key.sku for line in leg.lines)
        )
        for _, rid in due:
            if self._left(line, segment) >= quantity:
                break
            self._expire_leg(rid, self.legs[rid])
        return self._left(line, segment)

    def _left(self, line: LegLine, segment: str) -> int:
        row = _limited_to(line, self.positions.get(PositionKey(*line[:3]), StockPosition()))
        kept = protected_units(row, segment)
        return row.on_hand - row.safety_stock - row.committed - row.held - kept

    def _claim_now(self, rid: str) -> ClaimRecord | None:
        claim = self.claims.get(rid)
        if claim is not None and _claim_due(claim, self.time_ms):
            self._expire_claim(rid, claim)
            return self.claims[rid]
        return claim

    def _leg_now(self, rid: str) -> LegRecord | None:
        leg = self.legs.get(rid)
        if leg is not None and _due(leg, self.time_ms):
            return self._expire_leg(rid, leg)
        return leg

    def _growth_refused(self, leg: LegRecord, lines: tuple[LegLine, ...]) -> tuple[Shortfall, ...]:
        """Lines that want more units than the leg has and than are left."""
        before = {line[:3]: line for line in leg.lines}
        shortfalls = []
        for index, line in enumerate(lines):
            key = PositionKey(*line[:3])
            growth = -_given_back(before.get(key, LegLine(*key, 0)), line)
            if growth > 0:
                left = self._make_room(line, growth, leg.segment)
                if left < growth:
                    known = int(key in self.positions)
                    shortfalls.append(Shortfall(index, max(0, left), known))
        return tuple(shortfalls)

    # -- writes -----------------------------------------------------------------------------

    def _take_leg(self, step: CreateStep) -> None:
        since = self.at.epoch, self.at.sequence + 1
        for line in step.lines:
            key = PositionKey(*line[:3])
            row = _limited_to(line, self.positions.get(key, StockPosition()))
            row = drawn(row, step.segment, line.quantity, since)
            row = row._replace(held=row.held + line.quantity)
            self._set_position(key, row._replace(multi_hold_ms=self.time_ms) if step.multi else row)
        self._set_leg(
            step.reservation_id,
            LegRecord(
                RECORD_LAYOUT,
                State.HELD,
                step.attempt,
                step.plan_hash,
                self.time_ms + step.ttl_ms,
                step.multi,
                step.lines,
                step.change,
                self._ended(step.reservation_id),
                step.replaces,
                step.segment,
                step.owner if step.limits else "",
                _windowed(step.limits, self.time_ms),
                *(since if step.segment else (0, 0)),
            ),
        )
        if step.multi and not step.claim:
            self.doubted[step.reservation_id] = self.time_ms + DOUBT_MS

    def _open_claim(self, step: CreateStep, state: State) -> None:
        assert step.claim
        draft, rid = step.claim, step.reservation_id
        before = self.claims.get(rid) if draft.reacquires else None
        self._set_claim(
            rid,
            ClaimRecord(
                RECORD_LAYOUT,
                state,
                step.attempt,
                before.revision if before else 1,
                draft.body_hash,
                step.plan_hash,
                before.create_ms if before else self.time_ms,
                self.time_ms + step.ttl_ms,
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
            self.open_until[rid] = self.time_ms + RESOLVE_AFTER_MS

    def _confirm(self, rid: str, claim: ClaimRecord, *, pinned: bool) -> StepReply:
        if claim.state not in OPEN:
            return self._reply(Outcome.REFUSED, rid)
        leg = self._leg_now(rid) if self.shard in claim.legs else None
        # Home's own leg is confirmed as its claim is pinned, like the others: it expires no more.
        standing = OPEN if claim.state != State.PINNED else OPEN | {State.CONFIRMED}
        lost = self.shard in claim.legs and (
            leg is None or leg.attempt != claim.attempt or leg.state not in standing
        )
        if lost:
            came = leg is not None and leg.attempt == claim.attempt and leg.state != State.ABORTED
            if claim.state != State.HELD and not came:
                # Opened shard by shard, and the leg is still on its way: now it must not come.
                if leg is None or not (leg.state in OPEN or leg.state == State.CONFIRMED):
                    self._bar(rid, claim.attempt)
                self._decide(rid, claim, State.ABORTED)
            else:
                # Only a leg sent again with a shorter life can be gone before its claim.
                self._decide(rid, claim, State.EXPIRED)
            return self._reply(Outcome.REFUSED, rid)
        followed = pinned and claim.state == State.PINNED
        if claim.legs == (self.shard,) or followed:
            return self._decide(rid, claim, State.CONFIRMED, followed=followed)
        if claim.state != State.PINNED:
            self._set_claim(rid, claim._replace(state=State.PINNED, settled=0))
            if leg is not None:
                self._move_leg(rid, leg, State.CONFIRMED)
            self.open_until[rid] = self.time_ms + RESOLVE_AFTER_MS
            self._emit(rid)
        return self._reply(Outcome.NEEDS_PINS, rid)

    def _decide(
        self, rid: str, claim: ClaimRecord, target: State, *, followed: bool = False
    ) -> StepReply:
        # Legs may still have to conform to a change that was decided before.
        alone = (followed and not claim.change) or claim.legs == (self.shard,)
        if target is State.EXPIRED:
            # A leg may end before its claim, if its message came first: then it ended now.
            claim = claim._replace(expire_ms=min(claim.expire_ms, self.time_ms))
        self._set_claim(rid, claim._replace(state=target, settled=int(alone)))
        leg = self._leg_now(rid) if self.shard in claim.legs else None
        ours = leg is not None and leg.attempt == claim.attempt
        if leg is not None and ours and _leg_may_move(State(leg.state), target):
            self._move_leg(rid, leg, target)
        if alone:
            self.open_until.pop(rid, None)
        else:
            self.open_until[rid] = self.time_ms + RESOLVE_AFTER_MS
        self._emit(rid)
        return self._reply(Outcome.DONE if alone else Outcome.NEEDS_FOLLOW, rid)

    def _supersede(self, rid: str, claim: ClaimRecord, step: ResolveStep) -> StepReply:
        """The one step in which a hold makes way for another of its owner."""
        named = step.successor, step.successor_attempt
        if claim.state == State.SUPERSEDED:
            same = named == (claim.successor, claim.successor_attempt)
            return self._reply(Outcome.REPEATED if same else Outcome.REFUSED, rid)
        barred = self.legs.get(_succession(step))
        if not step.successor or (barred and barred.attempt >= step.successor_attempt):
            return self._reply(Outcome.REFUSED, rid)
        if claim.state != State.HELD:
            return self._reply(Outcome.REFUSED, rid)
        successor, attempt = named
        claim = claim._replace(successor=successor, successor_attempt=attempt)
        return self._decide(rid, claim, State.SUPERSEDED)

    def _bar_successor(self, step: ResolveStep) -> StepReply:
        """That attempt shall never take the claim's place; REFUSED where it has."""
        rid, named = step.reservation_id, (step.successor, step.successor_attempt)
        claim = self.claims.get(rid)
        if claim is not None and named == (claim.successor, claim.successor_attempt):
            return self._reply(Outcome.REFUSED, rid)
        barred = self.legs.get(_succession(step))
        if barred is None or barred.attempt < step.successor_attempt:
            self._bar(_succession(step), step.successor_attempt)
        return self._reply(Outcome.DONE, rid)

    def _bar(self, rid: str, attempt: int) -> None:
        """Leave a tombstone: this attempt can never have this leg. No event: what it bars is
        on its way over a connection that does not outlive the process. Where units have left, their
        leg bars every attempt, and must stay: limits of a window count it."""
        before = self.legs.get(rid)
        if before is not None and before.state == State.FULFILLED:
            return
        tombstone = LegRecord(
            RECORD_LAYOUT, State.ABORTED, attempt, "", 0, 1, (), 0, self._ended(rid)
        )
        self._count(rid, tombstone)
        self.legs[rid] = tombstone

    def _ended(self, rid: str) -> int:
        """What a record in the place of the one that stands here must remember: that an attempt
        was granted and ended, or its claim would take it for one that never stood."""
        leg = self.legs.get(rid)
        if leg is None:
            return 0
        return leg.attempt if leg.state == State.EXPIRED else leg.ended

    def _move_leg(self, rid: str, leg: LegRecord, target: State) -> LegRecord:
        for line in leg.lines:
            key = PositionKey(*line[:3])
            row = _moved(self.positions[key], leg.state, target, line.quantity)
            if target in _GIVING_BACK:
                row = drawn(row, leg.segment, -line.quantity, _since(leg))
            self._set_position(key, row)
            self._pass_on(key)
        moved = leg._replace(state=target)
        self._set_leg(rid, moved)
        return moved

    def _conform_leg(
        self, rid: str, leg: LegRecord, step: ConformStep, expire_ms: int
    ) -> LegRecord:
        """Units first become committed where the claim's are, then change line by line."""
        target = State(step.target)
        committed = target is not State.HELD
        if committed and leg.state in OPEN:
            leg = self._move_leg(rid, leg, State.CONFIRMED)
        before = {line[:3]: line for line in leg.lines}
        wanted = {line[:3] for line in step.lines}
        gone = [LegLine(*line[:3], 0) for line in leg.lines if line[:3] not in wanted]
        for line in (*step.lines, *gone):
            key = PositionKey(*line[:3])
            old = before.get(key, LegLine(*key, 0))
            if old[:5] != line[:5]:
                row = _limited_to(line, self.positions.get(key, StockPosition()))
                row = _changed(row, old, line, committed)
                self._set_position(
                    key, drawn(row, leg.segment, -_given_back(old, line), _since(leg))
                )
                self._pass_on(key)
        moved = _conformed(leg, step, expire_ms)
        self._set_leg(rid, moved)
        return moved

    def _expire_leg(self, rid: str, leg: LegRecord) -> LegRecord:
        return self._end_leg(rid, leg, State.EXPIRED)

    def _end_leg(self, rid: str, leg: LegRecord, target: State) -> LegRecord:
        """An event of its own: what was touched before stays with the step's event."""
        kept = self._touched_positions, self._touched_leg, self._touched_claim
        self._touched_positions, self._touched_leg, self._touched_claim = {}, (), ()
        moved = self._move_leg(rid, leg, target)
        self._emit(rid)
        self._touched_positions, self._touched_leg, self._touched_claim = kept
        return moved

    def _expire_claim(self, rid: str, claim: ClaimRecord) -> None:
        """Its legs expire by their own shards' clocks, so there is nothing left to follow."""
        self._set_claim(rid, claim._replace(state=State.EXPIRED, settled=1))
        self.open_until.pop(rid, None)
        self._emit(rid)

    def _sync_row(self, row: SupplyRow) -> SupplyReply:
        key = PositionKey(*row[:3])
        known = self.positions.get(key)
        old = known or StockPosition()
        behind, owed = old.source_sequence - row.source_sequence, 0
        if row.source and row.source == old.source and behind > 0:
            return self._supply_reply(Outcome.STALE_SEQUENCE, key)
        if old.arrival_ms == ARRIVED:
            again = row.arrival_ms == ARRIVED
            return self._supply_reply(Outcome.UNCHANGED if again else Outcome.ALREADY_ARRIVED, key)
        arrival_ms = (row.arrival_ms or old.arrival_ms) if row.bucket else 0
        arrives = arrival_ms == ARRIVED
        if row.source and row.source == old.source and behind == 0 and not arrives:
            # This report was counted before: what left since then has left.
            row, owed = row._replace(on_hand=old.on_hand), old.sold_short
        elif row.arrived_counted and not row.bucket:
            had, wanted = self._arrived(key)
            owed = min(max(0, had - row.on_hand), QUANTITY_MAX)
            row = row._replace(on_hand=max(0, row.on_hand - wanted))
        safety_stock = old.safety_stock if row.safety_stock < 0 else row.safety_stock
        new = old._replace(
            on_hand=row.on_hand,
            committed=old.committed - old.sold_short + owed,
            safety_stock=0 if arrives else safety_stock,
            source=row.source,
            source_sequence=row.source_sequence,
            sold_short=owed,
            arrival_ms=arrival_ms,
        )
        same = (*old[:4], old.sold_short, old.arrival_ms) == (*new[:4], owed, arrival_ms)
        if known is not None and same:
            # The sequence is kept so that an older row is still recognised; that is no event.
            self.positions[key] = new
            return self._supply_reply(Outcome.UNCHANGED, key)
        self._set_position(key, new)
        self._pass_on(key)
        return self._supply_reply(Outcome.DONE, key)

    def _arrived(self, here: PositionKey) -> tuple[int, int]:
        """Units that arrived buckets of a node have for their holds and orders, and that they owe
        them: more, where less came than was sold."""
        rows = [
            row
            for key, row in self.positions.items()
            if key[:2] == here[:2] and row.arrival_ms == ARRIVED
        ]
        wanted = sum(max(row.on_hand, row.committed + row.held) for row in rows)
        return sum(row.on_hand for row in rows), wanted

    def _adjust_row(self, row: AdjustRow) -> SupplyReply:
        key = PositionKey(*row[:3])
        seen = self.adjustments.get(row.idempotency_key)
        if seen is not None:
            outcome = Outcome.REPEATED if seen[0] == row.body_hash else Outcome.BODY_DIFFERS
            return SupplyReply(outcome, seen[1], seen[2], *self.at, seen[3])
        if row.create_ms and self.time_ms - row.create_ms > self.window_ms:
            return self._supply_reply(Outcome.WINDOW_PASSED, key)
        kind = EventType.SALE_RECORDED if row.sale else EventType.SUPPLY_ADJUSTED
        if not row.sku:
            self.adjustments[row.idempotency_key] = (row.body_hash, 0, 0, 0)
            note = row.body_hash
            self._append(Event(kind, self.time_ms, row.idempotency_key, note))
            return SupplyReply(Outcome.DONE, 0, 0, *self.at)
        new = _adjusted(self.positions.get(key, StockPosition()), row)
        if new.on_hand < 0:
            return self._supply_reply(Outcome.BELOW_ZERO, key)
        if max(new.on_hand, new.sold_short) > QUANTITY_MAX:
            return self._supply_reply(Outcome.ABOVE_MAXIMUM, key)
        self._set_position(key, new)
        self._pass_on(key)
        self._emit(row.idempotency_key, kind, row.body_hash)
        reply = self._supply_reply(Outcome.DONE, key)
        answer = reply.on_hand, reply.ats, reply.shortage
        self.adjustments[row.idempotency_key] = (row.body_hash, *answer)
        return reply

    # -- bookkeeping --------------------------------------------------------------------------

    def _advance(self, now_ms: int) -> None:
        self.time_ms = max(self.time_ms, now_ms)

    def _set_position(self, key: PositionKey, row: StockPosition) -> None:
        assert row.held >= 0 and row.committed >= 0 and row.on_hand >= 0, (key, row)
        self.positions[key] = row
        self._touched_positions[key] = None

    def _pass_on(self, key: PositionKey) -> None:
        """Units of a bucket that is here belong to its holds and orders; the rest is stock here
        now. Holds stay where they are."""
        old, place = self.positions[key], key._replace(bucket="")
        if old.arrival_ms != ARRIVED:
            return
        row, here = passed_on(old, self.positions.get(place, StockPosition()))
        if row != old:
            self._set_position(key, row)
            self._set_position(place, here)

    def _set_leg(self, rid: str, leg: LegRecord) -> None:
        self._count(rid, leg)
        self.legs[rid] = self._touched_leg = leg
        if leg.state != State.HELD:
            self.doubted.pop(rid, None)

    def _set_claim(self, rid: str, claim: ClaimRecord) -> None:
        claim = claim._replace(epoch=self.at.epoch, sequence=self.at.sequence + 1)
        self.claims[rid] = self._touched_claim = claim

    def _restore_claim(self, rid: str, claim: ClaimRecord) -> None:
        self.claims[rid] = claim
        if claim.settled:
            self.open_until.pop(rid, None)
        else:
            self.open_until[rid] = self.time_ms + RESOLVE_AFTER_MS

    def _emit(self, subject: str, kind: EventType | None = None, note: str = "") -> bool:
        """Record what was touched as one event, of the state it is in unless ``kind`` is given;
        False when nothing was."""
        claim, leg = self._touched_claim, self._touched_leg
        if not (claim or leg or self._touched_positions):
            return False
        if claim:
            kind = kind or _CLAIM_EVENT[State(claim.state)]
            # Expiring a leg in between may have taken the number the claim was given.
            claim = claim._replace(epoch=self.at.epoch, sequence=self.at.sequence + 1)
            self.claims[subject] = claim
        elif leg:
            kind = kind or _LEG_EVENT[State(leg.state)]
        assert kind is not None
        images = tuple(PositionImage(*key, self.positions[key]) for key in self._touched_positions)
        self._append(Event(kind, self.time_ms, subject, note, claim, leg, images))
        self._touched_positions, self._touched_leg, self._touched_claim = {}, (), ()
        return True

    def _append(self, event: Event) -> None:
        self.at = Position(self.at.epoch, self.at.sequence + 1)
        self.events.append((self.at, event))

    def _reply(
        self,
        outcome: Outcome,
        rid: str,
        shortfalls: tuple[Shortfall, ...] = (),
        contended: int = 0,
    ) -> StepReply:
        claim = self.claims.get(rid)
        return StepReply(
            outcome,
            *self.at,
            self.time_ms,
            claim.state if claim else 0,
            claim or (),
            shortfalls,
            contended,
        )

    def _other_plan(self, leg: LegRecord, attempt: int) -> StepReply:
        """About an attempt whose place another has: EXPIRED where it ended here, else no state."""
        state = State.EXPIRED if leg.ended == attempt else 0
        return StepReply(Outcome.OTHER_PLAN, *self.at, self.time_ms, state)

    def _leg_reply(self, outcome: Outcome, leg: LegRecord) -> StepReply:
        return StepReply(outcome, *self.at, self.time_ms, leg.state)

    def _supply_reply(self, outcome: Outcome, key: PositionKey) -> SupplyReply:
        row = self.positions.get(key, StockPosition())
        units = ats(*for_segment(row, ""))
        return SupplyReply(outcome, row.on_hand, units, *self.at, shortage(*row[:4]))


def _due(record: ClaimRecord | LegRecord, time_ms: int) -> bool:
    """Expired by the clock, whether or not it was swept. Pinned records no longer expire."""
    return record.state in (State.PENDING, State.HELD) and time_ms >= record.expire_ms


def _since(leg: LegRecord) -> tuple[int, int]:
    return leg.epoch, leg.sequence


def _windowed(limits: tuple[CustomerLimit, ...], time_ms: int) -> tuple[CustomerLimit, ...]:
    """Limits with the window that units taken now count in."""
    return tuple(
        limit._replace(window=time_ms // limit.window_ms if limit.window_ms else 0)
        for limit in limits
    )


def _counted(
    owner: str, limits: tuple[CustomerLimit, ...], lines: tuple[LegLine, ...], *, alive: bool
) -> dict[tuple[str, str, int], int]:
    """Units that lines count for: those put aside, and in a window also those that left."""
    units: dict[tuple[str, str, int], int] = {}
    for limit in limits:
        key = limit.counter, owner, limit.window
        for line in lines:
            if line.sku == limit.sku:
                left = line.fulfilled if limit.window_ms else 0
                units[key] = units.get(key, 0) + left + (line.quantity if alive else 0)
    return units


def _counted_of(leg: LegRecord) -> dict[tuple[str, str, int], int]:
    alive = leg.state in OPEN or leg.state == State.CONFIRMED
    return _counted(leg.owner, leg.limits, leg.lines, alive=alive)


def _claim_due(claim: ClaimRecord, time_ms: int) -> bool:
    return _due(claim, time_ms) and not _is_replacing(claim)


def _is_replacing(claim: ClaimRecord) -> bool:
    """Whether another reservation's home still has to decide which of the two stands."""
    return claim.state == State.PENDING and bool(claim.replaces)


def _succession(step: ResolveStep) -> str:
    """Where the tombstone of one reservation's claim to another's place lies, among the legs."""
    return f"{step.successor}\n{step.reservation_id}"


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


def _leg_may_move(source: State, target: State) -> bool:
    """Legs follow decisions already taken at home, so they may skip the states in between. A leg is
    confirmed before its pinned claim is, so it also follows a confirm that came to nothing."""
    if source in OPEN:
        return target in _FOLLOWED
    ends = (State.CANCELLED, State.EXPIRED, State.ABORTED)
    return source is State.CONFIRMED and target in ends


def _limited_to(line: LegLine, row: StockPosition) -> StockPosition:
    """An account as of a line's limit; stock as it is."""
    return row if line.limit < 0 else row._replace(on_hand=line.limit)


def _moved(row: StockPosition, source: int, target: State, quantity: int) -> StockPosition:
    """Counters of a position whose units move from ``source`` to ``target``."""
    if source in OPEN:
        if target in OPEN:
            return row
        row = row._replace(held=row.held - quantity)
        if target not in (State.CONFIRMED, State.CANCELLED):
            return row
        row = row._replace(
            committed=row.committed + quantity, confirmed_total=row.confirmed_total + quantity
        )
    if target is not State.CONFIRMED:
        row = row._replace(
            committed=row.committed - quantity, cancelled_total=row.cancelled_total + quantity
        )
    return row


def _adjusted(old: StockPosition, row: AdjustRow) -> StockPosition:
    """The position after a change of on hand: a receipt pays first what was sold short, a sale owes
    what on hand does not cover. Below zero on hand where units are taken that are not there."""
    if row.sale:
        covered = min(old.on_hand, -row.quantity_delta)
        owed = -row.quantity_delta - covered
    else:
        owed = -min(old.sold_short, max(0, row.quantity_delta))
        covered = -row.quantity_delta - owed
    return old._replace(
        on_hand=old.on_hand - covered,
        committed=old.committed + owed,
        sold_short=old.sold_short + owed,
    )


def _given_back(old: LegLine, new: LegLine) -> int:
    """Units that go back into stock between two versions of a line; below zero, units wanted."""
    return old.quantity - (new.fulfilled - old.fulfilled) - new.quantity


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
