"""What the use cases need of the outside world. One real adapter and one fake each.

Adapters translate: nothing but ``promise_svc.errors`` crosses a port.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from promise_svc.domain.events import PositionImage, StoredEvent
from promise_svc.domain.inventory import PositionKey, StockPosition
from promise_svc.domain.reservation import (
    AdjustRow,
    ClaimRecord,
    ConformStep,
    CreateStep,
    FollowStep,
    LegRecord,
    ProtectRow,
    ResolveStep,
    ReviseStep,
    SettleStep,
    StepReply,
    SupplyReply,
    SupplyRow,
    SweepReply,
)
from promise_svc.domain.sharding import Position
from promise_svc.errors import PromiseServiceError

if TYPE_CHECKING:
    from promise_svc.hotpath import CartSearch


class ShardMeta(NamedTuple):
    """What a shard says of itself. ``owner`` is the process it serves under, ``process`` the one
    that answered; they differ between a restart or failover and the takeover."""

    owner: str
    process: str
    at: Position
    durable: Position
    time_ms: int
    network_floor: int


class ShardNews(NamedTuple):
    """One message of a shard's channel: events from ``first`` on, or none (a heartbeat or a
    durable mark). ``at`` is the shard's position after them."""

    shard: int
    at: Position
    durable: Position
    time_ms: int
    events: tuple[StoredEvent, ...]


class ClusterIdentity(NamedTuple):
    """What one order store and one index are to each other, written at their first start."""

    cluster_id: str
    key_prefix: str
    shard_count: int


class OpenClaim(NamedTuple):
    """A claim whose legs are not known to have followed."""

    reservation_id: str
    claim: ClaimRecord


class AtsIndex(Protocol):
    """The sharded ATS index, which alone decides availability.

    Every method speaks to one shard and may raise NotServing (takeover needed), Unavailable
    (nothing was sent), OutcomeUnknown (sent, no answer) or DeadlineExceeded. Steps given in one
    call are carried out in order, in one atomic function call. ``timeout`` is in seconds. Steps of
    reservations may be under way before they are awaited.
    """

    shard_count: int

    def seen(self, shard: int) -> Position:
        """The newest position of the shard that any answer to this process has shown."""
        ...

    def create(
        self, shard: int, steps: Sequence[CreateStep], timeout: float
    ) -> Awaitable[list[StepReply]]: ...
    def resolve(
        self, shard: int, steps: Sequence[ResolveStep], timeout: float
    ) -> Awaitable[list[StepReply]]: ...
    def follow(
        self, shard: int, steps: Sequence[FollowStep], timeout: float
    ) -> Awaitable[list[StepReply]]: ...
    def settle(
        self, shard: int, steps: Sequence[SettleStep], timeout: float
    ) -> Awaitable[list[StepReply]]: ...
    def revise(
        self, shard: int, steps: Sequence[ReviseStep], timeout: float
    ) -> Awaitable[list[StepReply]]: ...
    def conform(
        self, shard: int, steps: Sequence[ConformStep], timeout: float
    ) -> Awaitable[list[StepReply]]: ...
    async def read_claims(
        self, shard: int, reservation_ids: Sequence[str], timeout: float
    ) -> list[StepReply]:
        """Exact state of claims: a due one already reads EXPIRED. MISSING where there is none."""
        ...

    async def read_legs(
        self, shard: int, reservation_ids: Sequence[str], timeout: float
    ) -> list[LegRecord | tuple[()]]: ...
    async def read_positions(
        self, shard: int, skus: Sequence[str], timeout: float
    ) -> tuple[Position, int, list[list[PositionImage]]]:
        """Strong read: all positions of each SKU with due holds already given back, the shard's
        position and its time in ms."""
        ...

    async def sync_supply(
        self, shard: int, rows: Sequence[SupplyRow], timeout: float
    ) -> list[SupplyReply]: ...
    async def protect(
        self, shard: int, rows: Sequence[ProtectRow], timeout: float
    ) -> list[SupplyReply]: ...
    async def adjust_supply(
        self, shard: int, rows: Sequence[AdjustRow], timeout: float
    ) -> list[SupplyReply]: ...
    async def sweep(self, shard: int, limit: int, timeout: float) -> SweepReply:
        """Expire up to ``limit`` due legs and claims each, name up to ``limit`` legs to ask home
        about; publishes a heartbeat."""
        ...

    async def open_claims(self, shard: int, limit: int, timeout: float) -> list[OpenClaim]:
        """Claims whose resolve time has come."""
        ...

    async def read_outbox(
        self, shard: int, after: Position, limit: int, timeout: float
    ) -> list[StoredEvent]: ...
    async def mark_durable(self, shard: int, at: Position, timeout: float) -> None:
        """Record and publish what the order store has, trim the outbox behind the window."""
        ...

    async def tell_durable(self, at: Mapping[int, Position], timeout: float) -> None:
        """Publish what the order store has, of any shards in one message, and record nothing: it
        reaches who listens now, or nobody."""
        ...

    async def raise_network_floor(self, shard: int, version: int, timeout: float) -> None: ...
    async def read_meta(self, shard: int, timeout: float) -> ShardMeta: ...
    async def take_over(self, shard: int, expected: Position, timeout: float) -> Position:
        """Start a new epoch under the answering process if the shard still stands at
        ``expected``; returns the position of EPOCH_STARTED. PreconditionFailed otherwise."""
        ...

    async def clear(self, shard: int, expected: Position, timeout: float) -> bool:
        """Remove everything the shard has, in one step, if it still stands at ``expected``; False
        and nothing removed otherwise. Cost: the shard answers nobody meanwhile."""
        ...

    async def restore(self, shard: int, events: Sequence[StoredEvent], timeout: float) -> None:
        """Apply after-images to a shard that does not serve. PreconditionFailed if it does."""
        ...

    async def cluster_id(self, timeout: float) -> str:
        """Of the cluster whose keys these are; empty in an index that was never bound."""
        ...

    async def bind_cluster(self, cluster_id: str, timeout: float) -> str:
        """Write ``cluster_id`` unless there is one; returns the one that stands."""
        ...

    async def scan(
        self, shard: int
    ) -> tuple[dict[PositionKey, StockPosition], dict[str, LegRecord], dict[str, ClaimRecord]]:
        """Everything in one shard, for the audit; slow, not atomic."""
        ...


