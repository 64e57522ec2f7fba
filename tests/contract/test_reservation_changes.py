"""Extend, fulfill and cancel in part, on reference ledgers and on the real Functions alike."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from promise_svc.application.reservation_changes import ChangeCommand, ChangeLine
from promise_svc.application.transition import Durability, TransitionResult
from promise_svc.domain.inventory import StockPosition
from promise_svc.domain.reservation import (
    CreateOutcome,
    CreateStep,
    DurabilityMode,
    FollowStep,
    LegLine,
    Outcome,
    ResolveStep,
    State,
    TransitionOutcome,
)
from promise_svc.errors import IdempotencyKeyReused, NotFound, OutcomeUnknown, Unavailable
from tests.support.reservation_world import Died, MortalIndex, Worker, World, a_cart
from tests.support.shards import TIMEOUT

CART = ("A", "B", "C")
"""Three SKUs in three shards, none of them the home of RID."""

RID = "r-1"
LIFE_MS = 60_000


async def sold(world: World, quantity: int = 5, rid: str = RID) -> Worker:
    """A confirmed reservation of each SKU of the cart, with its legs following."""
    worker = world.worker()
    await worker.reservations.create(a_cart(rid, CART, quantity), TIMEOUT)
    await worker.reservations.confirm(rid, 0, None, TIMEOUT)
    await worker.rest()
    return worker


class SpiedIndex(MortalIndex):
    """An index whose calls are told before they are made."""

    def __init__(self, inner: Any, tell: Callable[..., Awaitable[None]]) -> None:
        super().__init__(inner)
        self._tell = tell

    def __getattr__(self, verb: str) -> Callable[..., Any]:
        made = super().__getattr__(verb)

        async def call(shard: int, *args: Any) -> Any:
            await self._tell(verb, shard, args)
            return await made(shard, *args)

        return call


def units(quantity: int, *lines: str, key: str, rid: str = RID) -> ChangeCommand:
    wanted = tuple(ChangeLine(line, quantity) for line in lines)
    return ChangeCommand(reservation_id=rid, idempotency_key=key, lines=wanted)


async def position(world: World, sku: str) -> StockPosition:
    _, _, images = await world.index.read_positions(world.shard(sku), [sku], TIMEOUT)
    return next(image.row for image in images[0] if image.node_id == "n1")


async def extend(
    worker: Worker, ttl_ms: int, life_ms: int = LIFE_MS, rid: str = RID
) -> TransitionResult:
    return await worker.reservations.changes.extend(rid, ttl_ms, life_ms, 0, None, TIMEOUT)


async def test_goods_that_left_lower_on_hand_and_committed_together(world: World) -> None:
    await world.stock(A=9, B=9, C=9)
    worker = await sold(world)

    result = await worker.reservations.changes.fulfill(ChangeCommand(reservation_id=RID), TIMEOUT)
    await worker.rest()

    assert result.outcome is TransitionOutcome.FULFILLED
    assert result.reservation.state is State.FULFILLED
    for sku in CART:
        row = await position(world, sku)
        assert (row.on_hand, row.committed, row.held) == (4, 0, 0)
        assert (row.confirmed_total, row.cancelled_total, row.fulfilled_total) == (5, 0, 5)
    await world.check()


async def test_a_part_leaves_a_part_is_taken_back_and_the_rest_leaves(world: World) -> None:
    """Each is a revision; the reservation is an order until nothing of it is open."""
    await world.stock(A=9, B=9, C=9)
    worker = await sold(world)
    changes = worker.reservations.changes

    first = await changes.fulfill(units(2, "l0", "l1", key="parcel-1"), TIMEOUT)
    back = await changes.cancel(units(1, "l0", key="no-thanks"), TIMEOUT)
    rest = await changes.fulfill(ChangeCommand(reservation_id=RID), TIMEOUT)
    await worker.rest()

    states = [result.reservation.state for result in (first, back, rest)]
    assert states == [State.CONFIRMED, State.CONFIRMED, State.FULFILLED]
    assert [result.reservation.revision for result in (first, back, rest)] == [2, 3, 3]
    parts = {x.line_id: x.planned_units[0] for x in rest.reservation.lines}
    assert (parts["l0"].fulfilled, parts["l0"].cancelled) == (4, 1)
    assert (parts["l2"].fulfilled, parts["l2"].cancelled) == (5, 0)
    row = await position(world, "A")
    assert (row.on_hand, row.committed) == (5, 0)
    assert (row.confirmed_total, row.cancelled_total, row.fulfilled_total) == (5, 1, 4)
    await world.check()


async def test_the_same_shipment_told_twice_counts_once(world: World) -> None:
    await world.stock(A=9, B=9, C=9)
    worker = await sold(world)
    changes = worker.reservations.changes
    parcel = units(2, "l0", key="parcel-1")

    told = await asyncio.gather(*(changes.fulfill(parcel, TIMEOUT) for _ in range(4)))
    await worker.rest()

    assert {result.outcome for result in told} == {TransitionOutcome.FULFILLED}
    assert [result.replayed for result in told].count(False) == 1
    assert (await position(world, "A")).committed == 3
    with pytest.raises(IdempotencyKeyReused):
        await changes.fulfill(units(3, "l0", key="parcel-1"), TIMEOUT)
    with pytest.raises(IdempotencyKeyReused):
        await changes.cancel(parcel, TIMEOUT)


async def test_a_shipment_told_again_is_answered_as_before_whatever_revision_it_expected(
    world: World,
) -> None:
    """The first call raised the revision; the second is the same call."""
    await world.stock(A=9, B=9, C=9)
    worker = await sold(world)
    parcel = replace(units(2, "l0", key="parcel-1"), revision=1)

    told = [await worker.reservations.changes.fulfill(parcel, TIMEOUT) for _ in range(2)]
    stale = replace(units(2, "l0", key="parcel-2"), revision=1)
    other = await worker.reservations.changes.fulfill(stale, TIMEOUT)
    await worker.rest()

    assert [x.outcome for x in told] == [TransitionOutcome.FULFILLED] * 2
    assert [x.replayed for x in told] == [False, True]
    assert other.outcome is TransitionOutcome.REVISION_MISMATCH
    assert (await position(world, "A")).committed == 3


async def test_two_shipments_at_once_both_count(world: World) -> None:
    await world.stock(A=9, B=9, C=9)
    await sold(world)

    told = await asyncio.gather(
        *(
            world.worker().reservations.changes.fulfill(
                units(1, "l0", "l2", key=f"parcel-{number}"), TIMEOUT
            )
            for number in range(4)
        )
    )
    await world.resolve_everything()

    assert {result.outcome for result in told} == {TransitionOutcome.FULFILLED}
    assert [(await position(world, sku)).committed for sku in CART] == [1, 5, 1]
    await world.check()


async def test_no_more_leaves_than_is_open_and_then_nothing_does(world: World) -> None:
    await world.stock(A=9, B=9, C=9)
    worker = await sold(world)
    changes = worker.reservations.changes

    too_many = await changes.fulfill(
        ChangeCommand(
            reservation_id=RID,
            idempotency_key="k",
            lines=(ChangeLine("l0", 1), ChangeLine("l1", 6)),
        ),
        TIMEOUT,
    )
    elsewhere = await changes.fulfill(
        ChangeCommand(reservation_id=RID, idempotency_key="k", lines=(ChangeLine("l0", 1, "n2"),)),
        TIMEOUT,
    )
    stranger = await changes.cancel(units(1, "l9", key="k"), TIMEOUT)

    assert too_many.outcome is TransitionOutcome.EXCEEDS_OPEN_QUANTITY
    assert elsewhere.outcome is TransitionOutcome.EXCEEDS_OPEN_QUANTITY
    assert stranger.outcome is TransitionOutcome.UNKNOWN_LINE
    assert [await world.held_and_committed(sku) for sku in CART] == [(0, 5)] * 3


async def test_what_left_stays_gone_when_the_order_is_cancelled(world: World) -> None:
    """Cancelling the whole takes back what is open; the reservation then is FULFILLED."""
    await world.stock(A=9, B=9, C=9)
    worker = await sold(world)
    await worker.reservations.changes.fulfill(units(2, "l0", key="parcel-1"), TIMEOUT)

    result = await worker.reservations.cancel(ChangeCommand(reservation_id=RID), TIMEOUT)
    again = await worker.reservations.cancel(ChangeCommand(reservation_id=RID), TIMEOUT)
    await worker.rest()

    assert result.outcome is TransitionOutcome.CANCELLED
    assert result.reservation.state is State.FULFILLED
    assert again.outcome is TransitionOutcome.ALREADY_FULFILLED
    row = await position(world, "A")
    assert (row.on_hand, row.committed, row.fulfilled_total, row.cancelled_total) == (7, 0, 2, 3)
    await world.check()


async def test_an_order_taken_back_piece_by_piece_is_cancelled(world: World) -> None:
    await world.stock(A=9, B=9, C=9)
    worker = await sold(world, 1)

    for number in range(3):
        command = units(1, f"l{number}", key=f"back-{number}")
        result = await worker.reservations.cancel(command, TIMEOUT)
    await worker.rest()

    assert result.reservation.state is State.CANCELLED
    assert [await world.held_and_committed(sku) for sku in CART] == [(0, 0)] * 3
    await world.check()


async def test_only_an_order_can_leave(world: World) -> None:
    await world.stock(A=9, B=9, C=9)
    worker = world.worker()
    await worker.reservations.create(a_cart(RID, CART), TIMEOUT)
    changes = worker.reservations.changes

    held = await changes.fulfill(ChangeCommand(reservation_id=RID), TIMEOUT)
    await worker.reservations.release(RID, 0, None, TIMEOUT)
    released = await changes.fulfill(ChangeCommand(reservation_id=RID), TIMEOUT)

    assert held.outcome is TransitionOutcome.NOT_CONFIRMED
    assert released.outcome is TransitionOutcome.ALREADY_RELEASED
    with pytest.raises(NotFound):
        await changes.fulfill(ChangeCommand(reservation_id="nobody"), TIMEOUT)


async def test_a_leg_whose_place_a_refused_retry_took_counts_as_followed(world: World) -> None:
    """The order was cancelled, but nobody heard so from the legs; its creation is sent again, and a
    leg of that attempt comes and goes."""
    await world.stock(A=9, B=9, C=9)
    await sold(world, 1)

    class Deaf(MortalIndex):
        async def conform(self, *args: Any) -> Any:
            await world.index.conform(*args)
            raise OutcomeUnknown("the connection broke before the answer")

    deaf = Worker(world, Deaf(world.index))
    await deaf.reservations.changes.cancel(ChangeCommand(reservation_id=RID), TIMEOUT)
    await deaf.rest()
    for sku in CART:
        line = LegLine(sku, "n1", "", 1)
        step = CreateStep(RID, 2**52, "plan", 60_000, 2**31, 1, (line,))
        await world.index.create(world.shard(sku), [step], TIMEOUT)
        bar = FollowStep(RID, 2**52, State.ABORTED)
        await world.index.follow(world.shard(sku), [bar], TIMEOUT)
    world.advance(2_001)
    await world.resolve_everything()

    assert await unsettled(world) == []
    await world.check()


async def test_a_recorded_change_is_not_told_before_every_leg_followed(world: World) -> None:
    """A leg that did not hear of it is made to, by whoever tells the change again."""
    await world.stock(A=9, B=9, C=9)
    await sold(world)

    class Away(MortalIndex):
        async def conform(self, *args: Any) -> Any:
            raise Unavailable("the shard is away")

    def recording(worker: Worker) -> Worker:
        changes = worker.reservations.changes
        changes._durability = Durability(
            offered=frozenset(DurabilityMode),
            reserve=DurabilityMode.RECORDED,
            confirm=DurabilityMode.RECORDED,
        )
        return worker

    parcel = units(2, "l0", "l1", "l2", key="parcel")
    away = recording(Worker(world, Away(world.index)))
    with pytest.raises(OutcomeUnknown):
        await away.reservations.changes.fulfill(parcel, TIMEOUT)
    with pytest.raises(OutcomeUnknown):
        await away.reservations.changes.fulfill(parcel, TIMEOUT)
    worker = recording(world.worker())
    told = await worker.reservations.changes.fulfill(parcel, TIMEOUT)
    left = [(await position(world, sku)).committed for sku in CART]
    await worker.rest()

    assert (told.outcome, told.replayed) == (TransitionOutcome.FULFILLED, True)
    assert left == [3, 3, 3]
    await world.check()


async def test_goods_leave_though_a_count_said_there_were_none(world: World) -> None:
    """On hand stops at zero; the shortage was the count's fault, not the parcel's."""
    await world.stock(A=9, B=9, C=9)
    worker = await sold(world)
    await world.stock(A=2)

    await worker.reservations.changes.fulfill(ChangeCommand(reservation_id=RID), TIMEOUT)
    await worker.rest()

    row = await position(world, "A")
    assert (row.on_hand, row.committed, row.fulfilled_total) == (0, 0, 5)
    await world.check()


async def test_an_extended_hold_lives_on_whole(world: World) -> None:
    """Also in the shards it has legs in, and no longer than was said."""
    await world.stock(A=1, B=1, C=1)
    worker = world.worker()
    await worker.reservations.create(a_cart(RID, CART, ttl_ms=1_000), TIMEOUT)
    world.advance(900)

    result = await extend(worker, 5_000)
    await worker.rest()
    world.advance(4_999)
    await world.resolve_everything()
    alive = await worker.reservations.get(RID, TIMEOUT)
    rival = await worker.reservations.create(a_cart("r-2", ("B",)), TIMEOUT)
    world.advance(1)
    ended = await worker.reservations.get(RID, TIMEOUT)
    after = await worker.reservations.create(a_cart("r-3", CART), TIMEOUT)

    assert result.outcome is TransitionOutcome.EXTENDED
    assert result.reservation.revision == 1, "its lines did not change"
    assert (alive.state, rival.outcome) == (State.HELD, CreateOutcome.INSUFFICIENT_STOCK)
    assert (ended.state, after.outcome) == (State.EXPIRED, CreateOutcome.HELD)


async def test_a_hold_near_its_end_is_extended_in_every_shard_or_not_at_all(
    world: World,
) -> None:
    """Time passes between home's decision and the legs: none has ended meanwhile."""
    await world.stock(A=1, B=1, C=1)
    await world.worker().reservations.create(a_cart(RID, CART, ttl_ms=1_000), TIMEOUT)
    world.advance(900)

    async def pass_time(verb: str, shard: int, args: tuple[Any, ...]) -> None:
        if verb == "conform" and args[0][0].lines:
            world.advance(100)

    worker = Worker(world, SpiedIndex(world.index, pass_time))
    result = await extend(worker, 5_000)
    await worker.rest()
    rival = await world.worker().reservations.create(a_cart("r-2", ("B",)), TIMEOUT)

    assert result.outcome is TransitionOutcome.EXTENDED
    assert rival.outcome is CreateOutcome.INSUFFICIENT_STOCK
    await world.check()


