"""An event loop whose time is a number, and processes on it that can vanish between two steps."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from typing import Any

Dial = Callable[[Callable[[], asyncio.BaseProtocol], str, int], Awaitable[asyncio.BaseTransport]]
"""Protocol factory, host, port: a connection, or OSError."""


_LAST_WORDS_MAX = 100
"""Awaits that the end of a coroutine may still try."""


class Process:
    """Whose code runs: every callback inherits it through its context."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.tasks: list[asyncio.Task[Any]] = []
        """Kept after the end too: what nobody refers to would be finished by the collector."""

    def __repr__(self) -> str:
        return self.name


OUTSIDE = Process("outside")
"""Shoppers, engines, the network: what no crash of a worker touches."""

_running: contextvars.ContextVar[Process] = contextvars.ContextVar("process", default=OUTSIDE)


class Stalled(Exception):
    """Nothing is left to do, and somebody still waits."""


class VirtualLoop(asyncio.BaseEventLoop):
    """Deterministic: one thread, no selector, time leaps to the next timer.

    Give it a ``dial`` to let code on it connect. A float of seconds since the start is its time.
    """

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._selector = self
        self._clock_resolution = 1e-9
        self._deaths = 0
        self.dial: Dial | None = None
        self.failures: list[str] = []
        self.set_exception_handler(self._note)

    # what BaseEventLoop asks of a selector and of a real loop

    def time(self) -> float:
        return self._now

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            raise Stalled("nothing is scheduled")
        self._now += max(0.0, timeout)
        return []

    def _process_events(self, events: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass

    def run_in_executor(self, executor: Any, work: Any, *args: Any) -> asyncio.Future[Any]:
        """In line: a thread would make two runs differ."""
        future = self.create_future()
        try:
            future.set_result(work(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    async def create_connection(  # type: ignore[override]
        self, protocol_factory: Any, host: str = "", port: int = 0, **_: Any
    ) -> tuple[asyncio.BaseTransport, asyncio.BaseProtocol]:
        assert self.dial is not None
        protocols: list[asyncio.BaseProtocol] = []

        def build() -> asyncio.BaseProtocol:
            protocols.append(protocol_factory())
            return protocols[0]

        transport = await self.dial(build, host, port)
        return transport, protocols[0]

    # processes

    def spawn(self, process: Process, work: Any) -> asyncio.Task[Any]:
        """A task of ``process``; all it starts is the process's too."""
        context = contextvars.copy_context()
        context.run(_running.set, process)
        return self.create_task(work, context=context)

    def process(self) -> Process:
        """Whose code runs now."""
        return _running.get()

    def kill(self, process: Process) -> None:
        """Nothing of ``process`` runs from here on: no except, no finally, no timer."""
        process.alive = False
        self._deaths += 1
        process.tasks = [task for task in asyncio.all_tasks(self) if _owner(task) is process]
        for handle in [*self._ready, *self._scheduled]:  # type: ignore[attr-defined]
            if _of(handle._context) is process:
                handle.cancel()

    def bury(self, tasks: list[asyncio.Task[Any]]) -> None:
        """End what is left of dead processes, once nobody watches any more: whatever it awaits is
        cancelled, until it has nothing left to await. Call from code that the loop runs."""
        for task in tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            work = task.get_coro()
            for _ in range(_LAST_WORDS_MAX):
                try:
                    work.throw(asyncio.CancelledError())  # type: ignore[union-attr]
                except (StopIteration, asyncio.CancelledError, Exception):
                    break

    def create_task(self, work: Any, *, name: Any = None, context: Any = None) -> asyncio.Task[Any]:
        task = super().create_task(work, name=name, context=context)
        task.process = _running.get() if context is None else _of(context)  # type: ignore[attr-defined]
        return task

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> asyncio.Handle:
        handle = super().call_soon(callback, *args, context=context)
        if self._deaths and not _of(handle._context).alive:  # type: ignore[attr-defined]
            handle.cancel()
        return handle

    def call_later(self, delay: float, callback: Any, *args: Any, context: Any = None) -> Any:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> Any:
        handle = super().call_at(when, callback, *args, context=context)
        if self._deaths and not _of(handle._context).alive:  # type: ignore[attr-defined]
            handle.cancel()
        return handle

    def _note(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A bug of the product, or of the simulator: never nothing."""
        task = context.get("task") or context.get("future")
        if isinstance(task, asyncio.Task) and not _owner(task).alive:
            return
        error = context.get("exception")
        self.failures.append(f"{context.get('message')}: {error!r}")


def _of(context: contextvars.Context) -> Process:
    return context.get(_running, OUTSIDE)


def _owner(task: asyncio.Task[Any]) -> Process:
    owner = getattr(task, "process", OUTSIDE)
    assert isinstance(owner, Process)
    return owner
