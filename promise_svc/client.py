"""The small typed client that a Python caller imports.

A call is a stub's method and its request; the client adds the deadline and sends it again where
the contract allows it: every request has a key or is a read, and it is always the same bytes under
the same key.

    async with PromiseClient("127.0.0.1:50051") as client:
        order = client.reservation("cart-7", [("sku-1", 2)], country="US", postal_code="94103")
        reply = await client.call(client.reservations.CreateReservation, order)
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import time
from collections.abc import Sequence
from typing import Self, TypeVar

import grpc
import grpc.aio
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2  # type: ignore[import-untyped]
from grpc_status import rpc_status

from promise_svc.errors import PromiseServiceError
from promise_svc.hotpath import shard_of
from promise_svc.v1 import admin_service_pb2_grpc as admin_grpc
from promise_svc.v1 import availability_service_pb2_grpc as availability_grpc
from promise_svc.v1 import network_service_pb2_grpc as network_grpc
from promise_svc.v1 import promise_service_pb2_grpc as promise_grpc
from promise_svc.v1 import reservation_service_pb2 as reservation_pb
from promise_svc.v1 import reservation_service_pb2_grpc as reservation_grpc
from promise_svc.v1 import supply_service_pb2_grpc as supply_grpc
from promise_svc.v1 import types_pb2 as types_pb

SHARD_COUNT = 64
"""The service's default; another one costs a wrongly minted id one more step, never an answer."""

DEADLINE_SECONDS = 10.0
"""Of a call with all its attempts; one attempt gets half, for a connection may die silently."""

CONNECT_SECONDS = 5.0

BACKOFF_SECONDS = 0.05
BACKOFF_SECONDS_MAX = 2.0

AGAIN = frozenset({"UNAVAILABLE", "NOT_SERVING", "OVERLOADED", "OUTCOME_UNKNOWN", ""})
"""Reasons after which the same call may be sent again; empty where the error is not the service's:
the connection broke, or the attempt got no answer."""

_UNANSWERED = frozenset(
    {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED,
     grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL}
)  # fmt: skip

_OPTIONS = (
    ("grpc.enable_retries", 0),  # the library would resend what it knows nothing about
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.max_receive_message_length", 4 * 1024 * 1024),
)

RequestT = TypeVar("RequestT")
ReplyT = TypeVar("ReplyT")


class CallFailed(PromiseServiceError):
    """A call that was not answered in time, or with an error; ``code`` is gRPC's."""

    def __init__(self, message: str, *, reason: str, code: grpc.StatusCode) -> None:
        super().__init__(f"{reason or code.name}: {message}", reason=reason)
        self.reason = reason  # type: ignore[misc]  # the service's own, or empty
        self.code = code

    @property
    def outcome_unknown(self) -> bool:
        """Whether it may have been carried out: ask again with the same key."""
        if self.reason:
            return self.reason == "OUTCOME_UNKNOWN"
        return self.code in _UNANSWERED


