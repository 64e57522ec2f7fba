"""From the instant of an order to the dates it can be promised.

The chain: *processing day* (first business day of the node whose cutoff the order meets) ->
handling -> *ready* -> *ship date* (first day from then on that node and carrier both work) ->
transit in business days of the carrier. Each step is monotone in the order's instant, which is
what makes "the last instant that still gets these dates" a plain walk from cutoff to cutoff.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

from promise_svc.domain.calendar import (
    SEARCH_DAYS_MAX,
    add_business_days,
    business_day,
    end_of_day_ms,
    instant_ms,
    local_date,
    next_business_day,
    zone_of,
)
from promise_svc.domain.network import Calendar, FulfillmentMethod, Node, NodeMethod

BUSINESS_DAYS_MAX = 60
"""Most business days of handling, and of transit."""

HANDLING_MINUTES_MAX = 24 * 60
"""Longest handling by the clock."""

_DAY = timedelta(days=1)
_MINUTE_MS = 60_000


class DeliveryDates(NamedTuple):
    """When a shipment leaves and arrives; civil dates at the node, then at the destination."""

    ship_date: date
    earliest_delivery_date: date
    latest_delivery_date: date
    order_by_ms: int
    """The last instant at which an order still gets these dates."""


class PickupTimes(NamedTuple):
    """When goods can be collected."""

    ready_ms: int
    ready_date: date
    """Civil date of ``ready_ms`` at the node."""
    order_by_ms: int
    """The last instant at which an order is still ready on ``ready_date``."""


class Shipment(NamedTuple):
    """Lines leaving one node together for one destination, or collected there together.

    Quote tokens and claims keep it in field order: a new field comes last, with a default."""

    node_id: str
    lines: tuple[ShipmentLine, ...]
    fulfillment_method: FulfillmentMethod
    carrier_service: str
    """Empty when nothing is carried."""
    ship_date: date
    earliest_delivery_date: date
    latest_delivery_date: date
    cost_micros: int
    order_by_ms: int
    ready_ms: int | None
    """When it can be collected; None when it is brought."""
    arrival_ms: int = 0
    """When the supply it waits for is expected at the node; 0 for stock here now."""
    work_date: date | None = None
    """Where the node's capacity is bounded: the day it counts for."""


class WorkDay(NamedTuple):
    """When a node works an order."""

    day: date
    """Civil date at the node."""
    cutoff_ms: int
    """The last instant at which an order is still worked then."""


class ShipmentLine(NamedTuple):
    """A line, or a part of it, in a shipment."""

    line_id: str
    sku: str
    quantity: int
    bucket: str = ""
    """The supply it waits for; empty for stock here now."""


class DeliveryPromise(NamedTuple):
    """One plan for the lines of a cart: dates, shipments and how long the answer stands."""

    shipments: tuple[Shipment, ...]
    """Earliest ship date first, then by node."""
    exact: bool
    """False when the search stopped early: a better plan may exist."""
    shipment_count_bound: int
    """No plan has fewer shipments; below ``len(shipments)`` only if the search stopped early."""

    @property
    def total_cost_micros(self) -> int:
        """Sum of the shipments' costs."""
        return sum(shipment.cost_micros for shipment in self.shipments)

    @property
    def earliest_delivery_date(self) -> date:
        """When the first shipment may arrive."""
        return min(shipment.earliest_delivery_date for shipment in self.shipments)

    @property
    def latest_delivery_date(self) -> date:
        """When the last shipment is there at the latest."""
        return max(shipment.latest_delivery_date for shipment in self.shipments)

    @property
    def expire_ms(self) -> int:
        """Until when the dates hold: the first cutoff relied on."""
        return min(shipment.order_by_ms for shipment in self.shipments)


class ShipDate(NamedTuple):
    """When a shipment leaves."""

    ship_date: date
    order_by_ms: int
    """The last instant at which an order still leaves on it."""


def delivery_dates(
    order_ms: int,
    *,
    node: Node,
    method: NodeMethod,
    node_calendar: Calendar,
    carrier_calendar: Calendar,
    transit_business_days: tuple[int, int],
) -> DeliveryDates:
    """Dates of a shipment ordered at ``order_ms``; transit is (fewest, most) business days.

    NoBusinessDay when a calendar leaves no date.
    """
    leaves = ship_date(
        order_ms,
        node=node,
        method=method,
        node_calendar=node_calendar,
        carrier_calendar=carrier_calendar,
    )
    return arrival(leaves, carrier_calendar, transit_business_days)


