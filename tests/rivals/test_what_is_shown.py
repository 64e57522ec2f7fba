"""What pages and pickers saw elsewhere while stock moved, in the order in which it moved."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
import redis
from google.protobuf.duration_pb2 import Duration

from promise_svc.adapters.embedded import EmbeddedValkey
from promise_svc.domain.reservation import CreateOutcome
from promise_svc.v1 import availability_service_pb2 as availability_pb
from promise_svc.v1 import network_service_pb2 as network_pb
from promise_svc.v1 import promise_service_pb2 as promise_pb
from promise_svc.v1 import reservation_service_pb2 as pb
from promise_svc.v1 import supply_service_pb2 as supply_pb
from promise_svc.v1 import types_pb2
from tests.rivals.conftest import (
    CHICAGO,
    CUTOFF_HOUR,
    HELD,
    PICKUP,
    SECONDS,
    SHIP,
    STRONG,
    Shop,
    a_hold,
    a_node,
    until,
)
from tests.support.engines import flush
from tests.support.reservation_world import World, a_cart
from tests.support.shards import TIMEOUT, ShardClock, running_index, serve_all

pytestmark = pytest.mark.timeout(60)

LOS_ANGELES = ZoneInfo("America/Los_Angeles")
NO_BOUND = types_pb2.Consistency()


async def test_what_one_shop_sells_out_of_a_shared_node_is_gone_in_the_other(
    shop: Shop, rival: Shop
) -> None:
    """Two groups share a node; the sale goes through one, the page of the other is asked next."""
    sku = await shop.stock(dc=3)
    groups = ("online", "downtown")
    assert [await rival.ats(sku, node_group_id=group) for group in groups] == [3, 3]

    order = a_hold((sku, 3, "dc"))
    assert (await shop.create(order)).outcome == HELD
    exact = [await rival.ats(sku, node_group_id=group) for group in groups]
    await shop.confirm(order.reservation_id)

    assert exact == [0, 0]
    assert [await rival.ats(sku, node_group_id=group) for group in groups] == [0, 0]
    for group in groups:
        await until(lambda group=group: _shows(rival, sku, 0, node_group_id=group))  # type: ignore[misc]


async def test_a_page_is_right_after_an_order_without_waiting_for_any_index_run(
    shop: Shop, rival: Shop
) -> None:
    """Order acknowledged, page loaded at once: exact where freshness was asked for, and the plain
    page follows within a moment, not after half a minute."""
    sku = await shop.stock(dc=8)
    no_older = types_pb2.Consistency(max_age=Duration())

    assert (await shop.create(a_hold((sku, 5)))).outcome == HELD
    (bounded,) = await rival.look(sku, consistency=no_older)
    strong = await rival.ats(sku)

    assert (bounded.ats, strong) == (3, 3)
    await until(lambda: _shows(rival, sku, 3), seconds=15)


async def test_feeds_and_sales_at_once_never_block_each_other_nor_hide_a_sku(
    shop: Shop, rival: Shop, rng: random.Random
) -> None:
    """A full report and partial ones in the opposite order, one with a row that is refused, sales
    that lock pairs both ways round, and a page that reads everything all the while."""
    skus = [await shop.stock(dc=100) for _ in range(24)]
    over, seen = asyncio.Event(), list[Sequence[availability_pb.Availability]]()

    async def read() -> None:
        while not over.is_set():
            for consistency in (NO_BOUND, STRONG):
                seen.append(await rival.look(*skus, consistency=consistency))

    async def sell(backwards: bool) -> int:
        held = 0
        for _ in range(15):
            pair = sorted(rng.sample(skus, 2), reverse=backwards)
            held += (await shop.create(a_hold(*((s, 1, "dc") for s in pair)))).outcome == HELD
        return held

    async def report(order: Sequence[str]) -> list[int]:
        rows = [supply_pb.SupplyRow(sku=sku, node_id="dc", on_hand=100) for sku in order]
        rows.insert(1, supply_pb.SupplyRow(sku=order[0], node_id="nowhere", on_hand=1))
        told = []
        for sequence in range(2, 12):
            told += [row.outcome for row in (await rival.sync(rows, "erp", sequence)).results]
        return told

    reading = asyncio.create_task(read())
    async with asyncio.timeout(30):
        *sold, all_rows, some_rows = await asyncio.gather(
            sell(False), sell(True), report(skus), report(skus[:8:-1])
        )
    over.set()
    await reading

    assert sold == [15, 15]
    for outcomes in (all_rows, some_rows):
        refused = supply_pb.SUPPLY_OUTCOME_UNKNOWN_NODE
        assert outcomes.count(refused) == 10
        assert set(outcomes) <= {
            refused, supply_pb.SUPPLY_OUTCOME_UNCHANGED, supply_pb.SUPPLY_OUTCOME_STALE_SEQUENCE,
        }  # fmt: skip
    assert len(seen) > 2
    for page in seen:
        assert {entry.outcome for entry in page} == {availability_pb.AVAILABILITY_OUTCOME_OK}
        assert all(100 - 30 <= entry.ats <= 100 for entry in page)
    assert sum(100 - entry.ats for entry in await shop.look(*skus)) == 2 * 30


async def test_orders_that_an_erp_has_netted_are_not_deducted_twice(
    shop: Shop, rival: Shop
) -> None:
    """An ERP imports orders and cancels as they come, makes its figure net of them, and sends it
    some orders later; it dies and sends an old report again. Pages show what is unsold each time.
    The same figure without a word on what it took off shows the rival's double deduction."""
    sku = await shop.stock(dc=100)
    sold = availability_pb.PositionTotals()
    reports: list[supply_pb.SyncSupplyRequest] = []

    async def buy(units: int, cancelled: int = 0) -> None:
        order = a_hold((sku, units, "dc"))
        assert (await shop.create(order)).outcome == HELD
        await shop.confirm(order.reservation_id)
        sold.confirmed_total += units
        if cancelled:
            back = pb.CancelReservationRequest(
                reservation_id=order.reservation_id,
                lines=[pb.LineUnits(line_id="0", quantity=cancelled, node_id="dc")],
                idempotency_key=f"back-{order.reservation_id}",
            )
            await shop.client.reservation.CancelReservation(back, timeout=SECONDS)
            sold.cancelled_total += cancelled

    def figure() -> supply_pb.SyncSupplyRequest:
        imported = sold.confirmed_total - sold.cancelled_total
        row = supply_pb.SupplyRow(
            sku=sku, node_id="dc", on_hand=100 - imported, deducted_total=imported
        )
        number = 2 + len(reports)
        reports.append(
            supply_pb.SyncSupplyRequest(source="erp", source_sequence=number, rows=[row])
        )
        return reports[-1]

    async def send(report: supply_pb.SyncSupplyRequest) -> supply_pb.SupplyRowResult:
        return (await rival.client.supply.SyncSupply(report, timeout=SECONDS)).results[0]

    for cancelled in (0, 1, 2, 0):
        await buy(4, cancelled)
        report = figure()
        # The pause: what is bought now, the ERP has not heard of.
        told, *_ = await asyncio.gather(send(report), *(buy(2) for _ in range(4)))
        unsold = 100 - sold.confirmed_total + sold.cancelled_total
        assert told.on_hand == 100
        assert (await rival.ats(sku), (await rival.figures(sku))[0]) == (unsold, 100)
    late = await send(reports[0])
    again = await send(reports[-1])
    assert (late.outcome, again.outcome) == (
        supply_pb.SUPPLY_OUTCOME_STALE_SEQUENCE,
        supply_pb.SUPPLY_OUTCOME_UNCHANGED,
    )
    explained = await shop.client.availability.ExplainAvailability(
        availability_pb.ExplainAvailabilityRequest(sku=sku, node_id="dc"), timeout=SECONDS
    )
    assert explained.totals == sold

    silent = figure()
    silent.rows[0].ClearField("deducted_total")
    twice = await send(silent)
    assert twice.ats == 100 - 2 * (sold.confirmed_total - sold.cancelled_total)


