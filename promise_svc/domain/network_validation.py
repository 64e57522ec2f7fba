"""What makes a network document acceptable: in itself, and beside the documents it names.

Field paths are those of the contract, relative to the document; callers put what is before.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from typing import NamedTuple

from promise_svc.domain.calendar import zone_of
from promise_svc.domain.capacity import CAPACITY_MAX
from promise_svc.domain.delivery import BUSINESS_DAYS_MAX, HANDLING_MINUTES_MAX
from promise_svc.domain.inventory import ID_LENGTH_MAX, QUANTITY_MAX
from promise_svc.domain.network import (
    Calendar,
    CarrierService,
    Document,
    Item,
    Lane,
    NetworkDocuments,
    Node,
    NodeGroup,
    NodeMethod,
    SourcingRule,
)
from promise_svc.domain.sourcing import SHIPMENTS_MAX
from promise_svc.errors import FieldViolation, NotFound

NAME_BYTES_MAX = 128
"""Longest name for people, in UTF-8."""

REGION_BYTES_MAX = 8
POSTAL_CODE_BYTES_MAX = 16

WEIGHT_GRAMS_MAX = 10_000_000
"""Heaviest base unit, ten tonnes."""

SIZE_MILLIMETERS_MAX = 100_000
"""Longest side of a base unit, a hundred meters."""

COST_MICROS_MAX = 10**12
"""Dearest base or per-kilogram cost, a million currency units."""

COMPONENTS_MAX = 20
"""Most components of a bundle."""

WINDOW_MS_MIN = 60_000
WINDOW_MS_MAX = 366 * 86_400_000
"""Of a customer limit."""

COMPONENT_QUANTITY_MAX = 1_000
"""Most units of one component in a bundle."""

EXCEPTIONS_MAX = 2_000
"""Most dated exceptions of one calendar."""

CAPACITY_DAYS_MAX = 400
"""Most days of one capacity with a number of their own."""

RULE_PRIORITY_MAX = 9
"""Of nodes that are asked last."""

GROUP_NODES_MAX = 10_000
"""Most nodes of one group."""

_ID = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._:/-]{{0,{ID_LENGTH_MAX - 1}}}")
_COUNTRY = re.compile("[A-Z]{2}")
_CURRENCY = re.compile("[A-Z]{3}")

_Violations = Iterator[FieldViolation]


class ReferenceReason(StrEnum):
    """Why a document does not fit beside the others, in the contract's order of precedence."""

    UNKNOWN_CALENDAR = "UNKNOWN_CALENDAR"
    UNKNOWN_NODE = "UNKNOWN_NODE"
    UNKNOWN_NODE_GROUP = "UNKNOWN_NODE_GROUP"
    UNKNOWN_CARRIER_SERVICE = "UNKNOWN_CARRIER_SERVICE"
    CURRENCY_MISMATCH = "CURRENCY_MISMATCH"
    SHARD_KEY_FIXED = "SHARD_KEY_FIXED"
    UNKNOWN_COMPONENT = "UNKNOWN_COMPONENT"
    NESTED_BUNDLE = "NESTED_BUNDLE"
    BUNDLE_HAS_STOCK = "BUNDLE_HAS_STOCK"


class BrokenReference(NamedTuple):
    """What does not fit, and the name that could not be found or is in the way, if any."""

    reason: ReferenceReason
    missing_id: str


def violations(document: Document) -> list[FieldViolation]:
    """Everything wrong with a document in itself; empty when it is fine."""
    match document:
        case Node():
            found = _of_node(document)
        case NodeGroup():
            found = _of_node_group(document)
        case Item():
            found = _of_item(document)
        case Calendar():
            found = _of_calendar(document)
        case CarrierService():
            found = _of_carrier_service(document)
        case Lane():
            found = _of_lane(document)
        case SourcingRule():
            found = _of_sourcing_rule(document)
    return list(found)


def names_a_lane(name: str) -> bool:
    """Whether a lane could be called so."""
    origin, *rest = name.split(">")
    kind, _, origin_id = origin.partition(":")
    if kind not in ("node", "group") or len(rest) != 2:
        return False
    country, _, prefix = rest[0].partition(":")
    node_id, group_id = (origin_id, "") if kind == "node" else ("", origin_id)
    lane = Lane(
        carrier_service=rest[1],
        country=country,
        transit_business_days_min=0,
        transit_business_days_max=0,
        postal_prefix=prefix,
        node_id=node_id,
        node_group_id=group_id,
    )
    return lane.lane_id == name and not violations(lane)


