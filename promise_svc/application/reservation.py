"""Create, get, confirm, release and cancel reservations."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

import msgspec

from promise_svc.application.capacity import Capacity
from promise_svc.application.claims import Claims
from promise_svc.application.creation import Creation, Network, customer_limits
from promise_svc.application.own_writes import OwnWrites
from promise_svc.application.ports import AtsIndex, AtsReader, Clock, DurabilityWatch, OrderStore
from promise_svc.application.recorded import Recorder
from promise_svc.application.refusals import CreateResult
from promise_svc.application.reservation_body import (
    Body,
    CreateCommand,
    Reservation,
    ReservationLine,
    decode_body,
    encode_body,
    plan_hash,
    reservation_of,
)
from promise_svc.application.reservation_changes import ChangeCommand, ReservationChanges
from promise_svc.application.several_shards import Hold, SeveralShards
from promise_svc.application.sourced_lines import LineOutcome
from promise_svc.application.tasks import Deadline, OwnedTasks
from promise_svc.application.transition import (
    Durability,
    TransitionResult,
    late_result,
    transition_outcome,
)
from promise_svc.domain.network import NetworkSnapshot
from promise_svc.domain.reservation import (
    ClaimDraft,
    DurabilityMode,
    Outcome,
    State,
    TransitionOutcome,
)
from promise_svc.domain.sharding import Position
from promise_svc.errors import NotFound, OutcomeUnknown, Unavailable

REACQUIRED_MS = 60_000
"""How long a hold that was taken again may wait for the confirm that asked for it."""

_TRIES = 4
"""Times one confirm takes a hold again that has ended by the clock."""


class Reservations:
    """The use cases of ReservationService. The front lets a write run on when its caller goes."""

    def __init__(
        self,
        *,
        index: AtsIndex,
        table: AtsReader,
        network: Network,
        store: OrderStore,
        watch: DurabilityWatch,
        clock: Clock,
        durability: Durability,
        own_writes: OwnWrites,
        tasks: OwnedTasks,
        store_away: Callable[[], bool] = lambda: False,
        note_seconds: float = 0.0,
        window_ms: int = 3_600_000,
    ) -> None:
        """``store_away`` tells whether the order store is known to be away: then nothing is begun
        that would have to wait for it. ``note_seconds`` as of ``SeveralShards``; ``window_ms`` is
        the index's idempotency window."""
        self._own_writes = own_writes
        self._index = index
        self._table = table
        self._network = network
        self._clock = clock
        self._durability = durability
        self._shards = SeveralShards(index, tasks, note_seconds)
        self._recorder = Recorder(watch, store_away)
        self._claims = Claims(index, store, self._shards)
        self.create = Creation(
            index=index,
            table=table,
            network=network,
            store=store,
            clock=clock,
            durability=durability,
            own_writes=own_writes,
            recorder=self._recorder,
            shards=self._shards,
            claims=self._claims,
            window_ms=window_ms,
        ).create
        self.changes = ReservationChanges(
            index=index,
            store=store,
            durability=durability,
            recorder=self._recorder,
            own_writes=own_writes,
            tasks=tasks,
            snapshot=network.snapshot,
            refresh=network.refresh,
            table=table,
        )

    async def get(self, reservation_id: str, timeout: float) -> Reservation:
        """The reservation as of now, from its home shard; one that left the index, from the order
        store. NotFound where neither knows it."""
        deadline = Deadline(timeout)
        claim = (await self._claims.read_decided(reservation_id, deadline)).claim
        if not claim:
            return await self._claims.stored(reservation_id)
        if claim.state == State.ABORTED:
            raise NotFound("reservation", reservation_id)
        claim = await self._claims.shown(reservation_id, claim, deadline)
        return reservation_of(reservation_id, claim)

    async def confirm(
        self,
        reservation_id: str,
        revision: int,
        durability: DurabilityMode | None,
        timeout: float,
        *,
        reacquire: bool = False,
    ) -> TransitionResult:
        """HELD to CONFIRMED, once. ``revision`` 0 means any.

        With ``reacquire``, a hold that ended by the clock is taken again first: the same units at
        the same nodes, all or none.
        """
        mode = self._durability.choose(durability, self._durability.confirm)
        deadline = Deadline(timeout)
        result = await self._transition(reservation_id, State.CONFIRMED, revision, mode, deadline)
        for _ in range(_TRIES):
            if not (reacquire and result.outcome is TransitionOutcome.EXPIRED):
                break
            if not await self._reacquired(reservation_id, deadline):
                break
            result = await self._transition(
                reservation_id, State.CONFIRMED, revision, mode, deadline
            )
        return result

    async def release(
        self,
        reservation_id: str,
        revision: int,
        durability: DurabilityMode | None,
        timeout: float,
    ) -> TransitionResult:
        """HELD to RELEASED. ``revision`` 0 means any."""
        mode = self._durability.choose(durability, self._durability.reserve)
        return await self._transition(
            reservation_id, State.RELEASED, revision, mode, Deadline(timeout)
        )

    async def cancel(self, command: ChangeCommand, timeout: float) -> TransitionResult:
        """CONFIRMED to CANCELLED; in part, or where part of it left already, as a change."""
        if command.lines:
            return await self.changes.cancel(command, timeout)
        mode = self._durability.choose(command.durability, self._durability.reserve)
        return await self._transition(
            command.reservation_id, State.CANCELLED, command.revision, mode, Deadline(timeout)
        )

    # -- confirm, release, cancel -----------------------------------------------------------

    async def _transition(
        self,
        rid: str,
        target: State,
        revision: int,
        mode: DurabilityMode,
        deadline: Deadline,
    ) -> TransitionResult:
        home = self._claims.home(rid)
        self._recorder.refuse_unrecordable(mode)
        points: Mapping[int, Position] = {}
        if target is State.CONFIRMED:
            reply, points = await self._shards.confirm(rid, home, revision, deadline)
        else:
            reply = await self._shards.let_go(rid, home, target, revision, deadline)
            if reply.outcome == Outcome.DONE and reply.claim:
                await self._own_writes.visible(reply.claim.legs)
        if reply.outcome == Outcome.NEEDS_REVISION:
            whole = ChangeCommand(reservation_id=rid, revision=revision, durability=mode)
            return await self.changes.cancel(whole, deadline.left())
        if reply.outcome == Outcome.MISSING or reply.state == State.ABORTED:
            return late_result(await self._claims.stored(rid), target, mode)
        if not reply.claim:
            raise OutcomeUnknown(f"reservation {rid} is being decided; ask again")
        reservation = reservation_of(rid, await self._claims.shown(rid, reply.claim, deadline))
        outcome = transition_outcome(reply, target, reservation.state)
        if mode is DurabilityMode.RECORDED and outcome <= TransitionOutcome.CANCELLED:
            at = Position(reply.claim.epoch, reply.claim.sequence)
            if target is State.CONFIRMED and (not points or reply.claim.replaces):
                points = await self._shards.stand(rid, home, reply.claim, deadline)
            await self._recorder.recorded(home, at, reply.epoch, points, deadline)
        return TransitionResult(
            outcome=outcome,
            reservation=reservation,
            replayed=reply.outcome == Outcome.REPEATED,
            durability=mode,
        )

    async def _reacquired(self, rid: str, deadline: Deadline) -> bool:
        """Take the units of a hold that ended by the clock again; False where there are too few, or
        a node of theirs is off. True also where it is worth another look: somebody has moved it
        meanwhile, or edited the network."""
        home = self._claims.home(rid)
        found = await self._claims.read(rid, deadline)
        claim = found.claim
        if not claim or claim.state != State.EXPIRED:
            return True
        if not claim.settled and not await self._shards.finish(rid, home, claim):
            raise Unavailable("a shard of the reservation did not answer; it is unchanged")
        snapshot = self._network.snapshot()
        body = self._as_of_now(decode_body(claim), snapshot)
        if body is None:
            return False
        legs = body.legs()
        nodes = {line.node_id for lines in legs.values() for line in lines}
        if not all(map(snapshot.switched_on, nodes)):
            return False
        attempt = max(self._clock.now_ms() * 1000 + random.randrange(1000), claim.attempt + 1)
        again = Hold(
            reservation_id=rid,
            home=home,
            attempt=attempt,
            plan_hash=plan_hash(attempt, body.lines, body.capacity),
            ttl_ms=REACQUIRED_MS,
            network_version=snapshot.version,
            legs=legs,
            segment=body.segment,
            claim=ClaimDraft(claim.body_hash, 0, tuple(legs), encode_body(body), reacquires=1),
            owner_id=body.owner_id,
            limits=customer_limits(snapshot, legs),
        )
        reply = await self._shards.hold(again, deadline)
        if reply.outcome == Outcome.NETWORK_CHANGED:
            await self._network.refresh()
        return reply.outcome not in (Outcome.INSUFFICIENT, Outcome.LIMITED)

    def _as_of_now(self, body: Body, snapshot: NetworkSnapshot) -> Body | None:
        """The body with what it takes of nodes' days if it is held now: of the days that were
        promised, else of the first with room; None where a node has none."""
        capacity = Capacity(snapshot, self._table, self._index.shard_count)
        if not body.capacity and not capacity.bounds:
            return body
        places = (
            (line.sku, part.node_id, part.bucket)
            for line in body.lines
            for part in line.planned_units
            if part.open_quantity
        )
        kept, now_ms = body.capacity if body.promised else (), self._clock.now_ms()
        uses = capacity.uses(places, body.fulfillment_method, now_ms, kept)
        return None if uses is None else msgspec.structs.replace(body, capacity=uses)


__all__ = [
    "CreateCommand",
    "CreateResult",
    "Durability",
    "LineOutcome",
    "Network",
    "Reservation",
    "ReservationLine",
    "Reservations",
    "TransitionResult",
]
