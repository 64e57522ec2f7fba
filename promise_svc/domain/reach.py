"""Which nodes can serve a destination, by which methods and services, when and at what cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

from promise_svc.domain.delivery import DeliveryDates, ShipDate, pickup_times
from promise_svc.domain.geography import distances_m
from promise_svc.domain.network import (
    PICKUP_METHODS,
    Calendar,
    FulfillmentMethod,
    Lane,
    NetworkSnapshot,
    Node,
    NodeMethod,
    NodeStatus,
)
from promise_svc.domain.routes import Routes
from promise_svc.domain.sourcing import DeliveryOption
from promise_svc.errors import NoBusinessDay

T = TypeVar("T")

CARRIED_METHODS = frozenset({FulfillmentMethod.SHIP_TO_ADDRESS})
"""Methods that bring goods to an address, as far as they are built."""


NEVER = -1
"""No time at which an order would be worked."""

KNOWN_SERVICES_MAX = 16_384
"""Kept services: kinds of nodes times zones; about 1 KiB each."""


class UnfulfilledReason(IntEnum):
    """Why a line cannot be promised; numbers are the contract's and the precedence."""

    UNKNOWN_SKU = 10
    UNKNOWN_NODE = 20
    NODE_OFF = 30
    METHOD_NOT_OFFERED = 40
    NO_LANE = 50
    NO_DATE = 60
    CAPACITY_FULL = 62
    EXCLUDED_BY_RULE = 65
    INSUFFICIENT_STOCK = 70
    SPLIT_LIMIT = 80


