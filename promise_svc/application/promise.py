"""By when a cart can be with the shopper, from where, at what cost; and which nodes to hold it at.

``promise_cart`` answers the shopper, ``plan`` sources a reservation. Both run the same domain
code over the same stock figures, so an unchanged world gives both the same first choice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import NamedTuple

from promise_svc.application.capacity import Capacity
from promise_svc.application.plain_cart import promise_in_crowd
from promise_svc.application.ports import AtsReader, AtsRow, Clock
from promise_svc.application.stock import (
    Consistency,
    Freshness,
    StockSource,
    here_now,
    row_ats,
    rows_of,
)
from promise_svc.domain.bundle import BundleLine, exploded, requested_line_id
from promise_svc.domain.cart import Cart, PromisedCart, UnfulfilledLine
from promise_svc.domain.cart import promise_cart as promise
from promise_svc.domain.delivery import DeliveryPromise, Shipment
from promise_svc.domain.inbound import InboundUnits, promise_later
from promise_svc.domain.network import PICKUP_METHODS, FulfillmentMethod, NetworkSnapshot
from promise_svc.domain.reach import Address, Line, Wanted
from promise_svc.domain.reservation import LINES_MAX
from promise_svc.domain.sourcing import SHIPMENTS_MAX
from promise_svc.domain.verdicts import Explanation, explain_cart
from promise_svc.errors import FieldViolation, InvalidRequest

MAX_OPTIONS_DEFAULT = 3
MAX_SHIPMENTS_DEFAULT = 3


class PromiseOutcome(IntEnum):
    """How much of a cart is promised; numbers are the contract's."""

    COMPLETE = 1
    PARTIAL = 2
    NONE = 3


class PromiseCartRequest(NamedTuple):
    """Plans for a cart. Exactly one of address and pickup node is set."""

    lines: tuple[Line, ...]
    address: Address | None = None
    pickup_node_id: str = ""
    fulfillment_methods: tuple[FulfillmentMethod, ...] = ()
    """Empty means SHIP_TO_ADDRESS or PICKUP_IN_STORE."""
    carrier_services: tuple[str, ...] = ()
    """Empty means all."""
    segment: str = ""
    """Whom it would be sold to; what is protected for others does not count."""
    order_ms: int | None = None
    """None for now."""
    max_options: int = MAX_OPTIONS_DEFAULT
    max_shipments: int = MAX_SHIPMENTS_DEFAULT
    """The split limit, 1..20."""
    excluded_node_ids: frozenset[str] = frozenset()
    consistency: Consistency = Consistency()
    explain: bool = False
    allow_backorder: bool = False
    """Where stock here now does not do, promise supply on its way, when it has arrived."""


class PromiseCartReply(NamedTuple):
    """Plans, best first, and the lines in none of them."""

    outcome: PromiseOutcome
    options: tuple[DeliveryPromise, ...]
    unfulfilled_lines: tuple[UnfulfilledLine, ...]
    network_version: int
    currency_code: str
    freshness: Freshness
    order_ms: int
    bundles: tuple[BundleLine, ...] = ()
    """What was asked for as a bundle; the shipments have its components."""
    explanation: Explanation | None = None
    """Where it was asked for."""

    @property
    def expire_ms(self) -> int | None:
        """The first cutoff that any option relies on; None without options."""
        return min((option.expire_ms for option in self.options), default=None)


