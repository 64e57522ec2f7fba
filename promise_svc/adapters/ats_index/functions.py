"""The Functions' source: fragments and one file a verb, concatenated into one library."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import NamedTuple

_SHARED = ("prelude", "positions", "limits", "records", "events", "moves", "commit")
"""Each may use what those before it define."""

_VERBS = ("create", "resolve", "follow", "settle", "revise", "sweep", "supply", "read", "shard")


class Library(NamedTuple):
    """A loadable library; function names are ``<name>_<verb>``."""

    name: str
    source: str


@cache
def library(window_ms: int) -> Library:
    """The library for an idempotency window of ``window_ms``.

    The name carries a hash of the source, so processes of two versions can share a shard during
    an upgrade without replacing each other's functions.
    """
    folder = Path(__file__).parent / "lua"
    shared = [(folder / f"{name}.lua").read_text() for name in _SHARED]
    verbs = [(folder / f"{name}.lua").read_text() for name in _VERBS]
    # A block each: a chunk may have no more than 200 locals.
    source = "\n".join([*shared, *(f"do\n{verb}\nend" for verb in verbs)])
    source = source.replace("@WINDOW_MS@", str(window_ms))
    name = f"promise_{hashlib.sha256(source.encode()).hexdigest()[:10]}"
    return Library(name, f"#!lua name={name}\n{source.replace('@LIBRARY@', name)}")
