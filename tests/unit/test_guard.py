"""Deadlines, admission, trace ids and faults, without a socket."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from promise_svc.application.admission import Admission, Priority
from promise_svc.errors import Unavailable
from promise_svc.rpc.auth import Scope
from promise_svc.rpc.guard import Guard, MethodRule, Plain
from promise_svc.rpc.status import DETAILS_KEY
from promise_svc.v1 import availability_service_pb2 as pb
from tests.support.call_log import CallLog

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
READ = MethodRule(Priority.AVAILABILITY, Scope.READ)
WRITE = MethodRule(Priority.SETTLE, Scope.RESERVE, writes=True)


class Aborted(Exception):
    """What ``abort`` raises in place of gRPC's own."""


class Context:
    """Fulfills ``CallContext`` and remembers."""

    def __init__(self, seconds: float | None = 1.0, **metadata: str) -> None:
        self.seconds = seconds
        self._metadata = metadata
        self.trailing: dict[str, Any] = {}
        self.code: grpc.StatusCode | None = None

    def metadata(self, key: str) -> str | None:
        return self._metadata.get(key)

    def trace_id(self) -> str:
        return TRACE_ID

    def time_remaining(self) -> float | None:
        return self.seconds

    def set_code(self, code) -> None:
        self.code = code

    def set_details(self, details) -> None:
        self.details = details

    def set_trailing_metadata(self, trailing_metadata) -> None:
        self.trailing = dict(trailing_metadata)

    async def abort(self, code, details="", trailing_metadata=()):
        self.code = code
        self.trailing = dict(trailing_metadata)
        raise Aborted

    @property
    def reason(self) -> str:
        info = ErrorInfo()
        Status.FromString(self.trailing[DETAILS_KEY]).details[0].Unpack(info)
        return info.reason


class Counted:
    """A handler that counts its calls and does as told."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.calls: list[float] = []
        self.error = error

    async def __call__(self, request, call):
        self.calls.append(call.timeout)
        if self.error:
            raise self.error
        return pb.QueryAvailabilityResponse()


def a_guard(limit: int = 10, seconds: float = 2.0) -> tuple[Guard, CallLog]:
    log = CallLog()
    return Guard(Admission(limit), log, deadline_seconds_max=seconds), log


def guarded(guard: Guard, handler, rule: MethodRule = READ):
    return guard.guarded("Service/Method", rule, pb.QueryAvailabilityRequest, handler)


def use_up_the_next_turn(guard: Guard, priority: Priority) -> None:
    """Of the event loop, before any task that is made from now on."""

    def use_up() -> None:
        while guard._admission.begins(priority):
            pass

    asyncio.get_running_loop().call_soon(use_up)


@pytest.mark.parametrize(
    ("sent", "seen", "clamped"),
    [(None, 2.0, 1), (2.001, 2.0, 1), (2.0, 2.0, 0), (0.5, 0.5, 0)],
)
async def test_a_deadline_is_clamped_to_the_servers_maximum(sent, seen, clamped) -> None:
    """When it is missing or later; each clamp is counted."""
    guard, log = a_guard()
    handler = Counted()

    await guarded(guard, handler)(b"", Context(sent))

    assert [seen] == handler.calls
    assert clamped == log.clamped_count


async def test_a_call_whose_deadline_has_passed_does_no_work() -> None:
    """Not even its body is read."""
    guard, _ = a_guard()
    handler, context = Counted(), Context(0.0)

    with pytest.raises(Aborted):
        await guarded(guard, handler)(b"\xff", context)

    assert handler.calls == []
    assert context.reason == "DEADLINE_EXCEEDED"


async def test_a_success_is_counted() -> None:
    """Place given back, outcome OK."""
    guard, log = a_guard()

    await guarded(guard, Counted())(b"", Context())

    assert log.finishes == [("Service/Method", "OK", "")]
    assert guard.in_flight == 0


@pytest.mark.parametrize("rule", [READ, WRITE])
@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (Unavailable("away"), grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE"),
        (KeyError("secret"), grpc.StatusCode.INTERNAL, "INTERNAL"),
    ],
)
async def test_a_failure_is_told_logged_and_counted(rule, error, code, reason) -> None:
    """Whether it was foreseen or not; its place is given back."""
    guard, log = a_guard()
    context = Context()

    with pytest.raises(Aborted):
        await guarded(guard, Counted(error), rule)(b"", context)

    assert (code, reason) == (context.code, context.reason)
    assert [error] == [failure.error for failure in log.failures]
    assert [(code.name, reason)] == [finish[1:] for finish in log.finishes]
    assert guard.in_flight == 0


async def test_a_shed_call_does_no_work() -> None:
    """OVERLOADED, counted by priority."""
    guard, log = a_guard(limit=1)
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def holds(request, call):
        entered.set()
        await go_on.wait()
        return pb.QueryAvailabilityResponse()

    first = asyncio.create_task(guarded(guard, holds)(b"", Context()))
    await entered.wait()
    handler, context = Counted(), Context()
    reply = guarded(guard, handler, WRITE)(b"", context)
    go_on.set()
    await first

    assert (handler.calls, reply) == ([], b"")
    assert context.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert context.reason == "OVERLOADED"
    assert log.sheds == [("SETTLE", "IN_FLIGHT")]
    assert guard.in_flight == 0


@pytest.mark.parametrize("rule", [READ, WRITE], ids=["read", "write"])
async def test_a_plain_request_makes_no_message_and_is_guarded_alike(rule) -> None:
    """Its answer is passed on as it is; what is not plain goes to the handler; a shed one is not
    begun."""
    guard, log = a_guard(limit=1)
    handler, plain = Counted(), Counted()

    async def answer(values, call) -> bytes:
        await plain(values, call)
        return values + b" answered"

    serve = guard.guarded(
        "Service/Method",
        rule,
        pb.QueryAvailabilityRequest,
        handler,
        plain=Plain(lambda body: b"values" if body == b"plain" else None, answer),
    )
    replies = [await serve(b"plain", Context()), await serve(b"", Context())]
    guard._admission.enter(Priority.SETTLE)
    shed = Context()

    assert serve(b"plain", shed) == b""
    assert replies == [b"values answered", b""]
    assert (len(plain.calls), len(handler.calls)) == (1, 1)
    assert shed.reason == "OVERLOADED"


async def test_admin_stands_outside_the_queue() -> None:
    """It is let in when nobody else is, and takes no place."""
    guard, _ = a_guard(limit=1)
    guard._admission.enter(Priority.SETTLE)
    handler = Counted()

    await guarded(guard, handler, MethodRule(None, Scope.ADMIN))(b"", Context())

    assert len(handler.calls) == 1
    assert guard.in_flight == 1


async def test_the_request_may_decide_its_priority() -> None:
    """``priority_of`` wins over the rule's."""
    guard, log = a_guard(limit=1)
    guard._admission.enter(Priority.SETTLE)
    rule = MethodRule(
        Priority.OTHER_SUPPLY, Scope.SUPPLY, priority_of=lambda request: Priority.SUPPLY_DOWN
    )

    with pytest.raises(Aborted):
        await guarded(guard, Counted(), rule)(b"", Context())

    assert log.sheds == [("SUPPLY_DOWN", "IN_FLIGHT")]


