"""The table of reasons and what an error becomes on the wire."""

from __future__ import annotations

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo

from promise_svc import errors
from promise_svc.rpc.status import (
    DETAILS_BYTES_MAX,
    DETAILS_KEY,
    TABLE,
    code_of,
    status_of,
    trailing_metadata_of,
    verdict_of,
)

VIOLATION = errors.FieldViolation("lines[2].quantity", "OUT_OF_RANGE", "must be 1 to 9, not 0")


def every_kind(kind: type = errors.PromiseServiceError) -> list[type]:
    return [kind, *(leaf for child in kind.__subclasses__() for leaf in every_kind(child))]


@pytest.mark.parametrize("kind", every_kind())
def test_every_error_of_the_tree_has_its_row(kind: type[errors.PromiseServiceError]) -> None:
    """A new leaf must be given a code on purpose."""
    assert kind.reason in TABLE


CASES = [
    (errors.InvalidRequest([VIOLATION]), "INVALID_ARGUMENT", "INVALID_REQUEST"),
    (errors.IdempotencyKeyReused("k", "1"), "INVALID_ARGUMENT", "IDEMPOTENCY_KEY_REUSED"),
    (errors.NotFound("node", "n"), "NOT_FOUND", "NOT_FOUND"),
    (errors.PreconditionFailed("no"), "FAILED_PRECONDITION", "PRECONDITION_FAILED"),
    (errors.NoBusinessDay("c", "2026-01-01", 9), "FAILED_PRECONDITION", "NO_BUSINESS_DAY"),
    (errors.IdempotencyWindowPassed("x"), "FAILED_PRECONDITION", "IDEMPOTENCY_WINDOW_PASSED"),
    (errors.Overloaded("full", 1), "RESOURCE_EXHAUSTED", "OVERLOADED"),
    (errors.Unavailable("away"), "UNAVAILABLE", "UNAVAILABLE"),
    (errors.NotServing("away"), "UNAVAILABLE", "NOT_SERVING"),
    (errors.EngineRefused("lru"), "UNAVAILABLE", "ENGINE_REFUSED"),
    (errors.OutcomeUnknown("?"), "UNKNOWN", "OUTCOME_UNKNOWN"),
    (errors.DeadlineExceeded("late"), "DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED"),
    (errors.ConfigError("x"), "INTERNAL", "CONFIG_ERROR"),
    (errors.InvariantBroken("x"), "INTERNAL", "INVARIANT_BROKEN"),
    (errors.SequenceGap("x"), "INTERNAL", "SEQUENCE_GAP"),
    (errors.Fork("x"), "INTERNAL", "FORK"),
    (ValueError("x"), "INTERNAL", "INTERNAL"),
]


@pytest.mark.parametrize(("error", "code", "reason"), CASES, ids=lambda case: str(case)[:30])
def test_each_error_has_its_code_and_reason(error: Exception, code: str, reason: str) -> None:
    """As protos/README.md promises; the code stands beside the status and in it."""
    status = status_of(error)
    info = ErrorInfo()
    status.details[0].Unpack(info)

    assert getattr(grpc.StatusCode, code) is code_of(error)
    assert getattr(grpc.StatusCode, code).value[0] == status.code
    assert ("promise-svc", reason) == (info.domain, info.reason)


def test_only_what_did_nothing_may_be_retried() -> None:
    """UNAVAILABLE and shed calls; an unknown outcome is not among them."""
    retryable = {reason for reason, verdict in TABLE.items() if verdict.retryable}

    assert {"UNAVAILABLE", "NOT_SERVING", "ENGINE_REFUSED", "OVERLOADED"} == retryable


def test_metadata_and_trace_id_go_with_the_reason() -> None:
    """ErrorInfo carries what the error measured."""
    info = ErrorInfo()
    status_of(errors.NotFound("node", "n-1"), "t" * 32).details[0].Unpack(info)

    assert dict(info.metadata) == {"kind": "node", "name": "n-1", "trace_id": "t" * 32}


def test_a_fault_keeps_its_text_and_metadata_to_itself() -> None:
    """Also one of ours: an invariant's text is for the log."""
    status = status_of(errors.Fork("secret", key="secret"), "t")

    assert b"secret" not in status.SerializeToString()
    assert len(status.details) == 1


def test_fields_are_told_by_path_reason_and_sentence() -> None:
    """BadRequest repeats the violations in order."""
    bad = BadRequest()
    status_of(errors.InvalidRequest([VIOLATION])).details[1].Unpack(bad)

    (found,) = bad.field_violations
    assert tuple(VIOLATION) == (found.field, found.reason, found.description)


def test_a_retry_delay_is_told() -> None:
    """In RetryInfo, to the millisecond."""
    retry = RetryInfo()
    status_of(errors.Overloaded("full", 1_250)).details[1].Unpack(retry)

    assert retry.retry_delay.ToMilliseconds() == 1_250


@pytest.mark.parametrize("count", [1, 10, 100])
@pytest.mark.parametrize("character", ["x", "é", "\0"])
def test_the_status_fits_a_clients_metadata(count: int, character: str) -> None:
    """Fields are kept rather than sentences; whatever the text, the bound holds."""
    violations = [VIOLATION._replace(description=character * 5_000)] * count
    status = status_of(errors.InvalidRequest(violations, key=character * 5_000), "t" * 32)
    bad = BadRequest()
    status.details[1].Unpack(bad)

    assert status.ByteSize() <= DETAILS_BYTES_MAX
    assert len(bad.field_violations) >= min(count, 75)
    assert bad.field_violations[0].description


def test_fields_that_do_not_fit_are_counted() -> None:
    """The first ones are told; how many there were stands in the metadata."""
    violations = [VIOLATION._replace(field="f" * 200)] * 100
    status = status_of(errors.InvalidRequest(violations))
    info, bad = ErrorInfo(), BadRequest()
    status.details[0].Unpack(info)
    status.details[1].Unpack(bad)

    assert status.ByteSize() <= DETAILS_BYTES_MAX
    assert 15 <= len(bad.field_violations) < 100
    assert info.metadata["violation_count"] == "100"


def test_the_status_travels_under_grpcs_own_key() -> None:
    """The richer error model's name."""
    status = status_of(errors.Unavailable("away"))

    assert ((DETAILS_KEY, status.SerializeToString()),) == trailing_metadata_of(status)
    assert DETAILS_KEY == "grpc-status-details-bin"


def test_an_unknown_reason_is_a_fault() -> None:
    """A leaf without a row is never told as something harmless."""

    class Strange(errors.PromiseServiceError):
        reason = "STRANGE"

    assert verdict_of(Strange("x")).code is grpc.StatusCode.INTERNAL
    assert verdict_of(Strange("x")).opaque
