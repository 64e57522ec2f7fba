"""Accounts of nodes' days are deleted long after them, on reference ledgers and real Functions."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

from promise_svc.application.changed_lines import ChangeLine
from promise_svc.application.reservation_changes import ChangeCommand
from promise_svc.domain.capacity import account_of, closes_ms, day_of, is_account
from promise_svc.domain.ledger import ShardLedger
from promise_svc.domain.reservation import (
    CreateStep,
    FollowStep,
    LegLine,
    State,
    TransitionOutcome,
)
from promise_svc.domain.sharding import START
from tests.support.bounded_nodes import a_day, cart, opened, take, today
from tests.support.networks import SHIP
from tests.support.reservation_world import NODES, World
from tests.support.shards import TIMEOUT

DAY_MS = 86_400_000


async def accounts(world: World) -> set[str]:
    """Nodes that have an account of any day."""
    found = [await world.index.scan(shard) for shard in range(world.index.shard_count)]
    return {key.node_id for positions, _, _ in found for key in positions if is_account(key.sku)}


async def test_an_account_is_deleted_long_after_its_day_unless_an_order_of_it_has_not_left(
    world: World,
) -> None:
    """30 days after the day ended anywhere. What is told or changed later of its orders goes on,
    and the events make the same of it."""
    await opened(world, a_day(9), nodes=NODES)
    worker = world.worker().reservations
    account = account_of(SHIP, today(world), "n1")
    for name, node in (("gone", "n1"), ("part", "n1"), ("back", "n1"), ("stays", "n2")):
        await take(world, cart(name, "A", "B", node_id=node))
    for name in ("gone", "part", "stays"):
        await worker.confirm(name, 0, None, TIMEOUT)
    await worker.release("back", 0, None, TIMEOUT)
    await worker.changes.fulfill(ChangeCommand(reservation_id="gone"), TIMEOUT)
    left = ChangeCommand(reservation_id="part", lines=(ChangeLine("l0", 1),))
    await worker.changes.fulfill(left, TIMEOUT)
    world.advance(closes_ms(account) - world.clock.now - 1)
    await world.resolve_everything()
    assert await accounts(world) == {"n1", "n2"}

    world.advance(1)
    await world.resolve_everything()

    assert await accounts(world) == {"n2"}
    cancelled = await worker.cancel(ChangeCommand(reservation_id="part"), TIMEOUT)
    late = await worker.cancel(ChangeCommand(reservation_id="stays"), TIMEOUT)
    assert cancelled.reservation.state is State.FULFILLED
    assert late.outcome is TransitionOutcome.CANCELLED
    await world.resolve_everything()
    assert await accounts(world) <= {"n1", "n2"}
    world.advance(DAY_MS)
    await world.resolve_everything()
    assert await accounts(world) == set()
    await world.check()
    for shard in range(world.index.shard_count):
        events = await world.index.read_outbox(shard, START, 10_000, TIMEOUT)
        again = ShardLedger(shard)
        again.restore((entry.at, entry.event) for entry in events)
        assert again.positions == (await world.index.scan(shard))[0]


async def test_the_day_of_an_account_is_told_right_in_any_year(world: World) -> None:
    """Leap days, ends of months and of years: each is deleted 32 days after it began in UTC."""
    shard = world.shard("A")
    for year, month in ((2027, 2), (2028, 2), (2028, 12), (2100, 2)):
        wanted = int(datetime(year, month, 24, tzinfo=UTC).timestamp() * 1000)
        world.advance(wanted + 32 * DAY_MS + 7_000 - world.clock.now)
        days = [date(year, month, 24) + timedelta(n) for n in range(-3, 12)]
        for day in days:
            line = LegLine(account_of(SHIP, day, "n1"), "n1", "", 1, limit=3)
            step = CreateStep(f"{day}", 1, "plan", 1_000, 0, 0, (line,))
            await world.index.create(shard, [step], TIMEOUT)
            step = FollowStep(f"{day}", 1, State.RELEASED)
            await world.index.follow(shard, [step], TIMEOUT)
        for number in range(12):
            await world.index.sweep(shard, 100, TIMEOUT)
            positions = (await world.index.scan(shard))[0]
            kept = {day_of(key.sku) for key in positions if is_account(key.sku)}
            assert kept == set(days[4 + number :]), (year, number)
            world.advance(DAY_MS)
