"""The network's documents, and the immutable snapshot that every promise is computed from.

Documents are checked by ``network_validation`` before they reach the order store. Costs are
millionths of the network's one currency, wall times are local to the node that carries them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, time
from enum import StrEnum
from typing import Any, NamedTuple, TypeVar

from promise_svc.domain.geography import LatitudeIndex
from promise_svc.domain.reservation import CustomerLimit

T = TypeVar("T")


class NodeType(StrEnum):
    """What kind of place a node is. Changes no rule: methods and lanes say what it can do."""

    STORE = "STORE"
    DISTRIBUTION_CENTER = "DISTRIBUTION_CENTER"
    VENDOR = "VENDOR"
    THIRD_PARTY_LOGISTICS = "THIRD_PARTY_LOGISTICS"


class NodeStatus(StrEnum):
    """Whether a node takes new orders. An OFF node contributes 0 to every answer."""

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
class NodeMethod:
    """How a node offers one fulfillment method."""

    fulfillment_method: FulfillmentMethod
    cutoff_time: time
    """An order at or before it is processed that business day, a later one the next."""
    handling_business_days: int = 0
    """Business days of the node after the day of processing, 0..60; 0 where a duration is set."""
    handling_minutes: int | None = None
    """Handling by the clock instead, 0..1440, from the order or from ``opening_time``."""
    opening_time: time = time(0)
    """From then on goods are handed over or prepared on a business day."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeCapacity:
    """How many orders a node works a day by one method. A method without one has no bound."""

    fulfillment_method: FulfillmentMethod
    orders_per_day_max: int
    """0..CAPACITY_MAX; of every day but the exceptions."""
    exceptions: Mapping[date, int] = field(default_factory=dict)

    def on(self, day: date) -> int:
        """The most orders of a civil day at the node."""
        return self.exceptions.get(day, self.orders_per_day_max)


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A place that holds stock and can ship it or hand it over."""

    node_id: str
    node_type: NodeType
    time_zone: str
    """IANA name; all wall times of the node are in it."""
    calendar_id: str
    """Days on which the node handles orders."""
    latitude: float
    """Degrees, -90..90."""
    longitude: float
    """Degrees, -180..180."""
    country: str
    """ISO 3166-1 alpha-2, upper case."""
    postal_code: str = ""
    region: str = ""
    name: str = ""
    methods: tuple[NodeMethod, ...] = ()
    """Each method at most once; without any the node holds stock and sells none."""
    status: NodeStatus = NodeStatus.ON
    capacities: tuple[NodeCapacity, ...] = ()
    """Of each method at most one."""

    def capacity(self, fulfillment_method: FulfillmentMethod) -> NodeCapacity | None:
        """Its capacity by the method; None where it is not bounded."""
        for capacity in self.capacities:
            if capacity.fulfillment_method is fulfillment_method:
                return capacity
        return None

    def method(self, fulfillment_method: FulfillmentMethod) -> NodeMethod | None:
        """How the node offers the method, switched on or not; None when it does not."""
        for offered in self.methods:
            if offered.fulfillment_method is fulfillment_method:
                return offered
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeGroup:
    """A named set of nodes. Groups may overlap; stock is never pooled twice."""

    node_group_id: str
    node_ids: tuple[str, ...]
    name: str = ""


class BundleComponent(NamedTuple):
    """Units of one SKU in a bundle."""

    sku: str
    quantity: int
    """In each bundle, 1..1,000."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemLimit:
    """The most units of an item that one owner of reservations may have."""

    quantity_max: int
    window_ms: int = 0
    """Units count in the stretch of this length, counted from 1970, that they were taken in; 0: as
    long as they are held or committed."""
    by_shard_key: bool = False
    """Counted together with all items of its shard key that are limited so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """What promising needs to know of a SKU."""

    sku: str
    name: str = ""
    weight_grams: int = 0
    """Of one base unit, 0..10,000,000."""
    shard_key: str = ""
    """Decides the SKU's shard; empty for the SKU itself. Fixed once the SKU exists."""
    handling_class: str = ""
    """Sourcing rules may name it."""
    length_millimeters: int = 0
    """Of one base unit as packed, 0..100,000; 0 where unknown. Stored; no rule reads the size."""
    width_millimeters: int = 0
    height_millimeters: int = 0
    components: tuple[BundleComponent, ...] = ()
    """Makes it a bundle: it has no stock of its own, its components are what is sold. None of them
    is a bundle."""
    customer_limit: ItemLimit | None = None
    """Not for a bundle: its components have theirs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calendar:
    """Which days are business days: by the week, with dated exceptions that win over it."""

    calendar_id: str
    working_days: frozenset[int]
    """ISO weekdays, 1 (Monday)..7."""
    exceptions: Mapping[date, bool] = field(default_factory=dict)
    """True makes the date a business day, False a day off."""
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CarrierService:
    """One service of one carrier."""

    carrier_service: str
    calendar_id: str
    """Days on which the carrier collects, moves and delivers."""
    currency_code: str
    """ISO 4217, upper case; the same for all services of the network."""
    name: str = ""
    base_cost_micros: int = 0
    """Cost of a shipment."""
    cost_per_kilogram_micros: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """Origin, destination zone and carrier service: the key of transit time."""

    carrier_service: str
    country: str
    transit_business_days_min: int
    """Business days of the carrier from leaving the node to the shopper, 0..60."""
    transit_business_days_max: int
    postal_prefix: str = ""
    """Start of the destination's postal code; empty for the whole country."""
    node_id: str = ""
    """Origin; exactly one of this and ``node_group_id`` is set."""
    node_group_id: str = ""
    base_cost_micros: int | None = None
    """Wins over the service's; None keeps that."""

    @property
    def lane_id(self) -> str:
        """Its name in the order store: origin, zone and service. ``>`` is in no id."""
        origin = f"node:{self.node_id}" if self.node_id else f"group:{self.node_group_id}"
        zone = f"{self.country}:{normalized_postal_code(self.postal_prefix)}"
        return f"{origin}>{zone}>{self.carrier_service}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SourcingRule:
    """What ``rules`` may do for orders and nodes that fit every field that is set."""

    rule_id: str
    fulfillment_method: FulfillmentMethod | None = None
    country: str = ""
    """Of the destination; with it ``region`` and ``postal_prefix`` may say more. Fits no pickup."""
    region: str = ""
    postal_prefix: str = ""
    """Normalized."""
    handling_class: str = ""
    """Of the items; others are not touched."""
    node_group_id: str = ""
    """Empty for every node."""
    excluded: bool = False
    priority: int = 0
    """1 (asked first)..9; 0 says nothing of it."""
    cost_micros: int = 0
    """Counted for each shipment from these nodes on top of its cost."""
    max_shipments: int = 0
    """1..20; 0 sets no limit."""


