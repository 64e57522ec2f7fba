"""Create, get, confirm, release and cancel of reservations."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar

from promise_svc.application.changed_lines import ChangeLine, TransferLine
from promise_svc.application.quote import PromisedPlan
from promise_svc.application.reservation import (
    CreateResult,
    LineOutcome,
    Reservation,
    ReservationLine,
    TransitionResult,
)
from promise_svc.application.reservation_body import CreateCommand, RequestedLine
from promise_svc.application.reservation_changes import ChangeCommand
from promise_svc.domain.bundle import requested_line_id
from promise_svc.domain.network import FulfillmentMethod
from promise_svc.domain.reach import Address
from promise_svc.domain.reservation import (
    LINES_MAX,
    TTL_MS_DEFAULT,
    TTL_MS_MAX,
    TTL_MS_MIN,
    CreateOutcome,
    DurabilityMode,
    HoldPolicy,
    State,
    TransitionOutcome,
)
from promise_svc.rpc.convert.fields import Fields
from promise_svc.rpc.convert.promise import shipment_to
from promise_svc.rpc.convert.types import (
    ADDRESS_METHODS,
    METHOD_NUMBERS,
    METHODS,
    address_from,
    create_ms_from,
    date_to,
    number_of,
    timestamp_to,
)
from promise_svc.v1 import promise_service_pb2 as promise_pb
from promise_svc.v1 import reservation_service_pb2 as pb

ORDER_REFERENCE_BYTES_MAX = 128

REVISION_MAX = 2**31 - 1

STATE_NUMBERS = {
    State.HELD: pb.Reservation.STATE_HELD,
    State.CONFIRMED: pb.Reservation.STATE_CONFIRMED,
    State.RELEASED: pb.Reservation.STATE_RELEASED,
    State.CANCELLED: pb.Reservation.STATE_CANCELLED,
    State.EXPIRED: pb.Reservation.STATE_EXPIRED,
    State.SUPERSEDED: pb.Reservation.STATE_SUPERSEDED,
    State.FULFILLED: pb.Reservation.STATE_FULFILLED,
}
_MODES = {int(mode): mode for mode in DurabilityMode}
_POLICIES = {int(policy): policy for policy in HoldPolicy}
_HELD = number_of(CreateOutcome.HELD)
_COUNTED = (CreateOutcome.INSUFFICIENT_STOCK, CreateOutcome.CUSTOMER_LIMIT)
"""Outcomes that say how many units there would have been."""

ReplyT = TypeVar(
    "ReplyT",
    pb.ConfirmReservationResponse,
    pb.ReleaseReservationResponse,
    pb.CancelReservationResponse,
    pb.ExtendReservationResponse,
    pb.FulfillReservationResponse,
    pb.AmendReservationResponse,
    pb.TransferReservationResponse,
)
RelinedT = TypeVar("RelinedT", pb.AmendReservationResponse, pb.TransferReservationResponse)


class TransitionValues(NamedTuple):
    """Which reservation to move, at which revision (0: any), how durably (None: the default)."""

    reservation_id: str
    revision: int
    durability: DurabilityMode | None


class TtlLimits(NamedTuple):
    """How long holds live here."""

    default_ms: int = TTL_MS_DEFAULT
    max_ms: int = TTL_MS_MAX


class ExtendValues(NamedTuple):
    """Which hold shall end how long from now, and no longer after it was made than what."""

    reservation_id: str
    ttl_ms: int
    life_ms_max: int
    revision: int
    durability: DurabilityMode | None


class HoldValues(NamedTuple):
    """How a hold is taken, whatever is held."""

    ttl_ms: int
    create_ms: int
    order_reference: str
    durability: DurabilityMode | None
    replaces: str
    allow_backorder: bool


def create_from(request: pb.CreateReservationRequest, now_ms: int, ttl: TtlLimits) -> CreateCommand:
    """The values of a hold to take."""
    fields = Fields()
    lines = _lines_from(fields, request)
    address, pickup_node_id = _destination_from(fields, request)
    command = CreateCommand(
        reservation_id=fields.id("reservation_id", request.reservation_id),
        owner_id=fields.id("owner_id", request.owner_id),
        lines=lines,
        fulfillment_method=method_from(fields, request),
        address=address,
        pickup_node_id=pickup_node_id,
        segment=fields.id("segment", request.segment, optional=True),
        policy=_policy_from(fields, request.policy),
        **hold_from(fields, request, now_ms, ttl)._asdict(),
    )
    fields.done()
    return command


def _policy_from(fields: Fields, number: int) -> HoldPolicy:
    if number == 0:
        return HoldPolicy.ALL_OR_NOTHING
    return fields.enum("policy", number, _POLICIES)


def hold_from(
    fields: Fields,
    request: pb.CreateReservationRequest | pb.PromiseAndReserveRequest,
    now_ms: int,
    ttl: TtlLimits,
) -> HoldValues:
    """What CreateReservation and PromiseAndReserve say alike of the hold."""
    ttl_ms = ttl.default_ms
    if request.HasField("ttl"):
        ttl_ms = fields.duration_ms("ttl", request.ttl, TTL_MS_MIN, ttl.max_ms)
    create_ms = create_ms_from(fields, request, now_ms)
    reference = fields.text("order_reference", request.order_reference, ORDER_REFERENCE_BYTES_MAX)
    durability = _durability_from(fields, request.durability_mode)
    replaces = request.replaces_reservation_id
    if replaces:
        fields.id("replaces_reservation_id", replaces)
        if replaces == request.reservation_id:
            fields.complain("replaces_reservation_id", "DOES_NOT_FIT", "another, not itself")
    return HoldValues(ttl_ms, create_ms, reference, durability, replaces, request.allow_backorder)


def _lines_from(fields: Fields, request: pb.CreateReservationRequest) -> tuple[RequestedLine, ...]:
    seen: set[str] = set()
    found = []
    for index in range(fields.count("lines", len(request.lines), 1, LINES_MAX)):
        line, path = request.lines[index], f"lines[{index}]"
        fields.unique(f"{path}.line_id", line.line_id, seen)
        found.append(
            RequestedLine(
                line_id=fields.id(f"{path}.line_id", line.line_id),
                sku=fields.id(f"{path}.sku", line.sku),
                quantity=fields.quantity(f"{path}.quantity", line.quantity),
                node_id=fields.id(f"{path}.node_id", line.node_id, optional=True),
            )
        )
    return tuple(found)


def _destination_from(
    fields: Fields, request: pb.CreateReservationRequest
) -> tuple[Address | None, str]:
    destination = request.WhichOneof("destination")
    if destination == "address":
        return address_from(fields, "address", request.address), ""
    if destination == "pickup_node_id":
        return None, fields.id("pickup_node_id", request.pickup_node_id)
    if not all(line.node_id for line in request.lines):
        fields.complain(
            "address", "REQUIRED", "an address or a pickup node, unless every line names its node"
        )
    return None, ""


def method_from(
    fields: Fields, request: pb.CreateReservationRequest | pb.PromiseAndReserveRequest
) -> FulfillmentMethod:
    """A method that fits the destination."""
    fitting = _FITTING[request.WhichOneof("destination")]
    return fields.enum("fulfillment_method", request.fulfillment_method, fitting, known=METHODS)


_FITTING: dict[str | None, dict[Any, FulfillmentMethod]] = {
    None: {**METHODS},
    "address": {number: method for number, method in METHODS.items() if method in ADDRESS_METHODS},
    "pickup_node_id": {
        number: method for number, method in METHODS.items() if method not in ADDRESS_METHODS
    },
}
"""Methods that fit each destination. Made once: hashing an enum's members costs microseconds."""