class DurabilityWatch(Protocol):
    """Waits until the order store has an event."""

    def wait_durable(
        self, shard: int, at: Position, answered_epoch: int, timeout: float
    ) -> Awaitable[None]:
        """Return once the order store has ``at``, which the shard showed in ``answered_epoch``.

        OutcomeUnknown when ``timeout`` passes first, or when the shard was taken over after it
        answered: what it had shown may be lost.
        """
        ...


class AtsRow(NamedTuple):
    """One position as the ATS table has it."""

    node_id: str
    bucket: str
    on_hand: int
    committed: int
    held: int
    safety_stock: int
    arrival_ms: int = 0
    """As in ``StockPosition``."""


class AtsReader(Protocol):
    """The in-memory copy of all positions; no I/O. Never raises for stale data: it says its age."""

    search: CartSearch | None
    """What finds the plans of plain carts in it; None where nothing is compiled."""

    def rows(self, sku: str) -> Sequence[AtsRow] | None:
        """All positions of ``sku``; None when it never had one. Cost: one hash look-up."""
        ...

    def ats(self, sku: str, node_ids: Sequence[str] | None = None) -> int:
        """Summed ATS over here-now positions of the given nodes, or of all nodes, for a sale to no
        segment."""
        ...

    def protected(self, sku: str) -> Mapping[tuple[str, str], StockPosition]:
        """Positions of ``sku`` that keep shares for segments, by node and bucket; mostly none. In
        ``rows`` their safety stock includes what is protected."""
        ...

    def shard(self, sku: str) -> int | None:
        """The shard that has the positions of ``sku``; None when it never had one."""
        ...

    def clock(self, shard: int) -> tuple[Position, int]:
        """Position and shard time (ms since 1970) up to which a shard was followed; (START, 0)
        before it was loaded."""
        ...

    def as_of(self, sku: str) -> tuple[Position, int]:
        """``clock`` of the SKU's shard; of the shard of its hash when it never had a position."""
        ...


class AtsSink(Protocol):
    """Where the feed writes."""

    def load(self, shard: int, at: Position, time_ms: int, rows: Sequence[PositionImage]) -> None:
        """Replace a shard's rows with the staged ones and ``rows``: a snapshot that includes all
        events up to ``at``."""
        ...

    def apply(self, shard: int, at: Position, time_ms: int, rows: Sequence[PositionImage]) -> None:
        """Apply after-images of events up to ``at``; an empty ``rows`` only moves the clock."""
        ...

    def stage(self, shard: int, rows: Sequence[PositionImage]) -> None:
        """Add rows to the shard's next load, unseen by readers; the later image wins."""
        ...

    def stage_copied(self, shard: int, rows: bytes, offset: int, limit: int) -> int:
        """``stage`` up to ``limit`` of ``OrderStore.copy_positions`` from ``offset`` on, 0 for the
        first; returns the offset after them, 0 at the end."""
        ...

    def unstage(self, shard: int) -> None:
        """Forget the staged rows of a load given up."""
        ...

    def at(self, shard: int) -> Position:
        """Where the copy of a shard stands; START when it was never loaded."""
        ...


class ShardChannels(Protocol):
    """News pushed by the shards. Delivery is at most once: gaps are filled from the outbox."""

    def subscribe(self, listener: Callable[[ShardNews], None]) -> Callable[[], None]:
        """Call ``listener`` for each message, in order per shard; returns the unsubscriber."""
        ...


class StoredReservation(NamedTuple):
    """A reservation as the order store has it."""

    reservation_id: str
    claim: ClaimRecord
    home: int
    at: Position
    update_ms: int


