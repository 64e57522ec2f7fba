"""TLS on both fronts: whom they show themselves to be, and whom they let in."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from shutil import copyfile as copy
from typing import Any

import grpc
import grpc.aio
import pytest

from promise_svc.errors import ConfigError
from promise_svc.rpc import transport_native
from promise_svc.rpc.tls import TlsFiles
from promise_svc.rpc.transport import TransportOptions
from tests.support.certificates import Authority, Certificate
from tests.support.fronts import BOTH, FRONTS, UNARY, BytesFront, bytes_front


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def server(authority: Authority) -> Certificate:
    return authority.issue("server")


@pytest.fixture(params=sorted(FRONTS))
async def front(request, server: Certificate) -> AsyncIterator[BytesFront]:
    options = TransportOptions(tls=TlsFiles(server.certificate, server.key))
    async with bytes_front(request.param, options) as front:
        yield front


@pytest.fixture(params=sorted(FRONTS))
async def mutual(request, server: Certificate, authority: Authority) -> AsyncIterator[BytesFront]:
    """A front that asks its callers for certificates of the same authority."""
    options = TransportOptions(tls=TlsFiles(server.certificate, server.key, authority.root))
    async with bytes_front(request.param, options) as front:
        yield front


@asynccontextmanager
async def channel_to(
    front: BytesFront, authority: Authority, client: Certificate | None = None
) -> AsyncIterator[grpc.aio.Channel]:
    credentials = grpc.ssl_channel_credentials(
        authority.root.read_bytes(),
        client.key.read_bytes() if client else None,
        client.certificate.read_bytes() if client else None,
    )
    async with grpc.aio.secure_channel(f"localhost:{front.port}", credentials) as channel:
        yield channel


async def test_a_caller_who_trusts_the_authority_is_served(front, authority) -> None:
    """Small calls and large, several at once, and a stream."""
    big = bytes(1_000_000)
    async with channel_to(front, authority) as channel:
        unary = channel.unary_unary(UNARY)
        replies = await asyncio.gather(*(unary(body, timeout=10) for body in (b"a", big, b"c")))
        stream = channel.stream_stream(BOTH)(iter([b"1", b"2"]))
        streamed = [reply async for reply in stream]

    assert replies == [b"a", big, b"c"]
    assert streamed == [b"1", b"2"]


async def test_a_caller_of_another_authority_turns_away(front, tmp_path: Path) -> None:
    """The certificate is not one it trusts."""
    async with channel_to(front, Authority(tmp_path, "other")) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await channel.unary_unary(UNARY)(b"x", timeout=30)

    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_plaintext_is_not_served(front) -> None:
    """On the port of TLS nobody is answered without."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await front.unary(timeout=30)

    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("protocols", [["http/1.1"], []])
async def test_a_caller_who_does_not_offer_h2_is_not_served(front, authority, protocols) -> None:
    """ALPN is how gRPC says over TLS that it is HTTP/2."""
    context = ssl.create_default_context(cafile=str(authority.root))
    if protocols:
        context.set_alpn_protocols(protocols)
    said = b""
    try:
        reader, writer = await asyncio.open_connection("localhost", front.port, ssl=context)
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
        said = await asyncio.wait_for(reader.read(), 30)
        writer.close()
    except (ssl.SSLError, ConnectionError):
        pass

    assert said == b"" or front.name == "grpcio"  # which serves them all the same


async def test_an_old_protocol_is_refused(front, authority) -> None:
    """TLS 1.1 and before."""
    context = ssl.create_default_context(cafile=str(authority.root))
    context.set_alpn_protocols(["h2"])
    with pytest.warns(DeprecationWarning):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1

    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.open_connection("localhost", front.port, ssl=context)


async def test_a_caller_with_a_certificate_is_known_by_it(mutual, authority) -> None:
    """Where the front asks for one, the servicer learns whose it is."""
    seen: dict[str, Any] = {}

    async def unary(request: bytes, context: Any) -> bytes:
        seen.update(context.auth_context())
        seen["identities"] = list(context.peer_identities())
        return request

    mutual.behaviors.unary = unary
    async with channel_to(mutual, authority, authority.issue("shop-web")) as channel:
        await channel.unary_unary(UNARY)(b"x", timeout=30)

    assert list(seen["x509_common_name"]) == [b"shop-web"]
    assert seen["identities"] == list(seen["x509_subject_alternative_name"])
    assert b"localhost" in seen["identities"]
    assert list(seen["transport_security_type"]) == [b"ssl"]


