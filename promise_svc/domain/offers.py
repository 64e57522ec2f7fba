"""What each node could send of a cart, each way it could send it: the search's material.

Made once a cart and looked at once a date. Of nodes with equal options those that can be in no best
plan are left out: a plan of so many shipments needs no node that as many others surpass, each of
them no farther and with at least as much of every SKU.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import NamedTuple

from promise_svc.domain.packed import Packing
from promise_svc.domain.sourcing import Candidate, DeliveryOption, Demand, shipment_cost_nanos

_STOCKS_COMPARED_MAX = 64
_DEMANDS_COMPARED_MAX = 12
"""With more different stocks among nodes of equal options, or more demands, few nodes surpass
another, and looking for them costs more than it saves."""


class Offer(NamedTuple):
    """One node with one of its options. Offers sort by what one shipment of everything would cost,
    then distance, node id and option name."""

    whole_cost_nanos: int
    distance_meters: int
    node_id: str
    option_name: str
    option: DeliveryOption
    stock: int
    """Packed units of each demand, capped at it."""
    rank: int
    """So many nodes, or more, surpass this one: a plan of that many shipments needs it not."""


class _Member(NamedTuple):
    distance_meters: int
    node_id: str
    ats: tuple[int, ...]
    stock: int
    rank: int


@dataclass(slots=True)
class _Group:
    """Nodes with equal options, nearest first."""

    options: tuple[DeliveryOption, ...]
    nodes: list[tuple[int, str, tuple[int, ...]]] = field(default_factory=list)
    """Distance, id and figures of all that have anything."""
    members: list[_Member] = field(default_factory=list)
    """Those not left out."""
    supply_counts: list[int] = field(default_factory=list)
    """Nodes that have any, a demand; those left out included."""
    offers: dict[str, list[Offer]] = field(default_factory=dict)


class DayOffers(NamedTuple):
    """Offers that keep one date."""

    offers: list[Offer]
    """In order."""
    ats: list[tuple[int, ...]]
    """Figures of each node among them."""
    supply_counts: list[int]
    """Offers with any, a demand; those left out included."""


class Offers:
    """All offers of a cart. Cost: a few microseconds a candidate."""

    def __init__(
        self,
        demands: tuple[Demand, ...],
        candidates: tuple[Candidate, ...],
        shipment_count_max: int,
    ) -> None:
        quantities = [demand.quantity for demand in demands]
        self.packing = Packing(quantities)
        self.weight_grams = sum(d.quantity * d.weight_grams for d in demands)
        self._demand_count = len(demands)
        # No plan has more shipments than units.
        most = min(shipment_count_max, sum(quantities))
        by_options: dict[tuple[DeliveryOption, ...], _Group] = {}
        by_identity: dict[int, _Group] = {}  # far cheaper to look up, and mostly found
        for candidate, ats in zip(candidates, _capped(candidates, quantities), strict=True):
            options = candidate.options
            group = by_identity.get(id(options))
            if group is None:
                group = by_options.setdefault(options, _Group(options))
                by_identity[id(options)] = group
            if any(ats):
                group.nodes.append((candidate.distance_meters, candidate.node_id, ats))
        self.days = sorted({o.latest_delivery_date for options in by_options for o in options})
        self._groups = [group for group in by_options.values() if group.nodes]
        packed: dict[tuple[int, ...], int] = {}
        for group in self._groups:
            self._thin_out(group, most, packed)

    def keeping(self, day: date) -> DayOffers:
        """Offers that are there by ``day``, of each node those that another of it does not beat."""
        offers: list[Offer] = []
        ats: list[tuple[int, ...]] = []
        supply_counts = [0] * self._demand_count
        for group in self._groups:
            options = _undominated(group.options, day)
            if not options:
                continue
            ats += [member.ats for member in group.members]
            for option in options:
                offers += self._offers_of(group, option)
            for index, count in enumerate(group.supply_counts):
                supply_counts[index] += count * len(options)
        offers.sort()
        return DayOffers(offers, ats, supply_counts)

    def _offers_of(self, group: _Group, option: DeliveryOption) -> list[Offer]:
        offers = group.offers.get(option.name)
        if offers is None:
            cost = shipment_cost_nanos(option, self.weight_grams)
            offers = group.offers[option.name] = [
                Offer(cost, m.distance_meters, m.node_id, option.name, option, m.stock, m.rank)
                for m in group.members
            ]
        return offers

    def _thin_out(self, group: _Group, most: int, packed: dict[tuple[int, ...], int]) -> None:
        """Order the members, pack their stock, leave out those that ``most`` others surpass."""
        columns = zip(*(ats for _, _, ats in group.nodes), strict=True)
        group.supply_counts = [len(column) - column.count(0) for column in columns]
        group.nodes.sort()
        stocks = {ats for _, _, ats in group.nodes}
        for ats in stocks:
            if ats not in packed:
                packed[ats] = self.packing.pack(ats)
        if len(stocks) > _STOCKS_COMPARED_MAX or self._demand_count > _DEMANDS_COMPARED_MAX:
            group.members = [_Member(*node, packed[node[2]], 0) for node in group.nodes]
            return
        at_least_as_much = self._at_least_as_much([packed[ats] for ats in stocks])
        kept = dict.fromkeys(at_least_as_much, 0)
        surpassed: set[tuple[int, ...]] = set()
        for node in group.nodes:
            ats = node[2]
            if ats in surpassed:
                continue
            stock = packed[ats]
            rank = sum([kept[other] for other in at_least_as_much[stock]])
            if rank >= most:
                surpassed.add(ats)
                continue
            kept[stock] += 1
            group.members.append(_Member(*node, stock, rank))

    def _at_least_as_much(self, stocks: Sequence[int]) -> dict[int, list[int]]:
        guards = self.packing.guards
        guarded = [(stock, stock | guards) for stock in stocks]
        return {
            stock: [other for other, high in guarded if (high - stock) & guards == guards]
            for stock in stocks
        }


def _capped(
    candidates: tuple[Candidate, ...], quantities: Sequence[int]
) -> Iterable[tuple[int, ...]]:
    """What each candidate has of each demand, no more than is wanted."""
    columns = zip(*(candidate.ats for candidate in candidates), strict=True)
    capped = (
        [units if units < quantity else quantity for units in column]
        for column, quantity in zip(columns, quantities, strict=True)
    )
    return zip(*capped, strict=True) if candidates else ()


def _undominated(options: tuple[DeliveryOption, ...], day: date) -> list[DeliveryOption]:
    """Options that keep ``day`` and are not at least as dear as another in both costs."""
    kept: list[DeliveryOption] = []
    in_time = (option for option in options if option.latest_delivery_date <= day)
    for option in sorted(
        in_time,
        key=lambda o: (
            o.base_cost_micros,
            o.cost_per_kilogram_micros,
            o.latest_delivery_date,
            o.name,
        ),
    ):
        if all(option.cost_per_kilogram_micros < o.cost_per_kilogram_micros for o in kept):
            kept.append(option)
    return kept