async def test_a_sku_with_hundreds_of_holds_is_read_by_as_few_commands_as_a_fresh_one(
    valkey: EmbeddedValkey, key_prefix: str
) -> None:
    """Holds come first, then the page: the answer is a counter, never a sum over rows."""
    flush(valkey)
    async with running_index(valkey.urls, key_prefix) as index:
        await serve_all(index)
        clock = ShardClock(index, valkey.urls[0])
        world = World(index, clock.advance, clock.now_ms)
        await world.stock(A=1_000, B=1_000)
        worker, client = world.worker(), redis.Redis.from_url(valkey.urls[0])
        for number in range(300):
            made = await worker.reservations.create(a_cart(f"r-{number}", ("A",)), TIMEOUT)
            assert made.outcome is CreateOutcome.HELD
        await worker.rest()

        held, spent = dict[str, int](), dict[str, int]()
        for sku in ("A", "B") * 5:  # others have the engine too: the fewest are this read's own
            before = _commands(client)
            _, _, images = await index.read_positions(world.shard(sku), [sku], TIMEOUT)
            spent[sku] = min(_commands(client) - before, spent.get(sku, 2**31))
            held[sku] = images[0][0].row.held
        clock.close()
        client.close()

    assert held == {"A": 300, "B": 0}
    assert spent["A"] == spent["B"]


