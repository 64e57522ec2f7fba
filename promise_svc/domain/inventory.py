"""Stock positions and what may be sold from them.

Values are NamedTuples rather than frozen dataclasses: they are as immutable, and the codec packs
them as arrays without a copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

QUANTITY_MAX = 2**31 - 1
"""Largest quantity of one line or position, in base units. Sums of quantities stay below 2**53."""

ID_LENGTH_MAX = 64
"""Longest SKU, node id or other identifier, in bytes."""


ARRIVED = -1
"""``arrival_ms`` of a bucket that is here."""

PROTECTIONS_MAX = 16
"""Most segments with a share of one position."""


class PositionKey(NamedTuple):
    """Where a quantity lives. ``bucket`` is empty for stock here now, else a ``supply_id``."""

    sku: str
    node_id: str
    bucket: str = ""


class Protection(NamedTuple):
    """A share of one position kept for a segment (ring-fenced). What the segment takes draws on
    its share first; what it gives back returns there."""

    segment: str
    level: int
    """Units in the share since it began, 1..QUANTITY_MAX."""
    taken: int = 0
    """Units the segment holds or has sold since then; never below 0."""
    epoch: int = 0
    """Where the shard stood when the share began; units taken before are none of it."""
    sequence: int = 0


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
    """Units sold elsewhere that on hand did not cover, or that arrived buckets have by their
    figures and a count of all that stands at the node does not find; part of ``committed``, so that
    they are owed wherever demand is read. The next receipt pays them, the next count forgets them;
    above 0 only while ``on_hand`` is 0."""
    arrival_ms: int = 0
    """Of a bucket: when it is expected, ms since 1970; 0 for not known; ARRIVED once it is here,
    for good. Before, ``on_hand`` less ``safety_stock`` is what may be sold of it; then ``on_hand``
    is what its holds and orders have of it at most: the rest is stock here now."""
    protected: tuple[Protection, ...] = ()
    """At most PROTECTIONS_MAX, each segment once; a count of the position leaves them alone."""


def passed_on(bucket: StockPosition, here: StockPosition) -> tuple[StockPosition, StockPosition]:
    """A bucket that is here, and stock here now at its node, after the units that nobody holds or
    has bought went from the one to the other: first to what was sold short."""
    spare = bucket.on_hand - bucket.committed - bucket.held
    spare = max(0, min(spare, QUANTITY_MAX - here.on_hand + here.sold_short))
    paid = min(here.sold_short, spare)
    return bucket._replace(on_hand=bucket.on_hand - spare), here._replace(
        on_hand=here.on_hand + spare - paid,
        committed=here.committed - paid,
        sold_short=here.sold_short - paid,
    )


def stock_here(figure: int, deducted: int, counted: Sequence[StockPosition]) -> tuple[int, int]:
    """On hand of stock here now, and units owed, by a figure that speaks of these positions of a
    SKU at a node and has taken off ``deducted`` units of their orders; -1 where it does not say.

    What it took off was ordered, and of what was ordered some has left: the units in the building
    are the figure, with what it took off, without what left by now. Those of arrived buckets for
    their holds and orders are not here; what such buckets have beyond the building is owed.
    """
    there = figure
    if deducted >= 0:
        there += deducted - sum(row.fulfilled_total for row in counted)
    arrived = [row for row in counted if row.arrival_ms == ARRIVED]
    had = sum(row.on_hand for row in arrived)
    # More than they have, where less came than was sold.
    wanted = sum(max(row.on_hand, row.committed + row.held) for row in arrived)
    return max(0, there - wanted), min(max(0, had - there), QUANTITY_MAX)


def protected_units(row: StockPosition, segment: str) -> int:
    """Units kept for other segments than this one and unsold; empty stands for no segment."""
    return sum(max(0, p.level - p.taken) for p in row.protected if p.segment != segment)


def drawn(row: StockPosition, segment: str, units: int, since: tuple[int, int]) -> StockPosition:
    """The position after a hold or an order of a segment took units; below zero, gave units back.
    One that is older than the share, by where the shard stood, draws on it no more than others."""
    if not segment or not row.protected:
        return row
    return row._replace(
        protected=tuple(
            p._replace(taken=max(0, p.taken + units))
            if p.segment == segment and (p.epoch, p.sequence) <= since
            else p
            for p in row.protected
        )
    )


def for_segment(row: StockPosition, segment: str) -> tuple[int, int, int, int]:
    """The arguments of ``ats`` for a sale to ``segment``: of what is there, the units protected for
    others are withheld like safety stock. That makes no shortage."""
    on_hand, committed, held, safety_stock = row[:4]
    if row.protected:
        free = ats(on_hand, committed, held, safety_stock)
        safety_stock += min(free, protected_units(row, segment))
    return on_hand, committed, held, safety_stock


def ats(on_hand: int, committed: int, reserved: int, safety_stock: int) -> int:
    """Available to sell now, never below zero. Arguments are 0..2**53."""
    return max(0, on_hand - committed - reserved - safety_stock)


def shortage(on_hand: int, committed: int, reserved: int, safety_stock: int) -> int:
    """How far demand exceeds supply after a correction, never below zero."""
    return max(0, committed + reserved + safety_stock - on_hand)
