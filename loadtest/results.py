"""`make results`: what was measured, as a page of this repository, with its plots beside it.

`python -m loadtest.results build/bench.json build/loadtest/checkout_mix.json build/soak.log`
writes `loadtest/RESULTS.md` and `loadtest/results/`. Nothing in them is typed by hand.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import typer

from loadtest.bench.row import Row
from loadtest.plot import Axis, Line, plot
from loadtest.recorder import MethodRecord, RunRecord
from loadtest.report import PERCENTILES

PAGE = Path(__file__).with_name("RESULTS.md")
PLOTS = Path(__file__).with_name("results")
PLOTTED = (50.0, 99.0, 99.9)
SOAK_LINES = ("audit: ", "faults: ", "soak: ")
STYLE = "text{font:12px system-ui,sans-serif;fill:#374151}line{stroke:#e5e7eb}"

Runs = list[tuple[dict[str, Any], RunRecord]]


def results(
    bench: Annotated[Path, typer.Argument(help="bench.json of a whole run.")],
    mix: Annotated[Path, typer.Argument(help="JSON of a scenario at several rates.")],
    soak: Annotated[Path, typer.Argument(help="What `make soak` printed.")],
) -> None:
    """Write RESULTS.md and its plots from what was measured."""
    measured, told = json.loads(bench.read_text()), json.loads(mix.read_text())
    if measured["short"]:
        raise typer.BadParameter("a short bench is there to try it, not to cite")
    runs = [(run, RunRecord.from_json(run["record"])) for run in told["runs"]]
    PLOTS.mkdir(exist_ok=True)
    names = [_write_plot(path, runs) for path in _methods(runs)]
    PAGE.write_text("\n".join(_page(measured, runs, names, soak.read_text())) + "\n")
    typer.echo(f"written: {PAGE}")


def _page(measured: dict[str, Any], runs: Runs, plots: Sequence[str], soak: str) -> Iterator[str]:
    about = ", ".join(f"{name} {value}" for name, value in measured["machine"].items())
    versions = ", ".join(f"{name} {value}" for name, value in measured["versions"].items())
    yield f"# Measured on {date.today():%Y-%m-%d}\n"
    yield f"`make results` wrote this page. {about}; {versions}.\n"
    yield (
        "Server, relay, Valkey, PostgreSQL and the load share this machine. Yours will differ:"
        " the command takes a quarter of an hour.\n"
    )
    yield "## Latency of a shop's day\n"
    yield (
        f"{runs[0][0]['scenario']['about'].strip()} Open loop: latency counts from the intended"
        " time. Holds are FSYNC, confirms RECORDED, by default.\n"
    )
    yield from _latencies(runs)
    yield from (f"![{name}](results/{name}.svg)\n" for name in plots)
    yield "## Sold out, killed, and audited\n"
    yield (
        "Shoppers in several processes fight for few SKUs while parts are killed and stopped; then"
        " the clients' own logs are held against index and order store (`make soak`).\n"
    )
    yield "```"
    yield from (line for line in soak.splitlines() if line.startswith(SOAK_LINES))
    yield "```\n"
    yield "## Every row of the bench\n"
    yield from _rows([Row(**each) for each in measured["rows"]])


def _latencies(runs: Runs) -> Iterator[str]:
    heads = ["sessions/s", "call", "calls/s", *(f"p{p:g} ms" for p in PERCENTILES), "refused"]
    yield _line(heads)
    yield _line(["---", "---", *["--:"] * (len(heads) - 2)])
    for run, record in runs:
        valid = "" if run["valid"] else " (NOT VALID)"
        for path in _methods([(run, record)]):
            method = record.methods[path]
            yield _line(
                [f"{run['offered']:,.0f}{valid}", _name(path),
                 f"{method.latency.count / record.seconds:,.0f}",
                 *(f"{method.latency.percentile_ms(p):,.2f}" for p in PERCENTILES),
                 f"{_errors(method):,}"]
            )  # fmt: skip
    yield ""


def _errors(method: MethodRecord) -> int:
    """Calls that ended in a gRPC error."""
    return sum(count for (code, _), count in method.outcomes.items() if code)


def _methods(runs: Runs) -> list[str]:
    """Paths, by how often they were called."""
    counts: dict[str, int] = {}
    for _, record in runs:
        for path, method in record.methods.items():
            counts[path] = counts.get(path, 0) + method.latency.count
    return sorted(counts, key=lambda path: -counts[path])


def _write_plot(path: str, runs: Runs) -> str:
    """Percentiles of one call against the load; returns its name."""
    lines = [
        Line(
            f"p{percent:g}",
            [(run["offered"], record.methods[path].latency.percentile_ms(percent))
             for run, record in runs if path in record.methods],
        )
        for percent in PLOTTED
    ]  # fmt: skip
    title = f"{_name(path)}: latency against sessions offered"
    figure = plot(title, lines, Axis("sessions/s"), Axis("ms", logarithmic=True))
    drawing = figure[figure.index("<svg ") : figure.index("</svg>") + len("</svg>")]
    drawing = drawing.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    first = drawing.index(">") + 1
    (PLOTS / f"{_name(path)}.svg").write_text(
        f"{drawing[:first]}<title>{title}</title><style>{STYLE}</style>"
        f'<rect width="100%" height="100%" fill="#fff"/>{drawing[first:]}\n'
    )
    return _name(path)


def _rows(rows: Sequence[Row]) -> Iterator[str]:
    yield _line(["row", "value", "unit", "goal", "", "how"])
    yield _line(["---", "--:", "---", "---", "---", "---"])
    for each in rows:
        value = "-" if each.value is None else f"{each.value:,g}"
        meets = {True: "meets", False: "**misses**", None: ""}[each.meets]
        cells = [each.name, value, each.unit.split(" ")[0], each.goal, meets, each.how]
        yield _line([cell.replace("|", "\\|") for cell in cells])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _name(path: str) -> str:
    return path.rsplit("/", 1)[1]


if __name__ == "__main__":
    typer.run(results)
