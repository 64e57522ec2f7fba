"""Supply on its way: a bucket has a limit of its own until it is here, and is here now then."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable

import pytest

from promise_svc.application.changed_lines import ChangeLine
from promise_svc.application.reservation_changes import ChangeCommand
from promise_svc.domain.inventory import ARRIVED, StockPosition
from promise_svc.domain.reservation import (
    AdjustRow,
    ClaimDraft,
    CreateOutcome,
    CreateStep,
    LegLine,
    Outcome,
    ResolveStep,
    State,
    SupplyReply,
    SupplyRow,
    TransitionOutcome,
)
from tests.support.reservation_world import World, a_cart
from tests.support.shards import TIMEOUT

DAY_MS = 86_400_000


async def tell(
    world: World, bucket: str, on_hand: int, arrival_ms: int = 0, safety: int = -1
) -> SupplyReply:
    """One row of a feed that numbers nothing."""
    row = SupplyRow("A", "n1", bucket, on_hand, safety, "", 0, arrival_ms)
    return (await world.index.sync_supply(world.shard("A"), [row], TIMEOUT))[0]


async def hold(world: World, rid: str, bucket: str, quantity: int) -> Outcome:
    """A hold of one bucket, all of it in the SKU's shard."""
    shard = world.shard("A")
    line = LegLine("A", "n1", bucket, quantity)
    draft = ClaimDraft("x", 0, (shard,), "{}")
    step = CreateStep(rid, 1, "p", 60_000, 0, 0, (line,), draft)
    return Outcome((await world.index.create(shard, [step], TIMEOUT))[0].outcome)


async def resolve(world: World, rid: str, target: State) -> None:
    await world.index.resolve(world.shard("A"), [ResolveStep(rid, target)], TIMEOUT)


async def rows(world: World) -> dict[str, StockPosition]:
    _, _, images = await world.index.read_positions(world.shard("A"), ["A"], TIMEOUT)
    return {image.bucket: image.row for image in images[0]}


def counts_of_all(world: World) -> Callable[[int], Awaitable[SupplyReply]]:
    """Counts of all that stands at the node, each a report of its own."""
    numbers = itertools.count(1)

    async def count(on_hand: int) -> SupplyReply:
        row = SupplyRow("A", "n1", "", on_hand, -1, "wms", next(numbers), 0, 1)
        return (await world.index.sync_supply(world.shard("A"), [row], TIMEOUT))[0]

    return count


async def figures(world: World) -> dict[str, tuple[int, ...]]:
    """On hand, committed and held of each bucket."""
    return {bucket: row[:3] for bucket, row in (await rows(world)).items()}


async def test_a_bucket_is_sold_up_to_its_own_limit(world: World) -> None:
    """What is expected less what is withheld of it; stock here now neither helps nor suffers."""
    await tell(world, "", 5)
    await tell(world, "po-1", 10, DAY_MS, safety=7)

    told = [await hold(world, "r1", "po-1", 2), await hold(world, "r2", "po-1", 2)]
    told += [await hold(world, "r3", "po-1", 1), await hold(world, "r4", "", 5)]

    assert told == [Outcome.DONE, Outcome.INSUFFICIENT, Outcome.DONE, Outcome.DONE]
    assert await figures(world) == {"": (5, 0, 5), "po-1": (10, 0, 3)}


async def test_an_arrival_leaves_holds_where_they_are_and_frees_the_rest(world: World) -> None:
    """Two held and one ordered of ten: seven are stock here now, and the withheld ones too."""
    await tell(world, "", 1)
    await tell(world, "po-1", 8, DAY_MS, safety=4)
    await hold(world, "held", "po-1", 2)
    await hold(world, "ordered", "po-1", 1)
    await resolve(world, "ordered", State.CONFIRMED)

    arrived = await tell(world, "po-1", 10, ARRIVED)

    assert (arrived.outcome, arrived.on_hand, arrived.ats) == (Outcome.DONE, 3, 0)
    assert await figures(world) == {"": (8, 0, 0), "po-1": (3, 1, 2)}
    assert (await rows(world))["po-1"].arrival_ms == ARRIVED
    assert await hold(world, "later", "", 8) is Outcome.DONE
    assert await hold(world, "none", "po-1", 1) is Outcome.INSUFFICIENT


