"""Starts embedded engines again that died, as a service manager does for engines of one's own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from promise_svc.errors import PromiseServiceError

POLL_SECONDS = 0.5
BACK_OFF_SECONDS = (0.5, 10.0)


class Engine(Protocol):
    """What the watch needs of an engine. All calls may block."""

    def fallen(self) -> str:
        """Name of a process of it that died; empty while all run."""
        ...

    def revive(self) -> None:
        """Start what died, on the old data and port. Unavailable when it does not come up."""
        ...


class Observer(Protocol):
    """Who tells the operator."""

    def died(self, engine: str) -> None: ...
    def back(self, engine: str) -> None: ...
    def failed(self, engine: str, error: Exception) -> None: ...


async def keep_alive(engines: Sequence[Engine], observer: Observer, stop: asyncio.Event) -> None:
    """Until ``stop``; a start under way is waited for, so that nothing runs on after the stop."""

    async def rest(seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), seconds)

    async def watch(engine: Engine) -> None:
        while not stop.is_set():
            if name := engine.fallen():
                observer.died(name)
                await _revived(engine, name, observer, stop, rest)
            await rest(POLL_SECONDS)

    await asyncio.gather(*map(watch, engines))


async def _revived(
    engine: Engine,
    name: str,
    observer: Observer,
    stop: asyncio.Event,
    rest: Callable[[float], Awaitable[None]],
) -> None:
    delay, longest = BACK_OFF_SECONDS
    while not stop.is_set():
        try:
            await asyncio.to_thread(engine.revive)
        except (PromiseServiceError, OSError) as error:
            observer.failed(name, error)
        else:
            observer.back(name)
            return
        await rest(delay)
        delay = min(longest, 2 * delay)
