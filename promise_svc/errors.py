"""The one tree of errors. Leaves carry a stable reason; ``rpc/status.py`` alone maps them to gRPC.

PromiseServiceError
├── InvalidRequest          the caller must change the request; carries field violations
│   ├── IdempotencyKeyReused    same key, other body
│   └── QuoteTokenInvalid       not signed here, or with a key given up since
├── Unauthenticated         no token, or one we do not know
├── PermissionDenied        the token is known and does not open the method
├── NotFound                no such reservation, node, SKU ...
├── PreconditionFailed      the state does not allow it (revision, window, network)
│   ├── NoBusinessDay           a calendar has no open day within a year
│   └── IdempotencyWindowPassed the key is older than the window: refused, never executed again
├── Overloaded              shed by admission or by a static limit; carries a retry delay
├── Unavailable             nothing was done; the same call may be retried
│   └── NotServing              the shard has another owner until a takeover
├── OutcomeUnknown          something may have been done; ask again with the same key
├── DeadlineExceeded        the caller's time ran out before anything was sent
├── EngineRefused           an engine's settings or version cannot keep a promise we make
├── ConfigError             a setting is out of range; the process does not start
└── InvariantBroken         we are wrong: stop rather than go on wrong
    ├── SequenceGap             the outbox skipped an event
    └── Fork                    two bodies under one event identity
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple


class FieldViolation(NamedTuple):
    """One complaint about one field of a request."""

    field: str
    """Path from the request's root, such as ``lines[2].quantity``."""
    reason: str
    """Stable UPPER_SNAKE code."""
    description: str
    """One sentence that helps."""


class PromiseServiceError(Exception):
    """Root of everything this service raises on purpose."""

    reason: ClassVar[str] = "INTERNAL"

    def __init__(self, message: str, **metadata: str | int) -> None:
        super().__init__(message)
        self.message = message
        self.metadata: dict[str, str] = {key: str(value) for key, value in metadata.items()}


class InvalidRequest(PromiseServiceError):
    """The request is wrong in itself; retrying it unchanged cannot help."""

    reason = "INVALID_REQUEST"

    def __init__(self, violations: list[FieldViolation], **metadata: str | int) -> None:
        first = violations[0]
        more = f" (and {len(violations) - 1} more)" if len(violations) > 1 else ""
        where = f"{first.field}: " if first.field else ""
        super().__init__(f"{where}{first.description}{more}", **metadata)
        self.violations = violations


class IdempotencyKeyReused(InvalidRequest):
    """The key was used before with another body."""

    reason = "IDEMPOTENCY_KEY_REUSED"

    def __init__(self, field: str, key: str) -> None:
        violation = FieldViolation(
            field, self.reason, "this key was already used with another body; mint a new one"
        )
        super().__init__([violation], key=key)


class Unauthenticated(PromiseServiceError):
    """Who calls is not known. The message never repeats what was sent."""

    reason = "UNAUTHENTICATED"


class PermissionDenied(PromiseServiceError):
    """The caller is known and may not do this."""

    reason = "PERMISSION_DENIED"


class QuoteTokenInvalid(InvalidRequest):
    """No token of ours: another cluster's, changed on its way, or its key was given up."""

    reason = "QUOTE_TOKEN_INVALID"

    def __init__(self, description: str) -> None:
        super().__init__([FieldViolation("quote_token", self.reason, description)])


class NotFound(PromiseServiceError):
    """The named thing does not exist, or no longer does."""

    reason = "NOT_FOUND"

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"no {kind} named {name!r}", kind=kind, name=name)


class PreconditionFailed(PromiseServiceError):
    """The request is well formed, and the present state does not allow it."""

    reason = "PRECONDITION_FAILED"


class NoBusinessDay(PreconditionFailed):
    """A calendar has no business day within the days we search."""

    reason = "NO_BUSINESS_DAY"

    def __init__(self, calendar_id: str, start: str, day_count: int) -> None:
        super().__init__(
            f"calendar {calendar_id!r} has no business day in the {day_count} days from {start}",
            calendar_id=calendar_id,
            start=start,
            day_count=day_count,
        )


class IdempotencyWindowPassed(PreconditionFailed):
    """The key is older than the window in which repeats are recognised."""

    reason = "IDEMPOTENCY_WINDOW_PASSED"


class Overloaded(PromiseServiceError):
    """Shed on purpose; ``retry_delay_ms`` says when to come back."""

    reason = "OVERLOADED"

    def __init__(self, message: str, retry_delay_ms: int, **metadata: str | int) -> None:
        super().__init__(message, **metadata)
        self.retry_delay_ms = retry_delay_ms


class Unavailable(PromiseServiceError):
    """Something we need is away, and nothing was done."""

    reason = "UNAVAILABLE"


class NotServing(Unavailable):
    """The shard's owner is another process than the one that answered."""

    reason = "NOT_SERVING"


class OutcomeUnknown(PromiseServiceError):
    """The step may or may not have happened; the same call with the same key finds out."""

    reason = "OUTCOME_UNKNOWN"


class DeadlineExceeded(PromiseServiceError):
    """Time ran out before anything was sent."""

    reason = "DEADLINE_EXCEEDED"


class EngineRefused(PromiseServiceError):
    """An engine's setting would break a promise; the message names setting and remedy."""

    reason = "ENGINE_REFUSED"


class ConfigError(PromiseServiceError):
    """A setting is missing, out of range or contradicts another."""

    reason = "CONFIG_ERROR"


class InvariantBroken(PromiseServiceError):
    """A thing that cannot be was seen."""

    reason = "INVARIANT_BROKEN"


class SequenceGap(InvariantBroken):
    """An event is missing between two that are present."""

    reason = "SEQUENCE_GAP"


class Fork(InvariantBroken):
    """Two different events carry one identity."""

    reason = "FORK"
