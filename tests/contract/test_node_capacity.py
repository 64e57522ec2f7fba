"""A node's working days are taken with its stock, on reference ledgers and real Functions alike.

Three nodes ship by ground and hand over at the counter, cutoff 17:00 in Chicago, every day.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import pytest

from promise_svc.application.changed_lines import ChangeLine, TransferLine
from promise_svc.application.node_capacity import NodeCapacities
from promise_svc.application.pickup import FindPickupNodesRequest, PickupFinder, PickupNode
from promise_svc.application.promise import PromiseCartReply, PromiseCartRequest
from promise_svc.application.quote import Quote, Quotes
from promise_svc.application.reservation import CreateResult
from promise_svc.application.reservation_body import (
    CreateCommand,
    PromiseTerms,
    RequestedLine,
    WorkDay,
)
from promise_svc.application.reservation_changes import ChangeCommand
from promise_svc.application.stock import StockSource
from promise_svc.domain.calendar import local_date, zone_of
from promise_svc.domain.capacity import WORK_DAYS_MAX, account_of, is_account
from promise_svc.domain.network import Item, NodeCapacity
from promise_svc.domain.reach import Address, Line, UnfulfilledReason
from promise_svc.domain.reservation import (
    CreateOutcome,
    HoldPolicy,
    State,
    SupplyRow,
    TransitionOutcome,
)
from tests.support.market import a_promiser
from tests.support.networks import PICKUP, SHIP, a_lane, a_method, a_node, a_service, a_snapshot
from tests.support.quotes import a_signer
from tests.support.reservation_world import NODES, Died, World
from tests.support.shards import TIMEOUT

CHICAGO = Address(country="US", postal_code="60601")
HELD, FULL = CreateOutcome.HELD, CreateOutcome.CAPACITY_FULL
DAY_MS = 86_400_000
CALLS_MAX = 60


def bounded(*capacities: NodeCapacity, nodes: tuple[str, ...] = ("n1",), version: int = 3) -> Any:
    """``nodes`` have these capacities, the others of n1..n3 have none."""
    methods = (a_method(SHIP), a_method(PICKUP))
    made = [a_node(node, methods=methods, calendar_id="daily") for node in NODES]
    made = [replace(n, capacities=capacities) if n.node_id in nodes else n for n in made]
    items = [Item(sku=sku) for sku in "ABCDEFG"]
    lanes = [a_lane(node) for node in NODES]
    return a_snapshot(*made, *items, a_service(), *lanes, version=version)


def a_day(orders: int) -> NodeCapacity:
    """So many orders to ship a day."""
    return NodeCapacity(fulfillment_method=SHIP, orders_per_day_max=orders)


async def opened(world: World, *capacities: NodeCapacity, **other: Any) -> World:
    """Plenty of A to F at each node, and these capacities at n1. It is Monday morning."""
    world.network.now = bounded(*capacities, **other)
    zone = zone_of("America/Chicago")
    while local_date(world.clock.now, zone).weekday() != 6:
        world.advance(12 * 3_600_000)
    while local_date(world.clock.now, zone).weekday() != 0:
        world.advance(3_600_000)
    world.advance(7 * 3_600_000)
    for sku in "ABCDEF":
        rows = [SupplyRow(sku, node, "", 50, 0, "", 0) for node in NODES]
        await world.index.sync_supply(world.shard(sku), rows, TIMEOUT)
        for node in NODES:
            world.table.put(sku, node, 50)
    return world


def today(world: World) -> date:
    return local_date(world.clock.now, zone_of("America/Chicago"))


def cart(name: str, *skus: str, node_id: str = "n1", **other: Any) -> CreateCommand:
    """A hold of one of each SKU at a node, or, where that is empty, wherever is best."""
    lines = tuple(RequestedLine(f"l{i}", sku, 1, node_id) for i, sku in enumerate(skus or "AB"))
    values: dict[str, Any] = {"fulfillment_method": SHIP, "address": CHICAGO, **other}
    return CreateCommand(reservation_id=name, owner_id="shopper", lines=lines, **values)


async def take(world: World, command: CreateCommand, *, seen: bool = True) -> CreateResult:
    """The hold, as one worker; not ``seen``, and the table is not told of it."""
    worker = world.worker()
    result = await worker.reservations.create(command, TIMEOUT)
    await worker.rest()
    if seen:
        await follow(world)
    return result


async def follow(world: World) -> None:
    """Let the table see what the shards count."""
    for shard in range(world.index.shard_count):
        positions, _, _ = await world.index.scan(shard)
        for (sku, node_id, bucket), row in positions.items():
            if is_account(sku):
                world.table.put(
                    sku, node_id, row.on_hand, bucket=bucket, committed=row.committed,
                    held=row.held, safety_stock=row.safety_stock,
                )  # fmt: skip


async def counts(world: World, node_id: str = "n1", method: Any = SHIP) -> list[int]:
    """Orders that count for today, tomorrow and the day after, by the shards alone."""
    found = []
    for offset in range(3):
        account = account_of(method, today(world) + timedelta(offset), node_id)
        shard = world.shard(account)
        _, _, images = await world.index.read_positions(shard, [account], TIMEOUT)
        rows = [image.row for image in images[0] if image.node_id == node_id]
        found.append(sum(row.committed + row.held + row.safety_stock for row in rows))
    return found


def days(result: CreateResult) -> list[tuple[str, date, bool]]:
    assert result.reservation is not None
    return [tuple(day) for day in result.reservation.work_days]


async def promised(world: World, *skus: str, **other: Any) -> PromiseCartReply:
    snapshot = world.network.snapshot
    request = PromiseCartRequest(
        lines=tuple(Line(f"l{i}", sku, 1) for i, sku in enumerate(skus)),
        **{"address": CHICAGO, **other},
    )
    promiser = a_promiser(world.table, world.index, snapshot, world.clock)
    return await promiser.promise_cart(request, timeout=TIMEOUT)


async def near(world: World) -> PickupNode:
    """n1, as a search for where to collect one unit of A tells of it."""
    snapshot = world.network.snapshot
    stock = StockSource(table=world.table, index=world.index, network=snapshot, clock=world.clock)
    finder = PickupFinder(stock=stock, network=snapshot, clock=world.clock)
    origin = replace(CHICAGO, latitude=41.9, longitude=-87.6)
    request = FindPickupNodesRequest(origin=origin, lines=(Line("l0", "A", 1),))
    reply = await finder.find(request, timeout=TIMEOUT)
    return next(found for found in reply.nodes if found.node.node_id == "n1")


async def quoted(world: World, *skus: str, **other: Any) -> Quote:
    reply = await promised(world, *skus, **other)
    request = PromiseCartRequest(
        lines=tuple(Line(f"l{i}", sku, 1) for i, sku in enumerate(skus)),
        **{"address": CHICAGO, **other},
    )
    signer = a_signer()
    network = world.network.snapshot
    tokens = Quotes(signer, network, world.index.shard_count).tokens(request, reply)
    return signer.read(tokens[0].text)


def with_token(quote: Quote) -> CreateCommand:
    return CreateCommand(
        reservation_id=quote.reservation_id,
        owner_id="shopper",
        lines=tuple(RequestedLine(*line) for line in quote.lines),
        fulfillment_method=quote.fulfillment_method,
        address=quote.address,
        pickup_node_id=quote.pickup_node_id,
        quote=quote,
    )


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


async def test_the_owners_own_day_counts_once_whatever_the_segment(world: World) -> None:
    """A share is a matter of stock: a hold for another segment takes the older one's day over."""
    await opened(world, a_day(1))
    await take(world, cart("old", "A", segment="gold"))

    new = await take(world, cart("new", "A", replaces="old"))

    assert new.outcome is HELD
    assert days(new) == [("n1", today(world), True)]
    assert await counts(world) == [1, 0, 0]
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
