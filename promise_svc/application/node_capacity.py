"""How much of a node's capacity is taken, day by day, for people who run it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from typing import NamedTuple

from promise_svc.application.ports import AtsReader, Clock
from promise_svc.domain.calendar import local_date, zone_of
from promise_svc.domain.capacity import account_of
from promise_svc.domain.network import FulfillmentMethod, NetworkSnapshot, NodeCapacity
from promise_svc.errors import NotFound

DAYS_TOLD = 7
DAYS_TOLD_MAX = 60


class NodeCapacityDay(NamedTuple):
    """One day of one bounded method."""

    date: date
    fulfillment_method: FulfillmentMethod
    orders_max: int
    held: int
    """Holds that ran out count until they are swept."""
    committed: int
    worked: int
    """Of which goods have left."""

    @property
    def left(self) -> int:
        """Below zero where the capacity was lowered below what was taken."""
        return self.orders_max - self.held - self.committed - self.worked


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeDays:
    """Days by date, then method, and how fresh they are."""

    days: tuple[NodeCapacityDay, ...]
    as_of_ms: int
    network_version: int


class NodeCapacities:
    """Reads the table: a look-up a day and method."""

    def __init__(
        self, *, table: AtsReader, network: Callable[[], NetworkSnapshot], clock: Clock
    ) -> None:
        self._table = table
        self._network = network
        self._clock = clock

    def query(self, node_id: str, first: date | None, count: int) -> NodeDays:
        """``count`` days from ``first`` on, None for today at the node. NotFound for a node that
        the network does not have."""
        snapshot = self._network()
        node = snapshot.node(node_id)
        if node is None:
            raise NotFound("node", node_id)
        now_ms = self._clock.now_ms()
        first = first or local_date(now_ms, zone_of(node.time_zone))
        count = min(count, (date.max - first).days + 1)
        found, as_of_ms = [], now_ms
        for offset in range(count):
            day = first + timedelta(days=offset)
            for capacity in sorted(node.capacities, key=lambda x: x.fulfillment_method):
                told, told_ms = self._day(node_id, capacity, day)
                found.append(told)
                as_of_ms = min(as_of_ms, told_ms)
        return NodeDays(
            days=tuple(found), as_of_ms=max(0, as_of_ms), network_version=snapshot.version
        )

    def _day(self, node_id: str, capacity: NodeCapacity, day: date) -> tuple[NodeCapacityDay, int]:
        method = capacity.fulfillment_method
        account = account_of(method, day, node_id)
        rows = [row for row in self._table.rows(account) or () if row.node_id == node_id]
        held, committed, worked = (
            (rows[0].held, rows[0].committed, rows[0].safety_stock) if rows else (0, 0, 0)
        )
        told = NodeCapacityDay(day, method, capacity.on(day), held, committed, worked)
        return told, self._table.as_of(account)[1]
