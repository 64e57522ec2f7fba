"""gRPC's own interoperability cases, over both fronts."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest

from promise_svc.rpc.transport import TransportOptions
from tests.support.fronts import FRONTS, new_front
from tests.support.interop.cases import CASES, ECHO, REPLY_SIZES, REQUEST_SIZES, large, play, wanted
from tests.support.interop.generated import generated
from tests.support.interop.server import mount

ROOT = Path(__file__).parents[2]
UNTOLD = "grpc.aio does not tell a servicer how its message came"

pb, rpc = generated()


@pytest.fixture(params=sorted(FRONTS))
async def target(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    transport = new_front(request.param, TransportOptions())
    mount(transport)
    port = await transport.start("127.0.0.1:0")
    yield f"127.0.0.1:{port}"
    await transport.drain(1)


@pytest.mark.parametrize("case", sorted(CASES))
async def test_a_case_ends_as_described(target: str, case: str, request) -> None:
    """Played by the blocking client, as the official one plays it."""
    if case == "client_compressed_unary_probe" and "grpcio" in request.node.name:
        pytest.skip(UNTOLD)
    await asyncio.to_thread(play, CASES[case], target)


async def test_the_asynchronous_client_plays_them_too(target: str) -> None:
    """Unary, ping-pong, metadata, cancellation, deadline, status."""
    async with grpc.aio.insecure_channel(target) as channel:
        stub = rpc.TestServiceStub(channel)
        await stub.EmptyCall(pb.Empty())
        call = stub.UnaryCall(large(), metadata=ECHO)
        await call
        assert ECHO[0] in tuple(await call.initial_metadata())
        assert ECHO[1] in tuple(await call.trailing_metadata())

        stream = stub.FullDuplexCall()
        for request_size, size in zip(REQUEST_SIZES, REPLY_SIZES, strict=True):
            await stream.write(wanted(size, request_size=request_size))
            assert len((await stream.read()).payload.body) == size
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF
        assert await stream.code() is grpc.StatusCode.OK

        cancelled = stub.FullDuplexCall()
        await cancelled.write(wanted(9))
        await cancelled.read()
        cancelled.cancel()
        assert await cancelled.code() is grpc.StatusCode.CANCELLED

        late = stub.FullDuplexCall(timeout=0.001)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await late.read()
        assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize("front", sorted(FRONTS))
def test_the_server_runs_for_clients_of_other_languages(front: str) -> None:
    """`python -m tests.support.interop.server` says its port, serves, and ends on SIGTERM."""
    command = [sys.executable, "-m", "tests.support.interop.server", "--port=0", "--front", front]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            port = int(server.stdout.readline().rpartition(" ")[2])
            play(CASES["ping_pong"], f"127.0.0.1:{port}")
        finally:
            server.terminate()
        assert server.wait(10) == 0
