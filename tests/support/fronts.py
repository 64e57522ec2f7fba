"""Both fronts, and a service of raw bytes whose behaviors a test writes as it goes."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import pytest

from promise_svc import hotpath
from promise_svc.rpc.transport import Transport, TransportOptions
from promise_svc.rpc.transport_grpcio import GrpcioTransport
from promise_svc.rpc.transport_native import NativeTransport

FRONTS: dict[str, Callable[[TransportOptions], Transport]] = {
    "grpcio": GrpcioTransport,
    "native": NativeTransport,
}

SERVICE = "tests.Bytes"
UNARY = f"/{SERVICE}/Unary"
REPLIES = f"/{SERVICE}/Replies"
REQUESTS = f"/{SERVICE}/Requests"
BOTH = f"/{SERVICE}/Both"


def new_front(name: str, options: TransportOptions) -> Transport:
    """The front of that name; the test is skipped where the native one is not built."""
    if name == "native" and not hotpath.NATIVE_FRONT:
        pytest.skip("the native front is not built: no libnghttp2")
    return FRONTS[name](options)


class Behaviors:
    """What the four methods do; each may be replaced. By default they say back what they hear."""

    async def unary(self, request: bytes, context: Any) -> bytes:
        return request

    async def replies(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        for part in request.split(b","):
            yield part

    async def requests(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        return b",".join([request async for request in requests])

    async def both(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request

    def handlers(self) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        """Registrations that look a behavior up at each call, in both asynchronous forms."""

        async def unary(request: bytes, context: Any) -> bytes:
            return await self.unary(request, context)

        async def replies(request: bytes, context: Any) -> AsyncIterator[bytes]:
            async for reply in self.replies(request, context):
                yield reply

        async def requests(stream: AsyncIterator[bytes], context: Any) -> bytes:
            return await self.requests(stream, context)

        async def both(stream: AsyncIterator[bytes], context: Any) -> None:
            async for reply in self.both(stream, context):
                await context.write(reply)

        return {
            "Unary": grpc.unary_unary_rpc_method_handler(unary),
            "Replies": grpc.unary_stream_rpc_method_handler(replies),
            "Requests": grpc.stream_unary_rpc_method_handler(requests),
            "Both": grpc.stream_stream_rpc_method_handler(both),
        }


@dataclass
class BytesFront:
    """A running front that serves ``Behaviors``, and a channel to it."""

    name: str
    transport: Transport
    behaviors: Behaviors
    address: str
    channel: grpc.aio.Channel
    drained: bool = field(default=False)

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def unary(self, body: bytes = b"x", **how: Any) -> grpc.aio.UnaryUnaryCall:
        return self.channel.unary_unary(UNARY)(body, **how)

    async def drain(self, grace_seconds: float = 1.0) -> None:
        self.drained = True
        await self.transport.drain(grace_seconds)


@asynccontextmanager
async def bytes_front(
    name: str,
    options: TransportOptions,
    address: str = "127.0.0.1:0",
    *,
    registered: bool = True,
    channel_options: tuple[tuple[str, Any], ...] = (),
) -> AsyncIterator[BytesFront]:
    """Start a front; it is drained at the end."""
    transport, behaviors = new_front(name, options), Behaviors()
    if registered:
        transport.add_registered_method_handlers(SERVICE, behaviors.handlers())
    else:
        generic = grpc.method_handlers_generic_handler(SERVICE, behaviors.handlers())
        transport.add_generic_rpc_handlers((generic,))
    port = await transport.start(address)
    target = address if address.startswith("unix:") else f"127.0.0.1:{port}"
    async with grpc.aio.insecure_channel(target, options=channel_options) as channel:
        front = BytesFront(name, transport, behaviors, target, channel)
        try:
            yield front
        finally:
            if not front.drained:
                await front.drain()


async def until(holds: Callable[[], Any], seconds: float = 30.0) -> None:
    """Wait for what another task or the peer is about to make true."""
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.005)


def live_calls(besides: Sequence[Any] = ()) -> list[Any]:
    """Calls that something still holds; tests before this one may have left some."""
    gc.collect()
    known = set(map(id, besides))
    calls = [item for item in gc.get_objects() if type(item).__name__ == "Call"]
    return [call for call in calls if id(call) not in known]
