"""PromiseCart."""

from __future__ import annotations

from collections.abc import Sequence

from promise_svc.application.promise import (
    MAX_OPTIONS_DEFAULT,
    MAX_SHIPMENTS_DEFAULT,
    PromiseCartReply,
    PromiseCartRequest,
)
from promise_svc.application.quote import NoQuoteReason, PromisedPlan, QuoteToken
from promise_svc.domain.cart import UnfulfilledLine
from promise_svc.domain.delivery import DeliveryPromise, Shipment
from promise_svc.domain.network import FulfillmentMethod
from promise_svc.domain.reach import Address
from promise_svc.domain.reservation import LINES_MAX
from promise_svc.domain.verdicts import Explanation
from promise_svc.rpc.convert.availability import ORDER_TIME_MS_MAX
from promise_svc.rpc.convert.fields import Fields
from promise_svc.rpc.convert.types import (
    ADDRESS_METHODS,
    METHOD_NUMBERS,
    METHODS,
    address_from,
    consistency_from,
    date_to,
    freshness_to,
    lines_from,
    number_of,
    timestamp_to,
)
from promise_svc.v1 import promise_service_pb2 as pb
from promise_svc.v1 import reservation_service_pb2 as reservation_pb
from promise_svc.v1 import types_pb2

CARRIER_SERVICES_MAX = 50
OPTIONS_MAX = 20
SHIPMENTS_MAX = 20


def cart_from(request: pb.PromiseCartRequest, now_ms: int) -> PromiseCartRequest:
    """The values of a cart to promise."""
    fields = Fields()
    address, pickup_node_id = destination_from(fields, request)
    order_ms = None
    if request.HasField("order_time"):
        low_ms, high_ms = max(0, now_ms - ORDER_TIME_MS_MAX), now_ms + ORDER_TIME_MS_MAX
        order_ms = fields.time_ms("order_time", request.order_time, low_ms, high_ms)
    found = PromiseCartRequest(
        lines=lines_from(fields, "lines", request.lines, LINES_MAX),
        address=address,
        pickup_node_id=pickup_node_id,
        fulfillment_methods=_methods_from(fields, request),
        carrier_services=carrier_services_from(fields, request.carrier_services),
        segment=fields.id("segment", request.segment, optional=True),
        order_ms=order_ms,
        max_options=fields.number(
            "max_options", request.max_options, 1, OPTIONS_MAX, default=MAX_OPTIONS_DEFAULT
        ),
        max_shipments=fields.number(
            "max_shipments", request.max_shipments, 1, SHIPMENTS_MAX, default=MAX_SHIPMENTS_DEFAULT
        ),
        consistency=consistency_from(fields, "consistency", request.consistency),
        explain=request.explain,
        allow_backorder=request.allow_backorder,
    )
    fields.done()
    return found


def destination_from(
    fields: Fields, request: pb.PromiseCartRequest | reservation_pb.PromiseAndReserveRequest
) -> tuple[Address | None, str]:
    """Address or pickup node, one of which must be there."""
    destination = request.WhichOneof("destination")
    if destination == "address":
        return address_from(fields, "address", request.address), ""
    if destination == "pickup_node_id":
        return None, fields.id("pickup_node_id", request.pickup_node_id)
    fields.complain("address", "REQUIRED", "one of address and pickup_node_id must be set")
    return None, ""


def _methods_from(fields: Fields, request: pb.PromiseCartRequest) -> tuple[FulfillmentMethod, ...]:
    destination = request.WhichOneof("destination")
    fitting = {
        number: method
        for number, method in METHODS.items()
        if destination is None or (method in ADDRESS_METHODS) == (destination == "address")
    }
    asked = request.fulfillment_methods
    seen: set[int] = set()
    found = []
    for index in range(fields.count("fulfillment_methods", len(asked), 0, len(METHODS))):
        path = f"fulfillment_methods[{index}]"
        found.append(fields.enum(path, asked[index], fitting, known=METHODS))
        fields.unique(path, asked[index], seen)
    return tuple(found)


