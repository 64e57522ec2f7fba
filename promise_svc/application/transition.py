"""What became of a confirm, a release or another move or change, and how durably."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from promise_svc.application.reservation_body import Reservation
from promise_svc.domain.reservation import (
    DurabilityMode,
    Outcome,
    State,
    StepReply,
    TransitionOutcome,
)
from promise_svc.errors import (
    FieldViolation,
    InvalidRequest,
    OutcomeUnknown,
    PreconditionFailed,
)


class ShortPosition(NamedTuple):
    """A position that has too few units for a change."""

    sku: str
    node_id: str
    ats: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TransitionResult:
    """Answer to whatever moves or changes a reservation, with the reservation as it is now."""

    outcome: TransitionOutcome
    reservation: Reservation
    replayed: bool
    durability: DurabilityMode
    short: tuple[ShortPosition, ...] = ()
    """For INSUFFICIENT_STOCK and CUSTOMER_LIMIT."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Durability:
    """What this deployment offers, and what each verb gets where the caller does not say."""

    offered: frozenset[DurabilityMode]
    reserve: DurabilityMode
    confirm: DurabilityMode

    def choose(self, asked: DurabilityMode | None, default: DurabilityMode) -> DurabilityMode:
        """The mode of one call; InvalidRequest for one that is not offered."""
        mode = asked or default
        if mode not in self.offered:
            names = ", ".join(sorted(offered.name for offered in self.offered))
            raise InvalidRequest(
                [
                    FieldViolation(
                        "durability_mode",
                        "DURABILITY_MODE_NOT_OFFERED",
                        f"{mode.name} is not offered here; offered are {names}",
                    )
                ]
            )
        return mode


DONE: Mapping[State, TransitionOutcome] = {
    State.CONFIRMED: TransitionOutcome.CONFIRMED,
    State.RELEASED: TransitionOutcome.RELEASED,
    State.CANCELLED: TransitionOutcome.CANCELLED,
    State.FULFILLED: TransitionOutcome.FULFILLED,
}
STANDS: Mapping[State, TransitionOutcome] = {
    State.HELD: TransitionOutcome.NOT_CONFIRMED,
    State.CONFIRMED: TransitionOutcome.ALREADY_CONFIRMED,
    State.RELEASED: TransitionOutcome.ALREADY_RELEASED,
    State.CANCELLED: TransitionOutcome.ALREADY_CANCELLED,
    State.EXPIRED: TransitionOutcome.EXPIRED,
    State.SUPERSEDED: TransitionOutcome.ALREADY_SUPERSEDED,
    State.FULFILLED: TransitionOutcome.ALREADY_FULFILLED,
}


def transition_outcome(reply: StepReply, target: State, state: State) -> TransitionOutcome:
    if reply.outcome == Outcome.REVISION_DIFFERS:
        return TransitionOutcome.REVISION_MISMATCH
    if reply.outcome in (Outcome.DONE, Outcome.REPEATED):
        return DONE[target]
    if target is State.CONFIRMED and state is State.HELD:
        raise PreconditionFailed("another confirm of this reservation is under way; ask again")
    return STANDS[state]


def late_result(reservation: Reservation, target: State, mode: DurabilityMode) -> TransitionResult:
    """The answer for a reservation that is resolved and has left the index."""
    if reservation.state is State.HELD:
        # The order store heard of the hold, and not yet of its end.
        raise OutcomeUnknown("the order store is behind; ask again")
    same = reservation.state is target
    return TransitionResult(
        outcome=DONE[target] if same else STANDS[reservation.state],
        reservation=reservation,
        replayed=same,
        durability=mode,
    )