def broken_reference(
    document: Document, known: NetworkDocuments, fits_stock: Callable[[Item], bool]
) -> BrokenReference | None:
    """The first reason why ``document`` does not fit beside ``known``; None when it does.

    ``fits_stock`` says of a new item whether its shard is the one that has the SKU's positions, if
    it has any: stock does not move to the shard of a shard key. Of a bundle, whether its SKU has
    no position at all.
    """
    reason = ReferenceReason
    match document:
        case Node(calendar_id=calendar_id) if calendar_id not in known.calendars:
            return BrokenReference(reason.UNKNOWN_CALENDAR, calendar_id)
        case NodeGroup():
            for node_id in document.node_ids:
                if node_id not in known.nodes:
                    return BrokenReference(reason.UNKNOWN_NODE, node_id)
        case Item():
            return _misfit_of_item(document, known, fits_stock)
        case CarrierService():
            return _misfit_of_carrier_service(document, known)
        case Lane():
            return _misfit_of_lane(document, known)
        case SourcingRule(node_group_id=group_id):
            if group_id and group_id not in known.node_groups:
                return BrokenReference(reason.UNKNOWN_NODE_GROUP, group_id)
    return None


def users_of(kind: str, known: NetworkDocuments) -> dict[str, str]:
    """Name of each node group, calendar or carrier service that others name -> kind and name of the
    first of these. Cost: a look at each entry that might."""
    users: dict[str, tuple[str, tuple[tuple[str, Mapping[str, Document]], ...]]] = {
        "node_group": (
            "node_group_id",
            (("lane", known.lanes), ("sourcing_rule", known.sourcing_rules)),
        ),
        "calendar": (
            "calendar_id",
            (("carrier_service", known.carrier_services), ("node", known.nodes)),
        ),
        "carrier_service": ("carrier_service", (("lane", known.lanes),)),
    }
    field, places = users.get(kind, ("", ()))
    found: dict[str, str] = {}
    for user_kind, documents in places:
        for user_name, user in documents.items():
            name, text = getattr(user, field), f"{user_kind} {user_name}"
            found[name] = min(text, found.get(name, text))
    return found


def _misfit_of_item(
    item: Item, known: NetworkDocuments, fits_stock: Callable[[Item], bool]
) -> BrokenReference | None:
    reason, before = ReferenceReason, known.items.get(item.sku)
    if before is not None and (before.shard_key or item.sku) != (item.shard_key or item.sku):
        return BrokenReference(reason.SHARD_KEY_FIXED, "")
    if not item.components:
        fits = before is not None or fits_stock(item)
        return None if fits else BrokenReference(reason.SHARD_KEY_FIXED, "")
    parts = [(sku, known.items.get(sku)) for sku, _ in item.components]
    for sku, part in parts:
        if part is None:
            return BrokenReference(reason.UNKNOWN_COMPONENT, sku)
    for sku, part in parts:
        if part is not None and part.components:
            return BrokenReference(reason.NESTED_BUNDLE, sku)
    if before is not None and not before.components:
        # Nothing names an item as its component before it is one: a new one need not be looked for.
        for other in known.items.values():
            if any(sku == item.sku for sku, _ in other.components):
                return BrokenReference(reason.NESTED_BUNDLE, other.sku)
    return None if fits_stock(item) else BrokenReference(reason.BUNDLE_HAS_STOCK, item.sku)


def _misfit_of_carrier_service(
    service: CarrierService, known: NetworkDocuments
) -> BrokenReference | None:
    if service.calendar_id not in known.calendars:
        return BrokenReference(ReferenceReason.UNKNOWN_CALENDAR, service.calendar_id)
    others = (
        s for s in known.carrier_services.values() if s.carrier_service != service.carrier_service
    )
    if any(other.currency_code != service.currency_code for other in others):
        return BrokenReference(ReferenceReason.CURRENCY_MISMATCH, "")
    return None


def _misfit_of_lane(lane: Lane, known: NetworkDocuments) -> BrokenReference | None:
    if lane.node_id and lane.node_id not in known.nodes:
        return BrokenReference(ReferenceReason.UNKNOWN_NODE, lane.node_id)
    if lane.node_group_id and lane.node_group_id not in known.node_groups:
        return BrokenReference(ReferenceReason.UNKNOWN_NODE_GROUP, lane.node_group_id)
    if lane.carrier_service not in known.carrier_services:
        return BrokenReference(ReferenceReason.UNKNOWN_CARRIER_SERVICE, lane.carrier_service)
    return None


