"""One hostile connection: what it sends is bounded, and the good caller is served meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from promise_svc.rpc.transport import TransportOptions
from tests.support.fronts import UNARY, BytesFront, bytes_front
from tests.support.raw_http2 import (
    CONTINUATION,
    DATA,
    HEADERS,
    PING,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    RawCaller,
    frame,
    message,
    raw_caller,
    request_headers,
)

pytestmark = pytest.mark.fault

ENHANCE_YOUR_CALM = 11
GOOD_CALL_SECONDS_MAX = 1.0
"""Of this process while the slowest good call waited, in CPU: server, flood's sender and caller are
all in it, and other load on the machine is none of its."""


@pytest.fixture
async def front() -> AsyncIterator[BytesFront]:
    options = TransportOptions(message_bytes_max=64 * 1024, ping_interval_seconds_min=10)
    async with bytes_front("native", options) as front:
        yield front


def head(caller: RawCaller, *extra: tuple[str, str]) -> bytes:
    """A header block that adds nothing to the table, so that it may be sent many times."""
    encoded = caller.conn.encoder.encode([*request_headers(UNARY), *extra], huffman=False)
    caller.conn.encoder.encode([])
    return encoded


def resets(caller: RawCaller) -> Callable[[int], bytes]:
    block = head(caller)
    return lambda index: (
        frame(HEADERS, 4, 2 * index + 1, block)
        + frame(DATA, 1, 2 * index + 1, message(b"x"))
        + frame(RST_STREAM, 0, 2 * index + 1, b"\0\0\0\x08")
    )


def half_open(caller: RawCaller) -> Callable[[int], bytes]:
    block = head(caller)
    return lambda index: (
        frame(HEADERS, 4, 2 * index + 1, block) + frame(RST_STREAM, 0, 2 * index + 1, b"\0\0\0\x08")
    )


def empty_data(caller: RawCaller) -> Callable[[int], bytes]:
    block = head(caller)
    return lambda index: frame(DATA, 0, 1) if index else frame(HEADERS, 4, 1, block)


def continuations(caller: RawCaller) -> Callable[[int], bytes]:
    block = head(caller)
    return lambda index: frame(CONTINUATION, 0, 1) if index else frame(HEADERS, 0, 1, block)


def long_continuations(caller: RawCaller) -> Callable[[int], bytes]:
    block = head(caller)
    field = caller.conn.encoder.encode([("x" * 50, "y" * 4000)], huffman=False)
    return lambda index: frame(CONTINUATION, 0, 1, field) if index else frame(HEADERS, 0, 1, block)


FLOODS: dict[str, Callable[[RawCaller], Callable[[int], bytes]]] = {
    "calls that are reset": resets,
    "heads that are reset": half_open,
    "pings": lambda caller: lambda index: frame(PING, 0, 0, b"12345678"),
    "settings": lambda caller: lambda index: frame(SETTINGS, 0, 0),
    "settings with values": lambda caller: (
        lambda index: frame(SETTINGS, 0, 0, b"\0\4\0\0\xff\xff" * 5)
    ),
    "priorities": lambda caller: lambda index: frame(PRIORITY, 0, 2 * index + 1, b"\0\0\0\0\1"),
    "empty data": empty_data,
    "empty continuations": continuations,
    "long continuations": long_continuations,
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS.keys())
async def test_a_flood_is_cut_off_while_the_good_caller_is_served(
    front: BytesFront, flood: Callable[[RawCaller], Callable[[int], bytes]]
) -> None:
    """The flooding connection ends within 20,000 frames; no good call fails or takes long."""
    slowest = 0.0
    flooding = True

    async def good_calls() -> int:
        nonlocal slowest
        count = 0
        while flooding or count < 20:
            began = time.process_time()
            assert await front.unary(b"good") == b"good"
            slowest = max(slowest, time.process_time() - began)
            count += 1
        return count

    calling = asyncio.create_task(good_calls())
    async with raw_caller(front.port) as caller:
        await caller.answer_of_ping()
        frame_of = flood(caller)
        index = 0
        while not caller.closed and index < 20_000:
            caller.write(b"".join(frame_of(index + step) for step in range(100)))
            index += 100
            await caller.drained()
            await asyncio.sleep(0)
        await caller.until(lambda: caller.closed, 30)
    flooding = False

    assert await calling >= 20
    assert slowest < GOOD_CALL_SECONDS_MAX
    if caller.goaway is not None:
        assert caller.goaway.error_code != 0
        if caller.goaway.error_code == ENHANCE_YOUR_CALM:
            assert front.transport.limit_hits.keys() <= {"EMPTY_FRAMES", "PINGS"}
            assert front.transport.limit_hits


async def test_calls_that_end_give_patience_back(front: BytesFront) -> None:
    """A caller that cancels half of what it starts is no flood."""
    async with raw_caller(front.port) as caller:
        for _ in range(2_000):
            dropped = caller.call(UNARY, None, end=False)
            caller.conn.reset_stream(dropped, 8)
            caller.flush()
            answer = await caller.answer(caller.call(UNARY, b"x"))
            assert answer.status == 0


async def test_a_silent_connection_that_pings_is_told_too_many(front: BytesFront) -> None:
    """GOAWAY with ENHANCE_YOUR_CALM and the words that gRPC clients look for."""
    async with raw_caller(front.port) as caller:
        for _ in range(6):
            caller.conn.ping(b"12345678")
            caller.flush()
        await caller.until(lambda: caller.goaway)

    assert caller.goaway is not None
    assert caller.goaway.error_code == ENHANCE_YOUR_CALM
    assert caller.goaway.additional_data == b"too_many_pings"
    assert front.transport.limit_hits == {"PINGS": 1}


async def test_requests_being_received_are_bounded_together() -> None:
    """However many connections declare great messages; one that fits is served."""
    options = TransportOptions(message_bytes_max=1_000_000, unfinished_bytes_max=3_000_000)
    async with bytes_front("native", options) as front, raw_caller(front.port) as caller:
        declared = message(b"x" * 900_000)[:100]
        streams = []
        for _ in range(4):
            streams.append(caller.call(UNARY, None, end=False))
            caller.send(streams[-1], declared)
        answer = await caller.answer(streams[3])
        for stream in streams[:3]:
            caller.conn.reset_stream(stream, 8)
        after = await caller.answer(caller.call(UNARY, b"x"))

    assert (answer.status, after.status) == (8, 0)
    assert front.transport.limit_hits == {"UNFINISHED_BYTES": 1}


async def test_more_connections_than_allowed_are_closed() -> None:
    """Those that stand are served on."""
    async with bytes_front("native", TransportOptions(connections_max=2)) as front:
        async with raw_caller(front.port) as first, raw_caller(front.port) as second:
            assert (await first.answer(first.call(UNARY, b"x"))).status == 0
            assert (await second.answer(second.call(UNARY, b"x"))).status == 0
            async with raw_caller(front.port) as third:
                await third.until(lambda: third.closed)
            assert front.transport.limit_hits == {"CONNECTIONS": 1}
            assert (await first.answer(first.call(UNARY, b"x"))).status == 0
        assert await front.unary(b"on", wait_for_ready=True, timeout=10) == b"on"


async def test_a_caller_that_reads_nothing_is_held_back(front: BytesFront) -> None:
    """Its replies wait in its own windows; the server's memory does not grow with its calls."""

    async def unary(request: bytes, context: Any) -> bytes:
        return b"x" * 60_000

    front.behaviors.unary = unary
    async with raw_caller(front.port, greedy=False) as slow:
        streams = [slow.call(UNARY, b"x") for _ in range(50)]
        await slow.until(lambda: sum(len(slow.answers[s].body) for s in streams) >= 65_535)
        assert await front.unary() == b"x" * 60_000
        assert sum(slow.answers[stream].ended for stream in streams) <= 1
        slow.take_everything()
