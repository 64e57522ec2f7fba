"""Messages that come late and clocks that differ, on reference ledgers and on the real Functions.

Each test lets one message arrive at a chosen moment of somebody else's work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from promise_svc.application.changed_lines import ChangeLine
from promise_svc.application.reservation_changes import ChangeCommand
from promise_svc.application.resolver import Resolver
from promise_svc.application.tasks import OwnedTasks
from promise_svc.domain.reservation import (
    CreateOutcome,
    CreateStep,
    FollowStep,
    LegLine,
    Outcome,
    State,
    TransitionOutcome,
)
from promise_svc.domain.sharding import Position
from promise_svc.errors import NotFound, OutcomeUnknown, Unavailable
from tests.support.reservation_world import Died, MortalIndex, Worker, World, a_cart
from tests.support.shards import TIMEOUT

CART = ("A", "B", "C")
RID = "r-1"


class Watched:
    """An index that tells after each call which one it was, and waits for the listener."""

    def __init__(self, inner: Any, after: Callable[[int, str, int], Awaitable[None]]) -> None:
        self._inner = inner
        self._after = after
        self._count = 0
        self.shard_count = inner.shard_count

    def __getattr__(self, verb: str) -> Callable[..., Any]:
        async def call(shard: int, *args: Any) -> Any:
            reply = await getattr(self._inner, verb)(shard, *args)
            self._count += 1
            await self._after(self._count, verb, shard)
            return reply

        return call


class Delayed:
    """An index whose creates at one shard arrive only when the test lets them."""

    def __init__(self, inner: Any, late_shard: int) -> None:
        self._inner = inner
        self._late_shard = late_shard
        self.arrives = asyncio.Event()
        self.shard_count = inner.shard_count

    def seen(self, shard: int) -> Position:
        return Position(0, 0)

    def __getattr__(self, verb: str) -> Callable[..., Any]:
        async def call(shard: int, *args: Any) -> Any:
            if verb == "create" and shard == self._late_shard:
                await self.arrives.wait()
            return await getattr(self._inner, verb)(shard, *args)

        return call


@pytest.mark.parametrize("nth", range(1, 9))
async def test_a_leg_that_comes_while_the_resolver_works_never_makes_a_false_answer(
    world: World, nth: int
) -> None:
    """The worker's last leg arrives after the resolver's nth call: what the worker then
    acknowledges must stand, and what it refuses must hold nothing."""
    await world.stock(A=1, B=1, C=1)
    worker = world.worker()
    slow = Delayed(worker.index._inner, world.shard("C"))
    worker.index._inner = slow
    creating = asyncio.create_task(worker.reservations.create(a_cart(RID, CART), TIMEOUT))
    while not (await world.index.read_claims(world.shard(RID), [RID], TIMEOUT))[0].claim:
        await asyncio.sleep(0)
    world.advance(2_001)

    async def arrive(count: int, _verb: str, _shard: int) -> None:
        if count == nth:
            slow.arrives.set()
            await asyncio.wait([creating])

    tasks = OwnedTasks()
    await Resolver(Watched(world.index, arrive), tasks).resolve(world.shard(RID))
    slow.arrives.set()
    result = await creating
    await worker.rest()
    await world.resolve_everything()

    if result.outcome is CreateOutcome.HELD:
        state = (await world.worker().reservations.get(RID, TIMEOUT)).state
        assert state is State.HELD
    held = 1 if result.outcome is CreateOutcome.HELD else 0
    assert [await world.held_and_committed(sku) for sku in CART] == [(held, 0)] * 3
    await world.check()


async def test_a_late_message_of_an_old_plan_moves_nothing_of_the_new_one(world: World) -> None:
    """A leg obeys the highest attempt it has seen, and of one attempt only one plan."""
    await world.stock(A=5)
    shard = world.shard("A")
    line = (LegLine("A", "n1", "", 1),)

    async def create(attempt: int, plan: str) -> Outcome:
        step = CreateStep(RID, attempt, plan, 60_000, 9, 1, line, ())
        return Outcome((await world.index.create(shard, [step], TIMEOUT))[0].outcome)

    async def follow(attempt: int, target: State) -> Outcome:
        step = FollowStep(RID, attempt, target)
        return Outcome((await world.index.follow(shard, [step], TIMEOUT))[0].outcome)

    await create(1, "old")
    await follow(1, State.ABORTED)
    assert await create(2, "new") is Outcome.DONE

    assert await create(1, "old") is Outcome.RESOLVED
    assert await create(2, "other") is Outcome.OTHER_PLAN
    assert await create(3, "newer") is Outcome.OTHER_PLAN
    assert await follow(1, State.ABORTED) is Outcome.OTHER_PLAN
    assert await follow(1, State.CONFIRMED) is Outcome.OTHER_PLAN
    assert await follow(3, State.CONFIRMED) is Outcome.OTHER_PLAN
    assert await create(2, "new") is Outcome.REPEATED
    assert await world.held_and_committed("A") == (1, 0)


async def test_a_hold_lives_by_the_shards_clock_and_not_by_the_workers(world: World) -> None:
    """A worker whose clock is an hour ahead, or behind, grants the life that was asked for."""
    await world.stock(A=2, B=2)
    now = world.clock.now_ms()
    for name, skew in (("ahead", 3_600_000), ("behind", -3_600_000)):
        world.clock.now = now + skew
        result = await world.worker().reservations.create(
            a_cart(name, ("A", "B"), ttl_ms=1_000), TIMEOUT
        )
        assert result.outcome is CreateOutcome.HELD

    world.advance(999)
    use = world.worker().reservations
    before = [(await use.get(name, TIMEOUT)).state for name in ("ahead", "behind")]
    world.advance(1)
    after = [(await use.get(name, TIMEOUT)).state for name in ("ahead", "behind")]

    assert (before, after) == ([State.HELD] * 2, [State.EXPIRED] * 2)


@pytest.mark.parametrize("change", ["amended", "extended"])
async def test_a_leg_whose_clock_is_ahead_lives_as_long_after_a_change_too(
    world: World, change: str
) -> None:
    """Its shard's clock is ten seconds ahead of home's. A change lets it live so long from when it
    hears it, or as it did: not until a time by home's clock, which has passed there."""
    await world.stock(A=1, B=1, C=3)
    assert world.ahead
    world.ahead(world.shard("B"), 10_000)
    worker = world.worker()
    await worker.reservations.create(a_cart(RID, CART, ttl_ms=2_000), TIMEOUT)
    await worker.rest()
    lives_ms = {"amended": 2_000, "extended": 30_000}[change]

    if change == "amended":
        more = ChangeCommand(reservation_id=RID, lines=(ChangeLine("l2", 2),))
        told = await worker.reservations.changes.amend(more, TIMEOUT)
    else:
        told = await worker.reservations.changes.extend(RID, 30_000, 90_000, 0, None, TIMEOUT)
    await worker.rest()
    world.ahead(world.shard("B"), 10_000 + lives_ms - 1)
    rival = await world.worker().reservations.create(a_cart("r-2", ("B",)), TIMEOUT)
    confirmed = await world.worker().reservations.confirm(RID, 0, None, TIMEOUT)

    assert told.outcome.name == change.upper()
    assert rival.outcome is CreateOutcome.INSUFFICIENT_STOCK
    assert confirmed.outcome is TransitionOutcome.CONFIRMED
    await world.check()


