"""The order store alone, by plain SQL, and against what clients were told.

It shares no code with the service, and its numbers are written down a second time.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import asyncpg
import msgspec

from loadtest.told import CONFIRMED, EXPIRED, HELD, PENDING, PINNED, Told, judge

EVENT_CONFIRMED, EVENT_RELEASED, EVENT_CANCELLED, EVENT_EXPIRED = 13, 14, 15, 16
LEG_LINES = 6
"""Where the lines are in a stored leg."""
SUM_ATTEMPTS_MAX = 6
SKEW_MS = 5_000
"""A claim and its legs expire by their own shards' clocks."""

ORPHAN_SECONDS_MAX: float | None = 30.0
"""How long a held leg may stand without its claim before that is wrong; None for not asking. The
service asks home after 10 s and lets it go; the rest is for what was killed meanwhile."""

Place = tuple[str, str]
"""SKU and node."""


class Problem(NamedTuple):
    """One thing that is not as it was said."""

    kind: str
    subject: str
    detail: str


class Stored(NamedTuple):
    """One reservation as the order store, or the index, has it."""

    state: int
    expire_ms: int
    update_ms: int
    """0 where it is not known."""


GAPS = """
SELECT shard, epoch, min(sequence) AS low, max(sequence) AS high, count(*) AS count
FROM events GROUP BY shard, epoch ORDER BY shard, epoch"""

RESOLVED_OFTEN = f"""
SELECT subject, array_agg(type ORDER BY epoch, sequence) AS types
FROM events WHERE type IN ({EVENT_CONFIRMED}, {EVENT_RELEASED}, {EVENT_CANCELLED}, {EVENT_EXPIRED})
GROUP BY subject HAVING count(*) > 1"""

UNSOUND_POSITIONS = """
SELECT sku, node_id, on_hand, committed, held, safety_stock, confirmed_total, cancelled_total,
       fulfilled_total
FROM positions
WHERE least(on_hand, committed, held, safety_stock) < 0
   OR committed + held > on_hand - safety_stock
   OR confirmed_total - cancelled_total - fulfilled_total <> committed - sold_short"""

ORPHANS = f"""
SELECT l.leg FROM legs l LEFT JOIN reservations r USING (reservation_id)
WHERE l.state = {HELD} AND r.reservation_id IS NULL"""
# A server killed between claim and legs leaves them; they give their units back when they expire.

ORPHAN_AGES = f"""
SELECT l.shard, l.reservation_id, e.time_ms
FROM legs l JOIN events e USING (shard, epoch, sequence)
LEFT JOIN reservations r USING (reservation_id)
WHERE l.state = {HELD} AND r.reservation_id IS NULL ORDER BY l.shard, l.reservation_id"""

SUMS = """
SELECT sku, sum(committed)::bigint AS committed, sum(held)::bigint AS held,
       sum(on_hand)::bigint AS on_hand
FROM positions GROUP BY sku"""


async def stored_problems(
    store: asyncpg.Connection,
    told: Mapping[str, Told],
    stocked: Mapping[Place, int] | None = None,
    *,
    sum_attempts_max: int = SUM_ATTEMPTS_MAX,
    orphan_seconds_max: float | None = ORPHAN_SECONDS_MAX,
) -> list[Problem]:
    """The order store alone, and against the logs. Legs whose events are still on their way would
    make sums differ, so those are added up again before they are told."""
    for attempt in range(sum_attempts_max):
        async with store.transaction(isolation="repeatable_read", readonly=True):
            found = await _stored_problems(store, told, stocked)
        if attempt == sum_attempts_max - 1 or all(problem.kind != "SUM" for problem in found):
            break
        await asyncio.sleep(1)
    if orphan_seconds_max is not None:
        found += await _orphans(store, orphan_seconds_max)
    return found


async def _orphans(store: asyncpg.Connection, seconds_max: float) -> list[Problem]:
    """Held legs that nobody speaks for."""
    ages = [(r[0], r[1], time.time() - r[2] / 1000) for r in await store.fetch(ORPHAN_AGES)]
    return [
        Problem("ORPHAN", rid, f"its leg on shard {shard} is held without a claim, {age:.0f} s old")
        for shard, rid, age in ages
        if age > seconds_max
    ]


async def _stored_problems(
    store: asyncpg.Connection, told: Mapping[str, Told], stocked: Mapping[Place, int] | None
) -> list[Problem]:
    found = [*await _gaps(store), *await _resolved_twice(store), *await _unsound(store, stocked)]
    rows = await store.fetch("SELECT reservation_id, state, expire_ms, update_ms FROM reservations")
    stored = {row[0]: Stored(row[1], row[2], row[3]) for row in rows}
    found += against_logs(told, stored, "order store")
    found += await _sums(store, told, stored)
    return found


