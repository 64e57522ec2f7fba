"""python -m loadtest.replay: real orders through the service, then the audit."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from loadtest.datasets import olist as olist_set
from loadtest.datasets import online_retail as online_retail_set
from loadtest.host import ServiceHost
from loadtest.replay import olist as olist_replay
from loadtest.replay import online_retail as online_retail_replay
from loadtest.replay.case import Case
from loadtest.replay.player import Player
from loadtest.verify import audit_load
from promise_svc.client import PromiseClient
from promise_svc.config import ClusterConfig
from promise_svc.errors import PromiseServiceError
from promise_svc.load.folder import read_folder
from promise_svc.load.send import send_folder
from promise_svc.v1 import admin_service_pb2 as admin_pb

BUILD = Path("build/replay")

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Play real orders against the service, then audit it. Without --target it starts engines "
    "and a server of its own in build/replay and loads the set's folder.",
)

Source = Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder of the set.")]
Folder = Annotated[
    Path | None, typer.Option(help="The converted folder; without, it is converted now.")
]
Target = Annotated[str, typer.Option(help="host:port of a service that has the folder loaded.")]
Speed = Annotated[float, typer.Option(min=0, help="Data seconds a second; 0 is full speed.")]
Limit = Annotated[int, typer.Option(min=0, help="Only the first so many; 0 is all.")]


@app.command()
def olist(
    source: Source,
    folder: Folder = None,
    month: Annotated[
        str, typer.Option(help="The month, where the folder is converted.")
    ] = "2018-05",
    target: Target = "",
    speed: Speed = 0.0,
    limit: Limit = 0,
) -> None:
    """Availability, promise, hold, confirm, hand-over and cancellation of a month's orders."""
    if folder is None:
        folder = BUILD / "olist-folder"
        shutil.rmtree(folder, ignore_errors=True)
        olist_set.convert(source, folder, month=month, today=date.today(), limit=limit)
    replay = olist_replay.read_replay(source, folder, limit)
    console = Console()
    sound = _run("olist", replay.cases, folder, target, speed, console)
    console.print(f"{replay.without_lines} orders have no lines and were not played")
    if dates := olist_replay.compare_dates(replay):
        table = Table("dates, in calendar days from purchase", "")
        for row in dates.rows():
            table.add_row(*row)
        console.print(table)
    sys.exit(0 if sound else 1)


@app.command()
def online_retail(
    source: Source, folder: Folder = None, target: Target = "", speed: Speed = 0.0, limit: Limit = 0
) -> None:
    """A year of wholesale invoices: hold, confirm, cancel, ship, return."""
    if folder is None:
        folder = BUILD / "online-retail-folder"
        online_retail_set.convert(source, folder, today=date.today())
    cases, left_out = online_retail_replay.read_cases(source, limit)
    console = Console()
    sound = _run("online-retail", cases, folder, target, speed, console)
    console.print("lines left out: " + ", ".join(f"{n:,} {why}" for why, n in left_out.items()))
    sys.exit(0 if sound else 1)


def _run(
    name: str, cases: Sequence[Case], folder: Path, target: str, speed: float, console: Console
) -> bool:
    BUILD.mkdir(parents=True, exist_ok=True)
    log = BUILD / f"{name}.jsonl"
    if target:
        player = asyncio.run(_play(target, cases, log, speed, console))
        _tell(player, cases, console)
        return asyncio.run(_ask_verify(target, console))
    engines = BUILD / f"{name}-engines"
    shutil.rmtree(engines, ignore_errors=True)
    engines.mkdir()
    with ServiceHost(engines) as host:
        asyncio.run(_load(host.target, folder, console))
        player = asyncio.run(_play(host.target, cases, log, speed, console))
        _tell(player, cases, console)
        verdict = asyncio.run(
            audit_load(ClusterConfig(), host.index_urls, host.order_store_url, [log])
        )
    for problem in verdict.problems[:50]:
        console.print(f"{problem.kind} {problem.subject}: {problem.detail}", markup=False)
    console.print(verdict.summary(), markup=False, highlight=False, soft_wrap=True)
    return verdict.sound


async def _load(target: str, folder: Path, console: Console) -> None:
    read = read_folder(folder)
    async with PromiseClient(target) as client:
        loaded = await send_folder(client, read)
    refused = [*read.refusals, *loaded.refusals]
    if refused:
        raise SystemExit(f"{len(refused)} lines were refused, the first: {refused[0]}")
    total = sum(sum(counts.values()) for counts in loaded.counts.values())
    console.print(f"loaded {total:,} entries from {folder}")


async def _play(
    target: str, cases: Sequence[Case], log: Path, speed: float, console: Console
) -> Player:
    total = sum(len(case.events) for case in cases)
    with log.open("w", buffering=1) as file, Progress(console=console, transient=True) as progress:
        bar = progress.add_task("replay", total=total)
        async with PromiseClient(target) as client:
            await client.connect()
            player = Player(
                client, file, speed=speed, on_progress=lambda count: progress.advance(bar, count)
            )
            await player.run(cases)
    return player


async def _ask_verify(target: str, console: Console) -> bool:
    async with PromiseClient(target) as client:
        reply = await client.call(client.admin.Verify, admin_pb.VerifyRequest(),
                                  deadline_seconds=600)  # fmt: skip
    console.print(
        f"verify: {'ok' if reply.consistent else 'FINDINGS'}; {reply.finding_count} findings, "
        f"{reply.oversold_count} oversold, {reply.drift_count} drift"
    )
    return reply.consistent and not reply.uncompared_shard_ids


def _tell(player: Player, cases: Sequence[Case], console: Console) -> None:
    """Every case has one end; they add up to all of them."""
    ends = Counter(case.outcome for case in cases)
    table = Table("cases", f"{len(cases):,}")
    for outcome, count in ends.most_common():
        table.add_row(outcome, f"{count:,}")
    assert sum(ends.values()) == len(cases)
    console.print(table)
    for what, count in sorted(player.unexpected.items()):
        console.print(f"unexpected: {what} {count}")
    table = Table("call", "count", "p50 ms", "p99 ms", "max ms")
    for method, seconds in sorted(player.seconds.items()):
        ordered = sorted(seconds)
        marks = (ordered[len(ordered) // 2], ordered[int(0.99 * (len(ordered) - 1))], ordered[-1])
        table.add_row(method, f"{len(ordered):,}", *(f"{1000 * mark:.1f}" for mark in marks))
    console.print(table)
    calls = sum(map(len, player.seconds.values()))
    lines, took = player.widest_seconds
    console.print(
        f"{calls:,} calls in {player.elapsed_seconds:.1f} s, "
        f"{calls / max(1e-9, player.elapsed_seconds):,.0f} a second; "
        f"widest hold {lines} lines in {1000 * took:.0f} ms; "
        f"latest start {1000 * player.lateness_seconds_max:.0f} ms late"
    )


if __name__ == "__main__":
    try:
        app()
    except PromiseServiceError as error:
        sys.exit(f"replay: {error.message}")
