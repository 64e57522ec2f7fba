"""The portable front: grpc.aio. Also the reference that another front is compared with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NoReturn, cast

import grpc
import grpc.aio

from promise_svc.errors import Unavailable
from promise_svc.rpc.tls import Certificates
from promise_svc.rpc.transport import TRACE_KEY, ImmediateHandler, Metadata, TransportOptions
from promise_svc.telemetry.trace import TRACEPARENT_KEY, trace_id_of


class GrpcioTransport:
    """Fulfills ``Transport``. Make it inside the event loop that serves."""

    def __init__(self, options: TransportOptions) -> None:
        self._server = grpc.aio.server(options=_channel_arguments(options))
        self._credentials = None
        if options.tls:
            self._credentials = Certificates(options.tls, options.tls_refused).credentials()

    limit_hits: Mapping[str, int] = MappingProxyType({})
    """gRPC does not tell them."""

    def add_generic_rpc_handlers(
        self, generic_rpc_handlers: Sequence[grpc.GenericRpcHandler]
    ) -> None:
        self._server.add_generic_rpc_handlers(tuple(generic_rpc_handlers))

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        self._server.add_registered_method_handlers(service_name, dict(method_handlers))

    def add_immediate_handlers(
        self, service_name: str, handlers: Mapping[str, ImmediateHandler]
    ) -> None:
        self.add_registered_method_handlers(
            service_name,
            {
                name: grpc.unary_unary_rpc_method_handler(_awaited(handler))
                for name, handler in handlers.items()
            },
        )

    async def start(self, address: str) -> int:
        try:
            if self._credentials is None or address.startswith("unix:"):
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, self._credentials)
        except RuntimeError as error:
            raise Unavailable(f"cannot listen on {address}: {error}", address=address) from error
        await self._server.start()
        return port

    async def drain(self, grace_seconds: float) -> None:
        await self._server.stop(grace_seconds)


def _awaited(handler: ImmediateHandler) -> Callable[[bytes, Any], Awaitable[bytes]]:
    async def answer(body: bytes, context: Any) -> bytes:
        call = _Call(context)
        answered = handler(body, call)
        reply = answered if isinstance(answered, bytes) else await answered
        context.set_trailing_metadata(((TRACE_KEY, call.trace_id()), *call.trailing))
        return reply

    return answer


class _Call:
    """``CallContext`` over a context of grpc.aio."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self._trace_id = ""
        self.time_remaining = context.time_remaining
        self.set_code = context.set_code
        self.set_details = context.set_details
        self.trailing: Metadata = ()

    def metadata(self, key: str) -> str | bytes | None:
        for name, value in self._context.invocation_metadata() or ():
            if name == key:
                return cast(str | bytes, value)
        return None

    def trace_id(self) -> str:
        if not self._trace_id:
            self._trace_id = trace_id_of(self.metadata(TRACEPARENT_KEY))
        return self._trace_id

    def set_trailing_metadata(self, trailing_metadata: Metadata) -> None:
        self.trailing = trailing_metadata

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Metadata = ()
    ) -> NoReturn:
        trailing = ((TRACE_KEY, self.trace_id()), *trailing_metadata)
        await self._context.abort(code, details, trailing)
        raise AssertionError("abort raises")


def _channel_arguments(options: TransportOptions) -> list[tuple[str, int]]:
    arguments = [
        ("grpc.so_reuseport", int(options.port_shared)),
        ("grpc.max_receive_message_length", options.message_bytes_max),
        ("grpc.max_send_message_length", options.message_bytes_max),
        ("grpc.max_concurrent_streams", options.streams_max),
        # The soft limit sheds at random up to the hard one; one number is easier to tell.
        ("grpc.max_metadata_size", options.metadata_bytes_max),
        ("grpc.absolute_max_metadata_size", options.metadata_bytes_max),
        (
            "grpc.http2.min_ping_interval_without_data_ms",
            options.ping_interval_seconds_min * 1000,
        ),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.keepalive_time_ms", options.keepalive_seconds * 1000),
        ("grpc.keepalive_timeout_ms", options.keepalive_timeout_seconds * 1000),
    ]
    if options.connection_age_seconds_max:
        arguments.append(("grpc.max_connection_age_ms", options.connection_age_seconds_max * 1000))
    if options.connection_idle_seconds_max:
        arguments.append(
            ("grpc.max_connection_idle_ms", options.connection_idle_seconds_max * 1000)
        )
    return arguments
