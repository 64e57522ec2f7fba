"""The demo's client: generated stubs over one channel, each call timed, retries by the contract."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc
from google.rpc import error_details_pb2  # type: ignore[import-untyped]
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from promise_svc.errors import Unavailable
from promise_svc.v1 import availability_service_pb2_grpc as availability_grpc
from promise_svc.v1 import network_service_pb2_grpc as network_grpc
from promise_svc.v1 import promise_service_pb2_grpc as promise_grpc
from promise_svc.v1 import reservation_service_pb2_grpc as reservation_grpc
from promise_svc.v1 import supply_service_pb2_grpc as supply_grpc

_Reply = TypeVar("_Reply")

DEADLINE_SECONDS = 10.0
RETRY_SECONDS = 0.2
RETRY_SECONDS_MAX = 60.0
_RETRYABLE = frozenset({"UNAVAILABLE", "NOT_SERVING", "OUTCOME_UNKNOWN", "OVERLOADED", ""})
"""The empty reason: the connection broke or the deadline passed at the caller."""


class Client:
    """Stubs of all services a shopper and a feed need; latencies by method in ``seconds``."""

    def __init__(self, port: int) -> None:
        options = [("grpc.max_receive_message_length", 4 * 1024 * 1024)]
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options)
        self.availability = availability_grpc.AvailabilityServiceStub(self._channel)
        self.promise = promise_grpc.PromiseServiceStub(self._channel)
        self.reservations = reservation_grpc.ReservationServiceStub(self._channel)
        self.supply = supply_grpc.SupplyServiceStub(self._channel)
        self.network = network_grpc.NetworkServiceStub(self._channel)
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.retry_count = 0

    async def close(self) -> None:
        """Cut the connection."""
        await self._channel.close()

    async def wait_serving(self, timeout: float, check: Callable[[], None]) -> None:
        """Return when the server's health says SERVING; ``check`` may raise while we wait."""
        health = health_pb2_grpc.HealthStub(self._channel)
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            check()
            try:
                reply = await health.Check(  # type: ignore[attr-defined]
                    health_pb2.HealthCheckRequest(), timeout=1.0
                )
                if reply.status == health_pb2.HealthCheckResponse.SERVING:
                    return
            except grpc.aio.AioRpcError:
                pass
            await asyncio.sleep(0.05)
        raise Unavailable(f"the server did not say SERVING within {timeout:.0f} s")

    async def call(self, method: Callable[..., Any], request: Any) -> tuple[Any, float]:
        """The reply and its milliseconds. Raises grpc.aio.AioRpcError."""
        start = time.perf_counter()
        reply = await method(request, timeout=DEADLINE_SECONDS)
        passed = time.perf_counter() - start
        self.seconds[type(request).__name__.removesuffix("Request")].append(passed)
        return reply, passed * 1000

    async def insist(self, method: Callable[..., Any], request: Any) -> Any:
        """Send the same call until it is answered, as the contract says; no longer than a minute.

        Every call of the demo has a key or is a read, so sending it again is safe.
        """
        deadline = time.monotonic() + RETRY_SECONDS_MAX
        while True:
            try:
                return (await self.call(method, request))[0]
            except grpc.aio.AioRpcError as error:
                if reason_of(error) not in _RETRYABLE or time.monotonic() > deadline:
                    raise
                self.retry_count += 1
            await asyncio.sleep(RETRY_SECONDS)


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """The stable reason of an error; empty when it did not come from the service."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    for detail in status.details if status else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return str(info.reason)
    return ""


async def at_most(concurrency: int, work: list[Callable[[], Awaitable[_Reply]]]) -> list[_Reply]:
    """Run all of ``work``, so many at a time, and return the results in order."""
    places = asyncio.Semaphore(concurrency)

    async def one(job: Callable[[], Awaitable[_Reply]]) -> _Reply:
        async with places:
            return await job()

    return list(await asyncio.gather(*(one(job) for job in work)))
