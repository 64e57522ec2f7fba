"""What every front owes its callers, driven over real sockets on loopback."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import grpc
import grpc.aio
import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from promise_svc.application.admission import Admission
from promise_svc.errors import FieldViolation, InvalidRequest, NotFound, Overloaded, Unavailable
from promise_svc.rpc.guard import Guard
from promise_svc.rpc.server import Server
from promise_svc.rpc.transport import TRACE_KEY, Transport, TransportOptions
from promise_svc.rpc.transport_grpcio import GrpcioTransport
from promise_svc.v1 import availability_service_pb2 as pb
from promise_svc.v1 import availability_service_pb2_grpc as pb_grpc
from tests.support.call_log import CallLog, ScriptedServicer
from tests.support.fronts import FRONTS, new_front

MESSAGE_BYTES_MAX = 64 * 1024
DEADLINE_SECONDS_MAX = 2.0
GRACE_SECONDS = 2.0
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
QUERY = "/promise_svc.v1.AvailabilityService/QueryAvailability"


@dataclass
class Front:
    """A running server and a channel to it."""

    server: Server
    transport: Transport
    guard: Guard
    port: int
    channel: grpc.aio.Channel
    servicer: ScriptedServicer
    log: CallLog
    drained: bool = field(default=False)

    @property
    def stub(self) -> pb_grpc.AvailabilityServiceAsyncStub:
        return pb_grpc.AvailabilityServiceStub(self.channel)

    @property
    def health(self) -> health_pb2_grpc.HealthStub:
        return health_pb2_grpc.HealthStub(self.channel)

    async def drain(self) -> None:
        self.drained = True
        await self.server.drain()


@pytest.fixture(params=sorted(FRONTS))
async def transport(request: pytest.FixtureRequest) -> Transport:
    """Every front there is; made in the loop that serves."""
    return new_front(request.param, TransportOptions(message_bytes_max=MESSAGE_BYTES_MAX))


@pytest.fixture
async def front(transport: Transport) -> AsyncIterator[Front]:
    log, servicer = CallLog(), ScriptedServicer()
    guard = Guard(Admission(10), log, deadline_seconds_max=DEADLINE_SECONDS_MAX)
    server = Server(
        transport,
        guard,
        [servicer],
        reflect=True,
        lame_duck_seconds=0.05,
        drain_seconds=GRACE_SECONDS,
    )
    port = await server.start("127.0.0.1:0")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        front = Front(server, transport, guard, port, channel, servicer, log)
        yield front
    if not front.drained:
        await front.drain()


def request(*skus: str) -> pb.QueryAvailabilityRequest:
    return pb.QueryAvailabilityRequest(entries=[pb.AvailabilityQuery(sku=sku) for sku in skus])


async def error_of(call: grpc.aio.UnaryUnaryCall) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return raised.value


def metadata_of(error: grpc.aio.AioRpcError) -> dict[str, str | bytes]:
    return dict(error.trailing_metadata())


def details_of(error: grpc.aio.AioRpcError, *kinds: type) -> list:
    """The status' details, unpacked; it must repeat code and text."""
    status = Status.FromString(metadata_of(error)["grpc-status-details-bin"])
    assert (error.code().value[0], error.details()) == (status.code, status.message)
    found = []
    for detail, kind in zip(status.details, kinds, strict=True):
        message = kind()
        assert detail.Unpack(message)
        found.append(message)
    return found


def raising(error: Exception):
    async def script(request, call):
        raise error

    return script


async def test_a_reply_comes_back_with_the_callers_trace_id(front: Front) -> None:
    """The trace id of ``traceparent`` stands in the trailing metadata of a success."""
    traceparent = f"00-{TRACE_ID}-00f067aa0ba902b7-01"

    call = front.stub.QueryAvailability(request("a", "b"), metadata=[("traceparent", traceparent)])
    reply = await call

    assert [entry.sku for entry in reply.entries] == ["a", "b"]
    assert dict(await call.trailing_metadata())[TRACE_KEY] == TRACE_ID
    assert [finish[1:] for finish in front.log.finishes] == [("OK", "")]


async def test_a_call_without_trace_gets_a_new_one_each_time(front: Front) -> None:
    """Minted ids have 32 hexadecimal digits and differ."""
    found = set()
    for _ in range(3):
        call = front.stub.QueryAvailability(request("a"))
        await call
        found.add(dict(await call.trailing_metadata())[TRACE_KEY])

    assert len(found) == 3
    assert all(len(trace_id) == 32 and int(trace_id, 16) for trace_id in found)


