"""Counts calls and logs the failed ones."""

from __future__ import annotations

from typing import Protocol

from promise_svc.errors import PromiseServiceError
from promise_svc.rpc.status import verdict_of
from promise_svc.telemetry.logs import EventLog


class CallCounter(Protocol):
    """The counting half of ``CallObserver``; ``telemetry.CallMetrics`` is one."""

    def answered(self, method: str, seconds: float) -> None: ...
    def started(self, method: str) -> None: ...
    def finished(self, method: str, code: str, reason: str, seconds: float) -> None: ...
    def clamped(self, method: str) -> None: ...
    def shed(self, method: str, priority: str, limit: str) -> None: ...


class CallRecorder:
    """Fulfills ``CallObserver``: metrics for every call, a log line for every failed one.

    Callers' mistakes and shed calls are told at debug level: their number is theirs to choose.
    """

    def __init__(self, counter: CallCounter, log: EventLog) -> None:
        self._log = log
        self.answered = counter.answered
        self.started = counter.started
        self.finished = counter.finished
        self.clamped = counter.clamped
        self.shed = counter.shed

    def failed(
        self, method: str, code: str, reason: str, trace_id: str, error: BaseException
    ) -> None:
        verdict = verdict_of(error)
        text = error.message if isinstance(error, PromiseServiceError) else repr(error)
        if verdict.opaque:
            self._log.error(
                "a call met a fault of ours",
                error,
                method=method,
                code=code,
                reason=reason,
                error=text,
                trace_id=trace_id,
            )
            return
        tell = self._log.warning if code in ("UNAVAILABLE", "UNKNOWN") else self._log.debug
        tell(
            "a call failed",
            method=method,
            code=code,
            reason=reason,
            error=text,
            trace_id=trace_id,
        )
