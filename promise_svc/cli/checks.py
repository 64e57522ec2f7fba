"""What `promise-svc doctor` looks at. Each check changes nothing and says what to do."""

from __future__ import annotations

import asyncio
import platform
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import NamedTuple

from promise_svc import __version__, hotpath
from promise_svc.adapters.ats_index.index import ClusterAtsIndex
from promise_svc.adapters.ats_index.topology import Topology, parse_urls
from promise_svc.adapters.order_store.pool import PoolConfig
from promise_svc.adapters.order_store.store import PostgresOrderStore
from promise_svc.adapters.order_store.vitals import read_vitals
from promise_svc.application.identity import refuse_foreign
from promise_svc.application.ports import AtsIndex
from promise_svc.config import ClusterConfig, ProcessConfig
from promise_svc.domain.sharding import START, Position
from promise_svc.errors import EngineRefused, PromiseServiceError

CLOCK_MS_GOOD = 1_000
CLOCK_MS_MAX = 5_000
"""Beyond it a claim and its leg may expire in the wrong order."""

LAG_EVENTS_GOOD = 10_000
MEMORY_SHARE_GOOD = 0.8
CONNECTION_SHARE_GOOD = 0.8
UNRESOLVED_SECONDS = 3.0
"""A reservation left by a dead worker is finished within it where a server runs."""

_CLAIMS_MAX = 1_000
_TIMEOUT = 5.0


class Check(NamedTuple):
    """One look. ``remedy`` says what to do unless all is well."""

    name: str
    level: str
    """ok, warn or fail."""
    found: str
    remedy: str = ""


def ok(name: str, found: str) -> Check:
    return Check(name, "ok", found)


def check_installation() -> Iterator[Check]:
    """Versions, compiled twins, the front."""
    yield ok("versions", f"promise-svc {__version__}, Python {platform.python_version()}")
    if hotpath.COMPILED:
        yield ok("compiled twins", "native/ is in use")
    else:
        yield Check(
            "compiled twins",
            "warn",
            "the slow specifications run",
            "unset PROMISE_PURE_PYTHON, or build native/ (make setup)",
        )
    if hotpath.NATIVE_FRONT:
        yield ok("front", "native")
    else:
        yield Check(
            "front",
            "warn",
            "grpc.aio: about twenty times the CPU a call",
            "install libnghttp2-dev and build again",
        )
    if sys.maxsize < 2**32:
        yield Check("platform", "fail", "32 bits", "run a 64-bit Python")


async def check_index(process: ProcessConfig) -> AsyncIterator[Check]:
    """Every primary: settings as they are at this moment, disk, memory, clock."""
    try:
        seeds, access = parse_urls(process.index_urls)
        topology = Topology(seeds, access)
        await topology.refresh()
        modes = {process.reserve_durability, process.confirm_durability}
        await topology.check(fsync=modes != {"memory"})
        yield ok(
            "index settings",
            f"{len(topology.primaries)} primaries; no eviction, cluster mode"
            + (", fsync always" if modes != {"memory"} else ""),
        )
        for node in topology.primaries:
            before_ms = time.time() * 1000
            vitals = await topology.vitals(node)
            after_ms = time.time() * 1000
            where = f"index {node.host}:{node.port}"
            yield _disk(where, vitals)
            yield _memory(where, vitals)
            yield _clock(where, int(vitals["time_ms"]), (before_ms + after_ms) / 2)
            if vitals["cluster_state"] != "ok":
                yield Check(
                    where,
                    "fail",
                    f"cluster state {vitals['cluster_state']}",
                    "see CLUSTER NODES: slots are missing or a majority is away",
                )
    except EngineRefused as error:
        yield Check("index settings", "fail", error.message, "CONFIG SET it, and in the file")
    except PromiseServiceError as error:
        yield Check(
            "index", "fail", error.message, "is it running, and are URL and password right?"
        )


def _disk(where: str, vitals: dict[str, str]) -> Check:
    status, name = vitals.get("aof_last_write_status", "ok"), f"{where} disk"
    if status != "ok" or vitals.get("aof_last_bgrewrite_status", "ok") != "ok":
        return Check(
            name,
            "fail",
            f"the last write of the append-only file: {status}",
            "free space on its disk and look at its log: holds are not durable",
        )
    kind = vitals.get("valkey_version") or vitals.get("redis_version", "?")
    on = "append-only file on" if vitals.get("aof_enabled") == "1" else "append-only file off"
    return ok(name, f"version {kind}, {on}")


def _memory(where: str, vitals: dict[str, str]) -> Check:
    used, most = int(vitals.get("used_memory", 0)), int(vitals.get("maxmemory", 0))
    name, found = f"{where} memory", f"{used >> 20:,} MiB"
    if most and used > MEMORY_SHARE_GOOD * most:
        return Check(name, "warn", f"{found} of {most >> 20:,}", "raise maxmemory or add nodes")
    return ok(name, found + (f" of {most >> 20:,}" if most else ", no maxmemory"))


