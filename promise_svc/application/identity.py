"""Which order store belongs to which keys of which index: bound at the first start, then compared.

A mistyped prefix or shard count would find no keys, take all shards over as if they were lost, and
sell their stock a second time. So nobody takes anything over before this was compared.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable

from promise_svc.application.ports import AtsIndex, ClusterIdentity, OrderStore
from promise_svc.errors import ConfigError, EngineRefused

_TIMEOUT = 10.0


async def bind_cluster(
    index: AtsIndex,
    store: OrderStore,
    key_prefix: str,
    shard_count: int,
    new_id: Callable[[], str] = lambda: str(uuid.uuid4()),
) -> str:
    """Compare, and write what is not written yet; returns the cluster's id. Safe beside others.

    An index without an id (new, or lost) gets the order store's: it is rebuilt from it. Raises
    ConfigError for another prefix or shard count, EngineRefused for an index and an order store
    that are not each other's; nothing is written then.
    """
    known = await refuse_foreign(index, store, key_prefix, shard_count)
    if known is None:
        ours = ClusterIdentity(new_id(), key_prefix, shard_count)
        known = await store.bind_cluster(ours)
        _refuse_settings(known, key_prefix, shard_count)  # somebody else may have been faster
    _refuse_id(known, await index.bind_cluster(known.cluster_id, _TIMEOUT))
    return known.cluster_id


async def refuse_foreign(
    index: AtsIndex, store: OrderStore, key_prefix: str, shard_count: int
) -> ClusterIdentity | None:
    """Only compare; None where the order store is not bound yet. Raises as ``bind_cluster``."""
    known = await store.cluster()
    if known is not None:
        _refuse_settings(known, key_prefix, shard_count)
    found = await index.cluster_id(_TIMEOUT)
    if found:
        _refuse_id(known, found)
    return known


def _refuse_settings(known: ClusterIdentity, key_prefix: str, shard_count: int) -> None:
    differ = [
        f"{name} {stands}, not {given}"
        for name, stands, given in (
            ("key_prefix", known.key_prefix, key_prefix),
            ("shard_count", known.shard_count, shard_count),
        )
        if stands != given
    ]
    if differ:
        raise ConfigError(
            f"this order store was first used with {' and '.join(differ)}: both are fixed then. "
            "Set what it was (PROMISE_KEY_PREFIX, PROMISE_SHARD_COUNT), or name the order store "
            "that is meant",
            cluster_id=known.cluster_id,
        )


def _refuse_id(known: ClusterIdentity | None, found: str) -> None:
    if known is None:
        raise EngineRefused(
            f"the index holds the keys of cluster {found}, and the order store was never used: "
            "name the order store of that cluster, or another key_prefix for a new one",
            cluster_id=found,
        )
    if found != known.cluster_id:
        raise EngineRefused(
            f"the order store is of cluster {known.cluster_id}, the index's keys with prefix "
            f"{known.key_prefix} are of cluster {found}: name the order store and the index that "
            "belong together",
            cluster_id=known.cluster_id,
        )
