"""From plans that each keep one date to the best plan, and to all that a shopper may prefer.

Plans compare by: fewest shipments, then earliest latest delivery date, then cost, then distance.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import date

from promise_svc.domain.offers import Offers
from promise_svc.domain.search import Search
from promise_svc.domain.sourcing import WORK_MAX, Candidate, Demand, SourcingPlan, Work

_FIGURES_PER_STEP = 32
"""Setting up a search takes a step for so many figures; counted where searches are many."""


def best_plan(
    demands: tuple[Demand, ...],
    candidates: tuple[Candidate, ...],
    *,
    max_shipments: int,
    work: Work | None = None,
) -> SourcingPlan | None:
    """The best plan, or None when there is none (or none was found within
    ``work``, WORK_MAX where it is left out)."""
    plans = _Plans(demands, candidates, max_shipments, work or Work(WORK_MAX))
    best = plans.best()
    return None if best is None else plans.labelled(best)


def any_plan(
    demands: tuple[Demand, ...],
    candidates: tuple[Candidate, ...],
    *,
    max_shipments: int,
    work: Work,
) -> SourcingPlan | None:
    """Some plan, or None when there is none (or none was found within ``work``)."""
    work.left -= len(candidates) * (4 + len(demands)) // _FIGURES_PER_STEP
    offers = Offers(demands, candidates, max_shipments)
    if not offers.days:
        return None
    return Search(demands, offers, offers.days[-1], max_shipments, work).run_to_any()


def frontier(
    demands: tuple[Demand, ...],
    candidates: tuple[Candidate, ...],
    *,
    max_shipments: int,
    work: Work | None = None,
) -> list[SourcingPlan]:
    """For each date that can be kept the plan with the fewest shipments, then the least cost, less
    those another beats; best first, so the first is ``best_plan``.

    More shipments are offered for an earlier date only, never for cost alone.
    """
    plans = _Plans(demands, candidates, max_shipments, work or Work(WORK_MAX))
    if plans.best() is None:
        return []
    kept: list[SourcingPlan] = []
    for day in plans.days:  # a later plan must be better in something
        plan = plans.kept_by(day)
        if plan is not None and all(_gains(plan, other) for other in kept):
            kept.append(plan)
    kept.sort(key=_rank)
    return [plans.labelled(plan) for plan in kept]


def _gains(plan: SourcingPlan, other: SourcingPlan) -> bool:
    return len(plan.shipments) < len(other.shipments) or plan.cost_nanos < other.cost_nanos


def _rank(plan: SourcingPlan) -> tuple[int, date, int, int]:
    return (
        len(plan.shipments),
        plan.latest_delivery_date,
        plan.cost_nanos,
        plan.distance_meters,
    )


class _Plans:
    """The best plan for each date that could be kept, each searched at most once."""

    def __init__(
        self,
        demands: tuple[Demand, ...],
        candidates: tuple[Candidate, ...],
        max_shipments: int,
        work: Work,
    ) -> None:
        self._offers = Offers(demands, candidates, max_shipments)
        self.days = self._offers.days
        self._inputs = demands, max_shipments
        self._work = work
        self._kept_by: dict[date, SourcingPlan | None] = {}
        self._shipment_count_bound = 1

    def kept_by(self, day: date) -> SourcingPlan | None:
        """The best plan by (shipments, cost, distance) with everything there by ``day``."""
        if day not in self._kept_by:
            demands, max_shipments = self._inputs
            search = Search(demands, self._offers, day, max_shipments, self._work)
            self._kept_by[day] = search.run()
            if day == self.days[-1]:
                self._shipment_count_bound = search.shipment_count_bound
        return self._kept_by[day]

    def best(self) -> SourcingPlan | None:
        """The earliest of those with the fewest shipments: a binary search, as a later date never
        takes more shipments."""
        plan = self.kept_by(self.days[-1]) if self.days else None
        if plan is None:
            return None
        low, high = 0, len(self.days) - 1
        while low < high:
            middle = (low + high) // 2
            found = self.kept_by(self.days[middle])
            if found is not None and len(found.shipments) <= len(plan.shipments):
                plan, high = found, middle
            else:
                low = middle + 1
        return plan

    def labelled(self, plan: SourcingPlan) -> SourcingPlan:
        """``plan`` with what the search as a whole can say of it."""
        return replace(
            plan,
            exact=not self._work.spent,
            shipment_count_bound=self._shipment_count_bound,
        )
