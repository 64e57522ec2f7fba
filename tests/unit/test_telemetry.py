"""Metrics, logs and trace ids as an operator meets them."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import math
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

from promise_svc.bootstrap.observers import TakeoverLog
from promise_svc.domain.sharding import Position
from promise_svc.errors import Fork, NotFound
from promise_svc.rpc.observer import CallRecorder
from promise_svc.telemetry import (
    EventLog,
    Metrics,
    MetricsEndpoint,
    RelayLag,
    SupervisorMetrics,
    TraceParent,
    configure_logs,
    current_trace_id,
    format_traceparent,
    new_trace_id,
    parse_traceparent,
)
from promise_svc.telemetry.trace import trace_id_of

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"


@pytest.fixture
def log_lines() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    configure_logs("INFO", stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


@pytest.fixture
async def endpoint() -> AsyncIterator[tuple[Metrics, int]]:
    metrics = Metrics()
    endpoint = MetricsEndpoint(metrics.registry)
    yield metrics, await endpoint.start()
    await endpoint.close()


async def get(port: int, request: str) -> tuple[str, str]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{request}\r\nHost: x\r\n\r\n".encode())
    answer = (await asyncio.wait_for(reader.read(), 30)).decode()
    writer.close()
    await writer.wait_closed()
    head, _, body = answer.partition("\r\n\r\n")
    return head, body


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


async def test_the_endpoint_shows_calls_with_outcome_and_latency(
    endpoint: tuple[Metrics, int],
) -> None:
    """A call is counted once, timed, and no longer in flight."""
    metrics, port = endpoint
    metrics.calls.started("ConfirmReservation")
    metrics.calls.finished("ConfirmReservation", "OK", "", 0.0004)

    head, body = await get(port, "GET /metrics HTTP/1.1")

    assert head.startswith("HTTP/1.1 200 OK")
    labels = 'method="ConfirmReservation",outcome="OK",reason=""'
    assert f"promise_calls_total{{{labels}}} 1.0\n" in body
    assert 'promise_call_seconds_bucket{le="0.0005",method="ConfirmReservation"} 1.0\n' in body
    assert 'promise_call_seconds_bucket{le="0.00025",method="ConfirmReservation"} 0.0\n' in body
    assert 'promise_calls_in_flight{method="ConfirmReservation"} 0.0\n' in body


async def test_the_endpoint_answers_nothing_but_metrics(endpoint: tuple[Metrics, int]) -> None:
    """Other paths and methods are refused; nonsense closes the connection without an answer."""
    _, port = endpoint

    assert (await get(port, "GET / HTTP/1.1"))[0].startswith("HTTP/1.1 404")
    assert (await get(port, "POST /metrics HTTP/1.1"))[0].startswith("HTTP/1.1 405")
    assert await get(port, "GET /" + "x" * 20_000) == ("", "")


async def test_the_endpoint_listens_on_loopback_and_closes_twice() -> None:
    """Metrics are not for the street unless the operator says so."""
    endpoint = MetricsEndpoint(Metrics().registry)
    port = await endpoint.start()
    assert endpoint._server is not None
    assert endpoint._server.sockets[0].getsockname() == ("127.0.0.1", port)
    await endpoint.close()
    await endpoint.close()

    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


def test_every_observer_counts_what_it_is_told() -> None:
    """One sample for each thing an operator was promised."""
    metrics = Metrics()
    metrics.describe("0.1.0", compiled=True)
    metrics.calls.clamped("M")
    metrics.calls.shed("M", "reserve", "TURN")
    metrics.calls.watch(lambda: 3, lambda: {"PINGS": 2})
    metrics.relay.carried(3, 12, 99)
    metrics.relay.fenced(3)
    metrics.feed.loaded(0, "index")
    metrics.feed.gap(0)
    metrics.feed.failed(0, "UNAVAILABLE")
    metrics.feed.dropped(0, 5)
    metrics.index.resolved("ABORTED")
    metrics.index.expired(4)
    metrics.index.taken_over(1)
    metrics.index.compared(2)
    metrics.loop("relay").failed(1, "UNAVAILABLE")

    assert value(metrics, "promise_build_info", version="0.1.0", compiled="true") == 1
    assert value(metrics, "promise_deadlines_clamped_total", method="M") == 1
    assert (
        value(metrics, "promise_calls_shed_total", method="M", priority="reserve", limit="TURN")
        == 1
    )
    assert value(metrics, "promise_calls_waiting") == 3
    assert value(metrics, "promise_front_limit_hits_total", limit="PINGS") == 2
    assert value(metrics, "promise_relay_events_total") == 12
    assert value(metrics, "promise_relay_fenced_total") == 1
    assert value(metrics, "promise_table_loads_total", source="index") == 1
    assert value(metrics, "promise_feed_gaps_total") == 1
    assert value(metrics, "promise_feed_failures_total", reason="UNAVAILABLE") == 1
    assert value(metrics, "promise_feed_dropped_total") == 5
    assert value(metrics, "promise_open_claims_resolved_total", state="ABORTED") == 1
    assert value(metrics, "promise_holds_expired_total") == 4
    assert value(metrics, "promise_takeovers_total") == 1
    assert value(metrics, "promise_drift_positions") == 2
    failures = value(metrics, "promise_loop_failures_total", loop="relay", reason="UNAVAILABLE")
    assert failures == 1


def test_an_alarm_is_counted_by_reason_and_logged(log_lines: io.StringIO) -> None:
    """A fork is never silent."""
    metrics = Metrics()
    metrics.relay.alarmed(7, Fork("two bodies"))

    line = json.loads(log_lines.getvalue())
    assert value(metrics, "promise_alarms_total", reason="FORK") == 1
    assert (line["level"], line["shard"], line["reason"]) == ("error", 7, "FORK")


def test_the_age_of_the_table_is_that_of_its_stalest_shard() -> None:
    """Never followed is infinitely old, not fresh."""
    metrics = Metrics()
    oldest = 0
    metrics.feed.watch(
        oldest_time_ms=lambda: oldest,
        now_ms=lambda: 5_000,
        counts=lambda: (1, 2, 3),
        catching_up_count=lambda: 4,
    )

    assert value(metrics, "promise_table_age_seconds") == math.inf
    oldest = 3_500
    assert value(metrics, "promise_table_age_seconds") == 1.5
    oldest = 9_000
    assert value(metrics, "promise_table_age_seconds") == 0
    for name, expected in (("skus", 1), ("positions", 2), ("bytes", 3)):
        assert value(metrics, f"promise_table_{name}") == expected
    assert value(metrics, "promise_feed_catching_up_shards") == 4


def test_relay_lag_is_summed_in_events_and_the_worst_in_seconds() -> None:
    """Two shards behind: their events add up, the older one's age counts."""
    lag = RelayLag(3)
    lag.heard(0, (1, 10), (1, 10), 1_000)
    lag.heard(1, (1, 14), (1, 10), 2_000)
    lag.heard(1, (1, 15), (1, 10), 6_000)
    lag.heard(2, (2, 3), (1, 50), 4_000)
    metrics = Metrics()
    metrics.relay.watch(lag.event_count, lambda: lag.seconds(8_000))

    assert value(metrics, "promise_relay_lag_events") == 5 + 3
    assert value(metrics, "promise_relay_lag_seconds") == 6.0
    lag.heard(1, (1, 15), (1, 14), 7_000)
    lag.heard(2, (2, 3), (2, 3), 7_000)
    assert lag.event_count() == 1
    assert lag.seconds(8_000) == 2.0
    lag.heard(1, (1, 15), (1, 15), 7_500)
    assert (lag.event_count(), lag.seconds(8_000)) == (0, 0.0)


