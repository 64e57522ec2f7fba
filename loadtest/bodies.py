"""Pre-encoded calls and the file that carries them to the client processes.

Format, little endian: `PLB1`, uint32 path count, uint32 entry count, the paths (uint16 size,
bytes), the entries (uint8 path, uint8 continues, uint16 tag size, uint32 body size, tag, body).
A body begins with gRPC's five bytes. A tag is the inside of a JSON object: what the log of
acknowledgements says about the call besides time, method, code and outcome.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

_PREFIX = "/promise_svc.v1."
QUERY = _PREFIX + "AvailabilityService/QueryAvailability"
CHECK = _PREFIX + "AvailabilityService/CheckAvailability"
PICKUP = _PREFIX + "AvailabilityService/FindPickupNodes"
PROMISE = _PREFIX + "PromiseService/PromiseCart"
CREATE = _PREFIX + "ReservationService/CreateReservation"
CONFIRM = _PREFIX + "ReservationService/ConfirmReservation"
RELEASE = _PREFIX + "ReservationService/ReleaseReservation"
CANCEL = _PREFIX + "ReservationService/CancelReservation"
SYNC = _PREFIX + "SupplyService/SyncSupply"
PATHS = (QUERY, CHECK, PICKUP, PROMISE, CREATE, CONFIRM, RELEASE, CANCEL, SYNC)

MAGIC = b"PLB1"


class Step(NamedTuple):
    """One call of a session."""

    path: str
    message: bytes
    tag: bytes = b""


Session = Sequence[Step]
"""Calls one after the other; the next is made if the reply before it was OK with outcome 1."""


class Entry(NamedTuple):
    """One call as it lies in the file; ``message`` is without gRPC's five bytes."""

    path: str
    message: bytes
    tag: bytes
    continues: bool


def write_bodies(path: Path, sessions: Iterable[Session]) -> tuple[int, int]:
    """Write the file; returns how many sessions and how many calls it holds."""
    parts: list[bytes] = []
    session_count = call_count = 0
    numbers = {name: number for number, name in enumerate(PATHS)}
    for session in sessions:
        session_count += 1
        for place, step in enumerate(session):
            size = len(step.message)
            parts.append(
                struct.pack("<BBHI", numbers[step.path], place > 0, len(step.tag), size + 5)
            )
            parts.append(step.tag)
            parts.append(struct.pack(">BI", 0, size))
            parts.append(step.message)
            call_count += 1
    names = b"".join(struct.pack("<H", len(name)) + name.encode() for name in PATHS)
    head = MAGIC + struct.pack("<II", len(PATHS), call_count)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(head + names + b"".join(parts))
    return session_count, call_count


def read_bodies(path: Path) -> list[list[Entry]]:
    """The sessions of a file. Raises ValueError if it is none."""
    data = path.read_bytes()
    if data[:4] != MAGIC:
        raise ValueError(f"{path} is no body file")
    path_count, entry_count = struct.unpack_from("<II", data, 4)
    at = 12
    paths = []
    for _ in range(path_count):
        (size,) = struct.unpack_from("<H", data, at)
        paths.append(data[at + 2 : at + 2 + size].decode())
        at += 2 + size
    sessions: list[list[Entry]] = []
    for _ in range(entry_count):
        number, continues, tag_size, body_size = struct.unpack_from("<BBHI", data, at)
        at += 8
        tag = data[at : at + tag_size]
        at += tag_size
        entry = Entry(paths[number], data[at + 5 : at + body_size], tag, bool(continues))
        at += body_size
        if continues:
            sessions[-1].append(entry)
        else:
            sessions.append([entry])
    return sessions
