"""Stock positions and what may be sold from them.

Values are NamedTuples rather than frozen dataclasses: they are as immutable, and the codec packs
them as arrays without a copy.
"""

from __future__ import annotations

from typing import NamedTuple

QUANTITY_MAX = 2**31 - 1
"""Largest quantity of one line or position, in base units. Sums of quantities stay below 2**53."""

ID_LENGTH_MAX = 64
"""Longest SKU, node id or other identifier, in bytes."""


class PositionKey(NamedTuple):
    """Where a quantity lives. ``bucket`` is empty for stock here now, else a ``supply_id``."""

    sku: str
    node_id: str
    bucket: str = ""


class StockPosition(NamedTuple):
    """Counters of one position, in base units. ``held`` includes due holds until they are swept.

    The totals only ever rise; a feed echoes those its count already includes.
    """

    on_hand: int = 0
    committed: int = 0
    held: int = 0
    safety_stock: int = 0
    confirmed_total: int = 0
    cancelled_total: int = 0
    fulfilled_total: int = 0
    source: str = ""
    source_sequence: int = 0
    multi_hold_ms: int = 0
    """Shard time of the last hold taken here by a reservation over several shards."""
    sold_short: int = 0
    """Units sold elsewhere that on hand did not cover; part of ``committed``, so that they are owed
    wherever demand is read. The next receipt pays them, the next count forgets them; above 0 only
    while ``on_hand`` is 0."""


def ats(on_hand: int, committed: int, reserved: int, safety_stock: int) -> int:
    """Available to sell now, never below zero. Arguments are 0..2**53."""
    return max(0, on_hand - committed - reserved - safety_stock)


def shortage(on_hand: int, committed: int, reserved: int, safety_stock: int) -> int:
    """How far demand exceeds supply after a correction, never below zero."""
    return max(0, committed + reserved + safety_stock - on_hand)
