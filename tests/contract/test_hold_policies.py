"""Holding less than was asked for, where the caller would rather have that than nothing."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from promise_svc.application.reservation import CreateResult
from promise_svc.application.reservation_body import CreateCommand, PromiseTerms, RequestedLine
from promise_svc.domain.network import Item, ItemLimit
from promise_svc.domain.reservation import CreateOutcome, HoldPolicy, State, SupplyRow
from promise_svc.errors import IdempotencyKeyReused
from promise_svc.rpc.convert.reservation import create_to
from promise_svc.v1 import reservation_service_pb2 as pb
from tests.contract.test_bundles import with_bundle
from tests.contract.test_quotes import CHICAGO, held, network, put
from tests.support.networks import a_node, a_snapshot
from tests.support.reservation_world import NODES, World, a_cart
from tests.support.shards import TIMEOUT

RID = "r-1"


def cart(policy: HoldPolicy, *lines: tuple[str, int], rid: str = RID) -> CreateCommand:
    wanted = tuple(RequestedLine(f"l{n}", sku, units, "n1") for n, (sku, units) in enumerate(lines))
    return a_cart(rid, (), lines=wanted, policy=policy)


async def create(world: World, command: CreateCommand) -> CreateResult:
    worker = world.worker()
    result = await worker.reservations.create(command, TIMEOUT)
    await worker.rest()
    return result


def told(result: CreateResult) -> list[tuple[Any, ...]]:
    return [
        (line.line_id, line.outcome, line.ats if line.HasField("ats") else None, line.held_quantity)
        for line in create_to(result).line_outcomes
    ]


async def test_a_partial_hold_takes_what_there_is_and_tells_what_is_missing(world: World) -> None:
    await world.stock(A=5, B=2, C=0)

    result = await create(world, cart(HoldPolicy.PARTIAL, ("B", 3), ("C", 1), ("A", 5)))

    assert result.outcome is CreateOutcome.PARTLY_HELD
    assert told(result) == [
        ("l0", pb.CREATE_RESERVATION_OUTCOME_PARTLY_HELD, 2, 2),
        ("l1", pb.CREATE_RESERVATION_OUTCOME_INSUFFICIENT_STOCK, 0, 0),
        ("l2", pb.CREATE_RESERVATION_OUTCOME_HELD, None, 0),
    ]
    assert [await world.held_and_committed(sku) for sku in "ABC"] == [(5, 0), (2, 0), (0, 0)]
    await world.check()


async def test_a_hold_by_line_takes_whole_lines_only(world: World) -> None:
    await world.stock(A=5, B=2, C=3)

    result = await create(world, cart(HoldPolicy.PER_LINE, ("A", 5), ("B", 3), ("C", 3)))

    assert result.outcome is CreateOutcome.PARTLY_HELD
    assert [outcome for _, outcome, _, _ in told(result)] == [1, 60, 1]
    assert [await world.held_and_committed(sku) for sku in "ABC"] == [(5, 0), (0, 0), (3, 0)]
    await world.check()


async def test_lines_of_one_sku_share_what_there_is_in_request_order(world: World) -> None:
    await world.stock(A=5)

    result = await create(world, cart(HoldPolicy.PARTIAL, ("A", 2), ("A", 4), ("A", 1)))

    assert result.reservation is not None
    held = [(line.line_id, line.quantity) for line in result.reservation.lines]
    assert held == [("l0", 2), ("l1", 3)]
    assert [outcome for _, outcome, _, _ in told(result)] == [1, 2, 60]
    assert await world.held_and_committed("A") == (5, 0)


async def test_what_can_be_held_whole_is_held_under_any_policy(world: World) -> None:
    await world.stock(A=5)

    result = await create(world, cart(HoldPolicy.PARTIAL, ("A", 5)))

    assert result.outcome is CreateOutcome.HELD


@pytest.mark.parametrize("policy", list(HoldPolicy))
async def test_with_nothing_to_hold_the_first_refusal_is_told(
    world: World, policy: HoldPolicy
) -> None:
    await world.stock(A=0, B=0)

    result = await create(world, cart(policy, ("A", 1), ("B", 2)))

    assert result.reservation is None
    assert result.outcome is CreateOutcome.INSUFFICIENT_STOCK
    assert [line.line_id for line in result.lines] == ["l0", "l1"]


async def test_a_partial_hold_asked_for_again_is_told_as_it_was(world: World) -> None:
    """Also when there is more by now; and its body is the request's, not what was held."""
    await world.stock(A=1, B=1)
    command = cart(HoldPolicy.PARTIAL, ("A", 3), ("B", 1))
    first = await create(world, command)

    await world.stock(A=9)
    again = await create(world, command)

    assert (first.replayed, again.replayed) == (False, True)
    assert told(again) == told(first)
    assert await world.held_and_committed("A") == (1, 0)
    for other in (
        cart(HoldPolicy.PARTIAL, ("A", 1), ("B", 1)),
        cart(HoldPolicy.PER_LINE, ("A", 3), ("B", 1)),
    ):
        with pytest.raises(IdempotencyKeyReused):
            await create(world, other)


