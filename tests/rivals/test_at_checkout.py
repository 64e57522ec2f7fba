"""Two shoppers, one stock: what went wrong between them elsewhere, in the order it went wrong."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections import Counter

import asyncpg
import grpc.aio
import pytest

from loadtest.driver.client import reason_of_error
from promise_svc.v1 import admin_service_pb2 as admin_pb
from promise_svc.v1 import network_service_pb2 as network_pb
from promise_svc.v1 import promise_service_pb2 as promise_pb
from promise_svc.v1 import reservation_service_pb2 as pb
from promise_svc.v1 import supply_service_pb2 as supply_pb
from promise_svc.v1 import types_pb2
from tests.e2e.conftest import Served
from tests.rivals.conftest import (
    CHICAGO,
    HELD,
    INSUFFICIENT,
    PICKUP,
    SECONDS,
    STRONG,
    Shop,
    a_hold,
    plan_of,
    until,
)

pytestmark = pytest.mark.timeout(120)

CONFIRMED = pb.TRANSITION_OUTCOME_CONFIRMED
LIVES = (1, 2, 4, 8, 16)
"""Seconds of a hold that must still live when the next call is answered: the first that is enough
for the machine."""
CROWD = 150
PAYMENT = 0.5
"""Seconds that a shopper is away at the bank."""


@pytest.mark.parametrize("buyers", [2, 24])
async def test_of_all_who_saw_the_last_unit_one_pays_and_the_others_are_told_before(
    shop: Shop, rival: Shop, buyers: int
) -> None:
    """Everybody looks, then everybody orders at once, then who was told HELD pays."""
    sku = await shop.stock(dc=1)
    all_saw, paid = asyncio.Barrier(buyers), []

    async def buy(me: Shop) -> int | None:
        assert await me.ats(sku) == 1
        await all_saw.wait()
        order = a_hold((sku, 1))
        reply = await me.create(order)
        if reply.outcome != HELD:
            return reply.line_outcomes[0].ats
        paid.append(order.reservation_id)
        assert (await me.confirm(order.reservation_id)).outcome == CONFIRMED
        return None

    told = await asyncio.gather(*(buy((shop, rival)[n % 2]) for n in range(buyers)))

    assert len(paid) == 1
    assert [ats for ats in told if ats is not None] == [0] * (buyers - 1)
    assert await shop.figures(sku) == (1, 0, 1)


async def test_holds_and_releases_at_once_leave_the_counter_equal_to_the_holds(
    shop: Shop, rival: Shop, rng: random.Random
) -> None:
    """Callers who lock nothing themselves; half of them change their mind while others come."""
    sku = await shop.stock(dc=25)
    standing = 0

    async def come_and_perhaps_go(me: Shop, quantity: int, goes: bool) -> None:
        nonlocal standing
        order = a_hold((sku, quantity))
        if (await me.create(order)).outcome != HELD:
            return
        standing += quantity
        if goes:
            released = await me.release(order.reservation_id)
            assert released.outcome == pb.TRANSITION_OUTCOME_RELEASED
            standing -= quantity

    wishes = [(rng.randint(1, 3), rng.random() < 0.5) for _ in range(60)]
    await asyncio.gather(
        *(come_and_perhaps_go((shop, rival)[n % 2], *wish) for n, wish in enumerate(wishes))
    )

    assert standing > 0
    assert await shop.figures(sku) == (25, standing, 0)
    assert await shop.ats(sku) == 25 - standing
    audit = await shop.client.admin.Verify(admin_pb.VerifyRequest(), timeout=60)
    assert (audit.consistent, audit.oversold_count) == (True, 0), audit


async def test_who_comes_back_with_another_cart_is_not_in_their_own_way(
    shop: Shop, rival: Shop
) -> None:
    """WooCommerce: the first attempt to pay holds the stock, the second finds none.

    A shopper holds two of three, comes back for three, and sends it twice at once; a rival waits
    for the third. The payment page of the first attempt is still open.
    """
    sku = await shop.stock(dc=3)
    first, other = a_hold((sku, 2, "dc")), a_hold((sku, 2, "dc"))
    assert (await shop.create(first)).outcome == HELD
    again = a_hold((sku, 3, "dc"), replaces_reservation_id=first.reservation_id)

    twice = await asyncio.gather(*(shop.create(again) for _ in range(2)))
    late = await rival.create(other)
    paid_too_late = await shop.confirm(first.reservation_id)
    paid = await shop.confirm(again.reservation_id)

    assert [reply.outcome for reply in twice] == [HELD, HELD]
    assert late.outcome == INSUFFICIENT
    assert paid_too_late.outcome == pb.TRANSITION_OUTCOME_ALREADY_SUPERSEDED
    assert paid_too_late.reservation.replaced_by_reservation_id == again.reservation_id
    assert paid.outcome == pb.TRANSITION_OUTCOME_CONFIRMED
    assert await shop.figures(sku) == (3, 0, 3)
    audit = await shop.client.admin.Verify(admin_pb.VerifyRequest(), timeout=60)
    assert (audit.consistent, audit.oversold_count) == (True, 0), audit


async def test_a_limit_of_two_a_customer_holds_against_six_tabs(shop: Shop, rival: Shop) -> None:
    """A flash sale: one shopper opens six tabs and gets two, ordered or held; another gets theirs;
    what the first lets go they may take again."""
    sku = await shop.stock(dc=50)
    item = network_pb.Item(sku=sku, customer_limit=network_pb.CustomerLimit(quantity_max=2))
    limited = await shop.client.network.UpsertItems(
        network_pb.UpsertItemsRequest(items=[item]), timeout=SECONDS
    )
    tabs = [a_hold((sku, 1, "dc"), owner_id="greedy") for _ in range(6)]

    first = await asyncio.gather(*(shop.create(tab) for tab in tabs))
    other = await rival.create(a_hold((sku, 2), owner_id="patient"))
    held = [reply for reply in first if reply.outcome == HELD]
    await shop.confirm(held[0].reservation.reservation_id)
    fewer = await shop.create(a_hold((sku, 1), owner_id="greedy"))
    await shop.release(held[1].reservation.reservation_id)
    again = await shop.create(a_hold((sku, 1), owner_id="greedy"))

    refusal = pb.CREATE_RESERVATION_OUTCOME_CUSTOMER_LIMIT
    assert limited.results[0].outcome == network_pb.UPSERT_OUTCOME_UPDATED
    assert [reply.outcome for reply in first].count(refusal) == 4
    assert (len(held), other.outcome, fewer.outcome, again.outcome) == (2, HELD, refusal, HELD)
    assert fewer.line_outcomes[0].ats == 0
    assert await shop.figures(sku) == (50, 3, 1)


async def test_two_lines_that_each_fit_are_refused_when_their_sum_does_not(
    shop: Shop, rival: Shop
) -> None:
    """One cart, the same component on two lines; then two such carts at once for stock of one."""
    sku = await shop.stock(dc=5)

    alone = await shop.create(a_hold((sku, 3, "dc"), (sku, 3, "dc")))
    assert alone.outcome == INSUFFICIENT
    assert [line.ats for line in alone.line_outcomes] == [5, 5]
    assert await shop.figures(sku) == (5, 0, 0)

    both = await asyncio.gather(
        *(me.create(a_hold((sku, 2, "dc"), (sku, 2, "dc"))) for me in (shop, rival))
    )
    assert sorted(reply.outcome for reply in both) == [HELD, INSUFFICIENT]
    assert await shop.figures(sku) == (5, 4, 0)


async def test_two_bundles_of_one_component_are_checked_and_held_together(
    shop: Shop, rival: Shop
) -> None:
    """Five legs: a table takes four, a stool three. Each fits, both do not; and of two shoppers who
    want a table and a loose leg, one gets them."""
    leg = await shop.stock(dc=5)
    top = await shop.stock(dc=9)
    table = await shop.bundle(**{leg.replace("-", "_"): 4, top.replace("-", "_"): 1})
    stool = await shop.bundle(**{leg.replace("-", "_"): 3, top.replace("-", "_"): 1})
    assert await shop.ats(table) == await shop.ats(stool) == 1
    await until(lambda: _table_has(shop, table, 1))

    alone = await shop.create(a_hold((table, 1, "dc"), (stool, 1, "dc")))
    assert alone.outcome == INSUFFICIENT
    assert [line.ats for line in alone.line_outcomes] == [1, 1]
    assert await shop.figures(leg) == (5, 0, 0)

    both = await asyncio.gather(*(me.create(a_hold((table, 1), (leg, 1))) for me in (shop, rival)))
    assert sorted(reply.outcome for reply in both) == [HELD, INSUFFICIENT]
    assert (await shop.figures(leg), await shop.figures(top)) == ((5, 5, 0), (9, 1, 0))
    await until(lambda: _table_has(rival, table, 0))


async def test_a_cart_that_only_fits_over_two_places_is_held_over_both(
    shop: Shop, rival: Shop
) -> None:
    """The check adds up places, so the hold must take from each; the next shopper gets nothing."""
    sku = await shop.stock(dc=1, store=1)
    assert await shop.ats(sku) == 2

    held = await shop.create(a_hold((sku, 2)))
    late = await rival.create(a_hold((sku, 1)))

    assert held.outcome == HELD
    assert plan_of(held) == {"dc": 1, "store": 1}
    assert (late.outcome, late.line_outcomes[0].ats) == (INSUFFICIENT, 0)


async def test_two_carts_for_all_of_two_places_at_once_are_both_held(
    shop: Shop, rival: Shop
) -> None:
    """Each fits, and so do both: neither may fail because both were planned at one place."""
    sku = await shop.stock(dc=2, store=2)
    await until(lambda: _table_has(shop, sku, 4))
    await until(lambda: _table_has(rival, sku, 4))

    both = await asyncio.gather(*(me.create(a_hold((sku, 2))) for me in (shop, rival)))

    assert [reply.outcome for reply in both] == [HELD, HELD]
    assert await shop.figures(sku) == (4, 4, 0)


async def test_carts_that_name_one_sku_many_times_in_any_order_do_not_block_each_other(
    shop: Shop, rival: Shop
) -> None:
    """Twelve at once, half of them backwards, over shards: each is answered, each is held."""
    skus = [await shop.stock(dc=200) for _ in range(3)]
    names = [skus[n] for n in (0, 1, 0, 2, 1, 0)]

    async with asyncio.timeout(SECONDS):
        replies = await asyncio.gather(
            *(
                (shop, rival)[n % 2].create(
                    a_hold(*((s, 1, "dc") for s in names[:: 1 - n % 2 * 2]))
                )
                for n in range(12)
            )
        )

    assert [reply.outcome for reply in replies] == [HELD] * 12
    assert [(await shop.figures(sku))[1] for sku in skus] == [36, 24, 12]


async def test_a_shopper_at_the_bank_keeps_nobody_else_from_buying(shop: Shop, rival: Shop) -> None:
    """While one pays for a unit, four others buy the same SKU, each within a moment."""
    sku = await shop.stock(dc=5)
    order = a_hold((sku, 1))
    assert (await shop.create(order)).outcome == HELD
    paying = asyncio.create_task(asyncio.sleep(PAYMENT))

    took = []
    for _ in range(4):
        theirs, begun = a_hold((sku, 1)), time.perf_counter()
        assert (await rival.create(theirs)).outcome == HELD
        assert (await rival.confirm(theirs.reservation_id)).outcome == CONFIRMED
        took.append(time.perf_counter() - begun)
    refused = await rival.create(a_hold((sku, 1)))
    await paying
    paid = await shop.confirm(order.reservation_id)

    assert max(took) < SECONDS / 2
    assert refused.outcome == INSUFFICIENT
    assert paid.outcome == CONFIRMED
    assert await shop.figures(sku) == (5, 0, 5)


async def test_a_check_that_others_overtook_is_made_again_where_the_hold_is_taken(
    shop: Shop, rival: Shop
) -> None:
    """See five, pause, the others take four, order three: refused with what there is. A blind
    write afterwards is refused or told as a shortage, and nothing falls below zero."""
    sku = await shop.stock(dc=5)
    assert await shop.ats(sku) == 5
    assert (await rival.create(a_hold((sku, 4)))).outcome == HELD

    late = await shop.create(a_hold((sku, 3)))
    below = await rival.adjust(sku, -6)
    lost = await rival.adjust(sku, -3)

    assert (late.outcome, late.line_outcomes[0].ats) == (INSUFFICIENT, 1)
    assert (below.outcome, below.on_hand) == (supply_pb.SUPPLY_OUTCOME_BELOW_ZERO, 5)
    assert lost.outcome == supply_pb.SUPPLY_OUTCOME_APPLIED
    assert (lost.on_hand, lost.ats, lost.shortage) == (2, 0, 2)
    assert (await shop.create(a_hold((sku, 1)))).outcome == INSUFFICIENT


async def test_what_another_place_has_is_neither_shown_nor_sold_for_this_one(shop: Shop) -> None:
    """Ten in the node, none in the store: not to be had in the store, by name or by pickup."""
    sku = await shop.stock(dc=10, store=0)
    order = a_hold((sku, 1), pickup_node_id="store", fulfillment_method=PICKUP)

    pickup, named = await shop.create(order), await shop.create(a_hold((sku, 1, "store")))

    (seen,) = await shop.look(sku)
    assert {node.node_id: node.ats for node in seen.nodes} == {"dc": 10, "store": 0}
    assert (pickup.outcome, pickup.line_outcomes[0].ats) == (INSUFFICIENT, 0)
    assert (named.outcome, named.line_outcomes[0].ats) == (INSUFFICIENT, 0)
    assert await shop.figures(sku) == (10, 0, 0)


async def test_two_units_in_two_places_are_promised_as_two_parcels_with_one_each(
    shop: Shop,
) -> None:
    """Not one parcel with one unit; and the plan can be held as it was promised."""
    sku = await shop.stock(dc=1, store=1)
    cart = promise_pb.PromiseCartRequest(
        lines=[types_pb2.Line(line_id="1", sku=sku, quantity=2)],
        address=CHICAGO,
        consistency=STRONG,
    )

    promised = await shop.client.promise.PromiseCart(cart, timeout=SECONDS)
    parcels = [
        (s.node_id, sum(line.quantity for line in s.lines)) for s in promised.options[0].shipments
    ]
    held = await shop.create(a_hold(*((sku, units, node) for node, units in parcels)))

    assert promised.outcome == promise_pb.PROMISE_OUTCOME_COMPLETE
    assert sorted(parcels) == [("dc", 1), ("store", 1)]
    assert held.outcome == HELD
    assert plan_of(held) == {"dc": 1, "store": 1}


async def test_an_order_that_twelve_workers_process_at_once_is_held_once(
    shop: Shop, rival: Shop, served: Served
) -> None:
    """The same order from a queue read twelve times: one hold, one row, no second of anything."""
    skus = [await shop.stock(dc=50) for _ in range(3)]
    order = a_hold(*((sku, 2, "dc") for sku in skus))

    replies = await asyncio.gather(*((shop, rival)[n % 2].create(order) for n in range(12)))
    confirms = await asyncio.gather(
        *((shop, rival)[n % 2].confirm(order.reservation_id) for n in range(12))
    )

    assert [reply.outcome for reply in replies] == [HELD] * 12
    assert {str(plan_of(reply)) for reply in replies} == {"{'dc': 6}"}
    assert [reply.outcome for reply in confirms] == [CONFIRMED] * 12
    assert [await shop.figures(sku) for sku in skus] == [(50, 0, 2)] * 3
    store = await asyncpg.connect(served.order_store_url)
    query = "SELECT count(*) FROM {} WHERE reservation_id = $1"
    rows = await store.fetchval(query.format("reservations"), order.reservation_id)
    await store.close()
    assert rows == 1


async def its_end(held: pb.CreateReservationResponse) -> None:
    """Return when a hold's time, as it was told, has passed."""
    due = held.reservation.expire_time.ToNanoseconds() / 1e9
    await asyncio.sleep(max(0.0, due - time.time()))


