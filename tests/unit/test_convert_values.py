"""What requests become, and what values become on the wire."""

from __future__ import annotations

import dataclasses
from datetime import date, time

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from promise_svc.application.availability import (
    Availability,
    AvailabilityOutcome,
    AvailabilityReply,
    AvailabilityView,
    NodeAvailability,
)
from promise_svc.application.reservation import CreateResult, LineOutcome, TransitionResult
from promise_svc.application.reservation_body import PlannedUnits, Reservation, ReservationLine
from promise_svc.application.stock import AsOf, Consistency, DegradedReason, Freshness
from promise_svc.application.verify_report import VerifyReport
from promise_svc.domain.audit import Finding, FindingKind
from promise_svc.domain.network import FulfillmentMethod, NodeStatus
from promise_svc.domain.reservation import CreateOutcome, DurabilityMode, State, TransitionOutcome
from promise_svc.domain.sharding import Position
from promise_svc.rpc.convert import admin, availability, reservation
from promise_svc.v1 import (
    reservation_service_pb2 as reservation_pb,
)
from promise_svc.v1 import types_pb2
from tests.support.requests import (
    a_create,
    a_query,
    an_upsert_of_calendars,
    an_upsert_of_nodes,
    decode,
    put,
    seconds,
)

# -- values -----------------------------------------------------------------------------------


def test_a_create_becomes_a_command() -> None:
    """Defaults filled in; instants in ms."""
    request = put(a_create(), "create_time", Timestamp(seconds=5, nanos=1_999_999))

    command = decode(request)

    assert (command.ttl_ms, command.create_ms, command.durability) == (900_000, 5_001, None)
    assert (command.address.country, command.pickup_node_id) == ("US", "")
    assert command.lines[0] == ("1", "a", 1, "")


def test_a_consistency_is_a_bound_or_none() -> None:
    """``strong = false`` is the same as leaving it out."""
    request = a_query()
    assert decode(request)[1] == Consistency()
    request.consistency.strong = False
    assert decode(request)[1] == Consistency()
    request.consistency.strong = True
    assert decode(request)[1] == Consistency(strong=True)
    request.consistency.max_age.CopyFrom(seconds(1.5))
    assert decode(request)[1] == Consistency(max_age_ms=1_500)


def test_a_node_becomes_a_document() -> None:
    """Handling by the clock is rounded up to whole minutes; an unnamed status is kept."""
    request = an_upsert_of_nodes()
    request.nodes[0].methods[0].handling_duration.CopyFrom(seconds(61))

    (node,), kept = decode(request)

    assert kept == {"n"}
    assert node.methods[0].cutoff_time == time(17)
    assert (node.methods[0].handling_business_days, node.methods[0].handling_minutes) == (0, 2)


def test_a_calendar_becomes_a_document() -> None:
    """Weekdays by ISO number, exceptions by date."""
    (calendar,) = decode(an_upsert_of_calendars())

    assert calendar.working_days == {1, 2}
    assert calendar.exceptions == {date(2026, 12, 25): False}


def test_a_breakdown_is_told_only_when_asked_for() -> None:
    """View NODES tells ATS alone."""
    node = NodeAvailability(
        node_id="n",
        ats=3,
        on_hand=9,
        reserved=1,
        committed=2,
        safety_stock=3,
        shortage=0,
        status=NodeStatus.ON,
    )
    entry = Availability(
        entry_id="e",
        sku="a",
        outcome=AvailabilityOutcome.OK,
        ats=3,
        nodes=(node,),
        as_of=AsOf(5, Position(2, 7), 1_234),
    )
    reply = AvailabilityReply(
        entries=(entry,), freshness=Freshness(1_234, 56, True, DegradedReason.FEED_BEHIND)
    )

    plain = availability.query_to(reply, AvailabilityView.NODES)
    full = availability.query_to(reply, AvailabilityView.BREAKDOWN)

    assert not plain.entries[0].nodes[0].HasField("breakdown")
    assert full.entries[0].nodes[0].breakdown.on_hand == 9
    assert full.entries[0].nodes[0].breakdown.node_status == types_pb2.NODE_STATUS_ON
    assert (full.entries[0].as_of.epoch, full.entries[0].as_of.sequence) == (2, 7)
    assert full.freshness.as_of_time.ToMilliseconds() == 1_234
    assert full.freshness.degraded_reason == types_pb2.DEGRADED_REASON_FEED_BEHIND


