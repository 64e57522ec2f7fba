"""Carts that need no exception, promised by the compiled search straight from the table.

Answers are ``domain.cart.promise_cart``'s, or None: then that has its turn. It has it for pickups,
for supply on its way, where rules speak of nodes, where a line is not in stock, and where no plan
was found.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import TYPE_CHECKING

from promise_svc.domain.cart import PromisedCart, demands_of, offered
from promise_svc.domain.delivery import DeliveryPromise
from promise_svc.domain.network import NetworkSnapshot
from promise_svc.domain.reach import Address, Line, Reach, Wanted
from promise_svc.domain.routes import Routes
from promise_svc.domain.rules import PRIORITY_DEFAULT, OrderRules
from promise_svc.domain.sourcing import WORK_MAX, DeliveryOption
from promise_svc.domain.telling import Telling, in_order
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

    Cost: some 50 ns a node with stock, and a few microseconds an option.
    """
    if wanted.address is None or wanted.arrivals or not all(map(snapshot.item, _skus(lines))):
        return None
    rules = OrderRules(snapshot, wanted)
    if rules.speak_of_nodes:
        return None
    demands = demands_of(snapshot, lines)
    reach = Reach(snapshot, wanted)
    nodes = snapshot.derived(_nodes)
    found = search.plans(
        nodes,
        reach.derived(_options),
        list(demands),
        place=_place(wanted.address),
        other_sets=_other_sets(nodes, wanted),
        max_shipments=rules.max_shipments(max_shipments),
        best_only=max_options == 1,
        work_max=WORK_MAX,
    )
    if found is None:
        return None
    plans, exact, shipment_count_bound = found
    options = []
    for shipments, _, _, _ in offered(plans, max_options, lambda plan: plan[3]):
        telling = Telling(lines, demands)
        told = []
        for number, place_in_set, units in shipments:
            node_id = nodes.node_ids[number]
            services = reach.services(node_id)
            assert isinstance(services, tuple), "only served nodes are candidates"
            told.append(telling.shipment(node_id, services[place_in_set], units, None))
        assert telling.told(), "a plan fills every line"
        options.append(
            DeliveryPromise(
                shipments=in_order(told), exact=exact, shipment_count_bound=shipment_count_bound
            )
        )
    return PromisedCart(options=tuple(options), unfulfilled_lines=(), priority=PRIORITY_DEFAULT)


def _skus(lines: Sequence[Line]) -> list[str]:
    return [line.sku for line in lines]


def _place(address: Address) -> tuple[float, float] | None:
    if address.latitude is None or address.longitude is None:
        return None
    return address.latitude, address.longitude


def _other_sets(nodes: Nodes, wanted: Wanted) -> dict[int, int]:
    """Nodes that do not serve this order as others like them do: here a candidate is left out (-1)
    or offered in other ways (another set of ``Options``)."""
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
    """A set's options stand in the order of the services they are of."""
    numbers: dict[tuple[DeliveryOption, ...], int] = {}
    set_of_origin = [
        -1 if options is None else numbers.setdefault(options, len(numbers))
        for options in reach.options_by_origin()
    ]
    sets = [
        [(name, day.toordinal(), base, kilogram) for name, day, base, kilogram in options]
        for options in numbers
    ]
    return sourcing.Options(sets, set_of_origin)
