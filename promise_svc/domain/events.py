"""Immutable facts, past tense. Identity is (shard, epoch, sequence); no gaps within an epoch.

Each event carries after-images of all it touched: applying events in order to an empty shard, or
to the order store, rebuilds exactly what the shard had. That is why replay needs no rules.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from promise_svc.domain.inventory import StockPosition
from promise_svc.domain.reservation import ClaimRecord, LegRecord
from promise_svc.domain.sharding import Position


class EventType(IntEnum):
    """What happened. ``LEG_`` events are internal to the index; the order store keeps them too."""

    EPOCH_STARTED = 1
    SUPPLY_SYNCED = 2
    SUPPLY_ADJUSTED = 3
    SALE_RECORDED = 4
    PROTECTION_SET = 5
    ACCOUNTS_CLOSED = 6
    """Its images, of zeros, are of positions that are no more."""
    RESERVATION_OPENED = 10
    RESERVATION_HELD = 11
    RESERVATION_PINNED = 12
    RESERVATION_CONFIRMED = 13
    RESERVATION_RELEASED = 14
    RESERVATION_CANCELLED = 15
    RESERVATION_EXPIRED = 16
    RESERVATION_ABORTED = 17
    RESERVATION_REVISED = 18
    RESERVATION_FULFILLED = 19
    RESERVATION_SUPERSEDED = 20
    LEG_HELD = 31
    LEG_PINNED = 32
    LEG_CONFIRMED = 33
    LEG_RELEASED = 34
    LEG_CANCELLED = 35
    LEG_EXPIRED = 36
    LEG_ABORTED = 37
    LEG_REVISED = 38
    LEG_FULFILLED = 39
    LEG_SUPERSEDED = 40


class PositionImage(NamedTuple):
    """A position after the event."""

    sku: str
    node_id: str
    bucket: str
    row: StockPosition


class Event(NamedTuple):
    """One fact of one shard."""

    type: int
    time_ms: int
    """Shard time, ms since 1970, never falling within a shard."""
    subject: str
    """Reservation id, or the idempotency key of an adjustment or a sale; empty otherwise."""
    note: str = ""
    """Body hash of an adjustment or a sale; empty otherwise."""
    claim: ClaimRecord | tuple[()] = ()
    leg: LegRecord | tuple[()] = ()
    positions: tuple[PositionImage, ...] = ()
    previous: Position | tuple[()] = ()
    """EPOCH_STARTED only: the last event of the epoch before."""


class StoredEvent(NamedTuple):
    """An event with its identity, and its bytes as the shard wrote them."""

    shard: int
    at: Position
    event: Event
    payload: bytes
    """The outbox entry, byte for byte: what a fork is recognised by."""
