"""Prologue and epilogue of every call: who calls, deadline, admission, trace, metrics, errors.

A guarded method is an immediate handler, bytes in and bytes out, the form every front can mount. A
read that can be answered at once is, within the frame that brought it. The work of a call that
changes something runs in a task of its own: a caller who goes away does not stop it, and its place
is given back when the work has ended, not when the caller has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any, NamedTuple, Protocol

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from promise_svc.application.admission import Admission, Priority, shed
from promise_svc.errors import (
    DeadlineExceeded,
    FieldViolation,
    InvalidRequest,
    OutcomeUnknown,
    Overloaded,
    PermissionDenied,
)
from promise_svc.rpc.auth import Scope, Tokens
from promise_svc.rpc.status import Refusal, code_of, reason_of, status_of, trailing_metadata_of
from promise_svc.rpc.timed import TIMER_SLACK_SECONDS, measured, timed
from promise_svc.rpc.transport import CallContext, ImmediateHandler, Transport
from promise_svc.telemetry.trace import current_trace_id

AUTHORIZATION = "authorization"


class Call(NamedTuple):
    """What a servicer may know of the call besides its request."""

    timeout: float
    """Seconds left, at most the server's maximum."""
    trace_id: str


Handler = Callable[[Any, Call], Awaitable[Message | bytes]]
"""Its reply, or that encoded."""

AtOnce = Callable[[bytes], bytes | None]
"""Answers the plain requests of a method without waiting for anything; None for all others, of
which it has then done nothing. Its answers are those of the method's handler, byte for byte."""


