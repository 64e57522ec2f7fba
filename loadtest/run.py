"""Runs a scenario: load the catalog, encode the bodies, drive, merge, judge whether it counts."""

from __future__ import annotations

import asyncio
import dataclasses
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from loadtest.bodies import write_bodies
from loadtest.catalog import Catalog
from loadtest.driver.process import BUILD_FOLDER, Load, drive
from loadtest.loader import load_catalog
from loadtest.recorder import RunRecord
from loadtest.scenario import Offered, Scenario
from loadtest.workload import Workload
from promise_svc import __version__, hotpath

SESSIONS_MIN = 10_000
"""Fewer distinct bodies would let caches flatter the server."""
LATENESS_MS_MAX = 5.0
CPU_SHARE_MAX = 0.85
OFFERED_SHARE_MIN = 0.95
SESSIONS_A_SECOND_MAX = 3_000
"""Of a closed loop whose sessions cannot be repeated."""


@dataclass(slots=True)
class Verdict:
    """Whether the numbers are the server's."""

    valid: bool = True
    remarks: list[str] = field(default_factory=list)

    def against(self, remark: str) -> None:
        self.valid = False
        self.remarks.append(remark)


@dataclass(slots=True)
class RunResult:
    """One rate of one scenario."""

    scenario: Scenario
    load: Load
    clients: int
    record: RunRecord
    verdict: Verdict
    machine_idle_share: float
    began: str
    ack_logs: list[str] = field(default_factory=list)

    @property
    def offered(self) -> float:
        """Sessions a second; 0 for a closed loop."""
        return self.load.rate * self.clients

    def to_json(self) -> dict[str, Any]:
        return {
            "scenario": dataclasses.asdict(self.scenario),
            "began": self.began,
            "shape": f"{self.clients} processes, each {self.load.shape()}",
            "offered": self.offered,
            "calls_a_second": self.record.rate,
            "valid": self.verdict.valid,
            "remarks": self.verdict.remarks,
            "machine_idle_share": round(self.machine_idle_share, 4),
            "generator_cpu_share": round(self.record.cpu_share_max, 4),
            "lateness_p99_ms": self.record.lateness.percentile_ms(99),
            "ack_logs": self.ack_logs,
            "record": self.record.to_json(self.record.seconds),
        }


def run_scenario(
    scenario: Scenario, target: str, console: Console, *, load_first: bool = True
) -> list[RunResult]:
    """Run each of the scenario's rates in turn against a server that listens at ``target``."""
    catalog = Catalog(scenario.catalog, scenario.seed)
    if load_first:
        load_stock(target, catalog, console)
    rates = scenario.load.rates or (scenario.load.rate,)
    return [_run_rate(scenario, catalog, target, rate, console) for rate in rates]


def judge(record: RunRecord, load: Load, clients: int, idle_share: float) -> Verdict:
    """A run does not count where the generator was the limit, or its sessions ran out."""
    verdict = Verdict()
    late = record.lateness.percentile_ms(99)
    if load.rate and late > LATENESS_MS_MAX:
        verdict.against(f"GENERATOR LIMIT: p99 of sends left {late:.1f} ms after the intended time")
    if record.cpu_share_max > CPU_SHARE_MAX:
        verdict.against(f"GENERATOR LIMIT: a client used {record.cpu_share_max:.0%} of a core")
    if record.exhausted and load.seconds - record.seconds > 0.05 * load.seconds:
        verdict.against("the encoded sessions ran out before the time")
    if not hotpath.COMPILED:
        verdict.against("the slow specifications run here (PROMISE_PURE_PYTHON)")
    # Against the times that were drawn, not rate x seconds: of 400 arrivals by chance, 380 are
    # nothing unusual.
    drawn, began = record.lateness.count, record.waiting.count
    if load.rate and (not drawn or began < OFFERED_SHARE_MIN * drawn):
        verdict.against(f"of {drawn:,} sessions offered, {began:,} found a free stream")
    if idle_share < 0.02:
        verdict.remarks.append("the whole machine was busy: other work shares in these numbers")
    return verdict


