"""The server of gRPC's interoperability tests, on either front.

    python -m tests.support.interop.server --port 10000 --front native

Then point any official client at it: `--server_host=127.0.0.1 --server_port=10000 --test_case=...`.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import uvloop

from promise_svc.rpc.server import stop_on_signals
from promise_svc.rpc.tls import TlsFiles
from promise_svc.rpc.transport import Transport, TransportOptions
from tests.support.fronts import FRONTS, new_front
from tests.support.interop.generated import generated

INITIAL_KEY = "x-grpc-test-echo-initial"
TRAILING_KEY = "x-grpc-test-echo-trailing-bin"

pb, rpc = generated()


class TestService(rpc.TestServiceServicer):
    """As the descriptions want it; UnimplementedCall is left as generated."""

    async def EmptyCall(self, request: Any, context: Any) -> Any:
        return pb.Empty()

    async def UnaryCall(self, request: Any, context: Any) -> Any:
        await _demand_compressed(request, context)
        await _echo_metadata(context)
        if request.HasField("response_compressed"):
            _compress(context, request.response_compressed.value)
        if request.HasField("response_status"):
            _tell(request.response_status, context)
        reply = pb.SimpleResponse(payload=_payload(request.response_size))
        if request.fill_server_id:
            reply.server_id = reply.hostname = socket.gethostname()
        return reply

    async def CacheableUnaryCall(self, request: Any, context: Any) -> Any:
        await context.send_initial_metadata((("cache-control", "max-age=60, public"),))
        return pb.SimpleResponse(payload=pb.Payload(body=str(time.time_ns()).encode()))

    async def StreamingOutputCall(self, request: Any, context: Any) -> AsyncIterator[Any]:
        # Once, before the first message, and then message by message.
        if any(wanted.compressed.value for wanted in request.response_parameters):
            context.set_compression(grpc.Compression.Gzip)
        async for reply in _replies(request, context):
            yield reply

    async def StreamingInputCall(self, requests: AsyncIterator[Any], context: Any) -> Any:
        size = 0
        async for request in requests:
            await _demand_compressed(request, context)
            size += len(request.payload.body)
        return pb.StreamingInputCallResponse(aggregated_payload_size=size)

    async def FullDuplexCall(
        self, requests: AsyncIterator[Any], context: Any
    ) -> AsyncIterator[Any]:
        await _echo_metadata(context)
        async for request in requests:
            if request.HasField("response_status"):
                _tell(request.response_status, context)
                return
            async for reply in _replies(request, context):
                yield reply

    async def HalfDuplexCall(
        self, requests: AsyncIterator[Any], context: Any
    ) -> AsyncIterator[Any]:
        for request in [request async for request in requests]:
            async for reply in _replies(request, context):
                yield reply


def _payload(size: int) -> Any:
    return pb.Payload(type=pb.COMPRESSABLE, body=bytes(size))


async def _replies(request: Any, context: Any) -> AsyncIterator[Any]:
    for wanted in request.response_parameters:
        if wanted.interval_us:
            await asyncio.sleep(wanted.interval_us / 1e6)
        if wanted.HasField("compressed") and not wanted.compressed.value:
            context.disable_next_message_compression()
        yield pb.StreamingOutputCallResponse(payload=_payload(wanted.size))


async def _echo_metadata(context: Any) -> None:
    sent = dict(context.invocation_metadata())
    if INITIAL_KEY in sent:
        await context.send_initial_metadata(((INITIAL_KEY, sent[INITIAL_KEY]),))
    if TRAILING_KEY in sent:
        context.set_trailing_metadata(((TRAILING_KEY, sent[TRAILING_KEY]),))


async def _demand_compressed(request: Any, context: Any) -> None:
    """Refuse a message that came otherwise than it says; grpc.aio tells nobody how it came."""
    # Left out, or false: nothing is asked for.
    if request.expect_compressed.value and not getattr(context, "request_compressed", True):
        await context.abort(
            grpc.StatusCode.INVALID_ARGUMENT, "the message should have been compressed"
        )


def _compress(context: Any, wanted: bool) -> None:
    context.set_compression(grpc.Compression.Gzip if wanted else grpc.Compression.NoCompression)


def _tell(status: Any, context: Any) -> None:
    context.set_code(next(code for code in grpc.StatusCode if code.value[0] == status.code))
    context.set_details(status.message)


def mount(transport: Transport) -> None:
    """Register the service as every generated servicer is registered."""
    rpc.add_TestServiceServicer_to_server(TestService(), transport)


async def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=10000)
    parser.add_argument("--front", choices=sorted(FRONTS), default="native")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--certificate", type=Path, help="PEM; TLS with --key")
    parser.add_argument("--key", type=Path)
    chosen = parser.parse_args()
    tls = TlsFiles(chosen.certificate, chosen.key) if chosen.certificate else None
    transport = new_front(chosen.front, TransportOptions(tls=tls))
    mount(transport)
    port = await transport.start(f"{chosen.host}:{chosen.port}")
    print(f"{chosen.front} serves grpc.testing.TestService on port {port}", flush=True)
    stop = asyncio.Event()
    stop_on_signals(stop)
    await stop.wait()
    await transport.drain(1)


if __name__ == "__main__":
    uvloop.run(_main())
