"""A confirm is told once its legs are confirmed; home decides a moment later, with others. Until
then its claim is PINNED, and nobody may hear anything but an order."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from promise_svc.application.changed_lines import ChangeLine, TransferLine
from promise_svc.application.reservation import Durability
from promise_svc.application.reservation_changes import ChangeCommand
from promise_svc.domain.events import StoredEvent
from promise_svc.domain.reservation import (
    CreateOutcome,
    DurabilityMode,
    State,
    SupplyRow,
    TransitionOutcome,
)
from promise_svc.domain.sharding import START, Position
from tests.support.fake_ats_index import FakeAtsIndex
from tests.support.reservation_world import Worker, World, a_cart
from tests.support.shards import TIMEOUT

CART = ("A", "B", "C")
RID = "r-1"


async def sold(world: World, rid: str = RID, worker: Worker | None = None) -> Worker:
    """Hold and confirm a cart; the worker, which has told so and not spoken to home since."""
    if worker is None:
        worker = world.worker()
        worker.note_later()
    await worker.reservations.create(a_cart(rid, CART, 2), TIMEOUT)
    result = await worker.reservations.confirm(rid, 0, None, TIMEOUT)
    assert (result.outcome, result.replayed) == (TransitionOutcome.CONFIRMED, False)
    assert result.reservation.state is State.CONFIRMED
    return worker


async def killed_after_its_answer(world: World, rid: str = RID) -> None:
    worker = await sold(world, rid)
    assert await at_home(world, rid) is State.PINNED
    worker.index.dead = True
    await worker.tasks.close(0)


async def at_home(world: World, rid: str = RID) -> State:
    claim = (await world.index.read_claims(world.shard(rid), [rid], TIMEOUT))[0].claim
    return State(claim.state)


async def test_the_answer_comes_with_the_last_leg_and_home_decides_many_at_once(
    world: World,
) -> None:
    """A sale is a call to home, one to each leg, and its part of one more."""
    await world.stock(A=9, B=9, C=9)
    homes = itertools.groupby(
        sorted((f"r-{n}" for n in range(500)), key=world.shard), key=world.shard
    )
    first, second = next(rids for rids in (list(each)[:2] for _, each in homes) if len(rids) == 2)
    worker = await sold(world, first)
    await sold(world, second, worker)
    told = Counter(verb for verb, _ in worker.index.calls)

    await worker.tell_home()

    calls = Counter(verb for verb, _ in worker.index.calls)
    assert (told["resolve"], told["follow"]) == (2, 6)
    assert calls - told == {"resolve": 1}
    for rid in (first, second):
        claim = (await world.index.read_claims(world.shard(rid), [rid], TIMEOUT))[0].claim
        assert (claim.state, claim.settled) == (State.CONFIRMED, 1)
    await world.check()


async def test_a_worker_that_is_shut_down_has_home_decide_before_it_goes(world: World) -> None:
    await world.stock(A=9, B=9, C=9)
    worker = world.worker()
    worker.reservations._shards._notes._seconds = 0.05
    await sold(world, worker=worker)

    await worker.tasks.close(30)

    assert await at_home(world) is State.CONFIRMED


ALL = ChangeCommand(reservation_id=RID)
KEYED = replace(ALL, idempotency_key="k")
FEWER = (ChangeLine("l0", 1),)
MOVED = (TransferLine("l0", 1, "n1", "n2"),)

Ask = Callable[[Worker], Awaitable[Any]]
ASKED: dict[str, tuple[Ask, TransitionOutcome, State]] = {
    "confirm": (
        lambda w: w.reservations.confirm(RID, 0, None, TIMEOUT),
        TransitionOutcome.CONFIRMED, State.CONFIRMED,
    ),
    "release": (
        lambda w: w.reservations.release(RID, 0, None, TIMEOUT),
        TransitionOutcome.ALREADY_CONFIRMED, State.CONFIRMED,
    ),
    "release of another revision": (
        lambda w: w.reservations.release(RID, 7, None, TIMEOUT),
        TransitionOutcome.REVISION_MISMATCH, State.CONFIRMED,
    ),
    "cancel": (
        lambda w: w.reservations.cancel(ALL, TIMEOUT),
        TransitionOutcome.CANCELLED, State.CANCELLED,
    ),
    "cancel in part": (
        lambda w: w.reservations.cancel(replace(KEYED, lines=FEWER), TIMEOUT),
        TransitionOutcome.CANCELLED, State.CONFIRMED,
    ),
    "fulfill": (
        lambda w: w.reservations.changes.fulfill(ALL, TIMEOUT),
        TransitionOutcome.FULFILLED, State.FULFILLED,
    ),
    "amend": (
        lambda w: w.reservations.changes.amend(replace(KEYED, lines=FEWER), TIMEOUT),
        TransitionOutcome.AMENDED, State.CONFIRMED,
    ),
    "transfer": (
        lambda w: w.reservations.changes.transfer(KEYED, MOVED, TIMEOUT),
        TransitionOutcome.TRANSFERRED, State.CONFIRMED,
    ),
    "extend": (
        lambda w: w.reservations.changes.extend(RID, 9_000, 90_000, 0, None, TIMEOUT),
        TransitionOutcome.ALREADY_CONFIRMED, State.CONFIRMED,
    ),
}  # fmt: skip


@pytest.mark.parametrize("verb", ASKED)
async def test_whatever_is_asked_next_finds_the_order(world: World, verb: str) -> None:
    """At another worker, before home has decided."""
    await world.stock(A=9, B=9, C=9)
    row = SupplyRow("A", "n2", "", 9, 0, "", 0)
    await world.index.sync_supply(world.shard("A"), [row], TIMEOUT)
    await killed_after_its_answer(world)
    ask, outcome, state = ASKED[verb]

    other = world.worker()
    answer = await ask(other)
    await other.rest()

    assert (answer.outcome, answer.reservation.state) == (outcome, state)
    assert answer.replayed is (verb == "confirm")
    assert (await other.reservations.get(RID, TIMEOUT)).state is state
    await world.check()


async def test_whoever_looks_is_shown_the_order(world: World) -> None:
    """A read, and the create that is asked for again; neither waits for home."""
    await world.stock(A=9, B=9, C=9)
    await killed_after_its_answer(world)
    other = world.worker()

    read = await other.reservations.get(RID, TIMEOUT)
    again = await other.reservations.create(a_cart(RID, CART, 2), TIMEOUT)

    assert await at_home(world) is State.PINNED
    assert read.state is State.CONFIRMED
    assert again.reservation is not None and again.replayed
    assert again.reservation.state is State.CONFIRMED


async def test_an_order_is_not_replaced(world: World) -> None:
    await world.stock(A=9, B=9, C=9)
    await killed_after_its_answer(world)

    result = await world.worker().reservations.create(a_cart("r-2", CART, replaces=RID), TIMEOUT)

    assert result.outcome is CreateOutcome.REPLACED_NOT_HELD
    assert (await world.worker().reservations.get(RID, TIMEOUT)).state is State.CONFIRMED


async def test_a_worker_killed_after_its_answer_leaves_the_same_order(world: World) -> None:
    """The resolver decides once it is due: events and totals are those of any other sale."""
    await world.stock(A=9, B=9, C=9)
    await killed_after_its_answer(world)
    await (await sold(world, "r-2")).tell_home()
    world.advance(2_001)
    assert (await world.worker().reservations.get(RID, TIMEOUT)).state is State.CONFIRMED

    await world.resolve_everything()

    open_claims = [await world.index.open_claims(s, 9, TIMEOUT) for s in range(64)]
    assert not any(open_claims)
    assert await at_home(world) is State.CONFIRMED
    events = [event for each in await everything(world) for event in each]
    kinds = {
        rid: Counter(each.event.type for each in events if each.event.subject == rid)
        for rid in (RID, "r-2")
    }
    assert kinds[RID] == kinds["r-2"]
    _, _, images = await world.index.read_positions(world.shard("A"), ["A"], TIMEOUT)
    assert [image.row.confirmed_total for image in images[0]] == [4]
    await world.check()


async def test_what_a_recorded_confirm_waits_for_is_the_order(world: World) -> None:
    """An index that is made anew of nothing but those events tells CONFIRMED, and decides it."""
    await world.stock(A=9, B=9, C=9)
    waited: dict[int, Position] = {}

    class Watch:
        async def wait_durable(
            self, shard: int, at: Position, answered_epoch: int, timeout: float
        ) -> None:
            waited[shard] = at

    worker = world.worker()
    worker.note_later()
    worker.reservations._recorder._watch = Watch()
    worker.reservations._durability = Durability(
        offered=frozenset(DurabilityMode),
        reserve=DurabilityMode.FSYNC,
        confirm=DurabilityMode.RECORDED,
    )
    await sold(world, worker=worker)
    anew = FakeAtsIndex(now_ms=world.clock.now_ms())
    for shard, events in enumerate(await everything(world)):
        stored = (each for each in events if each.at <= waited.get(shard, START))
        anew.ledgers[shard].restore((each.at, each.event) for each in stored)
    anew.serve_all()
    rebuilt = World(anew, lambda milliseconds: 0, anew.now_ms)

    read = await rebuilt.worker().reservations.get(RID, TIMEOUT)
    anew.now_ms += 3_600_000
    await rebuilt.resolve_everything()

    assert set(waited) == {world.shard(key) for key in (RID, *CART)}
    assert read.state is State.CONFIRMED
    assert await at_home(rebuilt) is State.CONFIRMED
    assert [await rebuilt.held_and_committed(sku) for sku in CART] == [(0, 2)] * 3


async def everything(world: World) -> list[list[StoredEvent]]:
    """Events of each shard, as the order store gets them."""
    shards = range(world.index.shard_count)
    return [await world.index.read_outbox(shard, START, 1_000, TIMEOUT) for shard in shards]
