"""Which node answers for which slot, and what its settings must be.

redis-py does this part; it is off the hot path.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import redis.asyncio
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, WatchError

from promise_svc.adapters.ats_index.connection import Access, Node
from promise_svc.adapters.ats_index.functions import Library
from promise_svc.errors import ConfigError, EngineRefused, Unavailable

_VERSION_MIN = (7, 0)
_TIMEOUT_SECONDS = 5.0


def parse_urls(urls: Sequence[str]) -> tuple[list[Node], Access]:
    """Seeds and the one way in; ``redis(s)://[user:password@]host:port``."""
    nodes: list[Node] = []
    access = Access()
    for url in urls:
        if urlsplit(url).scheme not in ("redis", "rediss", "valkey", "valkeys"):
            raise ConfigError("an index URL begins with redis:// or rediss://")
        # redis-py knows the scheme by its older name; a host may be called valkey too.
        known = f"redis{url.removeprefix('valkey')}" if url.startswith("valkey") else url
        parts: dict[str, Any] = dict(parse_url(known))
        nodes.append(Node(str(parts.get("host", "127.0.0.1")), int(parts.get("port", 6379))))
        tls = None
        if urlsplit(url).scheme in ("rediss", "valkeys"):
            tls = ssl.create_default_context(cafile=parts.get("ssl_ca_certs"))
        access = Access(str(parts.get("username") or ""), str(parts.get("password") or ""), tls)
    if not nodes:
        raise ConfigError("no index URL was given")
    return nodes, access


