"""Services, health, reflection, and the two-step drain."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence
from typing import Any

from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from promise_svc.rpc.guard import Guard, Servicer
from promise_svc.rpc.transport import Transport

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

NOTICE_SECONDS_MAX = 1.0
"""How long a health watcher that does not read may keep the others from being told."""


class Server:
    """One listening server. ``start``, ``serving(True)`` once warm, ``drain``, in this order."""

    def __init__(
        self,
        transport: Transport,
        guard: Guard,
        servicers: Sequence[Servicer],
        *,
        reflect: bool,
        lame_duck_seconds: float,
        drain_seconds: float,
    ) -> None:
        self._transport = transport
        self._guard = guard
        self._lame_duck_seconds = lame_duck_seconds
        self._drain_seconds = drain_seconds
        self._health = _Health()
        self._names = [servicer.service.full_name for servicer in servicers]
        for servicer in servicers:
            guard.mount(servicer, transport)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, transport)  # type: ignore[arg-type]
        if reflect:
            names = (*self._names, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name)
            reflection_pb2_grpc.add_ServerReflectionServicer_to_server(  # type: ignore[no-untyped-call]
                reflection.aio.ReflectionServicer((*names, reflection.SERVICE_NAME)),
                transport,
            )

    async def start(self, address: str) -> int:
        """Listen, with health NOT_SERVING; returns the port. Unavailable if it cannot be had."""
        await self.serving(False)
        return await self._transport.start(address)

    async def serving(self, ready: bool) -> None:
        """Tell health of the server (the empty name) and of every service."""
        for name in ("", *self._names):
            await self._health.set(name, _SERVING if ready else _NOT_SERVING)

    async def drain(self) -> None:
        """NOT_SERVING, a while for load balancers to look away, then no new calls and an end to
        those in flight. Takes at most the two times together and a little."""
        try:
            async with asyncio.timeout(NOTICE_SECONDS_MAX):
                await self._health.enter_graceful_shutdown()
        except TimeoutError:
            pass  # that watcher is cut off with its connection
        await asyncio.sleep(self._lame_duck_seconds)
        self._health.end_watches()
        await self._transport.drain(self._drain_seconds)
        await self._guard.settle(self._drain_seconds)


class _Health(health_aio.HealthServicer):
    """Health whose watches end at the drain instead of using up its grace."""

    def __init__(self) -> None:
        super().__init__()
        self._ended = asyncio.Event()

    def end_watches(self) -> None:
        self._ended.set()

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:
        watch = asyncio.ensure_future(super().Watch(request, context))
        ended = asyncio.ensure_future(self._ended.wait())
        try:
            await asyncio.wait({watch, ended}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            watch.cancel()
            ended.cancel()
            await asyncio.gather(watch, ended, return_exceptions=True)


def stop_on_signals(stop: asyncio.Event) -> None:
    """Set ``stop`` on SIGTERM, SIGINT and, unless it is ignored, SIGHUP, as of a terminal that is
    closed. A second SIGTERM or SIGINT ends the process at once."""
    loop = asyncio.get_running_loop()
    hangs_up = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN

    def stopping() -> None:
        stop.set()
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(each)
            signal.signal(each, signal.SIG_DFL)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping)
    if hangs_up:
        loop.add_signal_handler(signal.SIGHUP, stop.set)
