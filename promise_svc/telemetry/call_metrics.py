"""Calls at the front door, counted in plain numbers and told when somebody scrapes.

A counter of the library costs a microsecond and two locks each time it rises, as much as a look-up.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

LATENCY_BUCKETS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10,
)  # fmt: skip
"""Seconds: from a table read to the longest deadline."""


class _Tally:
    """What is counted of one method."""

    __slots__ = ("buckets", "clamped", "in_flight", "ok", "others", "seconds", "shed")

    def __init__(self) -> None:
        self.in_flight = 0
        self.ok = 0
        self.others: Counter[tuple[str, str]] = Counter()
        """By code and reason."""
        self.seconds = 0.0
        self.buckets = [0] * (len(LATENCY_BUCKETS) + 1)
        """Calls of each span, the last beyond them all."""
        self.clamped = 0
        self.shed: Counter[tuple[str, str]] = Counter()
        """By priority and limit."""


class _Tallies(dict[str, _Tally]):
    def __missing__(self, method: str) -> _Tally:
        self[method] = tally = _Tally()
        return tally


class CallMetrics(Collector):
    """Counts calls by method; one event loop."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._tallies = _Tallies()
        self._waiting_count: Callable[[], int] = lambda: 0
        self._limit_hits: Callable[[], Mapping[str, int]] = dict
        registry.register(self)

    def watch(
        self, waiting_count: Callable[[], int], limit_hits: Callable[[], Mapping[str, int]]
    ) -> None:
        """Ask these whenever somebody scrapes."""
        self._waiting_count = waiting_count
        self._limit_hits = limit_hits

    def answered(self, method: str, seconds: float) -> None:
        """A call began and ended at once, with OK."""
        tally = self._tallies[method]
        tally.ok += 1
        tally.seconds += seconds
        tally.buckets[bisect_left(LATENCY_BUCKETS, seconds)] += 1

    def started(self, method: str) -> None:
        self._tallies[method].in_flight += 1

    def finished(self, method: str, code: str, reason: str, seconds: float) -> None:
        tally = self._tallies[method]
        tally.in_flight -= 1
        tally.seconds += seconds
        tally.buckets[bisect_left(LATENCY_BUCKETS, seconds)] += 1
        if code == "OK":
            tally.ok += 1
        else:
            tally.others[code, reason] += 1

    def clamped(self, method: str) -> None:
        self._tallies[method].clamped += 1

    def shed(self, method: str, priority: str, limit: str) -> None:
        self._tallies[method].shed[priority, limit] += 1

    def collect(self) -> Iterator[Metric]:
        """All of it, for a scrape."""
        calls = CounterMetricFamily(
            "promise_calls",
            "Calls ended, by method and outcome (gRPC code)",
            labels=["method", "outcome", "reason"],
        )
        took = HistogramMetricFamily(
            "promise_call_seconds", "Time from the call's arrival to its reply", labels=["method"]
        )
        in_flight = GaugeMetricFamily(
            "promise_calls_in_flight", "Calls being worked on", labels=["method"]
        )
        clamped = CounterMetricFamily(
            "promise_deadlines_clamped",
            "Calls without a deadline, or with one beyond the server's maximum",
            labels=["method"],
        )
        shed = CounterMetricFamily(
            "promise_calls_shed",
            "Calls refused early by admission: too many in flight, or waiting for a turn",
            labels=["method", "priority", "limit"],
        )
        for method, tally in self._tallies.items():
            if tally.ok:
                calls.add_metric([method, "OK", ""], tally.ok)
            for (code, reason), count in tally.others.items():
                calls.add_metric([method, code, reason], count)
            took.add_metric([method], _cumulated(tally.buckets), tally.seconds)
            in_flight.add_metric([method], tally.in_flight)
            if tally.clamped:
                clamped.add_metric([method], tally.clamped)
            for (priority, limit), count in tally.shed.items():
                shed.add_metric([method, priority, limit], count)
        waiting = GaugeMetricFamily(
            "promise_calls_waiting", "Calls that wait for a turn of the event loop"
        )
        waiting.add_metric([], self._waiting_count())
        hits = CounterMetricFamily(
            "promise_front_limit_hits",
            "Calls refused and connections cut off by a limit of the front",
            labels=["limit"],
        )
        for limit, count in self._limit_hits().items():
            hits.add_metric([limit], count)
        yield from (calls, took, in_flight, clamped, shed, waiting, hits)


def _cumulated(buckets: list[int]) -> list[tuple[str, float]]:
    bounds = [*map(str, map(float, LATENCY_BUCKETS)), "+Inf"]
    found: list[tuple[str, float]] = []
    total = 0
    for bound, count in zip(bounds, buckets, strict=True):
        total += count
        found.append((bound, total))
    return found
