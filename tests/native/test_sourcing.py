"""The compiled search of a cart finds, plan for plan, what the specification finds."""

from __future__ import annotations

import random
from collections import Counter
from datetime import date, timedelta
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from native._ats_table import AtsTable
from native._sourcing import CartSearch, Nodes, Options
from promise_svc.domain.delivery import DeliveryDates, Shipment, ShipmentLine
from promise_svc.domain.frontier import best_plan, frontier
from promise_svc.domain.geography import distances_m
from promise_svc.domain.reach import Line, Service
from promise_svc.domain.sourcing import (
    WORK_MAX,
    Candidate,
    DeliveryOption,
    Demand,
    SourcingPlan,
    Work,
)
from promise_svc.domain.telling import Telling, in_order
from tests.support.networks import SHIP

MONDAY = date(2026, 11, 23)
SHARD_COUNT = 4

Option = tuple[str, int, int, int]
Lines = list[tuple[str, str, int]]


class Market(NamedTuple):
    """A cart and who could fill it."""

    lines: Lines
    weights: dict[str, int]
    sets: list[list[Option]]
    set_of_origin: list[int]
    ship_days: list[int]
    """Days before delivery, an origin: equal options may leave on other days."""
    origins: list[int]
    places: list[tuple[float, float]]
    stock: list[list[int]]
    """Units of each SKU of ``weights``, a node."""
    other_origins: dict[int, int]
    priorities: list[bytes]
    """Of each SKU a byte a node, or nothing."""
    place: tuple[float, float] | None
    max_shipments: int
    max_options: int = 4
    priority_max: int = 5
    extra: int = 0
    """What options count on top of what their services cost."""
    work_max: int = WORK_MAX

    @property
    def node_ids(self) -> list[str]:
        return [f"N{number:03}" for number in range(len(self.origins))]

    @property
    def demands(self) -> tuple[Demand, ...]:
        wanted: Counter[str] = Counter()
        for _, sku, quantity in self.lines:
            wanted[sku] += quantity
        return tuple(Demand(sku, wanted[sku], grams) for sku, grams in self.weights.items())

    @property
    def services(self) -> list[list[Service]]:
        """Of each origin, one an option."""
        return [
            [self._service(option, days) for option in self.sets[number]] if number >= 0 else []
            for number, days in zip(self.set_of_origin, self.ship_days, strict=True)
        ]

    def _service(self, option: Option, days: int) -> Service:
        name, day, base, kilogram = option
        latest = date.fromordinal(day)
        dates = DeliveryDates(latest - timedelta(days=days), latest, latest, 77 + days)
        return Service(SHIP, name, dates, None, max(0, base - self.extra), kilogram)

    def origin_of(self, number: int) -> int:
        return self.other_origins.get(number, self.origins[number])

    def set_of(self, number: int) -> int:
        origin = self.origin_of(number)
        return -1 if origin < 0 else self.set_of_origin[origin]

    def taken(self, number: int, index: int) -> int:
        """Units of a SKU that may be taken of a node."""
        if self.priorities and self.priorities[index][number] > self.priority_max:
            return 0
        return self.stock[number][index]

    def specified(self) -> tuple[list[tuple[Shipment, ...]], bool, int] | None:
        """What the specification finds; None where it finds nothing, no plans where stock does not
        do."""
        served = [n for n in range(len(self.origins)) if self.set_of(n) >= 0]
        demands = self.demands
        stock = [
            [self.taken(n, index) for index in range(len(demands))]
            for n in range(len(self.origins))
        ]
        for index, demand in enumerate(demands):
            if sum(stock[n][index] for n in served) < demand.quantity:
                return [], True, 0
        meters = [0] * len(self.origins)
        if self.place is not None:
            meters = [round(meter) for meter in distances_m(self.places, *self.place)]
        sets = [tuple(map(_option, options)) for options in self.sets]
        candidates = tuple(
            Candidate(self.node_ids[n], tuple(stock[n]), sets[self.set_of(n)], meters[n])
            for n in served
            if any(stock[n])
        )
        work = Work(self.work_max)
        if self.max_options == 1:
            best = best_plan(demands, candidates, max_shipments=self.max_shipments, work=work)
            found = [] if best is None else [best]
        else:
            found = frontier(demands, candidates, max_shipments=self.max_shipments, work=work)
        if not found:
            return None
        chosen = found[: self.max_options]
        if len(chosen) < len(found):
            chosen[-1] = min(found, key=lambda plan: plan.latest_delivery_date)
        plans = [self._told(plan) for plan in dict.fromkeys(chosen)]
        return plans, found[0].exact, found[0].shipment_count_bound

    def _told(self, plan: SourcingPlan) -> tuple[Shipment, ...]:
        telling = Telling([Line(*line) for line in self.lines], self.demands)
        told = []
        for node_id, option, quantities in plan.shipments:
            number = self.node_ids.index(node_id)
            names = [name for name, *_ in self.sets[self.set_of(number)]]
            service = self.services[self.origin_of(number)][names.index(option.name)]
            told.append(telling.shipment(node_id, service, quantities, None))
        return in_order(told)

    def nodes(self) -> Nodes:
        return Nodes(self.node_ids, self.places, self.origins)

    def options(self) -> Options:
        services = [[(*s[:2], *s.dates, *s[3:]) for s in some] for some in self.services]
        return Options(self.sets, self.set_of_origin, services)

    def compiled(self, search: CartSearch) -> object:
        return self.asked(search, self.nodes(), self.options())

    def asked(self, search: CartSearch, nodes: Nodes, options: Options) -> object:
        return search.plans(
            nodes,
            options,
            self.lines,
            self.weights,
            place=self.place,
            other_origins=self.other_origins,
            priorities=self.priorities,
            priority_max=self.priority_max,
            max_shipments=self.max_shipments,
            max_options=self.max_options,
            work_max=self.work_max,
            make_shipment=Shipment._make,
            make_line=ShipmentLine._make,
        )

    def table(self) -> AtsTable[Any]:
        table: AtsTable[Any] = AtsTable(shard_count=SHARD_COUNT, make_row=tuple)
        for index, sku in enumerate(self.weights):
            images: list[tuple[str, str, str, tuple[int, int, int, int]]] = []
            for node_id, units in zip(self.node_ids, self.stock, strict=True):
                images.append((sku, node_id, "later", (50, 0, 0, 0)))
                if units[index]:
                    images.append((sku, node_id, "", (units[index] + 2, 1, 0, 1)))
            images.append((sku, "unknown", "", (99, 0, 0, 0)))
            table.apply(0, 1, index + 1, 1, images)
        return table


