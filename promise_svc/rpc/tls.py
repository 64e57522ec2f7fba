"""TLS of a front: its certificate, and whose certificates it asks for.

TLS 1.2 or later with forward secrecy, and ALPN h2: a caller that does not offer it speaks no gRPC.
Nothing is resumed: every new connection meets the files as they are now.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc

from promise_svc.errors import ConfigError
from promise_svc.telemetry import EventLog

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2: what RFC 9113 does not forbid. Those of 1.3 are all good."""

HANDSHAKE_SECONDS = 10.0
"""A caller that has not ended its handshake by then is cut off."""

_log = EventLog("promise_svc.tls")


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files of one server."""

    certificate: Path
    key: Path
    client_ca: Path | None = None
    """Roots of callers' certificates: then every caller needs one."""

    def context(self) -> ssl.SSLContext:
        """For an asyncio server. ConfigError names the file that cannot be used."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
        context.num_tickets = 0
        context.set_ciphers(CIPHERS)
        context.set_alpn_protocols(["h2"])
        try:
            context.load_cert_chain(self.certificate, self.key)
        except OSError as error:
            pair = f"{self.certificate} and {self.key}"
            raise ConfigError(f"certificate and key {pair} cannot be used: {error}") from error
        if self.client_ca is not None:
            try:
                context.load_verify_locations(self.client_ca)
            except OSError as error:
                raise ConfigError(f"{self.client_ca} cannot be used: {error}") from error
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def state(self) -> tuple[tuple[int, int, int] | None, ...]:
        """What differs when somebody changed a file."""
        return tuple(map(_state, filter(None, (self.certificate, self.key, self.client_ca))))


class Certificates:
    """What the files hold now, or what they last held that could be used."""

    def __init__(self, files: TlsFiles, refused: Callable[[bool], None]) -> None:
        """ConfigError names the file that cannot be used. ``refused`` is told whenever the files
        changed: True, and what was read before stands."""
        self._files = files
        self._refused = refused
        self._seen = files.state()
        self._context = files.context()

    def look(self) -> bool:
        """Whether the files hold something new that can be used. Costs a stat each; cheap enough
        for every second, and for every handshake."""
        state = self._files.state()
        if state == self._seen:
            return False
        self._seen = state
        try:
            self._context = self._files.context()
        except ConfigError as error:
            self._refused(True)
            _log.error("the certificate cannot be used; the earlier one stands", error=str(error))
            return False
        self._refused(False)
        _log.info("certificate read")
        return True

    def context(self) -> ssl.SSLContext:
        """For an asyncio server, once; connections made after a ``look`` take what it found."""
        context = self._files.context()
        context.sni_callback = self._choose  # asked also where the caller names no server
        return context

    def _choose(self, connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        connection.context = self._context

    def credentials(self) -> grpc.ServerCredentials:
        """For grpc.aio, which looks at each handshake, in a thread of its own."""
        return grpc.dynamic_ssl_server_credentials(
            self._configuration(),
            lambda: self._configuration() if self.look() else None,  # type: ignore[arg-type,return-value]
            require_client_authentication=self._files.client_ca is not None,
        )

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        files = self._files
        return grpc.ssl_server_certificate_configuration(
            [(files.key.read_bytes(), files.certificate.read_bytes())],
            root_certificates=files.client_ca.read_bytes() if files.client_ca else None,
        )


def _state(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