async def test_an_error_arrives_with_code_text_reason_and_trace(front: Front) -> None:
    """ErrorInfo carries our domain, the reason and the metadata of the error."""
    front.servicer.script = raising(NotFound("node", "n-1"))
    traceparent = f"00-{TRACE_ID}-00f067aa0ba902b7-01"

    error = await error_of(
        front.stub.QueryAvailability(request("a"), metadata=[("traceparent", traceparent)])
    )

    (info,) = details_of(error, ErrorInfo)
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert (info.domain, info.reason) == ("promise-svc", "NOT_FOUND")
    assert dict(info.metadata) == {"kind": "node", "name": "n-1", "trace_id": TRACE_ID}
    assert metadata_of(error)[TRACE_KEY] == TRACE_ID


async def test_wrong_fields_arrive_by_name(front: Front) -> None:
    """A hundred complaints with long texts still fit what a client takes as metadata."""
    violations = [
        FieldViolation(f"entries[{index}].nodes.node_ids[{index}]", "OUT_OF_RANGE", "x" * 200)
        for index in range(100)
    ]
    front.servicer.script = raising(InvalidRequest(violations))

    error = await error_of(front.stub.QueryAvailability(request("a")))

    info, bad = details_of(error, ErrorInfo, BadRequest)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert info.metadata["violation_count"] == "100"
    fields = [violation.field for violation in bad.field_violations]
    assert fields == [violation.field for violation in violations][: len(fields)]
    assert len(fields) >= 70


async def test_a_shed_call_is_told_when_to_come_back(front: Front) -> None:
    """RetryInfo carries the delay."""
    front.servicer.script = raising(Overloaded("full", 250))

    error = await error_of(front.stub.QueryAvailability(request("a")))

    _, retry = details_of(error, ErrorInfo, RetryInfo)
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert retry.retry_delay.ToMilliseconds() == 250


async def test_a_fault_of_ours_tells_the_trace_and_nothing_else(front: Front) -> None:
    """No text of an unexpected exception reaches the caller; the log has it."""
    front.servicer.script = raising(ValueError("password=hunter2"))

    error = await error_of(front.stub.QueryAvailability(request("a")))

    (info,) = details_of(error, ErrorInfo)
    assert error.code() is grpc.StatusCode.INTERNAL
    assert info.reason == "INTERNAL"
    assert set(info.metadata) == {"trace_id"}
    assert "hunter2" not in str(error.trailing_metadata()) + str(error.details())
    assert isinstance(front.log.failures[0].error, ValueError)
    assert front.log.failures[0].trace_id == info.metadata["trace_id"]


async def test_a_missing_deadline_is_clamped_and_counted(front: Front) -> None:
    """The handler sees the server's maximum."""
    seen = []

    async def script(request, call):
        seen.append(call.timeout)
        return pb.QueryAvailabilityResponse()

    front.servicer.script = script
    await front.stub.QueryAvailability(request("a"))
    await front.stub.QueryAvailability(request("a"), timeout=60)
    await front.stub.QueryAvailability(request("a"), timeout=1)

    assert seen[:2] == [DEADLINE_SECONDS_MAX, DEADLINE_SECONDS_MAX]
    # gRPC sends the deadline with a few digits, rounded up.
    assert 0 < seen[2] < 1.2
    assert front.log.clamped_count == 2


async def test_a_deadline_that_passes_ends_a_read(front: Front) -> None:
    """The caller gets DEADLINE_EXCEEDED and the handler is cancelled."""
    cancelled = asyncio.Event()

    async def script(request, call):
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    front.servicer.script = script
    await front.channel.channel_ready()  # or connecting may use up the deadline
    error = await error_of(front.stub.QueryAvailability(request("a"), timeout=1))

    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await asyncio.wait_for(cancelled.wait(), 30)
    await until(lambda: front.guard.in_flight == 0)


async def test_the_servers_maximum_ends_a_read_that_named_no_deadline(front: Front) -> None:
    """DEADLINE_EXCEEDED, although the caller would wait for ever."""
    front.servicer.script = never

    error = await error_of(front.stub.QueryAvailability(request("a")))

    (info,) = details_of(error, ErrorInfo)
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert info.reason == "DEADLINE_EXCEEDED"


async def test_the_servers_maximum_leaves_a_writes_outcome_unknown(front: Front) -> None:
    """Nobody can say whether it happened, so nobody says it did not."""
    front.servicer.script = never

    error = await error_of(front.stub.FindPickupNodes(pb.FindPickupNodesRequest()))

    (info,) = details_of(error, ErrorInfo)
    assert error.code() is grpc.StatusCode.UNKNOWN
    assert info.reason == "OUTCOME_UNKNOWN"


