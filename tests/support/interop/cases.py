"""The cases of "gRPC Interop Test Case Descriptions", played by the blocking grpcio.

    python -m tests.support.interop.cases --port 10000 [CASE ...]

Each function is a case by its official name; it raises where the server does otherwise.
"""

from __future__ import annotations

import argparse
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from tests.support.interop.generated import generated

REQUEST_SIZE, REPLY_SIZE = 271_828, 314_159
REQUEST_SIZES = (27_182, 8, 1_828, 45_904)
REPLY_SIZES = (31_415, 9, 2_653, 58_979)
ECHO = (("x-grpc-test-echo-initial", "test_initial_metadata_value"),
        ("x-grpc-test-echo-trailing-bin", b"\xab\xab\xab"))  # fmt: skip
SPECIAL = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n"
SECONDS = 20

pb, rpc = generated()


class Requests(Iterator[Any]):
    """A stream of requests that a case writes as it goes."""

    def __init__(self) -> None:
        self._queue: queue.Queue[Any] = queue.Queue()

    def send(self, request: Any) -> None:
        self._queue.put(request)

    def end(self) -> None:
        self._queue.put(None)

    def __next__(self) -> Any:
        request = self._queue.get()
        if request is None:
            raise StopIteration
        return request


def payload(size: int) -> Any:
    return pb.Payload(type=pb.COMPRESSABLE, body=bytes(size))


def large() -> Any:
    return pb.SimpleRequest(response_size=REPLY_SIZE, payload=payload(REQUEST_SIZE))


def wanted(*sizes: int, request_size: int = 0, **more: Any) -> Any:
    return pb.StreamingOutputCallRequest(
        response_parameters=[pb.ResponseParameters(size=size) for size in sizes],
        payload=payload(request_size),
        **more,
    )


def status_of(call: Callable[[], Any]) -> tuple[grpc.StatusCode, str]:
    try:
        call()
    except grpc.RpcError as error:
        return error.code(), error.details()
    raise AssertionError("the call should have failed")


def demand(found: Any, expected: Any) -> None:
    assert found == expected, f"{found!r} instead of {expected!r}"


def empty_unary(stub: Any) -> None:
    demand(stub.EmptyCall(pb.Empty(), timeout=SECONDS), pb.Empty())


def large_unary(stub: Any) -> None:
    demand(stub.UnaryCall(large(), timeout=SECONDS).payload, payload(REPLY_SIZE))


def cacheable_unary(stub: Any) -> None:
    first, call = stub.CacheableUnaryCall.with_call(pb.SimpleRequest(), timeout=SECONDS)
    second = stub.CacheableUnaryCall(pb.SimpleRequest(), timeout=SECONDS)
    assert first.payload.body != second.payload.body
    assert "max-age=60" in dict(call.initial_metadata())["cache-control"]


def client_streaming(stub: Any) -> None:
    requests = (pb.StreamingInputCallRequest(payload=payload(size)) for size in REQUEST_SIZES)
    reply = stub.StreamingInputCall(requests, timeout=SECONDS)
    demand(reply.aggregated_payload_size, 74_922)


def server_streaming(stub: Any) -> None:
    replies = list(stub.StreamingOutputCall(wanted(*REPLY_SIZES), timeout=SECONDS))
    demand([len(reply.payload.body) for reply in replies], list(REPLY_SIZES))


def half_duplex(stub: Any) -> None:
    requests = iter([wanted(size) for size in REPLY_SIZES])
    replies = list(stub.HalfDuplexCall(requests, timeout=SECONDS))
    demand([len(reply.payload.body) for reply in replies], list(REPLY_SIZES))


def ping_pong(stub: Any) -> None:
    requests = Requests()
    replies = stub.FullDuplexCall(requests, timeout=SECONDS)
    for request_size, size in zip(REQUEST_SIZES, REPLY_SIZES, strict=True):
        requests.send(wanted(size, request_size=request_size))
        demand(len(next(replies).payload.body), size)
    requests.end()
    demand(list(replies), [])
    demand(replies.code(), grpc.StatusCode.OK)


def empty_stream(stub: Any) -> None:
    demand(list(stub.FullDuplexCall(iter([]), timeout=SECONDS)), [])


def cancel_after_begin(stub: Any) -> None:
    requests = Requests()
    call = stub.StreamingInputCall.future(requests, timeout=SECONDS)
    call.cancel()
    demand(call.code(), grpc.StatusCode.CANCELLED)
    requests.end()


def cancel_after_first_response(stub: Any) -> None:
    requests = Requests()
    replies = stub.FullDuplexCall(requests, timeout=SECONDS)
    requests.send(wanted(REPLY_SIZES[0], request_size=REQUEST_SIZES[0]))
    demand(len(next(replies).payload.body), REPLY_SIZES[0])
    replies.cancel()
    demand(status_of(lambda: next(replies))[0], grpc.StatusCode.CANCELLED)
    requests.end()


def timeout_on_sleeping_server(stub: Any) -> None:
    requests = Requests()
    replies = stub.FullDuplexCall(requests, timeout=0.001)
    requests.send(wanted(request_size=27_182))
    demand(status_of(lambda: next(replies))[0], grpc.StatusCode.DEADLINE_EXCEEDED)
    requests.end()


