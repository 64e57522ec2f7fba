"""One seed: a cluster, workers, shoppers and troubles; first safety, then liveness."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from promise_svc.adapters.network_source import encode_document, id_of, kind_of
from promise_svc.application.ports import ClusterIdentity
from promise_svc.application.reservation import Reservation
from promise_svc.application.reservation_body import CreateCommand, decode_body
from promise_svc.config import ClusterConfig
from promise_svc.domain.reservation import (
    ClaimRecord,
    LegLine,
    ProtectRow,
    State,
    SupplyRow,
)
from promise_svc.domain.sharding import shard_of
from tests.sim.draws import NODES, PLAIN, RETENTION, draw
from tests.sim.faults import trouble
from tests.sim.laws import Laws, restless, unlike
from tests.sim.loop import Process, VirtualLoop
from tests.sim.merchants import Shopper
from tests.sim.network import Weather, Wire
from tests.sim.order_store import StoreServer
from tests.sim.process import Worker, composed
from tests.sim.sell_out import sell_out
from tests.sim.stock_laws import StockLaws
from tests.sim.told import LATER, Told
from tests.sim.valkey import EPOCH_MS, LATE_MS, Cluster, Session, Shard

SAFETY_SECONDS = 3.0
"""Virtual seconds of shopping under faults."""

LIVENESS_SECONDS = 30.0
"""Virtual seconds after the last fault within which everything must be at rest: the longest
back-offs that a few seconds of faults can build up, and the two seconds until a claim is due."""

AGAIN_MAX = 60
"""How much is asked for once more when its keys are forgotten."""

TTL_MS_MAX = 8_000
"""A held leg without a claim ends by its time alone, so no hold may outlast the liveness phase."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one seed showed."""

    seed: int
    broken: tuple[str, ...]
    trace: str
    """Hash of all that was sent and told: equal for equal seeds."""
    tail: tuple[str, ...]
    reservation_count: int
    virtual_seconds: float
    rest_seconds: float


