"""Counters of a position move once for each thing that happened, on ledgers and on Functions."""

from __future__ import annotations

from promise_svc.application.reservation_changes import ChangeCommand
from promise_svc.domain.reservation import AdjustRow, Outcome
from tests.support.reservation_world import World, a_cart
from tests.support.shards import TIMEOUT


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
