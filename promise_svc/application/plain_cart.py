"""Carts that need no exception, promised by the compiled search straight from the table.

Answers are ``domain.cart.promise_cart``'s, or None: then that has its turn. It has it for supply on
its way, where a line is not in stock, where no plan was found, and in a crowd without end.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from functools import partial
from typing import TYPE_CHECKING

from promise_svc.application.capacity import Capacity
from promise_svc.domain.cart import PromisedCart
from promise_svc.domain.delivery import DeliveryPromise, Shipment, ShipmentLine
from promise_svc.domain.network import FulfillmentMethod, NetworkSnapshot
from promise_svc.domain.reach import Address, Arrival, Line, Reach, Service, Wanted
from promise_svc.domain.routes import Routes
from promise_svc.domain.rules import OrderRules
from promise_svc.domain.sourcing import WORK_MAX, DeliveryOption
from promise_svc.hotpath import sourcing

if TYPE_CHECKING:
    from promise_svc.hotpath import CartSearch, Options

RULES_KEPT_MAX = 256
"""Kept kinds of orders: sets of rules that fit together, and classes of items; a byte a node each,
some 80 where the rules are of costs."""

FULL_ROUNDS_MAX = 40
"""Searches of one cart, each of which knows of more full nodes, before all its nodes are looked
at."""

FULL_KINDS_MAX = 4096
"""Kept kinds of full nodes a destination; about 1 KiB each."""


def promise_in_crowd(
    search: CartSearch,
    snapshot: NetworkSnapshot,
    lines: Sequence[Line],
    wanted: Wanted,
    capacity: Capacity,
    *,
    max_shipments: int,
    max_options: int,
) -> PromisedCart | None:
    """As ``promise_plain_cart``, each shipment on a day with room for it.

    A full node that is not known as one looks better than it is: plans without any such stand. So
    only nodes that would be chosen are looked at. Cost: a search more for each round that met some.
    """
    methods, order_ms = wanted.fulfillment_methods, wanted.order_ms
    arrivals: dict[str, Arrival] = {}
    for rounds in range(FULL_ROUNDS_MAX + 1):
        if rounds == FULL_ROUNDS_MAX:
            skus = {line.sku for line in lines}
            arrivals = capacity.full_nodes(capacity.stocked(skus), methods, order_ms)
        promised = promise_plain_cart(
            search,
            snapshot,
            lines,
            wanted._replace(arrivals=arrivals) if arrivals else wanted,
            max_shipments=max_shipments,
            max_options=max_options,
        )
        if promised is None or not capacity.bounds:
            return promised
        chosen = {s.node_id for option in promised.options for s in option.shipments}
        full = capacity.full_nodes(chosen - arrivals.keys(), methods, order_ms)
        if not full:
            return promised
        if not all(option.exact for option in promised.options):
            return None
        arrivals |= full
    return None


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
    ``wanted.arrivals`` are of full nodes only.

    Cost: some 30 ns a node with stock, and a few microseconds an option.
    """
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
        others = costs.left_out(wanted.excluded_node_ids)
        options = reach.derived(costs.kinds).options_of(reach, wanted.arrivals, others)
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


