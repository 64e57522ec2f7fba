"""Bytes that nobody would send, straight into a connection of the native front, without sockets."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator
from typing import Any

import hpack
import pytest

from promise_svc.rpc.transport import TransportOptions
from tests.support.fronts import (
    BOTH,
    REPLIES,
    REQUESTS,
    SERVICE,
    UNARY,
    Behaviors,
    live_calls,
    new_front,
)
from tests.support.raw_http2 import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
    message,
    request_headers,
)

pytestmark = pytest.mark.fault

CONVERSATION_COUNT = int(os.environ.get("FUZZ_CONVERSATIONS", "1_500"))
PATHS = (UNARY, REPLIES, REQUESTS, BOTH, "/tests.Bytes/Hot", "/tests.Bytes/Nothing", "")
TIMEOUTS = ("1S", "1n", "0m", "x", "99999999H")
ENCODINGS = ("gzip", "deflate", "identity", "snappy", "")


class FakeTransport:
    """Takes what is written; the test decides when it is lost."""

    def __init__(self) -> None:
        self.written = 0
        self.closed = False

    def write(self, data: bytes) -> None:
        self.written += len(data)

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def get_extra_info(self, name: str) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else None

    def set_write_buffer_limits(self, high: int) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


@pytest.fixture
async def session() -> AsyncIterator[Any]:
    """The inside of a front that listens nowhere."""
    transport: Any = new_front(
        "native",
        TransportOptions(message_bytes_max=10_000, streams_max=8, unfinished_bytes_max=50_000),
    )
    transport.add_registered_method_handlers(SERVICE, Behaviors().handlers())
    transport.add_immediate_handlers(SERVICE, {"Hot": lambda body, call: body})
    yield transport._front
    await transport.drain(0)


def random_call(rng: random.Random, encoder: hpack.Encoder, stream: int) -> list[bytes]:
    """The frames of a call that is right, or nearly."""
    headers = request_headers(rng.choice(PATHS))
    if rng.random() < 0.3:
        headers.append(("grpc-timeout", rng.choice(TIMEOUTS)))
    if rng.random() < 0.3:
        headers.append(("grpc-encoding", rng.choice(ENCODINGS)))
    if rng.random() < 0.2:
        headers.append(("some-bin", rng.choice(("AQI", "!", "", "A" * 300))))
    if rng.random() < 0.1:
        rng.shuffle(headers)
    if rng.random() < 0.1:
        headers.pop(rng.randrange(len(headers)))
    block = encoder.encode(headers)
    cut = rng.randrange(len(block)) if rng.random() < 0.2 else len(block)
    frames = [frame(HEADERS, END_HEADERS * (cut == len(block)), stream, block[:cut])]
    if cut < len(block):
        frames.append(frame(CONTINUATION, END_HEADERS, stream, block[cut:]))
    data = b"".join(
        message(rng.randbytes(rng.choice((0, 1, 5, 100, 3_000))), flag=rng.random() < 0.1)
        for _ in range(rng.choice((0, 1, 1, 1, 2, 3)))
    )
    while data:
        size = rng.choice((1, 3, 5, 100, 5_000))
        frames.append(frame(DATA, 0, stream, data[:size]))
        data = data[size:]
    if rng.random() < 0.8:
        frames.append(frame(DATA, END_STREAM, stream))
    else:
        frames.append(frame(RST_STREAM, 0, stream, b"\0\0\0\x08"))
    return frames


def random_conversation(rng: random.Random) -> bytes:
    """Calls interleaved, control frames between them; then some bytes are not what they were."""
    encoder = hpack.Encoder()
    calls = [random_call(rng, encoder, 1 + 2 * index) for index in range(rng.randrange(1, 12))]
    frames = [frame(SETTINGS, 0, 0)]
    # Header blocks depend on the ones before, so the order among them stays.
    frames += [part for call in calls for part in call]
    for _ in range(rng.randrange(4)):
        extra = rng.choice(
            (
                frame(PING, rng.randrange(2), 0, b"12345678"),
                frame(SETTINGS, 0, 0, b"\0\4\0\0\0" + rng.randbytes(1)),
                frame(WINDOW_UPDATE, 0, rng.randrange(9), b"\0\0" + rng.randbytes(2)),
                frame(PRIORITY, 0, rng.randrange(9), rng.randbytes(5)),
                frame(GOAWAY, 0, 0, b"\0" * 8),
                frame(rng.randrange(256), rng.randrange(256), rng.randrange(9), rng.randbytes(9)),
            )
        )
        frames.insert(rng.randrange(len(frames) + 1), extra)
    data = bytearray(PREFACE + b"".join(frames))
    if rng.random() < 0.7:
        for _ in range(rng.choice((1, 1, 2, 10))):
            place = rng.randrange(len(PREFACE), len(data))
            action = rng.randrange(3)
            if action == 0:
                data[place] = rng.randrange(256)
            elif action == 1:
                del data[place : place + rng.randrange(1, 20)]
            else:
                data[place:place] = rng.randbytes(rng.randrange(1, 20))
    return bytes(data)


async def test_no_bytes_break_the_front(session: Any, rng: random.Random) -> None:
    """Whatever comes: nothing is raised, and nothing is left when the connection is lost."""
    before = live_calls()
    for _ in range(CONVERSATION_COUNT):
        data = random_conversation(rng)
        connection, transport = session.connection(), FakeTransport()
        connection.connection_made(transport)
        start = 0
        while start < len(data) and not transport.closed:
            size = min(rng.choice((1, 9, 64, 4_096, 65_536)), len(data) - start)
            connection.get_buffer(-1)[:size] = data[start : start + size]
            connection.buffer_updated(size)
            start += size
            if rng.random() < 0.1:
                await asyncio.sleep(0)
            if rng.random() < 0.02:
                rng.choice((connection.pause_writing, connection.resume_writing))()
            if rng.random() < 0.005:
                rng.choice((connection.drain, connection.cut, session.expire, session.tick))()
        connection.resume_writing()
        assert transport.written > 0
        connection.connection_lost(None)
        await asyncio.sleep(0)

    async with asyncio.timeout(30):
        # Handlers end in their own time; what is then left is a leak.
        while live_calls(before):
            await asyncio.sleep(0.01)
    assert (session.connections, session.unfinished_bytes) == (set(), 0)
