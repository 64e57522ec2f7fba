"""Structured logs: one JSON object a line, with time, level, event, trace id and known fields."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from datetime import UTC, datetime
from typing import Any, TextIO, TypedDict, Unpack

from promise_svc.telemetry.trace import current_trace_id

_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]*@")
"""User and password inside a URL, the one way a secret finds into a text of ours."""

_FIELDS = "promise_fields"

_REPEATS = "asyncpg.pool"
_REPEATED_SECONDS = 60.0


class LogFields(TypedDict, total=False):
    """All fields a log line may have, so that a field means one thing everywhere."""

    shard: int
    epoch: int
    sequence: int
    method: str
    code: str
    reason: str
    error: str
    source: str
    loop: str
    engine: str
    url: str
    address: str
    version: str
    compiled: bool
    front: str
    reservation_id: str
    sku: str
    node_id: str
    event_count: int
    token_count: int
    position_count: int
    shard_count: int
    epochs: str
    """``shard:epoch`` of each, by shard."""
    shards: str
    """``shard:events`` of each, by shard."""
    drift_count: int
    seconds: float
    attempt: int
    child: str
    child_pid: int
    restarted: str
    """``child:pid`` of each that is new since SIGHUP; ``not_restarted`` of the others."""
    not_restarted: str
    workers: int
    trace_id: str
    """Only where the line is about another call than the present one."""


class EventLog:
    """Writes log lines. ``event`` is a short constant sentence: what varies goes into fields."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def debug(self, event: str, **fields: Unpack[LogFields]) -> None:
        self._write(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: Unpack[LogFields]) -> None:
        self._write(logging.INFO, event, fields)

    def warning(self, event: str, **fields: Unpack[LogFields]) -> None:
        """Something is wrong that heals itself, or that somebody should know."""
        self._write(logging.WARNING, event, fields)

    def error(
        self, event: str, exception: BaseException | None = None, **fields: Unpack[LogFields]
    ) -> None:
        """Somebody must look; ``exception`` adds its traceback."""
        self._write(logging.ERROR, event, fields, exception)

    def _write(
        self,
        level: int,
        event: str,
        fields: LogFields,
        exception: BaseException | None = None,
    ) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, "%s", event, exc_info=exception, extra={_FIELDS: fields})


class JsonFormatter(logging.Formatter):
    """Formats any record, those of libraries included; never raises for what a field holds."""

    def __init__(self, process: str = "") -> None:
        super().__init__()
        self._process = {"process": process, "pid": os.getpid()} if process else {}

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            "logger": record.name,
            **self._process,
        }
        trace_id = current_trace_id.get()
        if trace_id:
            line["trace_id"] = trace_id
        line.update(getattr(record, _FIELDS, {}))
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps({key: _scrub(value) for key, value in line.items()}, default=_described)


def configure_logs(level: str = "INFO", stream: TextIO | None = None, *, process: str = "") -> None:
    """Send all logs of this process to ``stream`` (stderr) as JSON lines. ValueError for an unknown
    level. Call once, at start. One of several processes gives its name, which stands in each line
    with its process id."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter(process))
    root = logging.getLogger()
    root.setLevel(level)
    root.handlers[:] = [handler]
    logging.getLogger(_REPEATS).filters[:] = [_Seldom()]
    logging.captureWarnings(True)


class _Seldom(logging.Filter):
    """Of a library that tells the same every second while its server is away, traceback and all:
    one line a minute that names the error."""

    def __init__(self) -> None:
        super().__init__()
        self._told: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.created - self._told.get(str(record.msg), -_REPEATED_SECONDS) < _REPEATED_SECONDS:
            return False
        self._told[str(record.msg)] = record.created
        if record.exc_info and record.exc_info[1]:
            kind, text = type(record.exc_info[1]).__name__, record.exc_info[1]
            setattr(record, _FIELDS, {"error": f"{kind}: {text}"})
            record.exc_info = None
        return True


def _scrub(value: object) -> object:
    return _CREDENTIALS.sub("***@", value) if isinstance(value, str) else value


def _described(value: object) -> object:
    return _scrub(str(value))
