"""The load audit's own reading of the order store."""

from __future__ import annotations

import time

import asyncpg

from loadtest.stored import Problem, stored_problems
from promise_svc.adapters.order_store import PoolConfig, PostgresOrderStore
from promise_svc.domain.events import Event, EventType, PositionImage
from promise_svc.domain.inventory import StockPosition
from promise_svc.domain.reservation import LegLine, LegRecord, State
from promise_svc.domain.sharding import START
from tests.support.stored_events import History


async def test_a_held_leg_without_a_claim_is_told_once_it_is_old(database: str) -> None:
    """Only where a limit is set, only legs older than it, and none whose claim is there."""
    history = History(5)
    events = [history.start_epoch(), history.next(_leg_alone(history, "old"))]
    history.time_ms = int(time.time() * 1000) - 10_000
    events += [history.next(_leg_alone(history, "young")), history.move("with-claim", State.HELD)]
    opened = await PostgresOrderStore.open(PoolConfig(url=database))
    await opened.append(5, START, events)
    await opened.close()

    store = await asyncpg.connect(database)
    unlimited, limited = [
        await stored_problems(store, {}, sum_attempts_max=1, orphan_seconds_max=limit)
        for limit in (None, 30)
    ]
    await store.close()

    assert [p for p in unlimited if p.kind == "ORPHAN"] == []
    found = [Problem(p.kind, p.subject, "") for p in limited if p.kind == "ORPHAN"]
    assert found == [Problem("ORPHAN", "old", "")]


def _leg_alone(history: History, reservation_id: str) -> Event:
    """A leg was granted here; its home is elsewhere and never heard of it."""
    leg = LegRecord(1, State.HELD, 1, "plan", 0, 1, (LegLine("sku", "node", "", 1),))
    image = PositionImage("sku", "node", "", StockPosition(10, held=1))
    return Event(EventType.LEG_HELD, history.time_ms, reservation_id, leg=leg, positions=(image,))
