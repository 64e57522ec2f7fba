"""Items and what the nodes have of them: few SKUs sell a lot, many sell a little.

Popularity is Zipf's law: the weight of the SKU of rank r is 1/r. DCs are deep, stores are shallow,
some SKUs are sold out and some are scarce.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from promise_svc.demo.network import DemoNetwork
from promise_svc.v1 import network_service_pb2 as network_pb
from promise_svc.v1 import supply_service_pb2 as supply_pb

SOLD_OUT_SHARE = 0.03
SCARCE_SHARE = 0.05
"""Scarce: one or two units, at one store."""
VENDOR_SHARE = 0.04
"""Held by one vendor and by nobody else."""
STORE_SHARE_MAX = 0.8
BEST_SELLERS = 20
STORE_SHARE_SLOPE = 0.012
"""A SKU of rank r is in this share of the stores, times (SKUs / r) to the power 0.55."""

_KINDS = ("jacket", "running shoe", "backpack", "kettle", "desk lamp", "wool sweater", "headphones",
          "frying pan", "yoga mat", "rain boots", "board game", "water bottle", "bath towel",
          "office chair", "bluetooth speaker", "picture frame")  # fmt: skip
_STYLES = ("trail", "city", "classic", "junior", "pro", "light", "heritage", "studio", "summit",
           "harbor", "prairie", "canyon")  # fmt: skip
_COLORS = ("black", "navy", "forest", "sand", "red", "slate", "white", "ochre")


@dataclass(frozen=True, slots=True)
class DemoStock:
    """Items by falling popularity, and one row per position."""

    items: tuple[network_pb.Item, ...]
    rows: tuple[supply_pb.SupplyRow, ...]
    """Ordered by SKU."""
    sold_out: tuple[str, ...]
    scarce: tuple[str, ...]

    def popular(self, rng: random.Random) -> str:
        """A SKU as shoppers pick them: by popularity."""
        rank = int(math.exp(rng.random() * math.log(len(self.items))))
        return self.items[rank - 1].sku


def make_stock(network: DemoNetwork, *, seed: int, sku_count: int) -> DemoStock:
    """The same for the same arguments. ``sku_count`` is 50 to 100,000."""
    rng = random.Random(f"stock {seed}")
    kinds = network_pb.NodeType
    maker = _Rows(
        rng,
        sku_count,
        network.node_ids(kinds.NODE_TYPE_DISTRIBUTION_CENTER),
        network.node_ids(kinds.NODE_TYPE_STORE),
        network.node_ids(kinds.NODE_TYPE_VENDOR),
    )
    items, sold_out, scarce = [], [], []
    rows: list[supply_pb.SupplyRow] = []
    for rank, (sku, name) in enumerate(_names(sku_count), 1):
        items.append(
            network_pb.Item(sku=sku, name=name, weight_grams=rng.randrange(100, 5_000, 50))
        )
        draw = rng.random()
        if rank <= max(BEST_SELLERS, sku_count // 100):
            draw = 1.0  # never out: a shopper must find something to buy
        elif rank == sku_count:
            draw = SOLD_OUT_SHARE  # there is always a last unit to want
        if draw < SOLD_OUT_SHARE:
            sold_out.append(sku)
            rows += maker.sold_out(sku)
        elif draw < SOLD_OUT_SHARE + SCARCE_SHARE:
            scarce.append(sku)
            rows += maker.scarce(sku)
        elif draw < SOLD_OUT_SHARE + SCARCE_SHARE + VENDOR_SHARE:
            rows += maker.at_vendor(sku)
        else:
            rows += maker.stocked(sku, rank)
    return DemoStock(tuple(items), tuple(rows), tuple(sold_out), tuple(scarce))


class _Rows:
    """Rows of one SKU at a time."""

    def __init__(
        self,
        rng: random.Random,
        sku_count: int,
        centers: Sequence[str],
        stores: Sequence[str],
        vendors: Sequence[str],
    ) -> None:
        self._rng = rng
        self._sku_count = sku_count
        self._centers, self._stores, self._vendors = centers, stores, vendors

    def sold_out(self, sku: str) -> Iterator[supply_pb.SupplyRow]:
        for node_id in self._rng.sample(self._stores, min(3, len(self._stores))):
            yield supply_pb.SupplyRow(sku=sku, node_id=node_id, on_hand=0)

    def scarce(self, sku: str) -> Iterator[supply_pb.SupplyRow]:
        node_id, on_hand = self._rng.choice(self._stores), self._rng.choice((1, 1, 2))
        if sku.endswith(f"{self._sku_count:06}"):
            on_hand = 1
        yield supply_pb.SupplyRow(sku=sku, node_id=node_id, on_hand=on_hand)

    def at_vendor(self, sku: str) -> Iterator[supply_pb.SupplyRow]:
        node_id, on_hand = self._rng.choice(self._vendors), self._rng.randint(20, 200)
        yield supply_pb.SupplyRow(sku=sku, node_id=node_id, on_hand=on_hand)

    def stocked(self, sku: str, rank: int) -> Iterator[supply_pb.SupplyRow]:
        demand = (self._sku_count / rank) ** 0.55
        centers = min(len(self._centers), 2 + round(math.log(demand + 1) * 2))
        for node_id in self._rng.sample(self._centers, centers):
            on_hand = 10 + int(self._rng.expovariate(1 / (20 * demand)))
            yield supply_pb.SupplyRow(sku=sku, node_id=node_id, on_hand=on_hand, safety_stock=2)
        share = min(STORE_SHARE_MAX, STORE_SHARE_SLOPE * demand)
        stores = round(share * len(self._stores) + self._rng.random() - 0.5)
        for node_id in self._rng.sample(self._stores, max(0, stores)):
            on_hand = 1 + int(self._rng.expovariate(1 / (2 + demand / 4)))
            safety_stock = 1 if on_hand > 3 else 0
            yield supply_pb.SupplyRow(
                sku=sku, node_id=node_id, on_hand=on_hand, safety_stock=safety_stock
            )


def _names(count: int) -> Iterator[tuple[str, str]]:
    names = (" ".join(words) for words in itertools.product(_STYLES, _KINDS, _COLORS))
    sizes = itertools.cycle(names)
    for number, name in zip(range(1, count + 1), sizes, strict=False):
        edition = (number - 1) // (len(_STYLES) * len(_KINDS) * len(_COLORS)) + 1
        yield f"sku-{number:06}", name.capitalize() + (f", no. {edition}" if edition > 1 else "")
