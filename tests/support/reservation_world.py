"""A world to reserve in: workers that can die at any call, a clock, and a look behind."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from typing import Any

from promise_svc.application.own_writes import OwnWrites
from promise_svc.application.reservation import Durability, Reservations
from promise_svc.application.reservation_body import CreateCommand, RequestedLine
from promise_svc.application.resolver import Resolver, Sweeper
from promise_svc.application.tasks import OwnedTasks
from promise_svc.domain.inventory import PositionKey
from promise_svc.domain.network import NetworkSnapshot
from promise_svc.domain.reservation import OPEN, DurabilityMode, State, SupplyRow
from promise_svc.domain.sharding import START, Position, shard_of
from tests.support.fake_ats_reader import FakeAtsReader, FakeClock
from tests.support.fake_order_store import FakeOrderStore
from tests.support.networks import PICKUP, SHIP, a_node, a_snapshot
from tests.support.shards import TIMEOUT

NODES = ("n1", "n2", "n3")


class Died(BaseException):
    """The worker was killed; nothing it had started goes on."""


class MortalIndex:
    """An index through which one worker speaks, until call number ``dies_at`` (1 is the first).

    It dies before the call reaches the shard, or after the shard has done it.
    """

    def __init__(self, inner: Any, dies_at: int = 0, *, after: bool = False) -> None:
        self._inner = inner
        self._dies_at = dies_at
        self._after = after
        self._numbers = itertools.count(1)
        self.dead = False
        self.calls: list[tuple[str, int]] = []
        self.shard_count = inner.shard_count

    def seen(self, shard: int) -> Position:
        return START

    def __getattr__(self, verb: str) -> Callable[..., Any]:
        async def call(shard: int, *args: Any) -> Any:
            if self.dead:
                raise Died
            number = next(self._numbers)
            self.calls.append((verb, shard))
            dies = number == self._dies_at
            if dies and not self._after:
                self.dead = True
                raise Died
            reply = await getattr(self._inner, verb)(shard, *args)
            if dies:
                self.dead = True
            if self.dead:
                raise Died
            return reply

        return call


class StillNetwork:
    """A network that the test replaces."""

    def __init__(self, snapshot: NetworkSnapshot) -> None:
        self.now = snapshot
        self.next: NetworkSnapshot | None = None

    def snapshot(self) -> NetworkSnapshot:
        return self.now

    async def refresh(self) -> NetworkSnapshot:
        if self.next is not None:
            self.now, self.next = self.next, None
        return self.now


class NoWatch:
    """Everything is recorded at once."""

    async def wait_durable(
        self, shard: int, at: Position, answered_epoch: int, timeout: float
    ) -> None:
        return


class Worker:
    """One server process as far as reservations go."""

    def __init__(self, world: World, index: Any) -> None:
        self.index = index
        self.tasks = OwnedTasks()
        self.reservations = Reservations(
            index=index,
            table=world.table,
            network=world.network,
            store=world.store,
            watch=NoWatch(),
            clock=world.clock,
            durability=Durability(
                offered=frozenset({DurabilityMode.MEMORY, DurabilityMode.FSYNC}),
                reserve=DurabilityMode.FSYNC,
                confirm=DurabilityMode.FSYNC,
            ),
            own_writes=OwnWrites(index, lambda _shard: Position(2**53, 0)),
            tasks=self.tasks,
        )

    def note_later(self) -> None:
        """From here on home hears what can wait only by ``tell_home``."""
        self.reservations._shards._notes._seconds = 3_600.0

    async def tell_home(self) -> None:
        notes = self.reservations._shards._notes
        notes._seconds = 0.0
        await notes.send()

    async def rest(self) -> None:
        """Let what follows a reply be done."""
        await asyncio.gather(*list(self.tasks._tasks), return_exceptions=True)


class World:
    """Shards under one clock, stock in them, and workers to speak to them."""

    def __init__(
        self,
        index: Any,
        advance: Callable[[int], int],
        now_ms: int,
        ahead: Callable[[int, int], None] | None = None,
    ) -> None:
        """``ahead`` sets one shard's clock so many milliseconds before the others'."""
        self.index = index
        self._advance = advance
        self.ahead = ahead
        self.clock = FakeClock(now_ms)
        self.table = FakeAtsReader(now_ms)
        self.store = FakeOrderStore()
        self.network = StillNetwork(a_snapshot(*map(a_node, NODES)))

    def worker(self, dies_at: int = 0, *, after: bool = False) -> Worker:
        return Worker(self, MortalIndex(self.index, dies_at, after=after))

    def advance(self, milliseconds: int) -> None:
        self.clock.now = self._advance(milliseconds)

    async def stock(self, **on_hand: int) -> None:
        """``sku=units`` at node n1, in the shards and in the table."""
        for sku, units in on_hand.items():
            row = SupplyRow(sku, "n1", "", units, 0, "", 0)
            await self.index.sync_supply(self.shard(sku), [row], TIMEOUT)
            self.table.put(sku, "n1", units)

    def shard(self, key: str) -> int:
        return shard_of(key, self.index.shard_count)

    async def resolve_everything(self) -> None:
        """What the resolver and the sweeper of a healthy worker do, until nothing is left."""
        worker = self.worker()
        resolver, sweeper = (
            Resolver(worker.index, worker.tasks),
            Sweeper(worker.index),
        )
        shards = range(self.index.shard_count)
        await asyncio.gather(*map(sweeper.sweep, shards))
        await asyncio.gather(*map(resolver.resolve, shards))
        await worker.rest()

    async def held_and_committed(self, sku: str) -> tuple[int, int]:
        """Counters of ``sku`` at n1 with due holds given back."""
        _, _, images = await self.index.read_positions(self.shard(sku), [sku], TIMEOUT)
        row = next(image.row for image in images[0] if image.node_id == "n1")
        return row.held, row.committed

    async def check(self) -> None:
        """Counters are the sums of the legs, everywhere; and nobody oversold."""
        for shard in range(self.index.shard_count):
            positions, legs, _ = await self.index.scan(shard)
            held: dict[PositionKey, int] = {}
            committed: dict[PositionKey, int] = {}
            for leg in legs.values():
                confirmed = leg.state == State.CONFIRMED
                sums = held if leg.state in OPEN else committed if confirmed else {}
                for line in leg.lines:
                    key = PositionKey(*line[:3])
                    sums[key] = sums.get(key, 0) + line.quantity
            for key, row in positions.items():
                owed = committed.get(key, 0) + row.sold_short
                assert (row.held, row.committed) == (held.get(key, 0), owed), key
                assert row.held + row.committed <= row.on_hand - row.safety_stock, key


def a_cart(
    reservation_id: str, skus: Sequence[str], quantity: int = 1, **other: Any
) -> CreateCommand:
    """A reservation of ``quantity`` of each SKU at n1."""
    lines = tuple(RequestedLine(f"l{i}", sku, quantity, "n1") for i, sku in enumerate(skus))
    values: dict[str, Any] = {
        "reservation_id": reservation_id,
        "owner_id": "shopper",
        "lines": lines,
        "fulfillment_method": SHIP,
        **other,
    }
    return CreateCommand(**values)


__all__ = ["NODES", "PICKUP", "SHIP", "Died", "MortalIndex", "Worker", "World", "a_cart"]
