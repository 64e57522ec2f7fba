"""From requested lines to lines with nodes: what a reservation is going to hold, or why not.

Pure but for the snapshot and the table it is given. A line that names its node is held there or
refused; the others are planned together by the promise search.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import NamedTuple

from promise_svc.application.capacity import Capacity, together
from promise_svc.application.ports import AtsReader, AtsRow
from promise_svc.application.promise import (
    Plan,
    PlannedUnits,
    PlanRequest,
    inbound_units,
    place_of,
    plan,
)
from promise_svc.application.quote import PromisedPlan
from promise_svc.application.reservation_body import (
    CreateCommand,
    RequestedLine,
    ReservationLine,
)
from promise_svc.application.stock import here_now, rows_of
from promise_svc.domain.bundle import BundleLine, exploded, requested_line_id
from promise_svc.domain.capacity import CapacityUse
from promise_svc.domain.delivery import Shipment
from promise_svc.domain.network import NetworkSnapshot
from promise_svc.domain.reach import Line, UnfulfilledReason
from promise_svc.domain.reservation import LINES_MAX, CreateOutcome
from promise_svc.domain.sourcing import SHIPMENTS_MAX
from promise_svc.hotpath import shard_of


class ShortUnits(NamedTuple):
    """What there is of a SKU at a node, or where the service chooses the node, in all."""

    sku: str
    node_id: str
    ats: int
    wanted: int = 0
    """Of the line's units those planned there; 0 for all of them."""


class LineOutcome(NamedTuple):
    """What happened to one line. ``ats`` is what there was for all lines that draw on the same: at
    a node, or where the service chooses nodes, over those that could serve, less what lines that
    name theirs take there; or what a limit leaves the owner. -1 where it was not looked at."""

    line_id: str
    outcome: CreateOutcome
    ats: int = -1
    node_id: str = ""
    latest_delivery_date: date | None = None
    """Where a quoted date no longer stands: when it would be there now."""
    short: tuple[ShortUnits, ...] = ()
    """Of a bundle: the components there is too little of."""
    wanted: int = 0
    """Of the line's units those planned at ``node_id``; 0 for all of them."""
    fits: int = 0
    """With SPLIT_LIMIT, units that fit within the limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourcedLines:
    """Lines with nodes, or a refusal a line: one of the two is empty."""

    lines: tuple[ReservationLine, ...] = ()
    refusals: tuple[LineOutcome, ...] = ()
    network_version: int
    promised: PromisedPlan | None = None
    """What the caller is promised with the hold, if anything."""
    bundles: tuple[BundleLine, ...] = ()
    """What was asked for as a bundle; ``lines`` has its components."""
    capacity: tuple[CapacityUse, ...] = ()
    """What the lines take of nodes' working days."""


REFUSALS: Mapping[UnfulfilledReason, CreateOutcome] = {
    UnfulfilledReason.UNKNOWN_SKU: CreateOutcome.UNKNOWN_SKU,
    UnfulfilledReason.UNKNOWN_NODE: CreateOutcome.UNKNOWN_NODE,
    UnfulfilledReason.NODE_OFF: CreateOutcome.NODE_OFF,
    UnfulfilledReason.METHOD_NOT_OFFERED: CreateOutcome.METHOD_NOT_OFFERED,
    UnfulfilledReason.NO_LANE: CreateOutcome.NO_LANE,
    UnfulfilledReason.NO_DATE: CreateOutcome.NO_LANE,
    UnfulfilledReason.CAPACITY_FULL: CreateOutcome.CAPACITY_FULL,
    UnfulfilledReason.EXCLUDED_BY_RULE: CreateOutcome.EXCLUDED_BY_RULE,
    UnfulfilledReason.INSUFFICIENT_STOCK: CreateOutcome.INSUFFICIENT_STOCK,
    UnfulfilledReason.SPLIT_LIMIT: CreateOutcome.SPLIT_LIMIT,
}


def source_lines(
    snapshot: NetworkSnapshot,
    table: AtsReader,
    command: CreateCommand,
    shard_count: int,
    now_ms: int,
    missing: Mapping[tuple[str, str], int],
) -> SourcedLines:
    """Nodes for every line. ``missing`` are units (SKU, place) that a shard just said the table
    still counts and it does not have; below zero, that it has and the table does not count.
    InvalidRequest where method and destination do not fit."""

    def shard(sku: str) -> int:
        return shard_of(snapshot.shard_key(sku), shard_count)

    promised: PromisedPlan | None = None
    capacity = Capacity(snapshot, table, shard_count, missing)
    terms = command.terms
    taken = dict(missing)
    wanted, bundles = exploded(command.lines, snapshot.bundles, LINES_MAX)
    open_lines = tuple(Line(x.line_id, x.sku, x.quantity) for x in wanted if not x.node_id)
    named = [line for line in wanted if line.node_id]
    counts = bool(open_lines) or command.allow_backorder
    placed, refusals = _by_name(snapshot, table, command, named, taken if counts else None, now_ms)
    uses = list[CapacityUse]()
    for line in named if capacity.bounds and not refusals else ():
        places = ((line.sku, part.node_id, part.bucket) for part in placed[line.line_id])
        found = capacity.uses(places, command.fulfillment_method, now_ms)
        uses += found or ()
        if found is None:
            full = CreateOutcome.CAPACITY_FULL
            refusals.append(LineOutcome(line.line_id, full, node_id=line.node_id))
    if open_lines:
        planned = plan(
            snapshot,
            table,
            PlanRequest(
                lines=open_lines,
                fulfillment_method=command.fulfillment_method,
                address=command.address,
                pickup_node_id=command.pickup_node_id,
                carrier_services=terms.carrier_services if terms else frozenset(),
                segment=command.segment,
                order_ms=now_ms,
                taken=taken,
                max_shipments=terms.max_shipments if terms else SHIPMENTS_MAX,
                allow_backorder=command.allow_backorder,
            ),
        )
        refusals += _refused(planned)
        placed.update(planned.units)
        uses += shipment_uses(capacity, planned.shipments)
        if terms:
            promised = PromisedPlan(snapshot.currency_code, planned.shipments)
    if refusals:
        told = of_requested(refusals, bundles)
        return SourcedLines(refusals=told, network_version=snapshot.version)
    lines = tuple(
        ReservationLine(x.line_id, x.sku, x.quantity, shard(x.sku), placed[x.line_id])
        for x in wanted
    )
    return SourcedLines(
        lines=lines,
        network_version=snapshot.version,
        promised=promised,
        bundles=bundles,
        capacity=together(uses),
    )


