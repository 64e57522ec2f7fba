"""Many shoppers at once, some of them while Valkey is killed; and what they were promised."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import quantiles

from google.protobuf.duration_pb2 import Duration

from promise_svc.demo import wording
from promise_svc.demo.client import Client, at_most
from promise_svc.demo.geography import Place
from promise_svc.demo.host import DemoHost
from promise_svc.demo.network import address_of
from promise_svc.demo.stock import DemoStock
from promise_svc.demo.story import Story
from promise_svc.v1 import promise_service_pb2 as promise_pb
from promise_svc.v1 import reservation_service_pb2 as reservation_pb
from promise_svc.v1 import types_pb2 as types_pb

CONCURRENCY = 32
TTL_SECONDS = 600
KILL_AFTER_SHARE = 0.3
"""Valkey is killed when so many of the shoppers are through."""

_HELD = reservation_pb.CREATE_RESERVATION_OUTCOME_HELD


@dataclass(slots=True)
class Crowd:
    """Shoppers of one run, and what the service acknowledged to them."""

    client: Client
    stock: DemoStock
    places: Sequence[Place]
    prefix: str
    rng: random.Random
    acknowledged: dict[str, str] = field(default_factory=dict)
    """Reservation id -> the state the shopper was last told."""
    outcomes: Counter[str] = field(default_factory=Counter)

    async def shop(
        self,
        name: str,
        count: int,
        story: Story,
        *,
        browsing_share: float = 0.0,
        on_done: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Let ``count`` shoppers through; ``on_done`` hears how many are. ``browsing_share``
        of them ask for a delivery promise first, the others have one and buy."""
        self.outcomes.clear()
        resent_before = self.client.retry_count
        start = time.monotonic()
        done = 0
        with story.progress("shoppers", count) as ticker:

            async def one(number: int) -> None:
                nonlocal done
                await self._shopper(f"{self.prefix}-{name}-{number}", browsing_share)
                done += 1
                ticker.advance(1)
                on_done(done)

            await at_most(CONCURRENCY, [partial(one, number) for number in range(count)])
        seconds = time.monotonic() - start
        story.step(f"{count} shoppers, {CONCURRENCY} at a time", seconds * 1000)
        told = ", ".join(f"{n} {outcome}" for outcome, n in self.outcomes.most_common())
        resent = self.client.retry_count - resent_before
        story.detail(f"{told}; {resent} calls sent again")

    async def shop_through_a_crash(self, host: DemoHost, count: int, story: Story) -> None:
        """The same while Valkey is killed and started again on its folder."""
        crash: asyncio.Task[None] | None = None

        def on_done(done: int) -> None:
            nonlocal crash
            if crash is None and done >= count * KILL_AFTER_SHARE:
                crash = asyncio.create_task(self._crash(host, story))

        await self.shop("crash", count, story, on_done=on_done)
        if crash is not None:
            await crash

    async def lost(self, story: Story) -> int:
        """Read every acknowledged reservation again; how many are not what was told."""

        async def state_of(rid: str) -> str:
            request = reservation_pb.GetReservationRequest(reservation_id=rid)
            reply = await self.client.insist(self.client.reservations.GetReservation, request)
            return wording.state(reply.reservation)

        rids = list(self.acknowledged)
        states = await at_most(CONCURRENCY, [partial(state_of, rid) for rid in rids])
        wrong = [
            f"{rid}: told {self.acknowledged[rid]}, is {state}"
            for rid, state in zip(rids, states, strict=True)
            if state != self.acknowledged[rid]
        ]
        story.expect(
            not wrong,
            f"all {len(rids)} acknowledged reservations are what their shoppers were told"
            + (f"; not so: {'; '.join(wrong[:5])}" if wrong else ""),
        )
        return len(wrong)

    async def _crash(self, host: DemoHost, story: Story) -> None:
        pid = await asyncio.to_thread(host.kill_index)
        story.note(f"kill -9 {pid}: the Valkey process is gone, {CONCURRENCY} shoppers under way")
        start = time.monotonic()
        await asyncio.to_thread(host.restart_index)
        story.note(f"Valkey is back on its append-only file after {time.monotonic() - start:.1f} s")

    async def _shopper(self, rid: str, browsing_share: float) -> None:
        """Promise, hold; then most confirm, some let go, some cancel, some just leave."""
        rng, stub = self.rng, self.client.reservations
        place = rng.choice(self.places)
        skus = {self.stock.popular(rng) for _ in range(rng.choice((1, 1, 2, 3)))}
        basket = [(sku, rng.choice((1, 1, 1, 2))) for sku in sorted(skus)]
        mood = rng.random()
        if rng.random() < browsing_share:
            await self._promise(place, basket)
        held = await self.client.insist(stub.CreateReservation, _request(rid, place, basket))
        self.outcomes[wording.created(held.outcome)] += 1
        if held.outcome != _HELD:
            return
        self.acknowledged[rid] = "HELD"
        if mood < 0.75:
            confirm = reservation_pb.ConfirmReservationRequest(reservation_id=rid)
            self._told(rid, await self.client.insist(stub.ConfirmReservation, confirm))
        elif mood < 0.88:
            release = reservation_pb.ReleaseReservationRequest(reservation_id=rid)
            self._told(rid, await self.client.insist(stub.ReleaseReservation, release))
        if mood < 0.06:
            cancel = reservation_pb.CancelReservationRequest(reservation_id=rid)
            self._told(rid, await self.client.insist(stub.CancelReservation, cancel))

    def _told(
        self,
        rid: str,
        reply: reservation_pb.ConfirmReservationResponse
        | reservation_pb.ReleaseReservationResponse
        | reservation_pb.CancelReservationResponse,
    ) -> None:
        self.outcomes[wording.moved(reply.outcome)] += 1
        self.acknowledged[rid] = wording.state(reply.reservation)

    async def _promise(self, place: Place, basket: Sequence[tuple[str, int]]) -> None:
        lines = [types_pb.Line(line_id=sku, sku=sku, quantity=quantity) for sku, quantity in basket]
        request = promise_pb.PromiseCartRequest(lines=lines, address=address_of(place))
        await self.client.insist(self.client.promise.PromiseCart, request)


def latencies(client: Client) -> list[tuple[str, int, float, float]]:
    """Method, calls, median and 99th percentile in milliseconds, slowest method first."""
    rows = []
    for method, seconds in client.seconds.items():
        if len(seconds) > 1:
            cuts = quantiles(seconds, n=100, method="inclusive")
            rows.append((method, len(seconds), cuts[49] * 1000, cuts[98] * 1000))
    return sorted(rows, key=lambda row: -row[2])


def _request(
    rid: str, place: Place, basket: Sequence[tuple[str, int]]
) -> reservation_pb.CreateReservationRequest:
    request = reservation_pb.CreateReservationRequest(
        reservation_id=rid,
        owner_id=f"owner-{rid}",
        lines=[
            reservation_pb.ReservationRequestLine(line_id=sku, sku=sku, quantity=quantity)
            for sku, quantity in basket
        ],
        address=address_of(place),
        fulfillment_method=types_pb.FULFILLMENT_METHOD_SHIP_TO_ADDRESS,
        ttl=Duration(seconds=TTL_SECONDS),
    )
    request.create_time.GetCurrentTime()
    return request