async def test_a_unit_kept_for_an_order_is_shown_once_and_by_name(shop: Shop, rival: Shop) -> None:
    """A pickup order is held, then confirmed, while a picker's screen looks without pause: the unit
    is there, it is reserved or committed, never both and never neither."""
    sku = await shop.stock(store=1)
    order = a_hold((sku, 1), pickup_node_id="store", fulfillment_method=PICKUP)
    assert (await shop.create(order)).outcome == HELD
    over, screens = asyncio.Event(), set()

    async def look() -> None:
        while not over.is_set():
            screens.add(await rival.figures(sku))

    looking = asyncio.create_task(look())
    confirmed = await shop.confirm(order.reservation_id)
    await until(lambda: _figures_are(shop, sku, (1, 0, 1)))
    over.set()
    await looking

    assert confirmed.outcome == pb.TRANSITION_OUTCOME_CONFIRMED
    assert [line.planned_units[0].node_id for line in confirmed.reservation.lines] == ["store"]
    assert screens <= {(1, 1, 0), (1, 0, 1)}
    assert await rival.ats(sku) == 0


async def test_an_order_its_store_rejects_is_kept_at_one_place_at_every_moment(
    shop: Shop, rival: Shop
) -> None:
    """An order stands at a store that cannot find the unit, and is transferred to a center while
    the store's screen looks without pause, and the request is sent twice: a unit is committed at
    every moment, and in the end one, at the center."""
    sku = await shop.stock(store=1, dc=1)
    order = a_hold((sku, 1, "store"))
    assert (await shop.create(order)).outcome == HELD
    await shop.confirm(order.reservation_id)
    request = pb.TransferReservationRequest(
        reservation_id=order.reservation_id,
        transfers=[
            pb.LineTransfer(line_id="0", quantity=1, source_node_id="store", target_node_id="dc")
        ],
        idempotency_key=f"rejected-{sku}",
    )
    over, screens = asyncio.Event(), set()

    async def look() -> None:
        while not over.is_set():
            screens.add((await rival.figures(sku))[2])

    looking = asyncio.create_task(look())
    replies = [
        await me.client.reservation.TransferReservation(request, timeout=SECONDS)
        for me in (shop, rival)
    ]
    await until(lambda: _figures_are(shop, sku, (2, 0, 1)))
    over.set()
    await looking

    transferred = pb.TRANSITION_OUTCOME_TRANSFERRED
    assert [reply.outcome for reply in replies] == [transferred] * 2
    assert [reply.replayed for reply in replies] == [False, True]
    assert 0 not in screens
    (seen,) = await shop.look(sku)
    assert {node.node_id: node.breakdown.committed for node in seen.nodes} == {"store": 0, "dc": 1}