class PromiseClient:
    """One channel with every stub; an async context manager. Make it where its event loop runs."""

    def __init__(
        self,
        target: str,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        token: str = "",
        deadline_seconds: float = DEADLINE_SECONDS,
        shard_count: int = SHARD_COUNT,
    ) -> None:
        """``deadline_seconds`` is for a call with all its attempts. Connects at the first call.

        ``token`` is the caller's; without ``credentials`` it travels in plain sight.
        """
        self._target = target
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self._channel = (
            grpc.aio.insecure_channel(target, options=_OPTIONS)
            if credentials is None
            else grpc.aio.secure_channel(target, credentials, options=_OPTIONS)
        )
        self._deadline_seconds = deadline_seconds
        self._shard_count = shard_count
        self.availability = availability_grpc.AvailabilityServiceStub(self._channel)
        self.promises = promise_grpc.PromiseServiceStub(self._channel)
        self.reservations = reservation_grpc.ReservationServiceStub(self._channel)
        self.supply = supply_grpc.SupplyServiceStub(self._channel)
        self.network = network_grpc.NetworkServiceStub(self._channel)
        self.admin = admin_grpc.AdminServiceStub(self._channel)
        self.retry_count = 0
        """Attempts beyond the first, of all calls so far."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def connect(self, seconds: float = CONNECT_SECONDS) -> None:
        """Wait until connected. CallFailed as soon as an attempt fails: nothing listens there, or
        it speaks no TLS, or only that. Calls need none of this; they wait for a connection."""
        ready = grpc.ChannelConnectivity.READY
        failed = (
            grpc.ChannelConnectivity.TRANSIENT_FAILURE,
            grpc.ChannelConnectivity.SHUTDOWN,
        )
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while (state := self._channel.get_state(try_to_connect=True)) not in failed:
                    if state is ready:
                        return
                    await self._channel.wait_for_state_change(state)
        raise CallFailed(
            f"cannot connect to {self._target}", reason="", code=grpc.StatusCode.UNAVAILABLE
        )

    async def close(self) -> None:
        """Cut the connection; calls under way fail."""
        await self._channel.close()

    async def call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[RequestT, ReplyT],
        request: RequestT,
        *,
        deadline_seconds: float | None = None,
    ) -> ReplyT:
        """The reply. The same request is sent again until it is answered or time is up.

        Raises CallFailed with the last error. Cost: gRPC's, and nothing beside it.
        """
        seconds = self._deadline_seconds if deadline_seconds is None else deadline_seconds
        until = time.monotonic() + seconds
        backoff = BACKOFF_SECONDS
        while True:
            left = until - time.monotonic()
            try:
                return await method(
                    request, timeout=min(left, seconds / 2), metadata=self._metadata
                )
            except grpc.aio.AioRpcError as error:
                failed, delay = _failure(error)
            if failed.reason not in AGAIN or (not failed.reason and not failed.outcome_unknown):
                raise failed
            delay = max(delay, backoff * random.uniform(0.5, 1.0))
            if time.monotonic() + delay >= until:
                raise failed
            backoff = min(2 * backoff, BACKOFF_SECONDS_MAX)
            self.retry_count += 1
            await asyncio.sleep(delay)

    def mint(self, shard_key: str) -> str:
        """A new reservation id whose home is the shard of ``shard_key`` (an item's shard key, or
        the SKU): the claim then costs no step of its own. Cost: about 64 hashes."""
        home = shard_of(shard_key, self._shard_count)
        stem = secrets.token_hex(10)
        salt = 0
        while shard_of(f"{stem}-{salt}", self._shard_count) != home:
            salt += 1
        return f"{stem}-{salt}"

    def reservation(
        self,
        owner_id: str,
        lines: Sequence[tuple[str, int] | tuple[str, int, str]],
        *,
        country: str = "",
        postal_code: str = "",
        pickup_node_id: str = "",
        reservation_id: str = "",
        ttl_seconds: int = 0,
        order_reference: str = "",
    ) -> reservation_pb.CreateReservationRequest:
        """A request to hold ``lines`` (SKU, quantity and, if wanted, node), with a fresh id and its
        ``create_time``. Keep it: sent again, it asks for the same hold."""
        request = reservation_pb.CreateReservationRequest(
            reservation_id=reservation_id or self.mint(lines[0][0]),
            owner_id=owner_id,
            order_reference=order_reference,
            fulfillment_method=types_pb.FULFILLMENT_METHOD_SHIP_TO_ADDRESS,
            create_time=_now(),
        )
        if pickup_node_id:
            request.pickup_node_id = pickup_node_id
            request.fulfillment_method = types_pb.FULFILLMENT_METHOD_PICKUP_IN_STORE
        elif country:
            request.address.country = country
            request.address.postal_code = postal_code
        if ttl_seconds:
            request.ttl.CopyFrom(Duration(seconds=ttl_seconds))
        for number, (sku, quantity, *node) in enumerate(lines):
            request.lines.add(
                line_id=str(number), sku=sku, quantity=quantity, node_id=node[0] if node else ""
            )
        return request


def _now() -> Timestamp:
    seconds, nanos = divmod(time.time_ns(), 1_000_000_000)
    return Timestamp(seconds=seconds, nanos=nanos)


def _failure(error: grpc.aio.AioRpcError) -> tuple[CallFailed, float]:
    """The error by its stable reason, and the seconds the service asks to wait."""
    reason, delay = "", 0.0
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    for detail in status.details if status else ():
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            reason = str(info.reason)
        elif detail.Unpack(retry):
            delay = retry.retry_delay.ToMilliseconds() / 1000
    return CallFailed(error.details() or "", reason=reason, code=error.code()), delay
