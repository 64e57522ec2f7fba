"""What becomes of a node's days as a hold changes, on reference ledgers and real Functions."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from dataclasses import replace
from datetime import timedelta

import pytest

from promise_svc.application.changed_lines import ChangeLine, TransferLine
from promise_svc.application.reservation_body import PromiseTerms, WorkDay
from promise_svc.application.reservation_changes import ChangeCommand
from promise_svc.domain.reservation import State, SupplyRow, TransitionOutcome
from tests.support.bounded_nodes import (
    a_day,
    bounded,
    cart,
    counts,
    days,
    follow,
    opened,
    take,
    today,
)
from tests.support.reservation_world import NODES, Died, World
from tests.support.shards import TIMEOUT

CALLS_MAX = 60


async def test_a_part_of_an_order_keeps_its_day_until_nothing_of_it_is_open(world: World) -> None:
    """One of two lines cancelled: it still counts. Both: it does not. One fulfilled, the other
    cancelled: the day's work was done."""
    await opened(world, a_day(5))
    worker = world.worker().reservations
    for name in ("gone", "left"):
        await take(world, cart(name))
        await worker.confirm(name, 0, None, TIMEOUT)
    seen = [await counts(world)]

    def part(name: str, line: str) -> ChangeCommand:
        lines = (ChangeLine(line, 1),)
        return ChangeCommand(reservation_id=name, idempotency_key=line, lines=lines)

    await worker.cancel(part("gone", "l0"), TIMEOUT)
    seen.append(await counts(world))
    await worker.cancel(part("gone", "l1"), TIMEOUT)
    seen.append(await counts(world))
    await worker.changes.fulfill(part("left", "l0"), TIMEOUT)
    await worker.cancel(part("left", "l1"), TIMEOUT)
    seen.append(await counts(world))

    assert [first for first, *_ in seen] == [2, 2, 1, 1]
    states = [(await worker.get(name, TIMEOUT)).state for name in ("gone", "left")]
    assert states == [State.CANCELLED, State.FULFILLED]
    await world.check()


@pytest.mark.parametrize("confirmed", [False, True], ids=["held", "confirmed"])
async def test_a_transfer_takes_the_new_nodes_day_and_gives_the_old_ones_back(
    world: World, confirmed: bool
) -> None:
    """In one step: where the new node has no room in sight nothing moves, told as CAPACITY_FULL.
    The account may live in a shard that the reservation has never spoken to."""
    await opened(world, a_day(1), nodes=NODES)
    worker = world.worker()
    for name in ("r", "other"):
        await take(world, cart(name, node_id="n1" if name == "r" else "n2"))
    if confirmed:
        await worker.reservations.confirm("r", 0, None, TIMEOUT)

    async def moved(key: str, target: str, *lines: str) -> TransitionOutcome:
        source = "n2" if target == "n3" else "n1"
        transfers = tuple(TransferLine(line, 1, source, target) for line in lines)
        command = ChangeCommand(reservation_id="r", idempotency_key=key)
        result = await worker.reservations.changes.transfer(command, transfers, TIMEOUT)
        await worker.rest()
        await follow(world)
        return result.outcome

    part = await moved("k1", "n2", "l0"), [await counts(world, n) for n in NODES]
    whole = await moved("k2", "n2", "l1"), [await counts(world, n) for n in NODES]
    world.network.now = bounded(a_day(0), nodes=("n3",), version=3)
    full = await moved("k3", "n3", "l0", "l1"), [await counts(world, n) for n in NODES]
    same = await moved("k2", "n2", "l1")

    assert part == (TransitionOutcome.TRANSFERRED, [[1, 0, 0], [1, 1, 0], [0, 0, 0]])
    assert whole == (TransitionOutcome.TRANSFERRED, [[0, 0, 0], [1, 1, 0], [0, 0, 0]])
    assert full == (TransitionOutcome.CAPACITY_FULL, whole[1])
    assert same is TransitionOutcome.TRANSFERRED
    reservation = await worker.reservations.get("r", TIMEOUT)
    assert reservation.work_days == (
        WorkDay("n1", today(world), counts=False),
        WorkDay("n2", today(world) + timedelta(1), counts=True),
    )
    await world.check()


@pytest.mark.parametrize("world", ["ledger"], indirect=True)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_transfer_may_die_at_any_message(world: World, after: bool) -> None:
    """The order stands at one node whole, with one working day; what was asked of another comes
    back by itself, and a later transfer is done."""
    await opened(world, a_day(CALLS_MAX), nodes=NODES)
    died = set()
    for dies_at in range(1, CALLS_MAX):
        rid = f"r{dies_at}"
        await take(world, cart(rid), seen=False)
        mortal = world.worker(dies_at, after=after)
        await world.worker().reservations.confirm(rid, 0, None, TIMEOUT)
        transfers = tuple(TransferLine(line, 1, "n1", "n2") for line in ("l0", "l1"))
        command = ChangeCommand(reservation_id=rid, idempotency_key="k")
        with contextlib.suppress(Died):
            await mortal.reservations.changes.transfer(command, transfers, TIMEOUT)
            await mortal.rest()
        died.add(mortal.index.dead)
        for _ in range(3):
            world.advance(10_001)  # a joining leg is asked about, too
            await world.resolve_everything()

        at_n1, at_n2 = (await counts(world, "n1"))[0], (await counts(world, "n2"))[0]
        assert at_n1 + at_n2 == dies_at, dies_at
        again = await world.worker().reservations.changes.transfer(command, transfers, TIMEOUT)
        assert again.outcome is TransitionOutcome.TRANSFERRED, dies_at
        await world.resolve_everything()
        assert [(await counts(world, n))[0] for n in ("n1", "n2")] == [0, dies_at]
        await world.check()
        if not mortal.index.dead:
            break
    assert died == {True, False}


