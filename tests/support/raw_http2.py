"""A caller that may send whatever frames it likes, on the ``h2`` library and by hand."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events
import h2.exceptions

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    range(10)
)
END_STREAM, END_HEADERS = 0x1, 0x4


def message(body: bytes, *, flag: int = 0) -> bytes:
    """A gRPC message: five bytes of prefix and the body."""
    return struct.pack(">BI", flag, len(body)) + body


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """One HTTP/2 frame, right or wrong."""
    head = struct.pack(">I", len(payload))[1:] + bytes((kind, flags))
    return head + struct.pack(">I", stream_id) + payload


def request_headers(path: str, *extra: tuple[str, str], **replaced: str) -> list[tuple[str, str]]:
    """The head of a call; ``content_type``, ``method`` replace what a good caller sends."""
    return [
        (":method", replaced.get("method", "POST")),
        (":scheme", "http"),
        (":path", path),
        (":authority", "test"),
        ("te", "trailers"),
        ("content-type", replaced.get("content_type", "application/grpc")),
        *extra,
    ]


@dataclass
class Answer:
    """What came back on one stream."""

    headers: dict[str, str] = field(default_factory=dict)
    trailers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    ended: bool = False
    reset_code: int | None = None

    @property
    def status(self) -> int | None:
        """The gRPC status, from the trailers or, without a message, from the headers."""
        text = self.trailers.get("grpc-status", self.headers.get("grpc-status"))
        return None if text is None else int(text)


class RawCaller:
    """One connection. ``conn`` makes good frames; ``write`` sends anything."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, greedy: bool
    ) -> None:
        config = h2.config.H2Configuration(header_encoding="utf-8", validate_outbound_headers=False)
        self.conn = h2.connection.H2Connection(config)
        self.answers: dict[int, Answer] = {}
        self.goaway: h2.events.ConnectionTerminated | None = None
        self.pings_answered = 0
        self.pings_received = 0
        self.pings_before_goaway = 0
        self.closed = False
        self.held: bytearray | None = None
        """While it is one, good frames go there instead of out."""
        self._greedy = greedy
        self._reader, self._writer = reader, writer
        self._changed = asyncio.Event()
        self._reading = asyncio.create_task(self._read())
        self.conn.initiate_connection()
        self.flush()

    def call(
        self,
        path: str,
        body: bytes | None = b"",
        *extra: tuple[str, str],
        end: bool = True,
        **replaced: str,
    ) -> int:
        """Begin a call, with one message unless ``body`` is None; returns its stream."""
        stream_id = self.conn.get_next_available_stream_id()
        self.answers[stream_id] = Answer()
        headers = request_headers(path, *extra, **replaced)
        self.conn.send_headers(stream_id, headers, end_stream=end and body is None)
        if body is not None:
            self.send(stream_id, message(body), end=end)
        self.flush()
        return stream_id

    def send(self, stream_id: int, data: bytes, *, end: bool = False) -> None:
        """DATA as it is, in frames of the greatest size."""
        size = self.conn.max_outbound_frame_size
        parts = [data[start : start + size] for start in range(0, len(data), size)] or [b""]
        for index, part in enumerate(parts):
            self.conn.send_data(stream_id, part, end_stream=end and index == len(parts) - 1)
        self.flush()

    def write(self, data: bytes) -> None:
        """Bytes that h2 knows nothing of."""
        self._writer.write(data)

    def flush(self) -> None:
        if data := self.conn.data_to_send():
            if self.held is not None:
                self.held += data
            else:
                self._writer.write(data)

    def take_everything(self) -> None:
        """Open the windows that were held shut, and keep them open."""
        self._greedy = True
        for stream_id, answer in self.answers.items():
            if answer.body:
                self.conn.acknowledge_received_data(len(answer.body), stream_id)
        self.flush()

    async def answer_of_ping(self) -> None:
        """Wait until the peer has seen all that was sent before."""
        before = self.pings_answered
        self.conn.ping(b"waiting!")
        self.flush()
        await self.until(lambda: self.pings_answered > before)

    async def drained(self) -> None:
        """Wait until the peer has taken what was written, or has gone."""
        try:
            await self._writer.drain()
        except ConnectionError:
            self.closed = True

    async def answer(self, stream_id: int, seconds: float = 5) -> Answer:
        """The whole answer of a stream, or what there is when the connection ends."""
        answer = self.answers[stream_id]
        await self.until(
            lambda: answer.ended or answer.reset_code is not None or self.closed, seconds
        )
        return answer

    async def until(self, holds: Callable[[], object], seconds: float = 5) -> None:
        """Wait for what the peer is about to do."""
        async with asyncio.timeout(seconds):
            while not holds():
                self._changed.clear()
                await self._changed.wait()

    def stop_reading(self) -> None:
        """Leave everything in the socket from now on."""
        self._reading.cancel()
        self._writer.transport.pause_reading()  # type: ignore[attr-defined]  # of sockets

    async def close(self) -> None:
        self._writer.close()
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)

    async def _read(self) -> None:
        try:
            waiting = b""
            while data := await self._reader.read(65_536):
                frames, waiting = whole_frames(waiting + data)
                # One by one: h2 drops what comes in one piece with a GOAWAY, pings included.
                for each in frames:
                    for event in self.conn.receive_data(each):
                        self._take(event)
                self.flush()
                self._changed.set()
        except (ConnectionError, h2.exceptions.ProtocolError):
            pass
        self.closed = True
        self._changed.set()

    def _take(self, event: h2.events.Event) -> None:
        answer = self.answers.get(getattr(event, "stream_id", None) or 0, Answer())
        if isinstance(event, h2.events.ResponseReceived):
            answer.headers = dict(event.headers)
        elif isinstance(event, h2.events.TrailersReceived):
            answer.trailers = dict(event.headers)
        elif isinstance(event, h2.events.DataReceived):
            answer.body += event.data
            if self._greedy:
                self.conn.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            answer.ended = True
        elif isinstance(event, h2.events.StreamReset):
            answer.reset_code = event.error_code
        elif isinstance(event, h2.events.PingAckReceived):
            self.pings_answered += 1
        elif isinstance(event, h2.events.PingReceived):
            self.pings_received += 1
        elif isinstance(event, h2.events.ConnectionTerminated):
            if self.goaway is None:
                self.pings_before_goaway = self.pings_received
            self.goaway = event
            # h2 would hear nothing more, but the open calls are still to be answered.
            self.conn.state_machine.state = h2.connection.ConnectionState.CLIENT_OPEN


@asynccontextmanager
async def raw_caller(port: int, *, greedy: bool = True) -> AsyncIterator[RawCaller]:
    """A connection to loopback; ``greedy`` takes replies as they come."""
    caller = RawCaller(*await asyncio.open_connection("127.0.0.1", port), greedy=greedy)
    try:
        yield caller
    finally:
        await caller.close()


def whole_frames(data: bytes) -> tuple[list[bytes], bytes]:
    """The frames that are complete, and what is left."""
    frames = []
    while len(data) >= 9 and len(data) >= 9 + int.from_bytes(data[:3], "big"):
        size = 9 + int.from_bytes(data[:3], "big")
        frames.append(data[:size])
        data = data[size:]
    return frames, data
