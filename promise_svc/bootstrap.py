"""The composition root: the only place that knows both use cases and adapters."""

from __future__ import annotations

import asyncio
import gc
import itertools
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import uvloop
from prometheus_client import CollectorRegistry

from promise_svc import __version__, config, hotpath
from promise_svc.adapters.ats_index.index import ClusterAtsIndex
from promise_svc.adapters.ats_index.news import NewsChannels
from promise_svc.adapters.ats_index.topology import Topology, parse_urls
from promise_svc.adapters.ats_table.feed import AtsFeed
from promise_svc.adapters.ats_table.table import AtsTable
from promise_svc.adapters.clock import SystemClock
from promise_svc.adapters.embedded import EmbeddedPostgres, EmbeddedValkey, keep_alive
from promise_svc.adapters.network_source import NetworkSource, encode_document
from promise_svc.adapters.order_store.pool import PoolConfig
from promise_svc.adapters.order_store.store import PostgresOrderStore
from promise_svc.application.admission import Admission
from promise_svc.application.availability import AvailabilityReader
from promise_svc.application.explain import Explainer
from promise_svc.application.identity import bind_cluster, refuse_foreign
from promise_svc.application.network import NetworkAdmin, ShardKeys
from promise_svc.application.network_edit import NetworkEditor
from promise_svc.application.node_capacity import NodeCapacities
from promise_svc.application.own_writes import OwnWrites
from promise_svc.application.pickup import PickupFinder
from promise_svc.application.ports import ShardNews
from promise_svc.application.promise import CartPromiser
from promise_svc.application.quote import Quotes, QuoteSigner
from promise_svc.application.rebuild import Rebuild, Rebuilt
from promise_svc.application.reconcile import DriftWatch, Reconciliation, compare_all
from promise_svc.application.relay import Relay
from promise_svc.application.reservation import Durability, Reservations
from promise_svc.application.reservation_list import ReservationLister
from promise_svc.application.resolver import Resolver, Sweeper
from promise_svc.application.stock import FEED_BEHIND_MS, StockSource
from promise_svc.application.supply import SupplyWriter
from promise_svc.application.takeover import Takeover
from promise_svc.application.tasks import OwnedTasks
from promise_svc.application.verify import Verify
from promise_svc.config import ClusterConfig, ProcessConfig
from promise_svc.domain.inventory import PositionKey, StockPosition
from promise_svc.domain.reservation import DurabilityMode, State
from promise_svc.domain.sharding import Position
from promise_svc.errors import ConfigError, InvariantBroken, PromiseServiceError, Unavailable
from promise_svc.rpc.admin import AdminServicer
from promise_svc.rpc.auth import Tokens
from promise_svc.rpc.availability import AvailabilityServicer, NetworkReads
from promise_svc.rpc.convert.reservation import TtlLimits
from promise_svc.rpc.guard import Guard, Servicer
from promise_svc.rpc.listeners import bind_all, close_all, remove_abandoned
from promise_svc.rpc.network import NetworkServicer
from promise_svc.rpc.observer import CallRecorder
from promise_svc.rpc.promise import PromiseServicer
from promise_svc.rpc.reservation import ReservationServicer
from promise_svc.rpc.server import Server, stop_on_signals
from promise_svc.rpc.supply import SupplyServicer
from promise_svc.rpc.tls import TlsFiles
from promise_svc.rpc.transport import Transport, TransportOptions
from promise_svc.rpc.transport_grpcio import GrpcioTransport
from promise_svc.rpc.transport_native import NativeTransport
from promise_svc.telemetry import (
    EventLog,
    LoopMetrics,
    Metrics,
    MetricsEndpoint,
    RelayLag,
    configure_logs,
)
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

CONNECTION_AGE_SECONDS = 600
"""Among several workers: then a connection is drained, so that its caller finds another one. Long
connections would else stay where they are, and a worker that replaced a dead one idle."""

_TAKEOVERS_AT_ONCE = 8
NOTE_SECONDS = 1.0
"""How long the note that a hold is complete waits for others, or for the confirm that makes it
needless; half of the time after which the resolver would look for itself."""

YOUNG_OBJECTS_MAX = 25_000
"""Objects that calls in flight may add before a collection walks them, about 2 ms. Nearly all of
them go by themselves when their call ends; at Python's 700, a sixth of a reserve's CPU was this."""

_CLOSE_SECONDS = 5.0
_RESERVE_MODES = {"memory": DurabilityMode.MEMORY, "fsync": DurabilityMode.FSYNC}
_CONFIRM_MODES = {**_RESERVE_MODES, "recorded": DurabilityMode.RECORDED}

_log = EventLog("promise_svc")

_TOGETHER_SECONDS = 0.5
"""Shards taken over within it are told in one line of the log."""


