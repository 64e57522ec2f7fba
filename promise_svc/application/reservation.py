"""Create, get, confirm, release and cancel reservations."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Protocol

import msgspec

from promise_svc.application.capacity import Capacity, counted
from promise_svc.application.held_stock import look_behind_holds
from promise_svc.application.hold_policy import reduced
from promise_svc.application.own_writes import OwnWrites
from promise_svc.application.ports import AtsIndex, AtsReader, Clock, DurabilityWatch, OrderStore
from promise_svc.application.promise import PlannedUnits, inbound_units, place_of
from promise_svc.application.quoted_lines import quoted_lines
from promise_svc.application.recorded import Recorder
from promise_svc.application.replacement import OlderHold, older_hold
from promise_svc.application.reservation_body import (
    Body,
    CreateCommand,
    Reservation,
    ReservationLine,
    body_hash,
    decode_body,
    encode_body,
    legs_of,
    plan_hash,
    reservation_of,
)
from promise_svc.application.reservation_changes import ChangeCommand, ReservationChanges
from promise_svc.application.several_shards import Hold, HoldReply, SeveralShards
from promise_svc.application.sourced_lines import (
    LineOutcome,
    SourcedLines,
    all_outcomes,
    of_requested,
    source_lines,
)
from promise_svc.application.stock import ats_at, rows_of
from promise_svc.application.tasks import Deadline, OwnedTasks
from promise_svc.application.transition import (
    Durability,
    TransitionResult,
    late_result,
    transition_outcome,
)
from promise_svc.domain.bundle import exploded
from promise_svc.domain.capacity import WORK_DAYS_MAX
from promise_svc.domain.network import NetworkSnapshot
from promise_svc.domain.reservation import (
    LINES_MAX,
    ClaimDraft,
    ClaimRecord,
    CreateOutcome,
    CustomerLimit,
    DurabilityMode,
    LegLine,
    Outcome,
    Shortfall,
    State,
    StepReply,
    TransitionOutcome,
)
from promise_svc.domain.sharding import Position
from promise_svc.errors import (
    DeadlineExceeded,
    IdempotencyKeyReused,
    IdempotencyWindowPassed,
    NotFound,
    OutcomeUnknown,
    Unavailable,
)
from promise_svc.hotpath import shard_of

_NOBODY = OlderHold()
_NO_LIMITS: Mapping[int, tuple[CustomerLimit, ...]] = {}
_NETWORK_OUTCOMES = (CreateOutcome.UNKNOWN_SKU, CreateOutcome.UNKNOWN_NODE)

REACQUIRED_MS = 60_000
"""How long a hold that was taken again may wait for the confirm that asked for it."""

_REDUCTIONS = 4
"""Times a command may ask for less, under its policy, before its first refusal is told."""

_FULL_NODES_MAX = 8
"""Nodes whose days are looked at once more before an order is refused for want of room."""

_TRIES = 4
"""Plans one create call may try: the network changed, stock moved, an abort was in the way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateResult:
    """Answer to a create. ``reservation`` is there when the outcome is HELD or PARTLY_HELD, else
    ``lines``."""

    outcome: CreateOutcome
    reservation: Reservation | None = None
    lines: tuple[LineOutcome, ...] = ()
    replayed: bool = False
    durability: DurabilityMode


