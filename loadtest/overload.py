"""Offers multiples of the measured capacity, one after the other without a pause, and tells what
became of those who were let in."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from loadtest.bodies import CONFIRM, CREATE, write_bodies
from loadtest.catalog import Catalog
from loadtest.driver.process import BUILD_FOLDER, Load, drive
from loadtest.run import SESSIONS_A_SECOND_MAX, RunResult, judge, load_stock
from loadtest.scenario import Scenario
from loadtest.workload import Workload

CAPACITY_STREAMS = 16
"""On each of 4 connections, of the closed loop: enough that nothing is idle."""


def run_multiples(
    scenario: Scenario, target: str, console: Console, *, load_first: bool = True
) -> list[RunResult]:
    """A result for each multiple, its rate in it. Holds that were granted a second in the closed
    loop are the capacity."""
    catalog = Catalog(scenario.catalog, scenario.seed)
    if load_first:
        load_stock(target, catalog, console)
    offered, run = scenario.load, f"{int(time.time()):x}"
    closed = Load(connections=4, streams=CAPACITY_STREAMS, seconds=offered.seconds, once=True,
                  warmup=offered.warmup)  # fmt: skip
    with console.status("measuring what the closed loop does"):
        seconds = offered.seconds + offered.warmup
        path = _encoded(scenario, catalog, f"{run}-c", int(seconds * SESSIONS_A_SECOND_MAX))
        record = drive(target, [path], closed, kind=offered.client)
    capacity = record.count(CREATE, 0, 1) / record.seconds
    console.print(f"capacity: {capacity:,.0f} holds a second, and their confirms and releases")
    steps = []
    for number, multiple in enumerate(offered.multiples):
        rate = multiple * capacity
        load = Load(
            connections=offered.connections, streams=offered.streams, seconds=offered.seconds,
            rate=rate, arrivals=offered.arrivals, seed=scenario.seed + number, once=True,
        )  # fmt: skip
        sessions = int(rate * offered.seconds * 1.2) + 100
        steps.append((_encoded(scenario, catalog, f"{run}-{number}", sessions), load))
    with console.status("offering " + ", ".join(f"{m:g} x" for m in offered.multiples)):
        return _run_steps(scenario, target, steps)


def _run_steps(scenario: Scenario, target: str, steps: list[tuple[Path, Load]]) -> list[RunResult]:
    """Each begins when the time of the one before is over, whatever is still unanswered then."""
    results = []
    with ThreadPoolExecutor(len(steps)) as pool:
        running = []
        for path, load in steps:
            began = datetime.now(UTC).isoformat(timespec="seconds")
            psutil.cpu_times_percent()
            future = pool.submit(drive, target, [path], load, kind=scenario.load.client)
            time.sleep(load.seconds)
            idle = psutil.cpu_times_percent().idle / 100
            running.append((load, future, began, idle))
        for load, future, began, idle in running:
            record = future.result()
            verdict = judge(record, load, 1, idle)
            results.append(RunResult(scenario, load, 1, record, verdict, idle, began))
    return results


def print_multiples(results: list[RunResult], console: Console) -> None:
    """One line a multiple. Goodput is of holds granted; a confirm counts as done when it is OK,
    of all that were asked for."""
    table = Table("x", "offered/s", "held/s", "hold p50 ms", "p99 ms", "confirm p99 ms",
                  "confirmed", "refused", "last error at")  # fmt: skip
    for multiple, result in zip(results[0].scenario.load.multiples, results, strict=True):
        record = result.record
        holds, confirms = record.methods[CREATE], record.methods.get(CONFIRM)
        asked = sum(confirms.outcomes.values()) if confirms else 0
        errors = [n for n, count in enumerate(record.errors_by_second) if count]
        table.add_row(
            f"{multiple:g}",
            f"{result.offered:,.0f}",
            f"{record.count(CREATE, 0, 1) / record.seconds:,.0f}",
            *(f"{holds.accepted.percentile_ms(p):,.0f}" for p in (50, 99)),
            f"{confirms.accepted.percentile_ms(99):,.0f}" if confirms else "",
            f"{record.count(CONFIRM, 0, 1) / asked:.2%}" if asked else "",
            ", ".join(f"{reason} {n:,}" for reason, n in record.reasons.most_common()),
            f"second {errors[-1] + 1}" if errors else "none",
        )
    console.print(table)


def _encoded(scenario: Scenario, catalog: Catalog, run: str, sessions: int) -> Path:
    """So many sessions that no other run has."""
    path = BUILD_FOLDER / scenario.name / f"bodies-{run.rsplit('-', 1)[1]}"
    path.parent.mkdir(parents=True, exist_ok=True)
    workload = Workload(catalog, scenario.workload, seed=scenario.seed, run=run)
    write_bodies(path, workload.take(sessions))
    return path
