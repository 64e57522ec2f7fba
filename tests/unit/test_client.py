"""The client: what it sends again, what it does not, and the ids it mints."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from promise_svc.application.admission import Admission
from promise_svc.client import CallFailed, PromiseClient
from promise_svc.errors import NotFound, OutcomeUnknown, Overloaded, Unavailable
from promise_svc.hotpath import shard_of
from promise_svc.rpc.guard import Call, Guard
from promise_svc.rpc.transport import TransportOptions
from promise_svc.v1 import availability_service_pb2 as pb
from tests.support.call_log import CallLog, ScriptedServicer
from tests.support.fronts import new_front

REQUEST = pb.QueryAvailabilityRequest(entries=[pb.AvailabilityQuery(sku="sku-1")])
HANG = None
"""No answer until the caller gives up."""

Serve = Callable[..., AbstractAsyncContextManager[tuple[str, list[bytes]]]]


@pytest.fixture(params=["grpcio", "native"])
def serve(request: pytest.FixtureRequest) -> Serve:
    """Starts a front whose method fails with each error in turn, then answers; yields its address
    and the requests it hears."""

    @asynccontextmanager
    async def started(*errors: Exception | None) -> AsyncIterator[tuple[str, list[bytes]]]:
        heard: list[bytes] = []

        async def script(
            request: pb.QueryAvailabilityRequest, call: Call
        ) -> pb.QueryAvailabilityResponse:
            heard.append(request.SerializeToString())
            if len(heard) <= len(errors):
                error = errors[len(heard) - 1]
                if error is HANG:
                    await asyncio.sleep(call.timeout)
                raise error or OutcomeUnknown("too late")
            return pb.QueryAvailabilityResponse(entries=[pb.Availability(ats=3)])

        transport = new_front(request.param, TransportOptions())
        guard = Guard(Admission(10), CallLog(), deadline_seconds_max=30)
        servicer = ScriptedServicer()
        servicer.script = script
        guard.mount(servicer, transport)
        port = await transport.start("127.0.0.1:0")
        try:
            yield f"127.0.0.1:{port}", heard
        finally:
            await transport.drain(0.1)

    return started


async def ask(target: str, seconds: float = 30.0) -> tuple[pb.QueryAvailabilityResponse, int]:
    async with PromiseClient(target, deadline_seconds=seconds) as client:
        reply = await client.call(client.availability.QueryAvailability, REQUEST)
        return reply, client.retry_count


@pytest.mark.parametrize(
    "error", [Unavailable("away"), OutcomeUnknown("perhaps"), Overloaded("full", 10), HANG]
)
async def test_the_same_request_is_sent_again_where_the_contract_allows_it(
    serve: Serve, error: Exception | None
) -> None:
    """After UNAVAILABLE, an unknown outcome, a shed call and silence; byte for byte the same."""
    async with serve(error) as (target, heard):
        reply, retries = await ask(target, 2.0)

    assert reply.entries[0].ats == 3
    assert retries == 1
    assert heard == [REQUEST.SerializeToString()] * 2


async def test_a_refusal_is_not_sent_again(serve: Serve) -> None:
    """It carries the service's reason, and says that nothing happened."""
    async with serve(NotFound("reservation", "r1")) as (target, heard):
        with pytest.raises(CallFailed, match="NOT_FOUND") as caught:
            await ask(target)

    assert caught.value.reason == "NOT_FOUND"
    assert not caught.value.outcome_unknown
    assert len(heard) == 1


async def test_a_shed_call_waits_as_long_as_the_service_asks(serve: Serve) -> None:
    """RetryInfo, not the client's own shorter pause."""
    async with serve(Overloaded("full", 400)) as (target, _):
        begun = time.monotonic()
        await ask(target)

    assert time.monotonic() - begun >= 0.4


async def test_attempts_end_with_the_deadline_and_the_last_error(serve: Serve) -> None:
    """What may have happened is said to be unknown."""
    async with serve(*[OutcomeUnknown("perhaps")] * 50) as (target, heard):
        begun = time.monotonic()
        with pytest.raises(CallFailed) as caught:
            await ask(target, 0.5)

    assert time.monotonic() - begun < 15, "fifty attempts take far longer"
    assert caught.value.outcome_unknown
    assert len(heard) > 1


async def test_a_refused_connection_leaves_the_outcome_unknown() -> None:
    """The client cannot tell at which attempt the service went away."""
    with pytest.raises(CallFailed) as caught:
        await ask("127.0.0.1:1", 0.3)

    assert caught.value.outcome_unknown


async def test_an_id_is_minted_whose_home_is_the_shard_of_the_first_line() -> None:
    """And new each time; a request has its own id and the instant it was made up."""
    async with PromiseClient("127.0.0.1:1") as client:
        orders = [client.reservation("cart", [(f"sku-{n}", 1), ("sku-x", 2)]) for n in range(50)]

    homes = [shard_of(order.reservation_id, 64) for order in orders]
    assert homes == [shard_of(f"sku-{n}", 64) for n in range(50)]
    assert len({order.reservation_id for order in orders}) == 50
    assert all(abs(order.create_time.seconds - time.time()) < 60 for order in orders)


async def test_lines_may_name_their_nodes_and_the_request_its_destination() -> None:
    """Address or pickup node, each with its method."""
    async with PromiseClient("127.0.0.1:1") as client:
        sent = client.reservation("c", [("s", 2, "dc-1")], country="US", postal_code="94103")
        fetched = client.reservation("c", [("s", 2)], pickup_node_id="store-1", ttl_seconds=60)

    assert (sent.lines[0].node_id, sent.address.postal_code) == ("dc-1", "94103")
    assert (sent.fulfillment_method, fetched.fulfillment_method) == (1, 2)
    assert (fetched.pickup_node_id, fetched.ttl.seconds) == ("store-1", 60)
