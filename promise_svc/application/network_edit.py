"""Upserts of the network, each entry with its own outcome."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import IntEnum
from typing import Any, NamedTuple, Protocol, TypeVar

from promise_svc.application.network import (
    EDIT_ATTEMPTS_MAX,
    NetworkAdmin,
    NodeStatusChange,
    ShardKeys,
    too_busy,
)
from promise_svc.application.ports import DELETED, OrderStore
from promise_svc.application.tasks import OwnedTasks
from promise_svc.domain.network import (
    Document,
    NetworkDocuments,
    NetworkSnapshot,
    Node,
    NodeStatus,
)
from promise_svc.domain.network_validation import broken_reference, users_of
from promise_svc.errors import PreconditionFailed

_PLACES = {
    "node": ("nodes", "node_id"),
    "node_group": ("node_groups", "node_group_id"),
    "item": ("items", "sku"),
    "calendar": ("calendars", "calendar_id"),
    "carrier_service": ("carrier_services", "carrier_service"),
    "lane": ("lanes", "lane_id"),
    "sourcing_rule": ("sourcing_rules", "rule_id"),
}
"""Kind -> field of NetworkDocuments, and the attribute that is the document's id."""

_NODE_STATUS_FIELD = frozenset({"status"})


class UpsertOutcome(IntEnum):
    """What happened to one entry; numbers are the contract's and the precedence."""

    CREATED = 1
    UPDATED = 2
    UNCHANGED = 3
    UNKNOWN_CALENDAR = 10
    UNKNOWN_NODE = 20
    UNKNOWN_NODE_GROUP = 30
    UNKNOWN_CARRIER_SERVICE = 40
    CURRENCY_MISMATCH = 50
    SHARD_KEY_FIXED = 60
    UNKNOWN_COMPONENT = 70
    NESTED_BUNDLE = 80
    BUNDLE_HAS_STOCK = 90


class UpsertResult(NamedTuple):
    """One entry's outcome, and the name that could not be found or is in the way."""

    outcome: UpsertOutcome
    missing_id: str = ""


class UpsertReply(NamedTuple):
    """The version that has the accepted entries, and one result an entry, in request order."""

    network_version: int
    results: tuple[UpsertResult, ...]


DELETABLE = ("node_group", "calendar", "carrier_service", "lane", "sourcing_rule")
"""Kinds that nothing in the shards is known by."""


class DeleteOutcome(IntEnum):
    """What happened to one name; numbers are the contract's."""

    DELETED = 1
    NOT_THERE = 2
    IN_USE = 10


class DeleteResult(NamedTuple):
    """One name's outcome, and kind and name of the entry in the way."""

    outcome: DeleteOutcome
    used_by: str = ""


class DeleteReply(NamedTuple):
    """The version without the deleted entries, and one result a name, in request order."""

    network_version: int
    results: tuple[DeleteResult, ...]


ReplyT = TypeVar("ReplyT", UpsertReply, DeleteReply)


class NetworkFollower(Protocol):
    """The snapshot this process computes with."""

    def snapshot(self) -> NetworkSnapshot: ...
    async def refresh(self) -> NetworkSnapshot: ...


class EncodeDocument(Protocol):
    """JSON of a document; equal documents have equal JSON."""

    def __call__(self, document: Document, *, omit: frozenset[str] = ...) -> str: ...


