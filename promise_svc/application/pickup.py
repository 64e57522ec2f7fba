"""Where a cart could be collected: nodes near the shopper, what each has, when it is ready."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import islice

from promise_svc.application.availability import AvailabilityOutcome, unknown_sku
from promise_svc.application.capacity import Capacity
from promise_svc.application.ports import Clock
from promise_svc.application.stock import (
    Consistency,
    Freshness,
    SkuStock,
    StockSource,
    here_now,
)
from promise_svc.domain.bundle import exploded
from promise_svc.domain.delivery import PickupTimes, pickup_times
from promise_svc.domain.network import (
    PICKUP_METHODS,
    FulfillmentMethod,
    NetworkSnapshot,
    Node,
    NodeMethod,
    NodeStatus,
)
from promise_svc.domain.reach import NEVER, Address, Line, Wanted
from promise_svc.domain.reservation import LINES_MAX
from promise_svc.domain.rules import PRIORITY_MAX, OrderRules
from promise_svc.errors import FieldViolation, InvalidRequest, NoBusinessDay

RADIUS_METERS_DEFAULT = 50_000
PICKUP_LIMIT_DEFAULT = 20

Locate = Callable[[str, str], tuple[float, float] | None]
"""Country and postal code in, latitude and longitude out, None where unknown."""


class FindPickupNodesOutcome(IntEnum):
    """What happened to a search for pickup nodes."""

    OK = 1
    UNKNOWN_ORIGIN = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class FindPickupNodesRequest:
    """Where a cart could be collected, nearest first."""

    origin: Address
    lines: tuple[Line, ...]
    radius_meters: int = RADIUS_METERS_DEFAULT
    limit: int = PICKUP_LIMIT_DEFAULT
    fulfillment_method: FulfillmentMethod = FulfillmentMethod.PICKUP_IN_STORE
    segment: str = ""
    order_ms: int | None = None
    """None for now."""
    consistency: Consistency = Consistency()


@dataclass(frozen=True, slots=True, kw_only=True)
class PickupLine:
    """What one node has of one line."""

    line_id: str
    ats: int
    outcome: AvailabilityOutcome


@dataclass(frozen=True, slots=True, kw_only=True)
class PickupNode:
    """A node where the shopper could collect."""

    node: Node
    distance_meters: int
    lines: tuple[PickupLine, ...]
    complete: bool
    """Whether the node alone has every line, repeats of a SKU summed."""
    ready_ms: int | None
    """None when the node's calendar has no business day within a year."""
    order_by_ms: int | None
    """The last instant at which an order is ready on the same business day."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FindPickupNodesReply:
    """Nodes that are ON and offer the method, also those that have too little; but none that
    sourcing rules exclude for every line."""

    outcome: FindPickupNodesOutcome
    nodes: tuple[PickupNode, ...]
    network_version: int
    freshness: Freshness


class PickupFinder:
    """Looks for pickup nodes. Holds and changes nothing."""

    def __init__(
        self,
        *,
        stock: StockSource,
        network: Callable[[], NetworkSnapshot],
        clock: Clock,
        locate: Locate = lambda country, postal_code: None,
    ) -> None:
        """``locate`` knows postal codes; by default none."""
        self._stock = stock
        self._network = network
        self._clock = clock
        self._locate = locate

    async def find(
        self, request: FindPickupNodesRequest, *, timeout: float
    ) -> FindPickupNodesReply:
        """The nearest ``limit`` nodes within the radius, by distance, then id."""
        _require_pickup(request.fulfillment_method)
        snapshot = self._network()
        counted, bundles = exploded(request.lines, snapshot.bundles, LINES_MAX)
        skus = {line.sku for line in (*request.lines, *(counted if bundles else ()))}
        stock = await self._stock.read(skus, request.consistency, timeout, request.segment)
        origin = self._coordinates(request.origin)
        outcome = FindPickupNodesOutcome.OK if origin else FindPickupNodesOutcome.UNKNOWN_ORIGIN
        near = snapshot.nodes_within(*origin, request.radius_meters) if origin else []
        order_ms = self._clock.now_ms() if request.order_ms is None else request.order_ms
        stock_at = _StockAt(snapshot, stock.by_sku, request.fulfillment_method, order_ms)
        offering = (
            (meters, node)
            for meters, node in near
            if node.status is NodeStatus.ON
            and node.method(request.fulfillment_method)
            and any(stock_at.allowed(line.sku, node.node_id) for line in request.lines)
        )
        capacity = Capacity(snapshot, self._stock.copy)
        ready = _ReadyTimes(snapshot, capacity, request.fulfillment_method, order_ms)
        return FindPickupNodesReply(
            outcome=outcome,
            nodes=tuple(
                _pickup_node(node, meters, (request.lines, counted), stock_at, ready)
                for meters, node in islice(offering, request.limit)
            ),
            network_version=snapshot.version,
            freshness=stock.freshness,
        )

    def _coordinates(self, origin: Address) -> tuple[float, float] | None:
        if origin.latitude is not None and origin.longitude is not None:
            return origin.latitude, origin.longitude
        return self._locate(origin.country, origin.postal_code)


def _require_pickup(method: FulfillmentMethod) -> None:
    if method not in PICKUP_METHODS:
        raise InvalidRequest(
            [
                FieldViolation(
                    "fulfillment_method",
                    "METHOD_NOT_SUPPORTED",
                    "must be PICKUP_IN_STORE or CURBSIDE",
                )
            ]
        )


class _StockAt:
    """ATS by SKU and node as far as sourcing rules leave it, each position looked at once."""

    def __init__(
        self,
        snapshot: NetworkSnapshot,
        stock: Mapping[str, SkuStock],
        fulfillment_method: FulfillmentMethod,
        order_ms: int,
    ) -> None:
        methods = frozenset({fulfillment_method})
        # As of a cart that is collected: whichever node it is, the same rules speak of it.
        self._rules = OrderRules(snapshot, Wanted(fulfillment_methods=methods, order_ms=order_ms))
        self._bundles = snapshot.bundles
        self.unknown = {sku for sku, found in stock.items() if unknown_sku(snapshot, sku, found)}
        self._units: dict[tuple[str, str], int] = {}
        for sku, found in stock.items():
            for node_id, units in here_now(found.rows or ()).items():
                self._units[sku, node_id] = units

    def allowed(self, sku: str, node_id: str) -> bool:
        """Whether rules leave the node for a SKU; of a bundle, for each of its components."""
        skus = [part.sku for part in self._bundles.get(sku, ())] or [sku]
        return all(self._rules.allowed(sku, {node_id: 0}, PRIORITY_MAX) for sku in skus)

    def ats(self, sku: str, node_id: str) -> int:
        return self._units.get((sku, node_id), 0) if self.allowed(sku, node_id) else 0


class _ReadyTimes:
    """When an order of one instant is ready; nodes with equal terms are worked out once."""

    def __init__(
        self,
        snapshot: NetworkSnapshot,
        capacity: Capacity,
        fulfillment_method: FulfillmentMethod,
        order_ms: int,
    ) -> None:
        self._snapshot = snapshot
        self._capacity = capacity
        self._fulfillment_method = fulfillment_method
        self._order_ms = order_ms
        self._known: dict[tuple[str, str, NodeMethod, int], PickupTimes | None] = {}

    def has_room(self, node: Node) -> bool:
        """Whether some day in sight has room for the order."""
        return self._placed_ms(node) != NEVER

    def _placed_ms(self, node: Node) -> int:
        later = self._capacity.later(node.node_id, (self._fulfillment_method,), self._order_ms)
        return later.get(self._fulfillment_method, self._order_ms)

    def of(self, node: Node) -> PickupTimes | None:
        """None where there is no such time, or no day with room in sight."""
        method = node.method(self._fulfillment_method)
        calendar = self._snapshot.calendar(node.calendar_id)
        if method is None or calendar is None:
            return None
        order_ms = self._placed_ms(node)
        if order_ms == NEVER:
            return None
        key = node.time_zone, node.calendar_id, method, order_ms
        if key not in self._known:
            try:
                times = pickup_times(order_ms, node=node, method=method, node_calendar=calendar)
            except NoBusinessDay:
                times = None
            self._known[key] = times
        return self._known[key]


def _pickup_node(
    node: Node,
    meters: float,
    asked: tuple[Sequence[Line], Sequence[Line]],
    stock_at: _StockAt,
    ready_times: _ReadyTimes,
) -> PickupNode:
    (lines, counted), ready = asked, ready_times.of(node)
    wanted: dict[str, int] = {}
    for line in counted:
        wanted[line.sku] = wanted.get(line.sku, 0) + line.quantity
    at_node = {sku: stock_at.ats(sku, node.node_id) for sku in {*wanted, *(x.sku for x in lines)}}
    return PickupNode(
        node=node,
        distance_meters=round(meters),
        lines=tuple(
            PickupLine(
                line_id=line.line_id,
                ats=at_node[line.sku],
                outcome=(
                    AvailabilityOutcome.UNKNOWN_SKU
                    if line.sku in stock_at.unknown
                    else AvailabilityOutcome.OK
                ),
            )
            for line in lines
        ),
        complete=ready_times.has_room(node)
        and all(at_node[sku] >= quantity for sku, quantity in wanted.items()),
        ready_ms=ready.ready_ms if ready else None,
        order_by_ms=ready.order_by_ms if ready else None,
    )
