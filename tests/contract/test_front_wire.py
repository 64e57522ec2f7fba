"""What a front makes of the wire: encodings, odd framing, and input no good caller sends."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from h2.settings import SettingCodes

from promise_svc.rpc.transport import TransportOptions
from tests.support.fronts import BOTH, FRONTS, REPLIES, UNARY, BytesFront, bytes_front, until
from tests.support.raw_http2 import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    PRIORITY,
    PUSH,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    RawCaller,
    frame,
    message,
    raw_caller,
    request_headers,
)

OK, INTERNAL, UNIMPLEMENTED, RESOURCE_EXHAUSTED, DEADLINE_EXCEEDED = 0, 13, 12, 8, 4
OPTIONS = TransportOptions(
    message_bytes_max=64 * 1024, streams_max=20, ping_interval_seconds_min=300
)


@pytest.fixture(params=sorted(FRONTS))
async def front(request: pytest.FixtureRequest) -> AsyncIterator[BytesFront]:
    async with bytes_front(request.param, OPTIONS) as front:
        yield front


@pytest.fixture
async def native() -> AsyncIterator[BytesFront]:
    """For what grpc.aio does in another way, or not at all."""
    async with bytes_front("native", OPTIONS) as front:
        yield front


@pytest.fixture
async def caller(front: BytesFront) -> AsyncIterator[RawCaller]:
    async with raw_caller(front.port) as caller:
        yield caller


@pytest.fixture
async def native_caller(native: BytesFront) -> AsyncIterator[RawCaller]:
    async with raw_caller(native.port) as caller:
        yield caller


async def test_a_reply_is_headers_message_and_trailers(caller: RawCaller) -> None:
    """By the specification, to the byte."""
    answer = await caller.answer(caller.call(UNARY, b"body"))

    assert answer.headers[":status"] == "200"
    assert answer.headers["content-type"] == "application/grpc"
    assert answer.body == message(b"body")
    assert answer.trailers == {"grpc-status": "0"} | answer.trailers


async def test_an_error_without_a_reply_is_one_block(caller: RawCaller) -> None:
    """Trailers-only: the status stands in the first and last headers."""
    answer = await caller.answer(caller.call("/tests.Bytes/Nothing"))

    assert answer.status == UNIMPLEMENTED
    assert answer.headers[":status"] == "200"
    assert answer.body == b""


@pytest.mark.parametrize("size", [1, 2, 4, 5, 6, 7, 100])
async def test_a_message_may_be_split_anywhere(caller: RawCaller, size: int) -> None:
    """Over DATA frames of any size, with empty ones between."""
    stream_id = caller.call(UNARY, None, end=False)
    data = message(b"0123456789" * 3)
    for start in range(0, len(data), size):
        caller.send(stream_id, data[start : start + size])
        caller.send(stream_id, b"")
    caller.send(stream_id, b"", end=True)

    assert (await caller.answer(stream_id)).body == data


async def test_messages_may_share_a_frame(caller: RawCaller) -> None:
    """In a stream of requests."""
    stream_id = caller.call(BOTH, None, end=False)
    caller.send(stream_id, message(b"a") + message(b"") + message(b"bc"), end=True)

    answer = await caller.answer(stream_id)
    assert (answer.status, answer.body) == (OK, message(b"a") + message(b"") + message(b"bc"))


async def test_padding_is_no_part_of_a_message(native_caller: RawCaller) -> None:
    """And its window is given back."""
    caller = native_caller
    for _ in range(40):
        stream_id = caller.call(UNARY, None, end=False)
        caller.conn.send_data(stream_id, message(b"x" * 3000), end_stream=True, pad_length=255)
        caller.flush()
        assert (await caller.answer(stream_id)).body == message(b"x" * 3000)


@pytest.mark.parametrize(
    ("encoding", "data"),
    [
        ("gzip", message(gzip.compress(b"plain"), flag=1)),
        ("deflate", message(zlib.compress(b"plain"), flag=1)),
        ("gzip", message(b"plain")),
        ("identity", message(b"plain")),
    ],
    ids=["gzip", "deflate", "gzip announced only", "identity"],
)
async def test_an_announced_encoding_is_read(caller: RawCaller, encoding: str, data: bytes) -> None:
    """Where the flag of the message says so."""
    stream_id = caller.call(UNARY, None, ("grpc-encoding", encoding), end=False)
    caller.send(stream_id, data, end=True)

    assert (await caller.answer(stream_id)).body == message(b"plain")


async def test_an_unknown_encoding_is_unimplemented_and_tells_the_known(
    native_caller: RawCaller,
) -> None:
    """In grpc-accept-encoding."""
    caller = native_caller
    stream_id = caller.call(UNARY, None, ("grpc-encoding", "snappy"), end=False)
    caller.send(stream_id, message(b"x", flag=1), end=True)

    answer = await caller.answer(stream_id)
    assert answer.status == UNIMPLEMENTED
    assert "gzip" in answer.headers["grpc-accept-encoding"]


@pytest.mark.parametrize(
    ("headers", "data"),
    [
        ((), message(b"x", flag=1)),
        ((), message(b"x", flag=7)),
        ((("grpc-encoding", "gzip"),), message(b"no gzip", flag=1)),
        ((("grpc-encoding", "gzip"),), message(gzip.compress(b"cut" * 99)[:-9], flag=1)),
        ((), message(b"cut off")[:-1]),
        ((), b"\0\0"),
        ((), b""),
        ((), message(b"one") + message(b"two")),
    ],
    ids=[
        "compressed without an encoding",
        "unknown flag",
        "not gzip",
        "gzip cut off",
        "message cut off",
        "prefix cut off",
        "no message",
        "two messages",
    ],
)
async def test_a_malformed_request_is_internal(
    native_caller: RawCaller, headers: tuple[tuple[str, str], ...], data: bytes
) -> None:
    """The call ends by itself and the connection goes on."""
    stream_id = native_caller.call(UNARY, None, *headers, end=False)
    native_caller.send(stream_id, data, end=True)

    assert (await native_caller.answer(stream_id)).status == INTERNAL
    assert (await native_caller.answer(native_caller.call(UNARY, b"on"))).status == OK


@pytest.mark.parametrize(
    ("replaced", "status"),
    [
        ({"content_type": "application/json"}, "415"),
        ({"content_type": "application/grpcx"}, "415"),
        ({"content_type": ""}, "415"),
        ({"method": "GET"}, "405"),
        ({"method": "PUT"}, "405"),
    ],
)
async def test_who_does_not_speak_grpc_is_told_in_http(
    native_caller: RawCaller, replaced: dict[str, str], status: str
) -> None:
    """415 for another content, 405 for another method."""
    answer = await native_caller.answer(native_caller.call(UNARY, b"x", **replaced))

    assert (answer.headers[":status"], answer.ended) == (status, True)


@pytest.mark.parametrize(
    "content_type", ["application/grpc", "application/grpc+proto", "application/grpc;charset=x"]
)
async def test_every_grpc_content_is_taken(caller: RawCaller, content_type: str) -> None:
    """Subtypes and parameters are the caller's affair."""
    answer = await caller.answer(caller.call(UNARY, b"x", content_type=content_type))

    assert answer.status == OK


