"""Every metric of the service, by name, and the observers that feed them.

Labels come from closed sets (methods, codes, reasons, loops): no SKU, shard or caller is a label.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from functools import partial
from time import monotonic

from prometheus_client import CollectorRegistry, Counter, Gauge

from promise_svc.telemetry.call_metrics import CallMetrics
from promise_svc.telemetry.logs import EventLog, LogFields

TELL_SECONDS = 60.0
"""A loop's failures of one reason are logged so often: sixty-four shards fail together."""


class Metrics:
    """One registry a process, with one observer for each part that tells it something."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self.calls = CallMetrics(self.registry)
        self.relay = RelayMetrics(self.registry)
        self.feed = FeedMetrics(self.registry)
        self.index = IndexMetrics(self.registry)
        self.supply = SupplyMetrics(self.registry)
        self._loop_failures = Counter(
            "promise_loop_failures_total",
            "Tries of a background loop that failed and will be repeated",
            ["loop", "reason"],
            registry=self.registry,
        )
        self._loop_stops = Counter(
            "promise_loop_stopped_shards_total",
            "Times a background loop met what cannot be and left a shard alone: the relay until "
            "somebody looks, the others for a minute",
            ["loop", "reason"],
            registry=self.registry,
        )
        self._network_age = Gauge(
            "promise_network_age_seconds",
            "Age of the network as last compared with the order store; seconds while that is well",
            registry=self.registry,
        )
        self._build = Gauge(
            "promise_build_info",
            "1; compiled is false where the slow specifications run",
            ["version", "compiled"],
            registry=self.registry,
        )

        self._refused = Gauge(
            "promise_file_refused",
            "1 while a file that is followed cannot be used and what was read before stands",
            ["file"],
            registry=self.registry,
        )

    def file(self, name: str) -> Callable[[bool], None]:
        """Takes whether a file that is followed was refused when it was last read."""
        return self._refused.labels(name).set

    def loop(self, name: str) -> LoopMetrics:
        """The observer of one background loop."""
        return LoopMetrics(name, self._loop_failures, self._loop_stops)

    def watch_network(self, age_seconds: Callable[[], float]) -> None:
        """Ask this whenever somebody scrapes."""
        self._network_age.set_function(age_seconds)

    def describe(self, version: str, compiled: bool) -> None:
        """Say what runs."""
        self._build.labels(version, str(compiled).lower()).set(1)


class RelayMetrics:
    """Outbox to order store."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._log = EventLog("promise_svc.relay")
        self._carried = Counter(
            "promise_relay_events_total", "Events written to the order store", registry=registry
        )
        self._fenced = Counter(
            "promise_relay_fenced_total", "Appends another relay had done first", registry=registry
        )
        self._alarms = Counter(
            "promise_alarms_total",
            "Forks and gaps in a shard's history: somebody must look",
            ["reason"],
            registry=registry,
        )
        self._lag_events = Gauge(
            "promise_relay_lag_events", "Events of all shards not durable yet", registry=registry
        )
        self._lag_seconds = Gauge(
            "promise_relay_lag_seconds",
            "Age of the oldest event of any shard that is not durable yet",
            registry=registry,
        )

    def carried(self, shard: int, event_count: int, newest_ms: int) -> None:
        self._carried.inc(event_count)

    def fenced(self, shard: int) -> None:
        self._fenced.inc()

    def alarmed(self, shard: int, error: Exception) -> None:
        reason = getattr(error, "reason", "INTERNAL")
        self._alarms.labels(reason).inc()
        self._log.error("shard history broken", error, shard=shard, reason=reason)

    def watch(self, event_count: Callable[[], float], seconds: Callable[[], float]) -> None:
        """Ask these whenever somebody scrapes."""
        self._lag_events.set_function(event_count)
        self._lag_seconds.set_function(seconds)


