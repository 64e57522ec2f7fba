"""What the measurements of one run share: the loaded service, bodies, and words for `how`."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from rich.console import Console

from loadtest.bodies import Session, write_bodies
from loadtest.catalog import Catalog, CatalogSize
from loadtest.channel import TOKEN_VARIABLE
from loadtest.driver.process import BUILD_FOLDER, Load, drive
from loadtest.host import SERVE, Cpu, ServiceHost, fsync_ms, fsync_ms_meanwhile
from loadtest.loader import load_catalog
from loadtest.recorder import Histogram, RunRecord
from loadtest.workload import Workload, WorkloadOptions
from promise_svc.rpc.auth import add_token

BODIES_MIN = 10_000
QUIET_SECONDS_MAX = 60.0


@dataclass(frozen=True, slots=True)
class Driven:
    """A driven load and what it cost."""

    record: RunRecord
    cpu: Cpu
    shape: str

    @property
    def front_us(self) -> float:
        """The server process's CPU a call."""
        return 1e6 * self.cpu.front / max(1, self.record.all_done)

    @property
    def how(self) -> str:
        """Load shape, idle share, and the generator where it was near its limit."""
        words = f"{self.shape}, {self.record.all_done:,} calls"
        words += f", machine idle {self.cpu.idle_share:.0%}"
        if self.record.errors:
            words += f", {self.record.errors:,} ERRORS {dict(self.record.reasons)}"
        if self.record.cpu_share_max > 0.85:
            words += f", GENERATOR LIMIT ({self.record.cpu_share_max:.0%} of a core)"
        return words


class Bench:
    """One run. Measurements ask for ``host`` when they need it; it starts and loads once."""

    def __init__(self, console: Console, *, short: bool, command: tuple[str, ...] = SERVE) -> None:
        self.console = console
        self.short = short
        self.command = command
        self.seconds = 2.0 if short else 5.0
        self.folder = Path(tempfile.mkdtemp(prefix="promise-bench-", dir=BUILD_FOLDER.absolute()))
        # PostgreSQL runs as another account, which must pass through here.
        self.folder.chmod(0o711)
        # Servers and clients inherit both: calls are authenticated, as off loopback they would be.
        os.environ["PROMISE_TOKENS_FILE"] = str(self.folder / "tokens")
        os.environ[TOKEN_VARIABLE] = add_token(
            self.folder / "tokens", "bench", "read,reserve,supply,network,admin"
        )
        self.load_rate = 0.0
        self.load_cpu: Cpu | None = None
        self.curves: list[tuple[str, Histogram]] = []
        self.sweeps: list[tuple[str, list[tuple[float, float]]]] = []
        self._host: ServiceHost | None = None
        self._small: ServiceHost | None = None
        self._runs = 0

    @cached_property
    def catalog(self) -> Catalog:
        """2,000 stores; short runs have fewer SKUs and nodes."""
        size = CatalogSize(
            store_count=300 if self.short else 2_000,
            sku_count=BODIES_MIN // (5 if self.short else 1),
            wide_sku_count=40,
            hot_sku_count=20,
        )
        return Catalog(size, seed=11)

    @cached_property
    def small_catalog(self) -> Catalog:
        """20 nodes with stock, as many SKUs as ``catalog``, each at ten of them."""
        size = CatalogSize(
            store_count=8, sku_count=self.catalog.size.sku_count, nodes_per_sku=10,
            wide_sku_count=40,
        )  # fmt: skip
        return Catalog(size, seed=11)

    @property
    def host(self) -> ServiceHost:
        """The service, serving and loaded."""
        if self._host is None:
            self.console.print("  starting the service and loading the catalog")
            self._host = ServiceHost(self.folder / "service", self.command).__enter__()
            before = self._host.cpu()
            self.load_rate = asyncio.run(load_catalog(self._host.target, self.catalog))
            self.load_cpu = self._host.cpu().since(before)
            self.quiet()
        return self._host

    @property
    def small(self) -> ServiceHost:
        """A second service with engines of its own, loaded with ``small_catalog``."""
        if self._small is None:
            self.console.print("  starting a small service beside it")
            self._small = ServiceHost(self.folder / "small", self.command).__enter__()
            asyncio.run(load_catalog(self._small.target, self.small_catalog))
            self.quiet(self._small)
        return self._small

    def close(self) -> None:
        """Stop everything and remove the data."""
        for host in (self._host, self._small):
            if host is not None:
                host.__exit__()
        for name in ("PROMISE_TOKENS_FILE", TOKEN_VARIABLE):
            os.environ.pop(name, None)
        shutil.rmtree(self.folder, ignore_errors=True)

    def workload(self, kind: str, catalog: Catalog | None = None, **options: object) -> Workload:
        """Uniform over all loaded SKUs unless told otherwise."""
        self._runs += 1
        given = {"zipf": 0.0, "named_nodes": True} | options
        chosen = WorkloadOptions(kind=kind, **given)  # type: ignore[arg-type]
        run = f"b{int(time.time()) % 10**6:x}{self._runs}"
        return Workload(catalog or self.catalog, chosen, seed=self._runs, run=run)

    def bodies(self, name: str, sessions: Iterable[Session]) -> Path:
        """Written to the run's folder."""
        path = self.folder / f"{name}.bodies"
        write_bodies(path, sessions)
        return path

    def drive(self, path: Path, load: Load, host: ServiceHost | None = None) -> Driven:
        """One raw driver process against the service."""
        host = host or self.host
        before = host.cpu()
        record = drive(host.target, [path], load)
        return Driven(record, host.cpu().since(before), f"unary.c, {load.shape()}")

    def quiet(self, host: ServiceHost | None = None) -> None:
        """Return when the relay has carried everything and the feed is level."""
        host = host or self._host
        assert host is not None
        deadline = time.monotonic() + QUIET_SECONDS_MAX
        while time.monotonic() < deadline:
            lag = host.metric("promise_relay_lag_events")
            if not lag and not host.metric("promise_feed_catching_up_shards"):
                return
            time.sleep(0.2)

    def fsync_p99_ms(self) -> float:
        """Of the disk the shards write to, right now."""
        return _p99(fsync_ms(self.folder))

    def drive_with_fsync(self, path: Path, load: Load) -> tuple[Driven, float]:
        """``drive``, and the p99 in ms of the same disk's fdatasync meanwhile."""
        with fsync_ms_meanwhile(self.folder) as found:
            driven = self.drive(path, load)
        return driven, _p99(found)


def _p99(ordered: list[float]) -> float:
    return ordered[int(len(ordered) * 0.99)]
