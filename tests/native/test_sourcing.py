"""The compiled search of a cart finds, plan for plan, what the specification finds."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from native._ats_table import AtsTable
from native._sourcing import CartSearch, Nodes, Options
from promise_svc.domain.frontier import best_plan, frontier
from promise_svc.domain.geography import distances_m
from promise_svc.domain.sourcing import (
    WORK_MAX,
    Candidate,
    DeliveryOption,
    Demand,
    SourcingPlan,
    Work,
)

MONDAY = date(2026, 11, 23)
SHARD_COUNT = 4

Option = tuple[str, int, int, int]


class Market(NamedTuple):
    """A cart and who could fill it."""

    demands: list[tuple[str, int, int]]
    sets: list[list[Option]]
    set_of_origin: list[int]
    origins: list[int]
    places: list[tuple[float, float]]
    stock: list[list[int]]
    """Units a demand, a node."""
    other_sets: dict[int, int]
    place: tuple[float, float] | None
    max_shipments: int
    work_max: int = WORK_MAX

    @property
    def node_ids(self) -> list[str]:
        return [f"N{number:03}" for number in range(len(self.origins))]

    def set_of(self, number: int) -> int:
        return self.other_sets.get(number, self.set_of_origin[self.origins[number]])

    def specified(self, best_only: bool) -> tuple[list[object], bool, int] | None:
        """What the specification finds; None where it finds nothing, or stock does not do."""
        served = [n for n in range(len(self.origins)) if self.set_of(n) >= 0]
        for index, (_, quantity, _) in enumerate(self.demands):
            if sum(self.stock[n][index] for n in served) < quantity:
                return None
        meters = [0] * len(self.origins)
        if self.place is not None:
            meters = [round(meter) for meter in distances_m(self.places, *self.place)]
        sets = [tuple(map(_option, options)) for options in self.sets]
        candidates = tuple(
            Candidate(self.node_ids[n], tuple(self.stock[n]), sets[self.set_of(n)], meters[n])
            for n in served
            if any(self.stock[n])
        )
        demands = tuple(Demand(*demand) for demand in self.demands)
        work = Work(self.work_max)
        if best_only:
            best = best_plan(demands, candidates, max_shipments=self.max_shipments, work=work)
            found = [] if best is None else [best]
        else:
            found = frontier(demands, candidates, max_shipments=self.max_shipments, work=work)
        if not found:
            return None
        return [self._told(p) for p in found], found[0].exact, found[0].shipment_count_bound

    def _told(self, plan: SourcingPlan) -> object:
        shipments = tuple(
            (number, self._place_in_set(number, planned.option), planned.quantities)
            for planned in plan.shipments
            for number in [self.node_ids.index(planned.node_id)]
        )
        day = plan.latest_delivery_date.toordinal()
        return shipments, plan.cost_nanos, plan.distance_meters, day

    def _place_in_set(self, number: int, option: DeliveryOption) -> int:
        return [name for name, *_ in self.sets[self.set_of(number)]].index(option.name)

    def compiled(self, search: CartSearch, best_only: bool) -> object:
        nodes = Nodes(self.node_ids, self.places, self.origins)
        options = Options(self.sets, self.set_of_origin)
        return self.asked(search, nodes, options, best_only)

    def asked(self, search: CartSearch, nodes: Nodes, options: Options, best_only: bool) -> object:
        return search.plans(
            nodes,
            options,
            self.demands,
            place=self.place,
            other_sets=self.other_sets,
            max_shipments=self.max_shipments,
            best_only=best_only,
            work_max=self.work_max,
        )

    def table(self) -> AtsTable[Any]:
        table: AtsTable[Any] = AtsTable(shard_count=SHARD_COUNT, make_row=tuple)
        for index, (sku, _, _) in enumerate(self.demands):
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
    quantities = st.integers(1, units_max)
    sets = [
        [
            (f"O{name}", MONDAY.toordinal() + draw(st.integers(0, 2)),
             draw(st.integers(0, 3)), draw(st.sampled_from([0, 1, 1000])))
            for name in draw(st.permutations(range(draw(st.integers(1, 3)))))
        ]
        for _ in range(draw(st.integers(1, 3)))
    ]  # fmt: skip
    set_numbers = st.integers(-1, len(sets) - 1)
    set_of_origin = draw(st.lists(set_numbers, min_size=1, max_size=4))
    count = draw(st.integers(0, nodes_max))
    return Market(
        demands=[
            (f"S{name}", draw(quantities), draw(st.integers(0, 1000)))
            for name in draw(st.permutations(range(sku_count)))
        ],
        sets=sets,
        set_of_origin=set_of_origin,
        origins=[draw(st.integers(0, len(set_of_origin) - 1)) for _ in range(count)],
        places=[draw(PLACES) for _ in range(count)],
        stock=[
            [draw(st.integers(0, units_max - 1)) for _ in range(sku_count)] for _ in range(count)
        ],
        other_sets=draw(st.dictionaries(st.integers(0, nodes_max), set_numbers, max_size=3)),
        place=draw(st.none() | PLACES),
        max_shipments=draw(st.integers(1, 5)),
        work_max=draw(st.sampled_from([0, 1, 3, 10, WORK_MAX])),
    )


def distinct(sets: Sequence[Sequence[Option]]) -> bool:
    return len({tuple(options) for options in sets}) == len(sets)


@settings(max_examples=400, deadline=None)
@given(markets().filter(lambda market: distinct(market.sets)), st.booleans())
def test_the_plans_are_the_specifications(market: Market, best_only: bool) -> None:
    """Shipments, units, options, costs, distances, order, exactness and bound, also where work runs
    out on the way; None where the specification has none."""
    search = CartSearch(market.table())

    assert market.specified(best_only) == market.compiled(search, best_only)


@settings(max_examples=60, deadline=None)
@given(markets(8).filter(lambda market: distinct(market.sets)), st.data())
def test_a_cart_leaves_nothing_behind_for_the_next(market: Market, data: st.DataObject) -> None:
    """One search, one network, several carts: each is answered as if it were the first."""
    search = CartSearch(market.table())
    nodes = Nodes(market.node_ids, market.places, market.origins)
    options = Options(market.sets, market.set_of_origin)
    count = len(market.demands)
    for _ in range(4):
        size = data.draw(st.integers(1, count))
        other = market._replace(
            demands=market.demands[:size],
            stock=[units[:size] for units in market.stock],
            other_sets=data.draw(st.dictionaries(st.integers(0, 8), st.just(-1), max_size=2)),
            max_shipments=data.draw(st.integers(1, 4)),
            place=data.draw(st.none() | PLACES),
        )

        assert other.specified(False) == other.asked(search, nodes, options, False)


def test_nodes_of_many_kinds_of_stock_are_all_looked_at() -> None:
    """With more than 64 different stocks in a group the specification leaves none out, and work
    runs as fast; below and above that number the plans are the same."""
    for kinds, work_max in ((8, 2000), (9, 2000), (9, 30)):
        stock = [[a, b] for a in range(kinds) for b in range(kinds)]
        market = Market(
            demands=[("S0", 9, 7), ("S1", 10, 3)],
            sets=[[("A", 5, 3, 10), ("B", 3, 9, 1)]],
            set_of_origin=[0],
            origins=[0] * len(stock),
            places=[((7 * n) % 50 / 10, n / 100) for n in range(len(stock))],
            stock=stock,
            other_sets={},
            place=(1.0, 1.0),
            max_shipments=3,
            work_max=work_max,
        )
        search = CartSearch(market.table())

        for best_only in (False, True):
            expected = market.specified(best_only)

            assert expected is not None
            assert expected == market.compiled(search, best_only)


def test_what_is_not_plain_is_left_to_the_specification() -> None:
    """Thirteen SKUs, more units than a position may have, costs that fill 64 bits, no such SKU."""
    market = Market(
        demands=[(f"S{n:02}", 1, 1) for n in range(12)],
        sets=[[("A", 5, 3, 10)]],
        set_of_origin=[0],
        origins=[0],
        places=[(0.0, 0.0)],
        stock=[[2**31 - 10] * 12],
        other_sets={},
        place=None,
        max_shipments=1,
    )
    search = CartSearch(market.table())
    nodes, options = Nodes(["N000"], [(0.0, 0.0)], [0]), Options(market.sets, [0])
    wider = Market(*market)._replace(demands=[*market.demands, ("S12", 1, 1)])
    heavy = market._replace(demands=[("S00", 2**31 - 10, 10_000_000)])
    dear = Options([[("A", 5, 3, 10**12)]], [0])

    assert market.specified(False) == market.asked(search, nodes, options, False)
    assert wider.asked(search, nodes, options, False) is None
    assert heavy.asked(search, nodes, options, False) is not None
    assert heavy.asked(search, nodes, dear, False) is None
    for sku, quantity in (("S00", 2**31), ("S00", 2**31 - 9), ("elsewhere", 1)):
        asked = market._replace(demands=[(sku, quantity, 1)])
        assert asked.asked(search, nodes, options, False) is None


def test_a_network_that_does_not_fit_together_is_refused() -> None:
    """Ids that do not rise, lists of other lengths, a set that is not there."""
    for node_ids, places, origins in (
        (["B", "A"], [(0.0, 0.0)] * 2, [0, 0]),
        (["A", "A"], [(0.0, 0.0)] * 2, [0, 0]),
        (["A", "B"], [(0.0, 0.0)], [0, 0]),
        (["A", "B"], [(0.0, 0.0)] * 2, [0]),
    ):
        with pytest.raises(ValueError):
            Nodes(node_ids, places, origins)
    for number in (-2, 1):
        with pytest.raises(ValueError, match="no set"):
            Options([[("A", 5, 3, 10)]], [number])


def test_days_beside_each_other_are_told_apart() -> None:
    """An earlier day for more shipments, a later one for fewer: both, fewest first."""
    monday, tuesday = MONDAY.toordinal(), (MONDAY + timedelta(days=1)).toordinal()
    market = Market(
        demands=[("S0", 1, 1), ("S1", 1, 1)],
        sets=[[("fast", monday, 5, 0)], [("slow", tuesday, 5, 0)]],
        set_of_origin=[0, 1],
        origins=[0, 0, 1],
        places=[(0.0, 0.0)] * 3,
        stock=[[1, 0], [0, 1], [1, 1]],
        other_sets={},
        place=None,
        max_shipments=2,
    )

    found = market.compiled(CartSearch(market.table()), False)

    assert found == market.specified(False)
    assert found == ([(((2, 0, (1, 1)),), 5000, 0, tuesday),
                      (((0, 0, (1, 0)), (1, 0, (0, 1))), 10000, 0, monday)], True, 1)  # fmt: skip