class _Loop(Protocol):
    async def run(self, stop: asyncio.Event) -> None: ...


class Service:
    """Everything one process runs, built from configuration; an async context manager.

    Entering it starts the embedded engines where no URL names others, takes over what nobody
    serves, starts the background loops unless they run elsewhere, and, where ``calls`` are to be
    answered, warms the ATS table and builds the servicers.
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
        self._new_epochs: dict[int, int] = {}
        """Of shards taken over that the log does not tell of yet."""
        self._restored: dict[int, int] = {}
        """Events that these had lost and got back."""

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
        if self._process.background or not self._calls:
            self._run(*self._background_loops())
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
            self._run(self._drift_loop())

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
        self._sweeper = Sweeper(self.index, self._tasks)
        return (
            relay,
            self._shard_loop(
                "resolver",
                Resolver(self.index, self._tasks, _ResolverObserver(observer)).resolve,
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
        """Begins when all is loaded: it reads much, and nothing waits for it."""
        drift = DriftWatch(self.index, self.store, self._sweep, _drifted)
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
            on_error=partial(_loop_failed, observer),
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
        """Shards come in crowds, at a start or a failover: one line tells of those that came
        together."""
        self.metrics.index.taken_over(shard)
        if not self._new_epochs:
            asyncio.get_running_loop().call_later(_TOGETHER_SECONDS, self._tell_taken_over)
        self._new_epochs[shard] = at.epoch
        if restored_count:
            self._restored[shard] = restored_count

    def _tell_taken_over(self) -> None:
        epochs = " ".join(f"{shard}:{epoch}" for shard, epoch in sorted(self._new_epochs.items()))
        _log.info("shards taken over", shard_count=len(self._new_epochs), epochs=epochs)
        if self._restored:
            _log.warning(
                "shards had lost events and were filled from the order store",
                shard_count=len(self._restored),
                event_count=sum(self._restored.values()),
                shards=" ".join(f"{shard}:{n}" for shard, n in sorted(self._restored.items())),
            )
        self._new_epochs.clear()
        self._restored.clear()


class _ResolverObserver:
    """Counts what the resolver did, and says what it could not do."""

    def __init__(self, metrics: Metrics) -> None:
        self._index = metrics.index
        self._loop = metrics.loop("resolver")

    def resolved(self, state: State) -> None:
        self._index.resolved(state.name)

    def failed(self, shard: int, reservation_id: str, error: Exception) -> None:
        _loop_failed(self._loop, shard, error, reservation_id)


@asynccontextmanager
async def open_engines(
    process: ProcessConfig, progress: Callable[[str], None] = lambda _: None
) -> AsyncIterator[tuple[tuple[str, ...], str]]:
    """The URLs of index and order store: those given, or of embedded engines on the data folder."""
    index_urls, store_url = process.index_urls, process.order_store_url
    folder = process.data_dir
    engines: list[EmbeddedValkey | EmbeddedPostgres] = []
    async with AsyncExitStack() as closing:
        if not (index_urls and store_url):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError(f"data_dir {folder}: {error.strerror}") from error
        if not index_urls:
            memory = {process.reserve_durability, process.confirm_durability} == {"memory"}
            valkey = EmbeddedValkey(
                folder / "valkey",
                nodes=process.embedded_nodes,
                durability="memory" if memory else "fsync",
                progress=progress,
            )
            await asyncio.to_thread(valkey.start)
            closing.push_async_callback(asyncio.to_thread, valkey.stop)
            engines.append(valkey)
            index_urls = valkey.urls
        if not store_url:
            postgres = EmbeddedPostgres(folder / "postgres", progress=progress)
            await asyncio.to_thread(postgres.start)
            closing.push_async_callback(asyncio.to_thread, postgres.stop)
            engines.append(postgres)
            store_url = postgres.dsn
        stop = asyncio.Event()
        watching = asyncio.create_task(keep_alive(engines, _EngineObserver(), stop))
        closing.push_async_callback(asyncio.wait, [watching])
        closing.callback(stop.set)
        yield index_urls, store_url


class _EngineObserver:
    """Says in the log what became of an embedded engine."""

    def died(self, engine: str) -> None:
        _log.error("embedded engine died; starting it again", engine=engine)

    def back(self, engine: str) -> None:
        _log.info("embedded engine is back", engine=engine)

    def failed(self, engine: str, error: Exception) -> None:
        _log.error("embedded engine did not start; trying again", engine=engine, error=str(error))


def _loop_failed(
    observer: LoopMetrics, shard: int, error: Exception, reservation_id: str | None = None
) -> None:
    if isinstance(error, InvariantBroken):
        observer.stopped(shard, error.reason, error.message, reservation_id)
    elif isinstance(error, PromiseServiceError):
        observer.failed(shard, error.reason, error.message)
    else:
        observer.faulted(shard, error, reservation_id)


def serve(
    cluster: ClusterConfig,
    process: ProcessConfig,
    on_listening: Callable[[int], None] = lambda _: None,
    progress: Callable[[str], None] = lambda _: None,
) -> None:
    """Run the service until SIGTERM or SIGINT, then drain. ``on_listening`` gets the port."""
    configure_logs(process.log_level.upper())
    collect_later()
    uvloop.run(_serve(cluster, process, on_listening, progress))


async def _serve(
    cluster: ClusterConfig,
    process: ProcessConfig,
    on_listening: Callable[[int], None],
    progress: Callable[[str], None],
) -> None:
    stop = asyncio.Event()
    stop_on_signals(stop)
    refuse_early(process)
    async with (
        Service(cluster, process, progress) as service,
        metrics_page(process, service.metrics.registry),
        serving(service, process, process.listen) as port,
    ):
        on_listening(port)
        await stop.wait()
    _log.info("stopped")


def relay(
    cluster: ClusterConfig,
    process: ProcessConfig,
    on_running: Callable[[], None] = lambda: None,
) -> None:
    """Run the background loops alone until SIGTERM or SIGINT, for servers without them."""
    configure_logs(process.log_level.upper())
    collect_later()
    uvloop.run(_relay(cluster, process, on_running))


async def _relay(
    cluster: ClusterConfig, process: ProcessConfig, on_running: Callable[[], None]
) -> None:
    stop = asyncio.Event()
    stop_on_signals(stop)
    _refuse_taken("metrics_listen", process.metrics_listen)
    async with (
        Service(cluster, process, calls=False) as service,
        metrics_page(process, service.metrics.registry),
    ):
        collect_seldom()
        _log.info("relaying", version=__version__, compiled=hotpath.COMPILED)
        on_running()
        await stop.wait()
    _log.info("stopped")


def collect_later() -> None:
    """Not before ``collect_seldom``: the collector would walk all that is loaded again and again,
    and find nothing. Nor what was imported, not even then."""
    gc.disable()
    gc.freeze()


def collect_seldom() -> None:
    """Once all is loaded: what is alive then stays, so that collections need not walk the network
    and the tables again, and begin later."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS_MAX, 20, 20)
    gc.enable()


