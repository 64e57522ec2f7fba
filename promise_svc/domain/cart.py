"""A cart, a destination and stock figures -> delivery promises, and why lines are in none.

A line is promised whole or not at all, a bundle with all its components or none. Lines are taken in
request order: where stock or the split limit cannot serve all, earlier lines win. The set kept is
one that no refused line could join, not always the largest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from typing import NamedTuple

from promise_svc.domain.bundle import requested_line_id, together
from promise_svc.domain.delivery import DeliveryPromise
from promise_svc.domain.frontier import any_plan, best_plan, frontier
from promise_svc.domain.network import NetworkSnapshot
from promise_svc.domain.reach import Line, Reach, Service, UnfulfilledReason, Wanted
from promise_svc.domain.rules import PRIORITY_MAX, OrderRules
from promise_svc.domain.sourcing import (
    WORK_MAX,
    Candidate,
    DeliveryOption,
    Demand,
    PlannedShipment,
    SourcingPlan,
    Work,
)
from promise_svc.domain.telling import Telling, in_order

_LINES_TRIED_MAX = 64
"""Lines looked for nodes for one by one against the split limit; those after them are kept only
where the nodes found so far have them."""


class UnfulfilledLine(NamedTuple):
    """A line that no promise covers."""

    line_id: str
    reason: UnfulfilledReason
    ats: int | None
    """Of its SKU over the nodes that could have served it; None where none could."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cart:
    """What is to be promised, from what."""

    lines: Sequence[Line]
    """``line_id`` is unique."""
    stock: Mapping[str, Mapping[str, int]]
    """SKU -> node -> units that may be sold there now."""
    wanted: Wanted
    max_shipments: int
    max_options: int


class PromisedCart(NamedTuple):
    """Promises, best first, each for all lines but the unfulfilled ones."""

    options: tuple[DeliveryPromise, ...]
    unfulfilled_lines: tuple[UnfulfilledLine, ...]
    """In request order."""
    priority: int = PRIORITY_MAX
    """Nodes of higher numbers were not needed."""
    with_inbound: Mapping[str, int] = {}
    """SKU -> ``ats`` and what is on its way, where that was too little too."""
    within_limit: Mapping[str, int] = {}
    """Line beyond the split limit -> units that fit beside the lines before it."""


def promise_cart(snapshot: NetworkSnapshot, cart: Cart) -> PromisedCart:
    """The best promises for a cart: fewest shipments, then earliest, then cheapest, then nearest.

    With more than one option asked for, the earliest of all is among them; all within the nodes
    that priorities leave. Cost: a few microseconds a node with stock, then the search (bounded by
    WORK_MAX steps, shared by as many priorities as rules give).
    """
    rules = OrderRules(snapshot, cart.wanted)
    cart = replace(cart, max_shipments=rules.max_shipments(cart.max_shipments))
    sourcing = _CartSourcing(snapshot, cart, rules)
    *earlier, last = rules.priorities
    promised = sourcing.within(cart.lines, last, len(earlier) + 1)
    if not promised.options:
        return promised
    refused = {requested_line_id(line.line_id) for line in promised.unfulfilled_lines}
    kept = [line for line in cart.lines if requested_line_id(line.line_id) not in refused]
    cut = False
    for priority in earlier:
        fewer = sourcing.within(kept, priority, len(earlier) + 1, whole=True)
        cut = cut or sourcing.cut
        if fewer.options and not fewer.unfulfilled_lines:
            promised = fewer._replace(
                unfulfilled_lines=promised.unfulfilled_lines,
                within_limit=promised.within_limit,
            )
            break
    if cut:
        options = tuple(option._replace(exact=False) for option in promised.options)
        promised = promised._replace(options=options)
    return promised


