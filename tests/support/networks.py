"""Networks for tests: builders with every field filled in that a test does not care about."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date, datetime, time
from zoneinfo import ZoneInfo

from promise_svc.domain.network import (
    Calendar,
    CarrierService,
    Document,
    FulfillmentMethod,
    Item,
    Lane,
    NetworkDocuments,
    NetworkSnapshot,
    Node,
    NodeGroup,
    NodeMethod,
    NodeStatus,
    NodeType,
    SourcingRule,
    build_snapshot,
)

SHIP = FulfillmentMethod.SHIP_TO_ADDRESS
PICKUP = FulfillmentMethod.PICKUP_IN_STORE
CHICAGO = "America/Chicago"
VERSION = 3

WEEKDAYS = frozenset({1, 2, 3, 4, 5})
EVERY_DAY = frozenset({1, 2, 3, 4, 5, 6, 7})


def ms(text: str, zone: str, *, fold: int = 0) -> int:
    """Instant of a wall time such as ``2026-11-20T17:00``."""
    wall = datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold)
    return round(wall.timestamp() * 1000)


def a_calendar(
    calendar_id: str = "weekdays",
    working_days: frozenset[int] = WEEKDAYS,
    exceptions: Mapping[date, bool] | None = None,
) -> Calendar:
    return Calendar(
        calendar_id=calendar_id, working_days=working_days, exceptions=dict(exceptions or {})
    )


def a_method(
    fulfillment_method: FulfillmentMethod = SHIP,
    cutoff_time: time = time(17),
    *,
    days: int = 0,
    minutes: int | None = None,
    opening_time: time = time(0),
) -> NodeMethod:
    return NodeMethod(
        fulfillment_method=fulfillment_method,
        cutoff_time=cutoff_time,
        handling_business_days=days,
        handling_minutes=minutes,
        opening_time=opening_time,
    )


def a_node(
    node_id: str = "DC1",
    *,
    methods: Iterable[NodeMethod] = (),
    time_zone: str = CHICAGO,
    calendar_id: str = "weekdays",
    latitude: float = 41.9,
    longitude: float = -87.6,
    status: NodeStatus = NodeStatus.ON,
    node_type: NodeType = NodeType.DISTRIBUTION_CENTER,
) -> Node:
    return Node(
        node_id=node_id,
        node_type=node_type,
        time_zone=time_zone,
        calendar_id=calendar_id,
        latitude=latitude,
        longitude=longitude,
        country="US",
        postal_code="60601",
        methods=tuple(methods) or (a_method(),),
        status=status,
    )


def a_service(
    carrier_service: str = "ground", *, base: int = 5_000_000, kilogram: int = 0
) -> CarrierService:
    return CarrierService(
        carrier_service=carrier_service,
        calendar_id="carrier",
        currency_code="USD",
        base_cost_micros=base,
        cost_per_kilogram_micros=kilogram,
    )


def a_lane(
    origin: str = "DC1",
    carrier_service: str = "ground",
    transit: tuple[int, int] = (1, 2),
    *,
    postal_prefix: str = "",
    base: int | None = None,
    from_group: bool = False,
) -> Lane:
    return Lane(
        node_id="" if from_group else origin,
        node_group_id=origin if from_group else "",
        country="US",
        postal_prefix=postal_prefix,
        carrier_service=carrier_service,
        transit_business_days_min=transit[0],
        transit_business_days_max=transit[1],
        base_cost_micros=base,
    )


def a_snapshot(*documents: Document, version: int = VERSION) -> NetworkSnapshot:
    """A network of these documents, besides calendars ``weekdays``, ``daily``, ``carrier``."""
    calendars = [a_calendar(), a_calendar("daily", EVERY_DAY), a_calendar("carrier")]
    everything = [*calendars, *documents]
    return build_snapshot(
        version,
        NetworkDocuments(
            nodes={d.node_id: d for d in everything if isinstance(d, Node)},
            node_groups={d.node_group_id: d for d in everything if isinstance(d, NodeGroup)},
            items={d.sku: d for d in everything if isinstance(d, Item)},
            calendars={d.calendar_id: d for d in everything if isinstance(d, Calendar)},
            carrier_services={
                d.carrier_service: d for d in everything if isinstance(d, CarrierService)
            },
            lanes={d.lane_id: d for d in everything if isinstance(d, Lane)},
            sourcing_rules={d.rule_id: d for d in everything if isinstance(d, SourcingRule)},
        ),
    )
