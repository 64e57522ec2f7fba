"""The supervisor's side of one child process: start it, hear it, stop it."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from promise_svc.rpc.supervised import LINE_BYTES_MAX
from promise_svc.telemetry import Page, parse_page

LINK_SECONDS = 2.0
"""How long a dead child's last words are waited for: what it started may hold its link open."""


class ChildProcess:
    """One child, in a session of its own: Ctrl-C reaches the supervisor alone."""

    def __init__(
        self, name: str, process: Process, on_page: Callable[[ChildProcess, Page], None]
    ) -> None:
        self.name = name
        self.pid = process.pid
        self.ready = asyncio.Event()
        self.ended = asyncio.Event()
        """Set when it is gone and its last page was told."""
        self.failure = ""
        """What the child said of its end, if it said something."""
        self.temporary = False
        """Its end was for lack of something that may come back."""
        self.unanswered = 0
        """Looks at it in a row that it did not answer."""
        self.silent = False
        """Whether it left the last question for its metrics unanswered."""
        self.stopping = False
        self._process = process
        self._on_page = on_page
        self._began = self._ready_at = asyncio.get_running_loop().time()
        self._paged = asyncio.Event()

    @classmethod
    async def spawn(
        cls,
        name: str,
        command: Callable[[int], Sequence[str]],
        *,
        environment: Mapping[str, str],
        inherited: Sequence[socket.socket],
        on_page: Callable[[ChildProcess, Page], None],
        on_end: Callable[[ChildProcess], None],
    ) -> ChildProcess:
        """Start ``command(link_fd)``, which keeps the sockets ``inherited`` under their numbers.

        A fresh interpreter, never a fork of this one: an event loop, gRPC and threads do not
        survive that. OSError when the system has no room for it.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *command(theirs.fileno()),
                env=environment,
                pass_fds=[theirs.fileno(), *(s.fileno() for s in inherited)],
                stdin=DEVNULL,
                start_new_session=True,
            )
        child = cls(name, process, on_page)
        try:
            reader, child._link = await asyncio.open_connection(sock=ours, limit=LINE_BYTES_MAX)
        except BaseException:
            process.kill()
            raise
        child._watching = asyncio.create_task(child._watch(reader, on_end), name=name)
        return child

    _link: asyncio.StreamWriter
    _watching: asyncio.Task[None]

    async def started(self, seconds: float) -> bool:
        """Whether it was ready before it ended and within the time."""
        waits = {asyncio.ensure_future(self.ready.wait()), asyncio.ensure_future(self.ended.wait())}
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        return self.ready.is_set() and not self.ended.is_set()

    def ready_seconds(self) -> float:
        """For how long it has been ready; 0 when it never was."""
        return asyncio.get_running_loop().time() - self._ready_at if self.ready.is_set() else 0.0

    def seconds(self) -> float:
        """For how long it has been there."""
        return asyncio.get_running_loop().time() - self._began

    def why(self) -> str:
        """What is known of its end."""
        if self.failure:
            return self.failure
        code = self._process.returncode
        if code is None:
            return "it was not ready in time"
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    async def refresh(self, seconds: float) -> bool:
        """Have its page told anew; whether it did so in time. Asks none that is not ready."""
        if self.ended.is_set() or not self.ready.is_set():
            return True
        self._paged.clear()
        self._link.write(b"page\n")
        try:
            await asyncio.wait_for(self._paged.wait(), seconds)
        except TimeoutError:
            return False
        return True

    def kill(self, why: str) -> None:
        """SIGKILL, which also ends what is stopped; told as the reason of its end."""
        self.failure = why
        self._signal(signal.SIGKILL)

    async def stop(self, seconds: float) -> bool:
        """SIGTERM, and SIGKILL to one that has not ended in time; whether it had."""
        self.stopping = True
        self._signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self.ended.wait(), seconds)
        except TimeoutError:
            self._signal(signal.SIGKILL)
            await self.ended.wait()
            return False
        return True

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def _watch(
        self, reader: asyncio.StreamReader, on_end: Callable[[ChildProcess], None]
    ) -> None:
        hearing = asyncio.create_task(self._hear(reader))
        await self._process.wait()
        await asyncio.wait({hearing}, timeout=LINK_SECONDS)
        hearing.cancel()
        self._link.close()
        self.ended.set()
        self._paged.set()
        on_end(self)

    async def _hear(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                if line.endswith(b"\n"):  # else its writer was killed in the middle
                    self._take(json.loads(line))
        except ConnectionError:
            return

    def _take(self, message: dict[str, object]) -> None:
        if "ready" in message:
            self._ready_at = asyncio.get_running_loop().time()
            self.ready.set()
        if "failed" in message:
            self.failure = str(message["failed"])
            self.temporary = bool(message["temporary"])
        if "page" in message:
            page = message["page"]
            assert isinstance(page, list)
            self._on_page(self, parse_page(page))
            self._paged.set()