def _option(option: Option) -> DeliveryOption:
    name, day, base, kilogram = option
    return DeliveryOption(name, date.fromordinal(day), base, kilogram)


FEW = [(0.0, 0.0), (0.0, 0.001), (10.0, 179.9), (-10.0, -179.9), (90.0, 5.0), (0.000001, 0.0)]
PLACES = st.one_of(
    st.sampled_from(FEW),
    st.tuples(st.floats(-90, 90, allow_nan=False), st.floats(-180, 180, allow_nan=False)),
)


@st.composite
def markets(draw: st.DrawFn, nodes_max: int = 16, units_max: int = 4) -> Market:
    """Few kinds of nodes, so that ties abound and most are surpassed."""
    sku_count = draw(st.integers(1, 4))
    names = draw(st.permutations([f"S{number}" for number in range(sku_count)]))
    repeated = draw(st.lists(st.sampled_from(names), max_size=2))
    quantities = st.integers(1, units_max)
    sets = draw(
        st.lists(
            st.integers(1, 3)
            .flatmap(lambda count: st.permutations(range(count)))
            .flatmap(lambda numbers: st.tuples(*map(_options, numbers)).map(list)),
            min_size=1,
            max_size=3,
            unique_by=tuple,
        )
    )
    set_of_origin = draw(st.lists(st.integers(-1, len(sets) - 1), min_size=1, max_size=4))
    count = draw(st.integers(0, nodes_max))
    others = st.integers(-1, len(set_of_origin) - 1)
    return Market(
        lines=[(f"{i}", sku, draw(quantities)) for i, sku in enumerate([*names, *repeated])],
        weights={sku: draw(st.integers(0, 1000)) for sku in names},
        sets=sets,
        set_of_origin=set_of_origin,
        ship_days=[draw(st.integers(0, 2)) for _ in set_of_origin],
        origins=[draw(st.integers(0, len(set_of_origin) - 1)) for _ in range(count)],
        places=[draw(PLACES) for _ in range(count)],
        stock=[
            [draw(st.integers(0, units_max - 1)) for _ in range(sku_count)] for _ in range(count)
        ],
        other_origins=draw(st.dictionaries(st.integers(0, nodes_max), others, max_size=3)),
        priorities=draw(
            st.just([])
            | st.lists(
                st.lists(st.integers(4, 6), min_size=count, max_size=count).map(bytes),
                min_size=sku_count,
                max_size=sku_count,
            )
        ),
        extra=draw(st.integers(0, 2)),
        place=draw(st.none() | PLACES),
        max_shipments=draw(st.integers(1, 5)),
        max_options=draw(st.integers(1, 4)),
        work_max=draw(st.sampled_from([0, 1, 3, 10, WORK_MAX])),
    )


