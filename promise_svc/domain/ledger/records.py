"""What legs and claims are by themselves, and what they do to a position's counters.

Twins in ``lua/records.lua`` and ``lua/moves.lua``.
"""

from __future__ import annotations

from promise_svc.domain.inventory import StockPosition
from promise_svc.domain.reservation import OPEN, ClaimRecord, LegLine, LegRecord, State

LETTING_GO = frozenset({State.RELEASED, State.EXPIRED, State.ABORTED, State.SUPERSEDED})
GIVING_BACK = LETTING_GO | {State.CANCELLED}
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


def due(record: ClaimRecord | LegRecord, time_ms: int) -> bool:
    """Expired by the clock, whether or not it was swept. Pinned records no longer expire."""
    return record.state in (State.PENDING, State.HELD) and time_ms >= record.expire_ms


def claim_due(claim: ClaimRecord, time_ms: int) -> bool:
    return due(claim, time_ms) and not is_replacing(claim)


def is_replacing(claim: ClaimRecord) -> bool:
    """Whether another reservation's home still has to decide which of the two stands."""
    return claim.state == State.PENDING and bool(claim.replaces)


def since(leg: LegRecord) -> tuple[int, int]:
    return leg.epoch, leg.sequence


def leg_may_move(source: State, target: State) -> bool:
    """Legs follow decisions already taken at home, so they may skip the states in between. A leg is
    confirmed before its pinned claim is, so it also follows a confirm that came to nothing."""
    if source in OPEN:
        return target in _FOLLOWED
    ends = (State.CANCELLED, State.EXPIRED, State.ABORTED)
    return source is State.CONFIRMED and target in ends


def limited_to(line: LegLine, row: StockPosition) -> StockPosition:
    """An account as of a line's limit; stock as it is."""
    return row if line.limit < 0 else row._replace(on_hand=line.limit)


def moved_counters(row: StockPosition, source: int, target: State, quantity: int) -> StockPosition:
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
