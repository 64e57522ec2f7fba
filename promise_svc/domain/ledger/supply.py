"""sync_supply, adjust_supply, protect: counts and shares. Twin: ``lua/supply.lua``."""

from __future__ import annotations

from collections.abc import Sequence

from promise_svc.domain.events import Event, EventType
from promise_svc.domain.inventory import (
    ARRIVED,
    PROTECTIONS_MAX,
    QUANTITY_MAX,
    PositionKey,
    Protection,
    StockPosition,
    ats,
    for_segment,
    shortage,
    stock_here,
)
from promise_svc.domain.ledger.state import ShardState
from promise_svc.domain.reservation import AdjustRow, Outcome, ProtectRow, SupplyReply, SupplyRow


def sync_supply(shard: ShardState, rows: Sequence[SupplyRow], now_ms: int) -> list[SupplyReply]:
    """Set absolute counts; one event for all rows that change something."""
    shard.advance(now_ms)
    replies = [_sync_row(shard, row) for row in rows]
    shard.emit("", EventType.SUPPLY_SYNCED)
    return [reply._replace(epoch=shard.at.epoch, sequence=shard.at.sequence) for reply in replies]


def adjust_supply(shard: ShardState, rows: Sequence[AdjustRow], now_ms: int) -> list[SupplyReply]:
    """Change counts, each row once per idempotency key; one event a row. A row without a SKU
    only claims its key; a sale takes what is there and owes the rest."""
    shard.advance(now_ms)
    return [_adjust_row(shard, row) for row in rows]


def protect(shard: ShardState, rows: Sequence[ProtectRow], now_ms: int) -> list[SupplyReply]:
    """Set shares of segments; one event for all rows that change something. A share that goes
    on keeps what it has taken. TOO_MANY_SEGMENTS where a position has PROTECTIONS_MAX."""
    shard.advance(now_ms)
    replies = [_protect_row(shard, row) for row in rows]
    shard.emit("", EventType.PROTECTION_SET)
    return [reply._replace(epoch=shard.at.epoch, sequence=shard.at.sequence) for reply in replies]


def _sync_row(shard: ShardState, row: SupplyRow) -> SupplyReply:
    key = PositionKey(*row[:3])
    known = shard.positions.get(key)
    old = known or StockPosition()
    behind, owed = old.source_sequence - row.source_sequence, 0
    if row.source and row.source == old.source and behind > 0:
        return _supply_reply(shard, Outcome.STALE_SEQUENCE, key)
    if old.arrival_ms == ARRIVED:
        again = row.arrival_ms == ARRIVED
        return _supply_reply(shard, Outcome.UNCHANGED if again else Outcome.ALREADY_ARRIVED, key)
    arrival_ms = (row.arrival_ms or old.arrival_ms) if row.bucket else 0
    arrives = arrival_ms == ARRIVED
    if row.source and row.source == old.source and behind == 0 and not arrives:
        # This report was counted before: what left since then has left.
        row, owed = row._replace(on_hand=old.on_hand), old.sold_short
    elif not row.bucket:
        counted = _counted_by(shard, row, key)
        if row.deducted > sum(each.confirmed_total for each in counted):
            return _supply_reply(shard, Outcome.MORE_THAN_ORDERED, key)
        on_hand, owed = stock_here(row.on_hand, row.deducted, counted)
        if on_hand > QUANTITY_MAX:
            return _supply_reply(shard, Outcome.ABOVE_MAXIMUM, key)
        row = row._replace(on_hand=on_hand)
    else:
        # All that is expected, or came: some of it may have left before its arrival was told.
        row = row._replace(on_hand=max(0, row.on_hand - old.fulfilled_total))
    safety_stock = old.safety_stock if row.safety_stock < 0 else row.safety_stock
    new = old._replace(
        on_hand=row.on_hand,
        committed=old.committed - old.sold_short + owed,
        safety_stock=0 if arrives else safety_stock,
        source=row.source,
        source_sequence=row.source_sequence,
        sold_short=owed,
        arrival_ms=arrival_ms,
    )
    same = (*old[:4], old.sold_short, old.arrival_ms) == (*new[:4], owed, arrival_ms)
    if known is not None and same:
        # The sequence is kept so that an older row is still recognised; that is no event.
        shard.positions[key] = new
        return _supply_reply(shard, Outcome.UNCHANGED, key)
    shard.set_position(key, new)
    shard.pass_on(key)
    return _supply_reply(shard, Outcome.DONE, key)


