"""The most units that one owner may have: decided where the units are, whatever takes them."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from promise_svc.application.changed_lines import ChangeLine, TransferLine
from promise_svc.application.reservation import CreateResult
from promise_svc.application.reservation_body import RequestedLine
from promise_svc.application.reservation_changes import ChangeCommand
from promise_svc.domain.network import Item, ItemLimit
from promise_svc.domain.reservation import (
    ClaimDraft,
    CreateOutcome,
    CreateStep,
    FollowStep,
    HoldPolicy,
    LegLine,
    Outcome,
    ResolveStep,
    ReviseStep,
    State,
    SupplyRow,
    TransitionOutcome,
)
from promise_svc.domain.sharding import START
from tests.support.networks import a_node, a_snapshot
from tests.support.reservation_world import NODES, Died, World, a_cart
from tests.support.shards import TIMEOUT

HELD, LIMIT = CreateOutcome.HELD, CreateOutcome.CUSTOMER_LIMIT
DAY_MS = 86_400_000


async def limited(
    world: World, quantity_max: int = 3, *, window_ms: int = 0, shard_key: str = ""
) -> None:
    """Plenty of A and B everywhere; nobody may have more than so many of A (and B together)."""
    limit = ItemLimit(quantity_max=quantity_max, window_ms=window_ms, by_shard_key=bool(shard_key))
    skus = ("A", "B") if shard_key else ("A",)
    items = [Item(sku=sku, shard_key=shard_key, customer_limit=limit) for sku in skus]
    world.network.now = a_snapshot(*map(a_node, NODES), *items)
    for sku in ("A", "B", "C"):
        shard = world.shard(world.network.now.shard_key(sku))
        rows = [SupplyRow(sku, node, "", 50, 0, "", 0) for node in NODES]
        await world.index.sync_supply(shard, rows, TIMEOUT)
        for node in NODES:
            world.table.put(sku, node, 50)


async def take(world: World, name: str, quantity: int = 1, **other: object) -> CreateResult:
    """A hold of A and C, as one worker."""
    worker = world.worker()
    skus = other.pop("skus", ("A", "C"))
    cart = a_cart(name, skus, quantity, **other)  # type: ignore[arg-type]
    result = await worker.reservations.create(cart, TIMEOUT)
    await worker.rest()
    return result


async def test_one_owner_gets_what_the_limit_allows_however_many_carts(world: World) -> None:
    """Eight carts of one shopper at once: three are held. Another shopper has a count of their
    own, and a SKU without a limit has none."""
    await limited(world)

    results = await asyncio.gather(*(take(world, f"r{n}", skus=("A",)) for n in range(8)))
    other = await take(world, "other", 3, owner_id="other")
    free = await take(world, "free", 9, skus=("C",))

    assert sorted(r.outcome for r in results) == [HELD] * 3 + [LIMIT] * 5
    assert {line.ats for r in results for line in r.lines if r.outcome is LIMIT} == {0}
    assert (other.outcome, free.outcome) == (HELD, HELD)
    assert await world.held_and_committed("A") == (6, 0)
    await world.check()


async def test_units_that_are_given_back_may_be_taken_again(world: World) -> None:
    """Released, cancelled, gone, or expired at this very instant, swept or not."""
    await limited(world)
    worker = world.worker().reservations
    whole = [ChangeCommand(reservation_id=f"r{n}") for n in range(5)]
    outcomes = []
    for n in range(4):
        outcomes.append((await take(world, f"r{n}", 3, ttl_ms=5_000)).outcome)
        outcomes.append((await take(world, f"over-{n}")).outcome)
        if n == 0:
            await worker.release("r0", 0, None, TIMEOUT)
        elif n == 1:
            await worker.confirm("r1", 0, None, TIMEOUT)
            await worker.cancel(whole[1], TIMEOUT)
        elif n == 2:
            await worker.confirm("r2", 0, None, TIMEOUT)
            await worker.changes.fulfill(whole[2], TIMEOUT)
        else:
            world.advance(5_000)
    outcomes.append((await take(world, "last", 3)).outcome)

    assert outcomes == [HELD, LIMIT] * 4 + [HELD]


async def test_in_a_window_units_count_until_it_is_over_also_once_they_left(world: World) -> None:
    """Two a day: shipping them earns no third today; tomorrow there are two again."""
    await limited(world, 2, window_ms=DAY_MS)
    worker = world.worker().reservations
    today = DAY_MS - world.clock.now % DAY_MS
    world.advance(today + 1)
    first = await take(world, "first", 2)
    await worker.confirm("first", 0, None, TIMEOUT)
    await worker.changes.fulfill(ChangeCommand(reservation_id="first"), TIMEOUT)

    again = await take(world, "again")
    world.advance(DAY_MS - 2)
    late = await take(world, "late")
    world.advance(1)
    tomorrow = await take(world, "tomorrow", 2)

    assert [r.outcome for r in (first, again, late, tomorrow)] == [HELD, LIMIT, LIMIT, HELD]


async def test_what_left_counts_whatever_is_asked_again(world: World) -> None:
    """A retry of the order that was shipped gets its answer, and earns nobody more of the SKU."""
    await limited(world, 2, window_ms=DAY_MS)
    worker = world.worker()
    first = await take(world, "first", 2)
    await worker.reservations.confirm("first", 0, None, TIMEOUT)
    await worker.reservations.changes.fulfill(ChangeCommand(reservation_id="first"), TIMEOUT)

    retry = await take(world, "first", 2)
    again = await take(world, "again")

    assert (first.outcome, retry.outcome, retry.replayed) == (HELD, HELD, True)
    assert again.outcome is LIMIT
    assert world.shard("A") != world.shard("first") != world.shard("C")


async def test_what_left_counts_whatever_a_later_attempt_is_probed_for(world: World) -> None:
    """The resolver looks for legs of an attempt that never came: its tombstone takes no place of
    a leg under which units left."""
    await limited(world, 2, window_ms=DAY_MS)
    worker = world.worker()
    await take(world, "first", 2)
    await worker.reservations.confirm("first", 0, None, TIMEOUT)
    await worker.reservations.changes.fulfill(ChangeCommand(reservation_id="first"), TIMEOUT)
    await worker.rest()
    shard = world.shard("A")
    leg = (await world.index.read_legs(shard, ["first"], TIMEOUT))[0]
    assert leg

    for target in (State.PENDING, State.ABORTED):
        step = FollowStep("first", leg.attempt + 1, target)
        await world.index.follow(shard, [step], TIMEOUT)
    again = await take(world, "again")

    assert again.outcome is LIMIT
    assert await world.index.read_legs(shard, ["first"], TIMEOUT) == [leg]


async def test_more_by_an_amendment_counts_and_another_node_does_not(world: World) -> None:
    """An order of two grows to three and not to four; to take them elsewhere is no growth."""
    await limited(world)
    await take(world, "r", 2)
    worker = world.worker()
    changes = worker.reservations.changes

    async def amend(quantity: int) -> TransitionOutcome:
        command = ChangeCommand(
            reservation_id="r", idempotency_key=f"k{quantity}", lines=(ChangeLine("l0", quantity),)
        )
        return (await changes.amend(command, TIMEOUT)).outcome

    outcomes = [await amend(4), await amend(3), await amend(5)]
    moved = await changes.transfer(
        ChangeCommand(reservation_id="r", idempotency_key="t"),
        (TransferLine("l0", 3, "n1", "n2"),),
        TIMEOUT,
    )
    await worker.rest()

    limit = TransitionOutcome.CUSTOMER_LIMIT
    assert outcomes == [limit, TransitionOutcome.AMENDED, limit]
    assert moved.outcome is TransitionOutcome.TRANSFERRED
    assert (await take(world, "more")).outcome is LIMIT
    await world.check()


@pytest.mark.parametrize("world", ["ledger"], indirect=True)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_an_amendment_that_dies_half_way_counts_once_or_not_at_all(
    world: World, after: bool
) -> None:
    """Killed at each message of an amendment from one to three: afterwards the shopper may have
    exactly what the order left of the limit."""
    for dies_at in range(1, 20):
        await limited(world)
        rid = f"r{dies_at}"
        await take(world, rid, 1, skus=("A", "B", "C"))
        mortal = world.worker(dies_at, after=after)
        lines = (ChangeLine("l0", 3), ChangeLine("l1", 3))
        command = ChangeCommand(reservation_id=rid, idempotency_key="k", lines=lines)
        with contextlib.suppress(Died):
            await mortal.reservations.changes.amend(command, TIMEOUT)
            await mortal.rest()
        world.advance(10_001)
        await world.resolve_everything()

        held = (await world.worker().reservations.get(rid, TIMEOUT)).lines[0].quantity
        rest = [(await take(world, f"{rid}-{n}", skus=("A",))).outcome for n in range(3)]

        assert rest == [HELD] * (3 - held) + [LIMIT] * held, dies_at
        for name in (rid, *(f"{rid}-{n}" for n in range(3 - held))):
            await world.worker().reservations.release(name, 0, None, TIMEOUT)
        await world.resolve_everything()
        if not mortal.index.dead:
            break


async def test_a_shard_key_counts_its_skus_together(world: World) -> None:
    """Three of a style, whichever sizes; each line is told what is left for all of them."""
    await limited(world, shard_key="style")
    first = await take(world, "first", 1, skus=("A", "B"))

    over = await take(world, "over", 1, skus=("A", "B"))
    rest = await take(world, "rest", 1, skus=("B",))

    assert [r.outcome for r in (first, over, rest)] == [HELD, LIMIT, HELD]
    assert [line.ats for line in over.lines] == [1, 1]


async def test_as_much_as_the_limit_allows_is_held_where_the_policy_asks_for_that(
    world: World,
) -> None:
    """Five of A are asked for and three are held; per line, the line is dropped."""
    await limited(world)

    dropped = await take(world, "line", 5, policy=HoldPolicy.PER_LINE)
    partly = await take(world, "some", 5, policy=HoldPolicy.PARTIAL)

    held = [
        {line.line_id: line.quantity for line in r.reservation.lines}
        for r in (dropped, partly)
        if r.reservation
    ]
    assert held == [{"l1": 5}, {"l0": 3, "l1": 5}]
    assert [x.outcome for x in (partly.reservation.unheld if partly.reservation else ())] == [LIMIT]


async def test_what_a_hold_replaces_counts_once(world: World) -> None:
    """Three in the place of three; four are refused, and the three stay."""
    await limited(world)
    await take(world, "old", 3)

    over = await take(world, "over", 4, replaces="old")
    new = await take(world, "new", 3, replaces="old")
    more = await take(world, "more")

    assert [r.outcome for r in (over, new, more)] == [LIMIT, HELD, LIMIT]
    assert {line.line_id: line.ats for line in over.lines}["l0"] == 3
    await world.check()


async def test_a_shard_that_is_rebuilt_knows_what_its_owners_have(world: World) -> None:
    """The counts come back with the legs, from the events alone."""
    await limited(world)
    worker = world.worker().reservations
    for n, quantity in enumerate((1, 2)):
        await take(world, f"r{n}", quantity, skus=("A",))
    await worker.release("r0", 0, None, TIMEOUT)
    await world.resolve_everything()
    shard, index = world.shard("A"), world.index
    events = await index.read_outbox(shard, START, 1_000, TIMEOUT)
    assert await index.clear(shard, events[-1].at, TIMEOUT)
    await index.restore(shard, events, TIMEOUT)
    await index.take_over(shard, events[-1].at, TIMEOUT)

    outcomes = [(await take(world, f"s{n}", skus=("A",))).outcome for n in range(2)]

    assert outcomes == [HELD, LIMIT]
    assert (await worker.get("r1", TIMEOUT)).state is State.HELD


async def test_a_line_that_the_service_places_is_limited_too(world: World) -> None:
    """Sourced over several nodes, the units still count for one owner."""
    await limited(world, 60)
    lines = (RequestedLine("l0", "A", 60, "n1"), RequestedLine("l1", "A", 1, "n2"))

    over = await take(world, "over", lines=lines)
    two = await take(world, "two", lines=(RequestedLine("l0", "A", 40, "n1"), lines[1]))

    assert [r.outcome for r in (over, two)] == [LIMIT, HELD]


async def test_a_leg_whose_units_left_makes_way_for_no_later_attempt(world: World) -> None:
    """Its account of what left is all that a limit of a window knows; a later attempt, whoever
    sends it, takes nothing in its place."""
    await world.stock(A=9)
    shard, draft = world.shard("A"), ClaimDraft("x", 0, (world.shard("A"),), "{}")
    line = LegLine("A", "n1", "", 2)
    step = CreateStep("r", 1, "p", 60_000, 0, 0, (line,), draft)
    await world.index.create(shard, [step], TIMEOUT)
    await world.index.resolve(shard, [ResolveStep("r", State.CONFIRMED)], TIMEOUT)
    gone = (line._replace(quantity=0, fulfilled=2),)
    left = ReviseStep("r", 1, 0, State.CONFIRMED, State.FULFILLED, 1, 0, "{}", gone)
    assert (await world.index.revise(shard, [left], TIMEOUT))[0].outcome == Outcome.DONE

    later = step._replace(attempt=2, multi=1, claim=())
    met = (await world.index.create(shard, [later], TIMEOUT))[0]

    (leg,) = await world.index.read_legs(shard, ["r"], TIMEOUT)
    assert met.outcome == Outcome.RESOLVED
    assert leg and (leg.attempt, leg.state, leg.lines) == (1, State.FULFILLED, gone)