async def test_two_partial_holds_of_the_last_units_hold_them_once(world: World) -> None:
    await world.stock(A=5, B=5)

    results = await asyncio.gather(
        *(
            create(world, cart(HoldPolicy.PARTIAL, ("A", 4), ("B", 4), rid=f"r-{number}"))
            for number in range(3)
        )
    )
    await world.resolve_everything()

    units = {
        sku: sum(
            line.quantity
            for result in results
            if result.reservation is not None
            for line in result.reservation.lines
            if line.sku == sku
        )
        for sku in "AB"
    }
    for sku in "AB":
        assert await world.held_and_committed(sku) == (units[sku], 0)
        assert 0 < units[sku] <= 5
    await world.check()


async def test_a_partial_hold_is_confirmed_as_what_it_holds(world: World) -> None:
    await world.stock(A=2, B=1)
    await create(world, cart(HoldPolicy.PARTIAL, ("A", 5), ("B", 1)))

    result = await world.worker().reservations.confirm(RID, 0, None, TIMEOUT)

    assert result.reservation.state is State.CONFIRMED
    assert [line.quantity for line in result.reservation.lines] == [2, 1]
    await world.resolve_everything()
    assert await world.held_and_committed("A") == (0, 2)


# -- lines that share: 24 of A at n1, plenty of B; a SET is two A and one B


@pytest.fixture
async def shop(world: World) -> World:
    world.network.now = with_bundle()
    await world.stock(A=24, B=99)
    return world


def asked(policy: HoldPolicy, node_id: str, *lines: tuple[str, int], **other: Any) -> CreateCommand:
    """Lines that name the node, or leave it to the service."""
    wanted = tuple(
        RequestedLine(f"l{n}", sku, units, node_id) for n, (sku, units) in enumerate(lines)
    )
    address = None if node_id else CHICAGO
    return a_cart(RID, (), lines=wanted, policy=policy, address=address, **other)


def units_held(result: CreateResult) -> list[int]:
    """A line, in request order; of a bundle, sets."""
    if result.reservation is None:
        return []
    return [
        line.held_quantity or -(line.outcome == pb.CREATE_RESERVATION_OUTCOME_HELD)
        for line in create_to(result).line_outcomes
    ]


WHOLE = -1
LINES = HoldPolicy.PER_LINE
UNITS = HoldPolicy.PARTIAL
CASES: tuple[tuple[HoldPolicy, list[tuple[str, int]], list[int], int], ...] = (
    (UNITS, [("A", 18), ("A", 20)], [WHOLE, 6], 24),
    (UNITS, [("A", 18), ("A", 20), ("A", 3)], [WHOLE, 6, 0], 24),
    (LINES, [("A", 18), ("A", 20)], [WHOLE, 0], 18),
    (LINES, [("A", 18), ("A", 20), ("A", 3)], [WHOLE, 0, WHOLE], 21),
    (LINES, [("A", 30), ("A", 20)], [0, WHOLE], 20),
    (UNITS, [("SET", 9), ("A", 20)], [WHOLE, 6], 24),
    (UNITS, [("A", 20), ("SET", 9)], [WHOLE, 2], 24),
    (UNITS, [("SET", 10), ("A", 10)], [WHOLE, 4], 24),
    (LINES, [("SET", 10), ("A", 10)], [WHOLE, 0], 20),
    (UNITS, [("SET", 15), ("SET", 5)], [12, 0], 24),
    (UNITS, [("SET", 9), ("A", 20), ("ZZ", 3)], [WHOLE, 6, 0], 24),
    (LINES, [("A", 20), ("ZZ", 3), ("SET", 3)], [WHOLE, 0, 0], 20),
)