class Topology:
    """The cluster's map, asked from any node that answers."""

    def __init__(self, seeds: list[Node], access: Access) -> None:
        self._seeds = seeds
        self._access = access
        self._ranges: list[tuple[int, int, Node]] = []

    def node_of(self, slot: int) -> Node:
        """The primary that serves ``slot``; Unavailable where the cluster has none."""
        for low, high, node in self._ranges:
            if low <= slot <= high:
                return node
        raise Unavailable(f"no index node serves slot {slot}")

    @property
    def primaries(self) -> list[Node]:
        return sorted({node for _, _, node in self._ranges})

    async def refresh(self) -> None:
        """Read the map anew from the first node that answers."""
        last = "no node was named"
        for node in dict.fromkeys([*self.primaries, *self._seeds]):
            try:
                slots = await self._ask(node, "CLUSTER", "SLOTS")
            except (RedisError, OSError, TimeoutError) as error:
                if "cluster support disabled" in str(error):
                    raise EngineRefused(
                        f"index node {node.host}:{node.port}: cluster-enabled must be yes, also "
                        "for a single node"
                    ) from error
                last = _plain(error)
                continue
            self._ranges = [
                (int(low), int(high), Node(_text(primary[0]) or node.host, int(primary[1])))
                for low, high, primary, *_ in slots
            ]
            return
        raise Unavailable(f"no index node answers: {last}")

    async def load(self, library: Library) -> None:
        """Load the Functions on every primary that lacks them."""
        for node in self.primaries:
            try:
                known = await self._ask(node, "FUNCTION", "LIST", "LIBRARYNAME", library.name)
                if not known:
                    await self._ask(node, "FUNCTION", "LOAD", library.source)
            except RedisError as error:
                if "already exists" not in str(error):
                    raise EngineRefused(f"cannot load the Functions: {_plain(error)}") from error
            except (OSError, TimeoutError) as error:
                raise Unavailable(f"{node.host}:{node.port}: {_plain(error)}") from error

    async def check(self, *, fsync: bool) -> None:
        """Refuse by name a setting under which a promise of ours would be a lie."""
        for node in self.primaries:
            try:
                await self._check(node, fsync)
            except (RedisError, OSError, TimeoutError) as error:
                raise Unavailable(f"{node.host}:{node.port}: {_plain(error)}") from error

    async def _check(self, node: Node, fsync: bool) -> None:
        where = f"index node {node.host}:{node.port}"
        info = await self._ask(node, "INFO", "server")
        version = str(info.get("valkey_version") or info.get("redis_version") or "0")
        if tuple(int(part) for part in version.split(".")[:2]) < _VERSION_MIN:
            raise EngineRefused(f"{where} is version {version}; Functions need 7.0 or newer")
        settings: dict[str, str] = {}
        for name in ("maxmemory-policy", "appendonly", "appendfsync", "cluster-enabled"):
            settings.update(_pairs(await self._ask(node, "CONFIG", "GET", name)))
        if settings.get("cluster-enabled") != "yes":
            raise EngineRefused(f"{where}: cluster-enabled must be yes, one node included")
        policy = settings.get("maxmemory-policy")
        if policy != "noeviction":
            raise EngineRefused(
                f"{where}: maxmemory-policy is {policy}; it must be noeviction, or stock would "
                "vanish under memory pressure"
            )
        if fsync and (settings.get("appendonly"), settings.get("appendfsync")) != ("yes", "always"):
            raise EngineRefused(
                f"{where}: durability mode fsync needs appendonly yes and appendfsync always, not "
                f"{settings.get('appendonly')} and {settings.get('appendfsync')}; change them, or "
                "choose mode memory and lose holds with the process"
            )

    async def scan(self, node: Node, pattern: str) -> list[bytes]:
        """Names of all keys of a node that match; for the audit, slow."""
        async with self._client(node) as client:
            try:
                return [key async for key in client.scan_iter(match=pattern, count=1000)]
            except (RedisError, OSError, TimeoutError) as error:
                raise Unavailable(f"{node.host}:{node.port}: {_plain(error)}") from error

    async def remove_all(
        self, node: Node, pattern: str, guard: bytes, expected: dict[bytes, bytes]
    ) -> bool:
        """Remove all keys that match, if the hash ``guard`` holds ``expected`` and does not change
        while they are looked for: every write of a shard changes its meta."""
        async with self._client(node) as client, client.pipeline(transaction=True) as steps:
            try:
                await steps.watch(guard)
                found = dict(zip(expected, await steps.hmget(guard, list(expected)), strict=True))
                missing = all(value is None for value in found.values())
                fresh = missing and set(expected.values()) == {b"0"}
                if found != expected and not fresh:
                    return False
                keys = [key async for key in client.scan_iter(match=pattern, count=1000)]
                steps.multi()
                for first in range(0, len(keys), 1000):
                    steps.unlink(*keys[first : first + 1000])
                await steps.execute()
            except WatchError:
                return False
            except (RedisError, OSError, TimeoutError) as error:
                raise Unavailable(f"{node.host}:{node.port}: {_plain(error)}") from error
        return True

    async def vitals(self, node: Node) -> dict[str, str]:
        """Its clock in ms (``time_ms``), memory, persistence and replication, as it tells them."""
        try:
            seconds, micros = await self._ask(node, "TIME")
            told: dict[str, str] = {"time_ms": str(int(seconds) * 1000 + int(micros) // 1000)}
            for section in ("server", "memory", "persistence", "replication"):
                info = await self._ask(node, "INFO", section)
                told |= {str(name): str(value) for name, value in info.items()}
            lines = _text(await self._ask(node, "CLUSTER", "INFO")).split()
            told |= dict(line.split(":", 1) for line in lines)
        except (RedisError, OSError, TimeoutError) as error:
            raise Unavailable(f"{node.host}:{node.port}: {_plain(error)}") from error
        return told

    async def _ask(self, node: Node, *command: str) -> Any:
        async with self._client(node) as client:
            return await client.execute_command(*command)

    def _client(self, node: Node) -> redis.asyncio.Redis:
        return redis.asyncio.Redis(
            host=node.host,
            port=node.port,
            username=self._access.username or None,
            password=self._access.password or None,
            ssl=self._access.tls is not None,
            socket_timeout=_TIMEOUT_SECONDS,
            socket_connect_timeout=self._access.connect_timeout,
            retry=Retry(NoBackoff(), 0),
        )


def _plain(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:200]


def _text(value: str | bytes | None) -> str:
    return value.decode() if isinstance(value, bytes) else value or ""


def _pairs(reply: Any) -> dict[str, str]:
    pairs = reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True)
    return {_text(name): _text(value) for name, value in pairs}
