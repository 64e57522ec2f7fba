"""A figure that says which orders it has taken off is right however late it comes, on ledgers and
on Functions."""

from __future__ import annotations

import random
from typing import NamedTuple

from promise_svc.application.changed_lines import ChangeLine
from promise_svc.application.reservation_changes import ChangeCommand
from promise_svc.domain.inventory import ARRIVED, QUANTITY_MAX, StockPosition
from promise_svc.domain.reservation import (
    AdjustRow,
    CreateOutcome,
    LegLine,
    Outcome,
    ReviseStep,
    State,
    SupplyReply,
    SupplyRow,
)
from tests.contract.test_inbound import hold, resolve
from tests.support.reservation_world import Worker, World, a_cart
from tests.support.shards import TIMEOUT

INITIAL = 40
DAY_MS = 86_400_000


async def tell(
    world: World, on_hand: int, deducted: int, sequence: int, arrived_counted: int = 0
) -> SupplyReply:
    row = SupplyRow("A", "n1", "", on_hand, 0, "erp", sequence, 0, arrived_counted, deducted)
    return (await world.index.sync_supply(world.shard("A"), [row], TIMEOUT))[0]


async def position(world: World) -> StockPosition:
    _, _, images = await world.index.read_positions(world.shard("A"), ["A"], TIMEOUT)
    return next(image.row for image in images[0] if image.bucket == "")


async def order(worker: Worker, rid: str, quantity: int) -> None:
    created = await worker.reservations.create(a_cart(rid, ("A", "B"), quantity), TIMEOUT)
    assert created.outcome is CreateOutcome.HELD
    await worker.reservations.confirm(rid, 0, None, TIMEOUT)
    await worker.rest()


def units(rid: str, quantity: int, key: str) -> ChangeCommand:
    lines = (ChangeLine("l0", quantity),)
    return ChangeCommand(reservation_id=rid, idempotency_key=key, lines=lines)


class Seen(NamedTuple):
    """What a rival system knew of this service's orders at some time."""

    confirmed: int
    cancelled: int
    fulfilled: int


async def test_a_late_figure_that_names_what_it_took_off_moves_nothing(world: World) -> None:
    """An ERP net of orders and a count of the building, each as it was at some time past, come in
    between orders, cancels and parcels: on hand is what is in the building each time."""
    seed = random.randrange(10**6)
    print(f"seed={seed}")
    chance = random.Random(seed)
    await world.stock(A=INITIAL, B=1_000)
    worker = world.worker()
    open_units: dict[str, int] = {}
    seen, left, sequence, late = [Seen(0, 0, 0)], 0, 0, 0

    for turn in range(60):
        deed = chance.choice(("order", "parcel", "cancel", "erp", "count"))
        rid = chance.choice(sorted(open_units)) if open_units else ""
        row = await position(world)
        seen.append(Seen(row.confirmed_total, row.cancelled_total, row.fulfilled_total))
        if deed == "order" and row.on_hand - row.committed >= 3:
            rid = f"r{turn}"
            await order(worker, rid, 3)
            open_units[rid] = 3
        elif deed in ("parcel", "cancel") and rid:
            change = worker.reservations.changes
            verb = change.fulfill if deed == "parcel" else change.cancel
            quantity = chance.randint(1, open_units[rid])
            await verb(units(rid, quantity, f"k{turn}"), TIMEOUT)
            await worker.rest()
            left += quantity if deed == "parcel" else 0
            open_units[rid] -= quantity
            open_units = {key: rest for key, rest in open_units.items() if rest}
        elif deed in ("erp", "count"):
            then = chance.choice(seen[-8:])
            sequence += 1
            late += then != seen[-1]
            taken = then.confirmed - then.cancelled if deed == "erp" else then.fulfilled
            reply = await tell(world, INITIAL - taken, taken, sequence)
            assert reply.outcome in (Outcome.DONE, Outcome.UNCHANGED)
        row = await position(world)
        assert (row.on_hand, row.committed) == (INITIAL - left, sum(open_units.values()))
    assert late
    await world.check()


async def test_orders_since_the_figure_still_count(world: World) -> None:
    """Ten there, three ordered when the ERP said seven; two more ordered before it is heard."""
    await world.stock(A=10, B=10)
    worker = world.worker()
    await order(worker, "before", 3)
    await order(worker, "after", 2)

    told = await tell(world, 7, 3, 1)

    assert (told.on_hand, told.ats) == (10, 5)


async def test_a_figure_that_took_off_more_than_was_ordered_is_refused(world: World) -> None:
    """Its totals are not this position's; the position stays, and its last report with it."""
    await world.stock(A=10, B=10)
    await order(world.worker(), "r", 3)
    assert (await tell(world, 7, 3, 1)).outcome == Outcome.UNCHANGED
    before = await position(world)

    refused = await tell(world, 6, 4, 2)

    assert (refused.outcome, refused.on_hand, refused.ats) == (Outcome.MORE_THAN_ORDERED, 10, 7)
    assert await position(world) == before


