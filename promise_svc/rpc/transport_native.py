"""The native front: our own thin server on libnghttp2, in the event loop that serves.

It takes the registrations of ``grpc.aio.Server``. A unary call is served by ``native._grpc`` alone;
the other kinds run here, each in a task of its own.
"""

from __future__ import annotations

import asyncio
import inspect
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc
import grpc.aio

from promise_svc import hotpath
from promise_svc.errors import ConfigError, Unavailable
from promise_svc.rpc.blocking import in_thread, is_async
from promise_svc.rpc.listeners import bind_all, port_of
from promise_svc.rpc.tls import HANDSHAKE_SECONDS, Certificates
from promise_svc.rpc.transport import ImmediateHandler, TransportOptions
from promise_svc.telemetry import EventLog
from promise_svc.telemetry.trace import trace_id_of

if TYPE_CHECKING:
    from promise_svc.hotpath import GrpcCall, GrpcMethod

TICK_SECONDS = 1.0
"""How often the limits that are counted in seconds are looked at."""

CUT_SECONDS = 1.0
"""How long a drain waits for connections that it has cut off."""

BACKLOG = 1024

_log = EventLog("promise_svc.front")


class CallDetails(NamedTuple):
    """What a generic handler is asked with; ``grpc.HandlerCallDetails`` by its attributes."""

    method: str
    invocation_metadata: tuple[tuple[str, str | bytes], ...]


class NativeTransport:
    """Fulfills ``Transport``. Make it inside the event loop that serves.

    ConfigError where the package was built without libnghttp2.
    """

    def __init__(self, options: TransportOptions) -> None:
        if not hotpath.NATIVE_FRONT:
            raise ConfigError(
                "the native front is not built here: install libnghttp2-dev and pkg-config, then "
                "run `make setup`; or choose the front grpcio"
            )
        self._port_shared = options.port_shared
        self._tls = Certificates(options.tls, options.tls_refused) if options.tls else None
        self._loop = asyncio.get_running_loop()
        self._methods: dict[bytes, GrpcMethod] = {}
        self._generic_handlers: list[grpc.GenericRpcHandler] = []
        self._servers: list[asyncio.Server] = []
        self._threads = ThreadPoolExecutor(thread_name_prefix="blocking-behavior")
        self._ticking: asyncio.TimerHandle | None = None
        self._front = hotpath.grpc_session.Front(
            loop=self._loop,
            methods=self._methods,
            resolve=self._resolve,
            log=_log_fault,
            end_of_stream=grpc.aio.EOF,
            abort_error=grpc.aio.AbortError,
            usage_error=grpc.aio.UsageError,
            trace_id_of=trace_id_of,
            message_bytes_max=options.message_bytes_max,
            unfinished_bytes_max=options.unfinished_bytes_max,
            streams_max=options.streams_max,
            metadata_bytes_max=options.metadata_bytes_max,
            connections_max=options.connections_max,
            ping_seconds_min=options.ping_interval_seconds_min,
            keepalive_seconds=options.keepalive_seconds,
            keepalive_timeout_seconds=options.keepalive_timeout_seconds,
            age_seconds_max=options.connection_age_seconds_max,
            idle_seconds_max=options.connection_idle_seconds_max,
            request_seconds_max=options.request_seconds_max,
        )

    @property
    def limit_hits(self) -> Mapping[str, int]:
        return self._front.limit_hits

    def add_generic_rpc_handlers(
        self, generic_rpc_handlers: Sequence[grpc.GenericRpcHandler]
    ) -> None:
        self._generic_handlers.extend(generic_rpc_handlers)

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        for name, handler in method_handlers.items():
            path = f"/{service_name}/{name}"
            self._methods[path.encode()] = self._method(path, handler)

    def add_immediate_handlers(
        self, service_name: str, handlers: Mapping[str, ImmediateHandler]
    ) -> None:
        for name, handler in handlers.items():
            path = f"/{service_name}/{name}"
            self._methods[path.encode()] = hotpath.grpc_session.Method(
                path, handler, unary=True, traced=True
            )

    async def start(self, address: str) -> int:
        try:
            listeners = bind_all(address, port_shared=self._port_shared)
        except OSError as error:
            raise Unavailable(f"cannot listen on {address}: {error}", address=address) from error
        for listener in listeners:
            if listener.family != socket.AF_UNIX:
                server = await self._loop.create_server(
                    self._front.connection,
                    sock=listener,
                    backlog=BACKLOG,
                    ssl=self._tls.context() if self._tls else None,
                    ssl_handshake_timeout=HANDSHAKE_SECONDS if self._tls else None,
                )
            else:
                server = await self._loop.create_unix_server(
                    self._front.connection, sock=listener, backlog=BACKLOG
                )
            self._servers.append(server)
        self._tick()
        return port_of(listeners)

    async def drain(self, grace_seconds: float) -> None:
        for server in self._servers:
            server.close()
        # What was accepted in this turn is told to its protocol in the next.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        self._front.drain()
        await asyncio.wait({self._front.vacated()}, timeout=grace_seconds)
        for connection in tuple(self._front.connections):
            connection.cut()
        await asyncio.wait({self._front.vacated()}, timeout=CUT_SECONDS)
        if self._ticking is not None:
            self._ticking.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _tick(self) -> None:
        self._front.tick()
        if self._tls is not None:
            self._tls.look()
        self._ticking = self._loop.call_later(TICK_SECONDS, self._tick)

    def _resolve(self, path: str, call: GrpcCall) -> GrpcMethod | None:
        """The method of a path that nobody registered by name."""
        details = CallDetails(path, call.invocation_metadata())
        for generic_handler in self._generic_handlers:
            handler = generic_handler.service(details)  # type: ignore[arg-type]  # by attributes
            if handler is not None:
                return self._method(path, handler)
        return None

    def _method(self, path: str, handler: grpc.RpcMethodHandler[Any, Any]) -> GrpcMethod:
        """What the front runs for one registration."""
        behavior = _behavior(handler)
        if not is_async(behavior):
            behavior = in_thread(handler, behavior, self._threads)
        unary = not handler.request_streaming and not handler.response_streaming
        return hotpath.grpc_session.Method(
            path,
            behavior if unary else _served(handler, behavior),
            unary=unary,
            request_streaming=bool(handler.request_streaming),
            deserializer=handler.request_deserializer,
            serializer=handler.response_serializer,
        )


