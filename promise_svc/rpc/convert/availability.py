"""QueryAvailability, CheckAvailability, ExplainAvailability, FindPickupNodes, QueryNodeCapacity."""

from __future__ import annotations

from datetime import date

from promise_svc.application.availability import (
    CHECKS_MAX,
    ENTRIES_MAX,
    Availability,
    AvailabilityCheck,
    AvailabilityQuery,
    AvailabilityReply,
    AvailabilityView,
    CheckReply,
    NodeAvailability,
)
from promise_svc.application.explain import LIMIT_DEFAULT, LIMIT_MAX, Happening, Standing, Story
from promise_svc.application.node_capacity import DAYS_TOLD, DAYS_TOLD_MAX, NodeDays
from promise_svc.application.pickup import (
    PICKUP_LIMIT_DEFAULT,
    RADIUS_METERS_DEFAULT,
    FindPickupNodesReply,
    FindPickupNodesRequest,
    PickupNode,
)
from promise_svc.application.stock import Consistency
from promise_svc.domain.capacity import account_of
from promise_svc.domain.inventory import ARRIVED, StockPosition, shortage
from promise_svc.domain.network import PICKUP_METHODS, FulfillmentMethod
from promise_svc.rpc.convert.fields import Fields
from promise_svc.rpc.convert.types import (
    METHOD_NUMBERS,
    METHODS,
    NODE_STATUS_NUMBERS,
    as_of_to,
    consistency_from,
    date_to,
    freshness_to,
    lines_from,
    number_of,
    origin_from,
    timestamp_to,
)
from promise_svc.v1 import availability_service_pb2 as pb
from promise_svc.v1 import types_pb2

SCOPE_NODES_MAX = 2_000
LISTED_NODES_MAX = 50_000
PICKUP_LINES_MAX = 200
PICKUP_LIMIT_MAX = 200
RADIUS_METERS_MAX = 500_000
ORDER_TIME_MS_MAX = 366 * 86_400_000
"""How far an instant of order may lie from now, either way."""

_VIEWS = {int(view): view for view in AvailabilityView}
_PICKUP_METHODS = {METHOD_NUMBERS[method]: method for method in sorted(PICKUP_METHODS)}


def query_from(
    request: pb.QueryAvailabilityRequest,
) -> tuple[tuple[AvailabilityQuery, ...], Consistency, AvailabilityView]:
    """Entries, consistency and view of a request."""
    fields = Fields()
    count = fields.count("entries", len(request.entries), 1, ENTRIES_MAX)
    entries = tuple(
        _entry_from(fields, f"entries[{index}]", request.entries[index]) for index in range(count)
    )
    consistency = consistency_from(fields, "consistency", request.consistency)
    view = fields.enum("view", request.view, _VIEWS, default=AvailabilityView.TOTAL)
    if view is not AvailabilityView.TOTAL:
        named = sum(len(entry.node_ids or ()) for entry in entries)
        if named > LISTED_NODES_MAX:
            limit = f"all entries together may list {LISTED_NODES_MAX} nodes, not {named}"
            fields.complain("entries", "TOO_MANY", limit)
    fields.done()
    return entries, consistency, view


def _entry_from(fields: Fields, path: str, entry: pb.AvailabilityQuery) -> AvailabilityQuery:
    if entry.entry_id:
        fields.id(f"{path}.entry_id", entry.entry_id)
    fields.id(f"{path}.sku", entry.sku)
    if entry.segment:
        fields.id(f"{path}.segment", entry.segment)
    node_ids, node_group_id = _scope_from(fields, f"{path}.", entry)
    return AvailabilityQuery(
        sku=entry.sku,
        entry_id=entry.entry_id,
        node_ids=node_ids,
        node_group_id=node_group_id,
        segment=entry.segment,
    )


def _scope_from(
    fields: Fields, path: str, asked: pb.AvailabilityQuery | pb.CheckAvailabilityRequest
) -> tuple[tuple[str, ...] | None, str | None]:
    """Named nodes, or a group, or neither."""
    scope = asked.WhichOneof("scope")
    if scope == "nodes":
        named = asked.nodes.node_ids
        count = fields.count(f"{path}nodes.node_ids", len(named), 1, SCOPE_NODES_MAX)
        return tuple(
            fields.id(f"{path}nodes.node_ids[{index}]", named[index]) for index in range(count)
        ), None
    if scope == "node_group_id":
        return None, fields.id(f"{path}node_group_id", asked.node_group_id)
    return None, None


def check_from(request: pb.CheckAvailabilityRequest) -> tuple[AvailabilityCheck, Consistency]:
    """SKUs, quantities (1 where none are given), scope and consistency."""
    fields = Fields()
    count = fields.count("skus", len(request.skus), 1, CHECKS_MAX)
    skus = tuple(fields.id(f"skus[{index}]", request.skus[index]) for index in range(count))
    quantities = (1,) * count
    if request.quantities:
        if len(request.quantities) != len(request.skus):
            fields.complain("quantities", "DOES_NOT_FIT", "must be as many as skus, or none")
        quantities = tuple(
            fields.quantity(f"quantities[{index}]", quantity)
            for index, quantity in enumerate(request.quantities[:CHECKS_MAX])
        )
    node_ids, node_group_id = _scope_from(fields, "", request)
    fields.id("segment", request.segment, optional=True)
    consistency = consistency_from(fields, "consistency", request.consistency)
    fields.done()
    check = AvailabilityCheck(
        skus=skus, quantities=quantities, node_ids=node_ids, node_group_id=node_group_id,
        segment=request.segment,
    )  # fmt: skip
    return check, consistency


