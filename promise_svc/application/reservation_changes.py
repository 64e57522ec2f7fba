"""Extend, amend, transfer, fulfill and cancel in part: changes of a reservation in its shards.

Each is computed here from the claim as it was read, and decided at home only if the claim still is
that; then the legs conform (``several_shards.py``). So two changes at once never mix: one is
computed anew on what the other left.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import msgspec

from promise_svc.application.capacity import Capacity, counted, together
from promise_svc.application.changed_lines import (
    ChangeLine,
    Lines,
    TransferLine,
    amended_lines,
    ended_lines,
    of_components,
    open_units,
    state_of,
    transferred_lines,
)
from promise_svc.application.own_writes import OwnWrites
from promise_svc.application.ports import AtsIndex, AtsReader, OrderStore
from promise_svc.application.recorded import Recorder
from promise_svc.application.reservation_body import (
    Body,
    Change,
    ReservationLine,
    decode_body,
    encode_body,
    reservation_of,
)
from promise_svc.application.several_shards import Revision, SeveralShards
from promise_svc.application.tasks import Deadline, OwnedTasks
from promise_svc.application.transition import (
    STANDS,
    Durability,
    ShortPosition,
    TransitionResult,
)
from promise_svc.domain.capacity import CapacityUse, day_of
from promise_svc.domain.network import NetworkSnapshot, NodeStatus
from promise_svc.domain.reservation import (
    OPEN,
    ClaimRecord,
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
    FieldViolation,
    IdempotencyKeyReused,
    InvalidRequest,
    NotFound,
    OutcomeUnknown,
    Unavailable,
)
from promise_svc.hotpath import shard_of

CHANGES_KEPT = 200
"""Keys a reservation remembers: far more partial shipments than an order has."""

_TRIES = 8
"""Times a change is computed anew because others changed the reservation meanwhile."""

_WAITS = 3
_WAIT_SECONDS = (0.005, 0.03)
"""How often, and how long, a change of somebody else is given time to end: a few round trips."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeCommand:
    """Units to fulfill or to cancel (no lines means all that is still open), or what lines shall
    come to (amend)."""

    reservation_id: str
    idempotency_key: str = ""
    """Required with lines; without them the call repeats itself."""
    revision: int = 0
    """0 means any."""
    lines: tuple[ChangeLine, ...] = ()
    durability: DurabilityMode | None = None


_TOO_MANY: Mapping[int, TransitionOutcome] = {
    Outcome.INSUFFICIENT: TransitionOutcome.INSUFFICIENT_STOCK,
    Outcome.LIMITED: TransitionOutcome.CUSTOMER_LIMIT,
}


class _Computed(NamedTuple):
    """What a change comes to: how the claim shall read, or why it is refused."""

    outcome: TransitionOutcome
    wanted: Revision | None = None
    replayed: bool = False
    grows: bool = False
    """Whether legs may want more units."""


_Compute = Callable[[ClaimRecord, Body, int], _Computed]
"""Of the claim as it was read, its body and its shard's time in ms."""