Document = Node | NodeGroup | Item | Calendar | CarrierService | Lane | SourcingRule


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkDocuments:
    """All documents of one network version, by id (an item's id is its SKU)."""

    nodes: Mapping[str, Node] = field(default_factory=dict)
    node_groups: Mapping[str, NodeGroup] = field(default_factory=dict)
    items: Mapping[str, Item] = field(default_factory=dict)
    calendars: Mapping[str, Calendar] = field(default_factory=dict)
    carrier_services: Mapping[str, CarrierService] = field(default_factory=dict)
    lanes: Mapping[str, Lane] = field(default_factory=dict)
    sourcing_rules: Mapping[str, SourcingRule] = field(default_factory=dict)


def normalized_postal_code(postal_code: str) -> str:
    """Upper case, letters and digits only: the form lanes are matched in."""
    if not postal_code.isalnum():
        postal_code = "".join(filter(str.isalnum, postal_code))
    return postal_code.upper()


_ZoneKey = tuple[str, str, str]
"""Origin id, country, normalized postal prefix."""


@dataclass(frozen=True, slots=True)
class NetworkSnapshot:
    """One version of the network with its indices. Never changed: an edit makes a new one."""

    version: int
    documents: NetworkDocuments
    _group_ids: Mapping[str, tuple[str, ...]]
    _node_lanes: Mapping[_ZoneKey, tuple[Lane, ...]]
    _group_lanes: Mapping[_ZoneKey, tuple[Lane, ...]]
    _places: LatitudeIndex
    bundles: Mapping[str, tuple[BundleComponent, ...]]
    """SKU of each bundle -> its components."""
    sourcing_rules: tuple[SourcingRule, ...]
    """By id."""
    customer_limits: Mapping[str, CustomerLimit]
    """SKU of each item that has one -> what the shards check."""
    _derived: dict[Callable[..., Any], Any] = field(default_factory=dict, compare=False, repr=False)

    def derived(self, build: Callable[[NetworkSnapshot], T]) -> T:
        """What ``build`` makes of this snapshot: made once, kept as long as the snapshot. For
        tables and caches that follow from the documents alone, and not from its items
        (``with_items`` keeps them); each states its own bound."""
        made: T | None = self._derived.get(build)
        if made is None:
            made = self._derived[build] = build(self)
        return made

    def node(self, node_id: str) -> Node | None:
        """The node, or None."""
        return self.documents.nodes.get(node_id)

    def node_group(self, node_group_id: str) -> NodeGroup | None:
        """The group, or None."""
        return self.documents.node_groups.get(node_group_id)

    def item(self, sku: str) -> Item | None:
        """The item, or None. A feed may have stock of a SKU without an item."""
        return self.documents.items.get(sku)

    def calendar(self, calendar_id: str) -> Calendar | None:
        """The calendar, or None."""
        return self.documents.calendars.get(calendar_id)

    def carrier_service(self, carrier_service: str) -> CarrierService | None:
        """The carrier service, or None."""
        return self.documents.carrier_services.get(carrier_service)

    @property
    def currency_code(self) -> str:
        """The network's one currency; empty without carrier services."""
        return self.derived(_currency_code)

    def shard_key(self, sku: str) -> str:
        """What the SKU's shard is the hash of: the item's ``shard_key``, else the SKU."""
        item = self.documents.items.get(sku)
        return item.shard_key if item is not None and item.shard_key else sku

    def switched_on(self, node_id: str) -> bool:
        """Whether the node is known and may be sold from."""
        node = self.documents.nodes.get(node_id)
        return node is not None and node.status is NodeStatus.ON

    def node_group_ids(self, node_id: str) -> tuple[str, ...]:
        """Groups the node is in, in order."""
        return self._group_ids.get(node_id, ())

    def lanes(self, node_id: str, country: str, postal_code: str) -> list[Lane]:
        """At most one lane a carrier service, by service: the node's own before its groups', then
        the longest prefix, then the smallest group id.

        Cost: (groups + 1) x (length of the postal code + 1) look-ups.
        """
        postal = normalized_postal_code(postal_code)
        chosen: dict[str, Lane] = {}
        for index, origins in (
            (self._node_lanes, (node_id,)),
            (self._group_lanes, self._group_ids.get(node_id, ())),
        ):
            for length in range(len(postal), -1, -1):
                for origin in origins:
                    for lane in index.get((origin, country, postal[:length]), ()):
                        chosen.setdefault(lane.carrier_service, lane)
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
    lanes = documents.lanes.values()
    return NetworkSnapshot(
        version,
        documents,
        _group_ids_by_node(documents.node_groups.values()),
        _lanes_by_zone((lane.node_id, lane) for lane in lanes if lane.node_id),
        _lanes_by_zone((lane.node_group_id, lane) for lane in lanes if lane.node_group_id),
        LatitudeIndex((n.latitude, n.longitude, n.node_id) for n in documents.nodes.values()),
        {sku: item.components for sku, item in documents.items.items() if item.components},
        tuple(rule for _, rule in sorted(documents.sourcing_rules.items())),
        dict(_customer_limits(documents.items.values())),
    )


