"""What servicers may do with a call, on every front: the four kinds, context, sizes, ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextvars import ContextVar
from pathlib import Path

import grpc
import grpc.aio
import pytest

from promise_svc.rpc.transport import TRACE_KEY, TransportOptions
from tests.support.fronts import (
    BOTH,
    FRONTS,
    REPLIES,
    REQUESTS,
    UNARY,
    BytesFront,
    bytes_front,
    new_front,
    until,
)

MESSAGE_BYTES_MAX = 4 * 1024 * 1024
MEBIBYTE = 1024 * 1024
MARK: ContextVar[str] = ContextVar("mark", default="unset")
ROOMY = (
    ("grpc.max_receive_message_length", 16 * MEBIBYTE),
    ("grpc.max_send_message_length", 16 * MEBIBYTE),
)


@pytest.fixture(params=sorted(FRONTS))
async def front(request: pytest.FixtureRequest) -> AsyncIterator[BytesFront]:
    options = TransportOptions(message_bytes_max=MESSAGE_BYTES_MAX)
    async with bytes_front(request.param, options, channel_options=ROOMY) as front:
        yield front


async def error_of(call) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return raised.value


async def sent(*bodies: bytes) -> AsyncIterator[bytes]:
    for body in bodies:
        yield body


async def test_the_four_kinds_of_call_are_served(front: BytesFront) -> None:
    """One or many requests, one or many replies; empty messages are messages."""
    channel = front.channel

    unary = await channel.unary_unary(UNARY)(b"")
    replies = [reply async for reply in channel.unary_stream(REPLIES)(b"a,,b")]
    requests = await channel.stream_unary(REQUESTS)(sent(b"a", b"", b"b"))
    both = [reply async for reply in channel.stream_stream(BOTH)(sent(b"a", b"", b"b"))]

    assert (unary, replies, requests, both) == (b"", [b"a", b"", b"b"], b"a,,b", [b"a", b"", b"b"])


async def test_a_conversation_goes_back_and_forth(front: BytesFront) -> None:
    """Each reply leaves before the next request is read; half-closing ends it."""
    call = front.channel.stream_stream(BOTH)()
    for index in range(20):
        await call.write(str(index).encode())
        assert await call.read() == str(index).encode()
    await call.done_writing()

    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK


@pytest.mark.parametrize("registered", [True, False])
@pytest.mark.parametrize("name", sorted(FRONTS))
async def test_generic_handlers_serve_like_registered_ones(name: str, registered: bool) -> None:
    """Code generated before and after registered methods existed."""
    async with bytes_front(name, TransportOptions(), registered=registered) as front:
        assert await front.unary(b"y") == b"y"
        error = await error_of(front.channel.unary_unary("/tests.Bytes/Nothing")(b""))

    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert error.details() == "Method not found!"


async def test_metadata_goes_both_ways(front: BytesFront) -> None:
    """Text and bytes, before the first message and after the last."""
    seen = {}

    async def unary(request, context):
        for key, value in context.invocation_metadata():
            seen.setdefault(key, []).append(value)
        await context.send_initial_metadata((("early", "1"), ("early-bin", b"\x00\xff")))
        context.set_trailing_metadata((("late", "2"), ("late-bin", bytes(range(256)))))
        return request

    front.behaviors.unary = unary
    call = front.unary(
        metadata=(
            ("a", "b c"), ("a", "d"), ("raw-bin", b"\x80"), ("empty-bin", b""), ("none", ""),
            ("spaced", " e "),
        )
    )  # fmt: skip
    await call

    assert (seen["a"], seen["raw-bin"], seen["empty-bin"]) == (["b c", "d"], [b"\x80"], [b""])
    assert seen["none"] == [""]
    assert seen["spaced"][0].strip() == "e"  # gRPC lets them be sent, and be stripped
    assert "grpc" in seen["user-agent"][0]
    assert not {"te", "content-type", ":path", "grpc-timeout"} & seen.keys()
    assert {("early", "1"), ("early-bin", b"\x00\xff")} <= set(await call.initial_metadata())
    late = {("late", "2"), ("late-bin", bytes(range(256)))}
    assert late <= set(await call.trailing_metadata())


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code.value[0]])
async def test_an_abort_arrives_as_it_was_raised(front: BytesFront, code: grpc.StatusCode) -> None:
    """Code, text in any script, and trailing metadata."""
    text = "100 % \t\n\x7f Größe ☺ 数量"

    async def unary(request, context):
        await context.abort(code, text, (("why", "because"),))

    front.behaviors.unary = unary
    error = await error_of(front.unary())

    assert (error.code(), error.details()) == (code, text)
    assert ("why", "because") in tuple(error.trailing_metadata())


async def test_a_stream_may_end_in_an_error_after_replies(front: BytesFront) -> None:
    """What was written arrives first."""

    async def replies(request, context):
        yield b"1"
        yield b"2"
        await context.abort(grpc.StatusCode.DATA_LOSS, "gone")

    front.behaviors.replies = replies
    call = front.channel.unary_stream(REPLIES)(b"")
    first, second = await call.read(), await call.read()
    error = await error_of(call.read())

    assert (first, second, error.code(), error.details()) == (
        b"1",
        b"2",
        grpc.StatusCode.DATA_LOSS,
        "gone",
    )


async def test_a_code_that_was_set_counts_without_an_abort(front: BytesFront) -> None:
    """The reply that comes with it is not one."""

    async def unary(request, context):
        context.set_code(grpc.StatusCode.ABORTED)
        context.set_details("as set")
        assert (context.code(), context.details()) == (grpc.StatusCode.ABORTED, "as set")
        return b"never seen"

    async def replies(request, context):
        yield b"seen"
        context.set_code(grpc.StatusCode.OUT_OF_RANGE)
        context.set_details("enough")

    front.behaviors.unary, front.behaviors.replies = unary, replies
    unary_error = await error_of(front.unary())
    call = front.channel.unary_stream(REPLIES)(b"")
    first = await call.read()
    stream_error = await error_of(call.read())

    assert (unary_error.code(), unary_error.details()) == (grpc.StatusCode.ABORTED, "as set")
    assert (first, stream_error.code()) == (b"seen", grpc.StatusCode.OUT_OF_RANGE)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_an_exception_is_unknown_and_tells_itself(front: BytesFront) -> None:
    """As grpc.aio words it; ours never get here, for the guard hides them."""

    async def unary(request, context):
        raise ValueError("wrong")

    async def requests(stream, context):
        raise KeyError("wrong")

    front.behaviors.unary, front.behaviors.requests = unary, requests
    error = await error_of(front.unary())
    other = await error_of(front.channel.stream_unary(REQUESTS)(sent(b"a")))

    assert error.code() is other.code() is grpc.StatusCode.UNKNOWN
    assert error.details() == "Unexpected <class 'ValueError'>: wrong"
    assert "KeyError" in str(other.details())


async def test_the_callers_deadline_is_known(front: BytesFront) -> None:
    """None without one; else what is left of it."""
    seen: list[float | None] = []

    async def unary(request, context):
        seen.append(context.time_remaining())
        return request

    front.behaviors.unary = unary
    await front.unary()
    await front.unary(timeout=5)
    await front.unary(timeout=3600)

    assert seen[0] is None
    assert seen[1] is not None and 4 < seen[1] <= 5.1
    assert seen[2] is not None and 3590 < seen[2] <= 3700


async def test_a_deadline_that_passes_stops_the_work(front: BytesFront) -> None:
    """In every kind of call; the handler is cancelled."""
    stopped: list[str] = []

    async def stuck(request, context):
        try:
            await asyncio.Event().wait()
        finally:
            stopped.append("unary")

    async def stuck_stream(request, context):
        try:
            yield b"1"
            await asyncio.Event().wait()
        finally:
            stopped.append("stream")

    front.behaviors.unary, front.behaviors.replies = stuck, stuck_stream
    await front.channel.channel_ready()  # or connecting may use up the deadline
    error = await error_of(front.unary(timeout=1))
    call = front.channel.unary_stream(REPLIES)(b"", timeout=1)
    assert await call.read() == b"1"
    stream_error = await error_of(call.read())
    await until(lambda: len(stopped) == 2)

    assert error.code() is stream_error.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_cancelled_call_stops_the_work_and_tells_who_asked(front: BytesFront) -> None:
    """The behavior is cancelled, and done callbacks run with the context."""
    began, told = asyncio.Event(), asyncio.Event()
    stopped: list[str] = []

    async def stuck(request, context):
        context.add_done_callback(lambda ended: told.set())
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            stopped.append("cancelled")
            raise

    front.behaviors.unary = stuck
    call = front.unary()
    await asyncio.wait_for(began.wait(), 30)
    call.cancel()
    await asyncio.wait_for(told.wait(), 30)
    await until(lambda: stopped)

    assert stopped == ["cancelled"]
    assert await front.channel.unary_stream(REPLIES)(b"on").read() == b"on"


async def test_a_reader_that_waits_is_cancelled_with_its_call(front: BytesFront) -> None:
    """A stream whose caller goes away in the middle ends the behavior at its read."""
    stopped = asyncio.Event()

    async def both(requests, context):
        try:
            async for request in requests:
                yield request
        finally:
            stopped.set()

    front.behaviors.both = both
    call = front.channel.stream_stream(BOTH)()
    await call.write(b"1")
    assert await call.read() == b"1"
    call.cancel()

    await asyncio.wait_for(stopped.wait(), 30)


@pytest.mark.parametrize(
    "size", [1, 16_379, 16_380, 65_530, 65_531, MEBIBYTE, MESSAGE_BYTES_MAX], ids=str
)
async def test_a_message_of_any_size_up_to_the_limit_passes(front: BytesFront, size: int) -> None:
    """Around a frame, around the first window, and the greatest; both ways."""
    body = bytes(index % 251 for index in range(1000)) * (size // 1000 + 1)

    assert await front.unary(body[:size], timeout=20) == body[:size]


async def test_a_message_over_the_limit_is_refused_either_way(front: BytesFront) -> None:
    """RESOURCE_EXHAUSTED, and the connection goes on."""

    async def much(request, context):
        return b"x" * (MESSAGE_BYTES_MAX + 1)

    request_error = await error_of(front.unary(b"x" * (MESSAGE_BYTES_MAX + 1)))
    front.behaviors.unary = much
    reply_error = await error_of(front.unary())

    if front.name == "native":
        assert front.transport.limit_hits == {"MESSAGE_BYTES": 1}
    assert request_error.code() is reply_error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await front.channel.unary_stream(REPLIES)(b"on").read() == b"on"


@pytest.mark.parametrize("kind", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_compressed_messages_go_both_ways(front: BytesFront, kind: grpc.Compression) -> None:
    """Requests by the caller's choice, replies by the servicer's; one may be left as it is."""
    body = b"all alike " * 10_000

    async def unary(request, context):
        context.set_compression(kind)
        return request

    async def replies(request, context):
        context.set_compression(kind)
        yield request
        context.disable_next_message_compression()
        yield request

    front.behaviors.unary, front.behaviors.replies = unary, replies

    assert await front.unary(body, compression=kind) == body
    streamed = front.channel.unary_stream(REPLIES)(body, compression=kind)
    assert [reply async for reply in streamed] == [body, body]


async def test_a_small_message_that_inflates_over_the_limit_is_refused(front: BytesFront) -> None:
    """What counts is what it becomes, and it does not become it."""
    error = await error_of(
        front.unary(b"\0" * (3 * MESSAGE_BYTES_MAX), compression=grpc.Compression.Gzip)
    )

    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_writer_waits_for_a_caller_that_reads_slowly(front: BytesFront) -> None:
    """Replies do not pile up in the server; all arrive once they are read."""
    written = 0

    async def replies(request, context):
        nonlocal written
        for _ in range(1000):
            yield b"x" * 65_536
            written += 1

    front.behaviors.replies = replies
    call = front.channel.unary_stream(REPLIES)(b"")
    await call.read()
    before = -1
    while written > before:
        before = written
        await asyncio.sleep(0.1)
    held_back = written
    rest = []
    while (reply := await call.read()) is not grpc.aio.EOF:
        rest.append(len(reply))

    assert held_back < 900
    assert (len(rest), set(rest), written) == (999, {65_536}, 1000)


async def test_a_caller_waits_for_a_servicer_that_reads_slowly(front: BytesFront) -> None:
    """Requests do not pile up in the server; all arrive once they are read."""
    go_on = asyncio.Event()
    sizes: list[int] = []

    async def requests(stream, context):
        await go_on.wait()
        async for request in stream:
            sizes.append(len(request))
        return b"done"

    front.behaviors.requests = requests
    call = front.channel.stream_unary(REQUESTS)()
    written = 0

    async def write() -> None:
        nonlocal written
        for _ in range(200):
            await call.write(b"x" * 65_536)
            written += 1
        await call.done_writing()

    writing = asyncio.create_task(write())
    before = -1
    while written > before:
        before = written
        await asyncio.sleep(0.1)
    held_back = written
    go_on.set()
    await writing

    assert await call == b"done"
    assert held_back < 190
    assert sizes == [65_536] * 200


async def test_many_calls_on_one_connection_do_not_mix(front: BytesFront) -> None:
    """Each gets its own answer, in whatever order the work ends."""

    async def unary(request, context):
        await asyncio.sleep(int(request) % 7 / 1000)
        return request

    front.behaviors.unary = unary
    bodies = [str(index).encode() for index in range(300)]

    assert await asyncio.gather(*map(front.unary, bodies)) == bodies


async def test_the_caller_has_an_address(front: BytesFront) -> None:
    """As gRPC writes it."""
    seen: list[str] = []

    async def unary(request, context):
        seen.append(context.peer())
        return request

    front.behaviors.unary = unary
    await front.unary()

    assert seen[0].startswith("ipv4:127.0.0.1:")


@pytest.mark.parametrize("name", sorted(FRONTS))
async def test_a_unix_socket_serves(name: str, tmp_path: Path) -> None:
    """For a proxy on the same host."""
    async with bytes_front(name, TransportOptions(), f"unix:{tmp_path}/front") as front:
        assert await front.unary(b"y") == b"y"


@pytest.mark.parametrize("name", sorted(FRONTS))
async def test_two_servers_share_a_port_when_told_to(name: str) -> None:
    """Several workers of one host; each connection goes to one of them."""
    shared = TransportOptions(port_shared=True)
    async with (
        bytes_front(name, shared) as first,
        bytes_front(name, shared, first.address) as second,
    ):
        assert first.address == second.address
        assert await first.unary(b"y") == await second.unary(b"y") == b"y"


@pytest.mark.parametrize("name", sorted(FRONTS))
async def test_plain_functions_run_in_threads(name: str) -> None:
    """Of every kind: what a generated base class leaves unwritten is a plain function."""
    transport = new_front(name, TransportOptions())

    def unary(request, context):
        context.set_trailing_metadata((("late", "1"),))
        return request

    def refused(request, context):
        context.abort(grpc.StatusCode.NOT_FOUND, "no")

    def replies(request, context):
        yield from request.split(b",")

    def requests(stream, context):
        return b",".join(stream)

    def both(stream, context):
        yield from stream

    transport.add_registered_method_handlers(
        "tests.Bytes",
        {
            "Unary": grpc.unary_unary_rpc_method_handler(unary),
            "Refused": grpc.unary_unary_rpc_method_handler(refused),
            "Replies": grpc.unary_stream_rpc_method_handler(replies),
            "Requests": grpc.stream_unary_rpc_method_handler(requests),
            "Both": grpc.stream_stream_rpc_method_handler(both),
        },
    )
    port = await transport.start("127.0.0.1:0")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary(UNARY)(b"y")
        assert await call == b"y"
        assert ("late", "1") in tuple(await call.trailing_metadata())
        error = await error_of(channel.unary_unary("/tests.Bytes/Refused")(b""))
        assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "no")
        assert [r async for r in channel.unary_stream(REPLIES)(b"a,b")] == [b"a", b"b"]
        assert await channel.stream_unary(REQUESTS)(sent(b"a", b"b")) == b"a,b"
        assert [r async for r in channel.stream_stream(BOTH)(sent(b"a", b"b"))] == [b"a", b"b"]
    await transport.drain(1)


@pytest.mark.parametrize("name", sorted(FRONTS))
async def test_an_immediate_handler_answers_with_bytes_or_an_awaitable(name: str) -> None:
    """The hot form: it fails by an awaitable that aborts; every answer tells its trace id."""
    transport = new_front(name, TransportOptions())

    async def later(body):
        await asyncio.sleep(0)
        return body + b" later"

    def immediate(body, context):
        if body == b"later":
            return later(body)
        if body == b"refused":
            return context.abort(grpc.StatusCode.NOT_FOUND, "no", (("why", "because"),))
        return body + b" now " + context.trace_id().encode()

    transport.add_immediate_handlers("tests.Bytes", {"Unary": immediate})
    port = await transport.start("127.0.0.1:0")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary(UNARY)(b"x")
        trace_id = (await call).removeprefix(b"x now ").decode()
        assert (TRACE_KEY, trace_id) in tuple(await call.trailing_metadata())
        call = channel.unary_unary(UNARY)(b"later")
        assert await call == b"later later"
        assert trace_id != dict(await call.trailing_metadata())[TRACE_KEY]
        error = await error_of(channel.unary_unary(UNARY)(b"refused"))
        assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "no")
        assert {"why", TRACE_KEY} <= set(dict(error.trailing_metadata()))
    await transport.drain(1)


async def test_calls_do_not_see_each_others_context(front: BytesFront) -> None:
    """What a behavior sets in a ContextVar is gone with it, whether it waited or not."""
    seen: list[str] = []

    async def unary(request, context):
        seen.append(MARK.get())
        MARK.set(request.decode())
        if request == b"waits":
            await asyncio.sleep(0)
        assert MARK.get() == request.decode()
        return request

    front.behaviors.unary = unary
    for body in (b"a", b"waits", b"b", b"waits", b"c"):
        await front.unary(body)

    assert seen == ["unset"] * 5


async def test_a_timeout_begun_before_the_first_wait_holds(front: BytesFront) -> None:
    """asyncio.timeout and TaskGroup find the task they ask for, and cancel what waits in it."""
    heard: list[str] = []

    async def unary(request, context):
        try:
            async with asyncio.timeout(0.02):
                await asyncio.Event().wait()
        except TimeoutError:
            heard.append("timeout")
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(60))
                group.create_task(failing())
        except* KeyError:
            heard.append("group")
        return request

    async def groups_first(request, context):
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(failing())
                await asyncio.Event().wait()
        except* KeyError:
            heard.append("group first")
        return request

    async def failing():
        raise KeyError

    front.behaviors.unary = unary
    assert await front.unary(b"x", timeout=30) == b"x"
    front.behaviors.unary = groups_first
    assert await front.unary(b"y", timeout=30) == b"y"
    assert heard == ["timeout", "group", "group first"]


async def test_a_drain_ends_calls_that_outlive_its_grace(front: BytesFront) -> None:
    """The behavior is cancelled; the caller hears that nobody will answer."""
    began, stopped = asyncio.Event(), asyncio.Event()

    async def stuck(request, context):
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    front.behaviors.unary = stuck
    call = front.unary()
    await asyncio.wait_for(began.wait(), 30)
    await front.drain(0.05)
    error = await error_of(call)

    await asyncio.wait_for(stopped.wait(), 30)
    assert error.code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)
