"""The service under test as users start it, its engines beside it, and what each of them burns."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import grpc
import psutil
import redis
from grpc_health.v1 import health_pb2, health_pb2_grpc

from promise_svc.adapters.embedded import EmbeddedPostgres, EmbeddedValkey

START_SECONDS_MAX = 180.0
STOP_SECONDS_MAX = 30.0
SERVE = (sys.executable, "-m", "promise_svc", "serve")


@dataclass(frozen=True, slots=True)
class Cpu:
    """CPU seconds since some start, by part, from the operating system; and the machine's."""

    front: float
    shards: float
    store: float
    machine_busy: float
    machine_idle: float
    at: float

    def since(self, before: Cpu) -> Cpu:
        """What was burned in between; ``at`` becomes the seconds that passed."""
        return Cpu(*(getattr(self, n) - getattr(before, n) for n in self.__slots__))

    @property
    def idle_share(self) -> float:
        """Of the whole machine."""
        return self.machine_idle / max(1e-9, self.machine_idle + self.machine_busy)


class ServiceHost:
    """Engines on a folder and a server process. Methods block; a context manager.

    The engines are started beside the server, as with URLs, so that a measurement can read their
    counters and kill one; their settings are those of `serve` without URLs.
    """

    def __init__(self, folder: Path, command: Sequence[str] = SERVE) -> None:
        self.folder = folder
        self._command = tuple(command)
        self._valkey = EmbeddedValkey(folder / "valkey")
        self._postgres = EmbeddedPostgres(folder / "postgres")
        self._server: subprocess.Popen[bytes] | None = None
        self.port = 0
        self.metrics_port = 0

    def __enter__(self) -> Self:
        try:
            with ThreadPoolExecutor() as pool:
                for started in [pool.submit(self._valkey.start), pool.submit(self._postgres.start)]:
                    started.result()
            self.serve()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.stop_server()
        self._valkey.stop()
        self._postgres.stop()

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def order_store_url(self) -> str:
        return self._postgres.dsn

    @property
    def index_urls(self) -> tuple[str, ...]:
        return self._valkey.urls

    @property
    def store_pid(self) -> int:
        """PostgreSQL's first process."""
        return self._postgres.process.pid

    @property
    def log_path(self) -> Path:
        return self.folder / "server.log"

    def serve(self, command: Sequence[str] = (), **more: str) -> float:
        """Start the server; returns the seconds from its start until health says SERVING.

        ``more`` are variables beside the addresses; without any all is as by default. ``command``
        stands in for the host's own this once.
        """
        self.port = self.port or free_port()  # the same again, for clients that stay
        self.metrics_port = self.metrics_port or free_port()
        settings = {
            "PROMISE_LISTEN": self.target,
            "PROMISE_METRICS_LISTEN": f"127.0.0.1:{self.metrics_port}",
            "PROMISE_INDEX_URLS": ",".join(self.index_urls),
            "PROMISE_ORDER_STORE_URL": self.order_store_url,
        }
        begun = time.monotonic()
        with self.log_path.open("ab") as log:
            self._server = subprocess.Popen(
                command or self._command, env=os.environ | settings | more,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        wait_serving(self.target, START_SECONDS_MAX, self._check)
        return time.monotonic() - begun

    @property
    def serving(self) -> dict[str, Any]:
        """The server's own line about its last start: front, compiled, seconds."""
        lines = [line for line in self.log_path.read_text().splitlines() if '"serving"' in line]
        return dict(json.loads(lines[-1])) if lines else {}

    @property
    def front(self) -> str:
        """native or grpcio."""
        return str(self.serving.get("front", "grpcio"))

    def stop_server(self) -> None:
        """SIGTERM, and wait while it drains."""
        if self._server is None:
            return
        self._server.send_signal(signal.SIGTERM)
        try:
            self._server.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()
        self._server = None

    def kill_shards(self) -> None:
        """kill -9 the Valkey process."""
        self._valkey.kill()

    def restart_shards(self) -> None:
        """Start it again on its folder and port."""
        self._valkey.restart()

    def lose_shards(self) -> None:
        """Empty the index: every key and every Function is gone."""
        with redis.Redis.from_url(self.index_urls[0]) as client:
            client.flushall()
            client.execute_command("FUNCTION", "FLUSH")

    def cpu(self) -> Cpu:
        """Burned so far."""
        assert self._server is not None
        machine = psutil.cpu_times()
        idle = machine.idle + getattr(machine, "iowait", 0.0)
        return Cpu(
            front=tree_cpu(self._server.pid),
            shards=sum(tree_cpu(process.pid) for process in self._valkey.processes),
            store=tree_cpu(self._postgres.process.pid),
            machine_busy=sum(
                getattr(machine, kind)
                for kind in ("user", "nice", "system", "irq", "softirq", "steal")
            ),
            machine_idle=idle,
            at=time.monotonic(),
        )

    def shard_info(self, section: str) -> dict[str, Any]:
        """INFO of the one Valkey process."""
        with redis.Redis.from_url(self.index_urls[0]) as client:
            return dict(client.info(section))

    def shard_calls(self) -> int:
        """Function calls the shards have had."""
        return self.shard_call_stats()[0]

    def shard_call_stats(self) -> tuple[int, int]:
        """Function calls the shards have had, and the microseconds they took."""
        stats = self.shard_info("commandstats")
        found = [stats.get(f"cmdstat_{name}", {}) for name in ("fcall", "fcall_ro")]
        return sum(s.get("calls", 0) for s in found), sum(s.get("usec", 0) for s in found)

    def metric(self, name: str) -> float:
        """Sum of a metric of the server over its labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics") as reply:
            text = reply.read().decode()
        found = re.findall(rf"^{name}(?:\{{[^}}]*\}})? (\S+)$", text, re.MULTILINE)
        return sum(float(value) for value in found)

    def _check(self) -> None:
        if self._server is not None and self._server.poll() is not None:
            log = self.log_path.read_bytes()[-3000:].decode(errors="replace")
            raise RuntimeError(f"the server ended with code {self._server.returncode}:\n{log}")


def tree_cpu(pid: int) -> float:
    """CPU seconds of a process, its children, and those children that ended."""
    root = psutil.Process(pid)
    own = root.cpu_times()
    total = own.user + own.system + own.children_user + own.children_system
    for child in root.children(recursive=True):
        try:
            times = child.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return float(total)


def free_port() -> int:
    """A free port of the loopback."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_serving(target: str, seconds: float, check: Any = lambda: None) -> None:
    """Return when health says SERVING. Raises TimeoutError; ``check`` may raise meanwhile."""
    deadline = time.monotonic() + seconds
    with grpc.insecure_channel(target) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        while time.monotonic() < deadline:
            check()
            try:
                reply = health.Check(health_pb2.HealthCheckRequest(), timeout=1.0)
                if reply.status == health_pb2.HealthCheckResponse.SERVING:
                    return
            except grpc.RpcError:
                pass
            time.sleep(0.02)
    raise TimeoutError(f"{target} did not say SERVING within {seconds:.0f} s")


def fsync_ms(folder: Path, count: int = 300) -> list[float]:
    """Sorted milliseconds of appending 200 bytes and fdatasync, on this folder's disk."""
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        return sorted(_fsync_ms(file.fileno()) for _ in range(count))


@contextmanager
def fsync_ms_meanwhile(folder: Path) -> Iterator[list[float]]:
    """As ``fsync_ms``, 20 times a second while something else runs; sorted when it ends."""
    found: list[float] = []
    over = threading.Event()

    def probe() -> None:
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            while not over.wait(0.05):
                found.append(_fsync_ms(file.fileno()))

    thread = threading.Thread(target=probe)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()
        found.sort()


def _fsync_ms(file: int) -> float:
    begun = time.perf_counter()
    os.write(file, b"x" * 200)
    os.fdatasync(file)
    return (time.perf_counter() - begun) * 1000