async def test_a_caller_without_its_certificate_is_not_let_in(
    mutual, authority, tmp_path: Path
) -> None:
    """Neither with none, nor with one of another authority."""
    strange = Authority(tmp_path, "other").issue("shop-web")
    for client in (None, strange):
        async with channel_to(mutual, authority, client) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await channel.unary_unary(UNARY)(b"x", timeout=30)

        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("name", sorted(FRONTS))
async def test_a_renewed_certificate_is_shown_to_new_callers(
    name: str, authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a restart, also to callers that name no server. Halfway, while the key does not fit,
    the earlier pair stands; a connection that stands is not touched."""
    monkeypatch.setattr(transport_native, "TICK_SECONDS", 0.01)
    old, new = authority.issue("old"), authority.issue("new")
    files = TlsFiles(tmp_path / "server.pem", tmp_path / "server.key")
    copy(old.certificate, files.certificate)
    copy(old.key, files.key)
    refused: list[bool] = []
    options = TransportOptions(tls=files, tls_refused=refused.append)
    async with bytes_front(name, options) as front, channel_to(front, authority) as channel:
        unary = channel.unary_unary(UNARY)
        await unary(b"before", timeout=30)
        shown = [await shown_by(front, authority)]
        copy(new.key, files.key)
        await until_shown(front, authority, lambda: bool(refused))
        shown.append(await shown_by(front, authority))
        copy(new.certificate, files.certificate)
        await until_shown(front, authority, lambda: not refused[-1])
        shown.append(await shown_by(front, authority))
        shown.append(await shown_by(front, authority, server_name=None))

        assert await unary(b"after", timeout=30) == b"after"
    assert shown == ["old", "old", "new", "new"]
    assert refused == [True, False]


@pytest.mark.parametrize("name", sorted(FRONTS))
async def test_renewed_roots_decide_who_is_let_in(
    name: str, authority, server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A root withdrawn lets nobody in any more, one added does."""
    monkeypatch.setattr(transport_native, "TICK_SECONDS", 0.01)
    other = Authority(tmp_path, "other")
    ours, theirs = authority.issue("ours"), other.issue("theirs")
    files = TlsFiles(server.certificate, server.key, tmp_path / "roots.pem")
    copy(authority.root, files.client_ca)
    refused: list[bool] = []
    options = TransportOptions(tls=files, tls_refused=refused.append)
    async with bytes_front(name, options) as front:
        before = [await let_in(front, authority, who) for who in (ours, theirs)]
        copy(other.root, files.client_ca)
        await until_shown(front, authority, lambda: bool(refused), client=ours)
        after = [await let_in(front, authority, who) for who in (ours, theirs)]

    assert before == [True, False]
    assert after == [False, True]


async def let_in(front: BytesFront, authority: Authority, client: Certificate) -> bool:
    async with channel_to(front, authority, client) as channel:
        try:
            return bool(await channel.unary_unary(UNARY)(b"x", timeout=30))
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            return False


async def shown_by(
    front: BytesFront,
    authority: Authority,
    *,
    server_name: str | None = "localhost",
    client: Certificate | None = None,
) -> str:
    """The name in the certificate that a new connection meets."""
    context = ssl.create_default_context(cafile=str(authority.root))
    context.check_hostname = server_name is not None
    context.set_alpn_protocols(["h2"])
    if client is not None:
        context.load_cert_chain(client.certificate, client.key)
    # Without a name asyncio sends none only if it is told an empty one.
    _, writer = await asyncio.open_connection(
        "127.0.0.1", front.port, ssl=context, server_hostname=server_name or ""
    )
    subject = writer.get_extra_info("peercert")["subject"]
    writer.transport.abort()
    return dict(pair for part in subject for pair in part)["commonName"]


async def until_shown(front, authority, holds, client: Certificate | None = None) -> None:
    """Connect until the front has looked at its files: grpc.aio looks when somebody does."""
    async with asyncio.timeout(30):
        while not holds():
            try:
                await shown_by(front, authority, client=client)
            except OSError:
                await asyncio.sleep(0.01)  # refused by the new roots


def test_a_key_that_does_not_fit_is_refused_by_name(authority, server, tmp_path: Path) -> None:
    """Before anything listens; also a file that is not there, or is no certificate."""
    other = authority.issue("other")
    empty = tmp_path / "empty.pem"
    empty.touch()

    for files in (
        TlsFiles(server.certificate, other.key),
        TlsFiles(tmp_path / "missing.pem", server.key),
        TlsFiles(empty, server.key),
        TlsFiles(server.certificate, server.key, empty),
    ):
        with pytest.raises(ConfigError, match=r"\.pem.* cannot be used"):
            files.context()