class NetworkEditor:
    """The use cases of NetworkService. This process sees an edit when its call returns."""

    def __init__(
        self,
        *,
        admin: NetworkAdmin,
        store: OrderStore,
        network: NetworkFollower,
        shard_keys: ShardKeys,
        encode: EncodeDocument,
        tasks: OwnedTasks,
    ) -> None:
        self._admin = admin
        self._store = store
        self._network = network
        self._shard_keys = shard_keys
        self._encode = encode
        self._tasks = tasks

    def snapshot(self) -> NetworkSnapshot:
        """The network this process computes with. Unavailable before the first was read."""
        return self._network.snapshot()

    async def upsert(
        self,
        kind: str,
        documents: Sequence[Document],
        timeout: float,
        kept_status_ids: frozenset[str] = frozenset(),
    ) -> UpsertReply:
        """Insert or replace documents of one kind, each by itself; ids are unique.

        Nodes in ``kept_status_ids`` keep the status they have, ON when new. Unavailable;
        PreconditionFailed when others edit all the time; OutcomeUnknown as ``NetworkAdmin.upsert``.
        Cost: two reads of the network, if it changed.
        """
        work = self._upsert(kind, documents, timeout, kept_status_ids)
        return await self._tasks.shielded(work)

    async def delete(self, kind: str, names: Sequence[str]) -> DeleteReply:
        """Delete entries of a DELETABLE kind that nothing uses, each by itself; names are unique.
        Errors and cost as ``upsert``."""
        return await self._tasks.shielded(self._delete(kind, names))

    async def set_node_status(
        self, node_id: str, status: NodeStatus, timeout: float
    ) -> NodeStatusChange:
        """As ``NetworkAdmin.set_node_status``."""
        return await self._tasks.shielded(self._set_node_status(node_id, status, timeout))

    async def _set_node_status(
        self, node_id: str, status: NodeStatus, timeout: float
    ) -> NodeStatusChange:
        change = await self._admin.set_node_status(node_id, status, timeout)
        await self._network.refresh()
        return change

    async def _upsert(
        self, kind: str, documents: Sequence[Document], timeout: float, kept: frozenset[str]
    ) -> UpsertReply:
        async def once(snapshot: NetworkSnapshot) -> UpsertReply:
            results, changed = self._judge(kind, documents, kept, snapshot)
            version = snapshot.version
            if changed and kind == "node":
                version = await self._admin.upsert(kind, changed, timeout, version)
            elif changed:
                version = await self._store.upsert_network(kind, changed, version)
            told = zip(documents, results, strict=True)
            same = [x for x, (outcome, _) in told if outcome is UpsertOutcome.UNCHANGED]
            await self._admin.finish([x for x in same if isinstance(x, Node)], version, timeout)
            return UpsertReply(version, results)

        return await self._edited(once)

    async def _delete(self, kind: str, names: Sequence[str]) -> DeleteReply:
        assert kind in DELETABLE, kind

        async def once(snapshot: NetworkSnapshot) -> DeleteReply:
            known, users = snapshot.documents, users_of(kind, snapshot.documents)
            there: Mapping[str, Document] = getattr(known, _PLACES[kind][0])
            deleted = {name: DELETED for name in names if name in there and name not in users}
            results = tuple(
                DeleteResult(DeleteOutcome.DELETED)
                if name in deleted
                else DeleteResult(DeleteOutcome.IN_USE, users[name])
                if name in there
                else DeleteResult(DeleteOutcome.NOT_THERE)
                for name in names
            )
            if not deleted:
                return DeleteReply(snapshot.version, results)
            version = await self._store.upsert_network(kind, deleted, snapshot.version)
            return DeleteReply(version, results)

        return await self._edited(once)

    async def _edited(self, once: Callable[[NetworkSnapshot], Awaitable[ReplyT]]) -> ReplyT:
        """What ``once`` makes of the newest network; tried again where others edit it meanwhile."""
        for _ in range(EDIT_ATTEMPTS_MAX):
            snapshot = await self._network.refresh()
            try:
                reply = await once(snapshot)
            except PreconditionFailed:
                continue
            if reply.network_version != snapshot.version:
                await self._network.refresh()
            return reply
        raise too_busy()

    def _judge(
        self,
        kind: str,
        documents: Sequence[Document],
        kept: frozenset[str],
        snapshot: NetworkSnapshot,
    ) -> tuple[tuple[UpsertResult, ...], dict[str, str]]:
        """A result for each document, and what is to be written by id."""
        field, key = _PLACES[kind]
        present: dict[str, Document] = dict(getattr(snapshot.documents, field))
        # Entries of one call must fit each other too, so each accepted one joins the known.
        replaced: Mapping[str, Any] = {field: present}
        known: NetworkDocuments = dataclasses.replace(snapshot.documents, **replaced)
        results: list[UpsertResult] = []
        changed: dict[str, str] = {}
        for document in documents:
            name: str = getattr(document, key)
            before = present.get(name)
            wanted = document
            if name in kept and isinstance(document, Node) and isinstance(before, Node):
                wanted = dataclasses.replace(document, status=before.status)
            misfit = broken_reference(wanted, known, self._shard_keys.fit_stock)
            if misfit is not None:
                results.append(UpsertResult(UpsertOutcome[misfit.reason], misfit.missing_id))
                continue
            if wanted == before:
                results.append(UpsertResult(UpsertOutcome.UNCHANGED))
                continue
            outcome = UpsertOutcome.CREATED if before is None else UpsertOutcome.UPDATED
            results.append(UpsertResult(outcome))
            present[name] = wanted
            omit = _NODE_STATUS_FIELD if name in kept else frozenset()
            changed[name] = self._encode(document, omit=omit)
        return tuple(results), changed
