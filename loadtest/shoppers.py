"""A client process for runs with faults: shoppers who fight for few SKUs and never lose count.

`python -m loadtest.shoppers TARGET LOG SEED SHOPPERS` runs until SIGTERM. Every call whose outcome
is not known is sent again with the same key until it is; every attempt is a line in LOG, on disk
before the next call (README.md tells the fields; here `reason` of an error and `places` of a plan
come on top). Ends with code 3 when a call is still without an answer GIVE_UP_SECONDS after the end.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.protobuf.duration_pb2 import Duration

from loadtest.catalog import Catalog, CatalogSize
from loadtest.driver.client import reason_of_error
from promise_svc.v1 import reservation_service_pb2 as pb
from promise_svc.v1 import reservation_service_pb2_grpc as pb_grpc
from promise_svc.v1 import types_pb2

FOUGHT_FOR = CatalogSize(
    store_count=10, sku_count=100, nodes_per_sku=2, on_hand=40, hot_sku_count=6, hot_on_hand=8,
    sold_out_sku_count=1,
)  # fmt: skip
"""Six SKUs at two nodes, 96 units: what one gets another has just given back."""
CATALOG_SEED = 1
ADDRESS = types_pb2.Address(country="US", region="NY", postal_code="10001")
CALL_SECONDS = 3.0
GIVE_UP_SECONDS = 30.0
SHORT_TTL_SECONDS = 2
LONG_TTL_SECONDS = 900
PAUSE_SECONDS = 0.03
"""Between a shopper's calls, on average: the machine shall also have time for faults."""
DEFINITE = frozenset({grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT})
"""Answers that another try would not change."""


class Ledger:
    """The log: a line is on disk when ``write`` returns."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, entry: Mapping[str, Any]) -> None:
        os.write(self._file, json.dumps(entry, separators=(",", ":")).encode() + b"\n")
        os.fdatasync(self._file)


class Shopper:
    """Creates, confirms, releases, cancels; one call at a time."""

    def __init__(
        self, name: str, stub: Any, ledger: Ledger, catalog: Catalog, rng: random.Random
    ) -> None:
        self._name = name
        self._stub = stub
        self._ledger = ledger
        self._rng = rng
        self._skus = catalog.hot_skus
        self.unanswered = 0
        self.give_up_at = float("inf")
        self._ordered = False
        """Whether an order of its stands: the first one does, so that an audit always has some."""

    async def run(self, stop: asyncio.Event) -> None:
        """One cart after the other until ``stop``; then the one at hand is brought to its end."""
        number = 0
        while not stop.is_set():
            number += 1
            await self._cart(f"{self._name}-{number}")

    async def _cart(self, rid: str) -> None:
        rng = self._rng
        skus = rng.sample(self._skus, rng.choice((1, 1, 2, 3, 4)))
        cart = [(sku, rng.choice((1, 1, 2))) for sku in skus]
        draw = rng.random()
        short = draw < 0.15
        if not await self._create(rid, cart, SHORT_TTL_SECONDS if short else LONG_TTL_SECONDS):
            return
        if short and rng.random() < 0.5:
            return  # nobody comes back: the clock decides
        if draw < 0.4:
            await self._settle("Release", rid)
            return
        confirmed = await self._settle("Confirm", rid)
        if confirmed and self._ordered and rng.random() < 0.97:
            await self._settle("Cancel", rid)
        elif rng.random() < 0.1:
            await self._settle("Release", rid)  # too late, and it must say so
        self._ordered |= confirmed

    async def _create(self, rid: str, cart: list[tuple[str, int]], ttl_seconds: int) -> bool:
        request = pb.CreateReservationRequest(
            reservation_id=rid,
            owner_id=self._name,
            address=ADDRESS,
            fulfillment_method=types_pb2.FULFILLMENT_METHOD_SHIP_TO_ADDRESS,
            ttl=Duration(seconds=ttl_seconds),
        )
        request.create_time.GetCurrentTime()
        for number, (sku, quantity) in enumerate(cart):
            request.lines.add(line_id=str(number), sku=sku, quantity=quantity)
        reply = await self._certain("CreateReservation", request, {"lines": cart})
        return reply is not None and reply.outcome == pb.CREATE_RESERVATION_OUTCOME_HELD

    async def _settle(self, verb: str, rid: str) -> bool:
        request = getattr(pb, f"{verb}ReservationRequest")(reservation_id=rid)
        reply = await self._certain(f"{verb}Reservation", request, {})
        return reply is not None and reply.outcome < pb.TRANSITION_OUTCOME_REVISION_MISMATCH

    async def _certain(self, method: str, request: Any, known: Mapping[str, Any]) -> Any:
        """Call until the outcome is known; None where there is no reply to have."""
        await asyncio.sleep(self._rng.expovariate(1 / PAUSE_SECONDS))
        delay = 0.05
        while True:
            entry = {"method": method, "reservation_id": request.reservation_id, **known}
            try:
                reply = await getattr(self._stub, method)(request, timeout=CALL_SECONDS)
            except grpc.aio.AioRpcError as error:
                code, reason = error.code(), reason_of_error(error)
                self._note(entry, code=code.value[0], outcome=0, reason=reason)
                if code in DEFINITE:
                    return None
            else:
                self._note(entry, code=0, outcome=reply.outcome, places=_places(reply))
                return reply
            if time.monotonic() > self.give_up_at:
                self.unanswered += 1
                return None
            await asyncio.sleep(delay * self._rng.uniform(0.5, 1.5))
            delay = min(1.0, delay * 2)

    def _note(self, entry: dict[str, Any], **told: Any) -> None:
        self._ledger.write({"time_ms": int(time.time() * 1000), **entry, **told})


def _places(reply: Any) -> list[tuple[str, str, int]]:
    return [
        (line.sku, units.node_id, units.quantity)
        for line in reply.reservation.lines
        for units in line.planned_units
    ]


async def _main(target: str, log: str, seed: str, shopper_count: str) -> int:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    catalog = Catalog(FOUGHT_FOR, CATALOG_SEED)
    ledger = Ledger(Path(log))
    # A broken connection is tried again soon: the servers it leads to are killed all the time.
    options = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 500)]
    async with grpc.aio.insecure_channel(target, options=options) as channel:
        stub = pb_grpc.ReservationServiceStub(channel)
        shoppers = [
            Shopper(f"s{seed}-{n}", stub, ledger, catalog, random.Random(f"{seed} {n}"))
            for n in range(int(shopper_count))
        ]
        running = [asyncio.create_task(shopper.run(stop)) for shopper in shoppers]
        print("shopping", flush=True)
        await stop.wait()
        for shopper in shoppers:
            shopper.give_up_at = time.monotonic() + GIVE_UP_SECONDS
        await asyncio.gather(*running)
    return 3 if any(shopper.unanswered for shopper in shoppers) else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(_main(*sys.argv[1:])))
