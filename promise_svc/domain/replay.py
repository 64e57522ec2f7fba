"""One shard's stored history applied again, event by event, with each event judged."""

from __future__ import annotations

from collections.abc import Iterator

from promise_svc.domain.audit import ALIVE, CLOCK_SKEW_MS, Finding, FindingKind, ShardRecords
from promise_svc.domain.events import Event, EventType, StoredEvent
from promise_svc.domain.inventory import PositionKey, StockPosition
from promise_svc.domain.ledger import ShardLedger
from promise_svc.domain.reservation import OPEN, ClaimRecord, LegRecord, State, may_move
from promise_svc.domain.sharding import START, Position

_NOWHERE = PositionKey("", "")


class Replay:
    """Takes a history from its first event on.

    Memory: every position, leg and claim the shard ever had.
    """

    def __init__(self, shard: int, window_ms: int) -> None:
        self._shard = shard
        self._window_ms = window_ms
        self._ledger = ShardLedger(shard)
        self.oversold: set[PositionKey] = set()
        self.moved_ms: dict[str, int] = {}
        """Reservation -> time of its last event here."""

    @property
    def at(self) -> Position:
        """The last event applied."""
        return self._ledger.at

    @property
    def records(self) -> ShardRecords:
        """What the events add up to so far; changes with the next one."""
        return ShardRecords(self._ledger.positions, self._ledger.legs, self._ledger.claims)

    def apply(self, stored: StoredEvent) -> list[Finding]:
        """Judge the event against what was before it, then apply it."""
        at, event = stored.at, stored.event
        found = [*self._gap(at, event), *self._illegal_moves(event), *self._oversold(at, event)]
        self._ledger.restore([(at, event)])
        if event.claim or event.leg:
            self.moved_ms[event.subject] = event.time_ms
        return found

    def _gap(self, at: Position, event: Event) -> Iterator[Finding]:
        before = self._ledger.at
        if at.epoch == before.epoch and before != START:
            if at.sequence != before.sequence + 1:
                text = f"{_name(at)} follows {_name(before)}"
                yield self._finding(
                    FindingKind.SEQUENCE_GAP, text, before.sequence + 1, at.sequence
                )
        elif event.type != EventType.EPOCH_STARTED or at != (before.epoch + 1, 1):
            text = f"epoch {at.epoch} begins with {_name(at)} after {_name(before)}"
            yield self._finding(FindingKind.SEQUENCE_GAP, text, 1, at.sequence)
        elif event.previous != before:
            told = _name(Position(*event.previous)) if event.previous else "nothing"
            text = f"epoch {at.epoch} says it follows {told}, and follows {_name(before)}"
            yield self._finding(FindingKind.SEQUENCE_GAP, text, before.sequence, at.sequence)

    def _illegal_moves(self, event: Event) -> Iterator[Finding]:
        rid = event.subject
        if event.claim:
            before = self._ledger.claims.get(rid)
            if before is not None and not self._legal(before, event.claim, event):
                yield self._illegal_move("claim", before, event.claim, rid)
        if event.leg:
            leg = self._ledger.legs.get(rid)
            if leg is not None and not self._legal_leg(leg, event.leg, event):
                yield self._illegal_move("leg", leg, event.leg, rid)

    def _illegal_move(
        self, what: str, before: ClaimRecord | LegRecord, after: ClaimRecord | LegRecord, rid: str
    ) -> Finding:
        text = (
            f"a {what} moved from {State(before.state).name} (attempt {before.attempt}) to "
            f"{State(after.state).name} (attempt {after.attempt})"
        )
        return self._finding(
            FindingKind.ILLEGAL_MOVE, text, before.state, after.state, reservation_id=rid
        )

    def _legal(self, before: ClaimRecord, after: ClaimRecord, event: Event) -> bool:
        same = before.attempt == after.attempt
        if same and may_move(State(before.state), State(after.state)):
            return True
        if event.type == EventType.RESERVATION_REVISED:
            kept = same and before.state == after.state
            return kept and after.change == before.change + 1
        anew = after.state in (State.PENDING, State.HELD, State.ABORTED)
        # A hold that ended by the clock may be taken again under its name.
        if before.state in (State.ABORTED, State.EXPIRED) and after.attempt > before.attempt:
            return anew
        return anew and self._forgotten(before.state, event)

    def _legal_leg(self, before: LegRecord, after: LegRecord, event: Event) -> bool:
        # A leg follows decisions taken at home, so it may skip the states in between.
        if before.attempt == after.attempt and before.state in OPEN:
            return after.state != State.PENDING
        if before.attempt == after.attempt and before.state == State.CONFIRMED:
            if event.type in (EventType.LEG_REVISED, EventType.RESERVATION_REVISED):
                return after.state == State.CONFIRMED and after.change >= before.change
            ends = (State.CANCELLED, State.FULFILLED, State.EXPIRED, State.ABORTED)
            return after.state in ends
        dead = before.state not in ALIVE
        joins = before.attempt == after.attempt and after.change > before.change
        if joins and dead and before.state != State.FULFILLED and after.state == State.HELD:
            return True  # for a later change than the one that asked in vain
        if dead and after.state == State.HELD and after.attempt > before.attempt:
            return True
        # What follows a tombstone (no event) may be a hold of the same attempt elsewhere.
        return after.state == State.HELD and self._forgotten(before.state, event)

    def _forgotten(self, state: int, event: Event) -> bool:
        """Whether the index may have dropped the resolved record, so that its name was free."""
        age_ms = event.time_ms - self.moved_ms.get(event.subject, event.time_ms)
        return state not in ALIVE and age_ms >= self._window_ms

    def _oversold(self, at: Position, event: Event) -> Iterator[Finding]:
        # Of a hold and the one that replaces it only one will stand.
        older = self._ledger.legs.get(event.leg.replaces) if event.leg else None
        twice = older.lines if older is not None and older.state == State.HELD else ()
        for image in event.positions:
            key, row = PositionKey(*image[:3]), image.row
            before = self._ledger.positions.get(key, StockPosition())
            own = sum(line.quantity for line in twice if line[:3] == key)
            demand, supply = _granted(row) - own, row.on_hand - row.safety_stock
            if demand > _granted(before) and demand > supply:
                self.oversold.add(key)
                text = f"{_name(at)} granted {demand} units of {supply}"
                yield self._finding(FindingKind.OVERSOLD, text, supply, demand, key)

    def _finding(
        self,
        kind: FindingKind,
        detail: str,
        expected: int,
        actual: int,
        key: PositionKey = _NOWHERE,
        reservation_id: str = "",
    ) -> Finding:
        return Finding(
            kind, self._shard, detail, expected, actual, *key, reservation_id=reservation_id
        )


def _granted(row: StockPosition) -> int:
    """Units given to reservations; what was sold elsewhere nobody granted."""
    return row.committed - row.sold_short + row.held


def remembered(replay: Replay, index: ShardRecords, time_ms: int, window_ms: int) -> ShardRecords:
    """What the index must have of a replayed history at ``time_ms``: it drops resolved records
    some time after the window, so those it no longer has are left out."""

    def kept(rid: str, state: int) -> bool:
        age_ms = time_ms - replay.moved_ms.get(rid, 0)
        return state in ALIVE or age_ms < window_ms - CLOCK_SKEW_MS

    positions, legs, claims = replay.records
    return ShardRecords(
        positions,
        {rid: leg for rid, leg in legs.items() if rid in index.legs or kept(rid, leg.state)},
        {r: claim for r, claim in claims.items() if r in index.claims or kept(r, claim.state)},
    )


def _name(at: Position) -> str:
    return f"event {at.epoch}-{at.sequence}"
