"""A small folder of files for `promise-svc load`, right in every line."""

from __future__ import annotations

from pathlib import Path

FILES = {
    "calendars.toml": """\
[every-day]
working_days = ["MONDAY", "TUESDAY", "WEDNESDAY", "THURSDAY", "FRIDAY", "SATURDAY", "SUNDAY"]

[week]
name = "Monday to Friday"
working_days = ["MONDAY", "TUESDAY", "WEDNESDAY", "THURSDAY", "FRIDAY"]
days_off = [2026-12-25, 2027-01-01]
""",
    "nodes.csv": """\
node_id,name,node_type,country,region,postal_code,latitude,longitude,time_zone,calendar_id
dc-1,"Center, Joliet",DISTRIBUTION_CENTER,US,IL,60433,41.5,-88.0,America/Chicago,week
store-1,Loop,STORE,US,IL,60601,41.88,-87.62,America/Chicago,every-day
store-2,,STORE,US,NY,10001,40.75,-73.99,America/New_York,every-day
""",
    "methods.csv": """\
node_id,fulfillment_method,cutoff_time,opening_time,handling_business_days,handling_minutes
dc-1,SHIP_TO_ADDRESS,14:00,,1,
store-1,SHIP_TO_ADDRESS,12:00,,1,
store-1,PICKUP_IN_STORE,20:00,09:00,,90
store-2,PICKUP_IN_STORE,20:00,09:00,,120
""",
    "node_groups.csv": "node_group_id,node_id,name\nstores,store-1,All stores\nstores,store-2,\n",
    "items.csv": """\
sku,name,weight_grams,length_millimeters,width_millimeters,height_millimeters,handling_class
sku-1,Lamp,1200,300,200,200,fragile
sku-2,Mug,350,,,,
""",
    "carrier_services.csv": """\
carrier_service,calendar_id,currency_code,base_cost,cost_per_kilogram
ground,week,USD,4.99,0.5
air,week,USD,14.99,
""",
    "zones.csv": """\
node_id,node_group_id,country,postal_prefix,zone
dc-1,,US,6,near
dc-1,,US,,far
,stores,US,,far
""",
    "zone_transit.csv": """\
carrier_service,zone,transit_business_days_min,transit_business_days_max,base_cost
ground,near,1,2,
ground,far,3,5,7.49
air,far,1,1,
""",
    "lanes.csv": """\
node_id,country,postal_prefix,carrier_service,transit_business_days_min,transit_business_days_max
store-1,US,606,ground,0,1
""",
    "sourcing_rules.csv": """\
rule_id,fulfillment_method,country,handling_class,node_group_id,excluded,priority,cost,max_shipments
fragile-not-from-stores,SHIP_TO_ADDRESS,,fragile,stores,yes,,,
stores-last,SHIP_TO_ADDRESS,,,stores,,8,0.75,
two-boxes,SHIP_TO_ADDRESS,US,,,no,,,2
""",
    "safety_stock_rules.csv": """\
handling_class,node_group_id,units,percent,node_type
fragile,stores,,25,
,,1,,STORE
""",
    "supply.csv": """\
sku,node_id,on_hand,safety_stock
sku-1,dc-1,100,
sku-1,store-1,5,
sku-2,dc-1,40,3
sku-2,store-2,2,
""",
    "protection_levels.csv": """\
sku,node_id,segment,level
sku-1,dc-1,web,30
sku-2,dc-1,marketplace,4
""",
    "inbound.csv": """\
sku,node_id,supply_id,on_hand,arrival_time,arrived,safety_stock
sku-1,dc-1,po-7-1,50,2027-01-04T09:00:00-06:00,,10
sku-2,store-1,po-8-1,0,,yes,
""",
}

COUNTS = {
    "calendars": 2, "nodes": 3, "node groups": 1, "items": 2, "carrier services": 2, "lanes": 6,
    "sourcing rules": 3, "supply": 4, "protection levels": 2, "inbound": 2,
}  # fmt: skip
"""Entries that become of them."""


def write_folder(path: Path, **changed: str | None) -> Path:
    """The folder in ``path``; ``changed`` replaces files by their name without the ending, None
    leaves one out."""
    path.mkdir(exist_ok=True)
    for file, right in FILES.items():
        text = changed.get(file.partition(".")[0], right)
        if text is not None:
            (path / file).write_text(text)
    return path
