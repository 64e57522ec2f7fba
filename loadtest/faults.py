"""Shoppers under faults: a server, its engines and client processes, and what is done to them.

Every fault ends within seconds: what was killed is started again, what was stopped goes on. The
order of faults depends on the seed alone; the moments at which they strike do not.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, Self

import psutil
import redis

from loadtest.catalog import Catalog
from loadtest.host import ServiceHost
from loadtest.loader import load_catalog
from loadtest.shoppers import CATALOG_SEED, FOUGHT_FOR, GIVE_UP_SECONDS
from loadtest.stored import ORPHAN_SECONDS_MAX, Place
from loadtest.verify import LoadAudit, audit_load
from promise_svc.config import ClusterConfig

KILLS = ("kill server", "kill valkey", "kill postgres")
FAULTS = (*KILLS, "stop server", "stop valkey", "stop postgres", "kill both engines")
STOP_SECONDS = (0.3, 4.0)
DOWN_SECONDS = (0.0, 1.5)
"""How long something killed stays away before it is started again."""
QUIET_SECONDS = 4.0
"""After the load: short holds run out, the resolver and the relay come level."""


class FaultyHost(ServiceHost):
    """A service that can be hurt."""

    def kill_server(self) -> None:
        """kill -9 the server's whole group; engines and clients are in others."""
        assert self._server is not None
        os.killpg(self._server.pid, signal.SIGKILL)
        self._server.wait()

    def kill_store(self) -> None:
        """kill -9 PostgreSQL's first process; the others notice and end."""
        self._postgres.kill()

    def restart_store(self) -> None:
        """Start it again on its folder and port; it recovers."""
        self._postgres.restart()

    def pids(self, part: str) -> list[int]:
        """All processes of ``server``, ``valkey`` or ``postgres``."""
        assert self._server is not None
        roots = {
            "server": [self._server.pid],
            "valkey": [process.pid for process in self._valkey.processes],
            "postgres": [self._postgres.process.pid],
        }[part]
        found = []
        for pid in roots:
            with suppress(psutil.NoSuchProcess):
                found += [pid, *(child.pid for child in psutil.Process(pid).children(True))]
        return found

    def pause(self, part: str, seconds: float) -> None:
        """SIGSTOP every process of a part, wait, SIGCONT."""
        with self.paused(part):
            time.sleep(seconds)

    @contextmanager
    def paused(self, part: str) -> Iterator[None]:
        """Every process of a part is stopped meanwhile."""
        pids = self.pids(part)
        _signal(pids, signal.SIGSTOP)
        try:
            yield
        finally:
            _signal(pids, signal.SIGCONT)


class Health(NamedTuple):
    """What must not grow without end."""

    server_rss_mib: float
    server_fds: int
    valkey_rss_mib: float
    outbox_entries: int
    log_lines: int


class Ordeal:
    """Shoppers in their own processes on a host that is hurt; a context manager. Blocks."""

    def __init__(self, host: FaultyHost, seed: int, *, processes: int = 3, shoppers: int = 6):
        self.host = host
        self.seed = seed
        self._rng = random.Random(f"faults {seed}")
        self._processes: list[subprocess.Popen[str]] = []
        self._counts = processes, shoppers
        self._catalog = Catalog(FOUGHT_FOR, CATALOG_SEED)
        self.faults: list[str] = []

    def __enter__(self) -> Self:
        asyncio.run(load_catalog(self.host.target, self._catalog))
        processes, shoppers = self._counts
        for number in range(processes):
            log = self.host.folder / f"acks-{number}.jsonl"
            log.touch()
            command = [sys.executable, "-m", "loadtest.shoppers", self.host.target, str(log),
                       f"{self.seed}-{number}", str(shoppers)]  # fmt: skip
            self._processes.append(
                subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
            )
        for process in self._processes:
            assert process.stdout is not None
            process.stdout.readline()  # "shopping"
        return self

    def __exit__(self, *_exc_info: object) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()

    @property
    def logs(self) -> list[Path]:
        """What was acknowledged to each process."""
        return sorted(self.host.folder.glob("acks-*.jsonl"))

    @property
    def stocked(self) -> dict[Place, int]:
        """What each position has on hand, and must have in the end."""
        return {(row.sku, row.node_id): row.on_hand for row in self._catalog.rows()}

    def order(self, kinds: Sequence[str], count: int) -> list[str]:
        """The next faults: each kind as often as any other, shuffled."""
        drawn: list[str] = []
        while len(drawn) < count:
            drawn += self._rng.sample(kinds, len(kinds))
        return drawn[:count]

    def strike(self, fault: str) -> float:
        """Do it, and undo it; the seconds until it was undone."""
        begun, rng, host = time.monotonic(), self._rng, self.host
        down = rng.uniform(*DOWN_SECONDS)
        self.faults.append(fault)
        verb, part = fault.split(" ", 1)
        if verb == "stop":
            host.pause(part, rng.uniform(*STOP_SECONDS))
        elif part == "server":
            host.kill_server()
            time.sleep(down)
            host.serve()
        else:
            names = ("valkey", "postgres") if part == "both engines" else (part,)
            for name in names:
                {"valkey": host.kill_shards, "postgres": host.kill_store}[name]()
            time.sleep(down)
            for name in names:
                {"valkey": host.restart_shards, "postgres": host.restart_store}[name]()
        return time.monotonic() - begun

    def calls(self) -> int:
        """Attempts so far, by the lines of the logs."""
        return sum(_line_count(log) for log in self.logs)

    def finish(self) -> bool:
        """Ask the shoppers to end; whether every one of their calls got its answer."""
        for process in self._processes:
            process.terminate()
        codes = [process.wait(GIVE_UP_SECONDS + 15) for process in self._processes]
        return codes == [0] * len(codes)

    def audit(self) -> LoadAudit:
        """Judge what is left when all is quiet."""
        time.sleep(max(QUIET_SECONDS, 1 + (ORPHAN_SECONDS_MAX or 0)))
        return asyncio.run(
            audit_load(
                ClusterConfig(), self.host.index_urls, self.host.order_store_url, self.logs,
                stocked=self.stocked,
            )
        )  # fmt: skip

    def health(self) -> Health:
        """Now. Raises redis.ConnectionError where Valkey is away."""
        host = self.host
        outbox = 0
        with redis.Redis.from_url(host.index_urls[0], socket_timeout=5) as client:
            for key in client.scan_iter(match="*}:out", count=1000):
                outbox += int(client.execute_command("XLEN", key))
        server = [psutil.Process(pid) for pid in host.pids("server")]
        valkey = [psutil.Process(pid) for pid in host.pids("valkey")]
        return Health(
            sum(process.memory_info().rss for process in server) / 2**20,
            sum(process.num_fds() for process in server),
            sum(process.memory_info().rss for process in valkey) / 2**20,
            outbox,
            _line_count(host.log_path),
        )


def wait_for_calls(
    ordeal: Ordeal, more: int, seconds: float, tell: Callable[[], None] = lambda: None
) -> None:
    """Return when ``more`` calls were made; TimeoutError when they were not in time."""
    wanted, deadline = ordeal.calls() + more, time.monotonic() + seconds
    while ordeal.calls() < wanted:
        if time.monotonic() > deadline:
            raise TimeoutError(f"the service made no progress in {seconds:.0f} s")
        tell()
        time.sleep(0.05)


def _signal(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _line_count(path: Path) -> int:
    return path.read_bytes().count(b"\n")
