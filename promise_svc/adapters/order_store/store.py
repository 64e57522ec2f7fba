"""The order store on PostgreSQL: the durable record of what the shards decided."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Self

import asyncpg

from promise_svc.adapters.event_codec import decode_claim, decode_event, decode_leg, decode_shares
from promise_svc.adapters.order_store import queries
from promise_svc.adapters.order_store.appender import Appender
from promise_svc.adapters.order_store.batch import refuse_gap
from promise_svc.adapters.order_store.pool import (
    ConnectionPool,
    Health,
    PoolConfig,
    borrowed,
    health,
    open_pool,
    refuse_unsafe_settings,
)
from promise_svc.adapters.order_store.schema import migrate
from promise_svc.application.ports import (
    ClusterIdentity,
    ShardEvents,
    StoredNetwork,
    StoredReservation,
    StoredShard,
)
from promise_svc.domain.copied_positions import copied_cursor
from promise_svc.domain.events import PositionImage, StoredEvent
from promise_svc.domain.inventory import PositionKey, StockPosition
from promise_svc.domain.reservation import LegRecord
from promise_svc.domain.sharding import START, Position
from promise_svc.errors import (
    FieldViolation,
    InvalidRequest,
    PreconditionFailed,
    PromiseServiceError,
    SequenceGap,
)

_NUL = "\0"
"""PostgreSQL's text holds every character but this one."""


