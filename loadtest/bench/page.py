"""The bench as one HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from loadtest.bench.context import Bench
from loadtest.bench.row import Row
from loadtest.report import latency_plot, page, throughput_plot


def bench_page(rows: Sequence[Row], about: dict[str, Any], run: Bench) -> str:
    """The table with `how`, then the plots."""
    versions = ", ".join(f"{name} {value}" for name, value in about["versions"].items())
    warning = "<p class='bad'>A short run: to try it, not to cite.</p>" if about["short"] else ""
    cells = "".join(_row(each) for each in rows)
    plots = "".join(
        throughput_plot(f"Throughput against offered load: {name}", points)
        for name, points in run.sweeps
    )
    return page(
        "make bench",
        f"<p class='about'>{escape(versions)}</p>{warning}<table><tr><th>row</th><th>value</th>"
        f"<th>unit</th><th>goal</th><th></th><th class='text'>how</th></tr>{cells}</table>"
        + latency_plot("Latency by percentile", run.curves)
        + plots,
    )


def _row(each: Row) -> str:
    value = "-" if each.value is None else f"{each.value:,g}"
    meets = {
        True: '<span class="good">meets</span>',
        False: '<span class="bad">misses</span>',
        None: "",
    }[each.meets]
    return (
        f"<tr><td>{escape(each.name)}</td><td>{value}</td>"
        f"<td>{escape(each.unit.split(' ')[0])}</td>"
        f'<td>{escape(each.goal)}</td><td>{meets}</td><td class="text">{escape(each.how)}</td></tr>'
    )