def test_a_log_line_is_json_with_trace_id_and_fields(log_lines: io.StringIO) -> None:
    """Time is UTC with milliseconds; the trace id is the present call's."""
    token = current_trace_id.set(TRACE)
    EventLog("test").warning("order store away", shard=3, seconds=0.25)
    current_trace_id.reset(token)
    EventLog("test").info("started")

    first, second = map(json.loads, log_lines.getvalue().splitlines())
    assert first.pop("time").endswith("+00:00")
    assert first == {
        "level": "warning",
        "event": "order store away",
        "logger": "test",
        "trace_id": TRACE,
        "shard": 3,
        "seconds": 0.25,
    }
    assert "trace_id" not in second


def test_a_log_line_hides_credentials_in_urls(log_lines: io.StringIO) -> None:
    """The password of an engine's URL is nowhere in the log, whichever way it came."""
    EventLog("test").info("connected", url="postgresql://svc:s3cret@db:5432/x")
    logging.getLogger("library").warning("cannot reach %s", "redis://:s3cret@cache:6379")
    try:
        raise OSError("postgresql://svc:s3cret@db refused")
    except OSError as error:
        EventLog("test").error("gave up", error)

    assert "s3cret" not in log_lines.getvalue()
    assert "postgresql://***@db:5432/x" in log_lines.getvalue()
    assert "Traceback" in json.loads(log_lines.getvalue().splitlines()[2])["traceback"]


