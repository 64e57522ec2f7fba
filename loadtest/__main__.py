"""`python -m loadtest SCENARIO` runs a scenario, `python -m loadtest bench` measures everything."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from loadtest.driver.process import BUILD_FOLDER, DriverMissing
from loadtest.host import ServiceHost
from loadtest.overload import print_multiples, run_multiples
from loadtest.report import print_result, write_result
from loadtest.run import run_scenario
from loadtest.scenario import ScenarioError, load_scenario, with_load


def scenario(
    name: Annotated[str, typer.Argument(help="A TOML file, or a name of loadtest/scenarios/.")],
    target: Annotated[
        str | None, typer.Option(help="host:port of a server; without, one is started.")
    ] = None,
    seconds: Annotated[float | None, typer.Option(help="How long to measure.")] = None,
    rate: Annotated[
        float | None, typer.Option(help="Sessions a second, open loop; 0 is the closed loop.")
    ] = None,
    rates: Annotated[
        str | None, typer.Option(help="Several rates in turn, such as 50,100,200.")
    ] = None,
    clients: Annotated[int | None, typer.Option(help="Client processes.")] = None,
    connections: Annotated[int | None, typer.Option(help="Of each process.")] = None,
    streams: Annotated[int | None, typer.Option(help="Of each connection.")] = None,
    client: Annotated[str | None, typer.Option(help="raw (C, fast) or grpc (grpc.aio).")] = None,
    load_catalog: Annotated[bool, typer.Option(help="Load network and stock first.")] = True,
    folder: Annotated[Path, typer.Option(help="Where the JSON and the page go.")] = BUILD_FOLDER,
) -> None:
    """Run a scenario; ends with code 1 when the run does not count."""
    console = Console(highlight=False)
    try:
        wanted = with_load(
            load_scenario(name), seconds=seconds, rate=rate, clients=clients, client=client,
            connections=connections, streams=streams,
            rates=tuple(float(r) for r in rates.split(",")) if rates else None,
        )  # fmt: skip
        console.print(f"{wanted.name}: {wanted.about.strip()}")
        with _target(target, console) as address:
            run = run_multiples if wanted.load.multiples else run_scenario
            results = run(wanted, address, console, load_first=load_catalog)
    except (ScenarioError, DriverMissing) as error:
        console.print(f"[red]{error}[/]")
        raise typer.Exit(2) from None
    for result in results:
        print_result(result, console)
    if wanted.load.multiples:
        print_multiples(results, console)
    data, page = write_result(results, folder)
    console.print(f"written: {data}, {page}")
    if not all(result.verdict.valid for result in results):
        raise typer.Exit(1)


@contextmanager
def _target(given: str | None, console: Console) -> Iterator[str]:
    if given:
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="promise-loadtest-") as folder:
        console.print("no --target: starting a server with embedded engines")
        with ServiceHost(Path(folder)) as host:
            yield host.target


def main() -> None:
    """`bench` is a command of its own; everything else names a scenario."""
    if sys.argv[1:2] == ["bench"]:
        from loadtest.bench.command import bench  # noqa: PLC0415 - scenarios need none of it

        del sys.argv[1]
        typer.run(bench)
    else:
        typer.run(scenario)


if __name__ == "__main__":
    main()
