"""The metrics of several processes as one page: what a supervisor shows for all its children.

Counters and histograms are added up, and what a process counted stays when it has ended, so no sum
falls. A gauge goes with its process; whether those of the living are added up or the greatest of
them tells, ``SUMMED`` says. The processes are asked over their links: files that they share, as
prometheus_client has them, know no gauge that is worked out at the scrape, such as an age.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

SUMMED = frozenset({"promise_calls_in_flight", "promise_calls_waiting", "promise_table_bytes"})
GREATEST = frozenset(
    {
        "promise_build_info",
        "promise_file_refused",
        "promise_drift_positions",
        "promise_feed_catching_up_shards",
        "promise_index_nodes_lost",
        "promise_network_age_seconds",
        "promise_relay_lag_events",
        "promise_relay_lag_seconds",
        "promise_table_age_seconds",
        "promise_table_positions",
        "promise_table_skus",
    }
)
"""Gauges of which the worst process tells, or of which all say the same."""


class Sample(NamedTuple):
    name: str
    labels: dict[str, str]
    value: float


class Family(NamedTuple):
    """One metric of one process; primitives only, for it travels as JSON."""

    name: str
    kind: str
    documentation: str
    samples: list[Sample]


Page = list[Family]


def page_of(registry: CollectorRegistry) -> Page:
    """Everything a registry has now. Times of creation are left out: they add up to nothing."""
    return [
        Family(
            metric.name,
            metric.type,
            metric.documentation,
            [
                Sample(s.name, dict(s.labels), s.value)
                for s in metric.samples
                if not s.name.endswith("_created")
            ],
        )
        for metric in registry.collect()
    ]


def parse_page(page: list[list[object]]) -> Page:
    """A page that came as JSON."""
    return [
        Family(str(name), str(kind), str(documentation), [Sample(*sample) for sample in samples])  # type: ignore[attr-defined]
        for name, kind, documentation, samples in page
    ]


class MergedMetrics(Collector):
    """Register it in a registry; tell it each process's page, and when a process has ended."""

    def __init__(self) -> None:
        self._pages: dict[Hashable, Page] = {}
        self._ended: Page = []

    def update(self, process: Hashable, page: Page) -> None:
        """``page`` is what ``process`` counts now."""
        self._pages[process] = page

    def silent(self, process: Hashable) -> None:
        """It does not tell its page: forget its gauges, which may be true no longer."""
        self._pages[process] = _counted(self._pages.get(process, []))

    def ended(self, process: Hashable) -> None:
        """Keep what it counted by its last page, and forget its gauges."""
        self._ended = _merge([self._ended, _counted(self._pages.pop(process, []))])

    def collect(self) -> Iterable[Metric]:
        for family in _merge([self._ended, *self._pages.values()]):
            metric = Metric(family.name, family.documentation, family.kind)
            for sample in family.samples:
                metric.add_sample(sample.name, sample.labels, sample.value)
            yield metric


def _counted(page: Page) -> Page:
    return [family for family in page if family.kind != "gauge"]


def _merge(pages: Iterable[Page]) -> Page:
    families: dict[str, Family] = {}
    values: dict[str, dict[tuple[object, ...], Sample]] = {}
    for family in (family for page in pages for family in page):
        families.setdefault(family.name, family)
        merged = values.setdefault(family.name, {})
        greatest = family.kind == "gauge" and family.name not in SUMMED
        for sample in family.samples:
            key = (sample.name, *sorted(sample.labels.items()))
            before = merged.get(key)
            if before is None:
                merged[key] = sample
            else:
                value = sample.value
                value = max(before.value, value) if greatest else before.value + value
                merged[key] = sample._replace(value=value)
    return [f._replace(samples=list(values[name].values())) for name, f in families.items()]