@pytest.mark.parametrize("how", ["released", "expired", "cancelled"])
async def test_what_an_arrived_bucket_gets_back_is_stock_here_now(world: World, how: str) -> None:
    """However it comes back; an expiry counts from its instant, before anybody sweeps."""
    await tell(world, "po-1", 3, DAY_MS)
    await hold(world, "r", "po-1", 2)
    if how == "cancelled":
        await resolve(world, "r", State.CONFIRMED)
    await tell(world, "po-1", 2, ARRIVED)
    assert (await figures(world))["po-1"][0] == 2

    if how == "expired":
        world.advance(60_000)
        assert await figures(world) == {"": (2, 0, 0), "po-1": (0, 0, 0)}
        await world.index.sweep(world.shard("A"), 10, TIMEOUT)
    else:
        await resolve(world, "r", State.CANCELLED if how == "cancelled" else State.RELEASED)

    assert await figures(world) == {"": (2, 0, 0), "po-1": (0, 0, 0)}
    assert await hold(world, "next", "", 2) is Outcome.DONE


async def test_a_count_of_all_that_stands_at_a_node_leaves_out_what_is_owed(world: World) -> None:
    """Ten came, four of them are a cart's: who counts ten finds six to sell while it waits. Who
    counts two says that two are missing, until the next count."""
    count = counts_of_all(world)
    await tell(world, "po-1", 10, world.clock.now + DAY_MS)
    assert await hold(world, "r1", "po-1", 4) is Outcome.DONE
    assert (await count(3)).on_hand == 3  # on its way yet: not among what is counted
    await tell(world, "po-1", 10, ARRIVED)

    owed, fewer = await count(10), await count(2)
    assert (owed.on_hand, owed.ats) == (6, 6)
    assert (fewer.on_hand, fewer.ats, fewer.shortage) == (0, 0, 2)
    assert (await figures(world))["po-1"] == (4, 0, 4)
    await count(10)
    await resolve(world, "r1", State.RELEASED)
    assert await figures(world) == {"": (10, 0, 0), "po-1": (0, 0, 0)}
    assert (await count(10)).outcome == Outcome.UNCHANGED


async def test_what_a_count_of_all_does_not_find_is_sold_to_nobody(world: World) -> None:
    """Two carts have two units each of four, and three are counted: what the first gives back goes
    to the second, one unit of it, and only the other is free. A receipt pays it as well."""
    count = counts_of_all(world)
    for bucket, pays in (("po-1", False), ("po-2", True)):
        await tell(world, bucket, 4, world.clock.now + DAY_MS)
        for name in "ab":
            assert await hold(world, bucket + name, bucket, 2) is Outcome.DONE
        await tell(world, bucket, 4, ARRIVED)
        fewer = await count(3)
        if pays:
            receipt = AdjustRow("A", "n1", "", 1, "receipt", "x")
            await world.index.adjust_supply(world.shard("A"), [receipt], TIMEOUT)
        await resolve(world, bucket + "a", State.RELEASED)

        there = (await rows(world))[""]
        assert (fewer.on_hand, fewer.ats, fewer.shortage) == (0, 0, 1)
        assert (there.on_hand, there.committed) == (2 if pays else 1, 0)
        await resolve(world, bucket + "b", State.RELEASED)
        await world.check()


async def test_a_count_of_all_says_once_what_a_short_bucket_lacks(world: World) -> None:
    """Four were sold of it and three came: that one lacks shows there. Who counts two finds one
    less than came; who counts four, nothing missing and nothing to sell."""
    count = counts_of_all(world)
    await tell(world, "po-1", 4, world.clock.now + DAY_MS)
    assert await hold(world, "r1", "po-1", 4) is Outcome.DONE
    assert (await tell(world, "po-1", 3, ARRIVED)).shortage == 1

    counted = [await count(units) for units in (2, 3, 4, 5)]

    assert [(x.on_hand, x.shortage) for x in counted] == [(0, 1), (0, 0), (0, 0), (1, 0)]


async def test_a_count_of_all_leaves_out_what_a_short_bucket_lacks_too(world: World) -> None:
    """Eight were sold of it and five came: of twenty that stand there, twelve are free."""
    await tell(world, "po-1", 10, world.clock.now + DAY_MS)
    assert await hold(world, "r1", "po-1", 8) is Outcome.DONE
    await resolve(world, "r1", State.CONFIRMED)
    await tell(world, "po-1", 5, ARRIVED)

    row = SupplyRow("A", "n1", "", 20, -1, "wms", 1, 0, 1)
    counted = (await world.index.sync_supply(world.shard("A"), [row], TIMEOUT))[0]

    assert (counted.on_hand, counted.ats) == (12, 12)


