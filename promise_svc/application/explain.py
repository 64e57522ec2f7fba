"""Why a position's ATS is what it is: one SKU at one node, from every side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from promise_svc.application.ports import AtsIndex, OrderStore
from promise_svc.application.stock import (
    AsOf,
    Consistency,
    Freshness,
    SkuStock,
    StockSource,
    here_now,
    row_ats,
)
from promise_svc.application.supply import callers_key
from promise_svc.domain.bundle import bundle_units
from promise_svc.domain.capacity import is_account, orders_max
from promise_svc.domain.events import EventType, PositionImage, StoredEvent
from promise_svc.domain.inventory import (
    ARRIVED,
    StockPosition,
    ats,
    for_segment,
    protected_units,
    shortage,
)
from promise_svc.domain.network import NetworkSnapshot, NodeStatus
from promise_svc.domain.reservation import OPEN, State
from promise_svc.domain.sharding import Position
from promise_svc.hotpath import shard_of

LIMIT_DEFAULT = 20
LIMIT_MAX = 1_000

EVENTS_READ_MAX = 20_000
"""Events of the shard looked through for the position's: about half a second."""


class AvailabilityReason(IntEnum):
    """What makes ATS less than what stands at the node; numbers are the contract's."""

    NO_ITEM = 10
    BUNDLE = 15
    UNKNOWN_NODE = 20
    NODE_OFF = 30
    NO_METHOD = 40
    NEVER_COUNTED = 50
    NOTHING_ON_HAND = 60
    SAFETY_STOCK = 70
    PROTECTED = 75
    COMMITTED = 80
    RESERVED = 90
    SHORTAGE = 100


class Standing(NamedTuple):
    """A reservation that keeps units at the node, of stock here now or of a bucket."""

    reservation_id: str
    confirmed: bool
    quantity: int
    expire_ms: int
    bucket: str


class ComponentStock(NamedTuple):
    """A component of a bundle, and what can be sold of it at the node."""

    sku: str
    quantity: int
    ats: int


class Happening(NamedTuple):
    """An event that touched the position, and its figures after it."""

    as_of: AsOf
    event_type: EventType
    subject: str
    row: StockPosition


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """Everything known of one SKU at one node."""

    ats: int
    reasons: tuple[AvailabilityReason, ...]
    row: StockPosition
    """As the shard has it, due holds given back; zeros where there is no position."""
    status: NodeStatus | None
    """None where the network has no such node."""
    as_of: AsOf
    table_ats: int
    table_freshness: Freshness
    inbound: tuple[tuple[str, StockPosition], ...]
    """By bucket."""
    standing: tuple[Standing, ...]
    standing_count: int
    happened: tuple[Happening, ...]
    """Newest first."""
    stored_as_of: AsOf
    components: tuple[ComponentStock, ...] = ()
    """Of a bundle; it has no position of its own."""


