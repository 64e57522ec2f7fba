"""What a create is told, and a refused one of each line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from promise_svc.application.ports import AtsReader
from promise_svc.application.promise import PlannedUnits, inbound_units
from promise_svc.application.reservation_body import CreateCommand, Reservation
from promise_svc.application.several_shards import HoldReply
from promise_svc.application.sourced_lines import (
    LineOutcome,
    SourcedLines,
    all_outcomes,
    of_requested,
)
from promise_svc.application.stock import rows_of
from promise_svc.domain.reservation import CreateOutcome, DurabilityMode, Outcome, Shortfall
from promise_svc.errors import Unavailable


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateResult:
    """Answer to a create. ``reservation`` is there when the outcome is HELD or PARTLY_HELD, else
    ``lines``."""

    outcome: CreateOutcome
    reservation: Reservation | None = None
    lines: tuple[LineOutcome, ...] = ()
    replayed: bool = False
    durability: DurabilityMode


def told_refusal(
    table: AtsReader,
    now_ms: int,
    command: CreateCommand,
    held: SourcedLines,
    reply: HoldReply,
    mode: DurabilityMode,
) -> CreateResult:
    """The refusal of the last plan, ``held``."""
    if reply.outcome == Outcome.INSUFFICIENT:
        return _insufficient(table, now_ms, command, held, reply, mode)
    if reply.outcome == Outcome.LIMITED:
        return _over_limit(command, held, reply, mode)
    if reply.outcome in (
        Outcome.OTHER_PLAN,
        Outcome.RESOLVED,
        Outcome.UNSETTLED,
        Outcome.REFUSED,
    ):
        lines = tuple(LineOutcome(x.line_id, CreateOutcome.CONTENDED) for x in command.lines)
        return CreateResult(outcome=CreateOutcome.CONTENDED, lines=lines, durability=mode)
    raise Unavailable(f"no plan could be held: {reply.outcome.name}; try again")


def _insufficient(
    table: AtsReader,
    now_ms: int,
    command: CreateCommand,
    held: SourcedLines,
    reply: HoldReply,
    mode: DurabilityMode,
) -> CreateResult:
    short = {line[:3]: shortfall for line, shortfall in reply.shortfalls}
    refusals = list(_full(held, short))
    for line in held.lines:
        for units in line.planned_units:
            shortfall = short.get((line.sku, units.node_id, units.bucket))
            if shortfall is None:
                continue
            known = shortfall.known or table.rows(line.sku) is not None
            outcome = CreateOutcome.INSUFFICIENT_STOCK if known else CreateOutcome.UNKNOWN_SKU
            free = shortfall.ats + _later(table, now_ms, command, line.sku, units)
            place = units[:2] if units.bucket else (units.node_id,)
            there = (x.quantity for x in line.planned_units if x[: len(place)] == place)
            refusal = LineOutcome(line.line_id, outcome, free, units.node_id)
            refusals.append(refusal._replace(wanted=sum(there)))
    lines = all_outcomes(command, of_requested(refusals, held.bundles))
    return CreateResult(outcome=min(line.outcome for line in lines), lines=lines, durability=mode)


def _later(
    table: AtsReader, now_ms: int, command: CreateCommand, sku: str, units: PlannedUnits
) -> int:
    """What the command may have beyond stock here now, where that was too little."""
    if units.bucket or not command.allow_backorder or command.quote is not None:
        return 0
    rows = rows_of(table, sku, command.segment)
    here = (row for row in rows if row.node_id == units.node_id)
    return sum(x.quantity for x in inbound_units(here, now_ms, sku, {}))


def _over_limit(
    command: CreateCommand,
    held: SourcedLines,
    reply: HoldReply,
    mode: DurabilityMode,
) -> CreateResult:
    """Lines that count for one limit share what it leaves: each is told all of it."""
    left = {line.sku: shortfall.ats for line, shortfall in reply.shortfalls}
    refusals = [
        LineOutcome(line.line_id, CreateOutcome.CUSTOMER_LIMIT, left[line.sku])
        for line in held.lines
        if line.sku in left
    ]
    lines = all_outcomes(command, of_requested(refusals, held.bundles))
    return CreateResult(outcome=min(line.outcome for line in lines), lines=lines, durability=mode)


def _full(
    held: SourcedLines, short: Mapping[tuple[str, str, str], Shortfall]
) -> Iterator[LineOutcome]:
    """Lines at nodes whose working day has no room for another order."""
    for use in held.capacity:
        shortfall = short.get((use.account, use.node_id, ""))
        for line in held.lines if shortfall else ():
            places = ((x.node_id, x.bucket) for x in line.planned_units)
            if any(n == use.node_id and bucket in use.buckets for n, bucket in places):
                yield LineOutcome(line.line_id, CreateOutcome.CAPACITY_FULL, node_id=use.node_id)