async def test_legs_of_an_extension_that_came_to_nothing_end_as_they_would_have(
    world: World,
) -> None:
    """One leg did not answer, so home was not asked; the others, lengthened by then, are set back,
    and by their own clocks."""
    await world.stock(A=1, B=1, C=1)
    assert world.ahead
    world.ahead(world.shard("B"), 10_000)
    await world.worker().reservations.create(a_cart(RID, CART, ttl_ms=2_000), TIMEOUT)

    class Deaf(MortalIndex):
        async def conform(self, shard: int, steps: Any, timeout: float) -> Any:
            if shard == world.shard("C"):
                raise Unavailable("no answer")
            return await world.index.conform(shard, steps, timeout)

    worker = Worker(world, Deaf(world.index))
    with pytest.raises(Unavailable):
        await worker.reservations.changes.extend(RID, 60_000, 90_000, 0, None, TIMEOUT)
    await worker.rest()
    legs = [(await world.index.read_legs(world.shard(sku), [RID], TIMEOUT))[0] for sku in CART]
    claim = (await world.index.read_claims(world.shard(RID), [RID], TIMEOUT))[0].claim

    assert [leg.expire_ms - claim.expire_ms for leg in legs] == [0, 10_000, 0]


async def test_a_confirm_that_was_in_time_at_home_is_in_time_everywhere(world: World) -> None:
    """The claim is pinned in time, and its legs' own time passes before they hear of it: nobody was
    given their units meanwhile, so what home decided stands."""
    await world.stock(A=1, B=1, C=1)
    worker = world.worker()
    await worker.reservations.create(a_cart(RID, CART, ttl_ms=1_000), TIMEOUT)
    await worker.rest()

    async def pass_time(count: int, _verb: str, _shard: int) -> None:
        if count == 1:
            world.advance(1_000)

    slow = world.worker()
    slow.index._inner = Watched(world.index, pass_time)
    result = await slow.reservations.confirm(RID, 0, None, TIMEOUT)
    await slow.rest()

    assert result.outcome is TransitionOutcome.CONFIRMED
    assert [await world.held_and_committed(sku) for sku in CART] == [(0, 1)] * 3
    await world.check()