@pytest.mark.parametrize(
    ("text", "expected"),
    [("2H", 7200), ("3M", 180), ("4S", 4), ("5000m", 5), ("6000000u", 6), ("70000000n", 0.07)],
)
async def test_a_timeout_is_read_in_every_unit(
    front: BytesFront, caller: RawCaller, text: str, expected: float
) -> None:
    """Hours to nanoseconds."""
    seen: list[float] = []

    async def unary(request: bytes, context: Any) -> bytes:
        seen.append(context.time_remaining())
        return request

    front.behaviors.unary = unary
    await caller.answer(caller.call(UNARY, b"x", ("grpc-timeout", text)))

    assert seen and expected * 0.9 - 0.05 < seen[0] <= expected * 1.02


async def test_a_deadline_is_held_by_the_server_too(front: BytesFront, caller: RawCaller) -> None:
    """For a caller that does not cancel by itself."""
    stopped = asyncio.Event()

    async def stuck(request: bytes, context: Any) -> bytes:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        return b""

    front.behaviors.unary = stuck
    answer = await caller.answer(caller.call(UNARY, b"x", ("grpc-timeout", "50m")))

    await asyncio.wait_for(stopped.wait(), 30)
    assert answer.status in (DEADLINE_EXCEEDED, None)


async def test_too_much_metadata_is_refused_and_the_next_call_is_not(caller: RawCaller) -> None:
    """RESOURCE_EXHAUSTED; the header table stays in step. Before its settings are acknowledged,
    grpc.aio lets more pass than it will."""
    await caller.answer_of_ping()
    much = tuple((f"key-{index}", "v" * 400) for index in range(60))
    refused = await caller.answer(caller.call(UNARY, b"x", *much))
    after = await caller.answer(caller.call(UNARY, b"x", *much[:5]))

    assert refused.status == RESOURCE_EXHAUSTED or refused.reset_code is not None
    assert after.status == OK


