"""Serves the metrics over HTTP, by default on loopback only.

A small asyncio server rather than prometheus_client's thread: rendering holds the GIL either way,
a thread would read the table's counters while the loop writes them, and here the loop gets its turn
between one metric and the next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import Metric

REQUEST_SECONDS = 5.0
"""A client that has not sent its request by then is cut off."""

REQUEST_BYTES_MAX = 8192


class MetricsEndpoint:
    """GET /metrics; anything else is 404 or 405. One answer a connection."""

    def __init__(
        self,
        registry: CollectorRegistry,
        host: str = "127.0.0.1",
        port: int = 0,
        refresh: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """``refresh`` is awaited before each page; it raises nothing and takes its time."""
        self._registry = registry
        self._refresh = refresh
        self._host = host
        self._port = port
        self._server: asyncio.Server | None = None

    async def start(self) -> int:
        """Listen; returns the port, a free one for 0. OSError when it is taken."""
        self._server = await asyncio.start_server(
            self._serve, self._host, self._port, limit=REQUEST_BYTES_MAX
        )
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stop listening; idempotent."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(await self._answer(head))
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # the client's trouble; a scraper tries again by itself
        finally:
            writer.close()

    async def _answer(self, head: bytes) -> bytes:
        method, _, rest = head.partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        if path != b"/metrics":
            return _response("404 Not Found", b"see /metrics\n")
        if method != b"GET":
            return _response("405 Method Not Allowed", b"GET only\n")
        return _response("200 OK", await self._render(), CONTENT_TYPE_LATEST)

    async def _render(self) -> bytes:
        if self._refresh is not None:
            await self._refresh()
        parts = []
        for metric in list(self._registry.collect()):
            parts.append(generate_latest(_One(metric)))
            await asyncio.sleep(0)
        return b"".join(parts)


class _One:
    """A registry of one metric, the unit of rendering."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterable[Metric]:
        return (self._metric,)


def _response(status: str, body: bytes, content_type: str = "text/plain; charset=utf-8") -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
