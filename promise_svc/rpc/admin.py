"""AdminService: decode, call, encode."""

from __future__ import annotations

from promise_svc.application.verify import Verify
from promise_svc.rpc.auth import Scope
from promise_svc.rpc.convert.admin import verify_from, verify_to
from promise_svc.rpc.guard import Call, MethodRule
from promise_svc.v1 import admin_service_pb2 as pb

VERIFY_SECONDS_MAX = 600.0
"""An audit reads everything there is."""


class AdminServicer:
    """For those who run the service."""

    service = pb.DESCRIPTOR.services_by_name["AdminService"]
    rules = {"Verify": MethodRule(None, Scope.ADMIN, deadline_seconds_max=VERIFY_SECONDS_MAX)}

    def __init__(self, verify: Verify, shard_count: int) -> None:
        self._verify = verify
        self._shard_count = shard_count

    async def Verify(self, request: pb.VerifyRequest, call: Call) -> pb.VerifyResponse:
        wanted = verify_from(request, self._shard_count)
        report = await self._verify.run(wanted.shard_ids, findings_max=wanted.findings_max)
        return verify_to(report)
