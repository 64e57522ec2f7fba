"""The one table: reason -> gRPC code and whether the same call may be retried at once.

``status_of`` writes what the contract promises of an error: ``google.rpc.Status`` with ErrorInfo,
BadRequest for wrong fields, RetryInfo where waiting helps. Faults of ours say a trace id and
nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import (  # type: ignore[import-untyped]  # stubs, not marked
    BadRequest,
    ErrorInfo,
    RetryInfo,
)
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]  # as above

from promise_svc.errors import FieldViolation, InvalidRequest, Overloaded, PromiseServiceError

DOMAIN = "promise-svc"
"""``ErrorInfo.domain`` of everything we say."""

DETAILS_KEY = "grpc-status-details-bin"
"""Trailing metadata that carries the serialized ``google.rpc.Status``."""

DETAILS_BYTES_MAX = 5_400
"""Of the serialized status. In base64 that is 7,200; gRPC clients begin to refuse metadata of
more than 8 KiB."""

MESSAGE_CHARACTERS_MAX = 300
"""The text travels twice: beside the status and in it."""

_VALUE_CHARACTERS_MAX = 256
_INTERNAL_TEXT = "a fault of the service; report it with the trace id"


class Refusable(Protocol):
    """A call whose status can be set before its handler returns."""

    def set_code(self, code: grpc.StatusCode) -> None: ...
    def set_details(self, details: str) -> None: ...
    def set_trailing_metadata(
        self, trailing_metadata: Sequence[tuple[str, str | bytes]]
    ) -> None: ...


class Verdict(NamedTuple):
    """What one reason means to a gRPC client."""

    code: grpc.StatusCode
    retryable: bool = False
    """The same call may be sent again unchanged, after a while."""
    opaque: bool = False
    """Tell the trace id and nothing else."""


_INTERNAL = Verdict(grpc.StatusCode.INTERNAL, opaque=True)

TABLE: dict[str, Verdict] = {
    "INVALID_REQUEST": Verdict(grpc.StatusCode.INVALID_ARGUMENT),
    "IDEMPOTENCY_KEY_REUSED": Verdict(grpc.StatusCode.INVALID_ARGUMENT),
    "UNAUTHENTICATED": Verdict(grpc.StatusCode.UNAUTHENTICATED),
    "PERMISSION_DENIED": Verdict(grpc.StatusCode.PERMISSION_DENIED),
    "QUOTE_TOKEN_INVALID": Verdict(grpc.StatusCode.INVALID_ARGUMENT),
    "NOT_FOUND": Verdict(grpc.StatusCode.NOT_FOUND),
    "PRECONDITION_FAILED": Verdict(grpc.StatusCode.FAILED_PRECONDITION),
    "NO_BUSINESS_DAY": Verdict(grpc.StatusCode.FAILED_PRECONDITION),
    "IDEMPOTENCY_WINDOW_PASSED": Verdict(grpc.StatusCode.FAILED_PRECONDITION),
    "OVERLOADED": Verdict(grpc.StatusCode.RESOURCE_EXHAUSTED, retryable=True),
    "UNAVAILABLE": Verdict(grpc.StatusCode.UNAVAILABLE, retryable=True),
    "NOT_SERVING": Verdict(grpc.StatusCode.UNAVAILABLE, retryable=True),
    # The engine is away as far as callers are concerned; the operator's log says why.
    "ENGINE_REFUSED": Verdict(grpc.StatusCode.UNAVAILABLE, retryable=True),
    "DEADLINE_EXCEEDED": Verdict(grpc.StatusCode.DEADLINE_EXCEEDED),
    "OUTCOME_UNKNOWN": Verdict(grpc.StatusCode.UNKNOWN),
    "CONFIG_ERROR": _INTERNAL,
    "INTERNAL": _INTERNAL,
    "INVARIANT_BROKEN": _INTERNAL,
    "SEQUENCE_GAP": _INTERNAL,
    "FORK": _INTERNAL,
}


def reason_of(error: BaseException) -> str:
    """The stable reason of an error; INTERNAL for everything that is not ours."""
    return error.reason if isinstance(error, PromiseServiceError) else "INTERNAL"


def verdict_of(error: BaseException) -> Verdict:
    """The table's row for an error."""
    return TABLE.get(reason_of(error), _INTERNAL)


def code_of(error: BaseException) -> grpc.StatusCode:
    """The gRPC code for an error."""
    return verdict_of(error).code


def status_of(error: BaseException, trace_id: str = "") -> Status:
    """What the caller is told; at most DETAILS_BYTES_MAX bytes when serialized."""
    verdict = verdict_of(error)
    number: int = verdict.code.value[0]
    info = ErrorInfo(domain=DOMAIN, reason=reason_of(error))
    if trace_id:
        info.metadata["trace_id"] = trace_id
    if verdict.opaque or not isinstance(error, PromiseServiceError):
        return Status(code=number, message=_INTERNAL_TEXT, details=[_packed(info)])
    for key, value in error.metadata.items():
        info.metadata[key] = _cut(value, _VALUE_CHARACTERS_MAX)
    if isinstance(error, InvalidRequest):
        info.metadata["violation_count"] = str(len(error.violations))
    status = Status(code=number, message=_cut(error.message, MESSAGE_CHARACTERS_MAX))
    status.details.append(_packed(info))
    if isinstance(error, Overloaded):
        retry = RetryInfo()
        retry.retry_delay.FromMilliseconds(error.retry_delay_ms)
        status.details.append(_packed(retry))
    if isinstance(error, InvalidRequest):
        room = DETAILS_BYTES_MAX - status.ByteSize()
        status.details.append(_packed(_bad_request(error.violations, room)))
    return status


class Refusal:
    """An error told many times over, worked out once; without a trace id in its details."""

    def __init__(self, error: PromiseServiceError) -> None:
        status = status_of(error)
        self.code = code_of(error)
        self.reason = reason_of(error)
        self._message = str(status.message)
        self._trailing = trailing_metadata_of(status)

    def tell(self, context: Refusable) -> bytes:
        """The reply of a call that ends in it at once."""
        context.set_code(self.code)
        context.set_details(self._message)
        context.set_trailing_metadata(self._trailing)
        return b""


def trailing_metadata_of(status: Status) -> tuple[tuple[str, bytes], ...]:
    """The entries that carry ``status`` to the caller."""
    return ((DETAILS_KEY, status.SerializeToString()),)


def _bad_request(violations: list[FieldViolation], bytes_max: int) -> BadRequest:
    """All fields by name if they fit, with as many sentences as fit beside them."""
    overhead = 80  # type URL and lengths of the enclosing messages
    room = bytes_max - overhead
    bare: list[BadRequest.FieldViolation] = []
    for violation in violations:
        entry = BadRequest.FieldViolation(field=violation.field, reason=violation.reason)
        room -= entry.ByteSize() + 3
        if room < 0:
            break
        bare.append(entry)
    for entry, violation in zip(bare, violations, strict=False):
        description = _cut(violation.description, _VALUE_CHARACTERS_MAX)
        room -= len(description) + 4
        if room < 0:
            break
        entry.description = description
    return BadRequest(field_violations=bare)


def _packed(message: Message) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed


def _cut(text: str, characters_max: int) -> str:
    # ASCII, because gRPC percent-encodes the rest and the bound is on bytes.
    text = text.encode("ascii", "backslashreplace").decode()
    return text if len(text) <= characters_max else text[: characters_max - 3] + "..."
