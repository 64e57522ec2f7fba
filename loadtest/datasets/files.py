"""Reading the sets and writing the folder."""

from __future__ import annotations

import csv
import gzip
import json
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path


def rows_of(path: Path, encoding: str = "utf-8") -> Iterator[dict[str, str]]:
    """Rows of a CSV file packed with gzip."""
    with gzip.open(path, "rt", encoding=encoding, newline="") as file:
        yield from csv.DictReader(file)


SHIPPING = "node_id fulfillment_method cutoff_time handling_business_days"
GROUPS = "node_group_id node_id"
SUPPLY = "sku node_id on_hand"
ZONES = "node_group_id country postal_prefix zone"
ZONE_TRANSIT = "carrier_service zone transit_business_days_min transit_business_days_max base_cost"
"""Columns that several sets have."""

Rows = Iterable[Sequence[object]]


def write_files(out: Path, files: Mapping[str, tuple[str, Rows]]) -> dict[str, int]:
    """Write CSV files: name -> (columns, rows); how many rows each got."""
    return {name: _write(out / name, *file) for name, file in files.items()}


def _write(path: Path, columns: str, rows: Rows) -> int:
    count = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns.split())
        for row in rows:
            writer.writerow(["" if value is None else value for value in row])
            count += 1
    return count


def write_calendars(
    path: Path, calendars: Mapping[str, tuple[Sequence[str], Iterable[date]]]
) -> int:
    """Name -> (working days, days off)."""
    tables = []
    for name, (working_days, days_off) in calendars.items():
        off = ", ".join(day.isoformat() for day in sorted(days_off))
        tables.append(f"[{name}]\nworking_days = {json.dumps(list(working_days))}\n"
                      f"days_off = [{off}]\n")  # fmt: skip
    path.write_text("\n".join(tables))
    return len(tables)


def shortest_prefixes(zones: Mapping[str, str]) -> dict[str, str]:
    """The fewest prefixes that say the same, where the longest that fits wins: each level of the
    tree says its commonest zone, and below it only what differs.

    All keys are of one length. Prefixes of codes that are not there get a neighbor's zone.
    """
    length = len(next(iter(zones)))
    found: dict[str, str] = {}

    def visit(prefix: str, codes: list[str], inherited: str) -> None:
        kinds = {zones[code] for code in codes}
        if kinds == {inherited}:
            return
        zone = statistics.mode(zones[code] for code in codes)
        if zone != inherited:
            found[prefix] = zone
        if len(kinds) > 1 and len(prefix) < length:
            below: dict[str, list[str]] = {}
            for code in codes:
                below.setdefault(code[: len(prefix) + 1], []).append(code)
            for longer, some in below.items():
                visit(longer, some, zone)

    visit("", sorted(zones), "")
    return found


WEEK = ("MONDAY", "TUESDAY", "WEDNESDAY", "THURSDAY", "FRIDAY")
SIX_DAYS = (*WEEK, "SATURDAY")
EVERY_DAY = (*SIX_DAYS, "SUNDAY")