def shipment_uses(capacity: Capacity, shipments: Iterable[Shipment]) -> Iterator[CapacityUse]:
    """What planned shipments take of the days they are worked on."""
    for shipment in shipments:
        if shipment.work_date is not None:
            buckets = dict.fromkeys(line.bucket for line in shipment.lines)
            yield capacity.use(
                shipment.node_id,
                shipment.fulfillment_method,
                shipment.work_date,
                tuple(buckets),
            )


def _by_name(
    snapshot: NetworkSnapshot,
    table: AtsReader,
    command: CreateCommand,
    lines: Iterable[RequestedLine],
    taken: dict[tuple[str, str], int] | None,
    now_ms: int,
) -> tuple[dict[str, tuple[PlannedUnits, ...]], list[LineOutcome]]:
    """Places of lines that name their node, by line id, and refusals; ``taken``, where anybody
    looks at it, grows by them."""
    placed: dict[str, tuple[PlannedUnits, ...]] = {}
    refusals: list[LineOutcome] = []
    for line in lines:
        refusal = _refuse_named(snapshot, command, line)
        if refusal is not None:
            refusals.append(LineOutcome(line.line_id, refusal, node_id=line.node_id))
        parts: tuple[PlannedUnits, ...] = (PlannedUnits(line.node_id, "", line.quantity),)
        if command.allow_backorder:
            rows = rows_of(table, line.sku, command.segment)
            parts = _at_node(rows, line, taken or {}, now_ms) or parts
        if taken is not None:
            for part in parts:
                place = (line.sku, place_of(part.node_id, part.bucket))
                taken[place] = taken.get(place, 0) + part.quantity
        placed[line.line_id] = parts
    return placed, refusals


def _refused(planned: Plan) -> Iterator[LineOutcome]:
    for line_id, reason, units in planned.unfulfilled_lines:
        fits = planned.within_limit.get(line_id, 0)
        yield LineOutcome(line_id, REFUSALS[reason], -1 if units is None else units, fits=fits)


def _at_node(
    rows: Sequence[AtsRow], line: RequestedLine, taken: Mapping[tuple[str, str], int], now_ms: int
) -> tuple[PlannedUnits, ...]:
    """Units at the node that a line names: stock here now, then what arrives first. None where all
    of it is not enough."""
    node_id, sku, left = line.node_id, line.sku, line.quantity
    there = [row for row in rows if row.node_id == node_id]
    here = here_now(there).get(node_id, 0) - taken.get((sku, node_id), 0)
    parts = [PlannedUnits(node_id, "", max(0, min(here, left)))]
    for found in inbound_units(there, now_ms, sku, taken):
        units = min(found.quantity, left - sum(part.quantity for part in parts))
        parts.append(PlannedUnits(node_id, found.bucket, units))
    enough = sum(part.quantity for part in parts) == left
    return tuple(part for part in parts if part.quantity) if enough else ()


def of_requested(
    refusals: Sequence[LineOutcome], bundles: Sequence[BundleLine]
) -> tuple[LineOutcome, ...]:
    """Refusals of components told as refusals of their bundles: the first outcome, and the sets
    that the scarcest component is enough for."""
    whole = {bundle.line_id: bundle for bundle in bundles}
    told: dict[str, LineOutcome] = {}
    for refusal in refusals:
        asked = requested_line_id(refusal.line_id)
        sets, before = refusal.ats, told.get(asked)
        short = before.short if before else ()
        if asked in whole:
            sku = whole[asked].component(refusal.line_id).sku
            short = (*short, ShortUnits(sku, refusal.node_id, refusal.ats, refusal.wanted))
            sets = whole[asked].sets(refusal.line_id, sets) if sets > 0 else sets
        if before is None or (refusal.outcome, sets) < (before.outcome, before.ats):
            before = refusal._replace(line_id=asked, ats=sets)
        told[asked] = before._replace(short=short)
    return tuple(told.values()) if bundles else tuple(refusals)


def all_outcomes(
    command: CreateCommand, refusals: tuple[LineOutcome, ...]
) -> tuple[LineOutcome, ...]:
    """One outcome a line, in request order: lines with nothing against them say so."""
    told = {refusal.line_id: refusal for refusal in reversed(refusals)}
    return tuple(
        told.get(x.line_id, LineOutcome(x.line_id, CreateOutcome.OTHER_LINE_REFUSED))
        for x in command.lines
    )


def _refuse_named(
    snapshot: NetworkSnapshot, command: CreateCommand, line: RequestedLine
) -> CreateOutcome | None:
    node = snapshot.node(line.node_id)
    if node is None:
        return CreateOutcome.UNKNOWN_NODE
    if not snapshot.switched_on(line.node_id):
        return CreateOutcome.NODE_OFF
    if node.method(command.fulfillment_method) is None:
        return CreateOutcome.METHOD_NOT_OFFERED
    return None