async def test_an_oversized_message_is_refused_by_its_prefix(caller: RawCaller) -> None:
    """Before its bytes are sent; the rest is not waited for."""
    stream_id = caller.call(UNARY, None, end=False)
    caller.send(stream_id, b"\0\xff\xff\xff\xff")
    answer = await caller.answer(stream_id)

    assert answer.status == RESOURCE_EXHAUSTED
    assert (await caller.answer(caller.call(UNARY, b"on"))).status == OK


async def test_a_bomb_is_refused_without_being_inflated(native_caller: RawCaller) -> None:
    """60 KB that would be 60 MB."""
    bomb = gzip.compress(b"\0" * 60_000_000)
    stream_id = native_caller.call(UNARY, None, ("grpc-encoding", "gzip"), end=False)
    native_caller.send(stream_id, message(bomb, flag=1), end=True)

    assert (await native_caller.answer(stream_id)).status == RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    "data", [b"no gzip", gzip.compress(b"\0" * 60_000_000)], ids=["not gzip", "a bomb"]
)
async def test_a_bad_message_in_a_stream_ends_the_stream(
    native: BytesFront, native_caller: RawCaller, data: bytes
) -> None:
    """What came before it is heard; the servicer is stopped at its read."""
    heard: list[bytes] = []

    async def both(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            heard.append(request)
            yield request

    native.behaviors.both = both
    stream_id = native_caller.call(BOTH, b"first", ("grpc-encoding", "gzip"), end=False)
    native_caller.send(stream_id, message(data, flag=1), end=True)
    answer = await native_caller.answer(stream_id)

    assert answer.status in (INTERNAL, RESOURCE_EXHAUSTED)
    assert heard == [b"first"]
    assert (await native_caller.answer(native_caller.call(UNARY, b"on"))).status == OK


@pytest.mark.parametrize(
    "metadata",
    [
        (("UPPER", "x"),),
        (("", "x"),),
        (("a b", "x"),),
        (("feed", "a\nb"),),
        (("late-bin", "text"),),
        (("number", 1),),
        (("much", "x" * 40_000),),
        (("many", "x"),) * 65,
    ],
    ids=["upper case", "empty", "space", "line feed", "text as bytes", "number", "much", "many"],
)
async def test_metadata_that_cannot_be_sent_is_refused_where_it_is_set(
    native: BytesFront, native_caller: RawCaller, metadata: Any
) -> None:
    """ValueError or TypeError in the servicer, not a broken frame on the wire."""
    raised: list[Exception] = []

    async def unary(request: bytes, context: Any) -> bytes:
        try:
            context.set_trailing_metadata(metadata)
        except (TypeError, ValueError) as error:
            raised.append(error)
        return request

    native.behaviors.unary = unary

    assert (await native_caller.answer(native_caller.call(UNARY, b"x"))).status == OK
    assert len(raised) == 1


async def test_a_long_text_is_cut(native: BytesFront, native_caller: RawCaller) -> None:
    """So that it can be sent at all."""

    async def unary(request: bytes, context: Any) -> bytes:
        raise ValueError("数" * 1_000_000)

    native.behaviors.unary = unary

    answer = await native_caller.answer(native_caller.call(UNARY, b"x"))
    assert (answer.status, len(answer.headers["grpc-message"]) < 20_000) == (2, True)


async def test_a_ping_is_answered(caller: RawCaller) -> None:
    """Whatever else goes on."""
    caller.conn.ping(b"12345678")
    caller.flush()

    await caller.until(lambda: caller.pings_answered)


async def test_more_streams_than_allowed_are_refused_and_the_others_served(
    native: BytesFront,
) -> None:
    """REFUSED_STREAM says that nothing was done, to who has not read the settings yet."""
    release = asyncio.Event()

    async def unary(request: bytes, context: Any) -> bytes:
        await release.wait()
        return request

    native.behaviors.unary = unary
    async with raw_caller(native.port) as caller:
        streams = [caller.call(UNARY, b"x") for _ in range(25)]
        refused = [await caller.answer(stream) for stream in streams[20:]]
        release.set()
        served = [await caller.answer(stream) for stream in streams[:20]]

    assert {answer.reset_code for answer in refused} == {7}
    assert {answer.status for answer in served} == {OK}


async def test_a_caller_that_breaks_the_limit_it_knows_loses_its_connection(
    native: BytesFront, native_caller: RawCaller
) -> None:
    """Others are served on."""
    settings = native_caller.conn.remote_settings
    await native_caller.until(lambda: settings.max_concurrent_streams == 20)
    await native_caller.answer_of_ping()
    settings.max_concurrent_streams = 1000
    settings.acknowledge()
    for _ in range(25):
        native_caller.call(UNARY, None, end=False)
    await native_caller.until(lambda: native_caller.closed)

    assert await native.unary(b"on") == b"on"


@pytest.mark.timeout(20)
@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 6])
async def test_a_window_smaller_than_a_prefix_is_used_byte_by_byte(
    native: BytesFront, size: int
) -> None:
    """Found by the fuzz: the front filled such a window with nothing, for ever."""
    async with raw_caller(native.port, greedy=False) as caller:
        caller.conn.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: size})
        caller.flush()
        await caller.answer_of_ping()
        stream_id = caller.call(UNARY, b"some words")
        answer = caller.answers[stream_id]
        opened = size
        while not answer.ended:
            await caller.answer_of_ping()
            assert len(answer.body) <= opened
            if not answer.ended:
                opened += 1
                caller.conn.increment_flow_control_window(1, stream_id)
                caller.flush()

        assert (answer.status, answer.body) == (OK, message(b"some words"))


