"""TLS of a front: its certificate, and whose certificates it asks for.

TLS 1.2 or later with forward secrecy, and ALPN h2: a caller that does not offer it speaks no gRPC.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

from promise_svc.errors import ConfigError

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2: what RFC 9113 does not forbid. Those of 1.3 are all good."""

HANDSHAKE_SECONDS = 10.0
"""A caller that has not ended its handshake by then is cut off."""


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
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
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

    def credentials(self) -> grpc.ServerCredentials:
        """For grpc.aio. ConfigError as above."""
        self.context()
        return grpc.ssl_server_credentials(
            [(self.key.read_bytes(), self.certificate.read_bytes())],
            root_certificates=self.client_ca.read_bytes() if self.client_ca else None,
            require_client_auth=self.client_ca is not None,
        )
