"""What was promised and what was held: elsewhere two calls that need not agree."""

from __future__ import annotations

import asyncio
import time

import pytest

from promise_svc.v1 import availability_service_pb2 as availability_pb
from promise_svc.v1 import promise_service_pb2 as promise_pb
from promise_svc.v1 import reservation_service_pb2 as pb
from promise_svc.v1 import supply_service_pb2 as supply_pb
from promise_svc.v1 import types_pb2
from tests.rivals.conftest import (
    CHICAGO,
    HELD,
    INSUFFICIENT,
    SECONDS,
    STRONG,
    Shop,
    a_hold,
    plan_of,
)

pytestmark = pytest.mark.timeout(60)


async def shown(shop: Shop, *lines: tuple[str, int]) -> promise_pb.DeliveryPromise:
    """The plan on the cart page."""
    request = promise_pb.PromiseCartRequest(address=CHICAGO)
    for number, (sku, quantity) in enumerate(lines):
        request.lines.add(line_id=str(number), sku=sku, quantity=quantity)
    reply = await shop.client.promise.PromiseCart(request, timeout=SECONDS)
    assert reply.outcome == promise_pb.PROMISE_OUTCOME_COMPLETE
    return reply.options[0]


async def pays(shop: Shop, plan: promise_pb.DeliveryPromise) -> pb.CreateReservationResponse:
    return await shop.create(
        pb.CreateReservationRequest(owner_id="shopper", quote_token=plan.quote_token)
    )


@pytest.mark.parametrize("went", [0, 1], ids=["other stock went", "its stock went"])
async def test_the_plan_on_the_cart_page_is_held_or_the_shopper_hears_what_changed(
    shop: Shop, rival: Shop, went: int
) -> None:
    """IBM: optimise, then reserve; between the two calls another order takes stock, and the reserve
    fails or puts the goods elsewhere, on other days than the page said.

    The page shows a plan; a rival buys at another node, or the very units; a feed brings plenty to
    a node that would be better now; then the shopper pays.
    """
    sku = await shop.stock(dc=3, west=3)
    plan = await shown(shop, (sku, 2))
    (shipment,) = plan.shipments
    other = {"dc": "west", "west": "dc"}[shipment.node_id]
    at = shipment.node_id if went else other
    assert (await rival.create(a_hold((sku, 2, at)))).outcome == HELD
    await shop.sync([supply_pb.SupplyRow(sku=sku, node_id="store", on_hand=50)], sequence=2)

    reply = await pays(shop, plan)

    if went:
        (line,) = reply.line_outcomes
        assert (reply.outcome, line.ats, line.node_id) == (INSUFFICIENT, 1, shipment.node_id)
        assert (await shop.figures(sku))[1] == 2, "the rival's units and no others"
    else:
        assert plan_of(reply) == {shipment.node_id: 2}
        assert list(reply.reservation.shipments) == [shipment]


async def test_shoppers_who_saw_one_page_never_get_another_plan_than_it_showed(
    shop: Shop, rival: Shop
) -> None:
    """Twenty see a plan for units that six can have, and pay at once: six get that plan, fourteen
    hear that nothing is left there, though another node has plenty."""
    sku = await shop.stock(dc=6, west=50)
    plans = [await shown((shop, rival)[n % 2], (sku, 1)) for n in range(20)]
    node_id = plans[0].shipments[0].node_id
    if node_id != "dc":
        await shop.sync(
            [supply_pb.SupplyRow(sku=sku, node_id=node_id, on_hand=6)], source="wms", sequence=2
        )

    replies = await asyncio.gather(*(pays(shop, plan) for plan in plans))

    got = [reply for reply in replies if reply.outcome == HELD]
    refused = [reply.line_outcomes[0] for reply in replies if reply.outcome != HELD]
    assert len(got) == 6
    assert all(plan_of(reply) == {node_id: 1} for reply in got)
    assert {(line.outcome, line.ats, line.node_id) for line in refused} == {
        (INSUFFICIENT, 0, node_id)
    }