async def test_the_same_change_of_stock_sent_many_times_at_once_is_made_once(
    shop: Shop, rival: Shop
) -> None:
    """Eight copies of one request in flight together, then again later, then with another body."""
    sku = await shop.stock(dc=10)

    at_once = await asyncio.gather(
        *((shop, rival)[n % 2].adjust(sku, 5, key=f"receipt-{sku}") for n in range(8))
    )
    later = await rival.adjust(sku, 5, key=f"receipt-{sku}")
    other = await rival.adjust(sku, 50, key=f"receipt-{sku}")

    applied = supply_pb.SUPPLY_OUTCOME_APPLIED
    assert [row.outcome for row in (*at_once, later)] == [applied] * 9
    assert sorted(row.replayed for row in at_once) == [False] + [True] * 7
    assert (later.replayed, later.on_hand) == (True, 15)
    assert other.outcome == supply_pb.SUPPLY_OUTCOME_IDEMPOTENCY_KEY_REUSED
    assert await shop.figures(sku) == (15, 0, 0)


async def test_a_shipment_reported_many_times_at_once_leaves_the_shelf_once(
    shop: Shop, rival: Shop
) -> None:
    """A store's device repeats its message, in flight together and again later: on hand and
    committed fall once; what was not in it is still to be sent."""
    sku = await shop.stock(dc=10)
    order = a_hold((sku, 5, "dc"))
    assert (await shop.create(order)).outcome == HELD
    await shop.confirm(order.reservation_id)
    shipment = pb.FulfillReservationRequest(
        reservation_id=order.reservation_id,
        lines=[pb.LineUnits(line_id="0", quantity=3)],
        idempotency_key=f"parcel-{sku}",
    )

    async def report(me: Shop) -> pb.FulfillReservationResponse:
        return await me.client.reservation.FulfillReservation(shipment, timeout=SECONDS)

    at_once = await asyncio.gather(*(report((shop, rival)[n % 2]) for n in range(6)))
    later = await report(rival)

    fulfilled = pb.TRANSITION_OUTCOME_FULFILLED
    assert [reply.outcome for reply in (*at_once, later)] == [fulfilled] * 7
    assert sorted(reply.replayed for reply in at_once) == [False] + [True] * 5
    assert later.replayed
    await until(lambda: _figures_are(shop, sku, (7, 0, 2)))


async def test_a_hundred_changes_and_sales_of_one_sku_within_a_second_lose_nothing(
    shop: Shop, rival: Shop
) -> None:
    """A drop: tills, the site and a receipt write the same number at once; none overwrites."""
    sku = await shop.stock(dc=100)
    orders = [a_hold((sku, 1, "dc")) for _ in range(40)]

    await asyncio.gather(
        *(rival.adjust(sku, -1) for _ in range(40)),
        *(shop.adjust(sku, 2) for _ in range(20)),
        *((shop, rival)[n % 2].create(order) for n, order in enumerate(orders)),
    )

    assert await shop.figures(sku) == (100, 40, 0)


@pytest.mark.parametrize("side", ["before the clocks change", "after it"])
async def test_a_cutoff_is_the_nodes_own_and_no_parcel_leaves_in_the_past(
    shop: Shop, side: str
) -> None:
    """A node in Los Angeles that closes at two; the order comes at its cutoff and a moment
    later, and late in its evening, when the date in UTC is already the next one."""
    sku = await shop.stock(west=5)
    day = _next_change_of_clocks() - timedelta(days=1 if side.startswith("before") else 0)
    at_two = datetime(day.year, day.month, day.day, CUTOFF_HOUR, tzinfo=LOS_ANGELES)
    evening = at_two.replace(hour=22)
    assert evening.astimezone(UTC).date() == day + timedelta(days=1)

    in_time, late, late_evening = [
        await _ship_date(shop, sku, moment)
        for moment in (at_two, at_two + timedelta(milliseconds=1), evening)
    ]

    assert in_time == day
    assert late == late_evening == day + timedelta(days=1)