HELD = Reservation(
    reservation_id="r",
    owner_id="o",
    state=State.HELD,
    revision=1,
    create_ms=1_000,
    expire_ms=2_000,
    lines=(ReservationLine("1", "a", 2, 7, (PlannedUnits("n", "", 2),)),),
    fulfillment_method=FulfillmentMethod.CURBSIDE,
)


def test_a_held_reservation_is_told_with_an_outcome_a_line() -> None:
    """All HELD, the durability mode said."""
    reply = reservation.create_to(
        CreateResult(
            outcome=CreateOutcome.HELD,
            reservation=HELD,
            replayed=True,
            durability=DurabilityMode.FSYNC,
        )
    )

    assert [(line.line_id, line.outcome) for line in reply.line_outcomes] == [("1", 1)]
    assert reply.reservation.lines[0].planned_units[0].quantity == 2
    assert reply.reservation.state == reservation_pb.Reservation.STATE_HELD
    assert (reply.replayed, reply.durability_mode) == (True, types_pb2.DURABILITY_MODE_FSYNC)


def test_a_refused_reservation_tells_what_was_measured() -> None:
    """ATS for INSUFFICIENT_STOCK only, no reservation, no durability mode."""
    reply = reservation.create_to(
        CreateResult(
            outcome=CreateOutcome.INSUFFICIENT_STOCK,
            lines=(
                LineOutcome("1", CreateOutcome.INSUFFICIENT_STOCK, 0, "n"),
                LineOutcome("2", CreateOutcome.OTHER_LINE_REFUSED),
            ),
            durability=DurabilityMode.FSYNC,
        )
    )

    assert [line.HasField("ats") for line in reply.line_outcomes] == [True, False]
    assert reply.line_outcomes[0].node_id == "n"
    assert not reply.HasField("reservation")
    assert reply.durability_mode == 0


def test_a_transition_tells_its_durability_only_when_it_happened() -> None:
    """ALREADY_RELEASED survives nothing new."""

    def told(outcome: TransitionOutcome) -> int:
        result = TransitionResult(
            outcome=outcome, reservation=HELD, replayed=False, durability=DurabilityMode.RECORDED
        )
        reply = reservation.transition_to(
            reservation_pb.ConfirmReservationResponse, TransitionOutcome.CONFIRMED, result
        )
        assert reply.outcome == outcome
        return reply.durability_mode

    assert told(TransitionOutcome.CONFIRMED) == types_pb2.DURABILITY_MODE_RECORDED
    assert told(TransitionOutcome.ALREADY_RELEASED) == 0


@pytest.mark.parametrize(
    "state", [s for s in State if s.name not in ("PENDING", "PINNED", "ABORTED")]
)
def test_every_state_a_caller_may_see_has_its_number(state: State) -> None:
    """By name, for the numbers of the shards are their own."""

    told = reservation.reservation_to(dataclasses.replace(HELD, state=state)).state

    assert reservation_pb.Reservation.State.Name(told) == f"STATE_{state.name}"


def test_an_audit_is_told_with_its_counts_and_findings() -> None:
    """States by their contract's number, findings with both figures."""
    report = VerifyReport(verify_time_ms=1_000, elapsed_seconds=1.5, finding_count=1)
    report.reservation_counts[State.CONFIRMED] = 3
    report.findings = [
        Finding(FindingKind.OVERSOLD, 7, "too much", expected=1, actual=2, sku="a", node_id="n")
    ]

    told = admin.verify_to(report)

    assert not told.consistent
    assert told.elapsed.ToMilliseconds() == 1_500
    (counted,) = told.reservation_counts
    assert counted.state == reservation_pb.Reservation.STATE_CONFIRMED
    assert counted.reservation_count == 3
    (finding,) = told.findings
    assert (finding.kind, finding.shard_id, finding.expected, finding.actual) == (4, 7, 1, 2)