async def test_an_expired_hold_is_free_at_once_and_cannot_be_paid_from_the_next_ones(
    shop: Shop, rival: Shop
) -> None:
    """Nobody touches the SKU between: its last unit is on sale from that instant. The rival takes
    it; the first shopper then can neither pay nor begin again."""
    for ttl_seconds in LIVES:
        sku = await shop.stock(dc=1)
        first = a_hold((sku, 1), ttl_seconds=ttl_seconds)
        held = await shop.create(first)
        refused = await rival.create(a_hold((sku, 1)))
        if refused.outcome == INSUFFICIENT:
            break
    await its_end(held)

    seen = await rival.ats(sku)
    theirs = await rival.create(a_hold((sku, 1)))
    late = await shop.confirm(first.reservation_id)
    replay, anew = await shop.create(first), await shop.create(a_hold((sku, 1)))

    assert (refused.outcome, seen) == (INSUFFICIENT, 1)
    assert theirs.outcome == HELD
    assert late.outcome == pb.TRANSITION_OUTCOME_EXPIRED
    assert (replay.replayed, replay.reservation.state) == (True, pb.Reservation.STATE_EXPIRED)
    assert anew.outcome == INSUFFICIENT
    assert await shop.figures(sku) == (1, 1, 0)


async def test_an_expired_hold_cannot_be_renewed_against_the_one_who_has_the_unit_now(
    shop: Shop, rival: Shop
) -> None:
    """A cart lives on by being renewed in time; renewed a moment too late, it gets nothing, whether
    the unit was taken meanwhile or not."""
    sku = await shop.stock(dc=2)
    late = a_hold((sku, 1, "dc"), ttl_seconds=1)
    for ttl_seconds in LIVES:
        in_time = a_hold((sku, 1, "dc"), ttl_seconds=ttl_seconds)
        held = await shop.create(in_time)
        renewed = await shop.extend(in_time.reservation_id, 60)
        if renewed.outcome == pb.TRANSITION_OUTCOME_EXTENDED:
            break
    await its_end(await shop.create(late))
    await its_end(held)

    nobody_came = await shop.extend(late.reservation_id, 60)
    theirs = await rival.create(a_hold((sku, 1, "dc")))
    somebody_came = await shop.extend(late.reservation_id, 60)
    paid = await shop.confirm(in_time.reservation_id)

    assert renewed.outcome == pb.TRANSITION_OUTCOME_EXTENDED
    expired = pb.TRANSITION_OUTCOME_EXPIRED
    assert [nobody_came.outcome, somebody_came.outcome] == [expired, expired]
    assert theirs.outcome == HELD
    assert paid.outcome == CONFIRMED
    assert await shop.figures(sku) == (2, 1, 1)


