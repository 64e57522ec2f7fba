"""A hold that takes the place of an older one of its owner: one of the two stands, always."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable
from typing import Any

import pytest

from promise_svc.application.reservation import CreateResult
from promise_svc.application.reservation_changes import ChangeCommand
from promise_svc.domain.reservation import CreateOutcome, ResolveStep, State, TransitionOutcome
from promise_svc.errors import NotFound, PromiseServiceError
from tests.support.reservation_world import Died, Worker, World, a_cart
from tests.support.shards import TIMEOUT

OLD, NEW = "old", "new"
BEFORE, AFTER = (State.HELD, None), (State.SUPERSEDED, State.HELD)
CALLS_MAX = 20
"""More than a replacement over three shards sends."""


async def state_of(world: World, rid: str) -> State | None:
    try:
        return (await world.worker().reservations.get(rid, TIMEOUT)).state
    except NotFound:
        return None


async def states(world: World) -> tuple[State | None, State | None]:
    return await state_of(world, OLD), await state_of(world, NEW)


async def held_before(world: World, *, on_hand: int = 3, **other: Any) -> None:
    """Two units of A and B are held, of three."""
    await world.stock(A=on_hand, B=on_hand, C=9)
    worker = world.worker()
    held = await worker.reservations.create(a_cart(OLD, ("A", "B"), 2, **other), TIMEOUT)
    assert held.outcome is CreateOutcome.HELD
    await worker.rest()


def replacing(worker: Worker, quantity: int = 3, **other: Any) -> Awaitable[CreateResult]:
    """More of A than is left beside the old hold, and C instead of B."""
    cart = a_cart(NEW, ("A", "C"), quantity, **{"replaces": OLD, **other})
    return worker.reservations.create(cart, TIMEOUT)


async def units(world: World) -> list[int]:
    return [(await world.held_and_committed(sku))[0] for sku in "ABC"]


async def test_a_shopper_is_not_blocked_by_their_own_older_hold(world: World) -> None:
    """Two of three units are their own: all three can be held in their place, and no more."""
    await held_before(world)
    worker = world.worker()

    refused = await replacing(worker, 4)
    kept = await states(world), await units(world)
    held = await replacing(worker)
    await worker.rest()

    told = {line.line_id: (line.outcome, line.ats) for line in refused.lines}
    assert told["l0"] == (CreateOutcome.INSUFFICIENT_STOCK, 3)
    assert kept == (BEFORE, [2, 2, 0])
    assert held.outcome is CreateOutcome.HELD
    assert held.reservation and held.reservation.replaces == OLD
    assert await states(world) == AFTER
    old = await worker.reservations.get(OLD, TIMEOUT)
    assert old.replaced_by == NEW
    assert await units(world) == [3, 0, 3]
    await world.check()


async def test_one_shard_is_enough(world: World) -> None:
    """Claim, leg and older hold may all live in one shard: it is decided the same way."""
    await world.stock(A=2)
    worker = world.worker()
    home = world.shard("A")
    ids = [f"r{n}" for n in range(2_000) if world.shard(f"r{n}") == home][:2]
    await worker.reservations.create(a_cart(ids[0], ("A",), 2), TIMEOUT)

    held = await worker.reservations.create(a_cart(ids[1], ("A",), 2, replaces=ids[0]), TIMEOUT)
    confirmed = await worker.reservations.confirm(ids[1], 0, None, TIMEOUT)

    assert held.outcome is CreateOutcome.HELD
    assert confirmed.outcome is TransitionOutcome.CONFIRMED
    assert await state_of(world, ids[0]) is State.SUPERSEDED
    assert await world.held_and_committed("A") == (0, 2)
    await world.check()


@pytest.mark.parametrize("world", ["ledger"], indirect=True)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("resolved", [False, True], ids=["retried", "resolved"])
async def test_whichever_message_the_worker_dies_at_one_of_the_two_stands(
    world: World, after: bool, resolved: bool
) -> None:
    """Killed before or after each message, then retried, or left to the resolver first: what
    stands is the old hold alone or the new one alone, and the retry gets the new one."""
    seen = set()
    for dies_at in range(1, CALLS_MAX):
        old, new = f"{OLD}-{dies_at}", f"{NEW}-{dies_at}"
        await world.stock(A=3, B=3, C=3)
        await world.worker().reservations.create(a_cart(old, ("A", "B"), 2), TIMEOUT)
        cart = a_cart(new, ("A", "C"), 3, replaces=old)
        mortal = world.worker(dies_at, after=after)
        with contextlib.suppress(Died):
            await mortal.reservations.create(cart, TIMEOUT)
            await mortal.rest()
        if resolved:
            world.advance(10_001)  # a leg without its claim is asked about, too
            await world.resolve_everything()
            stand = await state_of(world, old), await state_of(world, new)
            assert stand in (BEFORE, AFTER), dies_at
            assert await units(world) == ([2, 2, 0] if stand == BEFORE else [3, 0, 3]), dies_at
            await world.check()
            seen.add(stand)
        survivor = world.worker()

        again = await survivor.reservations.create(cart, TIMEOUT)
        await survivor.rest()
        world.advance(2_001)
        await world.resolve_everything()

        assert again.outcome is CreateOutcome.HELD, dies_at
        assert (await state_of(world, old), await state_of(world, new)) == AFTER, dies_at
        assert await units(world) == [3, 0, 3], dies_at
        await world.check()
        await survivor.reservations.release(new, 0, None, TIMEOUT)
        await survivor.rest()
        if not mortal.index.dead:
            break
    else:
        pytest.fail("a replacement sends more messages than were tried")
    assert not resolved or seen == {BEFORE, AFTER}


class Meanwhile:
    """An index that does something else right before its nth call."""

    def __init__(self, world: World, nth: int, work: Any) -> None:
        self._inner = world.index
        self._left = nth
        self._work = work
        self.shard_count = world.index.shard_count

    def seen(self, shard: int) -> Any:
        return self._inner.seen(shard)

    def __getattr__(self, verb: str) -> Any:
        async def call(shard: int, *args: Any) -> Any:
            self._left -= 1
            if self._left == 0:
                await self._work()
            return await getattr(self._inner, verb)(shard, *args)

        return call


OTHER_WORK = [
    "confirm",
    "release",
    "extend",
    "cancel",
    "amend",
    "expire",
    "get",
    "replace",
    "retry",
]


@pytest.mark.parametrize("world", ["ledger"], indirect=True)
@pytest.mark.parametrize("other", OTHER_WORK)
async def test_whatever_else_happens_to_either_meanwhile_one_of_the_two_stands(
    world: World, other: str
) -> None:
    """Before each message something else is done with the old hold or the new one, whole: never
    do both stand, and never neither while nobody let go."""
    for nth in range(1, CALLS_MAX):
        old, new, third = f"{OLD}-{nth}", f"{NEW}-{nth}", f"third-{nth}"
        await world.stock(A=3, B=3, C=3)
        maker = world.worker()
        await maker.reservations.create(a_cart(old, ("A", "B"), 2, ttl_ms=60_000), TIMEOUT)
        await maker.rest()
        cart = a_cart(new, ("A", "C"), 3, replaces=old)
        does = world.worker().reservations
        more = ChangeCommand(reservation_id=old, idempotency_key="k", lines=())

        async def work(
            does: Any = does, old: str = old, new: str = new, third: str = third,
            cart: Any = cart, more: Any = more,
        ) -> None:  # fmt: skip
            if other == "expire":
                world.advance(60_000)
                return
            with contextlib.suppress(PromiseServiceError):
                await {
                    "confirm": lambda: does.confirm(old, 0, None, TIMEOUT),
                    "release": lambda: does.release(old, 0, None, TIMEOUT),
                    "extend": lambda: does.changes.extend(old, 90_000, 900_000, 0, None, TIMEOUT),
                    "cancel": lambda: does.release(new, 0, None, TIMEOUT),
                    "amend": lambda: does.changes.cancel(more, TIMEOUT),
                    "get": lambda: does.get(new, TIMEOUT),
                    "replace": lambda: does.create(
                        a_cart(third, ("A", "B"), 3, replaces=old), TIMEOUT
                    ),
                    "retry": lambda: does.create(cart, TIMEOUT),
                }[other]()

        index = Meanwhile(world, nth, work)
        worker = world.worker()
        worker.index._inner = index
        with contextlib.suppress(PromiseServiceError):
            told = await worker.reservations.create(cart, TIMEOUT)
        await worker.rest()
        world.advance(2_001)
        await world.resolve_everything()

        found = {rid: await state_of(world, rid) for rid in (old, new, third)}
        standing = [rid for rid, s in found.items() if s in (State.HELD, State.CONFIRMED)]
        let_go = (State.RELEASED, State.EXPIRED)
        assert len(standing) == 1 or any(s in let_go for s in found.values()), (nth, found)
        assert len(standing) <= 1, (nth, found)
        if found[old] is State.SUPERSEDED:
            assert found[new] or found[third], (nth, found)
        if told.outcome is CreateOutcome.HELD:
            assert found[new] in (State.HELD, *let_go), (nth, found)
            assert found[old] in (State.SUPERSEDED, *let_go), (nth, found)
        await world.check()
        for rid in standing:
            if found[rid] is State.HELD:
                await world.worker().reservations.release(rid, 0, None, TIMEOUT)
            else:
                await world.worker().reservations.cancel(ChangeCommand(reservation_id=rid), TIMEOUT)
        if index._left > 0:
            break
    else:
        pytest.fail("a replacement sends more messages than were tried")


async def test_two_tabs_that_replace_one_hold_leave_one(world: World) -> None:
    """Both count the old units as their own; one gets them, the other hears that they are gone."""
    await held_before(world)
    carts = [a_cart(f"tab-{n}", ("A", "B"), 3, replaces=OLD) for n in range(2)]

    results = await asyncio.gather(
        *(world.worker().reservations.create(cart, TIMEOUT) for cart in carts)
    )
    world.advance(2_001)
    await world.resolve_everything()

    outcomes = sorted(result.outcome for result in results)
    assert outcomes == [CreateOutcome.HELD, CreateOutcome.REPLACED_NOT_HELD]
    assert (await units(world))[:2] == [3, 3]
    await world.check()


async def test_a_replacement_that_ended_before_it_was_decided_takes_nothings_place(
    world: World,
) -> None:
    """Its last message comes after its own time, and after the resolver gave it up: the old hold
    stands, and that message moves nothing."""
    await held_before(world)
    late: list[ResolveStep] = []

    class Lost(Exception):
        pass

    class Loses(Meanwhile):
        def __getattr__(self, verb: str) -> Any:
            async def call(shard: int, *args: Any) -> Any:
                if verb == "resolve" and args[0][0].target == State.SUPERSEDED:
                    late.append(args[0][0])
                    raise Lost
                return await getattr(self._inner, verb)(shard, *args)

            return call

    worker = world.worker()
    worker.index._inner = Loses(world, 0, None)
    with contextlib.suppress(Lost):
        await replacing(worker, ttl_ms=1_000)
    world.advance(2_001)
    await world.resolve_everything()
    reply = (await world.index.resolve(world.shard(OLD), late, TIMEOUT))[0]

    assert reply.state == State.HELD
    assert await states(world) == BEFORE
    assert await units(world) == [2, 2, 0]
    await world.check()


async def test_a_replacement_that_may_not_be_is_refused_and_changes_nothing(world: World) -> None:
    """Another's hold and one that is not known read alike; an order is not replaced; a hold that
    has ended is not in the way."""
    await held_before(world)
    worker = world.worker()
    stranger = await replacing(worker, owner_id="stranger")
    unknown = await replacing(worker, replaces="nobody")
    kept = await states(world)
    await worker.reservations.confirm(OLD, 0, None, TIMEOUT)
    ordered = await replacing(worker, 1)
    await worker.reservations.create(a_cart("gone", ("B",)), TIMEOUT)
    await worker.reservations.release("gone", 0, None, TIMEOUT)
    alone = await replacing(worker, 1, replaces="gone")

    assert stranger.outcome is unknown.outcome is CreateOutcome.REPLACED_UNKNOWN
    assert kept == BEFORE
    assert ordered.outcome is CreateOutcome.REPLACED_NOT_HELD
    assert alone.outcome is CreateOutcome.HELD
    assert alone.reservation and alone.reservation.replaces == ""
    assert await states(world) == (State.CONFIRMED, State.HELD)
    await worker.rest()
    await world.check()
