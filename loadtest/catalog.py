"""What a run loads before it drives: a network of real places, SKUs, and what the nodes have."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import cached_property

from promise_svc.demo.geography import Place, load_places
from promise_svc.demo.network import DemoNetwork, make_network
from promise_svc.hotpath import shard_of
from promise_svc.v1 import network_service_pb2 as network_pb
from promise_svc.v1 import supply_service_pb2 as supply_pb

SHARD_COUNT = 64
"""The service's default; carts are made to cross shards by it."""

FEW_NODES, ALL_NODES = "loadtest-20", "loadtest-all"
"""Node groups of 20 and of all nodes, beside those of the network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogSize:
    """How much is loaded; every SKU's row count is exact, so runs compare."""

    store_count: int = 300
    """1..2,000 stores; 12 DCs and 20 vendors come on top."""
    sku_count: int = 10_000
    """Ordinary SKUs, 100..1,000,000."""
    nodes_per_sku: int = 20
    """Positions of each ordinary SKU: all 12 DCs, then stores."""
    on_hand: int = 1_000_000
    """Units of an ordinary position. The default never runs out, so that costs are measured and
    not refusals; scenarios about scarcity say less."""
    wide_sku_count: int = 0
    """SKUs that lie at `wide_share` of all nodes."""
    wide_share: float = 0.3
    hot_sku_count: int = 5
    hot_on_hand: int = 1_000_000
    """Units of a hot SKU at each of two DCs."""
    sold_out_sku_count: int = 100
    """SKUs with one position and nothing on hand."""


def sku_name(number: int) -> str:
    """The ordinary SKU of this number."""
    return f"sku-{number:06}"


class Catalog:
    """The same for the same size and seed. ``load`` it before use (bodies.py makes the calls)."""

    def __init__(self, size: CatalogSize, seed: int) -> None:
        self.size = size
        self.seed = seed
        self.skus = [sku_name(number) for number in range(size.sku_count)]
        self.wide_skus = [f"wide-{number:04}" for number in range(size.wide_sku_count)]
        self.hot_skus = [f"hot-{number:03}" for number in range(size.hot_sku_count)]
        self.sold_out_skus = [f"out-{number:05}" for number in range(size.sold_out_sku_count)]

    @cached_property
    def places(self) -> tuple[Place, ...]:
        """Where shoppers are."""
        return load_places()

    @cached_property
    def network(self) -> DemoNetwork:
        """Stores where people live, DCs, vendors, three carrier services, lanes by zone."""
        made = make_network(
            self.places, seed=self.seed, store_count=self.size.store_count, today=date.today()
        )
        nodes = [node.node_id for node in made.nodes]
        groups = [
            network_pb.NodeGroup(node_group_id=name, name=name, node_ids=members)
            for name, members in ((FEW_NODES, nodes[:20]), (ALL_NODES, nodes))
        ]
        return replace(made, node_groups=(*made.node_groups, *groups))

    @cached_property
    def centers(self) -> list[str]:
        return self.network.node_ids(network_pb.NODE_TYPE_DISTRIBUTION_CENTER)

    @cached_property
    def stores(self) -> list[str]:
        return self.network.node_ids(network_pb.NODE_TYPE_STORE)

    @cached_property
    def skus_by_shard(self) -> dict[int, list[str]]:
        """Ordinary SKUs by the shard that decides them."""
        found: dict[int, list[str]] = defaultdict(list)
        for sku in self.skus:
            found[shard_of(sku, SHARD_COUNT)].append(sku)
        return found

    def nodes_of(self, sku: str) -> Sequence[str]:
        """The nodes that stock an ordinary SKU, cheap to compute anywhere."""
        nodes = self.size.nodes_per_sku
        centers = self.centers[:nodes]
        wanted = min(nodes - len(centers), len(self.stores))
        first = int(sku.rsplit("-", 1)[1]) * 7919 % len(self.stores)
        stores = [self.stores[(first + step) % len(self.stores)] for step in range(wanted)]
        return [*centers, *stores]

    def items(self) -> Iterator[network_pb.Item]:
        """Every SKU, with a weight."""
        for sku in (*self.skus, *self.wide_skus, *self.hot_skus, *self.sold_out_skus):
            yield network_pb.Item(sku=sku, name=sku, weight_grams=100 + 50 * (len(sku) % 7))

    def rows(self) -> Iterator[supply_pb.SupplyRow]:
        """Every position."""
        size = self.size
        for sku in self.skus:
            for node_id in self.nodes_of(sku):
                yield supply_pb.SupplyRow(
                    sku=sku, node_id=node_id, on_hand=size.on_hand, safety_stock=2
                )
        rng = random.Random(f"wide {self.seed}")
        nodes = [*self.centers, *self.stores]
        for sku in self.wide_skus:
            for node_id in rng.sample(nodes, max(1, round(len(nodes) * size.wide_share))):
                yield supply_pb.SupplyRow(sku=sku, node_id=node_id, on_hand=size.on_hand)
        for sku in self.hot_skus:
            for node_id in self.centers[:2]:
                yield supply_pb.SupplyRow(sku=sku, node_id=node_id, on_hand=size.hot_on_hand)
        for sku in self.sold_out_skus:
            yield supply_pb.SupplyRow(sku=sku, node_id=self.centers[0], on_hand=0)

    @property
    def cell_count(self) -> int:
        """Positions that ``rows`` yields."""
        size = self.size
        ordinary = len(self.nodes_of(self.skus[0])) * size.sku_count
        nodes = len(self.centers) + len(self.stores)
        wide = size.wide_sku_count * max(1, round(nodes * size.wide_share))
        return ordinary + wide + 2 * size.hot_sku_count + size.sold_out_sku_count
