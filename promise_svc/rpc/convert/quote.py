"""CreateReservation with a quote token, and PromiseAndReserve."""

from __future__ import annotations

from promise_svc.application.promise import MAX_SHIPMENTS_DEFAULT
from promise_svc.application.quote import Quote
from promise_svc.application.reservation import CreateResult
from promise_svc.application.reservation_body import CreateCommand, PromiseTerms, RequestedLine
from promise_svc.domain.bundle import requested_line_id
from promise_svc.domain.reservation import LINES_MAX, CreateOutcome, HoldPolicy
from promise_svc.rpc.convert.fields import Fields
from promise_svc.rpc.convert.promise import (
    SHIPMENTS_MAX,
    carrier_services_from,
    destination_from,
    held_promise_to,
)
from promise_svc.rpc.convert.reservation import (
    TtlLimits,
    hold_from,
    line_outcomes_to,
    method_from,
    reservation_to,
)
from promise_svc.rpc.convert.types import METHODS, address_from, lines_from, number_of
from promise_svc.v1 import reservation_service_pb2 as pb


def quoted_create_from(
    request: pb.CreateReservationRequest, quote: Quote, now_ms: int, ttl: TtlLimits
) -> CreateCommand:
    """The values of a hold of exactly what was quoted; what the request repeats must agree."""
    fields = Fields()
    _lines_agree(fields, request, quote)
    _destination_agrees(fields, request, quote)
    if request.policy > HoldPolicy.ALL_OR_NOTHING:
        fields.complain("policy", "DOES_NOT_FIT", "a quote is held as it is, or not at all")
    method = METHODS.get(request.fulfillment_method)
    if request.fulfillment_method and method is not quote.fulfillment_method:
        _complain(fields, "fulfillment_method")
    if request.segment and request.segment != quote.segment:
        _complain(fields, "segment")
    rid = fields.id("reservation_id", request.reservation_id, optional=True)
    command = CreateCommand(
        reservation_id=rid or quote.reservation_id,
        owner_id=fields.id("owner_id", request.owner_id),
        lines=tuple(RequestedLine(*line) for line in quote.requested_lines),
        fulfillment_method=quote.fulfillment_method,
        address=quote.address,
        pickup_node_id=quote.pickup_node_id,
        segment=quote.segment,
        quote=quote,
        **hold_from(fields, request, now_ms, ttl)._asdict(),
    )
    fields.done()
    return command


def promise_and_reserve_from(
    request: pb.PromiseAndReserveRequest, now_ms: int, ttl: TtlLimits
) -> CreateCommand:
    """The values of a cart to promise and to hold in one step."""
    fields = Fields()
    address, pickup_node_id = destination_from(fields, request)
    max_shipments = fields.number(
        "max_shipments", request.max_shipments, 1, SHIPMENTS_MAX, default=MAX_SHIPMENTS_DEFAULT
    )
    services = carrier_services_from(fields, request.carrier_services)
    lines = lines_from(fields, "lines", request.lines, LINES_MAX)
    command = CreateCommand(
        reservation_id=fields.id("reservation_id", request.reservation_id),
        owner_id=fields.id("owner_id", request.owner_id),
        lines=tuple(RequestedLine(*line) for line in lines),
        fulfillment_method=method_from(fields, request),
        address=address,
        pickup_node_id=pickup_node_id,
        segment=fields.id("segment", request.segment, optional=True),
        terms=PromiseTerms(frozenset(services), max_shipments),
        **hold_from(fields, request, now_ms, ttl)._asdict(),
    )
    fields.done()
    return command


def promise_and_reserve_to(result: CreateResult) -> pb.PromiseAndReserveResponse:
    reservation = result.reservation
    lines = line_outcomes_to(result)
    if result.outcome is not CreateOutcome.HELD or reservation is None:
        return pb.PromiseAndReserveResponse(outcome=number_of(result.outcome), line_outcomes=lines)
    assert reservation.promised is not None, "kept with the hold"
    return pb.PromiseAndReserveResponse(
        outcome=number_of(CreateOutcome.HELD),
        delivery_promise=held_promise_to(reservation.promised),
        reservation=reservation_to(reservation),
        line_outcomes=lines,
        replayed=result.replayed,
        durability_mode=number_of(result.durability),
    )


def _lines_agree(fields: Fields, request: pb.CreateReservationRequest, quote: Quote) -> None:
    """None, or each line of the quote once, at its node if it names one."""
    if not request.lines:
        return
    quoted = {line.line_id: line for line in quote.requested_lines}
    nodes: dict[str, set[str]] = {}
    for shipment in quote.plan.shipments:
        for line in shipment.lines:
            nodes.setdefault(requested_line_id(line.line_id), set()).add(shipment.node_id)
    for index in range(fields.count("lines", len(request.lines), 0, LINES_MAX)):
        asked = request.lines[index]
        line_id = asked.line_id
        same = quoted.pop(line_id, None) == (line_id, asked.sku, asked.quantity)
        if not same or (asked.node_id and {asked.node_id} != nodes[line_id]):
            _complain(fields, f"lines[{index}]")
    if quoted:
        _complain(fields, "lines")


def _destination_agrees(fields: Fields, request: pb.CreateReservationRequest, quote: Quote) -> None:
    destination = request.WhichOneof("destination")
    if destination == "address" and not quote.fits(
        address_from(fields, "address", request.address)
    ):
        _complain(fields, "address")
    if destination == "pickup_node_id" and request.pickup_node_id != quote.pickup_node_id:
        _complain(fields, "pickup_node_id")


def _complain(fields: Fields, path: str) -> None:
    fields.complain(path, "DOES_NOT_FIT", "is not what the quote token was given for")
