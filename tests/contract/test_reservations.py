"""Reservations over several shards, on reference ledgers and on the real Functions alike."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from promise_svc.application.reservation import CreateResult, Durability
from promise_svc.application.reservation_changes import ChangeCommand
from promise_svc.domain.network import NodeStatus
from promise_svc.domain.reservation import (
    CreateOutcome,
    DurabilityMode,
    State,
    TransitionOutcome,
)
from promise_svc.domain.sharding import Position
from promise_svc.errors import (
    IdempotencyKeyReused,
    IdempotencyWindowPassed,
    NotFound,
    OutcomeUnknown,
)
from tests.support.networks import a_node, a_snapshot
from tests.support.reservation_world import NODES, Died, Worker, World, a_cart
from tests.support.shards import TIMEOUT, WINDOW_MS

CART = ("A", "B", "C")
"""Three SKUs in three shards; the tests hold them to it."""

RID = "r-1"


async def test_a_cart_over_several_shards_is_held_whole(world: World) -> None:
    await world.stock(A=5, B=5, C=5)
    assert len({world.shard(sku) for sku in CART} | {world.shard(RID)}) == 4

    result = await world.worker().reservations.create(a_cart(RID, CART, 2), TIMEOUT)

    assert result.outcome is CreateOutcome.HELD
    assert result.reservation is not None and result.reservation.state is State.HELD
    assert [await world.held_and_committed(sku) for sku in CART] == [(2, 0)] * 3
    await world.check()


async def test_a_cart_that_does_not_fit_holds_nothing_and_says_what_is_left(world: World) -> None:
    await world.stock(A=5, B=1, C=5)

    result = await world.worker().reservations.create(a_cart(RID, CART, 2), TIMEOUT)

    assert result.outcome is CreateOutcome.INSUFFICIENT_STOCK
    told = [(line.outcome, line.ats) for line in result.lines]
    assert told == [
        (CreateOutcome.OTHER_LINE_REFUSED, -1),
        (CreateOutcome.INSUFFICIENT_STOCK, 1),
        (CreateOutcome.OTHER_LINE_REFUSED, -1),
    ]
    assert [await world.held_and_committed(sku) for sku in CART] == [(0, 0)] * 3


async def test_a_refused_cart_may_be_asked_for_again_and_then_fits(world: World) -> None:
    await world.stock(A=5, B=1, C=5)
    worker = world.worker()
    first = await worker.reservations.create(a_cart(RID, CART, 2), TIMEOUT)

    await world.stock(B=2)
    second = await worker.reservations.create(a_cart(RID, CART, 2), TIMEOUT)

    assert (first.outcome, second.outcome) == (
        CreateOutcome.INSUFFICIENT_STOCK,
        CreateOutcome.HELD,
    )
    await world.check()


async def test_lines_of_one_sku_are_summed_before_they_are_checked(world: World) -> None:
    await world.stock(A=3)

    refused = await world.worker().reservations.create(a_cart(RID, ("A", "A"), 2), TIMEOUT)
    held = await world.worker().reservations.create(a_cart("r-2", ("A", "A", "A"), 1), TIMEOUT)

    assert (refused.outcome, held.outcome) == (
        CreateOutcome.INSUFFICIENT_STOCK,
        CreateOutcome.HELD,
    )
    assert await world.held_and_committed("A") == (3, 0)


async def test_the_same_key_and_body_get_the_same_answer_without_a_second_hold(
    world: World,
) -> None:
    await world.stock(A=2, B=2, C=2)
    first = await world.worker().reservations.create(a_cart(RID, CART, 2), TIMEOUT)

    again = await world.worker().reservations.create(a_cart(RID, CART, 2), TIMEOUT)

    assert (first.replayed, again.replayed) == (False, True)
    assert again.reservation is not None and first.reservation is not None
    assert again.reservation.lines == first.reservation.lines
    assert await world.held_and_committed("A") == (2, 0)


@pytest.mark.parametrize("other", ["B", "A"])
async def test_the_same_key_with_another_body_is_refused_wherever_its_skus_live(
    world: World, other: str
) -> None:
    await world.stock(A=5, B=5)
    await world.worker().reservations.create(a_cart(RID, ("A",)), TIMEOUT)

    with pytest.raises(IdempotencyKeyReused):
        await world.worker().reservations.create(a_cart(RID, (other,), 2), TIMEOUT)

    held = (await world.held_and_committed("A"), await world.held_and_committed("B"))
    assert held == ((1, 0), (0, 0))
    await world.check()


async def test_a_key_older_than_the_window_is_refused_and_not_carried_out(world: World) -> None:
    await world.stock(A=5)
    old = world.clock.now_ms() - WINDOW_MS - 1

    with pytest.raises(IdempotencyWindowPassed):
        await world.worker().reservations.create(a_cart(RID, ("A",), create_ms=old), TIMEOUT)

    assert await world.held_and_committed("A") == (0, 0)


async def test_one_of_two_buyers_gets_the_last_unit(world: World) -> None:
    await world.stock(A=1)

    results = await asyncio.gather(
        *(
            world.worker().reservations.create(a_cart(f"r-{number}", ("A",)), TIMEOUT)
            for number in range(8)
        )
    )

    outcomes = sorted(result.outcome for result in results)
    assert outcomes == [CreateOutcome.HELD] + [CreateOutcome.INSUFFICIENT_STOCK] * 7
    assert await world.held_and_committed("A") == (1, 0)


async def test_one_of_two_carts_wins_that_want_the_same_last_units_in_opposite_order(
    world: World,
) -> None:
    for number in range(20):
        skus = (f"X{number}", f"Y{number}")
        await world.stock(**dict.fromkeys(skus, 1))

        results = await asyncio.gather(
            world.worker().reservations.create(a_cart(f"a-{number}", skus), TIMEOUT),
            world.worker().reservations.create(a_cart(f"b-{number}", skus[::-1]), TIMEOUT),
        )

        assert sorted(result.outcome is CreateOutcome.HELD for result in results) == [False, True]
        assert [await world.held_and_committed(sku) for sku in skus] == [(1, 0), (1, 0)]
    await world.check()


async def test_confirm_commits_every_leg_once_and_repeats_its_answer(world: World) -> None:
    await world.stock(A=5, B=5, C=5)
    worker = world.worker()
    await worker.reservations.create(a_cart(RID, CART, 2), TIMEOUT)

    first = await worker.reservations.confirm(RID, 0, None, TIMEOUT)
    again = await world.worker().reservations.confirm(RID, 0, None, TIMEOUT)
    await worker.rest()

    assert (first.outcome, first.replayed) == (TransitionOutcome.CONFIRMED, False)
    assert (again.outcome, again.replayed) == (TransitionOutcome.CONFIRMED, True)
    assert [await world.held_and_committed(sku) for sku in CART] == [(0, 2)] * 3
    await world.check()


async def test_a_recorded_confirm_is_answered_only_when_the_order_store_has_it(
    world: World,
) -> None:
    """The pin and every leg under it: with the pin alone, a rebuilt index would sell the legs'
    units again. They stand in the shards before; the caller hears of it after."""
    await world.stock(A=5, B=5, C=5)
    worker = world.worker()
    await worker.reservations.create(a_cart(RID, CART), TIMEOUT)
    asked, recorded = asyncio.Event(), asyncio.Event()
    waited: set[int] = set()

    class Watch:
        async def wait_durable(
            self, shard: int, at: Position, answered_epoch: int, timeout: float
        ) -> None:
            claim = (await world.index.read_claims(shard, [RID], TIMEOUT))[0].claim
            leg = (await world.index.read_legs(shard, [RID], TIMEOUT))[0]
            pinned = claim and claim.state in (State.PINNED, State.CONFIRMED)
            if (pinned and at <= (claim.epoch, claim.sequence)) or leg.state == State.CONFIRMED:
                waited.add(shard)
            if len(waited) == 4:
                asked.set()
            await recorded.wait()

    worker.reservations._recorder._watch = Watch()
    worker.reservations._durability = Durability(
        offered=frozenset(DurabilityMode),
        reserve=DurabilityMode.FSYNC,
        confirm=DurabilityMode.RECORDED,
    )
    confirming = asyncio.create_task(worker.reservations.confirm(RID, 0, None, TIMEOUT))
    await asyncio.wait_for(asked.wait(), 30)
    assert not confirming.done()
    recorded.set()

    assert (await confirming).durability is DurabilityMode.RECORDED
    await worker.rest()


async def test_many_confirms_at_once_confirm_once(world: World) -> None:
    await world.stock(A=5, B=5, C=5)
    await world.worker().reservations.create(a_cart(RID, CART), TIMEOUT)

    results = await asyncio.gather(
        *(world.worker().reservations.confirm(RID, 0, None, TIMEOUT) for _ in range(6))
    )
    await world.resolve_everything()

    assert {result.outcome for result in results} == {TransitionOutcome.CONFIRMED}
    assert [result.replayed for result in results].count(False) == 1
    assert [await world.held_and_committed(sku) for sku in CART] == [(0, 1)] * 3


async def test_released_units_can_be_sold_when_the_caller_hears(world: World) -> None:
    await world.stock(A=1, B=1, C=1)
    worker = world.worker()
    await worker.reservations.create(a_cart(RID, CART), TIMEOUT)

    released = await worker.reservations.release(RID, 0, None, TIMEOUT)
    other = await worker.reservations.create(a_cart("r-2", CART), TIMEOUT)

    assert (released.outcome, other.outcome) == (TransitionOutcome.RELEASED, CreateOutcome.HELD)


async def test_cancelled_units_can_be_sold_when_the_caller_hears(world: World) -> None:
    await world.stock(A=1, B=1, C=1)
    worker = world.worker()
    await worker.reservations.create(a_cart(RID, CART), TIMEOUT)
    await worker.reservations.confirm(RID, 0, None, TIMEOUT)

    cancelled = await worker.reservations.cancel(ChangeCommand(reservation_id=RID), TIMEOUT)
    other = await worker.reservations.create(a_cart("r-2", CART), TIMEOUT)
    await worker.rest()

    assert (cancelled.outcome, other.outcome) == (TransitionOutcome.CANCELLED, CreateOutcome.HELD)
    await world.check()


async def test_a_later_different_wish_gets_its_own_answer(world: World) -> None:
    await world.stock(A=9, B=9)
    use = world.worker().reservations
    for rid in ("held", "gone", "sold", "off"):
        await use.create(a_cart(rid, ("A", "B")), TIMEOUT)
    await use.release("gone", 0, None, TIMEOUT)
    await use.confirm("sold", 0, None, TIMEOUT)
    await use.confirm("off", 0, None, TIMEOUT)
    await use.cancel(ChangeCommand(reservation_id="off"), TIMEOUT)

    told = [
        (await use.confirm("gone", 0, None, TIMEOUT)).outcome,
        (await use.cancel(ChangeCommand(reservation_id="gone"), TIMEOUT)).outcome,
        (await use.release("sold", 0, None, TIMEOUT)).outcome,
        (await use.cancel(ChangeCommand(reservation_id="held"), TIMEOUT)).outcome,
        (await use.confirm("off", 0, None, TIMEOUT)).outcome,
        (await use.confirm("held", 7, None, TIMEOUT)).outcome,
    ]

    assert told == [
        TransitionOutcome.ALREADY_RELEASED,
        TransitionOutcome.ALREADY_RELEASED,
        TransitionOutcome.ALREADY_CONFIRMED,
        TransitionOutcome.NOT_CONFIRMED,
        TransitionOutcome.ALREADY_CANCELLED,
        TransitionOutcome.REVISION_MISMATCH,
    ]


async def test_an_unknown_reservation_is_not_found(world: World) -> None:
    use = world.worker().reservations

    for call in (use.get("nobody", TIMEOUT), use.confirm("nobody", 0, None, TIMEOUT)):
        with pytest.raises(NotFound):
            await call


async def test_a_hold_ends_at_its_very_instant(world: World) -> None:
    await world.stock(A=1, B=1)
    use = world.worker().reservations
    await use.create(a_cart(RID, ("A", "B"), ttl_ms=1_000), TIMEOUT)

    world.advance(999)
    before = (await use.get(RID, TIMEOUT)).state
    world.advance(1)
    after = (await use.get(RID, TIMEOUT)).state
    confirmed = await use.confirm(RID, 0, None, TIMEOUT)
    other = await use.create(a_cart("r-2", ("A", "B")), TIMEOUT)

    assert (before, after) == (State.HELD, State.EXPIRED)
    assert confirmed.outcome is TransitionOutcome.EXPIRED
    assert other.outcome is CreateOutcome.HELD
    await world.check()


async def test_confirming_keeps_units_that_would_expire_meanwhile(world: World) -> None:
    """A worker dies before its last leg answers; the hold's time passes; the sale still stands."""
    await world.stock(A=1, B=1, C=1)
    await world.worker().reservations.create(a_cart(RID, CART, ttl_ms=1_000), TIMEOUT)
    dying = world.worker(dies_at=4, after=True)
    with pytest.raises(Died):
        await dying.reservations.confirm(RID, 0, None, TIMEOUT)

    world.advance(10_000)
    await world.resolve_everything()

    assert dying.index.calls[-1][0] == "follow", "it died at a leg"
    state = (await world.worker().reservations.get(RID, TIMEOUT)).state
    assert state is State.CONFIRMED
    assert [await world.held_and_committed(sku) for sku in CART] == [(0, 1)] * 3


