"""What callers were told, and what must follow from it: the product's promises from outside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from promise_svc.application.reservation import CreateResult, Reservation, TransitionResult
from promise_svc.application.reservation_body import CreateCommand, body_hash
from promise_svc.domain.inventory import PositionKey
from promise_svc.domain.reservation import ClaimRecord, CreateOutcome, State
from promise_svc.errors import IdempotencyKeyReused, NotFound

Broken = Callable[[str], None]

LATER = {
    State.HELD: frozenset(State) - {State.PENDING, State.PINNED, State.ABORTED},
    State.CONFIRMED: frozenset({State.CONFIRMED, State.CANCELLED, State.FULFILLED}),
    State.FULFILLED: frozenset({State.FULFILLED}),
    State.RELEASED: frozenset({State.RELEASED}),
    State.EXPIRED: frozenset({State.EXPIRED}),
    State.CANCELLED: frozenset({State.CANCELLED}),
    State.SUPERSEDED: frozenset({State.SUPERSEDED}),
}
"""State told -> states that may be told, or stand, after it."""


@dataclass(slots=True)
class Hold:
    """Everything callers know of one reservation id."""

    asked: set[State] = field(default_factory=set)
    """Moves that somebody has asked for, whatever came of it."""
    first: Reservation | None = None
    """The first answer that showed it."""
    body: str = ""
    """Hash of the body that was granted, once a create was told so."""
    granted: float = 0.0
    shown: list[tuple[float, State]] = field(default_factory=list)
    """When it was told, and the state."""
    amended: bool = False
    """Whether somebody has asked for other units: then its lines may differ from the first told."""


class Told:
    """Hears every answer; ``broken`` hears what cannot be true."""

    def __init__(
        self,
        broken: Broken,
        now: Callable[[], float],
        clock_max_ms: Callable[[], int],
        ends_ms: Callable[[str], int],
    ) -> None:
        """``ends_ms`` is when the first of a reservation's records ends: each lives from when its
        own message arrived."""
        self.holds: dict[str, Hold] = {}
        self.most_on_hand: dict[PositionKey, int] = {}
        self._broken = broken
        self._now = now
        self._clock_max_ms = clock_max_ms
        self._ends_ms = ends_ms

    def hold(self, rid: str) -> Hold:
        return self.holds.setdefault(rid, Hold())

    def created(
        self, command: CreateCommand, answer: CreateResult | Exception, began: float
    ) -> None:
        """An answer to a create that was begun at ``began``."""
        rid, body = command.reservation_id, body_hash(command)
        hold = self.hold(rid)
        granted = isinstance(answer, CreateResult) and answer.outcome is CreateOutcome.HELD
        before = bool(hold.body) and hold.granted <= began
        if isinstance(answer, IdempotencyKeyReused):
            if before and hold.body == body:
                self._broken(f"{rid}: its own body was refused as another's")
        elif granted and hold.body not in ("", body):
            self._broken(f"{rid}: granted for two bodies")
        elif not granted and isinstance(answer, CreateResult) and before:
            other = "another body got" if hold.body != body else "a retry got"
            self._broken(f"{rid}: was held, and {other} {answer.outcome.name}")
        if granted:
            assert isinstance(answer, CreateResult) and answer.reservation is not None
            if not hold.body:
                hold.body, hold.granted = body, self._now()
            self.shown(answer.reservation, began)
            if answer.reservation.replaces:
                # From here on nobody may be shown the older one as anything else.
                self.hold(answer.reservation.replaces).shown.append((self._now(), State.SUPERSEDED))
            self.count(rid)

    def moved(
        self, rid: str, target: State, answer: TransitionResult | Exception, began: float
    ) -> None:
        """An answer to a confirm, a release or a cancel."""
        if isinstance(answer, TransitionResult):
            self.shown(answer.reservation, began)
            shown = answer.reservation.state
            done = answer.outcome.name == target.name
            # In part, a cancel leaves the rest confirmed.
            if done and shown is not State.CONFIRMED and shown not in LATER[target]:
                self._broken(f"{rid}: {target.name} done, and shown {shown.name}")
        elif isinstance(answer, NotFound):
            self.missed(rid, began)

    def missed(self, rid: str, began: float) -> None:
        """It was not found."""
        hold = self.hold(rid)
        if hold.first is not None and hold.shown[0][0] <= began:
            self._broken(f"{rid}: was acknowledged, and was then not found")

    def shown(self, reservation: Reservation, began: float) -> None:
        """The reservation as an answer shows it: never less than what was told before."""
        rid, state = reservation.reservation_id, reservation.state
        hold = self.hold(rid)
        if hold.first is None:
            hold.first = reservation
        same = [_plan(each) for each in (hold.first, reservation)]
        shorter = reservation.expire_ms != hold.first.expire_ms and State.HELD not in hold.asked
        shorter = shorter and State.EXPIRED not in (state, hold.first.state)
        if (same[0] != same[1] and not hold.amended) or shorter:
            self._broken(f"{rid}: two answers show two plans: {same}")
        for told, before in hold.shown:
            if told <= began and state not in LATER[before]:
                self._broken(f"{rid}: shown {state.name} after {before.name}")
        if state is State.EXPIRED and self._clock_max_ms() < self._ends_ms(rid):
            self._broken(f"{rid}: EXPIRED before its time by every clock")
        if state is not State.HELD and state is not State.EXPIRED and state not in hold.asked:
            self._broken(f"{rid}: {state.name}, and nobody asked for it")
        hold.shown.append((self._now(), state))

    def count(self, rid: str) -> None:
        """Nobody was told of more units than there ever were: of those surely held or sold now."""
        first = self.holds[rid].first
        assert first is not None
        now_ms = self._clock_max_ms()
        for key in _units(first):
            if key not in self.most_on_hand:
                continue
            sure = sum(
                _units(hold.first).get(key, 0)
                for other, hold in self.holds.items()
                if hold.first is not None and _stands(hold, self._ends_ms(other), now_ms)
            )
            if sure > self.most_on_hand[key]:
                self._broken(f"{key}: {sure} units told, {self.most_on_hand[key]} is all there was")

    def check_claims(self, claims: dict[str, ClaimRecord]) -> None:
        """At the end: what stands is what was told, or may follow from it."""
        for rid, hold in self.holds.items():
            if hold.first is None:
                continue
            claim = claims.get(rid)
            if claim is None or claim.state == State.ABORTED:
                self._broken(f"{rid}: was acknowledged, and is lost")
                continue
            state = State(claim.state)
            for _, before in hold.shown:
                if state not in LATER[before]:
                    self._broken(f"{rid}: told {before.name}, and stands {state.name}")
            if state not in (State.HELD, State.EXPIRED) and state not in hold.asked:
                self._broken(f"{rid}: stands {state.name}, and nobody asked for it")


def _stands(hold: Hold, ends_ms: int, now_ms: int) -> bool:
    gone = {State.CANCELLED, State.RELEASED, State.SUPERSEDED}
    if hold.asked & gone or hold.amended:
        return False
    if hold.shown[-1][1] is State.EXPIRED:
        return False
    confirmed = any(state is State.CONFIRMED for _, state in hold.shown)
    return confirmed or now_ms < ends_ms


def _plan(reservation: Reservation) -> tuple[object, ...]:
    """What no later change may touch."""
    lines = [(line.line_id, line.sku, line.quantity, line.shard) for line in reservation.lines]
    return reservation.create_ms, reservation.owner_id, lines


def _units(reservation: Reservation) -> dict[PositionKey, int]:
    units: dict[PositionKey, int] = {}
    for line in reservation.lines:
        for planned in line.planned_units:
            key = PositionKey(line.sku, planned.node_id, planned.bucket)
            units[key] = units.get(key, 0) + planned.quantity
    return units
