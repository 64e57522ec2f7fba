"""The network's documents, and the immutable snapshot that every promise is computed from.

Documents come from the order store and are checked by ``network_validation`` before they get
there. Instants are ms since 1970, costs are micro units of a currency (1,000,000 = one unit),
wall times are local to the node that carries them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, time
from enum import StrEnum

from promise_svc.domain.geography import LatitudeIndex

HANDLING_DAYS_MAX = 30
"""Most business days of handling at a node."""

TRANSIT_DAYS_MAX = 120
"""Most carrier business days of transit on a lane."""

PICKUP_PREPARATION_MINUTES_MAX = 7 * 24 * 60
"""Longest preparation of a pickup order."""

WEIGHT_GRAMS_MAX = 10_000_000
"""Heaviest item, ten tonnes."""

COST_MICROS_MAX = 10**12
"""Dearest base or per-kilogram cost, one million currency units."""

EXCEPTION_DATES_MAX = 4_000
"""Most dated exceptions of one calendar: ten years of them, all days."""

GROUP_NODES_MAX = 10_000
"""Most nodes of one group."""

END_OF_DAY = time(23, 59, 59)
"""The cutoff where none is set: an order counts for the business day it is placed on."""


class NodeType(StrEnum):
    """What a node is. The type alone changes no rule; methods and lanes do."""

    STORE = "STORE"
    DC = "DC"
    VENDOR = "VENDOR"
    THIRD_PARTY = "THIRD_PARTY"


class NodeStatus(StrEnum):
    """Whether the node may be sold from. An OFF node contributes nothing to any answer."""

    ON = "ON"
    OFF = "OFF"


class FulfillmentMethod(StrEnum):
    """How goods reach the shopper."""

    SHIP_TO_ADDRESS = "SHIP_TO_ADDRESS"
    PICKUP_IN_STORE = "PICKUP_IN_STORE"
    SHIP_TO_STORE = "SHIP_TO_STORE"
    CURBSIDE = "CURBSIDE"
    LOCAL_DELIVERY = "LOCAL_DELIVERY"


PICKUP_METHODS = frozenset({FulfillmentMethod.PICKUP_IN_STORE, FulfillmentMethod.CURBSIDE})
"""Methods where the shopper takes the goods from the node that holds them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A place that holds stock and can ship it or hand it over."""

    id: str
    type: NodeType
    time_zone: str
    """IANA name; all wall times of the node are in it."""
    calendar_id: str
    """Days on which the node handles orders."""
    latitude: float
    """Degrees, -90..90."""
    longitude: float
    """Degrees, -180..180."""
    name: str = ""
    country: str = ""
    """ISO 3166-1 alpha-2, upper case."""
    postal_code: str = ""
    region: str = ""
    enabled_methods: frozenset[FulfillmentMethod] = frozenset()
    cutoff_times: Mapping[FulfillmentMethod, time] = field(default_factory=dict)
    """An order at or before it is processed that business day; END_OF_DAY where none is set."""
    handling_days: int = 0
    """Business days of the node from processing to leaving it, 0..30."""
    pickup_preparation_minutes: int = 0
    opening_time: time = time(0)
    """Handing over starts, on each business day."""
    closing_time: time = END_OF_DAY
    """Handing over ends, inclusive; later than ``opening_time``."""
    status: NodeStatus = NodeStatus.ON

    def enabled(self, method: FulfillmentMethod) -> bool:
        """Whether the node offers ``method``, switched on or not."""
        return method in self.enabled_methods

    def cutoff_time(self, method: FulfillmentMethod) -> time:
        """The cutoff of ``method``, local wall time."""
        return self.cutoff_times.get(method, END_OF_DAY)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeGroup:
    """A named set of nodes. Groups may overlap; stock is never pooled twice."""

    id: str
    node_ids: tuple[str, ...]
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One SKU as the promise needs it."""

    sku: str
    name: str = ""
    weight_grams: int = 0
    shard_key: str = ""
    """Decides the SKU's shard; empty for the SKU itself. Must not change once the SKU has stock."""
    handling_class: str = ""
    """Free label; kept, not read by any rule yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calendar:
    """Which days are business days: weekly, with dated exceptions that win over the week."""

    id: str
    working_weekdays: frozenset[int]
    """ISO weekdays, 1 (Monday)..7."""
    open_dates: frozenset[date] = frozenset()
    closed_dates: frozenset[date] = frozenset()
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CarrierService:
    """One service of one carrier."""

    id: str
    calendar_id: str
    """Days on which the carrier collects, moves and delivers."""
    currency_code: str
    """ISO 4217, upper case."""
    name: str = ""
    pickup_time: time | None = None
    """Last collection at a node, the node's wall time; None when collection follows the node."""
    cost_base_micros: int = 0
    """Cost of one shipment."""
    cost_per_kg_micros: int = 0
    """Cost of each kilogram, pro rata."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """Origin, destination zone and carrier service: the key of transit time.

    Exactly one of ``origin_node_id`` and ``origin_node_group_id`` is set.
    """

    id: str
    carrier_service_id: str
    destination_country: str
    transit_days_min: int
    """Business days of the carrier, from leaving the node to the shopper."""
    transit_days_max: int
    destination_postal_prefix: str = ""
    """Start of the normalized postal code; empty for the whole country."""
    origin_node_id: str = ""
    origin_node_group_id: str = ""
    cost_base_micros: int | None = None
    """Overrides the service's; None keeps it."""
    cost_per_kg_micros: int | None = None