async def test_a_reserve_planned_on_an_older_network_is_planned_again(world: World) -> None:
    await world.stock(A=1)
    await world.index.raise_network_floor(world.shard("A"), 9, TIMEOUT)
    world.network.next = a_snapshot(a_node("n1", status=NodeStatus.OFF), a_node("n2"), version=9)

    result = await world.worker().reservations.create(a_cart(RID, ("A",)), TIMEOUT)

    assert result.outcome is CreateOutcome.NODE_OFF
    assert await world.held_and_committed("A") == (0, 0)


async def test_an_unknown_node_is_refused_by_line(world: World) -> None:
    command = a_cart(RID, ("A",))
    line = command.lines[0]._replace(node_id="nowhere")

    result = await world.worker().reservations.create(a_cart(RID, (), lines=(line,)), TIMEOUT)

    assert [(x.outcome, x.node_id) for x in result.lines] == [
        (CreateOutcome.UNKNOWN_NODE, "nowhere")
    ]


Act = Callable[[Worker], Awaitable[object]]


async def _create(worker: Worker) -> CreateResult:
    return await worker.reservations.create(a_cart(RID, CART), TIMEOUT)


async def _confirm(worker: Worker) -> object:
    return await worker.reservations.confirm(RID, 0, None, TIMEOUT)


