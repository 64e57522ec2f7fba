"""Plays cases against a running service, and keeps the log that the audit reads.

Events of one case follow each other; those of different cases run beside each other, begun in the
order of the data. With a speed-up each begins at its intended time, whatever the service does; at
full speed as soon as one of the places is free.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from datetime import date
from typing import IO, Any

from google.protobuf.timestamp_pb2 import Timestamp

from loadtest.replay.case import Case, Verb
from promise_svc.client import CallFailed, PromiseClient
from promise_svc.v1 import availability_service_pb2 as availability_pb
from promise_svc.v1 import promise_service_pb2 as promise_pb
from promise_svc.v1 import reservation_service_pb2 as reservation_pb
from promise_svc.v1 import supply_service_pb2 as supply_pb

CASES_AT_ONCE = 32
TTL_SECONDS = 14_400
LOST = -1
"""Code in the log for a call that never got an answer of the service."""

_SETTLED = {
    Verb.CONFIRM: ("ConfirmReservation", 1, "CONFIRMED"),
    Verb.RELEASE: ("ReleaseReservation", 2, "RELEASED"),
    Verb.FULFILL: ("FulfillReservation", 4, "FULFILLED"),
    Verb.CANCEL: ("CancelReservation", 3, "CANCELLED"),
}
"""Method, its good outcome, and the state after it."""


class Player:
    """One replay. ``run`` once."""

    def __init__(
        self,
        client: PromiseClient,
        log: IO[str],
        *,
        speed: float = 0.0,
        cases_at_once: int = CASES_AT_ONCE,
        on_progress: Callable[[int], None] = lambda _count: None,
    ) -> None:
        """``speed`` is data seconds a second; 0 is full speed."""
        self._client = client
        self._log = log
        self._speed = speed
        self._places = asyncio.Semaphore(cases_at_once)
        self._on_progress = on_progress
        self._last: dict[str, asyncio.Task[None]] = {}
        self.seconds: dict[str, list[float]] = defaultdict(list)
        """Latencies by method; at a speed-up without the lateness."""
        self.lateness_seconds_max = 0.0
        self.unexpected: Counter[str] = Counter()
        """Answers that the data did not foresee, such as a hold that expired before its confirm."""
        self.elapsed_seconds = 0.0
        self.widest_seconds = (0, 0.0)
        """Lines of the widest hold, and the seconds it took."""

    async def run(self, cases: Sequence[Case]) -> None:
        """Play everything; each case's ``outcome`` says where it ended."""
        verbs = list(Verb)
        order = sorted(
            ((event.at, index, verbs.index(event.verb), event.verb)
             for index, case in enumerate(cases) for event in case.events)
        )  # fmt: skip
        begun = time.monotonic()
        first = order[0][0] if order else 0.0
        async with asyncio.TaskGroup() as group:
            for at, index, _, verb in order:
                if self._speed:
                    due = begun + (at - first) / self._speed
                    await asyncio.sleep(max(0.0, due - time.monotonic()))
                    self.lateness_seconds_max = max(
                        self.lateness_seconds_max, time.monotonic() - due
                    )
                await self._places.acquire()
                case = cases[index]
                before = self._last.get(case.key)
                self._last[case.key] = group.create_task(self._after(before, case, verb))
        self.elapsed_seconds = time.monotonic() - begun

    async def _after(self, before: asyncio.Task[None] | None, case: Case, verb: Verb) -> None:
        try:
            if before is not None:
                await before
            await self._act(case, verb)
        finally:
            self._places.release()
            self._on_progress(1)

    async def _act(self, case: Case, verb: Verb) -> None:
        match verb:
            case Verb.BROWSE:
                await self._browse(case)
            case Verb.RESERVE:
                await self._reserve(case)
            case Verb.RETURN:
                await self._return(case)
            case _ if case.reservation_id:
                await self._settle(case, verb)

    async def _browse(self, case: Case) -> None:
        skus = dict.fromkeys(sku for sku, *_ in case.lines)
        entries = [availability_pb.AvailabilityQuery(sku=sku) for sku in skus]
        query = availability_pb.QueryAvailabilityRequest(entries=entries)
        await self._timed(self._client.availability.QueryAvailability, query)
        request = promise_pb.PromiseCartRequest(max_options=1)
        request.address.country = case.country
        request.address.postal_code = case.postal_code
        if case.order_time is not None:
            request.order_time.CopyFrom(Timestamp(seconds=int(case.order_time.timestamp())))
        for number, (sku, quantity, _) in enumerate(case.lines):
            request.lines.add(line_id=str(number), sku=sku, quantity=quantity)
        reply = await self._timed(self._client.promises.PromiseCart, request)
        if reply.outcome == promise_pb.PROMISE_OUTCOME_COMPLETE:
            best = reply.options[0]
            day = best.latest_delivery_date
            case.promised = date(day.year, day.month, day.day)
            case.promised_nodes = frozenset(shipment.node_id for shipment in best.shipments)

    async def _reserve(self, case: Case) -> None:
        request = self._client.reservation(
            case.key, case.lines, country=case.country, postal_code=case.postal_code,
            ttl_seconds=TTL_SECONDS, order_reference=case.key,
        )  # fmt: skip
        begun = time.perf_counter()
        reply = await self._logged(
            "CreateReservation", request.reservation_id,
            lambda: self._timed(self._client.reservations.CreateReservation, request),
            lines=[(line.sku, line.quantity) for line in request.lines],
        )  # fmt: skip
        took = time.perf_counter() - begun
        if len(case.lines) > self.widest_seconds[0]:
            self.widest_seconds = len(case.lines), took
        if reply.outcome == 1:
            case.reservation_id, case.outcome = request.reservation_id, "HELD"
        else:
            name = reservation_pb.CreateReservationOutcome.Name(reply.outcome)
            case.outcome = f"refused: {name.partition('OUTCOME_')[2]}"

    async def _settle(self, case: Case, verb: Verb) -> None:
        method, good, state = _SETTLED[verb]
        request = getattr(reservation_pb, f"{method}Request")(reservation_id=case.reservation_id)
        stub = getattr(self._client.reservations, method)
        reply = await self._logged(method, case.reservation_id, lambda: self._timed(stub, request))
        if reply.outcome == good:
            case.outcome = state
        else:
            name = reservation_pb.TransitionOutcome.Name(reply.outcome).partition("OUTCOME_")[2]
            self.unexpected[f"{verb} {name}"] += 1

    async def _return(self, case: Case) -> None:
        """Goods that came back of an order that was not taken back whole."""
        rows = [
            supply_pb.SupplyDelta(sku=sku, node_id=node, quantity_delta=quantity)
            for sku, quantity, node in case.lines
        ]
        request = supply_pb.AdjustSupplyRequest(
            idempotency_key=f"return-{case.key}", reason="returned", rows=rows
        )
        reply = await self._timed(self._client.supply.AdjustSupply, request)
        applied = all(row.outcome == supply_pb.SUPPLY_OUTCOME_APPLIED for row in reply.results)
        case.outcome = "RETURNED" if applied else "refused: return"

    async def _timed(self, stub: Any, request: Any) -> Any:
        begun = time.perf_counter()
        reply = await self._client.call(stub, request, deadline_seconds=30)
        name = type(request).__name__.removesuffix("Request")
        self.seconds[name].append(time.perf_counter() - begun)
        return reply

    async def _logged(
        self, method: str, reservation_id: str, call: Callable[[], Awaitable[Any]], **more: Any
    ) -> Any:
        entry = {"method": method, "reservation_id": reservation_id, **more}
        try:
            reply = await call()
        except CallFailed as error:
            self._write(entry | {"code": LOST, "outcome": 0, "reason": error.reason})
            raise
        if reply.HasField("reservation") and method == "CreateReservation":
            entry["places"] = [
                (line.sku, units.node_id, units.quantity)
                for line in reply.reservation.lines
                for units in line.planned_units
            ]
        self._write(entry | {"code": 0, "outcome": reply.outcome})
        return reply

    def _write(self, entry: dict[str, Any]) -> None:
        self._log.write(json.dumps({"time_ms": time.time_ns() // 1_000_000, **entry}) + "\n")
