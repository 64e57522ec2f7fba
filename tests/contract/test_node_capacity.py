"""A node's working days are taken with its stock, on reference ledgers and real Functions alike.

Three nodes ship by ground and hand over at the counter, cutoff 17:00 in Chicago, every day.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from datetime import timedelta

from promise_svc.application.node_capacity import NodeCapacities
from promise_svc.application.reservation_body import PromiseTerms, RequestedLine
from promise_svc.application.reservation_changes import ChangeCommand
from promise_svc.domain.calendar import local_date, zone_of
from promise_svc.domain.capacity import WORK_DAYS_MAX
from promise_svc.domain.network import NodeCapacity
from promise_svc.domain.reach import UnfulfilledReason
from promise_svc.domain.reservation import CreateOutcome, HoldPolicy
from tests.support.bounded_nodes import (
    a_day,
    bounded,
    cart,
    counts,
    days,
    follow,
    near,
    opened,
    promised,
    quoted,
    take,
    today,
    with_token,
)
from tests.support.networks import PICKUP, SHIP
from tests.support.reservation_world import NODES, World
from tests.support.shards import TIMEOUT

HELD, FULL = CreateOutcome.HELD, CreateOutcome.CAPACITY_FULL
DAY_MS = 86_400_000


async def test_a_day_takes_no_more_orders_than_its_capacity_however_many_ask(world: World) -> None:
    """Twelve carts at once, three a day: three for today, three tomorrow and so on, one order a
    cart whatever is in it; nothing is taken twice. Then ten at once, one a day: ten days."""
    await opened(world, a_day(3))

    results = await asyncio.gather(
        *(take(world, cart(f"r{n}", "ABCDEF"[n % 6], "C"), seen=False) for n in range(6))
    )
    await follow(world)
    results += await asyncio.gather(
        *(take(world, cart(f"s{n}", "ABCDEF"[n % 6]), seen=False) for n in range(6))
    )

    held = [result for result in results if result.outcome is HELD]
    taken = Counter(day for result in held for _, day, _ in days(result))
    assert max(taken.values()) <= 3
    assert await counts(world) == [taken[today(world) + timedelta(n)] for n in range(3)]
    assert taken[today(world)] == 3
    assert len(held) == 12
    world.network.now = bounded(a_day(1), nodes=("n2",))
    crowd = await asyncio.gather(
        *(take(world, cart(f"t{n}", "A", node_id="n2"), seen=False) for n in range(10))
    )
    assert [result.outcome for result in crowd] == [HELD] * 10
    assert len({day for result in crowd for _, day, _ in days(result)}) == 10
    await world.check()


async def test_capacity_is_given_back_with_the_hold_or_the_order_and_not_when_goods_leave(
    world: World,
) -> None:
    """Released, expired at this instant, cancelled: another order fits. Fulfilled: it does not."""
    await opened(world, a_day(1))
    worker = world.worker().reservations
    ends = []
    for n, end in enumerate(("release", "expire", "cancel", "fulfill")):
        first = await take(world, cart(f"r{n}", ttl_ms=5_000))
        ends.append([day for _, day, _ in days(first)])
        second = await take(world, cart(f"next-{n}", ttl_ms=1_000))
        ends[-1] += [day for _, day, _ in days(second)]
        await worker.release(f"next-{n}", 0, None, TIMEOUT)
        if end == "release":
            await worker.release("r0", 0, None, TIMEOUT)
        elif end == "expire":
            world.advance(5_001)
            await world.resolve_everything()
        else:
            await worker.confirm(f"r{n}", 0, None, TIMEOUT)
            whole = ChangeCommand(reservation_id=f"r{n}")
            await (worker.cancel if end == "cancel" else worker.changes.fulfill)(whole, TIMEOUT)
        await follow(world)
    later = await take(world, cart("later"))

    tomorrow = today(world) + timedelta(1)
    assert ends == [[today(world), tomorrow]] * 4
    assert days(later) == [("n1", tomorrow, True)]
    assert await counts(world) == [1, 1, 0]
    got = [(await worker.get(f"r{n}", TIMEOUT)).work_days for n in range(4)]
    assert [day.counts for (day,) in got] == [False, False, False, True]
    await world.check()


async def test_a_promise_offers_no_day_that_is_full(world: World) -> None:
    """With today full at the only node, the cart is promised from tomorrow's work, a day later;
    with another node free, from there today; with no room in sight, not at all, by name."""
    await opened(world, a_day(1), nodes=NODES)
    before = await promised(world, "A")
    for node in NODES:
        await take(world, cart(f"r-{node}", node_id=node))
    after = await promised(world, "A")
    await world.worker().reservations.release("r-n2", 0, None, TIMEOUT)
    await follow(world)
    other = await promised(world, "A")
    world.network.now = bounded(a_day(0), nodes=NODES)
    never = await promised(world, "A")

    first, second = before.options[0].shipments[0], after.options[0].shipments[0]
    assert first.work_date == today(world)
    assert second.work_date == today(world) + timedelta(1)
    assert second.ship_date > first.ship_date
    assert (other.options[0].shipments[0].node_id, other.options[0].shipments[0].work_date) == (
        "n2",
        today(world),
    )
    assert never.options == ()
    assert never.unfulfilled_lines[0].reason is UnfulfilledReason.CAPACITY_FULL


async def test_a_table_that_is_behind_costs_another_plan_not_a_day_too_many(world: World) -> None:
    """The shard says that today is full, which the table does not show yet: the hold is planned
    once more, for tomorrow, or from another node."""
    await opened(world, a_day(1))
    await take(world, cart("first"), seen=False)

    named = await take(world, cart("named"), seen=False)
    free = await take(world, cart("free", node_id=""), seen=False)

    assert days(named) == [("n1", today(world) + timedelta(1), True)]
    assert free.reservation is not None
    nodes = {part.node_id for line in free.reservation.lines for part in line.planned_units}
    assert not nodes & {"n1"}
    assert await counts(world) == [1, 1, 0]
    await world.check()


async def test_the_day_that_was_quoted_is_the_day_that_is_held(world: World) -> None:
    """A quote pins its working day: held there, or refused as CAPACITY_FULL where others have taken
    it meanwhile, never moved in silence. A new quote names the next day."""
    await opened(world, a_day(2), nodes=NODES)
    quotes = [await quoted(world, "A") for _ in range(3)]
    node = quotes[0].plan.shipments[0].node_id

    results = [await take(world, with_token(quote)) for quote in quotes]
    again = await quoted(world, "A", excluded_node_ids=frozenset(NODES) - {node})
    await world.worker().reservations.release(quotes[0].reservation_id, 0, None, TIMEOUT)
    await follow(world)
    tomorrow = await take(world, with_token(again))

    assert [result.outcome for result in results] == [HELD, HELD, FULL]
    assert [line.outcome for line in results[2].lines] == [FULL]
    assert days(results[0]) == [(node, today(world), True)]
    assert again.plan.shipments[0].work_date == today(world) + timedelta(1)
    assert days(tomorrow) == [(node, today(world) + timedelta(1), True)]
    await world.check()


async def test_the_hour_told_of_a_pickup_is_of_the_day_that_is_taken(world: World) -> None:
    """Today is full at the counter: it is promised, and held with the quote, for tomorrow; a search
    for pickup nodes then tells the day after, and of no room in sight."""
    capacity = NodeCapacity(fulfillment_method=PICKUP, orders_per_day_max=1)
    await opened(world, capacity)
    await take(world, cart("first", fulfillment_method=PICKUP, address=None))

    quote = await quoted(world, "A", pickup_node_id="n1", address=None)
    held = await take(world, with_token(quote))

    found = [await near(world), None]
    world.network.now = bounded(replace(capacity, orders_per_day_max=0))
    found[1] = await near(world)

    (shipment,) = quote.plan.shipments
    tomorrow = today(world) + timedelta(1)
    assert [(node.complete, node.ready_ms) for node in found if node] == [
        (True, shipment.ready_ms + DAY_MS if shipment.ready_ms else None), (False, None),
    ]  # fmt: skip
    assert shipment.work_date == tomorrow
    assert shipment.ready_ms is not None
    assert local_date(shipment.ready_ms, zone_of("America/Chicago")) == tomorrow
    assert held.reservation is not None
    assert held.reservation.promised is not None
    assert held.reservation.promised.shipments[0].ready_ms == shipment.ready_ms
    assert days(held) == [("n1", tomorrow, True)]
    await world.check()


async def test_a_method_and_a_day_have_each_their_own_count(world: World) -> None:
    """Pickup is bounded, shipping is not; an exception closes tomorrow; after the cutoff an order
    counts for the next day with room."""
    capacity = NodeCapacity(fulfillment_method=PICKUP, orders_per_day_max=1)
    await opened(world, capacity)
    closed = {today(world) + timedelta(1): 0}
    world.network.now = bounded(replace(capacity, exceptions=closed))

    shipped = await take(world, cart("shipped"))
    picked = [
        await take(world, cart(f"p{n}", fulfillment_method=PICKUP, address=None)) for n in range(2)
    ]
    world.advance(9 * 3_600_000)  # 18:00
    late = await take(world, cart("late", fulfillment_method=PICKUP, address=None))

    assert days(shipped) == []
    assert [day for result in (*picked, late) for _, day, _ in days(result)] == [
        today(world) + timedelta(offset) for offset in (0, 2, 3)
    ]
    await world.check()


async def test_a_lowered_capacity_holds_for_every_later_order_and_takes_none_back(
    world: World,
) -> None:
    """Three orders stand when it is lowered to two: none is lost, the next goes to tomorrow. A
    worker that has not heard of it is told by the shards. Raised again, today has room."""
    await opened(world, a_day(5))
    for n in range(3):
        await take(world, cart(f"r{n}"))
    heard, world.network.now = world.network.now, bounded(a_day(2), version=4)
    floors = range(world.index.shard_count)
    await asyncio.gather(*(world.index.raise_network_floor(s, 4, TIMEOUT) for s in floors))
    world.network.now, world.network.next = heard, world.network.now
    behind = await take(world, cart("behind"))
    lowered = await counts(world)
    world.network.now = bounded(a_day(5), version=5)
    raised = await take(world, cart("raised"))

    assert days(behind) == [("n1", today(world) + timedelta(1), True)]
    assert lowered == [3, 1, 0]
    assert days(raised) == [("n1", today(world), True)]
    assert await counts(world) == [4, 1, 0]


async def test_no_room_in_sight_is_told_by_name(world: World) -> None:
    """A named node that is full on all working days looked at: CAPACITY_FULL, nothing is held; with
    a policy the other lines are."""
    await opened(world, a_day(0))
    lines = (RequestedLine("l0", "A", 1, "n1"), RequestedLine("l1", "B", 1, "n2"))

    whole = await take(world, cart("whole"))
    part = await take(world, replace(cart("part"), lines=lines, policy=HoldPolicy.PER_LINE))
    free = await take(world, cart("free", node_id=""))

    assert whole.outcome is FULL
    assert {line.outcome for line in whole.lines} == {FULL}
    assert part.outcome is CreateOutcome.PARTLY_HELD
    assert part.reservation is not None
    assert [(x.line_id, x.outcome) for x in part.reservation.unheld] == [("l0", FULL)]
    assert free.outcome is HELD
    assert await counts(world) == [0, 0, 0]
    assert WORK_DAYS_MAX == 14
    await world.check()


async def test_a_hold_that_takes_anothers_place_needs_no_second_order(world: World) -> None:
    """The last order of the day is the owner's own: the new hold has it, and one stands."""
    await opened(world, a_day(1))
    await take(world, cart("old", "A"))

    new = await take(world, cart("new", "A", "B", replaces="old"))

    assert days(new) == [("n1", today(world), True)]
    assert await counts(world) == [1, 0, 0]
    await world.check()