class PostgresOrderStore:
    """``OrderStore`` over one connection pool; safe for any number of tasks of one event loop."""

    def __init__(self, pool: ConnectionPool, *, connect_timeout_seconds: float = 5.0) -> None:
        self._pool = pool
        self._timeout = connect_timeout_seconds
        self._appender = Appender(pool, connect_timeout_seconds)

    @classmethod
    async def open(cls, config: PoolConfig) -> Self:
        """Connect, check the server's settings and migrate. Raises Unavailable, EngineRefused."""
        pool = await open_pool(config)
        try:
            await refuse_unsafe_settings(pool, config.connect_timeout_seconds)
            await migrate(pool, config.connect_timeout_seconds)
        except BaseException:
            pool.terminate()
            raise
        return cls(pool, connect_timeout_seconds=config.connect_timeout_seconds)

    async def close(self, timeout: float = 5.0) -> None:
        """Let running statements finish for ``timeout`` seconds, then cut the connections."""
        try:
            async with asyncio.timeout(timeout):
                await self._appender.close()
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()

    async def health(self, timeout: float) -> Health:
        """Round trip to the server; Unavailable when it does not answer in ``timeout`` seconds."""
        return await health(self._pool, timeout)

    async def cluster(self) -> ClusterIdentity | None:
        """The cluster whose record this is; None before the first start."""
        async with borrowed(self._pool, self._timeout) as connection:
            row = await connection.fetchrow(queries.READ_CLUSTER)
        return ClusterIdentity(*row) if row else None

    async def bind_cluster(self, identity: ClusterIdentity) -> ClusterIdentity:
        """See ``OrderStore.bind_cluster``. Repeating it is safe."""
        async with borrowed(self._pool, self._timeout) as connection:
            await connection.execute(queries.BIND_CLUSTER, *identity)
            # A statement of its own, so that it sees the row of whoever was faster.
            row = await connection.fetchrow(queries.READ_CLUSTER)
        assert row is not None
        return ClusterIdentity(*row)

    async def quote_key(self, ours: bytes) -> bytes:
        """See ``OrderStore.quote_key``. Repeating it is safe."""
        async with borrowed(self._pool, self._timeout) as connection:
            await connection.execute(queries.KEEP_QUOTE_KEY, ours)
            row = await connection.fetchrow(queries.READ_QUOTE_KEY)
        assert row is not None
        return bytes(row["key"])

    async def append(self, shard: int, after: Position, events: Sequence[StoredEvent]) -> Position:
        """See ``OrderStore.append``. Cost: one statement, shared with the appends of other
        shards that wait at the same time, whatever the batches' size.

        OutcomeUnknown when the connection was lost before the answer; the cursor tells then.
        """
        if not events:
            return after
        refuse_gap(shard, after, events)
        if not await self._appender.append(ShardEvents(shard, after, events)):
            raise _moved_on(shard, after)
        return events[-1].at

    async def append_all(self, batches: Sequence[ShardEvents]) -> list[PromiseServiceError | None]:
        """See ``OrderStore.append_all``. Cost: one statement."""
        outcomes: list[PromiseServiceError | None] = []
        for batch in batches:
            try:
                refuse_gap(*batch)
            except SequenceGap as error:
                outcomes.append(error)
            else:
                outcomes.append(None)
        fit = [place for place, error in enumerate(outcomes) if error is None]
        written = await self._appender.append_all([batches[place] for place in fit]) if fit else ()
        for place, moved in zip(fit, written, strict=True):
            if moved is not True:
                outcomes[place] = moved or _moved_on(*batches[place][:2])
        return outcomes

    async def cursor(self, shard: int) -> Position:
        """Last event stored of ``shard``; START when there is none."""
        async with borrowed(self._pool, self._timeout) as connection:
            row = await connection.fetchrow(queries.READ_CURSOR, shard)
        return Position(*row) if row else START

    async def cursors(self) -> dict[int, Position]:
        """Cursors of all shards that have one."""
        async with borrowed(self._pool, self._timeout) as connection:
            rows = await connection.fetch(queries.READ_CURSORS)
        return {row[0]: Position(row[1], row[2]) for row in rows}

    async def read_events(self, shard: int, after: Position, limit: int) -> list[StoredEvent]:
        """Up to ``limit`` events after ``after``, in order."""
        async with borrowed(self._pool, self._timeout) as connection:
            rows = await connection.fetch(queries.READ_EVENTS, shard, *after, limit)
        return [
            StoredEvent(shard, Position(epoch, sequence), decode_event(payload), payload)
            for epoch, sequence, payload in rows
        ]

    async def copy_positions(self, shard: int) -> tuple[Position, bytes]:
        """See ``OrderStore.copy_positions``."""
        pieces: list[bytes] = []

        async def take(piece: bytes) -> None:
            pieces.append(piece)

        async with borrowed(self._pool, self._timeout) as connection:
            await connection.copy_from_query(
                queries.copy_positions(shard), output=take, format="binary"
            )
        rows = b"".join(pieces)
        return Position(*copied_cursor(rows)), rows

    async def read_some_positions(
        self, shard: int, after_sku: str, sku_limit: int, skus: Collection[str]
    ) -> tuple[Position, list[PositionImage]]:
        """See ``OrderStore.read_some_positions``."""
        async with borrowed(self._pool, self._timeout) as connection:
            rows = await connection.fetch(
                queries.READ_SOME_POSITIONS, shard, after_sku, sku_limit, list(skus)
            )
        return _positions(rows)

    async def read_shard(self, shard: int) -> StoredShard:
        """See ``OrderStore.read_shard``. Cost: the shard's rows, and all reservations looked at."""
        async with (
            borrowed(self._pool, self._timeout) as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            rows = await connection.fetch(queries.READ_POSITIONS, shard)
            legs = await connection.fetch(queries.READ_LEGS, shard)
            claims = await connection.fetch(queries.READ_CLAIMS, shard)
        at, images = _positions(rows)
        return StoredShard(
            at,
            {PositionKey(*image[:3]): image.row for image in images},
            {row[0]: decode_leg(row[1]) for row in legs},
            {row[0]: decode_claim(row[1]) for row in claims},
        )

    async def reservation(self, reservation_id: str) -> StoredReservation | None:
        """The reservation as last stored; None when none was."""
        if _NUL in reservation_id:
            return None
        async with borrowed(self._pool, self._timeout) as connection:
            row = await connection.fetchrow(queries.READ_RESERVATION, reservation_id)
        if row is None:
            return None
        home, update_ms, claim, epoch, sequence = row
        at = Position(epoch, sequence)
        return StoredReservation(reservation_id, decode_claim(claim), home, at, update_ms)

    async def list_reservations(
        self, owner_id: str, order_reference: str, after: str, limit: int
    ) -> list[StoredReservation]:
        """See ``OrderStore.list_reservations``. Cost: one index range, a decode a row."""
        wanted: tuple[str, ...] = (owner_id, order_reference, after)
        query = queries.LIST_BY_OWNER
        if not owner_id:
            wanted, query = (order_reference, after), queries.LIST_BY_REFERENCE
        async with borrowed(self._pool, self._timeout) as connection:
            rows = await connection.fetch(query, *wanted, limit)
        return [
            StoredReservation(rid, decode_claim(claim), home, Position(epoch, sequence), update_ms)
            for rid, home, update_ms, claim, epoch, sequence in rows
        ]

    async def read_legs(self, shard: int, states: Sequence[int]) -> dict[str, LegRecord]:
        """See ``OrderStore.read_legs``."""
        async with borrowed(self._pool, self._timeout) as connection:
            rows = await connection.fetch(queries.READ_LEGS_IN, shard, list(states))
        return {row[0]: decode_leg(row[1]) for row in rows}

    async def legs_at(
        self, places: Collection[tuple[int, str]]
    ) -> dict[tuple[int, str], LegRecord]:
        """See ``OrderStore.legs_at``."""
        shards, rids = [shard for shard, _ in places], [rid for _, rid in places]
        async with borrowed(self._pool, self._timeout) as connection:
            rows = await connection.fetch(queries.READ_LEGS_AT, shards, rids)
        return {(shard, rid): decode_leg(leg) for shard, rid, leg in rows}

    async def last_events(self, shard: int, limit: int) -> list[StoredEvent]:
        """See ``OrderStore.last_events``."""
        async with borrowed(self._pool, self._timeout) as connection:
            rows = await connection.fetch(queries.LAST_EVENTS, shard, limit)
        return [
            StoredEvent(shard, Position(epoch, sequence), decode_event(payload), payload)
            for epoch, sequence, payload in rows
        ]

    async def network(self, after: int = 0) -> StoredNetwork:
        """See ``OrderStore.network``; documents and version in one snapshot."""
        async with borrowed(self._pool, self._timeout) as connection:
            rows = await connection.fetch(queries.READ_NETWORK, after)
        documents: dict[str, dict[str, str]] = {}
        for _, kind, document_id, document in rows:
            if kind is not None:
                documents.setdefault(kind, {})[document_id] = document
        return StoredNetwork(rows[0][0], documents)

    async def network_version(self) -> int:
        """Version of the network; 0 before the first edit."""
        async with borrowed(self._pool, self._timeout) as connection:
            return int(await connection.fetchval(queries.READ_NETWORK_VERSION))

    async def upsert_network(
        self, kind: str, documents: Mapping[str, str], expected_version: int | None = None
    ) -> int:
        """See ``OrderStore.upsert_network``. InvalidRequest names a document that is not JSON.

        With ``expected_version``: PreconditionFailed unless the network is at that version.
        OutcomeUnknown when the connection was lost before the answer; repeating it is safe.
        """
        _refuse_unstorable(kind, documents)
        ids = sorted(documents)  # one lock order for everybody
        values = [documents[document_id] for document_id in ids]
        async with (
            borrowed(self._pool, self._timeout, writing=True) as connection,
            connection.transaction(),
        ):
            version = int(await connection.fetchval(queries.LOCK_NETWORK_VERSION))
            if expected_version not in (None, version):
                raise PreconditionFailed(
                    f"the network is at version {version}, not {expected_version}"
                )
            changed = await connection.fetch(
                queries.UPSERT_DOCUMENTS, kind, ids, values, version + 1
            )
            if changed:
                version += 1
                await connection.execute(queries.SET_NETWORK_VERSION, version)
        return version


def _moved_on(shard: int, after: Position) -> PreconditionFailed:
    at = f"{after.epoch}-{after.sequence}"
    return PreconditionFailed(f"the cursor of shard {shard} is no longer {at}", shard=shard)


def _positions(rows: Sequence[asyncpg.Record]) -> tuple[Position, list[PositionImage]]:
    """Cursor and images of ``READ_POSITIONS``."""
    if not rows:
        return START, []
    images = [
        PositionImage(
            row[2], row[3], row[4], StockPosition._make((*row[5:-1], decode_shares(row[-1])))
        )
        for row in map(tuple, rows)
        if row[2] is not None
    ]
    return Position(rows[0][0], rows[0][1]), images


def _refuse_unstorable(kind: str, documents: Mapping[str, str]) -> None:
    """Say which document jsonb would refuse: not JSON, or with a NUL in a string."""
    wrong = []
    for document_id, document in documents.items():
        field = f"documents[{document_id!r}]"
        if _NUL in document_id or _NUL in kind:
            wrong.append(FieldViolation(field, "INVALID_ID", "ids hold no NUL character"))
        elif not _storable(document):
            wrong.append(FieldViolation(field, "INVALID_JSON", "the document is not plain JSON"))
    if wrong:
        raise InvalidRequest(wrong)


def _storable(document: str) -> bool:
    try:
        json.loads(document, parse_constant=_refuse_constant)
    except ValueError:
        return False
    return "\\u0000" not in document


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
