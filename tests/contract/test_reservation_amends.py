"""New quantities and other nodes for a hold or an order, over several shards."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from promise_svc.application.changed_lines import ChangeLine, TransferLine
from promise_svc.application.reservation_body import decode_body
from promise_svc.application.reservation_changes import ChangeCommand
from promise_svc.application.transition import TransitionResult
from promise_svc.domain.network import NodeStatus
from promise_svc.domain.reservation import CreateOutcome, State, SupplyRow, TransitionOutcome
from promise_svc.errors import InvalidRequest, PromiseServiceError
from tests.support.networks import a_node, a_snapshot
from tests.support.reservation_world import NODES, Died, MortalIndex, Worker, World, a_cart
from tests.support.shards import TIMEOUT

CART = ("A", "B", "C")
"""Three SKUs in three shards, none of them the home of RID."""

RID = "r-1"


async def held(world: World, quantity: int = 2, rid: str = RID, *, sold: bool = False) -> Worker:
    worker = world.worker()
    await worker.reservations.create(a_cart(rid, CART, quantity), TIMEOUT)
    if sold:
        await worker.reservations.confirm(rid, 0, None, TIMEOUT)
    await worker.rest()
    return worker


async def amend(
    worker: Worker, *quantities: int | None, key: str = "k", rid: str = RID, node: str = ""
) -> TransitionResult:
    lines = tuple(
        ChangeLine(f"l{index}", quantity, node)
        for index, quantity in enumerate(quantities)
        if quantity is not None
    )
    command = ChangeCommand(reservation_id=rid, idempotency_key=key, lines=lines)
    return await worker.reservations.changes.amend(command, TIMEOUT)


async def totals(world: World) -> list[tuple[int, int]]:
    """Held and committed of each SKU over all nodes, due holds given back."""
    found = []
    for sku in CART:
        _, _, images = await world.index.read_positions(world.shard(sku), [sku], TIMEOUT)
        rows = [image.row for image in images[0]]
        found.append((sum(row.held for row in rows), sum(row.committed for row in rows)))
    return found


async def test_a_hold_gets_more_of_one_line_and_less_of_another(world: World) -> None:
    await world.stock(A=5, B=5, C=5)
    worker = await held(world)

    result = await amend(worker, 5, 1)
    await worker.rest()

    assert result.outcome is TransitionOutcome.AMENDED
    assert (result.reservation.state, result.reservation.revision) == (State.HELD, 2)
    assert [line.quantity for line in result.reservation.lines] == [5, 1, 2]
    assert await totals(world) == [(5, 0), (1, 0), (2, 0)]
    await world.check()


async def test_an_order_gets_more_and_is_sold_whole(world: World) -> None:
    await world.stock(A=5, B=5, C=5)
    worker = await held(world, sold=True)

    result = await amend(worker, 4, 1)
    await worker.rest()

    assert result.outcome is TransitionOutcome.AMENDED
    assert await totals(world) == [(0, 4), (0, 1), (0, 2)]
    await world.check()


@pytest.mark.parametrize("short", range(3))
async def test_with_too_little_of_one_line_nothing_changes(world: World, short: int) -> None:
    """Other lines that could grow are set back, and can be sold to others at once."""
    await world.stock(**{sku: 3 if index == short else 9 for index, sku in enumerate(CART)})
    worker = await held(world)

    result = await amend(worker, 5, 5, 5)
    await worker.rest()

    assert result.outcome is TransitionOutcome.INSUFFICIENT_STOCK
    assert [(x.sku, x.node_id, x.ats) for x in result.short] == [(CART[short], "n1", 1)]
    assert [line.quantity for line in result.reservation.lines] == [2, 2, 2]
    assert await totals(world) == [(2, 0)] * 3
    rival = await worker.reservations.create(a_cart("rival", CART, 1), TIMEOUT)
    assert rival.outcome is CreateOutcome.HELD
    await world.check()


async def test_the_same_amendment_twice_is_made_once(world: World) -> None:
    await world.stock(A=9, B=9, C=9)
    worker = await held(world)

    first = await amend(worker, 3)
    later = await amend(worker, 4, key="k2")
    again = await amend(worker, 3)
    await worker.rest()

    assert [x.replayed for x in (first, later, again)] == [False, False, True]
    assert await totals(world) == [(4, 0), (2, 0), (2, 0)]


async def test_what_left_cannot_be_amended_away_and_something_must_stay(world: World) -> None:
    await world.stock(A=9, B=9, C=9)
    worker = await held(world, sold=True)
    parcel = ChangeCommand(
        reservation_id=RID, idempotency_key="parcel", lines=(ChangeLine("l0", 2),)
    )
    await worker.reservations.changes.fulfill(parcel, TIMEOUT)

    less = await amend(worker, 1)
    more = await amend(worker, 3, key="k2")
    await worker.rest()

    assert less.outcome is TransitionOutcome.EXCEEDS_OPEN_QUANTITY
    assert more.outcome is TransitionOutcome.AMENDED
    assert await totals(world) == [(0, 1), (0, 2), (0, 2)]
    with pytest.raises(InvalidRequest, match="release it instead"):
        await amend(await held(world, rid="r-2"), 0, 0, 0, rid="r-2")
    # Two have left for good: that is no reason to say that nothing would be left.
    with pytest.raises(InvalidRequest, match="cancel what is open instead"):
        await amend(worker, 2, 0, 0, key="k3")


async def test_units_move_to_another_node_or_stay(world: World) -> None:
    """In one step of their shard: never at both, never at neither."""
    await world.stock(A=5, B=5, C=5)
    row = SupplyRow("A", "n2", "", 1, 0, "", 0)
    await world.index.sync_supply(world.shard("A"), [row], TIMEOUT)
    worker = await held(world)

    async def transfer(quantity: int, target: str, key: str) -> TransitionResult:
        command = ChangeCommand(reservation_id=RID, idempotency_key=key)
        moves = (TransferLine("l0", quantity, "n1", target),)
        return await worker.reservations.changes.transfer(command, moves, TIMEOUT)

    done = await transfer(1, "n2", "one")
    short = await transfer(1, "n2", "two")
    nowhere = await transfer(1, "n9", "three")
    world.network.now = a_snapshot(*map(a_node, NODES[:2]), a_node("n3", status=NodeStatus.OFF))
    off = await transfer(1, "n3", "four")
    await worker.rest()

    assert done.outcome is TransitionOutcome.TRANSFERRED
    places = [(x.node_id, x.quantity) for x in done.reservation.lines[0].planned_units]
    assert places == [("n1", 1), ("n2", 1)]
    assert short.outcome is TransitionOutcome.INSUFFICIENT_STOCK
    assert nowhere.outcome is off.outcome is TransitionOutcome.NODE_UNAVAILABLE
    assert await world.held_and_committed("A") == (1, 0)
    await world.check()


async def test_a_node_that_is_off_sells_no_more_to_a_hold_either(world: World) -> None:
    """Also where the amendment names no node: more units come from where the line's are."""
    await world.stock(A=5, B=5, C=5)
    worker = await held(world)
    off = [a_node("n1", status=NodeStatus.OFF), *map(a_node, NODES[1:])]
    world.network.now = a_snapshot(*off)

    more, fewer = await amend(worker, 3, key="k1"), await amend(worker, 1, key="k2")

    assert more.outcome is TransitionOutcome.NODE_UNAVAILABLE
    assert fewer.outcome is TransitionOutcome.AMENDED


