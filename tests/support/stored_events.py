"""Builders of stored events: a shard's history told in a few words."""

from __future__ import annotations

import json

from promise_svc.adapters.event_codec import encode_event
from promise_svc.domain.events import Event, EventType, PositionImage, StoredEvent
from promise_svc.domain.inventory import StockPosition
from promise_svc.domain.reservation import ClaimRecord, LegLine, LegRecord, State
from promise_svc.domain.sharding import START, Position


class History:
    """Events of one shard, each following the one before."""

    def __init__(self, shard: int, at: Position = START) -> None:
        self.shard = shard
        self.at = at
        self.time_ms = 1_700_000_000_000

    def start_epoch(self) -> StoredEvent:
        """EPOCH_STARTED, the first event of the next epoch."""
        event = Event(EventType.EPOCH_STARTED, self.time_ms, "", previous=self.at)
        return self._stored(event, Position(self.at.epoch + 1, 1))

    def sync(self, sku: str, on_hand: int, node_id: str = "node", bucket: str = "") -> StoredEvent:
        """An absolute count of one position."""
        image = PositionImage(sku, node_id, bucket, StockPosition(on_hand, source="erp"))
        event = Event(EventType.SUPPLY_SYNCED, self.time_ms, "", positions=(image,))
        return self.next(event)

    def move(self, reservation_id: str, state: State, quantity: int = 1) -> StoredEvent:
        """A reservation with one leg here, and its position, after a move to ``state``."""
        at = Position(self.at.epoch, self.at.sequence + 1)
        claim = claim_record(state, at, self.shard)
        leg = LegRecord(1, state, 1, "plan", 0, 0, (LegLine("sku", "node", "", quantity),))
        image = PositionImage("sku", "node", "", StockPosition(10, held=quantity))
        kind = EventType.RESERVATION_HELD
        return self.next(Event(kind, self.time_ms, reservation_id, "", claim, leg, (image,)))

    def tombstone(self, reservation_id: str) -> StoredEvent:
        """A refusal that stands: an aborted leg without lines."""
        leg = LegRecord(1, State.ABORTED, 1, "plan", 0, 1, ())
        return self.next(Event(EventType.LEG_ABORTED, self.time_ms, reservation_id, leg=leg))

    def next(self, event: Event) -> StoredEvent:
        """``event`` with the next identity."""
        return self._stored(event, Position(self.at.epoch, self.at.sequence + 1))

    def _stored(self, event: Event, at: Position) -> StoredEvent:
        self.at = at
        self.time_ms += 1
        return StoredEvent(self.shard, at, event, encode_event(event))


def claim_record(state: State, at: Position, home: int) -> ClaimRecord:
    """A claim with one leg at home."""
    body = json.dumps({"owner_id": "owner", "order_reference": "order", "lines": []})
    return ClaimRecord(1, state, 1, 1, "body", "plan", 10, 20, (home,), body, *at, 1)
