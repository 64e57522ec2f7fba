"""A plan of nodes and units told as a promise: shipments of lines, with dates and costs."""

from __future__ import annotations

from collections.abc import Sequence

from promise_svc.domain.delivery import Shipment, ShipmentLine
from promise_svc.domain.reach import Arrival, Line, Service
from promise_svc.domain.sourcing import Demand

NANOS_PER_MICRO = 1000


class Telling:
    """One plan for ``lines``, shipment by shipment. Cost: a microsecond or two each."""

    def __init__(self, lines: Sequence[Line], demands: Sequence[Demand]) -> None:
        self._demands = demands
        self._missing = {line.line_id: line.quantity for line in lines}
        self._by_sku: dict[str, list[Line]] = {}
        for line in lines:
            self._by_sku.setdefault(line.sku, []).append(line)

    def shipment(
        self, node_id: str, service: Service, quantities: Sequence[int], later: Arrival | None
    ) -> Shipment:
        """What a node sends (units a demand) by a service; ``later``, what it waits for."""
        parts: list[ShipmentLine] = []
        grams = 0
        for demand, units in zip(self._demands, quantities, strict=True):
            if units:
                self._tell(units, demand.sku, parts)
                grams += units * demand.weight_grams
        method, carrier_service, dates, ready_ms, base_micros, kilogram_micros = service
        nanos = base_micros * NANOS_PER_MICRO + kilogram_micros * grams
        return Shipment(
            node_id=later.node_id if later else node_id,
            lines=tuple(parts),
            fulfillment_method=method,
            carrier_service=carrier_service,
            ship_date=dates.ship_date,
            earliest_delivery_date=dates.earliest_delivery_date,
            latest_delivery_date=dates.latest_delivery_date,
            cost_micros=-(-nanos // NANOS_PER_MICRO),
            order_by_ms=dates.order_by_ms,
            ready_ms=ready_ms,
            arrival_ms=later.arrival_ms if later else 0,
        )

    def told(self) -> bool:
        """Whether all units of all lines were told."""
        return not any(self._missing.values())

    def _tell(self, units: int, sku: str, parts: list[ShipmentLine]) -> None:
        """Spread units of a SKU over the lines that still miss some, in request order."""
        for line in self._by_sku[sku]:
            taken = min(units, self._missing[line.line_id])
            if taken:
                parts.append(ShipmentLine(line.line_id, line.sku, taken))
                self._missing[line.line_id] -= taken
                units -= taken


def in_order(shipments: Sequence[Shipment]) -> tuple[Shipment, ...]:
    """As a promise has them: earliest ship date first, then by node."""
    return tuple(sorted(shipments, key=lambda s: (s.ship_date, s.node_id)))
