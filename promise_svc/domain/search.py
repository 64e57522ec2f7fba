"""Which nodes fill which quantities of a cart: the exact search.

It finds the plan with the fewest shipments, then the least cost, then the least distance, that
keeps one date. Ties go to the first in the order of cost, distance, node id and option name, so
the answer does not depend on the order of the input.

Within a fixed set of (node, option) the cheapest quantities are found greedily: cost is linear in
grams, nothing couples two SKUs, so each SKU fills from the lowest cost per kilogram up. What
remains is to choose the set: iterative deepening on the number of shipments, branching on the SKU
that fewest nodes have, pruned by what the best remaining nodes could still cover and cost; the
last node of a set is looked up by what is still missing. A work bound keeps it finite; a plan found
after the bound says ``exact=False`` and how few shipments any plan must have.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from itertools import accumulate

from promise_svc.domain.offers import Offer, Offers
from promise_svc.domain.sourcing import (
    Demand,
    PlannedShipment,
    SourcingPlan,
    Work,
    shipment_cost_nanos,
)

_OFFERS_PER_STEP = 32
"""Looking for what covers the rest takes a step for so many offers."""


class Search:
    """The best plan by (shipments, cost, distance) among options that keep one date.

    ``shipment_count_bound`` says, after ``run``, how few shipments a plan must have.
    """

    def __init__(
        self,
        demands: tuple[Demand, ...],
        offers: Offers,
        day: date,
        max_shipments: int,
        work: Work,
    ) -> None:
        self._demands = demands
        self._packing = offers.packing
        self._max_shipments = max_shipments
        self._work = work
        self._wanted = self._packing.pack([demand.quantity for demand in demands])
        self._offers, ats, supply_counts = offers.keeping(day)
        self._level_offers = self._offers
        self._rarest_first = [
            self._packing.field(index)
            for index in sorted(
                range(len(demands)), key=lambda d: (supply_counts[d], demands[d].sku)
            )
        ]
        self._reach = self._best_together(ats)
        options = [offer.option for offer in self._offers]
        self._base_nanos_min = 1000 * min((o.base_cost_micros for o in options), default=0)
        kilogram_min = min((o.cost_per_kilogram_micros for o in options), default=0)
        self._weight_nanos_min = kilogram_min * offers.weight_grams
        self._distance_min = min((o.distance_meters for o in self._offers), default=0)
        self._banned: set[Offer] = set()
        self._supply: dict[int, list[Offer]] = {}
        self._covering: dict[int, list[Offer]] = {}
        self._first_will_do = False
        self._best: SourcingPlan | None = None
        self.shipment_count_bound = max_shipments + 1

    def run(self) -> SourcingPlan | None:
        """Deepen from the fewest shipments that stock alone does not rule out."""
        reach = enumerate(self._reach)
        lowest = next((k for k, r in reach if self._packing.covers(r, self._wanted)), None)
        if lowest is None:
            return None
        self._settle_greedily()
        for count in range(lowest, self._max_shipments + 1):
            self.shipment_count_bound = count
            # Greedy starts with the best offer of everything, if there is one.
            if count > 1 and not self._done():
                self._level(count)
            if self._done() or (self._best is not None and len(self._best.shipments) == count):
                break
        else:
            self.shipment_count_bound = self._max_shipments + 1
        return self._best

    def run_to_any(self) -> SourcingPlan | None:
        """The first plan found, good or bad."""
        self._first_will_do = True
        return self.run()

    def _done(self) -> bool:
        return self._work.spent or (self._first_will_do and self._best is not None)

    def _best_together(self, ats: Sequence[tuple[int, ...]]) -> list[int]:
        """Packed units the best 0, 1, 2 ... nodes have of each demand, up to the split limit."""
        if not ats:
            return [0] * (self._max_shipments + 1)
        columns = []
        for column, demand in zip(zip(*ats, strict=True), self._demands, strict=True):
            best = sorted(column, reverse=True)[: self._max_shipments]
            sums = [min(units, demand.quantity) for units in accumulate(best, initial=0)]
            columns.append(sums + sums[-1:] * (self._max_shipments + 1 - len(sums)))
        return [self._packing.pack(row) for row in zip(*columns, strict=True)]

    def _settle_greedily(self) -> None:
        """A first plan: always the offer that completes most SKUs, then covers most units."""
        chosen: list[Offer] = []
        missing = self._wanted
        while missing:
            if len(chosen) == self._max_shipments:
                return
            best = self._fullest(missing, {offer.node_id for offer in chosen})
            if best is None:
                return
            chosen.append(best)
            missing = self._packing.less(missing, best.stock)
        self._offer_plan(chosen)

    def _fullest(self, missing: int, used: set[str]) -> Offer | None:
        packing = self._packing
        best: Offer | None = None
        least = packing.nonzero_count(missing), packing.total(missing)
        seen: set[int] = set()
        for offer in self._offers:
            if offer.stock in seen or offer.node_id in used:
                continue
            seen.add(offer.stock)
            rest = packing.less(missing, offer.stock)
            count = packing.nonzero_count(rest)
            if count > least[0]:
                continue
            units = packing.total(rest)
            if (count, units) < least:
                best, least = offer, (count, units)
        return best

    def _level(self, count: int) -> None:
        """All plans of ``count`` shipments."""
        self._level_offers = [offer for offer in self._offers if offer.rank < count]
        self._supply.clear()
        self._covering.clear()
        self._extend([], self._wanted, count, 0, 0)

    def _extend(
        self, chosen: list[Offer], missing: int, left: int, base_nanos: int, distance: int
    ) -> None:
        """Try every completion of ``chosen`` with at most ``left`` more offers."""
        if not missing:
            self._offer_plan(chosen)
            return
        if not self._packing.covers(self._reach[left], missing):
            return
        if self._hopeless(base_nanos + left * self._base_nanos_min,
                          distance + left * self._distance_min):  # fmt: skip
            return
        if left == 1:
            self._complete(chosen, missing, base_nanos, distance)
            return
        rarest = next(field for field in self._rarest_first if missing & field)
        used = {offer.node_id for offer in chosen}
        tried = []
        for offer in self._with_any(rarest):
            if offer in self._banned or offer.node_id in used:
                continue
            if self._done():
                break
            self._work.left -= 1
            tried.append(offer)
            self._extend(
                [*chosen, offer],
                self._packing.less(missing, offer.stock),
                left - 1,
                base_nanos + offer.option.base_cost_micros * 1000,
                distance + offer.distance_meters,
            )
            # Sets with this offer are done: the next siblings go without it.
            self._banned.add(offer)
        self._banned.difference_update(tried)

    def _complete(self, chosen: list[Offer], missing: int, base_nanos: int, distance: int) -> None:
        """Try every offer that covers all that is missing."""
        used = {offer.node_id for offer in chosen}
        covering = self._all_covering(missing)
        self._work.left -= len(covering) // _OFFERS_PER_STEP
        for offer in covering:
            if offer in self._banned or offer.node_id in used:
                continue
            if self._hopeless(base_nanos + offer.option.base_cost_micros * 1000,
                              distance + offer.distance_meters):  # fmt: skip
                continue
            if self._done():
                return
            self._work.left -= 1
            self._offer_plan([*chosen, offer])

    def _with_any(self, field: int) -> list[Offer]:
        found = self._supply.get(field)
        if found is None:
            found = self._supply[field] = [o for o in self._level_offers if o.stock & field]
        return found

    def _all_covering(self, missing: int) -> list[Offer]:
        found = self._covering.get(missing)
        if found is None:
            guards = self._packing.guards
            found = self._covering[missing] = [
                offer
                for offer in self._level_offers
                if ((offer.stock | guards) - missing) & guards == guards
            ]
            self._work.left -= len(self._level_offers) // _OFFERS_PER_STEP
        return found

    def _hopeless(self, base_nanos: int, distance: int) -> bool:
        """Whether no plan with these base costs and distance can beat the one at hand. Deepening
        has ruled out smaller plans, so plans have as many shipments as the level says."""
        best = self._best
        if best is None or len(best.shipments) > self.shipment_count_bound:
            return False
        bound = base_nanos + self._weight_nanos_min, distance
        return bound >= (best.cost_nanos, best.distance_meters)

    def _offer_plan(self, chosen: list[Offer]) -> None:
        """Fill the quantities at least cost and keep the plan if it is better."""
        missing = self._wanted
        sent: list[tuple[Offer, int]] = []
        for offer in sorted(
            chosen,
            key=lambda o: (o.option.cost_per_kilogram_micros, o.distance_meters, o.node_id),
        ):
            rest = self._packing.less(missing, offer.stock)
            if rest != missing:
                sent.append((offer, missing - rest))
            missing = rest
        sent.sort(key=lambda part: part[0].node_id)
        shipments = tuple(
            PlannedShipment(offer.node_id, offer.option, self._packing.unpack(units))
            for offer, units in sent
        )
        plan = SourcingPlan(
            shipments,
            cost_nanos=sum(self._shipment_nanos(shipment) for shipment in shipments),
            distance_meters=sum(offer.distance_meters for offer, _ in sent),
            exact=True,
            shipment_count_bound=1,
        )
        if self._best is None or _cost_rank(plan) < _cost_rank(self._best):
            self._best = plan

    def _shipment_nanos(self, shipment: PlannedShipment) -> int:
        pairs = zip(shipment.quantities, self._demands, strict=True)
        grams = sum(quantity * demand.weight_grams for quantity, demand in pairs)
        return shipment_cost_nanos(shipment.option, grams)


def _cost_rank(plan: SourcingPlan) -> tuple[int, int, int]:
    return len(plan.shipments), plan.cost_nanos, plan.distance_meters
