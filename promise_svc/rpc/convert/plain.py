"""CreateReservation, PromiseCart and the replies of what moves a reservation, without messages:
bytes <-> values, where both are plain.

The same values and the same bytes as ``reservation.py`` and ``promise.py`` make of them, or None:
then those have their turn. A field that only they know, of the contract or of a value, makes a
request or a reply not plain as soon as something stands in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from typing import Any

from promise_svc.application.promise import (
    MAX_OPTIONS_DEFAULT,
    MAX_SHIPMENTS_DEFAULT,
    PromiseCartReply,
    PromiseCartRequest,
)
from promise_svc.application.quote import QuoteToken
from promise_svc.application.reservation import CreateResult, Reservation
from promise_svc.application.reservation_body import CreateCommand, RequestedLine
from promise_svc.application.stock import Consistency
from promise_svc.application.transition import TransitionResult
from promise_svc.domain.delivery import DeliveryPromise
from promise_svc.domain.reach import Address, Line
from promise_svc.domain.reservation import DurabilityMode, HoldPolicy, TransitionOutcome
from promise_svc.hotpath import cart_wire
from promise_svc.rpc.convert.availability import ORDER_TIME_MS_MAX
from promise_svc.rpc.convert.reservation import STATE_NUMBERS, TtlLimits
from promise_svc.rpc.convert.types import CREATE_AHEAD_MS_MAX, METHOD_NUMBERS, METHODS

PLAIN = cart_wire is not None
"""Whether there is a codec; in pure mode there is none, and nothing here may be called."""


def read_create(body: bytes, now_ms: int, ttl: TtlLimits) -> CreateCommand | None:
    """A CreateReservationRequest without a quote token."""
    found = cart_wire.read_create(
        body, now_ms + CREATE_AHEAD_MS_MAX, ttl.default_ms, ttl.max_ms, RequestedLine._make
    )
    if found is None:
        return None
    (reservation_id, owner_id, lines, method, address, pickup_node_id, segment, policy, ttl_ms,
     create_ms, order_reference, durability) = found  # fmt: skip
    return CreateCommand(
        reservation_id=reservation_id,
        owner_id=owner_id,
        lines=lines,
        fulfillment_method=METHODS[method],
        address=_address(address),
        pickup_node_id=pickup_node_id,
        segment=segment,
        ttl_ms=ttl_ms,
        create_ms=create_ms,
        order_reference=order_reference,
        durability=_MODES[durability],
        policy=_POLICIES[policy],
    )


def create_reply(result: CreateResult) -> bytes | None:
    """A CreateReservationResponse, where all lines are held or none is."""
    reservation = result.reservation
    if _more(result, _OF_CREATE):
        return None
    if reservation is None:
        return cart_wire.write_refused(result.outcome, result.lines)
    if reservation.unheld:
        return None
    values = _values(reservation)
    if values is None:
        return None
    return cart_wire.write_held(result.outcome, values, result.replayed, result.durability)


def transition_reply(wanted: TransitionOutcome, result: TransitionResult) -> bytes | None:
    """A ConfirmReservationResponse, or that of another call that moves a reservation; ``wanted`` is
    the outcome that did."""
    values = _values(result.reservation)
    if values is None or _more(result, _OF_TRANSITION):
        return None
    durability = result.durability if result.outcome is wanted else 0
    return cart_wire.write_transition(result.outcome, values, result.replayed, durability)


def _values(reservation: Reservation) -> tuple[Any, ...] | None:
    """As the codec takes them; None where there is more."""
    if reservation.promised is not None or _more(reservation, _OF_HELD):
        return None
    return (
        reservation.reservation_id,
        reservation.owner_id,
        _STATES[reservation.state],
        reservation.revision,
        reservation.lines,
        METHOD_NUMBERS[reservation.fulfillment_method],
        reservation.segment,
        reservation.order_reference,
        reservation.create_ms,
        reservation.expire_ms,
    )


def read_cart(body: bytes, now_ms: int) -> PromiseCartRequest | None:
    """A PromiseCartRequest."""
    found = cart_wire.read_cart(
        body, max(0, now_ms - ORDER_TIME_MS_MAX), now_ms + ORDER_TIME_MS_MAX, Line._make
    )
    if found is None:
        return None
    (lines, address, pickup_node_id, methods, carrier_services, segment, order_ms, max_options,
     max_shipments, age_ms) = found  # fmt: skip
    return PromiseCartRequest(
        lines=lines,
        address=_address(address),
        pickup_node_id=pickup_node_id,
        fulfillment_methods=tuple([METHODS[number] for number in methods]),
        carrier_services=carrier_services,
        segment=segment,
        order_ms=None if order_ms < 0 else order_ms,
        max_options=max_options or MAX_OPTIONS_DEFAULT,
        max_shipments=max_shipments or MAX_SHIPMENTS_DEFAULT,
        consistency=Consistency(max_age_ms=age_ms),
    )


def cart_reply(reply: PromiseCartReply, tokens: Sequence[QuoteToken]) -> bytes | None:
    """A PromiseCartResponse; ``tokens`` has one for each option."""
    if _more(reply, _OF_CART):
        return None
    freshness = reply.freshness
    if any(freshness[4:]):
        return None
    for option in reply.options:
        if _more(option, _OF_OPTION) or any(shipment.work_date for shipment in option.shipments):
            return None
    return cart_wire.write_promises(
        reply.outcome,
        [option.shipments for option in reply.options],
        tokens,
        reply.unfulfilled_lines,
        (reply.network_version, reply.currency_code, reply.order_ms, *freshness[:4]),
        METHOD_NUMBERS,
    )


def _address(values: tuple[Any, ...]) -> Address | None:
    if not values:
        return None
    country, postal_code, region, latitude, longitude = values
    return Address(
        country=country,
        postal_code=postal_code,
        region=region,
        latitude=latitude,
        longitude=longitude,
    )


def _others(kind: type[Any], known: str) -> tuple[tuple[str, Any], ...]:
    fields = signature(kind).parameters.values()
    return tuple((f.name, f.default) for f in fields if f.name not in known.split())


def _more(values: object, others: tuple[tuple[str, Any], ...]) -> bool:
    """Whether something stands in fields that the codec does not know."""
    for name, default in others:  # noqa: SIM110 - a generator costs more than it looks at
        if getattr(values, name) != default:
            return True
    return False


_OF_CREATE = _others(CreateResult, "outcome reservation lines replayed durability")
_OF_HELD = _others(
    Reservation,
    "reservation_id owner_id state revision create_ms expire_ms lines fulfillment_method segment "
    "order_reference promised unheld",
)
_OF_TRANSITION = _others(TransitionResult, "outcome reservation replayed durability")
_OF_CART = _others(
    PromiseCartReply,
    "outcome options unfulfilled_lines network_version currency_code freshness order_ms",
)
_OF_OPTION = _others(DeliveryPromise, "shipments exact shipment_count_bound")

_MODES = {0: None, **{int(mode): mode for mode in DurabilityMode}}
_POLICIES = {0: HoldPolicy.ALL_OR_NOTHING, **{int(policy): policy for policy in HoldPolicy}}
# By number: reservations may carry either.
_STATES = {int(state): int(number) for state, number in STATE_NUMBERS.items()}
