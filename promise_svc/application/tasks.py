"""Tasks with an owner, and work that a caller's cancellation cannot stop halfway."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


class OwnedTasks:
    """Starts tasks, keeps them alive, and waits for them at close."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def shielded(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Wait for ``work``; when the waiter is cancelled the work goes on."""
        task = self.start(work)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            # Nobody will read the outcome any more; an unread exception is no warning.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            raise

    async def close(self, seconds: float) -> None:
        """Wait up to ``seconds`` for what is under way, then cancel it."""
        if not self._tasks:
            return
        _, late = await asyncio.wait(self._tasks, timeout=seconds)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)


class Deadline:
    """A point in the loop's time by which everything must be answered."""

    def __init__(self, timeout: float) -> None:
        self._at = asyncio.get_running_loop().time() + timeout

    def left(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self._at - asyncio.get_running_loop().time())
