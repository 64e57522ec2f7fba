"""SupplyService: decode, call, encode."""

from __future__ import annotations

from promise_svc.application.admission import Priority
from promise_svc.application.ports import Clock
from promise_svc.application.supply import SupplyWriter
from promise_svc.rpc.auth import Scope
from promise_svc.rpc.convert.supply import (
    adjust_from,
    answer_to,
    levels_from,
    sale_from,
    sync_from,
)
from promise_svc.rpc.guard import Call, MethodRule
from promise_svc.v1 import supply_service_pb2 as pb


def _priority_of_adjustment(request: pb.AdjustSupplyRequest) -> Priority:
    lowers = any(row.quantity_delta < 0 for row in request.rows)
    return Priority.SUPPLY_DOWN if lowers else Priority.OTHER_SUPPLY


class SupplyServicer:
    """Takes stock in."""

    service = pb.DESCRIPTOR.services_by_name["SupplyService"]
    rules = {
        # Whether a count lowers anything is known to the shard only. That an adjustment does, is
        # known when the request has been read, which is before it waits for a place.
        "SyncSupply": MethodRule(Priority.OTHER_SUPPLY, Scope.SUPPLY, writes=True),
        "AdjustSupply": MethodRule(
            Priority.OTHER_SUPPLY, Scope.SUPPLY, writes=True, priority_of=_priority_of_adjustment
        ),
        "RecordSale": MethodRule(Priority.SUPPLY_DOWN, Scope.SUPPLY, writes=True),
        "SetProtectionLevels": MethodRule(Priority.OTHER_SUPPLY, Scope.SUPPLY, writes=True),
    }

    def __init__(self, writer: SupplyWriter, clock: Clock) -> None:
        self._writer = writer
        self._clock = clock

    async def SyncSupply(self, request: pb.SyncSupplyRequest, call: Call) -> pb.SyncSupplyResponse:
        report = sync_from(request)
        answer = await self._writer.sync(
            report.source,
            report.source_sequence,
            report.rows,
            call.timeout,
            arrived_counted=request.counts_include_arrived,
        )
        return answer_to(pb.SyncSupplyResponse, answer)

    async def AdjustSupply(
        self, request: pb.AdjustSupplyRequest, call: Call
    ) -> pb.AdjustSupplyResponse:
        change = adjust_from(request, self._clock.now_ms())
        answer = await self._writer.adjust(
            change.idempotency_key, change.create_ms, change.rows, call.timeout
        )
        return answer_to(pb.AdjustSupplyResponse, answer)

    async def RecordSale(self, request: pb.RecordSaleRequest, call: Call) -> pb.RecordSaleResponse:
        sale = sale_from(request, self._clock.now_ms())
        return answer_to(pb.RecordSaleResponse, await self._writer.record_sale(*sale, call.timeout))

    async def SetProtectionLevels(
        self, request: pb.SetProtectionLevelsRequest, call: Call
    ) -> pb.SetProtectionLevelsResponse:
        return answer_to(
            pb.SetProtectionLevelsResponse,
            await self._writer.protect(levels_from(request), call.timeout),
        )
