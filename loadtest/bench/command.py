"""The command: which measurements run, in which order, and what becomes of their rows."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from loadtest.bench import engines, freshness, reads, reserves, scale, table
from loadtest.bench.context import Bench
from loadtest.bench.page import bench_page
from loadtest.bench.row import Row, read_rows, row, slower, write_rows
from loadtest.bench.versions import versions
from loadtest.driver.process import BUILD_FOLDER, DriverMissing
from loadtest.host import SERVE
from loadtest.run import machine
from promise_svc import hotpath

Measure = Callable[[Bench], Iterator[Row]]

MEASURES: tuple[tuple[Measure, tuple[str, ...]], ...] = (
    (table.table, ("table_lookup_vs_c", "table_bytes_per_cell", "c_lookup_ns")),
    (
        reads.availability,
        (
            "availability_busy_cpu_us",
            "availability_sparse_cpu_us",
            "availability_busy_vs_cpp",
            "availability_sparse_vs_cpp",
            "cpp_availability_busy_cpu_us",
            "cpp_availability_sparse_cpu_us",
            "availability_h2load_calls_s",
            "availability_vs_aio",
        ),
    ),
    (reads.availability_batch, ("availability_batch_cells_s", "availability_batch_nodes_cells_s")),
    (reads.availability_growth, ("availability_growth_nodes",)),
    (reads.promise_cart, ("promise_cart_cpu_us", "promise_growth")),
    (freshness.change_visible, ("change_visible_p99_ms",)),
    (freshness.sold_out, ("sold_out_index_calls", "sold_out_recovery_ms")),
    (
        engines.rest,
        ("rest_front_cpu_ms_s", "rest_shards_cpu_ms_s", "rest_store_cpu_ms_s"),
    ),
    (
        reserves.cpu,
        (
            "reserve_cpu_us",
            "reserve_sourced_cpu_us",
            "shard_cpu_us_per_leg",
            "shard_cpu_us_per_reservation",
            "shard_raw_cpu_us_per_leg",
        ),
    ),
    (reserves.bounded, ("reserve_bounded_cpu_us", "reserve_sourced_bounded_cpu_us")),
    (
        reserves.sustained,
        (
            "confirm_recorded_p99_ms",
            "reserve_fsync_p99_ms",
            "disk_fsync_p99_ms",
            "disk_fsync_loaded_p99_ms",
            "sustained_reserve_s",
            "hot_sku_reserve_s",
            "postgres_alone_reserve_s",
            "postgres_alone_hot_s",
        ),
    ),
    (
        reserves.plain_service,
        ("plain_service_reserve_cpu_us", "plain_service_shard_cpu_us", "plain_service_reserve_s"),
    ),
    (engines.supply, ("supply_rows_s", "supply_load_rows_s")),
    (reserves.core, ("reserve_core_cpu_us",)),
    (scale.sku_growth, ("pickup_filter_cpu_us", "availability_growth_skus")),
    (scale.rebuild, ("rebuild_positions_s",)),
    (engines.cold_start, ("cold_start_cells_s",)),
    (engines.takeover, ("takeover_ms",)),
)
"""In this order: what disturbs the service comes last."""


def bench(
    only: Annotated[
        str, typer.Option(help="Names of rows, comma-separated; a prefix will do.")
    ] = "",
    short: Annotated[
        bool, typer.Option(help="Less of everything: to try it, not to cite.")
    ] = False,
    against: Annotated[
        Path | None, typer.Option(help="An earlier bench.json; ends with 1 if rows got slower.")
    ] = None,
    serve: Annotated[
        str, typer.Option(help="The command that starts the server under test.")
    ] = shlex.join(SERVE),
    output: Annotated[Path, typer.Option(help="The JSON; the page goes beside it.")] = Path(
        "build/bench.json"
    ),
) -> None:
    """Measure every row that exists. Never fails for a goal that is not met: the table says it."""
    console = Console(highlight=False)
    chosen = _chosen(only)
    if not chosen:
        console.print(f"no row is called {only}; rows are {', '.join(_names())}")
        raise typer.Exit(2)
    if not hotpath.COMPILED:
        console.print("[red]the slow specifications run (PROMISE_PURE_PYTHON): nothing to cite[/]")
        raise typer.Exit(2)
    before = read_rows(against) if against else {}
    BUILD_FOLDER.mkdir(parents=True, exist_ok=True)
    run, begun = Bench(console, short=short, command=tuple(shlex.split(serve))), time.monotonic()
    rows: list[Row] = []
    try:
        for measure, names in chosen:
            rows += _measured(run, measure, names)
    finally:
        run.close()
    about = {
        "machine": machine(),
        "versions": versions(),
        "short": short,
        "load_average": os.getloadavg(),
        "seconds": round(time.monotonic() - begun, 1),
    }
    write_rows(output, rows, about)
    output.with_suffix(".html").write_text(bench_page(rows, about, run))
    _print(console, rows)
    console.print(f"{about['seconds']:.0f} s; written: {output}, {output.with_suffix('.html')}")
    told = slower(rows, before, [name for _, names in chosen for name in names])
    for sentence in told:
        console.print(f"[red]SLOWER {sentence}[/]")
    if against:
        console.print("[red]verdict: slower[/]" if told else "[green]verdict: not slower[/]")
        raise typer.Exit(1 if told else 0)


def _measured(run: Bench, measure: Measure, names: tuple[str, ...]) -> Iterator[Row]:
    begun = time.monotonic()
    run.console.print(f"{measure.__name__}: {', '.join(names)}")
    try:
        for each in measure(run):
            value = "-" if each.value is None else f"{each.value:,g} {each.unit}"
            run.console.print(f"  {each.name}: {value}")
            yield each
    except DriverMissing:
        raise
    except Exception as error:  # noqa: BLE001 - one broken measurement must not hide the others
        run.console.print(f"  [red]failed: {error!r}[/]")
        yield row(names[0], None, "", "", f"FAILED: {error!r}", meets=False)
    run.console.print(f"  {time.monotonic() - begun:.0f} s")


def _chosen(only: str) -> list[tuple[Measure, tuple[str, ...]]]:
    wanted = [name.strip() for name in only.split(",") if name.strip()]
    if not wanted:
        return list(MEASURES)
    return [
        (measure, names)
        for measure, names in MEASURES
        if any(name.startswith(prefix) for name in names for prefix in wanted)
    ]


def _names() -> list[str]:
    return [name for _, names in MEASURES for name in names]


def _print(console: Console, rows: list[Row]) -> None:
    shown = Table("row", "value", "unit", "goal", "")
    for each in rows:
        meets = {True: "[green]meets[/]", False: "[red]misses[/]", None: ""}[each.meets]
        value = "-" if each.value is None else f"{each.value:,g}"
        shown.add_row(each.name, value, each.unit.split(" ")[0], each.goal, meets)
    console.print(shown)