class Network(Protocol):
    """Where plans get their snapshot."""

    def snapshot(self) -> NetworkSnapshot: ...
    async def refresh(self) -> NetworkSnapshot: ...


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
        self._store = store
        self._clock = clock
        self._durability = durability
        self._shards = SeveralShards(index, tasks, note_seconds)
        self._window_ms = window_ms
        self._recorder = Recorder(watch, store_away)
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

    async def create(self, command: CreateCommand, timeout: float) -> CreateResult:
        """Hold all lines or none, or what the command's policy allows instead; the same id and
        body again get the same answer.

        Raises IdempotencyKeyReused, IdempotencyWindowPassed, OutcomeUnknown, Unavailable.
        """
        mode = self._durability.choose(command.durability, self._durability.reserve)
        deadline = Deadline(timeout)
        if command.quote and command.quote.network_version > self._network.snapshot().version:
            # Quoted by a process that has heard of an edit before this one.
            await self._network.refresh()
        digest, asked = body_hash(command), command
        told = result = await self._create(asked, digest, mode, deadline)
        for _ in range(_REDUCTIONS):
            fewer = reduced(asked, result.lines, self._network.snapshot())
            if result.reservation is not None or fewer is None:
                break
            asked = fewer
            result = await self._create(asked, digest, mode, deadline)
        return told if result.reservation is None else result

    async def get(self, reservation_id: str, timeout: float) -> Reservation:
        """The reservation as of now, from its home shard; one that left the index, from the order
        store. NotFound where neither knows it."""
        deadline = Deadline(timeout)
        claim = (await self._read_decided(reservation_id, deadline)).claim
        if not claim:
            return await self._stored(reservation_id)
        if claim.state == State.ABORTED:
            raise NotFound("reservation", reservation_id)
        return reservation_of(reservation_id, await self._shown(reservation_id, claim, deadline))

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

    # -- create -----------------------------------------------------------------------------

    async def _create(
        self, command: CreateCommand, digest: str, mode: DurabilityMode, deadline: Deadline
    ) -> CreateResult:
        self._recorder.refuse_unrecordable(mode)
        missing: dict[tuple[str, str], int] = {}
        ordered = asked = False
        reply: HoldReply | None = None
        held: SourcedLines | None = None
        tries, full_days = _TRIES, WORK_DAYS_MAX
        while tries > 0:
            tries -= 1
            older = await self._older(command, deadline) if command.replaces else _NOBODY
            sourced = self._source(command, missing, older)
            if sourced.refusals:
                if not asked and await self._others_know_more(
                    command, sourced.refusals, missing, deadline
                ):
                    asked = True
                    continue
                return await self._refused(command, digest, sourced.refusals, mode, deadline)
            hold, body = self._hold(command, digest, sourced, reply, older)
            held = sourced
            reply = await self._shards.hold(hold, deadline, ordered=ordered)
            if reply.outcome == Outcome.DONE:
                return await self._granted(command, reply, mode, deadline, body=body)
            if reply.outcome == Outcome.EXISTS:
                replayed = await self._repeat(command, reply, mode, deadline)
                if replayed is not None:
                    return replayed
            elif reply.outcome == Outcome.UNSETTLED:
                await self._shards.finish(command.reservation_id, hold.home, _known(reply))
            elif reply.outcome == Outcome.NETWORK_CHANGED:
                await self._network.refresh()
            elif reply.outcome in (Outcome.INSUFFICIENT, Outcome.LIMITED):
                if reply.contended and not ordered:
                    ordered = True
                elif not self._may_replan(command, reply, missing, older):
                    break
                # Each plan learns of one full day; in a crowd, of one after the other.
                more = min(full_days, all(x.limit >= 0 for x, _ in reply.shortfalls))
                tries, full_days = tries + more, full_days - more
                await self._shards.settle_refused(hold, reply)
            elif reply.outcome not in (
                Outcome.STALE_ATTEMPT,
                Outcome.OTHER_PLAN,
                Outcome.RESOLVED,
                Outcome.REFUSED,
            ):
                return await self._other_body_or_late(command, digest, reply.outcome, mode)
        assert reply is not None and held is not None
        return self._told(command, held, reply, mode)

    async def _older(self, command: CreateCommand, deadline: Deadline) -> OlderHold:
        rid, owner_id = command.replaces, command.owner_id
        return await older_hold(self._index, self._shards, self._store, rid, owner_id, deadline)

    def _source(
        self,
        command: CreateCommand,
        missing: Mapping[tuple[str, str], int],
        older: OlderHold,
    ) -> SourcedLines:
        snapshot, now_ms = self._network.snapshot(), self._clock.now_ms()
        shard_count = self._index.shard_count
        if older.refusal is not None:
            refusals = tuple(LineOutcome(x.line_id, older.refusal) for x in command.lines)
            return SourcedLines(refusals=refusals, network_version=snapshot.version)
        if command.quote is not None:
            return quoted_lines(snapshot, self._table, command.quote, shard_count, now_ms)
        if older.units:
            own = {place: missing.get(place, 0) - units for place, units in older.units.items()}
            missing = {**missing, **own}
        return source_lines(snapshot, self._table, command, shard_count, now_ms, missing)

    def _hold(
        self,
        command: CreateCommand,
        digest: str,
        sourced: SourcedLines,
        before: HoldReply | None,
        older: OlderHold,
    ) -> tuple[Hold, Body]:
        # Microseconds, with the last three digits random: two workers that retry one id at the
        # same millisecond must not mint the same attempt. Clocks differ, so an attempt also rises
        # above the one that was met.
        attempt = self._clock.now_ms() * 1000 + random.randrange(1000)
        if before is not None:
            met = before.claim.attempt if before.claim is not None else 0
            attempt = max(attempt, met + 1, before.attempt + 1)
        legs = legs_of(sourced.lines, sourced.capacity)
        body = Body(
            owner_id=command.owner_id,
            order_reference=command.order_reference,
            fulfillment_method=command.fulfillment_method,
            segment=command.segment,
            network_version=sourced.network_version,
            lines=sourced.lines,
            promised=sourced.promised,
            unheld=command.unheld,
            bundles=sourced.bundles,
            replaces=older.reservation_id,
            capacity=sourced.capacity,
        )
        hold = Hold(
            reservation_id=command.reservation_id,
            home=self._home(command.reservation_id),
            attempt=attempt,
            plan_hash=plan_hash(attempt, sourced.lines, sourced.capacity),
            ttl_ms=command.ttl_ms,
            network_version=sourced.network_version,
            legs=legs,
            claim=ClaimDraft(digest, command.create_ms, tuple(legs), encode_body(body)),
            segment=command.segment,
            replaces=older.reservation_id,
            replaced_attempt=older.attempt,
            owner_id=command.owner_id,
            limits=self._limits(legs),
        )
        return hold, body

    def _limits(
        self, legs: Mapping[int, tuple[LegLine, ...]]
    ) -> Mapping[int, tuple[CustomerLimit, ...]]:
        """Shard -> limits of the SKUs that have one, as the network has them now."""
        limits = self._network.snapshot().customer_limits
        if not limits:
            return _NO_LIMITS
        skus = {shard: dict.fromkeys(line.sku for line in lines) for shard, lines in legs.items()}
        return {
            shard: tuple(limits[sku] for sku in here if sku in limits)
            for shard, here in skus.items()
        }

    async def _others_know_more(
        self,
        command: CreateCommand,
        refusals: tuple[LineOutcome, ...],
        missing: dict[tuple[str, str], int],
        deadline: Deadline,
    ) -> bool:
        """Whether a refusal by what this process knows is worth another look: the network may have
        been edited elsewhere, and a hold that the table still counts may have run out."""
        if any(x.outcome in _NETWORK_OUTCOMES for x in refusals):
            await self._network.refresh()
            return True
        short = {x.line_id for x in refusals if x.outcome is CreateOutcome.INSUFFICIENT_STOCK}
        snapshot = self._network.snapshot()
        wanted = tuple(line for line in command.lines if line.line_id in short)
        counted, _ = exploded(wanted, snapshot.bundles, LINES_MAX)
        skus = {line.sku for line in counted} | self._full_accounts(command, refusals)
        return await look_behind_holds(
            self._index, self._table, snapshot, skus, command.segment, missing, deadline
        )

    def _full_accounts(self, command: CreateCommand, refusals: tuple[LineOutcome, ...]) -> set[str]:
        """Accounts of nodes that have no room in sight, so that a look behind holds may find it."""
        full = [x for x in refusals if x.outcome is CreateOutcome.CAPACITY_FULL]
        if not full:
            return set()
        skus = {line.sku for line in command.lines for x in full if x.line_id == line.line_id}
        places = (row.node_id for sku in skus for row in self._table.rows(sku) or ())
        nodes = {x.node_id for x in full if x.node_id} or set(islice(places, _FULL_NODES_MAX))
        capacity = Capacity(self._network.snapshot(), self._table)
        return capacity.accounts(nodes, command.fulfillment_method, self._clock.now_ms())

    def _may_replan(
        self,
        command: CreateCommand,
        reply: HoldReply,
        missing: dict[tuple[str, str], int],
        older: OlderHold,
    ) -> bool:
        """Whether another plan may help, and what it must know: the shard's true ATS where the
        table still shows more. Where the table has caught up meanwhile there is nothing to know,
        and the next plan differs all the same. Lines that name a node which has too little for them
        alone, and a quote, have no other plan."""
        if command.quote is not None or reply.outcome == Outcome.LIMITED:
            return False
        wanted, _ = exploded(command.lines, self._network.snapshot().bundles, LINES_MAX)
        named = Counter[tuple[str, str]]()
        for line in wanted:
            named[line.sku, line.node_id] += line.quantity if line.node_id else 0
        for short, shortfall in reply.shortfalls:
            place = (short.sku, place_of(short.node_id, short.bucket))
            if named[short.sku, short.node_id] > shortfall.ats and not command.allow_backorder:
                return False
            table, segment = self._table, command.segment
            if short.limit >= 0:
                shown = short.limit - counted(table, short.sku, short.node_id)
            else:
                shown = ats_at(table, short.sku, short.node_id, segment, short.bucket)
            shown += older.units.get(place, 0)
            missing[place] = max(0, shown - shortfall.ats)
        return bool(reply.shortfalls)

    async def _repeat(
        self, command: CreateCommand, found: HoldReply, mode: DurabilityMode, deadline: Deadline
    ) -> CreateResult | None:
        """Answer a retry from the claim's own plan; None when that plan came to nothing."""
        claim = _known(found)
        if claim.state == State.PINNED:
            shown = await self._shown(command.reservation_id, claim, deadline)
            found = replace(found, claim=shown)
        if claim.state != State.PENDING:
            return await self._granted(command, found, mode, deadline)
        body = decode_body(claim)
        legs = body.legs()
        again = Hold(
            reservation_id=command.reservation_id,
            home=self._home(command.reservation_id),
            attempt=claim.attempt,
            plan_hash=claim.plan_hash,
            ttl_ms=max(1, claim.expire_ms - found.time_ms),
            network_version=body.network_version,
            legs=legs,
            claim=(),
            segment=body.segment,
            replaces=claim.replaces,
            replaced_attempt=claim.replaced_attempt,
            owner_id=body.owner_id,
            limits=self._limits(legs),
        )
        reply = await self._shards.hold(again, deadline)
        if reply.outcome == Outcome.DONE:
            return await self._granted(command, found, mode, deadline)
        return None

    async def _granted(
        self,
        command: CreateCommand,
        reply: HoldReply,
        mode: DurabilityMode,
        deadline: Deadline,
        *,
        body: Body | None = None,
    ) -> CreateResult:
        """``body`` is the claim's, where this very call opened it: any other answer is repeated."""
        rid, claim = command.reservation_id, _known(reply)
        if mode is DurabilityMode.RECORDED:
            home, epoch = self._home(rid), reply.epoch
            at = Position(claim.epoch, claim.sequence)
            if claim.state == State.PENDING:
                noted = await self._noted(rid, home, claim, deadline)
                at, epoch = Position(noted.epoch, noted.sequence), noted.epoch
            legs = reply.points or await self._shards.stand(rid, home, claim, deadline)
            await self._recorder.recorded(home, at, epoch, legs, deadline)
        if body is not None:
            await self._own_writes.visible(claim.legs)
        return _held(reservation_of(rid, claim, body), mode, replayed=body is None)

    async def _noted(
        self, rid: str, home: int, claim: ClaimRecord, deadline: Deadline
    ) -> StepReply:
        """Note the hold at home. What fails here must not say that nothing was done: it is held."""
        try:
            return await self._shards.settled(rid, home, claim, deadline)
        except (Unavailable, DeadlineExceeded) as error:
            raise OutcomeUnknown(
                "held, and not known to be recorded; ask again with the same key"
            ) from error

    async def _refused(
        self,
        command: CreateCommand,
        digest: str,
        refusals: tuple[LineOutcome, ...],
        mode: DurabilityMode,
        deadline: Deadline,
    ) -> CreateResult:
        """A refusal before any shard was asked; unless this is the retry of a granted call, whose
        answer stands whatever the stock says today."""
        for _ in range(2):  # where its legs are found ended, the second look says so
            found = await self._read(command.reservation_id, deadline)
            if not found.claim and self._late(command, found.time_ms):
                return await self._other_body_or_late(command, digest, Outcome.WINDOW_PASSED, mode)
            if not found.claim or found.claim.state == State.ABORTED:
                break
            if found.claim.body_hash != digest:
                raise IdempotencyKeyReused("reservation_id", command.reservation_id)
            reply = HoldReply(
                outcome=Outcome.EXISTS,
                claim=found.claim,
                epoch=found.epoch,
                time_ms=found.time_ms,
            )
            replayed = await self._repeat(command, reply, mode, deadline)
            if replayed is not None:
                return replayed
        lines = all_outcomes(command, refusals)
        outcome = min(line.outcome for line in lines)
        return CreateResult(outcome=outcome, lines=lines, durability=mode)

    def _late(self, command: CreateCommand, now_ms: int) -> bool:
        """Whether a granted call of this key may have been forgotten."""
        return 0 < command.create_ms < now_ms - self._window_ms

    async def _other_body_or_late(
        self, command: CreateCommand, digest: str, outcome: Outcome, mode: DurabilityMode
    ) -> CreateResult:
        """The key is taken by another body, or older than the window: then the order store may
        still know the answer, and without one the call is refused, never carried out again."""
        rid = command.reservation_id
        if outcome == Outcome.BODY_DIFFERS:
            raise IdempotencyKeyReused("reservation_id", rid)
        stored = await self._store.reservation(rid)
        if stored is None or stored.claim.state == State.ABORTED:
            raise IdempotencyWindowPassed(
                "the reservation id was minted longer ago than answers are repeated for; nothing "
                "was done now",
                reservation_id=rid,
            )
        if stored.claim.body_hash != digest:
            raise IdempotencyKeyReused("reservation_id", rid)
        return _held(reservation_of(rid, stored.claim), mode, replayed=True)

    def _told(
        self,
        command: CreateCommand,
        held: SourcedLines,
        reply: HoldReply,
        mode: DurabilityMode,
    ) -> CreateResult:
        """The refusal of the last plan, ``held``."""
        if reply.outcome == Outcome.INSUFFICIENT:
            return self._insufficient(command, held, reply, mode)
        if reply.outcome == Outcome.LIMITED:
            return self._over_limit(command, held, reply, mode)
        if reply.outcome in (
            Outcome.OTHER_PLAN,
            Outcome.RESOLVED,
            Outcome.UNSETTLED,
            Outcome.REFUSED,
        ):
            lines = tuple(LineOutcome(x.line_id, CreateOutcome.CONTENDED) for x in command.lines)
            return CreateResult(outcome=CreateOutcome.CONTENDED, lines=lines, durability=mode)
        raise Unavailable(f"no plan could be held: {reply.outcome.name}; try again")

    def _insufficient(
        self,
        command: CreateCommand,
        held: SourcedLines,
        reply: HoldReply,
        mode: DurabilityMode,
    ) -> CreateResult:
        short = {line[:3]: shortfall for line, shortfall in reply.shortfalls}
        refusals = list(_full(held, short))
        for line in held.lines:
            for units in line.planned_units:
                shortfall = short.get((line.sku, units.node_id, units.bucket))
                if shortfall is None:
                    continue
                known = shortfall.known or self._table.rows(line.sku) is not None
                outcome = CreateOutcome.INSUFFICIENT_STOCK if known else CreateOutcome.UNKNOWN_SKU
                free = shortfall.ats + self._later(command, line.sku, units)
                place = units[:2] if units.bucket else (units.node_id,)
                there = (x.quantity for x in line.planned_units if x[: len(place)] == place)
                refusal = LineOutcome(line.line_id, outcome, free, units.node_id)
                refusals.append(refusal._replace(wanted=sum(there)))
        lines = all_outcomes(command, of_requested(refusals, held.bundles))
        return CreateResult(
            outcome=min(line.outcome for line in lines), lines=lines, durability=mode
        )

    def _later(self, command: CreateCommand, sku: str, units: PlannedUnits) -> int:
        """What the command may have beyond stock here now, where that was too little."""
        if units.bucket or not command.allow_backorder or command.quote is not None:
            return 0
        rows = rows_of(self._table, sku, command.segment)
        here = (row for row in rows if row.node_id == units.node_id)
        return sum(x.quantity for x in inbound_units(here, self._clock.now_ms(), sku, {}))

    def _over_limit(
        self,
        command: CreateCommand,
        held: SourcedLines,
        reply: HoldReply,
        mode: DurabilityMode,
    ) -> CreateResult:
        """Lines that count for one limit share what it leaves: each is told all of it."""
        left = {line.sku: shortfall.ats for line, shortfall in reply.shortfalls}
        refusals = [
            LineOutcome(line.line_id, CreateOutcome.CUSTOMER_LIMIT, left[line.sku])
            for line in held.lines
            if line.sku in left
        ]
        lines = all_outcomes(command, of_requested(refusals, held.bundles))
        return CreateResult(
            outcome=min(line.outcome for line in lines), lines=lines, durability=mode
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
        home = self._home(rid)
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
            return late_result(await self._stored(rid), target, mode)
        if not reply.claim:
            raise OutcomeUnknown(f"reservation {rid} is being decided; ask again")
        reservation = reservation_of(rid, await self._shown(rid, reply.claim, deadline))
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
        home = self._home(rid)
        found = await self._read(rid, deadline)
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
            limits=self._limits(legs),
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

    # -- reads ------------------------------------------------------------------------------

    async def _read(self, rid: str, deadline: Deadline) -> StepReply:
        return await self._shards.read(rid, self._home(rid), deadline)

    async def _read_decided(self, rid: str, deadline: Deadline) -> StepReply:
        """The claim; one whose legs stand and that is still taking another's place, once it has."""
        reply = await self._read(rid, deadline)
        claim = reply.claim
        if claim and claim.replaces and claim.state == State.PENDING:
            home = self._home(rid)
            if await self._shards.seen(rid, home, claim, deadline):
                await self._shards.finish(rid, home, claim, deadline)
                reply = await self._read(rid, deadline)
            if reply.claim and reply.claim.state == State.PENDING:
                raise OutcomeUnknown(f"reservation {rid} is being decided; ask again")
        return reply

    async def _shown(self, rid: str, claim: ClaimRecord, deadline: Deadline) -> ClaimRecord:
        """The claim as callers are told of it. Nobody is shown a hold that may still come to
        nothing: OutcomeUnknown instead."""
        if claim.state not in (State.PENDING, State.PINNED):
            return claim
        seen = await self._shards.seen(rid, self._home(rid), claim, deadline)
        if seen is None:
            raise OutcomeUnknown(f"reservation {rid} is being decided; ask again")
        return seen

    async def _stored(self, rid: str) -> Reservation:
        """What the order store kept of a reservation that left the index."""
        stored = await self._store.reservation(rid)
        if stored is None or stored.claim.state == State.ABORTED:
            raise NotFound("reservation", rid)
        if stored.claim.state in (State.PENDING, State.PINNED):
            raise OutcomeUnknown(f"reservation {rid} is being decided; ask again")
        return reservation_of(rid, stored.claim)

    def _home(self, rid: str) -> int:
        return shard_of(rid, self._index.shard_count)


def _full(
    held: SourcedLines, short: Mapping[tuple[str, str, str], Shortfall]
) -> Iterator[LineOutcome]:
    """Lines at nodes whose working day has no room for another order."""
    for use in held.capacity:
        shortfall = short.get((use.account, use.node_id, ""))
        for line in held.lines if shortfall else ():
            places = ((x.node_id, x.bucket) for x in line.planned_units)
            if any(n == use.node_id and bucket in use.buckets for n, bucket in places):
                yield LineOutcome(line.line_id, CreateOutcome.CAPACITY_FULL, node_id=use.node_id)


def _held(reservation: Reservation, durability: DurabilityMode, *, replayed: bool) -> CreateResult:
    return CreateResult(
        outcome=CreateOutcome.PARTLY_HELD if reservation.unheld else CreateOutcome.HELD,
        reservation=reservation,
        replayed=replayed,
        durability=durability,
    )


def _known(reply: HoldReply) -> ClaimRecord:
    assert reply.claim is not None
    return reply.claim


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
