"""AvailabilityService: decode, call, encode."""

from __future__ import annotations

from promise_svc.application.admission import Priority
from promise_svc.application.availability import AvailabilityReader
from promise_svc.application.pickup import PickupFinder
from promise_svc.application.ports import Clock
from promise_svc.rpc.auth import Scope
from promise_svc.rpc.convert.availability import pickup_from, pickup_to, query_from, query_to
from promise_svc.rpc.guard import Call, MethodRule
from promise_svc.v1 import availability_service_pb2 as pb


class AvailabilityServicer:
    """Answers how many can be sold now, and where."""

    service = pb.DESCRIPTOR.services_by_name["AvailabilityService"]
    rules = {
        "QueryAvailability": MethodRule(Priority.AVAILABILITY, Scope.READ),
        "FindPickupNodes": MethodRule(Priority.AVAILABILITY, Scope.READ),
    }

    def __init__(self, reader: AvailabilityReader, finder: PickupFinder, clock: Clock) -> None:
        self._reader = reader
        self._finder = finder
        self._clock = clock

    async def QueryAvailability(
        self, request: pb.QueryAvailabilityRequest, call: Call
    ) -> pb.QueryAvailabilityResponse:
        entries, consistency, view = query_from(request)
        reply = await self._reader.query(
            entries, consistency=consistency, view=view, timeout=call.timeout
        )
        return query_to(reply, view)

    async def FindPickupNodes(
        self, request: pb.FindPickupNodesRequest, call: Call
    ) -> pb.FindPickupNodesResponse:
        wanted = pickup_from(request, self._clock.now_ms())
        return pickup_to(await self._finder.find(wanted, timeout=call.timeout))