async def test_a_hold_is_never_made_shorter_nor_revived_nor_kept_for_ever(world: World) -> None:
    await world.stock(A=1, B=1, C=1)
    worker = world.worker()
    await worker.reservations.create(a_cart(RID, CART, ttl_ms=10_000), TIMEOUT)
    first = await worker.reservations.get(RID, TIMEOUT)

    shorter = await extend(worker, 1_000)
    most = await extend(worker, LIFE_MS + 5_000)
    more = await extend(worker, LIFE_MS + 5_000)
    world.advance(LIFE_MS)
    dead = await extend(worker, 10_000)

    assert (shorter.outcome, shorter.replayed) == (TransitionOutcome.EXTENDED, True)
    assert shorter.reservation.expire_ms == first.expire_ms
    assert most.reservation.expire_ms == first.create_ms + LIFE_MS
    assert more.outcome is TransitionOutcome.LIFE_LIMIT_REACHED
    assert dead.outcome is TransitionOutcome.EXPIRED
    assert (await worker.reservations.create(a_cart("r-2", CART), TIMEOUT)).reservation


async def test_an_extended_hold_is_confirmed_and_leaves_like_any_other(world: World) -> None:
    await world.stock(A=3, B=3, C=3)
    worker = world.worker()
    await worker.reservations.create(a_cart(RID, CART, ttl_ms=1_000), TIMEOUT)
    await extend(worker, 5_000)

    confirmed = await worker.reservations.confirm(RID, 1, None, TIMEOUT)
    await worker.rest()
    left = await worker.reservations.changes.fulfill(ChangeCommand(reservation_id=RID), TIMEOUT)
    await worker.rest()

    assert confirmed.outcome is TransitionOutcome.CONFIRMED
    assert left.outcome is TransitionOutcome.FULFILLED
    assert [(await position(world, sku)).on_hand for sku in CART] == [2, 2, 2]
    await world.check()


