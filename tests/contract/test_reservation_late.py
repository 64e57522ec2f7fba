"""Messages of a worker that was slow come when the reservation has gone its way: they undo nothing,
on ledgers and on Functions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from promise_svc.application.changed_lines import ChangeLine
from promise_svc.application.reservation_changes import ChangeCommand
from promise_svc.application.resolver import Resolver
from promise_svc.domain.reservation import CreateOutcome, State, TransitionOutcome
from tests.support.reservation_world import Worker, World, a_cart
from tests.support.shards import TIMEOUT

CART = ("A", "B", "C")
RID = "r-1"


class Slow:
    """An index whose calls wait for ``go`` where ``holds`` is true of verb and shard."""

    def __init__(self, inner: Any, holds: Callable[[str, int], bool]) -> None:
        self._inner = inner
        self._holds = holds
        self.shard_count = inner.shard_count
        self.met, self.go = asyncio.Event(), asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        made = getattr(self._inner, name)
        if name == "seen":
            return made

        async def call(shard: int, *args: Any) -> Any:
            if self._holds(name, shard):
                self.met.set()
                await self.go.wait()
            return await made(shard, *args)

        return call


async def figures(world: World) -> list[tuple[int, int, int]]:
    """On hand, committed and held of each of the cart's SKUs."""
    found = []
    for sku in CART:
        _, _, images = await world.index.read_positions(world.shard(sku), [sku], TIMEOUT)
        row = next(image.row for image in images[0] if image.node_id == "n1")
        found.append((row.on_hand, row.committed, row.held))
    return found


async def pending(world: World) -> None:
    """A hold whose worker died before home was told that every leg stands; it is due for others."""
    await world.stock(A=9, B=9, C=9)
    worker = world.worker()
    worker.note_later()
    await worker.reservations.create(a_cart(RID, CART, 2), TIMEOUT)
    worker.index.dead = True
    await worker.tasks.close(0)
    world.advance(2_001)


async def settled(world: World) -> None:
    for _ in range(3):
        world.advance(11_000)
        await world.resolve_everything()
    for shard in range(world.index.shard_count):
        assert not await world.index.open_claims(shard, 9, TIMEOUT)
    await world.check()


@pytest.mark.parametrize("end", ["parcel", "cancel"])
async def test_a_resolver_that_is_late_lets_no_leg_of_an_order_go(world: World, end: str) -> None:
    """It has read PENDING; then the hold is confirmed, and its order ended: at one leg already,
    when the resolver asks, at the others not yet."""
    await pending(world)
    slow = Slow(world.index, lambda verb, _: verb == "follow")
    resolver = Worker(world, slow)  # type: ignore[arg-type]
    resolving = asyncio.create_task(Resolver(slow, resolver.tasks).resolve(world.shard(RID)))  # type: ignore[arg-type]
    await slow.met.wait()
    worker = world.worker()
    await worker.reservations.confirm(RID, 0, None, TIMEOUT)
    await worker.rest()
    at_b = Slow(
        world.index, lambda verb, s: verb in ("conform", "follow") and s == world.shard("B")
    )
    ender = Worker(world, at_b)  # type: ignore[arg-type]
    command = ChangeCommand(reservation_id=RID)
    verb = (
        ender.reservations.changes.fulfill(command, TIMEOUT)
        if end == "parcel"
        else ender.reservations.cancel(command, TIMEOUT)
    )
    ending = asyncio.create_task(verb)
    await at_b.met.wait()
    while (await figures(world))[2][1]:
        await asyncio.sleep(0)

    slow.go.set()
    await resolving
    await resolver.rest()
    at_b.go.set()
    told = await ending
    await ender.rest()

    done = TransitionOutcome.FULFILLED if end == "parcel" else TransitionOutcome.CANCELLED
    assert told.outcome is done
    assert await figures(world) == [(7 if end == "parcel" else 9, 0, 0)] * 3
    await settled(world)


async def test_a_create_sent_again_that_is_late_lets_no_leg_of_an_order_go(world: World) -> None:
    """Home has told the retry PENDING; its messages to the legs come when a parcel has left."""
    await pending(world)
    slow = Slow(world.index, lambda verb, s: verb == "create" and s != world.shard(RID))
    retrier = Worker(world, slow)  # type: ignore[arg-type]
    retrying = asyncio.create_task(retrier.reservations.create(a_cart(RID, CART, 2), TIMEOUT))
    await slow.met.wait()
    worker = world.worker()
    await worker.reservations.confirm(RID, 0, None, TIMEOUT)
    await worker.rest()
    at_b = Slow(world.index, lambda verb, s: verb == "conform" and s == world.shard("B"))
    ender = Worker(world, at_b)  # type: ignore[arg-type]
    ending = asyncio.create_task(
        ender.reservations.changes.fulfill(ChangeCommand(reservation_id=RID), TIMEOUT)
    )
    await at_b.met.wait()
    while (await figures(world))[2][1]:
        await asyncio.sleep(0)

    slow.go.set()
    told = await retrying
    await retrier.rest()
    at_b.go.set()
    left = await ending
    await ender.rest()

    assert left.outcome is TransitionOutcome.FULFILLED
    assert told.outcome is CreateOutcome.HELD
    assert await figures(world) == [(7, 0, 0)] * 3
    await settled(world)


async def test_an_extended_hold_lives_as_long_as_was_told_whatever_its_first_try_left(
    world: World,
) -> None:
    """Another's change comes between an extension and its decision: it is computed anew. What sets
    the legs of the first try back comes after the second has made them live longer."""
    await world.stock(A=9, B=9, C=9)
    first = world.worker()
    await first.reservations.create(a_cart(RID, CART, 2, ttl_ms=5_000), TIMEOUT)
    await first.rest()
    set_back = asyncio.Event()
    late: list[asyncio.Task[Any]] = []
    tries = 0

    class Overtaken(Slow):
        async def revise(self, shard: int, steps: Any, timeout: float) -> Any:
            nonlocal tries
            tries += 1
            if tries == 1:
                other = world.worker()
                command = ChangeCommand(
                    reservation_id=RID, idempotency_key="k", lines=(ChangeLine("l0", 1),)
                )
                await other.reservations.changes.amend(command, TIMEOUT)
                await other.rest()
            elif tries == 2:
                set_back.set()
                await asyncio.gather(*late)
            return await world.index.revise(shard, steps, timeout)

        async def conform(self, shard: int, steps: Any, timeout: float) -> Any:
            if steps[0].lines and not set_back.is_set():
                late.append(asyncio.ensure_future(self._once(shard, steps, timeout)))
                return await late[-1]
            return await world.index.conform(shard, steps, timeout)

        async def _once(self, shard: int, steps: Any, timeout: float) -> Any:
            await set_back.wait()
            return await world.index.conform(shard, steps, timeout)

    worker = Worker(world, Overtaken(world.index, lambda *_: False))  # type: ignore[arg-type]
    told = await worker.reservations.changes.extend(RID, 60_000, 900_000, 0, None, TIMEOUT)
    await worker.rest()
    world.advance(10_000)

    assert told.outcome is TransitionOutcome.EXTENDED
    assert late
    for sku in CART:
        (leg,) = await world.index.read_legs(world.shard(sku), [RID], TIMEOUT)
        assert leg and leg.state == State.HELD, sku
    confirmed = await world.worker().reservations.confirm(RID, 0, None, TIMEOUT)
    assert confirmed.outcome is TransitionOutcome.CONFIRMED
