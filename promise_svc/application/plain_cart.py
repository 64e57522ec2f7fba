"""Carts that need no exception, promised by the compiled search straight from the table.

Answers are ``domain.cart.promise_cart``'s, or None: then that has its turn. It has it for supply on
its way, where a line is not in stock, and where no plan was found.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from functools import partial
from typing import TYPE_CHECKING

from promise_svc.domain.cart import PromisedCart
from promise_svc.domain.delivery import DeliveryPromise, Shipment, ShipmentLine
from promise_svc.domain.network import NetworkSnapshot
from promise_svc.domain.reach import Address, Line, Reach, Service, Wanted
from promise_svc.domain.routes import Routes
from promise_svc.domain.rules import OrderRules
from promise_svc.domain.sourcing import WORK_MAX, DeliveryOption
from promise_svc.hotpath import sourcing

if TYPE_CHECKING:
    from promise_svc.hotpath import CartSearch, Nodes, Options

RULES_KEPT_MAX = 256
"""Kept kinds of orders: sets of rules that fit together, and classes of items; a byte a node each,
some 80 where the rules are of costs."""


def promise_plain_cart(
    search: CartSearch,
    snapshot: NetworkSnapshot,
    lines: Sequence[Line],
    wanted: Wanted,
    *,
    max_shipments: int,
    max_options: int,
) -> PromisedCart | None:
    """What ``promise_cart`` makes of the stock in the search's table as it stands for no segment.

    Cost: some 30 ns a node with stock, and a few microseconds an option.
    """
    if wanted.arrivals:
        return None
    items = snapshot.documents.items
    weights: dict[str, int] = {}
    for line in lines:
        item = items.get(line.sku)
        if item is None:
            return None
        weights[line.sku] = item.weight_grams
    rules = OrderRules(snapshot, wanted)
    terms = snapshot.derived(_TermsByRules)
    costs = terms.of_costs(rules)
    reach = Reach(snapshot, wanted)
    if wanted.address is None:
        options, others = costs.alone(reach, wanted.pickup_node_id)
    else:
        options, others = reach.derived(costs.options), _other_origins(costs.nodes, wanted)
    run = partial(
        search.plans,
        costs.nodes,
        options,
        lines,
        weights,
        place=_place(wanted.address),
        other_origins=others,
        priorities=terms.priorities(rules, weights),
        max_shipments=rules.max_shipments(max_shipments),
        max_options=max_options,
        make_shipment=_make_shipment,
        make_line=_make_line,
    )
    *earlier, last = rules.priorities
    work_max = WORK_MAX // (len(earlier) + 1)
    found = run(priority_max=last, work_max=work_max)
    if not found or not found[0]:
        return None
    plans, exact, bound = found
    for priority in earlier:
        fewer = run(priority_max=priority, work_max=work_max)
        if fewer is None:
            return None
        if fewer[0]:
            (plans, exact, bound), last = fewer, priority
            break
    return PromisedCart(
        options=tuple(
            [
                DeliveryPromise(shipments=shipments, exact=exact, shipment_count_bound=bound)
                for shipments in plans
            ]
        ),
        unfulfilled_lines=(),
        priority=last,
    )


# As Shipment._make, without its Python frame.
_make_shipment = partial(tuple.__new__, Shipment)
_make_line = partial(tuple.__new__, ShipmentLine)


def _place(address: Address | None) -> tuple[float, float] | None:
    if address is None or address.latitude is None or address.longitude is None:
        return None
    return address.latitude, address.longitude


def _other_origins(nodes: Nodes, wanted: Wanted) -> dict[int, int]:
    """Nodes that do not serve this order as others like them do: here a candidate is left out (-1),
    or is like another origin of ``Options``."""
    numbers = (_number(nodes, node_id) for node_id in wanted.excluded_node_ids)
    return {number: -1 for number in numbers if number is not None}


def _number(nodes: Nodes, node_id: str) -> int | None:
    number = bisect_left(nodes.node_ids, node_id)
    known = number < len(nodes.node_ids) and nodes.node_ids[number] == node_id
    return number if known else None


class _Costs:
    """The network's nodes where some count as dearer than they are: like each other are those of
    one origin with one extra cost."""

    def __init__(self, routes: Routes, node_ids: list[str], extra: Mapping[str, int]) -> None:
        origins = {origin_id: number for number, origin_id in enumerate(routes.nodes_of)}
        self._kinds: dict[tuple[int, int], int] = {}
        numbers = []
        for node_id in node_ids:
            kind = origins[routes.origin_ids[node_id]], extra.get(node_id, 0)
            numbers.append(self._kinds.setdefault(kind, len(self._kinds)))
        places = [routes.places[node_id] for node_id in node_ids]
        self.nodes = sourcing.Nodes(node_ids, places, numbers)

    def options(self, reach: Reach) -> Options:
        """Of each kind what the search needs and what a shipment says."""
        sets: dict[tuple[DeliveryOption, ...], int] = {}
        set_of_kind, services = [], []
        by_origin = reach.services_by_origin()
        for origin, extra in self._kinds:
            found = by_origin[origin]
            options = tuple(_weighed(service.option, extra) for service in found)
            set_of_kind.append(sets.setdefault(options, len(sets)) if options else -1)
            services.append([_told(service) for service in found])
        return sourcing.Options(list(map(_plain, sets)), set_of_kind, services)

    def alone(self, reach: Reach, node_id: str) -> tuple[Options, dict[int, int]]:
        """One node, of a kind that no other is of, where goods are collected; what its shipment
        counts dearer is the same each way."""
        found, number = reach.services(node_id), _number(self.nodes, node_id)
        nobody = len(self._kinds)
        if number is None or not isinstance(found, tuple):
            return sourcing.Options([], [-1] * nobody, [()] * nobody), {}
        options = _plain([service.option for service in found])
        services = [_told(service) for service in found]
        made = sourcing.Options([options], [-1] * nobody + [0], [()] * nobody + [services])
        return made, {number: nobody}


class _TermsByRules:
    """What the rules that fit an order make of the network's nodes. Rules fit few orders apart:
    what was worked out for others like it is kept, up to RULES_KEPT_MAX kinds of orders."""

    def __init__(self, snapshot: NetworkSnapshot) -> None:
        self._routes = snapshot.derived(Routes)
        self._node_ids = sorted(self._routes.places)
        self._costs: dict[tuple[str, ...], _Costs] = {}
        self._priorities: dict[tuple[str, ...], bytes] = {}

    def of_costs(self, rules: OrderRules) -> _Costs:
        """Nodes at what rules count on top of their costs."""
        key = tuple([rule.rule_id for rule in rules.costs])
        found = self._costs.get(key)
        if found is None:
            if len(self._costs) >= RULES_KEPT_MAX:
                self._costs.clear()
            extra = {n: rules.cost_micros(n) for n in self._node_ids} if key else {}
            found = self._costs[key] = _Costs(self._routes, self._node_ids, extra)
        return found

    def priorities(self, rules: OrderRules, skus: Iterable[str]) -> list[bytes]:
        """Of each SKU the priorities of all nodes; nothing where no rule sets any."""
        telling = [rule.rule_id for rule in rules.rules if rule.excluded or rule.priority]
        if not telling:
            return []
        return [self._of_class(rules, telling, rules.handling_class(sku)) for sku in skus]

    def _of_class(self, rules: OrderRules, telling: list[str], handling_class: str) -> bytes:
        key = (handling_class, *telling)
        found = self._priorities.get(key)
        if found is None:
            if len(self._priorities) >= RULES_KEPT_MAX:
                self._priorities.clear()
            found = rules.priorities_of(handling_class, self._node_ids)
            self._priorities[key] = found
        return found


def _plain(options: Iterable[DeliveryOption]) -> list[tuple[str, int, int, int]]:
    return [(name, day.toordinal(), base, kilogram) for name, day, base, kilogram in options]


def _weighed(option: DeliveryOption, extra: int) -> DeliveryOption:
    return option._replace(base_cost_micros=option.base_cost_micros + extra) if extra else option


def _told(
    service: Service,
) -> tuple[str, str, date, date, date, int, int | None, int, int]:
    """What a shipment says of its service, and what that costs."""
    method, carrier_service, dates, ready_ms, base, kilogram = service
    ship_date, earliest, latest, order_by_ms = dates
    told = method, carrier_service, ship_date, earliest, latest, order_by_ms, ready_ms
    return *told, base, kilogram
