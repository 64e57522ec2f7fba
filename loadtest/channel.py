"""Channels of Python clients, which carry the token of PROMISE_TOKEN where that is set."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import grpc
import grpc.aio

TOKEN_VARIABLE = "PROMISE_TOKEN"


def open_channel(target: str, options: Sequence[tuple[str, Any]] = ()) -> grpc.aio.Channel:
    """An asynchronous channel; close it, or use it as a context manager."""
    token = os.environ.get(TOKEN_VARIABLE)
    interceptors = [_BearerAio(token)] if token else []
    return grpc.aio.insecure_channel(target, options=list(options), interceptors=interceptors)


def open_blocking_channel(target: str) -> Any:
    """The same for threads; a context manager."""
    channel, token = grpc.insecure_channel(target), os.environ.get(TOKEN_VARIABLE)
    return grpc.intercept_channel(channel, _Bearer(token)) if token else channel


def bearer_metadata() -> tuple[tuple[str, str], ...]:
    """What each call carries; empty without a token."""
    token = os.environ.get(TOKEN_VARIABLE)
    return (("authorization", f"Bearer {token}"),) if token else ()


class _BearerAio(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self, token: str) -> None:
        self._authorization = ("authorization", f"Bearer {token}")

    async def intercept_unary_unary(
        self, continuation: Callable[..., Any], details: Any, request: Any
    ) -> Any:
        metadata = (*(details.metadata or ()), self._authorization)
        return await continuation(details._replace(metadata=grpc.aio.Metadata(*metadata)), request)


class _Bearer(grpc.UnaryUnaryClientInterceptor):
    def __init__(self, token: str) -> None:
        self._authorization = ("authorization", f"Bearer {token}")

    def intercept_unary_unary(
        self, continuation: Callable[..., Any], details: Any, request: Any
    ) -> Any:
        metadata = (*(details.metadata or ()), self._authorization)
        return continuation(details._replace(metadata=metadata), request)