def _counted_by(shard: ShardState, row: SupplyRow, here: PositionKey) -> list[StockPosition]:
    """The positions that a count of stock here now speaks of."""
    if not row.arrived_counted:
        return [shard.positions.get(here, StockPosition())]
    return [each for key, each in shard.positions.items() if key[:2] == here[:2]]


def _adjust_row(shard: ShardState, row: AdjustRow) -> SupplyReply:
    key = PositionKey(*row[:3])
    seen = shard.adjustments.get(row.idempotency_key)
    if seen is not None:
        outcome = Outcome.REPEATED if seen[0] == row.body_hash else Outcome.BODY_DIFFERS
        return SupplyReply(outcome, seen[1], seen[2], *shard.at, seen[3])
    if row.create_ms and shard.time_ms - row.create_ms > shard.window_ms:
        return _supply_reply(shard, Outcome.WINDOW_PASSED, key)
    kind = EventType.SALE_RECORDED if row.sale else EventType.SUPPLY_ADJUSTED
    if not row.sku:
        shard.adjustments[row.idempotency_key] = (row.body_hash, 0, 0, 0)
        note = row.body_hash
        shard.append(Event(kind, shard.time_ms, row.idempotency_key, note))
        return SupplyReply(Outcome.DONE, 0, 0, *shard.at)
    new = _adjusted(shard.positions.get(key, StockPosition()), row)
    if new.on_hand < 0:
        return _supply_reply(shard, Outcome.BELOW_ZERO, key)
    if max(new.on_hand, new.sold_short) > QUANTITY_MAX:
        return _supply_reply(shard, Outcome.ABOVE_MAXIMUM, key)
    shard.set_position(key, new)
    shard.pass_on(key)
    shard.emit(row.idempotency_key, kind, row.body_hash)
    reply = _supply_reply(shard, Outcome.DONE, key)
    answer = reply.on_hand, reply.ats, reply.shortage
    shard.adjustments[row.idempotency_key] = (row.body_hash, *answer)
    return reply


def _adjusted(old: StockPosition, row: AdjustRow) -> StockPosition:
    """The position after a change of on hand: a receipt pays first what was sold short, a sale owes
    what on hand does not cover. Below zero on hand where units are taken that are not there."""
    if row.sale:
        covered = min(old.on_hand, -row.quantity_delta)
        owed = -row.quantity_delta - covered
    else:
        owed = -min(old.sold_short, max(0, row.quantity_delta))
        covered = -row.quantity_delta - owed
    return old._replace(
        on_hand=old.on_hand - covered,
        committed=old.committed + owed,
        sold_short=old.sold_short + owed,
    )


def _protect_row(shard: ShardState, row: ProtectRow) -> SupplyReply:
    key = PositionKey(*row[:3])
    old = shard.positions.get(key, StockPosition())
    shares = {share.segment: share for share in old.protected}
    began = shard.at.epoch, shard.at.sequence + 1
    before = shares.get(row.segment, Protection(row.segment, 0, 0, *began))
    if before.level == row.level:
        return _supply_reply(shard, Outcome.UNCHANGED, key)
    if not before.level and len(shares) == PROTECTIONS_MAX:
        return _supply_reply(shard, Outcome.TOO_MANY_SEGMENTS, key)
    shares[row.segment] = before._replace(level=row.level)
    protected = tuple(share for share in shares.values() if share.level)
    shard.set_position(key, old._replace(protected=protected))
    return _supply_reply(shard, Outcome.DONE, key)


def _supply_reply(shard: ShardState, outcome: Outcome, key: PositionKey) -> SupplyReply:
    row = shard.positions.get(key, StockPosition())
    units = ats(*for_segment(row, ""))
    return SupplyReply(outcome, row.on_hand, units, *shard.at, shortage(*row[:4]))
