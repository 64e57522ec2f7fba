"""What the doctor says of reservations that wait for their end, on ledgers and on Functions."""

from __future__ import annotations

import asyncio

import pytest

from promise_svc.cli.checks import unresolved_claims
from tests.support.reservation_world import Died, World, a_cart
from tests.support.shards import TIMEOUT

LONG_MS = 60_000


async def left_behind(world: World) -> None:
    """A worker dies between the steps of a hold."""
    await world.stock(A=9, B=9, C=9)
    worker = world.worker(dies_at=4)
    with pytest.raises(Died):
        await worker.reservations.create(a_cart("left", ("A", "B", "C")), TIMEOUT)
    await worker.rest()


async def test_a_reservation_that_nobody_finishes_is_named(world: World) -> None:
    """Once its end is overdue, until a resolver has been there."""
    await left_behind(world)
    shards = range(world.index.shard_count)
    assert await unresolved_claims(world.index, shards, 0) == []

    world.advance(LONG_MS)

    assert await unresolved_claims(world.index, shards, 0) == ["left"]
    await world.resolve_everything()
    assert await unresolved_claims(world.index, shards, 0) == []


async def test_one_that_is_finished_while_the_doctor_looks_is_no_finding(world: World) -> None:
    """It looks twice: between the two a server has done its work."""
    await left_behind(world)
    world.advance(LONG_MS)

    looking = asyncio.create_task(
        unresolved_claims(world.index, range(world.index.shard_count), 0.5)
    )
    await asyncio.sleep(0.1)
    await world.resolve_everything()

    assert await looking == []