class ReservationChanges:
    """The use cases; one a process."""

    def __init__(
        self,
        *,
        index: AtsIndex,
        store: OrderStore,
        durability: Durability,
        recorder: Recorder,
        own_writes: OwnWrites,
        tasks: OwnedTasks,
        snapshot: Callable[[], NetworkSnapshot],
        refresh: Callable[[], Awaitable[NetworkSnapshot]],
        table: AtsReader,
    ) -> None:
        self._snapshot = snapshot
        self._refresh = refresh
        self._table = table
        self._index = index
        self._store = store
        self._durability = durability
        self._recorder = recorder
        self._own_writes = own_writes
        self._shards = SeveralShards(index, tasks)

    async def extend(
        self,
        reservation_id: str,
        ttl_ms: int,
        life_ms_max: int,
        revision: int,
        durability: DurabilityMode | None,
        timeout: float,
    ) -> TransitionResult:
        """Let a live hold end ``ttl_ms`` from now, never earlier than before and never later than
        ``life_ms_max`` after it was made. Checks no stock, revives nothing."""
        mode = self._durability.choose(durability, self._durability.reserve)

        def compute(claim: ClaimRecord, body: Body, now_ms: int) -> _Computed:
            if claim.state != State.HELD:
                return _Computed(STANDS[State(claim.state)])
            latest_ms = claim.create_ms + life_ms_max
            expire_ms = max(claim.expire_ms, min(now_ms + ttl_ms, latest_ms))
            if expire_ms == claim.expire_ms:
                full = now_ms + ttl_ms > latest_ms
                outcome = (
                    TransitionOutcome.LIFE_LIMIT_REACHED if full else TransitionOutcome.EXTENDED
                )
                return _Computed(outcome, replayed=not full)
            wanted = Revision(
                target=State.HELD,
                revision=claim.revision,
                expire_ms=expire_ms,
                body=claim.body,
                legs=body.legs(),
                ttl_ms=expire_ms - now_ms,
            )
            return _Computed(TransitionOutcome.EXTENDED, wanted)

        return await self._change(reservation_id, revision, mode, compute, timeout)

    async def amend(self, command: ChangeCommand, timeout: float) -> TransitionResult:
        """Give lines of a hold or an order new quantities, all or none. More units are taken at the
        node named, or where the line's first units are; fewer are given back last taken first."""
        digest = _digest(command, TransitionOutcome.AMENDED)

        def lines_of(body: Body) -> tuple[Lines, TransitionOutcome | None]:
            return amended_lines(body.lines, of_components(command.lines, body.bundles))

        nodes = [line.node_id for line in command.lines if line.node_id]
        return await self._relined(
            command, digest, TransitionOutcome.AMENDED, lines_of, nodes, timeout
        )

    async def transfer(
        self, command: ChangeCommand, transfers: tuple[TransferLine, ...], timeout: float
    ) -> TransitionResult:
        """Put open units aside at another node instead, all or none. ``command`` has no lines."""
        covered = msgspec.json.encode((TransitionOutcome.TRANSFERRED, transfers))
        digest = hashlib.blake2b(covered, digest_size=8).hexdigest()

        def lines_of(body: Body) -> tuple[Lines, TransitionOutcome | None]:
            return transferred_lines(body.lines, of_components(transfers, body.bundles))

        nodes = [line.target_node_id for line in transfers]
        return await self._relined(
            command, digest, TransitionOutcome.TRANSFERRED, lines_of, nodes, timeout
        )

    async def _relined(
        self,
        command: ChangeCommand,
        digest: str,
        done: TransitionOutcome,
        lines_of: Callable[[Body], tuple[Lines, TransitionOutcome | None]],
        nodes: Sequence[str],
        timeout: float,
    ) -> TransitionResult:
        mode = self._durability.choose(command.durability, self._durability.reserve)

        def compute(claim: ClaimRecord, body: Body, now_ms: int) -> _Computed:
            if _is_known(body, command.idempotency_key, digest):
                return _Computed(done, replayed=True)
            state = State(claim.state)
            if state not in (State.HELD, State.CONFIRMED):
                return _Computed(STANDS[state])
            lines, refusal = lines_of(body)
            gaining = _gaining(body.lines, lines).union(nodes)
            if refusal is None and not all(self._offers(node, body) for node in gaining):
                refusal = TransitionOutcome.NODE_UNAVAILABLE
            if refusal is not None:
                return _Computed(refusal)
            uses = self._uses(body, lines, gaining, now_ms, taken)
            if uses is None:
                return _Computed(TransitionOutcome.CAPACITY_FULL)
            if not any(open_units(line) for line in lines):
                ends = "cancel what is open" if state is State.CONFIRMED else "release it"
                reason = f"no units would be put aside any more; {ends} instead"
                raise InvalidRequest([FieldViolation("lines", "DOES_NOT_FIT", reason)])
            # A change of nothing is one too: its key is kept and tells the same later.
            noted = _noted(body, lines, command.idempotency_key, digest)
            changed = msgspec.structs.replace(noted, capacity=uses)
            wanted = Revision(
                target=state,
                revision=claim.revision + (lines != body.lines),
                expire_ms=claim.expire_ms,
                body=encode_body(changed),
                legs=changed.legs(),
                network_version=self._snapshot().version,
            )
            return _Computed(done, wanted, grows=True)

        def learn(short: Iterable[tuple[LegLine, Shortfall]]) -> bool:
            """Whether only days were full, and that is news: then another day may do."""
            news = {(line.sku, line.node_id): (line, found.ats) for line, found in short}
            if any(line.limit < 0 for line, _ in news.values()) or news.keys() & taken.keys():
                return False
            for (account, node_id), (line, left) in news.items():
                taken[account, node_id] = line.limit - counted(self._table, account, node_id) - left
            return True

        taken: dict[tuple[str, str], int] = {}
        return await self._change(
            command.reservation_id, command.revision, mode, compute, timeout, learn
        )

    def _uses(
        self,
        body: Body,
        lines: Lines,
        gaining: set[str],
        now_ms: int,
        taken: Mapping[tuple[str, str], int],
    ) -> tuple[CapacityUse, ...] | None:
        """What the lines take of nodes' days once nodes in ``gaining`` get units; None where one of
        them has no day with room. More for a day that is taken already costs nothing."""
        method = body.fulfillment_method
        capacity = Capacity(self._snapshot(), self._table, self._index.shard_count, taken)
        known = {line[:2]: line for legs in body.legs().values() for line in legs}

        def as_of_now(use: CapacityUse) -> CapacityUse:
            line = known[use.account, use.node_id]
            if use.node_id not in gaining:
                return use
            if not line.quantity and not line.fulfilled:
                return use._replace(buckets=())  # given back: what comes now may be worked later
            if not capacity.bounded(use.node_id, method):
                return use
            limit = capacity.limit(use.node_id, method, day_of(use.account))
            return use._replace(limit=limit)

        uses = tuple(map(as_of_now, body.capacity))
        places = (
            (line.sku, part.node_id, part.bucket)
            for line in lines
            for part in line.planned_units
            if part.node_id in gaining and part.open_quantity
        )
        gained = capacity.uses(places, method, now_ms, kept=uses)
        return None if gained is None else together((*uses, *gained))

    def _offers(self, node_id: str, body: Body) -> bool:
        node = self._snapshot().node(node_id)
        if node is None or node.status is not NodeStatus.ON:
            return False
        return node.method(body.fulfillment_method) is not None

    async def fulfill(self, command: ChangeCommand, timeout: float) -> TransitionResult:
        """Goods of a confirmed reservation left: on hand and committed fall together. With nothing
        open any more it is FULFILLED."""
        return await self._ended(command, TransitionOutcome.FULFILLED, timeout)

    async def cancel(self, command: ChangeCommand, timeout: float) -> TransitionResult:
        """Take units of a confirmed reservation back into stock. With nothing open any more it is
        FULFILLED if anything left, else CANCELLED."""
        return await self._ended(command, TransitionOutcome.CANCELLED, timeout)

    async def _ended(
        self, command: ChangeCommand, done: TransitionOutcome, timeout: float
    ) -> TransitionResult:
        mode = self._durability.choose(command.durability, self._durability.reserve)
        digest = _digest(command, done)
        fulfills = done is TransitionOutcome.FULFILLED

        def compute(claim: ClaimRecord, body: Body, now_ms: int) -> _Computed:
            if _is_known(body, command.idempotency_key, digest):
                return _Computed(done, replayed=True)
            state = State(claim.state)
            if state is not State.CONFIRMED:
                ended = State.FULFILLED if fulfills else State.CANCELLED
                if state is ended and not command.lines:
                    return _Computed(done, replayed=True)
                if state in OPEN:
                    return _Computed(TransitionOutcome.NOT_CONFIRMED)
                return _Computed(STANDS[state])
            units = of_components(command.lines, body.bundles)
            lines, refusal = ended_lines(body.lines, units, fulfills=fulfills)
            if refusal is not None:
                return _Computed(refusal)
            changed = _noted(body, lines, command.idempotency_key, digest)
            wanted = Revision(
                target=state_of(lines),
                revision=claim.revision + bool(command.lines),
                expire_ms=claim.expire_ms,
                body=encode_body(changed),
                legs=changed.legs(),
            )
            return _Computed(done, wanted)

        return await self._change(command.reservation_id, command.revision, mode, compute, timeout)

    # -- one change ---------------------------------------------------------------------------

    async def _change(
        self,
        rid: str,
        revision: int,
        mode: DurabilityMode,
        compute: _Compute,
        timeout: float,
        learn: Callable[[Iterable[tuple[LegLine, Shortfall]]], bool] = lambda short: False,
    ) -> TransitionResult:
        deadline = Deadline(timeout)
        self._recorder.refuse_unrecordable(mode)
        home = shard_of(rid, self._index.shard_count)
        for _ in range(_TRIES):
            read = await self._read(rid, home, deadline)
            if read is None:
                return await self._late(rid, compute, mode)
            claim = read.claim
            assert claim
            body = decode_body(claim)
            if body.growing and claim.state in (State.HELD, State.CONFIRMED):
                # Another change is under way, or died: what it asked of legs must not come later.
                if not await self._comes_to_its_end(rid, home, claim.change, deadline):
                    await self._shards.changes.set_back(rid, home, deadline)
                continue
            computed = compute(claim, body, read.time_ms)
            if revision and revision != claim.revision and not computed.replayed:
                # What was done under this key is told first: it may have raised the revision.
                return _told(rid, claim, _Computed(TransitionOutcome.REVISION_MISMATCH), mode)
            if computed.wanted is None:
                if computed.replayed and mode is DurabilityMode.RECORDED:
                    stand = await self._shards.stand(rid, home, claim, deadline)
                    await self._record(home, read, claim, stand, deadline)
                return _told(rid, claim, computed, mode)
            changes = self._shards.changes
            make = changes.amend if computed.grows else changes.revise
            reply, points, short = await make(rid, home, claim, computed.wanted, deadline)
            if reply.outcome == Outcome.DONE:
                assert reply.claim
                await self._own_writes.visible(reply.claim.legs)
                if mode is DurabilityMode.RECORDED:
                    await self._record(home, reply, reply.claim, points, deadline)
                return _told(rid, reply.claim, computed, mode)
            if reply.outcome == Outcome.NETWORK_CHANGED:
                await self._refresh()
                continue
            refused = None if short and learn(short) else _refused(reply, short)
            if refused is not None:
                told = _told(rid, reply.claim or claim, _Computed(refused), mode)
                return replace(told, short=_named(short))
        raise Unavailable("the reservation is being changed by others; try again")

    async def _comes_to_its_end(self, rid: str, home: int, change: int, deadline: Deadline) -> bool:
        """Whether who asks legs for more goes on within a moment: two that set each other back at
        once would both come to nothing, again and again."""
        for _ in range(_WAITS):
            await asyncio.sleep(random.uniform(*_WAIT_SECONDS))
            claim = (await self._shards.read(rid, home, deadline)).claim
            if not claim or claim.change != change:
                return True
        return False

    async def _read(self, rid: str, home: int, deadline: Deadline) -> StepReply | None:
        """The claim once it is decided; None where the index no longer has it."""
        reply = await self._shards.read(rid, home, deadline)
        claim = reply.claim
        if not claim or claim.state == State.ABORTED:
            return None
        if claim.state == State.PENDING:
            if not await self._shards.seen(rid, home, claim, deadline):
                raise OutcomeUnknown(f"reservation {rid} is being decided; ask again")
            await self._shards.settled(rid, home, claim, deadline)
            return await self._read_settled(rid, home, deadline)
        if claim.state == State.PINNED:
            await self._shards.finish(rid, home, claim, deadline)
            return await self._read_settled(rid, home, deadline)
        return reply

    async def _read_settled(self, rid: str, home: int, deadline: Deadline) -> StepReply:
        reply = await self._shards.read(rid, home, deadline)
        if not reply.claim or reply.claim.state in (State.PENDING, State.PINNED, State.ABORTED):
            raise Unavailable(f"reservation {rid} is being decided; try again")
        return reply

    async def _late(self, rid: str, compute: _Compute, mode: DurabilityMode) -> TransitionResult:
        """The answer for a reservation that is resolved and has left the index."""
        stored = await self._store.reservation(rid)
        if stored is None or stored.claim.state == State.ABORTED:
            raise NotFound("reservation", rid)
        if stored.claim.state in (*OPEN, State.CONFIRMED):
            raise OutcomeUnknown("the order store is behind; ask again")
        computed = compute(stored.claim, decode_body(stored.claim), stored.claim.expire_ms)
        return _told(rid, stored.claim, computed, mode)

    async def _record(
        self,
        home: int,
        reply: StepReply,
        claim: ClaimRecord,
        points: Mapping[int, Position],
        deadline: Deadline,
    ) -> None:
        if len(points) < len([shard for shard in claim.legs if shard != home]):
            raise OutcomeUnknown("a shard did not answer whether it followed; ask again")
        at = Position(claim.epoch, claim.sequence)
        await self._recorder.recorded(home, at, reply.epoch, points, deadline)