async def test_less_may_come_than_was_sold(world: World) -> None:
    """The shortage shows at the bucket; stock here now keeps what it has. What comes later pays it
    first, and only the rest is free."""
    await tell(world, "", 1)
    await tell(world, "po-1", 5, DAY_MS)
    await hold(world, "r", "po-1", 5)

    short = await tell(world, "po-1", 3, ARRIVED)
    late = AdjustRow("A", "n1", "po-1", 4, "late", "x")
    paid = (await world.index.adjust_supply(world.shard("A"), [late], TIMEOUT))[0]

    assert (short.on_hand, short.shortage) == (3, 2)
    assert (paid.outcome, paid.on_hand, paid.shortage) == (Outcome.DONE, 5, 0)
    assert await figures(world) == {"": (3, 0, 0), "po-1": (5, 0, 5)}


async def test_an_arrival_pays_what_was_sold_short_here(world: World) -> None:
    """Units sold at a till without stock take from what arrives, as from any receipt."""
    sale = AdjustRow("A", "n1", "", -2, "till", "x", sale=1)
    await world.index.adjust_supply(world.shard("A"), [sale], TIMEOUT)

    await tell(world, "po-1", 3, ARRIVED)

    assert (await rows(world))[""][:3] == (1, 0, 0)


async def test_a_bucket_arrives_once(world: World) -> None:
    """Told again it is unchanged and nothing doubles; counted again it is refused. A date may
    change until then, and a report that leaves it out keeps it."""
    assert (await tell(world, "po-1", 4, DAY_MS)).outcome == Outcome.DONE
    assert (await tell(world, "po-1", 4)).outcome == Outcome.UNCHANGED
    assert (await tell(world, "po-1", 4, 2 * DAY_MS)).outcome == Outcome.DONE
    assert (await rows(world))["po-1"].arrival_ms == 2 * DAY_MS

    told = [(await tell(world, "po-1", 4, at)).outcome for at in (ARRIVED, ARRIVED, DAY_MS, 0)]

    already = Outcome.ALREADY_ARRIVED
    assert told == [Outcome.DONE, Outcome.UNCHANGED, already, already]
    assert await figures(world) == {"": (4, 0, 0), "po-1": (0, 0, 0)}


async def test_a_reservation_takes_from_a_bucket_where_it_may(world: World) -> None:
    """One unit here, four on their way: the rest of a line waits, up to the limit, and says for
    what. Sent again, the answer is the same."""
    worker, at = world.worker(), world.clock.now_ms() + DAY_MS
    for bucket, units, arrival_ms in (("", 1, 0), ("po-1", 4, at)):
        await tell(world, bucket, units, arrival_ms)
        world.table.put("A", "n1", units, bucket=bucket, arrival_ms=arrival_ms)

    plain = await worker.reservations.create(a_cart("plain", ("A",), 3), TIMEOUT)
    cart = a_cart("later", ("A",), 3, allow_backorder=True)
    held = [await worker.reservations.create(cart, TIMEOUT) for _ in range(2)]
    more = await worker.reservations.create(
        a_cart("more", ("A",), 3, allow_backorder=True), TIMEOUT
    )
    await worker.rest()

    assert plain.outcome is more.outcome is CreateOutcome.INSUFFICIENT_STOCK
    assert [x.replayed for x in held] == [False, True]
    for result in held:
        assert result.reservation is not None
        parts = result.reservation.lines[0].planned_units
        assert [x[:3] for x in parts] == [("n1", "", 1), ("n1", "po-1", 2)]
    assert await figures(world) == {"": (1, 0, 1), "po-1": (4, 0, 2)}


async def test_a_change_takes_back_what_waits_and_grows_from_stock_here(world: World) -> None:
    """Amended down, the units on their way go first; amended up, they come from what is here: no
    unit changes its kind unasked."""
    worker, at = world.worker(), world.clock.now_ms() + DAY_MS
    for bucket, units, arrival_ms in (("", 2, 0), ("po-1", 4, at)):
        await tell(world, bucket, units, arrival_ms)
        world.table.put("A", "n1", units, bucket=bucket, arrival_ms=arrival_ms)
    await worker.reservations.create(a_cart("r", ("A",), 4, allow_backorder=True), TIMEOUT)

    async def amend(quantity: int) -> TransitionOutcome:
        lines = (ChangeLine("l0", quantity),)
        command = ChangeCommand(reservation_id="r", lines=lines)
        result = await worker.reservations.changes.amend(command, TIMEOUT)
        await worker.rest()
        return result.outcome

    assert await amend(3) is TransitionOutcome.AMENDED
    assert await figures(world) == {"": (2, 0, 2), "po-1": (4, 0, 1)}
    assert await amend(4) is TransitionOutcome.INSUFFICIENT_STOCK
    await tell(world, "", 3)
    assert await amend(4) is TransitionOutcome.AMENDED
    assert await figures(world) == {"": (3, 0, 3), "po-1": (4, 0, 1)}
