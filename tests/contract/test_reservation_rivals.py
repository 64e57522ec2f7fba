"""Several workers drive one reservation; each of these races was once lost."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

from promise_svc.application.reservation_body import RequestedLine
from promise_svc.application.reservation_changes import ChangeCommand
from promise_svc.domain.network import Item
from promise_svc.domain.reach import Address
from promise_svc.domain.reservation import CreateOutcome, State, SupplyRow, TransitionOutcome
from promise_svc.domain.sharding import START, Position
from promise_svc.errors import NotFound, OutcomeUnknown, PromiseServiceError
from tests.support.networks import a_lane, a_node, a_service, a_snapshot
from tests.support.reservation_world import Died, Worker, World, a_cart
from tests.support.shards import TIMEOUT

CART = ("A", "B", "C")
RID = "r-1"

Hook = Callable[[str, int, Any, str], Awaitable[None]]
"""Verb, shard, its first step, and ``before`` or ``after`` the shard did it."""


class Hooked:
    """An index that tells a hook of every call, which may wait or raise."""

    def __init__(self, inner: Any, hook: Hook) -> None:
        self._inner = inner
        self._hook = hook
        self.shard_count = inner.shard_count

    def seen(self, shard: int) -> Position:
        return START

    def __getattr__(self, verb: str) -> Any:
        async def call(shard: int, *args: Any) -> Any:
            step = args[0][0] if args and isinstance(args[0], list) else None
            await self._hook(verb, shard, step, "before")
            reply = await getattr(self._inner, verb)(shard, *args)
            await self._hook(verb, shard, step, "after")
            return reply

        return call


def hooked(world: World, hook: Hook) -> Worker:
    return Worker(world, Hooked(world.index, hook))


async def state_of(world: World) -> State | None:
    """What any worker would read now."""
    try:
        return (await world.worker().reservations.get(RID, TIMEOUT)).state
    except NotFound:
        return None


async def outcome(work: Awaitable[Any]) -> Any:
    """The outcome, or the error's class where the call failed."""
    try:
        return (await work).outcome
    except PromiseServiceError as error:
        return type(error)


async def test_a_leg_whose_claim_never_came_does_not_block_the_retry(world: World) -> None:
    """Home's node broke while the other shards granted: the same key gets its hold at once."""
    await world.stock(A=1, B=1, C=1)
    home = world.shard(RID)

    async def broken(verb: str, shard: int, step: Any, when: str) -> None:
        if verb == "create" and shard == home and when == "before":
            raise OutcomeUnknown("the connection broke")

    first = hooked(world, broken)
    assert await outcome(first.reservations.create(a_cart(RID, CART), TIMEOUT)) is OutcomeUnknown
    await first.rest()

    again = await world.worker().reservations.create(a_cart(RID, CART), TIMEOUT)

    assert again.outcome is CreateOutcome.HELD
    assert [await world.held_and_committed(sku) for sku in CART] == [(1, 0)] * 3
    await world.check()


async def test_a_confirm_that_overtakes_its_create_leaves_both_one_answer(world: World) -> None:
    """The last leg is still on its way when somebody confirms; it lands after the abort."""
    await world.stock(A=5, B=5, C=5)
    go, landed = asyncio.Event(), asyncio.Event()

    async def slow(verb: str, shard: int, step: Any, when: str) -> None:
        if verb == "create" and shard == world.shard("C"):
            if when == "before" and not landed.is_set():
                await go.wait()
            elif when == "after":
                landed.set()

    async def lets_it_land(verb: str, shard: int, step: Any, when: str) -> None:
        if verb == "resolve" and step.target == State.ABORTED and when == "after":
            go.set()
            await landed.wait()

    creating = asyncio.create_task(
        outcome(hooked(world, slow).reservations.create(a_cart(RID, CART), TIMEOUT))
    )
    while (await world.index.read_legs(world.shard("A"), [RID], TIMEOUT))[0] == ():
        await asyncio.sleep(0)
    confirmed = await outcome(
        hooked(world, lets_it_land).reservations.confirm(RID, 0, None, TIMEOUT)
    )
    created = await creating
    world.advance(2_001)
    await world.resolve_everything()

    state = await state_of(world)
    assert confirmed is NotFound
    assert (created is CreateOutcome.HELD) == (state is State.HELD)
    await world.check()


