"""Reads a folder of files; README.md tells their format. Nothing is sent from here."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from promise_svc.errors import ConfigError
from promise_svc.load import tables
from promise_svc.load.parts import (
    CALENDARS,
    CARRIER_SERVICES,
    COUNTS,
    INBOUND,
    ITEMS,
    LANES,
    NODE_GROUPS,
    NODES,
    ORDER,
    PROTECTION_LEVELS,
    SOURCING_RULES,
    SUPPLY,
    Kind,
    Part,
)
from promise_svc.load.rows import Refusal

READERS = {
    "calendars.toml": tables.read_calendars,
    "nodes.csv": tables.read_nodes,
    "methods.csv": tables.read_methods,
    "capacity_days.csv": tables.read_capacity_days,
    "node_groups.csv": tables.read_node_groups,
    "items.csv": tables.read_items,
    "carrier_services.csv": tables.read_carrier_services,
    "lanes.csv": tables.read_lanes,
    "zones.csv": tables.read_zones,
    "sourcing_rules.csv": tables.read_sourcing_rules,
    "supply.csv": tables.read_supply,
    "protection_levels.csv": tables.read_protection_levels,
    "inbound.csv": tables.read_inbound,
}
"""In the order they are read. zone_transit.csv is read with zones.csv, safety_stock_rules.csv with
supply.csv."""

WITH_OTHERS = {"zone_transit.csv": "zones.csv", "safety_stock_rules.csv": "supply.csv"}

REFUSALS_MAX = 1_000
"""Most refusals kept; a file with more is the wrong file."""


@dataclass(slots=True)
class Folder:
    """What was read, and everything wrong with it."""

    path: Path
    parts: dict[str, Part] = field(default_factory=dict)
    """By name of the kind, in the order they are sent."""
    refusals: list[Refusal] = field(default_factory=list)
    source_sequences: dict[str, int] = field(default_factory=dict)
    """Of each kind of counts: when its file was written, in ms since 1970."""

    def part(self, kind: Kind) -> Part:
        """The entries of one kind."""
        return self.parts[kind.name]


def read_folder(path: Path, *, source: str = "load", source_sequence: int = 0) -> Folder:
    """Read and check everything. ConfigError where there is nothing to read.

    ``source_sequence`` 0 takes the time each file of counts was written. Cost: about 10 us a row.
    """
    if not path.is_dir():
        raise ConfigError(f"{path} is no folder")
    folder = Folder(path, {kind.name: Part(kind) for kind in ORDER})
    names = sorted(entry.name for entry in path.iterdir() if entry.suffix in (".csv", ".toml"))
    if not names:
        raise ConfigError(f"{path} has neither a .csv nor a .toml file")
    folder.refusals += _unreadable(names)
    for kind, name in COUNTS.items():
        file = path / name
        written_ms = file.stat().st_mtime_ns // 1_000_000 if file.exists() else 1
        folder.source_sequences[kind] = source_sequence or written_ms
    for name, read in READERS.items():
        if (path / name).exists():
            read(path / name, folder.parts, folder.refusals)
    for name, part in folder.parts.items():
        more = {}
        if name in COUNTS:
            more = {"source": source, "source_sequence": folder.source_sequences[name]}
        folder.refusals += part.problems(**more)
    folder.refusals += _broken_references(folder)
    folder.refusals = sorted(set(folder.refusals))[:REFUSALS_MAX]
    return folder


def _unreadable(names: list[str]) -> Iterator[Refusal]:
    known = [*READERS, *WITH_OTHERS]
    for name in names:
        if name in WITH_OTHERS and WITH_OTHERS[name] not in names:
            yield Refusal(name, 0, f"means nothing without {WITH_OTHERS[name]}")
        elif name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            yield Refusal(name, 0, "unknown file" + (f"; did you mean {near[0]}?" if near else ""))
    for name, other in (("methods.csv", "nodes.csv"), ("capacity_days.csv", "methods.csv")):
        if name in names and other not in names:
            yield Refusal(name, 0, f"means nothing without {other}")


def _broken_references(folder: Folder) -> Iterator[Refusal]:
    """Names that the folder's own file lacks. Where it has no such file, the service decides."""
    known = {name: part.keys() for name, part in folder.parts.items() if part.given}

    def missing(kind: Kind, name: str) -> bool:
        return bool(name) and kind.name in known and name not in known[kind.name]

    for kind in (NODES, CARRIER_SERVICES):
        part = folder.part(kind)
        for entry, origin in zip(part.entries, part.origins, strict=True):
            if missing(CALENDARS, entry.calendar_id):
                yield Refusal(*origin, f"calendars.toml has no calendar {entry.calendar_id}")
    groups = folder.part(NODE_GROUPS)
    for index, group in enumerate(groups.entries):
        for member, node_id in enumerate(group.node_ids):
            if missing(NODES, node_id):
                yield Refusal(*groups.inner[index, member], f"nodes.csv has no node {node_id}")
    for entry, origin in zip(folder.part(LANES).entries, folder.part(LANES).origins, strict=True):
        for kind, file, name in (
            (NODES, "nodes.csv has no node", entry.node_id),
            (NODE_GROUPS, "node_groups.csv has no group", entry.node_group_id),
            (CARRIER_SERVICES, "carrier_services.csv has no service", entry.carrier_service),
        ):
            if missing(kind, name):
                yield Refusal(*origin, f"{file} {name}")
    rules = folder.part(SOURCING_RULES)
    for rule, origin in zip(rules.entries, rules.origins, strict=True):
        if missing(NODE_GROUPS, rule.node_group_id):
            yield Refusal(*origin, f"node_groups.csv has no group {rule.node_group_id}")
    yield from _broken_goods(folder, missing)
    yield from _currencies(folder.part(CARRIER_SERVICES))


def _broken_goods(folder: Folder, missing: Callable[[Kind, str], bool]) -> Iterator[Refusal]:
    """The same of items and their counts."""
    items = folder.part(ITEMS)
    bundles = {item.sku for item in items.entries if item.components}
    for item, origin in zip(items.entries, items.origins, strict=True):
        for part in item.components:
            if missing(ITEMS, part.sku):
                yield Refusal(*origin, f"items.csv has no item {part.sku}")
            if part.sku in bundles:
                yield Refusal(*origin, f"{part.sku} is a bundle; a bundle holds no bundles")
    stock = [folder.part(kind) for kind in (SUPPLY, PROTECTION_LEVELS, INBOUND)]
    rows = (zip(part.entries, part.origins, strict=True) for part in stock)
    for entry, origin in chain.from_iterable(rows):
        if entry.sku in bundles:
            yield Refusal(*origin, f"{entry.sku} is a bundle; count its components")
        if missing(NODES, entry.node_id):
            yield Refusal(*origin, f"nodes.csv has no node {entry.node_id}")
        if missing(ITEMS, entry.sku):
            yield Refusal(*origin, f"items.csv has no item {entry.sku}")


def _currencies(services: Part) -> Iterator[Refusal]:
    for entry, origin in zip(services.entries, services.origins, strict=True):
        first = services.entries[0].currency_code
        if entry.currency_code != first:
            text = f"currency_code is {entry.currency_code}, the first service's is {first}"
            yield Refusal(*origin, text)