def custom_metadata(stub: Any) -> None:
    _, call = stub.UnaryCall.with_call(large(), metadata=ECHO, timeout=SECONDS)
    assert ECHO[0] in tuple(call.initial_metadata())
    assert ECHO[1] in tuple(call.trailing_metadata())
    replies = stub.FullDuplexCall(iter([wanted(REPLY_SIZE)]), metadata=ECHO, timeout=SECONDS)
    assert ECHO[0] in tuple(replies.initial_metadata())
    demand(len(list(replies)), 1)
    assert ECHO[1] in tuple(replies.trailing_metadata())


def status_code_and_message(stub: Any) -> None:
    status = pb.EchoStatus(code=2, message="test status message")
    told = (grpc.StatusCode.UNKNOWN, status.message)
    unary = pb.SimpleRequest(response_status=status)
    demand(status_of(lambda: stub.UnaryCall(unary, timeout=SECONDS)), told)
    stream = iter([wanted(response_status=status)])
    demand(status_of(lambda: list(stub.FullDuplexCall(stream, timeout=SECONDS))), told)


def special_status_message(stub: Any) -> None:
    request = pb.SimpleRequest(response_status=pb.EchoStatus(code=2, message=SPECIAL))
    told = status_of(lambda: stub.UnaryCall(request, timeout=SECONDS))
    demand(told, (grpc.StatusCode.UNKNOWN, SPECIAL))


def unimplemented_method(stub: Any) -> None:
    told = status_of(lambda: stub.UnimplementedCall(pb.Empty(), timeout=SECONDS))
    demand(told[0], grpc.StatusCode.UNIMPLEMENTED)


def unimplemented_service(stub: Any) -> None:
    other = rpc.UnimplementedServiceStub(stub.channel)
    told = status_of(lambda: other.UnimplementedCall(pb.Empty(), timeout=SECONDS))
    demand(told[0], grpc.StatusCode.UNIMPLEMENTED)


def client_compressed_unary(stub: Any) -> None:
    request = large()
    request.expect_compressed.value = True
    how = {"timeout": SECONDS, "compression": grpc.Compression.Gzip}
    demand(len(stub.UnaryCall(request, **how).payload.body), REPLY_SIZE)
    request.expect_compressed.value = False
    demand(len(stub.UnaryCall(request, timeout=SECONDS).payload.body), REPLY_SIZE)


def client_compressed_unary_probe(stub: Any) -> None:
    """What clients ask first; a server that cannot tell fails it, as Python's own does."""
    request = large()
    request.expect_compressed.value = True
    told = status_of(lambda: stub.UnaryCall(request, timeout=SECONDS))
    demand(told[0], grpc.StatusCode.INVALID_ARGUMENT)


def server_compressed_unary(stub: Any) -> None:
    for compressed in (True, False):
        request = large()
        request.response_compressed.value = compressed
        reply, call = stub.UnaryCall.with_call(request, timeout=SECONDS)
        demand(reply.payload, payload(REPLY_SIZE))


def server_compressed_streaming(stub: Any) -> None:
    request = wanted(31_415, 92_653)
    for parameters, compressed in zip(request.response_parameters, (True, False), strict=True):
        parameters.compressed.value = compressed
    replies = list(stub.StreamingOutputCall(request, timeout=SECONDS))
    demand([len(reply.payload.body) for reply in replies], [31_415, 92_653])


def concurrent_large_unary(stub: Any) -> None:
    with ThreadPoolExecutor(32) as pool:
        for done in [pool.submit(large_unary, stub) for _ in range(100)]:
            done.result()


def slow_consumer(stub: Any) -> None:
    """The server waits for the client's window, and nothing is lost."""
    replies = stub.StreamingOutputCall(wanted(*[100_000] * 60), timeout=SECONDS)
    held = threading.Event()
    total = 0
    for number, reply in enumerate(replies):
        if number == 0:
            held.wait(0.2)
        total += len(reply.payload.body)
    demand(total, 6_000_000)


CASES: dict[str, Callable[[Any], None]] = {
    case.__name__: case
    for case in (
        empty_unary, large_unary, cacheable_unary, client_streaming, server_streaming, half_duplex,
        ping_pong, empty_stream, cancel_after_begin, cancel_after_first_response,
        timeout_on_sleeping_server, custom_metadata, status_code_and_message,
        special_status_message, unimplemented_method, unimplemented_service,
        client_compressed_unary, client_compressed_unary_probe, server_compressed_unary,
        server_compressed_streaming, concurrent_large_unary, slow_consumer,
    )
}  # fmt: skip


def play(case: Callable[[Any], None], target: str) -> None:
    """One case over a connection of its own."""
    with grpc.insecure_channel(target) as channel:
        stub = rpc.TestServiceStub(channel)
        stub.channel = channel
        case(stub)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=10000)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("cases", nargs="*", default=list(CASES))
    chosen = parser.parse_args()
    for name in chosen.cases:
        play(CASES[name], f"{chosen.host}:{chosen.port}")
        print(f"{name}: ok")
