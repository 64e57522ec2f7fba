"""The exact search without its shortcuts: all offers, plain lists. What answers must equal."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from itertools import accumulate

from promise_svc.domain.sourcing import (
    Candidate,
    DeliveryOption,
    Demand,
    PlannedShipment,
    SourcingPlan,
    Work,
    shipment_cost_nanos,
)


def plain_plan(
    demands: tuple[Demand, ...],
    candidates: tuple[Candidate, ...],
    day: date,
    max_shipments: int,
) -> SourcingPlan | None:
    """The best plan by (shipments, cost, distance) that keeps ``day``; no bound on work."""
    return PlainSearch(demands, candidates, day, max_shipments, Work(10**9)).run()


@dataclass(frozen=True, slots=True)
class _Offer:
    """One node with one of its options; ``ats`` is capped at the demand."""

    node_id: str
    option: DeliveryOption
    ats: tuple[int, ...]
    distance_meters: int


class PlainSearch:
    """The best plan by (shipments, cost, distance) among options that keep one date.

    ``shipment_count_bound`` says, after ``run``, how few shipments a plan must have.
    """

    def __init__(
        self,
        demands: tuple[Demand, ...],
        candidates: tuple[Candidate, ...],
        day: date,
        max_shipments: int,
        work: Work,
    ) -> None:
        self._demands = demands
        self._max_shipments = max_shipments
        self._work = work
        self._step_cost = 1
        self._weight_grams = sum(d.quantity * d.weight_grams for d in demands)
        self._offers = self._sorted_offers(candidates, day)
        self._banned = [False] * len(self._offers)
        demand_range = range(len(demands))
        self._supply = [[i for i, o in enumerate(self._offers) if o.ats[d]] for d in demand_range]
        self._rarest_first = sorted(
            demand_range, key=lambda d: (len(self._supply[d]), demands[d].sku)
        )
        self._reach = [self._prefix_sums(d) for d in demand_range]
        options = [o.option for o in self._offers]
        self._base_nanos_min = 1000 * min((o.base_cost_micros for o in options), default=0)
        self._kilogram_min = min((o.cost_per_kilogram_micros for o in options), default=0)
        self._distance_min = min((o.distance_meters for o in self._offers), default=0)
        self._best: SourcingPlan | None = None
        self.shipment_count_bound = max_shipments + 1

    def run(self) -> SourcingPlan | None:
        """Deepen from the fewest shipments that stock alone does not rule out."""
        counts = range(1, self._max_shipments + 1)
        lowest = next((k for k in counts if self._within_reach(self._quantities(), k)), None)
        if lowest is None:
            return None
        self._settle_greedily()
        for count in range(lowest, self._max_shipments + 1):
            self.shipment_count_bound = count
            self._extend([], self._quantities(), count, 0, 0)
            if self._work.spent or (self._best is not None and len(self._best.shipments) == count):
                break
        else:
            self.shipment_count_bound = self._max_shipments + 1
        return self._best

    def _sorted_offers(self, candidates: tuple[Candidate, ...], day: date) -> list[_Offer]:
        offers = []
        for candidate in candidates:
            pairs = zip(candidate.ats, self._demands, strict=True)
            ats = tuple(min(have, demand.quantity) for have, demand in pairs)
            if any(ats):
                for option in _undominated(candidate.options, day):
                    offers.append(_Offer(candidate.node_id, option, ats, candidate.distance_meters))
        grams = self._weight_grams
        return sorted(
            offers,
            key=lambda o: (
                shipment_cost_nanos(o.option, grams),
                o.distance_meters,
                o.node_id,
                o.option.name,
            ),
        )

    def _prefix_sums(self, demand_index: int) -> list[int]:
        """Units the best 0, 1, 2 ... nodes have together, up to the split limit."""
        by_node = {o.node_id: o.ats[demand_index] for o in self._offers}
        best = sorted(by_node.values(), reverse=True)[: self._max_shipments]
        best += [0] * (self._max_shipments - len(best))
        return [0, *accumulate(best)]

    def _quantities(self) -> list[int]:
        return [demand.quantity for demand in self._demands]

    def _within_reach(self, missing: list[int], count: int) -> bool:
        return all(units <= reach[count] for units, reach in zip(missing, self._reach, strict=True))

    def _settle_greedily(self) -> None:
        """A first plan: always the offer that completes most SKUs, then covers most units."""
        chosen: list[_Offer] = []
        missing = self._quantities()
        while any(units > 0 for units in missing):
            if len(chosen) == self._max_shipments:
                return
            used = {offer.node_id for offer in chosen}
            fresh = (offer for offer in self._offers if offer.node_id not in used)
            best = max(fresh, key=lambda offer: _coverage(offer, missing), default=None)
            if best is None or _coverage(best, missing) == (0, 0):
                return
            chosen.append(best)
            missing = _less(missing, best)
        self._offer_plan(chosen)

    def _extend(
        self, chosen: list[_Offer], missing: list[int], left: int, base_nanos: int, distance: int
    ) -> None:
        """Try every completion of ``chosen`` with at most ``left`` more offers."""
        rarest = next((d for d in self._rarest_first if missing[d] > 0), None)
        if rarest is None:
            self._offer_plan(chosen)
            return
        if not self._within_reach(missing, left) or self._hopeless(left, base_nanos, distance):
            return
        used = {offer.node_id for offer in chosen}
        tried = []
        for index in self._supply[rarest]:
            offer = self._offers[index]
            if self._banned[index] or offer.node_id in used:
                continue
            if self._work.spent:
                break
            self._work.left -= self._step_cost
            tried.append(index)
            self._extend(
                [*chosen, offer],
                _less(missing, offer),
                left - 1,
                base_nanos + offer.option.base_cost_micros * 1000,
                distance + offer.distance_meters,
            )
            # Sets with this offer are done: the next siblings go without it.
            self._banned[index] = True
        for index in tried:
            self._banned[index] = False

    def _hopeless(self, left: int, base_nanos: int, distance: int) -> bool:
        """Whether no completion can beat the plan at hand. Deepening has ruled out smaller plans,
        so exactly ``left`` more shipments will come."""
        if self._best is None:
            return False
        cost_nanos = base_nanos + left * self._base_nanos_min
        cost_nanos += self._kilogram_min * self._weight_grams
        bound = (cost_nanos, distance + left * self._distance_min)
        return self._count_of_best() <= self.shipment_count_bound and bound >= (
            self._best.cost_nanos,
            self._best.distance_meters,
        )

    def _count_of_best(self) -> int:
        return self._max_shipments + 1 if self._best is None else len(self._best.shipments)

    def _offer_plan(self, chosen: list[_Offer]) -> None:
        """Fill the quantities at least cost and keep the plan if it is better."""
        by_cost = sorted(
            chosen,
            key=lambda o: (o.option.cost_per_kilogram_micros, o.distance_meters, o.node_id),
        )
        quantities = {offer.node_id: [0] * len(self._demands) for offer in chosen}
        for index, demand in enumerate(self._demands):
            missing = demand.quantity
            for offer in by_cost:
                taken = min(missing, offer.ats[index])
                quantities[offer.node_id][index] = taken
                missing -= taken
        shipments = tuple(
            PlannedShipment(offer.node_id, offer.option, tuple(quantities[offer.node_id]))
            for offer in sorted(chosen, key=lambda o: o.node_id)
            if any(quantities[offer.node_id])
        )
        sent = {shipment.node_id for shipment in shipments}
        plan = SourcingPlan(
            shipments,
            cost_nanos=sum(self._shipment_nanos(shipment) for shipment in shipments),
            distance_meters=sum(o.distance_meters for o in chosen if o.node_id in sent),
            exact=True,
            shipment_count_bound=1,
        )
        if self._best is None or _cost_rank(plan) < _cost_rank(self._best):
            self._best = plan

    def _shipment_nanos(self, shipment: PlannedShipment) -> int:
        pairs = zip(shipment.quantities, self._demands, strict=True)
        grams = sum(quantity * demand.weight_grams for quantity, demand in pairs)
        return shipment_cost_nanos(shipment.option, grams)


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


def _cost_rank(plan: SourcingPlan) -> tuple[int, int, int]:
    return len(plan.shipments), plan.cost_nanos, plan.distance_meters


def _coverage(offer: _Offer, missing: list[int]) -> tuple[int, int]:
    """SKUs the offer completes and units it covers of what is missing."""
    pairs = [(have, want) for have, want in zip(offer.ats, missing, strict=True) if want > 0]
    return sum(have >= want for have, want in pairs), sum(min(pair) for pair in pairs)


def _less(missing: list[int], offer: _Offer) -> list[int]:
    return [want - have for want, have in zip(missing, offer.ats, strict=True)]
