"""What a person reads of a run: a table, a JSON file, and one HTML page that stands alone."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import grpc
from rich.console import Console
from rich.table import Table

from loadtest.bodies import CANCEL, CONFIRM, CREATE, PICKUP, PROMISE, RELEASE
from loadtest.plot import Axis, Line, plot
from loadtest.recorder import Histogram, MethodRecord
from loadtest.run import RunResult, machine
from promise_svc.v1 import availability_service_pb2 as availability_pb
from promise_svc.v1 import promise_service_pb2 as promise_pb
from promise_svc.v1 import reservation_service_pb2 as reservation_pb

PERCENTILES = (50.0, 90.0, 99.0, 99.9, 99.99)
CURVE = (0, 25, 50, 75, 90, 95, 97.5, 99, 99.5, 99.9, 99.95, 99.99)

_OUTCOMES: dict[str, tuple[Any, str]] = {
    CREATE: (reservation_pb.CreateReservationOutcome, "CREATE_RESERVATION_OUTCOME_"),
    CONFIRM: (reservation_pb.TransitionOutcome, "TRANSITION_OUTCOME_"),
    RELEASE: (reservation_pb.TransitionOutcome, "TRANSITION_OUTCOME_"),
    CANCEL: (reservation_pb.TransitionOutcome, "TRANSITION_OUTCOME_"),
    PROMISE: (promise_pb.PromiseOutcome, "PROMISE_OUTCOME_"),
    PICKUP: (availability_pb.FindPickupNodesOutcome, "FIND_PICKUP_NODES_OUTCOME_"),
}
_CODES = {code.value[0]: code.name for code in grpc.StatusCode} | {
    17: "BROKEN_CONNECTION",
    18: "UNANSWERED",
}


def outcome_name(path: str, code: int, outcome: int) -> str:
    """`HELD`, `OK`, or the gRPC code of an error."""
    if code:
        return _CODES.get(code, str(code))
    if path not in _OUTCOMES or not outcome:
        return "OK"
    names, prefix = _OUTCOMES[path]
    return str(names.Name(outcome)).removeprefix(prefix)


def print_result(result: RunResult, console: Console) -> None:
    """The table, the outcomes and the verdict."""
    record = result.record
    shape = f"{result.clients} processes, each {result.load.shape()}"
    table = Table("method", "calls/s", *(f"p{p:g} ms" for p in PERCENTILES), "max ms",
                  title=f"{result.scenario.name}: {shape}", title_justify="left")  # fmt: skip
    for path, method in record.methods.items():
        table.add_row(
            path.rsplit("/", 1)[1],
            f"{method.latency.count / record.seconds:,.0f}",
            *(f"{method.latency.percentile_ms(p):,.2f}" for p in PERCENTILES),
            f"{method.latency.max_us / 1000:,.1f}",
        )
    console.print(table)
    for path, method in record.methods.items():
        console.print(f"{path.rsplit('/', 1)[1]}: {_outcomes(path, method)}")
    console.print(
        f"{record.rate:,.0f} calls/s; generator: {record.cpu_share_max:.0%} of a core at most, "
        f"sends late by {record.lateness.percentile_ms(99):.2f} ms (p99); "
        f"machine idle {result.machine_idle_share:.0%}"
    )
    if record.reasons:
        told = ", ".join(f"{reason} {n:,}" for reason, n in record.reasons.most_common())
        console.print(f"errors by reason: {told}")
    for remark in result.verdict.remarks:
        console.print(f"[yellow]{remark}[/]")
    console.print("[green]valid[/]" if result.verdict.valid else "[red]NOT VALID[/]")


def write_result(results: Sequence[RunResult], folder: Path) -> tuple[Path, Path]:
    """NAME.json and NAME.html in ``folder``; returns both."""
    folder.mkdir(parents=True, exist_ok=True)
    name = results[0].scenario.name
    data = {"machine": machine(), "runs": [result.to_json() for result in results]}
    (folder / f"{name}.json").write_text(json.dumps(data, indent=1, default=str))
    (folder / f"{name}.html").write_text(page(name, _sections(results)))
    return folder / f"{name}.json", folder / f"{name}.html"


def latency_plot(title: str, curves: Iterable[tuple[str, Histogram]]) -> str:
    """Latency by percentile; the axis is stretched towards 100 %."""
    ticks = [(_nines(p), f"{p:g}") for p in (0, 50, 90, 99, 99.9, 99.99)]
    lines = [
        Line(
            name,
            [(_nines(p), max(0.001, histogram.percentile_ms(p))) for p in CURVE
             if p < 100 * (1 - 1 / max(1, histogram.count))],
        )
        for name, histogram in curves
    ]  # fmt: skip
    return plot(title, lines, Axis("percentile", ticks), Axis("ms", logarithmic=True))


def throughput_plot(title: str, points: Sequence[tuple[float, float]]) -> str:
    """Answered against offered, beside the diagonal on which a server keeps up."""
    diagonal = [(offered, offered) for offered, _ in points]
    return plot(
        title,
        [Line("answered", points), Line("offered", diagonal)],
        Axis("offered sessions/s"),
        Axis("sessions/s"),
    )


def page(title: str, body: str) -> str:
    """A whole HTML page: no script, nothing fetched."""
    about = ", ".join(f"{name} {value}" for name, value in machine().items())
    return f"""<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{escape(title)}</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 980px; margin: 2rem auto; padding: 0 1rem;
  color: #1f2937; background: #fff }}
