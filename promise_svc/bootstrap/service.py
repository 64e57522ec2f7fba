"""The composition root: the only place that knows both use cases and adapters."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Protocol

from promise_svc import __version__, config, hotpath
from promise_svc.adapters.ats_index.index import ClusterAtsIndex
from promise_svc.adapters.ats_index.news import NewsChannels
from promise_svc.adapters.ats_index.topology import Topology, parse_urls
from promise_svc.adapters.ats_table.feed import AtsFeed
from promise_svc.adapters.ats_table.table import AtsTable
from promise_svc.adapters.clock import SystemClock
from promise_svc.adapters.network_source import NetworkSource, encode_document
from promise_svc.adapters.order_store.pool import PoolConfig
from promise_svc.adapters.order_store.store import PostgresOrderStore
from promise_svc.application.availability import AvailabilityReader
from promise_svc.application.explain import Explainer
from promise_svc.application.identity import bind_cluster
from promise_svc.application.network import NetworkAdmin, ShardKeys
from promise_svc.application.network_edit import NetworkEditor
from promise_svc.application.node_capacity import NodeCapacities
from promise_svc.application.own_writes import OwnWrites
from promise_svc.application.pickup import PickupFinder
from promise_svc.application.ports import ShardNews
from promise_svc.application.promise import CartPromiser
from promise_svc.application.quote import Quotes, QuoteSigner
from promise_svc.application.reconcile import DriftWatch
from promise_svc.application.relay import Relay
from promise_svc.application.reservation import Durability, Reservations
from promise_svc.application.reservation_list import ReservationLister
from promise_svc.application.resolver import Resolver, Sweeper
from promise_svc.application.stock import FEED_BEHIND_MS, StockSource
from promise_svc.application.supply import SupplyWriter
from promise_svc.application.takeover import Takeover
from promise_svc.application.tasks import OwnedTasks
from promise_svc.application.verify import Verify
from promise_svc.bootstrap.engines import open_engines
from promise_svc.bootstrap.observers import ResolverObserver, TakeoverLog, drifted, loop_failed
from promise_svc.config import ClusterConfig, ProcessConfig
from promise_svc.domain.reservation import DurabilityMode
from promise_svc.domain.sharding import Position
from promise_svc.errors import Unavailable
from promise_svc.rpc.admin import AdminServicer
from promise_svc.rpc.availability import AvailabilityServicer, NetworkReads
from promise_svc.rpc.convert.reservation import TtlLimits
from promise_svc.rpc.guard import Servicer
from promise_svc.rpc.network import NetworkServicer
from promise_svc.rpc.promise import PromiseServicer
from promise_svc.rpc.reservation import ReservationServicer
from promise_svc.rpc.supply import SupplyServicer
from promise_svc.telemetry import Metrics, RelayLag
from promise_svc.workers.feed_loop import FeedLoop
from promise_svc.workers.relay_loop import RelayLoop
from promise_svc.workers.shard_loop import ShardLoop

RESOLVE_SECONDS = 0.5
SWEEP_SECONDS = 0.5
"""Also the pace of heartbeats, and so the age of an idle shard's rows in the table."""

DRIFT_SECONDS = 2.0
"""Between looks for drift, one shard each: 64 shards take two minutes."""

WARM_SECONDS_MAX = 600.0
"""How long a start may take to load the table before it gives up."""

NOTE_SECONDS = 1.0
"""How long the note that a hold is complete waits for others, or for the confirm that makes it
needless; half of the time after which the resolver would look for itself."""

_TAKEOVERS_AT_ONCE = 8
_CLOSE_SECONDS = 5.0
_RESERVE_MODES = {"memory": DurabilityMode.MEMORY, "fsync": DurabilityMode.FSYNC}
_CONFIRM_MODES = {**_RESERVE_MODES, "recorded": DurabilityMode.RECORDED}


class _Loop(Protocol):
    async def run(self, stop: asyncio.Event) -> None: ...


