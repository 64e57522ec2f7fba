"""Confirming what had ended by the clock, when the money was taken already."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from promise_svc.application.transition import TransitionResult
from promise_svc.domain.network import NodeStatus
from promise_svc.domain.reservation import CreateOutcome, State, TransitionOutcome
from tests.support.networks import a_node, a_snapshot
from tests.support.reservation_world import NODES, Died, Worker, World, a_cart
from tests.support.shards import TIMEOUT

CART = ("A", "B", "C")
RID = "r-1"


async def confirm(worker: Worker, rid: str = RID, *, reacquire: bool = True) -> TransitionResult:
    result = await worker.reservations.confirm(rid, 0, None, TIMEOUT, reacquire=reacquire)
    await worker.rest()
    return result


async def expired(world: World, rid: str = RID, skus: tuple[str, ...] = CART) -> Worker:
    worker = world.worker()
    await worker.reservations.create(a_cart(rid, skus, ttl_ms=1_000), TIMEOUT)
    await worker.rest()
    world.advance(1_000)
    return worker


@pytest.mark.parametrize("swept", [False, True])
@pytest.mark.parametrize("skus", [CART, ("A",)], ids=["several shards", "one SKU"])
async def test_units_that_are_still_there_are_sold_after_all(
    world: World, skus: tuple[str, ...], swept: bool
) -> None:
    await world.stock(A=1, B=1, C=1)
    worker = await expired(world, skus=skus)
    if swept:
        await world.resolve_everything()

    plain = await confirm(worker, reacquire=False)
    result = await confirm(worker)
    again = await confirm(worker)

    assert plain.outcome is TransitionOutcome.EXPIRED
    assert (result.outcome, result.replayed) == (TransitionOutcome.CONFIRMED, False)
    assert (again.outcome, again.replayed) == (TransitionOutcome.CONFIRMED, True)
    assert [await world.held_and_committed(sku) for sku in skus] == [(0, 1)] * len(skus)
    await world.check()


async def test_it_was_made_when_it_was_first_held(world: World) -> None:
    """Also once it was taken again: the same call again gets the same answer."""
    await world.stock(A=1, B=1, C=1)
    worker = await expired(world)
    before = await worker.reservations.get(RID, TIMEOUT)

    result = await confirm(worker)

    assert result.outcome is TransitionOutcome.CONFIRMED
    assert result.reservation.create_ms == before.create_ms


async def test_a_node_that_is_off_sells_nothing_again(world: World) -> None:
    """Its units may be there: nobody sends them. Switched on, they are sold after all."""
    await world.stock(A=1, B=1, C=1)
    worker, network = await expired(world), world.network.now
    world.network.now = a_snapshot(*map(a_node, NODES[1:]), a_node("n1", status=NodeStatus.OFF))

    off = await confirm(worker)
    world.network.now = network
    on = await confirm(worker)

    assert off.outcome is TransitionOutcome.EXPIRED
    assert on.outcome is TransitionOutcome.CONFIRMED


async def test_units_sold_to_another_meanwhile_are_not_sold_twice(world: World) -> None:
    """All or none; and the hold reads EXPIRED, as before."""
    await world.stock(A=1, B=1, C=1)
    worker = await expired(world)
    await worker.reservations.create(a_cart("rival", ("B",)), TIMEOUT)

    result = await confirm(worker)
    world.advance(2_001)
    await world.resolve_everything()

    assert result.outcome is TransitionOutcome.EXPIRED
    assert (await worker.reservations.get(RID, TIMEOUT)).state is State.EXPIRED
    held = [await world.held_and_committed(sku) for sku in CART]
    assert held == [(0, 0), (1, 0), (0, 0)]
    await world.check()


async def test_a_released_hold_is_not_taken_again(world: World) -> None:
    await world.stock(A=1, B=1, C=1)
    worker = world.worker()
    await worker.reservations.create(a_cart(RID, CART), TIMEOUT)
    await worker.reservations.release(RID, 0, None, TIMEOUT)

    result = await confirm(worker)

    assert result.outcome is TransitionOutcome.ALREADY_RELEASED


async def test_of_two_late_buyers_of_the_last_units_one_gets_them(world: World) -> None:
    await world.stock(A=1, B=1, C=1)
    await expired(world, "first")
    await expired(world, "second")

    results = await asyncio.gather(
        confirm(world.worker(), "first"), confirm(world.worker(), "second")
    )
    world.advance(2_001)
    await world.resolve_everything()

    outcomes = [result.outcome for result in results]
    assert outcomes.count(TransitionOutcome.CONFIRMED) <= 1
    assert set(outcomes) <= {TransitionOutcome.CONFIRMED, TransitionOutcome.EXPIRED}
    sold = int(TransitionOutcome.CONFIRMED in outcomes)
    assert [await world.held_and_committed(sku) for sku in CART] == [(0, sold)] * 3
    await world.check()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_worker_killed_while_it_takes_them_again_leaves_nothing_half_done(
    world: World, after: bool
) -> None:
    """Kill it at its first call, its second ...: a retry sells the units once, or they are free."""
    await world.stock(A=100, B=100, C=100)
    for dies_at in range(1, 20):
        rid = f"r-{dies_at}"
        await expired(world, rid)
        dying = world.worker(dies_at, after=after)
        with contextlib.suppress(Died):
            await confirm(dying, rid)
        await dying.rest()
        world.advance(2_001)
        await world.resolve_everything()
        await world.check()

        retry = await confirm(world.worker(), rid)
        assert retry.outcome is TransitionOutcome.CONFIRMED
        if not dying.index.dead:
            break
    assert not dying.index.dead, "it makes more calls than were tried"
    world.advance(2_001)
    await world.resolve_everything()
    assert [await world.held_and_committed(sku) for sku in CART] == [(0, dies_at)] * 3
    other = await world.worker().reservations.create(a_cart("next", CART), TIMEOUT)
    assert other.outcome is CreateOutcome.HELD
    await world.check()