def against_logs(
    told: Mapping[str, Told], stored: Mapping[str, Stored], where: str
) -> Iterator[Problem]:
    """Each reservation of the logs in one of the two places."""
    for rid, mine in told.items():
        there = stored.get(rid, Stored(0, 0, 0))
        for kind, text in judge(mine, there.state):
            yield Problem(kind, rid, f"{where}: {text}")
        early = there.update_ms and there.update_ms < there.expire_ms - SKEW_MS
        if there.state == EXPIRED and early:
            text = f"expired at {there.update_ms}, {there.expire_ms} was promised"
            yield Problem("EXPIRED_EARLY", rid, f"{where}: {text}")


async def _gaps(store: asyncpg.Connection) -> list[Problem]:
    """Sequences 1 to n in each epoch, epochs 1 to m, and the cursor at the end."""
    found, last = [], dict[int, tuple[int, int]]()
    for shard, epoch, low, high, count in await store.fetch(GAPS):
        if (low, high) != (1, count):
            text = f"epoch {epoch} has {count} events from {low} to {high}"
            found.append(Problem("GAP", f"shard {shard}", text))
        before = last.get(shard, (0, 0))[0]
        if epoch != before + 1:
            found.append(Problem("GAP", f"shard {shard}", f"epoch {epoch} follows {before}"))
        last[shard] = epoch, high
    cursors = {r[0]: (r[1], r[2]) for r in await store.fetch("SELECT * FROM cursors")}
    if cursors != last:
        shards = sorted(s for s in cursors.keys() | last.keys() if cursors.get(s) != last.get(s))
        found.append(Problem("GAP", f"shards {shards}", "the cursor is not at the last event"))
    return found


async def _resolved_twice(store: asyncpg.Connection) -> list[Problem]:
    """Out of HELD once; only a cancel may follow, and only a confirm."""
    return [
        Problem("RESOLVED_TWICE", row[0], f"events of types {list(row[1])}")
        for row in await store.fetch(RESOLVED_OFTEN)
        if list(row[1]) != [EVENT_CONFIRMED, EVENT_CANCELLED]
    ]


async def _unsound(store: asyncpg.Connection, stocked: Mapping[Place, int] | None) -> list[Problem]:
    found = [
        Problem("OVERSOLD", f"{row[0]} at {row[1]}", f"or counted down since: {dict(row)}")
        for row in await store.fetch(UNSOUND_POSITIONS)
    ]
    if stocked is not None:
        query = "SELECT sku, node_id, on_hand FROM positions"
        there = {(row[0], row[1]): row[2] for row in await store.fetch(query)}
        found += [
            Problem("STOCK_CHANGED", f"{sku} at {node}", f"{there.get((sku, node))}, not {units}")
            for (sku, node), units in stocked.items()
            if there.get((sku, node)) != units
        ]
    return found


async def _sums(
    store: asyncpg.Connection, told: Mapping[str, Told], stored: Mapping[str, Stored]
) -> list[Problem]:
    """Units that stand, added up from the clients' own lines, against the counters.

    Only where the logs know of everybody: a SKU that others bought too cannot be added up.
    """
    strangers = stored.keys() - told.keys()
    if any(stored[rid].state in (PENDING, HELD, PINNED, CONFIRMED) for rid in strangers):
        return []
    committed, held = Counter[str](), Counter[str]()
    for rid, mine in told.items():
        state = stored.get(rid, Stored(0, 0, 0)).state
        if state == CONFIRMED or (state == PINNED and CONFIRMED in mine.acknowledged):
            committed += mine.units()
        elif state in (PENDING, HELD, PINNED):
            held += mine.units()
    for row in await store.fetch(ORPHANS):
        for sku, _node, _bucket, quantity in msgspec.msgpack.decode(row[0])[LEG_LINES]:
            held[sku] += quantity
    found = []
    for sku, are_committed, are_held, on_hand in await store.fetch(SUMS):
        if (committed[sku], held[sku]) != (are_committed, are_held):
            text = (
                f"the logs add up to {committed[sku]} committed and {held[sku]} held, the order "
                f"store says {are_committed} and {are_held}"
            )
            found.append(Problem("SUM", sku, text))
        if committed[sku] + held[sku] > on_hand:
            text = f"{committed[sku]} sold and {held[sku]} held of {on_hand}"
            found.append(Problem("OVERSOLD", sku, f"by the logs alone: {text}"))
    return found