class _Costs:
    """The network's nodes where some count as dearer than they are: like each other are those of
    one origin with one extra cost."""

    def __init__(self, routes: Routes, node_ids: list[str], extra: Mapping[str, int]) -> None:
        origins = {origin_id: number for number, origin_id in enumerate(routes.nodes_of)}
        self._kinds: dict[tuple[int, int], int] = {}
        self._numbers = []
        for node_id in node_ids:
            kind = origins[routes.origin_ids[node_id]], extra.get(node_id, 0)
            self._numbers.append(self._kinds.setdefault(kind, len(self._kinds)))
        places = [routes.places[node_id] for node_id in node_ids]
        self.nodes = sourcing.Nodes(node_ids, places, self._numbers)
        self._extras = [extra for _, extra in self._kinds]

    def left_out(self, node_ids: Iterable[str]) -> dict[int, int]:
        """Nodes that are not to serve, as the search takes them."""
        numbers = map(self.number, node_ids)
        return {number: -1 for number in numbers if number is not None}

    def number(self, node_id: str) -> int | None:
        """Of a node of the network."""
        number = bisect_left(self.nodes.node_ids, node_id)
        known = number < len(self.nodes.node_ids) and self.nodes.node_ids[number] == node_id
        return number if known else None

    def kind(self, number: int) -> tuple[int, int]:
        """The number of a node's kind, and what it counts dearer."""
        kind = self._numbers[number]
        return kind, self._extras[kind]

    def kinds(self, reach: Reach) -> _Kinds:
        """Of each kind what the search needs and what a shipment says."""
        by_origin = reach.services_by_origin()
        return _Kinds(self, [(by_origin[origin], extra) for origin, extra in self._kinds])

    def alone(self, reach: Reach, node_id: str) -> tuple[Options, dict[int, int]]:
        """One node, of a kind that no other is of, where goods are collected; what its shipment
        counts dearer is the same each way."""
        found, number = reach.services(node_id), self.number(node_id)
        nobody = len(self._kinds)
        if number is None or not isinstance(found, tuple):
            return sourcing.Options([], [-1] * nobody, [()] * nobody), {}
        options = _plain([service.option for service in found])
        services = [_told(service) for service in found]
        made = sourcing.Options([options], [-1] * nobody + [0], [()] * nobody + [services])
        return made, {number: nobody}


class _Kinds:
    """Kinds of nodes as they serve one destination; those of full nodes are added as they are met,
    up to FULL_KINDS_MAX."""

    def __init__(self, costs: _Costs, found: Iterable[tuple[Sequence[Service], int]]) -> None:
        self._costs = costs
        self._sets: dict[tuple[DeliveryOption, ...], int] = {}
        self._set_of_kind: list[int] = []
        self._services: list[list[_Told]] = []
        for services, extra in found:
            self._add(services, extra)
        self._known_count = len(self._services)
        self._full: dict[tuple[int, tuple[tuple[FulfillmentMethod, int], ...]], int] = {}
        self._options = self._made()

    def options_of(
        self, reach: Reach, arrivals: Mapping[str, Arrival], others: dict[int, int]
    ) -> Options:
        """For the search; ``others`` learns which kinds full nodes are of now."""
        if len(self._full) > FULL_KINDS_MAX:
            self._full.clear()
            del self._set_of_kind[self._known_count :], self._services[self._known_count :]
        before = len(self._full)
        for node_id, arrival in arrivals.items():
            number = self._costs.number(node_id)
            if number is None or number in others:
                continue
            kind, extra = self._costs.kind(number)
            key = kind, tuple(sorted(arrival.worked.items()))
            full = self._full.get(key)
            if full is None:
                full = self._full[key] = len(self._services)
                found = reach.services(node_id)
                self._add(found if isinstance(found, tuple) else (), extra)
            others[number] = full
        if len(self._full) != before:
            self._options = self._made()
        return self._options

    def _add(self, services: Sequence[Service], extra: int) -> None:
        options = tuple(_weighed(service.option, extra) for service in services)
        number = self._sets.setdefault(options, len(self._sets)) if options else -1
        self._set_of_kind.append(number)
        self._services.append([_told(service) for service in services])

    def _made(self) -> Options:
        return sourcing.Options(list(map(_plain, self._sets)), self._set_of_kind, self._services)


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


_Told = tuple[str, str, date, date, date, int, int | None, int, int]


def _told(service: Service) -> _Told:
    """What a shipment says of its service, and what that costs."""
    method, carrier_service, dates, ready_ms, base, kilogram = service
    ship_date, earliest, latest, order_by_ms = dates
    told = method, carrier_service, ship_date, earliest, latest, order_by_ms, ready_ms
    return *told, base, kilogram