table {{ border-collapse: collapse; width: 100%; margin: 1rem 0 }}
th, td {{ text-align: right; padding: .25rem .6rem; border-bottom: 1px solid #e5e7eb }}
th:first-child, td:first-child, .text {{ text-align: left }}
td.text {{ font-size: 13px; color: #4b5563 }}
figure {{ margin: 1.5rem 0 }} figcaption {{ font-weight: 600 }}
svg text {{ font: 12px system-ui, sans-serif; fill: #374151 }} svg line {{ stroke: #e5e7eb }}
.good {{ color: #047857 }} .bad {{ color: #b91c1c; font-weight: 600 }} .about {{ color: #6b7280 }}
</style><h1>{escape(title)}</h1><p class="about">{escape(about)}</p>{body}</html>
"""


def _sections(results: Sequence[RunResult]) -> str:
    parts = [f"<p>{escape(results[0].scenario.about.strip())}</p>"]
    if len(results) > 1:
        points = [(r.offered, _sessions_answered(r)) for r in results]
        parts.append(throughput_plot("Throughput against offered load", points))
        curves = [(f"{r.offered:,.0f}/s", r.record.latency()) for r in results]
        parts.append(latency_plot("Latency by percentile, all methods, by offered load", curves))
    for result in results:
        parts.append(_section(result))
    return "".join(parts)


def _sessions_answered(result: RunResult) -> float:
    """Offered, times the share of calls that ended within the run: the rest came when the load had
    ceased, or never."""
    record = result.record
    in_time = sum(record.done_by_second[: math.ceil(record.seconds)])
    return result.offered * in_time / max(1, record.done + record.unstarted)


def _section(result: RunResult) -> str:
    record, verdict = result.record, result.verdict
    state = '<span class="good">valid</span>' if verdict.valid else (
        '<span class="bad">not valid</span>')  # fmt: skip
    remarks = "".join(f"<li>{escape(remark)}</li>" for remark in verdict.remarks)
    shape = f"{result.clients} processes, each {result.load.shape()}"
    rows = "".join(_row(path, method, record.seconds) for path, method in record.methods.items())
    heads = "".join(f"<th>p{p:g} ms</th>" for p in PERCENTILES)
    curves = [(path.rsplit("/", 1)[1], method.latency) for path, method in record.methods.items()]
    seconds = [(float(n), float(calls)) for n, calls in enumerate(record.done_by_second)]
    return (
        f"<h2>{escape(shape)}</h2><p>{state}; {record.rate:,.0f} calls/s; generator "
        f"{record.cpu_share_max:.0%} of a core, late by {record.lateness.percentile_ms(99):.2f} ms "
        f"(p99); machine idle {result.machine_idle_share:.0%}; {result.began}</p>"
        f"<ul>{remarks}</ul><table><tr><th>method</th><th>calls/s</th>{heads}"
        "<th class='text'>outcomes</th></tr>"
        f"{rows}</table>"
        + latency_plot("Latency by percentile, from the intended time", curves)
        + plot(
            "Calls ended in each second", [Line("calls", seconds)], Axis("second"), Axis("calls")
        )
    )


def _row(path: str, method: MethodRecord, seconds: float) -> str:
    cells = "".join(f"<td>{method.latency.percentile_ms(p):,.2f}</td>" for p in PERCENTILES)
    name = path.rsplit("/", 1)[1]
    return (
        f"<tr><td>{escape(name)}</td><td>{method.latency.count / seconds:,.0f}</td>{cells}"
        f'<td class="text">{escape(_outcomes(path, method))}</td></tr>'
    )


def _outcomes(path: str, method: MethodRecord) -> str:
    return ", ".join(
        f"{outcome_name(path, code, outcome)} {n:,}"
        for (code, outcome), n in method.outcomes.most_common()
    )


def _nines(percent: float) -> float:
    return -math.log10(max(1e-6, 1 - percent / 100))