def _clock(where: str, theirs_ms: float, ours_ms: float) -> Check:
    apart, name = abs(theirs_ms - ours_ms), f"{where} clock"
    if apart <= CLOCK_MS_GOOD:
        return ok(name, f"within {apart:.0f} ms of this host's")
    level = "warn" if apart <= CLOCK_MS_MAX else "fail"
    return Check(
        name,
        level,
        f"{apart:.0f} ms from this host's",
        "run a time service (chrony) on both: ages and expiries are wrong by that",
    )


async def check_order_store(process: ProcessConfig) -> AsyncIterator[Check]:
    """Settings as they are at this moment, connections, schema, clock."""
    try:
        before_ms = time.time() * 1000
        vitals = await read_vitals(process.order_store_url)
        after_ms = time.time() * 1000
    except EngineRefused as error:
        yield Check(
            "order store settings", "fail", error.message,
            "change it in PostgreSQL; credentials, in the URL",
        )  # fmt: skip
        return
    except PromiseServiceError as error:
        yield Check(
            "order store", "fail", error.message, "is it running, and are URL and password right?"
        )
        return
    yield ok(
        "order store settings",
        f"PostgreSQL {vitals.version}; fsync, full_page_writes and "
        f"synchronous_commit on; {vitals.size_bytes >> 20:,} MiB",
    )
    yield _clock("order store", vitals.time_ms, (before_ms + after_ms) / 2)
    found = f"{vitals.connection_count} of {vitals.connections_max} connections"
    if vitals.connection_count > CONNECTION_SHARE_GOOD * vitals.connections_max:
        yield Check(
            "order store connections",
            "warn",
            found,
            "raise max_connections, or lower PROMISE_ORDER_STORE_CONNECTIONS_MAX",
        )
    else:
        yield ok("order store connections", found)
    if vitals.pending_migrations:
        yield Check(
            "order store schema",
            "warn",
            f"{vitals.pending_migrations} migrations wait",
            "the next start of the service applies them",
        )
    else:
        yield ok("order store schema", "up to date")


async def check_shards(cluster: ClusterConfig, process: ProcessConfig) -> AsyncIterator[Check]:
    """That both belong together, that every shard serves, that the relay keeps up."""
    store = await PostgresOrderStore.open(PoolConfig(url=process.order_store_url))
    seeds, access = parse_urls(process.index_urls)
    index = ClusterAtsIndex(
        Topology(seeds, access),
        access,
        key_prefix=cluster.key_prefix,
        shard_count=cluster.shard_count,
        window_ms=cluster.idempotency_window_seconds * 1000,
        outbox_kept=cluster.outbox_events_kept,
    )
    try:
        await index.start(fsync=False)
        if await refuse_foreign(index, store, cluster.key_prefix, cluster.shard_count) is None:
            yield Check("cluster", "warn", "the order store was never used", "start the service")
            return
        yield ok("cluster", f"index and order store belong together, {cluster.shard_count} shards")
        metas = [await index.read_meta(shard, _TIMEOUT) for shard in range(cluster.shard_count)]
        cursors = await store.cursors()
        serving = [shard for shard, meta in enumerate(metas) if meta.owner == meta.process]
        unresolved = await unresolved_claims(index, serving)
    except PromiseServiceError as error:
        yield Check("cluster", "fail", error.message, "name the engines that belong together")
        return
    finally:
        index.close()
        await store.close()
    idle = [shard for shard, meta in enumerate(metas) if meta.owner != meta.process]
    if idle:
        yield Check(
            "shards",
            "warn",
            f"{len(idle)} of {len(metas)} have no owner: {idle[:10]}",
            "start the service, or call it: it takes them over",
        )
    else:
        yield ok("shards", f"all {len(metas)} serve")
    yield _resolved(unresolved)
    behind = sum(
        _events_between(cursors.get(shard, START), meta.at) for shard, meta in enumerate(metas)
    )
    if behind > LAG_EVENTS_GOOD:
        yield Check(
            "relay",
            "warn",
            f"{behind:,} events are not in the order store",
            "is a server or `promise-svc relay` running, and PostgreSQL fast enough?",
        )
    else:
        yield ok("relay", f"{behind:,} events on their way")


async def unresolved_claims(
    index: AtsIndex, shards: Sequence[int], seconds: float = UNRESOLVED_SECONDS
) -> list[str]:
    """Reservations whose end is overdue, and still is so many seconds later."""
    found: set[str] | None = None
    for wait in (0.0, seconds):
        await asyncio.sleep(wait)
        claims = [await index.open_claims(shard, _CLAIMS_MAX, _TIMEOUT) for shard in shards]
        names = {claim.reservation_id for some in claims for claim in some}
        found = names if found is None else found & names
        if not found:
            break
    return sorted(found or ())


def _resolved(unresolved: Sequence[str]) -> Check:
    if not unresolved:
        return ok("reservations", "none waits for its end")
    return Check(
        "reservations",
        "warn",
        f"{len(unresolved):,} wait for a server to finish or abort them: "
        + ", ".join(unresolved[:5]),
        "a server or `promise-svc relay` must run, and its log says why one cannot be finished: a "
        "shard of it is away, or verify names the leg that contradicts it",
    )


def _events_between(stored: Position, at: Position) -> int:
    """Across epochs only those of the last one can be told."""
    if at <= stored:
        return 0
    return at.sequence - (stored.sequence if stored.epoch == at.epoch else 0)