async def test_a_hold_nobody_needs_can_be_let_go_again_and_again(shop: Shop, rival: Shop) -> None:
    """Released twice, and once more after the rival has the unit: it stays the rival's."""
    sku = await shop.stock(dc=1)
    order = a_hold((sku, 1))
    assert (await shop.create(order)).outcome == HELD

    first = await shop.release(order.reservation_id)
    theirs = await rival.create(a_hold((sku, 1)))
    again = await shop.release(order.reservation_id)

    released = pb.TRANSITION_OUTCOME_RELEASED
    assert [(r.outcome, r.replayed) for r in (first, again)] == [
        (released, False),
        (released, True),
    ]
    assert theirs.outcome == HELD
    assert await shop.figures(sku) == (1, 1, 0)


async def _table_has(shop: Shop, sku: str, units: int) -> bool:
    (seen,) = await shop.look(sku, consistency=types_pb2.Consistency())
    return seen.ats == units


async def test_payments_go_through_while_carts_are_shed(shop: Shop, rival: Shop) -> None:
    """A crowd asks for the dates of long carts, explained, several times what the server can work
    out, and nobody of it waits when refused. Those who pay are all served meanwhile; what is
    refused is told so, by name and with a delay; the server does as much for the crowd as ever; and
    when the crowd has gone a cart is promised at the first try. Who had to wait behind the crowd
    would wait for as much as all its carts cost, several times."""
    sku = await shop.stock(dc=1_000)
    orders = [a_hold((sku, 1, "dc")) for _ in range(5)]
    for order in orders:
        assert (await shop.create(order)).outcome == HELD
    cart = promise_pb.PromiseCartRequest(address=CHICAGO, explain=True)
    for number in range(1_000):
        cart.lines.add(line_id=str(number), sku=sku, quantity=1)
    alone = []
    for _ in range(5):
        began = time.monotonic()
        await rival.client.promise.PromiseCart(cart, timeout=30)
        alone.append(time.monotonic() - began)
    crowd_seconds = CROWD * statistics.median(alone)
    seen: Counter[str] = Counter()
    paid = asyncio.Event()

    async def asks() -> None:
        while not paid.is_set():
            try:
                await rival.client.promise.PromiseCart(cart, timeout=60)
                seen["promised"] += 1
            except grpc.aio.AioRpcError as error:
                assert "grpc-status-details-bin" in dict(error.trailing_metadata())
                seen[reason_of_error(error)] += 1

    async with asyncio.TaskGroup() as crowd:
        for _ in range(CROWD):
            crowd.create_task(asks())
        while not seen["OVERLOADED"]:
            await asyncio.sleep(0.01)
        waits = []
        for order in orders:
            began = time.monotonic()
            reply = await shop.confirm(order.reservation_id)
            waits.append(time.monotonic() - began)
            assert reply.outcome == pb.TRANSITION_OUTCOME_CONFIRMED
        paid.set()
    await rival.client.promise.PromiseCart(cart, timeout=60)

    assert set(seen) == {"promised", "OVERLOADED"}
    assert seen["promised"] > 10
    assert statistics.median(waits) < max(5.0, crowd_seconds), (waits, alone, seen)