def test_a_strange_field_does_not_break_the_line(log_lines: io.StringIO) -> None:
    """Logging never raises into the work it describes."""
    EventLog("test").info("odd %s", reason=object(), error="line\nbreak")  # type: ignore[arg-type]

    (line,) = map(json.loads, log_lines.getvalue().splitlines())
    assert line["event"] == "odd %s"
    assert line["error"] == "line\nbreak"


def test_a_library_that_repeats_itself_is_heard_once_and_without_a_traceback(
    log_lines: io.StringIO,
) -> None:
    """PostgreSQL's driver tries each second while its server is away, and says so each time."""
    driver = logging.getLogger("asyncpg.pool")
    for _ in range(3):
        try:
            raise ConnectionRefusedError("nobody at db:5432")
        except ConnectionRefusedError:
            driver.warning("Failed to restore the pool", exc_info=True)
    driver.warning("something else")

    first, other = map(json.loads, log_lines.getvalue().splitlines())
    assert first["error"] == "ConnectionRefusedError: nobody at db:5432"
    assert "traceback" not in first
    assert other["event"] == "something else"


async def test_a_start_that_fills_a_lost_index_says_how_much_came_from_where(
    log_lines: io.StringIO,
) -> None:
    """One line of those that had lost something, after that of all that were taken over."""
    crowd = TakeoverLog()
    crowd.taken_over(0, Position(1, 0), 0)
    crowd.taken_over(3, Position(2, 0), 40)
    crowd.taken_over(5, Position(2, 0), 2)
    crowd.tell()

    taken_over, filled = map(json.loads, log_lines.getvalue().splitlines())
    assert taken_over["epochs"] == "0:1 3:2 5:2"
    assert filled["level"] == "warning"
    assert "filled from the order store" in filled["event"]
    assert (filled["shard_count"], filled["event_count"]) == (2, 42)
    assert filled["shards"] == "3:40 5:2"


def test_an_unknown_log_level_is_refused() -> None:
    """A typing mistake in the configuration stops the start."""
    with pytest.raises(ValueError, match="LOUD"):
        configure_logs("LOUD")


def test_a_call_error_is_logged_by_whose_fault_it_is(log_lines: io.StringIO) -> None:
    """Our faults are errors with a traceback; a caller's mistakes are no log noise."""
    recorder = CallRecorder(Metrics().calls, EventLog("promise_svc"))
    recorder.failed("M", "NOT_FOUND", "NOT_FOUND", TRACE, NotFound("node", "theirs"))
    recorder.failed("M", "INTERNAL", "INTERNAL", TRACE, KeyError("ours"))

    (line,) = map(json.loads, log_lines.getvalue().splitlines())
    assert (line["code"], line["trace_id"]) == ("INTERNAL", TRACE)
    assert "KeyError" in line["traceback"]