async def test_a_figure_that_passes_the_largest_count_is_refused(world: World) -> None:
    await world.stock(A=10, B=10)
    await order(world.worker(), "r", 3)

    refused = await tell(world, QUANTITY_MAX - 2, 3, 1)

    assert (refused.outcome, refused.on_hand) == (Outcome.ABOVE_MAXIMUM, 10)
    assert (await tell(world, QUANTITY_MAX - 3, 3, 1)).on_hand == QUANTITY_MAX


async def test_what_a_figure_lacks_beyond_the_building_is_owed(world: World) -> None:
    """Three of ten have left; the ERP, which took them off, says that four more are gone than there
    ever were. None is here, four are owed, and a receipt of six leaves two."""
    await world.stock(A=10, B=10)
    worker = world.worker()
    await order(worker, "r", 3)
    await worker.reservations.changes.fulfill(ChangeCommand(reservation_id="r"), TIMEOUT)
    await worker.rest()

    told = await tell(world, -4, 3, 1)
    receipt = AdjustRow("A", "n1", "", 6, "receipt", "x")
    after = (await world.index.adjust_supply(world.shard("A"), [receipt], TIMEOUT))[0]

    assert (told.on_hand, told.shortage) == (0, 4)
    assert (after.on_hand, after.ats, after.shortage) == (2, 2, 0)


async def test_a_figure_of_all_that_stands_there_is_net_of_the_orders_of_buckets(
    world: World,
) -> None:
    """Four of a bucket were ordered before its five came, and three of five here; one of these has
    left. The building has nine; the ERP took all seven off what there was, and says three."""
    await world.stock(A=5, B=5)
    shard, worker = world.shard("A"), world.worker()
    row = SupplyRow("A", "n1", "po-1", 5, 0, "", 0, world.clock.now + DAY_MS)
    await world.index.sync_supply(shard, [row], TIMEOUT)
    await order(worker, "here", 3)
    await hold(world, "later", "po-1", 4)
    await resolve(world, "later", State.CONFIRMED)
    await world.index.sync_supply(shard, [row._replace(arrival_ms=ARRIVED)], TIMEOUT)
    await worker.reservations.changes.fulfill(units("here", 1, "parcel"), TIMEOUT)
    await worker.rest()

    told = await tell(world, 3, 7, 1, arrived_counted=1)

    assert (told.outcome, told.on_hand, told.ats) == (Outcome.UNCHANGED, 5, 3)


async def test_feeds_that_take_turns_need_no_memory_of_each_other(world: World) -> None:
    """An ERP and a warehouse report one position; the ERP's report comes again after the
    warehouse's, and after a parcel has left, and brings nothing back."""
    await world.stock(A=10, B=10)
    worker = world.worker()
    await order(worker, "r", 3)
    await tell(world, 7, 3, 1)
    await worker.reservations.changes.fulfill(ChangeCommand(reservation_id="r"), TIMEOUT)
    await worker.rest()
    row = SupplyRow("A", "n1", "", 7, 0, "wms", 1, 0, 0, 3)
    counted = (await world.index.sync_supply(world.shard("A"), [row], TIMEOUT))[0]

    again = await tell(world, 7, 3, 1)

    assert (counted.on_hand, again.on_hand, again.ats) == (7, 7, 7)


async def test_a_late_import_beside_quick_parcels_is_one_sum(world: World) -> None:
    """Ten; three of one order are imported, two of another left before the ERP heard of it: the
    figure is five, and it has taken off five."""
    await world.stock(A=10, B=10)
    worker = world.worker()
    await order(worker, "imported", 3)
    await order(worker, "quick", 2)
    await worker.reservations.changes.fulfill(ChangeCommand(reservation_id="quick"), TIMEOUT)
    await worker.rest()

    told = await tell(world, 5, 5, 1)

    assert (told.on_hand, told.ats) == (8, 5)


async def test_what_left_of_a_bucket_before_its_arrival_was_told_is_not_sold_again(
    world: World,
) -> None:
    """Six are expected, four are ordered and leave as soon as the truck is there. The feed says six
    once more, and then that six came: two are in the building each time."""
    shard = world.shard("A")

    async def bucket(arrival_ms: int) -> SupplyReply:
        row = SupplyRow("A", "n1", "po-1", 6, 0, "", 0, arrival_ms)
        return (await world.index.sync_supply(shard, [row], TIMEOUT))[0]

    await bucket(world.clock.now + DAY_MS)
    await hold(world, "r", "po-1", 4)
    await resolve(world, "r", State.CONFIRMED)
    gone = (LegLine("A", "n1", "po-1", 0, 4),)
    left = ReviseStep("r", 1, 0, State.CONFIRMED, State.FULFILLED, 1, 0, "{}", gone)
    assert (await world.index.revise(shard, [left], TIMEOUT))[0].outcome == Outcome.DONE

    still = await bucket(0)
    came = await bucket(ARRIVED)

    assert (still.on_hand, came.on_hand) == (2, 0)
    assert (await position(world)).on_hand == 2