async def test_a_retry_never_aborts_what_the_first_worker_acknowledges(world: World) -> None:
    """The retry is refused for a leg that then frees up for the first worker; a third buyer waits
    for the units. Whoever was told HELD has them."""
    await world.stock(A=5, B=5, C=1)
    other = world.worker()
    await other.reservations.create(a_cart("other", ("C",)), TIMEOUT)
    go, landed = asyncio.Event(), asyncio.Event()
    shard_c = world.shard("C")

    async def slow(verb: str, shard: int, step: Any, when: str) -> None:
        if verb == "create" and shard == shard_c and step.reservation_id == RID:
            if when == "before" and not landed.is_set():
                await go.wait()
            elif when == "after":
                landed.set()

    freed = False

    async def frees(verb: str, shard: int, step: Any, when: str) -> None:
        nonlocal freed
        if verb == "follow" and shard == shard_c and when == "before" and not freed:
            freed = True
            await other.reservations.release("other", 0, None, TIMEOUT)
            go.set()
            await landed.wait()

    first = asyncio.create_task(
        outcome(hooked(world, slow).reservations.create(a_cart(RID, CART), TIMEOUT))
    )
    while (await world.index.read_legs(world.shard("A"), [RID], TIMEOUT))[0] == ():
        await asyncio.sleep(0)
    retry = asyncio.create_task(
        outcome(hooked(world, frees).reservations.create(a_cart(RID, CART), TIMEOUT))
    )
    await asyncio.wait([retry, asyncio.create_task(landed.wait())], return_when="FIRST_COMPLETED")
    go.set()
    third = await outcome(other.reservations.create(a_cart("third", ("C",)), TIMEOUT))
    told = [await first, await retry]
    world.advance(2_001)
    await world.resolve_everything()

    if CreateOutcome.HELD in told:
        assert await state_of(world) is State.HELD, told
        assert third is not CreateOutcome.HELD
    await world.check()


async def test_a_cancel_that_overtakes_a_slow_confirm_is_no_alarm(world: World) -> None:
    """One worker has pinned the claim; before it speaks to the legs, others confirm and cancel."""
    await world.stock(A=5, B=5, C=5)
    await world.worker().reservations.create(a_cart(RID, CART), TIMEOUT)
    told: list[TransitionOutcome] = []

    async def overtaken(verb: str, shard: int, step: Any, when: str) -> None:
        if verb == "follow" and when == "before" and not told:
            told.append(TransitionOutcome.CONFIRMED)
            worker = world.worker()
            told[0] = (await worker.reservations.confirm(RID, 0, None, TIMEOUT)).outcome
            cancel = await worker.reservations.cancel(ChangeCommand(reservation_id=RID), TIMEOUT)
            told.append(cancel.outcome)
            await worker.rest()

    slow = hooked(world, overtaken)
    late = await slow.reservations.confirm(RID, 0, None, TIMEOUT)
    await slow.rest()

    assert told == [TransitionOutcome.CONFIRMED, TransitionOutcome.CANCELLED]
    assert late.outcome is TransitionOutcome.ALREADY_CANCELLED
    assert [await world.held_and_committed(sku) for sku in CART] == [(0, 0)] * 3
    await world.check()


async def test_a_hold_that_just_ran_out_is_planned_with_though_the_table_still_counts_it(
    world: World,
) -> None:
    """The table hears of an expiry when it is swept; a shopper who comes before that gets the unit,
    and one who comes before the expiry does not."""
    world.network.now = a_snapshot(a_node("n1"), a_lane("n1"), a_service(), Item(sku="A"))
    await world.stock(A=1)
    await world.worker().reservations.create(a_cart("first", ("A",), ttl_ms=1_000), TIMEOUT)
    world.table.put("A", "n1", 1, held=1)
    cart = a_cart(
        RID, (), lines=(RequestedLine("l0", "A", 1),),
        address=Address(country="US", postal_code="60601"),
    )  # fmt: skip

    early = await world.worker().reservations.create(cart, TIMEOUT)
    world.advance(1_000)
    due = await world.worker().reservations.create(cart, TIMEOUT)

    assert early.outcome is CreateOutcome.INSUFFICIENT_STOCK
    assert due.outcome is CreateOutcome.HELD
    await world.check()