async def test_what_is_kept_for_one_channel_is_neither_shown_nor_sold_to_another(
    shop: Shop,
) -> None:
    """Ten, six of them for web: the till sees and gets four, web all ten; and a new count of the
    feed does not give web's share away."""
    sku = await shop.stock(dc=10)
    level = supply_pb.ProtectionLevel(sku=sku, node_id="dc", segment="web", level=6)
    request = supply_pb.SetProtectionLevelsRequest(rows=[level])
    done = await shop.client.supply.SetProtectionLevels(request, timeout=SECONDS)
    assert done.results[0].outcome == supply_pb.SUPPLY_OUTCOME_APPLIED
    eventual = types_pb2.Consistency()

    for consistency in (STRONG, eventual):
        (till,) = await shop.look(sku, consistency=consistency, segment="till")
        (web,) = await shop.look(sku, consistency=consistency, segment="web")
        (nobody,) = await shop.look(sku, consistency=consistency)
        assert (till.ats, web.ats, nobody.ats) == (4, 10, 4)
        assert till.nodes[0].breakdown.shortage == 0
    count = supply_pb.SupplyRow(sku=sku, node_id="dc", on_hand=9)
    await shop.sync([count], sequence=2)

    assert (await shop.create(a_hold((sku, 4), segment="till"))).outcome == INSUFFICIENT
    assert (await shop.create(a_hold((sku, 3), segment="till"))).outcome == HELD
    assert (await shop.create(a_hold((sku, 6), segment="web"))).outcome == HELD
    assert await shop.ats(sku, segment="web") == 0


