"""Prologue and epilogue of every call: deadline, admission, trace, metrics, errors.

A guarded method is a bytes-to-bytes handler, the form every front can mount. The work of a call
that changes something runs in a task of its own: a caller who goes away does not stop it, and its
place is given back when the work has ended, not when the caller has.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from promise_svc.application.admission import Admission, Priority
from promise_svc.errors import (
    DeadlineExceeded,
    FieldViolation,
    InvalidRequest,
    OutcomeUnknown,
    Overloaded,
)
from promise_svc.rpc.status import code_of, reason_of, status_of, trailing_metadata_of
from promise_svc.rpc.transport import CallContext, Transport
from promise_svc.telemetry.trace import current_trace_id, new_trace_id, parse_traceparent

TRACE_KEY = "trace-id"
"""Trailing metadata that tells the trace id of every reply."""

TIMER_SLACK_SECONDS = 0.25
"""How much later than its use case the guard ends a call: the use case knows better what to say."""


@dataclass(frozen=True, slots=True)
class Call:
    """What a servicer may know of the call besides its request."""

    timeout: float
    """Seconds left, at most the server's maximum."""
    trace_id: str


Handler = Callable[[Any, Call], Awaitable[Message]]


@dataclass(frozen=True, slots=True)
class MethodRule:
    """How one method is treated."""

    priority: Priority | None
    """None stands outside the queue (admin)."""
    writes: bool = False
    """True: the work goes on when the caller goes away, and running out of time is
    OUTCOME_UNKNOWN."""
    deadline_seconds_max: float | None = None
    """Instead of the server's maximum."""
    priority_of: Callable[[Any], Priority] | None = None
    """Where the request decides; ``priority`` then is for what cannot be read."""


class Servicer(Protocol):
    """One service: each method of the proto is a coroutine ``(request, call) -> reply``."""

    @property
    def service(self) -> ServiceDescriptor: ...
    @property
    def rules(self) -> Mapping[str, MethodRule]: ...


class CallObserver(Protocol):
    """Who counts and logs. Must not raise; called in the event loop."""

    def started(self, method: str) -> None: ...
    def finished(self, method: str, code: str, reason: str, seconds: float) -> None:
        """A call has ended; ``reason`` is empty for OK. CANCELLED: the caller went away."""
        ...

    def clamped(self, method: str) -> None:
        """The caller sent no deadline, or a later one than the server's maximum."""
        ...

    def shed(self, method: str, priority: str) -> None: ...
    def failed(
        self, method: str, code: str, reason: str, trace_id: str, error: BaseException
    ) -> None:
        """A call ended in an error, or work nobody waits for any more did."""
        ...