async def test_an_edit_of_the_network_is_seen_whole_or_not_at_all_also_by_feeds(
    shop: Shop, rival: Shop
) -> None:
    """A store moves from one group to the other and back, in one call, while pages ask for both
    groups in one call and a feed reports its stock: it is always in exactly one of them."""
    sku = await shop.stock(popup=7)
    over, sums = asyncio.Event(), set()
    await _move_popup(shop, "left")

    async def read() -> None:
        request = availability_pb.QueryAvailabilityRequest(
            entries=[
                availability_pb.AvailabilityQuery(sku=sku, node_group_id=group)
                for group in ("left", "right")
            ]
        )
        while not over.is_set():
            reply = await rival.client.availability.QueryAvailability(request, timeout=SECONDS)
            sums.add(tuple(sorted(entry.ats for entry in reply.entries)))

    async def feed() -> None:
        sequence = 1
        while not over.is_set():
            sequence += 1
            row = supply_pb.SupplyRow(sku=sku, node_id="popup", on_hand=7)
            (result,) = (await rival.sync([row], "erp", sequence)).results
            assert result.outcome == supply_pb.SUPPLY_OUTCOME_UNCHANGED

    tasks = [asyncio.create_task(read()), asyncio.create_task(feed())]
    for turn in range(20):
        await _move_popup(shop, ("right", "left")[turn % 2])
    over.set()
    await asyncio.gather(*tasks)

    assert sums == {(0, 7)}


async def test_nothing_is_held_at_a_node_after_it_was_switched_off(shop: Shop, rival: Shop) -> None:
    """Orders come without pause; one that is sent after the answer to the switch is refused."""
    sku = await shop.stock(popup=1_000)
    off, over = asyncio.Event(), asyncio.Event()
    before, after = set[int](), set[int]()

    async def order() -> None:
        while not over.is_set():
            told = after if off.is_set() else before
            told.add((await rival.create(a_hold((sku, 1, "popup")))).outcome)

    ordering = [asyncio.create_task(order()) for _ in range(4)]
    try:
        await until(lambda: _figures_moved(shop, sku))
        await shop.client.network.SetNodeStatus(
            network_pb.SetNodeStatusRequest(
                node_id="popup", node_status=types_pb2.NODE_STATUS_OFF, reason="flood"
            ),
            timeout=SECONDS,
        )
        off.set()
        await until(lambda: _heard(after))
    finally:
        over.set()
        await asyncio.gather(*ordering)
        await shop.client.network.SetNodeStatus(
            network_pb.SetNodeStatusRequest(
                node_id="popup", node_status=types_pb2.NODE_STATUS_ON, reason="dry"
            ),
            timeout=SECONDS,
        )

    node_off = pb.CREATE_RESERVATION_OUTCOME_NODE_OFF
    assert HELD in before
    assert before <= {HELD, node_off}
    assert after == {node_off}


async def _shows(shop: Shop, sku: str, units: int, **scope: object) -> bool:
    """Whether a page without any bound shows so many."""
    (entry,) = await shop.look(sku, consistency=NO_BOUND, **scope)
    return entry.ats == units


async def _figures_are(shop: Shop, sku: str, figures: tuple[int, int, int]) -> bool:
    return await shop.figures(sku) == figures


async def _figures_moved(shop: Shop, sku: str) -> bool:
    return (await shop.figures(sku))[1] > 0


async def _heard(told: set[int]) -> bool:
    return bool(told)