def _durability_from(fields: Fields, number: int) -> DurabilityMode | None:
    """None for the server's default. Whether a mode is offered, the use case knows."""
    return None if number == 0 else fields.enum("durability_mode", number, _MODES)


def _revision_from(
    fields: Fields,
    request: (
        pb.ConfirmReservationRequest
        | pb.ReleaseReservationRequest
        | pb.CancelReservationRequest
        | pb.ExtendReservationRequest
        | pb.FulfillReservationRequest
        | pb.AmendReservationRequest
        | pb.TransferReservationRequest
    ),
) -> int:
    """0 for any."""
    if not request.HasField("expected_revision"):
        return 0
    return fields.number("expected_revision", request.expected_revision, 1, REVISION_MAX)


def get_from(request: pb.GetReservationRequest) -> str:
    """The reservation id."""
    fields = Fields()
    fields.id("reservation_id", request.reservation_id)
    fields.done()
    return request.reservation_id


def transition_from(
    request: pb.ConfirmReservationRequest | pb.ReleaseReservationRequest,
) -> TransitionValues:
    """The values of a confirm or release."""
    fields = Fields()
    fields.id("reservation_id", request.reservation_id)
    revision = _revision_from(fields, request)
    durability = _durability_from(fields, request.durability_mode)
    fields.done()
    return TransitionValues(request.reservation_id, revision, durability)