class Explainer:
    """The use case of ExplainAvailability. For people: it reads far more than a shopper may ask."""

    def __init__(
        self,
        *,
        index: AtsIndex,
        store: OrderStore,
        stock: StockSource,
        network: Callable[[], NetworkSnapshot],
    ) -> None:
        self._index = index
        self._store = store
        self._stock = stock
        self._network = network

    async def explain(self, sku: str, node_id: str, limit: int, timeout: float) -> Story:
        """``sku`` may be a node's account, whose units are orders of a day. Unavailable when the
        shard or the order store is away. Cost: a strong read, all legs of the shard, and up to
        EVENTS_READ_MAX of its events."""
        snapshot = self._network()
        shard = shard_of(snapshot.shard_key(sku), self._index.shard_count)
        table = (await self._stock.read([sku], Consistency(), timeout)).by_sku[sku]
        freshness = self._stock.table([sku]).freshness
        at, time_ms, (images,) = await self._index.read_positions(shard, [sku], timeout)
        here = {image.bucket: image.row for image in images if image.node_id == node_id}
        standing = sorted(await self._standing(shard, sku, node_id))
        stored_at, happened = await self._happened(shard, sku, node_id, limit)
        node = snapshot.node(node_id)
        row = here.get("", StockPosition())
        reasons = tuple(_reasons(snapshot, sku, node_id, here))
        shown = _at_node(table, node_id)
        if is_account(sku):
            most = orders_max(snapshot, sku, node_id)  # the row has that of its last order
            row, reasons, shown = row._replace(on_hand=most), (), most
            for there in (x for x in table.rows or () if x.node_id == node_id):
                shown = row_ats(there._replace(on_hand=most))
        sold = node is not None and node.status is NodeStatus.ON
        units = ats(*for_segment(row, ""))
        components = await self._components(snapshot, sku, node_id, timeout)
        if components:
            units = bundle_units([(part.ats, part.quantity) for part in components])
        return Story(
            ats=units if sold else 0,
            components=components,
            reasons=reasons,
            row=row,
            status=None if node is None else node.status,
            as_of=AsOf(shard, at, time_ms),
            table_ats=shown if sold else 0,
            table_freshness=freshness,
            inbound=tuple((bucket, r) for bucket, r in sorted(here.items()) if bucket),
            standing=tuple(standing[:limit]),
            standing_count=len(standing),
            happened=happened,
            stored_as_of=stored_at,
        )  # fmt: skip

    async def _components(
        self, snapshot: NetworkSnapshot, sku: str, node_id: str, timeout: float
    ) -> tuple[ComponentStock, ...]:
        parts = snapshot.bundles.get(sku, ())
        if not parts:
            return ()
        stock = await self._stock.read([p.sku for p in parts], Consistency(strong=True), timeout)
        here = {part: _at_node(found, node_id) for part, found in stock.by_sku.items()}
        return tuple(ComponentStock(part, quantity, here[part]) for part, quantity in parts)

    async def _standing(self, shard: int, sku: str, node_id: str) -> list[Standing]:
        legs = await self._store.read_legs(shard, [*OPEN, State.CONFIRMED])
        found = []
        for rid, leg in legs.items():
            confirmed = leg.state == State.CONFIRMED
            found += [
                Standing(rid, confirmed, line.quantity, leg.expire_ms, line.bucket)
                for line in leg.lines
                if line[:2] == (sku, node_id) and line.quantity
            ]
        return found

    async def _happened(
        self, shard: int, sku: str, node_id: str, limit: int
    ) -> tuple[AsOf, tuple[Happening, ...]]:
        events = await self._store.last_events(shard, EVENTS_READ_MAX)
        found: list[Happening] = []
        for stored in events:
            for image in stored.event.positions:
                if image[:3] == (sku, node_id, "") and len(found) < limit:
                    found.append(_happening(stored, image))
        newest = events[0] if events else None
        stored_at = (
            AsOf(shard, Position(0, 0), 0)
            if newest is None
            else AsOf(shard, newest.at, newest.event.time_ms)
        )
        return stored_at, tuple(found)


def _at_node(stock: SkuStock, node_id: str) -> int:
    return here_now(stock.rows or ()).get(node_id, 0)


def _happening(stored: StoredEvent, image: PositionImage) -> Happening:
    event = stored.event
    as_of = AsOf(stored.shard, stored.at, event.time_ms)
    return Happening(as_of, EventType(event.type), callers_key(event.subject), image.row)


def _reasons(
    snapshot: NetworkSnapshot, sku: str, node_id: str, here: Mapping[str, StockPosition]
) -> Iterator[AvailabilityReason]:
    reason, row = AvailabilityReason, here.get("")
    node = snapshot.node(node_id)
    if snapshot.item(sku) is None:
        yield reason.NO_ITEM
    if sku in snapshot.bundles:
        yield reason.BUNDLE
    if node is None:
        yield reason.UNKNOWN_NODE
    elif node.status is NodeStatus.OFF:
        yield reason.NODE_OFF
    if node is not None and not node.methods:
        yield reason.NO_METHOD
    if row is None:
        if sku not in snapshot.bundles:
            yield reason.NEVER_COUNTED
    else:
        holds = (
            (not row.on_hand, reason.NOTHING_ON_HAND),
            (row.safety_stock, reason.SAFETY_STOCK),
            (protected_units(row, ""), reason.PROTECTED),
            (row.committed, reason.COMMITTED),
            (row.held, reason.RESERVED),
        )
        yield from (named for true, named in holds if true)
    if any(
        shortage(*each[:4])
        for bucket, each in here.items()
        if not bucket or each.arrival_ms == ARRIVED
    ):
        yield reason.SHORTAGE
