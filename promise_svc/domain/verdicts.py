"""Why promises use the nodes they use: every node that has anything of the cart, and its fate."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from promise_svc.domain.cart import Cart, PromisedCart
from promise_svc.domain.network import NetworkSnapshot
from promise_svc.domain.reach import Reach, UnfulfilledReason
from promise_svc.domain.rules import OrderRules

NODES_TOLD_MAX = 1_000
"""Most nodes told of one cart."""


class Verdict(IntEnum):
    """What became of a node; numbers are the contract's, and nodes are told in their order."""

    CHOSEN = 1
    OFFERED = 2
    NOT_NEEDED = 3
    UNKNOWN_NODE = 20
    NODE_OFF = 30
    METHOD_NOT_OFFERED = 40
    NO_LANE = 50
    NO_DATE = 60
    CAPACITY_FULL = 62
    EXCLUDED_BY_RULE = 65
    LOWER_PRIORITY = 75


class NodeVerdict(NamedTuple):
    """One node, and the rules that speak of it."""

    node_id: str
    verdict: Verdict
    rule_ids: tuple[str, ...]
    excluded_skus: tuple[str, ...]
    """Of what it has, what rules keep from this order."""


class Explanation(NamedTuple):
    """How promises came about."""

    max_shipments: int
    """The split limit, by the request and the rules."""
    rule_ids: tuple[str, ...]
    """Rules that fit the order, in the order in which they count."""
    nodes: tuple[NodeVerdict, ...]
    """By verdict, then id; up to NODES_TOLD_MAX."""
    node_count: int


def explain_cart(snapshot: NetworkSnapshot, cart: Cart, promised: PromisedCart) -> Explanation:
    """The fate of each node with units of any SKU of the cart. Computes nothing anew but what the
    promise itself asked. Cost: some 10 us a node."""
    rules = OrderRules(snapshot, cart.wanted)
    reach = Reach(snapshot, cart.wanted)
    used = [{shipment.node_id for shipment in option.shipments} for option in promised.options]
    skus_at: dict[str, list[str]] = {}
    for sku in sorted({line.sku for line in cart.lines}):
        for node_id, units in cart.stock.get(sku, {}).items():
            if units:
                skus_at.setdefault(node_id, []).append(sku)
    found = []
    for node_id, skus in skus_at.items():
        told = rules.of_node(node_id, skus)
        services = reach.services(node_id)
        if isinstance(services, UnfulfilledReason):
            verdict = Verdict(services)
        elif used and node_id in used[0]:
            verdict = Verdict.CHOSEN
        elif any(node_id in nodes for nodes in used):
            verdict = Verdict.OFFERED
        elif len(told.excluded_skus) == len(skus):
            verdict = Verdict.EXCLUDED_BY_RULE
        elif told.priority > promised.priority:
            verdict = Verdict.LOWER_PRIORITY
        else:
            verdict = Verdict.NOT_NEEDED
        found.append(NodeVerdict(node_id, verdict, told.rule_ids, told.excluded_skus))
    found.sort(key=lambda told: (told.verdict, told.node_id))
    return Explanation(
        rules.max_shipments(cart.max_shipments),
        tuple(rule.rule_id for rule in rules.rules),
        tuple(found[:NODES_TOLD_MAX]),
        len(found),
    )
