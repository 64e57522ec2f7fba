"""Behaviors that block, for the native front: each runs in a thread, as under grpc.aio.

Ours are all async. This serves what others generate: a servicer's methods that nobody has written
are plain functions.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
import grpc.aio

if TYPE_CHECKING:
    from promise_svc.hotpath import GrpcCall

_END = object()


def is_async(behavior: Callable[..., Any]) -> bool:
    """Whether a behavior runs in the event loop."""
    return inspect.iscoroutinefunction(behavior) or inspect.isasyncgenfunction(behavior)


def in_thread(
    handler: grpc.RpcMethodHandler[Any, Any], behavior: Callable[..., Any], pool: Executor
) -> Callable[[Any, GrpcCall], Any]:
    """The async form of a blocking behavior: a coroutine, or a generator where it streams."""

    def call_it(request: Any, call: GrpcCall, loop: asyncio.AbstractEventLoop) -> Any:
        # On grpc's own iterator the behavior may call next(), so it must be one.
        taken = _BlockingRequests(call, loop) if handler.request_streaming else request
        return behavior(taken, BlockingContext(call, loop))

    async def unary(request: Any, call: GrpcCall) -> Any:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(pool, call_it, request, call, loop)

    async def streaming(request: Any, call: GrpcCall) -> AsyncIterator[Any]:
        loop = asyncio.get_running_loop()
        replies = iter(await loop.run_in_executor(pool, call_it, request, call, loop))
        while (reply := await loop.run_in_executor(pool, next, replies, _END)) is not _END:
            yield reply

    return streaming if handler.response_streaming else unary


class BlockingContext:
    """``grpc.ServicerContext`` for a thread: waits where the call's own context is awaited."""

    def __init__(self, call: GrpcCall, loop: asyncio.AbstractEventLoop) -> None:
        self._call = call
        self._loop = loop
        for name in (
            "invocation_metadata", "time_remaining", "peer", "peer_identities",
            "peer_identity_key", "auth_context", "set_code", "code", "set_details", "details",
            "set_trailing_metadata", "trailing_metadata", "set_compression",
            "disable_next_message_compression",
        ):  # fmt: skip
            setattr(self, name, getattr(call, name))

    def is_active(self) -> bool:
        return not self._call.done()

    def cancel(self) -> None:
        self._wait(self._call.abort(grpc.StatusCode.CANCELLED, "cancelled by the servicer"))

    def add_callback(self, callback: Callable[[], None]) -> bool:
        self._loop.call_soon_threadsafe(self._call.add_done_callback, lambda _: callback())
        return self.is_active()

    def send_initial_metadata(self, initial_metadata: Any) -> None:
        self._wait(self._call.send_initial_metadata(initial_metadata))

    def abort(self, code: Any, details: str = "", trailing_metadata: Any = ()) -> NoReturn:
        self._wait(self._call.abort(code, details, trailing_metadata))
        raise AssertionError("abort raises")

    def abort_with_status(self, status: Any) -> NoReturn:
        self.abort(status.code, status.details, status.trailing_metadata)

    def _wait(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()


class _BlockingRequests(Iterator[Any]):
    """The requests of a streaming call, read from a thread."""

    def __init__(self, call: GrpcCall, loop: asyncio.AbstractEventLoop) -> None:
        self._call = call
        self._loop = loop

    def __next__(self) -> Any:
        message = asyncio.run_coroutine_threadsafe(self._call.read(), self._loop).result()
        if message is grpc.aio.EOF:
            raise StopIteration
        return message
