"""The native front keeps nothing of a call that has ended, however it ended."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import hpack
import psutil
import pytest

from promise_svc.rpc.transport import TransportOptions
from tests.support.fronts import BOTH, REPLIES, UNARY, BytesFront, bytes_front, live_calls, until
from tests.support.raw_http2 import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
    message,
    request_headers,
)

pytestmark = [pytest.mark.fault, pytest.mark.slow]

CALL_COUNT = int(os.environ.get("LEAK_CALLS", "60_000"))
"""A million before a release; growth shows in a few ten thousand."""

BATCH = 100
WARM_COUNT = 20_000
GROWTH_BYTES_MAX = 2_000_000
"""Allocators keep some; 60,000 calls that leak 64 bytes each are 3.8 MB."""

ROUNDS_MAX = 3
"""A leak grows in every round; what an allocator once kept, of the tests before too, does not."""


@pytest.fixture
async def front() -> AsyncIterator[BytesFront]:
    async with bytes_front("native", TransportOptions()) as front:
        front.transport.add_immediate_handlers("tests.Bytes", {"Hot": lambda body, call: body})
        yield front


def block_of(path: str) -> bytes:
    """A header block that leaves the table as it is."""
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    return encoder.encode(request_headers(path, ("x-some-bin", "AQI")), huffman=False)


Frames = Callable[[int], bytes]


def whole(path: str) -> Frames:
    block, body = block_of(path), message(b"x" * 100)
    return lambda stream: (
        frame(HEADERS, END_HEADERS, stream, block) + frame(DATA, END_STREAM, stream, body)
    )


def aborted(path: str) -> Frames:
    """A request that is reset while it is being answered."""
    begin = whole(path)
    return lambda stream: begin(stream) + frame(RST_STREAM, 0, stream, b"\0\0\0\x08")


def half(path: str) -> Frames:
    """A request that is reset in the middle of its message."""
    block, body = block_of(path), message(b"x" * 100)[:50]
    return lambda stream: (
        frame(HEADERS, END_HEADERS, stream, block)
        + frame(DATA, 0, stream, body)
        + frame(RST_STREAM, 0, stream, b"\0\0\0\x08")
    )


async def connected(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    wide = frame(SETTINGS, 0, 0) + frame(WINDOW_UPDATE, 0, 0, (2**31 - 1 - 65_535).to_bytes(4))
    writer.write(PREFACE + wide)
    return reader, writer


async def ended_streams(reader: asyncio.StreamReader, count: int) -> None:
    """Read until so many streams have ended."""
    while count > 0:
        head = await reader.readexactly(9)
        await reader.readexactly(int.from_bytes(head[:3]))
        count -= head[3] in (HEADERS, DATA) and head[4] & END_STREAM


async def call_many(front: BytesFront, count: int, frames: Frames, *, answered: bool) -> None:
    """Calls in batches; what is not answered goes over connections that are dropped."""
    reader, writer = await connected(front.port)
    stream = 1
    for number in range(0, count, BATCH):
        if not answered and number % 500 == 0:
            writer.close()
            reader, writer = await connected(front.port)
            stream = 1
        writer.write(b"".join(frames(stream + 2 * index) for index in range(BATCH)))
        stream += 2 * BATCH
        await writer.drain()
        if answered:
            async with asyncio.timeout(30):
                await ended_streams(reader, BATCH)
        else:
            await asyncio.sleep(0)
    writer.close()


CASES: dict[str, tuple[Frames, bool]] = {
    "hot calls": (whole("/tests.Bytes/Hot"), True),
    "awaited calls": (whole(UNARY), True),
    "streamed replies": (whole(REPLIES), True),
    "conversations": (whole(BOTH), True),
    "unknown methods": (whole("/tests.Bytes/Nothing"), True),
    "calls reset while they are answered": (aborted(UNARY), False),
    "streams reset while they are answered": (aborted(BOTH), False),
    "requests reset in the middle": (half(UNARY), False),
    "streams reset in the middle": (half(BOTH), False),
}


@pytest.mark.parametrize(("frames", "answered"), CASES.values(), ids=CASES.keys())
async def test_memory_and_handles_stay_flat(
    front: BytesFront, frames: Frames, answered: bool
) -> None:
    """No call object is left, no file descriptor, and the process does not grow."""
    calls_before = live_calls()
    session: Any = front.transport._front  # type: ignore[attr-defined]  # what is left is inside

    async def bytes_after(count: int) -> int:
        await call_many(front, count, frames, answered=answered)
        await until(lambda: not session.connections)
        await asyncio.sleep(0.01)
        gc.collect()
        return psutil.Process().memory_info().rss

    bytes_before, handles_before = await bytes_after(WARM_COUNT), handle_count()
    for _ in range(ROUNDS_MAX):
        bytes_now = await bytes_after(CALL_COUNT)
        growth, bytes_before = bytes_now - bytes_before, bytes_now
        if growth < GROWTH_BYTES_MAX:
            break

    assert live_calls(calls_before) == []
    assert session.unfinished_bytes == 0
    assert handle_count() == handles_before
    assert growth < GROWTH_BYTES_MAX


def handle_count() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
