"""SIGTERM while callers are busy: what was begun is answered, what comes later is turned away."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter

import grpc
import grpc.aio

from promise_svc.v1 import availability_service_pb2 as pb
from promise_svc.v1 import availability_service_pb2_grpc as rpc
from tests.e2e.conftest import Served

CHANNELS, CALLERS = 6, 8
CALLS_FIRST = 300

# Strong, so that each call waits for a shard and many are in flight at any moment.
QUERY = pb.QueryAvailabilityRequest(entries=[pb.AvailabilityQuery(sku="sku-1")])
QUERY.consistency.strong = True


async def test_sigterm_under_load_breaks_no_call(served: Served) -> None:
    """Every call is OK or, once the server is gone, UNAVAILABLE; none is CANCELLED, cut or lost."""
    codes: Counter[grpc.StatusCode] = Counter()
    busy = asyncio.Event()

    async def keep_calling(channel: grpc.aio.Channel) -> None:
        stub = rpc.AvailabilityServiceStub(channel)
        while not codes[grpc.StatusCode.UNAVAILABLE]:
            call = stub.QueryAvailability(QUERY, timeout=20)
            codes[await call.code()] += 1
            if codes[grpc.StatusCode.OK] >= CALLS_FIRST:
                busy.set()

    options = (("grpc.use_local_subchannel_pool", 1),)
    channels = [
        grpc.aio.insecure_channel(f"127.0.0.1:{served.port}", options=options)
        for _ in range(CHANNELS)
    ]
    callers = [
        asyncio.create_task(keep_calling(channel)) for channel in channels for _ in range(CALLERS)
    ]
    await asyncio.wait_for(busy.wait(), 60)
    before = codes[grpc.StatusCode.OK]
    served.process.send_signal(signal.SIGTERM)
    await asyncio.wait_for(asyncio.gather(*callers), 60)
    for channel in channels:
        await channel.close()

    assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}, codes
    # Health said so a while before calls were refused.
    assert codes[grpc.StatusCode.OK] > before
    # One refusal each at most, and by then nothing was under way any more.
    assert codes[grpc.StatusCode.UNAVAILABLE] <= CHANNELS * CALLERS
    assert await asyncio.to_thread(served.process.wait, 30) == 0
