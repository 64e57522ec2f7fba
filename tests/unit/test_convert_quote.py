"""What CreateReservation may say beside a quote token, and what quotes become on the wire."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from promise_svc.application.promise import PlannedUnits
from promise_svc.application.quote import PromisedPlan, Quote
from promise_svc.application.reservation import CreateResult, LineOutcome, Reservation
from promise_svc.application.reservation_body import (
    PromiseTerms,
    RequestedLine,
    ReservationLine,
    body_hash,
)
from promise_svc.domain.network import FulfillmentMethod
from promise_svc.domain.reservation import CreateOutcome, DurabilityMode, State
from promise_svc.errors import InvalidRequest
from promise_svc.rpc.convert import quote as convert
from promise_svc.rpc.convert import reservation as reservations
from promise_svc.v1 import promise_service_pb2 as promise_pb
from promise_svc.v1 import reservation_service_pb2 as pb
from promise_svc.v1 import types_pb2
from tests.support.quotes import a_quote, a_shipment
from tests.support.requests import NOW_MS, TTL, a_promise_and_reserve, decode, put

QUOTE = a_quote(a_shipment(("1", "A", 2), ("2", "B", 1)), a_shipment(("1", "A", 1), node_id="n2"))
STORE = a_quote(a_shipment(("1", "A", 1)), pickup_node_id="n1")


def a_request(**fields: Any) -> pb.CreateReservationRequest:
    return pb.CreateReservationRequest(owner_id="o", quote_token="t", **fields)


def a_line(line_id: str, sku: str, quantity: int, node_id: str = "") -> pb.ReservationRequestLine:
    return pb.ReservationRequestLine(line_id=line_id, sku=sku, quantity=quantity, node_id=node_id)


def complaints(request: pb.CreateReservationRequest, quote: Quote = QUOTE) -> set[tuple[str, str]]:
    try:
        convert.quoted_create_from(request, quote, NOW_MS, TTL)
    except InvalidRequest as error:
        return {(violation.field, violation.reason) for violation in error.violations}
    return set()


def test_a_token_says_all_but_the_owner() -> None:
    """Id, lines, method, destination and segment come from it."""
    command = convert.quoted_create_from(a_request(), QUOTE, NOW_MS, TTL)

    assert (command.reservation_id, command.owner_id) == ("q-1", "o")
    assert command.lines == (RequestedLine("1", "A", 3), RequestedLine("2", "B", 1))
    assert command.fulfillment_method is FulfillmentMethod.SHIP_TO_ADDRESS
    assert command.quote == QUOTE
    assert complaints(pb.CreateReservationRequest(quote_token="t")) == {("owner_id", "REQUIRED")}


def test_what_is_repeated_beside_a_token_is_no_other_body() -> None:
    """A retry may leave the lines out, or put them in; owner, id and time to live are the body."""
    bare = convert.quoted_create_from(a_request(), QUOTE, NOW_MS, TTL)
    full = convert.quoted_create_from(
        a_request(
            reservation_id="q-1",
            lines=[a_line("2", "B", 1, "n1"), a_line("1", "A", 3)],
            address=types_pb2.Address(country="US", postal_code="60601-", region="IL"),
            fulfillment_method=types_pb2.FULFILLMENT_METHOD_SHIP_TO_ADDRESS,
        ),
        QUOTE,
        NOW_MS,
        TTL,
    )
    other = convert.quoted_create_from(a_request(order_reference="x"), QUOTE, NOW_MS, TTL)

    assert body_hash(bare) == body_hash(full) != body_hash(other)


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"lines": [a_line("1", "A", 3)]}, "lines"),
        ({"lines": [a_line("1", "A", 3), a_line("2", "B", 2)]}, "lines[1]"),
        ({"lines": [a_line("1", "A", 3), a_line("2", "C", 1)]}, "lines[1]"),
        ({"lines": [a_line("1", "A", 3), a_line("3", "B", 1)]}, "lines[1]"),
        ({"lines": [a_line("1", "A", 3, "n1"), a_line("2", "B", 1)]}, "lines[0]"),
        ({"lines": [a_line("1", "A", 3), a_line("2", "B", 1, "n2")]}, "lines[1]"),
        ({"lines": [a_line("1", "A", 3)] * 2 + [a_line("2", "B", 1)]}, "lines[1]"),
        ({"address": types_pb2.Address(country="US", postal_code="60602")}, "address"),
        ({"address": types_pb2.Address(country="CA", postal_code="60601")}, "address"),
        ({"pickup_node_id": "n1"}, "pickup_node_id"),
        ({"fulfillment_method": types_pb2.FULFILLMENT_METHOD_CURBSIDE}, "fulfillment_method"),
        ({"fulfillment_method": 99}, "fulfillment_method"),
        ({"segment": "vip"}, "segment"),
    ],
)
def test_what_contradicts_the_token_is_refused_by_field(fields: dict[str, Any], path: str) -> None:
    """Nothing is held that the request or the token does not say."""
    assert (path, "DOES_NOT_FIT") in complaints(a_request(**fields))


def test_a_token_for_a_pickup_fits_its_node_and_no_address() -> None:
    address = types_pb2.Address(country="US", postal_code="60601")

    assert complaints(a_request(pickup_node_id="n1"), STORE) == set()
    assert complaints(a_request(pickup_node_id="n2"), STORE) == {("pickup_node_id", "DOES_NOT_FIT")}
    assert complaints(a_request(address=address), STORE) == {("address", "DOES_NOT_FIT")}


def test_an_id_beside_a_token_wins_and_keeps_to_its_alphabet() -> None:
    command = convert.quoted_create_from(a_request(reservation_id="mine"), QUOTE, NOW_MS, TTL)

    assert command.reservation_id == "mine"
    assert complaints(a_request(reservation_id="-")) == {("reservation_id", "BAD_CHARACTERS")}


def test_a_cart_in_one_step_has_terms() -> None:
    """Three shipments unless it says otherwise, and no token's quote."""
    request = put(a_promise_and_reserve(), "max_shipments", 0)
    request.carrier_services.append("air")

    command = decode(request)

    assert command.terms == PromiseTerms(frozenset({"air"}), 3)
    assert command.quote is None


