"""NetworkService: decode, call, encode."""

from __future__ import annotations

from promise_svc.application.admission import Priority
from promise_svc.application.network_edit import NetworkEditor
from promise_svc.rpc.auth import Scope
from promise_svc.rpc.convert.network import (
    calendars_from,
    carrier_services_from,
    delete_from,
    deleted_to,
    items_from,
    lanes_from,
    node_groups_from,
    node_status_from,
    node_status_to,
    nodes_from,
    sourcing_rules_from,
    upsert_results_to,
    version_to,
)
from promise_svc.rpc.guard import Call, MethodRule
from promise_svc.v1 import network_service_pb2 as pb

_UPSERT = MethodRule(Priority.OTHER_SUPPLY, Scope.NETWORK, writes=True)


class NetworkServicer:
    """Edits the network."""

    service = pb.DESCRIPTOR.services_by_name["NetworkService"]
    rules = {
        "UpsertNodes": _UPSERT,
        "UpsertNodeGroups": _UPSERT,
        "UpsertItems": _UPSERT,
        "UpsertCalendars": _UPSERT,
        "UpsertCarrierServices": _UPSERT,
        "UpsertLanes": _UPSERT,
        "UpsertSourcingRules": _UPSERT,
        "DeleteNetworkEntries": _UPSERT,
        # A node switched off late sells what it cannot send.
        "SetNodeStatus": MethodRule(Priority.SUPPLY_DOWN, Scope.NETWORK, writes=True),
        "GetNetworkVersion": MethodRule(Priority.AVAILABILITY, Scope.NETWORK),
    }

    def __init__(self, editor: NetworkEditor) -> None:
        self._editor = editor

    async def UpsertNodes(
        self, request: pb.UpsertNodesRequest, call: Call
    ) -> pb.UpsertNodesResponse:
        nodes, kept = nodes_from(request)
        reply = await self._editor.upsert("node", nodes, call.timeout, kept)
        return pb.UpsertNodesResponse(
            network_version=reply.network_version, results=upsert_results_to(reply)
        )

    async def UpsertNodeGroups(
        self, request: pb.UpsertNodeGroupsRequest, call: Call
    ) -> pb.UpsertNodeGroupsResponse:
        reply = await self._editor.upsert("node_group", node_groups_from(request), call.timeout)
        return pb.UpsertNodeGroupsResponse(
            network_version=reply.network_version, results=upsert_results_to(reply)
        )

    async def UpsertItems(
        self, request: pb.UpsertItemsRequest, call: Call
    ) -> pb.UpsertItemsResponse:
        reply = await self._editor.upsert("item", items_from(request), call.timeout)
        return pb.UpsertItemsResponse(
            network_version=reply.network_version, results=upsert_results_to(reply)
        )

    async def UpsertCalendars(
        self, request: pb.UpsertCalendarsRequest, call: Call
    ) -> pb.UpsertCalendarsResponse:
        reply = await self._editor.upsert("calendar", calendars_from(request), call.timeout)
        return pb.UpsertCalendarsResponse(
            network_version=reply.network_version, results=upsert_results_to(reply)
        )

    async def UpsertCarrierServices(
        self, request: pb.UpsertCarrierServicesRequest, call: Call
    ) -> pb.UpsertCarrierServicesResponse:
        services = carrier_services_from(request)
        reply = await self._editor.upsert("carrier_service", services, call.timeout)
        return pb.UpsertCarrierServicesResponse(
            network_version=reply.network_version, results=upsert_results_to(reply)
        )

    async def UpsertLanes(
        self, request: pb.UpsertLanesRequest, call: Call
    ) -> pb.UpsertLanesResponse:
        reply = await self._editor.upsert("lane", lanes_from(request), call.timeout)
        return pb.UpsertLanesResponse(
            network_version=reply.network_version, results=upsert_results_to(reply)
        )

    async def UpsertSourcingRules(
        self, request: pb.UpsertSourcingRulesRequest, call: Call
    ) -> pb.UpsertSourcingRulesResponse:
        rules = sourcing_rules_from(request)
        reply = await self._editor.upsert("sourcing_rule", rules, call.timeout)
        return pb.UpsertSourcingRulesResponse(
            network_version=reply.network_version, results=upsert_results_to(reply)
        )

    async def DeleteNetworkEntries(
        self, request: pb.DeleteNetworkEntriesRequest, call: Call
    ) -> pb.DeleteNetworkEntriesResponse:
        return deleted_to(await self._editor.delete(*delete_from(request)))

    async def SetNodeStatus(
        self, request: pb.SetNodeStatusRequest, call: Call
    ) -> pb.SetNodeStatusResponse:
        node_id, status, _ = node_status_from(request)
        change = await self._editor.set_node_status(node_id, status, call.timeout)
        return node_status_to(change)

    async def GetNetworkVersion(
        self, request: pb.GetNetworkVersionRequest, call: Call
    ) -> pb.GetNetworkVersionResponse:
        return version_to(self._editor.snapshot())