@pytest.mark.parametrize("sold", [False, True], ids=["hold", "order"])
async def test_a_place_that_a_leg_never_had_is_left_again(world: World, sold: bool) -> None:
    """Two lines could grow at another node, the third cannot: all are as before."""
    await world.stock(A=5, B=5, C=5)
    for sku, there in (("A", 5), ("B", 5), ("C", 1)):
        row = SupplyRow(sku, "n2", "", there, 0, "", 0)
        await world.index.sync_supply(world.shard(sku), [row], TIMEOUT)
    worker = await held(world, 1, sold=sold)

    short = await amend(worker, 3, 3, 3, node="n2")
    places = [len(line.planned_units) for line in short.reservation.lines]
    again = await amend(worker, 3, 3, 2, key="k2", node="n2")
    back = await amend(worker, 1, 1, 1, key="k3")
    await worker.rest()

    assert short.outcome is TransitionOutcome.INSUFFICIENT_STOCK
    assert [(x.sku, x.node_id, x.ats) for x in short.short] == [("C", "n2", 1)]
    assert places == [1, 1, 1]
    assert again.outcome is back.outcome is TransitionOutcome.AMENDED
    assert [len(line.planned_units) for line in back.reservation.lines] == [1, 1, 1]
    assert await totals(world) == [(0, 1) if sold else (1, 0)] * 3
    await world.check()
    await agree(world, [RID])


async def test_what_changes_nothing_is_a_change_of_its_own(world: World) -> None:
    """Told as done, not as done before; and its key, sent again, undoes nothing that came later."""
    await world.stock(A=5, B=5, C=5)
    worker = await held(world)

    same = await amend(worker, 2)
    other = await amend(worker, 4, key="other")
    again = await amend(worker, 2)
    await worker.rest()

    told = [(x.outcome, x.replayed, x.reservation.revision) for x in (same, other, again)]
    done = TransitionOutcome.AMENDED
    assert told == [(done, False, 1), (done, False, 2), (done, True, 2)]
    assert await totals(world) == [(4, 0), (2, 0), (2, 0)]
    await agree(world, [RID])


