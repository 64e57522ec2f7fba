"""What a seed is about beside carts of plain SKUs, and what there is to sell then."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

from promise_svc.application.supply import ProtectionLevel
from promise_svc.domain.inventory import PositionKey
from promise_svc.domain.network import (
    BundleComponent,
    Document,
    Item,
    ItemLimit,
    Node,
    NodeCapacity,
)
from promise_svc.domain.reservation import SupplyRow
from tests.sim.valkey import EPOCH_MS
from tests.support.networks import PICKUP, a_calendar, a_lane, a_method, a_node, a_service

NODES = ("n1", "n2")
SEGMENTS = ("web", "store")
OWNERS = ("ann", "bob")
LATER_MS = EPOCH_MS + 86_400_000
"""When supply on its way is expected: no run lasts so long, it comes when a shopper says so."""

KINDS = (
    "inbound",  # supply on its way, backorders, receipts
    "segments",  # shares of positions, carts of several segments
    "limits",  # the most that one owner may have
    "bundles",
    "sourcing",  # lines without a node, policies, quotes
    "network",  # nodes are switched off and on
    "counts",  # feeds, sales and changes of what is scarce too
    "parts",  # units of a line leave, or are cancelled
    "reacquire",  # confirms that take an expired hold again
)

LATER_KINDS = {
    "edited limits": "limits",  # they change while it runs
    "edited shares": "segments",  # of what is scarce too
    "counts of all": "inbound",  # of what has arrived too
    "pickup": "sourcing",  # carts that are collected
    "capacity": "parts",  # nodes work few orders a day
}
"""Kinds of their own dice, so that older seeds stay what they are; and the kind that each goes on
from."""

RETENTION = "retention"
"""Keys are forgotten, and then everything is asked once more; of its own dice too."""


@dataclass(frozen=True, slots=True)
class Draws:
    """What one seed is about; by default nothing of it."""

    kinds: frozenset[str] = frozenset()
    shard_count: int = 0
    """0 leaves it to the world."""
    lines_max: int = 0
    """Above 0 some carts have up to so many lines."""
    items: dict[str, Item] = field(default_factory=dict)
    """Those that are more than a SKU."""
    shares: tuple[ProtectionLevel, ...] = ()
    """At the beginning."""
    inbound: tuple[SupplyRow, ...] = ()
    orders_per_day: dict[str, int] = field(default_factory=dict)
    """Node -> orders that it works a day; others work any number."""
    window_ms: int = 3_600_000
    """The idempotency window."""

    @property
    def bundles(self) -> list[str]:
        """SKUs sold as their components."""
        return [sku for sku, item in self.items.items() if item.components]

    def limits(self) -> dict[str, tuple[str, ItemLimit]]:
        """SKU -> the name of its count, and its limit."""
        return {
            sku: (
                f"k:{item.shard_key}" if item.customer_limit.by_shard_key else f"s:{sku}",
                item.customer_limit,
            )
            for sku, item in self.items.items()
            if item.customer_limit is not None
        }

    def shard_key(self, sku: str) -> str:
        item = self.items.get(sku)
        return item.shard_key if item is not None and item.shard_key else sku

    def kept(self, key: PositionKey) -> dict[str, int]:
        """Segment -> what is kept for it at a position, at first."""
        return {x.segment: x.level for x in self.shares if (x.sku, x.node_id, "") == key}

    def documents(self, skus: list[str]) -> list[Document]:
        """The network, components before their bundles."""
        items = [self.items.get(sku) or Item(sku=sku) for sku in skus]
        items += [self.items[sku] for sku in self.bundles]
        lanes: list[Document] = []
        if "sourcing" in self.kinds:
            # So that nodes have lanes, and the nearer one is not always the same.
            lanes = [a_calendar("carrier"), a_service()]
            lanes += [a_lane(node, transit=(1, 2 + at)) for at, node in enumerate(NODES)]
        return [a_calendar(), *map(self.node, NODES), *lanes, *items]

    def node(self, node_id: str) -> Node:
        """As it stands in the network at first."""
        methods = [a_method(), a_method(PICKUP)] if "pickup" in self.kinds else []
        node, orders = a_node(node_id, methods=methods), self.orders_per_day.get(node_id)
        if orders is None:
            return node
        capacities = (
            NodeCapacity(fulfillment_method=x.fulfillment_method, orders_per_day_max=orders)
            for x in node.methods
        )
        return replace(node, capacities=tuple(capacities))


PLAIN = Draws()


def draw(seed: int, scarce: list[str], plenty: list[str]) -> Draws:
    """A quarter of the seeds draw nothing of it; of the others, each draws a few kinds."""
    chance = random.Random(f"kinds:{seed}")
    if chance.random() < 0.25:
        return PLAIN
    kinds = frozenset(kind for kind in KINDS if chance.random() < 0.3)
    later = random.Random(f"later kinds:{seed}")
    kinds |= {kind for kind, base in LATER_KINDS.items() if later.random() < 0.6 and base in kinds}
    kinds |= _later_still(seed, kinds)
    window_ms = random.Random(f"window:{seed}").choice((1_000, 2_000, 4_000))
    items: dict[str, Item] = {}
    if "limits" in kinds:
        style = chance.choice(("", "style"))
        for sku in scarce[:2]:
            limit = ItemLimit(
                quantity_max=chance.choice((1, 2, 3)),
                window_ms=chance.choice((0, 0, 2_000)),
                by_shard_key=bool(style),
            )
            items[sku] = Item(sku=sku, shard_key=style, customer_limit=limit)
        if style:
            same = items[scarce[0]].customer_limit
            items[scarce[1]] = Item(sku=scarce[1], shard_key=style, customer_limit=same)
    if "bundles" in kinds:
        kinds |= {"parts"}
        for name in ("set1", "set2"):
            parts = {chance.choice((*scarce, plenty[0])): 1}
            parts |= dict.fromkeys(chance.sample(plenty[1:], chance.choice((1, 2))), 2)
            components = tuple(BundleComponent(*part) for part in parts.items())
            items[name] = Item(sku=name, components=components)
    shares: list[ProtectionLevel] = []
    inbound: list[SupplyRow] = []
    for sku in scarce:
        for node in NODES:
            if "segments" in kinds and chance.random() < 0.6:
                level = chance.choice((1, 2))
                shares.append(ProtectionLevel(sku, node, chance.choice(SEGMENTS), level))
            if "inbound" in kinds and chance.random() < 0.7:
                units, withheld = chance.choice((1, 2, 4)), chance.choice((0, 0, 1))
                inbound.append(SupplyRow(sku, node, "po", units, withheld, "wms", 0, LATER_MS))
    orders_per_day = {}
    if "capacity" in kinds:
        nodes = NODES if later.random() < 0.6 else NODES[:1]
        orders_per_day = {node: later.choice((1, 1, 2, 3)) for node in nodes}
    big = chance.random() < 0.08
    return Draws(
        kinds=kinds,
        shard_count=64 if big else 0,
        lines_max=30 if big or chance.random() < 0.08 else 0,
        items=items,
        shares=tuple(shares),
        inbound=tuple(inbound),
        orders_per_day=orders_per_day,
        window_ms=window_ms if RETENTION in kinds else 3_600_000,
    )


def _later_still(seed: int, kinds: frozenset[str]) -> set[str]:
    """Kinds that hang on others, each of its own dice too."""
    found = set()
    if "parts" in kinds and not kinds & {"counts", "inbound"}:
        # Feeds that are net of orders, late; nothing else moves what is there.
        found |= {"net figures"} if random.Random(f"net:{seed}").random() < 0.9 else set()
    if random.Random(f"retention:{seed}").random() < 0.08:
        found |= {RETENTION}
    return found
