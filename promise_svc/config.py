"""What can be set: `ClusterConfig`, the same for every process, and `ProcessConfig`, one's own.

Read once in `cli/`, from flags and `PROMISE_*` variables, then passed down as plain values.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from ipaddress import ip_address
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from promise_svc.errors import ConfigError

DurabilityMode = Literal["memory", "fsync", "replicated", "recorded"]
"""What an acknowledgement survives: nothing; kill -9 and power loss of the shard's process; loss
of a machine; loss of the whole index."""

HELD_MODES: tuple[DurabilityMode, ...] = ("memory", "fsync")
DECIDED_MODES: tuple[DurabilityMode, ...] = ("memory", "fsync", "recorded")
FRONTS = ("auto", "native", "grpcio")
UNIX = "unix:"
PREFIX = "PROMISE_"
"""Begins the variable of every setting."""

LOG_LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterConfig:
    """The same in every process that shares an ATS index and an order store.

    `shard_count` and `key_prefix` are fixed at the first start, which writes them into the order
    store: a start with others is refused, for it would find none of the old keys, take all stock
    for its own and sell it twice. They tell services apart that share a Valkey, not ones that
    share an order store.
    """

    shard_count: int = 64
    """Shards, 1..4096. The ceiling of scaling out (a shard lies on one node); each costs a few
    KiB, an outbox and one relay step a tick, and a cart that touches several pays for each: not
    many more than nodes will ever need. With 1, a sale costs less than half of what it does with
    64 (adapters/ats_index/README.md)."""

    key_prefix: str = "promise"
    """Begins every key of the index; 1..32 of `a-z 0-9 _ -`. Lets two services share a Valkey."""

    idempotency_window_seconds: int = 3600
    """60..86,400. How long a settled reservation's answer is repeated from the index; later ones
    come from the order store or are refused. An hour outlives every sane retry; each settled
    reservation costs about 300 bytes meanwhile."""

    ttl_default_seconds: int = 900
    """1..ttl_max_seconds. The hold's life where the caller names none: a checkout's length."""

    ttl_max_seconds: int = 14_400
    """1..14,400 (4 h), the contract's maximum. Longer holds are stock nobody can buy."""

    outbox_events_kept: int = 4_096
    """0..1,000,000 events a shard, kept behind the durable point so that a reader of the feed
    that fell behind catches up without the order store."""

    def __post_init__(self) -> None:
        _in_range("shard_count", self.shard_count, 1, 4096)
        if not re.fullmatch(r"[a-z0-9_-]{1,32}", self.key_prefix):
            raise ConfigError(f"key_prefix must be 1..32 of a-z 0-9 _ -, not {self.key_prefix!r}")
        _in_range("idempotency_window_seconds", self.idempotency_window_seconds, 60, 86_400)
        _in_range("ttl_max_seconds", self.ttl_max_seconds, 1, 14_400)
        _in_range("ttl_default_seconds", self.ttl_default_seconds, 1, self.ttl_max_seconds)
        _in_range("outbox_events_kept", self.outbox_events_kept, 0, 1_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessConfig:
    """One server process: where it listens, what it talks to, what it lets in."""

    listen: str = "127.0.0.1:50051"
    """`host:port` of gRPC, where port 0 picks a free one, or `unix:/path`. Loopback by default:
    opening a service to the network is a decision, which also needs tokens and TLS, or leave to do
    without (`allow_anonymous`, `allow_plaintext`)."""

    front: str = "auto"
    """auto, native or grpcio: who speaks HTTP/2. auto takes the native front where it is built, for
    a call costs a small part of what it costs through grpc.aio, and grpc.aio elsewhere."""

    metrics_listen: str = "127.0.0.1:9464"
    """`host:port` of the Prometheus page; port 0 picks a free one, empty turns it off."""

    index_urls: tuple[str, ...] = field(default=(), repr=False)
    """`redis://` or `rediss://` URLs of some nodes of the Valkey cluster; the others are found
    through them. Empty starts the embedded Valkey in `data_dir`."""

    order_store_url: str = field(default="", repr=False)
    """`postgresql://` URL of the order store. Empty starts the embedded one in `data_dir`."""

    data_dir: Path = Path(".data")
    """Folder of the embedded engines; held by one process at a time. Unused with both URLs."""

    embedded_nodes: int = 1
    """1..64 Valkey processes to embed; more than one shows how shards spread. Fixed once the
    folder is made."""

    workers: int = 1
    """1..64 serving processes. Each has a table of its own, so more cost memory, not truth; more
    than the cores that index and order store leave cost both. From two on, a supervisor starts
    them, replaces the dead, and restarts them one by one on SIGHUP."""

    background: bool = True
    """Whether relay, resolver, sweeper and drift watch run here. Without them somebody must run
    `promise-svc relay`, or nothing reaches the order store and no hold expires in the table."""

    tokens_file: Path | None = None
    """Who may call: bearer tokens by their hashes, with scopes; `promise-svc token` adds one. Read
    again when it changes. Without it everybody may call everything, on loopback only."""

    tls_certificate_file: Path | None = None
    """PEM: the server's certificate, with those that lead to its root. Needs `tls_key_file`.
    All three files are read again when they change; new connections meet what they hold then."""

    tls_key_file: Path | None = None
    """PEM: its private key."""

    tls_client_ca_file: Path | None = None
    """PEM: roots of callers' certificates. Then a caller without one is not let in."""

    allow_anonymous: bool = False
    """Serve off loopback without tokens, where something in front authenticates."""

    allow_plaintext: bool = False
    """Serve off loopback without TLS, where something in front terminates it."""

    reserve_durability: DurabilityMode = "fsync"
    """memory or fsync; what a hold survives. The same for release, cancel and supply. A hold
    lives minutes, so the record in the order store is not worth its milliseconds."""

    confirm_durability: DurabilityMode = "recorded"
    """memory, fsync or recorded; what a sale survives. Money changes hands on it, so by default
    the order store has it before the caller hears."""

    deadline_seconds_max: float = 30.0
    """0.1..300. Calls that ask for more, or for nothing, get this."""

    message_bytes_max: int = 4 * 1024 * 1024
    """64 KiB..64 MiB; the contract says 4 MiB."""

    calls_in_flight_max: int = 1_000
    """1..100,000 calls at once; one more is shed with RESOURCE_EXHAUSTED and a retry delay.
    Above it, latency grows and nothing else does."""

    order_store_connections_max: int = 8
    """1..1,000 connections of this process to PostgreSQL, whose default total is 100."""

    quote_keys_file: Path | None = None
    """File with the keys of quote tokens, one a line in 64 hexadecimal digits (`openssl rand -hex
    32`), the same on every host: the first signs, a second one is accepted too. To rotate, put the
    new key second everywhere, then first, and drop the old one once its quotes are past. Without,
    one key is made at the first start and kept in the order store."""

    lame_duck_seconds: float = 1.0
    """0..60. On SIGTERM: health says NOT_SERVING this long before calls are refused, so that load
    balancers look away first."""

    drain_seconds: float = 10.0
    """0..300. Then calls in flight get this long to end."""

    reflection: bool = True
    """Lets grpcurl and the like list the methods; they are public in protos/ anyway."""

    log_level: str = "info"
    """debug, info, warning or error."""

    def __post_init__(self) -> None:
        if not self.listen.startswith(UNIX):
            host_and_port("listen", self.listen)
        _one_of("front", self.front, FRONTS)
        if self.metrics_listen:
            host_and_port("metrics_listen", self.metrics_listen)
        for url in self.index_urls:
            _url("index_urls", url, ("redis", "rediss"))
        if self.order_store_url:
            _url("order_store_url", self.order_store_url, ("postgresql", "postgres"))
        _in_range("embedded_nodes", self.embedded_nodes, 1, 64)
        _in_range("workers", self.workers, 1, 64)
        _one_of("reserve_durability", self.reserve_durability, HELD_MODES)
        _one_of("confirm_durability", self.confirm_durability, DECIDED_MODES)
        _in_range("deadline_seconds_max", self.deadline_seconds_max, 0.1, 300)
        _in_range("message_bytes_max", self.message_bytes_max, 64 * 1024, 64 * 1024 * 1024)
        _in_range("calls_in_flight_max", self.calls_in_flight_max, 1, 100_000)
        _in_range("order_store_connections_max", self.order_store_connections_max, 1, 1_000)
        _in_range("lame_duck_seconds", self.lame_duck_seconds, 0, 60)
        _in_range("drain_seconds", self.drain_seconds, 0, 300)
        _one_of("log_level", self.log_level, LOG_LEVELS)
        if bool(self.tls_certificate_file) != bool(self.tls_key_file):
            raise ConfigError("tls_certificate_file and tls_key_file go together")
        if self.tls_client_ca_file and not self.tls_certificate_file:
            raise ConfigError("tls_client_ca_file needs tls_certificate_file")
        if not on_loopback(self.listen):
            self._refuse_open_door()

    def _refuse_open_door(self) -> None:
        if not self.tokens_file and not self.allow_anonymous:
            raise ConfigError(
                f"listen {self.listen} is off loopback and there is no tokens_file: make one with "
                "`promise-svc token`, or set allow_anonymous where a proxy authenticates"
            )
        if not self.tls_certificate_file and not self.allow_plaintext:
            raise ConfigError(
                f"listen {self.listen} is off loopback and there is no tls_certificate_file: set "
                "it and tls_key_file, or allow_plaintext where a proxy terminates TLS"
            )


def environment_of(*configurations: ClusterConfig | ProcessConfig) -> dict[str, str]:
    """The variables from which `cli/settings.py` reads the same again."""
    return {
        f"{PREFIX}{each.name.upper()}": _as_variable(getattr(configuration, each.name))
        for configuration in configurations
        for each in fields(configuration)
        if getattr(configuration, each.name) is not None
    }


def _as_variable(value: object) -> str:
    if isinstance(value, tuple):
        # A comma parts the URLs of a variable; inside one, a password's, it can be written so.
        return ",".join(part.replace(",", "%2C") for part in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def read_quote_keys(path: Path | None) -> tuple[bytes, ...]:
    """The keys of `quote_keys_file`, none without one; ConfigError never shows what is in it."""
    if path is None:
        return ()
    try:
        lines = path.read_text(encoding="ascii").split()
        keys = tuple(map(bytes.fromhex, lines))
    except OSError as error:
        raise ConfigError(f"quote_keys_file {path}: {error.strerror}") from None
    except ValueError:
        keys = ()
    if len(keys) not in (1, 2) or any(len(key) != 32 for key in keys):
        raise ConfigError(f"quote_keys_file {path} must hold 1 or 2 lines of 64 hexadecimal digits")
    if len(set(keys)) < len(keys):
        raise ConfigError(f"quote_keys_file {path} holds the same key twice")
    return keys


def host_and_port(name: str, address: str) -> tuple[str, int]:
    """Split `host:port`, IPv6 in brackets; raises ConfigError naming the setting."""
    try:
        parts = urlsplit(f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or port is None or parts.netloc != address or "@" in address:
        raise ConfigError(f"{name} must be host:port with a port of 0..65535, not {address!r}")
    return host, port


def on_loopback(address: str) -> bool:
    """Whether only this machine can reach `host:port` or `unix:/path`; a name but localhost is
    looked up nowhere and counts as off."""
    if address.startswith(UNIX):
        return True
    host = host_and_port("listen", address)[0]
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def address_text(listen: str, port: int) -> str:
    """`listen` with the port that was had."""
    if listen.startswith(UNIX):
        return listen
    host, _ = host_and_port("listen", listen)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _in_range(name: str, value: float, low: float, high: float) -> None:
    # A NaN is in no range.
    if not low <= value <= high:
        bounds = f"{low:,}..{high:,}" if low != high else f"{low:,}"
        raise ConfigError(f"{name} must be {bounds}, not {value:,}", setting=name)


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{name} must be one of {', '.join(allowed)}, not {value!r}")


def _url(name: str, url: str, schemes: tuple[str, ...]) -> None:
    """Check the form only. The message never shows the URL: it may hold a password."""
    try:
        parts = urlsplit(url)
        known = parts.scheme in schemes and bool(parts.hostname or parts.query)
        known = known and parts.port != 0
    except ValueError:
        known = False
    if not known:
        raise ConfigError(f"{name} must begin with {' or '.join(schemes)}:// and name a host")