class Between(MortalIndex):
    """Does something just before the first call of a kind."""

    def __init__(self, inner: Any, verb: str, act: Callable[[], Awaitable[object]]) -> None:
        super().__init__(inner)
        self._verb, self._act, self._done = verb, act, False

    def __getattr__(self, verb: str) -> Callable[..., Any]:
        made = super().__getattr__(verb)

        async def call(shard: int, *args: Any) -> Any:
            if verb == self._verb and not self._done:
                self._done = True
                await self._act()
            return await made(shard, *args)

        return call


@pytest.mark.parametrize("verb", ["revise", "conform", "settle"])
@pytest.mark.parametrize("other", ["confirm", "release", "shrink"])
async def test_whatever_comes_between_the_books_balance(
    world: World, verb: str, other: str
) -> None:
    """Confirmed, released or amended by another worker while legs are being asked for more."""
    await world.stock(A=9, B=9, C=9)
    await held(world)
    rival = world.worker()

    async def act() -> None:
        if other == "confirm":
            await rival.reservations.confirm(RID, 0, None, TIMEOUT)
        elif other == "release":
            await rival.reservations.release(RID, 0, None, TIMEOUT)
        else:
            await amend(rival, 1, 1, 1, key="other")

    worker = Worker(world, Between(world.index, verb, act))
    with contextlib.suppress(PromiseServiceError):
        await amend(worker, 4, 4, 4)
    await worker.rest()
    await rival.rest()
    for _ in range(2):
        world.advance(2_001)
        await world.resolve_everything()

    found = await world.worker().reservations.get(RID, TIMEOUT)
    await agree(world, [RID])
    if other == "release" and verb != "settle":
        assert found.state is State.RELEASED


async def agree(world: World, rids: list[str]) -> None:
    """Counters are what the reservations say, and nothing is left to settle."""
    units = {sku: [0, 0] for sku in CART}
    for rid in rids:
        reservation = await world.worker().reservations.get(rid, TIMEOUT)
        if reservation.state in (State.HELD, State.CONFIRMED):
            for line in reservation.lines:
                open_units = sum(part.open_quantity for part in line.planned_units)
                units[line.sku][reservation.state is State.CONFIRMED] += open_units
    assert await totals(world) == [(units[sku][0], units[sku][1]) for sku in CART]
    world.advance(10_000)
    shards = range(world.index.shard_count)
    opened = await asyncio.gather(*(world.index.open_claims(s, 10, TIMEOUT) for s in shards))
    assert [claim for found in opened for claim in found] == []
    await world.check()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("sold", [False, True], ids=["hold", "order"])
async def test_a_worker_killed_at_any_call_amends_all_or_nothing(
    world: World, sold: bool, after: bool
) -> None:
    """The resolver sets legs back or lets them follow; a retry makes the change once."""
    await world.stock(A=1_000, B=1_000, C=1_000)
    rids = []
    for dies_at in range(1, 20):
        rid = f"r-{dies_at}"
        rids.append(rid)
        await held(world, rid=rid, sold=sold)
        dying = world.worker(dies_at, after=after)
        with contextlib.suppress(Died):
            await amend(dying, 5, 1, 3, rid=rid)
        await dying.rest()
        world.advance(2_001)
        await world.resolve_everything()
        await agree(world, rids)

        retry = world.worker()
        result = await amend(retry, 5, 1, 3, rid=rid)
        await retry.rest()
        assert result.outcome is TransitionOutcome.AMENDED
        assert [line.quantity for line in result.reservation.lines] == [5, 1, 3]
        if not dying.index.dead:
            break
    assert not dying.index.dead, "it makes more calls than were tried"
    await agree(world, rids)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("sold", [False, True], ids=["hold", "order"])
async def test_units_that_are_to_move_stay_until_that_is_decided(
    world: World, sold: bool, after: bool
) -> None:
    """A worker dies while it moves units to another node, and somebody wants those it leaves: until
    home has decided, nobody gets them; then they are where the reservation says, and can leave."""
    lines = (TransferLine("l0", 2, "n1", "n2"),)
    for dies_at in range(1, 20):
        rid, dying = f"r-{dies_at}", world.worker(dies_at, after=after)
        await world.stock(A=2, B=100, C=100)
        row = SupplyRow("A", "n2", "", 2, 0, "", 0)
        await world.index.sync_supply(world.shard("A"), [row], TIMEOUT)
        await held(world, rid=rid, sold=sold)
        with contextlib.suppress(Died):
            await dying.reservations.changes.transfer(
                ChangeCommand(reservation_id=rid, idempotency_key="k"), lines, TIMEOUT
            )
        await dying.rest()
        rival = world.worker()
        took = await rival.reservations.create(a_cart(f"rival-{rid}", ("A",), 1), TIMEOUT)
        standing = [rid, f"rival-{rid}"] if took.outcome is CreateOutcome.HELD else [rid]
        world.advance(2_001)
        await world.resolve_everything()
        await agree(world, standing)

        for each in standing:
            await rival.reservations.release(each, 0, None, TIMEOUT)
        left = ChangeCommand(reservation_id=rid, durability=None)
        shipped = await rival.reservations.changes.fulfill(left, TIMEOUT)
        await rival.rest()
        world.advance(2_001)
        await world.resolve_everything()
        assert (shipped.outcome is TransitionOutcome.FULFILLED) is sold
        assert await totals(world) == [(0, 0)] * 3
        if not dying.index.dead:
            break
    assert not dying.index.dead, "it makes more calls than were tried"


