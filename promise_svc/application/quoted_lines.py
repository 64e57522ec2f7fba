"""From a quote to lines with nodes: exactly the plan it names, or what changed since.

Pure but for the snapshot and the table it is given. Of stock, only when supply on its way arrives
is looked at: how much there is, the shards decide.
"""

from __future__ import annotations

from promise_svc.application.capacity import Capacity, together
from promise_svc.application.ports import AtsReader
from promise_svc.application.promise import planned_units
from promise_svc.application.quote import PromisedPlan, Quote
from promise_svc.application.reservation_body import ReservationLine
from promise_svc.application.sourced_lines import (
    REFUSALS,
    LineOutcome,
    SourcedLines,
    of_requested,
    shipment_uses,
)
from promise_svc.domain.delivery import Shipment
from promise_svc.domain.inventory import ARRIVED
from promise_svc.domain.network import NetworkSnapshot
from promise_svc.domain.reach import Reach, UnfulfilledReason, Wanted
from promise_svc.domain.reservation import CreateOutcome
from promise_svc.hotpath import shard_of


def quoted_lines(
    snapshot: NetworkSnapshot, table: AtsReader, quote: Quote, shard_count: int, now_ms: int
) -> SourcedLines:
    """The quote's lines at its nodes, or a refusal for each line that cannot be kept.

    A cutoff is met at its very instant, and a date that is kept or beaten stands. The time at
    which a pickup is ready is told anew, for an order of now. Cost: some 20 us a shipment.
    """
    capacity = Capacity(snapshot, table, shard_count)
    shipments: list[Shipment] = []
    refusals: list[LineOutcome] = []
    for shipment in quote.plan.shipments:
        if shipment.arrival_ms:
            refusals += _put_off(table, shipment)
        placed_ms = capacity.placed_ms(shipment, max(now_ms, shipment.arrival_ms))
        found = _as_of_now(_reach(snapshot, quote, placed_ms), shipment, now_ms)
        if isinstance(found, Shipment):
            shipments.append(_here_by_now(table, found) if found.arrival_ms else found)
        else:
            refusals += [found._replace(line_id=line.line_id) for line in shipment.lines]
    if refusals:
        refusals.sort(key=lambda refusal: refusal.outcome)
        told = of_requested(refusals, quote.bundles)
        return SourcedLines(refusals=told, network_version=snapshot.version)
    shipments = [_on_its_day(capacity, shipment, now_ms) for shipment in shipments]
    units = planned_units(shipments)
    lines = tuple(
        ReservationLine(
            line.line_id,
            line.sku,
            line.quantity,
            shard_of(snapshot.shard_key(line.sku), shard_count),
            units[line.line_id],
        )
        for line in quote.lines
    )
    return SourcedLines(
        lines=lines,
        network_version=snapshot.version,
        promised=PromisedPlan(quote.plan.currency_code, tuple(shipments)),
        bundles=quote.bundles,
        capacity=together(shipment_uses(capacity, shipments)),
    )


def _on_its_day(capacity: Capacity, shipment: Shipment, now_ms: int) -> Shipment:
    """The shipment with the day it counts for: the one quoted, whether or not it is full by now,
    or the next where its node had no bound then."""
    node_id, method = shipment.node_id, shipment.fulfillment_method
    if not capacity.bounded(node_id, method):
        return shipment._replace(work_date=None)
    if shipment.work_date is not None:
        return shipment
    at_ms = max(now_ms, shipment.arrival_ms)
    return shipment._replace(work_date=capacity.work_date(node_id, method, at_ms, first=True))


def _reach(snapshot: NetworkSnapshot, quote: Quote, now_ms: int) -> Reach:
    shipments = quote.plan.shipments
    wanted = Wanted(
        address=quote.address,
        pickup_node_id=quote.pickup_node_id,
        fulfillment_methods=frozenset(x.fulfillment_method for x in shipments),
        carrier_services=frozenset(x.carrier_service for x in shipments if x.carrier_service),
        order_ms=now_ms,
    )
    return Reach(snapshot, wanted)


def _here_by_now(table: AtsReader, shipment: Shipment) -> Shipment:
    """Lines whose supply has arrived meanwhile are stock here now."""
    arrived = {
        (line.sku, row.bucket)
        for line in shipment.lines
        for row in table.rows(line.sku) or ()
        if row.node_id == shipment.node_id and row.arrival_ms == ARRIVED
    }
    lines = (
        line._replace(bucket="") if (line.sku, line.bucket) in arrived else line
        for line in shipment.lines
    )
    return shipment._replace(lines=tuple(lines))


def _put_off(table: AtsReader, shipment: Shipment) -> list[LineOutcome]:
    """Lines whose supply comes later than was promised."""
    node_id, found = shipment.node_id, []
    for line in shipment.lines:
        for row in table.rows(line.sku) or ():
            here = (row.node_id, row.bucket) == (node_id, line.bucket)
            if here and row.arrival_ms > shipment.arrival_ms:
                moved = CreateOutcome.DATE_MOVED
                found.append(LineOutcome(line.line_id, moved, node_id=node_id))
    return found


def _as_of_now(reach: Reach, shipment: Shipment, now_ms: int) -> Shipment | LineOutcome:
    """The shipment if it can leave as promised, else why its lines cannot be kept."""
    node_id = shipment.node_id
    services = reach.services(node_id)
    if isinstance(services, UnfulfilledReason):
        return LineOutcome("", REFUSALS[services], node_id=node_id)
    wanted = shipment.fulfillment_method, shipment.carrier_service
    same = [x for x in services if (x.fulfillment_method, x.carrier_service) == wanted]
    if not same:
        return LineOutcome("", CreateOutcome.NO_LANE, node_id=node_id)
    latest = same[0].dates.latest_delivery_date
    if now_ms > shipment.order_by_ms:
        outcome = CreateOutcome.CUTOFF_PASSED
    elif latest > shipment.latest_delivery_date:
        outcome = CreateOutcome.DATE_MOVED
    else:
        return shipment._replace(ready_ms=same[0].ready_ms)
    return LineOutcome("", outcome, node_id=node_id, latest_delivery_date=latest)
