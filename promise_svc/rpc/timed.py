"""A time limit that costs nothing where nobody waits, and the cost of a first step."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from time import perf_counter
from typing import Any, TypeVar, cast

from promise_svc.errors import DeadlineExceeded

TIMER_SLACK_SECONDS = 0.25
"""How much later than its use case the guard ends a call: the use case knows better what to say."""

Took = Callable[[float], None]
"""Is told the seconds until work ended or first waited."""

ReplyT = TypeVar("ReplyT")


async def timed(work: Awaitable[ReplyT], timeout: float, took: Took | None = None) -> ReplyT:
    """``work``'s result; DeadlineExceeded ``TIMER_SLACK_SECONDS`` after its time."""
    # A timer costs as much as a look-up, and most reads end without waiting for anything.
    steps = work.__await__()
    began = perf_counter()
    try:
        waiting_for = steps.send(None)
    except StopIteration as ended:
        return cast(ReplyT, ended.value)
    finally:
        if took is not None:
            took(perf_counter() - began)
    try:
        async with asyncio.timeout(timeout + TIMER_SLACK_SECONDS):
            reply: ReplyT = await _Begun(steps, waiting_for)
            return reply
    except TimeoutError as error:
        raise DeadlineExceeded("time ran out") from error


async def measured(work: Awaitable[ReplyT], took: Took) -> ReplyT:
    """``work``'s result."""
    steps = work.__await__()
    began = perf_counter()
    try:
        waiting_for = steps.send(None)
    except StopIteration as ended:
        return cast(ReplyT, ended.value)
    finally:
        took(perf_counter() - began)
    reply: ReplyT = await _Begun(steps, waiting_for)
    return reply


class _Begun(Awaitable[ReplyT]):
    """What is left of an awaitable after its first step."""

    def __init__(self, steps: Generator[Any, Any, ReplyT], waiting_for: Any) -> None:
        self._steps = steps
        self._first: list[Any] = [waiting_for]

    def __await__(self) -> _Begun[ReplyT]:
        return self

    def __iter__(self) -> _Begun[ReplyT]:
        return self

    def __next__(self) -> Any:
        return self.send(None)

    def send(self, value: Any) -> Any:
        return self._first.pop() if self._first else self._steps.send(value)

    def throw(self, *error: Any) -> Any:
        self._first.clear()
        return self._steps.throw(*error)

    def close(self) -> None:
        self._steps.close()