def _commands(client: redis.Redis) -> int:
    """Commands that Valkey has carried out, those within Functions too, but for INFO."""
    stats = client.info("commandstats")
    return sum(row["calls"] for name, row in stats.items() if name != "cmdstat_info")


def _next_change_of_clocks() -> date:
    day = datetime.now(UTC).date() + timedelta(days=7)
    while _offset(day) == _offset(day + timedelta(days=1)):
        day += timedelta(days=1)
    return day


def _offset(day: date) -> timedelta | None:
    return datetime(day.year, day.month, day.day, tzinfo=LOS_ANGELES).utcoffset()


async def _ship_date(shop: Shop, sku: str, moment: datetime) -> date:
    cart = promise_pb.PromiseCartRequest(
        lines=[types_pb2.Line(line_id="1", sku=sku, quantity=1)],
        address=CHICAGO,
        consistency=STRONG,
    )
    cart.order_time.FromDatetime(moment.astimezone(UTC))
    reply = await shop.client.promise.PromiseCart(cart, timeout=SECONDS)
    shipment = reply.options[0].shipments[0]
    assert shipment.cutoff_time.ToDatetime(UTC) >= moment
    found = shipment.ship_date
    return date(found.year, found.month, found.day)


async def _move_popup(shop: Shop, into: str) -> None:
    groups = [
        network_pb.NodeGroup(
            node_group_id=group,
            name=group,
            node_ids=["store", "popup"] if group == into else ["store"],
        )
        for group in ("left", "right")
    ]
    request = network_pb.UpsertNodeGroupsRequest(node_groups=groups)
    reply = await shop.client.network.UpsertNodeGroups(request, timeout=SECONDS)
    assert all(r.outcome <= network_pb.UPSERT_OUTCOME_UNCHANGED for r in reply.results)


async def test_a_counters_day_is_taken_with_the_stock_and_not_free_again_when_goods_leave(
    shop: Shop, rival: Shop
) -> None:
    """Two orders a day; six shoppers who all saw today ask at once, by quotes and by name. Two get
    it, quotes are refused by name, others get the next days; the first are collected, and who comes
    then still does not get today."""
    quotes = list[str]()
    counter = a_node("counter", network_pb.NODE_TYPE_STORE, PICKUP)
    counter.capacities.add(fulfillment_method=PICKUP, orders_per_day_max=2)
    await shop.client.network.UpsertNodes(
        network_pb.UpsertNodesRequest(nodes=[counter]), timeout=SECONDS
    )
    sku = await shop.stock(counter=50)
    cart = promise_pb.PromiseCartRequest(
        lines=[types_pb2.Line(line_id="0", sku=sku, quantity=1)], pickup_node_id="counter"
    )
    for _ in range(3):
        reply = await rival.client.promise.PromiseCart(cart, timeout=SECONDS)
        quotes.append(reply.options[0].quote_token)
    today = reply.options[0].shipments[0].work_date

    def named() -> pb.CreateReservationRequest:
        return a_hold((sku, 1, "counter"), fulfillment_method=PICKUP, pickup_node_id="counter")

    def quoted(token: str) -> pb.CreateReservationRequest:
        return pb.CreateReservationRequest(owner_id="shopper", quote_token=token)

    answers = await asyncio.gather(
        *(shop.create(quoted(token)) for token in quotes),
        *(rival.create(named()) for _ in range(3)),
    )
    held = [x.reservation for x in answers if x.outcome == HELD]
    first = [x for x in held if x.work_days[0].date == today]
    for reservation in first:
        await shop.confirm(reservation.reservation_id)
        await shop.client.reservation.FulfillReservation(
            pb.FulfillReservationRequest(reservation_id=reservation.reservation_id),
            timeout=SECONDS,
        )
    late = await rival.create(named())
    told = await shop.client.availability.QueryNodeCapacity(
        availability_pb.QueryNodeCapacityRequest(node_id="counter", first_date=today, day_count=3),
        timeout=SECONDS,
    )

    full = pb.CREATE_RESERVATION_OUTCOME_CAPACITY_FULL
    refused = [x.outcome for x in answers if x.outcome != HELD]
    assert refused == [full] * len(refused)
    assert len(held) >= 3
    assert all(x.outcome == HELD for x in answers[3:])
    assert len(first) == 2
    assert late.outcome == HELD
    assert late.reservation.work_days[0].date != today
    days = [x.work_days[0].date for x in (*held, late.reservation)]
    assert max(days.count(day) for day in days) == 2
    strong = [(x.orders_max, x.worked_orders, x.left_orders) for x in told.days]
    assert strong[0] == (2, 2, 0)


