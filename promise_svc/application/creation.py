"""Create a reservation: a plan, held whole; another where that fails."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from typing import Protocol

from promise_svc.application.capacity import Capacity, counted
from promise_svc.application.claims import Claims
from promise_svc.application.held_stock import look_behind_holds
from promise_svc.application.hold_policy import reduced
from promise_svc.application.own_writes import OwnWrites
from promise_svc.application.ports import AtsIndex, AtsReader, Clock, OrderStore
from promise_svc.application.promise import place_of
from promise_svc.application.quoted_lines import quoted_lines
from promise_svc.application.recorded import Recorder
from promise_svc.application.refusals import CreateResult, told_refusal
from promise_svc.application.replacement import OlderHold, older_hold
from promise_svc.application.reservation_body import (
    Body,
    CreateCommand,
    Reservation,
    body_hash,
    decode_body,
    encode_body,
    legs_of,
    plan_hash,
    reservation_of,
)
from promise_svc.application.several_shards import Hold, HoldReply, SeveralShards
from promise_svc.application.sourced_lines import (
    LineOutcome,
    SourcedLines,
    all_outcomes,
    source_lines,
)
from promise_svc.application.stock import ats_at
from promise_svc.application.tasks import Deadline
from promise_svc.application.transition import Durability
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
    State,
    StepReply,
)
from promise_svc.domain.sharding import Position
from promise_svc.errors import (
    DeadlineExceeded,
    IdempotencyKeyReused,
    IdempotencyWindowPassed,
    OutcomeUnknown,
    Unavailable,
)

_NOBODY = OlderHold()

_NO_LIMITS: Mapping[int, tuple[CustomerLimit, ...]] = {}

_NETWORK_OUTCOMES = (CreateOutcome.UNKNOWN_SKU, CreateOutcome.UNKNOWN_NODE)
_REDUCTIONS = 4
"""Times a command may ask for less, under its policy, before its first refusal is told."""

_FULL_NODES_MAX = 8
"""Nodes whose days are looked at once more before an order is refused for want of room."""

_TRIES = 4
"""Plans one create call may try: the network changed, stock moved, an abort was in the way."""


class Network(Protocol):
    """Where plans get their snapshot."""

    def snapshot(self) -> NetworkSnapshot: ...
    async def refresh(self) -> NetworkSnapshot: ...


class Creation:
    """Makes the plan of a reservation, holds it, and tells what became of it."""

    def __init__(
        self,
        *,
        index: AtsIndex,
        table: AtsReader,
        network: Network,
        store: OrderStore,
        clock: Clock,
        durability: Durability,
        own_writes: OwnWrites,
        recorder: Recorder,
        shards: SeveralShards,
        claims: Claims,
        window_ms: int,
    ) -> None:
        self._index = index
        self._table = table
        self._network = network
        self._store = store
        self._clock = clock
        self._durability = durability
        self._own_writes = own_writes
        self._recorder = recorder
        self._shards = shards
        self._claims = claims
        self._window_ms = window_ms

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
        return told_refusal(self._table, self._clock.now_ms(), command, held, reply, mode)

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
            home=self._claims.home(command.reservation_id),
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
            limits=customer_limits(self._network.snapshot(), legs),
        )
        return hold, body

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
            shown = await self._claims.shown(command.reservation_id, claim, deadline)
            found = replace(found, claim=shown)
        if claim.state != State.PENDING:
            return await self._granted(command, found, mode, deadline)
        body = decode_body(claim)
        legs = body.legs()
        again = Hold(
            reservation_id=command.reservation_id,
            home=self._claims.home(command.reservation_id),
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
            limits=customer_limits(self._network.snapshot(), legs),
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
            home, epoch = self._claims.home(rid), reply.epoch
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
            found = await self._claims.read(command.reservation_id, deadline)
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


def customer_limits(
    snapshot: NetworkSnapshot, legs: Mapping[int, tuple[LegLine, ...]]
) -> Mapping[int, tuple[CustomerLimit, ...]]:
    """Shard -> limits of the SKUs that have one, as the network has them now."""
    limits = snapshot.customer_limits
    if not limits:
        return _NO_LIMITS
    skus = {shard: dict.fromkeys(line.sku for line in lines) for shard, lines in legs.items()}
    return {
        shard: tuple(limits[sku] for sku in here if sku in limits) for shard, here in skus.items()
    }


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
