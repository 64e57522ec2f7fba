"""Holding less than was asked for, where the caller would rather have that than nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from promise_svc.application.reservation import CreateResult
from promise_svc.application.reservation_body import CreateCommand, RequestedLine
from promise_svc.domain.reservation import CreateOutcome, HoldPolicy, State
from promise_svc.errors import IdempotencyKeyReused
from promise_svc.rpc.convert.reservation import create_to
from promise_svc.v1 import reservation_service_pb2 as pb
from tests.support.reservation_world import World, a_cart
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
