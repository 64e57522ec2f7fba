"""One multiplexed connection to one node of the cluster.

Commands are answered in order, so replies are matched by a queue. A caller that goes away never
touches the socket: its reply is read and dropped (cancelling a redis-py call drops the connection
instead, which at load becomes a storm of reconnects).
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, cast

import hiredis

from promise_svc.errors import OutcomeUnknown, Unavailable

GONE_SECONDS = 8
"""A node from which the network brings no sign of life for this long is taken for gone. Longer
than a lost packet or two need, far shorter than the quarter of an hour of TCP's own patience."""

Command = tuple[str | bytes | int, ...]
Reply = bytes | int | list["Reply"] | hiredis.ReplyError | None


class Node(NamedTuple):
    """Where a node listens."""

    host: str
    port: int


class Access(NamedTuple):
    """How to be let in. The password appears in no message and no repr."""

    username: str = ""
    password: str = ""
    tls: ssl.SSLContext | None = None
    connect_timeout: float = 2.0

    def __repr__(self) -> str:
        return f"Access(username={self.username!r}, tls={self.tls is not None})"


OnReply = Callable[[Reply | OutcomeUnknown], None]
"""Hears a reply, or that none will come; must not raise."""


class Connection(asyncio.Protocol):
    """RESP2 over one socket. Not thread-safe; lives on one loop."""

    def __init__(self, node: Node, on_push: Callable[[Reply], None] | None = None) -> None:
        self.node = node
        self.closed = asyncio.get_running_loop().create_future()
        self._reader = hiredis.Reader()
        self._waiting: deque[OnReply] = deque()
        self._transport: asyncio.Transport | None = None
        self._on_push = on_push
        self._open = False
        self.heard = False
        """Set by every byte that comes in; whoever watches sets it back."""

    @property
    def waiting(self) -> bool:
        """Whether an answer is still to come."""
        return bool(self._waiting)

    @classmethod
    async def open(
        cls,
        node: Node,
        access: Access,
        on_push: Callable[[Reply], None] | None = None,
    ) -> Connection:
        """Connect and authenticate. Unavailable when that fails, or takes longer than the connect
        timeout."""
        connection = cls(node, on_push)
        try:
            async with asyncio.timeout(access.connect_timeout):
                await asyncio.get_running_loop().create_connection(
                    lambda: connection, node.host, node.port, ssl=access.tls
                )
                await connection._authenticate(access)
                # A process that hangs lets everybody in; so does one that loads, and says so.
                await connection.send([("PING",)])[0]
        except (OSError, TimeoutError, OutcomeUnknown) as error:
            # Neither changes anything: the outcome need not be known.
            raise Unavailable(
                f"no connection to index node {node.host}:{node.port}: {type(error).__name__}"
            ) from error
        else:
            connection._open = True
            return connection
        finally:
            if not connection._open:
                connection.close()

    async def _authenticate(self, access: Access) -> None:
        if access.password:
            user = (access.username,) if access.username else ()
            reply = await self.send([("AUTH", *user, access.password)])[0]
            if isinstance(reply, Exception):
                raise Unavailable(f"{self.node.host}:{self.node.port} refused our credentials")

    def send(self, commands: Sequence[Command]) -> list[asyncio.Future[Reply]]:
        """Write commands at once; one future a reply. Error replies are results, not raised."""
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[Reply]] = [loop.create_future() for _ in commands]
        self.send_all(commands, [partial(_resolve, future) for future in futures])
        return futures

    def send_all(self, commands: Sequence[Command], on_reply: Sequence[OnReply]) -> None:
        """The same, answered as the replies are read: no future, no turn of the loop between."""
        if self._transport is None or self._transport.is_closing():
            raise Unavailable(f"index node {self.node.host}:{self.node.port} is away")
        self._waiting.extend(on_reply)
        self._transport.write(b"".join([_pack(command) for command in commands]))

    def post(self, command: Command) -> None:
        """Write a command whose answers are pushes (subscriptions)."""
        if self._transport is None:
            raise Unavailable(f"index node {self.node.host}:{self.node.port} is away")
        self._transport.write(_pack(command))

    async def execute(self, *command: str | bytes | int) -> Reply:
        """One command, one reply; error replies are raised as Unavailable with their text."""
        reply = await self.send([command])[0]
        if isinstance(reply, Exception):
            raise Unavailable(f"{command[0]!s} refused by the index: {reply}")
        return reply

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transport fulfills the interface without inheriting it.
        self._transport = cast(asyncio.Transport, transport)
        _notice_loss(transport.get_extra_info("socket"))

    def data_received(self, data: bytes) -> None:
        self.heard = True
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            if self._on_push is not None and not self._waiting:
                self._on_push(reply)
                continue
            self._waiting.popleft()(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        error = OutcomeUnknown(
            f"the connection to index node {self.node.host}:{self.node.port} broke before the "
            "answer; ask again with the same key"
        )
        waiting, self._waiting = self._waiting, deque()
        for on_reply in waiting:
            on_reply(error)
        if not self.closed.done():
            self.closed.set_result(None)


def _resolve(future: asyncio.Future[Reply], reply: Reply | OutcomeUnknown) -> None:
    if future.done():
        return
    if isinstance(reply, OutcomeUnknown):
        future.set_exception(reply)
        future.exception()  # Nobody may be waiting any more; that is no warning.
    else:
        future.set_result(reply)


def _notice_loss(connected: socket.socket | None) -> None:
    """Break the connection to a node that went without a word, idle or with bytes under way.

    A process that hangs on a live machine still acknowledges: callers' timeouts are for that.
    """
    if connected is None:
        return
    options = {"TCP_KEEPIDLE": 3, "TCP_KEEPINTVL": 1, "TCP_KEEPCNT": GONE_SECONDS - 3,
               "TCP_USER_TIMEOUT": GONE_SECONDS * 1000}  # fmt: skip
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in options.items():
        option = getattr(socket, name, None)  # not every system has each
        if option is not None:
            connected.setsockopt(socket.IPPROTO_TCP, option, value)


def _pack(command: Command) -> bytes:
    packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]  # its stub wants a 1-tuple
    return packed
