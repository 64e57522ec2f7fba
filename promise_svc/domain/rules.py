"""Sourcing rules: which nodes an order may use, which it asks first, at what extra cost.

Rules that fit an order's methods and destination speak of it. An excluding rule is a hard
constraint, as is a limit of shipments. A node of a lower priority number is asked before all of
higher ones: these are used only where the lines that can be promised cannot be without them. An
extra cost weighs among plans with as many shipments and the same dates; no shopper sees it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from promise_svc.domain.network import NetworkSnapshot, SourcingRule, normalized_postal_code
from promise_svc.domain.network_validation import RULE_PRIORITY_MAX
from promise_svc.domain.reach import Wanted

PRIORITY_MAX = RULE_PRIORITY_MAX

PRIORITY_DEFAULT = 5
"""Of a node that no rule gives one."""

_NEVER = PRIORITY_MAX + 1


class RulesOfNode(NamedTuple):
    """What rules say of one node."""

    rule_ids: tuple[str, ...]
    excluded_skus: tuple[str, ...]
    priority: int
    """The best it has for any SKU that is not excluded; above PRIORITY_MAX where all are."""


class OrderRules:
    """The rules that fit one order. Cost: a look-up a rule and node, and nothing without rules."""

    def __init__(self, snapshot: NetworkSnapshot, wanted: Wanted) -> None:
        self._snapshot = snapshot
        self._arrivals = wanted.arrivals
        self._members = snapshot.derived(_members)
        self.rules = [rule for rule in snapshot.sourcing_rules if _fits(rule, wanted)]
        """By id. Of those that give one node a priority, the first counts."""
        self.costs = [rule for rule in self.rules if rule.cost_micros]
        self.weigh = bool(self.costs)
        """Whether any shipment counts as dearer than it is."""
        self._priorities: dict[str, dict[str, int]] = {}

    def max_shipments(self, asked: int) -> int:
        """The split limit: what was asked for, or less."""
        limits = [rule.max_shipments for rule in self.rules if rule.max_shipments]
        return min([asked, *limits])

    @property
    def priorities(self) -> list[int]:
        """Those that nodes may have here, lowest number first."""
        told = {rule.priority for rule in self.rules if rule.priority}
        return sorted(told | {PRIORITY_DEFAULT})

    def allowed(self, sku: str, stock: dict[str, int], priority_max: int) -> dict[str, int]:
        """Of units by node, those at nodes that may be used for the SKU, and are asked by then."""
        if not self.rules:
            return stock
        known = self._priorities.setdefault(self.handling_class(sku), {})
        found = {}
        for node_id, units in stock.items():
            priority = known.get(node_id)
            if priority is None:
                priority = self._priority(self.handling_class(sku), node_id)
                known[node_id] = priority
            if priority <= priority_max:
                found[node_id] = units
        return found

    def cost_micros(self, node_id: str) -> int:
        """What a shipment from the node counts as dearer than it is."""
        return sum(rule.cost_micros for rule in self.costs if self._names(rule, node_id))

    def of_node(self, node_id: str, skus: Iterable[str]) -> RulesOfNode:
        """What the rules say of a node, for people."""
        by_sku = {sku: self._priority(self.handling_class(sku), node_id) for sku in skus}
        classes = {"", *map(self.handling_class, by_sku)}
        return RulesOfNode(
            tuple(
                rule.rule_id
                for rule in self.rules
                if self._names(rule, node_id) and rule.handling_class in classes
            ),
            tuple(sku for sku, priority in by_sku.items() if priority == _NEVER),
            min(by_sku.values(), default=PRIORITY_DEFAULT),
        )

    def priorities_of(self, handling_class: str, node_ids: Iterable[str]) -> bytes:
        """For SKUs of a class the priority of each node, a byte; beyond PRIORITY_MAX where they are
        excluded there."""
        return bytes(self._priority(handling_class, node_id) for node_id in node_ids)

    def _priority(self, handling_class: str, node_id: str) -> int:
        found = 0
        for rule in self.rules:
            if rule.handling_class in ("", handling_class) and self._names(rule, node_id):
                if rule.excluded:
                    return _NEVER
                found = found or rule.priority
        return found or PRIORITY_DEFAULT

    def _names(self, rule: SourcingRule, node_id: str) -> bool:
        if node_id in self._arrivals:
            node_id = self._arrivals[node_id].node_id
        return not rule.node_group_id or node_id in self._members[rule.node_group_id]

    def handling_class(self, sku: str) -> str:
        """The class that rules may name; empty for an item without one."""
        item = self._snapshot.item(sku)
        return "" if item is None else item.handling_class


def _fits(rule: SourcingRule, wanted: Wanted) -> bool:
    """Of an order that may be fulfilled by several methods, rules for any of them."""
    if rule.fulfillment_method and rule.fulfillment_method not in wanted.fulfillment_methods:
        return False
    if not rule.country:
        return True
    address = wanted.address
    return (
        address is not None
        and rule.country == address.country
        and rule.region in ("", address.region)
        and normalized_postal_code(address.postal_code).startswith(rule.postal_prefix)
    )


def _members(snapshot: NetworkSnapshot) -> dict[str, frozenset[str]]:
    """Nodes of the groups that rules name; of one that is not there, none."""
    groups = snapshot.documents.node_groups
    named = {rule.node_group_id for rule in snapshot.sourcing_rules}
    return {
        group_id: frozenset(groups[group_id].node_ids if group_id in groups else ())
        for group_id in named
    }