def extend_from(request: pb.ExtendReservationRequest, ttl: TtlLimits) -> ExtendValues:
    """The values of an extension."""
    fields = Fields()
    fields.id("reservation_id", request.reservation_id)
    ttl_ms = ttl.default_ms
    if request.HasField("ttl"):
        ttl_ms = fields.duration_ms("ttl", request.ttl, TTL_MS_MIN, ttl.max_ms)
    values = ExtendValues(
        request.reservation_id,
        ttl_ms,
        ttl.max_ms,
        _revision_from(fields, request),
        _durability_from(fields, request.durability_mode),
    )
    fields.done()
    return values


def change_from(
    request: (
        pb.FulfillReservationRequest | pb.CancelReservationRequest | pb.AmendReservationRequest
    ),
) -> ChangeCommand:
    """The values of a fulfillment, a cancellation or an amendment."""
    fields = Fields()
    lines, seen = [], set[str]()
    amends = isinstance(request, pb.AmendReservationRequest)
    count = fields.count("lines", len(request.lines), int(amends), LINES_MAX)
    for index, units in enumerate(request.lines[:count]):
        path = f"lines[{index}]"
        if amends:
            fields.unique(f"{path}.line_id", units.line_id, seen)
        lines.append(
            ChangeLine(
                fields.line_id(f"{path}.line_id", units.line_id),
                fields.quantity(f"{path}.quantity", units.quantity, 0 if amends else 1),
                fields.id(f"{path}.node_id", units.node_id, optional=True),
            )
        )
    whole = not request.lines and not amends
    if whole and request.idempotency_key:
        # A caller whose list came out empty must not ship or cancel the whole order.
        fields.complain("idempotency_key", "DOES_NOT_FIT", "only with lines; the whole needs none")
    command = _change_from(fields, request, lines=tuple(lines), whole=whole)
    fields.done()
    return command


def transfer_from(
    request: pb.TransferReservationRequest,
) -> tuple[ChangeCommand, tuple[TransferLine, ...]]:
    """The values of a transfer."""
    fields = Fields()
    transfers = []
    count = fields.count("transfers", len(request.transfers), 1, LINES_MAX)
    for index, units in enumerate(request.transfers[:count]):
        path = f"transfers[{index}]"
        transfers.append(
            TransferLine(
                fields.line_id(f"{path}.line_id", units.line_id),
                fields.quantity(f"{path}.quantity", units.quantity),
                fields.id(f"{path}.source_node_id", units.source_node_id),
                fields.id(f"{path}.target_node_id", units.target_node_id),
            )
        )
    command = _change_from(fields, request)
    fields.done()
    return command, tuple(transfers)


def _change_from(
    fields: Fields,
    request: (
        pb.FulfillReservationRequest
        | pb.CancelReservationRequest
        | pb.AmendReservationRequest
        | pb.TransferReservationRequest
    ),
    *,
    lines: tuple[ChangeLine, ...] = (),
    whole: bool = False,
) -> ChangeCommand:
    key = fields.id("idempotency_key", request.idempotency_key, optional=whole)
    return ChangeCommand(
        reservation_id=fields.id("reservation_id", request.reservation_id),
        idempotency_key=key,
        revision=_revision_from(fields, request),
        lines=lines,
        durability=_durability_from(fields, request.durability_mode),
    )


def create_to(result: CreateResult) -> pb.CreateReservationResponse:
    reservation = result.reservation
    if reservation is None:
        return pb.CreateReservationResponse(
            outcome=number_of(result.outcome),
            line_outcomes=line_outcomes_to(result),
        )
    return pb.CreateReservationResponse(
        outcome=number_of(result.outcome),
        reservation=reservation_to(reservation),
        line_outcomes=line_outcomes_to(result),
        replayed=result.replayed,
        durability_mode=number_of(result.durability),
    )


def line_outcomes_to(result: CreateResult) -> list[pb.LineOutcome]:
    """One a line of the request, in its order."""
    if result.reservation is None:
        return [_line_outcome_to(line) for line in result.lines]
    lines = _requested(result.reservation)
    unheld = result.reservation.unheld
    short = {line.line_id for line in unheld}
    told = [pb.LineOutcome(line_id=x, outcome=_HELD) for x in lines if x not in short]
    for line in unheld:  # by place in the request, so each lands where it stood
        why = LineOutcome(line.line_id, CreateOutcome(line.outcome), line.ats, line.node_id)
        outcome = _line_outcome_to(why)
        if line.line_id in lines:
            outcome.outcome = number_of(CreateOutcome.PARTLY_HELD)
            outcome.held_quantity = lines[line.line_id]
        told.insert(line.line_index, outcome)
    return told


