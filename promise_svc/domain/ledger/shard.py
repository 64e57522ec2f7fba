"""Life of a shard: its epochs, and what it is rebuilt from. Twin: ``lua/shard.lua``."""

from __future__ import annotations

from collections.abc import Iterable

from promise_svc.domain.events import Event, EventType
from promise_svc.domain.inventory import PositionKey, StockPosition, ats, for_segment, shortage
from promise_svc.domain.ledger.state import ShardState
from promise_svc.domain.reservation import DOUBT_MS, RESOLVE_AFTER_MS, ClaimRecord, State
from promise_svc.domain.sharding import Position

_KEYED = frozenset({EventType.SUPPLY_ADJUSTED, EventType.SALE_RECORDED})


def take_over(shard: ShardState, now_ms: int) -> Position:
    """Start the next epoch."""
    shard.advance(now_ms)
    previous = shard.at
    shard.at = Position(previous.epoch + 1, 0)
    shard.append(Event(EventType.EPOCH_STARTED, shard.time_ms, "", previous=previous))
    return shard.at


def restore(shard: ShardState, events: Iterable[tuple[Position, Event]]) -> None:
    """Apply after-images in order; rules do not run again."""
    for at, event in events:
        shard.at, shard.time_ms = at, max(shard.time_ms, event.time_ms)
        for image in event.positions:
            key = PositionKey(*image[:3])
            if event.type == EventType.ACCOUNTS_CLOSED:
                shard.close(key)
            else:
                shard.put_position(key, image.row)
        if event.leg:
            shard.count(event.subject, event.leg)
            shard.legs[event.subject] = event.leg
            shard.doubted.pop(event.subject, None)
            if event.leg.state == State.HELD and event.leg.multi and not event.claim:
                shard.doubted[event.subject] = shard.time_ms + DOUBT_MS
        if event.claim:
            _restore_claim(shard, event.subject, event.claim)
        if event.type in _KEYED:
            row = event.positions[0].row if event.positions else StockPosition()
            answer = row.on_hand, ats(*for_segment(row, "")), shortage(*row[:4])
            shard.adjustments[event.subject] = (event.note, *answer)


def _restore_claim(shard: ShardState, rid: str, claim: ClaimRecord) -> None:
    shard.claims[rid] = claim
    if claim.settled:
        shard.open_until.pop(rid, None)
    else:
        shard.open_until[rid] = shard.time_ms + RESOLVE_AFTER_MS


def raise_network_floor(shard: ShardState, version: int) -> None:
    """Refuse new legs planned on an older network from now on."""
    shard.network_floor = max(shard.network_floor, version)