async def test_a_node_tells_how_its_days_are_taken(world: World) -> None:
    """Held, committed, worked and left, day by day, as the table shows them."""
    await opened(world, a_day(4))
    worker = world.worker().reservations
    for n in range(3):
        await take(world, cart(f"r{n}"))
    await worker.confirm("r1", 0, None, TIMEOUT)
    await worker.confirm("r2", 0, None, TIMEOUT)
    await worker.changes.fulfill(ChangeCommand(reservation_id="r2"), TIMEOUT)
    await follow(world)
    capacities = NodeCapacities(
        table=world.table, network=world.network.snapshot, clock=world.clock
    )

    told = capacities.query("n1", None, 2)
    free = capacities.query("n2", None, 2)

    assert [(d.date, d.orders_max, d.held, d.committed, d.worked, d.left) for d in told.days] == [
        (today(world), 4, 1, 1, 1, 1),
        (today(world) + timedelta(1), 4, 0, 0, 0, 4),
    ]
    assert free.days == ()


async def test_in_one_step_the_promise_held_is_for_a_day_with_room(world: World) -> None:
    """PromiseAndReserve: the dates told are those of the day that was taken."""
    await opened(world, a_day(1), nodes=NODES)
    terms = PromiseTerms(frozenset(), 1)
    made = [
        await take(world, cart(f"r{n}", "A", node_id="", terms=terms), seen=n % 2 == 0)
        for n in range(5)
    ]

    places = Counter((node, day) for result in made for node, day, _ in days(result))
    assert [result.outcome for result in made] == [HELD] * 5
    assert set(places.values()) == {1}
    for result in made:
        assert result.reservation is not None
        assert result.reservation.promised is not None
        (shipment,) = result.reservation.promised.shipments
        assert days(result) == [(shipment.node_id, shipment.work_date, True)]
    await world.check()