def _requested(reservation: Reservation) -> dict[str, int]:
    """Units by line as it was asked for: bundles, not their components."""
    units = {line.line_id: line.quantity for line in reservation.lines}
    if not reservation.bundles:
        return units
    whole = {bundle.line_id: bundle.quantity(units) for bundle in reservation.bundles}
    return {(asked := requested_line_id(line)): whole.get(asked, units[line]) for line in units}


def _line_outcome_to(line: LineOutcome) -> pb.LineOutcome:
    short = line.outcome in _COUNTED and line.ats >= 0
    day = line.latest_delivery_date
    return pb.LineOutcome(
        line_id=line.line_id,
        outcome=number_of(line.outcome),
        ats=line.ats if short else None,
        node_id=line.node_id,
        latest_delivery_date=None if day is None else date_to(day),
    )


def get_to(reservation: Reservation) -> pb.GetReservationResponse:
    return pb.GetReservationResponse(reservation=reservation_to(reservation))


def transition_to(
    reply: type[ReplyT], wanted: TransitionOutcome, result: TransitionResult
) -> ReplyT:
    """The reply of what moves or changes a reservation; ``wanted`` is the outcome that did."""
    durability: Any = number_of(result.durability if result.outcome is wanted else 0)
    return reply(
        outcome=number_of(result.outcome),
        reservation=reservation_to(result.reservation),
        replayed=result.replayed,
        durability_mode=durability,
    )


def relined_to(
    reply: type[RelinedT], wanted: TransitionOutcome, result: TransitionResult
) -> RelinedT:
    """The reply of an amendment or a transfer, with the positions that are short."""
    told = transition_to(reply, wanted, result)
    for short in result.short:
        told.short_positions.add(sku=short.sku, node_id=short.node_id, ats=short.ats)
    return told


def reservation_to(reservation: Reservation) -> pb.Reservation:
    return pb.Reservation(
        reservation_id=reservation.reservation_id,
        owner_id=reservation.owner_id,
        state=STATE_NUMBERS[State(reservation.state)],
        revision=reservation.revision,
        lines=[_line_to(line) for line in reservation.lines],
        fulfillment_method=METHOD_NUMBERS[reservation.fulfillment_method],
        segment=reservation.segment,
        order_reference=reservation.order_reference,
        create_time=timestamp_to(reservation.create_ms),
        expire_time=timestamp_to(reservation.expire_ms),
        shipments=_shipments_to(reservation.promised),
        bundle_lines=_bundle_lines_to(reservation),
        replaces_reservation_id=reservation.replaces,
        replaced_by_reservation_id=reservation.replaced_by,
        work_days=[
            pb.WorkDay(node_id=node_id, date=date_to(day), counts=counts)
            for node_id, day, counts in reservation.work_days
        ],
    )


def _bundle_lines_to(reservation: Reservation) -> list[pb.BundleLine]:
    if not reservation.bundles:
        return []
    units = {line.line_id: line.quantity for line in reservation.lines}
    return [
        pb.BundleLine(
            line_id=bundle.line_id,
            sku=bundle.sku,
            quantity=bundle.quantity(units),
            component_line_ids=bundle.part_ids(),
        )
        for bundle in reservation.bundles
    ]


def _shipments_to(plan: PromisedPlan | None) -> list[promise_pb.Shipment]:
    if plan is None:
        return []
    return [shipment_to(shipment, plan.currency_code) for shipment in plan.shipments]


def _line_to(line: ReservationLine) -> pb.ReservationLine:
    return pb.ReservationLine(
        line_id=line.line_id,
        sku=line.sku,
        quantity=line.quantity,
        planned_units=[
            pb.PlannedUnits(
                node_id=part.node_id,
                bucket=part.bucket,
                quantity=part.quantity,
                fulfilled_quantity=part.fulfilled,
                cancelled_quantity=part.cancelled,
            )
            for part in line.planned_units
        ],
        fulfilled_quantity=sum(part.fulfilled for part in line.planned_units),
        cancelled_quantity=sum(part.cancelled for part in line.planned_units),
    )
