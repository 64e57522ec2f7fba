"""AvailabilityService: decode, call, encode."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from promise_svc.application.admission import Priority
from promise_svc.application.availability import AvailabilityReader
from promise_svc.application.explain import Explainer
from promise_svc.application.node_capacity import NodeCapacities
from promise_svc.application.pickup import PickupFinder
from promise_svc.application.ports import Clock
from promise_svc.domain.network import NetworkSnapshot, NodeStatus
from promise_svc.rpc.auth import Scope
from promise_svc.rpc.convert.availability import (
    capacity_from,
    capacity_to,
    check_from,
    check_to,
    explain_from,
    explain_to,
    pickup_from,
    pickup_to,
    query_from,
    query_to,
)
from promise_svc.rpc.guard import AtOnce, Call, MethodRule
from promise_svc.v1 import availability_service_pb2 as pb

if TYPE_CHECKING:
    from promise_svc.hotpath import AvailabilityReads


class AvailabilityServicer:
    """Answers how many can be sold now, and where."""

    service = pb.DESCRIPTOR.services_by_name["AvailabilityService"]
    rules = {
        "QueryAvailability": MethodRule(Priority.AVAILABILITY, Scope.READ),
        "CheckAvailability": MethodRule(Priority.AVAILABILITY, Scope.READ),
        # It names reservations, and costs what a look-up must not.
        "ExplainAvailability": MethodRule(Priority.AVAILABILITY, Scope.ADMIN),
        "FindPickupNodes": MethodRule(Priority.AVAILABILITY, Scope.READ),
        "QueryNodeCapacity": MethodRule(Priority.AVAILABILITY, Scope.READ),
    }

    def __init__(
        self,
        reader: AvailabilityReader,
        explainer: Explainer,
        finder: PickupFinder,
        capacities: NodeCapacities,
        clock: Clock,
        reads: NetworkReads | None = None,
    ) -> None:
        """``reads`` answers plain queries at once."""
        self._reader = reader
        self._explainer = explainer
        self._finder = finder
        self._capacities = capacities
        self._clock = clock
        self.at_once: dict[str, AtOnce] = (
            {"QueryAvailability": reads.query, "CheckAvailability": reads.check} if reads else {}
        )

    async def QueryAvailability(
        self, request: pb.QueryAvailabilityRequest, call: Call
    ) -> pb.QueryAvailabilityResponse:
        entries, consistency, view = query_from(request)
        reply = await self._reader.query(
            entries, consistency=consistency, view=view, timeout=call.timeout
        )
        return query_to(reply, view)

    async def CheckAvailability(
        self, request: pb.CheckAvailabilityRequest, call: Call
    ) -> pb.CheckAvailabilityResponse:
        check, consistency = check_from(request)
        return check_to(
            await self._reader.check(check, consistency=consistency, timeout=call.timeout)
        )

    async def ExplainAvailability(
        self, request: pb.ExplainAvailabilityRequest, call: Call
    ) -> pb.ExplainAvailabilityResponse:
        return explain_to(await self._explainer.explain(*explain_from(request), call.timeout))

    async def FindPickupNodes(
        self, request: pb.FindPickupNodesRequest, call: Call
    ) -> pb.FindPickupNodesResponse:
        wanted = pickup_from(request, self._clock.now_ms())
        return pickup_to(await self._finder.find(wanted, timeout=call.timeout))

    async def QueryNodeCapacity(
        self, request: pb.QueryNodeCapacityRequest, call: Call
    ) -> pb.QueryNodeCapacityResponse:
        return capacity_to(self._capacities.query(*capacity_from(request)))


class NetworkReads:
    """Plain queries from bytes to bytes, by the network of the moment.

    Cost: about a microsecond a query, and one pass over nodes and groups when the network changed.
    """

    def __init__(
        self, reads: AvailabilityReads, network: Callable[[], NetworkSnapshot], clock: Clock
    ) -> None:
        self._reads = reads
        self._network = network
        self._now_ms = clock.now_ms
        self._followed: NetworkSnapshot | None = None

    def query(self, body: bytes) -> bytes | None:
        """The reply to a QueryAvailabilityRequest; None for one that is not plain."""
        network = self._network()
        if network is not self._followed:
            self._follow(network)
        return self._reads.query(body, self._now_ms())

    def check(self, body: bytes) -> bytes | None:
        """The same for a CheckAvailabilityRequest."""
        network = self._network()
        if network is not self._followed:
            self._follow(network)
        return self._reads.check(body, self._now_ms())

    def _follow(self, network: NetworkSnapshot) -> None:
        documents = network.documents
        self._reads.follow(
            {node_id: node.status is NodeStatus.ON for node_id, node in documents.nodes.items()},
            {group_id: group.node_ids for group_id, group in documents.node_groups.items()},
            documents.items,
        )
        self._followed = network