@asynccontextmanager
async def metrics_page(
    process: ProcessConfig,
    registry: CollectorRegistry,
    refresh: Callable[[], Awaitable[None]] | None = None,
) -> AsyncIterator[None]:
    """Serve a registry where the configuration says, after ``refresh`` at each request."""
    if not process.metrics_listen:
        yield
        return
    host, port = config.host_and_port("metrics_listen", process.metrics_listen)
    endpoint = MetricsEndpoint(registry, host, port, refresh)
    try:
        port = await endpoint.start()
    except OSError as error:
        raise not_to_be_had("metrics_listen", process.metrics_listen, error) from error
    _log.info("metrics", address=f"{host}:{port}")
    try:
        yield
    finally:
        await endpoint.close()


@asynccontextmanager
async def serving(
    service: Service, process: ProcessConfig, address: str, *, port_shared: bool = False
) -> AsyncIterator[int]:
    """Answer calls on ``address``, which may name open sockets; yields the port. Drains at the end.

    ConfigError when the address cannot be had.
    """
    tokens = None
    if process.tokens_file:
        tokens = Tokens(process.tokens_file, service.metrics.file("tokens"))
    admission = Admission(process.calls_in_flight_max)
    transport = _transport(process, port_shared, service.metrics.file("certificate"))
    service.metrics.calls.watch(lambda: admission.waiting_count, lambda: transport.limit_hits)
    guard = Guard(
        admission,
        CallRecorder(service.metrics.calls, _log),
        deadline_seconds_max=process.deadline_seconds_max,
        tokens=tokens,
    )
    server = Server(
        transport,
        guard,
        service.servicers,
        reflect=process.reflection,
        lame_duck_seconds=process.lame_duck_seconds,
        drain_seconds=process.drain_seconds,
    )
    collect_seldom()
    try:
        port = await server.start(address)
    except (OSError, RuntimeError) as error:
        raise not_to_be_had("listen", process.listen, error) from error
    if tokens is not None:
        tokens.start()
    await server.serving(True)
    _log.info(
        "serving",
        address=config.address_text(process.listen, port),
        version=__version__,
        compiled=hotpath.COMPILED,
        front=front(process),
        seconds=round(time.monotonic() - service.began, 3),
    )
    try:
        yield port
    finally:
        _log.info("draining")
        await server.drain()
        if address.startswith(config.UNIX):
            Path(address.removeprefix(config.UNIX)).unlink(missing_ok=True)
        if tokens is not None:
            await tokens.close()


