"""Replies in words that a person likes to read."""

from __future__ import annotations

from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

from google.protobuf.timestamp_pb2 import Timestamp

from promise_svc.v1 import promise_service_pb2 as promise_pb
from promise_svc.v1 import reservation_service_pb2 as reservation_pb
from promise_svc.v1 import types_pb2 as types_pb


def instant(stamp: Timestamp, time_zone: str) -> str:
    """`Mon Nov 23, 11:00 CST`, at the node."""
    local = stamp.ToDatetime(UTC).astimezone(ZoneInfo(time_zone))
    return f"{local:%a %b} {local.day}, {local:%H:%M %Z}"


def day(value: types_pb.Date) -> str:
    """`Tue Nov 24`."""
    civil = date(value.year, value.month, value.day)
    return f"{civil:%a %b} {civil.day}"


def days(first: types_pb.Date, last: types_pb.Date) -> str:
    """One day, or from when to when."""
    return day(first) if first == last else f"{day(first)} to {day(last)}"


def money(value: types_pb.Money) -> str:
    """`$12.34`."""
    return f"${value.amount_micros / 1_000_000:,.2f}"


def option(promise: promise_pb.DeliveryPromise) -> list[str]:
    """A line for the plan and one for each shipment."""
    arrives = days(promise.earliest_delivery_date, promise.latest_delivery_date)
    count = len(promise.shipments)
    shipments = "1 shipment" if count == 1 else f"{count} shipments"
    lines = [f"arrives {arrives}, {money(promise.total_cost)}, {shipments}"]
    for shipment in promise.shipments:
        goods = ", ".join(f"{line.quantity} x {line.sku}" for line in shipment.lines)
        service = shipment.carrier_service or "collected"
        lines.append(
            f"   {shipment.node_id} by {service}: leaves {day(shipment.ship_date)}, there "
            f"{days(shipment.earliest_delivery_date, shipment.latest_delivery_date)}: {goods}"
        )
    return lines


def planned_units(reservation: reservation_pb.Reservation) -> str:
    """What is put aside where."""
    parts = (
        f"{part.quantity} x {line.sku} at {part.node_id}"
        for line in reservation.lines
        for part in line.planned_units
    )
    return ", ".join(parts)


def enum_name(wrapper: object, value: int, prefix: str) -> str:
    """`INSUFFICIENT_STOCK` of `CREATE_RESERVATION_OUTCOME_INSUFFICIENT_STOCK`."""
    return str(wrapper.Name(value)).removeprefix(prefix)  # type: ignore[attr-defined]


def created(value: int) -> str:
    """Outcome of CreateReservation."""
    return enum_name(reservation_pb.CreateReservationOutcome, value, "CREATE_RESERVATION_OUTCOME_")


def moved(value: int) -> str:
    """Outcome of confirm, release or cancel."""
    return enum_name(reservation_pb.TransitionOutcome, value, "TRANSITION_OUTCOME_")


def state(reservation: reservation_pb.Reservation) -> str:
    """State of a reservation."""
    return enum_name(reservation_pb.Reservation.State, reservation.state, "STATE_")


def now_text() -> str:
    """The hour the demo runs at: dates depend on it."""
    return f"{datetime.now(UTC):%a %Y-%m-%d %H:%M} UTC"