def _options(number: int) -> st.SearchStrategy[Option]:
    days = st.integers(0, 2).map(lambda days: MONDAY.toordinal() + days)
    return st.tuples(st.just(f"O{number}"), days, st.integers(0, 3), st.sampled_from([0, 1, 1000]))


@settings(max_examples=150, deadline=None)
@given(markets())
def test_the_plans_are_the_specifications(market: Market) -> None:
    """Shipments, lines, units, dates, costs, order, exactness and bound, also where work runs out
    on the way; None where the specification has none."""
    search = CartSearch(market.table())

    assert market.specified() == market.compiled(search)


def test_so_they_are_where_carts_are_too_wide_to_compare_nodes() -> None:
    """With more than twelve SKUs the specification leaves no node out; around that number and
    beyond it nothing changes."""
    rng, found = random.Random(11), 0
    for sku_count in (11, 12, 13, 14, 40) * 6:
        names = [f"S{number:02}" for number in range(sku_count)]
        rng.shuffle(names)
        count = rng.randint(4, 12)
        market = A_MARKET._replace(
            lines=[(sku, sku, rng.randint(1, 2)) for sku in names],
            weights={sku: rng.randint(0, 900) for sku in names},
            sets=[[("A", 5, 3, 10), ("B", 3, 9, 1)], [("A", 4, 2, 10)]],
            set_of_origin=[0, 1],
            ship_days=[0, 1],
            origins=[rng.randint(0, 1) for _ in range(count)],
            places=[(rng.uniform(-9, 9), rng.uniform(-9, 9)) for _ in range(count)],
            stock=[[rng.choice([0, 1, 2, 2]) for _ in names] for _ in range(count)],
            place=(1.0, 1.0),
            max_shipments=rng.randint(2, 6),
            max_options=rng.randint(1, 4),
        )
        expected = market.specified()
        found += expected is not None and bool(expected[0])

        assert expected == market.compiled(CartSearch(market.table()))
    assert found > 10


@settings(max_examples=40, deadline=None)
@given(markets(8), st.data())
def test_a_cart_leaves_nothing_behind_for_the_next(market: Market, data: st.DataObject) -> None:
    """One search, one network, several carts: each is answered as if it were the first."""
    search, nodes, options = CartSearch(market.table()), market.nodes(), market.options()
    for _ in range(4):
        size = data.draw(st.integers(1, len(market.weights)))
        skus = list(market.weights)[:size]
        other = market._replace(
            lines=[line for line in market.lines if line[1] in skus],
            weights={sku: market.weights[sku] for sku in skus},
            stock=[units[:size] for units in market.stock],
            priorities=market.priorities[:size],
            other_origins=data.draw(st.dictionaries(st.integers(0, 8), st.just(-1), max_size=2)),
            max_shipments=data.draw(st.integers(1, 4)),
            place=data.draw(st.none() | PLACES),
        )

        assert other.specified() == other.asked(search, nodes, options)


def test_two_searches_share_a_network_without_mixing_carts() -> None:
    """Each table has its own numbers of places; what one call noted of nodes is not the other's."""
    markets = [
        A_MARKET._replace(stock=[[units], [3 - units]], lines=[("1", "S0", 2)]) for units in (1, 2)
    ]
    nodes, options = A_MARKET.nodes(), A_MARKET.options()
    searches = [CartSearch(market.table()) for market in markets]

    for _ in range(2):
        for market, search in zip(markets, searches, strict=True):
            assert market.specified() == market.asked(search, nodes, options)


A_MARKET = Market(
    lines=[("1", "S0", 1)],
    weights={"S0": 7},
    sets=[[("A", 5, 3, 10)]],
    set_of_origin=[0],
    ship_days=[1],
    origins=[0, 0],
    places=[(0.0, 0.0)] * 2,
    stock=[[1], [2]],
    other_origins={},
    priorities=[],
    place=None,
    max_shipments=2,
)


def test_nodes_of_many_kinds_of_stock_are_all_looked_at() -> None:
    """With more than 64 different stocks in a group the specification leaves none out, and work
    runs as fast; below and above that number the plans are the same. So they are where there are
    too many kinds to count them."""
    for kinds, work_max, scale in ((8, 2000, 1), (9, 2000, 1), (9, 30, 1), (8, 2000, 99)):
        stock = [[scale * a, scale * b] for a in range(kinds) for b in range(kinds)]
        market = A_MARKET._replace(
            lines=[("1", "S0", 9 * scale), ("2", "S1", 10 * scale)],
            weights={"S0": 7, "S1": 3},
            sets=[[("A", 5, 3, 10), ("B", 3, 9, 1)]],
            origins=[0] * len(stock),
            places=[((7 * n) % 50 / 10, n / 100) for n in range(len(stock))],
            stock=stock,
            place=(1.0, 1.0),
            max_shipments=3,
            work_max=work_max,
        )
        search = CartSearch(market.table())

        for max_options in (1, 4):
            asked = market._replace(max_options=max_options)
            expected = asked.specified()

            assert expected is not None
            assert expected == asked.compiled(search)


