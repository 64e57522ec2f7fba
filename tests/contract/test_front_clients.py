"""Callers of other make: the blocking grpcio, grpclib (pure Python), and @grpc/grpc-js."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpclib
import pytest
from grpclib.client import (
    Channel,
    StreamStreamMethod,
    StreamUnaryMethod,
    UnaryStreamMethod,
    UnaryUnaryMethod,
)

from promise_svc.rpc.transport import TransportOptions
from tests.support.fronts import BOTH, FRONTS, REPLIES, REQUESTS, UNARY, BytesFront, bytes_front

JS_ROOT = Path(__file__).with_name("grpc_js")
JS_FOLDER = Path(__file__).parents[2] / "build" / "grpc_js"
JS_INSTALL_SECONDS = 90


@pytest.fixture(scope="session")
def js_modules() -> Path:
    """The folder of @grpc/grpc-js, installed as locked on first use; skips where it cannot be."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("@grpc/grpc-js needs node and npm")
    modules, lock = JS_FOLDER / "node_modules", JS_ROOT / "package-lock.json"
    mark = JS_FOLDER / "installed"
    if not mark.exists() or mark.read_bytes() != lock.read_bytes():
        JS_FOLDER.mkdir(parents=True, exist_ok=True)
        for name in ("package.json", lock.name):
            shutil.copy(JS_ROOT / name, JS_FOLDER)
        command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
        try:
            subprocess.run(
                command, cwd=JS_FOLDER, check=True, capture_output=True, timeout=JS_INSTALL_SECONDS
            )
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
            pytest.skip("@grpc/grpc-js could not be installed: npm reaches no registry")
        shutil.copy(lock, mark)
    return modules


@pytest.fixture(params=sorted(FRONTS))
async def front(request: pytest.FixtureRequest) -> AsyncIterator[BytesFront]:
    async with bytes_front(request.param, TransportOptions()) as front:
        yield front


async def refusing(request: bytes, context: Any) -> bytes:
    """Says back what it hears, with three exceptions."""
    context.set_trailing_metadata((("late", "1"), ("late-bin", b"\x00\xff")))
    if request == b"refuse":
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no, ☺ 100 %")
    if request == b"stuck":
        await asyncio.Event().wait()
    return request


async def test_the_blocking_grpcio_is_served(front: BytesFront) -> None:
    """Its four kinds, an error, a deadline, a cancellation, and calls from many threads."""
    front.behaviors.unary = refusing
    await asyncio.to_thread(call_blocking, front.address)


def call_blocking(address: str) -> None:
    with grpc.insecure_channel(address) as channel:
        unary = channel.unary_unary(UNARY)
        reply, call = unary.with_call(b"hello", timeout=30)
        assert reply == b"hello"
        assert ("late", "1") in tuple(call.trailing_metadata())
        with pytest.raises(grpc.RpcError) as refused:
            unary(b"refuse", timeout=30)
        assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert refused.value.details() == "no, ☺ 100 %"
        with pytest.raises(grpc.RpcError) as late:
            unary(b"stuck", timeout=0.1)
        assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        stuck = unary.future(b"stuck", timeout=30)
        stuck.cancel()
        assert list(channel.unary_stream(REPLIES)(b"a,b", timeout=30)) == [b"a", b"b"]
        assert channel.stream_unary(REQUESTS)(iter([b"a", b"b"]), timeout=30) == b"a,b"
        assert list(channel.stream_stream(BOTH)(iter([b"1", b"2"]), timeout=30)) == [b"1", b"2"]
        futures = [unary.future(str(index).encode(), timeout=10) for index in range(200)]
        assert [future.result() for future in futures] == [b"%d" % i for i in range(200)]


class Plain:
    """A codec that does nothing, for grpclib."""

    __content_subtype__ = "proto"

    def encode(self, message: bytes, message_type: type) -> bytes:
        return message

    def decode(self, data: bytes, message_type: type) -> bytes:
        return data


async def test_grpclib_is_served(front: BytesFront) -> None:
    """A caller that shares no code with gRPC's own."""
    front.behaviors.unary = refusing
    async with Channel("127.0.0.1", front.port, codec=Plain()) as channel:
        unary = UnaryUnaryMethod(channel, UNARY, bytes, bytes)
        assert await unary(b"hello", timeout=30) == b"hello"
        assert await unary(b"x" * 1_000_000, timeout=10) == b"x" * 1_000_000
        with pytest.raises(grpclib.GRPCError) as refused:
            await unary(b"refuse", timeout=30)
        assert refused.value.status is grpclib.const.Status.FAILED_PRECONDITION
        assert refused.value.message == "no, ☺ 100 %"
        with pytest.raises((asyncio.TimeoutError, grpclib.GRPCError)) as late:
            await unary(b"stuck", timeout=0.1)
        # Caller and server both hold the deadline; whoever is first tells it.
        told = getattr(late.value, "status", grpclib.const.Status.DEADLINE_EXCEEDED)
        assert told is grpclib.const.Status.DEADLINE_EXCEEDED
        replies = UnaryStreamMethod(channel, REPLIES, bytes, bytes)
        assert await replies(b"a,b", timeout=30) == [b"a", b"b"]
        requests = StreamUnaryMethod(channel, REQUESTS, bytes, bytes)
        assert await requests([b"a", b"b"], timeout=30) == b"a,b"
        both = StreamStreamMethod(channel, BOTH, bytes, bytes)
        assert await both([b"1", b"2"], timeout=30) == [b"1", b"2"]
        answers = await asyncio.gather(*(unary(b"%d" % index) for index in range(200)))
        assert answers == [b"%d" % index for index in range(200)]


async def test_grpc_js_is_served(front: BytesFront, js_modules: Path) -> None:
    """Node's own HTTP/2."""
    front.behaviors.unary = refusing
    process = await asyncio.create_subprocess_exec(
        "node",
        str(JS_ROOT / "caller.js"),
        front.address,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "NODE_PATH": str(js_modules)},
    )
    assert process.stdout is not None
    seen = json.loads(await asyncio.wait_for(process.stdout.read(), 30))
    assert await process.wait() == 0

    assert (seen["unary"]["code"], seen["unary"]["reply"]) == (0, "hello")
    assert seen["unary"]["trailing"]["late"] == "1"
    assert seen["large"] == 1_000_000
    assert (seen["nothing"]["code"], seen["nothing"]["details"]) == (12, "Method not found!")
    assert (seen["refused"]["code"], seen["refused"]["details"]) == (9, "no, ☺ 100 %")
    assert seen["late"]["code"] == 4
    assert seen["replies"] == {"code": 0, "got": ["a", "b", "c"]}
    assert seen["requests"] == {"code": 0, "reply": "a,b"}
    assert seen["both"] == {"code": 0, "got": ["1", "2", "3"]}
    assert seen["many"] is True
