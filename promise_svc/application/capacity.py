"""What nodes' capacity leaves of their days, as the table shows it, and what shipments take of it.

The table may be behind: the shard of an account decides. A promise is made without a look at any
account first; only where a node of it turns out full is the cart planned once more, knowing of that
one (the compiled search, which is fast enough to meet them one by one) or of all its nodes.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from typing import NamedTuple

from promise_svc.application.ports import AtsReader
from promise_svc.domain.capacity import WORK_DAYS_MAX, CapacityUse, account_of, day_of
from promise_svc.domain.delivery import DeliveryPromise, Shipment, WorkDay, work_day
from promise_svc.domain.network import FulfillmentMethod, NetworkSnapshot, Node, NodeCapacity
from promise_svc.domain.reach import NEVER, Arrival
from promise_svc.errors import NoBusinessDay
from promise_svc.hotpath import shard_of

_DAYS_KEPT_MAX = 64
"""Known working days of one kind of node."""


class _Stay(NamedTuple):
    """Orders placed in ``from_ms..cutoff_ms`` are worked on ``day``."""

    cutoff_ms: int
    from_ms: int
    day: date


class _Bounded:
    """Nodes of a snapshot that have a capacity, and their working days. Cost: a look a node."""

    def __init__(self, snapshot: NetworkSnapshot) -> None:
        nodes = snapshot.documents.nodes
        self.nodes = {node_id: node for node_id, node in nodes.items() if node.capacities}
        self.crowded = False
        """Whether the last look at all nodes of a cart found any of them full."""
        self._snapshot = snapshot
        self._days: dict[tuple[object, ...], list[_Stay]] = {}

    def day(self, node: Node, method: FulfillmentMethod, order_ms: int) -> WorkDay | None:
        """When the node would work an order; None where it has no such day."""
        offered, calendar = node.method(method), self._snapshot.calendar(node.calendar_id)
        if offered is None or calendar is None:
            return None
        stays = self._days.setdefault((node.time_zone, node.calendar_id, offered), [])
        index = bisect_left(stays, (order_ms,))
        if index < len(stays) and stays[index].from_ms <= order_ms:
            return WorkDay(stays[index].day, stays[index].cutoff_ms)
        try:
            found = work_day(order_ms, node=node, method=offered, node_calendar=calendar)
        except NoBusinessDay:
            return None
        if index < len(stays) and stays[index].cutoff_ms == found.cutoff_ms:
            del stays[index]  # the same day, known from an earlier order on
        elif len(stays) >= _DAYS_KEPT_MAX:
            stays.clear()
        insort(stays, _Stay(found.cutoff_ms, order_ms, found.day))
        return found


class Capacity:
    """One look at the accounts. ``taken`` are units by (account, node) that a shard just said the
    table does not count yet; below zero, that it counts and that are the order's own.

    Cost: nothing where no node has a capacity; else a look-up in the table a node and day.
    """

    def __init__(
        self,
        snapshot: NetworkSnapshot,
        table: AtsReader,
        shard_count: int = 0,
        taken: Mapping[tuple[str, str], int] | None = None,
    ) -> None:
        """``shard_count`` where uses are asked for."""
        self._bounded = snapshot.derived(_Bounded)
        self._table = table
        self._shard_count = shard_count
        self._taken = taken or {}

    @property
    def bounds(self) -> bool:
        """Whether any node has a capacity."""
        return bool(self._bounded.nodes)

    @property
    def crowded(self) -> bool:
        """Whether to look at all nodes of a cart at once, because some were full last time."""
        return self._bounded.crowded

    @crowded.setter
    def crowded(self, found: bool) -> None:
        self._bounded.crowded = found

    def left(self, node_id: str, capacity: NodeCapacity, day: date) -> int:
        """Orders that a node may still take of a day, below zero where more were taken than it may
        now. Holds that ran out count until they are swept."""
        account = account_of(capacity.fulfillment_method, day, node_id)
        return (
            capacity.on(day)
            - counted(self._table, account, node_id)
            - self._taken.get((account, node_id), 0)
        )

    def work_date(
        self, node_id: str, method: FulfillmentMethod, order_ms: int, *, first: bool = False
    ) -> date | None:
        """The day that a node would work an order: the first with room, or, with ``first``, the
        first whether or not it has. None where it has no bound, or no room in sight."""
        found = self._worked(node_id, method, order_ms, first=first)
        return found.day if found else None

    def bounded(self, node_id: str, method: FulfillmentMethod) -> bool:
        """Whether the node's orders by the method are bounded."""
        node = self._bounded.nodes.get(node_id)
        return node is not None and node.capacity(method) is not None

    def later(
        self, node_id: str, methods: Iterable[FulfillmentMethod], order_ms: int
    ) -> dict[FulfillmentMethod, int]:
        """As ``Arrival.worked``, for methods whose next working day is full."""
        node, found = self._bounded.nodes.get(node_id), {}
        for method in methods if node else ():
            capacity = node.capacity(method) if node else None
            full = False
            for worked in self._days(node_id, method, order_ms) if capacity else ():
                if capacity and self.left(node_id, capacity, worked.day) > 0:
                    if full:
                        found[method] = worked.order_ms
                    break
                full, found[method] = True, NEVER
        return found

    def stocked(self, skus: Iterable[str]) -> set[str]:
        """Nodes that the table knows any of these of."""
        return {row.node_id for sku in skus for row in self._table.rows(sku) or ()}

    def full_nodes(
        self, node_ids: Iterable[str], methods: Iterable[FulfillmentMethod], order_ms: int
    ) -> dict[str, Arrival]:
        """Nodes among these that would not work an order when they first could."""
        methods = tuple(methods)
        found = {}
        for node_id in self._bounded.nodes.keys() & set(node_ids):
            worked = self.later(node_id, methods, order_ms)
            if worked:
                found[node_id] = Arrival(node_id, 0, worked)
        return found

    def fits(self, options: Iterable[DeliveryPromise], order_ms: int) -> bool:
        """Whether every shipment can be worked when it first could."""
        return not self.bounds or not any(
            self.later(s.node_id, (s.fulfillment_method,), max(order_ms, s.arrival_ms))
            for option in options
            for s in option.shipments
        )

    def dated(self, shipments: Iterable[Shipment], order_ms: int) -> tuple[Shipment, ...]:
        """The shipments, each with the working day that it will count for, if for any."""
        return tuple(
            s._replace(
                work_date=self.work_date(
                    s.node_id, s.fulfillment_method, max(order_ms, s.arrival_ms)
                )
            )
            if s.node_id in self._bounded.nodes
            else s
            for s in shipments
        )

    def accounts(
        self, node_ids: Iterable[str], method: FulfillmentMethod, order_ms: int
    ) -> set[str]:
        """Names of the accounts that ``work_date`` looks at for these nodes."""
        return {
            account_of(method, worked.day, node_id)
            for node_id in node_ids
            for worked in self._days(node_id, method, order_ms)
        }

    def placed_ms(self, shipment: Shipment, order_ms: int) -> int:
        """From ``order_ms`` on, when an order must be placed to be worked on the shipment's day, if
        it has one; ``order_ms`` where no order is worked then any more."""
        if shipment.work_date is None:
            return order_ms
        days = self._days(shipment.node_id, shipment.fulfillment_method, order_ms)
        return next((x.order_ms for x in days if x.day == shipment.work_date), order_ms)

    def use(
        self,
        node_id: str,
        method: FulfillmentMethod,
        day: date,
        buckets: Sequence[str],
    ) -> CapacityUse:
        """What a shipment worked on ``day`` takes of the node's account."""
        account = account_of(method, day, node_id)
        limit = self.limit(node_id, method, day)
        shard = shard_of(account, self._shard_count)
        return CapacityUse(account, node_id, shard, limit, tuple(buckets))

    def limit(self, node_id: str, method: FulfillmentMethod, day: date) -> int:
        """The most orders of a bounded node's day."""
        capacity = self._bounded.nodes[node_id].capacity(method)
        assert capacity is not None, "asked of bounded nodes only"
        return capacity.on(day)

    def uses(
        self,
        places: Iterable[tuple[str, str, str]],
        method: FulfillmentMethod,
        now_ms: int,
        kept: Sequence[CapacityUse] = (),
    ) -> tuple[CapacityUse, ...] | None:
        """What units take by (SKU, node, bucket): of the days in ``kept``, where those have the
        node and bucket, under the limits of now; else of the first with room, once the bucket is
        there. None where there is none."""
        known = {(use.node_id, bucket): use for use in kept for bucket in use.buckets}
        found = []
        for sku, node_id, bucket in sorted(set(places)):
            if not self.bounded(node_id, method):
                continue
            before = known.get((node_id, bucket))
            if before is not None:
                day: date | None = day_of(before.account)
            else:
                arrival_ms = self._arrival_ms(sku, node_id, bucket) if bucket else 0
                day = self.work_date(node_id, method, max(now_ms, arrival_ms))
            if day is None:
                return None
            found.append(self.use(node_id, method, day, (bucket,)))
        return together(found)

    def _arrival_ms(self, sku: str, node_id: str, bucket: str) -> int:
        """When a bucket is expected; 0 where the table does not know it."""
        rows = self._table.rows(sku) or ()
        there = (row for row in rows if (row.node_id, row.bucket) == (node_id, bucket))
        return next((row.arrival_ms for row in there), 0)

    def _worked(
        self, node_id: str, method: FulfillmentMethod, order_ms: int, *, first: bool = False
    ) -> _Worked | None:
        node = self._bounded.nodes.get(node_id)
        capacity = node.capacity(method) if node else None
        if capacity is None:
            return None
        for worked in self._days(node_id, method, order_ms):
            if first or self.left(node_id, capacity, worked.day) > 0:
                return worked
        return None

    def _days(self, node_id: str, method: FulfillmentMethod, order_ms: int) -> Iterator[_Worked]:
        """The working days in sight of a node that has capacities, from an order of then on."""
        node, at_ms = self._bounded.nodes.get(node_id), order_ms
        for _ in range(WORK_DAYS_MAX):
            found = self._bounded.day(node, method, at_ms) if node else None
            if found is None:
                return
            yield _Worked(found.day, at_ms)
            at_ms = found.cutoff_ms + 1


class _Worked(NamedTuple):
    """A working day, and an instant at which an order for it may be placed."""

    day: date
    order_ms: int


def counted(table: AtsReader, account: str, node_id: str) -> int:
    """Orders of an account that the table shows: held, committed, and those that left."""
    for row in table.rows(account) or ():
        if row.node_id == node_id:
            return row.committed + row.held + row.safety_stock
    return 0


def together(uses: Iterable[CapacityUse]) -> tuple[CapacityUse, ...]:
    """One use an account and node: what a node works of a reservation on one day is one order."""
    found: dict[tuple[str, str], CapacityUse] = {}
    for use in uses:
        key = use.account, use.node_id
        before = found.get(key)
        buckets = dict.fromkeys((*(before.buckets if before else ()), *use.buckets))
        found[key] = use._replace(buckets=tuple(buckets))
    return tuple(found[key] for key in sorted(found))