def with_items(
    before: NetworkSnapshot, version: int, documents: NetworkDocuments
) -> NetworkSnapshot:
    """``documents``, which differ from those before in their items alone, so that what is derived
    of the rest stands. Cost: a look at each item."""
    items = documents.items
    return replace(
        before,
        version=version,
        documents=documents,
        bundles={sku: item.components for sku, item in items.items() if item.components},
        customer_limits=dict(_customer_limits(items.values())),
    )


def _customer_limits(items: Iterable[Item]) -> Iterator[tuple[str, CustomerLimit]]:
    for item in items:
        limit = item.customer_limit
        if limit is not None:
            together = limit.by_shard_key and item.shard_key
            counter = f"k:{item.shard_key}" if together else f"s:{item.sku}"
            yield item.sku, CustomerLimit(item.sku, counter, limit.quantity_max, limit.window_ms)


def _group_ids_by_node(groups: Iterable[NodeGroup]) -> dict[str, tuple[str, ...]]:
    found: dict[str, set[str]] = {}
    for group in groups:
        for node_id in group.node_ids:
            found.setdefault(node_id, set()).add(group.node_group_id)
    return {node_id: tuple(sorted(ids)) for node_id, ids in found.items()}


def _lanes_by_zone(lanes: Iterable[tuple[str, Lane]]) -> dict[_ZoneKey, tuple[Lane, ...]]:
    found: dict[_ZoneKey, list[Lane]] = {}
    for origin, lane in lanes:
        prefix = normalized_postal_code(lane.postal_prefix)
        found.setdefault((origin, lane.country, prefix), []).append(lane)
    return {key: tuple(value) for key, value in found.items()}


def _currency_code(snapshot: NetworkSnapshot) -> str:
    services = snapshot.documents.carrier_services.values()
    return min((service.currency_code for service in services), default="")