def check_to(reply: CheckReply) -> pb.CheckAvailabilityResponse:
    return pb.CheckAvailabilityResponse(
        outcome=number_of(reply.outcome),
        available=reply.available,
        unknown_sku_indices=reply.unknown,
        freshness=None if reply.freshness is None else freshness_to(reply.freshness),
    )


def explain_from(request: pb.ExplainAvailabilityRequest) -> tuple[str, str, int]:
    """SKU, or the account of a node's day; node and limit."""
    fields = Fields()
    node_id = fields.id("node_id", request.node_id)
    if request.HasField("capacity_date"):
        if request.sku:
            fields.complain("sku", "DOES_NOT_FIT", "is left out where a day is asked about")
        method = fields.enum("fulfillment_method", request.fulfillment_method, METHODS)
        sku = account_of(method, fields.date("capacity_date", request.capacity_date), node_id)
    else:
        if request.fulfillment_method:
            fields.complain("fulfillment_method", "DOES_NOT_FIT", "is of a day's capacity")
        sku = fields.id("sku", request.sku)
    limit = fields.number("limit", request.limit, 1, LIMIT_MAX, default=LIMIT_DEFAULT)
    fields.done()
    return sku, node_id, limit


def explain_to(story: Story) -> pb.ExplainAvailabilityResponse:
    row = story.row
    return pb.ExplainAvailabilityResponse(
        ats=story.ats,
        reasons=[number_of(reason) for reason in story.reasons],
        breakdown=pb.AvailabilityBreakdown(
            on_hand=row.on_hand,
            reserved=row.held,
            committed=row.committed,
            safety_stock=row.safety_stock,
            shortage=shortage(row.on_hand, row.committed, row.held, row.safety_stock),
            node_status=NODE_STATUS_NUMBERS[story.status]
            if story.status
            else types_pb2.NODE_STATUS_UNSPECIFIED,
        ),
        as_of=as_of_to(story.as_of),
        table_ats=story.table_ats,
        table_freshness=freshness_to(story.table_freshness),
        source=row.source,
        source_sequence=row.source_sequence,
        totals=_totals_to(row),
        owed=row.sold_short,
        inbound=[_supply_to(bucket, row) for bucket, row in story.inbound],
        reservations=[_standing_to(standing) for standing in story.standing],
        reservation_count=story.standing_count,
        events=[_happening_to(happening) for happening in story.happened],
        order_store_as_of=as_of_to(story.stored_as_of),
        components=[pb.ComponentStock(**part._asdict()) for part in story.components],
        shares=[
            pb.KeptShare(segment=share.segment, level=share.level, taken=share.taken)
            for share in story.row.protected
        ],
    )


def _supply_to(bucket: str, row: StockPosition) -> pb.InboundSupply:
    return pb.InboundSupply(
        bucket=bucket,
        on_hand=row.on_hand,
        committed=row.committed,
        reserved=row.held,
        safety_stock=row.safety_stock,
        arrival_time=timestamp_to(row.arrival_ms) if row.arrival_ms > 0 else None,
        arrived=row.arrival_ms == ARRIVED,
        totals=_totals_to(row),
    )


def _totals_to(row: StockPosition) -> pb.PositionTotals:
    return pb.PositionTotals(
        confirmed_total=row.confirmed_total,
        cancelled_total=row.cancelled_total,
        fulfilled_total=row.fulfilled_total,
    )


def _standing_to(standing: Standing) -> pb.StandingReservation:
    return pb.StandingReservation(
        reservation_id=standing.reservation_id,
        confirmed=standing.confirmed,
        quantity=standing.quantity,
        expire_time=None if standing.confirmed else timestamp_to(standing.expire_ms),
        bucket=standing.bucket,
    )


def _happening_to(happening: Happening) -> pb.PositionEvent:
    row = happening.row
    return pb.PositionEvent(
        as_of=as_of_to(happening.as_of),
        event_type=happening.event_type.name,
        subject=happening.subject,
        on_hand=row.on_hand,
        committed=row.committed,
        held=row.held,
        safety_stock=row.safety_stock,
        source=row.source,
        source_sequence=row.source_sequence,
    )


def query_to(reply: AvailabilityReply, view: AvailabilityView) -> pb.QueryAvailabilityResponse:
    """``view`` BREAKDOWN tells the figures ATS follows from."""
    breakdown = view >= AvailabilityView.BREAKDOWN
    return pb.QueryAvailabilityResponse(
        entries=[_entry_to(entry, breakdown=breakdown) for entry in reply.entries],
        freshness=freshness_to(reply.freshness),
    )


