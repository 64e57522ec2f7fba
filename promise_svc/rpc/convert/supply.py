"""SyncSupply, AdjustSupply, RecordSale and SetProtectionLevels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from promise_svc.application.supply import (
    KEEP_SAFETY_STOCK,
    ROWS_MAX,
    ProtectionLevel,
    SaleLine,
    SupplyAnswer,
    SupplyCount,
    SupplyDelta,
    SupplyResult,
)
from promise_svc.domain.inventory import ARRIVED, QUANTITY_MAX
from promise_svc.rpc.convert.fields import Fields
from promise_svc.rpc.convert.types import create_ms_from, number_of
from promise_svc.v1 import supply_service_pb2 as pb

REASON_BYTES_MAX = 256
SOURCE_SEQUENCE_MAX = DEDUCTED_MAX = 2**53
"""The shards count in doubles, which are exact up to here."""

ARRIVAL_MS_MAX = 4_102_444_800_000
"""2100-01-01: far beyond what calendars give dates for."""


class SyncValues(NamedTuple):
    """A report of counts."""

    source: str
    source_sequence: int
    rows: tuple[SupplyCount, ...]


class AdjustValues(NamedTuple):
    """A report of changes."""

    idempotency_key: str
    create_ms: int
    reason: str
    rows: tuple[SupplyDelta, ...]


class SaleValues(NamedTuple):
    """A sale made elsewhere."""

    sale_id: str
    create_ms: int
    lines: tuple[SaleLine, ...]


def sync_from(request: pb.SyncSupplyRequest) -> SyncValues:
    """Source, number and counts."""
    fields = Fields()
    fields.id("source", request.source)
    fields.number("source_sequence", request.source_sequence, 1, SOURCE_SEQUENCE_MAX)
    seen: set[tuple[str, str, str]] = set()
    rows = []
    for index in range(fields.count("rows", len(request.rows), 1, ROWS_MAX)):
        row, path = request.rows[index], f"rows[{index}]"
        position = _position_from(fields, path, row)
        fields.unique(path, position, seen)
        deducted = _deducted_from(fields, path, row)
        least = -QUANTITY_MAX if deducted >= 0 else 0
        fields.number(f"{path}.on_hand", row.on_hand, least, QUANTITY_MAX)
        safety_stock = KEEP_SAFETY_STOCK
        if row.HasField("safety_stock"):
            safety_stock = fields.quantity(f"{path}.safety_stock", row.safety_stock, 0)
        arrival_ms = _arrival_from(fields, path, row)
        rows.append(SupplyCount(*position, row.on_hand, safety_stock, arrival_ms, deducted))
    fields.done()
    return SyncValues(request.source, request.source_sequence, tuple(rows))


def adjust_from(request: pb.AdjustSupplyRequest, now_ms: int) -> AdjustValues:
    """Key with its age, reason and changes."""
    fields = Fields()
    fields.id("idempotency_key", request.idempotency_key)
    create_ms = create_ms_from(fields, request, now_ms)
    fields.text("reason", request.reason, REASON_BYTES_MAX, optional=False)
    rows = []
    for index in range(fields.count("rows", len(request.rows), 1, ROWS_MAX)):
        row, path = request.rows[index], f"rows[{index}]"
        position = _position_from(fields, path, row)
        at = f"{path}.quantity_delta"
        if row.quantity_delta == 0:
            fields.complain(at, "OUT_OF_RANGE", "must not be 0")
        fields.number(at, row.quantity_delta, -QUANTITY_MAX, QUANTITY_MAX)
        rows.append(SupplyDelta(*position, row.quantity_delta))
    fields.done()
    return AdjustValues(request.idempotency_key, create_ms, request.reason, tuple(rows))


def sale_from(request: pb.RecordSaleRequest, now_ms: int) -> SaleValues:
    """Id with its age, and what was sold where."""
    fields = Fields()
    fields.id("sale_id", request.sale_id)
    create_ms = create_ms_from(fields, request, now_ms)
    lines = []
    for index in range(fields.count("lines", len(request.lines), 1, ROWS_MAX)):
        line, path = request.lines[index], f"lines[{index}]"
        fields.id(f"{path}.sku", line.sku)
        fields.id(f"{path}.node_id", line.node_id)
        fields.quantity(f"{path}.quantity", line.quantity)
        lines.append(SaleLine(line.sku, line.node_id, line.quantity))
    fields.done()
    return SaleValues(request.sale_id, create_ms, tuple(lines))


def _arrival_from(fields: Fields, path: str, row: pb.SupplyRow) -> int:
    named = "arrived" if row.arrived else "arrival_time" if row.HasField("arrival_time") else ""
    if named and not row.bucket:
        fields.complain(f"{path}.{named}", "NOT_ALLOWED", "needs a bucket")
    if row.arrived and row.HasField("arrival_time"):
        fields.complain(f"{path}.arrival_time", "NOT_ALLOWED", "must be empty with arrived")
    if row.arrived:
        return ARRIVED
    if not row.HasField("arrival_time"):
        return 0
    return fields.time_ms(f"{path}.arrival_time", row.arrival_time, 1, ARRIVAL_MS_MAX)


def _deducted_from(fields: Fields, path: str, row: pb.SupplyRow) -> int:
    """-1 where the row does not say."""
    if not row.HasField("deducted_total"):
        return -1
    path = f"{path}.deducted_total"
    if row.bucket:
        fields.complain(path, "NOT_ALLOWED", "is for stock here now: must be empty with a bucket")
    return fields.number(path, row.deducted_total, 0, DEDUCTED_MAX)


def levels_from(request: pb.SetProtectionLevelsRequest) -> tuple[ProtectionLevel, ...]:
    """Shares of positions."""
    fields = Fields()
    seen: set[tuple[str, str, str]] = set()
    rows = []
    for index in range(fields.count("rows", len(request.rows), 1, ROWS_MAX)):
        row, path = request.rows[index], f"rows[{index}]"
        fields.id(f"{path}.sku", row.sku)
        fields.id(f"{path}.node_id", row.node_id)
        fields.id(f"{path}.segment", row.segment)
        fields.unique(path, (row.sku, row.node_id, row.segment), seen)
        fields.quantity(f"{path}.level", row.level, 0)
        rows.append(ProtectionLevel(row.sku, row.node_id, row.segment, row.level))
    fields.done()
    return tuple(rows)


def _position_from(
    fields: Fields, path: str, row: pb.SupplyRow | pb.SupplyDelta
) -> tuple[str, str, str]:
    return (
        fields.id(f"{path}.sku", row.sku),
        fields.id(f"{path}.node_id", row.node_id),
        fields.id(f"{path}.bucket", row.bucket, optional=True),
    )


_AnswerT = TypeVar(
    "_AnswerT",
    pb.SyncSupplyResponse,
    pb.AdjustSupplyResponse,
    pb.RecordSaleResponse,
    pb.SetProtectionLevelsResponse,
)


def answer_to(message: type[_AnswerT], answer: SupplyAnswer) -> _AnswerT:
    """The answers of all four calls have the same fields."""
    return message(
        results=_results_to(answer.results), durability_mode=number_of(answer.durability)
    )


def _results_to(results: Sequence[SupplyResult]) -> list[pb.SupplyRowResult]:
    return [
        pb.SupplyRowResult(
            outcome=number_of(result.outcome),
            on_hand=result.on_hand,
            ats=result.ats,
            shortage=result.shortage,
            replayed=result.replayed,
        )
        for result in results
    ]
