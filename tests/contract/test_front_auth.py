"""Bearer tokens on both fronts: who is let in, to what, and what is told to the others."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from promise_svc.application.admission import Admission
from promise_svc.client import CallFailed, PromiseClient
from promise_svc.rpc.auth import Tokens, add_token
from promise_svc.rpc.guard import Guard
from promise_svc.rpc.server import Server
from promise_svc.rpc.transport import TransportOptions
from promise_svc.v1 import availability_service_pb2 as pb
from promise_svc.v1 import availability_service_pb2_grpc as pb_grpc
from tests.support.call_log import CallLog, ScriptedServicer
from tests.support.fronts import FRONTS, new_front

READ = pb.QueryAvailabilityRequest(entries=[pb.AvailabilityQuery(sku="a")])
AT_ONCE = pb.QueryAvailabilityRequest(entries=[pb.AvailabilityQuery(sku="at-once")])


class AtOnceServicer(ScriptedServicer):
    """Answers one of its requests at once."""

    def __init__(self) -> None:
        super().__init__()
        self.at_once = {"QueryAvailability": self._at_once}

    def _at_once(self, body: bytes) -> bytes | None:
        if body != AT_ONCE.SerializeToString():
            return None
        answer = pb.QueryAvailabilityResponse(entries=[pb.Availability(sku="at-once", ats=7)])
        return answer.SerializeToString()


@dataclass
class Guarded:
    """A front that asks for tokens, and a caller of it."""

    path: Path
    tokens: Tokens
    log: CallLog
    channel: grpc.aio.Channel
    target: str

    async def call(self, request: pb.QueryAvailabilityRequest, authorization: str | None) -> str:
        """OK, or the reason of the error; code and reason must agree."""
        metadata = [("authorization", authorization)] if authorization is not None else []
        stub = pb_grpc.AvailabilityServiceStub(self.channel)
        try:
            await stub.QueryAvailability(request, metadata=metadata, timeout=30)
        except grpc.aio.AioRpcError as error:
            status = Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])
            info = ErrorInfo()
            status.details[0].Unpack(info)
            assert error.code().name == info.reason
            assert (authorization or "")[7:] in ("", " ") or authorization[7:] not in str(error)
            return info.reason
        return "OK"


@pytest.fixture(params=sorted(FRONTS))
async def guarded(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Guarded]:
    path = tmp_path / "tokens"
    path.touch()
    log, tokens = CallLog(), Tokens(path)
    guard = Guard(Admission(10), log, deadline_seconds_max=2, tokens=tokens)
    transport = new_front(request.param, TransportOptions())
    server = Server(
        transport, guard, [AtOnceServicer()], reflect=True, lame_duck_seconds=0, drain_seconds=1
    )
    port = await server.start("127.0.0.1:0")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield Guarded(path, tokens, log, channel, f"127.0.0.1:{port}")
    await server.drain()


@pytest.mark.parametrize("asked", [READ, AT_ONCE])
async def test_a_token_opens_the_methods_of_its_scopes(guarded: Guarded, asked) -> None:
    """And no others, also when it was seen before, also on the path that answers at once."""
    reader = add_token(guarded.path, "shop-web", "read,reserve")
    feeder = add_token(guarded.path, "erp", "supply")
    guarded.tokens.refresh()

    answers = [
        await guarded.call(asked, f"{scheme} {token}")
        for token in (reader, feeder)
        for scheme in ("Bearer", "bearer", "Bearer")
    ]

    assert answers == ["OK"] * 3 + ["PERMISSION_DENIED"] * 3


@pytest.mark.parametrize("asked", [READ, AT_ONCE])
async def test_a_caller_without_a_known_token_is_refused(guarded: Guarded, asked) -> None:
    """Missing, of another scheme, too long, changed by a letter: UNAUTHENTICATED each time."""
    token = add_token(guarded.path, "shop-web", "read")
    guarded.tokens.refresh()
    assert await guarded.call(asked, f"Bearer {token}") == "OK"

    for wrong in (
        None,
        "",
        token,
        f"Basic {token}",
        f"Bearer  {token}",
        f"Bearer {token[:-1]}",
        f"Bearer {token}x",
        f"Bearer {token.swapcase()}",
        "Bearer ",
        "Bearer " + "x" * 300,
    ):
        assert await guarded.call(asked, wrong) == "UNAUTHENTICATED"


@pytest.mark.parametrize("asked", [READ, AT_ONCE])
async def test_a_token_withdrawn_is_refused_though_it_was_seen(guarded: Guarded, asked) -> None:
    """What was verified is forgotten with the file it came from."""
    token = add_token(guarded.path, "shop-web", "read")
    guarded.tokens.refresh()
    assert await guarded.call(asked, f"Bearer {token}") == "OK"

    guarded.path.write_text("# nobody\n")
    guarded.tokens.refresh()

    assert await guarded.call(asked, f"Bearer {token}") == "UNAUTHENTICATED"


async def test_no_token_is_told_or_logged(guarded: Guarded) -> None:
    """Neither a right one that opens too little nor a wrong one, in no failure."""
    feeder = add_token(guarded.path, "erp", "supply")
    guarded.tokens.refresh()

    await guarded.call(READ, f"Bearer {feeder}")
    await guarded.call(READ, "Bearer psvc_hunter2")

    told = " ".join(f"{f.error} {f.error!r} {vars(f.error)}" for f in guarded.log.failures)
    assert [f.reason for f in guarded.log.failures] == ["PERMISSION_DENIED", "UNAUTHENTICATED"]
    assert feeder not in told
    assert "hunter2" not in told


async def test_health_and_reflection_are_open(guarded: Guarded) -> None:
    """Load balancers and grpcurl carry no token."""
    health = health_pb2_grpc.HealthStub(guarded.channel)
    await health.Check(health_pb2.HealthCheckRequest(), timeout=30)

    reflect = reflection_pb2_grpc.ServerReflectionStub(guarded.channel)
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    answers = [reply async for reply in reflect.ServerReflectionInfo(iter([asked]), timeout=30)]

    assert answers[0].list_services_response.service


async def test_the_client_sends_its_token(guarded: Guarded) -> None:
    """With each call, and none without one."""
    token = add_token(guarded.path, "shop-web", "read")
    guarded.tokens.refresh()

    async with PromiseClient(guarded.target, token=token) as client:
        await client.call(client.availability.QueryAvailability, READ)
    async with PromiseClient(guarded.target) as client:
        with pytest.raises(CallFailed) as raised:
            await client.call(client.availability.QueryAvailability, READ)

    assert raised.value.reason == "UNAUTHENTICATED"
