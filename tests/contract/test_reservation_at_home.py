"""Reservations whose home holds a leg, as the ids that our client mints have it."""

from __future__ import annotations

import itertools

import pytest

from promise_svc.application.several_shards.messages import Messages
from promise_svc.application.tasks import Deadline
from promise_svc.domain.reservation import State, TransitionOutcome
from tests.support.reservation_world import Died, World, a_cart
from tests.support.shards import TIMEOUT

CART = ("A", "B")


def minted(world: World) -> str:
    """An id whose home is A's shard."""
    assert world.shard("A") != world.shard("B")
    return next(f"r-{n}" for n in itertools.count() if world.shard(f"r-{n}") == world.shard("A"))


async def test_a_pinned_claim_has_its_own_leg_confirmed(world: World) -> None:
    """As soon as it is pinned nothing at home expires, and the decision moves the claim alone."""
    await world.stock(A=5, B=5)
    rid, home = minted(world), world.shard("A")
    await world.worker().reservations.create(a_cart(rid, CART), TIMEOUT)

    with pytest.raises(Died):
        await world.worker(dies_at=2).reservations.confirm(rid, 0, None, TIMEOUT)
    leg = (await world.index.read_legs(home, [rid], TIMEOUT))[0]
    claim = (await world.index.read_claims(home, [rid], TIMEOUT))[0].claim
    world.advance(60_000)
    await world.resolve_everything()

    assert (claim.state, leg.state) == (State.PINNED, State.CONFIRMED)
    assert [await world.held_and_committed(sku) for sku in CART] == [(0, 1)] * 2
    await world.check()


async def test_a_confirm_with_a_leg_at_home_commits_every_leg_once(world: World) -> None:
    await world.stock(A=5, B=5)
    rid, worker = minted(world), world.worker()
    await worker.reservations.create(a_cart(rid, CART), TIMEOUT)

    results = [await worker.reservations.confirm(rid, 0, None, TIMEOUT) for _ in range(2)]

    assert [result.outcome for result in results] == [TransitionOutcome.CONFIRMED] * 2
    assert [result.replayed for result in results] == [False, True]
    assert [await world.held_and_committed(sku) for sku in CART] == [(0, 1)] * 2
    await world.check()


async def test_a_confirm_that_comes_to_nothing_gives_back_what_home_had_confirmed(
    world: World,
) -> None:
    """The other leg had ended: home's, confirmed with the pin, goes back into stock."""
    await world.stock(A=5, B=5)
    rid, worker = minted(world), world.worker()
    await worker.reservations.create(a_cart(rid, CART, ttl_ms=1_000_000), TIMEOUT)
    await worker.rest()
    leg = (await world.index.read_legs(world.shard("B"), [rid], TIMEOUT))[0]
    await Messages(world.index).each(
        rid, leg.attempt, State.EXPIRED, [world.shard("B")], Deadline(TIMEOUT)
    )

    result = await worker.reservations.confirm(rid, 0, None, TIMEOUT)
    await worker.rest()

    assert result.outcome is TransitionOutcome.EXPIRED
    assert [await world.held_and_committed(sku) for sku in CART] == [(0, 0)] * 2
    await world.check()