async def test_a_hold_that_is_taken_again_takes_a_day_as_it_is_now(world: World) -> None:
    """Expired, then confirmed with the money taken: under the limit of now, on a day with room; one
    that was promised on its day or not at all; without a bound, no day."""
    await opened(world, a_day(1))
    terms = PromiseTerms(frozenset(), 1)
    for name, other in (("plain", {}), ("promised", {"terms": terms, "node_id": ""})):
        world.network.now = bounded(a_day(1), nodes=NODES)
        await take(world, cart(name, "A", ttl_ms=1_000, **other))
        world.advance(1_001)
        await world.resolve_everything()
        await follow(world)
    await take(world, cart("rival", "B"))
    worker = world.worker()

    async def again(name: str) -> tuple[TransitionOutcome, tuple[WorkDay, ...]]:
        result = await worker.reservations.confirm(name, 0, None, TIMEOUT, reacquire=True)
        await worker.rest()
        await follow(world)
        return result.outcome, result.reservation.work_days

    promised, plain = await again("promised"), await again("plain")
    world.network.now = bounded()
    free = await again("promised")

    assert promised[0] is TransitionOutcome.EXPIRED
    assert plain[0] is TransitionOutcome.CONFIRMED
    assert [day.date for day in plain[1]] == [today(world) + timedelta(1)]
    assert free == (TransitionOutcome.CONFIRMED, ())
    await world.check()


async def test_what_is_on_its_way_takes_a_day_on_which_it_is_there(world: World) -> None:
    """Held by name, and taken again after it expired: the day begins when the supply arrives."""
    await opened(world, a_day(1))
    arrival_ms = world.clock.now + 24 * 3_600_000
    row = SupplyRow("G", "n1", "po", 5, 0, "", 0, arrival_ms)
    await world.index.sync_supply(world.shard("G"), [row], TIMEOUT)
    world.table.put("G", "n1", 5, bucket="po", arrival_ms=arrival_ms)

    held = await take(world, cart("late", "G", allow_backorder=True, ttl_ms=1_000))
    world.advance(1_001)
    await world.resolve_everything()
    await follow(world)
    again = await world.worker().reservations.confirm("late", 0, None, TIMEOUT, reacquire=True)

    assert days(held) == [("n1", today(world) + timedelta(1), True)]
    assert again.outcome is TransitionOutcome.CONFIRMED
    assert again.reservation.work_days == held.reservation.work_days
    await world.check()


async def test_a_change_planned_on_an_older_network_is_planned_again(world: World) -> None:
    """n2 is closed while a worker that has not heard of it transfers there, and grows what is there
    already: the shards know, whichever of them has the account, and the worker hears of it."""
    await opened(world, a_day(9), nodes=NODES)
    skus = [*"ABCDEF"]
    for n in range(12):
        await take(
            world, cart(f"r{n}", *skus[: 1 + n % 5], node_id="n1" if n % 2 else "n2"), seen=False
        )
    heard = world.network.now
    closed = bounded(a_day(0), nodes=("n2",), version=4)
    floors = range(world.index.shard_count)
    await asyncio.gather(*(world.index.raise_network_floor(s, 4, TIMEOUT) for s in floors))
    before = await counts(world, "n2")
    outcomes = Counter[TransitionOutcome]()
    for n in range(12):
        world.network.now, world.network.next = heard, closed
        changes = world.worker().reservations.changes
        command = ChangeCommand(reservation_id=f"r{n}", idempotency_key="k")
        if n % 2:
            result = await changes.transfer(command, (TransferLine("l0", 1, "n1", "n2"),), TIMEOUT)
        else:
            result = await changes.amend(replace(command, lines=(ChangeLine("l0", 3),)), TIMEOUT)
        outcomes[result.outcome] += 1

    assert set(outcomes) <= {TransitionOutcome.CAPACITY_FULL, TransitionOutcome.AMENDED}
    assert outcomes[TransitionOutcome.CAPACITY_FULL] >= 6
    assert await counts(world, "n2") == before


async def test_units_that_come_back_to_a_node_are_worked_on_a_day_that_is_to_come(
    world: World,
) -> None:
    """There and back again after the cutoff: the day that was given back is over."""
    await opened(world, a_day(5), nodes=NODES)
    await take(world, cart("r", "A"))
    worker = world.worker()

    async def moved(key: str, source: str, target: str) -> None:
        command = ChangeCommand(reservation_id="r", idempotency_key=key)
        transfers = (TransferLine("l0", 1, source, target),)
        result = await worker.reservations.changes.transfer(command, transfers, TIMEOUT)
        assert result.outcome is TransitionOutcome.TRANSFERRED
        await worker.rest()

    await worker.reservations.confirm("r", 0, None, TIMEOUT)
    await moved("there", "n1", "n2")
    world.advance(12 * 3_600_000)
    await moved("back", "n2", "n1")

    tomorrow = today(world) + timedelta(1)
    told = (await worker.reservations.get("r", TIMEOUT)).work_days
    assert [day for day in told if day.counts] == [WorkDay("n1", tomorrow, counts=True)]
    assert await counts(world) == [0, 1, 0]
    await world.check()