class CartPromiser:
    """The use case of PromiseService. Writes and holds nothing."""

    def __init__(
        self, *, stock: StockSource, network: Callable[[], NetworkSnapshot], clock: Clock
    ) -> None:
        self._stock = stock
        self._network = network
        self._clock = clock

    async def promise_cart(
        self, request: PromiseCartRequest, *, timeout: float
    ) -> PromiseCartReply:
        """The best plans. InvalidRequest where a method does not fit the destination or is not
        built; otherwise raises what ``StockSource.read`` raises."""
        snapshot = self._network()
        order_ms = self._clock.now_ms() if request.order_ms is None else request.order_ms
        wanted = Wanted(
            address=request.address,
            pickup_node_id=request.pickup_node_id,
            fulfillment_methods=_methods(request.fulfillment_methods, request.address),
            carrier_services=frozenset(request.carrier_services),
            order_ms=order_ms,
            excluded_node_ids=request.excluded_node_ids,
        )
        lines, bundles = exploded(request.lines, snapshot.bundles, LINES_MAX)
        capacity = Capacity(snapshot, self._stock.copy)
        plain = self._plain(snapshot, request, lines, wanted, capacity)
        if plain is not None:
            promised, freshness = _dated(plain[0], capacity, order_ms), plain[1]
            return PromiseCartReply(
                outcome=PromiseOutcome.COMPLETE,
                options=promised.options,
                unfulfilled_lines=(),
                bundles=bundles,
                network_version=snapshot.version,
                currency_code=snapshot.currency_code,
                freshness=freshness,
                order_ms=order_ms,
            )
        skus = {line.sku for line in lines}
        stock = await self._stock.read(skus, request.consistency, timeout, request.segment)
        cart = Cart(
            lines=lines,
            stock={sku: here_now(found.rows or ()) for sku, found in stock.by_sku.items()},
            wanted=wanted,
            max_shipments=request.max_shipments,
            max_options=request.max_options,
        )
        rows = {sku: found.rows or () for sku, found in stock.by_sku.items()}
        later = rows if request.allow_backorder else {}
        cart, promised = _promised(snapshot, cart, later, {}, capacity)
        return PromiseCartReply(
            outcome=_outcome(promised.options, promised.unfulfilled_lines),
            options=promised.options,
            unfulfilled_lines=_of_requested(promised.unfulfilled_lines, bundles),
            bundles=bundles,
            network_version=snapshot.version,
            currency_code=snapshot.currency_code,
            freshness=stock.freshness,
            order_ms=order_ms,
            explanation=explain_cart(snapshot, cart, promised) if request.explain else None,
        )

    def _plain(
        self,
        snapshot: NetworkSnapshot,
        request: PromiseCartRequest,
        lines: Sequence[Line],
        wanted: Wanted,
        capacity: Capacity,
    ) -> tuple[PromisedCart, Freshness] | None:
        """What the compiled search has, and how fresh; an explanation needs every node's stock."""
        search = self._stock.search
        if search is None or request.explain:
            return None
        skus = [line.sku for line in lines]
        freshness = self._stock.fresh(skus, request.consistency, request.segment)
        if freshness is None:
            return None
        promised = promise_in_crowd(
            search,
            snapshot,
            lines,
            wanted,
            capacity,
            max_shipments=request.max_shipments,
            max_options=request.max_options,
        )
        return None if promised is None else (promised, freshness)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRequest:
    """Lines to find nodes for. Exactly one of address and pickup node is set."""

    lines: tuple[Line, ...]
    """``line_id`` is unique."""
    fulfillment_method: FulfillmentMethod
    address: Address | None = None
    pickup_node_id: str = ""
    carrier_services: frozenset[str] = frozenset()
    """Empty for all."""
    segment: str = ""
    """Whom it would be sold to; what is protected for others does not count."""
    excluded_node_ids: frozenset[str] = frozenset()
    order_ms: int
    taken: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """(SKU, place) -> units the same reservation takes there by name; they count as gone."""
    max_shipments: int = SHIPMENTS_MAX
    allow_backorder: bool = False


class PlannedUnits(NamedTuple):
    """Units of one line at one position."""

    node_id: str
    bucket: str
    quantity: int
    fulfilled: int = 0
    """Of these, units that left."""
    cancelled: int = 0
    """Of these, units of a confirmed reservation that were given back."""

    @property
    def open_quantity(self) -> int:
        """Units still put aside."""
        return self.quantity - self.fulfilled - self.cancelled


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Nodes for every line, or why there are none: one of the two is empty."""

    units: Mapping[str, tuple[PlannedUnits, ...]]
    """Line id -> where; the quantities add up to the line's."""
    unfulfilled_lines: tuple[UnfulfilledLine, ...]
    """In request order; lines not named here could have been planned."""
    shipments: tuple[Shipment, ...]
    """The same units as they would leave, with dates and costs."""
    within_limit: Mapping[str, int]
    """Of lines beyond the split limit: line id -> units that fit."""
    network_version: int