class Plain(NamedTuple):
    """A way around messages for the plain requests of a method: the values its handler would take
    from them, and the bytes its reply would have."""

    read: Callable[[bytes], Any]
    """The values; None for a request that is not plain, which the handler then answers."""
    answer: Callable[[Any, Call], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class MethodRule:
    """How one method is treated."""

    priority: Priority | None
    """None stands outside the queue (admin)."""
    scope: Scope
    """What a token must open."""
    writes: bool = False
    """True: the work goes on when the caller goes away, and running out of time is
    OUTCOME_UNKNOWN."""
    deadline_seconds_max: float | None = None
    """Instead of the server's maximum."""
    priority_of: Callable[[Any], Priority] | None = None
    """Where the request decides; ``priority`` then is for what cannot be read."""


class Servicer(Protocol):
    """One service: each method of the proto is a coroutine ``(request, call) -> reply``.

    One that has ``at_once``, a mapping of method names to ``AtOnce``, is asked there first, and
    next where it has ``plain``, one to ``Plain``.
    """

    @property
    def service(self) -> ServiceDescriptor: ...
    @property
    def rules(self) -> Mapping[str, MethodRule]: ...


class CallObserver(Protocol):
    """Who counts and logs. Must not raise; called in the event loop."""

    def answered(self, method: str, seconds: float) -> None:
        """A call has begun and ended at once, with OK."""
        ...

    def started(self, method: str) -> None: ...
    def finished(self, method: str, code: str, reason: str, seconds: float) -> None:
        """A call has ended; ``reason`` is empty for OK. CANCELLED: the caller went away."""
        ...

    def clamped(self, method: str) -> None:
        """The caller sent no deadline, or a later one than the server's maximum."""
        ...

    def shed(self, method: str, priority: str, limit: str) -> None:
        """Of a call that admission refused; ``limit`` is IN_FLIGHT or TURN."""
        ...

    def failed(
        self, method: str, code: str, reason: str, trace_id: str, error: BaseException
    ) -> None:
        """A call ended in an error, or work nobody waits for any more did."""
        ...


class _Method(NamedTuple):
    """One guarded method."""

    name: str
    rule: MethodRule
    request_type: type[Message]
    handler: Handler
    seconds_max: float
    plain: Plain | None


class Guard:
    """Wraps servicers. One a process, so that the limit is the process's."""

    def __init__(
        self,
        admission: Admission,
        observer: CallObserver,
        *,
        deadline_seconds_max: float,
        tokens: Tokens | None = None,
    ) -> None:
        """Without ``tokens`` everybody may call everything."""
        self._admission = admission
        self._observer = observer
        self._deadline_seconds_max = deadline_seconds_max
        self._tokens = tokens
        self._work: set[asyncio.Task[Message | bytes]] = set()

    @property
    def in_flight(self) -> int:
        """Calls that hold a place, work without a caller included."""
        return self._admission.in_flight

    def mount(self, servicer: Servicer, transport: Transport) -> None:
        """Register every method of the service, guarded. KeyError if one has no rule."""
        at_once: Mapping[str, AtOnce] = getattr(servicer, "at_once", {})
        plain: Mapping[str, Plain] = getattr(servicer, "plain", {})
        handlers = {
            method.name: self.guarded(
                f"{servicer.service.full_name}/{method.name}",
                servicer.rules[method.name],
                GetMessageClass(method.input_type),
                getattr(servicer, method.name),
                at_once.get(method.name),
                plain.get(method.name),
            )
            for method in servicer.service.methods
        }
        transport.add_immediate_handlers(servicer.service.full_name, handlers)

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
        self,
        name: str,
        rule: MethodRule,
        request_type: type[Message],
        handler: Handler,
        at_once: AtOnce | None = None,
        plain: Plain | None = None,
    ) -> ImmediateHandler:
        """The handler a front mounts for one method."""
        seconds_max = rule.deadline_seconds_max or self._deadline_seconds_max
        assert plain is None or rule.priority_of is None, "it decides by a message"
        method = _Method(name, rule, request_type, handler, seconds_max, plain)
        answer, observer, tokens = self._answer, self._observer, self._tokens
        if rule.priority is None or rule.priority_of is not None:
            assert at_once is None, "what is answered at once has a priority of its own"
            return lambda body, context: answer(method, body, context)
        priority, refusal, refuse = rule.priority, self._admission.refusal, self._refuser(method)
        scope, known = rule.scope.value, None if tokens is None else tokens.known

        def answer_admitted(body: bytes, context: CallContext) -> bytes | Awaitable[bytes]:
            limit = refusal(priority)
            # Who is not known yet is looked at below: a stranger is told nothing of the load.
            if limit and (known is None or known(context.metadata(AUTHORIZATION)) & scope):
                return refuse(context, limit)
            return answer(method, body, context)

        if at_once is None:
            return answer_admitted
        assert not rule.writes, "what is answered at once only reads"

        def answer_at_once(body: bytes, context: CallContext) -> bytes | Awaitable[bytes]:
            began = perf_counter()
            # Whatever is not as it should be is looked at again, and told, below. Nothing sheds
            # it before: to refuse such a read costs more than to answer it.
            if known is None or known(context.metadata(AUTHORIZATION)) & scope:
                seconds = context.time_remaining()
                if seconds is None or seconds > 0:
                    try:
                        reply = at_once(body)
                    except Exception as error:
                        # A fault of ours, to be looked at; the handler answers meanwhile.
                        observer.failed(name, "INTERNAL", "INTERNAL", context.trace_id(), error)
                        return answer(method, body, context)
                    if reply is not None:
                        if seconds is None or seconds > seconds_max:
                            observer.clamped(name)
                        observer.answered(name, perf_counter() - began)
                        return reply
            return answer_admitted(body, context)

        return answer_at_once

    def _refuser(self, method: _Method) -> Callable[[CallContext, str], bytes]:
        """Sheds calls at the door: that must cost a small part of what they would."""
        name, priority, observer = method.name, method.rule.priority, self._observer
        assert priority is not None
        refusals = {limit: Refusal(shed(priority, limit)) for limit in ("IN_FLIGHT", "TURN")}

        def refuse(context: CallContext, limit: str) -> bytes:
            refusal = refusals[limit]
            observer.shed(name, priority.name, limit)
            observer.started(name)
            observer.finished(name, refusal.code.name, refusal.reason, 0.0)
            return refusal.tell(context)

        return refuse

    async def _answer(self, method: _Method, body: bytes, context: CallContext) -> bytes:
        began = perf_counter()
        name, observer = method.name, self._observer
        observer.started(name)
        code, reason = "CANCELLED", "CANCELLED"
        trace_id = context.trace_id()
        # The front runs this in a context of its own, so nothing has to be set back.
        current_trace_id.set(trace_id)
        try:
            self._authorize(method, context)
            call = Call(self._seconds_left(method, context), trace_id)
            reply = await self._admitted(method, body, call)
            if not isinstance(reply, bytes):
                reply = reply.SerializeToString()
            code, reason = "OK", ""
            return reply
        except Exception as error:
            code, reason = code_of(error).name, reason_of(error)
            await self._fail(name, context, error)
            raise AssertionError("abort raises") from error
        finally:
            observer.finished(name, code, reason, perf_counter() - began)

    async def _fail(self, name: str, context: CallContext, error: Exception) -> None:
        code, trace_id = code_of(error), context.trace_id()
        self._observer.failed(name, code.name, reason_of(error), trace_id, error)
        status = status_of(error, trace_id)
        await context.abort(code, status.message, trailing_metadata_of(status))

    def _authorize(self, method: _Method, context: CallContext) -> None:
        if self._tokens is None:
            return
        scope = method.rule.scope
        if not self._tokens.scopes(context.metadata(AUTHORIZATION)) & scope.value:
            wanted = str(scope.name).lower()
            raise PermissionDenied(f"the token does not open scope {wanted}", scope=wanted)

    def _seconds_left(self, method: _Method, context: CallContext) -> float:
        seconds = context.time_remaining()
        if seconds is None or seconds > method.seconds_max:
            self._observer.clamped(method.name)
            return method.seconds_max
        if seconds <= 0:
            raise DeadlineExceeded("the deadline had passed when the call was read")
        return seconds

    async def _admitted(self, method: _Method, body: bytes, call: Call) -> Message | bytes:
        name, rule = method.name, method.rule
        handler: Callable[[Any, Call], Awaitable[Message | bytes]] = method.handler
        request = None
        if method.plain is not None:
            request, handler = method.plain.read(body), method.plain.answer
        if request is None:
            request, handler = _parsed(method.request_type, body), method.handler
        if rule.priority is None:
            return await timed(handler(request, call), call.timeout)
        priority = rule.priority_of(request) if rule.priority_of else rule.priority
        admission, took = self._admission, partial(self._admission.took, priority)
        try:
            admission.enter(priority)
            if not admission.begins(priority):
                call = await self._turn(priority, call)
        except Overloaded as error:
            self._observer.shed(name, priority.name, error.metadata["limit"])
            raise
        if rule.writes:
            return await self._detached(name, measured(handler(request, call), took), call)
        try:
            return await timed(handler(request, call), call.timeout, took)
        finally:
            admission.leave()

    async def _turn(self, priority: Priority, call: Call) -> Call:
        """The call with what is left of its time when its turn has come."""
        began = perf_counter()
        try:
            await self._admission.turn(priority)
        except BaseException:
            self._admission.leave()
            raise
        return call._replace(timeout=max(0.0, call.timeout - (perf_counter() - began)))

    async def _detached(
        self, name: str, work: Awaitable[Message | bytes], call: Call
    ) -> Message | bytes:
        """Run ``work`` to its end whatever becomes of the caller."""
        loop = asyncio.get_running_loop()
        task, over = asyncio.ensure_future(work), loop.create_future()
        self._work.add(task)
        waited_for = True

        def tell_if_unheard(task: asyncio.Task[Message | bytes]) -> None:
            if not waited_for and not task.cancelled() and (error := task.exception()):
                code, reason = code_of(error).name, reason_of(error)
                self._observer.failed(name, code, reason, call.trace_id, error)

        def ended(task: asyncio.Task[Message | bytes]) -> None:
            self._work.discard(task)
            self._admission.leave()
            tell_if_unheard(task)
            _finish(over)

        task.add_done_callback(ended)
        # asyncio.wait would do this at four times the cost.
        timer = loop.call_later(call.timeout + TIMER_SLACK_SECONDS, _finish, over)
        try:
            await over
        except asyncio.CancelledError:
            waited_for = False
            if task.done():  # it ended as the caller went
                tell_if_unheard(task)
            raise
        finally:
            timer.cancel()
        if task.done() and not task.cancelled():
            return task.result()
        waited_for = False
        raise OutcomeUnknown("time ran out while the call was carried out; send the same again")


def _finish(over: asyncio.Future[None]) -> None:
    if not over.done():
        over.set_result(None)


def _parsed(request_type: type[Message], body: bytes) -> Message:
    try:
        return request_type.FromString(body)
    except DecodeError as error:
        name = request_type.DESCRIPTOR.full_name
        violation = FieldViolation("", "MALFORMED", f"the body is not a {name}")
        raise InvalidRequest([violation]) from error