def _refused(
    reply: StepReply, short: Sequence[tuple[LegLine, Shortfall]]
) -> TransitionOutcome | None:
    """Why a change was not made, for good; None where it is worth another try."""
    if reply.outcome == Outcome.REFUSED and reply.state == State.EXPIRED:
        return TransitionOutcome.EXPIRED
    if short and all(line.limit >= 0 for line, _ in short):
        return TransitionOutcome.CAPACITY_FULL
    return _TOO_MANY.get(reply.outcome)


def _told(
    rid: str, claim: ClaimRecord, computed: _Computed, mode: DurabilityMode
) -> TransitionResult:
    return TransitionResult(
        outcome=computed.outcome,
        reservation=reservation_of(rid, claim),
        replayed=computed.replayed,
        durability=mode,
    )


def _digest(command: ChangeCommand, done: TransitionOutcome) -> str:
    covered = msgspec.json.encode((done, command.lines))
    return hashlib.blake2b(covered, digest_size=8).hexdigest()


def _gaining(before: Lines, after: Lines) -> set[str]:
    """Nodes at which a line has more units than it had."""
    had = {
        (line.line_id, part.node_id, part.bucket): part.quantity
        for line in before
        for part in line.planned_units
    }
    return {
        part.node_id
        for line in after
        for part in line.planned_units
        if part.quantity > had.get((line.line_id, part.node_id, part.bucket), 0)
    }


def _is_known(body: Body, key: str, digest: str) -> bool:
    """Whether the change was made under this key; IdempotencyKeyReused where another was."""
    found = (change for change in body.changes if key and change.idempotency_key == key)
    known = next(found, None)
    if known is not None and known.body_hash != digest:
        raise IdempotencyKeyReused("idempotency_key", key)
    return known is not None


def _noted(body: Body, lines: tuple[ReservationLine, ...], key: str, digest: str) -> Body:
    """The body with new lines, and the key they were asked for under. A mark that legs are growing
    is of an earlier try, and ends with it."""
    changes = (*body.changes, Change(key, digest))[-CHANGES_KEPT:] if key else body.changes
    return msgspec.structs.replace(body, lines=lines, changes=changes, growing=False)


def _named(short: Iterable[tuple[LegLine, Shortfall]]) -> tuple[ShortPosition, ...]:
    return tuple(
        ShortPosition(line.sku, line.node_id, shortfall.ats)
        for line, shortfall in short
        if line.limit < 0
    )