def plan(snapshot: NetworkSnapshot, table: AtsReader, request: PlanRequest) -> Plan:
    """The best plan for all lines, all or nothing; no I/O.

    InvalidRequest where the method does not fit the destination or is not built.
    """
    wanted = Wanted(
        address=request.address,
        pickup_node_id=request.pickup_node_id,
        fulfillment_methods=_methods(
            (request.fulfillment_method,), request.address, "fulfillment_method"
        ),
        carrier_services=request.carrier_services,
        order_ms=request.order_ms,
        excluded_node_ids=request.excluded_node_ids,
    )
    capacity = Capacity(snapshot, table, taken=request.taken)
    searched = table.search is not None and not request.taken and _unshared(table, request)
    if table.search is not None and searched:
        promised = promise_in_crowd(
            table.search,
            snapshot,
            request.lines,
            wanted,
            capacity,
            max_shipments=request.max_shipments,
            max_options=1,
        )
        if promised is not None:
            promised = _dated(promised, capacity, request.order_ms)
            return _plan_of(promised.options[0].shipments, snapshot)
    rows = {line.sku: rows_of(table, line.sku, request.segment) for line in request.lines}
    stock = {sku: here_now(found) for sku, found in rows.items()}
    for (sku, node_id), quantity in request.taken.items():
        if node_id in stock.get(sku, {}):
            stock[sku][node_id] = max(0, stock[sku][node_id] - quantity)
    cart = Cart(
        lines=request.lines,
        stock=stock,
        wanted=wanted,
        max_shipments=request.max_shipments,
        max_options=1,
    )
    later = rows if request.allow_backorder else {}
    _, promised = _promised(snapshot, cart, later, request.taken, capacity)
    shipments: tuple[Shipment, ...] = ()
    if promised.options and not promised.unfulfilled_lines:
        shipments = promised.options[0].shipments
    return Plan(
        units=planned_units(shipments),
        unfulfilled_lines=_with_inbound(request.lines, promised),
        shipments=shipments,
        within_limit=promised.within_limit,
        network_version=snapshot.version,
    )


def _unshared(table: AtsReader, request: PlanRequest) -> bool:
    """Whether no share of a segment counts otherwise for this one than for none."""
    return not request.segment or not any(table.protected(x.sku) for x in request.lines)


def _plan_of(shipments: tuple[Shipment, ...], snapshot: NetworkSnapshot) -> Plan:
    return Plan(
        units=planned_units(shipments),
        unfulfilled_lines=(),
        shipments=shipments,
        within_limit={},
        network_version=snapshot.version,
    )


def _with_inbound(lines: Iterable[Line], promised: PromisedCart) -> tuple[UnfulfilledLine, ...]:
    """Unfulfilled lines told with what is on its way, as it could be held too."""
    if not promised.with_inbound:
        return promised.unfulfilled_lines
    sku_of = {line.line_id: line.sku for line in lines}
    return tuple(
        line._replace(ats=promised.with_inbound.get(sku_of[line.line_id], line.ats))
        for line in promised.unfulfilled_lines
    )


def planned_units(shipments: Iterable[Shipment]) -> dict[str, tuple[PlannedUnits, ...]]:
    """Line id -> where its units are to be held."""
    units: dict[str, tuple[PlannedUnits, ...]] = {}
    for shipment in shipments:
        for line_id, _, quantity, bucket in shipment.lines:
            here = PlannedUnits(shipment.node_id, bucket, quantity)
            units[line_id] = (*units.get(line_id, ()), here)
    return units


def _methods(
    asked: Sequence[FulfillmentMethod],
    address: Address | None,
    path: str = "fulfillment_methods[{}]",
) -> frozenset[FulfillmentMethod]:
    """The methods to consider; ``path`` is the field of the one with that index. LOCAL_DELIVERY and
    SHIP_TO_STORE are not built."""
    carried = FulfillmentMethod.SHIP_TO_ADDRESS
    if not asked:
        return frozenset({FulfillmentMethod.PICKUP_IN_STORE if address is None else carried})
    fitting = PICKUP_METHODS if address is None else frozenset({carried})
    violations = [
        FieldViolation(path.format(index), "METHOD_NOT_SUPPORTED", _not_supported(method, address))
        for index, method in enumerate(asked)
        if method not in fitting
    ]
    if violations:
        raise InvalidRequest(violations)
    return frozenset(asked)