class FeedMetrics:
    """The ATS table and its feed."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._loads = Counter(
            "promise_table_loads_total",
            "Shards loaded into the ATS table",
            ["source"],
            registry=registry,
        )
        self._gaps = Counter(
            "promise_feed_gaps_total", "Messages found missing and asked for", registry=registry
        )
        self._failures = Counter(
            "promise_feed_failures_total",
            "Tries to catch up with a shard that failed",
            ["reason"],
            registry=registry,
        )
        self._dropped = Counter(
            "promise_feed_dropped_total", "Messages given up; reads made up", registry=registry
        )
        self._age = Gauge(
            "promise_table_age_seconds",
            "Age of the ATS table's stalest shard; +Inf while one was never followed",
            registry=registry,
        )
        self._counts = {
            name: Gauge(f"promise_table_{name}", f"ATS table: {name}", registry=registry)
            for name in ("skus", "positions", "bytes")
        }
        self._catching_up = Gauge(
            "promise_feed_catching_up_shards", "Shards not level at the moment", registry=registry
        )

    def loaded(self, shard: int, source: str) -> None:
        self._loads.labels(source).inc()

    def gap(self, shard: int) -> None:
        self._gaps.inc()

    def failed(self, shard: int, reason: str) -> None:
        self._failures.labels(reason).inc()

    def dropped(self, shard: int, news_count: int) -> None:
        self._dropped.inc(news_count)

    def watch(
        self,
        *,
        oldest_time_ms: Callable[[], int],
        now_ms: Callable[[], int],
        counts: Callable[[], tuple[int, int, int]],
        catching_up_count: Callable[[], int],
    ) -> None:
        """Ask these whenever somebody scrapes; ``counts`` are SKUs, positions, bytes."""

        def age() -> float:
            oldest = oldest_time_ms()
            return max(0, now_ms() - oldest) / 1000 if oldest else float("inf")

        self._age.set_function(age)
        self._catching_up.set_function(catching_up_count)

        def count(index: int) -> float:
            return counts()[index]

        for index, gauge in enumerate(self._counts.values()):
            gauge.set_function(partial(count, index))


class IndexMetrics:
    """What the loops found and did in the index."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._resolved = Counter(
            "promise_open_claims_resolved_total",
            "Claims finished or aborted by the resolver, by the state they were found in",
            ["state"],
            registry=registry,
        )
        self._expired = Counter(
            "promise_holds_expired_total", "Holds swept after their time", registry=registry
        )
        self._takeovers = Counter(
            "promise_takeovers_total", "Shards taken over under a new epoch", registry=registry
        )
        self._drift = Gauge(
            "promise_drift_positions",
            "Positions in which index and order store disagreed at the last comparison",
            registry=registry,
        )
        self._log = EventLog("promise_svc.index")
        self._refused = Counter(
            "promise_index_calls_refused_total",
            "Calls not sent to an index node: it is AWAY or STALLED, or its QUEUE_FULL",
            ["why"],
            registry=registry,
        )
        self._lost_nodes = Gauge(
            "promise_index_nodes_lost",
            "Index nodes to which nothing is sent at the moment: away or stalled",
            registry=registry,
        )

    def resolved(self, state: str, claim_count: int = 1) -> None:
        """``state`` is the claim's state before, by name."""
        self._resolved.labels(state).inc(claim_count)

    def expired(self, hold_count: int) -> None:
        self._expired.inc(hold_count)

    def taken_over(self, shard: int) -> None:
        self._takeovers.inc()

    def compared(self, drift_count: int) -> None:
        self._drift.set(drift_count)

    def refused(self, why: str) -> None:
        self._refused.labels(why).inc()

    def lost(self, node: str, why: str) -> None:
        self._log.warning("index node lost", address=node, reason=why)

    def found(self, node: str) -> None:
        self._log.info("index node is back", address=node)

    def watch(self, lost_node_count: Callable[[], float]) -> None:
        """Ask this whenever somebody scrapes."""
        self._lost_nodes.set_function(lost_node_count)


class SupplyMetrics:
    """Stock as feeds report it."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._sold = Counter(
            "promise_sale_lines_total", "Lines of sales made elsewhere", registry=registry
        )
        self._short = Counter(
            "promise_sale_lines_short_total",
            "Lines of sales made elsewhere after which demand exceeds what is on hand",
            registry=registry,
        )

        self._rows = Counter(
            "promise_supply_rows_total",
            "Rows of counts, changes, sales and shares, by what became of them",
            ["outcome"],
            registry=registry,
        )

    def answered(self, outcome: IntEnum, row_count: int) -> None:
        self._rows.labels(outcome.name).inc(row_count)

    def sold_elsewhere(self, line_count: int, short_count: int) -> None:
        self._sold.inc(line_count)
        self._short.inc(short_count)


class LoopMetrics:
    """One background loop."""

    def __init__(self, name: str, failures: Counter, stops: Counter) -> None:
        self._log = EventLog(f"promise_svc.{name}")
        self._name = name
        self._failures = failures
        self._stops = stops
        self._told: dict[str, float] = {}

    def failed(self, shard: int, reason: str, error: str = "") -> None:
        """Something is away: counted each time, said once a minute."""
        self._failures.labels(self._name, reason).inc()
        now = monotonic()
        if now - self._told.get(reason, -TELL_SECONDS) >= TELL_SECONDS:
            self._told[reason] = now
            self._log.warning(
                "a background loop fails and tries again",
                shard=shard, loop=self._name, reason=reason, error=error,
            )  # fmt: skip

    def faulted(self, shard: int, error: Exception, reservation_id: str | None = None) -> None:
        """A bug: counted as INTERNAL and logged with its traceback."""
        self._failures.labels(self._name, "INTERNAL").inc()
        fields: LogFields = {"shard": shard, "loop": self._name, "reason": "INTERNAL"}
        if reservation_id:
            fields["reservation_id"] = reservation_id
        self._log.error("a background loop failed", error, **fields)

    def stopped(
        self, shard: int, reason: str, error: str = "", reservation_id: str | None = None
    ) -> None:
        """Something that cannot be was seen; ``error`` says what, with ``reservation_id`` in that
        reservation only."""
        self._stops.labels(self._name, reason).inc()
        fields: LogFields = {"shard": shard, "loop": self._name, "reason": reason, "error": error}
        if reservation_id:
            fields["reservation_id"] = reservation_id
        self._log.error(
            "reservation left alone" if reservation_id else "shard left alone", **fields
        )


class SupervisorMetrics:
    """The processes of a supervised service."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._ready = Gauge(
            "promise_processes_ready",
            "Processes that do their work at the moment, by role",
            ["role"],
            registry=registry,
        )
        self._died = Counter(
            "promise_processes_died_total",
            "Processes that ended unasked and are replaced, by role",
            ["role"],
            registry=registry,
        )

    def watch(self, role: str, ready_count: Callable[[], float]) -> None:
        """Ask this whenever somebody scrapes."""
        self._ready.labels(role).set_function(ready_count)
        self._died.labels(role)

    def died(self, role: str) -> None:
        self._died.labels(role).inc()
