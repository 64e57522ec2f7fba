"""A US retailer of true size: real stores with their hours, real distribution centers, real zones.

No retailer has just these: the stores are Target's and the centers Walmart's of 2006, because each
set has what the other lacks. Transit days are service standards stated here, by USPS zone; the
catalog and its stock are made up from the seed.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path

import holidays
import tzfpy

from loadtest.datasets.files import (
    EVERY_DAY,
    GROUPS,
    SIX_DAYS,
    SUPPLY,
    WEEK,
    ZONE_TRANSIT,
    ZONES,
    Rows,
    rows_of,
    shortest_prefixes,
    write_calendars,
    write_files,
)
from promise_svc.demo.geography import OUTLYING, Place, load_places

TRANSIT = {
    # USPS zone: (fewest, most) business days by ground, and its cost in dollars.
    "1": (1, 2, 5.99), "2": (1, 2, 5.99), "3": (2, 3, 6.49), "4": (2, 3, 6.99), "5": (3, 4, 7.99),
    "6": (3, 4, 8.99), "7": (4, 5, 9.99), "8": (4, 5, 10.99), "9": (5, 8, 15.99),
}  # fmt: skip
AIR = (1, 2, 19.99)
AIR_ZONES = tuple("12345678")

PICKUP_MINUTES = 120
LAST_ORDER_HOURS = 3
"""An order must come so long before the doors close to be collected that day."""

STORES_PER_SKU = 40
CENTERS_PER_SKU = 5
DC_CUTOFF = "14:00"


def convert(
    source: Path, out: Path, *, today: date, sku_count: int = 2_000, seed: int = 1
) -> dict[str, int]:
    """Write the folder; rows by file."""
    out.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    places = load_places()
    stores = list(_stores(source))
    centers = list(_centers(source, places))
    years = (today.year, today.year + 1)
    federal = set(holidays.country_holidays("US", years=years))
    closed = {day for day in federal if (day.month, day.day) == (12, 25)} | {
        day for day, name in holidays.country_holidays("US", years=years).items()
        if name == "Thanksgiving Day"
    }  # fmt: skip
    groups = defaultdict(list)
    for name, _, _, _, _, code, *_ in centers:
        groups[f"zip3-{str(code)[:3]}"].append(name)
    groups["stores"] = [store[0][0] for store in stores]
    skus = [f"sku-{number:06d}" for number in range(sku_count)]
    node_ids = [str(store[0][0]) for store in stores], [str(center[0]) for center in centers]
    calendars = {
        "stores": (EVERY_DAY, closed),
        "centers": (SIX_DAYS, federal),
        "carrier": (WEEK, federal),
    }
    origins = [group for group in sorted(groups) if group != "stores"]
    files: dict[str, tuple[str, Rows]] = {
        "nodes.csv": (
            "node_id name node_type country region postal_code latitude longitude time_zone "
            "calendar_id",
            [*centers, *(store[0] for store in stores)],
        ),
        "methods.csv": (
            "node_id fulfillment_method cutoff_time opening_time handling_business_days "
            "handling_minutes",
            _methods(centers, stores),
        ),
        "node_groups.csv": (
            GROUPS,
            [(group, name) for group, names in sorted(groups.items()) for name in names],
        ),
        **_lanes(source, origins),
        "items.csv": ("sku weight_grams handling_class", _items(skus, rng)),
        "supply.csv": (SUPPLY, _supply(skus, *node_ids, rng)),
        "safety_stock_rules.csv": ("node_type units", [("STORE", 1)]),
    }
    count = write_calendars(out / "calendars.toml", calendars)
    return {"calendars.toml": count, **write_files(out, files)}


Row = tuple[object, ...]
Hours = tuple[str, str]


def _stores(source: Path) -> Iterator[tuple[Row, Hours]]:
    """Node row, and opening and closing from Monday to Friday."""
    for row in rows_of(source / "locations/target_stores.csv.gz", "latin-1"):
        latitude, longitude = float(row["lat"]), float(row["long"])
        node = (
            f"store-{row['ID']}", row["Name"].encode("ascii", "ignore").decode(), "STORE", "US",
            row["Address.Subdivision"], row["Address.PostalCode"][:5], latitude, longitude,
            _zone(latitude, longitude), "stores",
        )  # fmt: skip
        yield node, (row["BeginTime.MF"], row["ThruTime.MF"])


def _centers(source: Path, places: Sequence[Place]) -> Iterator[Row]:
    """Distribution centers of the contiguous states; the set has no ZIP codes, so the nearest."""
    seen = 0
    for row in rows_of(source / "locations/walmart_stores_and_dcs_2006.csv.gz", "latin-1"):
        if row["type"] != "DistributionCenter" or row["state"] in OUTLYING:
            continue
        latitude, longitude = float(row["lat"]), float(row["long"])
        near = min(
            places,
            key=lambda p: (p.latitude - latitude) ** 2 + 0.6 * (p.longitude - longitude) ** 2,
        )
        seen += 1
        yield (
            f"dc-{seen:02d}", f"{row['city'].title()} {row['state']}", "DISTRIBUTION_CENTER", "US",
            row["state"], near.postal_code, latitude, longitude, _zone(latitude, longitude),
            "centers",
        )  # fmt: skip


def _zone(latitude: float, longitude: float) -> str:
    return str(tzfpy.get_tz(longitude, latitude))


def _methods(centers: Iterable[Row], stores: Iterable[tuple[Row, Hours]]) -> Iterator[Row]:
    for center in centers:
        yield center[0], "SHIP_TO_ADDRESS", DC_CUTOFF, "", 1, ""
    for store, (opens, closes) in stores:
        first, last = int(opens.partition(":")[0]), int(closes.partition(":")[0]) or 24
        opening = f"{first:02d}:{opens.split(':')[1]}"
        cutoff = f"{last - LAST_ORDER_HOURS:02d}:{closes.split(':')[1]}"
        for method in ("PICKUP_IN_STORE", "CURBSIDE"):
            yield store[0], method, cutoff, opening, "", PICKUP_MINUTES


def _lanes(source: Path, groups: Sequence[str]) -> dict[str, tuple[str, Rows]]:
    wanted = {group.removeprefix("zip3-") for group in groups}
    zones: dict[str, dict[str, str]] = defaultdict(dict)
    for row in rows_of(source / "carrier_zones/usps_zone3_2018.csv.gz"):
        if row["origin_zip3"] in wanted:
            zones[row["origin_zip3"]][row["dest_zip3"]] = row["zone"]
    rows = [
        (f"zip3-{origin}", "US", prefix, zone)
        for origin in sorted(zones)
        for prefix, zone in sorted(shortest_prefixes(zones[origin]).items())
    ]
    times = [("ground", zone, *standard) for zone, standard in TRANSIT.items()]
    times += [("air", zone, *AIR) for zone in AIR_ZONES]
    return {
        "carrier_services.csv": (
            "carrier_service calendar_id currency_code base_cost cost_per_kilogram",
            [("ground", "carrier", "USD", "5.99", "0.60"), ("air", "carrier", "USD", "19.99", "3")],
        ),
        "zones.csv": (ZONES, rows),
        "zone_transit.csv": (ZONE_TRANSIT, times),
    }


def _items(skus: Sequence[str], rng: random.Random) -> Iterator[Row]:
    for sku in skus:
        yield sku, round(rng.lognormvariate(6.5, 1)), rng.choices(("ambient", "cold"), (9, 1))[0]


def _supply(
    skus: Sequence[str], stores: Sequence[str], centers: Sequence[str], rng: random.Random
) -> Iterator[Row]:
    places: Mapping[int, Sequence[str]] = {STORES_PER_SKU: stores, CENTERS_PER_SKU: centers}
    for sku in skus:
        for count, nodes in places.items():
            for node in rng.sample(nodes, min(count, len(nodes))):
                on_hand = rng.randrange(0, 12) if nodes is stores else rng.randrange(50, 500)
                yield sku, node, on_hand
