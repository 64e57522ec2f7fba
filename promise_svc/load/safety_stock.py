"""safety_stock_rules.csv: how many units to withhold where supply.csv does not say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from promise_svc.load.rows import Columns, Refusal, read_rows
from promise_svc.v1 import network_service_pb2 as pb

_COLUMNS = Columns(
    (), ("sku", "node_id", "node_group_id", "node_type", "handling_class", "units", "percent")
)


class Rule(NamedTuple):
    """Fits a position where each field that is set fits; exactly one of the last two is set."""

    sku: str
    node_id: str
    node_group_id: str
    node_type: int
    """0 for any."""
    handling_class: str
    units: int | None
    percent: int | None


@dataclass(frozen=True, slots=True)
class SafetyStockRules:
    """The first rule that fits decides."""

    rules: Sequence[Rule]
    handling_classes: Mapping[str, str]
    """SKU -> handling class."""
    members: Mapping[str, frozenset[str]]
    """Node group -> nodes."""
    node_types: Mapping[str, int]

    def units(self, sku: str, node_id: str, on_hand: int) -> int | None:
        """Units to withhold, a part of a unit counting as one; None where no rule fits."""
        for rule in self.rules:
            if (
                rule.sku in ("", sku)
                and rule.node_id in ("", node_id)
                and rule.node_type in (0, self.node_types.get(node_id, 0))
                and rule.handling_class in ("", self.handling_classes.get(sku, ""))
                and (not rule.node_group_id or node_id in self.members[rule.node_group_id])
            ):
                return rule.units if rule.percent is None else -(-on_hand * rule.percent // 100)
        return None


def read_rules(
    path: Path,
    items: Iterable[pb.Item],
    nodes: Iterable[pb.Node],
    groups: Iterable[pb.NodeGroup],
    refusals: list[Refusal],
) -> SafetyStockRules:
    """The rules of a folder; none where it has no such file."""
    members = {group.node_group_id: frozenset(group.node_ids) for group in groups}
    types = {node.node_id: int(node.node_type) for node in nodes}
    classes = {item.sku: item.handling_class for item in items if item.handling_class}
    rules: list[Rule] = []
    for row in read_rows(path, _COLUMNS, refusals) if path.exists() else ():
        units, percent = row.text("units"), row.text("percent")
        if bool(units) == bool(percent):
            row.refuse("needs either units or percent")
            continue
        if percent and not 0 <= row.integer("percent") <= 100:
            row.refuse(f"percent must be 0 to 100, not {percent}")
        group = row.text("node_group_id")
        if group and group not in members:
            row.refuse(f"node_groups.csv has no group {group}")
            continue
        node_type = row.one_of("node_type", pb.NodeType, "NODE_TYPE_")
        if node_type and not types:
            row.refuse("node_type means nothing without nodes.csv")
        rules.append(
            Rule(
                row.text("sku"),
                row.text("node_id"),
                group,
                node_type,
                row.text("handling_class"),
                row.integer("units") if units else None,
                row.integer("percent") if percent else None,
            )
        )
    return SafetyStockRules(rules, classes, members, types)