def _of_node(node: Node) -> _Violations:
    yield from _id("node_id", node.node_id)
    yield from _text("name", node.name, NAME_BYTES_MAX)
    yield from _country("address.country", node.country)
    yield from _text("address.region", node.region, REGION_BYTES_MAX)
    yield from _text("address.postal_code", node.postal_code, POSTAL_CODE_BYTES_MAX)
    coordinates = "address.coordinates"
    yield from _range(f"{coordinates}.latitude_degrees", node.latitude, -90, 90)
    yield from _range(f"{coordinates}.longitude_degrees", node.longitude, -180, 180)
    try:
        zone_of(node.time_zone)
    except NotFound:
        yield FieldViolation(
            "time_zone",
            "UNKNOWN_TIME_ZONE",
            f"{node.time_zone!r} is not an IANA time zone, such as America/Chicago",
        )
    yield from _id("calendar_id", node.calendar_id)
    seen = set()
    for index, method in enumerate(node.methods):
        path = f"methods[{index}]"
        if method.fulfillment_method in seen:
            yield FieldViolation(
                f"{path}.fulfillment_method", "REPEATED", "each method may stand once"
            )
        seen.add(method.fulfillment_method)
        yield from _of_method(path, method)
    bounded = set()
    for index, capacity in enumerate(node.capacities):
        path = f"capacities[{index}]"
        if capacity.fulfillment_method in bounded:
            yield FieldViolation(
                f"{path}.fulfillment_method", "REPEATED", "each method may stand once"
            )
        bounded.add(capacity.fulfillment_method)
        if capacity.fulfillment_method not in seen:
            text = "the node does not offer the method"
            yield FieldViolation(f"{path}.fulfillment_method", "DOES_NOT_FIT", text)
        most = capacity.orders_per_day_max
        yield from _range(f"{path}.orders_per_day_max", most, 0, CAPACITY_MAX)
        yield from _count(f"{path}.exceptions", len(capacity.exceptions), CAPACITY_DAYS_MAX)
        for number, orders_max in enumerate(capacity.exceptions.values()):
            yield from _range(
                f"{path}.exceptions[{number}].orders_max", orders_max, 0, CAPACITY_MAX
            )


def _of_method(path: str, method: NodeMethod) -> _Violations:
    days = method.handling_business_days
    yield from _range(f"{path}.handling_business_days", days, 0, BUSINESS_DAYS_MAX)
    if method.handling_minutes is not None:
        minutes = method.handling_minutes
        yield from _range(f"{path}.handling_duration", minutes, 0, HANDLING_MINUTES_MAX)


def _of_node_group(group: NodeGroup) -> _Violations:
    yield from _id("node_group_id", group.node_group_id)
    yield from _text("name", group.name, NAME_BYTES_MAX)
    yield from _count("node_ids", len(group.node_ids), GROUP_NODES_MAX)
    for index, node_id in enumerate(group.node_ids):
        yield from _id(f"node_ids[{index}]", node_id)


def _of_item(item: Item) -> _Violations:
    yield from _id("sku", item.sku)
    yield from _text("name", item.name, NAME_BYTES_MAX)
    yield from _range("weight_grams", item.weight_grams, 0, WEIGHT_GRAMS_MAX)
    if item.shard_key:
        yield from _id("shard_key", item.shard_key)
    if item.handling_class:
        yield from _id("handling_class", item.handling_class)
    for side in ("length_millimeters", "width_millimeters", "height_millimeters"):
        yield from _range(side, getattr(item, side), 0, SIZE_MILLIMETERS_MAX)
    yield from _count("components", len(item.components), COMPONENTS_MAX)
    seen = {item.sku}
    for index, (sku, quantity) in enumerate(item.components):
        yield from _id(f"components[{index}].sku", sku)
        yield from _range(f"components[{index}].quantity", quantity, 1, COMPONENT_QUANTITY_MAX)
        if sku in seen:
            text = "each component may stand once, and none is the bundle itself"
            yield FieldViolation(f"components[{index}].sku", "REPEATED", text)
        seen.add(sku)
    if item.customer_limit is not None:
        limit = item.customer_limit
        yield from _range("customer_limit.quantity_max", limit.quantity_max, 1, QUANTITY_MAX)
        if limit.window_ms:
            window_ms = limit.window_ms
            yield from _range("customer_limit.window", window_ms, WINDOW_MS_MIN, WINDOW_MS_MAX)
        if item.components:
            text = "a bundle has none; limit its components"
            yield FieldViolation("customer_limit", "DOES_NOT_FIT", text)


