"""Messages that several services share: lines, addresses, freshness, dates, instants."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from promise_svc.application.stock import AsOf, Consistency, Freshness
from promise_svc.domain.network import FulfillmentMethod, NodeStatus
from promise_svc.domain.reach import Address, Line
from promise_svc.rpc.convert.fields import Fields
from promise_svc.v1 import types_pb2

REGION_BYTES_MAX = 16
POSTAL_CODE_BYTES_MAX = 16
MAX_AGE_MS_MAX = 3_600_000

METHODS = {
    types_pb2.FULFILLMENT_METHOD_SHIP_TO_ADDRESS: FulfillmentMethod.SHIP_TO_ADDRESS,
    types_pb2.FULFILLMENT_METHOD_PICKUP_IN_STORE: FulfillmentMethod.PICKUP_IN_STORE,
    types_pb2.FULFILLMENT_METHOD_SHIP_TO_STORE: FulfillmentMethod.SHIP_TO_STORE,
    types_pb2.FULFILLMENT_METHOD_CURBSIDE: FulfillmentMethod.CURBSIDE,
    types_pb2.FULFILLMENT_METHOD_LOCAL_DELIVERY: FulfillmentMethod.LOCAL_DELIVERY,
}
METHOD_NUMBERS = {method: number for number, method in METHODS.items()}

ADDRESS_METHODS = frozenset({FulfillmentMethod.SHIP_TO_ADDRESS, FulfillmentMethod.LOCAL_DELIVERY})
"""Methods that need an address; the others need a pickup node."""

NODE_STATUSES = {
    types_pb2.NODE_STATUS_ON: NodeStatus.ON,
    types_pb2.NODE_STATUS_OFF: NodeStatus.OFF,
}
NODE_STATUS_NUMBERS = {status: number for number, status in NODE_STATUSES.items()}


CREATE_AHEAD_MS_MAX = 5 * 60_000
"""How far a caller's clock may run ahead of ours."""


def create_ms_from(fields: Fields, request: Any, now_ms: int) -> int:
    """When the caller made up its key, ms since 1970; 0 where it does not say."""
    if not request.HasField("create_time"):
        return 0
    return fields.time_ms("create_time", request.create_time, 1, now_ms + CREATE_AHEAD_MS_MAX)


def number_of(value: int) -> Any:
    """An enum of ours, whose numbers are the contract's, as the generated code wants it."""
    return int(value)


def lines_from(
    fields: Fields, path: str, lines: Sequence[types_pb2.Line], lines_max: int
) -> tuple[Line, ...]:
    """The lines of a cart; their ids are unique, their SKUs need not be."""
    count = fields.count(path, len(lines), 1, lines_max)
    seen: set[str] = set()
    found = []
    for index in range(count):
        line, at = lines[index], f"{path}[{index}]"
        fields.id(f"{at}.line_id", line.line_id)
        fields.unique(f"{at}.line_id", line.line_id, seen)
        fields.id(f"{at}.sku", line.sku)
        fields.quantity(f"{at}.quantity", line.quantity)
        found.append(Line(line.line_id, line.sku, line.quantity))
    return tuple(found)


def address_from(fields: Fields, path: str, address: types_pb2.Address) -> Address:
    """A destination: country and postal code."""
    fields.country(f"{path}.country", address.country)
    if not any(map(str.isalnum, address.postal_code)):
        fields.complain(f"{path}.postal_code", "REQUIRED", "must hold letters or digits")
    return _place_from(fields, path, address)


def origin_from(fields: Fields, path: str, address: types_pb2.Address) -> Address:
    """Where a shopper is: coordinates, or country and postal code."""
    if not address.HasField("coordinates"):
        return address_from(fields, path, address)
    if address.country:
        fields.country(f"{path}.country", address.country)
    return _place_from(fields, path, address)


def _place_from(fields: Fields, path: str, address: types_pb2.Address) -> Address:
    fields.text(f"{path}.region", address.region, REGION_BYTES_MAX)
    fields.text(f"{path}.postal_code", address.postal_code, POSTAL_CODE_BYTES_MAX)
    latitude, longitude = coordinates_from(fields, path, address)
    return Address(
        country=address.country,
        postal_code=address.postal_code,
        region=address.region,
        latitude=latitude,
        longitude=longitude,
    )


def coordinates_from(
    fields: Fields, path: str, address: types_pb2.Address
) -> tuple[float, float] | tuple[None, None]:
    """Latitude and longitude in degrees, if given."""
    if not address.HasField("coordinates"):
        return None, None
    at = f"{path}.coordinates"
    point = address.coordinates
    return (
        fields.degrees(f"{at}.latitude_degrees", point.latitude_degrees, 90),
        fields.degrees(f"{at}.longitude_degrees", point.longitude_degrees, 180),
    )


def consistency_from(fields: Fields, path: str, consistency: types_pb2.Consistency) -> Consistency:
    """How fresh an answer must be; ``strong = false`` is the same as no bound."""
    if consistency.WhichOneof("bound") != "max_age":
        return Consistency(strong=consistency.strong)
    age_ms = fields.duration_ms(f"{path}.max_age", consistency.max_age, 0, MAX_AGE_MS_MAX)
    return Consistency(max_age_ms=age_ms)


def freshness_to(freshness: Freshness) -> types_pb2.Freshness:
    return types_pb2.Freshness(
        as_of_time=timestamp_to(freshness.as_of_ms),
        age=duration_to(freshness.age_ms),
        degraded=freshness.degraded,
        degraded_reason=number_of(freshness.degraded_reason),
    )


def as_of_to(as_of: AsOf) -> types_pb2.AsOf:
    return types_pb2.AsOf(
        shard_id=as_of.shard_id,
        epoch=as_of.at.epoch,
        sequence=as_of.at.sequence,
        as_of_time=timestamp_to(as_of.time_ms),
    )


def timestamp_to(time_ms: int) -> Timestamp:
    seconds, rest_ms = divmod(time_ms, 1000)
    return Timestamp(seconds=seconds, nanos=rest_ms * 1_000_000)


def duration_to(duration_ms: int) -> Duration:
    """``duration_ms`` is 0 or more."""
    seconds, rest_ms = divmod(duration_ms, 1000)
    return Duration(seconds=seconds, nanos=rest_ms * 1_000_000)


def date_to(day: date) -> types_pb2.Date:
    return types_pb2.Date(year=day.year, month=day.month, day=day.day)
