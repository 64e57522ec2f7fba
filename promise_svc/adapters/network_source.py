"""The network as the order store has it -> an immutable snapshot in memory, swapped whole."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from promise_svc.application.ports import DELETED, Clock, OrderStore, StoredNetwork
from promise_svc.domain.network import (
    Calendar,
    CarrierService,
    Document,
    Item,
    Lane,
    NetworkDocuments,
    NetworkSnapshot,
    Node,
    NodeGroup,
    SourcingRule,
    build_snapshot,
    with_items,
)
from promise_svc.domain.network_validation import ReferenceReason, broken_reference, violations
from promise_svc.domain.routes import Routes
from promise_svc.errors import FieldViolation, InvariantBroken, Unavailable

POLL_SECONDS = 1.0
"""How often the order store is asked for its network version."""

KIND_TYPES: Mapping[str, type[Document]] = {
    "node": Node,
    "node_group": NodeGroup,
    "item": Item,
    "calendar": Calendar,
    "carrier_service": CarrierService,
    "lane": Lane,
    "sourcing_rule": SourcingRule,
}
"""Kind of a stored document -> its type."""

_KINDS = {document_type: kind for kind, document_type in KIND_TYPES.items()}
_encoder = msgspec.json.Encoder(order="deterministic")
_decoders = {kind: msgspec.json.Decoder(KIND_TYPES[kind]) for kind in KIND_TYPES}


def kind_of(document: Document) -> str:
    """The kind a document is stored under."""
    return _KINDS[type(document)]


def id_of(document: Document) -> str:
    """The id a document is stored under."""
    match document:
        case Node():
            return document.node_id
        case NodeGroup():
            return document.node_group_id
        case Item():
            return document.sku
        case Calendar():
            return document.calendar_id
        case CarrierService():
            return document.carrier_service
        case Lane():
            return document.lane_id
        case SourcingRule():
            return document.rule_id


def encode_document(document: Document, *, omit: frozenset[str] = frozenset()) -> str:
    """JSON of a document less the fields in ``omit``; equal documents have equal JSON."""
    builtins = msgspec.to_builtins(document, str_keys=True)  # dates as keys become text
    kept = {field: value for field, value in builtins.items() if field not in omit}
    return _encoder.encode(kept).decode()


def decode_document(kind: str, text: str) -> Document:
    """The document of ``encode_document``. InvariantBroken when it is none: it was checked before
    it was stored."""
    try:
        return _decoders[kind].decode(text)
    except (KeyError, msgspec.MsgspecError) as error:
        raise InvariantBroken(
            f"stored network document is unreadable: {error}", kind=kind
        ) from error


def decode_network(stored: StoredNetwork, before: NetworkSnapshot | None = None) -> NetworkSnapshot:
    """All documents, indexed; with ``before``, its documents and those that changed since. Kinds of
    a later version of the service are left out."""
    known = NetworkDocuments() if before is None else before.documents

    def documents_of(kind: str, present: Mapping[str, Any]) -> Mapping[str, Any]:
        changed = stored.documents.get(kind)
        if not changed:
            return present
        found = dict(present)
        for name, text in changed.items():
            if text == DELETED:
                found.pop(name, None)
            else:
                found[name] = decode_document(kind, text)
        return found

    documents = NetworkDocuments(
        nodes=documents_of("node", known.nodes),
        node_groups=documents_of("node_group", known.node_groups),
        items=documents_of("item", known.items),
        calendars=documents_of("calendar", known.calendars),
        carrier_services=documents_of("carrier_service", known.carrier_services),
        lanes=documents_of("lane", known.lanes),
        sourcing_rules=documents_of("sourcing_rule", known.sourcing_rules),
    )
    if before is not None and stored.documents.keys() <= {"item"}:
        return with_items(before, stored.version, documents)
    snapshot = build_snapshot(stored.version, documents)
    # Worked out here, beside the event loop, and not by the first shopper on it.
    snapshot.derived(Routes)
    return snapshot


class NetworkSource:
    """Serves the last snapshot, follows the order store's version, says how old it may be."""

    def __init__(
        self, store: OrderStore, clock: Clock, *, poll_seconds: float = POLL_SECONDS
    ) -> None:
        self._store = store
        self._clock = clock
        self._poll_seconds = poll_seconds
        self._snapshot: NetworkSnapshot | None = None
        self._followed: NetworkSnapshot | None = None
        """The snapshot while it is known how the order store got there."""
        self._checked_ms = 0
        self._refreshing = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self.problem = ""
        """Why the last look at the order store failed; empty when it did not."""
        self.failure_count = 0
        """Looks of ``start``'s loop that failed so far."""

    def snapshot(self) -> NetworkSnapshot:
        """The last snapshot. Unavailable before the first was read."""
        if self._snapshot is None:
            raise Unavailable("the network has not been read from the order store yet")
        return self._snapshot

    def age_ms(self) -> int:
        """For how long the snapshot is not known to be the order store's; since 1970 before the
        first."""
        return max(0, self._clock.now_ms() - self._checked_ms)

    async def refresh(self) -> NetworkSnapshot:
        """Read what changed of the network if its version moved.

        Unavailable when the order store is away; InvariantBroken when a document is unreadable. The
        snapshot then stays.
        """
        async with self._refreshing:
            # After a look that failed the order store may be another one, restored from a backup.
            before, self._followed = self._followed, None
            asked_ms = self._clock.now_ms()
            version = await self._store.network_version()
            if before is not None and before.version > version:
                before = None
            if before is None or before.version != version:
                stored = await self._store.network(0 if before is None else before.version)
                # Tens of thousands of documents take longer than the loop may be blocked.
                before = await asyncio.to_thread(decode_network, stored, before)
            self._snapshot = self._followed = before
            self._checked_ms = asked_ms
            self.problem = ""
            return self._snapshot

    def check(
        self, kind: str, documents: Mapping[str, str], fits_stock: Callable[[Item], bool]
    ) -> list[FieldViolation]:
        """Everything wrong with documents (JSON by id) in themselves, beside the snapshot, and
        beside the stock, as ``broken_reference`` has it."""
        known = self.snapshot().documents
        return [
            FieldViolation(f"{kind}[{name}].{field}".rstrip("."), reason, description)
            for name, text in documents.items()
            for field, reason, description in _complaints(kind, name, text, known, fits_stock)
        ]

    def start(self) -> None:
        """Follow the order store until ``close``."""
        assert self._task is None, "started once"
        self._task = asyncio.create_task(self._follow(), name="network source")

    async def close(self) -> None:
        """Stop following."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def _follow(self) -> None:
        while True:
            try:
                await self.refresh()
            except Exception as error:  # the top of a loop: counted, told, gone on
                self.problem = f"{type(error).__name__}: {error}"
                self.failure_count += 1
            await asyncio.sleep(self._poll_seconds)


def _complaints(
    kind: str,
    name: str,
    text: str,
    known: NetworkDocuments,
    fits_stock: Callable[[Item], bool],
) -> Iterator[FieldViolation]:
    try:
        document = decode_document(kind, text)
    except InvariantBroken as error:
        yield FieldViolation("", "MALFORMED", str(error))
        return
    if id_of(document) != name:
        yield FieldViolation("", "MALFORMED", f"is stored as {name!r}, says {id_of(document)!r}")
    yield from violations(document)
    misfit = broken_reference(document, known, fits_stock)
    if misfit is None:
        return
    if misfit.reason is ReferenceReason.SHARD_KEY_FIXED:
        yield FieldViolation("shard_key", misfit.reason, "is fixed once the SKU exists")
    else:
        yield FieldViolation("", misfit.reason, f"does not fit the network: {misfit.missing_id}")