async def _release(worker: Worker) -> object:
    return await worker.reservations.release(RID, 0, None, TIMEOUT)


async def _cancel(worker: Worker) -> object:
    return await worker.reservations.cancel(ChangeCommand(reservation_id=RID), TIMEOUT)


_LIFE: dict[str, tuple[tuple[Act, ...], Act]] = {
    "create": ((), _create),
    "confirm": ((_create,), _confirm),
    "release": ((_create,), _release),
    "cancel": ((_create, _confirm), _cancel),
}

_CALLS_MAX = {"create": 5, "confirm": 9, "release": 6, "cancel": 6}
"""Calls a healthy worker makes; the test says when it makes more."""


async def _acknowledged(act: Act, worker: Worker) -> bool:
    try:
        await act(worker)
        acknowledged = True
    except Died:
        acknowledged = False
    await worker.rest()
    return acknowledged


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("verb", _LIFE)
async def test_a_worker_killed_at_any_call_leaves_nothing_half_done(
    world: World, verb: str, after: bool
) -> None:
    """Kill it at its first call, its second ...: the resolver ends what it began, an acknowledged
    answer stands, a retry gets an answer, and units are held or sold exactly once."""
    before, act = _LIFE[verb]
    await world.stock(A=100, B=100, C=100)
    for dies_at in range(1, _CALLS_MAX[verb] + 1):
        rid = f"{verb}-{dies_at}"

        async def renamed(step: Act, worker: Worker, rid: str = rid) -> object:
            if step is _create:
                return await worker.reservations.create(a_cart(rid, CART), TIMEOUT)
            if step is _cancel:
                return await worker.reservations.cancel(ChangeCommand(reservation_id=rid), TIMEOUT)
            verb_of = {_confirm: "confirm", _release: "release"}[step]
            return await getattr(worker.reservations, verb_of)(rid, 0, None, TIMEOUT)

        for step in before:
            healthy = world.worker()
            await renamed(step, healthy)
            await healthy.rest()
        dying = world.worker(dies_at, after=after)
        acknowledged = await _acknowledged(lambda w: renamed(act, w), dying)
        world.advance(2_001)
        await world.resolve_everything()
        await world.resolve_everything()

        open_claims = [await world.index.open_claims(s, 9, TIMEOUT) for s in range(64)]
        assert not any(open_claims), (verb, dies_at, dying.index.calls)
        await world.check()
        if acknowledged:
            reservation = await world.worker().reservations.get(rid, TIMEOUT)
            expected = {
                "create": State.HELD,
                "confirm": State.CONFIRMED,
                "release": State.RELEASED,
                "cancel": State.CANCELLED,
            }[verb]
            assert reservation.state is expected, (dies_at, dying.index.calls)
        await renamed(act, world.worker())
        assert dying.index.dead or len(dying.index.calls) < dies_at
    last = world.worker()
    await renamed(act, last)
    await last.rest()
    assert len(dying.index.calls) <= _CALLS_MAX[verb]
    world.advance(2_001)
    await world.resolve_everything()
    await world.check()