async def test_a_split_order_keeps_apart_what_is_here_and_what_is_on_its_way(
    shop: Shop, rival: Shop
) -> None:
    """One unit is here and two are on their way, all three ordered. The order is split: one parcel
    leaves, and somebody tries to move the rest to a store that has none, while others try to buy.
    What waits goes on waiting and is nobody else's, until it arrives and is all spoken for."""
    sku = await shop.stock(dc=1, store=0)
    expected = supply_pb.SupplyRow(sku=sku, node_id="dc", bucket="po-1", on_hand=2)
    expected.arrival_time.FromSeconds(int(time.time()) + 7 * 86_400)
    await shop.sync([expected])
    order = a_hold((sku, 3, "dc"), allow_backorder=True)
    reply = await shop.create(order)
    parts = [(x.bucket, x.quantity) for x in reply.reservation.lines[0].planned_units]
    assert parts == [("", 1), ("po-1", 2)]
    assert (await shop.confirm(order.reservation_id)).outcome == CONFIRMED

    split = pb.FulfillReservationRequest(
        reservation_id=order.reservation_id,
        lines=[pb.LineUnits(line_id="0", quantity=1, node_id="dc")],
        idempotency_key=f"parcel-{sku}",
    )
    moved = pb.TransferReservationRequest(
        reservation_id=order.reservation_id,
        transfers=[
            pb.LineTransfer(line_id="0", quantity=2, source_node_id="dc", target_node_id="store")
        ],
        idempotency_key=f"rest-{sku}",
    )
    calls = shop.client.reservation
    buying = [rival.create(a_hold((sku, 1), allow_backorder=True)) for _ in range(8)]
    sent, *bought = await asyncio.gather(calls.FulfillReservation(split, timeout=SECONDS), *buying)
    refused = await calls.TransferReservation(moved, timeout=SECONDS)

    assert sent.outcome == pb.TRANSITION_OUTCOME_FULFILLED
    assert {x.outcome for x in bought} == {INSUFFICIENT}
    assert refused.outcome == pb.TRANSITION_OUTCOME_INSUFFICIENT_STOCK
    seen = await calls.GetReservation(
        pb.GetReservationRequest(reservation_id=order.reservation_id), timeout=SECONDS
    )
    assert [
        (x.bucket, x.quantity, x.fulfilled_quantity)
        for x in seen.reservation.lines[0].planned_units
    ] == [("", 1, 1), ("po-1", 2, 0)]
    assert await shop.figures(sku) == (0, 0, 0)

    arrived = supply_pb.SupplyRow(sku=sku, node_id="dc", bucket="po-1", on_hand=3, arrived=True)
    await shop.sync([arrived], sequence=2)
    assert await rival.ats(sku) == 1
