"""Carts that need no exception, promised by the compiled search straight from the table.

Answers are ``domain.cart.promise_cart``'s, or None: then that has its turn. It has it for pickups,
for supply on its way, where rules speak of nodes, where a line is not in stock, and where no plan
was found.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from datetime import date
from functools import partial
from typing import TYPE_CHECKING

from promise_svc.domain.cart import PromisedCart
from promise_svc.domain.delivery import DeliveryPromise, Shipment, ShipmentLine
from promise_svc.domain.network import NetworkSnapshot
from promise_svc.domain.reach import Address, Line, Reach, Service, Wanted
from promise_svc.domain.routes import Routes
from promise_svc.domain.rules import PRIORITY_DEFAULT, OrderRules
from promise_svc.domain.sourcing import WORK_MAX, DeliveryOption
from promise_svc.hotpath import sourcing

if TYPE_CHECKING:
    from promise_svc.hotpath import CartSearch, Nodes, Options


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
    if wanted.address is None or wanted.arrivals:
        return None
    items = snapshot.documents.items
    weights: dict[str, int] = {}
    for line in lines:
        item = items.get(line.sku)
        if item is None:
            return None
        weights[line.sku] = item.weight_grams
    rules = OrderRules(snapshot, wanted)
    if rules.speak_of_nodes:
        return None
    nodes = snapshot.derived(_nodes)
    found = search.plans(
        nodes,
        Reach(snapshot, wanted).derived(_options),
        lines,
        weights,
        place=_place(wanted.address),
        other_origins=_other_origins(nodes, wanted),
        max_shipments=rules.max_shipments(max_shipments),
        max_options=max_options,
        work_max=WORK_MAX,
        make_shipment=_make_shipment,
        make_line=_make_line,
    )
    if found is None:
        return None
    plans, exact, bound = found
    options = tuple(
        [
            DeliveryPromise(shipments=shipments, exact=exact, shipment_count_bound=bound)
            for shipments in plans
        ]
    )
    return PromisedCart(options=options, unfulfilled_lines=(), priority=PRIORITY_DEFAULT)


# As Shipment._make, without its Python frame.
_make_shipment = partial(tuple.__new__, Shipment)
_make_line = partial(tuple.__new__, ShipmentLine)


def _place(address: Address) -> tuple[float, float] | None:
    if address.latitude is None or address.longitude is None:
        return None
    return address.latitude, address.longitude


def _other_origins(nodes: Nodes, wanted: Wanted) -> dict[int, int]:
    """Nodes that do not serve this order as others like them do: here a candidate is left out (-1),
    or is like another origin of ``Options``."""
    found = {}
    for node_id in wanted.excluded_node_ids:
        number = bisect_left(nodes.node_ids, node_id)
        if number < len(nodes.node_ids) and nodes.node_ids[number] == node_id:
            found[number] = -1
    return found


def _nodes(snapshot: NetworkSnapshot) -> Nodes:
    routes = snapshot.derived(Routes)
    numbers = {origin_id: number for number, origin_id in enumerate(routes.nodes_of)}
    node_ids = sorted(routes.places)
    return sourcing.Nodes(
        node_ids,
        [routes.places[node_id] for node_id in node_ids],
        [numbers[routes.origin_ids[node_id]] for node_id in node_ids],
    )


def _options(reach: Reach) -> Options:
    numbers: dict[tuple[DeliveryOption, ...], int] = {}
    set_of_origin = []
    services = []
    for found in reach.services_by_origin():
        options = tuple(service.option for service in found)
        set_of_origin.append(numbers.setdefault(options, len(numbers)) if options else -1)
        services.append([_told(service) for service in found])
    sets = [
        [(name, day.toordinal(), base, kilogram) for name, day, base, kilogram in options]
        for options in numbers
    ]
    return sourcing.Options(sets, set_of_origin, services)


def _told(service: Service) -> tuple[str, str, date, date, date, int, int | None]:
    """What a shipment says of its service."""
    method, carrier_service, dates, ready_ms, _, _ = service
    ship_date, earliest, latest, order_by_ms = dates
    return method, carrier_service, ship_date, earliest, latest, order_by_ms, ready_ms
