"""What a process listens on: the front that answers calls, and the metrics page."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry

from promise_svc import __version__, config, hotpath
from promise_svc.application.admission import Admission
from promise_svc.bootstrap.collector import collect_seldom
from promise_svc.bootstrap.service import Service
from promise_svc.config import ProcessConfig
from promise_svc.errors import ConfigError
from promise_svc.rpc.auth import Tokens
from promise_svc.rpc.guard import Guard
from promise_svc.rpc.listeners import bind_all, close_all, remove_abandoned
from promise_svc.rpc.observer import CallRecorder
from promise_svc.rpc.server import Server
from promise_svc.rpc.tls import TlsFiles
from promise_svc.rpc.transport import Transport, TransportOptions
from promise_svc.rpc.transport_grpcio import GrpcioTransport
from promise_svc.rpc.transport_native import NativeTransport
from promise_svc.telemetry import EventLog, MetricsEndpoint

CONNECTION_AGE_SECONDS = 600
"""Among several workers: then a connection is drained, so that its caller finds another one. Long
connections would else stay where they are, and a worker that replaced a dead one idle."""

_log = EventLog("promise_svc")


@asynccontextmanager
async def serving(
    service: Service, process: ProcessConfig, address: str, *, port_shared: bool = False
) -> AsyncIterator[int]:
    """Answer calls on ``address``, which may name open sockets; yields the port. Drains at the end.

    ConfigError when the address cannot be had.
    """
    tokens = None
    if process.tokens_file:
        tokens = Tokens(process.tokens_file, service.metrics.file("tokens"))
    admission = Admission(process.calls_in_flight_max)
    transport = _transport(process, port_shared, service.metrics.file("certificate"))
    service.metrics.calls.watch(lambda: admission.waiting_count, lambda: transport.limit_hits)
    guard = Guard(
        admission,
        CallRecorder(service.metrics.calls, _log),
        deadline_seconds_max=process.deadline_seconds_max,
        tokens=tokens,
    )
    server = Server(
        transport,
        guard,
        service.servicers,
        reflect=process.reflection,
        lame_duck_seconds=process.lame_duck_seconds,
        drain_seconds=process.drain_seconds,
    )
    collect_seldom()
    try:
        port = await server.start(address)
    except (OSError, RuntimeError) as error:
        raise not_to_be_had("listen", process.listen, error) from error
    if tokens is not None:
        tokens.start()
    await server.serving(True)
    _log.info(
        "serving",
        address=config.address_text(process.listen, port),
        version=__version__,
        compiled=hotpath.COMPILED,
        front=front(process),
        seconds=round(time.monotonic() - service.began, 3),
    )
    try:
        yield port
    finally:
        _log.info("draining")
        await server.drain()
        if address.startswith(config.UNIX):
            Path(address.removeprefix(config.UNIX)).unlink(missing_ok=True)
        if tokens is not None:
            await tokens.close()


@asynccontextmanager
async def metrics_page(
    process: ProcessConfig,
    registry: CollectorRegistry,
    refresh: Callable[[], Awaitable[None]] | None = None,
) -> AsyncIterator[None]:
    """Serve a registry where the configuration says, after ``refresh`` at each request."""
    if not process.metrics_listen:
        yield
        return
    host, port = config.host_and_port("metrics_listen", process.metrics_listen)
    endpoint = MetricsEndpoint(registry, host, port, refresh)
    try:
        port = await endpoint.start()
    except OSError as error:
        raise not_to_be_had("metrics_listen", process.metrics_listen, error) from error
    _log.info("metrics", address=f"{host}:{port}")
    try:
        yield
    finally:
        await endpoint.close()


def refuse_early(process: ProcessConfig) -> None:
    """ConfigError for what would fail later, when engines run and shards were taken over from
    whoever serves them now: ports that are taken, unreadable tokens and certificates."""
    refuse_taken("listen", process.listen)
    refuse_taken("metrics_listen", process.metrics_listen)
    if process.tokens_file:
        Tokens(process.tokens_file)
    _tls(process)


def refuse_taken(name: str, address: str) -> None:
    """ConfigError where nobody could listen on ``address``; somebody may still be faster later."""
    try:
        if address.startswith(config.UNIX):
            remove_abandoned(address)
        elif address:
            close_all(bind_all(address))
    except OSError as error:
        raise not_to_be_had(name, address, error) from error


def not_to_be_had(name: str, address: str, error: Exception) -> ConfigError:
    why = getattr(error, "strerror", None) or str(error)
    return ConfigError(f"{name}: cannot listen on {address}: {why}")


def front(process: ProcessConfig) -> str:
    """native or grpcio: the front that was chosen, or is there."""
    if process.front == "auto":
        return "native" if hotpath.NATIVE_FRONT else "grpcio"
    return process.front


def _tls(process: ProcessConfig) -> TlsFiles | None:
    if not process.tls_certificate_file or not process.tls_key_file:
        return None
    files = TlsFiles(process.tls_certificate_file, process.tls_key_file, process.tls_client_ca_file)
    files.context()  # says what is wrong with them
    return files


def _transport(
    process: ProcessConfig, port_shared: bool, tls_refused: Callable[[bool], None]
) -> Transport:
    options = TransportOptions(
        message_bytes_max=process.message_bytes_max,
        tls=_tls(process),
        tls_refused=tls_refused,
        port_shared=port_shared,
        connection_age_seconds_max=CONNECTION_AGE_SECONDS if port_shared else 0,
    )
    if front(process) == "native":
        return NativeTransport(options)
    if process.front == "auto":
        _log.warning("the native front is not built here (libnghttp2-dev); grpc.aio serves")
    return GrpcioTransport(options)