# -- replies ----------------------------------------------------------------------------------


def a_result(promised: PromisedPlan | None) -> CreateResult:
    reservation = Reservation(
        reservation_id="r",
        owner_id="o",
        state=State.HELD,
        revision=1,
        create_ms=1,
        expire_ms=2,
        lines=(ReservationLine("1", "A", 1, 0, (PlannedUnits("n1", "", 1),)),),
        fulfillment_method=FulfillmentMethod.SHIP_TO_ADDRESS,
        promised=promised,
    )
    return CreateResult(
        outcome=CreateOutcome.HELD, reservation=reservation, durability=DurabilityMode.FSYNC
    )


def test_what_was_promised_is_told_with_the_reservation() -> None:
    """Dates, lines and cost of each shipment; the promise beside it is the same, and held."""
    reply = convert.promise_and_reserve_to(a_result(QUOTE.plan))

    assert reply.reservation.shipments == reply.delivery_promise.shipments
    assert [shipment.node_id for shipment in reply.reservation.shipments] == ["n1", "n2"]
    assert reply.delivery_promise.total_cost.amount_micros == 10_000_000
    assert reply.delivery_promise.latest_delivery_date == types_pb2.Date(
        year=2026, month=11, day=25
    )
    assert reply.delivery_promise.quote_token == ""
    assert reply.delivery_promise.no_quote_reason == promise_pb.NO_QUOTE_REASON_HELD
    assert [(line.line_id, line.outcome) for line in reply.line_outcomes] == [("1", 1)]


def test_a_hold_that_promised_nothing_tells_no_shipments() -> None:
    assert not reservations.create_to(a_result(None)).reservation.shipments


def test_a_refused_line_tells_its_new_date() -> None:
    """Where there is one; never 1970."""
    moved = LineOutcome("1", CreateOutcome.DATE_MOVED, -1, "n1", date(2026, 12, 1))
    off = LineOutcome("2", CreateOutcome.NODE_OFF, -1, "n2")
    result = CreateResult(
        outcome=CreateOutcome.NODE_OFF, lines=(moved, off), durability=DurabilityMode.FSYNC
    )

    for reply in (reservations.create_to(result), convert.promise_and_reserve_to(result)):
        first, second = reply.line_outcomes
        assert first.latest_delivery_date == types_pb2.Date(year=2026, month=12, day=1)
        assert not first.HasField("ats") and not second.HasField("latest_delivery_date")
        assert not reply.HasField("reservation")