@pytest.mark.parametrize("node_id", ["n1", ""])
@pytest.mark.parametrize(("policy", "lines", "expected", "of_a"), CASES)
async def test_lines_that_share_units_hold_what_there_is_wherever_the_node_is_chosen(
    shop: World,
    node_id: str,
    policy: HoldPolicy,
    lines: list[tuple[str, int]],
    expected: list[int],
    of_a: int,
) -> None:
    result = await create(shop, asked(policy, node_id, *lines))

    assert result.outcome is CreateOutcome.PARTLY_HELD
    assert units_held(result) == expected
    assert await shop.held_and_committed("A") == (of_a, 0)
    await shop.check()


@pytest.mark.parametrize("node_id", ["n1", ""])
async def test_a_hold_in_part_takes_supply_on_its_way_too_where_it_may(
    shop: World, node_id: str
) -> None:
    """Two here, six and five on their way. Of two lines, the second gets what the first leaves,
    though it could have had what is here."""
    await shop.stock(A=2)
    nodes = ("n1", node_id or "n2")
    for bucket, node, units, days in (("po-1", nodes[0], 6, 1), ("po-2", nodes[1], 5, 2)):
        at = shop.clock.now_ms() + days * 86_400_000
        row = SupplyRow("A", node, bucket, units, 0, "", 0, at)
        await shop.index.sync_supply(shop.shard("A"), [row], TIMEOUT)
        shop.table.put("A", node, units, bucket=bucket, arrival_ms=at)

    whole = await create(shop, asked(LINES, node_id, ("A", 14), allow_backorder=True))
    two = await create(shop, asked(UNITS, node_id, ("A", 12), ("A", 2), allow_backorder=True))
    await shop.worker().reservations.release(RID, 0, None, TIMEOUT)
    one = replace(asked(UNITS, node_id, ("A", 14), allow_backorder=True), reservation_id="r-2")

    assert (whole.reservation, whole.lines[0].ats) == (None, 13)
    assert units_held(two) == [WHOLE, 1]
    assert units_held(await create(shop, one)) == [13]
    await shop.check()


@pytest.mark.parametrize("policy", [HoldPolicy.PARTIAL, HoldPolicy.PER_LINE])
@pytest.mark.parametrize("shown", [3, 5])
async def test_lines_with_and_without_a_node_hold_all_there_is_together(
    world: World, policy: HoldPolicy, shown: int
) -> None:
    """The open line's plan met the named line at n1, of which the table showed too much. What the
    open line has at n2 is no share of n1's."""
    world.network.now = network()
    await put(world, "A", "n1", 3)
    await put(world, "A", "n2", 2)
    world.table.put("A", "n1", shown)
    named = 4 if policy is HoldPolicy.PARTIAL else 2
    lines = RequestedLine("l0", "A", 3), RequestedLine("l1", "A", named, "n1")

    result = await create(world, a_cart(RID, (), lines=lines, policy=policy, address=CHICAGO))

    assert result.reservation is not None
    assert await held(world, "A") == {"n1": 3, "n2": 2}
    assert sum(line.quantity for line in result.reservation.lines) == 5


async def test_a_line_beyond_the_split_limit_is_held_as_far_as_it_goes(world: World) -> None:
    """Two places may send; the two fullest do, where any quantity will do."""
    world.network.now = network()
    for node_id, units in (("n1", 2), ("n2", 3), ("n3", 4)):
        await put(world, "A", node_id, units)
    terms = PromiseTerms(frozenset(), 2)
    lines = (RequestedLine("l0", "A", 9),)

    result = await create(
        world,
        a_cart(
            RID, (), lines=lines, policy=HoldPolicy.PARTIAL, address=CHICAGO, terms=terms
        ),
    )  # fmt: skip

    assert result.outcome is CreateOutcome.PARTLY_HELD
    assert await held(world, "A") == {"n2": 3, "n3": 4}


@pytest.mark.parametrize("policy", HoldPolicy)
async def test_what_lines_share_is_told_to_each_of_them_whole(
    world: World, policy: HoldPolicy
) -> None:
    """Three there are, two lines want two each: whether all are refused, or the second dropped or
    cut, what is told is the three they share, at a node as within a limit."""
    for limit in (None, ItemLimit(quantity_max=3, window_ms=0, by_shard_key=False)):
        world.network.now = a_snapshot(*map(a_node, NODES), Item(sku="A", customer_limit=limit))
        rid = f"r-{limit is None}"
        await world.stock(A=9 if limit else 3)

        result = await create(world, cart(policy, ("A", 2), ("A", 2), rid=rid))

        short = [line for line in told(result) if line[2] is not None]
        assert {line[2] for line in short} == {3}
        assert len(short) == (2 if policy is HoldPolicy.ALL_OR_NOTHING else 1)
        if result.reservation:
            await world.worker().reservations.release(rid, 0, None, TIMEOUT)
