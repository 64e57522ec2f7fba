"""What a client process saw: histograms, outcomes, and the log of what was acknowledged to it."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import IO, Any

SUB_BUCKETS = 128
"""Buckets an octave: a value is told within 0.8 %."""
LINEAR_MAX = 2 * SUB_BUCKETS
SYNC_SECONDS = 0.02


class Histogram:
    """Microseconds in logarithmic buckets, exact below 256; the twin of the one in unary.c."""

    def __init__(self) -> None:
        self.buckets: Counter[int] = Counter()
        self.count = 0
        self.max_us = 0

    def observe(self, seconds: float) -> None:
        """Record one value; negative ones count as 0."""
        microseconds = max(0, int(seconds * 1e6))
        self.buckets[bucket_of(microseconds)] += 1
        self.count += 1
        self.max_us = max(self.max_us, microseconds)

    def merge(self, other: Histogram) -> None:
        """Add what another one saw."""
        self.buckets.update(other.buckets)
        self.count += other.count
        self.max_us = max(self.max_us, other.max_us)

    def percentile_ms(self, percent: float) -> float:
        """Milliseconds that so many percent of the values do not pass; 0 when there are none."""
        rank, seen = round(percent / 100 * self.count, 6), 0
        for bucket in sorted(self.buckets):
            seen += self.buckets[bucket]
            if seen >= rank:
                return min(highest_of(bucket), self.max_us) / 1000
        return self.max_us / 1000

    def to_json(self) -> dict[str, Any]:
        return {
            "count": self.count,
            "max_us": self.max_us,
            "buckets": [[bucket, self.buckets[bucket]] for bucket in sorted(self.buckets)],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Histogram:
        made = cls()
        made.buckets.update(dict(data["buckets"]))
        made.count, made.max_us = data["count"], data["max_us"]
        return made


def bucket_of(microseconds: int) -> int:
    """The bucket of a value."""
    if microseconds < LINEAR_MAX:
        return microseconds
    shift = microseconds.bit_length() - 8
    return shift * SUB_BUCKETS + (microseconds >> shift)


def highest_of(bucket: int) -> int:
    """The largest value of a bucket, so that no percentile is told too well."""
    if bucket < LINEAR_MAX:
        return bucket
    shift = bucket // SUB_BUCKETS - 1
    return ((bucket - shift * SUB_BUCKETS + 1) << shift) - 1


@dataclass(slots=True)
class MethodRecord:
    """One method: gRPC codes with outcomes, and two histograms."""

    outcomes: Counter[tuple[int, int]] = field(default_factory=Counter)
    """(gRPC code, outcome in the reply or 0) -> calls. Codes 17 broken, 18 unanswered."""
    latency: Histogram = field(default_factory=Histogram)
    """From the intended time."""
    service: Histogram = field(default_factory=Histogram)
    """From the actual send: what a closed loop would have called latency."""
    accepted: Histogram = field(default_factory=Histogram)
    """``latency`` of those that ended OK: a refusal is quick."""


@dataclass(slots=True)
class RunRecord:
    """What one client process saw, or several merged."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    cpu_share_max: float = 0.0
    """Of one core, of the busiest client process."""
    done: int = 0
    all_done: int = 0
    errors: int = 0
    reply_bytes: int = 0
    unstarted: int = 0
    exhausted: bool = False
    methods: dict[str, MethodRecord] = field(default_factory=dict)
    lateness: Histogram = field(default_factory=Histogram)
    """Intended time to the moment the generator noticed: its own fault."""
    waiting: Histogram = field(default_factory=Histogram)
    """Intended time to a free stream: the server's fault, or too few streams."""
    reasons: Counter[str] = field(default_factory=Counter)
    done_by_second: list[int] = field(default_factory=list)
    errors_by_second: list[int] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Calls a second that ended."""
        return self.done / self.seconds if self.seconds else 0.0

    def latency(self, path: str = "") -> Histogram:
        """Of one method, or of all."""
        merged = Histogram()
        for name, method in self.methods.items():
            if path in {"", name}:
                merged.merge(method.latency)
        return merged

    def count(self, path: str, code: int = 0, outcome: int | None = None) -> int:
        """Calls of a method that ended so."""
        found = self.methods.get(path, MethodRecord()).outcomes
        return sum(
            n for (c, o), n in found.items() if c == code and (outcome is None or o == outcome)
        )

    def merge(self, other: RunRecord) -> None:
        """Add another process of the same run; the run is as long as its longest."""
        self.seconds = max(self.seconds, other.seconds)
        self.cpu_seconds += other.cpu_seconds
        self.cpu_share_max = max(self.cpu_share_max, other.cpu_share_max)
        self.exhausted |= other.exhausted
        for name in ("done", "all_done", "errors", "reply_bytes", "unstarted"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for path, method in other.methods.items():
            mine = self.methods.setdefault(path, MethodRecord())
            mine.outcomes.update(method.outcomes)
            mine.latency.merge(method.latency)
            mine.service.merge(method.service)
            mine.accepted.merge(method.accepted)
        self.lateness.merge(other.lateness)
        self.waiting.merge(other.waiting)
        self.reasons.update(other.reasons)
        for name in ("done_by_second", "errors_by_second"):
            series = zip_longest(getattr(self, name), getattr(other, name), fillvalue=0)
            setattr(self, name, [sum(both) for both in series])

    def to_json(self, wall_seconds: float) -> dict[str, Any]:
        """As unary.c prints it."""
        return {
            "seconds": self.seconds,
            "wall_seconds": wall_seconds,
            "cpu_seconds": self.cpu_seconds,
            "done": self.done,
            "all_done": self.all_done,
            "errors": self.errors,
            "reply_bytes": self.reply_bytes,
            "unstarted": self.unstarted,
            "exhausted": self.exhausted,
            "methods": {
                path: {
                    "outcomes": [[c, o, n] for (c, o), n in sorted(method.outcomes.items())],
                    "latency": method.latency.to_json(),
                    "service": method.service.to_json(),
                    "accepted": method.accepted.to_json(),
                }
                for path, method in self.methods.items()
            },
            "lateness": self.lateness.to_json(),
            "waiting": self.waiting.to_json(),
            "reasons": dict(self.reasons),
            "done_by_second": self.done_by_second,
            "errors_by_second": self.errors_by_second,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RunRecord:
        """What a client process printed."""
        made = cls(
            seconds=data["seconds"],
            cpu_seconds=data["cpu_seconds"],
            cpu_share_max=data["cpu_seconds"] / max(data["wall_seconds"], 1e-9),
            exhausted=data["exhausted"],
            reasons=Counter(data["reasons"]),
            done_by_second=data["done_by_second"],
            errors_by_second=data["errors_by_second"],
            lateness=Histogram.from_json(data["lateness"]),
            waiting=Histogram.from_json(data["waiting"]),
        )
        for name in ("done", "all_done", "errors", "reply_bytes", "unstarted"):
            setattr(made, name, data[name])
        for path, method in data["methods"].items():
            if method["outcomes"]:
                made.methods[path] = MethodRecord(
                    Counter({(c, o): n for c, o, n in method["outcomes"]}),
                    Histogram.from_json(method["latency"]),
                    Histogram.from_json(method["service"]),
                    Histogram.from_json(method["accepted"]),
                )
        return made


class AckLog:
    """One JSON line for each call with a tag; on disk at most SYNC_SECONDS after it was written.

    The lines are what the audit holds the service to: README.md tells their fields.
    """

    def __init__(self, path: Path) -> None:
        self._file: IO[bytes] = path.open("ab")
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._sync, name="ack-log", daemon=True)
        self._thread.start()

    def write(self, method: str, code: int, outcome: int, tag: bytes) -> None:
        """Add a line."""
        head = {"time_ms": int(time.time() * 1000), "method": method, "code": code,
                "outcome": outcome}  # fmt: skip
        self._file.write(
            json.dumps(head, separators=(",", ":")).encode()[:-1] + b"," + tag + b"}\n"
        )

    def close(self) -> None:
        """Everything written is on disk after it."""
        self._closing.set()
        self._thread.join()
        self._file.close()

    def _sync(self) -> None:
        while True:
            last = self._closing.wait(SYNC_SECONDS)
            self._file.flush()
            os.fdatasync(self._file.fileno())
            if last:
                return


def merged(records: Iterable[RunRecord]) -> RunRecord:
    """One record of several processes."""
    total = RunRecord()
    for record in records:
        total.merge(record)
    return total