async def test_a_cancelled_read_is_cancelled(front: Front) -> None:
    """The handler ends, its place is given back, the call counts as CANCELLED."""
    began, ended = asyncio.Event(), asyncio.Event()

    async def script(request, call):
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    front.servicer.script = script
    call = front.stub.QueryAvailability(request("a"))
    await asyncio.wait_for(asyncio.shield(began.wait()), 30)
    call.cancel()

    await asyncio.wait_for(ended.wait(), 30)
    await until(lambda: front.log.finishes)
    assert front.log.finishes[0][1:] == ("CANCELLED", "CANCELLED")
    assert front.guard.in_flight == 0


async def test_a_cancelled_write_goes_on_and_keeps_its_place(front: Front) -> None:
    """Cancelling reaches the call, not the work; the place is free when the work has ended."""
    began, go_on, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def script(request, call):
        began.set()
        await go_on.wait()
        ended.set()

    front.servicer.script = script
    call = front.stub.FindPickupNodes(pb.FindPickupNodesRequest())
    await asyncio.wait_for(began.wait(), 30)
    call.cancel()
    await until(lambda: front.log.finishes)

    assert front.guard.in_flight == 1
    go_on.set()
    await asyncio.wait_for(ended.wait(), 30)
    await until(lambda: front.guard.in_flight == 0)


async def test_too_many_calls_at_once_are_shed(front: Front) -> None:
    """The eighth availability call of a limit of ten is refused, a settling one is let in."""
    release = asyncio.Event()

    async def script(request, call):
        await release.wait()
        return pb.QueryAvailabilityResponse()

    front.servicer.script = script
    calls = [front.stub.QueryAvailability(request("a")) for _ in range(7)]
    await until(lambda: front.guard.in_flight == 7)
    error = await error_of(front.stub.QueryAvailability(request("a")))
    settling = front.stub.FindPickupNodes(pb.FindPickupNodesRequest())
    await until(lambda: front.guard.in_flight == 8)
    release.set()
    await asyncio.gather(*calls, settling)

    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert front.log.sheds == [("AVAILABILITY", "IN_FLIGHT")]
    info, retry = details_of(error, ErrorInfo, RetryInfo)
    assert (info.reason, info.metadata["limit"]) == ("OVERLOADED", "IN_FLIGHT")
    assert retry.retry_delay.ToMilliseconds() > 0
    assert len(metadata_of(error)[TRACE_KEY]) == 32
    assert front.guard.in_flight == 0


async def test_a_request_of_the_greatest_size_passes_and_one_byte_more_does_not(
    front: Front,
) -> None:
    """RESOURCE_EXHAUSTED by the transport; the connection goes on."""
    front.servicer.script = empty
    overhead = 8  # two fields, each a tag and a length of three bytes
    fits = request("x" * (MESSAGE_BYTES_MAX - overhead))
    assert fits.ByteSize() == MESSAGE_BYTES_MAX

    await front.stub.QueryAvailability(fits)
    fits.entries[0].sku += "x"
    error = await error_of(front.stub.QueryAvailability(fits))

    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    await front.stub.QueryAvailability(request("a"))


@pytest.mark.parametrize(
    "path",
    ["/promise_svc.v1.AvailabilityService/Nothing", "/promise_svc.v1.Nothing/Nothing", "/"],
)
async def test_an_unknown_method_is_unimplemented(front: Front, path: str) -> None:
    """Whether the service or only the method is unknown."""
    error = await error_of(front.channel.unary_unary(path)(b""))

    assert error.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("body", [b"\xff\xff\xff", b"\x0a\x05abc", b"\x0a\x04\x12\x02\xff\xfe"])
async def test_a_body_that_is_no_message_is_an_invalid_request(front: Front, body: bytes) -> None:
    """Wrong wire format, cut off, and text that is not UTF-8."""
    error = await error_of(front.channel.unary_unary(QUERY)(body))

    info, bad = details_of(error, ErrorInfo, BadRequest)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert info.reason == "INVALID_REQUEST"
    assert bad.field_violations[0].reason == "MALFORMED"
    assert (error.details() or "").startswith("the body is not a ")


async def test_unknown_fields_are_taken(front: Front) -> None:
    """A newer caller is understood as far as we know."""
    body = request("a").SerializeToString() + b"\xf8\x7f\x01"

    reply = await front.channel.unary_unary(QUERY)(body)

    assert pb.QueryAvailabilityResponse.FromString(reply).entries[0].sku == "a"


async def test_a_connection_that_does_not_speak_http2_is_closed(front: Front) -> None:
    """It gets no answer of ours, and others are served on."""
    reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + b"\0" * 64)
    await asyncio.wait_for(reader.read(), 30)
    writer.close()

    await front.stub.QueryAvailability(request("a"))


