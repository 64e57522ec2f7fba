"""Olist, a Brazilian marketplace: sellers are nodes, products are SKUs, states are zones.

The month to be replayed is moved by whole weeks to begin about now, because a promise is for an
order of today; calendars move with it. Handling and transit times are learned from what was
delivered before that month and nothing later; stock, which the set lacks, is what the month sold
and a margin, and too little of it on purpose for a share of the products.
"""

from __future__ import annotations

import json
import math
import random
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path

import holidays
import tzfpy

from loadtest.datasets.files import (
    GROUPS,
    SHIPPING,
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

SCARCE_SHARE = 0.05
"""Of the products sold in the month: they have 60 % of what was asked for."""
SCARCE_STOCK = 0.6
MARGIN = 1.2
IDLE_UNITS = 3
"""Stock of an offer that nobody bought in the month."""

HANDLING_QUANTILE = 0.8
TRANSIT_QUANTILES = (0.1, 0.9)
HISTORY_DAYS = 180
SELLER_ORDERS_MIN = 10
LANE_ORDERS_MIN = 20
BUSINESS_DAYS_MAX = 60
CUTOFF = "18:00"
CARRIER = "carrier"


@dataclass(slots=True)
class Order:
    """One order, in Brazilian wall time."""

    order_id: str
    status: str
    purchase: datetime
    approved: datetime | None
    handed_over: datetime | None
    delivered: datetime | None
    estimated: date
    """The marketplace's promise."""
    postal_code: str
    region: str
    lines: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(product, seller) -> units."""
    freight: float = 0.0


@dataclass(frozen=True, slots=True)
class Month:
    """Which month, and by how many days it was moved."""

    first: date
    shift_days: int

    @classmethod
    def of(cls, month: str, today: date) -> Month:
        """``month`` as 2018-05; moved by whole weeks to begin in the week before today."""
        first = date.fromisoformat(f"{month}-01")
        return cls(first, (today - first).days // 7 * 7)

    @property
    def after(self) -> date:
        """The first day after it."""
        return (self.first + timedelta(days=32)).replace(day=1)

    def has(self, moment: datetime) -> bool:
        """Whether it is in the month."""
        return self.first <= moment.date() < self.after


def read_orders(source: Path) -> list[Order]:
    """All orders with their lines, by purchase time; those without lines are there too."""
    places = {
        row["customer_id"]: (row["customer_zip_code_prefix"], row["customer_state"])
        for row in rows_of(source / "customers.csv.gz")
    }
    orders = {}
    for row in rows_of(source / "orders.csv.gz"):
        postal_code, region = places[row["customer_id"]]
        purchase = _time(row["order_purchase_timestamp"])
        estimated = _time(row["order_estimated_delivery_date"])
        assert purchase and estimated
        orders[row["order_id"]] = Order(
            row["order_id"], row["order_status"], purchase,
            _time(row["order_approved_at"]), _time(row["order_delivered_carrier_date"]),
            _time(row["order_delivered_customer_date"]), estimated.date(), postal_code, region,
        )  # fmt: skip
    for row in rows_of(source / "order_items.csv.gz"):
        if order := orders.get(row["order_id"]):
            order.lines[row["product_id"], row["seller_id"]] += 1
            order.freight += float(row["freight_value"])
    return sorted(orders.values(), key=lambda order: (order.purchase, order.order_id))


def month_orders(orders: Sequence[Order], month: Month, limit: int = 0) -> list[Order]:
    """The month's, by purchase time; only the first ``limit`` unless it is 0."""
    chosen = [order for order in orders if month.has(order.purchase)]
    return chosen[:limit] if limit else chosen


def convert(
    source: Path, out: Path, *, month: str, today: date, seed: int = 1, limit: int = 0
) -> dict[str, int]:
    """Write the folder, and replay.json beside it for the replay; rows by file.

    With ``limit`` only what the month's first orders name: enough to replay those.
    """
    out.mkdir(parents=True, exist_ok=True)
    moved = Month.of(month, today)
    orders = read_orders(source)
    sellers = {row["seller_id"]: row for row in rows_of(source / "sellers.csv.gz")}
    states = {name: row["seller_state"] for name, row in sellers.items()}
    history = [order for order in orders if order.purchase.date() < moved.first]
    if not any(order.delivered and order.delivered.date() < moved.first for order in history):
        raise ValueError(f"nothing was delivered before {month}: there is nothing to learn from")
    played = month_orders(orders, moved, limit)
    offers = Counter[tuple[str, str]]()
    for order in played:
        offers += order.lines
    if limit:
        sellers = {name: sellers[name] for name in sorted({seller for _, seller in offers})}
        skus = {sku for sku, _ in offers}
    else:
        skus = None
        for order in history:
            offers.update(dict.fromkeys(order.lines, 0))
    days = BusinessDays({order.purchase.year + n for order in orders for n in (0, 1)})
    counts = {
        "calendars.toml": write_calendars(
            out / "calendars.toml",
            {"br-week": (WEEK, [day + timedelta(days=moved.shift_days) for day in days.off])},
        ),
        **_write_nodes(source, out, sellers, _handling(history, moved, days)),
        **_write_items(source, out, skus),
        **_write_lanes(out, orders, sellers, _transit(history, moved, days, states)),
        **_write_supply(out, offers, random.Random(seed)),
    }
    about = {"month": month, "shift_days": moved.shift_days}
    (out / "replay.json").write_text(json.dumps(about))
    return counts


class BusinessDays:
    """Monday to Friday less the national holidays of some years."""

    def __init__(self, years: Iterable[int]) -> None:
        self.off = frozenset(
            day for day in holidays.country_holidays("BR", years=sorted(years)) if day.weekday() < 5
        )

    def between(self, start: date, end: date) -> int:
        """Business days after ``start`` up to ``end``."""
        days = (end - start).days
        return sum(self._works(start + timedelta(days=n + 1)) for n in range(days))

    def _works(self, day: date) -> bool:
        return day.weekday() < 5 and day not in self.off


def _handling(history: Sequence[Order], month: Month, days: BusinessDays) -> dict[str, int]:
    """Seller -> business days from approval to hand-over; under the empty name everybody's."""
    since = month.first - timedelta(days=HISTORY_DAYS)
    seen: dict[str, list[int]] = defaultdict(list)
    for order in history:
        if order.approved and order.handed_over and since <= order.handed_over.date() < month.first:
            took = days.between(order.approved.date(), order.handed_over.date())
            for seller in {seller for _, seller in order.lines}:
                seen[seller].append(took)
                seen[""].append(took)
    return {
        seller: _quantile(took, HANDLING_QUANTILE)
        for seller, took in seen.items()
        if len(took) >= SELLER_ORDERS_MIN or not seller
    }


def _transit(
    history: Sequence[Order], month: Month, days: BusinessDays, states: Mapping[str, str]
) -> dict[tuple[str, str], tuple[int, int, float]]:
    """(from state, to state) -> fewest and most business days, and the median freight. Where too
    few went, those to the state from anywhere decide, then everybody."""
    since = month.first - timedelta(days=HISTORY_DAYS)
    seen: dict[tuple[str, str], list[tuple[int, float]]] = defaultdict(list)
    for order in history:
        done, left = order.delivered, order.handed_over
        if not (done and left and since <= done.date() < month.first and done > left):
            continue
        shipped = days.between(left.date(), done.date()), order.freight
        for state in {states[seller] for _, seller in order.lines}:
            for key in ((state, order.region), ("", order.region), ("", "")):
                seen[key].append(shipped)
    low, high = TRANSIT_QUANTILES
    found = {}
    for key, took in seen.items():
        if len(took) >= LANE_ORDERS_MIN or key == ("", ""):
            business_days = [each[0] for each in took]
            fewest = _quantile(business_days, low)
            cost = round(statistics.median(each[1] for each in took), 2)
            found[key] = fewest, max(fewest, _quantile(business_days, high)), cost
    return found


def _quantile(values: Sequence[int], share: float) -> int:
    ordered = sorted(values)
    return min(BUSINESS_DAYS_MAX, ordered[min(len(ordered) - 1, math.floor(share * len(ordered)))])


def _nearest(codes: Sequence[str], code: str) -> str:
    return min(codes, key=lambda other: abs(int(other) - int(code)))


def _write_nodes(
    source: Path, out: Path, sellers: Mapping[str, dict[str, str]], handling: Mapping[str, int]
) -> dict[str, int]:
    spots = {
        row["zip_code_prefix"]: (float(row["lat"]), float(row["lng"]))
        for row in rows_of(source / "zip_prefixes.csv.gz")
    }
    known = sorted(spots)
    nodes, methods, groups = [], [], []
    for name, seller in sellers.items():
        code = seller["seller_zip_code_prefix"]
        # 7 sellers have a prefix without coordinates: the nearest number is next door.
        near = code if code in spots else _nearest(known, code)
        latitude, longitude = spots[near]
        zone = tzfpy.get_tz(longitude, latitude) or "America/Sao_Paulo"
        state = seller["seller_state"]
        nodes.append((name, "VENDOR", "BR", state, code, latitude, longitude, zone, "br-week"))
        days = handling.get(name, handling[""])
        methods.append((name, "SHIP_TO_ADDRESS", CUTOFF, days))
        groups.append((f"from-{state}", name))
    columns = (
        "node_id node_type country region postal_code latitude longitude time_zone calendar_id"
    )
    files: dict[str, tuple[str, Rows]] = {
        "nodes.csv": (columns, nodes),
        "methods.csv": (SHIPPING, methods),
        "node_groups.csv": (GROUPS, sorted(groups)),
    }
    return write_files(out, files)


def _write_items(source: Path, out: Path, skus: set[str] | None) -> dict[str, int]:
    def rows() -> Iterable[Sequence[object]]:
        for row in rows_of(source / "products.csv.gz"):
            if skus is not None and row["product_id"] not in skus:
                continue
            sides = [row[f"product_{side}_cm"] for side in ("length", "width", "height")]
            name, weight = row["product_category_name"], row["product_weight_g"]
            millimeters = [10 * int(float(side)) if side else 0 for side in sides]
            yield row["product_id"], name, int(float(weight or 0)), *millimeters

    columns = "sku name weight_grams length_millimeters width_millimeters height_millimeters"
    return write_files(out, {"items.csv": (columns, rows())})


def _write_lanes(
    out: Path,
    orders: Sequence[Order],
    sellers: Mapping[str, dict[str, str]],
    transit: Mapping[tuple[str, str], tuple[int, int, float]],
) -> dict[str, int]:
    """A few prefixes carry another state's name in some addresses: the commonest counts."""
    votes: dict[str, Counter[str]] = defaultdict(Counter)
    for order in orders:
        votes[order.postal_code][order.region] += 1
    areas = shortest_prefixes({code: seen.most_common(1)[0][0] for code, seen in votes.items()})
    origins = sorted({seller["seller_state"] for seller in sellers.values()})
    states = sorted(set(areas.values()))
    zones = [
        (f"from-{origin}", "BR", prefix, f"{origin}-{state}")
        for origin in origins
        for prefix, state in sorted(areas.items())
    ]
    times = []
    for origin in origins:
        for state in states:
            keys = ((origin, state), ("", state), ("", ""))
            fewest, most, cost = next(transit[key] for key in keys if key in transit)
            times.append((CARRIER, f"{origin}-{state}", fewest, most, cost))
    files: dict[str, tuple[str, Rows]] = {
        "carrier_services.csv": (
            "carrier_service calendar_id currency_code base_cost",
            [(CARRIER, "br-week", "BRL", 20)],
        ),
        "zones.csv": (ZONES, zones),
        "zone_transit.csv": (ZONE_TRANSIT, times),
    }
    return write_files(out, files)


def _write_supply(
    out: Path, asked: Mapping[tuple[str, str], int], rng: random.Random
) -> dict[str, int]:
    """``asked``: units the replayed orders want of each offer."""
    sold = sorted({sku for (sku, _), units in asked.items() if units})
    scarce = set(rng.sample(sold, round(SCARCE_SHARE * len(sold))))

    def units(sku: str, wanted: int) -> int:
        if not wanted:
            return IDLE_UNITS
        return int(SCARCE_STOCK * wanted) if sku in scarce else math.ceil(MARGIN * wanted)

    rows = [(sku, node, units(sku, wanted)) for (sku, node), wanted in sorted(asked.items())]
    return write_files(out, {"supply.csv": (SUPPLY, rows)})


def _time(text: str) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
