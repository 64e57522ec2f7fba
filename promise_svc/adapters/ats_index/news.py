"""What the shards publish: events as they happen, and how far the order store is."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import NamedTuple

import hiredis

from promise_svc.adapters.ats_index import codec
from promise_svc.adapters.ats_index.connection import Access, Connection, Node, Reply
from promise_svc.adapters.ats_index.index import ClusterAtsIndex
from promise_svc.adapters.ats_index.topology import Topology
from promise_svc.application.ports import ShardNews
from promise_svc.domain.sharding import START, Position
from promise_svc.errors import OutcomeUnknown, PromiseServiceError

_RETRY_SECONDS = 0.2
_POLL_SECONDS = 0.25
"""A durable mark may be missed (delivery is at most once); then it is asked for."""


_ASK_SECONDS = 1.0


class _Waiter(NamedTuple):
    """Who waits until the order store has ``at``."""

    at: Position
    answered_epoch: int
    since: float
    done: asyncio.Future[None]

    def told(self, durable: Position) -> bool:
        """Whether it waits no longer, now that the order store has ``durable``."""
        if self.done.done():
            return True
        if durable.epoch > self.answered_epoch:
            text = "the shard was taken over meanwhile; ask again with the same key"
            self.done.set_exception(OutcomeUnknown(text))
        elif durable >= self.at:
            # Of an earlier epoch, the order store has all that the shard kept: the next epoch's
            # first event names the last one before it, and is not stored before it.
            self.done.set_result(None)
        return self.done.done()

    def give_up(self) -> None:
        if not self.done.done():
            text = "decided, and not known to be recorded in time; ask again with the same key"
            self.done.set_exception(OutcomeUnknown(text))


class NewsChannels:
    """ShardChannels and DurabilityWatch of ``application/ports.py``: one connection a node."""

    def __init__(self, index: ClusterAtsIndex, topology: Topology, access: Access) -> None:
        self._index = index
        self._topology = topology
        self._access = access
        self._shards = {channel: shard for shard, channel in enumerate(index.keys.news)}
        self._listeners: tuple[Callable[[ShardNews], None], ...] = ()
        self._durable_listeners: list[Callable[[int, Position], None]] = []
        self._durable: dict[int, Position] = {}
        self._waiting: dict[int, list[_Waiter]] = defaultdict(list)
        """In the order they came."""
        self._asking: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._lost = asyncio.Event()

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
        while self._task is not None and not self._task.done():
            self._task.cancel()
            # A cancellation may be lost in redis-py while it connects: then it is said again.
            await asyncio.wait({self._task}, timeout=0.1)

    def subscribe(self, listener: Callable[[ShardNews], None]) -> Callable[[], None]:
        # A new tuple each time: one may leave while another hears.
        self._listeners = (*self._listeners, listener)
        return lambda: self._leave(listener)

    def _leave(self, listener: Callable[[ShardNews], None]) -> None:
        self._listeners = tuple(other for other in self._listeners if other is not listener)

    def subscribe_durable(self, listener: Callable[[int, Position], None]) -> None:
        """``listener`` hears how far the order store is with a shard, more often than the shard
        itself says it."""
        self._durable_listeners.append(listener)

    def wait_durable(
        self, shard: int, at: Position, answered_epoch: int, timeout: float
    ) -> Awaitable[None]:
        loop = asyncio.get_running_loop()
        waiter = _Waiter(at, answered_epoch, loop.time(), loop.create_future())
        if not waiter.told(self._durable.get(shard, START)):
            self._waiting[shard].append(waiter)
            timer = loop.call_later(timeout, waiter.give_up)
            waiter.done.add_done_callback(lambda _: timer.cancel())
            if self._asking is None or self._asking.done():
                self._asking = loop.create_task(self._ask())
        return waiter.done

    async def _ask(self) -> None:
        """Ask the shards whose waiters have heard nothing for a while, as long as there are any."""
        while any(self._waiting.values()):
            await asyncio.sleep(_POLL_SECONDS)
            before = asyncio.get_running_loop().time() - _POLL_SECONDS
            shards = [s for s, waiting in self._waiting.items() if waiting[:1] and
                      waiting[0].since <= before]  # fmt: skip
            await asyncio.gather(*(self._ask_one(shard) for shard in shards))

    async def _ask_one(self, shard: int) -> None:
        with suppress(PromiseServiceError):
            meta = await self._index.read_meta(shard, _ASK_SECONDS)
            self._hear_durable(shard, meta.durable)
        self._waiting[shard] = [w for w in self._waiting[shard] if not w.done.done()]

    async def _run(self) -> None:
        """Subscribe on every node; begin anew when one is lost or a slot moves."""
        while True:
            connections: list[Connection] = []
            self._lost.clear()
            try:
                for node, channels in self._by_node().items():
                    connection = await Connection.open(node, self._access, self._hear)
                    connections.append(connection)
                    connection.closed.add_done_callback(lambda _: self._lost.set())
                    for channel in channels:
                        connection.post((b"SSUBSCRIBE", channel))
                await self._lost.wait()
            except PromiseServiceError:
                pass
            finally:
                for connection in connections:
                    connection.close()
            await asyncio.sleep(_RETRY_SECONDS * random.uniform(0.5, 1.5))
            with suppress(PromiseServiceError):
                await self._topology.refresh()

    def _by_node(self) -> dict[Node, list[bytes]]:
        keys, channels = self._index.keys, defaultdict[Node, list[bytes]](list)
        for slot, channel in zip(keys.slots, keys.news, strict=True):
            channels[self._topology.node_of(slot)].append(channel)
        channels[self._topology.node_of(keys.cluster_slot)].append(keys.durable)
        return channels

    def _hear(self, push: Reply) -> None:
        if isinstance(push, hiredis.ReplyError):
            self._lost.set()
            return
        assert isinstance(push, list)
        kind, channel = push[0], push[1]
        if kind == b"sunsubscribe":
            self._lost.set()
        if kind != b"smessage":
            return
        assert isinstance(channel, bytes) and isinstance(push[2], bytes)
        shard = self._shards.get(channel)
        if shard is None:
            for each, at in codec.decode_durable(push[2]):
                self._hear_durable(each, at)
            return
        news = codec.decode_news(shard, push[2])
        self._hear_durable(shard, news.durable)
        for listener in self._listeners:
            listener(news)

    def _hear_durable(self, shard: int, at: Position) -> None:
        if at <= self._durable.get(shard, START):
            return
        self._durable[shard] = at
        if waiting := self._waiting.get(shard):
            self._waiting[shard] = [waiter for waiter in waiting if not waiter.told(at)]
        for listener in self._durable_listeners:
            listener(shard, at)
