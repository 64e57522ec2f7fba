"""A part of the service goes away in the middle of a call; what the caller hears, and what is left.

The server, Valkey and PostgreSQL are this module's own processes; each test leaves them running.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

import grpc
import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration

from loadtest.driver.client import reason_of_error
from loadtest.faults import FaultyHost
from promise_svc.v1 import admin_service_pb2 as admin_pb
from promise_svc.v1 import availability_service_pb2 as availability_pb
from promise_svc.v1 import reservation_service_pb2 as pb
from promise_svc.v1 import supply_service_pb2 as supply_pb
from promise_svc.v1 import types_pb2
from tests.rivals.conftest import HELD, Shop, a_hold, connected, load_network

pytestmark = [pytest.mark.fault, pytest.mark.timeout(120)]

CALLS = 16
RETRY_SECONDS = 30.0
NOTHING_DONE = {"UNAVAILABLE", "NOT_SERVING", "OVERLOADED"}
UNKNOWN = {"OUTCOME_UNKNOWN", "DEADLINE_EXCEEDED", ""}
"""Reasons after which either may be true; empty where the connection itself broke."""

Reply = TypeVar("Reply")


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultyHost]:
    folder = tmp_path_factory.mktemp("away")
    # PostgreSQL runs as another account, which must pass through here.
    for path in (folder, folder.parent):
        path.chmod(0o755)
    with FaultyHost(folder) as host:
        yield host


async def test_calls_that_a_dying_server_left_unanswered_are_carried_out_once_when_sent_again(
    host: FaultyHost,
) -> None:
    """Receipts, orders and payments are in flight; kill -9; started again; each caller sends its
    request once more until it is answered. Every receipt counts once, every order is there once."""
    async with ready(host) as shop:
        sku = await shop.stock(dc=1_000)
        orders = [a_hold((sku, 1, "dc")) for _ in range(CALLS)]
        paid = [a_hold((sku, 1, "dc")) for _ in range(CALLS)]
        for order in paid:
            assert (await shop.create(order)).outcome == HELD
        answered = asyncio.Event()

        async def heard(call: Callable[[], Awaitable[Reply]]) -> Reply:
            reply = await until_answered(call)
            answered.set()
            return reply

        calls = [
            asyncio.create_task(heard(call))
            for number in range(CALLS)
            for call in (
                lambda n=number: shop.adjust(sku, 10, key=f"receipt-{sku}-{n}"),  # type: ignore[misc]
                lambda n=number: shop.create(orders[n]),  # type: ignore[misc]
                lambda n=number: shop.confirm(paid[n].reservation_id),  # type: ignore[misc]
            )
        ]
        await answered.wait()
        await asyncio.to_thread(host.kill_server)
        unanswered = sum(not call.done() for call in calls)
        await asyncio.to_thread(host.serve)
        replies = await asyncio.gather(*calls)

        assert unanswered > 0, "the kill came too late to show anything"
        assert [r.outcome for r in replies[::3]] == [supply_pb.SUPPLY_OUTCOME_APPLIED] * CALLS
        assert [r.outcome for r in replies[1::3]] == [HELD] * CALLS
        assert [r.outcome for r in replies[2::3]] == [pb.TRANSITION_OUTCOME_CONFIRMED] * CALLS
        assert await shop.figures(sku) == (1_000 + 10 * CALLS, CALLS, CALLS)


async def test_without_the_index_pages_are_answered_and_say_so_and_nothing_is_sold(
    host: FaultyHost,
) -> None:
    """Reads fail open, with their age and the word degraded; holds fail closed, by name. When it
    is back the same order is held, once."""
    async with ready(host) as shop:
        sku = await shop.stock(dc=5)
        order = a_hold((sku, 2, "dc"))
        await asyncio.to_thread(host.kill_shards)
        try:
            bounded = types_pb2.Consistency(max_age=Duration(nanos=1_000_000))
            (page,) = await shop.look(sku, consistency=types_pb2.Consistency())
            query = availability_pb.QueryAvailabilityRequest(
                entries=[availability_pb.AvailabilityQuery(sku=sku)], consistency=bounded
            )
            seen = await shop.client.availability.QueryAvailability(query, timeout=10)
            refused = await error_of(shop.create(order))
            strong = await error_of(shop.look(sku))
        finally:
            await asyncio.to_thread(host.restart_shards)
        held = await until_answered(lambda: shop.create(order))

        assert (page.ats, seen.entries[0].ats) == (5, 5)
        assert seen.freshness.degraded
        assert seen.freshness.degraded_reason == types_pb2.DEGRADED_REASON_INDEX_UNREACHABLE
        assert seen.freshness.age.ToMilliseconds() > 0
        assert reason_of_error(refused) in NOTHING_DONE | UNKNOWN
        assert strong.code() is grpc.StatusCode.UNAVAILABLE
        assert held.outcome == HELD
        assert await shop.figures(sku) == (5, 2, 0)


async def test_an_index_that_hangs_keeps_nobody_waiting_and_is_used_again_at_its_first_word(
    host: FaultyHost,
) -> None:
    """SIGSTOP, as a full disk or a sick machine does it. Who was under way hears when it goes on;
    who comes later is told at once that nothing was done, while the page is answered; then all of
    them are held, once each, when they ask again. At once is not after the 3 s that an answer may
    take: of several the median, for the machine may stop for a moment too."""
    async with ready(host) as shop:
        sku = await shop.stock(dc=50)
        orders = [a_hold((sku, 1, "dc")) for _ in range(12)]
        with host.paused("valkey"):
            await until_refused(lambda: shop.ats(sku))
            waits = []
            for order in orders[:7]:
                began = time.monotonic()
                refused = await error_of(shop.create(order))
                waits.append(time.monotonic() - began)
                assert reason_of_error(refused) == "UNAVAILABLE"
            (page,) = await shop.look(sku, consistency=types_pb2.Consistency())
        replies = [await until_answered(lambda o=order: shop.create(o)) for order in orders]  # type: ignore[misc]

        assert page.ats == 50
        assert sorted(waits)[3] < 1.5, waits
        assert {reply.outcome for reply in replies} == {HELD}
        assert await shop.figures(sku) == (50, 12, 0)


async def test_without_the_order_store_units_are_still_held_and_no_sale_is_acknowledged(
    host: FaultyHost,
) -> None:
    """The ledger is away, the hold is not: a shopper can hold, and is not told CONFIRMED before the
    ledger has it. When it is back the same payment goes through, once."""
    async with ready(host) as shop:
        sku = await shop.stock(dc=5)
        order = a_hold((sku, 2, "dc"))
        await asyncio.to_thread(host.kill_store)
        try:
            held = await until_answered(lambda: shop.create(order))
            refused = await error_of(shop.confirm(order.reservation_id))
            page = await shop.ats(sku)
        finally:
            await asyncio.to_thread(host.restart_store)
        confirmed = await until_answered(lambda: shop.confirm(order.reservation_id))

        assert held.outcome == HELD
        assert reason_of_error(refused) in NOTHING_DONE | UNKNOWN
        assert page == 3
        assert confirmed.outcome == pb.TRANSITION_OUTCOME_CONFIRMED
        assert confirmed.durability_mode == types_pb2.DURABILITY_MODE_RECORDED
        assert await shop.figures(sku) == (5, 0, 2)


class ready(connected):  # noqa: N801 - used as a function
    """A shop whose server answers, knows the network, and has every shard again."""

    def __init__(self, host: FaultyHost) -> None:
        super().__init__(host.target)

    async def __aenter__(self) -> Shop:
        shop = await super().__aenter__()
        await until_answered(lambda: load_network(shop.client))
        every_shard = admin_pb.VerifyRequest()
        await until_answered(lambda: shop.client.admin.Verify(every_shard, timeout=30))
        return shop


async def until_answered(call: Callable[[], Awaitable[Reply]]) -> Reply:
    """Send the same request again until it is answered, as a caller does who was told nothing."""
    async with asyncio.timeout(RETRY_SECONDS):
        while True:
            try:
                return await call()
            except grpc.aio.AioRpcError as error:
                assert reason_of_error(error) in NOTHING_DONE | UNKNOWN, error
                await asyncio.sleep(0.1)


async def until_refused(call: Callable[[], Awaitable[object]]) -> None:
    """Ask, and do not wait for it, until the answer is that nothing was done."""
    async with asyncio.timeout(RETRY_SECONDS):
        while True:
            try:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(call(), 0.1)
            except grpc.aio.AioRpcError as error:
                if reason_of_error(error) == "UNAVAILABLE":
                    return


async def error_of(call: Awaitable[object]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return raised.value