async def test_promise_and_hold_in_one_step_agree_under_a_crowd(shop: Shop, rival: Shop) -> None:
    """Thirty carts at once for units in three places: what each was promised is what each holds,
    and together they hold what there was."""
    sku = await shop.stock(dc=7, store=7, west=7)

    async def buy(me: Shop, number: int) -> pb.PromiseAndReserveResponse:
        request = pb.PromiseAndReserveRequest(
            reservation_id=f"{sku}-{number}",
            owner_id="shopper",
            lines=[types_pb2.Line(line_id="1", sku=sku, quantity=1)],
            address=CHICAGO,
            fulfillment_method=types_pb2.FULFILLMENT_METHOD_SHIP_TO_ADDRESS,
        )
        return await me.client.reservation.PromiseAndReserve(request, timeout=SECONDS)

    replies = await asyncio.gather(*(buy((shop, rival)[n % 2], n) for n in range(30)))

    held = [reply for reply in replies if reply.outcome == HELD]
    for reply in held:
        (shipment,) = reply.delivery_promise.shipments
        (line,) = reply.reservation.lines
        assert [units.node_id for units in line.planned_units] == [shipment.node_id]
    assert (await shop.figures(sku))[1] == len(held)
    assert len(held) == 21, {reply.outcome for reply in replies}


async def test_what_is_on_its_way_is_shown_promised_held_and_put_off_by_its_own_date(
    shop: Shop,
) -> None:
    """A page tells it apart from what can be sold now; a cart that allows it gets the date of its
    arrival, and the hold the same bucket; when the supply is put off, who pays then hears of it."""
    sku = await shop.stock(dc=0)
    arrival_s = int(time.time()) + 20 * 86_400
    row = supply_pb.SupplyRow(sku=sku, node_id="dc", bucket="po-1", on_hand=5, safety_stock=1)
    row.arrival_time.FromSeconds(arrival_s)
    await shop.sync([row])
    request = promise_pb.PromiseCartRequest(address=CHICAGO, max_options=1)
    request.lines.add(line_id="0", sku=sku, quantity=2)
    later = promise_pb.PromiseCartRequest(allow_backorder=True)
    later.MergeFrom(request)

    page = await shop.client.availability.QueryAvailability(
        availability_pb.QueryAvailabilityRequest(
            entries=[availability_pb.AvailabilityQuery(sku=sku)],
            consistency=STRONG,
            view=availability_pb.AVAILABILITY_VIEW_INBOUND,
        ),
        timeout=SECONDS,
    )
    now, first, second = [
        await shop.client.promise.PromiseCart(x, timeout=SECONDS) for x in (request, later, later)
    ]
    (shipment,) = first.options[0].shipments
    held = await pays(shop, first.options[0])
    at_once = await shop.client.reservation.PromiseAndReserve(
        pb.PromiseAndReserveRequest(
            reservation_id=f"at-once-{sku}",
            owner_id="shopper",
            lines=request.lines,
            address=CHICAGO,
            fulfillment_method=shipment.fulfillment_method,
            allow_backorder=True,
        ),
        timeout=SECONDS,
    )
    row.arrival_time.FromSeconds(arrival_s + 86_400)
    await shop.sync([row], sequence=2)
    put_off = await pays(shop, second.options[0])

    (entry,) = page.entries
    assert (entry.ats, [(x.node_id, x.bucket, x.ats) for x in entry.inbound]) == (
        0, [("dc", "po-1", 4)],
    )  # fmt: skip
    assert entry.inbound[0].arrival_time.seconds == arrival_s
    assert now.outcome == promise_pb.PROMISE_OUTCOME_NONE
    assert shipment.arrival_time.seconds == arrival_s
    assert [(x.bucket, x.quantity) for x in shipment.lines] == [("po-1", 2)]
    assert held.outcome == at_once.outcome == HELD
    for reply in (held, at_once):
        parts = reply.reservation.lines[0].planned_units
        assert [(x.bucket, x.quantity) for x in parts] == [("po-1", 2)]
        assert list(reply.reservation.shipments) == [shipment]
    assert put_off.outcome == pb.CREATE_RESERVATION_OUTCOME_DATE_MOVED
