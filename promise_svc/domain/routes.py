"""What promising asks of a network again and again, worked out once a snapshot.

Nothing here decides: each answer is the one ``network`` and ``delivery`` specify. Caches are
bounded, and emptied when full: what is asked again comes back at once.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import NamedTuple

from promise_svc.domain.delivery import DeliveryDates, ShipDate, arrival, ship_date
from promise_svc.domain.network import (
    Calendar,
    Lane,
    NetworkSnapshot,
    Node,
    NodeMethod,
    normalized_postal_code,
)

LANES_MAX = 65_536
"""Kept lists of lanes: origins times destination zones."""

STAYS_MAX = 64
"""Kept ship dates of one kind of node; now and a year ahead make few."""

ARRIVALS_MAX = 16_384
"""Kept delivery dates."""


class _Stay(NamedTuple):
    """Orders in ``from_ms..order_by_ms`` leave on ``ship_date``."""

    order_by_ms: int
    from_ms: int
    ship_date: ShipDate


class Routes:
    """Tables over one snapshot: nodes with equal terms, their lanes, their dates.

    Memory: a reference a node, and the caches' bounds. Cost: a few microseconds a node to build,
    then a look-up each; a date after a cutoff is worked out once for all nodes with equal terms.
    """

    def __init__(self, snapshot: NetworkSnapshot) -> None:
        self._snapshot = snapshot
        self.origin_ids = _origin_ids(snapshot)
        """Node -> the first node with the same status, terms and lanes."""
        self.places = {
            n.node_id: (n.latitude, n.longitude) for n in snapshot.documents.nodes.values()
        }
        self.nodes_of: dict[str, set[str]] = {}
        """Such a first node -> all that are like it, itself included."""
        for node_id, origin_id in self.origin_ids.items():
            self.nodes_of.setdefault(origin_id, set()).add(node_id)
        lanes = snapshot.documents.lanes.values()
        self._prefixes = {normalized_postal_code(lane.postal_prefix) for lane in lanes}
        self._prefix_lengths = sorted(set(map(len, self._prefixes)), reverse=True)
        self._lanes: dict[tuple[str, str, str], tuple[Lane, ...]] = {}
        self._stays: dict[tuple[str, str, NodeMethod, str], list[_Stay]] = {}
        self._arrivals: dict[tuple[ShipDate, str, tuple[int, int]], DeliveryDates] = {}

    def zone(self, postal_code: str) -> str:
        """As much of a postal code as lanes tell apart: the longest prefix of it that any lane has,
        since whatever else it fits is a prefix of that."""
        code = normalized_postal_code(postal_code)
        for length in self._prefix_lengths:
            if code[:length] in self._prefixes:
                return code[:length]
        return ""

    def lanes(self, origin: Node, country: str, postal_code: str) -> tuple[Lane, ...]:
        """``NetworkSnapshot.lanes``."""
        key = origin.node_id, country, self.zone(postal_code)
        found = self._lanes.get(key)
        if found is None:
            found = tuple(self._snapshot.lanes(*key))
            if len(self._lanes) >= LANES_MAX:
                self._lanes.clear()
            self._lanes[key] = found
        return found

    def ship_date(
        self,
        order_ms: int,
        node: Node,
        method: NodeMethod,
        calendars: tuple[Calendar, Calendar],
    ) -> ShipDate:
        """``delivery.ship_date`` by the node's and the carrier's calendar."""
        node_calendar, carrier_calendar = calendars
        key = node.time_zone, node_calendar.calendar_id, method, carrier_calendar.calendar_id
        stays = self._stays.setdefault(key, [])
        index = bisect_left(stays, (order_ms,))
        if index < len(stays) and stays[index].from_ms <= order_ms:
            return stays[index].ship_date
        found = ship_date(
            order_ms,
            node=node,
            method=method,
            node_calendar=node_calendar,
            carrier_calendar=carrier_calendar,
        )
        if index < len(stays) and stays[index].order_by_ms == found.order_by_ms:
            del stays[index]  # the same stay, known from an earlier order on
        elif len(stays) >= STAYS_MAX:
            stays.clear()
        insort(stays, _Stay(found.order_by_ms, order_ms, found))
        return found

    def arrival(
        self, leaves: ShipDate, carrier_calendar: Calendar, transit: tuple[int, int]
    ) -> DeliveryDates:
        """``delivery.arrival``."""
        key = leaves, carrier_calendar.calendar_id, transit
        found = self._arrivals.get(key)
        if found is None:
            found = arrival(leaves, carrier_calendar, transit)
            if len(self._arrivals) >= ARRIVALS_MAX:
                self._arrivals.clear()
            self._arrivals[key] = found
        return found


def _origin_ids(snapshot: NetworkSnapshot) -> dict[str, str]:
    """A node with lanes of its own is like no other."""
    with_lanes = {lane.node_id for lane in snapshot.documents.lanes.values() if lane.node_id}
    first: dict[object, str] = {}
    return {
        node_id: first.setdefault(
            (
                node.status,
                node.time_zone,
                node.calendar_id,
                node.methods,
                snapshot.node_group_ids(node_id),
                node_id if node_id in with_lanes else "",
            ),
            node_id,
        )
        for node_id, node in snapshot.documents.nodes.items()
    }
