"""Connections are given back whatever becomes of those who borrowed them."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

from promise_svc.adapters.order_store.pool import borrowed


class SlowPool:
    """As the driver's: gives back in a task of its own, which fails when the server is frozen."""

    def __init__(self) -> None:
        self.releasing, self.failed = asyncio.Event(), asyncio.Event()

    async def acquire(self, timeout: float) -> object:
        return object()

    async def release(self, connection: object) -> None:
        await asyncio.shield(self._reset())

    async def _reset(self) -> None:
        self.releasing.set()
        await self.failed.wait()
        raise TimeoutError


async def test_a_connection_that_fails_after_its_borrower_left_is_no_error_of_ours() -> None:
    """No line of the interpreter's about an exception that nobody retrieved."""
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    pool = SlowPool()

    async def borrow() -> None:
        async with borrowed(pool, 1.0):  # type: ignore[arg-type]
            pass

    borrower = asyncio.create_task(borrow())
    await pool.releasing.wait()
    borrower.cancel()
    await asyncio.wait({borrower})
    pool.failed.set()
    for _ in range(5):
        await asyncio.sleep(0)
        gc.collect()

    assert borrower.cancelled()
    assert told == []
