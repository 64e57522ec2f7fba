"""How many can be sold now, and where.

Only nodes of the network that are ON may be sold from: an OFF node counts as 0 and is listed as
OFF, a position at a node the network does not know is not counted. Inbound stock (a bucket that is
not empty) is never part of ATS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from operator import attrgetter
from typing import NamedTuple

from promise_svc.application.ports import AtsRow
from promise_svc.application.stock import (
    AsOf,
    Consistency,
    Freshness,
    SkuStock,
    StockSource,
    here_now,
    row_ats,
)
from promise_svc.domain.inventory import ARRIVED, ats, shortage
from promise_svc.domain.network import NetworkSnapshot, Node, NodeStatus

ENTRIES_MAX = 1_000
"""Most look-ups of one call."""

CHECKS_MAX = 10_000
"""Most SKUs of one check: yes or no is a byte of the answer."""


class AvailabilityView(IntEnum):
    """How much to tell."""

    TOTAL = 1
    NODES = 2
    BREAKDOWN = 3
    INBOUND = 4


class AvailabilityOutcome(IntEnum):
    """What happened to one look-up; numbers are the contract's and the precedence."""

    OK = 1
    UNKNOWN_SKU = 10
    UNKNOWN_NODE_GROUP = 20
    UNKNOWN_NODE = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class AvailabilityQuery:
    """One look-up: a SKU over named nodes, over a group, or (neither) over all nodes."""

    sku: str
    entry_id: str = ""
    node_ids: tuple[str, ...] | None = None
    node_group_id: str | None = None
    segment: str = ""
    """Whom it would be sold to; what is protected for others does not count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeAvailability:
    """ATS of one SKU at one node and the figures it follows from."""

    node_id: str
    ats: int
    """0 where ``status`` is OFF."""
    on_hand: int
    reserved: int
    """As the table has it: a hold past its expiry may count until it is swept."""
    committed: int
    safety_stock: int
    shortage: int
    status: NodeStatus


class InboundAvailability(NamedTuple):
    """What may be sold of one bucket before it is here; ``arrival_ms`` 0 where nobody said."""

    node_id: str
    bucket: str
    ats: int
    arrival_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Availability:
    """ATS of one SKU over one scope; figures are 0 and ``as_of`` None unless OK."""

    entry_id: str
    sku: str
    outcome: AvailabilityOutcome
    ats: int = 0
    nodes: tuple[NodeAvailability, ...] = ()
    as_of: AsOf | None = None
    inbound: tuple[InboundAvailability, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AvailabilityReply:
    """Answers in the order of the entries."""

    entries: tuple[Availability, ...]
    freshness: Freshness


@dataclass(frozen=True, slots=True, kw_only=True)
class AvailabilityCheck:
    """Whether ``quantities`` of ``skus`` can be sold from one scope, given as in a query."""

    skus: tuple[str, ...]
    quantities: tuple[int, ...]
    node_ids: tuple[str, ...] | None = None
    node_group_id: str | None = None
    segment: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReply:
    """One answer a SKU, in order; all is left out unless OK."""

    outcome: AvailabilityOutcome
    available: tuple[bool, ...] = ()
    unknown: tuple[int, ...] = ()
    """Indices of SKUs that nobody knows."""
    freshness: Freshness | None = None


class AvailabilityReader:
    """Look-ups of ATS. Nothing here holds or changes anything."""

    def __init__(
        self,
        *,
        stock: StockSource,
        network: Callable[[], NetworkSnapshot],
    ) -> None:
        self._stock = stock
        self._network = network

    async def query(
        self,
        entries: Sequence[AvailabilityQuery],
        *,
        consistency: Consistency,
        view: AvailabilityView,
        timeout: float,
    ) -> AvailabilityReply:
        """ATS of each entry over its scope. Raises what ``StockSource.read`` raises.

        Cost: a few microseconds an entry and a look-up for each node of its scope or position.
        """
        snapshot = self._network()
        stocks = {}
        for segment in dict.fromkeys(entry.segment for entry in entries):
            skus = [entry.sku for entry in entries if entry.segment == segment]
            stocks[segment] = await self._stock.read(skus, consistency, timeout, segment)
        answers = (
            _answer(snapshot, entry, stocks[entry.segment].by_sku[entry.sku], view)
            for entry in entries
        )
        freshness = max((s.freshness for s in stocks.values()), key=attrgetter("age_ms"))
        return AvailabilityReply(entries=tuple(answers), freshness=freshness)

    async def check(
        self, check: AvailabilityCheck, *, consistency: Consistency, timeout: float
    ) -> CheckReply:
        """Yes or no for each SKU. Raises what ``StockSource.read`` raises.

        Cost: a look-up a SKU and a set look-up for each of its positions.
        """
        snapshot = self._network()
        if check.node_group_id is not None:
            group = snapshot.node_group(check.node_group_id)
            if group is None:
                return CheckReply(outcome=AvailabilityOutcome.UNKNOWN_NODE_GROUP)
            named: Iterable[str] = group.node_ids
        elif check.node_ids is not None:
            if any(snapshot.node(node_id) is None for node_id in check.node_ids):
                return CheckReply(outcome=AvailabilityOutcome.UNKNOWN_NODE)
            named = check.node_ids
        else:
            named = snapshot.documents.nodes
        scope = frozenset(node_id for node_id in named if snapshot.switched_on(node_id))
        stock = await self._stock.read(check.skus, consistency, timeout, check.segment)
        available, unknown = [], []
        for index, (sku, quantity) in enumerate(zip(check.skus, check.quantities, strict=True)):
            found = stock.by_sku[sku]
            if unknown_sku(snapshot, sku, found):
                unknown.append(index)
            units = here_now(found.rows or ())
            total = sum(units[node_id] for node_id in units.keys() & scope)
            available.append(total >= quantity)
        return CheckReply(
            outcome=AvailabilityOutcome.OK,
            available=tuple(available),
            unknown=tuple(unknown),
            freshness=stock.freshness,
        )


def _answer(
    snapshot: NetworkSnapshot, entry: AvailabilityQuery, stock: SkuStock, view: AvailabilityView
) -> Availability:
    outcome = _outcome(snapshot, entry, stock)
    if outcome is not AvailabilityOutcome.OK:
        return Availability(entry_id=entry.entry_id, sku=entry.sku, outcome=outcome)
    rows = {row.node_id: row for row in stock.rows or () if not row.bucket}
    scope = _scope(snapshot, entry, rows)
    total = sum(row_ats(rows[n]) for n in scope if n in rows and snapshot.switched_on(n))
    nodes: tuple[NodeAvailability, ...] = ()
    if view is not AvailabilityView.TOTAL:
        named = entry.node_ids is not None
        nodes = tuple(
            _at_node(snapshot.documents.nodes[node_id], rows.get(node_id))
            for node_id in scope
            if named or node_id in rows
        )
    return Availability(
        entry_id=entry.entry_id,
        sku=entry.sku,
        outcome=outcome,
        ats=total,
        nodes=nodes,
        as_of=stock.as_of,
        inbound=_inbound(snapshot, entry, stock) if view is AvailabilityView.INBOUND else (),
    )


def _inbound(
    snapshot: NetworkSnapshot, entry: AvailabilityQuery, stock: SkuStock
) -> tuple[InboundAvailability, ...]:
    """Buckets on their way to the nodes of the scope that are ON and have any left."""
    expected = [row for row in stock.rows or () if row.bucket and row.arrival_ms != ARRIVED]
    scope = frozenset(_scope(snapshot, entry, {row.node_id: row for row in expected}))
    found = [
        InboundAvailability(row.node_id, row.bucket, row_ats(row), row.arrival_ms)
        for row in expected
        if row.node_id in scope and snapshot.switched_on(row.node_id)
    ]
    found.sort(key=lambda x: (not x.arrival_ms, x.arrival_ms, x.node_id, x.bucket))
    return tuple(x for x in found if x.ats)


def unknown_sku(snapshot: NetworkSnapshot, sku: str, stock: SkuStock) -> bool:
    """Whether neither an item nor a position of the SKU is known."""
    return stock.rows is None and snapshot.item(sku) is None


def _outcome(
    snapshot: NetworkSnapshot, entry: AvailabilityQuery, stock: SkuStock
) -> AvailabilityOutcome:
    if unknown_sku(snapshot, entry.sku, stock):
        return AvailabilityOutcome.UNKNOWN_SKU
    if entry.node_group_id is not None and snapshot.node_group(entry.node_group_id) is None:
        return AvailabilityOutcome.UNKNOWN_NODE_GROUP
    if any(snapshot.node(node_id) is None for node_id in entry.node_ids or ()):
        return AvailabilityOutcome.UNKNOWN_NODE
    return AvailabilityOutcome.OK


def _scope(
    snapshot: NetworkSnapshot, entry: AvailabilityQuery, rows: Mapping[str, AtsRow]
) -> Iterable[str]:
    """Known nodes of the scope, each once: as named, else by id."""
    if entry.node_ids is not None:
        return dict.fromkeys(entry.node_ids)
    if entry.node_group_id is None:
        return [node_id for node_id in sorted(rows) if snapshot.node(node_id) is not None]
    group = snapshot.node_group(entry.node_group_id)
    members = () if group is None else set(group.node_ids)
    return [n for n in sorted(members) if n in rows and snapshot.node(n) is not None]


def _at_node(node: Node, row: AtsRow | None) -> NodeAvailability:
    on_hand, committed, held, safety_stock = (0, 0, 0, 0) if row is None else row[2:6]
    figures = on_hand, committed, held, safety_stock
    return NodeAvailability(
        node_id=node.node_id,
        ats=ats(*figures) if node.status is NodeStatus.ON else 0,
        on_hand=on_hand,
        reserved=held,
        committed=committed,
        safety_stock=safety_stock,
        shortage=shortage(*figures),
        status=node.status,
    )