def machine() -> dict[str, Any]:
    """Where a run ran."""
    memory = psutil.virtual_memory().total
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.machine(),
        "cores": psutil.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "promise_svc": __version__,
        "python": platform.python_version(),
        "compiled": hotpath.COMPILED,
    }


def _run_rate(
    scenario: Scenario, catalog: Catalog, target: str, rate: float, console: Console
) -> RunResult:
    offered = scenario.load
    folder = BUILD_FOLDER / scenario.name
    stamp = f"{int(time.time()):x}"
    files = []
    with console.status("encoding bodies"):
        for client in range(offered.clients):
            workload = Workload(
                catalog, scenario.workload, seed=scenario.seed + client, run=f"{stamp}-{client}"
            )
            files.append(folder / f"bodies-{client}")
            write_bodies(files[-1], workload.take(_session_count(scenario, rate)))
    load = Load(
        connections=offered.connections, streams=offered.streams, seconds=offered.seconds,
        warmup=offered.warmup, rate=rate / offered.clients, arrivals=offered.arrivals,
        seed=scenario.seed, once=_reserves(scenario), ack_log=folder / f"acks-{stamp}.jsonl",
    )  # fmt: skip
    began = datetime.now(UTC).isoformat(timespec="seconds")
    psutil.cpu_times_percent()
    with _progress(console, offered, rate) as tell:
        record = drive(target, files, load, kind=offered.client, on_progress=tell)
    idle = psutil.cpu_times_percent().idle / 100
    logs = sorted(str(path) for path in folder.glob(f"acks-{stamp}-*.jsonl"))
    verdict = judge(record, load, offered.clients, idle)
    return RunResult(scenario, load, offered.clients, record, verdict, idle, began, logs)


def _session_count(scenario: Scenario, rate: float) -> int:
    """Of each client: as many as can be needed, and never few."""
    load = scenario.load
    wanted = (rate / load.clients * 1.2 if rate else SESSIONS_A_SECOND_MAX) * (
        load.seconds + load.warmup
    )
    if not _reserves(scenario):
        return SESSIONS_MIN if scenario.workload.kind != "list_page" else SESSIONS_MIN // 20
    return max(SESSIONS_MIN, int(wanted))


def _reserves(scenario: Scenario) -> bool:
    """Sessions that hold something may be sent once only: the second time they are replays."""
    return scenario.workload.kind not in {"availability_read", "list_page", "promise_cart"}


def load_stock(target: str, catalog: Catalog, console: Console) -> None:
    """Load the catalog and tell how fast."""
    with _bar(console, "loading the catalog") as (progress, task):

        def tell(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        rate = asyncio.run(load_catalog(target, catalog, tell))
    console.print(f"loaded {catalog.cell_count:,} positions, {rate:,.0f} a second")


@contextmanager
def _progress(console: Console, load: Offered, rate: float) -> Iterator[Any]:
    wanted = f"{rate:,.0f}/s" if rate else "closed loop"
    with _bar(console, f"{wanted}, {load.clients} clients") as (progress, task):
        progress.update(task, total=round(load.seconds + load.warmup))
        done: dict[int, int] = {}
        errors: dict[int, int] = {}

        def tell(process: int, told: dict[str, Any]) -> None:
            done[process], errors[process] = told["done"], told["errors"]
            calls, failed = sum(done.values()), sum(errors.values())
            progress.update(
                task,
                completed=min(round(told["progress"]), round(load.seconds + load.warmup)),
                description=f"{wanted}: {calls:,} calls, {failed:,} errors",
            )

        yield tell


@contextmanager
def _bar(console: Console, text: str) -> Iterator[tuple[Progress, Any]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        yield progress, progress.add_task(text, total=None)
