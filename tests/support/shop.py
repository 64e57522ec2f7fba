"""A shop drawn at random, asked with the compiled search and without it."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from datetime import date, time, timedelta

from promise_svc.adapters.ats_table.table import AtsTable
from promise_svc.application.promise import (
    Plan,
    PlanRequest,
    PromiseCartReply,
    PromiseCartRequest,
    plan,
)
from promise_svc.application.stock import Consistency
from promise_svc.domain.capacity import account_of
from promise_svc.domain.events import PositionImage
from promise_svc.domain.inventory import Protection, StockPosition
from promise_svc.domain.network import (
    BundleComponent,
    Document,
    FulfillmentMethod,
    Item,
    NetworkSnapshot,
    Node,
    NodeCapacity,
    NodeGroup,
    NodeStatus,
    SourcingRule,
)
from promise_svc.domain.reach import Address, Line
from promise_svc.domain.sharding import Position
from tests.support.fake_ats_reader import FakeClock
from tests.support.fake_stock_index import FakeStockIndex
from tests.support.market import a_promiser
from tests.support.networks import (
    CHICAGO,
    PICKUP,
    SHIP,
    a_lane,
    a_method,
    a_node,
    a_service,
    a_snapshot,
    ms,
)

FRIDAY = ms("2026-11-20T12:00", CHICAGO)
CURBSIDE = FulfillmentMethod.CURBSIDE
SHARD_COUNT = 4
SKUS = ["A", "B", "C", "BUNDLE", "NO-ITEM"]
CODES = ["94107", "94199", "10001", "94 1-07"]


class Shop:
    """A network and stock drawn from ``rng``, asked with and without the compiled search; in a
    crowd nodes have capacities, and some of their days are full."""

    def __init__(self, rng: random.Random, *, crowd: bool = False) -> None:
        self.rng = rng
        self.crowd = crowd
        self.clock = FakeClock(FRIDAY)
        self.snapshot = a_snapshot(*self._documents())
        self.table = AtsTable(SHARD_COUNT)
        self.stock_up()

    def _documents(self) -> list[Document]:
        rng = self.rng
        terms = [
            [a_method(SHIP, time(17))],
            [a_method(SHIP, time(10), days=2), a_method(PICKUP, time(18), minutes=60)],
            [a_method(PICKUP, time(18), minutes=60), a_method(CURBSIDE, time(9), minutes=5)],
        ]
        nodes = [
            a_node(
                f"N{number:02}",
                methods=rng.choice(terms),
                latitude=rng.choice([rng.uniform(25, 49), 37.0]),
                longitude=rng.choice([rng.uniform(-124, -67), -122.0]),
                status=rng.choices([NodeStatus.ON, NodeStatus.OFF], [9, 1])[0],
            )
            for number in range(rng.randint(1, 25))
        ]
        if self.crowd:
            nodes = [replace(node, capacities=self._capacities(node)) for node in nodes]
        ids = [node.node_id for node in nodes]
        half = NodeGroup(node_group_id="half", node_ids=tuple(ids[::2]))
        everything = NodeGroup(node_group_id="all", node_ids=tuple(ids))
        lanes = [
            a_lane("all", "ground", (1, rng.randint(2, 5)), from_group=True),
            a_lane("all", "ground", (1, 2), postal_prefix="941", from_group=True),
            a_lane("half", "air", (1, 1), postal_prefix="9", base=9_000_000, from_group=True),
            a_lane(rng.choice(ids), "ground", (0, 1), postal_prefix="1", base=1),
        ]
        services = [
            a_service("ground", kilogram=rng.choice([0, 7])),
            a_service("air", base=8_000_000, kilogram=rng.choice([0, 3, 10**12])),
        ]
        parts = (BundleComponent("A", 1), BundleComponent("B", 2))
        items = [
            Item(
                sku=sku,
                weight_grams=rng.choice([0, 1, 333, 1500]),
                handling_class=rng.choice(["", "cold"]),
            )
            for sku in "ABC"
        ]
        half_of = {"node_group_id": "half"}
        rules = [
            SourcingRule(rule_id="few", max_shipments=2),
            SourcingRule(rule_id="half", priority=2, **half_of),
            SourcingRule(rule_id="one", priority=1, node_group_id="one"),
            SourcingRule(rule_id="rest", priority=7, country="US", postal_prefix="9"),
            SourcingRule(rule_id="no-cold", excluded=True, handling_class="cold", **half_of),
            SourcingRule(rule_id="dear", cost_micros=5_000_000, **half_of),
            SourcingRule(rule_id="dearer", cost_micros=1, postal_prefix="941", country="US"),
        ]
        fit = rng.sample(rules, rng.choice([0, 0, 1, 2, 3]))
        one = NodeGroup(node_group_id="one", node_ids=tuple(ids[:1]))
        bundle = Item(sku="BUNDLE", components=parts)
        return [*nodes, half, one, everything, *lanes, *services, *items, bundle, *fit]

    def _capacities(self, node: Node) -> tuple[NodeCapacity, ...]:
        """Of most of its methods."""
        return tuple(
            NodeCapacity(fulfillment_method=x.fulfillment_method, orders_per_day_max=2)
            for x in node.methods
            if self.rng.random() < 0.8
        )

    def fill_days(self) -> None:
        """Some days of some nodes are full, of few all that are in sight."""
        rng, filling = self.rng, self.rng.choice([0.1, 0.5, 0.9])
        images = []
        for node_id, node in self.snapshot.documents.nodes.items():
            for capacity in node.capacities:
                share = rng.choices([0, filling, 1], [2, 7, 1])[0]
                for number in range(25):
                    day = date(2026, 11, 20) + timedelta(number)
                    orders = 2 if rng.random() < share else rng.choice([0, 1])
                    account = account_of(capacity.fulfillment_method, day, node_id)
                    position = StockPosition(on_hand=2, held=orders)
                    images.append(PositionImage(account, node_id, "", position))
        self.table.apply(0, self.table.at(0), FRIDAY - 10, images)

    def stock_up(self) -> None:
        """Some stock of each SKU somewhere, some on its way, some kept for a segment."""
        rng = self.rng
        shared = rng.choice([0, 0.4])
        for sku in ("A", "B", "C", "NO-ITEM"):
            images = []
            for number in range(27):
                if rng.random() < 0.6:
                    shares = (Protection("vip", 2),) if rng.random() < shared else ()
                    position = StockPosition(
                        on_hand=rng.choice([0, 1, 2, 3, 9]), held=rng.choice([0, 0, 1]),
                        protected=shares,
                    )  # fmt: skip
                    images.append(PositionImage(sku, f"N{number:02}", "", position))
                if rng.random() < 0.1:
                    later = StockPosition(on_hand=50, arrival_ms=FRIDAY + 86_400_000)
                    images.append(PositionImage(sku, f"N{number:02}", "later", later))
            self.table.apply(SKUS.index(sku) % SHARD_COUNT, Position(1, 1), FRIDAY - 10, images)
        for shard in range(SHARD_COUNT):
            self.table.apply(shard, self.table.at(shard), FRIDAY - 10, [])

    def request(self) -> PromiseCartRequest:
        rng = self.rng
        to_store = rng.random() < 0.2
        count = 1 if to_store else rng.choice([1, 1, 2, 3, 4])
        skus = rng.choices(SKUS, [9, 9, 9, 1, 0.2], k=count)
        located = {"latitude": rng.uniform(25, 49), "longitude": rng.uniform(-124, -67)}
        address = Address(
            country=rng.choices(["US", "CA"], [20, 1])[0],
            postal_code=rng.choice(CODES),
            **(located if rng.random() < 0.8 else {}),
        )
        nodes = [f"N{number:02}" for number in range(28)]
        methods: tuple[FulfillmentMethod, ...] = ()
        if to_store and rng.random() < 0.5:
            methods = (PICKUP, CURBSIDE)
        return PromiseCartRequest(
            lines=tuple(
                Line(f"{i}", sku, 1 if to_store else rng.choice([1, 1, 2, 3, 7]))
                for i, sku in enumerate(skus)
            ),
            address=None if to_store else address,
            pickup_node_id=rng.choice(nodes[:12]) if to_store else "",
            fulfillment_methods=methods,
            carrier_services=rng.choices([(), ("air",), ("ground",)], [8, 1, 1])[0],
            segment=rng.choices(["", "vip", "other"], [6, 3, 1])[0],
            order_ms=rng.choice([None, FRIDAY, FRIDAY + rng.randrange(10 * 86_400_000)]),
            max_options=rng.choice([1, 1, 2, 3, 4]),
            max_shipments=rng.choice([1, 2, 3, 20]),
            excluded_node_ids=frozenset(rng.sample(nodes, rng.choice([0, 0, 0, 2, 8]))),
            consistency=Consistency(strong=rng.random() < 0.02),
            explain=rng.random() < 0.05,
            allow_backorder=rng.random() < 0.1,
        )

    def asked(self, request: PromiseCartRequest, *, compiled: bool) -> PromiseCartReply:
        def network() -> NetworkSnapshot:
            return self.snapshot

        search, self.table.search = self.table.search, self.table.search if compiled else None
        index = FakeStockIndex(FRIDAY, SHARD_COUNT)
        promiser = a_promiser(self.table, index, network, self.clock)
        self.table.search = search
        return asyncio.run(promiser.promise_cart(request, timeout=5.0))

    def plan_request(self) -> PlanRequest:
        """A reservation's lines; now and then units at nodes are gone to other lines of it."""
        asked = self.request()
        gone = self.rng.sample(range(25), 12) if self.rng.random() < 0.3 else []
        taken = {(sku, f"N{number:02}"): 9 for sku in "ABC" for number in gone}
        return PlanRequest(
            lines=asked.lines,
            fulfillment_method=PICKUP if asked.address is None else SHIP,
            address=asked.address,
            pickup_node_id=asked.pickup_node_id,
            carrier_services=frozenset(asked.carrier_services),
            segment=asked.segment,
            excluded_node_ids=asked.excluded_node_ids,
            order_ms=FRIDAY,
            taken=taken,
            max_shipments=asked.max_shipments,
            allow_backorder=asked.allow_backorder,
        )

    def planned(self, request: PlanRequest, *, compiled: bool) -> Plan:
        search, self.table.search = self.table.search, self.table.search if compiled else None
        found = plan(self.snapshot, self.table, request)
        self.table.search = search
        return found