async def test_an_extension_that_met_its_end_leaves_no_leg_behind(world: World) -> None:
    """The legs lived longer for a moment; the hold was released meanwhile, and so are they."""
    await world.stock(A=1, B=1, C=1)
    worker = world.worker()
    await worker.reservations.create(a_cart(RID, CART, ttl_ms=1_000), TIMEOUT)
    home = world.shard(RID)

    async def release_first(verb: str, shard: int, args: tuple[object, ...]) -> None:
        if verb == "revise":
            await world.index.resolve(home, [ResolveStep(RID, State.RELEASED)], TIMEOUT)

    other = Worker(world, SpiedIndex(world.index, release_first))
    result = await extend(other, 5_000)
    await other.rest()
    world.advance(2_001)
    await world.resolve_everything()

    assert result.outcome is TransitionOutcome.ALREADY_RELEASED
    assert [await world.held_and_committed(sku) for sku in CART] == [(0, 0)] * 3


Act = Callable[[Worker, str], Awaitable[object]]
_ACTS: dict[str, tuple[Act, list[tuple[int, int]]]] = {
    "extend": (lambda worker, rid: extend(worker, 30_000, rid=rid), [(2, 0)] * 3),
    "fulfill": (
        lambda worker, rid: worker.reservations.changes.fulfill(
            ChangeCommand(reservation_id=rid), TIMEOUT
        ),
        [(0, 0)] * 3,
    ),
    "fulfill_part": (
        lambda worker, rid: worker.reservations.changes.fulfill(
            units(1, "l0", "l2", key="parcel", rid=rid), TIMEOUT
        ),
        [(0, 1), (0, 2), (0, 1)],
    ),
    "cancel_part": (
        lambda worker, rid: worker.reservations.changes.cancel(
            units(1, "l1", "l2", key="back", rid=rid), TIMEOUT
        ),
        [(0, 2), (0, 1), (0, 1)],
    ),
}
"""Each with what it leaves held and committed of two units of each SKU."""


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("verb", _ACTS)
async def test_a_worker_killed_at_any_call_changes_all_or_nothing(
    world: World, verb: str, after: bool
) -> None:
    """Kill it at its first call, its second ...: the resolver makes the legs follow what home
    decided, and a retry makes the change once."""
    act, left = _ACTS[verb]
    for dies_at in range(1, 12):
        rid = f"{verb}-{dies_at}"
        await world.stock(A=1_000, B=1_000, C=1_000)
        before = [await world.held_and_committed(sku) for sku in CART]
        healthy = world.worker()
        await healthy.reservations.create(a_cart(rid, CART, 2, ttl_ms=20_000), TIMEOUT)
        if verb != "extend":
            await healthy.reservations.confirm(rid, 0, None, TIMEOUT)
        await healthy.rest()
        dying = world.worker(dies_at, after=after)
        with contextlib.suppress(Died):
            await act(dying, rid)
        await dying.rest()
        world.advance(2_001)
        await world.resolve_everything()
        await world.check()

        retry = world.worker()
        await act(retry, rid)
        await retry.rest()

        now = [await world.held_and_committed(sku) for sku in CART]
        assert [(n[0] - b[0], n[1] - b[1]) for n, b in zip(now, before, strict=True)] == left
        if not dying.index.dead:
            break
        await healthy.reservations.release(rid, 0, None, TIMEOUT)
        await healthy.rest()
    assert not dying.index.dead, "it makes more calls than were tried"
    world.advance(2_001)
    await world.resolve_everything()
    assert await unsettled(world) == []
    await world.check()


