"""Carts filled from supply on its way, where stock here now does not do.

A node's supply of one arrival is a place of its own to the search: its dates are those of an order
placed when it arrives, and what leaves it is a shipment of its own. Only SKUs that stock here now
cannot serve are offered from such places, and only those of the earliest arrivals that do.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from promise_svc.domain.cart import Cart, PromisedCart, promise_cart
from promise_svc.domain.delivery import DeliveryPromise, Shipment, ShipmentLine
from promise_svc.domain.network import FulfillmentMethod, NetworkSnapshot
from promise_svc.domain.reach import Arrival, UnfulfilledReason


class InboundUnits(NamedTuple):
    """What may be sold of one bucket before it is here."""

    node_id: str
    bucket: str
    arrival_ms: int
    quantity: int
    worked: Mapping[FulfillmentMethod, int] = {}
    """As of ``Arrival``."""


Inbound = Mapping[str, Sequence[InboundUnits]]
"""SKU -> its buckets with a date that has not passed."""


def promise_later(snapshot: NetworkSnapshot, cart: Cart, inbound: Inbound) -> PromisedCart:
    """As ``promise_cart``, with supply on its way for what stock here now is too little for.

    Costs as many searches more as the logarithm of the arrival times; none where nothing lacks.
    """
    now = promise_cart(snapshot, cart)
    sku_of = {line.line_id: line.sku for line in cart.lines}
    short = UnfulfilledReason.INSUFFICIENT_STOCK
    lacking = {sku_of[x.line_id] for x in now.unfulfilled_lines if x.reason is short}
    times = sorted({x.arrival_ms for sku in lacking for x in inbound.get(sku, ())})
    if not times:
        return now
    tried: dict[int, PromisedCart] = {}

    def refused_count(until_ms: int) -> int:
        tried[until_ms] = promise_cart(snapshot, _until(cart, inbound, lacking, until_ms))
        return len(tried[until_ms].unfulfilled_lines)

    fewest = refused_count(times[-1])
    if fewest == len(now.unfulfilled_lines):
        return now._replace(with_inbound=_ats(tried[times[-1]], sku_of))
    index = bisect_left(times[:-1], -fewest, key=lambda at: -refused_count(at))
    promised = tried[times[index]]
    options = tuple(_from_buckets(option, inbound) for option in promised.options)
    return promised._replace(options=options, with_inbound=_ats(tried[times[-1]], sku_of))


def _ats(refused: PromisedCart, sku_of: Mapping[str, str]) -> dict[str, int]:
    short = UnfulfilledReason.INSUFFICIENT_STOCK
    return {sku_of[x.line_id]: x.ats or 0 for x in refused.unfulfilled_lines if x.reason is short}


def _until(cart: Cart, inbound: Inbound, lacking: set[str], until_ms: int) -> Cart:
    """The cart with what arrives by then among its stock."""
    stock = {sku: dict(units) for sku, units in cart.stock.items()}
    arrivals = dict(cart.wanted.arrivals)
    for sku in lacking:
        places = stock.setdefault(sku, {})
        for node_id, _, arrival_ms, quantity, worked in inbound.get(sku, ()):
            if arrival_ms <= until_ms:
                place = f"{node_id}\n{arrival_ms}"
                arrivals[place] = Arrival(node_id, arrival_ms, worked)
                places[place] = places.get(place, 0) + quantity
    return replace(cart, stock=stock, wanted=cart.wanted._replace(arrivals=arrivals))


def _from_buckets(option: DeliveryPromise, inbound: Inbound) -> DeliveryPromise:
    """Name the buckets of what arrives; at one node and time, in the order they are given."""
    named = (_from_bucket(x, inbound) if x.arrival_ms else x for x in option.shipments)
    return option._replace(shipments=tuple(named))


def _from_bucket(shipment: Shipment, inbound: Inbound) -> Shipment:
    place = shipment.node_id, shipment.arrival_ms
    left = {
        sku: {x.bucket: x.quantity for x in inbound[sku] if (x.node_id, x.arrival_ms) == place}
        for sku in {line.sku for line in shipment.lines}
    }
    lines = tuple(part for line in shipment.lines for part in _taken(line, left[line.sku]))
    return shipment._replace(lines=lines)


def _taken(line: ShipmentLine, left: dict[str, int]) -> list[ShipmentLine]:
    parts, wanted = [], line.quantity
    for bucket, units in left.items():
        taken = min(units, wanted)
        if taken:
            parts.append(line._replace(quantity=taken, bucket=bucket))
            left[bucket] -= taken
            wanted -= taken
    assert not wanted, "the search took what there is"
    return parts