class Line(NamedTuple):
    """A line of a cart; the same SKU may stand on several."""

    line_id: str
    sku: str
    quantity: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a shopper is: as much as lanes and distances need."""

    country: str
    postal_code: str
    region: str = ""
    latitude: float | None = None
    longitude: float | None = None


class Arrival(NamedTuple):
    """A node that works an order later than it was placed: when supply on its way is there, or on
    the first day with room."""

    node_id: str
    arrival_ms: int
    """When the supply is there; 0 for stock here now."""
    worked: Mapping[FulfillmentMethod, int] = {}
    """Methods whose next working day is full -> when an order must be placed to be worked on the
    first day that is not, ms since 1970; NEVER where there is none in sight."""


class Wanted(NamedTuple):
    """Where goods go and how they may get there. Exactly one of address and pickup node is set."""

    fulfillment_methods: frozenset[FulfillmentMethod]
    order_ms: int
    address: Address | None = None
    pickup_node_id: str = ""
    carrier_services: frozenset[str] = frozenset()
    """Empty for all."""
    excluded_node_ids: frozenset[str] = frozenset()
    arrivals: Mapping[str, Arrival] = {}
    """Names that stand for a node at a later time: its own where its day is full, others for supply
    on its way there."""


class Service(NamedTuple):
    """One way a node could serve the destination, with the dates it would have."""

    fulfillment_method: FulfillmentMethod
    carrier_service: str
    dates: DeliveryDates
    ready_ms: int | None
    base_cost_micros: int
    cost_per_kilogram_micros: int

    @property
    def option(self) -> DeliveryOption:
        """What the search needs of it."""
        return DeliveryOption(
            f"{self.fulfillment_method}>{self.carrier_service}",
            self.dates.latest_delivery_date,
            self.base_cost_micros,
            self.cost_per_kilogram_micros,
        )


_Found = tuple[Service, ...] | UnfulfilledReason


_ZoneKey = tuple[str, str, frozenset[FulfillmentMethod], frozenset[str]]
"""Country, zone, methods and carrier services asked for."""


@dataclass(slots=True)
class _Services:
    """Services by kind of node, and those of them as the search needs them."""

    by_origin: dict[str, _Found] = field(default_factory=dict)
    options: dict[str, tuple[DeliveryOption, ...]] = field(default_factory=dict)
    equal_options: dict[tuple[DeliveryOption, ...], tuple[DeliveryOption, ...]] = field(
        default_factory=dict
    )
    derived: dict[Callable[..., Any], Any] = field(default_factory=dict)


class _KnownServices:
    """Services of all kinds of nodes for one zone, which stand from the order they were worked out
    for until the first cutoff they rely on."""

    def __init__(self, _snapshot: NetworkSnapshot) -> None:
        self._known: dict[_ZoneKey, tuple[int, int, _Services]] = {}
        self._count = 0

    def get(self, key: _ZoneKey, order_ms: int) -> _Services | None:
        """Services that are the same for this order."""
        from_ms, until_ms, services = self._known.get(key, (0, -1, None))
        return services if from_ms <= order_ms <= until_ms else None

    def put(self, key: _ZoneKey, order_ms: int, services: _Services) -> None:
        """Keep ``services``, which name every kind of node, unless one has no date: whether it
        has one may change with every order."""
        found = services.by_origin.values()
        if UnfulfilledReason.NO_DATE in found:
            return
        cutoffs = (s.dates.order_by_ms for some in found if isinstance(some, tuple) for s in some)
        until_ms = min(cutoffs, default=order_ms)
        if self._count + len(found) > KNOWN_SERVICES_MAX:
            self._known.clear()
            self._count = 0
        self._count += 0 if key in self._known else len(found)
        self._known[key] = order_ms, until_ms, services


class Reach:
    """Answers for one order and destination; nodes with equal terms are worked out together.

    Cost: two look-ups a node, and a few microseconds for each kind of node.
    """

    def __init__(self, snapshot: NetworkSnapshot, wanted: Wanted) -> None:
        self._snapshot = snapshot
        self._routes = snapshot.derived(Routes)
        self._wanted = wanted
        self._allowed = wanted.fulfillment_methods & (
            PICKUP_METHODS if wanted.address is None else CARRIED_METHODS
        )
        self._ship_dates: dict[tuple[str, FulfillmentMethod, str], ShipDate | None] = {}
        self._known = snapshot.derived(_KnownServices)
        self._zone_key = self._key_of(wanted.address)
        known = self._zone_key and self._known.get(self._zone_key, wanted.order_ms)
        self._found = known or _Services()
        self._later: dict[int, Reach] = {}

    def services(self, node_id: str) -> tuple[Service, ...] | UnfulfilledReason:
        """The ways in which the node can serve the destination, or why there is none."""
        if node_id in self._wanted.arrivals:
            return self._later_services(self._wanted.arrivals[node_id])
        origin_id = self._routes.origin_ids.get(node_id)
        if origin_id is None:
            return UnfulfilledReason.UNKNOWN_NODE
        found = self._services_of(origin_id)
        if found is UnfulfilledReason.NODE_OFF or not self._left_out(node_id):
            return found
        return UnfulfilledReason.METHOD_NOT_OFFERED

    @cached_property
    def served(self) -> frozenset[str]:
        """Nodes that can serve the destination."""
        later = self._wanted.arrivals
        if not later:
            return self._served
        return (self._served - later.keys()) | {
            name for name in later if isinstance(self.services(name), tuple)
        }

    @cached_property
    def _served(self) -> frozenset[str]:
        if self._wanted.pickup_node_id:
            found = self.services(self._wanted.pickup_node_id)
            return frozenset({self._wanted.pickup_node_id} if isinstance(found, tuple) else ())
        nodes_of, by_origin = self._routes.nodes_of, self._services_by_origin()
        found_nodes = [nodes_of[id_] for id_ in nodes_of if isinstance(by_origin[id_], tuple)]
        return frozenset().union(*found_nodes) - self._wanted.excluded_node_ids

    def services_by_origin(self) -> list[tuple[Service, ...]]:
        """The services of each kind of node, in the order of ``Routes.nodes_of``; none of those
        that do not serve the destination."""
        by_origin = self._services_by_origin()
        found = (by_origin[origin_id] for origin_id in self._routes.nodes_of)
        return [services if isinstance(services, tuple) else () for services in found]

    def derived(self, build: Callable[[Reach], T]) -> T:
        """What ``build`` makes of ``services_by_origin``: made once for all orders that find the
        same services, and kept as long as those."""
        self._services_by_origin()
        made: T | None = self._found.derived.get(build)
        if made is None:
            made = self._found.derived[build] = build(self)
        return made

    def _services_by_origin(self) -> Mapping[str, _Found]:
        """Services of all kinds of nodes."""
        found = self._found.by_origin
        if len(found) < len(self._routes.nodes_of):
            known = len(found)
            for origin_id in self._routes.nodes_of:
                self._services_of(origin_id)
            if self._zone_key and not known:
                self._known.put(self._zone_key, self._wanted.order_ms, self._found)
        return found

    def options(self, node_ids: Sequence[str]) -> list[tuple[DeliveryOption, ...]]:
        """What the search needs of each served node; equal options of several are one tuple."""
        if self._wanted.arrivals:
            return [self._options_of(node_id) for node_id in node_ids]
        origin_ids = list(map(self._routes.origin_ids.__getitem__, node_ids))
        for origin_id in set(origin_ids).difference(self._found.options):
            services = self._services_of(origin_id)
            assert isinstance(services, tuple), "only served nodes have options"
            found = tuple(service.option for service in services)
            self._found.options[origin_id] = self._found.equal_options.setdefault(found, found)
        return list(map(self._found.options.__getitem__, origin_ids))

    @cached_property
    def nowhere(self) -> UnfulfilledReason | None:
        """Why no node at all can serve the destination: the step the furthest one failed at. None
        when one can. Cost: all nodes in the worst case, once."""
        if self._wanted.pickup_node_id:
            found = self.services(self._wanted.pickup_node_id)
            return None if isinstance(found, tuple) else found
        furthest = UnfulfilledReason.METHOD_NOT_OFFERED
        for node_id in self._snapshot.documents.nodes:
            found = self.services(node_id)
            if isinstance(found, tuple):
                return None
            furthest = max(furthest, found)
        return furthest

    def distances_meters(self, node_ids: Iterable[str]) -> list[int]:
        """Whole meters from each known node to the address; 0 where that has no coordinates."""
        address = self._wanted.address
        if address is None or address.latitude is None or address.longitude is None:
            return [0 for _ in node_ids]
        arrivals = self._wanted.arrivals
        nodes = (arrivals[n].node_id if n in arrivals else n for n in node_ids)
        places = map(self._routes.places.__getitem__, nodes if arrivals else node_ids)
        return list(map(round, distances_m(places, address.latitude, address.longitude)))

    def _options_of(self, node_id: str) -> tuple[DeliveryOption, ...]:
        services = self.services(node_id)
        assert isinstance(services, tuple), "only served nodes have options"
        found = tuple(service.option for service in services)
        return self._found.equal_options.setdefault(found, found)

    def _later_services(self, place: Arrival) -> _Found:
        """Those of orders placed when the node can work them."""
        if not place.worked:
            return self._after(place.arrival_ms).services(place.node_id)
        found: list[Service] = []
        why = UnfulfilledReason.CAPACITY_FULL
        for method in sorted(self._allowed):
            order_ms = place.worked.get(method, place.arrival_ms)
            if order_ms == NEVER:
                continue
            services = self._after(order_ms).services(place.node_id)
            if isinstance(services, UnfulfilledReason):
                why = services
            else:
                found += [s for s in services if s.fulfillment_method is method]
        return tuple(found) or why

    def _after(self, order_ms: int) -> Reach:
        """For orders placed then."""
        found = self._later.get(order_ms)
        if found is None:
            later_ms = max(self._wanted.order_ms, order_ms)
            later = self._wanted._replace(order_ms=later_ms, arrivals={})
            found = self._later[order_ms] = Reach(self._snapshot, later)
        return found

    def _key_of(self, address: Address | None) -> _ZoneKey | None:
        if address is None:
            return None
        zone = self._routes.zone(address.postal_code)
        return address.country, zone, self._allowed, self._wanted.carrier_services

    def _left_out(self, node_id: str) -> bool:
        """Whether the request, not the network, rules the node out."""
        if node_id in self._wanted.excluded_node_ids:
            return True
        return self._wanted.address is None and node_id != self._wanted.pickup_node_id

    def _services_of(self, origin_id: str) -> _Found:
        found = self._found.by_origin.get(origin_id)
        if found is None:
            node = self._snapshot.documents.nodes[origin_id]
            found = self._found.by_origin[origin_id] = self._work_out(node)
        return found

    def _work_out(self, node: Node) -> _Found:
        if node.status is NodeStatus.OFF:
            return UnfulfilledReason.NODE_OFF
        methods = [m for m in node.methods if m.fulfillment_method in self._allowed]
        if not methods:
            return UnfulfilledReason.METHOD_NOT_OFFERED
        calendar = self._snapshot.calendar(node.calendar_id)
        if self._wanted.address is None:
            found = [self._pickup(node, method, calendar) for method in methods]
        else:
            lanes = self._lanes(node, self._wanted.address)
            if not lanes:
                return UnfulfilledReason.NO_LANE
            found = [self._carried(node, m, calendar, lane) for m in methods for lane in lanes]
        services = tuple(service for service in found if service is not None)
        return services or UnfulfilledReason.NO_DATE

    def _lanes(self, node: Node, address: Address) -> list[Lane]:
        asked = self._wanted.carrier_services
        return [
            lane
            for lane in self._routes.lanes(node, address.country, address.postal_code)
            if not asked or lane.carrier_service in asked
        ]

    def _pickup(self, node: Node, method: NodeMethod, calendar: Calendar | None) -> Service | None:
        if calendar is None:
            return None
        try:
            times = pickup_times(
                self._wanted.order_ms, node=node, method=method, node_calendar=calendar
            )
        except NoBusinessDay:
            return None
        day = times.ready_date
        dates = DeliveryDates(day, day, day, times.order_by_ms)
        return Service(method.fulfillment_method, "", dates, times.ready_ms, 0, 0)

    def _carried(
        self, node: Node, method: NodeMethod, calendar: Calendar | None, lane: Lane
    ) -> Service | None:
        service = self._snapshot.carrier_service(lane.carrier_service)
        if service is None or calendar is None:
            return None
        carrier_calendar = self._snapshot.calendar(service.calendar_id)
        if carrier_calendar is None:
            return None
        dates = self._dates(node, method, (calendar, carrier_calendar), lane)
        if dates is None:
            return None
        base = lane.base_cost_micros
        return Service(
            method.fulfillment_method,
            lane.carrier_service,
            dates,
            None,
            service.base_cost_micros if base is None else base,
            service.cost_per_kilogram_micros,
        )

    def _dates(
        self, node: Node, method: NodeMethod, calendars: tuple[Calendar, Calendar], lane: Lane
    ) -> DeliveryDates | None:
        leaves = self._ship_date(node, method, calendars)
        if leaves is None:
            return None
        transit = lane.transit_business_days_min, lane.transit_business_days_max
        try:
            return self._routes.arrival(leaves, calendars[1], transit)
        except NoBusinessDay:
            return None

    def _ship_date(
        self, node: Node, method: NodeMethod, calendars: tuple[Calendar, Calendar]
    ) -> ShipDate | None:
        key = node.node_id, method.fulfillment_method, calendars[1].calendar_id
        if key not in self._ship_dates:
            try:
                found = self._routes.ship_date(self._wanted.order_ms, node, method, calendars)
            except NoBusinessDay:
                found = None
            self._ship_dates[key] = found
        return self._ship_dates[key]