class World:
    """Everything of one run; its attributes are what operations and faults work on."""

    def __init__(
        self,
        seed: int,
        loop: VirtualLoop,
        log: Callable[[str], None] | None,
        ttl_ms_max: int,
        plain: bool,
    ) -> None:
        self.chance = random.Random(f"promise:{seed}")
        self.ttls_ms = (1_000, 1_500, 3_000, ttl_ms_max)
        self.loop = loop
        self.weather = Weather(self.chance)
        shard_count, node_count = self.chance.choice((4, 6, 8)), self.chance.choice((2, 3))
        scarce = [f"s{i}" for i in range(4)]
        self.plenty = [f"p{i}" for i in range(4)]
        self.draws = PLAIN if plain else draw(seed, scarce[:2], self.plenty)
        shard_count = self.draws.shard_count or shard_count
        window_ms = self.draws.window_ms
        self.cluster = Cluster(loop, self.chance, node_count, shard_count, window_ms)
        self.store = StoreServer(loop, self.weather)
        self.outbox_kept = self.chance.choice((10, 4_096))
        self.config = ClusterConfig(shard_count=shard_count, outbox_events_kept=self.outbox_kept)
        # Shorter than anybody may configure it.
        object.__setattr__(self.config, "idempotency_window_seconds", window_ms // 1000)
        self.node_ids = NODES
        self.scarce = scarce[: self.chance.choice((2, 3, 4))]
        if self.draws.lines_max:
            self.plenty += [f"p{i}" for i in range(4, 24)]
        self.off: set[str] = set()
        """Nodes that are off, as somebody was told who asked for it last."""
        self.doubtful: set[str] = set()
        """Nodes that a call without an answer may yet switch on."""
        self.editing = False
        """Whether somebody is switching a node."""
        self.carts: list[CreateCommand] = []
        self.again: list[Callable[[Shopper], Awaitable[None]]] = []
        """Whatever was asked for under a key, to ask for it once more."""
        self.pause_seconds = self.chance.choice((0.05, 0.2))
        self.open = True
        self.workers: list[Worker] = []
        self.dead: list[Worker] = []
        self.failed: list[str] = []
        self.answers = 0
        self.told = Told(self.broken, self.now, self.clock_max_ms, self.ends_ms, self.draws)
        stock = StockLaws(self.draws, self.off, self.broken)
        self.laws = Laws(self.cluster, self.broken, self.told.most_on_hand, stock)
        self.tail: deque[str] = deque(maxlen=60)
        self._log = log
        self._trace = hashlib.blake2b(digest_size=8)
        self._names = 0
        self._speaking: list[tuple[Process, asyncio.Future[None]]] = []
        loop.dial = self._dial
        self.cluster.on_step = self._stepped

    # what operations and faults use

    def now(self) -> float:
        return self.loop.time()

    def broken(self, what: str) -> None:
        """A promise is broken; the run goes on, the first is told."""
        self.failed.append(f"{self.now():.4f} s: {what}")
        self.note("BROKEN", what)

    def note(self, *words: object) -> None:
        """Remember, and count into the trace."""
        line = f"{self.now():9.4f} {' '.join(str(word) for word in words)}"
        self._trace.update(line.encode())
        self.tail.append(line)
        if self._log is not None:
            self._log(line)

    async def pause(self, seconds_max: float) -> None:
        await asyncio.sleep(self.chance.random() * seconds_max)

    def kill_worker(self, at: int) -> None:
        worker = self.workers[at]
        if worker.process.alive:
            self.note("dies", worker.process.name)
            worker.kill()
            self.dead.append(worker)
            for node in self.cluster.nodes:
                for wire in list(node.wires):
                    if wire.process is worker.process:
                        wire.orphan()

    def start_worker(self, at: int) -> None:
        if at == len(self.workers) or not self.workers[at].process.alive:
            self._names += 1
            worker = Worker(self.loop, f"w{self._names}", self.config, self.weather)
            self.workers[at : at + 1] = [worker]

    async def until_speaking(self, process: Process) -> None:
        """Return just when ``process`` has written a mutation to an engine."""
        spoken = self.loop.create_future()
        self._speaking.append((process, spoken))
        await asyncio.wait({spoken}, timeout=1.0)

    def made_ms(self) -> int:
        """When a key was made up that is made up now: told where keys are forgotten."""
        told = RETENTION in self.draws.kinds
        return EPOCH_MS + int(self.now() * 1000) if told else 0

    def clock_max_ms(self) -> int:
        """No shard's clock is, or was, later than this."""
        walls = [self.cluster.now_ms(node) for node in self.cluster.nodes]
        return max(
            self.cluster.latest_ms, *walls, *(shard.ledger.time_ms for shard in self.cluster.shards)
        )

    def ends_ms(self, rid: str) -> int:
        """When the first of a reservation's records ends."""
        claim = self.home(rid).ledger.claims.get(rid)
        if claim is None:
            return 0  # long over: its key is forgotten
        legs = [self.cluster.shards[shard].ledger.legs.get(rid) for shard in claim.legs]
        ends = [leg.expire_ms for leg in legs if leg and leg.attempt == claim.attempt and leg.lines]
        return min([claim.expire_ms, *ends])

    def expired_at_home(self, rid: str) -> bool:
        """Whether the home shard has by now written an event later than the hold's end."""
        claim = self.home(rid).ledger.claims.get(rid)
        ended = claim is not None and self.home(rid).ledger.time_ms >= claim.expire_ms
        return ended and claim is not None and claim.state in (State.HELD, State.PENDING)

    def shard(self, sku: str) -> Shard:
        """Where a SKU's positions are."""
        return self.cluster.shards[shard_of(self.draws.shard_key(sku), len(self.cluster.shards))]

    def home(self, rid: str) -> Shard:
        return self.cluster.shards[shard_of(rid, len(self.cluster.shards))]

    def check_recorded(self, reservation: Reservation) -> None:
        """A recorded confirm is in the order store, legs and all, at the moment it is told: home's
        decision may come later, as nothing else can be decided."""
        if self.store.set_back_count:
            return
        rid, store = reservation.reservation_id, self.store.store
        found = store._reservations.get(rid)
        if found is None or found.claim.state not in LATER[State.CONFIRMED] | {State.PINNED}:
            self.broken(f"{rid}: told recorded, and the order store does not have it")
            return
        if found.claim.state in (State.PINNED, State.CONFIRMED):
            for shard in found.claim.legs:
                at_leg = store._legs.get(shard, {}).get(rid)
                leg = at_leg[1] if at_leg else None
                # The refused leg of a retry takes the place of one that left.
                replaced = leg is not None and leg.attempt > found.claim.attempt
                if replaced and leg is not None and leg.ended != found.claim.attempt:
                    continue
                if leg is None or leg.state not in LATER[State.CONFIRMED]:
                    self.broken(f"{rid}: told recorded, and its leg on {shard} is not")

    def check_changed(self, told: Reservation) -> None:
        """What was told recorded is in the order store, and so are the legs as it says."""
        if self.store.set_back_count:
            return
        rid, store = told.reservation_id, self.store.store
        found = store._reservations.get(rid)
        if found is None or found.claim.state == State.ABORTED:
            self.broken(f"{rid}: told recorded, and the order store does not have it")
            return
        claim, body = found.claim, decode_body(found.claim)
        if claim.revision < told.revision:
            self.broken(f"{rid}: revision {told.revision} recorded, {claim.revision} is stored")
        stands = claim.state in (State.HELD, State.CONFIRMED, State.FULFILLED)
        if claim.revision != told.revision or claim.state != told.state or not stands:
            return
        for shard, lines in body.legs().items():
            _, leg = store._legs.get(shard, {}).get(rid, (None, None))
            # One of a later attempt, or asked for more meanwhile, is ahead of its claim; one that
            # has ended since by its shard's clock had what was told, and more perhaps.
            more = leg and leg.change + body.growing > claim.change
            ahead = leg and (leg.attempt != claim.attempt or more)
            had = leg and leg.state == State.EXPIRED and _covers(leg.lines, lines)
            # A change that came to nothing raises its claim's twice; then its leg gives back.
            back = leg and leg.change + 2 <= claim.change and _covers(leg.lines, lines)
            if not (ahead or had or back) and (leg is None or {*leg.lines} != {*lines}):
                self.broken(f"{rid}: told recorded, and its leg on {shard} is {leg}, not {lines}")

    # how it runs

    async def run(self) -> float:
        """Safety, then liveness; returns the virtual seconds that rest took."""
        await self._begin()
        shoppers = [
            asyncio.create_task(Shopper(self, self.chance).shop())
            for _ in range(self.chance.choice((2, 4)))
        ]
        troubles = asyncio.create_task(trouble(self))
        await asyncio.sleep(SAFETY_SECONDS)
        self.open = False
        await self._calm(troubles)
        calm = self.now()
        await asyncio.gather(*shoppers)
        await self._rest(calm + LIVENESS_SECONDS)
        rested = self.now() - calm
        if RETENTION in self.draws.kinds and not self.failed:
            await self._ask_again()
        if not self.failed:
            self._check_rest()
            await sell_out(self)
        return rested

    async def _ask_again(self) -> None:
        """When keys are forgotten: what was asked, under the same keys, in bad weather again."""
        await asyncio.sleep((self.draws.window_ms + LATE_MS) / 1000 + 5)
        self.note("later")
        self.weather.stormy = self.open = True
        works = self.chance.sample(self.again, min(len(self.again), AGAIN_MAX))
        troubles = asyncio.create_task(trouble(self))
        shoppers = [Shopper(self, self.chance) for _ in range(3)]
        await asyncio.gather(*(x.ask_again(works[i::3]) for i, x in enumerate(shoppers)))
        self.open = False
        await self._calm(troubles)
        await self._rest(self.now() + LIVENESS_SECONDS)

    async def end(self) -> None:
        """Free everything; nothing that happens here is looked at."""
        for worker in self.workers:
            if worker.process.alive:
                worker.kill()
        for worker in [*self.workers, *self.dead]:
            self.loop.bury(worker.process.tasks)
        self.loop.bury([t for t in asyncio.all_tasks() if t is not asyncio.current_task()])

    async def _begin(self) -> None:
        """Stock, network and workers, in good weather."""
        self.weather.stormy = False
        store, keys = self.store.store, self.cluster.keys
        count = len(self.cluster.shards)
        await store.bind_cluster(ClusterIdentity("sim", "promise", count))
        self.cluster.cluster_id = b"sim"
        assert keys.cluster_id
        skus = [*self.scarce, *self.plenty]
        for document in self.draws.documents(skus):
            await store.upsert_network(
                kind_of(document), {id_of(document): encode_document(document)}
            )
        for at in range(self.chance.choice((2, 2, 3))):
            self.start_worker(at)
        while not all(worker.serving for worker in self.workers):
            await asyncio.sleep(0.05)
        for sku in skus:
            few = (1, 2, 4) if not self.draws.shares else (2, 4, 6)
            rows = [
                SupplyRow(
                    sku, n, "", self.chance.choice(few) if sku in self.scarce else 40, 0, "", 0
                )
                for n in NODES
            ]
            await self._supply("sync_supply", rows)
        for row in self.draws.inbound:
            await self._supply("sync_supply", [row])
        for sku, node, segment, level in self.draws.shares:
            await self._supply("protect", [ProtectRow(sku, node, "", segment, level)])
        self.weather.stormy = True

    async def _supply(self, verb: str, rows: list[Any]) -> None:
        """What the shard of the rows' SKU shall have."""
        service = self.workers[0].service
        assert service is not None
        shard = self.shard(rows[0].sku).number
        await self.loop.spawn(
            self.workers[0].process, getattr(service.index, verb)(shard, rows, 5.0)
        )

    async def _calm(self, troubles: asyncio.Task[None]) -> None:
        """End every fault."""
        self.weather.stormy = False
        troubles.cancel()
        await asyncio.wait({troubles})
        self.store.away, self.store.slow_seconds = False, 0.0
        for node in self.cluster.nodes:
            self.cluster.jump(node, 0)
            node.hangs_until = 0.0
            if not node.up:
                self.cluster.start(node)
            for wire in node.wires:
                wire.hasten()
        for at in range(len(self.workers)):
            self.start_worker(at)
        self.note("calm")

    async def _rest(self, until: float) -> None:
        reason = "it was never looked at"
        while self.now() < until and not self.failed:
            orders = self.draws.orders_per_day
            reason = next(restless(self.cluster, self.store.store, orders), "")
            starting = [w.process.name for w in self.workers if not w.serving]
            if starting and not reason:
                reason = f"{starting} do not serve yet"
            reason = reason or next(self._behind(), "")
            if not reason:
                return
            await asyncio.sleep(0.25)
        if not self.failed:
            self.broken(f"not at rest {LIVENESS_SECONDS} s after the last fault: {reason}")

    def _behind(self) -> Iterator[str]:
        """Workers whose table has not heard of everything."""
        for worker in self.workers:
            assert worker.service is not None
            for shard in self.cluster.shards:
                at = worker.service.table.at(shard.number)
                if at != shard.ledger.at:
                    yield f"{worker.process.name} has {shard.number} at {at}, not {shard.ledger.at}"

    def _check_rest(self) -> None:
        for difference in unlike(self.cluster, self.store.store):
            self.broken(difference)
        stored = self.store.store._reservations
        claims: dict[str, ClaimRecord] = {}
        for shard in self.cluster.shards:
            claims |= {rid: stored[rid].claim for rid in shard.forgotten}
            claims |= shard.ledger.claims
        self.told.check_claims(claims)

    # the network

    async def _dial(self, build: Callable[[], Any], host: str, port: int) -> Wire:
        process = self.loop.process()
        await asyncio.sleep(self.weather.latency())
        node = self.cluster.node_at(port)
        if not node.up or self.weather.cut():
            raise ConnectionRefusedError(f"{host}:{port}")
        wire = Wire(self.loop, self.weather, build(), node.wires.remove)
        assert wire.process is process
        wire.session = Session(self.cluster, node, wire)
        node.wires.append(wire)
        wire._protocol.connection_made(wire)
        return wire

    def _stepped(self, shard: Shard, verb: str, args: list[bytes]) -> None:
        if verb in _QUIET:
            return
        self.laws.step(shard, verb, args)
        if verb not in ("sweep", "mark_durable"):
            self.note(shard.number, verb, len(args), shard.ledger.at)

    def spoke(self, process: Process) -> None:
        for waiting in [w for w in self._speaking if w[0] is process]:
            self._speaking.remove(waiting)
            if not waiting[1].done():
                waiting[1].set_result(None)


def _covers(more: Sequence[LegLine], lines: Sequence[LegLine]) -> bool:
    units = {line[:3]: line.quantity for line in more}
    return all(units.get(line[:3], 0) >= line.quantity for line in lines)


_QUIET = ("read_claims", "read_legs", "read_positions", "open_claims", "read_meta")


class _Alarms(logging.Handler):
    """What the product itself calls an error: somebody must look."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.ERROR)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        fields = getattr(record, "promise_fields", {})
        told = f" {record.exc_info[1]!r}" if record.exc_info else ""
        self._world.broken(f"the product alarms: {record.getMessage()} {fields}{told}")


def run_seed(
    seed: int,
    log: Callable[[str], None] | None = None,
    *,
    ttl_ms_max: int = TTL_MS_MAX,
    plain: bool = False,
) -> Verdict:
    """Run one seed to its end. Equal seeds give equal verdicts. A ``plain`` run draws no kinds."""
    loop = VirtualLoop()
    random.seed(seed)
    world = World(seed, loop, log, ttl_ms_max, plain)
    logger, alarms = logging.getLogger("promise_svc"), _Alarms(world)
    logger.addHandler(alarms)
    propagates, logger.propagate = logger.propagate, False
    asyncio.set_event_loop(loop)
    rested = 0.0
    try:
        with composed(loop, world.cluster, world.store):
            try:
                rested = loop.run_until_complete(world.run())
            finally:
                world.failed += loop.failures
                loop.run_until_complete(world.end())
    finally:
        logger.removeHandler(alarms)
        logger.propagate = propagates
        asyncio.set_event_loop(None)
        loop.close()
    return Verdict(
        seed,
        tuple(world.failed),
        world._trace.hexdigest(),
        tuple(world.tail),
        len(world.told.holds),
        loop.time(),
        rested,
    )


__all__ = ["EPOCH_MS", "Verdict", "World", "run_seed"]
