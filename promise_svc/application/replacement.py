"""The hold that a new one shall replace: whether it may, and what it has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from promise_svc.application.ports import AtsIndex, OrderStore
from promise_svc.application.promise import place_of
from promise_svc.application.reservation_body import Body, decode_body
from promise_svc.application.several_shards import SeveralShards
from promise_svc.application.tasks import Deadline
from promise_svc.domain.reservation import OPEN, CreateOutcome, State
from promise_svc.errors import OutcomeUnknown
from promise_svc.hotpath import shard_of

_TRIES = 3
"""Times an older hold that is still being decided is brought to its end first."""


class OlderHold(NamedTuple):
    """The older hold as it was read. Without an id it has ended, and nothing is replaced."""

    reservation_id: str = ""
    attempt: int = 0
    units: Mapping[tuple[str, str], int] = {}
    """(SKU, place) -> units that only one of the two will have."""
    refusal: CreateOutcome | None = None


async def older_hold(
    index: AtsIndex,
    shards: SeveralShards,
    store: OrderStore,
    reservation_id: str,
    owner_id: str,
    deadline: Deadline,
) -> OlderHold:
    """The hold of ``owner_id`` under this id. Costs a read at its home; where it is still being
    decided, it is brought to its end. Raises OutcomeUnknown where that fails."""
    home = shard_of(reservation_id, index.shard_count)
    for _ in range(_TRIES):
        reply = (await index.read_claims(home, [reservation_id], deadline.left()))[0]
        claim = reply.claim
        if not claim:
            stored = await store.reservation(reservation_id)
            if stored is None:
                return OlderHold(refusal=CreateOutcome.REPLACED_UNKNOWN)
            claim = stored.claim
            if claim.state in OPEN:
                raise OutcomeUnknown("the order store is behind; ask again")
        state, body = State(claim.state), decode_body(claim)
        if state is State.ABORTED or body.owner_id != owner_id:
            return OlderHold(refusal=CreateOutcome.REPLACED_UNKNOWN)
        if state is State.HELD:
            return OlderHold(reservation_id, claim.attempt, _units(body))
        if state in (State.RELEASED, State.EXPIRED):
            return OlderHold()
        if state not in OPEN:
            return OlderHold(refusal=CreateOutcome.REPLACED_NOT_HELD)
        await shards.finish(reservation_id, home, claim, deadline)
    raise OutcomeUnknown(f"reservation {reservation_id} is being decided; ask again")


def _units(body: Body) -> dict[tuple[str, str], int]:
    units: dict[tuple[str, str], int] = {}
    for line in body.lines:
        for planned in line.planned_units:
            place = (line.sku, place_of(planned.node_id, planned.bucket))
            units[place] = units.get(place, 0) + planned.open_quantity
    for leg in (leg for legs in body.legs().values() for leg in legs if leg.limit >= 0):
        units[leg.sku, leg.node_id] = leg.quantity
    return units