async def test_the_owners_own_day_counts_once_whatever_the_segment(world: World) -> None:
    """A share is a matter of stock: a hold for another segment takes the older one's day over."""
    await opened(world, a_day(1))
    await take(world, cart("old", "A", segment="gold"))

    new = await take(world, cart("new", "A", replaces="old"))

    assert new.outcome is HELD
    assert days(new) == [("n1", today(world), True)]
    assert await counts(world) == [1, 0, 0]
    await world.check()


async def test_an_expired_order_frees_its_day_at_once_where_there_is_no_other(
    world: World,
) -> None:
    """All days but today are closed, and the hold of today has just run out, unswept."""
    await opened(world, a_day(1))
    only = NodeCapacity(fulfillment_method=SHIP, orders_per_day_max=0, exceptions={today(world): 1})
    world.network.now = bounded(only)
    await take(world, cart("first", ttl_ms=1_000))
    refused = await take(world, cart("early"))
    world.advance(1_001)

    named = await take(world, cart("late", ttl_ms=1_000))
    world.advance(1_001)
    world.network.now = bounded(only, nodes=NODES)
    for node in ("n2", "n3"):
        await take(world, cart(f"at-{node}", node_id=node))
    free = await take(world, cart("free", node_id=""))

    assert refused.outcome is FULL
    assert days(named) == [("n1", today(world), True)]
    assert days(free) == [("n1", today(world), True)]
    await world.check()


async def test_a_full_node_is_no_reason_to_hold_nothing_of_the_others(world: World) -> None:
    """PARTIAL, nodes chosen by the service: what nodes with room have of it is held."""
    await opened(world, a_day(0), nodes=("n1", "n2"))
    lines = (RequestedLine("l0", "A", 120),)

    result = await take(
        world, replace(cart("part", node_id=""), lines=lines, policy=HoldPolicy.PARTIAL)
    )

    assert result.outcome is CreateOutcome.PARTLY_HELD
    assert result.reservation is not None
    assert [
        (line.quantity, line.planned_units[0].node_id) for line in result.reservation.lines
    ] == [(50, "n3")]
    assert [(x.quantity, x.outcome) for x in result.reservation.unheld] == [(70, FULL)]
    await world.check()