def test_what_is_not_plain_is_left_to_the_specification() -> None:
    """65 SKUs, more units than a position may have, costs that fill 64 bits. Too little
    stock, or no such SKU, is told as that."""
    names = [f"S{n:02}" for n in range(64)]
    market = A_MARKET._replace(
        lines=[(sku, sku, 1) for sku in names],
        weights=dict.fromkeys(names, 1),
        origins=[0],
        places=[(0.0, 0.0)],
        stock=[[2**31 - 10] * 64],
    )
    search, nodes, options = CartSearch(market.table()), market.nodes(), market.options()
    wider = market._replace(
        lines=[*market.lines, ("65", "S64", 1)], weights={**market.weights, "S64": 1}
    )
    heavy = market._replace(lines=[("1", "S00", 2**31 - 10)], weights={"S00": 10_000_000})
    dear = market._replace(sets=[[("A", 5, 3, 10**12)]]).options()

    assert market.specified() == market.asked(search, nodes, options)
    assert wider.asked(search, nodes, options) is None
    assert heavy.asked(search, nodes, options) is not None
    assert heavy.asked(search, nodes, dear) is None
    for sku, quantity, expected in (
        ("S00", 2**31, None),
        ("S00", 2**31 - 9, ([], True, 0)),
        ("elsewhere", 1, ([], True, 0)),
    ):
        asked = market._replace(lines=[("1", sku, quantity)], weights={sku: 1})
        assert expected == asked.asked(search, nodes, options)


def test_a_network_that_does_not_fit_together_is_refused() -> None:
    """Ids that do not rise, lists of other lengths, a set that is not there, a missing service."""
    for node_ids, places, origins in (
        (["B", "A"], [(0.0, 0.0)] * 2, [0, 0]),
        (["A", "A"], [(0.0, 0.0)] * 2, [0, 0]),
        (["A", "B"], [(0.0, 0.0)], [0, 0]),
        (["A", "B"], [(0.0, 0.0)] * 2, [0]),
    ):
        with pytest.raises(ValueError):
            Nodes(node_ids, places, origins)
    services = [("SHIP", "A", MONDAY, MONDAY, MONDAY, 7, None, 3, 10)]
    for number in (-2, 1):
        with pytest.raises(ValueError, match="no set"):
            Options([[("A", 5, 3, 10)]], [number], [services])
    for wrong in ([], [[]], [services * 2]):
        with pytest.raises(ValueError):
            Options([[("A", 5, 3, 10)]], [0], wrong)
    search = CartSearch(A_MARKET.table())
    for priorities in ([b"12", b"12"], [b"1"]):
        with pytest.raises(ValueError, match="as many"):
            A_MARKET._replace(priorities=priorities).compiled(search)


def test_days_beside_each_other_are_told_apart() -> None:
    """An earlier day for more shipments, a later one for fewer: both, fewest first; of more plans
    than were asked for the last is the earliest."""
    monday = MONDAY.toordinal()
    market = A_MARKET._replace(
        lines=[("1", "S0", 1), ("2", "S1", 1)],
        weights={"S0": 1, "S1": 1},
        sets=[
            [("fast", monday, 5, 0)],
            [("slow", monday + 1, 5, 0)],
            [("later", monday + 2, 1, 0)],
        ],
        set_of_origin=[0, 1, 2],
        ship_days=[0, 1, 2],
        origins=[0, 0, 1, 2],
        places=[(0.0, 0.0)] * 4,
        stock=[[1, 0], [0, 1], [1, 1], [1, 1]],
    )
    search = CartSearch(market.table())

    def days(max_options: int) -> list[list[str]]:
        found = market._replace(max_options=max_options).compiled(search)
        assert found == market._replace(max_options=max_options).specified()
        plans: list[tuple[Shipment, ...]] = found[0]  # type: ignore[index]
        return [[shipment.carrier_service for shipment in plan] for plan in plans]

    assert days(4) == [["slow"], ["later"], ["fast", "fast"]]
    assert days(2) == [["slow"], ["fast", "fast"]]
    assert days(1) == [["slow"]]