async def test_replies_wait_for_the_callers_window(
    native: BytesFront,
) -> None:
    """A servicer that streams to a caller who reads nothing is held back."""
    written = 0

    async def replies(request: bytes, context: Any) -> AsyncIterator[bytes]:
        nonlocal written
        for _ in range(100):
            yield b"x" * 16_000
            written += 1

    native.behaviors.replies = replies
    async with raw_caller(native.port, greedy=False) as slow:
        stream_id = slow.call(REPLIES, b"x")
        await slow.until(lambda: len(slow.answers[stream_id].body) >= 65_535)
        await slow.answer_of_ping()
        held_back = written
        slow.take_everything()
        answer = await slow.answer(stream_id)

    # The window of 65,535 bytes, and the 64 KiB that a servicer may be ahead.
    assert held_back <= 9
    assert (answer.status, len(answer.body)) == (OK, 100 * 16_005)


GARBAGE = {
    "data on stream 0": frame(DATA, 0, 0, b"x"),
    "headers on stream 0": frame(HEADERS, END_HEADERS, 0, b"\x82"),
    "headers on an even stream": frame(HEADERS, END_HEADERS, 2, b"\x82"),
    "data on an idle stream": frame(DATA, 0, 99, b"x"),
    "a push promise": frame(PUSH, END_HEADERS, 1, b"\0\0\0\2\x82"),
    "a continuation of nothing": frame(CONTINUATION, END_HEADERS, 1, b"\x82"),
    "headers that another frame interrupts": frame(HEADERS, 0, 1, b"\x82")
    + frame(PING, 0, 0, b"8" * 8),
    "no header table entry": frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\xff"),
    "settings of five bytes": frame(SETTINGS, 0, 0, b"12345"),
    "a window of 2^32": frame(SETTINGS, 0, 0, b"\0\4\xff\xff\xff\xff"),
    "a ping of seven bytes": frame(PING, 0, 0, b"1234567"),
    "a reset of an idle stream": frame(RST_STREAM, 0, 99, b"\0\0\0\0"),
    "a window update of 0": frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\0"),
    "a window that overflows": frame(WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff") * 2,
    "a frame of 16 MiB": b"\xff\xff\xff\0\0\0\0\0\1",
    "a goaway of two bytes": frame(GOAWAY, 0, 0, b"12"),
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
async def test_frames_that_break_the_protocol_end_their_connection(
    native: BytesFront, native_caller: RawCaller, garbage: bytes
) -> None:
    """With a GOAWAY or without; others are served on. grpc.aio overlooks some of them."""
    front, caller = native, native_caller
    await caller.answer(caller.call("/tests.Bytes/Nothing"))
    caller.write(garbage)
    await caller.until(lambda: caller.closed or caller.goaway)

    assert await front.unary(b"on") == b"on"


@pytest.mark.parametrize(
    "headers",
    [
        [(":method", "POST"), (":scheme", "http"), ("te", "trailers")],
        [*request_headers(UNARY), (":path", "/late")],
        [*request_headers(UNARY), ("Upper", "case")],
        [*request_headers(UNARY), ("connection", "close")],
        [*request_headers(UNARY), ("bad", "a\nb")],
    ],
    ids=["no path", "pseudo header late", "upper case", "connection header", "line feed"],
)
async def test_a_malformed_head_ends_its_call_alone(
    native_caller: RawCaller, headers: list[tuple[str, str]]
) -> None:
    """PROTOCOL_ERROR on the stream, or an HTTP error; the next call is served."""
    native_caller.conn.config.normalize_outbound_headers = False
    stream_id = native_caller.call(UNARY, b"first")
    await native_caller.answer(stream_id)
    odd = native_caller.conn.get_next_available_stream_id()
    native_caller.answers[odd] = type(native_caller.answers[stream_id])()
    native_caller.conn.send_headers(odd, headers, end_stream=True)
    native_caller.flush()
    answer = await native_caller.answer(odd)

    assert answer.reset_code is not None or answer.headers[":status"] != "200"
    assert (await native_caller.answer(native_caller.call(UNARY, b"on"))).status == OK


@pytest.mark.parametrize("step", [1, 7, 9, 50])
async def test_the_stream_of_bytes_may_arrive_in_any_pieces(front: BytesFront, step: int) -> None:
    """A whole conversation, some bytes at a time."""
    async with raw_caller(front.port) as caller:
        caller.held = bytearray()
        stream_id = caller.call(UNARY, b"in pieces")
        data = bytes(caller.held)
        for start in range(0, len(data), step):
            caller.write(data[start : start + step])
            await caller.drained()
            await asyncio.sleep(0)
        caller.write(bytes(caller.held[len(data) :]))
        caller.held = None

        assert (await caller.answer(stream_id)).body == message(b"in pieces")


async def test_a_caller_that_hangs_up_halfway_leaves_nothing_behind(native: BytesFront) -> None:
    """Handlers are cancelled, nothing is counted as unfinished."""
    began, stopped = asyncio.Event(), asyncio.Event()

    async def stuck(request: bytes, context: Any) -> bytes:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        return b""

    native.behaviors.unary = stuck
    async with raw_caller(native.port) as caller:
        caller.call(UNARY, b"x")
        half = caller.call(UNARY, None, end=False)
        caller.send(half, message(b"x" * 60_000)[:1000])
        await asyncio.wait_for(began.wait(), 30)

    await asyncio.wait_for(stopped.wait(), 30)
    session = native.transport._front  # type: ignore[attr-defined]  # what is left is inside
    await until(lambda: len(session.connections) == 0)
    assert session.unfinished_bytes == 0


async def test_nothing_is_served_without_the_preface(native: BytesFront) -> None:
    """Frames alone are no HTTP/2."""
    reader, writer = await asyncio.open_connection("127.0.0.1", native.port)
    writer.write(frame(SETTINGS, 0, 0) + frame(PRIORITY, 0, 1, b"\0" * 5))
    read = await asyncio.wait_for(reader.read(), 30)
    writer.close()

    assert PREFACE not in read
