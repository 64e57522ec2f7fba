"""Shares of a position for segments: what others may not have, on ledgers and on Functions."""

from __future__ import annotations

from promise_svc.application.changed_lines import ChangeLine
from promise_svc.application.reservation_changes import ChangeCommand
from promise_svc.domain.inventory import PROTECTIONS_MAX, Protection, StockPosition
from promise_svc.domain.reservation import (
    CreateOutcome,
    Outcome,
    ProtectRow,
    SupplyRow,
    TransitionOutcome,
)
from tests.support.reservation_world import World, a_cart
from tests.support.shards import TIMEOUT

HELD, SHORT = CreateOutcome.HELD, CreateOutcome.INSUFFICIENT_STOCK


async def protect(world: World, level: int, segment: str = "web") -> Outcome:
    row = ProtectRow("A", "n1", "", segment, level)
    return Outcome((await world.index.protect(world.shard("A"), [row], TIMEOUT))[0].outcome)


async def hold(world: World, rid: str, units: int, segment: str = "") -> CreateOutcome:
    cart = a_cart(rid, ("A",), units, segment=segment, ttl_ms=1_000)
    return (await world.worker().reservations.create(cart, TIMEOUT)).outcome


async def shares(world: World) -> tuple[Protection, ...]:
    _, _, (images,) = await world.index.read_positions(world.shard("A"), ["A"], TIMEOUT)
    return tuple(Protection(*share[:3]) for share in images[0].row.protected)


async def test_nobody_else_is_sold_what_is_protected(world: World) -> None:
    """Ten units, six for web: four for anybody, and web has the six whatever others want."""
    await world.stock(A=10)
    assert await protect(world, 6) is Outcome.DONE

    assert await hold(world, "r1", 5) is SHORT
    assert await hold(world, "r2", 4) is HELD
    assert await hold(world, "r3", 1, "store") is SHORT
    assert await hold(world, "r4", 6, "web") is HELD
    assert await hold(world, "r5", 1, "web") is SHORT


async def test_a_segment_draws_on_its_own_share_first(world: World) -> None:
    """Four sold to web of its six leave two protected: what others may have is as before."""
    await world.stock(A=10)
    await protect(world, 6)

    assert await hold(world, "r1", 4, "web") is HELD

    assert await shares(world) == (Protection("web", 6, 4),)
    assert await hold(world, "r2", 5) is SHORT
    assert await hold(world, "r3", 4) is HELD


async def test_what_a_segment_gives_back_returns_to_its_share(world: World) -> None:
    """By release, expiry, cancel and amendment; what left is gone."""
    await world.stock(A=10)
    await protect(world, 6)
    worker = world.worker()
    for rid in ("r1", "r2"):
        await hold(world, rid, 2, "web")
    await worker.reservations.release("r1", 0, None, TIMEOUT)
    assert await shares(world) == (Protection("web", 6, 2),)
    world.advance(1_001)
    assert await shares(world) == (Protection("web", 6, 0),)

    await hold(world, "r3", 5, "web")
    await worker.reservations.confirm("r3", 0, None, TIMEOUT)
    fewer = ChangeCommand(reservation_id="r3", lines=(ChangeLine("l0", 3),), idempotency_key="k1")
    amended = await worker.reservations.changes.amend(fewer, TIMEOUT)
    assert amended.outcome is TransitionOutcome.AMENDED
    assert await shares(world) == (Protection("web", 6, 3),)
    left = ChangeCommand(reservation_id="r3", lines=(ChangeLine("l0", 2),), idempotency_key="k2")
    await worker.reservations.changes.fulfill(left, TIMEOUT)
    await worker.reservations.cancel(ChangeCommand(reservation_id="r3"), TIMEOUT)

    assert await shares(world) == (Protection("web", 6, 2),)
    await world.check()


