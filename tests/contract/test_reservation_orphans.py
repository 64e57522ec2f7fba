"""Legs whose claim never came, on reference ledgers and on the real Functions alike."""

from __future__ import annotations

from promise_svc.domain.reservation import (
    DOUBT_MS,
    ClaimDraft,
    CreateOutcome,
    CreateStep,
    LegLine,
    Outcome,
    State,
    TransitionOutcome,
)
from promise_svc.errors import NotFound
from tests.support.reservation_world import World, a_cart
from tests.support.shards import TIMEOUT

CART = ("A", "B", "C")
RID = "r-1"
ATTEMPT = 5
HOUR_MS = 3_600_000


async def orphan(world: World, sku: str = "A", attempt: int = ATTEMPT, rid: str = RID) -> None:
    """A worker died after it sent this leg and before it sent its claim."""
    line = LegLine(sku, "n1", "", 1)
    step = CreateStep(rid, attempt, "plan", HOUR_MS, 1, 1, (line,))
    reply = (await world.index.create(world.shard(sku), [step], TIMEOUT))[0]
    assert reply.outcome == Outcome.DONE


async def rounds(world: World) -> None:
    """The sweeper asks, then the resolver settles what was barred."""
    for milliseconds in (DOUBT_MS, 2_001):
        world.advance(milliseconds)
        await world.resolve_everything()


async def test_a_leg_whose_claim_never_came_is_let_go_long_before_its_time(world: World) -> None:
    await world.stock(A=1)
    await orphan(world)

    world.advance(DOUBT_MS - 1)
    await world.resolve_everything()
    early = await world.held_and_committed("A")
    await rounds(world)

    assert early == (1, 0)
    assert await world.held_and_committed("A") == (0, 0)
    await world.check()


async def test_a_claim_that_comes_after_its_leg_was_let_go_is_refused(world: World) -> None:
    """Else its worker would tell HELD without the leg; and nobody sees a reservation."""
    await world.stock(A=1, B=1)
    await orphan(world)
    world.advance(DOUBT_MS)
    await world.resolve_everything()

    draft = ClaimDraft("body", 0, (world.shard("A"), world.shard("B")), "{}")
    late = CreateStep(RID, ATTEMPT, "plan", HOUR_MS, 1, 1, (), draft)
    reply = (await world.index.create(world.shard(RID), [late], TIMEOUT))[0]
    await rounds(world)
    found: object = None
    try:
        found = await world.worker().reservations.get(RID, TIMEOUT)
    except NotFound:
        found = NotFound

    assert reply.outcome in (Outcome.STALE_ATTEMPT, Outcome.UNSETTLED)
    assert found is NotFound
    await world.check()


async def test_the_id_of_an_orphan_can_be_held_all_the_same(world: World) -> None:
    await world.stock(A=1, B=1, C=1)
    await orphan(world)
    await rounds(world)

    result = await world.worker().reservations.create(a_cart(RID, CART), TIMEOUT)

    assert result.outcome is CreateOutcome.HELD
    await world.check()


async def test_a_leg_beside_anothers_claim_is_let_go_and_the_other_stands(world: World) -> None:
    """The claim was refused for its body, and the worker died before it let the leg go."""
    await world.stock(A=1, B=1, C=1)
    worker = world.worker()
    await worker.reservations.create(a_cart(RID, ("B", "C")), TIMEOUT)
    await worker.rest()
    await orphan(world, attempt=2**52)

    await rounds(world)

    assert (await world.worker().reservations.get(RID, TIMEOUT)).state is State.HELD
    held = [await world.held_and_committed(sku) for sku in CART]
    assert held == [(0, 0), (1, 0), (1, 0)]
    await world.check()


async def test_a_hold_that_stands_is_asked_about_once_and_left_alone(world: World) -> None:
    await world.stock(A=1, B=1, C=1)
    worker = world.worker()
    await worker.reservations.create(a_cart(RID, CART, ttl_ms=HOUR_MS), TIMEOUT)
    await worker.rest()

    await rounds(world)
    world.advance(DOUBT_MS)
    shards = [world.shard(sku) for sku in CART]
    asked = [(await world.index.sweep(shard, 10, TIMEOUT)).doubtful for shard in shards]
    confirmed = await worker.reservations.confirm(RID, 0, None, TIMEOUT)

    assert asked == [(), (), ()]
    assert confirmed.outcome is TransitionOutcome.CONFIRMED
    await world.check()


async def test_a_leg_that_home_could_not_be_asked_about_is_named_again(world: World) -> None:
    await world.stock(A=1)
    await orphan(world)
    shard, named = world.shard("A"), []

    for _ in range(2):
        world.advance(DOUBT_MS)
        named.append((await world.index.sweep(shard, 10, TIMEOUT)).doubtful)
        named.append((await world.index.sweep(shard, 10, TIMEOUT)).doubtful)

    assert named == [(RID,), (), (RID,), ()]