def _behavior(handler: grpc.RpcMethodHandler[Any, Any]) -> Callable[..., Any]:
    kinds: tuple[Callable[..., Any] | None, ...] = (
        handler.unary_unary,
        handler.unary_stream,
        handler.stream_unary,
        handler.stream_stream,
    )
    behavior = kinds[2 * bool(handler.request_streaming) + bool(handler.response_streaming)]
    assert behavior is not None, "a handler has the behavior of its kind"
    return behavior


def _served(
    handler: grpc.RpcMethodHandler[Any, Any], behavior: Callable[..., Any]
) -> Callable[[GrpcCall], Any]:
    """A behavior that streams, as the coroutine its task runs."""

    async def serve(call: GrpcCall) -> None:
        try:
            request = Requests(call) if handler.request_streaming else call.message()
            if not handler.response_streaming:
                call.answer(await behavior(request, call))
            elif inspect.isasyncgenfunction(behavior):
                await _write_all(call, behavior(request, call))
            else:
                await behavior(request, call)
                call.end()
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            call.failed(error)

    return serve


async def _write_all(call: GrpcCall, replies: Any) -> None:
    async with aclosing(replies):
        async for reply in replies:
            await call.write(reply)
    call.end()


class Requests(AsyncIterator[Any]):
    """The requests of a streaming call, as servicers iterate over them."""

    def __init__(self, call: GrpcCall) -> None:
        self._call = call

    async def __anext__(self) -> Any:
        message = await self._call.read()
        if message is grpc.aio.EOF:
            raise StopAsyncIteration
        return message


def _log_fault(error: BaseException, where: str) -> None:
    _log.error("the front met a fault", error, method=where, error=repr(error))
