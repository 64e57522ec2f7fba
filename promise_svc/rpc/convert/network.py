"""Upserts of the network's resources, SetNodeStatus, GetNetworkVersion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, time
from typing import Any, TypeVar

from promise_svc.application.network import NodeStatusChange
from promise_svc.application.network_edit import DELETABLE, DeleteReply, UpsertReply
from promise_svc.domain.calendar import zone_of
from promise_svc.domain.capacity import CAPACITY_MAX
from promise_svc.domain.delivery import BUSINESS_DAYS_MAX, HANDLING_MINUTES_MAX
from promise_svc.domain.inventory import QUANTITY_MAX
from promise_svc.domain.network import (
    BundleComponent,
    Calendar,
    CarrierService,
    FulfillmentMethod,
    Item,
    ItemLimit,
    Lane,
    NetworkSnapshot,
    Node,
    NodeCapacity,
    NodeGroup,
    NodeMethod,
    NodeStatus,
    NodeType,
    SourcingRule,
    normalized_postal_code,
)
from promise_svc.domain.network_validation import (
    CAPACITY_DAYS_MAX,
    COMPONENT_QUANTITY_MAX,
    COMPONENTS_MAX,
    COST_MICROS_MAX,
    EXCEPTIONS_MAX,
    GROUP_NODES_MAX,
    SIZE_MILLIMETERS_MAX,
    WEIGHT_GRAMS_MAX,
    WINDOW_MS_MAX,
    WINDOW_MS_MIN,
    names_a_lane,
    violations,
)
from promise_svc.errors import NotFound
from promise_svc.rpc.convert.fields import NAME_BYTES_MAX, Fields
from promise_svc.rpc.convert.types import (
    METHODS,
    NODE_STATUS_NUMBERS,
    NODE_STATUSES,
    POSTAL_CODE_BYTES_MAX,
    REGION_BYTES_MAX,
    coordinates_from,
    number_of,
)
from promise_svc.v1 import network_service_pb2 as pb

RESOURCES_MAX = 1_000
"""Most resources of one upsert."""

LANE_NAME_BYTES_MAX = 256
REASON_BYTES_MAX = 256
HANDLING_MS_MAX = HANDLING_MINUTES_MAX * 60_000

_NODE_TYPES = {
    pb.NODE_TYPE_STORE: NodeType.STORE,
    pb.NODE_TYPE_DISTRIBUTION_CENTER: NodeType.DISTRIBUTION_CENTER,
    pb.NODE_TYPE_VENDOR: NodeType.VENDOR,
    pb.NODE_TYPE_THIRD_PARTY_LOGISTICS: NodeType.THIRD_PARTY_LOGISTICS,
}
_DELETABLE = dict(enumerate(DELETABLE, 1))
_DAYS = {day: day for day in range(1, 8)}

ResourceT = TypeVar("ResourceT")


def nodes_from(request: pb.UpsertNodesRequest) -> tuple[list[Node], frozenset[str]]:
    """Nodes, and the ids of those that keep the status they have (ON in the value)."""
    fields = Fields()
    nodes = _each(fields, "nodes", request.nodes, "node_id", _node_from)
    fields.done()
    kept = frozenset(node.node_id for node in request.nodes if not node.node_status)
    return nodes, kept


def node_groups_from(request: pb.UpsertNodeGroupsRequest) -> list[NodeGroup]:
    """Node groups."""
    fields = Fields()
    groups = _each(fields, "node_groups", request.node_groups, "node_group_id", _group_from)
    fields.done()
    return groups


def items_from(request: pb.UpsertItemsRequest) -> list[Item]:
    """Items."""
    fields = Fields()
    items = _each(fields, "items", request.items, "sku", _item_from)
    fields.done()
    return items


def calendars_from(request: pb.UpsertCalendarsRequest) -> list[Calendar]:
    """Calendars."""
    fields = Fields()
    calendars = _each(fields, "calendars", request.calendars, "calendar_id", _calendar_from)
    fields.done()
    return calendars


def carrier_services_from(request: pb.UpsertCarrierServicesRequest) -> list[CarrierService]:
    """Carrier services."""
    fields = Fields()
    services = _each(
        fields, "carrier_services", request.carrier_services, "carrier_service", _service_from
    )
    fields.done()
    return services


def lanes_from(request: pb.UpsertLanesRequest) -> list[Lane]:
    """Lanes; origin, country, prefix and carrier service together are unique."""
    fields = Fields()
    lanes = _each(fields, "lanes", request.lanes, "", _lane_from)
    seen: set[str] = set()
    for index, lane in enumerate(lanes):
        fields.unique(f"lanes[{index}]", lane.lane_id, seen)
    fields.done()
    return lanes


def sourcing_rules_from(request: pb.UpsertSourcingRulesRequest) -> list[SourcingRule]:
    """Sourcing rules."""
    fields = Fields()
    rules = _each(fields, "sourcing_rules", request.sourcing_rules, "rule_id", _rule_from)
    for index, rule in enumerate(rules):
        for field, reason, description in violations(rule):
            if field != "rule_id":  # told already
                fields.complain(f"sourcing_rules[{index}].{field}", reason, description)
    fields.done()
    return rules


def delete_from(request: pb.DeleteNetworkEntriesRequest) -> tuple[str, list[str]]:
    """Kind and names."""
    fields = Fields()
    kind = fields.enum("kind", request.kind, _DELETABLE)
    names = list(request.names)
    seen: set[str] = set()
    for index in range(fields.count("names", len(names), 1, RESOURCES_MAX)):
        if kind == "lane":
            lane = fields.text(f"names[{index}]", names[index], LANE_NAME_BYTES_MAX, optional=False)
            if lane and not names_a_lane(lane):
                form = "must be ORIGIN>COUNTRY:PREFIX>CARRIER_SERVICE, as node:dc-1>US:606>ground"
                fields.complain(f"names[{index}]", "INVALID_LANE_NAME", form)
        else:
            fields.id(f"names[{index}]", names[index])
        fields.unique(f"names[{index}]", names[index], seen)
    fields.done()
    return kind, names


def deleted_to(reply: DeleteReply) -> pb.DeleteNetworkEntriesResponse:
    """The answer."""
    return pb.DeleteNetworkEntriesResponse(
        network_version=reply.network_version,
        results=[
            pb.DeleteResult(outcome=number_of(result.outcome), used_by=result.used_by)
            for result in reply.results
        ],
    )


def node_status_from(request: pb.SetNodeStatusRequest) -> tuple[str, NodeStatus, str]:
    """Node, status and reason."""
    fields = Fields()
    fields.id("node_id", request.node_id)
    status = fields.enum("node_status", request.node_status, NODE_STATUSES)
    fields.text("reason", request.reason, REASON_BYTES_MAX)
    fields.done()
    return request.node_id, status, request.reason


def _each(
    fields: Fields,
    name: str,
    resources: Sequence[Any],
    key: str,
    convert: Callable[[Fields, str, Any], ResourceT],
) -> list[ResourceT]:
    """All resources of an upsert; their ``key`` is an id and unique, where there is one."""
    seen: set[str] = set()
    found = []
    for index in range(fields.count(name, len(resources), 1, RESOURCES_MAX)):
        resource, path = resources[index], f"{name}[{index}]"
        if key:
            fields.id(f"{path}.{key}", getattr(resource, key))
            fields.unique(f"{path}.{key}", getattr(resource, key), seen)
        found.append(convert(fields, path, resource))
    return found


def _node_from(fields: Fields, path: str, node: pb.Node) -> Node:
    address = node.address
    fields.country(f"{path}.address.country", address.country)
    fields.text(f"{path}.address.region", address.region, REGION_BYTES_MAX)
    fields.text(f"{path}.address.postal_code", address.postal_code, POSTAL_CODE_BYTES_MAX)
    latitude, longitude = coordinates_from(fields, f"{path}.address", address)
    if latitude is None or longitude is None:
        fields.complain(f"{path}.address.coordinates", "REQUIRED", "must be set")
    _time_zone(fields, f"{path}.time_zone", node.time_zone)
    return Node(
        node_id=node.node_id,
        node_type=fields.enum(f"{path}.node_type", node.node_type, _NODE_TYPES),
        time_zone=node.time_zone,
        calendar_id=fields.id(f"{path}.calendar_id", node.calendar_id),
        latitude=latitude or 0.0,
        longitude=longitude or 0.0,
        country=address.country,
        postal_code=address.postal_code,
        region=address.region,
        name=fields.text(f"{path}.name", node.name, NAME_BYTES_MAX),
        methods=_methods_from(fields, f"{path}.methods", node.methods),
        capacities=_capacities_from(fields, f"{path}.capacities", node),
        status=fields.enum(
            f"{path}.node_status", node.node_status, NODE_STATUSES, default=NodeStatus.ON
        ),
    )


def _time_zone(fields: Fields, path: str, time_zone: str) -> None:
    if not time_zone:
        fields.complain(path, "REQUIRED", "must not be empty")
        return
    try:
        zone_of(time_zone)
    except NotFound:
        fields.complain(path, "UNKNOWN_TIME_ZONE", "must be an IANA name, like America/Chicago")


def _methods_from(
    fields: Fields, path: str, methods: Sequence[pb.NodeMethod]
) -> tuple[NodeMethod, ...]:
    seen: set[FulfillmentMethod] = set()
    found = []
    for index in range(fields.count(path, len(methods), 0, len(METHODS))):
        method, at = methods[index], f"{path}[{index}]"
        kind = fields.enum(f"{at}.fulfillment_method", method.fulfillment_method, METHODS)
        fields.unique(f"{at}.fulfillment_method", kind, seen)
        if not method.HasField("cutoff_time"):
            fields.complain(f"{at}.cutoff_time", "REQUIRED", "must be set")
        days, minutes = _handling_from(fields, at, method)
        found.append(
            NodeMethod(
                fulfillment_method=kind,
                cutoff_time=_time_of_day(fields, f"{at}.cutoff_time", method.cutoff_time),
                handling_business_days=days,
                handling_minutes=minutes,
                opening_time=_time_of_day(fields, f"{at}.opening_time", method.opening_time),
            )
        )
    return tuple(found)


def _capacities_from(fields: Fields, path: str, node: pb.Node) -> tuple[NodeCapacity, ...]:
    seen: set[FulfillmentMethod] = set()
    found = []
    for index in range(fields.count(path, len(node.capacities), 0, len(METHODS))):
        capacity, at = node.capacities[index], f"{path}[{index}]"
        kind = fields.enum(f"{at}.fulfillment_method", capacity.fulfillment_method, METHODS)
        fields.unique(f"{at}.fulfillment_method", kind, seen)
        most = capacity.orders_per_day_max
        found.append(
            NodeCapacity(
                fulfillment_method=kind,
                orders_per_day_max=fields.number(f"{at}.orders_per_day_max", most, 0, CAPACITY_MAX),
                exceptions=_days_from(fields, f"{at}.exceptions", capacity),
            )
        )
    return tuple(found)


def _days_from(fields: Fields, path: str, capacity: pb.NodeCapacity) -> dict[date, int]:
    found: dict[date, int] = {}
    for index in range(fields.count(path, len(capacity.exceptions), 0, CAPACITY_DAYS_MAX)):
        day, at = capacity.exceptions[index], f"{path}[{index}]"
        when = fields.date(f"{at}.date", day.date)
        if when in found:
            fields.complain(f"{at}.date", "REPEATED", "each date may stand once")
        found[when] = fields.number(f"{at}.orders_max", day.orders_max, 0, CAPACITY_MAX)
    return found


def _handling_from(fields: Fields, path: str, method: pb.NodeMethod) -> tuple[int, int | None]:
    if method.WhichOneof("handling_time") != "handling_duration":
        at, days = f"{path}.handling_business_days", method.handling_business_days
        return fields.number(at, days, 0, BUSINESS_DAYS_MAX), None
    at = f"{path}.handling_duration"
    handling_ms = fields.duration_ms(at, method.handling_duration, 0, HANDLING_MS_MAX)
    # Whole minutes, never less than asked for: a promise may be late by none.
    return 0, -(-handling_ms // 60_000)


def _time_of_day(fields: Fields, path: str, value: pb.TimeOfDay) -> time:
    hours = fields.number(f"{path}.hours", value.hours, 0, 23)
    minutes = fields.number(f"{path}.minutes", value.minutes, 0, 59)
    return time(hours % 24, minutes % 60)


def _group_from(fields: Fields, path: str, group: pb.NodeGroup) -> NodeGroup:
    count = fields.count(f"{path}.node_ids", len(group.node_ids), 0, GROUP_NODES_MAX)
    node_ids = (fields.id(f"{path}.node_ids[{i}]", group.node_ids[i]) for i in range(count))
    return NodeGroup(
        node_group_id=group.node_group_id,
        node_ids=tuple(dict.fromkeys(node_ids)),
        name=fields.text(f"{path}.name", group.name, NAME_BYTES_MAX),
    )


def _item_from(fields: Fields, path: str, item: pb.Item) -> Item:
    def side(name: str, value: int) -> int:
        return fields.number(f"{path}.{name}", value, 0, SIZE_MILLIMETERS_MAX)

    return Item(
        sku=item.sku,
        name=fields.text(f"{path}.name", item.name, NAME_BYTES_MAX),
        weight_grams=fields.number(f"{path}.weight_grams", item.weight_grams, 0, WEIGHT_GRAMS_MAX),
        shard_key=fields.id(f"{path}.shard_key", item.shard_key, optional=True),
        handling_class=fields.id(f"{path}.handling_class", item.handling_class, optional=True),
        length_millimeters=side("length_millimeters", item.length_millimeters),
        width_millimeters=side("width_millimeters", item.width_millimeters),
        height_millimeters=side("height_millimeters", item.height_millimeters),
        components=_components_from(fields, path, item),
        customer_limit=_limit_from(fields, f"{path}.customer_limit", item),
    )


def _limit_from(fields: Fields, path: str, item: pb.Item) -> ItemLimit | None:
    if not item.HasField("customer_limit"):
        return None
    limit, window_ms = item.customer_limit, 0
    if item.components:
        fields.complain(path, "DOES_NOT_FIT", "a bundle has none; limit its components")
    if limit.HasField("window"):
        window_ms = fields.duration_ms(f"{path}.window", limit.window, WINDOW_MS_MIN, WINDOW_MS_MAX)
    quantity_max = fields.number(f"{path}.quantity_max", limit.quantity_max, 1, QUANTITY_MAX)
    return ItemLimit(
        quantity_max=quantity_max, window_ms=window_ms, by_shard_key=limit.by_shard_key
    )


def _components_from(fields: Fields, path: str, item: pb.Item) -> tuple[BundleComponent, ...]:
    seen = {item.sku}
    found = []
    for index in range(fields.count(f"{path}.components", len(item.components), 0, COMPONENTS_MAX)):
        part, at = item.components[index], f"{path}.components[{index}]"
        sku = fields.id(f"{at}.sku", part.sku)
        if sku == item.sku:
            fields.complain(f"{at}.sku", "DOES_NOT_FIT", "is the bundle itself")
        else:
            fields.unique(f"{at}.sku", sku, seen)
        quantity = fields.number(f"{at}.quantity", part.quantity, 1, COMPONENT_QUANTITY_MAX)
        found.append(BundleComponent(sku, quantity))
    return tuple(found)


def _calendar_from(fields: Fields, path: str, calendar: pb.Calendar) -> Calendar:
    days: set[int] = set()
    for index in range(fields.count(f"{path}.working_days", len(calendar.working_days), 0, 7)):
        at = f"{path}.working_days[{index}]"
        fields.unique(at, fields.enum(at, calendar.working_days[index], _DAYS), days)
    exceptions: dict[date, bool] = {}
    seen: set[date] = set()
    count = fields.count(f"{path}.exceptions", len(calendar.exceptions), 0, EXCEPTIONS_MAX)
    for index in range(count):
        exception, at = calendar.exceptions[index], f"{path}.exceptions[{index}].date"
        day = fields.date(at, exception.date)
        fields.unique(at, day, seen)
        exceptions[day] = exception.working
    return Calendar(
        calendar_id=calendar.calendar_id,
        working_days=frozenset(days),
        exceptions=exceptions,
        name=fields.text(f"{path}.name", calendar.name, NAME_BYTES_MAX),
    )


def _service_from(fields: Fields, path: str, service: pb.CarrierService) -> CarrierService:
    kilogram = f"{path}.cost_per_kilogram_micros"
    return CarrierService(
        carrier_service=service.carrier_service,
        calendar_id=fields.id(f"{path}.calendar_id", service.calendar_id),
        currency_code=fields.currency(f"{path}.currency_code", service.currency_code),
        name=fields.text(f"{path}.name", service.name, NAME_BYTES_MAX),
        base_cost_micros=_cost(fields, f"{path}.base_cost_micros", service.base_cost_micros),
        cost_per_kilogram_micros=_cost(fields, kilogram, service.cost_per_kilogram_micros),
    )


def _lane_from(fields: Fields, path: str, lane: pb.Lane) -> Lane:
    origin = lane.WhichOneof("origin")
    if origin is None:
        fields.complain(f"{path}.node_id", "REQUIRED", "a node or a node group must be set")
    else:
        fields.id(f"{path}.{origin}", getattr(lane, origin))
    fewest = fields.number(
        f"{path}.transit_business_days_min", lane.transit_business_days_min, 0, BUSINESS_DAYS_MAX
    )
    most = fields.number(
        f"{path}.transit_business_days_max", lane.transit_business_days_max, 0, BUSINESS_DAYS_MAX
    )
    if most < fewest:
        fields.complain(
            f"{path}.transit_business_days_max", "DOES_NOT_FIT", "must not be less than the fewest"
        )
    base = None
    if lane.HasField("base_cost_micros"):
        base = _cost(fields, f"{path}.base_cost_micros", lane.base_cost_micros)
    fields.text(f"{path}.postal_prefix", lane.postal_prefix, POSTAL_CODE_BYTES_MAX)
    return Lane(
        carrier_service=fields.id(f"{path}.carrier_service", lane.carrier_service),
        country=fields.country(f"{path}.country", lane.country),
        transit_business_days_min=fewest,
        transit_business_days_max=most,
        postal_prefix=normalized_postal_code(lane.postal_prefix),
        node_id=lane.node_id,
        node_group_id=lane.node_group_id,
        base_cost_micros=base,
    )


def _rule_from(fields: Fields, path: str, rule: pb.SourcingRule) -> SourcingRule:
    method = None
    if rule.fulfillment_method:
        at = f"{path}.fulfillment_method"
        method = fields.enum(at, rule.fulfillment_method, METHODS)
    return SourcingRule(
        rule_id=rule.rule_id,
        fulfillment_method=method,
        country=rule.country,
        region=rule.region,
        postal_prefix=normalized_postal_code(rule.postal_prefix),
        handling_class=rule.handling_class,
        node_group_id=rule.node_group_id,
        excluded=rule.excluded,
        priority=rule.priority,
        cost_micros=rule.cost_micros,
        max_shipments=rule.max_shipments,
    )


def _cost(fields: Fields, path: str, micros: int) -> int:
    return fields.number(path, micros, 0, COST_MICROS_MAX)


def upsert_results_to(reply: UpsertReply) -> list[pb.UpsertResult]:
    return [
        pb.UpsertResult(outcome=number_of(result.outcome), missing_id=result.missing_id)
        for result in reply.results
    ]


def node_status_to(change: NodeStatusChange) -> pb.SetNodeStatusResponse:
    return pb.SetNodeStatusResponse(
        network_version=change.network_version,
        previous_node_status=NODE_STATUS_NUMBERS[change.previous],
    )


def version_to(snapshot: NetworkSnapshot) -> pb.GetNetworkVersionResponse:
    """``update_time`` is left out: the order store does not keep it."""
    documents = snapshot.documents
    return pb.GetNetworkVersionResponse(
        network_version=snapshot.version,
        node_count=len(documents.nodes),
        node_group_count=len(documents.node_groups),
        item_count=len(documents.items),
        calendar_count=len(documents.calendars),
        carrier_service_count=len(documents.carrier_services),
        lane_count=len(documents.lanes),
    )
