"""Fakes of the front door: an observer that remembers, and a servicer that does as it is told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from promise_svc.application.admission import Priority
from promise_svc.rpc.auth import Scope
from promise_svc.rpc.guard import Call, MethodRule
from promise_svc.v1 import availability_service_pb2 as pb


class Finished(NamedTuple):
    """One ended call."""

    method: str
    code: str
    reason: str


class Failed(NamedTuple):
    """One logged failure."""

    code: str
    reason: str
    trace_id: str
    error: BaseException


class CallLog:
    """Fulfills ``CallObserver``."""

    def __init__(self) -> None:
        self.started_count = 0
        self.answers: list[str] = []
        self.finishes: list[Finished] = []
        self.clamped_count = 0
        self.sheds: list[tuple[str, str]] = []
        self.failures: list[Failed] = []

    def answered(self, method: str, seconds: float) -> None:
        assert seconds >= 0
        self.answers.append(method)

    def started(self, method: str) -> None:
        self.started_count += 1

    def finished(self, method: str, code: str, reason: str, seconds: float) -> None:
        assert seconds >= 0
        self.finishes.append(Finished(method, code, reason))

    def clamped(self, method: str) -> None:
        self.clamped_count += 1

    def shed(self, method: str, priority: str, limit: str) -> None:
        self.sheds.append((priority, limit))

    def failed(
        self, method: str, code: str, reason: str, trace_id: str, error: BaseException
    ) -> None:
        self.failures.append(Failed(code, reason, trace_id, error))


Script = Callable[[pb.QueryAvailabilityRequest, Call], Awaitable[pb.QueryAvailabilityResponse]]


class ScriptedServicer:
    """AvailabilityService whose QueryAvailability runs ``script``, as a read or as a write.

    FindPickupNodes is the same thing as a write.
    """

    service = pb.DESCRIPTOR.services_by_name["AvailabilityService"]
    rules = {
        "CheckAvailability": MethodRule(Priority.AVAILABILITY, Scope.READ),
        "ExplainAvailability": MethodRule(Priority.AVAILABILITY, Scope.ADMIN),
        "QueryNodeCapacity": MethodRule(Priority.AVAILABILITY, Scope.READ),
        "QueryAvailability": MethodRule(Priority.AVAILABILITY, Scope.READ),
        "FindPickupNodes": MethodRule(Priority.SETTLE, Scope.RESERVE, writes=True),
    }

    def __init__(self) -> None:
        self.script: Script = echo

    async def QueryAvailability(
        self, request: pb.QueryAvailabilityRequest, call: Call
    ) -> pb.QueryAvailabilityResponse:
        return await self.script(request, call)

    async def CheckAvailability(
        self, request: pb.CheckAvailabilityRequest, call: Call
    ) -> pb.CheckAvailabilityResponse:
        raise AssertionError("nobody asks")

    async def ExplainAvailability(
        self, request: pb.ExplainAvailabilityRequest, call: Call
    ) -> pb.ExplainAvailabilityResponse:
        raise AssertionError("nobody asks")

    async def QueryNodeCapacity(
        self, request: pb.QueryNodeCapacityRequest, call: Call
    ) -> pb.QueryNodeCapacityResponse:
        raise AssertionError("nobody asks")

    async def FindPickupNodes(
        self, request: pb.FindPickupNodesRequest, call: Call
    ) -> pb.FindPickupNodesResponse:
        await self.script(pb.QueryAvailabilityRequest(), call)
        return pb.FindPickupNodesResponse(network_version=7)


async def echo(request: pb.QueryAvailabilityRequest, call: Call) -> pb.QueryAvailabilityResponse:
    """One entry back for each asked for."""
    entries = [pb.Availability(sku=entry.sku, ats=1) for entry in request.entries]
    return pb.QueryAvailabilityResponse(entries=entries)