async def test_a_port_that_is_taken_is_refused(front: Front) -> None:
    """Not shared in silence with the server that has it."""
    second = type(front.transport)(TransportOptions())

    with pytest.raises(Unavailable, match="cannot listen"):
        await second.start(f"127.0.0.1:{front.port}")


async def test_health_says_not_serving_until_told_otherwise(front: Front) -> None:
    """For the server and for each service by name; NOT_FOUND for others."""
    names = ("", "promise_svc.v1.AvailabilityService")

    before = [await checked(front, name) for name in names]
    await front.server.serving(True)
    after = [await checked(front, name) for name in names]
    unknown = await error_of(front.health.Check(health_pb2.HealthCheckRequest(service="x")))

    assert before == [health_pb2.HealthCheckResponse.NOT_SERVING] * 2
    assert after == [health_pb2.HealthCheckResponse.SERVING] * 2
    assert unknown.code() is grpc.StatusCode.NOT_FOUND


async def test_reflection_lists_the_services(front: Front) -> None:
    """When it is switched on."""
    stub = reflection_pb2_grpc.ServerReflectionStub(front.channel)
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    call = stub.ServerReflectionInfo(iter([asked]))

    listed = [reply async for reply in call]

    names = {service.name for service in listed[0].list_services_response.service}
    assert {"promise_svc.v1.AvailabilityService", "grpc.health.v1.Health"} <= names


async def test_a_drain_says_so_then_ends_what_is_in_flight(front: Front) -> None:
    """NOT_SERVING comes first, calls are still taken; then what is in flight ends by itself."""
    await front.server.serving(True)
    watch = front.health.Watch(health_pb2.HealthCheckRequest())
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    release = asyncio.Event()

    async def script(request, call):
        await release.wait()
        return pb.QueryAvailabilityResponse()

    front.servicer.script = script
    early = front.stub.QueryAvailability(request("a"))
    await until(lambda: front.guard.in_flight == 1)
    draining = asyncio.create_task(front.drain())
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
    late = front.stub.QueryAvailability(request("a"))
    await until(lambda: front.guard.in_flight == 2)
    release.set()

    await asyncio.gather(early, late)
    started = asyncio.get_running_loop().time()
    await draining
    # The watch must not use up the grace.
    assert asyncio.get_running_loop().time() - started < 0.9 * GRACE_SECONDS
    refused = await error_of(front.stub.QueryAvailability(request("a"), timeout=30))
    assert refused.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_drain_cuts_off_a_read_but_waits_for_a_write(front: Front) -> None:
    """After the grace the caller is gone; the write still ends."""
    ended = asyncio.Event()

    async def script(request, call):
        await asyncio.sleep(GRACE_SECONDS + 0.3)
        ended.set()

    front.servicer.script = script
    call = front.stub.FindPickupNodes(pb.FindPickupNodesRequest())
    await until(lambda: front.guard.in_flight == 1)
    await front.drain()

    assert ended.is_set()
    assert call.done() or not await call.wait_for_connection()


async def never(request, call):
    await asyncio.Event().wait()


async def empty(request, call):
    return pb.QueryAvailabilityResponse()


async def checked(front: Front, service: str) -> int:
    return (await front.health.Check(health_pb2.HealthCheckRequest(service=service))).status


async def until(holds, seconds: float = 30.0) -> None:
    """Wait for what another task is about to make true."""
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.005)


async def test_a_drain_under_load_breaks_no_call(front: Front) -> None:
    """Callers that go on calling get answers until they are turned away; whose call has begun is
    told its end. What grpc.aio says to calls that arrived and did not begin is its own: CANCELLED
    instead of UNAVAILABLE, now and then."""
    codes: Counter[grpc.StatusCode] = Counter()
    begun = 0

    async def script(request, call):
        nonlocal begun
        begun += 1
        await asyncio.sleep(random.uniform(0, 0.05))
        return pb.QueryAvailabilityResponse()

    async def keep_calling(channel: grpc.aio.Channel) -> None:
        stub = pb_grpc.AvailabilityServiceStub(channel)
        while not codes[grpc.StatusCode.UNAVAILABLE]:
            codes[await stub.QueryAvailability(request("a"), timeout=30).code()] += 1

    front.servicer.script = script
    options = (("grpc.use_local_subchannel_pool", 1),)
    channels = [
        grpc.aio.insecure_channel(f"127.0.0.1:{front.port}", options=options) for _ in range(6)
    ]
    callers = [asyncio.create_task(keep_calling(channel)) for channel in channels]
    await until(lambda: codes[grpc.StatusCode.OK] > 30)
    await front.drain()
    await asyncio.gather(*callers)
    for channel in channels:
        await channel.close()

    assert codes[grpc.StatusCode.OK] == begun, codes
    if not isinstance(front.transport, GrpcioTransport):
        assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}, codes
