"""Verify."""

from __future__ import annotations

from typing import NamedTuple

from promise_svc.application.verify_report import VerifyReport
from promise_svc.domain.audit import Finding
from promise_svc.rpc.convert.fields import Fields
from promise_svc.rpc.convert.reservation import STATE_NUMBERS
from promise_svc.rpc.convert.types import duration_to, number_of, timestamp_to
from promise_svc.v1 import admin_service_pb2 as pb

FINDINGS_DEFAULT = 100
FINDINGS_MAX = 10_000


class VerifyValues(NamedTuple):
    """What to audit: these shards (None: all), and the most findings to list."""

    shard_ids: tuple[int, ...] | None
    findings_max: int


def verify_from(request: pb.VerifyRequest, shard_count: int) -> VerifyValues:
    """Shards and limit."""
    fields = Fields()
    seen: set[int] = set()
    asked = request.shard_ids
    for index in range(fields.count("shard_ids", len(asked), 0, shard_count)):
        path = f"shard_ids[{index}]"
        fields.number(path, asked[index], 0, shard_count - 1)
        fields.unique(path, asked[index], seen)
    limit = fields.number(
        "max_findings", request.max_findings, 1, FINDINGS_MAX, default=FINDINGS_DEFAULT
    )
    fields.done()
    return VerifyValues(tuple(asked) or None, limit)


def verify_to(report: VerifyReport) -> pb.VerifyResponse:
    return pb.VerifyResponse(
        consistent=report.consistent,
        verify_time=timestamp_to(report.verify_time_ms),
        elapsed=duration_to(round(report.elapsed_seconds * 1000)),
        shard_count=report.shard_count,
        position_count=report.position_count,
        reservation_counts=[
            pb.ReservationStateCount(state=STATE_NUMBERS[state], reservation_count=count)
            for state, count in sorted(report.reservation_counts.items())
            if state in STATE_NUMBERS and count
        ],
        order_store_event_count=report.order_store_event_count,
        order_store_reservation_count=report.order_store_reservation_count,
        in_flight_event_count=report.in_flight_event_count,
        oversold_count=report.oversold_count,
        drift_count=report.drift_count,
        shortage_count=report.shortage_count,
        finding_count=report.finding_count,
        findings=[_finding_to(finding) for finding in report.findings],
        uncompared_shard_ids=report.uncompared_shard_ids,
    )


def _finding_to(finding: Finding) -> pb.VerifyFinding:
    return pb.VerifyFinding(
        kind=number_of(finding.kind),
        shard_id=finding.shard,
        sku=finding.sku,
        node_id=finding.node_id,
        bucket=finding.bucket,
        reservation_id=finding.reservation_id,
        expected=finding.expected,
        actual=finding.actual,
        detail=finding.detail,
    )