async def test_a_call_that_waits_for_its_turn_begins_later_and_has_less_time() -> None:
    """Nothing of it is done in a turn that is used up; its place is taken meanwhile."""
    guard, log = a_guard()
    handler = Counted()
    use_up_the_next_turn(guard, Priority.AVAILABILITY)
    call = asyncio.ensure_future(guarded(guard, handler)(b"", Context(1.0)))
    while not guard._admission.waiting_count:
        assert not handler.calls
        await asyncio.sleep(0)
    in_flight = guard.in_flight
    await call

    assert in_flight == 1
    assert 0 < handler.calls[0] < 1.0
    assert guard.in_flight == 0
    assert log.sheds == []


@pytest.mark.parametrize("rule", [READ, MethodRule(Priority.RESERVE, Scope.RESERVE, writes=True)])
async def test_a_caller_who_goes_while_waiting_gives_place_and_turn_back(rule) -> None:
    """Its work never begins."""
    guard, log = a_guard()
    assert rule.priority is not None
    handler = Counted()
    use_up_the_next_turn(guard, rule.priority)
    call = asyncio.ensure_future(guarded(guard, handler, rule)(b"", Context()))
    while not guard._admission.waiting_count:
        await asyncio.sleep(0)
    call.cancel()
    await asyncio.wait({call})
    while guard._admission.waiting_count:
        await asyncio.sleep(0)

    assert handler.calls == []
    assert guard.in_flight == 0
    assert log.finishes[-1].code == "CANCELLED"


async def test_a_write_that_fails_in_the_very_turn_in_which_its_caller_goes_is_logged() -> None:
    """Its outcome is there, and nobody has read it yet: it is not left for the interpreter."""
    guard, log = a_guard()
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def fails(request, call):
        entered.set()
        await go_on.wait()
        raise Unavailable("the shard is away")

    told = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    serve = asyncio.ensure_future(guarded(guard, fails, WRITE)(b"", Context()))
    await entered.wait()
    go_on.set()
    while guard.in_flight:  # the work has ended; who waits for it has not been woken yet
        await asyncio.sleep(0)
    serve.cancel()
    await asyncio.wait({serve})
    del serve
    gc.collect()

    assert [failed.code for failed in log.failures] == ["UNAVAILABLE"]
    assert told == []


async def test_a_write_whose_caller_went_away_ends_and_its_failure_is_logged() -> None:
    """Nobody else would ever hear of it."""
    guard, log = a_guard()
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def fails(request, call):
        entered.set()
        await go_on.wait()
        raise Unavailable("away")

    call = asyncio.create_task(guarded(guard, fails, WRITE)(b"", Context()))
    await entered.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call

    assert guard.in_flight == 1
    go_on.set()
    await guard.settle(5)
    assert guard.in_flight == 0
    assert [failure.reason for failure in log.failures] == ["UNAVAILABLE"]
    assert [finish[1:] for finish in log.finishes] == [("CANCELLED", "CANCELLED")]


async def test_settling_cuts_off_work_that_does_not_end() -> None:
    """After its time, so that a process can stop."""
    guard, _ = a_guard()
    entered = asyncio.Event()

    async def hangs(request, call):
        entered.set()
        await asyncio.Event().wait()

    call = asyncio.create_task(guarded(guard, hangs, WRITE)(b"", Context()))
    await entered.wait()
    call.cancel()
    await asyncio.wait({call})
    await guard.settle(0.01)

    assert guard.in_flight == 0