def _of_calendar(calendar: Calendar) -> _Violations:
    yield from _id("calendar_id", calendar.calendar_id)
    yield from _text("name", calendar.name, NAME_BYTES_MAX)
    for day in sorted(calendar.working_days):
        yield from _range("working_days", day, 1, 7)
    yield from _count("exceptions", len(calendar.exceptions), EXCEPTIONS_MAX)


def _of_carrier_service(service: CarrierService) -> _Violations:
    yield from _id("carrier_service", service.carrier_service)
    yield from _text("name", service.name, NAME_BYTES_MAX)
    yield from _id("calendar_id", service.calendar_id)
    if not _CURRENCY.fullmatch(service.currency_code):
        yield FieldViolation(
            "currency_code", "INVALID_CURRENCY_CODE", "must be an ISO 4217 code, such as USD"
        )
    yield from _range("base_cost_micros", service.base_cost_micros, 0, COST_MICROS_MAX)
    kilogram = service.cost_per_kilogram_micros
    yield from _range("cost_per_kilogram_micros", kilogram, 0, COST_MICROS_MAX)


def _of_lane(lane: Lane) -> _Violations:
    if bool(lane.node_id) == bool(lane.node_group_id):
        yield FieldViolation("origin", "REQUIRED", "exactly one of node and node group is needed")
    elif lane.node_id:
        yield from _id("node_id", lane.node_id)
    else:
        yield from _id("node_group_id", lane.node_group_id)
    yield from _country("country", lane.country)
    yield from _text("postal_prefix", lane.postal_prefix, POSTAL_CODE_BYTES_MAX)
    yield from _id("carrier_service", lane.carrier_service)
    fewest, most = lane.transit_business_days_min, lane.transit_business_days_max
    yield from _range("transit_business_days_min", fewest, 0, BUSINESS_DAYS_MAX)
    yield from _range("transit_business_days_max", most, max(0, fewest), BUSINESS_DAYS_MAX)
    if lane.base_cost_micros is not None:
        yield from _range("base_cost_micros", lane.base_cost_micros, 0, COST_MICROS_MAX)


def _of_sourcing_rule(rule: SourcingRule) -> _Violations:
    yield from _id("rule_id", rule.rule_id)
    if rule.country:
        yield from _country("country", rule.country)
    elif rule.region or rule.postal_prefix:
        yield FieldViolation("country", "REQUIRED", "with a region or a postal prefix")
    yield from _text("region", rule.region, REGION_BYTES_MAX)
    yield from _text("postal_prefix", rule.postal_prefix, POSTAL_CODE_BYTES_MAX)
    for path in ("handling_class", "node_group_id"):
        if getattr(rule, path):
            yield from _id(path, getattr(rule, path))
    yield from _range("priority", rule.priority, 0, RULE_PRIORITY_MAX)
    yield from _range("cost_micros", rule.cost_micros, 0, COST_MICROS_MAX)
    yield from _range("max_shipments", rule.max_shipments, 0, SHIPMENTS_MAX)
    if rule.cost_micros and rule.handling_class:
        text = "a shipment costs what it costs, whatever is in it: not with a handling class"
        yield FieldViolation("cost_micros", "DOES_NOT_FIT", text)
    if rule.max_shipments and (rule.handling_class or rule.node_group_id):
        text = "limits whole orders: neither with a handling class nor with a node group"
        yield FieldViolation("max_shipments", "DOES_NOT_FIT", text)


def _id(path: str, value: str) -> _Violations:
    if not _ID.fullmatch(value):
        yield FieldViolation(
            path,
            "INVALID_ID",
            f"must be 1 to {ID_LENGTH_MAX} letters, digits or ._:/- and begin with a letter or "
            "digit",
        )


def _country(path: str, value: str) -> _Violations:
    if not _COUNTRY.fullmatch(value):
        yield FieldViolation(
            path, "INVALID_COUNTRY", "must be an ISO 3166-1 alpha-2 code in capitals, such as US"
        )


def _text(path: str, value: str, bytes_max: int) -> _Violations:
    if len(value.encode()) > bytes_max or any(ord(character) < 32 for character in value):
        yield FieldViolation(
            path, "INVALID_TEXT", f"must be at most {bytes_max} bytes without control characters"
        )


def _range(path: str, value: float, lowest: float, highest: float) -> _Violations:
    if not lowest <= value <= highest:  # also false for NaN
        yield FieldViolation(path, "OUT_OF_RANGE", f"must be {lowest} to {highest}, is {value}")


def _count(path: str, count: int, highest: int) -> _Violations:
    if count > highest:
        yield FieldViolation(path, "TOO_MANY", f"at most {highest}, there are {count}")
