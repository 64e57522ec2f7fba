"""The processes of a supervised service on one host: composed here, run by ``rpc/supervisor.py``.

    supervisor          port, metrics page, embedded engines; answers no calls
    ├── background      relay, resolver, sweeper, drift watch
    ├── worker-1        a table, its feed, the front
    └── worker-2 ...

The kernel kills the children when the supervisor dies, and the engines' own guard ends those.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import uvloop
from prometheus_client import CollectorRegistry

from promise_svc import __version__, hotpath
from promise_svc.bootstrap.collector import collect_later, collect_seldom
from promise_svc.bootstrap.engines import open_engines
from promise_svc.bootstrap.listening import (
    front,
    metrics_page,
    not_to_be_had,
    refuse_early,
    serving,
)
from promise_svc.bootstrap.service import Service
from promise_svc.config import UNIX, ClusterConfig, ProcessConfig, address_text, environment_of
from promise_svc.errors import ConfigError, PromiseServiceError
from promise_svc.rpc.listeners import Door, connections_move
from promise_svc.rpc.server import stop_on_signals
from promise_svc.rpc.supervised import WORKER, Assignment, SupervisorLink, die_with
from promise_svc.rpc.supervisor import Pace, Supervisor
from promise_svc.telemetry import EventLog, MergedMetrics, SupervisorMetrics, configure_logs

_STOP_SLACK_SECONDS = 10.0
"""Beyond the two steps of a drain, and the settling of writes after it."""

_log = EventLog("promise_svc")


def serve(
    cluster: ClusterConfig,
    process: ProcessConfig,
    on_listening: Callable[[int], None] = lambda _: None,
    progress: Callable[[str], None] = lambda _: None,
) -> None:
    """Run ``process.workers`` workers and their supervisor until SIGTERM or SIGINT, then drain.

    SIGHUP restarts all children, one after the other.
    """
    configure_logs(process.log_level.upper(), process="supervisor")
    asyncio.run(_supervise(cluster, process, on_listening, progress))


async def _supervise(
    cluster: ClusterConfig,
    process: ProcessConfig,
    on_listening: Callable[[int], None],
    progress: Callable[[str], None],
) -> None:
    began = time.monotonic()
    stop, restart = asyncio.Event(), asyncio.Event()
    stop_on_signals(stop)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, restart.set)
    refuse_early(process)
    registry, merged = CollectorRegistry(), MergedMetrics()
    registry.register(merged)

    with _door(process) as door:
        async with open_engines(process, progress) as engines:
            supervisor = Supervisor(
                _command,
                environment=_environment(cluster, process, door, engines),
                door=door,
                workers=process.workers,
                background=process.background,
                supervisor_pid=os.getpid(),
                metrics=SupervisorMetrics(registry),
                merged=merged,
                pace=Pace(stop=process.lame_duck_seconds + 2 * process.drain_seconds
                          + _STOP_SLACK_SECONDS),
            )  # fmt: skip

            def all_serving() -> None:
                _log.info(
                    "serving",
                    address=address_text(process.listen, door.port),
                    version=__version__,
                    compiled=hotpath.COMPILED,
                    front=front(process),
                    workers=process.workers,
                    seconds=round(time.monotonic() - began, 3),
                )
                on_listening(door.port)

            async with metrics_page(process, registry, supervisor.refresh):
                await supervisor.run(stop, restart, all_serving)
    _log.info("stopped")


def run_child(cluster: ClusterConfig, process: ProcessConfig, assignment: Assignment) -> None:
    """Do what the supervisor assigned, until SIGTERM."""
    die_with(assignment.supervisor_pid)
    configure_logs(process.log_level.upper(), process=assignment.name)
    collect_later()
    if not uvloop.run(_child(cluster, process, assignment)):
        sys.exit(1)


async def _child(cluster: ClusterConfig, process: ProcessConfig, assignment: Assignment) -> bool:
    stop = asyncio.Event()
    # The supervisor's, which restarts its children by SIGTERM.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stop_on_signals(stop)
    link = await SupervisorLink.open(assignment.link_fd)
    calls = assignment.role == WORKER
    try:
        async with Service(cluster, process, calls=calls) as service:
            registry = service.metrics.registry
            link.show(registry)
            async with _working(service, process, assignment):
                await link.ready()
                await stop.wait()
            await link.close(registry)
    except PromiseServiceError as error:
        _log.error("not started", error=error.message, reason=error.reason)
        await link.failed(error)
        return False
    return True


@asynccontextmanager
async def _working(
    service: Service, process: ProcessConfig, assignment: Assignment
) -> AsyncIterator[None]:
    if assignment.role == WORKER:
        async with serving(service, process, assignment.listen, port_shared=True):
            yield
    else:
        collect_seldom()
        _log.info("relaying", version=__version__, compiled=hotpath.COMPILED)
        yield


@contextmanager
def _door(process: ProcessConfig) -> Iterator[Door]:
    inherited = front(process) == "native"
    if process.listen.startswith(UNIX) and not inherited:
        raise ConfigError("workers on a Unix socket need the native front: grpc.aio shares none")
    try:
        door = Door(process.listen, inherited=inherited)
    except OSError as error:
        raise not_to_be_had("listen", process.listen, error) from error
    if not inherited and not connections_move():
        _log.warning(
            "a restart may reset connections that wait at a worker: set net.ipv4.tcp_migrate_req=1"
        )
    try:
        yield door
    finally:
        door.close()


def _command(assignment: Assignment) -> list[str]:
    # -P: a child must not find other modules in the working folder than its supervisor did.
    words = (assignment.role, assignment.number, assignment.listen or "-", assignment.link_fd)
    return [
        sys.executable, "-P", "-m", "promise_svc", "child",
        *map(str, words), str(assignment.supervisor_pid),
    ]  # fmt: skip


def _environment(
    cluster: ClusterConfig,
    process: ProcessConfig,
    door: Door,
    engines: tuple[tuple[str, ...], str],
) -> dict[str, str]:
    """Settings go to children as variables, not as flags: URLs hold passwords, flags are public."""
    index_urls, order_store_url = engines
    child = dataclasses.replace(
        process,
        listen=address_text(process.listen, door.port),
        metrics_listen="",
        index_urls=index_urls,
        order_store_url=order_store_url,
        workers=1,
        background=False,
    )
    return {**os.environ, **environment_of(cluster, child)}
