"""Limits of the native front that are counted in seconds: silence, age, slowness."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from promise_svc.rpc import transport_native
from promise_svc.rpc.transport import TransportOptions
from tests.support.fronts import REPLIES, UNARY, bytes_front
from tests.support.raw_http2 import message, raw_caller

# The front looks at its limits once a second.
WITHIN_SECONDS = 6.0
SLOW_SECONDS = 3.0


async def test_a_connection_without_calls_is_drained_when_idle() -> None:
    """GOAWAY without an error; one with a call open stands."""
    release = asyncio.Event()

    async def unary(request: bytes, context: Any) -> bytes:
        await release.wait()
        return request

    options = TransportOptions(connection_idle_seconds_max=1)
    async with bytes_front("native", options) as front, raw_caller(front.port) as busy:
        front.behaviors.unary = unary
        stream = busy.call(UNARY, b"x")
        async with raw_caller(front.port) as idle:
            await idle.until(lambda: idle.closed, WITHIN_SECONDS)
            assert idle.goaway is not None and idle.goaway.error_code == 0
        assert busy.goaway is None
        release.set()
        assert (await busy.answer(stream)).status == 0


async def test_an_old_connection_is_drained_and_its_calls_end_by_themselves() -> None:
    """The call in flight at that time is answered; a new one needs a new connection."""
    options = TransportOptions(connection_age_seconds_max=1)
    async with bytes_front("native", options) as front, raw_caller(front.port) as caller:
        release = asyncio.Event()

        async def unary(request: bytes, context: Any) -> bytes:
            await release.wait()
            return request

        front.behaviors.unary = unary
        stream = caller.call(UNARY, b"x")
        await caller.until(lambda: caller.goaway, WITHIN_SECONDS)
        release.set()

        assert (await caller.answer(stream)).status == 0
        await caller.until(lambda: caller.closed, WITHIN_SECONDS)


async def test_connections_of_one_age_are_not_drained_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Callers that came together after a restart do not all come back together."""
    monkeypatch.setattr(transport_native, "TICK_SECONDS", 0.01)
    loop = asyncio.get_running_loop()
    options = TransportOptions(connection_age_seconds_max=1)
    async with bytes_front("native", options) as front, AsyncExitStack() as stack:

        async def age() -> float:
            began = loop.time()
            caller = await stack.enter_async_context(raw_caller(front.port))
            await caller.until(lambda: caller.goaway, WITHIN_SECONDS)
            return loop.time() - began

        ages = await asyncio.gather(*(age() for _ in range(40)))

    assert min(ages) > 0.89
    assert max(ages) > 0.99
    assert max(ages) - min(ages) > 0.1


async def test_a_call_that_was_on_its_way_when_a_drain_began_is_answered() -> None:
    """Also when it arrives seconds later, from a busy caller or over a slow line: which call was
    the last is known when the caller has answered a ping, not before."""
    async with (
        bytes_front("native", TransportOptions(connection_age_seconds_max=1)) as front,
        raw_caller(front.port) as caller,
    ):
        await caller.answer_of_ping()
        caller.held = bytearray()
        stream = caller.call(UNARY, b"x")
        await caller.until(lambda: caller.goaway, WITHIN_SECONDS)
        await asyncio.sleep(SLOW_SECONDS)
        caller.write(bytes(caller.held))
        caller.held = None

        assert (await caller.answer(stream)).status == 0
        await caller.until(lambda: caller.closed, WITHIN_SECONDS)
        assert (caller.pings_before_goaway, caller.pings_received) == (0, 1)


async def test_a_channel_goes_on_when_its_connection_is_drained() -> None:
    """Calls one after the other over several ages; none fails."""
    async with bytes_front("native", TransportOptions(connection_age_seconds_max=1)) as front:
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + 3.5
        while loop.time() < ends_at:
            assert await front.unary(b"x") == b"x"


async def test_a_silent_connection_is_probed_and_stands_if_it_answers() -> None:
    """h2 answers pings by itself."""
    options = TransportOptions(keepalive_seconds=1, keepalive_timeout_seconds=1)
    async with bytes_front("native", options) as front, raw_caller(front.port) as caller:
        await caller.until(lambda: caller.pings_received >= 2, WITHIN_SECONDS)

        assert (await caller.answer(caller.call(UNARY, b"x"))).status == 0


async def test_a_silent_connection_that_answers_no_probe_is_closed() -> None:
    """Its machine is gone; its calls are cancelled."""
    options = TransportOptions(keepalive_seconds=1, keepalive_timeout_seconds=1)
    async with bytes_front("native", options) as front, raw_caller(front.port) as caller:
        await caller.answer_of_ping()
        caller.held = bytearray()

        await caller.until(lambda: caller.closed, WITHIN_SECONDS)


async def test_a_request_that_never_ends_is_refused() -> None:
    """DEADLINE_EXCEEDED; streams of requests may take as long as they like."""
    options = TransportOptions(request_seconds_max=1)
    async with bytes_front("native", options) as front, raw_caller(front.port) as caller:
        endless = caller.call("/tests.Bytes/Both", None, end=False)
        slow = caller.call(UNARY, None, end=False)
        caller.send(slow, message(b"x" * 100)[:50])
        answer = await caller.answer(slow, WITHIN_SECONDS)
        caller.send(endless, message(b"on"), end=True)

        assert answer.status == 4
        assert front.transport.limit_hits == {"REQUEST_SECONDS": 1}
        assert (await caller.answer(endless)).body == message(b"on")


async def test_a_reply_that_nobody_takes_is_dropped() -> None:
    """The stream is reset, so that what it holds is given back."""
    options = TransportOptions(request_seconds_max=1)

    async def unary(request: bytes, context: Any) -> bytes:
        return b"x" * 1_000_000

    async with bytes_front("native", options) as front:
        front.behaviors.unary = unary
        async with raw_caller(front.port, greedy=False) as caller:
            answer = await caller.answer(caller.call(UNARY, b"x"), WITHIN_SECONDS)

    assert answer.reset_code == 8


async def test_a_caller_that_reads_nothing_of_the_socket_is_cut_off() -> None:
    """Windows wide open, socket never read: the connection ends."""
    options = TransportOptions(keepalive_timeout_seconds=1)
    stopped = asyncio.Event()

    async def replies(request: bytes, context: Any) -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x" * 100_000
        finally:
            stopped.set()

    async with bytes_front("native", options) as front:
        front.behaviors.replies = replies
        async with raw_caller(front.port) as caller:
            caller.conn.increment_flow_control_window(2**30)
            caller.flush()
            await caller.answer_of_ping()
            caller.stop_reading()
            stream = caller.call(REPLIES, b"x")
            caller.conn.increment_flow_control_window(2**30, stream)
            caller.flush()
            await asyncio.wait_for(stopped.wait(), WITHIN_SECONDS + 4)