class Guard:
    """Wraps servicers. One a process, so that the limit is the process's."""

    def __init__(
        self, admission: Admission, observer: CallObserver, *, deadline_seconds_max: float
    ) -> None:
        self._admission = admission
        self._observer = observer
        self._deadline_seconds_max = deadline_seconds_max
        self._work: set[asyncio.Task[Message]] = set()

    @property
    def in_flight(self) -> int:
        """Calls that hold a place, work without a caller included."""
        return self._admission.in_flight

    def mount(self, servicer: Servicer, transport: Transport) -> None:
        """Register every method of the service, guarded. KeyError if one has no rule."""
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            method.name: grpc.unary_unary_rpc_method_handler(
                self.guarded(
                    f"{servicer.service.full_name}/{method.name}",
                    servicer.rules[method.name],
                    GetMessageClass(method.input_type),
                    getattr(servicer, method.name),
                )
            )
            for method in servicer.service.methods
        }
        transport.add_registered_method_handlers(servicer.service.full_name, handlers)

    async def settle(self, timeout: float) -> None:
        """Wait for work whose callers have gone; cut off what is left after ``timeout``."""
        if not self._work:
            return
        _, late = await asyncio.wait(self._work, timeout=timeout)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)

    def guarded(
        self, name: str, rule: MethodRule, request_type: type[Message], handler: Handler
    ) -> Callable[[bytes, Any], Awaitable[bytes]]:
        """The handler a front mounts for one method."""
        observer = self._observer

        async def answer(body: bytes, context: CallContext) -> bytes:
            started = time.perf_counter()
            observer.started(name)
            code, reason = "CANCELLED", "CANCELLED"
            trace_id = trace_id_of(context.invocation_metadata())
            # Every call runs in a task of its own, so nothing has to be set back.
            current_trace_id.set(trace_id)
            try:
                call = Call(self._seconds_left(name, rule, context), trace_id)
                request = _parsed(request_type, body)
                reply = await self._admitted(name, rule, handler, request, call)
                encoded = reply.SerializeToString()
                context.set_trailing_metadata(((TRACE_KEY, trace_id),))
                code, reason = "OK", ""
                return encoded
            except Exception as error:
                code, reason = code_of(error).name, reason_of(error)
                observer.failed(name, code, reason, trace_id, error)
                status = status_of(error, trace_id)
                await context.abort(
                    code_of(error),
                    status.message,
                    ((TRACE_KEY, trace_id), *trailing_metadata_of(status)),
                )
            finally:
                observer.finished(name, code, reason, time.perf_counter() - started)

        return answer

    def _seconds_left(self, name: str, rule: MethodRule, context: CallContext) -> float:
        seconds = context.time_remaining()
        seconds_max = rule.deadline_seconds_max or self._deadline_seconds_max
        if seconds is None or seconds > seconds_max:
            self._observer.clamped(name)
            return seconds_max
        if seconds <= 0:
            raise DeadlineExceeded("the deadline had passed when the call was read")
        return seconds

    async def _admitted(
        self, name: str, rule: MethodRule, handler: Handler, request: Message, call: Call
    ) -> Message:
        if rule.priority is None:
            return await _timed(handler(request, call), call.timeout)
        priority = rule.priority_of(request) if rule.priority_of else rule.priority
        try:
            self._admission.enter(priority)
        except Overloaded:
            self._observer.shed(name, priority.name)
            raise
        if rule.writes:
            return await self._detached(name, handler(request, call), call)
        try:
            return await _timed(handler(request, call), call.timeout)
        finally:
            self._admission.leave()

    async def _detached(self, name: str, work: Awaitable[Message], call: Call) -> Message:
        """Run ``work`` to its end whatever becomes of the caller."""
        task = asyncio.ensure_future(work)
        self._work.add(task)
        waited_for = True

        def ended(task: asyncio.Task[Message]) -> None:
            self._work.discard(task)
            self._admission.leave()
            if not waited_for and not task.cancelled() and (error := task.exception()):
                code, reason = code_of(error).name, reason_of(error)
                self._observer.failed(name, code, reason, call.trace_id, error)

        task.add_done_callback(ended)
        try:
            done, _ = await asyncio.wait({task}, timeout=call.timeout + TIMER_SLACK_SECONDS)
        except asyncio.CancelledError:
            waited_for = False
            raise
        if done and not task.cancelled():
            return task.result()
        waited_for = False
        raise OutcomeUnknown("time ran out while the call was carried out; send the same again")


def trace_id_of(metadata: Iterable[tuple[str, str | bytes]] | None) -> str:
    """The trace id of a W3C ``traceparent``, or a new one: 32 hexadecimal digits."""
    for key, value in metadata or ():
        if key == "traceparent" and isinstance(value, str) and (parent := parse_traceparent(value)):
            return parent.trace_id
    return new_trace_id()


def _parsed(request_type: type[Message], body: bytes) -> Message:
    try:
        return request_type.FromString(body)
    except DecodeError as error:
        name = request_type.DESCRIPTOR.full_name
        violation = FieldViolation("", "MALFORMED", f"the body is not a {name}")
        raise InvalidRequest([violation]) from error


class _Begun(Awaitable[Message]):
    """What is left of an awaitable after its first step."""

    def __init__(self, steps: Generator[Any, Any, Message], waiting_for: Any) -> None:
        self._steps = steps
        self._first: list[Any] = [waiting_for]

    def __await__(self) -> _Begun:
        return self

    def __iter__(self) -> _Begun:
        return self

    def __next__(self) -> Any:
        return self.send(None)

    def send(self, value: Any) -> Any:
        return self._first.pop() if self._first else self._steps.send(value)

    def throw(self, *error: Any) -> Any:
        self._first.clear()
        return self._steps.throw(*error)

    def close(self) -> None:
        self._steps.close()


async def _timed(work: Awaitable[Message], timeout: float) -> Message:
    # A timer costs as much as a look-up, and most reads end without waiting for anything.
    steps = work.__await__()
    try:
        waiting_for = steps.send(None)
    except StopIteration as ended:
        return cast(Message, ended.value)
    try:
        async with asyncio.timeout(timeout + TIMER_SLACK_SECONDS):
            reply: Message = await _Begun(steps, waiting_for)
            return reply
    except TimeoutError as error:
        raise DeadlineExceeded("time ran out") from error