class Service:
    """Everything one process runs, built from configuration; an async context manager.

    Entering it starts the embedded engines where no URL names others, takes over what nobody
    serves, warms the ATS table and builds the servicers where ``calls`` are to be answered, and
    starts the background loops unless they run elsewhere.
    """

    def __init__(
        self,
        cluster: ClusterConfig,
        process: ProcessConfig,
        progress: Callable[[str], None] = lambda _: None,
        *,
        calls: bool = True,
    ) -> None:
        self.began = time.monotonic()
        self.metrics = Metrics()
        self.metrics.describe(__version__, hotpath.COMPILED)
        self.servicers: tuple[Servicer, ...] = ()
        self._calls = calls
        self._cluster = cluster
        self._process = process
        self._progress = progress
        self._closing = AsyncExitStack()
        self._stop = asyncio.Event()
        self._tasks = OwnedTasks()
        self._clock = SystemClock()
        self._takeovers = TakeoverLog()

    async def __aenter__(self) -> Service:
        try:
            await self._start()
        except BaseException:
            await self._closing.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._closing.aclose()

    async def _start(self) -> None:
        quote_keys = config.read_quote_keys(self._process.quote_keys_file)
        index_urls, store_url = await self._closing.enter_async_context(
            open_engines(self._process, self._progress)
        )
        self.store = await PostgresOrderStore.open(
            PoolConfig(url=store_url, connections_max=self._process.order_store_connections_max)
        )
        self._closing.push_async_callback(self.store.close)
        await self._connect_index(index_urls)
        self._closing.push_async_callback(self._tasks.close, _CLOSE_SECONDS)
        if self._calls:
            self._quote_signer = await self._sign_quotes(quote_keys)
            self.network = NetworkSource(self.store, self._clock)
            await self.network.refresh()
            self.network.start()
            self.metrics.watch_network(lambda: self.network.age_ms() / 1000)
            self._closing.push_async_callback(self.network.close)
            self.table = AtsTable(self._cluster.shard_count)
            await self._follow()
            self.servicers = self._build_servicers()
        if self._process.background or not self._calls:
            # When all is loaded: each looks at every shard first, and nothing waits for that.
            self._run(*self._background_loops(), self._drift_loop())

    async def _connect_index(self, urls: tuple[str, ...]) -> None:
        seeds, access = parse_urls(urls)
        topology = Topology(seeds, access)
        self.index = ClusterAtsIndex(
            topology,
            access,
            key_prefix=self._cluster.key_prefix,
            shard_count=self._cluster.shard_count,
            window_ms=self._cluster.idempotency_window_seconds * 1000,
            outbox_kept=self._cluster.outbox_events_kept,
            observer=self.metrics.index,
        )
        self.metrics.index.watch(lambda: self.index.lost_node_count)
        self._closing.callback(self.index.close)
        modes = {self._process.reserve_durability, self._process.confirm_durability}
        await self.index.start(fsync=modes != {"memory"})
        await bind_cluster(
            self.index, self.store, self._cluster.key_prefix, self._cluster.shard_count
        )
        takeover = Takeover(self.index, self.store, self._taken_over)

        async def recover(shard: int) -> None:
            # An index that came back empty has lost its id too; one with another is not ours.
            await bind_cluster(
                self.index, self.store, self._cluster.key_prefix, self._cluster.shard_count
            )
            await takeover.run(shard)

        self.index.recover = recover
        await _for_each_shard(self._cluster.shard_count, takeover.run)
        self.news = NewsChannels(self.index, topology, access)
        self.news.start()
        self._closing.push_async_callback(self.news.close)
        self._lag = RelayLag(self._cluster.shard_count)
        self.news.subscribe(
            lambda news: self._lag.heard(news.shard, news.at, news.durable, news.time_ms)
        )
        self.news.subscribe_durable(self._lag.durable)

    def _lag_seconds(self) -> float:
        """Age of the oldest event that the order store does not have."""
        return self._lag.seconds(self._clock.now_ms())

    async def _sign_quotes(self, keys: tuple[bytes, ...]) -> QuoteSigner:
        """The keys given, or the one that all processes of the cluster find in the order store."""
        keys = keys or (await self.store.quote_key(secrets.token_bytes(32)),)
        cluster = await self.store.cluster()
        assert cluster is not None, "bound when the index was connected"
        return QuoteSigner(keys, cluster.cluster_id)

    def _background_loops(self) -> tuple[_Loop, ...]:
        """What keeps the books, whoever answers the calls: one process of all does it. More of
        them cost work and change nothing, for the order store's cursor is the fence."""
        observer, shard_count = self.metrics, self._cluster.shard_count
        carrier = Relay(self.index, self.store, observer.relay)
        relay = RelayLoop(carrier, shard_count, observer.loop("relay"))
        lag = self._lag
        observer.relay.watch(lag.event_count, self._lag_seconds)

        def hear(news: ShardNews) -> None:
            if carrier.hear(news):
                relay.wake(news.shard)

        self.news.subscribe(hear)
        self._sweeper = Sweeper(self.index)
        return (
            relay,
            self._shard_loop(
                "resolver",
                Resolver(self.index, self._tasks, ResolverObserver(observer)).resolve,
                RESOLVE_SECONDS,
                lambda _: None,
            ),
            self._shard_loop("sweeper", self._sweep, SWEEP_SECONDS, lambda _: None),
        )

    async def _sweep(self, shard: int) -> int:
        expired = await self._sweeper.sweep(shard)
        self.metrics.index.expired(expired)
        return expired

    def _drift_loop(self) -> _Loop:
        drift = DriftWatch(self.index, self.store, self._sweep, drifted)
        turns = itertools.cycle(range(self._cluster.shard_count))

        async def look(_: int) -> int:
            found = await drift.visit(next(turns))
            self.metrics.index.compared(drift.drift_count)
            return found

        return self._shard_loop("drift", look, DRIFT_SECONDS, lambda _: None, shard_count=1)

    async def _follow(self) -> None:
        """Start the feed; return when the table has every shard."""
        observer = self.metrics
        self.own_writes = OwnWrites(self.index, self.table.at)

        def hear(news: ShardNews) -> None:
            if news.events:
                self.own_writes.heard(news.shard)

        self.news.subscribe(hear)
        feed = AtsFeed(self.index, self.store, self.news, self.table, observer.feed)
        observer.feed.watch(
            oldest_time_ms=self.table.oldest_time_ms,
            now_ms=self._clock.now_ms,
            counts=self.table.counts,
            catching_up_count=feed.catching_up_count,
        )
        self._run(FeedLoop(feed))
        try:
            await asyncio.wait_for(feed.ready.wait(), WARM_SECONDS_MAX)
        except TimeoutError:
            raise Unavailable("the ATS table could not be loaded; see the log") from None

    def _run(self, *loops: _Loop) -> None:
        """Run loops until the service closes."""
        running = [asyncio.create_task(loop.run(self._stop)) for loop in loops]

        async def end() -> None:
            self._stop.set()
            await asyncio.wait(running, timeout=_CLOSE_SECONDS)

        self._closing.push_async_callback(end)

    def _shard_loop(
        self,
        name: str,
        visit: Callable[[int], Awaitable[int]],
        seconds: float,
        on_count: Callable[[int], None],
        shard_count: int = 0,
    ) -> ShardLoop:
        observer = self.metrics.loop(name)
        return ShardLoop(
            shard_count=shard_count or self._cluster.shard_count,
            visit=visit,
            seconds=seconds,
            on_count=on_count,
            on_error=partial(loop_failed, observer),
        )

    def _build_servicers(self) -> tuple[Servicer, ...]:
        snapshot, clock = self.network.snapshot, self._clock
        quotes = Quotes(self._quote_signer, snapshot, self._cluster.shard_count)
        stock = StockSource(table=self.table, index=self.index, network=snapshot, clock=clock)
        reads = self.table.reads(FEED_BEHIND_MS)
        verify = Verify(
            self.index,
            self.store,
            clock,
            window_ms=self._cluster.idempotency_window_seconds * 1000,
        )
        return (
            AvailabilityServicer(
                AvailabilityReader(stock=stock, network=snapshot),
                Explainer(index=self.index, store=self.store, stock=stock, network=snapshot),
                PickupFinder(stock=stock, network=snapshot, clock=clock),
                NodeCapacities(table=self.table, network=snapshot, clock=clock),
                clock,
                NetworkReads(reads, snapshot, clock) if reads else None,
            ),
            PromiseServicer(
                CartPromiser(stock=stock, network=snapshot, clock=clock), quotes, clock
            ),
            self._reservation_servicer(quotes),
            SupplyServicer(
                SupplyWriter(
                    index=self.index,
                    network=snapshot,
                    tasks=self._tasks,
                    own_writes=self.own_writes,
                    durability=_RESERVE_MODES[self._process.reserve_durability],
                    observer=self.metrics.supply,
                ),
                clock,
            ),
            self._network_servicer(),
            AdminServicer(verify, self._cluster.shard_count),
        )

    def _reservation_servicer(self, quotes: Quotes) -> ReservationServicer:
        reserve = _RESERVE_MODES[self._process.reserve_durability]
        reservations = Reservations(
            index=self.index,
            table=self.table,
            network=self.network,
            store=self.store,
            watch=self.news,
            clock=self._clock,
            durability=Durability(
                offered=frozenset({DurabilityMode.MEMORY, reserve, DurabilityMode.RECORDED}),
                reserve=reserve,
                confirm=_CONFIRM_MODES[self._process.confirm_durability],
            ),
            own_writes=self.own_writes,
            tasks=self._tasks,
            store_away=lambda: bool(self.network.problem),
            note_seconds=NOTE_SECONDS,
            window_ms=self._cluster.idempotency_window_seconds * 1000,
        )
        ttl = TtlLimits(
            self._cluster.ttl_default_seconds * 1000, self._cluster.ttl_max_seconds * 1000
        )
        lister = ReservationLister(
            store=self.store, clock=self._clock, lag_seconds=self._lag_seconds
        )
        return ReservationServicer(reservations, quotes, lister, self._clock, ttl)

    def _network_servicer(self) -> NetworkServicer:
        shard_keys = ShardKeys(self.table, self._cluster.shard_count)
        check = partial(self.network.check, fits_stock=shard_keys.fit_stock)
        return NetworkServicer(
            NetworkEditor(
                admin=NetworkAdmin(self.index, self.store, check),
                store=self.store,
                network=self.network,
                shard_keys=shard_keys,
                encode=encode_document,
                tasks=self._tasks,
            )
        )

    def _taken_over(self, shard: int, at: Position, restored_count: int) -> None:
        self.metrics.index.taken_over(shard)
        self._takeovers.taken_over(shard, at, restored_count)


async def _for_each_shard(shard_count: int, work: Callable[[int], Awaitable[None]]) -> None:
    slots = asyncio.Semaphore(_TAKEOVERS_AT_ONCE)

    async def one(shard: int) -> None:
        async with slots:
            await work(shard)

    await asyncio.gather(*(one(shard) for shard in range(shard_count)))