async def test_a_confirm_whose_legs_expired_before_they_were_pinned_confirms_nothing(
    world: World,
) -> None:
    """The claim is pinned in time, the legs are not, and another shopper was given their units."""
    await world.stock(A=1, B=1, C=1)
    worker = world.worker()
    await worker.reservations.create(a_cart(RID, CART, ttl_ms=1_000), TIMEOUT)
    await worker.rest()
    others = tuple(sku for sku in CART if world.shard(sku) != world.shard(RID))

    async def pass_time(count: int, _verb: str, _shard: int) -> None:
        if count == 1:
            world.advance(1_000)
            other = await world.worker().reservations.create(a_cart("r-2", others), TIMEOUT)
            assert other.outcome is CreateOutcome.HELD

    slow = world.worker()
    slow.index._inner = Watched(world.index, pass_time)
    result = await slow.reservations.confirm(RID, 0, None, TIMEOUT)
    await slow.rest()

    assert result.outcome is TransitionOutcome.EXPIRED
    await world.check()


async def test_a_confirm_that_finds_some_legs_expired_and_some_not_is_told_expired(
    world: World,
) -> None:
    """The last leg was taken half a second after the others, so it lives that much longer. What
    was acknowledged as held has expired; it was not aborted, and it is not unknown."""
    await world.stock(A=1, B=1, C=1)
    slow = Delayed(world.index, world.shard("C"))
    worker = world.worker()
    worker.index._inner = slow
    creating = asyncio.create_task(
        worker.reservations.create(a_cart(RID, CART, ttl_ms=1_000), TIMEOUT)
    )
    for shard in (world.shard("A"), world.shard("B")):
        while not (await world.index.read_legs(shard, [RID], TIMEOUT))[0]:
            await asyncio.sleep(0)
    while not (await world.index.read_claims(world.shard(RID), [RID], TIMEOUT))[0].claim:
        await asyncio.sleep(0)
    world.advance(500)
    slow.arrives.set()
    assert (await creating).outcome is CreateOutcome.HELD
    await worker.rest()

    async def pass_time(count: int, _verb: str, _shard: int) -> None:
        if count == 1:
            world.advance(500)
            await world.index.sweep(world.shard("A"), 100, TIMEOUT)

    late = world.worker()
    late.index._inner = Watched(world.index, pass_time)
    result = await late.reservations.confirm(RID, 0, None, TIMEOUT)
    await late.rest()

    assert result.outcome is TransitionOutcome.EXPIRED
    assert (await world.worker().reservations.get(RID, TIMEOUT)).state is State.EXPIRED
    await world.check()


async def test_a_cart_of_one_shard_that_met_a_young_hold_is_not_told_held(world: World) -> None:
    """The hold in its way may yet be given back, so the cart is tried a second time. Its claim was
    then opened before its leg was refused: a hold of nothing, acknowledged."""
    await world.stock(A=1, B=1, C=1)
    rid = next(r for r in map("x{}".format, range(999)) if world.shard(r) == world.shard("A"))
    await world.worker().reservations.create(a_cart(RID, CART), TIMEOUT)

    refused = await world.worker().reservations.create(a_cart(rid, ("A",)), TIMEOUT)

    assert refused.outcome is CreateOutcome.INSUFFICIENT_STOCK
    with pytest.raises(NotFound):
        await world.worker().reservations.get(rid, TIMEOUT)


async def test_a_confirm_that_cannot_reach_a_leg_does_not_say_that_nothing_was_done(
    world: World,
) -> None:
    """The claim is pinned by then and the resolver confirms it: only "unknown" is true."""
    await world.stock(A=1, B=1, C=1)
    worker = world.worker()
    await worker.reservations.create(a_cart(RID, CART), TIMEOUT)
    await worker.rest()

    class LegsAway(Watched):
        def __getattr__(self, verb: str) -> Callable[..., Any]:
            async def call(shard: int, *args: Any) -> Any:
                if verb == "follow":
                    raise Unavailable("the shard is away")
                return await getattr(world.index, verb)(shard, *args)

            return call

    cut_off = world.worker()
    cut_off.index._inner = LegsAway(world.index, _unheard)
    with pytest.raises(OutcomeUnknown):
        await cut_off.reservations.confirm(RID, 0, None, TIMEOUT)

    world.advance(2_001)
    await world.resolve_everything()
    assert (await world.worker().reservations.get(RID, TIMEOUT)).state is State.CONFIRMED


async def _unheard(_count: int, _verb: str, _shard: int) -> None:
    return


async def test_a_refused_cart_leaves_no_claim_behind_that_a_dead_worker_opened(
    world: World,
) -> None:
    """The worker is killed when one leg was refused and before it let the others go."""
    await world.stock(A=5, B=0, C=5)
    dying = world.worker(dies_at=4, after=True)
    with pytest.raises(Died):
        await dying.reservations.create(a_cart(RID, CART), TIMEOUT)

    world.advance(2_001)
    await world.resolve_everything()

    with pytest.raises(NotFound):
        await world.worker().reservations.get(RID, TIMEOUT)
    assert [await world.held_and_committed(sku) for sku in CART] == [(0, 0)] * 3
