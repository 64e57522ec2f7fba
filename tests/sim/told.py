"""What callers were told, and what must follow from it: the product's promises from outside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from promise_svc.application.promise import planned_units
from promise_svc.application.reservation import CreateResult, Reservation, TransitionResult
from promise_svc.application.reservation_body import CreateCommand, body_hash
from promise_svc.domain.inventory import PositionKey
from promise_svc.domain.reservation import ClaimRecord, CreateOutcome, HoldPolicy, State
from promise_svc.errors import IdempotencyKeyReused, NotFound
from tests.sim.draws import Draws
from tests.sim.valkey import EPOCH_MS

Broken = Callable[[str], None]

CLOCKS_MS = 6_000
"""Clocks of shards differ by less from a caller's."""

_GRANTED = (CreateOutcome.HELD, CreateOutcome.PARTLY_HELD)

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
    reacquired: bool = False
    """Whether somebody has asked for it again after its end: then EXPIRED may not be the end."""


class Told:
    """Hears every answer; ``broken`` hears what cannot be true."""

    def __init__(
        self,
        broken: Broken,
        now: Callable[[], float],
        clock_max_ms: Callable[[], int],
        ends_ms: Callable[[str], int],
        draws: Draws,
    ) -> None:
        """``ends_ms`` is when the first of a reservation's records ends: each lives from when its
        own message arrived."""
        self.holds: dict[str, Hold] = {}
        self.most_on_hand: dict[PositionKey, int] = {}
        self._broken = broken
        self._now = now
        self._clock_max_ms = clock_max_ms
        self._ends_ms = ends_ms
        self._draws = draws
        self._limits = draws.limits()
        self._kept: dict[PositionKey, dict[str, int]] = {}

    def limit_edited(self, sku: str, quantity_max: int) -> None:
        """Somebody asks for another limit: what its SKUs are held to is the most there ever was."""
        counter, _ = self._limits[sku]
        for name, (theirs, limit) in self._limits.items():
            if theirs == counter and limit.quantity_max < quantity_max:
                self._limits[name] = counter, replace(limit, quantity_max=quantity_max)

    def share_edited(self, key: PositionKey, segment: str, level: int) -> None:
        """Somebody asks for another share: what is surely kept is the least there ever was."""
        kept = self._kept_of(key)
        if segment in kept:
            kept[segment] = min(kept[segment], level)

    def _kept_of(self, key: PositionKey) -> dict[str, int]:
        """Segment -> what is kept for it all the time."""
        return self._kept.setdefault(key, self._draws.kept(key))

    def hold(self, rid: str) -> Hold:
        return self.holds.setdefault(rid, Hold())

    def created(
        self, command: CreateCommand, answer: CreateResult | Exception, began: float
    ) -> None:
        """An answer to a create that was begun at ``began``."""
        rid, body = command.reservation_id, body_hash(command)
        hold = self.hold(rid)
        granted = isinstance(answer, CreateResult) and answer.outcome in _GRANTED
        before = bool(hold.body) and hold.granted <= began
        if isinstance(answer, IdempotencyKeyReused):
            if before and hold.body == body:
                self._broken(f"{rid}: its own body was refused as another's")
        elif granted and hold.body not in ("", body):
            self._broken(f"{rid}: granted for two bodies")
        elif not granted and isinstance(answer, CreateResult) and before:
            other = "another body got" if hold.body != body else "a retry got"
            self._broken(f"{rid}: was held, and {other} {answer.outcome.name}")
        late_ms = EPOCH_MS + began * 1000 - command.create_ms - self._draws.window_ms
        if granted and not answer.replayed and command.create_ms and late_ms > CLOCKS_MS:
            self._broken(f"{rid}: carried out, and its key is {late_ms:.0f} ms too old")
        if granted:
            assert isinstance(answer, CreateResult) and answer.reservation is not None
            if not hold.body:
                hold.body, hold.granted = body, self._now()
            self.shown(answer.reservation, began)
            if not hold.amended:
                self._as_asked(command, answer.reservation)
            if answer.reservation.replaces:
                # From here on nobody may be shown the older one as anything else.
                self.hold(answer.reservation.replaces).shown.append((self._now(), State.SUPERSEDED))
            self.count(rid)

    def _as_asked(self, command: CreateCommand, shown: Reservation) -> None:
        """Every unit asked for is held, or told as not held where the policy allows; of a quote, at
        the nodes it names."""
        rid, bundles = shown.reservation_id, {x.line_id: x for x in shown.bundles}
        units = {line.line_id: line.quantity for line in shown.lines}
        unheld = {x.line_id: x.quantity for x in shown.unheld}
        if unheld and command.policy is HoldPolicy.ALL_OR_NOTHING:
            self._broken(f"{rid}: all or nothing, and {unheld} are not held")
        for line in command.lines:
            bundle = bundles.get(line.line_id)
            held = bundle.quantity(units) if bundle else units.get(line.line_id, 0)
            if held + unheld.get(line.line_id, 0) != line.quantity:
                self._broken(f"{rid}: {held} held and {unheld} not, of {line}")
        for told in shown.lines if command.pickup_node_id else ():
            if {x.node_id for x in told.planned_units} != {command.pickup_node_id}:
                self._broken(f"{rid}: {told} is not where it is to be collected")
        if command.quote is not None:
            quoted = planned_units(command.quote.plan.shipments)
            for told in shown.lines:
                places = [sorted((x.node_id, x.quantity) for x in parts)
                          for parts in (told.planned_units, quoted[told.line_id])]  # fmt: skip
                if places[0] != places[1]:
                    self._broken(f"{rid}: quoted {places[1]}, held {places[0]} of {told.line_id}")

    def moved(
        self, rid: str, target: State, answer: TransitionResult | Exception, began: float
    ) -> None:
        """An answer to a confirm, a release or a cancel."""
        if isinstance(answer, TransitionResult):
            self.shown(answer.reservation, began)
            shown = answer.reservation.state
            done, hold = answer.outcome.name == target.name, self.hold(rid)
            # In part, a cancel leaves the rest confirmed, or what left before.
            after = LATER[target] | {State.CONFIRMED, *(hold.asked & {State.FULFILLED})}
            if done and shown not in after:
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
        shorter = shorter and State.EXPIRED not in (state, hold.first.state) and not hold.reacquired
        if (same[0] != same[1] and not hold.amended) or shorter:
            self._broken(f"{rid}: two answers show two plans: {same}")
        for told, before in hold.shown:
            if told <= began and state not in _later(before, hold):
                self._broken(f"{rid}: shown {state.name} after {before.name}")
        self._whole_bundles(reservation)
        early = not hold.reacquired and self._clock_max_ms() < self._ends_ms(rid)
        if state is State.EXPIRED and early:
            self._broken(f"{rid}: EXPIRED before its time by every clock")
        if state is not State.HELD and state is not State.EXPIRED and state not in hold.asked:
            self._broken(f"{rid}: {state.name}, and nobody asked for it")
        hold.shown.append((self._now(), state))

    def _whole_bundles(self, shown: Reservation) -> None:
        """Components of a bundle are put aside, leave and come back together."""
        for bundle in shown.bundles:
            parts = [x for x in shown.lines if x.line_id in bundle.part_ids()]
            sets = {
                tuple(
                    sum(getattr(x, what) for x in part.planned_units)
                    / bundle.component(part.line_id).quantity
                    for what in ("quantity", "fulfilled", "cancelled")
                )
                for part in parts
            }
            if len(sets) != 1 or len(parts) != len(bundle.components):
                self._broken(f"{shown.reservation_id}: {bundle} in parts: {parts}")

    def count(self, rid: str) -> None:
        """Nobody was told of more units than there ever were: of those surely held or sold now."""
        first = self.holds[rid].first
        assert first is not None
        now_ms = self._clock_max_ms()
        standing = [
            (hold, hold.first)
            for other, hold in self.holds.items()
            if hold.first is not None and _stands(hold, self._ends_ms(other), now_ms)
        ]
        for key in _units(first):
            if key not in self.most_on_hand:
                continue
            sure = {
                segment: sum(_units(x).get(key, 0) for _, x in standing if x.segment == segment)
                for segment in {x.segment for _, x in standing}
            }
            kept = self._kept_of(key)
            for whose in ({}, *({segment: level} for segment, level in kept.items())):
                units = sum(units for segment, units in sure.items() if segment not in whose)
                most = self.most_on_hand[key] - sum(whose.values())
                if units > most:
                    self._broken(f"{key}: {units} units told, {most} is all there was: {whose}")
        self._within_limits(first, standing)

    def _within_limits(self, first: Reservation, standing: list[tuple[Hold, Reservation]]) -> None:
        """Nobody was told of more than a limit allows: units surely held or sold, and not gone."""
        for counter, limit in {self._limits[x.sku] for x in first.lines if x.sku in self._limits}:
            skus = {sku for sku, (name, _) in self._limits.items() if name == counter}
            sure = sum(
                line.quantity
                for hold, other in standing
                if other.owner_id == first.owner_id and State.FULFILLED not in hold.asked
                for line in other.lines
                if line.sku in skus
            )
            if not limit.window_ms and sure > limit.quantity_max:
                self._broken(f"{first.owner_id}: {sure} of {counter} told, at most {limit}")

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
                if state not in _later(before, hold):
                    self._broken(f"{rid}: told {before.name}, and stands {state.name}")
            if state not in (State.HELD, State.EXPIRED) and state not in hold.asked:
                self._broken(f"{rid}: stands {state.name}, and nobody asked for it")


def _later(before: State, hold: Hold) -> frozenset[State]:
    """States that may be told, or stand, after ``before`` was told of the hold."""
    again = before is State.EXPIRED and hold.reacquired
    return LATER[State.HELD] if again else LATER[before]


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
    lines = [
        (*line[:4], [x[:3] for x in line.planned_units if x.quantity]) for line in reservation.lines
    ]
    return reservation.create_ms, reservation.owner_id, lines


def _units(reservation: Reservation) -> dict[PositionKey, int]:
    units: dict[PositionKey, int] = {}
    for line in reservation.lines:
        for planned in line.planned_units:
            key = PositionKey(line.sku, planned.node_id, planned.bucket)
            units[key] = units.get(key, 0) + planned.quantity
    return units
