"""What a refused hold may ask for instead, where its caller would rather have less than nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from promise_svc.application.reservation_body import CreateCommand, RequestedLine, UnheldLine
from promise_svc.application.sourced_lines import LineOutcome, ShortUnits
from promise_svc.domain.network import BundleComponent, NetworkSnapshot
from promise_svc.domain.reservation import CreateOutcome, HoldPolicy

_FINE = (CreateOutcome.HELD, CreateOutcome.OTHER_LINE_REFUSED)
_ABOUT_ALL = (
    CreateOutcome.CONTENDED,
    CreateOutcome.REPLACED_UNKNOWN,
    CreateOutcome.REPLACED_NOT_HELD,
)
"""Fewer units would not help."""
_COUNTED = (
    CreateOutcome.CAPACITY_FULL,
    CreateOutcome.EXCLUDED_BY_RULE,
    CreateOutcome.INSUFFICIENT_STOCK,
    CreateOutcome.CUSTOMER_LIMIT,
)
"""There is less than was asked for; other lines are refused whatever they ask for."""

_Key = tuple[str, str]
"""SKU and node, or empty where the service chooses; for a limit, empty and its counter."""


@dataclass(slots=True)
class _Pool:
    """Units that lines share, and the refusal that told of them."""

    units: int
    left: int
    refusal: LineOutcome


def reduced(
    command: CreateCommand, refusals: Sequence[LineOutcome], snapshot: NetworkSnapshot
) -> CreateCommand | None:
    """The command without what was refused, always less than before; None where its policy allows
    nothing less, nothing is left, or the refusal is not about its units (CONTENDED, or about the
    hold it replaces).

    PER_LINE drops lines that do not fit; PARTIAL keeps as much of them as there is. All lines of a
    SKU, components of bundles too, share what there is, in request order.
    """
    told = {x.line_id: x for x in refusals if x.outcome not in _FINE}
    if command.policy is HoldPolicy.ALL_OR_NOTHING or not told:
        return None
    if any(refusal.outcome in _ABOUT_ALL for refusal in told.values()):
        return None
    fitting, why = _shared(command, told, snapshot)
    if all(fitting[line.line_id] == line.quantity for line in command.lines):
        # What was told is not why: the world moved meanwhile. Less must be asked for all the same.
        last = next(x.line_id for x in reversed(command.lines) if x.line_id in told)
        fitting[last] = 0
    lines = tuple(
        line._replace(quantity=fitting[line.line_id])
        for line in command.lines
        if fitting[line.line_id]
    )
    if not lines:
        return None
    return replace(command, lines=lines, unheld=_unheld(command, fitting, told | why))


def _shared(
    command: CreateCommand, told: Mapping[str, LineOutcome], snapshot: NetworkSnapshot
) -> tuple[dict[str, int], dict[str, LineOutcome]]:
    """Line id -> units that fit; and why lines nothing was told against do not fit."""
    pools = _pools(command, told, snapshot)
    fitting: dict[str, int] = {}
    why: dict[str, LineOutcome] = {}
    for line in command.lines:
        refusal = told.get(line.line_id)
        most = _most(line, refusal)
        here = [
            (pools[key], *use)
            for key, use in _uses(line, refusal, snapshot).items()
            if key in pools
        ]
        fits = min((most, *((pool.left + other) // units for pool, units, other in here)))
        if fits < line.quantity:
            if refusal is None:
                pool, units, _ = min(here, key=lambda x: x[0].left // x[1])
                ats = pool.units // units
                why[line.line_id] = pool.refusal._replace(line_id=line.line_id, ats=ats)
            fits = fits if command.policy is HoldPolicy.PARTIAL else 0
        for pool, units, other in here:
            pool.left -= max(0, fits * units - other)
        fitting[line.line_id] = fits
    return fitting, why


def _most(line: RequestedLine, refusal: LineOutcome | None) -> int:
    """Units of a line that are left by what was told against it, stock apart."""
    if refusal is None or refusal.outcome in _COUNTED:
        return line.quantity
    return refusal.fits if refusal.outcome is CreateOutcome.SPLIT_LIMIT else 0


def _pools(
    command: CreateCommand, told: Mapping[str, LineOutcome], snapshot: NetworkSnapshot
) -> dict[_Key, _Pool]:
    """What was told to be too little."""
    pools: dict[_Key, _Pool] = {}
    for line in command.lines:
        refusal = told.get(line.line_id)
        if refusal is None or refusal.outcome not in _COUNTED:
            continue
        limited = refusal.outcome is CreateOutcome.CUSTOMER_LIMIT
        for sku, node_id, ats, _ in _short(line, refusal):
            key = _limit(sku, snapshot) if limited else (sku, node_id)
            units = max(0, ats)
            before = pools.get(key)
            if before is None or units < before.units:
                pools[key] = _Pool(units, units, refusal)
    return pools


def _uses(
    line: RequestedLine, refusal: LineOutcome | None, snapshot: NetworkSnapshot
) -> dict[_Key, tuple[int, int]]:
    """What one unit of a line takes of each pool that it may draw on, and how many units the line
    has elsewhere, before it draws on that one."""
    short = () if refusal is None else _short(line, refusal)
    uses: dict[_Key, tuple[int, int]] = {}
    for sku, units in snapshot.bundles.get(line.sku, (BundleComponent(line.sku, 1),)):
        wanted = {line.node_id: 0} | {x.node_id: x.wanted for x in short if x.sku == sku}
        limit = _limit(sku, snapshot)
        uses[limit] = units + uses.get(limit, (0, 0))[0], 0
        for node_id, there in wanted.items():
            uses[sku, node_id] = units, max(0, line.quantity * units - there) if there else 0
    return uses


def _short(line: RequestedLine, refusal: LineOutcome) -> tuple[ShortUnits, ...]:
    node_id = refusal.node_id or line.node_id
    return refusal.short or (ShortUnits(line.sku, node_id, refusal.ats, refusal.wanted),)


def _limit(sku: str, snapshot: NetworkSnapshot) -> _Key:
    limit = snapshot.customer_limits.get(sku)
    return "", limit.counter if limit else sku


def _unheld(
    command: CreateCommand, fitting: Mapping[str, int], why: Mapping[str, LineOutcome]
) -> tuple[UnheldLine, ...]:
    """What is given up of the request by now, in its order."""
    unheld = {line.line_id: line for line in command.unheld}
    for index, line in enumerate(command.lines):
        units = fitting[line.line_id]
        if units == line.quantity:
            continue
        refusal, before = why[line.line_id], unheld.get(line.line_id)
        unheld[line.line_id] = UnheldLine(
            line.line_id,
            before.line_index if before else index + _dropped_before(command, index),
            line.quantity - units + (before.quantity if before else 0),
            refusal.outcome,
            refusal.ats,
            refusal.node_id,
        )
    return tuple(sorted(unheld.values(), key=lambda line: line.line_index))


def _dropped_before(command: CreateCommand, index: int) -> int:
    """Lines of the first request that an earlier reduction dropped whole, and that stood before
    the one that is now at ``index``."""
    kept = {line.line_id for line in command.lines}
    dropped = [line.line_index for line in command.unheld if line.line_id not in kept]
    for count, line_index in enumerate(dropped):
        if line_index > index + count:
            return count
    return len(dropped)