def _entry_to(entry: Availability, *, breakdown: bool) -> pb.Availability:
    return pb.Availability(
        entry_id=entry.entry_id,
        sku=entry.sku,
        outcome=number_of(entry.outcome),
        ats=entry.ats,
        nodes=[_node_to(node, breakdown=breakdown) for node in entry.nodes],
        as_of=None if entry.as_of is None else as_of_to(entry.as_of),
        inbound=[
            pb.InboundAvailability(
                node_id=x.node_id,
                bucket=x.bucket,
                ats=x.ats,
                arrival_time=timestamp_to(x.arrival_ms) if x.arrival_ms else None,
            )
            for x in entry.inbound
        ],
    )


def _node_to(node: NodeAvailability, *, breakdown: bool) -> pb.NodeAvailability:
    message = pb.NodeAvailability(node_id=node.node_id, ats=node.ats)
    if breakdown:
        message.breakdown.on_hand = node.on_hand
        message.breakdown.reserved = node.reserved
        message.breakdown.committed = node.committed
        message.breakdown.safety_stock = node.safety_stock
        message.breakdown.shortage = node.shortage
        message.breakdown.node_status = NODE_STATUS_NUMBERS[node.status]
    return message


def pickup_from(request: pb.FindPickupNodesRequest, now_ms: int) -> FindPickupNodesRequest:
    """The values of a search for pickup nodes."""
    fields = Fields()
    if request.HasField("origin"):
        origin = origin_from(fields, "origin", request.origin)
    else:
        fields.complain("origin", "REQUIRED", "must be set")
        origin = origin_from(Fields(), "origin", _SOMEWHERE)
    order_ms = None
    if request.HasField("order_time"):
        low_ms, high_ms = max(0, now_ms - ORDER_TIME_MS_MAX), now_ms + ORDER_TIME_MS_MAX
        order_ms = fields.time_ms("order_time", request.order_time, low_ms, high_ms)
    found = FindPickupNodesRequest(
        origin=origin,
        lines=lines_from(fields, "lines", request.lines, PICKUP_LINES_MAX),
        radius_meters=fields.number(
            "radius_meters",
            request.radius_meters,
            1,
            RADIUS_METERS_MAX,
            default=RADIUS_METERS_DEFAULT,
        ),
        limit=fields.number(
            "limit", request.limit, 1, PICKUP_LIMIT_MAX, default=PICKUP_LIMIT_DEFAULT
        ),
        fulfillment_method=fields.enum(
            "fulfillment_method",
            request.fulfillment_method,
            _PICKUP_METHODS,
            default=FulfillmentMethod.PICKUP_IN_STORE,
            known=METHODS,
        ),
        segment=fields.id("segment", request.segment, optional=True),
        order_ms=order_ms,
        consistency=consistency_from(fields, "consistency", request.consistency),
    )
    fields.done()
    return found


def capacity_from(request: pb.QueryNodeCapacityRequest) -> tuple[str, date | None, int]:
    """The node, the first day (None for today there), and how many."""
    fields = Fields()
    first = (
        fields.date("first_date", request.first_date) if request.HasField("first_date") else None
    )
    count = fields.number("day_count", request.day_count, 1, DAYS_TOLD_MAX, default=DAYS_TOLD)
    node_id = fields.id("node_id", request.node_id)
    fields.done()
    return node_id, first, count


def capacity_to(told: NodeDays) -> pb.QueryNodeCapacityResponse:
    return pb.QueryNodeCapacityResponse(
        days=[
            pb.NodeCapacityDay(
                date=date_to(day.date),
                fulfillment_method=METHOD_NUMBERS[day.fulfillment_method],
                orders_max=day.orders_max,
                held_orders=day.held,
                committed_orders=day.committed,
                worked_orders=day.worked,
                left_orders=day.left,
            )
            for day in told.days
        ],
        as_of_time=timestamp_to(told.as_of_ms),
        network_version=told.network_version,
    )


_SOMEWHERE = types_pb2.Address(coordinates=types_pb2.Coordinates())


def pickup_to(reply: FindPickupNodesReply) -> pb.FindPickupNodesResponse:
    return pb.FindPickupNodesResponse(
        outcome=number_of(reply.outcome),
        nodes=[_pickup_node_to(node) for node in reply.nodes],
        network_version=reply.network_version,
        freshness=freshness_to(reply.freshness),
    )


def _pickup_node_to(found: PickupNode) -> pb.PickupNode:
    node = found.node
    return pb.PickupNode(
        node_id=node.node_id,
        name=node.name,
        address=types_pb2.Address(
            country=node.country,
            region=node.region,
            postal_code=node.postal_code,
            coordinates=types_pb2.Coordinates(
                latitude_degrees=node.latitude, longitude_degrees=node.longitude
            ),
        ),
        distance_meters=found.distance_meters,
        lines=[
            pb.PickupLine(line_id=line.line_id, ats=line.ats, outcome=number_of(line.outcome))
            for line in found.lines
        ],
        complete=found.complete,
        ready_time=None if found.ready_ms is None else timestamp_to(found.ready_ms),
        cutoff_time=None if found.order_by_ms is None else timestamp_to(found.order_by_ms),
        time_zone=node.time_zone,
    )