async def test_a_late_message_makes_no_leg_grow_again(world: World) -> None:
    """A worker asks legs for more and dies; its messages come once the resolver has been there."""
    await world.stock(A=9, B=9, C=9)
    await held(world)
    late: list[tuple[int, Any]] = []

    class Slow(MortalIndex):
        async def conform(self, shard: int, steps: Any, timeout: float) -> None:
            late.append((shard, steps))
            self.dead = True
            raise Died

    slow = Worker(world, Slow(world.index))
    with contextlib.suppress(Died):
        await amend(slow, 5, 5, 5)
    await slow.rest()
    world.advance(2_001)
    await world.resolve_everything()

    for shard, steps in late:
        await world.index.conform(shard, steps, TIMEOUT)

    assert len(late) == 3
    await agree(world, [RID])


async def anything(worker: Worker, rng: random.Random, rid: str, key: str) -> None:
    """Mostly an amendment, at the nodes it has or at another."""
    use, wish = worker.reservations, rng.randrange(10)
    if wish < 6:
        wanted = [rng.randrange(1, 12) for _ in CART]
        await amend(worker, *wanted, key=key, rid=rid, node=rng.choice(["", "n2"]))
    elif wish == 6:
        await use.release(rid, 0, None, TIMEOUT)
    elif wish == 7:
        line = ChangeLine("l1", 1)
        parcel = ChangeCommand(reservation_id=rid, idempotency_key=key, lines=(line,))
        await use.changes.fulfill(parcel, TIMEOUT)
    else:
        await use.confirm(rid, 0, None, TIMEOUT)


async def test_random_amendments_at_once_keep_the_books(world: World, rng: random.Random) -> None:
    """Workers that die amend, confirm, release and ship one another's reservations."""
    await world.stock(A=30, B=30, C=30)
    for sku in CART:
        row = SupplyRow(sku, "n2", "", 9, 0, "", 0)
        await world.index.sync_supply(world.shard(sku), [row], TIMEOUT)
    rids = [f"r-{number}" for number in range(4)]
    for rid in rids:
        await held(world, 3, rid)

    async def meddle(number: int) -> None:
        worker = world.worker(dies_at=rng.choice([0, 0, rng.randrange(1, 25)]))
        for turn in range(5):
            try:
                await anything(worker, rng, rng.choice(rids), f"{number}-{turn}")
            except Died:
                return
            except PromiseServiceError:  # being changed by others, or nothing would be left
                continue
        await worker.rest()

    await asyncio.gather(*(meddle(number) for number in range(6)))
    for _ in range(3):
        world.advance(2_001)
        await world.resolve_everything()

    await agree(world, rids)


async def test_a_change_that_an_end_overtook_is_told_of_the_end(world: World) -> None:
    """A worker dies with the claim marked, then the hold is released, or runs out: who changes it
    later is told so, not that others are changing it."""
    await world.stock(A=9, B=9, C=9)
    for rid, ttl_ms in (("released", 60_000), ("expired", 1_000)):
        await world.worker().reservations.create(a_cart(rid, "ABC", ttl_ms=ttl_ms), TIMEOUT)
        await world.resolve_everything()
        lines = tuple(ChangeLine(f"l{i}", 3) for i in range(3))
        command = ChangeCommand(reservation_id=rid, idempotency_key="k", lines=lines)
        marked = False
        for dies_at in range(2, 12):
            mortal = world.worker(dies_at, after=True)
            with contextlib.suppress(Died):
                await mortal.reservations.changes.amend(command, TIMEOUT)
            reply = (await world.index.read_claims(world.shard(rid), [rid], TIMEOUT))[0]
            marked = bool(reply.claim) and decode_body(reply.claim).growing
            if marked:
                break
        assert marked
    await world.worker().reservations.release("released", 0, None, TIMEOUT)
    world.advance(1_001)
    changes = world.worker().reservations.changes

    told = [
        (await changes.amend(replace(command, reservation_id=rid), TIMEOUT)).outcome
        for rid in ("released", "expired")
    ]

    assert told == [TransitionOutcome.ALREADY_RELEASED, TransitionOutcome.EXPIRED]
