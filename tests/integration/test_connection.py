"""The connection to an index node that refuses, breaks, hangs or goes without a word."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import uvloop

from promise_svc.adapters.ats_index.coalescer import (
    IN_FLIGHT_MAX,
    LEAST_TURN,
    STEPS_MAX,
    SUPPLY_IN_FLIGHT_MAX,
    Lane,
)
from promise_svc.adapters.ats_index.connection import GONE_SECONDS, Access, Connection, Node
from promise_svc.adapters.ats_index.index import ClusterAtsIndex
from promise_svc.adapters.ats_index.news import NewsChannels
from promise_svc.adapters.ats_index.topology import Topology, parse_urls
from promise_svc.adapters.embedded.folder import free_port
from promise_svc.adapters.embedded.valkey import server_path
from promise_svc.errors import EngineRefused, OutcomeUnknown, Unavailable

ACCESS = Access(password="secret", connect_timeout=0.2)
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def breaks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(100)
    writer.close()


async def hangs(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()  # until the client gives up
    writer.close()


class FakeNode:
    """Behaves as its handler does, until it is healed: then it answers OK to everything."""

    def __init__(self, handler: Handler) -> None:
        self.handler: Handler = handler
        self.visits = 0
        self.came = asyncio.Condition()
        self._talks: dict[asyncio.Task[None] | None, asyncio.StreamWriter] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._talks[asyncio.current_task()] = writer
        async with self.came:
            self.visits += 1
            self.came.notify_all()
        await self.handler(reader, writer)

    async def end(self) -> None:
        """Close what clients left open."""
        for writer in self._talks.values():
            writer.close()
        await asyncio.gather(*filter(None, self._talks), return_exceptions=True)
        for writer in self._talks.values():
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def until_visits(self, count: int) -> None:
        async with asyncio.timeout(30), self.came:
            await self.came.wait_for(lambda: self.visits >= count)


async def obeys(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await reader.read(1000):
        writer.write(b"+OK\r\n")
    writer.close()


@contextlib.asynccontextmanager
async def listening(fake: FakeNode) -> AsyncIterator[Node]:
    server = await asyncio.start_server(fake.serve, "127.0.0.1", 0)
    yield Node("127.0.0.1", server.sockets[0].getsockname()[1])
    server.close()
    await fake.end()


@pytest.mark.parametrize("handler", [breaks, hangs])
async def test_a_node_that_fails_us_while_we_authenticate_is_unavailable(handler: Handler) -> None:
    """Nothing was asked of it yet, so nothing can be unknown."""
    async with listening(FakeNode(handler)) as node:
        with pytest.raises(Unavailable):
            await Connection.open(node, ACCESS)


@pytest.mark.parametrize("handler", [breaks, hangs])
async def test_a_lane_keeps_trying_and_serves_once_the_node_is_well(handler: Handler) -> None:
    """Its one task that connects must outlive whatever the node does."""
    fake = FakeNode(handler)
    async with listening(fake) as node:
        lane = Lane(node, ACCESS)
        with pytest.raises(Unavailable):
            await lane.call(b"f", "create", b"k", [b""], 2.0, True)
        await fake.until_visits(3)

        fake.handler = obeys
        async with asyncio.timeout(30):
            await lane._connected.wait()
        assert await lane.command((b"PING",), 2.0) == b"OK"
        lane.close()


async def test_a_node_that_lets_us_in_and_says_nothing_is_away() -> None:
    """Also without a password to check: a process that hangs accepts connections."""
    async with listening(FakeNode(hangs)) as node:
        with pytest.raises(Unavailable):
            await Connection.open(node, Access(connect_timeout=0.1))


async def test_a_stalled_node_is_not_waited_for_and_its_first_word_is_enough() -> None:
    """What was sent before is unknown; what comes while it is silent is refused at once and never
    sent, for its caller will ask again; the answer that is late opens the way."""
    talk, go_on = Talk(), asyncio.Event()

    async def stalls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"PING\r\n")
        writer.write(b"+PONG\r\n")
        talk.heard += await reader.read(1000)
        await go_on.wait()
        writer.write(b"*1\r\n+late\r\n")
        while more := await reader.read(1000):
            talk.heard += more
            writer.write(b"*1\r\n+well\r\n")
        writer.close()

    async with listening(FakeNode(stalls)) as node, contextlib.AsyncExitStack() as cleanup:
        lane = Lane(node, Access(), talk)
        # However it ends, nobody is left talking.
        cleanup.callback(go_on.set)
        cleanup.callback(lane.close)
        with pytest.raises(OutcomeUnknown):
            await lane.call(b"f", "create", b"k", [b"first"], 0.2, True)
        await asyncio.wait_for(talk.lost_one.wait(), 30)
        with pytest.raises(Unavailable):
            await asyncio.wait_for(lane.call(b"f", "create", b"k", [b"second"], 60, True), 30)
        with pytest.raises(Unavailable):
            await asyncio.wait_for(lane.command((b"GET",), 60), 30)
        go_on.set()
        await asyncio.wait_for(talk.found_one.wait(), 30)

        assert await lane.call(b"f", "create", b"k", [b"third"], 5, True) == [b"well"]
        assert b"first" in talk.heard and b"third" in talk.heard
        assert b"second" not in talk.heard and b"GET" not in talk.heard
        assert talk.refusals == ["STALLED", "STALLED"]


async def test_what_waits_for_its_turn_is_refused_when_the_node_stalls() -> None:
    """It was never sent: nobody is told that its outcome is unknown, and nobody waits a minute."""
    talk = Talk()

    async def stalls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"PING\r\n")
        writer.write(b"+PONG\r\n")
        await reader.read()
        writer.close()

    async with listening(FakeNode(stalls)) as node:
        lane = Lane(node, Access(), talk)
        calls = [
            asyncio.create_task(lane.call(b"f", "create", b"k", [b"x"] * STEPS_MAX, 60, True))
            for _ in range(IN_FLIGHT_MAX + 2)
        ]
        await asyncio.wait(calls, timeout=30, return_when=asyncio.FIRST_EXCEPTION)
        await asyncio.sleep(0)
        refused = [call for call in calls if call.done()]
        lane.close()
        await asyncio.wait(calls)

    assert len(refused) == 2
    assert all(isinstance(call.exception(), Unavailable) for call in refused)
    assert all(isinstance(call.exception(), OutcomeUnknown) for call in set(calls) - set(refused))


async def test_a_hold_has_few_rows_of_a_feed_before_it() -> None:
    """A node serves first in, first out: what was sent cannot be overtaken. So of a feed little is
    sent at once, and all of it in the end."""
    heard = b""

    async def answers_after_the_hold(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        nonlocal heard
        await reader.readuntil(b"PING\r\n")
        writer.write(b"+PONG\r\n")
        answered = 0
        while more := await reader.read(1000):
            heard += more
            if b"hold" in heard:
                commands = heard.count(b"FCALL")
                writer.write(b"*1\r\n+done\r\n" * (commands - answered))
                answered = commands
        writer.close()

    async with listening(FakeNode(answers_after_the_hold)) as node:
        lane = Lane(node, Access())
        feed = [
            asyncio.create_task(lane.call(b"f", "sync_supply", b"k", [b"rows"], 30, False))
            for _ in range(3 * SUPPLY_IN_FLIGHT_MAX)
        ]
        async with asyncio.timeout(30):
            while b"rows" not in heard:
                await asyncio.sleep(0)
            hold = await lane.call(b"f", "create", b"k", [b"hold"], 30, True)
            rows = await asyncio.gather(*feed)
        lane.close()

    assert heard.split(b"hold")[0].count(b"rows") == SUPPLY_IN_FLIGHT_MAX
    assert [hold, *rows] == [[b"done"]] * (1 + len(feed))


async def test_nobody_waits_for_ever_behind_holds_and_a_sale_elsewhere_for_none() -> None:
    """Holds queue without end. What settles and a sale at a till go before all that wait; a feed's
    rows and a look for due holds come in their turn."""
    heard: list[bytes] = []

    async def counts(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"PING\r\n")
        writer.write(b"+PONG\r\n")
        while line := await reader.readline():
            if line.strip() in verbs:
                heard.append(line.strip())
                writer.write(b"*1\r\n+done\r\n")
        writer.close()

    verbs = {b"create", b"sync_supply", b"sweep", b"adjust_supply", b"read_meta"}
    async with listening(FakeNode(counts)) as node, asyncio.timeout(30):
        lane = Lane(node, Access())

        async def call(verb: str) -> None:
            await lane.call(b"f", verb, b"k", [verb.encode()], 30, False)

        async with asyncio.TaskGroup() as group:
            for _ in range(20 * LEAST_TURN):
                group.create_task(call("create"))
            for verb in ("sync_supply", "sweep", "adjust_supply", "read_meta"):
                group.create_task(call(verb))
        lane.close()

    assert heard.index(b"read_meta") < heard.index(b"adjust_supply") < heard.index(b"create")
    assert heard.index(b"sync_supply") < heard.index(b"sweep") <= 2 * LEAST_TURN


class Talk:
    """What a node heard, and what was told of it."""

    def __init__(self) -> None:
        self.heard = b""
        self.refusals: list[str] = []
        self.lost_one, self.found_one = asyncio.Event(), asyncio.Event()

    def refused(self, why: str) -> None:
        self.refusals.append(why)

    def lost(self, node: str, why: str) -> None:
        self.lost_one.set()

    def found(self, node: str) -> None:
        self.found_one.set()


async def test_a_node_that_we_leave_ourselves_is_not_told_as_lost() -> None:
    """A clean stop is no alarm."""
    talk = Talk()
    async with listening(FakeNode(obeys)) as node:
        lane = Lane(node, ACCESS, talk)
        assert await lane.command((b"PING",), 2.0) == b"OK"
        assert lane._connecting is not None
        lane.close()
        await asyncio.wait({lane._connecting}, timeout=30)

    assert not talk.lost_one.is_set()


async def test_a_node_that_throws_us_out_at_once_is_not_stormed() -> None:
    """Without a password it looks connected each time: the pauses between tries still grow."""
    fake = FakeNode(breaks_at_once)
    async with listening(fake) as node:
        lane = Lane(node, Access())
        with contextlib.suppress(Unavailable):
            await lane.command((b"PING",), 1.0)
        await asyncio.sleep(0.3)  # real time on purpose: it is a rate that is measured
        lane.close()
    assert fake.visits < 15


async def breaks_at_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def test_the_news_keep_trying_a_node_that_breaks_while_we_authenticate() -> None:
    """Else confirms would wait for durable marks that nobody hears any more."""
    fake = FakeNode(breaks)
    async with listening(fake) as node:
        topology = Topology([node], ACCESS)
        topology._ranges = [(0, 16383, node)]
        index = ClusterAtsIndex(
            topology, ACCESS, key_prefix="p", shard_count=1, window_ms=1, outbox_kept=1
        )
        news = NewsChannels(index, topology, ACCESS)
        news.start()
        await fake.until_visits(6)
        assert news._task is not None and not news._task.done()
        await news.close()


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_the_socket_notices_a_node_that_went_without_a_word(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """A pulled cable sends no reset; the kernel is told how long to wait, under both loops."""

    async def options() -> tuple[int, int]:
        async with listening(FakeNode(obeys)) as node:
            connection = await Connection.open(node, Access(password="secret"))
            assert connection._transport is not None
            opened = connection._transport.get_extra_info("socket")
            alive = opened.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            patience = opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
            connection.close()
            await connection.closed
            return alive, patience

    with asyncio.Runner(loop_factory=new_loop) as runner:
        assert runner.run(options()) == (1, GONE_SECONDS * 1000)


async def test_an_engine_outside_cluster_mode_is_refused_by_the_name_of_the_setting(
    tmp_path: Path,
) -> None:
    """Not as a node that does not answer: it does, and one setting is missing."""
    port = free_port()
    engine = subprocess.Popen(
        [server_path(), "--port", str(port), "--bind", "127.0.0.1", "--save", ""],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert engine.stdout is not None
    try:
        while "Ready to accept connections" not in (line := engine.stdout.readline()):
            assert line, "it did not start"
        topology = Topology([Node("127.0.0.1", port)], Access())

        with pytest.raises(EngineRefused, match="cluster-enabled must be yes"):
            await topology.refresh()
    finally:
        engine.terminate()
        engine.wait(10)
        engine.stdout.close()


@pytest.mark.parametrize("scheme", ["redis", "valkey"])
def test_a_host_may_be_called_valkey(scheme: str) -> None:
    """The scheme has an older name for redis-py; the host keeps its own."""
    nodes, _ = parse_urls([f"{scheme}://valkey:7000"])

    assert nodes == [Node("valkey", 7000)]