@pytest.mark.parametrize(
    ("header", "sampled"),
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"00-{TRACE}-{SPAN}-03", True),
        (f" 00-{TRACE}-{SPAN}-01 ", True),
        (f"cc-{TRACE}-{SPAN}-01-what-comes-later", True),
    ],
)
def test_a_valid_traceparent_is_read(header: str, sampled: bool) -> None:
    """W3C Trace Context, later versions by their first four parts."""
    assert parse_traceparent(header) == TraceParent(TRACE, SPAN, sampled)


@pytest.mark.parametrize(
    "header",
    [
        "",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f"cc-{TRACE}-{SPAN}-01x",
    ],
)
def test_an_invalid_traceparent_is_ignored(header: str) -> None:
    """A broken header starts a new trace; it never fails the call."""
    assert parse_traceparent(header) is None


def test_a_traceparent_is_written_as_it_is_read() -> None:
    """Round trip, and a new trace id is a valid one."""
    parent = TraceParent(new_trace_id(), SPAN, sampled=True)

    assert parse_traceparent(format_traceparent(parent)) == parent


@pytest.mark.parametrize(
    "value",
    [
        f"00-{TRACE}-00f067aa0ba902b7-01",
        f"00-{TRACE}-00f067aa0ba902b7-00",
        f"42-{TRACE}-00f067aa0ba902b7-01-more",
    ],
)
def test_a_traceparent_gives_the_trace_id(value: str) -> None:
    """Also of a later version of the header."""
    assert trace_id_of(value) == TRACE


@pytest.mark.parametrize(
    "value",
    [
        "",
        "x",
        TRACE,
        f"ff-{TRACE}-00f067aa0ba902b7-01",
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-{TRACE.upper()}-00f067aa0ba902b7-01",
        f"00-{TRACE}-00f067aa0ba902b7",
        f"00-{TRACE}\n-00f067aa0ba902b7-01",
        b"\xff",
    ],
)
def test_a_wrong_traceparent_is_replaced(value: str | bytes) -> None:
    """By a new trace id, never by part of the text."""
    found = trace_id_of(value)

    assert found != TRACE
    assert len(found) == 32
    assert int(found, 16) > 0


def test_what_a_loop_meets_is_said_in_words_once_a_minute(
    log_lines: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixty-four shards fail together and again: each is counted, one line says why; another reason
    has a line of its own, and after a minute it is said again."""
    now = 1_000.0
    monkeypatch.setattr("promise_svc.telemetry.metrics.monotonic", lambda: now)
    metrics = Metrics()
    loop = metrics.loop("relay")
    for shard in range(64):
        loop.failed(shard, "UNAVAILABLE", "the disk is full")
    loop.failed(0, "DEADLINE_EXCEEDED", "slow")
    now += 61
    loop.failed(1, "UNAVAILABLE", "the disk is full")

    lines = [json.loads(line) for line in log_lines.getvalue().splitlines()]
    assert [(line["reason"], line["error"]) for line in lines] == [
        ("UNAVAILABLE", "the disk is full"),
        ("DEADLINE_EXCEEDED", "slow"),
        ("UNAVAILABLE", "the disk is full"),
    ]
    failures = value(metrics, "promise_loop_failures_total", loop="relay", reason="UNAVAILABLE")
    assert failures == 65


def test_the_runbook_names_metrics_that_there_are() -> None:
    """Nobody should look at night for one that was renamed."""
    families = [*Metrics().registry.collect(), *_supervised()]
    known = {name for family in families for name in _names(family)}
    page = Path("promise_svc/telemetry/README.md").read_text()
    named = set(re.findall(r"`(promise_[a-z_]+)`", page))

    assert len(named) > 15
    assert named <= known


def _supervised() -> list[Metric]:
    registry = CollectorRegistry()
    SupervisorMetrics(registry)
    return list(registry.collect())


def _names(family: Metric) -> set[str]:
    return {family.name, f"{family.name}_total"} if family.type == "counter" else {family.name}