def ship_date(
    order_ms: int,
    *,
    node: Node,
    method: NodeMethod,
    node_calendar: Calendar,
    carrier_calendar: Calendar,
) -> ShipDate:
    """When a shipment ordered at ``order_ms`` leaves: the first half of ``delivery_dates``, the
    same for every order up to ``order_by_ms``. NoBusinessDay as above."""
    place = _Place(node_calendar, method, zone_of(node.time_zone))

    def date_of(order_ms: int) -> date:
        ready_date = local_date(place.ready_ms(order_ms), place.zone)
        return next_business_day(node_calendar, carrier_calendar, start=ready_date)

    return ShipDate(date_of(order_ms), place.order_by_ms(order_ms, date_of))


def arrival(
    leaves: ShipDate, carrier_calendar: Calendar, transit_business_days: tuple[int, int]
) -> DeliveryDates:
    """When what leaves is there: the second half of ``delivery_dates``. NoBusinessDay as above."""
    fewest, most = transit_business_days
    return DeliveryDates(
        leaves.ship_date,
        add_business_days(carrier_calendar, leaves.ship_date, fewest),
        add_business_days(carrier_calendar, leaves.ship_date, most),
        leaves.order_by_ms,
    )


def pickup_times(
    order_ms: int, *, node: Node, method: NodeMethod, node_calendar: Calendar
) -> PickupTimes:
    """When goods ordered at ``order_ms`` can be collected. NoBusinessDay as above."""
    place = _Place(node_calendar, method, zone_of(node.time_zone))

    def ready_date(order_ms: int) -> date:
        return local_date(place.ready_ms(order_ms), place.zone)

    ready_ms = place.ready_ms(order_ms)
    order_by_ms = place.order_by_ms(order_ms, ready_date)
    return PickupTimes(ready_ms, local_date(ready_ms, place.zone), order_by_ms)


def work_day(order_ms: int, *, node: Node, method: NodeMethod, node_calendar: Calendar) -> WorkDay:
    """The processing day of an order. NoBusinessDay as above."""
    place = _Place(node_calendar, method, zone_of(node.time_zone))
    day = place.processing_day(order_ms)
    return WorkDay(day, place.cutoff_ms(day))


@dataclass(frozen=True, slots=True)
class _Place:
    """What the steps at the node depend on."""

    calendar: Calendar
    method: NodeMethod
    zone: ZoneInfo

    def cutoff_ms(self, day: date) -> int:
        return instant_ms(day, self.method.cutoff_time, self.zone)

    def opening_ms(self, day: date) -> int:
        return instant_ms(day, self.method.opening_time, self.zone)

    def processing_day(self, order_ms: int) -> date:
        """The first business day whose cutoff the order meets; the cutoff itself is met."""
        day = next_business_day(self.calendar, start=local_date(order_ms, self.zone))
        if order_ms <= self.cutoff_ms(day):
            return day
        return next_business_day(self.calendar, start=day + _DAY)

    def ready_ms(self, order_ms: int) -> int:
        """The instant at which handling is done, within a business day and not before opening."""
        day = self.processing_day(order_ms)
        minutes = self.method.handling_minutes
        if minutes is None and self.method.handling_business_days > 0:
            days = self.method.handling_business_days
            return self.opening_ms(add_business_days(self.calendar, day, days))
        done_ms = max(order_ms, self.opening_ms(day)) + (minutes or 0) * _MINUTE_MS
        done_day = local_date(done_ms, self.zone)
        if business_day(self.calendar, done_day):
            return max(done_ms, self.opening_ms(done_day))
        return self.opening_ms(next_business_day(self.calendar, start=done_day))

    def order_by_ms(self, order_ms: int, date_of: Callable[[int], date]) -> int:
        """The last instant from ``order_ms`` on for which ``date_of`` stays the same.

        Each round ends at a cutoff or where handling crosses midnight, so a day takes at most two.
        """
        wanted = date_of(order_ms)
        last_ms = self._steady_until_ms(order_ms)
        for _ in range(2 * SEARCH_DAYS_MAX):
            if date_of(last_ms + 1) != wanted:
                return last_ms
            last_ms = self._steady_until_ms(last_ms + 1)
        return last_ms

    def _steady_until_ms(self, order_ms: int) -> int:
        """An instant up to which the day of ``ready_ms`` surely does not change."""
        cutoff_ms = self.cutoff_ms(self.processing_day(order_ms))
        if not self.method.handling_minutes:
            return cutoff_ms
        handling_ms = self.method.handling_minutes * _MINUTE_MS
        day = self.processing_day(order_ms)
        done_ms = max(order_ms, self.opening_ms(day)) + handling_ms
        midnight_ms = end_of_day_ms(local_date(done_ms, self.zone), self.zone)
        return min(cutoff_ms, midnight_ms - handling_ms)
