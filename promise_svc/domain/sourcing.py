"""What sourcing speaks of: demands, nodes that could fill them, and plans.

A plan chooses nodes, one delivery option for each, and how many units of each SKU each node sends;
quantities may be split over nodes. ``search`` finds the best that keeps one date, ``frontier`` puts
dates in the order.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import NamedTuple

SHIPMENTS_MAX = 20
"""Largest split limit."""

WORK_MAX = 2_000
"""Default bound on search steps; about 20 ms in plain Python, as long as a call may keep others
waiting."""


class Demand(NamedTuple):
    """Units wanted of one SKU, repeats already summed."""

    sku: str
    quantity: int
    weight_grams: int
    """Of one unit."""


class DeliveryOption(NamedTuple):
    """One way in which a node could send its part."""

    name: str
    """Unique within the node; breaks ties."""
    latest_delivery_date: date
    base_cost_micros: int = 0
    cost_per_kilogram_micros: int = 0


class Candidate(NamedTuple):
    """A node that could send something."""

    node_id: str
    ats: tuple[int, ...]
    """One figure a demand, in its order; 0 where it has none."""
    options: tuple[DeliveryOption, ...]
    distance_meters: int = 0


class PlannedShipment(NamedTuple):
    """What one node sends, and how."""

    node_id: str
    option: DeliveryOption
    quantities: tuple[int, ...]
    """One a demand, in its order."""


@dataclass(frozen=True, slots=True)
class SourcingPlan:
    """A way to fill every demand."""

    shipments: tuple[PlannedShipment, ...]
    """By node id."""
    cost_nanos: int
    """Cost in thousandths of a millionth: exact, so that ties are ties."""
    distance_meters: int
    exact: bool
    shipment_count_bound: int
    """No plan has fewer shipments."""

    @property
    def latest_delivery_date(self) -> date:
        """When everything is there."""
        return max(shipment.option.latest_delivery_date for shipment in self.shipments)


def shipment_cost_nanos(option: DeliveryOption, weight_grams: int) -> int:
    """Cost of one shipment: base, plus cost per kilogram pro rata."""
    return option.base_cost_micros * 1000 + option.cost_per_kilogram_micros * weight_grams


class Work:
    """Steps left before the search settles for what it has; shared by the searches of a cart."""

    __slots__ = ("left",)

    def __init__(self, left: int) -> None:
        self.left = left

    @property
    def spent(self) -> bool:
        """Whether the bound was reached."""
        return self.left <= 0
