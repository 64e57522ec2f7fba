"""A retailer's network: stores where people live, DCs near the hubs, vendors that drop-ship.

Transit times are service standards of three made-up services, stated here and nowhere learned: by
the distance between the middle of the origin (a DC; the region of a store or vendor, by the first
digit of its postal code) and the middle of the destination's area (first two digits).
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import holidays
from google.protobuf.duration_pb2 import Duration

from promise_svc.demo.geography import (
    Center,
    Place,
    by_city,
    by_prefix,
    center,
    kilometers,
)
from promise_svc.v1 import network_service_pb2 as network_pb
from promise_svc.v1 import types_pb2 as types_pb

HUBS = (
    "08817", "30336", "75241", "60433", "43217", "38118",
    "85043", "91761", "95376", "98032", "80011", "33811",
)  # fmt: skip
"""Edison, Atlanta, Dallas, Joliet, Columbus, Memphis, Phoenix, Ontario CA, Tracy, Kent, Aurora CO,
Lakeland: where warehouses of large retailers stand."""

SHARED_AREAS = ("00", "96", "99")
"""Areas that also hold places we have no lanes to (Puerto Rico, Hawaii, Alaska): told apart by a
third digit."""

VENDOR_COUNT = 20
CODES_PER_STORE = 12
"""A city gets another store for each so many postal codes it has beyond its first."""

GROUND_BANDS = ((250, 1), (1_000, 2), (1_900, 3), (2_900, 4), (10_000, 5))
"""Up to so many kilometers, at most so many business days; ground may be a day faster."""
NEXT_DAY_KILOMETERS_MAX = 2_500
GROUND_MICROS = (5_990_000, 800_000)
"""Cost of a ground shipment of one day, and of each day more, in millionths of a dollar."""

STORES, VENDORS = "stores", "vendors"
NODES_CALENDAR, STORES_CALENDAR, CARRIER_CALENDAR = "us-nodes", "us-stores", "us-carrier"
GROUND, TWO_DAY, NEXT_DAY = "ground", "two-day", "next-day"

_SHIP = types_pb.FULFILLMENT_METHOD_SHIP_TO_ADDRESS
_PICKUP = types_pb.FULFILLMENT_METHOD_PICKUP_IN_STORE
_CURBSIDE = types_pb.FULFILLMENT_METHOD_CURBSIDE
_WEEK = network_pb.DayOfWeek.values()[1:]


@dataclass(frozen=True, slots=True)
class DemoNetwork:
    """Everything the network service is told, and the places it was made of."""

    calendars: tuple[network_pb.Calendar, ...]
    nodes: tuple[network_pb.Node, ...]
    node_groups: tuple[network_pb.NodeGroup, ...]
    carrier_services: tuple[network_pb.CarrierService, ...]
    lanes: tuple[network_pb.Lane, ...]
    places: tuple[Place, ...]

    def node_ids(self, node_type: network_pb.NodeType.ValueType) -> list[str]:
        """Ids of the nodes of one type, in order."""
        return [node.node_id for node in self.nodes if node.node_type == node_type]


def make_network(
    places: Sequence[Place], *, seed: int, store_count: int, today: date
) -> DemoNetwork:
    """The same for the same arguments. ``store_count`` is 1 to 2,000."""
    rng = random.Random(f"network {seed}")
    cities = by_city(places)
    stores = [
        _store(index, place, rng) for index, place in enumerate(_sites(cities, store_count, rng))
    ]
    by_code = {place.postal_code: place for place in places}
    centers = [_center(by_code[code]) for code in HUBS]
    vendors = [
        _vendor(i, rng.choice(city))
        for i, city in enumerate(rng.sample(cities[:600], VENDOR_COUNT))
    ]
    regions = [*_regions(STORES, stores), *_regions(VENDORS, vendors)]
    everything = [
        network_pb.NodeGroup(
            node_group_id=name, name=f"All {name}", node_ids=[node.node_id for node in nodes]
        )
        for name, nodes in ((STORES, stores), (VENDORS, vendors), ("dcs", centers))
    ]
    return DemoNetwork(
        tuple(_calendars(today)),
        (*centers, *stores, *vendors),
        (*regions, *everything),
        tuple(_carrier_services()),
        tuple(_lanes(places, centers, regions)),
        tuple(places),
    )


def transit_days(distance_km: float, carrier_service: str) -> tuple[int, int] | None:
    """(fewest, most) business days of a service over a distance; None where it does not go."""
    if carrier_service == TWO_DAY:
        return 2, 2
    if carrier_service == NEXT_DAY:
        return (1, 1) if distance_km <= NEXT_DAY_KILOMETERS_MAX else None
    most = next(days for limit_km, days in GROUND_BANDS if distance_km <= limit_km)
    return max(1, most - 1), most


def _sites(
    cities: Sequence[Sequence[Place]], store_count: int, rng: random.Random
) -> Iterator[Place]:
    """Sites of stores, the largest cities first; large ones have several."""
    left = store_count
    for city in cities:
        wanted = min(left, 1 + (len(city) - 1) // CODES_PER_STORE)
        yield from rng.sample(list(city), wanted)
        left -= wanted
        if left == 0:
            return


def _store(index: int, place: Place, rng: random.Random) -> network_pb.Node:
    methods = [
        _method(_PICKUP, (19, 0), minutes=120, opening=(9, 0)),
        _method(_SHIP, (14, 0), days=1),
    ]
    if rng.random() < 0.7:
        methods.append(_method(_CURBSIDE, (18, 0), minutes=150, opening=(10, 0)))
    return _node(
        f"store-{index + 1:04}", network_pb.NODE_TYPE_STORE, place, STORES_CALENDAR, methods
    )


def _center(place: Place) -> network_pb.Node:
    return _node(
        f"dc-{place.city.lower().replace(' ', '-')}",
        network_pb.NODE_TYPE_DISTRIBUTION_CENTER,
        place,
        NODES_CALENDAR,
        [_method(_SHIP, (16, 0))],
    )


def _vendor(index: int, place: Place) -> network_pb.Node:
    return _node(
        f"vendor-{index + 1:02}",
        network_pb.NODE_TYPE_VENDOR,
        place,
        NODES_CALENDAR,
        [_method(_SHIP, (12, 0), days=1 + index % 2)],
    )


def _node(
    node_id: str,
    node_type: network_pb.NodeType.ValueType,
    place: Place,
    calendar_id: str,
    methods: Sequence[network_pb.NodeMethod],
) -> network_pb.Node:
    return network_pb.Node(
        node_id=node_id,
        name=f"{place.city}, {place.region} {place.postal_code}",
        node_type=node_type,
        address=address_of(place),
        time_zone=place.time_zone,
        calendar_id=calendar_id,
        methods=methods,
    )


def address_of(place: Place) -> types_pb.Address:
    """A place as callers send it."""
    return types_pb.Address(
        country="US",
        region=place.region,
        postal_code=place.postal_code,
        coordinates=types_pb.Coordinates(
            latitude_degrees=place.latitude, longitude_degrees=place.longitude
        ),
    )


def _method(
    method: types_pb.FulfillmentMethod.ValueType,
    cutoff: tuple[int, int],
    *,
    days: int | None = None,
    minutes: int | None = None,
    opening: tuple[int, int] | None = None,
) -> network_pb.NodeMethod:
    made = network_pb.NodeMethod(
        fulfillment_method=method,
        cutoff_time=network_pb.TimeOfDay(hours=cutoff[0], minutes=cutoff[1]),
    )
    if days is not None:
        made.handling_business_days = days
    if minutes is not None:
        made.handling_duration.CopyFrom(Duration(seconds=60 * minutes))
    if opening is not None:
        made.opening_time.CopyFrom(network_pb.TimeOfDay(hours=opening[0], minutes=opening[1]))
    return made


def _regions(kind: str, nodes: Sequence[network_pb.Node]) -> list[network_pb.NodeGroup]:
    """Nodes of one kind by the first digit of their postal code."""
    regions: dict[str, list[str]] = defaultdict(list)
    for node in nodes:
        regions[node.address.postal_code[0]].append(node.node_id)
    return [
        network_pb.NodeGroup(
            node_group_id=f"{kind}-{digit}", name=f"{kind} in {digit}xxxx", node_ids=node_ids
        )
        for digit, node_ids in sorted(regions.items())
    ]


def _calendars(today: date) -> Iterator[network_pb.Calendar]:
    """Two years from ``today``'s: nodes and carrier rest on weekends and US federal holidays,
    stores on Thanksgiving and Christmas only."""
    days = holidays.country_holidays("US", years=range(today.year, today.year + 3))
    last = today + timedelta(days=730)
    off = sorted(day for day in days if today <= day <= last)
    closed = [d for d in off if days[d] in ("Thanksgiving Day", "Christmas Day")]
    yield _calendar(NODES_CALENDAR, "Mon-Fri but federal holidays", _WEEK[:5], off)
    yield _calendar(CARRIER_CALENDAR, "Mon-Fri but federal holidays", _WEEK[:5], off)
    yield _calendar(STORES_CALENDAR, "Every day but Thanksgiving and Christmas", _WEEK, closed)


def _calendar(
    calendar_id: str,
    name: str,
    working_days: Sequence[network_pb.DayOfWeek.ValueType],
    off: Sequence[date],
) -> network_pb.Calendar:
    exceptions = [
        network_pb.CalendarException(
            date=types_pb.Date(year=day.year, month=day.month, day=day.day), working=False
        )
        for day in off
    ]
    return network_pb.Calendar(
        calendar_id=calendar_id,
        name=name,
        working_days=working_days,
        exceptions=exceptions,
    )


def _carrier_services() -> Iterator[network_pb.CarrierService]:
    for carrier_service, base, per_kilogram in (
        (GROUND, GROUND_MICROS[0], 350_000),
        (TWO_DAY, 14_990_000, 900_000),
        (NEXT_DAY, 24_990_000, 1_500_000),
    ):
        yield network_pb.CarrierService(
            carrier_service=carrier_service,
            name=carrier_service.replace("-", " "),
            calendar_id=CARRIER_CALENDAR,
            currency_code="USD",
            base_cost_micros=base,
            cost_per_kilogram_micros=per_kilogram,
        )


def _lanes(
    places: Sequence[Place],
    centers: Sequence[network_pb.Node],
    groups: Sequence[network_pb.NodeGroup],
) -> Iterator[network_pb.Lane]:
    areas = _areas(places)
    for node in centers:
        at = node.address.coordinates
        origin = Center(at.latitude_degrees, at.longitude_degrees)
        for service in (GROUND, TWO_DAY, NEXT_DAY):
            yield from _lanes_from(origin, areas, service, node_id=node.node_id)
    regions = {digit: center(region) for digit, region in by_prefix(places, 1).items()}
    for group in groups:
        group_id = group.node_group_id
        services = (GROUND, TWO_DAY) if group_id.startswith(STORES) else (GROUND,)
        for service in services:
            yield from _lanes_from(regions[group_id[-1]], areas, service, node_group_id=group_id)


def _areas(places: Sequence[Place]) -> dict[str, Center]:
    """Destination zones and their middles."""
    coarse = [place for place in places if place.postal_code[:2] not in SHARED_AREAS]
    fine = [place for place in places if place.postal_code[:2] in SHARED_AREAS]
    areas = {**by_prefix(coarse, 2), **by_prefix(fine, 3)}
    return {prefix: center(area) for prefix, area in areas.items()}


def _lanes_from(
    origin: Center, areas: dict[str, Center], carrier_service: str, **origin_name: str
) -> Iterator[network_pb.Lane]:
    for prefix, area in areas.items():
        days = transit_days(kilometers(origin, area), carrier_service)
        if days is None:
            continue
        base, more = GROUND_MICROS
        cost = base + (days[1] - 1) * more if carrier_service == GROUND else None
        yield network_pb.Lane(
            **origin_name,
            country="US",
            postal_prefix=prefix,
            carrier_service=carrier_service,
            transit_business_days_min=days[0],
            transit_business_days_max=days[1],
            base_cost_micros=cost,
        )
