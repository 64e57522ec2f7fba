"""What a front must be able to do, whoever speaks HTTP/2 for it.

It takes the registrations of ``grpc.aio.Server``, so that generated servicers, health and
reflection mount on any front; our own methods come as bytes-to-bytes handlers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

import grpc

from promise_svc.rpc.tls import TlsFiles

Metadata = Sequence[tuple[str, str | bytes]]


class CallContext(Protocol):
    """What immediate handlers may ask of their call."""

    def time_remaining(self) -> float | None:
        """Seconds until the caller's deadline, 0 when it is past; None when there is none."""
        ...

    def metadata(self, key: str) -> str | bytes | None:
        """The first value of ``key``; None when there is none."""
        ...

    def trace_id(self) -> str:
        """Of W3C ``traceparent``, or new: 32 hexadecimal digits, the same at each call."""
        ...

    def set_code(self, code: grpc.StatusCode) -> None:
        """End the call with this, where the handler returns at once: then nothing is replied."""
        ...

    def set_details(self, details: str) -> None: ...
    def set_trailing_metadata(self, trailing_metadata: Metadata) -> None: ...

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Metadata = ()
    ) -> NoReturn:
        """End the call with an error; raises."""
        ...


ImmediateHandler = Callable[[bytes, CallContext], bytes | Awaitable[bytes]]
"""Bytes in, bytes out, called in the event loop: it must not block, and returns the reply or an
awaitable of it; to fail it returns one that aborts. The awaitable runs in a context of its own.
The front tells the call's trace id in the trailing metadata of every reply and error."""

TRACE_KEY = "trace-id"
"""The key it has there."""


class Transport(Protocol):
    """A front. Register everything, start once, drain once."""

    def add_generic_rpc_handlers(
        self, generic_rpc_handlers: Sequence[grpc.GenericRpcHandler]
    ) -> None: ...
    def add_registered_method_handlers(
        self, service_name: str, method_handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None: ...
    def add_immediate_handlers(
        self, service_name: str, handlers: Mapping[str, ImmediateHandler]
    ) -> None:
        """Register hot methods."""
        ...

    async def start(self, address: str) -> int:
        """Listen on ``host:port`` (port 0: any) or ``unix:path`` and serve; returns the port.

        The native front also takes ``fd:3,4``: bound sockets that this process was given.
        Unavailable when the address cannot be had.
        """
        ...

    @property
    def limit_hits(self) -> Mapping[str, int]:
        """How often each limit of ``TransportOptions`` was met, by name; empty where unknown."""
        ...

    async def drain(self, grace_seconds: float) -> None:
        """Refuse new calls, let those in flight end, cut off what is left after the grace."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportOptions:
    """Limits of one front."""

    message_bytes_max: int = 4 * 1024 * 1024
    """Largest message either way; larger requests are RESOURCE_EXHAUSTED."""
    streams_max: int = 1_000
    """Calls at once on one connection; more wait at the caller."""
    connections_max: int = 10_000
    """More are closed at once. Native front only."""
    unfinished_bytes_max: int = 256 * 1024 * 1024
    """Of requests being received, all connections together; more are RESOURCE_EXHAUSTED. Native
    front only."""
    request_seconds_max: int = 60
    """For a request to arrive, and for its reply to be taken. Native front only."""
    connection_age_seconds_max: int = 0
    """A connection this old, ten per cent more or less, is drained, so that its caller finds
    another worker; 0: never."""
    connection_idle_seconds_max: int = 0
    """A connection this long without a call is drained; 0: never."""
    metadata_bytes_max: int = 16 * 1024
    """Largest metadata of a request, as HPACK counts it."""
    ping_interval_seconds_min: int = 10
    """Callers that ping more often are cut off (GOAWAY, too many pings)."""
    keepalive_seconds: int = 60
    """A connection silent this long is probed, and closed if it does not answer in time."""
    keepalive_timeout_seconds: int = 20
    tls: TlsFiles | None = None
    """None: plaintext. Unix sockets have none in any case. Files that change are read again."""
    tls_refused: Callable[[bool], None] = lambda refused: None
    """Told whenever they changed: True, if they cannot be used and the earlier ones stand."""
    port_shared: bool = False
    """SO_REUSEPORT. Several workers share a port; alone it hides that a port is taken."""
