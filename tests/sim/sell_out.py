"""At the end of a run: what is free can be bought, and then nothing is left."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from promise_svc.domain.inventory import PositionKey, StockPosition, ats, for_segment
from promise_svc.domain.network import NodeStatus
from promise_svc.domain.reservation import OPEN, CreateOutcome
from promise_svc.errors import PromiseServiceError
from tests.sim.draws import NODES
from tests.sim.process import Gone, Worker
from tests.support.reservation_world import a_cart

if TYPE_CHECKING:
    from tests.sim.world import World


async def sell_out(world: World) -> None:
    """Buy what is free of the scarce, also by whom it is kept for; then nothing is left."""
    buyer = _Buyer(world)
    if "network" in world.draws.kinds:
        await buyer.insist(lambda w: w.editor.set_node_status("n1", NodeStatus.ON, 3.0))
    if world.draws.orders_per_day:
        unbounded = [replace(world.draws.node(node), capacities=()) for node in NODES]
        await buyer.insist(lambda w: w.editor.upsert("node", unbounded, 3.0))
    for sku in world.scarce:
        ledger, key = world.shard(sku).ledger, PositionKey(sku, "n1", "")
        soon = world.clock_max_ms() + 5_000
        still = all(leg.expire_ms > soon for leg in ledger.legs.values() if leg.state in OPEN)
        for segment in ("", *(x.segment for x in ledger.positions[key].protected)):
            await buyer.buy(sku, _free(ledger.positions[key], segment), segment)
        if still:
            await buyer.ask_for(sku, 1, "", CreateOutcome.INSUFFICIENT_STOCK)
        for later in [x for x in ledger.positions if x[:2] == key[:2] and x.bucket]:
            if ledger.positions[later].arrival_ms > world.clock_max_ms():
                units = _free(ledger.positions[later], "")
                await buyer.buy(sku, units, "", allow_backorder=True)


class _Buyer:
    """Asks in calm weather, each time as another owner."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._asked: Counter[str] = Counter()

    async def buy(self, sku: str, units: int, segment: str, **other: bool) -> None:
        """All of it, by as many owners as limits make necessary."""
        _, limit = self._world.draws.limits().get(sku, ("", None))
        most = units
        if limit:  # as it was at first; nobody may know what it is by now
            most = 1 if "edited limits" in self._world.draws.kinds else limit.quantity_max
        while units > 0:
            await self.ask_for(sku, min(units, most), segment, CreateOutcome.HELD, **other)
            units -= most

    async def ask_for(
        self, sku: str, units: int, segment: str, expected: CreateOutcome, **other: bool
    ) -> None:
        name = f"{sku} {expected.name}"
        self._asked[name] += 1
        name += "+" * (self._asked[name] - 1)
        cart = a_cart(name, [sku], units, ttl_ms=600_000, owner_id=name, segment=segment, **other)
        answer = await self.insist(lambda w: w.reservations.create(cart, 3.0))
        if answer is not None and answer.outcome is not expected:
            self._world.broken(f"{units} of {sku} are {answer.outcome.name}, not {expected.name}")

    async def insist(self, work: Callable[[Worker], Awaitable[Any]]) -> Any:
        """Ask until there is an answer: connections that broke come back within a second or two."""
        for _ in range(30):
            try:
                return await self._world.workers[0].ask(work, 4.0)
            except (PromiseServiceError, Gone, TimeoutError) as error:
                last = error
                await asyncio.sleep(0.2)
        self._world.broken(f"in calm weather a call raises {last!r}")
        return None


def _free(row: StockPosition, segment: str) -> int:
    return ats(*for_segment(row, segment))
