"""The state of one shard's ledger, and the moves that all steps share.

Twins in ``lua/moves.lua``, ``lua/events.lua`` and ``lua/records.lua``.
"""

from __future__ import annotations

from promise_svc.domain.capacity import closes_ms, is_account
from promise_svc.domain.events import Event, EventType, PositionImage
from promise_svc.domain.inventory import (
    ARRIVED,
    PositionKey,
    StockPosition,
    drawn,
    passed_on,
    protected_units,
)
from promise_svc.domain.ledger.limits import counted_of
from promise_svc.domain.ledger.records import (
    GIVING_BACK,
    claim_due,
    due,
    limited_to,
    moved_counters,
    since,
)
from promise_svc.domain.reservation import (
    RECORD_LAYOUT,
    ClaimRecord,
    CustomerLimit,
    LegLine,
    LegRecord,
    Outcome,
    Shortfall,
    State,
    StepReply,
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


class ShardState:
    """Positions, claims, legs and events of one shard, and the moves that all steps share."""

    def __init__(self, number: int, window_ms: int = 3_600_000) -> None:
        self.number = number
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
        self.accounts: dict[PositionKey, int] = {}
        """Accounts of nodes' days, by when they are to be deleted."""
        self.events: list[tuple[Position, Event]] = []
        self.at = START
        self.time_ms = 0
        self.network_floor = 0
        self._touched_positions: dict[PositionKey, None] = {}
        self._touched_leg: LegRecord | tuple[()] = ()
        self._touched_claim: ClaimRecord | tuple[()] = ()

    def advance(self, now_ms: int) -> None:
        self.time_ms = max(self.time_ms, now_ms)

    def claim_now(self, rid: str) -> ClaimRecord | None:
        claim = self.claims.get(rid)
        if claim is not None and claim_due(claim, self.time_ms):
            self.expire_claim(rid, claim)
            return self.claims[rid]
        return claim

    def leg_now(self, rid: str) -> LegRecord | None:
        leg = self.legs.get(rid)
        if leg is not None and due(leg, self.time_ms):
            return self.expire_leg(rid, leg)
        return leg

    def make_room(self, line: LegLine, quantity: int, segment: str) -> int:
        """Units left at a line's position for a segment, after expiring just enough due legs of its
        SKU if too few."""
        key = PositionKey(*line[:3])
        left = self.left(line, segment)
        if left >= quantity or key not in self.positions:
            return left
        expired = sorted(
            (leg.expire_ms, rid)
            for rid, leg in self.legs.items()
            if due(leg, self.time_ms) and any(line.sku == key.sku for line in leg.lines)
        )
        for _, rid in expired:
            if self.left(line, segment) >= quantity:
                break
            self.expire_leg(rid, self.legs[rid])
        return self.left(line, segment)

    def left(self, line: LegLine, segment: str) -> int:
        row = limited_to(line, self.positions.get(PositionKey(*line[:3]), StockPosition()))
        kept = protected_units(row, segment)
        return row.on_hand - row.safety_stock - row.committed - row.held - kept

    def over_limit(
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
            if more > 0 and self.have(owner, key, most - more) + more > most:
                left[limit.sku] = max(0, most - self.taken.get(key, 0))
        return tuple(
            Shortfall(index, left[line.sku], 1)
            for index, line in enumerate(lines)
            if line.sku in left
        )

    def have(self, owner: str, key: tuple[str, str, int], most: int) -> int:
        """Units of a counter, after expiring just enough due legs of its owner if too many."""
        expired = sorted(
            (leg.expire_ms, rid)
            for rid, leg in self.legs.items()
            if leg.limits and leg.owner == owner and due(leg, self.time_ms)
        )
        for _, rid in expired:
            if self.taken.get(key, 0) <= most:
                break
            self.expire_leg(rid, self.legs[rid])
        return self.taken.get(key, 0)

    def count(self, rid: str, leg: LegRecord) -> None:
        """Counters follow every change of a leg, whatever made it."""
        before = self.legs.get(rid)
        was, now = counted_of(before) if before else {}, counted_of(leg)
        for key in was.keys() | now.keys():
            units = self.taken.get(key, 0) + now.get(key, 0) - was.get(key, 0)
            self.taken[key] = max(0, units)

    def move_leg(self, rid: str, leg: LegRecord, target: State) -> LegRecord:
        for line in leg.lines:
            key = PositionKey(*line[:3])
            if key not in self.positions:
                continue  # an account that was closed: what it counted has left
            row = moved_counters(self.positions[key], leg.state, target, line.quantity)
            if target in GIVING_BACK:
                row = drawn(row, leg.segment, -line.quantity, since(leg))
            self.set_position(key, row)
            self.pass_on(key)
        moved = leg._replace(state=target)
        self.set_leg(rid, moved)
        return moved

    def end_leg(self, rid: str, leg: LegRecord, target: State) -> LegRecord:
        """An event of its own: what was touched before stays with the step's event."""
        kept = self._touched_positions, self._touched_leg, self._touched_claim
        self._touched_positions, self._touched_leg, self._touched_claim = {}, (), ()
        moved = self.move_leg(rid, leg, target)
        self.emit(rid)
        self._touched_positions, self._touched_leg, self._touched_claim = kept
        return moved

    def expire_leg(self, rid: str, leg: LegRecord) -> LegRecord:
        return self.end_leg(rid, leg, State.EXPIRED)

    def expire_claim(self, rid: str, claim: ClaimRecord) -> None:
        """Its legs expire by their own shards' clocks, so there is nothing left to follow."""
        self.set_claim(rid, claim._replace(state=State.EXPIRED, settled=1))
        self.open_until.pop(rid, None)
        self.emit(rid)

    def bar(self, rid: str, attempt: int) -> None:
        """Leave a tombstone: this attempt can never have this leg. No event: what it bars is
        on its way over a connection that does not outlive the process. Where units have left, their
        leg bars every attempt, and must stay: limits of a window count it."""
        before = self.legs.get(rid)
        if before is not None and before.state == State.FULFILLED:
            return
        tombstone = LegRecord(
            RECORD_LAYOUT, State.ABORTED, attempt, "", 0, 1, (), 0, self.ended(rid)
        )
        self.count(rid, tombstone)
        self.legs[rid] = tombstone

    def ended(self, rid: str) -> int:
        """What a record in the place of the one that stands here must remember: that an attempt
        was granted and ended, or its claim would take it for one that never stood."""
        leg = self.legs.get(rid)
        if leg is None:
            return 0
        return leg.attempt if leg.state == State.EXPIRED else leg.ended

    def set_position(self, key: PositionKey, row: StockPosition) -> None:
        assert row.held >= 0 and row.committed >= 0 and row.on_hand >= 0, (key, row)
        self.put_position(key, row)
        self._touched_positions[key] = None

    def put_position(self, key: PositionKey, row: StockPosition) -> None:
        """Without an event."""
        if key not in self.positions and is_account(key.sku):
            self.accounts[key] = closes_ms(key.sku)
        self.positions[key] = row

    def close(self, key: PositionKey) -> None:
        """An account is no more."""
        self.positions.pop(key, None)
        self.accounts.pop(key, None)

    def pass_on(self, key: PositionKey) -> None:
        """Units of a bucket that is here belong to its holds and orders; the rest is stock here
        now. Holds stay where they are."""
        old, place = self.positions[key], key._replace(bucket="")
        if old.arrival_ms != ARRIVED:
            return
        row, here = passed_on(old, self.positions.get(place, StockPosition()))
        if row != old:
            self.set_position(key, row)
            self.set_position(place, here)

    def set_leg(self, rid: str, leg: LegRecord) -> None:
        self.count(rid, leg)
        self.legs[rid] = self._touched_leg = leg
        if leg.state != State.HELD:
            self.doubted.pop(rid, None)

    def set_claim(self, rid: str, claim: ClaimRecord) -> None:
        claim = claim._replace(epoch=self.at.epoch, sequence=self.at.sequence + 1)
        self.claims[rid] = self._touched_claim = claim

    def emit(self, subject: str, kind: EventType | None = None, note: str = "") -> bool:
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
        self.append(Event(kind, self.time_ms, subject, note, claim, leg, images))
        self._touched_positions, self._touched_leg, self._touched_claim = {}, (), ()
        return True

    def append(self, event: Event) -> None:
        self.at = Position(self.at.epoch, self.at.sequence + 1)
        self.events.append((self.at, event))

    def reply(
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

    def leg_reply(self, outcome: Outcome, leg: LegRecord) -> StepReply:
        return StepReply(outcome, *self.at, self.time_ms, leg.state)

    def other_plan(self, leg: LegRecord, attempt: int) -> StepReply:
        """About an attempt whose place another has: EXPIRED where it ended here, else no state."""
        state = State.EXPIRED if leg.ended == attempt else 0
        return StepReply(Outcome.OTHER_PLAN, *self.at, self.time_ms, state)
