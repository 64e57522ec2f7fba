"""One shopper from product page to order, and the cases that must not go wrong on the way."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

import grpc
from google.protobuf.duration_pb2 import Duration

from promise_svc.demo import wording
from promise_svc.demo.client import Client, reason_of
from promise_svc.demo.geography import Place
from promise_svc.demo.network import address_of
from promise_svc.demo.stock import BEST_SELLERS, DemoStock
from promise_svc.demo.story import Story
from promise_svc.v1 import availability_service_pb2 as availability_pb
from promise_svc.v1 import network_service_pb2 as network_pb
from promise_svc.v1 import promise_service_pb2 as promise_pb
from promise_svc.v1 import reservation_service_pb2 as reservation_pb
from promise_svc.v1 import types_pb2 as types_pb

NEARBY_METERS = 60_000
EXPIRY_SECONDS = 1.0

_HELD = reservation_pb.CREATE_RESERVATION_OUTCOME_HELD
_SHIP = types_pb.FULFILLMENT_METHOD_SHIP_TO_ADDRESS


@dataclass(frozen=True, slots=True)
class Shopper:
    """Who buys what, and where to."""

    client: Client
    place: Place
    basket: tuple[tuple[str, int], ...]
    """SKU and quantity of each line."""
    prefix: str
    """Begins the reservation ids of this run."""

    def lines(self) -> list[types_pb.Line]:
        """The basket as a cart."""
        return [
            types_pb.Line(line_id=f"line-{i}", sku=sku, quantity=quantity)
            for i, (sku, quantity) in enumerate(self.basket, 1)
        ]

    def request(self, name: str, **changes: object) -> reservation_pb.CreateReservationRequest:
        """A request to hold the basket."""
        request = reservation_pb.CreateReservationRequest(
            reservation_id=f"{self.prefix}-{name}",
            owner_id=f"shopper-{name}",
            lines=[
                reservation_pb.ReservationRequestLine(
                    line_id=line.line_id, sku=line.sku, quantity=line.quantity
                )
                for line in self.lines()
            ],
            address=address_of(self.place),
            fulfillment_method=_SHIP,
            **changes,  # type: ignore[arg-type]
        )
        request.create_time.GetCurrentTime()
        return request


async def browse(shopper: Shopper, story: Story) -> promise_pb.DeliveryPromise:
    """Product page, pickup nearby, delivery promise: reads from memory, holding nothing. The best
    plan."""
    place, client = shopper.place, shopper.client
    story.chapter(f"A shopper in {place.city}, {place.region} {place.postal_code}")
    sku = shopper.basket[0][0]
    query = availability_pb.QueryAvailabilityRequest(
        entries=[availability_pb.AvailabilityQuery(sku=sku) for sku, _ in shopper.basket],
        view=availability_pb.AVAILABILITY_VIEW_NODES,
    )
    page, took = await client.call(client.availability.QueryAvailability, query)
    story.step("product page: how many can be sold now?", took)
    for entry in page.entries:
        nodes = sum(node.ats > 0 for node in entry.nodes)
        at = entry.as_of
        source = f"shard {at.shard_id}, event {at.epoch}-{at.sequence}"
        story.detail(f"{entry.sku}: {entry.ats:,} units at {nodes} nodes ({source})")
    age = page.freshness.age.ToMilliseconds()
    story.detail(f"the answer is {age} ms old{', degraded' if page.freshness.degraded else ''}")
    story.expect(all(entry.ats > 0 for entry in page.entries), "every line can be sold")
    await _pickup(shopper, sku, story)
    request = promise_pb.PromiseCartRequest(lines=shopper.lines(), address=address_of(place))
    promise, took = await client.call(client.promise.PromiseCart, request)
    story.step("cart: when would it arrive, and what does that cost?", took)
    for index, option in enumerate(promise.options, 1):
        first, *rest = wording.option(option)
        for line in (f"{index}. {first}", *rest):
            story.detail(line)
    story.expect(promise.outcome == promise_pb.PROMISE_OUTCOME_COMPLETE, "all lines are promised")
    best: promise_pb.DeliveryPromise = promise.options[0]
    return best


async def _pickup(shopper: Shopper, sku: str, story: Story) -> None:
    client = shopper.client
    request = availability_pb.FindPickupNodesRequest(
        origin=address_of(shopper.place),
        radius_meters=NEARBY_METERS,
        lines=[types_pb.Line(line_id="line-1", sku=sku, quantity=1)],
        limit=5,
    )
    found, took = await client.call(client.availability.FindPickupNodes, request)
    story.step(f"where can I collect {sku} within {NEARBY_METERS // 1000} km?", took)
    for node in found.nodes:
        ready = wording.instant(node.ready_time, node.time_zone)
        what = f"ready {ready}" if node.complete else "has none"
        story.detail(f"{node.distance_meters / 1000:5.1f} km  {node.name} ({node.node_id}): "
                     f"ATS {node.lines[0].ats}, {what}")  # fmt: skip
    story.expect(len(found.nodes) > 0, "there is a store nearby")


async def buy(shopper: Shopper, plan: promise_pb.DeliveryPromise, story: Story) -> None:
    """Hold the plan shown, ask again, ask with another body, confirm: P5, P4, P2."""
    story.chapter("Checkout")
    client, stub = shopper.client, shopper.client.reservations
    request = shopper.request("first", quote_token=plan.quote_token)
    held, took = await client.call(stub.CreateReservation, request)
    story.step(f"reserve {len(shopper.basket)} lines with the token of plan 1", took)
    story.detail(f"{wording.created(held.outcome)}: {wording.planned_units(held.reservation)}")
    exactly = list(held.reservation.shipments) == list(plan.shipments)
    story.expect(held.outcome == _HELD and exactly, "exactly that plan is held, with its dates")
    again, took = await client.call(stub.CreateReservation, request)
    story.step("the same call again", took)
    same = again.reservation.lines == held.reservation.lines and again.replayed
    story.expect(again.outcome == _HELD and same, "same answer, marked replayed, held once")
    other = shopper.request("first")
    other.lines[0].quantity += 1
    try:
        await client.call(stub.CreateReservation, other)
        reason = "(it was accepted)"
    except grpc.aio.AioRpcError as error:
        reason = reason_of(error)
    story.step("the same key with another body")
    story.expect(reason == "IDEMPOTENCY_KEY_REUSED", f"refused by name: {reason}")
    confirm = reservation_pb.ConfirmReservationRequest(reservation_id=request.reservation_id)
    confirmed, took = await client.call(stub.ConfirmReservation, confirm)
    mode = types_pb.DurabilityMode.Name(confirmed.durability_mode)
    story.step("confirm", took)
    story.expect(
        confirmed.outcome == reservation_pb.TRANSITION_OUTCOME_CONFIRMED
        and confirmed.durability_mode == types_pb.DURABILITY_MODE_RECORDED,
        f"{wording.state(confirmed.reservation)}, {mode}: the order store has it",
    )


async def change_minds(shopper: Shopper, story: Story) -> None:
    """Cancel an order, let a hold expire: P3."""
    story.chapter("Changed minds")
    client, stub = shopper.client, shopper.client.reservations
    request = shopper.request("second")
    await client.call(stub.CreateReservation, request)
    rid = request.reservation_id
    confirm = reservation_pb.ConfirmReservationRequest(reservation_id=rid)
    await client.call(stub.ConfirmReservation, confirm)
    cancel = reservation_pb.CancelReservationRequest(reservation_id=rid)
    cancelled, took = await client.call(stub.CancelReservation, cancel)
    story.step("order and cancel", took)
    story.expect(
        cancelled.outcome == reservation_pb.TRANSITION_OUTCOME_CANCELLED,
        f"{wording.moved(cancelled.outcome)}, its units can be sold again",
    )
    short = shopper.request("third", ttl=Duration(seconds=int(EXPIRY_SECONDS)))
    held, _ = await client.call(stub.CreateReservation, short)
    ends = held.reservation.expire_time.ToMilliseconds() / 1000
    while (left := ends - _now()) > -0.05:
        await asyncio.sleep(max(0.01, left))
    rid = short.reservation_id
    read, took = await client.call(
        stub.GetReservation, reservation_pb.GetReservationRequest(reservation_id=rid)
    )
    story.step(f"hold for {EXPIRY_SECONDS:.0f} s and walk away", took)
    late, _ = await client.call(
        stub.ConfirmReservation, reservation_pb.ConfirmReservationRequest(reservation_id=rid)
    )
    story.expect(
        wording.state(read.reservation) == wording.moved(late.outcome) == "EXPIRED",
        "EXPIRED by the shard's clock; a late confirm is refused",
    )


async def last_unit(shopper: Shopper, stock: DemoStock, story: Story) -> None:
    """Two buyers of the last unit at the same moment: P1."""
    story.chapter("The last unit")
    client, stub = shopper.client, shopper.client.reservations
    row = next(r for r in stock.rows if r.sku in set(stock.scarce) and r.on_hand == 1)
    twins = []
    for name in ("ann", "bob"):
        request = shopper.request(name)
        del request.lines[1:]
        line = request.lines[0]
        line.sku, line.quantity, line.node_id = row.sku, 1, row.node_id
        twins.append(client.call(stub.CreateReservation, request))
    replies = await asyncio.gather(*twins)
    outcomes = [wording.created(reply.outcome) for reply, _ in replies]
    story.step(f"two buyers want the one {row.sku} at {row.node_id}", max(t for _, t in replies))
    refused = [
        line for reply, _ in replies for line in reply.line_outcomes if line.outcome != _HELD
    ]
    left = f", and hears the true ATS: {refused[0].ats}" if refused else ""
    story.expect(
        sorted(outcomes) == ["HELD", "INSUFFICIENT_STOCK"], f"{' and '.join(outcomes)}{left}"
    )


async def node_off(shopper: Shopper, stock: DemoStock, story: Story) -> None:
    """A node that is switched off takes nothing from that moment on."""
    story.chapter("A node is switched off")
    client = shopper.client
    row = next(r for r in stock.rows if r.sku == shopper.basket[0][0] and r.on_hand > 5)
    off, on = (
        network_pb.SetNodeStatusRequest(node_id=row.node_id, node_status=status, reason=reason)
        for status, reason in (
            (types_pb.NODE_STATUS_OFF, "power cut"),
            (types_pb.NODE_STATUS_ON, "power is back"),
        )
    )  # fmt: skip
    _, took = await client.call(client.network.SetNodeStatus, off)
    story.step(f"{row.node_id} goes off, on every shard before the answer", took)
    for name, status, wanted in (("off", off, "NODE_OFF"), ("on", on, "HELD")):
        if status is on:
            _, took = await client.call(client.network.SetNodeStatus, on)
        request = shopper.request(f"node-{name}")
        del request.lines[1:]
        line = request.lines[0]
        line.sku, line.quantity, line.node_id = row.sku, 1, row.node_id
        reply, took = await client.call(client.reservations.CreateReservation, request)
        story.step(f"reserve there while it is {name}", took)
        got = wording.created(reply.outcome)
        story.expect(got == wanted, got)


def shoppers_basket(stock: DemoStock, rng: random.Random) -> tuple[tuple[str, int], ...]:
    """Three of the best sellers, one of them twice."""
    first, second, third = rng.sample([item.sku for item in stock.items[:BEST_SELLERS]], 3)
    return ((first, 1), (second, 2), (third, 1))


def _now() -> float:
    stamp = reservation_pb.Reservation().expire_time
    stamp.GetCurrentTime()
    return stamp.ToMilliseconds() / 1000
