"""`promise-svc load`: a folder of files into a running service."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from promise_svc.cli.options import TARGET, AsJson, CaFile, Connect, Target, Token, connected
from promise_svc.load.folder import Folder, read_folder
from promise_svc.load.rows import Refusal
from promise_svc.load.send import Loaded, send_folder

REFUSALS_SHOWN = 50


def load(
    folder: Annotated[
        Path,
        typer.Argument(help="The folder; promise_svc/load/README.md says what its files hold."),
    ],
    target: Target = TARGET,
    ca_file: CaFile = None,
    token: Token = "",
    dry_run: Annotated[bool, typer.Option(help="Check everything, send nothing.")] = False,
    source: Annotated[str, typer.Option(help="Name of the feed that counted the stock.")] = "load",
    source_sequence: Annotated[
        int, typer.Option(min=0, help="Number of the count; 0 takes the time its file was written.")
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Load nodes, items, lanes, stock and the rest from CSV and TOML files.

    Everything is checked before anything is sent: one wrong line and nothing is. Loading the same
    folder again changes nothing. Ends with code 1 when a line was refused, and names it.
    """  # fmt: skip
    console = Console(stderr=as_json)
    read = read_folder(folder, source=source, source_sequence=source_sequence)
    loaded = Loaded()
    if not read.refusals and not dry_run:
        connect = partial(connected, target, ca_file, token)
        loaded = asyncio.run(_send(connect, read, source, console))
    refusals = read.refusals or loaded.refusals
    if as_json:
        print(json.dumps(_answer(read, loaded, refusals)))
    else:
        console.print(_table(read, loaded))
        for refusal in refusals[:REFUSALS_SHOWN]:
            console.print(str(refusal), style="red", markup=False, highlight=False, soft_wrap=True)
        if len(refusals) > REFUSALS_SHOWN:
            console.print(f"and {len(refusals) - REFUSALS_SHOWN} more")
        if read.refusals:
            console.print("nothing was sent")
        elif dry_run:
            console.print("dry run: nothing wrong, nothing sent")
    if refusals:
        raise typer.Exit(1)


async def _send(connect: Connect, folder: Folder, source: str, console: Console) -> Loaded:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
               TimeElapsedColumn())  # fmt: skip
    async with connect() as client:
        with Progress(*columns, console=console) as progress:
            bars = {
                name: progress.add_task(name, total=len(part.entries))
                for name, part in folder.parts.items()
                if part.entries
            }
            return await send_folder(
                client,
                folder,
                source=source,
                on_progress=lambda name, count: progress.advance(bars[name], count),
            )


def _answer(folder: Folder, loaded: Loaded, refusals: list[Refusal]) -> dict[str, object]:
    return {
        "read": {name: len(part.entries) for name, part in folder.parts.items() if part.entries},
        "loaded": {name: dict(counts) for name, counts in loaded.counts.items()},
        "refusals": [refusal._asdict() for refusal in refusals],
    }


def _table(folder: Folder, loaded: Loaded) -> Table:
    known = ("created", "updated", "applied", "unchanged", "refused")
    # Only those that happened: all of them are wider than a terminal.
    outcomes = [o for o in known if any(counts.get(o) for counts in loaded.counts.values())]
    table = Table("", "read", *outcomes)
    table.columns[0].no_wrap = True
    for column in table.columns[1:]:
        column.justify = "right"
    for name, part in folder.parts.items():
        if part.entries:
            counts = loaded.counts.get(name) or Counter[str]()
            shown = (f"{counts[o]:,}" if counts.get(o) else "" for o in outcomes)
            table.add_row(name, f"{len(part.entries):,}", *shown)
    return table
