"""One reader a file: rows to the messages they stand for. README.md is the format in words."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

from google.protobuf.duration_pb2 import Duration

from promise_svc.load.parts import (
    CALENDARS,
    CARRIER_SERVICES,
    INBOUND,
    ITEMS,
    LANES,
    NODE_GROUPS,
    NODES,
    PROTECTION_LEVELS,
    SOURCING_RULES,
    SUPPLY,
    Origin,
    Part,
)
from promise_svc.load.rows import Columns, Refusal, Row, read_rows
from promise_svc.load.safety_stock import read_rules
from promise_svc.v1 import network_service_pb2 as pb
from promise_svc.v1 import supply_service_pb2 as supply_pb
from promise_svc.v1 import types_pb2 as types_pb

Parts = Mapping[str, Part]
Refusals = list[Refusal]

_NODES = Columns(
    ("node_id", "node_type", "country", "latitude", "longitude", "time_zone", "calendar_id"),
    ("name", "region", "postal_code", "node_status"),
)
_METHODS = Columns(
    ("node_id", "fulfillment_method", "cutoff_time"),
    ("opening_time", "handling_business_days", "handling_minutes", "orders_per_day_max"),
)
_CAPACITY_DAYS = Columns(("node_id", "fulfillment_method", "date", "orders_max"), ())
_NODE_GROUPS = Columns(("node_group_id", "node_id"), ("name",))
_ITEMS = Columns(
    ("sku",),
    ("name", "weight_grams", "length_millimeters", "width_millimeters", "height_millimeters",
     "handling_class", "shard_key", "bundle", "customer_limit", "customer_limit_hours",
     "customer_limit_by_shard_key"),
)  # fmt: skip
_CARRIER_SERVICES = Columns(
    ("carrier_service", "calendar_id", "currency_code"),
    ("name", "base_cost", "cost_per_kilogram"),
)
_LANES = Columns(
    ("country", "carrier_service", "transit_business_days_min", "transit_business_days_max"),
    ("node_id", "node_group_id", "postal_prefix", "base_cost"),
)
_ZONES = Columns(("country", "zone"), ("node_id", "node_group_id", "postal_prefix"))
_ZONE_TRANSIT = Columns(
    ("carrier_service", "zone", "transit_business_days_min", "transit_business_days_max"),
    ("base_cost",),
)
_SOURCING_RULES = Columns(
    ("rule_id",),
    ("fulfillment_method", "country", "region", "postal_prefix", "handling_class",
     "node_group_id", "excluded", "priority", "cost", "max_shipments"),
)  # fmt: skip
_SUPPLY = Columns(
    ("sku", "node_id", "on_hand"),
    ("safety_stock", "deducted_total"),
    {"supply_id": "what is not here yet stands in inbound.csv",
     "segment": "shares of segments stand in protection_levels.csv"},
)  # fmt: skip

_PROTECTION_LEVELS = Columns(("sku", "node_id", "segment", "level"), ())
_INBOUND = Columns(
    ("sku", "node_id", "supply_id", "on_hand"), ("arrival_time", "arrived", "safety_stock")
)

_CALENDAR_KEYS = {"name", "working_days", "days_off", "days_on"}


def read_calendars(path: Path, parts: Parts, refusals: Refusals) -> None:
    """calendars.toml: a table a calendar."""
    part = parts[CALENDARS.name]
    part.given = True
    text = path.read_text(encoding="utf-8")
    try:
        calendars = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        refusals.append(Refusal(path.name, 0, f"is not TOML: {error}"))
        return
    for name, table in calendars.items():
        header = re.search(rf'^\s*\[\s*"?{re.escape(name)}"?\s*\]', text, re.MULTILINE)
        line = 1 if header is None else text.count("\n", 0, header.end()) + 1
        origin = Origin(path.name, line)
        try:
            part.add(_calendar(name, table), origin)
        except (TypeError, ValueError, AttributeError) as error:
            refusals.append(Refusal(*origin, f"calendar {name}: {error}"))


def _calendar(name: str, table: Any) -> pb.Calendar:
    if not isinstance(table, dict):
        raise ValueError("must be a table, such as [us-stores]")
    if unknown := table.keys() - _CALENDAR_KEYS:
        raise ValueError(f"unknown {sorted(unknown)[0]}; known are {sorted(_CALENDAR_KEYS)}")
    days = [pb.DayOfWeek.Value(f"DAY_OF_WEEK_{day}") for day in table.get("working_days", ())]
    exceptions = [
        pb.CalendarException(date=_date(day), working=working)
        for key, working in (("days_off", False), ("days_on", True))
        for day in table.get(key, ())
    ]
    return pb.Calendar(
        calendar_id=name, name=table.get("name", ""), working_days=days, exceptions=exceptions
    )


def _date(value: Any) -> types_pb.Date:
    day = value if isinstance(value, date) else date.fromisoformat(str(value))
    return types_pb.Date(year=day.year, month=day.month, day=day.day)


def read_nodes(path: Path, parts: Parts, refusals: Refusals) -> None:
    """nodes.csv: a row a node."""
    part = parts[NODES.name]
    part.given = True
    for row in read_rows(path, _NODES, refusals):
        node = pb.Node(
            node_id=row.text("node_id"),
            name=row.text("name"),
            node_type=row.one_of("node_type", pb.NodeType, "NODE_TYPE_"),
            time_zone=row.text("time_zone"),
            calendar_id=row.text("calendar_id"),
            node_status=row.one_of("node_status", types_pb.NodeStatus, "NODE_STATUS_"),
        )
        node.address.country = row.text("country")
        node.address.region = row.text("region")
        node.address.postal_code = row.text("postal_code")
        node.address.coordinates.latitude_degrees = row.decimal("latitude")
        node.address.coordinates.longitude_degrees = row.decimal("longitude")
        part.add(node, Origin(path.name, row.line))


def read_methods(path: Path, parts: Parts, refusals: Refusals) -> None:
    """methods.csv: a row for each method of each node."""
    part = parts[NODES.name]
    indices = {node.node_id: index for index, node in enumerate(part.entries)}
    for row in read_rows(path, _METHODS, refusals):
        index = indices.get(row.text("node_id"))
        if index is None:
            row.refuse(f"nodes.csv has no node {row.text('node_id')}")
            continue
        methods = part.entries[index].methods
        part.inner[index, len(methods)] = Origin(path.name, row.line)
        methods.append(_method(row))
        if row.text("orders_per_day_max"):
            part.entries[index].capacities.add(
                fulfillment_method=methods[-1].fulfillment_method,
                orders_per_day_max=row.integer("orders_per_day_max"),
            )


def read_capacity_days(path: Path, parts: Parts, refusals: Refusals) -> None:
    """capacity_days.csv: a row for each day on which a node works another number of orders."""
    part = parts[NODES.name]
    capacities = {
        (node.node_id, capacity.fulfillment_method): capacity
        for node in part.entries
        for capacity in node.capacities
    }
    for row in read_rows(path, _CAPACITY_DAYS, refusals):
        method = row.one_of("fulfillment_method", types_pb.FulfillmentMethod, "FULFILLMENT_METHOD_")
        capacity = capacities.get((row.text("node_id"), method))
        if capacity is None:
            row.refuse("methods.csv gives this node and method no orders_per_day_max")
            continue
        try:
            day = _date(row.text("date"))
        except ValueError:
            row.refuse("date must be a date, such as 2026-12-24")
            continue
        if any(known.date == day for known in capacity.exceptions):
            row.refuse(f"{row.text('date')} stands for this node and method before")
            continue
        capacity.exceptions.add(date=day, orders_max=row.integer("orders_max"))


def _method(row: Row) -> pb.NodeMethod:
    hours, minutes = row.wall_time("cutoff_time")
    method = pb.NodeMethod(
        fulfillment_method=row.one_of(
            "fulfillment_method", types_pb.FulfillmentMethod, "FULFILLMENT_METHOD_"
        ),
        cutoff_time=pb.TimeOfDay(hours=hours, minutes=minutes),
    )
    if row.text("opening_time"):
        hours, minutes = row.wall_time("opening_time")
        method.opening_time.CopyFrom(pb.TimeOfDay(hours=hours, minutes=minutes))
    if row.text("handling_business_days") and row.text("handling_minutes"):
        row.refuse("handling_business_days and handling_minutes exclude each other")
    elif row.text("handling_minutes"):
        seconds = 60 * row.integer("handling_minutes")
        method.handling_duration.CopyFrom(Duration(seconds=seconds))
    elif row.text("handling_business_days"):
        method.handling_business_days = row.integer("handling_business_days")
    return method


def read_node_groups(path: Path, parts: Parts, refusals: Refusals) -> None:
    """node_groups.csv: a row for each member of each group."""
    part = parts[NODE_GROUPS.name]
    part.given = True
    indices: dict[str, int] = {}
    for row in read_rows(path, _NODE_GROUPS, refusals):
        name, origin = row.text("node_group_id"), Origin(path.name, row.line)
        if name not in indices:
            indices[name] = len(part.entries)
            part.add(pb.NodeGroup(node_group_id=name, name=row.text("name")), origin)
        members = part.entries[indices[name]].node_ids
        part.inner[indices[name], len(members)] = origin
        members.append(row.text("node_id"))


def read_items(path: Path, parts: Parts, refusals: Refusals) -> None:
    """items.csv: a row an item."""
    part = parts[ITEMS.name]
    part.given = True
    bundles = Part(ITEMS)
    for row in read_rows(path, _ITEMS, refusals):
        item = pb.Item(
            sku=row.text("sku"),
            name=row.text("name"),
            weight_grams=row.integer("weight_grams"),
            shard_key=row.text("shard_key"),
            handling_class=row.text("handling_class"),
            length_millimeters=row.integer("length_millimeters"),
            width_millimeters=row.integer("width_millimeters"),
            height_millimeters=row.integer("height_millimeters"),
            components=_components(row),
        )
        if row.text("customer_limit"):
            item.customer_limit.quantity_max = row.integer("customer_limit")
            item.customer_limit.by_shard_key = row.yes("customer_limit_by_shard_key")
            if hours := row.integer("customer_limit_hours"):
                item.customer_limit.window.FromSeconds(hours * 3_600)
        (bundles if item.components else part).add(item, Origin(path.name, row.line))
    # After their components, wherever they stand in the file.
    for bundle, origin in zip(bundles.entries, bundles.origins, strict=True):
        part.add(bundle, origin)


def _components(row: Row) -> list[pb.BundleComponent]:
    """Of `sku-a*2 sku-b`; the number is left out where it is 1."""
    found = []
    for word in row.text("bundle").split():
        sku, times, quantity = word.partition("*")
        if times and not (quantity.isascii() and quantity.isdigit()):
            row.refuse(f"bundle must be SKUs such as sku-a*2 sku-b, not {word!r}")
            return []
        found.append(pb.BundleComponent(sku=sku, quantity=int(quantity) if times else 1))
    return found


def read_carrier_services(path: Path, parts: Parts, refusals: Refusals) -> None:
    """carrier_services.csv: a row a service."""
    part = parts[CARRIER_SERVICES.name]
    part.given = True
    for row in read_rows(path, _CARRIER_SERVICES, refusals):
        service = pb.CarrierService(
            carrier_service=row.text("carrier_service"),
            name=row.text("name"),
            calendar_id=row.text("calendar_id"),
            currency_code=row.text("currency_code"),
            base_cost_micros=row.micros("base_cost"),
            cost_per_kilogram_micros=row.micros("cost_per_kilogram"),
        )
        part.add(service, Origin(path.name, row.line))


def read_lanes(path: Path, parts: Parts, refusals: Refusals) -> None:
    """lanes.csv: a row a lane."""
    part = parts[LANES.name]
    part.given = True
    for row in read_rows(path, _LANES, refusals):
        lane = _lane(row, row)
        part.add(lane, Origin(path.name, row.line))


def read_zones(path: Path, parts: Parts, refusals: Refusals) -> None:
    """zones.csv with zone_transit.csv: a lane for each service of each zone."""
    part = parts[LANES.name]
    part.given = True
    transit: dict[str, list[Row]] = {}
    beside = path.with_name("zone_transit.csv")
    if beside.exists():
        for row in read_rows(beside, _ZONE_TRANSIT, refusals):
            transit.setdefault(row.text("zone"), []).append(row)
    for row in read_rows(path, _ZONES, refusals):
        services = transit.get(row.text("zone"), ())
        if not services:
            row.refuse(f"zone {row.text('zone')} has no row in zone_transit.csv")
        for service in services:
            part.add(_lane(row, service), Origin(path.name, row.line))


def _lane(zone: Row, service: Row) -> pb.Lane:
    """Where from and to by one row, how and how long by the other."""
    lane = pb.Lane(
        country=zone.text("country"),
        postal_prefix=zone.text("postal_prefix"),
        carrier_service=service.text("carrier_service"),
        transit_business_days_min=service.integer("transit_business_days_min"),
        transit_business_days_max=service.integer("transit_business_days_max"),
    )
    if bool(zone.text("node_id")) == bool(zone.text("node_group_id")):
        zone.refuse("needs either node_id or node_group_id")
    if zone.text("node_group_id"):
        lane.node_group_id = zone.text("node_group_id")
    else:
        lane.node_id = zone.text("node_id")
    if service.text("base_cost"):
        lane.base_cost_micros = service.micros("base_cost")
    return lane


def read_sourcing_rules(path: Path, parts: Parts, refusals: Refusals) -> None:
    """sourcing_rules.csv: a row a rule."""
    part = parts[SOURCING_RULES.name]
    part.given = True
    for row in read_rows(path, _SOURCING_RULES, refusals):
        rule = pb.SourcingRule(
            rule_id=row.text("rule_id"),
            fulfillment_method=row.one_of(
                "fulfillment_method", types_pb.FulfillmentMethod, "FULFILLMENT_METHOD_"
            ),
            country=row.text("country"),
            region=row.text("region"),
            postal_prefix=row.text("postal_prefix"),
            handling_class=row.text("handling_class"),
            node_group_id=row.text("node_group_id"),
            excluded=row.yes("excluded"),
            priority=row.integer("priority"),
            cost_micros=row.micros("cost"),
            max_shipments=row.integer("max_shipments"),
        )
        part.add(rule, Origin(path.name, row.line))


def read_supply(path: Path, parts: Parts, refusals: Refusals) -> None:
    """supply.csv: a row a position; what it leaves open, safety_stock_rules.csv may decide."""
    part = parts[SUPPLY.name]
    part.given = True
    rules = read_rules(
        path.with_name("safety_stock_rules.csv"),
        parts[ITEMS.name].entries,
        parts[NODES.name].entries,
        parts[NODE_GROUPS.name].entries,
        refusals,
    )
    for row in read_rows(path, _SUPPLY, refusals):
        count = supply_pb.SupplyRow(
            sku=row.text("sku"), node_id=row.text("node_id"), on_hand=row.integer("on_hand")
        )
        if row.text("safety_stock"):
            count.safety_stock = row.integer("safety_stock")
        else:
            withheld = rules.units(count.sku, count.node_id, max(0, count.on_hand))
            if withheld is not None:
                count.safety_stock = withheld
        if row.text("deducted_total"):
            count.deducted_total = row.integer("deducted_total")
        part.add(count, Origin(path.name, row.line))


def read_protection_levels(path: Path, parts: Parts, refusals: Refusals) -> None:
    """protection_levels.csv: a row a share of a position."""
    part = parts[PROTECTION_LEVELS.name]
    for row in read_rows(path, _PROTECTION_LEVELS, refusals):
        level = supply_pb.ProtectionLevel(
            sku=row.text("sku"),
            node_id=row.text("node_id"),
            segment=row.text("segment"),
            level=row.integer("level"),
        )
        part.add(level, Origin(path.name, row.line))


def read_inbound(path: Path, parts: Parts, refusals: Refusals) -> None:
    """inbound.csv: a row a supply of one SKU on its way to one node, or here."""
    part = parts[INBOUND.name]
    part.given = True
    for row in read_rows(path, _INBOUND, refusals):
        count = supply_pb.SupplyRow(
            sku=row.text("sku"),
            node_id=row.text("node_id"),
            bucket=row.text("supply_id"),
            on_hand=row.integer("on_hand"),
            arrived=row.yes("arrived"),
        )
        if row.text("safety_stock"):
            count.safety_stock = row.integer("safety_stock")
        if row.text("arrival_time"):
            count.arrival_time.CopyFrom(row.instant("arrival_time"))
        part.add(count, Origin(path.name, row.line))
