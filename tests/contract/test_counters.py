"""Counters of a position move once for each thing that happened, on ledgers and on Functions."""

from __future__ import annotations

from promise_svc.application.reservation_changes import ChangeCommand
from promise_svc.domain.inventory import QUANTITY_MAX
from promise_svc.domain.reservation import AdjustRow, Outcome, SupplyRow, TransitionOutcome
from tests.support.reservation_world import World, a_cart
from tests.support.shards import TIMEOUT, WINDOW_MS


async def test_a_cancel_gives_back_its_own_units_and_nobody_elses(world: World) -> None:
    """Three orders of two units each; one is cancelled, and then cancelled again."""
    await world.stock(A=6, B=6)
    worker = world.worker()
    for rid in ("first", "second", "third"):
        await worker.reservations.create(a_cart(rid, ("A", "B"), 2), TIMEOUT)
        await worker.reservations.confirm(rid, 0, None, TIMEOUT)
    await worker.rest()

    for _ in range(2):
        await worker.reservations.cancel(ChangeCommand(reservation_id="second"), TIMEOUT)
    await worker.rest()

    assert [await world.held_and_committed(sku) for sku in ("A", "B")] == [(0, 4)] * 2
    await world.check()


async def test_a_report_counts_a_position_once(world: World) -> None:
    """Sent again after units left, it sets nothing back and writes no event; a safety stock by a
    new rule is taken. What is owed stays owed; the next report counts."""
    shard = world.shard("A")

    async def report(on_hand: int, sequence: int, safety: int = -1) -> tuple[int, int]:
        row = SupplyRow("A", "n1", "", on_hand, safety, "erp", sequence)
        reply = (await world.index.sync_supply(shard, [row], TIMEOUT))[0]
        return reply.outcome, reply.on_hand

    async def adjust(key: str, delta: int, sale: int = 0) -> None:
        row = AdjustRow("A", "n1", "", delta, key, "x", sale=sale)
        await world.index.adjust_supply(shard, [row], TIMEOUT)

    assert await report(5, 1) == (Outcome.DONE, 5)
    await adjust("left", -2)
    before = (await world.index.read_positions(shard, ["A"], TIMEOUT))[0]
    assert await report(5, 1) == (Outcome.UNCHANGED, 3)
    assert (await world.index.read_positions(shard, ["A"], TIMEOUT))[0] == before

    await adjust("till", -4, sale=1)
    assert await report(5, 1, safety=1) == (Outcome.DONE, 0)
    _, _, images = await world.index.read_positions(shard, ["A"], TIMEOUT)
    assert images[0][0].row[:4] == (0, 1, 0, 1)

    assert await report(5, 2) == (Outcome.DONE, 5)


async def test_a_change_of_stock_is_applied_once_a_key(world: World) -> None:
    """The same key and body again tells the first answer; another body is refused."""
    await world.stock(A=5)
    shard = world.shard("A")

    async def adjust(delta: int, body: str) -> tuple[int, int]:
        row = AdjustRow("A", "n1", "", delta, "key", body)
        reply = (await world.index.adjust_supply(shard, [row], TIMEOUT))[0]
        return reply.outcome, reply.on_hand

    told = [await adjust(3, "x"), await adjust(3, "x"), await adjust(4, "y"), await adjust(3, "x")]

    assert told == [
        (Outcome.DONE, 8),
        (Outcome.REPEATED, 8),
        (Outcome.BODY_DIFFERS, 8),
        (Outcome.REPEATED, 8),
    ]
    _, _, images = await world.index.read_positions(shard, ["A"], TIMEOUT)
    assert images[0][0].row.on_hand == 8


async def test_a_key_older_than_the_window_changes_nothing(world: World) -> None:
    """To the millisecond, by the shard's clock; a key that is known gets its answer."""
    await world.stock(A=5)
    now_ms, shard = world.clock.now_ms(), world.shard("A")

    async def adjust(key: str, create_ms: int) -> tuple[int, int]:
        row = AdjustRow("A", "n1", "", 1, key, "x", create_ms)
        reply = (await world.index.adjust_supply(shard, [row], TIMEOUT))[0]
        return reply.outcome, reply.on_hand

    told = [await adjust("late", now_ms - WINDOW_MS - 1), await adjust("key", now_ms - WINDOW_MS)]
    world.advance(1)
    told.append(await adjust("key", now_ms - WINDOW_MS))

    assert told == [(Outcome.WINDOW_PASSED, 5), (Outcome.DONE, 6), (Outcome.REPEATED, 6)]


async def test_units_owed_have_a_largest_number_too(world: World) -> None:
    """Refused beyond it, and nothing changes: the only sale that is not taken."""
    shard = world.shard("A")
    rows = [
        AdjustRow("A", "n1", "", -QUANTITY_MAX, "s1", "x", sale=1),
        AdjustRow("A", "n1", "", -1, "s2", "x", sale=1),
    ]

    first, second = await world.index.adjust_supply(shard, rows, TIMEOUT)

    assert (first.outcome, first.shortage) == (Outcome.DONE, QUANTITY_MAX)
    assert (second.outcome, second.shortage) == (Outcome.ABOVE_MAXIMUM, QUANTITY_MAX)


async def test_a_sale_made_elsewhere_leaves_holds_alone_and_tells_the_shortage(
    world: World,
) -> None:
    """Two units held, one free, four sold elsewhere: three leave, and three are owed."""
    await world.stock(A=3)
    worker, shard = world.worker(), world.shard("A")
    await worker.reservations.create(a_cart("held", ("A",), 2), TIMEOUT)

    sale = AdjustRow("A", "n1", "", -4, "till-1", "x", sale=1)
    sold = (await world.index.adjust_supply(shard, [sale], TIMEOUT))[0]
    confirmed = await worker.reservations.confirm("held", 0, None, TIMEOUT)
    await worker.rest()
    _, _, images = await world.index.read_positions(shard, ["A"], TIMEOUT)

    assert (sold.outcome, sold.on_hand, sold.ats, sold.shortage) == (Outcome.DONE, 0, 0, 3)
    assert confirmed.outcome == TransitionOutcome.CONFIRMED
    row = images[0][0].row
    assert (row.on_hand, row.committed, row.held, row.sold_short) == (0, 3, 0, 1)

    count = SupplyRow("A", "n1", "", 9, 0, "erp", 1)
    counted = (await world.index.sync_supply(shard, [count], TIMEOUT))[0]

    assert (counted.on_hand, counted.ats, counted.shortage) == (9, 7, 0)
    await world.check()
