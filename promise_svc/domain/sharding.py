"""SKU to shard, shard to hash tag, and the identity of an event."""

from __future__ import annotations

import binascii
from itertools import count
from typing import NamedTuple

SLOT_COUNT = 16384
"""Slots of a Valkey or Redis cluster (cluster specification)."""

SHARD_COUNT_MAX = 4096
"""More shards than this would leave some with fewer than four slots of room."""

_DIGITS = [b"%x" % digit for digit in range(16)]
_FNV_OFFSET = 0xCBF29CE484222325
_FNV_PRIME = 0x100000001B3
_MASK = 0xFFFFFFFFFFFFFFFF


class Position(NamedTuple):
    """A point in a shard's history: events are ordered by it, without gaps within an epoch."""

    epoch: int
    sequence: int


START = Position(0, 0)
"""Before the first event of a shard."""


def stable_hash(key: str) -> int:
    """64-bit hash of ``key``: FNV-1a over UTF-8, then the murmur3 finalizer.

    FNV-1a alone leaves the low bits of short keys poorly mixed; the finalizer repairs that.
    Sources: Fowler, Noll, Vo (FNV-1a, 64 bit); Appleby, MurmurHash3 ``fmix64``.
    """
    value = _FNV_OFFSET
    for byte in key.encode():
        value = ((value ^ byte) * _FNV_PRIME) & _MASK
    value ^= value >> 33
    value = (value * 0xFF51AFD7ED558CCD) & _MASK
    value ^= value >> 33
    value = (value * 0xC4CEB9FE1A85EC53) & _MASK
    return value ^ (value >> 33)


def shard_of(key: str, shard_count: int) -> int:
    """The shard of a ``shard_key`` or reservation id, 0..shard_count-1."""
    return stable_hash(key) % shard_count


def slot_of(tag: str) -> int:
    """Slot of a hash tag: CRC16/XMODEM modulo 16384 (cluster specification)."""
    return binascii.crc_hqx(tag.encode(), 0) % SLOT_COUNT


def hash_tags(shard_count: int) -> list[str]:
    """One hash tag a shard; shard i lies in slot ``(i + 0.5) * 16384 / shard_count``.

    Sequential tags would leave cluster nodes empty; so each is the smallest number, in hexadecimal,
    that lies in its slot. Cost: about 10 tries a slot and shard, 6 ms for 64 shards.
    """
    # A CRC is linear: a last digit flips the same bits whatever stands before it.
    wanted: dict[int, list[tuple[str, int]]] = {}
    for digit in _DIGITS:
        flipped = binascii.crc_hqx(digit, 0)
        for shard in range(shard_count):
            slot = (2 * shard + 1) * SLOT_COUNT // (2 * shard_count)
            wanted.setdefault((slot ^ flipped) % SLOT_COUNT, []).append((digit.decode(), shard))
    tags = [""] * shard_count
    found = 0
    for leading in count():
        head = format(leading, "x") if leading else ""
        begun = binascii.crc_hqx(b"\0", binascii.crc_hqx(head.encode(), 0))
        for last, shard in wanted.get(begun % SLOT_COUNT, ()):
            if not tags[shard]:
                tags[shard] = head + last
                found += 1
                if found == shard_count:
                    return tags
    raise AssertionError("unreachable")