async def unsettled(world: World) -> list[object]:
    world.advance(10_000)
    return [
        claim
        for shard in range(world.index.shard_count)
        for claim in await world.index.open_claims(shard, 10, TIMEOUT)
    ]


async def test_random_changes_at_once_keep_the_books(world: World, rng: random.Random) -> None:
    """Workers ship, take back and cancel one another's orders; units add up in the end."""
    await world.stock(A=60, B=60, C=60)
    for number in range(5):
        await sold(world, 10, f"order-{number}")

    async def meddle(number: int) -> None:
        worker = world.worker(dies_at=rng.choice([0, 0, rng.randrange(1, 12)]))
        changes = worker.reservations.changes
        for turn in range(6):
            rid, line = f"order-{rng.randrange(5)}", f"l{rng.randrange(3)}"
            command = units(rng.randrange(1, 4), line, key=f"{number}-{turn}", rid=rid)
            change = rng.choice([changes.fulfill, changes.cancel])
            try:
                await change(command, TIMEOUT)
            except Died:
                return

    await asyncio.gather(*(meddle(number) for number in range(6)))
    for _ in range(2):
        world.advance(2_001)
        await world.resolve_everything()

    assert await unsettled(world) == []
    for sku, line in zip(CART, ("l0", "l1", "l2"), strict=True):
        row = await position(world, sku)
        orders = [
            await world.worker().reservations.get(f"order-{number}", TIMEOUT) for number in range(5)
        ]
        parts = [x.planned_units[0] for o in orders for x in o.lines if x.line_id == line]
        assert row.committed == sum(part.open_quantity for part in parts)
        assert 60 - row.on_hand == row.fulfilled_total == sum(part.fulfilled for part in parts)
        assert row.cancelled_total == sum(part.cancelled for part in parts)
    await world.check()


async def test_a_leg_refuses_what_an_older_change_said(world: World) -> None:
    """A message of the first change that comes after the second changes nothing."""
    await world.stock(A=9, B=9, C=9)
    worker = await sold(world)
    late: list[tuple[int, tuple[object, ...]]] = []

    async def remember(verb: str, shard: int, args: tuple[object, ...]) -> None:
        if verb == "conform":
            late.append((shard, args))

    first = Worker(world, SpiedIndex(world.index, remember))
    await first.reservations.changes.fulfill(units(1, "l0", "l1", "l2", key="one"), TIMEOUT)
    await first.rest()
    await worker.reservations.changes.fulfill(units(1, "l0", "l1", "l2", key="two"), TIMEOUT)
    await worker.rest()

    shard, args = late[0]
    replies = await world.index.conform(shard, *args)

    assert replies[0].outcome == Outcome.REPEATED
    assert [(await position(world, sku)).committed for sku in CART] == [3, 3, 3]
    await world.check()