def carrier_services_from(fields: Fields, asked: Sequence[str]) -> tuple[str, ...]:
    """The services to consider; empty for all."""
    count = fields.count("carrier_services", len(asked), 0, CARRIER_SERVICES_MAX)
    return tuple(fields.id(f"carrier_services[{index}]", asked[index]) for index in range(count))


def cart_to(reply: PromiseCartReply, tokens: Sequence[QuoteToken]) -> pb.PromiseCartResponse:
    """``tokens`` has one for each option."""
    currency = reply.currency_code
    return pb.PromiseCartResponse(
        outcome=number_of(reply.outcome),
        options=[
            _option_to(option, currency, token)
            for option, token in zip(reply.options, tokens, strict=True)
        ],
        unfulfilled_lines=[_unfulfilled_to(line) for line in reply.unfulfilled_lines],
        network_version=reply.network_version,
        freshness=freshness_to(reply.freshness),
        order_time=timestamp_to(reply.order_ms),
        explanation=None if reply.explanation is None else _explanation_to(reply.explanation),
    )


def _explanation_to(told: Explanation) -> pb.PromiseExplanation:
    return pb.PromiseExplanation(
        max_shipments=told.max_shipments,
        rule_ids=told.rule_ids,
        nodes=[
            pb.NodeVerdict(
                node_id=node.node_id,
                verdict=number_of(node.verdict),
                rule_ids=node.rule_ids,
                excluded_skus=node.excluded_skus,
            )
            for node in told.nodes
        ],
        node_count=told.node_count,
    )


def held_promise_to(plan: PromisedPlan) -> pb.DeliveryPromise:
    """The promise that a reservation was held with."""
    shipments = plan.shipments
    option = DeliveryPromise(shipments=shipments, exact=True, shipment_count_bound=len(shipments))
    return _option_to(option, plan.currency_code, QuoteToken(absent=NoQuoteReason.HELD))


def _option_to(option: DeliveryPromise, currency: str, token: QuoteToken) -> pb.DeliveryPromise:
    return pb.DeliveryPromise(
        shipments=[shipment_to(shipment, currency) for shipment in option.shipments],
        total_cost=_money(option.total_cost_micros, currency),
        earliest_delivery_date=date_to(option.earliest_delivery_date),
        latest_delivery_date=date_to(option.latest_delivery_date),
        expire_time=timestamp_to(option.expire_ms),
        quote_token=token.text,
        no_quote_reason=number_of(token.absent or 0),
        reservation_id=token.reservation_id,
    )


def shipment_to(shipment: Shipment, currency: str) -> pb.Shipment:
    return pb.Shipment(
        node_id=shipment.node_id,
        lines=[
            pb.ShipmentLine(
                line_id=line.line_id, sku=line.sku, quantity=line.quantity, bucket=line.bucket
            )
            for line in shipment.lines
        ],
        fulfillment_method=METHOD_NUMBERS[shipment.fulfillment_method],
        carrier_service=shipment.carrier_service,
        ship_date=date_to(shipment.ship_date),
        earliest_delivery_date=date_to(shipment.earliest_delivery_date),
        latest_delivery_date=date_to(shipment.latest_delivery_date),
        cost=_money(shipment.cost_micros, currency),
        cutoff_time=timestamp_to(shipment.order_by_ms),
        ready_time=None if shipment.ready_ms is None else timestamp_to(shipment.ready_ms),
        arrival_time=timestamp_to(shipment.arrival_ms) if shipment.arrival_ms else None,
        work_date=None if shipment.work_date is None else date_to(shipment.work_date),
    )


def _unfulfilled_to(line: UnfulfilledLine) -> pb.UnfulfilledLine:
    return pb.UnfulfilledLine(line_id=line.line_id, reason=number_of(line.reason), ats=line.ats)


def _money(micros: int, currency: str) -> types_pb2.Money:
    return types_pb2.Money(currency_code=currency, amount_micros=micros)
