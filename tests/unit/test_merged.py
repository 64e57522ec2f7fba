"""One page for several processes: sums that never fall, gauges that mean something."""

from __future__ import annotations

import json
import math

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from promise_svc.telemetry import MergedMetrics, Metrics, page_of, parse_page
from promise_svc.telemetry.merged import GREATEST, SUMMED


class Process:
    """A registry with one of each kind."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.calls = Counter("calls", "Calls", ["method"], registry=self.registry)
        self.seconds = Histogram("seconds", "Time", buckets=(1, 2), registry=self.registry)
        self.age = Gauge("promise_table_age_seconds", "Age", registry=self.registry)
        self.in_flight = Gauge("promise_calls_in_flight", "Now", registry=self.registry)

    def tell(self, merged: MergedMetrics) -> None:
        merged.update(self, parse_page(json.loads(json.dumps(page_of(self.registry)))))


def a_page(*processes: Process) -> tuple[MergedMetrics, CollectorRegistry]:
    merged, registry = MergedMetrics(), CollectorRegistry()
    registry.register(merged)
    for process in processes:
        process.tell(merged)
    return merged, registry


def test_counters_and_histograms_add_up_by_label() -> None:
    """Also where only one process knows a label."""
    one, two = Process(), Process()
    one.calls.labels("a").inc(2)
    two.calls.labels("a").inc(3)
    two.calls.labels("b").inc(5)
    one.seconds.observe(0.5)
    two.seconds.observe(1.5)

    _, page = a_page(one, two)

    assert page.get_sample_value("calls_total", {"method": "a"}) == 5
    assert page.get_sample_value("calls_total", {"method": "b"}) == 5
    assert page.get_sample_value("seconds_bucket", {"le": "1.0"}) == 1
    assert page.get_sample_value("seconds_bucket", {"le": "+Inf"}) == 2
    assert page.get_sample_value("seconds_sum") == 2.0


def test_an_age_is_the_oldest_and_what_is_in_flight_a_sum() -> None:
    """A table that was never followed is infinitely old, also after a journey as JSON."""
    one, two = Process(), Process()
    one.age.set(math.inf)
    two.age.set(3)
    one.in_flight.set(2)
    two.in_flight.set(3)

    _, page = a_page(one, two)

    assert page.get_sample_value("promise_table_age_seconds") == math.inf
    assert page.get_sample_value("promise_calls_in_flight") == 5


def test_what_an_ended_process_counted_stays_and_its_gauges_go() -> None:
    """So no counter falls, and no dead worker's calls are in flight for ever."""
    one, two = Process(), Process()
    for process in (one, two):
        process.calls.labels("a").inc(4)
        process.in_flight.set(1)
        process.age.set(1 if process is two else 100)
    merged, page = a_page(one, two)

    merged.ended(one)
    two.calls.labels("a").inc()
    two.tell(merged)

    assert page.get_sample_value("calls_total", {"method": "a"}) == 9
    assert page.get_sample_value("promise_calls_in_flight") == 1
    assert page.get_sample_value("promise_table_age_seconds") == 1


def test_a_process_that_does_not_answer_shows_what_it_counted_and_nothing_of_now() -> None:
    """Its last lag of 0 would say that all is well; when it answers again, all is shown again."""
    one, two = Process(), Process()
    for process in (one, two):
        process.calls.labels("a").inc(4)
        process.in_flight.set(1)
    merged, page = a_page(one, two)

    merged.silent(one)
    counted = page.get_sample_value("calls_total", {"method": "a"})
    in_flight = page.get_sample_value("promise_calls_in_flight")
    one.tell(merged)

    assert (counted, in_flight) == (8, 1)
    assert page.get_sample_value("promise_calls_in_flight") == 2


def test_every_gauge_of_the_service_says_how_it_is_merged() -> None:
    """A new gauge is put into one of the two sets, by a decision and not by default."""
    gauges = {metric.name for metric in Metrics().registry.collect() if metric.type == "gauge"}

    assert gauges == SUMMED | GREATEST
    assert not SUMMED & GREATEST
