"""What a refused hold may ask for instead, where its caller would rather have less than nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from promise_svc.application.reservation_body import CreateCommand, RequestedLine, UnheldLine
from promise_svc.application.sourced_lines import LineOutcome
from promise_svc.domain.reservation import CreateOutcome, HoldPolicy

_FINE = (CreateOutcome.HELD, CreateOutcome.OTHER_LINE_REFUSED)
_ABOUT_ALL = (
    CreateOutcome.CONTENDED,
    CreateOutcome.REPLACED_UNKNOWN,
    CreateOutcome.REPLACED_NOT_HELD,
)
"""Fewer units would not help."""


def reduced(command: CreateCommand, refusals: Sequence[LineOutcome]) -> CreateCommand | None:
    """The command without what was refused; None where its policy allows nothing less, nothing is
    left, or the refusal is not about its units (CONTENDED, or about the hold it replaces).

    PER_LINE drops a refused line; PARTIAL keeps as much of it as there is. Lines of one SKU share
    what there is, in request order.
    """
    if command.policy is HoldPolicy.ALL_OR_NOTHING:
        return None
    told = {refusal.line_id: refusal for refusal in refusals}
    left: dict[tuple[str, str], int] = {}
    lines: list[RequestedLine] = []
    unheld = {line.line_id: line for line in command.unheld}
    for index, line in enumerate(command.lines):
        refusal = told.get(line.line_id)
        if refusal is None or refusal.outcome in _FINE:
            lines.append(line)
            continue
        if refusal.outcome in _ABOUT_ALL:
            return None
        units = 0
        if command.policy is HoldPolicy.PARTIAL:
            place = (line.sku, line.node_id)
            units = min(line.quantity, left.setdefault(place, max(0, refusal.ats)))
            left[place] -= units
        if units:
            lines.append(line._replace(quantity=units))
        if units < line.quantity:
            before = unheld.get(line.line_id)
            unheld[line.line_id] = UnheldLine(
                line.line_id,
                before.line_index if before else index + _dropped_before(command, index),
                line.quantity - units + (before.quantity if before else 0),
                refusal.outcome,
                refusal.ats,
                refusal.node_id,
            )
    if not lines:
        return None
    ordered = tuple(sorted(unheld.values(), key=lambda line: line.line_index))
    return replace(command, lines=tuple(lines), unheld=ordered)


def _dropped_before(command: CreateCommand, index: int) -> int:
    """Lines of the first request that an earlier reduction dropped whole, and that stood before
    the one that is now at ``index``."""
    kept = {line.line_id for line in command.lines}
    dropped = [line.line_index for line in command.unheld if line.line_id not in kept]
    for count, line_index in enumerate(dropped):
        if line_index > index + count:
            return count
    return len(dropped)
