"""A time limit that costs nothing where nobody waits, and the cost of a first step."""

from __future__ import annotations

import asyncio
import types
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
            reply: ReplyT = await _begun(steps, waiting_for)
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
    reply: ReplyT = await _begun(steps, waiting_for)
    return reply


@types.coroutine
def _begun(steps: Generator[Any, Any, ReplyT], waiting_for: Any) -> Generator[Any, Any, ReplyT]:
    """What is left of an awaitable after its first step. A generator, for then what follows goes
    to ``steps`` without another frame of Python for each of them."""
    while True:
        try:
            yield waiting_for
        except GeneratorExit:
            steps.close()
            raise
        except BaseException as error:
            try:
                waiting_for = steps.throw(error)
            except StopIteration as ended:
                return cast(ReplyT, ended.value)
        else:
            return (yield from steps)
