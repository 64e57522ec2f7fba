"""A child's side of a supervised service: it dies with its supervisor, and tells how it fares.

The link is a socket of JSON lines. From the child: ``{"ready": true}``, ``{"failed": "why",
"temporary": false}`` and ``{"page": [...]}``, its metrics. From the supervisor: ``page``, a request
for them.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import signal
import socket
from typing import NamedTuple

from prometheus_client import CollectorRegistry

from promise_svc.errors import ConfigError, OutcomeUnknown, PromiseServiceError, Unavailable
from promise_svc.telemetry import page_of

WORKER = "worker"
BACKGROUND = "background"

LINE_BYTES_MAX = 16 * 1024 * 1024
_PR_SET_PDEATHSIG = 1


class Assignment(NamedTuple):
    """What a child is told on its command line."""

    role: str
    number: int
    listen: str
    """Of a worker; ``fd:3,4`` are sockets it inherits."""
    link_fd: int
    supervisor_pid: int

    @property
    def name(self) -> str:
        """``worker-2``, ``background``."""
        return f"{self.role}-{self.number}" if self.role == WORKER else self.role


def die_with(supervisor_pid: int) -> None:
    """Have the kernel kill this process when the supervisor ends, however that ends.

    Call it in the main thread. A supervisor that has ended already ends us here.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != supervisor_pid:
        os.kill(os.getpid(), signal.SIGKILL)


class SupervisorLink:
    """The child's end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._answering: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, link_fd: int) -> SupervisorLink:
        """Take the inherited socket."""
        return cls(*await asyncio.open_connection(sock=socket.socket(fileno=link_fd)))

    def show(self, registry: CollectorRegistry) -> None:
        """Send this registry's page whenever it is asked for."""
        self._answering = asyncio.create_task(self._answer(registry), name="supervisor link")

    async def ready(self) -> None:
        """Say that this child does its work now."""
        await self._say({"ready": True})

    async def failed(self, error: PromiseServiceError) -> None:
        """Say why this child ends."""
        # Settings were good when the supervisor began, so a file changed since, and may again.
        temporary = isinstance(error, Unavailable | OutcomeUnknown | ConfigError)
        await self._say({"failed": error.message, "temporary": temporary})

    async def close(self, registry: CollectorRegistry | None = None) -> None:
        """Send the last page, and no more."""
        if self._answering is not None:
            self._answering.cancel()
        if registry is not None:
            await self._say({"page": page_of(registry)})
        self._writer.close()

    async def _answer(self, registry: CollectorRegistry) -> None:
        while await self._reader.readline():
            await self._say({"page": page_of(registry)})

    async def _say(self, message: dict[str, object]) -> None:
        try:
            self._writer.write(json.dumps(message).encode() + b"\n")
            await self._writer.drain()
        except ConnectionError:
            pass  # the supervisor has ended, and so shall we