Document = Node | NodeGroup | Item | Calendar | CarrierService | Lane


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkDocuments:
    """All documents of one network version, by id (an item's id is its SKU)."""

    nodes: Mapping[str, Node] = field(default_factory=dict)
    node_groups: Mapping[str, NodeGroup] = field(default_factory=dict)
    items: Mapping[str, Item] = field(default_factory=dict)
    calendars: Mapping[str, Calendar] = field(default_factory=dict)
    carrier_services: Mapping[str, CarrierService] = field(default_factory=dict)
    lanes: Mapping[str, Lane] = field(default_factory=dict)


def normalized_postal_code(postal_code: str) -> str:
    """Upper case, letters and digits only: the form lanes are matched in."""
    return "".join(filter(str.isalnum, postal_code)).upper()


@dataclass(frozen=True, slots=True)
class NetworkSnapshot:
    """One version of the network with its indices. Never changed: edits make a new one."""

    version: int
    documents: NetworkDocuments
    _node_group_ids: Mapping[str, tuple[str, ...]]
    _lanes: Mapping[tuple[str, str, str], tuple[Lane, ...]]
    """By origin, country and prefix; groups' origins carry a leading NUL, which no id has."""
    _places: LatitudeIndex

    def node(self, node_id: str) -> Node | None:
        """The node, or None."""
        return self.documents.nodes.get(node_id)

    def node_group(self, node_group_id: str) -> NodeGroup | None:
        """The group, or None."""
        return self.documents.node_groups.get(node_group_id)

    def item(self, sku: str) -> Item | None:
        """The item, or None. Stock may exist for a SKU without an item document."""
        return self.documents.items.get(sku)

    def calendar(self, calendar_id: str) -> Calendar | None:
        """The calendar, or None."""
        return self.documents.calendars.get(calendar_id)

    def carrier_service(self, carrier_service_id: str) -> CarrierService | None:
        """The carrier service, or None."""
        return self.documents.carrier_services.get(carrier_service_id)

    def shard_key(self, sku: str) -> str:
        """What the SKU's shard is the hash of: the item's ``shard_key``, else the SKU."""
        item = self.documents.items.get(sku)
        return item.shard_key if item is not None and item.shard_key else sku

    def switched_on(self, node_id: str) -> bool:
        """Whether the node is known and may be sold from."""
        node = self.documents.nodes.get(node_id)
        return node is not None and node.status is NodeStatus.ON

    def lanes(self, node_id: str, country: str, postal_code: str) -> list[Lane]:
        """At most one lane a carrier service, by service id.

        The longest postal prefix wins; at equal length the node's own lane before its groups',
        then the smaller lane id. Cost: (groups + 1) x (postal code length + 1) look-ups.
        """
        postal = normalized_postal_code(postal_code)
        origins = (node_id, *("\0" + g for g in self._node_group_ids.get(node_id, ())))
        chosen: dict[str, Lane] = {}
        for length in range(len(postal), -1, -1):
            for own in (True, False):
                layer = origins[:1] if own else origins[1:]
                keys = ((origin, country, postal[:length]) for origin in layer)
                found = (lane for key in keys for lane in self._lanes.get(key, ()))
                for lane in sorted(found, key=lambda lane: lane.id):
                    chosen.setdefault(lane.carrier_service_id, lane)
        return [chosen[service] for service in sorted(chosen)]

    def nodes_within(
        self, latitude: float, longitude: float, radius_m: float
    ) -> list[tuple[float, Node]]:
        """Nodes at most ``radius_m`` away with their distance in meters, nearest first, then by
        id; OFF nodes included."""
        nodes = self.documents.nodes
        near = self._places.within(latitude, longitude, radius_m)
        return [(distance_m, nodes[node_id]) for distance_m, node_id in near]


def build_snapshot(version: int, documents: NetworkDocuments) -> NetworkSnapshot:
    """Index ``documents``. Cost: linear, plus sorting the nodes by latitude."""
    return NetworkSnapshot(
        version,
        documents,
        _group_ids_by_node(documents.node_groups.values()),
        _lanes_by_zone(documents.lanes.values()),
        LatitudeIndex((n.latitude, n.longitude, n.id) for n in documents.nodes.values()),
    )


def _group_ids_by_node(groups: Iterable[NodeGroup]) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    for group in groups:
        for node_id in group.node_ids:
            found.setdefault(node_id, []).append(group.id)
    return {node_id: tuple(sorted(set(ids))) for node_id, ids in found.items()}


def _lanes_by_zone(lanes: Iterable[Lane]) -> dict[tuple[str, str, str], tuple[Lane, ...]]:
    found: dict[tuple[str, str, str], list[Lane]] = {}
    for lane in lanes:
        origin = lane.origin_node_id or "\0" + lane.origin_node_group_id
        prefix = normalized_postal_code(lane.destination_postal_prefix)
        found.setdefault((origin, lane.destination_country, prefix), []).append(lane)
    return {key: tuple(value) for key, value in found.items()}
