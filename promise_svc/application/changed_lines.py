"""What a change makes of a reservation's lines. Pure: stock is the shards' to decide."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

from promise_svc.application.promise import PlannedUnits
from promise_svc.application.reservation_body import ReservationLine
from promise_svc.domain.bundle import BundleLine
from promise_svc.domain.reservation import State, TransitionOutcome

Lines = tuple[ReservationLine, ...]


class ChangeLine(NamedTuple):
    """Units of one line; with a node, only those put aside there."""

    line_id: str
    quantity: int
    node_id: str = ""


class TransferLine(NamedTuple):
    """Open units of one line to put aside at another node instead."""

    line_id: str
    quantity: int
    source_node_id: str
    target_node_id: str


_Wanted = TypeVar("_Wanted", ChangeLine, TransferLine)


def of_components(wanted: Sequence[_Wanted], bundles: Sequence[BundleLine]) -> tuple[_Wanted, ...]:
    """What is asked of a bundle's line, asked of the lines of its components."""
    whole = {bundle.line_id: bundle for bundle in bundles}
    found: list[_Wanted] = []
    for change in wanted:
        bundle = whole.get(change.line_id)
        if bundle is None:
            found.append(change)
            continue
        for part_id, (_, quantity) in zip(bundle.part_ids(), bundle.components, strict=True):
            found.append(change._replace(line_id=part_id, quantity=change.quantity * quantity))
    return tuple(found)


def state_of(lines: Iterable[ReservationLine]) -> State:
    """CONFIRMED while anything is open."""
    parts = [part for line in lines for part in line.planned_units]
    if any(part.open_quantity for part in parts):
        return State.CONFIRMED
    return State.FULFILLED if any(part.fulfilled for part in parts) else State.CANCELLED


def open_units(line: ReservationLine) -> int:
    """Units of a line that are still put aside."""
    return sum(part.open_quantity for part in line.planned_units)


def ended_lines(
    lines: Lines, wanted: Sequence[ChangeLine], *, fulfills: bool
) -> tuple[Lines, TransitionOutcome | None]:
    """The lines after the units wanted left or went back (all that is open where none are named),
    or why not."""

    def one(line: ReservationLine, change: ChangeLine) -> ReservationLine | None:
        left, parts = change.quantity, []
        for part in line.planned_units:
            fits = not change.node_id or change.node_id == part.node_id
            units = min(left, part.open_quantity) if fits else 0
            left -= units
            if fulfills:
                parts.append(part._replace(fulfilled=part.fulfilled + units))
            else:
                parts.append(part._replace(cancelled=part.cancelled + units))
        return None if left else line._replace(planned_units=tuple(parts))

    every = [ChangeLine(line.line_id, open_units(line)) for line in lines]
    return _each(lines, wanted or every, one)


def amended_lines(
    lines: Lines, wanted: Sequence[ChangeLine]
) -> tuple[Lines, TransitionOutcome | None]:
    """The lines at their new quantities, or why not. What left or was taken back is part of a
    quantity."""

    def one(line: ReservationLine, change: ChangeLine) -> ReservationLine | None:
        growth = change.quantity - line.quantity
        if growth < -open_units(line):
            return None
        parts = list(line.planned_units)
        if growth > 0:
            _put_aside(parts, change.node_id or parts[0].node_id, growth)
        for index in reversed(range(len(parts))):
            units = min(max(0, -growth), parts[index].open_quantity)
            parts[index] = parts[index]._replace(quantity=parts[index].quantity - units)
            growth += units
        return line._replace(quantity=change.quantity, planned_units=_used(parts))

    return _each(lines, wanted, one)


def transferred_lines(
    lines: Lines, wanted: Sequence[TransferLine]
) -> tuple[Lines, TransitionOutcome | None]:
    """The lines with open units at other nodes, or why not."""

    def one(line: ReservationLine, change: TransferLine) -> ReservationLine | None:
        left, parts = change.quantity, list(line.planned_units)
        for index, part in enumerate(parts):
            fits = part.node_id == change.source_node_id
            units = min(left, part.open_quantity) if fits else 0
            parts[index] = part._replace(quantity=part.quantity - units)
            left -= units
        if left:
            return None
        _put_aside(parts, change.target_node_id, change.quantity)
        return line._replace(planned_units=_used(parts))

    return _each(lines, wanted, one)


def _each(
    lines: Lines,
    wanted: Sequence[_Wanted],
    one: Callable[[ReservationLine, _Wanted], ReservationLine | None],
) -> tuple[Lines, TransitionOutcome | None]:
    """All changes in turn, or none. ``one`` answers None where too few units are open."""
    by_id = {line.line_id: line for line in lines}
    for change in wanted:
        line = by_id.get(change.line_id)
        if line is None:
            return lines, TransitionOutcome.UNKNOWN_LINE
        after = one(line, change)
        if after is None:
            return lines, TransitionOutcome.EXCEEDS_OPEN_QUANTITY
        by_id[change.line_id] = after
    return tuple(by_id[line.line_id] for line in lines), None


def _used(parts: Sequence[PlannedUnits]) -> tuple[PlannedUnits, ...]:
    """Places that have or had units; the first of a line that has none any more."""
    return tuple(part for part in parts if part.quantity) or tuple(parts[:1])


def _put_aside(parts: list[PlannedUnits], node_id: str, units: int) -> None:
    """More units at a node, of stock that is here now."""
    for index, part in enumerate(parts):
        if (part.node_id, part.bucket) == (node_id, ""):
            parts[index] = part._replace(quantity=part.quantity + units)
            return
    parts.append(PlannedUnits(node_id, "", units))
