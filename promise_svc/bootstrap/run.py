"""One process from its start to SIGTERM: the service, or its background loops alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import uvloop

from promise_svc import __version__, hotpath
from promise_svc.bootstrap.collector import collect_later, collect_seldom
from promise_svc.bootstrap.listening import metrics_page, refuse_early, refuse_taken, serving
from promise_svc.bootstrap.service import Service
from promise_svc.config import ClusterConfig, ProcessConfig
from promise_svc.rpc.server import stop_on_signals
from promise_svc.telemetry import EventLog, configure_logs

_log = EventLog("promise_svc")


def serve(
    cluster: ClusterConfig,
    process: ProcessConfig,
    on_listening: Callable[[int], None] = lambda _: None,
    progress: Callable[[str], None] = lambda _: None,
) -> None:
    """Run the service until SIGTERM or SIGINT, then drain. ``on_listening`` gets the port."""
    configure_logs(process.log_level.upper())
    collect_later()
    uvloop.run(_serve(cluster, process, on_listening, progress))


async def _serve(
    cluster: ClusterConfig,
    process: ProcessConfig,
    on_listening: Callable[[int], None],
    progress: Callable[[str], None],
) -> None:
    stop = asyncio.Event()
    stop_on_signals(stop)
    refuse_early(process)
    async with (
        Service(cluster, process, progress) as service,
        metrics_page(process, service.metrics.registry),
        serving(service, process, process.listen) as port,
    ):
        on_listening(port)
        await stop.wait()
    _log.info("stopped")


def relay(
    cluster: ClusterConfig,
    process: ProcessConfig,
    on_running: Callable[[], None] = lambda: None,
) -> None:
    """Run the background loops alone until SIGTERM or SIGINT, for servers without them."""
    configure_logs(process.log_level.upper())
    collect_later()
    uvloop.run(_relay(cluster, process, on_running))


async def _relay(
    cluster: ClusterConfig, process: ProcessConfig, on_running: Callable[[], None]
) -> None:
    stop = asyncio.Event()
    stop_on_signals(stop)
    refuse_taken("metrics_listen", process.metrics_listen)
    async with (
        Service(cluster, process, calls=False) as service,
        metrics_page(process, service.metrics.registry),
    ):
        collect_seldom()
        _log.info("relaying", version=__version__, compiled=hotpath.COMPILED)
        on_running()
        await stop.wait()
    _log.info("stopped")