def refuse_early(process: ProcessConfig) -> None:
    """ConfigError for what would fail later, when engines run and shards were taken over from
    whoever serves them now: ports that are taken, unreadable tokens and certificates."""
    _refuse_taken("listen", process.listen)
    _refuse_taken("metrics_listen", process.metrics_listen)
    if process.tokens_file:
        Tokens(process.tokens_file)
    _tls(process)


def _refuse_taken(name: str, address: str) -> None:
    """ConfigError where nobody could listen on ``address``; somebody may still be faster later."""
    try:
        if address.startswith(config.UNIX):
            remove_abandoned(address)
        elif address:
            close_all(bind_all(address))
    except OSError as error:
        raise not_to_be_had(name, address, error) from error


def not_to_be_had(name: str, address: str, error: Exception) -> ConfigError:
    why = getattr(error, "strerror", None) or str(error)
    return ConfigError(f"{name}: cannot listen on {address}: {why}")


def front(process: ProcessConfig) -> str:
    """native or grpcio: the front that was chosen, or is there."""
    if process.front == "auto":
        return "native" if hotpath.NATIVE_FRONT else "grpcio"
    return process.front


def _tls(process: ProcessConfig) -> TlsFiles | None:
    if not process.tls_certificate_file or not process.tls_key_file:
        return None
    files = TlsFiles(process.tls_certificate_file, process.tls_key_file, process.tls_client_ca_file)
    files.context()  # says what is wrong with them
    return files


def _transport(
    process: ProcessConfig, port_shared: bool, tls_refused: Callable[[bool], None]
) -> Transport:
    options = TransportOptions(
        message_bytes_max=process.message_bytes_max,
        tls=_tls(process),
        tls_refused=tls_refused,
        port_shared=port_shared,
        connection_age_seconds_max=CONNECTION_AGE_SECONDS if port_shared else 0,
    )
    if front(process) == "native":
        return NativeTransport(options)
    if process.front == "auto":
        _log.warning("the native front is not built here (libnghttp2-dev); grpc.aio serves")
    return GrpcioTransport(options)


@dataclass(frozen=True, slots=True)
class Books:
    """Index and order store with connections of their own, for those who look after them."""

    index: ClusterAtsIndex
    store: PostgresOrderStore
    window_ms: int

    def audit(self) -> Verify:
        """The whole audit."""
        return Verify(self.index, self.store, SystemClock(), window_ms=self.window_ms)

    async def compare(self, shard_ids: Sequence[int]) -> Reconciliation:
        """Rows of the index against rows of the order store."""
        return await compare_all(self.index, self.store, shard_ids)

    async def rebuild(self, shard: int, *, lose_unrecorded: bool) -> Rebuilt:
        """A shard from the order store, under a new epoch."""
        takeover = Takeover(self.index, self.store, lambda *_: None)
        return await Rebuild(self.index, self.store, takeover).run(
            shard, lose_unrecorded=lose_unrecorded
        )


@asynccontextmanager
async def open_books(
    cluster: ClusterConfig, index_urls: tuple[str, ...], order_store_url: str
) -> AsyncIterator[Books]:
    """For those who do not want to ask the server. Refuses engines that are not each other's."""
    async with AsyncExitStack() as closing:
        store = await PostgresOrderStore.open(PoolConfig(url=order_store_url))
        closing.push_async_callback(store.close)
        seeds, access = parse_urls(index_urls)
        window_ms = cluster.idempotency_window_seconds * 1000
        index = ClusterAtsIndex(
            Topology(seeds, access),
            access,
            key_prefix=cluster.key_prefix,
            shard_count=cluster.shard_count,
            window_ms=window_ms,
            outbox_kept=cluster.outbox_events_kept,
        )
        closing.callback(index.close)
        await index.start(fsync=False)
        await refuse_foreign(index, store, cluster.key_prefix, cluster.shard_count)
        yield Books(index, store, window_ms)


@asynccontextmanager
async def open_audit(
    cluster: ClusterConfig, index_urls: tuple[str, ...], order_store_url: str
) -> AsyncIterator[Verify]:
    """The audit alone."""
    async with open_books(cluster, index_urls, order_store_url) as books:
        yield books.audit()


def _drifted(
    shard: int, key: PositionKey, ours: StockPosition, theirs: StockPosition | None
) -> None:
    _log.error(
        "index and order store disagree about a position",
        shard=shard,
        sku=key.sku,
        node_id=key.node_id,
        error=f"index {ours[:4]}, order store {theirs and theirs[:4]} "
        "(on_hand, committed, held, safety_stock)",
    )


async def _for_each_shard(shard_count: int, work: Callable[[int], Awaitable[None]]) -> None:
    slots = asyncio.Semaphore(_TAKEOVERS_AT_ONCE)

    async def one(shard: int) -> None:
        async with slots:
            await work(shard)

    await asyncio.gather(*(one(shard) for shard in range(shard_count)))
