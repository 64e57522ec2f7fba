"""Edit the network: documents go to the order store, and a node switched off binds every shard."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from promise_svc.application.ports import AtsIndex, AtsReader, OrderStore
from promise_svc.domain.network import Item, Node, NodeStatus
from promise_svc.errors import (
    FieldViolation,
    InvalidRequest,
    NotFound,
    OutcomeUnknown,
    PreconditionFailed,
    PromiseServiceError,
)
from promise_svc.hotpath import shard_of

KINDS = ("node", "node_group", "item", "calendar", "carrier_service", "lane", "sourcing_rule")

EDIT_ATTEMPTS_MAX = 8
"""Edits of others that may come between our reading and our writing before we give up."""

_SHARDS_AT_ONCE = 64

DocumentCheck = Callable[[str, Mapping[str, str]], Sequence[FieldViolation]]
"""Kind and documents (JSON by id) in, everything wrong with them out."""


class ShardKeys:
    """Keeps shard keys from parting a SKU from its stock."""

    def __init__(self, table: AtsReader, shard_count: int) -> None:
        self._table = table
        self._shard_count = shard_count

    def fit_stock(self, item: Item) -> bool:
        """Whether the item's shard is the one that has its SKU's positions, if it has any; of a
        bundle, whether its SKU has none.

        The table may be late, and that does no harm: a SKU gets its first position when it is an
        item, and an item's shard key cannot change. Positions without an item are older than the
        network (it was restored), and the table has had them since its start.
        """
        shard = self._table.shard(item.sku)
        if item.components:
            return shard is None
        return shard is None or shard == shard_of(item.shard_key or item.sku, self._shard_count)


class NodeStatusChange(NamedTuple):
    """A node's status was set."""

    network_version: int
    """The version from which it holds."""
    previous: NodeStatus


class NetworkAdmin:
    """Use cases of network edits. Every one of them is idempotent."""

    def __init__(self, index: AtsIndex, store: OrderStore, check: DocumentCheck) -> None:
        self._index = index
        self._store = store
        self._check = check

    async def upsert(
        self,
        kind: str,
        documents: Mapping[str, str],
        timeout: float,
        expected_version: int | None = None,
    ) -> int:
        """Insert or replace documents of one kind, all or none; returns the network version. With
        ``expected_version``, PreconditionFailed unless the network is at that one.

        A node without ``status`` keeps the one it has, ON when it is new. InvalidRequest lists
        everything wrong. OutcomeUnknown as of ``set_node_status``, when a node is OFF or has a
        capacity.
        """
        if kind not in KINDS:
            raise InvalidRequest(
                [FieldViolation("kind", "UNKNOWN_KIND", f"must be one of {', '.join(KINDS)}")]
            )
        violations = self._check(kind, documents)
        if violations:
            raise InvalidRequest(list(violations))
        if kind != "node":
            return await self._store.upsert_network(kind, documents, expected_version)
        return await self._upsert_nodes(documents, timeout, expected_version)

    async def set_node_status(
        self, node_id: str, status: NodeStatus, timeout: float
    ) -> NodeStatusChange:
        """Switch a node on or off; ``timeout`` in seconds is for each shard.

        Once it returns, no shard takes a hold planned before. OutcomeUnknown names the shards that
        may not know yet, in ``metadata["shards"]``: the same call again finishes. Raises NotFound.
        """
        for _ in range(EDIT_ATTEMPTS_MAX):
            network = await self._store.network()
            stored = network.documents.get("node", {}).get(node_id)
            if stored is None:
                raise NotFound("node", node_id)
            document = json.loads(stored)
            previous = _status(document)
            changed = json.dumps(document | {"status": status.value}, ensure_ascii=False)
            try:
                version = await self._store.upsert_network(
                    "node", {node_id: changed}, network.version
                )
            except PreconditionFailed:
                continue
            await self._raise_floor(version, timeout)
            return NodeStatusChange(version, previous)
        raise too_busy()

    async def _upsert_nodes(
        self, documents: Mapping[str, str], timeout: float, expected_version: int | None
    ) -> int:
        parsed: dict[str, dict[str, Any]] = {id: json.loads(doc) for id, doc in documents.items()}
        for _ in range(EDIT_ATTEMPTS_MAX):
            network = await self._store.network()
            if expected_version not in (None, network.version):
                raise too_busy()
            present = network.documents.get("node", {})
            merged = {id: _with_status(doc, present.get(id)) for id, doc in parsed.items()}
            texts = {id: json.dumps(doc, ensure_ascii=False) for id, doc in merged.items()}
            try:
                version = await self._store.upsert_network("node", texts, network.version)
            except PreconditionFailed:
                continue
            if any(map(_binds, merged.values())):
                await self._raise_floor(version, timeout)
            return version
        raise too_busy()

    async def finish(self, documents: Iterable[Node], version: int, timeout: float) -> None:
        """Nodes that are as they were asked for: whoever asked before may not have heard that all
        shards know. OutcomeUnknown as of ``set_node_status``."""
        if any(node.status is NodeStatus.OFF or node.capacities for node in documents):
            await self._raise_floor(version, timeout)

    async def _raise_floor(self, version: int, timeout: float) -> None:
        slots = asyncio.Semaphore(_SHARDS_AT_ONCE)

        async def tell(shard: int) -> PromiseServiceError | None:
            async with slots:
                try:
                    await self._index.raise_network_floor(shard, version, timeout)
                except PromiseServiceError as error:
                    return error
            return None

        answers = await asyncio.gather(*(tell(shard) for shard in range(self._index.shard_count)))
        missing = {shard: error for shard, error in enumerate(answers) if error is not None}
        if missing:
            shards = ",".join(map(str, missing))
            reasons = ", ".join(sorted({error.reason for error in missing.values()}))
            raise OutcomeUnknown(
                f"network version {version} is stored; shards {shards} may not know it yet "
                f"({reasons}): the same call again finishes",
                shards=shards,
                network_version=version,
            )


def _binds(document: Mapping[str, Any]) -> bool:
    """Whether holds planned on another version of the node must be planned again."""
    return _status(document) is NodeStatus.OFF or bool(document.get("capacities"))


def _status(document: Mapping[str, Any]) -> NodeStatus:
    return NodeStatus(document.get("status") or NodeStatus.ON)


def _with_status(document: dict[str, Any], present: str | None) -> dict[str, Any]:
    if document.get("status"):
        return document
    kept = _status(json.loads(present)) if present is not None else NodeStatus.ON
    return document | {"status": kept.value}


def too_busy() -> PreconditionFailed:
    return PreconditionFailed("the network is being edited by others all the time; try again")
