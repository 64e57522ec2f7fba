"""The trace id of the present call, and the W3C ``traceparent`` header it comes from."""

from __future__ import annotations

import re
import secrets
from contextvars import ContextVar
from typing import NamedTuple

current_trace_id: ContextVar[str] = ContextVar("trace_id", default="")
"""32 hexadecimal digits, or empty outside a call. Log lines carry it; behavior never depends on
it."""

TRACEPARENT_KEY = "traceparent"

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_NO_TRACE = "0" * 32
_NO_SPAN = "0" * 16


class TraceParent(NamedTuple):
    """Who called: W3C Trace Context, level 1."""

    trace_id: str
    parent_id: str
    sampled: bool


def parse_traceparent(header: str) -> TraceParent | None:
    """None for anything the specification calls invalid; a new trace begins then.

    Versions later than 00 are read by their first four parts, as the specification asks.
    """
    found = _TRACEPARENT.fullmatch(header.strip())
    if found is None:
        return None
    version, trace_id, parent_id, flags, rest = found.groups()
    if version == "ff" or (version == "00" and rest) or trace_id == _NO_TRACE:
        return None
    if parent_id == _NO_SPAN:
        return None
    return TraceParent(trace_id, parent_id, bool(int(flags, 16) & 1))


def trace_id_of(header: str | bytes | None) -> str:
    """The trace id of a ``traceparent``; a new one where that is missing or invalid."""
    if isinstance(header, str) and (parent := parse_traceparent(header)):
        return parent.trace_id
    return new_trace_id()


def format_traceparent(parent: TraceParent) -> str:
    """The header for a call of ours, version 00."""
    return f"00-{parent.trace_id}-{parent.parent_id}-{int(parent.sampled):02x}"


def new_trace_id() -> str:
    """A random trace id; never the invalid all-zero one."""
    while True:
        trace_id = secrets.token_hex(16)
        if trace_id != _NO_TRACE:
            return trace_id