def _not_supported(method: FulfillmentMethod, address: Address | None) -> str:
    destination = "a pickup node" if address is None else "an address"
    return f"{method} is not supported with {destination} as destination"


def _of_requested(
    unfulfilled: Sequence[UnfulfilledLine], bundles: Sequence[BundleLine]
) -> tuple[UnfulfilledLine, ...]:
    """A bundle's components told as the bundle: the first reason, and the sets the scarcest is
    enough for."""
    if not bundles:
        return tuple(unfulfilled)
    whole = {bundle.line_id: bundle for bundle in bundles}
    told: dict[str, UnfulfilledLine] = {}
    for line_id, reason, units in unfulfilled:
        asked = requested_line_id(line_id)
        sets = whole[asked].sets(line_id, units) if asked in whole and units is not None else units
        before = told.get(asked)
        if before is None or reason < before.reason:
            told[asked] = UnfulfilledLine(asked, reason, sets)
        elif reason == before.reason and sets is not None and sets < (before.ats or 0):
            told[asked] = before._replace(ats=sets)
    return tuple(told.values())


def place_of(node_id: str, bucket: str) -> str:
    """One name for a node, or for a bucket on its way to it."""
    return f"{node_id}\n{bucket}" if bucket else node_id


def inbound_units(
    rows: Iterable[AtsRow],
    now_ms: int,
    sku: str,
    taken: Mapping[tuple[str, str], int],
    worked: Callable[[str, int], Mapping[FulfillmentMethod, int]] = lambda node_id, at_ms: {},
) -> list[InboundUnits]:
    """What may be sold of a SKU's buckets, earliest first. One without a date, or whose date has
    passed, is promised to nobody. ``worked`` tells when a node works what arrives then."""
    found = []
    for row in rows:
        if row.bucket and row.arrival_ms > now_ms:
            units = row_ats(row) - taken.get((sku, place_of(row.node_id, row.bucket)), 0)
            if units > 0:
                later = worked(row.node_id, row.arrival_ms)
                found.append(InboundUnits(row.node_id, row.bucket, row.arrival_ms, units, later))
    return sorted(found, key=lambda x: (x.arrival_ms, x.node_id, x.bucket))


def _promised(
    snapshot: NetworkSnapshot,
    cart: Cart,
    later: Mapping[str, Iterable[AtsRow]],
    taken: Mapping[tuple[str, str], int],
    capacity: Capacity,
) -> tuple[Cart, PromisedCart]:
    """The cart as it was planned, and its promises, each shipment on a day with room for it."""
    order_ms, methods = cart.wanted.order_ms, cart.wanted.fulfillment_methods

    def searched(cart: Cart, *, full: bool) -> PromisedCart:
        if not later:
            return promise(snapshot, cart)

        def worked(node_id: str, at_ms: int) -> Mapping[FulfillmentMethod, int]:
            return capacity.later(node_id, methods, at_ms) if full else {}

        inbound = {
            sku: inbound_units(rows, order_ms, sku, taken, worked) for sku, rows in later.items()
        }
        return promise_later(snapshot, cart, inbound)

    if not capacity.bounds:
        return cart, searched(cart, full=False)
    if not capacity.crowded:
        # Full nodes look better than they are: plans without any of them stand.
        promised = searched(cart, full=False)
        if capacity.fits(promised.options, order_ms):
            return cart, _dated(promised, capacity, order_ms)
    node_ids = {node_id for units in cart.stock.values() for node_id in units}
    full = capacity.full_nodes(node_ids, methods, order_ms)
    capacity.crowded = bool(full)
    cart = replace(cart, wanted=cart.wanted._replace(arrivals=full))
    return cart, _dated(searched(cart, full=True), capacity, order_ms)


def _dated(promised: PromisedCart, capacity: Capacity, order_ms: int) -> PromisedCart:
    if not capacity.bounds:
        return promised
    options = (
        option._replace(shipments=capacity.dated(option.shipments, order_ms))
        for option in promised.options
    )
    return promised._replace(options=tuple(options))


def _outcome(options: Sequence[object], unfulfilled: Sequence[object]) -> PromiseOutcome:
    if not options:
        return PromiseOutcome.NONE
    return PromiseOutcome.PARTIAL if unfulfilled else PromiseOutcome.COMPLETE