async def test_a_packers_days_fill_up_and_dates_follow_whoever_asks(
    shop: Shop, rival: Shop
) -> None:
    """One order a day. The page, the checkout and both in one step each get the next free day, with
    dates that follow; a lowered number is kept to by the very next call, anywhere."""
    packer = a_node("packer", network_pb.NODE_TYPE_THIRD_PARTY_LOGISTICS, SHIP)
    packer.capacities.add(fulfillment_method=SHIP, orders_per_day_max=1)
    network = shop.client.network
    await network.UpsertNodes(network_pb.UpsertNodesRequest(nodes=[packer]), timeout=SECONDS)
    lane = network_pb.Lane(
        node_id="packer", country="US", carrier_service="ground",
        transit_business_days_min=1, transit_business_days_max=1,
    )  # fmt: skip
    await network.UpsertLanes(network_pb.UpsertLanesRequest(lanes=[lane]), timeout=SECONDS)
    sku = await shop.stock(packer=50)
    lines = [types_pb2.Line(line_id="0", sku=sku, quantity=1)]
    shown, taken = list[date](), list[date]()
    for turn in range(3):
        if turn == 2:
            packer.capacities[0].orders_per_day_max = 0
            day = packer.capacities[0].exceptions.add(orders_max=1)
            day.date.CopyFrom(_date(taken[0] + timedelta(9)))
            await network.UpsertNodes(
                network_pb.UpsertNodesRequest(nodes=[packer]), timeout=SECONDS
            )
        page = await rival.client.promise.PromiseCart(
            promise_pb.PromiseCartRequest(lines=lines, address=CHICAGO), timeout=SECONDS
        )
        shown.append(_day(page.options[0].shipments[0].work_date))
        if turn:
            held = await shop.create(a_hold((sku, 1)))
        else:
            at_once = await rival.client.reservation.PromiseAndReserve(
                pb.PromiseAndReserveRequest(
                    reservation_id=f"packed-{sku}", owner_id="shopper", lines=lines,
                    address=CHICAGO, fulfillment_method=SHIP,
                ),
                timeout=SECONDS,
            )  # fmt: skip
            held = at_once
            latest = _day(at_once.reservation.shipments[0].latest_delivery_date)
            assert latest == shown[0] + timedelta(1)
        assert held.outcome == HELD
        taken.append(_day(held.reservation.work_days[0].date))
        await until(lambda: _counted("packer", shop, taken[-1]))
    none = await shop.create(a_hold((sku, 1)))

    assert shown == taken
    assert taken[1] > taken[0]
    assert taken[2] == taken[0] + timedelta(9)
    assert none.outcome == pb.CREATE_RESERVATION_OUTCOME_CAPACITY_FULL


def _day(value: types_pb2.Date) -> date:
    return date(value.year, value.month, value.day)


def _date(day: date) -> types_pb2.Date:
    return types_pb2.Date(year=day.year, month=day.month, day=day.day)


async def _counted(node_id: str, shop: Shop, day: date) -> bool:
    """Whether the page counts an order of the day."""
    request = availability_pb.QueryNodeCapacityRequest(
        node_id=node_id, first_date=_date(day), day_count=1
    )
    told = await shop.client.availability.QueryNodeCapacity(request, timeout=SECONDS)
    return told.days[0].held_orders == 1