class _CartSourcing:
    """One cart on its way to promises."""

    def __init__(self, snapshot: NetworkSnapshot, cart: Cart, rules: OrderRules) -> None:
        self._snapshot = snapshot
        self._cart = cart
        self._rules = rules
        self._reach = Reach(snapshot, cart.wanted)
        self._meters: dict[str, int] = {}
        self._start(PRIORITY_MAX, WORK_MAX)

    def _start(self, priority: int, work_max: int) -> None:
        self._priority = priority
        self._work_max = work_max
        self._work = Work(work_max)
        self._fitting: frozenset[str] = frozenset()
        """Nodes, no more than the split limit, that fill the lines kept so far."""
        self._tried_all = True
        self._served: dict[str, dict[str, int]] = {}
        self._refused: dict[str, UnfulfilledLine] = {}
        self._fit: dict[str, int] = {}

    def within(
        self, lines: Sequence[Line], priority: int, shares: int, *, whole: bool = False
    ) -> PromisedCart:
        """Promises from nodes of priorities up to this one, with one of so many shares of work; of
        ``whole`` carts none is looked for where a line is not in stock."""
        self._start(priority, WORK_MAX // shares)
        kept = self._lines_in_stock(lines)
        if whole and len(kept) < len(lines):
            kept = []
        plans = self._plans(kept)
        if kept and not plans:
            kept = self._lines_within_split_limit(kept)
            plans = self._plans(kept)
        return PromisedCart(
            options=tuple(self._promise(plan, kept) for plan in plans),
            unfulfilled_lines=tuple(
                self._refused[line.line_id] for line in lines if line.line_id in self._refused
            ),
            priority=priority,
            within_limit=self._fit,
        )

    @property
    def cut(self) -> bool:
        """Whether the last promises may have been missed for want of work."""
        return self._work.spent or not self._tried_all

    def _lines_in_stock(self, lines: Sequence[Line]) -> list[Line]:
        """Lines that the nodes in reach have together; the others are refused."""
        kept: list[Line] = []
        taken: dict[str, int] = {}
        for group in together(lines):
            refused = False
            for line in group:
                wanted = taken.get(line.sku, 0) + line.quantity
                if self._snapshot.item(line.sku) is None:
                    self._refuse(line, UnfulfilledReason.UNKNOWN_SKU)
                elif wanted > sum(self._served_stock(line.sku).values()):
                    self._refuse(line, self._why_short(line.sku, wanted))
                else:
                    continue
                refused = True
            if not refused:
                for line in group:
                    taken[line.sku] = taken.get(line.sku, 0) + line.quantity
                kept += group
        return kept

    def _why_short(self, sku: str, wanted: int) -> UnfulfilledReason:
        if self._reach.nowhere:
            return self._reach.nowhere
        served = {**self._reached_stock(sku), **self._stock_at_full_nodes(sku)}
        allowed = self._rules.allowed(sku, served, self._priority)
        if sum(allowed.values()) >= wanted:
            return UnfulfilledReason.CAPACITY_FULL
        enough = sum(self._reached_stock(sku).values()) >= wanted
        reasons = UnfulfilledReason
        return reasons.EXCLUDED_BY_RULE if enough else reasons.INSUFFICIENT_STOCK

    def _lines_within_split_limit(self, lines: Sequence[Line]) -> list[Line]:
        """Lines, tried in order, that fit within the split limit together."""
        work = Work(self._work_max // 2)
        kept: list[Line] = []
        units: dict[str, int] = {}
        for index, group in enumerate(together(lines)):
            wanted = {line.sku: units.get(line.sku, 0) + line.quantity for line in group}
            if all(self._fitting_ats(sku) >= quantity for sku, quantity in wanted.items()) or (
                index < _LINES_TRIED_MAX and self._find_nodes([*kept, *group], work)
            ):
                kept += group
                units |= wanted
            else:
                for line in group:
                    self._refuse(line, UnfulfilledReason.SPLIT_LIMIT)
                if len(group) == 1:
                    self._fit[line.line_id] = self._fits(line, units.get(line.sku, 0))
        self._tried_all = not work.spent
        self._work = Work(self._work_max)
        return kept

    def _plans(self, lines: Sequence[Line]) -> list[SourcingPlan]:
        """Plans for exactly these lines, best first; none when there is none."""
        if not lines:
            return []
        demands = demands_of(self._snapshot, lines)
        candidates = self._candidates(demands)
        max_shipments = self._cart.max_shipments
        if self._cart.max_options == 1:
            best = best_plan(demands, candidates, max_shipments=max_shipments, work=self._work)
            found = [] if best is None else [best]
        else:
            found = frontier(demands, candidates, max_shipments=max_shipments, work=self._work)
        if not found and self._fitting:
            found = self._plan_at(self._fitting, demands, candidates)
        if not self._tried_all:
            found = [replace(plan, exact=False) for plan in found]
        chosen = found[: self._cart.max_options]
        if len(chosen) < len(found):
            chosen[-1] = min(found, key=lambda plan: plan.latest_delivery_date)
        return list(dict.fromkeys(chosen))

    def _plan_at(
        self,
        node_ids: frozenset[str],
        demands: tuple[Demand, ...],
        candidates: tuple[Candidate, ...],
    ) -> list[SourcingPlan]:
        """The plan of nodes known to do, where the search found none within its bound."""
        known = tuple(c for c in candidates if c.node_id in node_ids)
        max_shipments = self._cart.max_shipments
        plan = best_plan(demands, known, max_shipments=max_shipments, work=self._work)
        assert plan is not None, "nodes found to fill the lines fill them"
        return [replace(plan, exact=False, shipment_count_bound=1)]

    def _promise(self, plan: SourcingPlan, lines: Sequence[Line]) -> DeliveryPromise:
        """A plan told by lines, with dates and costs."""
        telling = Telling(lines, demands_of(self._snapshot, lines))
        arrivals = self._cart.wanted.arrivals
        shipments = [
            telling.shipment(
                planned.node_id,
                self._service(planned),
                planned.quantities,
                arrivals.get(planned.node_id),
            )
            for planned in plan.shipments
        ]
        assert telling.told(), "a plan fills every line"
        return DeliveryPromise(
            shipments=in_order(shipments),
            exact=plan.exact,
            shipment_count_bound=plan.shipment_count_bound,
        )

    def _find_nodes(self, lines: Sequence[Line], work: Work) -> bool:
        """Look for nodes that fill ``lines`` within the split limit, and remember them."""
        if work.spent:
            return False
        demands = demands_of(self._snapshot, lines)
        plan = any_plan(
            demands,
            self._candidates(demands),
            max_shipments=self._cart.max_shipments,
            work=work,
        )
        if plan is not None:
            self._fitting = frozenset(shipment.node_id for shipment in plan.shipments)
        return plan is not None

    def _fitting_ats(self, sku: str) -> int:
        """What the nodes found so far have of a SKU."""
        served = self._served_stock(sku)
        return sum(served.get(node_id, 0) for node_id in self._fitting)

    def _fits(self, line: Line, taken: int) -> int:
        """Units of a line at the nodes found so far, and at the fullest others that may be added;
        ``taken`` are its SKU's for earlier lines."""
        served = self._served_stock(line.sku)
        others = sorted(units for n, units in served.items() if n not in self._fitting)
        more = self._cart.max_shipments - len(self._fitting)
        units = self._fitting_ats(line.sku) + sum(others[-more:] if more > 0 else ())
        return max(0, min(units - taken, line.quantity - 1))

    def _refuse(self, line: Line, reason: UnfulfilledReason) -> None:
        # Earlier reasons say that no node could have served it: there is nothing to add up.
        told = reason >= UnfulfilledReason.CAPACITY_FULL
        self._refused[line.line_id] = UnfulfilledLine(
            line.line_id, reason, sum(self._served_stock(line.sku).values()) if told else None
        )

    def _served_stock(self, sku: str) -> dict[str, int]:
        """Units of the SKU at the nodes that can serve the destination and that rules leave."""
        served = self._served.get(sku)
        if served is None:
            served = self._rules.allowed(sku, self._reached_stock(sku), self._priority)
            self._served[sku] = served
        return served

    def _stock_at_full_nodes(self, sku: str) -> dict[str, int]:
        """Units of the SKU at nodes that would serve the destination, had they room on any day."""
        stock, full = self._cart.stock.get(sku, {}), UnfulfilledReason.CAPACITY_FULL
        later = self._cart.wanted.arrivals
        return {n: stock[n] for n in later if n in stock and self._reach.services(n) is full}

    def _reached_stock(self, sku: str) -> dict[str, int]:
        stock = self._cart.stock.get(sku, {})
        reached = self._reach.served
        return {n: units for n, units in stock.items() if units and n in reached}

    def _candidates(self, demands: tuple[Demand, ...]) -> tuple[Candidate, ...]:
        stock = [self._served_stock(demand.sku) for demand in demands]
        node_ids = list(set().union(*stock))
        units = (map(served.get, node_ids, repeat(0)) for served in stock)
        return tuple(
            map(
                Candidate,
                node_ids,
                zip(*units, strict=True),
                self._weighed_options(node_ids),
                self._distances_meters(node_ids),
            )
        )

    def _weighed_options(self, node_ids: list[str]) -> list[tuple[DeliveryOption, ...]]:
        """Options at what they cost, and what rules count on top; equal ones are one tuple."""
        options = self._reach.options(node_ids)
        if not self._rules.weigh:
            return options
        weighed: dict[tuple[int, int], tuple[DeliveryOption, ...]] = {}
        for index, node_id in enumerate(node_ids):
            extra = self._rules.cost_micros(node_id)
            if extra:
                key = id(options[index]), extra
                weighed.setdefault(
                    key,
                    tuple(
                        option._replace(base_cost_micros=option.base_cost_micros + extra)
                        for option in options[index]
                    ),
                )
                options[index] = weighed[key]
        return options

    def _distances_meters(self, node_ids: list[str]) -> list[int]:
        known = self._meters
        new = [node_id for node_id in node_ids if node_id not in known]
        known.update(zip(new, self._reach.distances_meters(new), strict=True))
        return [known[node_id] for node_id in node_ids]

    def _service(self, planned: PlannedShipment) -> Service:
        """The service that a planned shipment goes by."""
        services = self._reach.services(planned.node_id)
        assert isinstance(services, tuple), "only served nodes are candidates"
        return next(s for s in services if s.option.name == planned.option.name)


def demands_of(snapshot: NetworkSnapshot, lines: Sequence[Line]) -> tuple[Demand, ...]:
    """What the lines want together, a SKU each."""
    quantities: dict[str, int] = {}
    for line in lines:
        quantities[line.sku] = quantities.get(line.sku, 0) + line.quantity
    items = map(snapshot.item, quantities)
    return tuple(
        Demand(sku, quantity, 0 if item is None else item.weight_grams)
        for (sku, quantity), item in zip(quantities.items(), items, strict=True)
    )