async def test_a_hold_older_than_the_share_gives_nothing_back_to_it(world: World) -> None:
    """It drew on nothing: the share is not fuller, nor others poorer, for its going. A share that
    ended and began again is another; what a hold gets later is of the shares it began with."""
    await world.stock(A=20)
    worker = world.worker()
    for rid in ("old", "older", "ordered"):
        await hold(world, rid, 2, "web")
    await worker.reservations.confirm("ordered", 0, None, TIMEOUT)
    await protect(world, 6)
    await hold(world, "new", 3, "web")

    await worker.reservations.release("old", 0, None, TIMEOUT)
    more = ChangeCommand(
        reservation_id="ordered", lines=(ChangeLine("l0", 4),), idempotency_key="k"
    )
    await worker.reservations.changes.amend(more, TIMEOUT)
    assert await shares(world) == (Protection("web", 6, 3),)
    await worker.reservations.cancel(ChangeCommand(reservation_id="ordered"), TIMEOUT)
    world.advance(1_001)
    assert await shares(world) == (Protection("web", 6, 0),)
    await hold(world, "newer", 5, "web")
    await protect(world, 0)
    await protect(world, 6)
    await hold(world, "newest", 1, "web")
    await worker.reservations.release("newer", 0, None, TIMEOUT)

    assert await shares(world) == (Protection("web", 6, 1),)
    assert await hold(world, "others", 15) is SHORT
    assert await hold(world, "fewer", 14) is HELD
    await world.check()


async def test_a_feed_of_counts_does_not_break_the_split(world: World) -> None:
    """An absolute count, lower and higher: the share stands, of what is there."""
    await world.stock(A=10)
    await protect(world, 6)
    for on_hand, for_all in ((4, 0), (20, 14)):
        row = SupplyRow("A", "n1", "", on_hand, -1, "erp", on_hand)
        reply = (await world.index.sync_supply(world.shard("A"), [row], TIMEOUT))[0]
        assert (reply.ats, reply.shortage) == (for_all, 0)
    assert await shares(world) == (Protection("web", 6, 0),)


async def test_a_share_changes_its_level_and_keeps_what_it_has_taken(world: World) -> None:
    """The same level is no event; 0 ends it; at most so many segments."""
    await world.stock(A=40)
    await protect(world, 6)
    await hold(world, "r1", 4, "web")
    before = (await world.index.read_positions(world.shard("A"), ["A"], TIMEOUT))[0]

    assert await protect(world, 6) is Outcome.UNCHANGED
    assert (await world.index.read_positions(world.shard("A"), ["A"], TIMEOUT))[0] == before
    assert await protect(world, 9) is Outcome.DONE
    assert await shares(world) == (Protection("web", 9, 4),)
    assert await protect(world, 0) is Outcome.DONE
    assert await shares(world) == ()

    for number in range(PROTECTIONS_MAX):
        assert await protect(world, 1, f"s{number}") is Outcome.DONE
    assert await protect(world, 1, "one-more") is Outcome.TOO_MANY_SEGMENTS
    assert await protect(world, 2, "s3") is Outcome.DONE


async def test_a_replaced_hold_gives_its_share_to_no_other_segment(world: World) -> None:
    """Three units, two of them web's and held for web: a store's hold in its place gets one."""
    await world.stock(A=3)
    await protect(world, 2)
    await hold(world, "old", 2, "web")

    async def replaced(rid: str, units: int, segment: str) -> CreateOutcome:
        cart = a_cart(rid, ("A",), units, segment=segment, replaces="old")
        return (await world.worker().reservations.create(cart, TIMEOUT)).outcome

    assert await replaced("for-store", 2, "store") is SHORT
    assert await replaced("for-web", 3, "web") is HELD
    await world.resolve_everything()
    assert await shares(world) == (Protection("web", 2, 3),)


async def test_a_named_node_gives_a_segment_its_share_before_supply_on_its_way(
    world: World,
) -> None:
    """Eight of ten here, four of them web's: none of it waits for a delivery."""
    await world.stock(A=10)
    await protect(world, 4)
    bucket = SupplyRow("A", "n1", "po-1", 10, 0, "erp", 1, world.clock.now + 86_400_000)
    await world.index.sync_supply(world.shard("A"), [bucket], TIMEOUT)
    share = (Protection("web", 4),)
    world.table.put("A", "n1", 10, safety_stock=4)
    world.table.kept["A"] = {("n1", ""): StockPosition(10, protected=share)}
    world.table.put("A", "n1", 10, bucket="po-1", arrival_ms=world.clock.now + 86_400_000)

    cart = a_cart("r1", ("A",), 8, segment="web", allow_backorder=True)
    told = await world.worker().reservations.create(cart, TIMEOUT)

    assert told.outcome is HELD and told.reservation is not None
    places = [(x.bucket, x.quantity) for x in told.reservation.lines[0].planned_units]
    assert places == [("", 8)]
