"""Reservations of an owner or an order reference, from the order store, with its lag."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from promise_svc.application.ports import Clock, OrderStore, StoredReservation
from promise_svc.application.reservation_body import Reservation, reservation_of
from promise_svc.application.stock import DegradedReason, Freshness
from promise_svc.domain.reservation import OPEN, LegRecord, State, confirmed, is_sold

PAGE_DEFAULT = 100
PAGE_MAX = 1_000

LAG_MS_MAX = 5_000
"""Lag from which the answer says it is behind, as reads of the table do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListQuery:
    """Whose reservations; one of the first two is not empty."""

    owner_id: str = ""
    order_reference: str = ""
    states: frozenset[State] = frozenset()
    """Empty means all."""
    page_size: int = PAGE_DEFAULT
    after: str = ""
    """The last id of the page before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListReply:
    """One page, by id; ``after`` asks for the next one, empty where there is none."""

    reservations: tuple[Reservation, ...]
    after: str
    freshness: Freshness


class ReservationLister:
    """The use case of ListReservations."""

    def __init__(
        self, *, store: OrderStore, clock: Clock, lag_seconds: Callable[[], float]
    ) -> None:
        """``lag_seconds``: age of the oldest event that the order store does not have."""
        self._store = store
        self._clock = clock
        self._lag_seconds = lag_seconds

    async def list(self, query: ListQuery) -> ListReply:
        """One page. Unavailable without the order store. Cost: one index range of a page, and the
        legs of what is being confirmed."""
        # Taken before the read: what arrives meanwhile only makes the answer better than it says.
        lag_ms = round(self._lag_seconds() * 1000)
        now_ms = self._clock.now_ms()
        stored = await self._store.list_reservations(
            query.owner_id, query.order_reference, query.after, query.page_size
        )
        as_of_ms = now_ms - lag_ms
        confirming = [
            (shard, each.reservation_id)
            for each in stored
            if each.claim.state == State.PINNED
            for shard in _others(each)
        ]
        legs = await self._store.legs_at(confirming) if confirming else {}
        shown = (each for each in stored if each.claim.state != State.ABORTED)
        found = (_seen(each, legs, as_of_ms) for each in shown)
        kept = tuple(r for r in found if not query.states or r.state in query.states)
        reason = DegradedReason.FEED_BEHIND if lag_ms > LAG_MS_MAX else DegradedReason.NONE
        return ListReply(
            reservations=kept,
            after=stored[-1].reservation_id if len(stored) == query.page_size else "",
            freshness=Freshness(as_of_ms, lag_ms, bool(reason), reason),
        )


def _others(stored: StoredReservation) -> list[int]:
    """Shards of its legs but home's."""
    return [shard for shard in stored.claim.legs if shard != stored.home]


def _seen(
    stored: StoredReservation, legs: Mapping[tuple[int, str], LegRecord], as_of_ms: int
) -> Reservation:
    """As the shards would tell it: a hold past its time is EXPIRED, swept or not. One that is being
    confirmed no longer expires, and is CONFIRMED once all its legs are."""
    rid, claim = stored.reservation_id, stored.claim
    if is_sold(claim, (legs.get((shard, rid), ()) for shard in _others(stored))):
        claim = confirmed(claim)
    elif claim.state in OPEN - {State.PINNED} and as_of_ms >= claim.expire_ms:
        claim = claim._replace(state=State.EXPIRED)
    return reservation_of(rid, claim)
