"""Quotes for tests: a plan of single units from one node unless said otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

from promise_svc.application.quote import PromisedPlan, Quote, QuoteSigner
from promise_svc.domain.delivery import Shipment, ShipmentLine
from promise_svc.domain.network import FulfillmentMethod

KEY = bytes(range(32))
CLUSTER = "cluster-1"
ORDER_BY_MS = 1_800_000_000_000


def a_signer(*keys: bytes, cluster_id: str = CLUSTER) -> QuoteSigner:
    return QuoteSigner(keys or (KEY,), cluster_id)


def a_shipment(
    *lines: tuple[str, str, int], node_id: str = "n1", order_by_ms: int = ORDER_BY_MS
) -> Shipment:
    return Shipment(
        node_id=node_id,
        lines=tuple(ShipmentLine(*line) for line in lines),
        fulfillment_method=FulfillmentMethod.SHIP_TO_ADDRESS,
        carrier_service="ground",
        ship_date=date(2026, 11, 23),
        earliest_delivery_date=date(2026, 11, 24),
        latest_delivery_date=date(2026, 11, 25),
        cost_micros=5_000_000,
        order_by_ms=order_by_ms,
        ready_ms=None,
    )


def a_quote(
    *shipments: Shipment,
    reservation_id: str = "q-1",
    address: tuple[str, str] = ("US", "60601"),
    pickup_node_id: str = "",
    segment: str = "",
) -> Quote:
    plan: Sequence[Shipment] = shipments or (a_shipment(("1", "A", 1)),)
    return Quote(
        reservation_id=reservation_id,
        network_version=3,
        country="" if pickup_node_id else address[0],
        postal_code="" if pickup_node_id else address[1],
        pickup_node_id=pickup_node_id,
        segment=segment,
        plan=PromisedPlan("USD", tuple(plan)),
    )
