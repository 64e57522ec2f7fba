"""Worker processes: the product's own ``Service``, put together by its own composition root."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import itertools
import random
import secrets
from collections.abc import Awaitable, Callable, Iterator
from functools import cache, partial
from typing import Any
from unittest import mock

from promise_svc.adapters.ats_index import index
from promise_svc.application.network_edit import NetworkEditor
from promise_svc.application.promise import CartPromiser
from promise_svc.application.quote import Quotes
from promise_svc.application.reservation import Reservations
from promise_svc.application.supply import SupplyWriter
from promise_svc.bootstrap import service as composition
from promise_svc.config import ClusterConfig, ProcessConfig
from promise_svc.errors import PromiseServiceError, Unavailable
from promise_svc.rpc.network import NetworkServicer
from promise_svc.rpc.promise import PromiseServicer
from promise_svc.rpc.reservation import ReservationServicer
from promise_svc.rpc.supply import SupplyServicer
from tests.sim.loop import Process, VirtualLoop
from tests.sim.network import Weather
from tests.sim.order_store import StoreServer
from tests.sim.valkey import EPOCH_MS, Cluster

_PACES = {"RESOLVE_SECONDS": 1.0, "SWEEP_SECONDS": 1.0, "DRIFT_SECONDS": 1.0}
"""Slower than the product's, to spend the time on what is rare."""

CONFIG = ProcessConfig(
    index_urls=("redis://valkey:7000",), order_store_url="postgresql://store/promise"
)


class Gone(Exception):
    """The worker that was asked is no more; whatever it did, it did not tell."""


class Clock:
    """A worker's wall clock, which may be wrong."""

    def __init__(self, loop: VirtualLoop, skew_ms: int) -> None:
        self._loop = loop
        self._skew_ms = skew_ms

    def now_ms(self) -> int:
        return EPOCH_MS + int(self._loop.time() * 1000) + self._skew_ms

    def monotonic(self) -> float:
        return self._loop.time()


class Worker:
    """One server process, from its start to its death; ``restart`` is another one."""

    def __init__(self, loop: VirtualLoop, name: str, cluster: ClusterConfig, weather: Weather):
        self.process = Process(name)
        self.service: composition.Service | None = None
        self.services: list[composition.Service] = []
        self._loop = loop
        self._cluster = cluster
        self._weather = weather
        self._asked: set[asyncio.Future[Any]] = set()
        self._main = loop.spawn(self.process, self._run())

    async def _run(self) -> None:
        while True:
            service = composition.Service(self._cluster, CONFIG)
            self.services.append(service)
            try:
                async with service:
                    self.service = service
                    await asyncio.Event().wait()
            except PromiseServiceError:
                await asyncio.sleep(0.3)

    def kill(self) -> None:
        self.service = None
        self._loop.kill(self.process)
        asked, self._asked = self._asked, set()
        for future in asked:
            if not future.done():
                future.set_exception(Gone())

    @property
    def serving(self) -> bool:
        """Whether its start is over."""
        return self.service is not None and bool(self.service.servicers)

    @property
    def reservations(self) -> Reservations:
        return self._servicer(ReservationServicer)._reservations

    @property
    def supply(self) -> SupplyWriter:
        return self._servicer(SupplyServicer)._writer

    @property
    def promiser(self) -> CartPromiser:
        return self._servicer(PromiseServicer)._promiser

    @property
    def quotes(self) -> Quotes:
        return self._servicer(PromiseServicer)._quotes

    @property
    def editor(self) -> NetworkEditor:
        return self._servicer(NetworkServicer)._editor

    def _servicer(self, kind: Any) -> Any:
        if self.service is None or not self.serving:
            raise Unavailable("the worker is starting")
        return next(each for each in self.service.servicers if isinstance(each, kind))

    async def ask(self, work: Callable[[Worker], Awaitable[Any]], timeout: float) -> Any:
        """What ``work`` returns or raises in this worker; Gone when it dies, TimeoutError when the
        caller stops waiting, as the front does it: the work goes on."""
        await asyncio.sleep(self._weather.latency())
        if not self.process.alive:
            raise Gone
        answered: asyncio.Future[Any] = self._loop.create_future()

        async def serve() -> None:
            try:
                result, failed = await work(self), False
            except Exception as error:
                result, failed = error, True
            if not answered.done():
                (answered.set_exception if failed else answered.set_result)(result)

        self._asked.add(answered)
        self._loop.spawn(self.process, serve())
        try:
            async with asyncio.timeout(timeout):
                result = await answered
            await asyncio.sleep(self._weather.latency())
            return result
        finally:
            self._asked.discard(answered)


@contextlib.contextmanager
def composed(loop: VirtualLoop, cluster: Cluster, store: StoreServer) -> Iterator[None]:
    """Let ``Service`` find simulated engines, clocks and chance where it looks for real ones."""
    chance, stems = cluster.chance, itertools.count()

    relay = partial(composition.RelayLoop, concurrency=2, poll_seconds=0.7)

    class Pool:
        @staticmethod
        async def open(_: Any) -> Any:
            return store.client()

    class Seeded(random.Random):
        def __init__(self, seed: Any = None) -> None:
            super().__init__(chance.getrandbits(64) if seed is None else seed)

    def clock() -> Clock:
        return Clock(loop, chance.choice((0, 0, -1_500, 700, 30_000)))

    with (
        mock.patch.multiple(
            composition, PostgresOrderStore=Pool, SystemClock=clock, RelayLoop=relay, **_PACES
        ),
        # redis-py looks its own version up for every connection, in the file system.
        mock.patch.object(importlib.metadata, "version", cache(importlib.metadata.version)),
        mock.patch.object(random, "Random", Seeded),
        # Ids that are minted: without the seed's chance, of which every draw would move the next.
        mock.patch.object(secrets, "token_hex", lambda size: f"{next(stems):0{2 * size}x}"),
        mock.patch.object(index, "Keys", lambda prefix, shard_count: cluster.keys),
    ):
        yield
