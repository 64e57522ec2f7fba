"""What a reservation's claim says, and what callers may be told of it."""

from __future__ import annotations

from promise_svc.application.ports import AtsIndex, OrderStore
from promise_svc.application.reservation_body import Reservation, reservation_of
from promise_svc.application.several_shards import SeveralShards
from promise_svc.application.tasks import Deadline
from promise_svc.domain.reservation import ClaimRecord, State, StepReply
from promise_svc.errors import NotFound, OutcomeUnknown
from promise_svc.hotpath import shard_of


class Claims:
    """Reads of claims, at home and in the order store."""

    def __init__(self, index: AtsIndex, store: OrderStore, shards: SeveralShards) -> None:
        self._index = index
        self._store = store
        self._shards = shards

    async def read(self, rid: str, deadline: Deadline) -> StepReply:
        return await self._shards.read(rid, self.home(rid), deadline)

    async def read_decided(self, rid: str, deadline: Deadline) -> StepReply:
        """The claim; one whose legs stand and that is still taking another's place, once it has."""
        reply = await self.read(rid, deadline)
        claim = reply.claim
        if claim and claim.replaces and claim.state == State.PENDING:
            home = self.home(rid)
            if await self._shards.seen(rid, home, claim, deadline):
                await self._shards.finish(rid, home, claim, deadline)
                reply = await self.read(rid, deadline)
            if reply.claim and reply.claim.state == State.PENDING:
                raise OutcomeUnknown(f"reservation {rid} is being decided; ask again")
        return reply

    async def shown(self, rid: str, claim: ClaimRecord, deadline: Deadline) -> ClaimRecord:
        """The claim as callers are told of it. Nobody is shown a hold that may still come to
        nothing: OutcomeUnknown instead."""
        if claim.state not in (State.PENDING, State.PINNED):
            return claim
        seen = await self._shards.seen(rid, self.home(rid), claim, deadline)
        if seen is None:
            raise OutcomeUnknown(f"reservation {rid} is being decided; ask again")
        return seen

    async def stored(self, rid: str) -> Reservation:
        """What the order store kept of a reservation that left the index."""
        stored = await self._store.reservation(rid)
        if stored is None or stored.claim.state == State.ABORTED:
            raise NotFound("reservation", rid)
        if stored.claim.state in (State.PENDING, State.PINNED):
            raise OutcomeUnknown(f"reservation {rid} is being decided; ask again")
        return reservation_of(rid, stored.claim)

    def home(self, rid: str) -> int:
        return shard_of(rid, self._index.shard_count)