async def test_a_retry_finishes_what_a_dead_worker_began_with_its_plan(world: World) -> None:
    """Killed between claim and legs; the retry is faster than the resolver."""
    await world.stock(A=1, B=1, C=1)
    dying = world.worker(dies_at=2, after=True)
    with pytest.raises(Died):
        await dying.reservations.create(a_cart(RID, CART), TIMEOUT)

    result = await world.worker().reservations.create(a_cart(RID, CART), TIMEOUT)

    assert result.outcome is CreateOutcome.HELD
    assert [await world.held_and_committed(sku) for sku in CART] == [(1, 0)] * 3


async def test_what_is_being_decided_is_not_told_as_decided(world: World) -> None:
    await world.stock(A=1, B=1, C=1)
    home_only = [world.shard(RID)]
    dying = world.worker()
    original = dying.index._inner

    class OnlyHome:
        shard_count = original.shard_count

        def __getattr__(self, verb: str) -> object:
            async def call(shard: int, *args: object) -> object:
                if shard not in home_only:
                    raise Died
                return await getattr(original, verb)(shard, *args)

            return call

    dying.index._inner = OnlyHome()
    with pytest.raises(Died):
        await dying.reservations.create(a_cart(RID, CART), TIMEOUT)

    with pytest.raises(OutcomeUnknown):
        await world.worker().reservations.get(RID, TIMEOUT)
    world.advance(2_001)
    await world.resolve_everything()
    with pytest.raises(NotFound):
        await world.worker().reservations.get(RID, TIMEOUT)
    assert NODES and [await world.held_and_committed(sku) for sku in CART] == [(0, 0)] * 3