async def test_a_refused_plan_is_made_again_also_when_the_table_has_caught_up(world: World) -> None:
    """Two nodes with one unit each. The plan takes the nearer, whose unit was just sold; when the
    shard refuses, the table knows as much. The other node still has its unit."""
    nodes = a_node("n1"), a_node("n2", latitude=30.0)
    lanes = a_lane("n1"), a_lane("n2")
    world.network.now = a_snapshot(*nodes, *lanes, a_service(), Item(sku="A"))
    await world.stock(A=1)
    shard = world.shard("A")
    await world.index.sync_supply(shard, [SupplyRow("A", "n2", "", 1, 0, "", 0)], TIMEOUT)
    world.table.put("A", "n2", 1)
    sold = await world.worker().reservations.create(a_cart("sold", ("A",)), TIMEOUT)
    world.advance(1_000)  # else the refusal is worth a retry for being contended

    async def the_table_catches_up(verb: str, shard: int, step: Any, when: str) -> None:
        if verb == "create" and when == "after":
            world.table.put("A", "n1", 1, held=1)

    buyer = hooked(world, the_table_catches_up)
    cart = a_cart(
        RID, (), lines=(RequestedLine("l0", "A", 1),),
        address=Address(country="US", postal_code="60601", latitude=41.9, longitude=-87.6),
    )  # fmt: skip
    held = await buyer.reservations.create(cart, TIMEOUT)

    assert sold.outcome is CreateOutcome.HELD
    assert held.outcome is CreateOutcome.HELD
    assert held.reservation is not None
    assert [u.node_id for u in held.reservation.lines[0].planned_units] == ["n2"]


async def test_a_confirm_that_met_an_ended_leg_gives_back_what_it_had_confirmed(
    world: World,
) -> None:
    """The claim was pinned in time, one leg ended before it heard: nothing is sold."""
    await world.stock(A=1, B=1, C=1)
    await world.worker().reservations.create(a_cart(RID, CART, ttl_ms=1_000), TIMEOUT)
    last = world.shard("C")

    async def late(verb: str, shard: int, step: Any, when: str) -> None:
        if verb == "follow" and shard == last and step.target == State.CONFIRMED:
            while not all([await confirmed(sku) for sku in ("A", "B")]):
                await asyncio.sleep(0)
            if when == "before":
                world.advance(1_000)
                await world.index.sweep(last, 100, TIMEOUT)

    async def confirmed(sku: str) -> bool:
        leg = (await world.index.read_legs(world.shard(sku), [RID], TIMEOUT))[0]
        return bool(leg) and leg.state == State.CONFIRMED

    worker = hooked(world, late)
    result = await worker.reservations.confirm(RID, 0, None, TIMEOUT)
    await worker.rest()
    other = await world.worker().reservations.create(a_cart("other", CART), TIMEOUT)

    assert result.outcome is TransitionOutcome.EXPIRED
    assert other.outcome is CreateOutcome.HELD
    await world.check()


async def test_an_end_that_another_worker_decided_is_no_confirm(world: World) -> None:
    """Two confirms meet the ended leg; the one that comes second must not tell CONFIRMED."""
    await world.stock(A=1, B=1, C=1)
    await world.worker().reservations.create(a_cart(RID, CART, ttl_ms=1_000), TIMEOUT)
    rival: list[TransitionOutcome] = []

    async def overtaken(verb: str, shard: int, step: Any, when: str) -> None:
        if verb == "follow" and when == "before":
            world.advance(1_000)
            await world.index.sweep(shard, 100, TIMEOUT)
        if verb == "resolve" and step.target == State.EXPIRED and when == "before" and not rival:
            other = world.worker()
            rival.append((await other.reservations.confirm(RID, 0, None, TIMEOUT)).outcome)
            await other.rest()

    worker = hooked(world, overtaken)
    result = await worker.reservations.confirm(RID, 0, None, TIMEOUT)
    await worker.rest()

    assert rival == [TransitionOutcome.EXPIRED]
    assert result.outcome is TransitionOutcome.EXPIRED
    await world.check()


async def test_a_release_after_a_confirm_began_comes_second(world: World) -> None:
    """The confirm's worker died; the release finishes it and says so."""
    await world.stock(A=1, B=1, C=1)
    await world.worker().reservations.create(a_cart(RID, CART), TIMEOUT)
    dying = world.worker(dies_at=2)
    with contextlib.suppress(Died):
        await dying.reservations.confirm(RID, 0, None, TIMEOUT)

    worker = world.worker()
    released = await worker.reservations.release(RID, 0, None, TIMEOUT)
    await worker.rest()

    assert released.outcome is TransitionOutcome.ALREADY_CONFIRMED
    assert [await world.held_and_committed(sku) for sku in CART] == [(0, 1)] * 3
    await world.check()