class StoredShard(NamedTuple):
    """Everything the order store has of one shard, and the cursor it stands at."""

    at: Position
    positions: Mapping[PositionKey, StockPosition]
    legs: Mapping[str, LegRecord]
    claims: Mapping[str, ClaimRecord]
    """Reservations whose home the shard is."""


DELETED = "null"
"""Stored in the place of a network document that was deleted, so that followers hear of it."""


class StoredNetwork(NamedTuple):
    """The network's documents by kind and id, and the version they add up to; or those of them that
    changed after an older one."""

    version: int
    documents: Mapping[str, Mapping[str, str]]
    """kind -> id -> JSON document, DELETED where it is no longer; kinds are node, node_group, item,
    calendar, carrier_service, lane, sourcing_rule."""


class ShardEvents(NamedTuple):
    """Events of one shard that follow its cursor; at least one."""

    shard: int
    after: Position
    events: Sequence[StoredEvent]


class OrderStore(Protocol):
    """The durable record. Every method may raise Unavailable; ``timeout`` is in seconds."""

    async def cluster(self) -> ClusterIdentity | None:
        """The cluster whose record this is; None before the first start."""
        ...

    async def bind_cluster(self, identity: ClusterIdentity) -> ClusterIdentity:
        """Write ``identity`` unless there is one; returns the one that stands."""
        ...

    async def quote_key(self, ours: bytes) -> bytes:
        """Keep ``ours`` as the cluster's key for quote tokens unless there is one; returns the one
        that stands."""
        ...

    async def append(self, shard: int, after: Position, events: Sequence[StoredEvent]) -> Position:
        """Write events, reservations, legs, positions and the cursor in one transaction.

        The cursor must stand at ``after`` (compare and set): PreconditionFailed otherwise, nothing
        written. Events must follow it without a gap: SequenceGap. An identity that exists with
        another payload: Fork. Returns the new cursor.
        """
        ...

    async def append_all(self, batches: Sequence[ShardEvents]) -> list[PromiseServiceError | None]:
        """``append`` of several shards, each once and at most a thousand events in all, in one
        transaction where it can be; says of each what ``append`` would raise. Raises itself where
        nothing is known of any."""
        ...

    async def cursor(self, shard: int) -> Position: ...
    async def cursors(self) -> dict[int, Position]: ...
    async def read_events(self, shard: int, after: Position, limit: int) -> list[StoredEvent]: ...
    async def copy_positions(self, shard: int) -> tuple[Position, bytes]:
        """All positions of a shard, as ``domain/copied_positions`` reads them, and the cursor they
        stand at, in one snapshot. Cost: 0.2 us of this process a position."""
        ...

    async def read_some_positions(
        self, shard: int, after_sku: str, sku_limit: int, skus: Collection[str]
    ) -> tuple[Position, list[PositionImage]]:
        """Of the first ``sku_limit`` SKUs after one, by their bytes, and of ``skus``; with the
        cursor they stand at, in one snapshot. Cost: theirs."""
        ...

    async def read_shard(self, shard: int) -> StoredShard:
        """All of a shard in one snapshot, for the audit and a rebuild; slow, all in memory."""
        ...

    async def reservation(self, reservation_id: str) -> StoredReservation | None: ...
    async def list_reservations(
        self, owner_id: str, order_reference: str, after: str, limit: int
    ) -> list[StoredReservation]:
        """Of an owner, or of an order reference, or (with both) of both; ids after ``after``, by
        id (bytes). Aborted attempts are among them."""
        ...

    async def read_legs(self, shard: int, states: Sequence[int]) -> dict[str, LegRecord]:
        """Legs of a shard in these states, by reservation. Cost: all legs of the shard are read."""
        ...

    async def legs_at(
        self, places: Collection[tuple[int, str]]
    ) -> dict[tuple[int, str], LegRecord]:
        """Legs by shard and reservation, those that there are. Cost: a look-up each."""
        ...

    async def last_events(self, shard: int, limit: int) -> list[StoredEvent]:
        """The newest events of a shard, newest first."""
        ...

    async def network(self, after: int = 0) -> StoredNetwork:
        """Documents that changed after version ``after``, and the version now; 0 for all. None is
        ever removed, only DELETED: so what changed is all that there is to know."""
        ...

    async def network_version(self) -> int: ...
    async def upsert_network(
        self, kind: str, documents: Mapping[str, str], expected_version: int | None = None
    ) -> int:
        """Insert or replace documents of one kind; returns the new network version, or the
        present one when nothing changed. With ``expected_version``, PreconditionFailed and nothing
        written unless the network is at that version."""
        ...


class Clock(Protocol):
    """Time of this process. Decisions use the shard's time; this one paces and labels."""

    def now_ms(self) -> int:
        """Wall clock, ms since 1970."""
        ...

    def monotonic(self) -> float:
        """Seconds, never falling."""
        ...
