"""The order store in memory: the port's promises in the plainest form, no time and no I/O."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Mapping, Sequence

from promise_svc.application.ports import (
    ClusterIdentity,
    ShardEvents,
    StoredNetwork,
    StoredReservation,
    StoredShard,
)
from promise_svc.domain.events import EventType, PositionImage, StoredEvent
from promise_svc.domain.inventory import PositionKey
from promise_svc.domain.reservation import LegRecord
from promise_svc.domain.sharding import START, Position
from promise_svc.errors import (
    FieldViolation,
    Fork,
    InvalidRequest,
    PreconditionFailed,
    PromiseServiceError,
    SequenceGap,
)
from tests.support.copied import copied


class FakeOrderStore:
    """Keeps everything in dictionaries. ``fail_next`` makes the next call raise, once, before
    anything is done; ``fail_after_next`` after everything was done."""

    def __init__(self) -> None:
        self.events: dict[tuple[int, Position], StoredEvent] = {}
        self.fail_next: PromiseServiceError | None = None
        self.fail_after_next: PromiseServiceError | None = None
        self.append_count = 0
        self._cursors: dict[int, Position] = {}
        self._reservations: dict[str, StoredReservation] = {}
        self._positions: dict[int, dict[tuple[str, str, str], tuple[Position, PositionImage]]] = {}
        self._legs: dict[int, dict[str, tuple[Position, LegRecord]]] = {}
        self._documents: dict[str, dict[str, str]] = {}
        self._changed: dict[tuple[str, str], int] = {}
        self._version = 0
        self._identity: ClusterIdentity | None = None
        self._quote_key = b""

    async def cluster(self) -> ClusterIdentity | None:
        self._fail()
        return self._identity

    async def bind_cluster(self, identity: ClusterIdentity) -> ClusterIdentity:
        self._fail()
        self._identity = self._identity or identity
        return self._identity

    async def quote_key(self, ours: bytes) -> bytes:
        self._fail()
        self._quote_key = self._quote_key or ours
        return self._quote_key

    async def append(self, shard: int, after: Position, events: Sequence[StoredEvent]) -> Position:
        self._fail()
        if not events:
            return after
        at = after
        for stored in events:
            if stored.shard != shard or not _follows(at, stored):
                raise SequenceGap(f"shard {shard}: {stored.at} does not follow {at}")
            at = stored.at
        if self._cursors.get(shard, START) != after:
            raise PreconditionFailed(f"the cursor of shard {shard} is not {after}")
        for stored in events:
            known = self.events.get((shard, stored.at), stored)
            if known.payload != stored.payload:
                raise Fork(f"shard {shard}: {stored.at} is stored with another payload")
        for stored in events:
            self._keep(stored)
        self._cursors[shard] = at
        self.append_count += 1
        self._fail_after()
        return at

    async def append_all(self, batches: Sequence[ShardEvents]) -> list[PromiseServiceError | None]:
        outcomes: list[PromiseServiceError | None] = []
        for batch in batches:
            try:
                await self.append(*batch)
            except PromiseServiceError as error:
                outcomes.append(error)
            else:
                outcomes.append(None)
        return outcomes

    async def cursor(self, shard: int) -> Position:
        self._fail()
        return self._cursors.get(shard, START)

    async def cursors(self) -> dict[int, Position]:
        self._fail()
        return dict(self._cursors)

    async def read_events(self, shard: int, after: Position, limit: int) -> list[StoredEvent]:
        self._fail()
        found = [e for (s, at), e in self.events.items() if s == shard and at > after]
        return sorted(found, key=lambda stored: stored.at)[:limit]

    def _read_positions(self, shard: int) -> tuple[Position, list[PositionImage]]:
        self._fail()
        images = [image for _, image in self._positions.get(shard, {}).values()]
        return self._cursors.get(shard, START), images

    async def copy_positions(self, shard: int) -> tuple[Position, bytes]:
        at, images = self._read_positions(shard)
        return at, copied(at, images)

    async def read_some_positions(
        self, shard: int, after_sku: str, sku_limit: int, skus: Collection[str]
    ) -> tuple[Position, list[PositionImage]]:
        at, images = self._read_positions(shard)
        later = {image.sku for image in images if image.sku.encode() > after_sku.encode()}
        wanted = {*sorted(later, key=str.encode)[:sku_limit], *skus}
        return at, [image for image in images if image.sku in wanted]

    async def read_shard(self, shard: int) -> StoredShard:
        at, images = self._read_positions(shard)
        return StoredShard(
            at,
            {PositionKey(*image[:3]): image.row for image in images},
            {rid: leg for rid, (_, leg) in self._legs.get(shard, {}).items()},
            {r.reservation_id: r.claim for r in self._reservations.values() if r.home == shard},
        )

    async def reservation(self, reservation_id: str) -> StoredReservation | None:
        self._fail()
        return self._reservations.get(reservation_id)

    async def list_reservations(
        self, owner_id: str, order_reference: str, after: str, limit: int
    ) -> list[StoredReservation]:
        self._fail()
        found = []
        for rid, stored in sorted(self._reservations.items(), key=lambda each: each[0].encode()):
            body = json.loads(stored.claim.body)
            if (
                owner_id in ("", body["owner_id"])
                and order_reference in ("", body["order_reference"])
                and rid.encode() > after.encode()
            ):
                found.append(stored)
        return found[:limit]

    async def read_legs(self, shard: int, states: Sequence[int]) -> dict[str, LegRecord]:
        self._fail()
        legs = self._legs.get(shard, {})
        return {rid: leg for rid, (_, leg) in legs.items() if leg.state in states}

    async def legs_at(
        self, places: Collection[tuple[int, str]]
    ) -> dict[tuple[int, str], LegRecord]:
        self._fail()
        found = ((shard, rid, self._legs.get(shard, {}).get(rid)) for shard, rid in places)
        return {(shard, rid): stored[1] for shard, rid, stored in found if stored}

    async def last_events(self, shard: int, limit: int) -> list[StoredEvent]:
        return (await self.read_events(shard, START, len(self.events)))[::-1][:limit]

    async def network(self, after: int = 0) -> StoredNetwork:
        self._fail()
        changed: dict[str, dict[str, str]] = {}
        for kind, documents in self._documents.items():
            for document_id, document in documents.items():
                if self._changed[kind, document_id] > after:
                    changed.setdefault(kind, {})[document_id] = document
        found = StoredNetwork(self._version, changed)
        await asyncio.sleep(0)  # what was read may be old by the time it is used
        return found

    async def network_version(self) -> int:
        self._fail()
        return self._version

    async def upsert_network(
        self, kind: str, documents: Mapping[str, str], expected_version: int | None = None
    ) -> int:
        self._fail()
        parsed = {}
        for document_id, document in documents.items():
            try:
                parsed[document_id] = _canonical(document)
            except ValueError:
                violation = FieldViolation(f"documents[{document_id!r}]", "INVALID_JSON", "no JSON")
                raise InvalidRequest([violation]) from None
        if expected_version not in (None, self._version):
            raise PreconditionFailed(f"the network is at version {self._version}")
        old = self._documents.get(kind, {})
        if any(old.get(key) != value for key, value in parsed.items()):
            self._documents[kind] = old | parsed
            self._version += 1
            for key, value in parsed.items():
                if old.get(key) != value:
                    self._changed[kind, key] = self._version
        self._fail_after()
        return self._version

    def set_cursor(self, shard: int, at: Position) -> None:
        """What a restore of an older backup of one table would do."""
        self._cursors[shard] = at

    def _keep(self, stored: StoredEvent) -> None:
        shard, at, event, _ = stored
        self.events[shard, at] = stored
        if event.claim:
            known = self._reservations.get(event.subject)
            if known is None or known.at < at:
                self._reservations[event.subject] = StoredReservation(
                    event.subject, event.claim, shard, at, event.time_ms
                )
        if event.leg:
            legs = self._legs.setdefault(shard, {})
            if event.subject not in legs or legs[event.subject][0] < at:
                legs[event.subject] = (at, event.leg)
        positions = self._positions.setdefault(shard, {})
        for image in event.positions:
            if event.type == EventType.ACCOUNTS_CLOSED:
                positions.pop(image[:3], None)
                continue
            newest = positions.get(image[:3])
            if newest is None or newest[0] < at:
                positions[image[:3]] = (at, image)

    def _fail(self) -> None:
        error, self.fail_next = self.fail_next, None
        if error is not None:
            raise error

    def _fail_after(self) -> None:
        error, self.fail_after_next = self.fail_after_next, None
        if error is not None:
            raise error


def _canonical(document: str) -> str:
    value = json.loads(document)
    if "\\u0000" in document:
        raise ValueError("a NUL character")
    return json.dumps(value, sort_keys=True, allow_nan=False)


def _follows(after: Position, stored: StoredEvent) -> bool:
    if after != START and stored.at.epoch == after.epoch:
        return stored.at.sequence == after.sequence + 1
    return (
        stored.at == Position(after.epoch + 1, 1)
        and stored.event.type == EventType.EPOCH_STARTED
        and stored.event.previous == after
    )
