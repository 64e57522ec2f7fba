"""Changes of a reservation that stands: legs first where they grow, then home, then the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from promise_svc.application.ports import AtsIndex
from promise_svc.application.reservation_body import decode_body, encode_body
from promise_svc.application.several_shards.messages import (
    BACKGROUND_SECONDS,
    GRANTED,
    STANDING,
    Messages,
    claim_of,
    quietly,
)
from promise_svc.application.tasks import Deadline, OwnedTasks
from promise_svc.domain.reservation import (
    ClaimRecord,
    LegLine,
    Outcome,
    ResolveStep,
    ReviseStep,
    Shortfall,
    State,
    StepReply,
)
from promise_svc.domain.sharding import Position
from promise_svc.errors import InvariantBroken, Unavailable

CHANGED = (State.HELD, State.CONFIRMED, State.FULFILLED, State.CANCELLED)

_CLOSED = (State.FULFILLED, State.CANCELLED)
_SET_BACK_TRIES = 8
"""Others may change a reservation meanwhile; the resolver tries again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """What a claim shall say after a change: its state, its public revision, when it ends, its
    body, and what every leg of it shall have."""

    target: State
    revision: int
    expire_ms: int
    body: str
    legs: Mapping[int, tuple[LegLine, ...]]
    """Where more units are wanted, also of shards that have had no leg of it: those join."""
    ttl_ms: int = 0
    """Where it shall end later: how long after the claim was read."""
    network_version: int = 0
    """Of the plan that joining legs are of."""


class Revised(NamedTuple):
    """What became of a change: home's answer, where the shards of the legs that followed stand, and
    the lines that want more than there is."""

    reply: StepReply
    points: Mapping[int, Position] = {}
    short: tuple[tuple[LegLine, Shortfall], ...] = ()


class Changes:
    """Changes of what a claim says, and legs made to agree."""

    def __init__(self, index: AtsIndex, tasks: OwnedTasks, messages: Messages) -> None:
        self._index = index
        self._tasks = tasks
        self._messages = messages

    async def revise(
        self, rid: str, home: int, claim: ClaimRecord, wanted: Revision, deadline: Deadline
    ) -> Revised:
        """Change what was read as ``claim``, if it still is. The reply's outcome is DONE, REFUSED,
        REVISION_DIFFERS or MISSING.

        A hold's legs are made to live longer before home decides it, so that no leg can end before
        its claim: so long from when they hear it, for their clocks may be others than home's. Where
        the worker dies in between, they end later than they need to.
        """
        others = [shard for shard in claim.legs if shard != home]
        longer = others if wanted.ttl_ms else []
        if longer:
            no_lines: dict[int, tuple[LegLine, ...]] = dict.fromkeys(longer, ())
            replies = await self._messages.conform(
                rid, claim, no_lines, deadline, ttl_ms=wanted.ttl_ms
            )
            if not _agreed(replies, longer):
                self._tasks.start(quietly(self._as_claimed(rid, home)))
                if len(replies) < len(longer):
                    raise Unavailable("a shard of the reservation did not answer; it is unchanged")
                return Revised(await self._ended(rid, home, claim, replies.values(), deadline))
        joins = not wanted.legs.keys() <= {*claim.legs}
        step = ReviseStep(
            rid, claim.attempt, claim.change, claim.state, wanted.target, wanted.revision,
            wanted.expire_ms, wanted.body, wanted.legs.get(home, ()),
            tuple(sorted({*claim.legs, *wanted.legs})) if joins else (), wanted.network_version,
        )  # fmt: skip
        reply = (await self._index.revise(home, [step], deadline.left()))[0]
        if reply.outcome == Outcome.NEEDS_FOLLOW:
            # Once more so long: meanwhile another's change may have set them back to the claim.
            followed = await self.follow_change(
                rid, home, claim_of(reply), deadline, ttl_ms=wanted.ttl_ms
            )
            return Revised(reply._replace(outcome=Outcome.DONE), followed)
        if longer:
            self._tasks.start(quietly(self._as_claimed(rid, home)))
        return Revised(reply, {}, tuple((step.lines[x.line_index], x) for x in reply.shortfalls))

    async def _ended(
        self,
        rid: str,
        home: int,
        claim: ClaimRecord,
        replies: Iterable[StepReply],
        deadline: Deadline,
    ) -> StepReply:
        """REFUSED, for a leg that cannot live longer. Where it has ended by its shard's clock, so
        has the hold, and home decides that now: what is told must be what stands."""
        if not any(reply.state == State.EXPIRED for reply in replies):
            return StepReply(Outcome.REFUSED, 0, 0, 0, claim.state, claim)
        step = ResolveStep(rid, State.EXPIRED, claim.attempt)
        reply = (await self._index.resolve(home, [step], deadline.left()))[0]
        if reply.outcome == Outcome.NEEDS_FOLLOW:
            grace = Deadline(BACKGROUND_SECONDS)
            work = self._messages.follow_end(rid, home, claim_of(reply), grace)
            self._tasks.start(quietly(work))
        return reply._replace(outcome=Outcome.REFUSED)

    async def amend(
        self, rid: str, home: int, claim: ClaimRecord, wanted: Revision, deadline: Deadline
    ) -> Revised:
        """Change lines so that legs may want more units. Outcome as of ``revise``, or INSUFFICIENT,
        LIMITED or NETWORK_CHANGED; then nothing is changed.

        Legs that grow are asked before home decides, each in its own step, and the claim is marked
        first: where the worker dies, the resolver sets the legs back to what the claim says. Until
        home has decided they give nothing back, or somebody else would have it by then.
        """
        now = decode_body(claim).legs()
        joining = {s: lines for s, lines in wanted.legs.items() if s not in claim.legs}
        growing = {
            shard: lines
            for shard, lines in wanted.legs.items()
            if shard in claim.legs and shard != home and _grows(now.get(shard, ()), lines)
        }
        if growing or joining:
            marked = await self._rewrite(rid, home, claim, deadline, growing=True)
            if marked.outcome not in (Outcome.DONE, Outcome.NEEDS_FOLLOW):
                return Revised(marked)
            claim = claim_of(marked)
            asked = await asyncio.gather(
                self._messages.conform(rid, claim, growing, deadline, plan=wanted.network_version),
                self._messages.join(
                    rid, claim, joining, wanted.network_version, marked.time_ms, deadline
                ),
            )
            replies, growing = asked[0] | asked[1], growing | joining
            short = tuple(
                (growing[shard][shortfall.line_index], shortfall)
                for shard, reply in replies.items()
                for shortfall in reply.shortfalls
            )
            if not _agreed(replies, growing, joining):
                if any(reply.state == State.EXPIRED for reply in replies.values()):
                    return Revised(await self._ended(rid, home, claim, replies.values(), deadline))
                await self._give_back(rid, home, claim, joining, deadline)
                if len(replies) < len(growing):
                    raise Unavailable("a shard of the reservation did not answer; it is unchanged")
                told = {Outcome(reply.outcome) for reply in replies.values()}
                refusals = Outcome.LIMITED, Outcome.INSUFFICIENT, Outcome.NETWORK_CHANGED
                outcome = next((x for x in refusals if x in told), Outcome.REFUSED)
                return Revised(StepReply(outcome, 0, 0, 0, claim.state, claim), {}, short)
        revised = await self.revise(rid, home, claim, wanted, deadline)
        if growing and revised.reply.outcome != Outcome.DONE:
            await self._give_back(rid, home, claim, joining, deadline)
        return revised

    async def _give_back(
        self,
        rid: str,
        home: int,
        claim: ClaimRecord,
        joining: Mapping[int, tuple[LegLine, ...]],
        deadline: Deadline,
    ) -> None:
        """After a change that came to nothing: legs as they were, and joining ones without units.
        They are asked under the change that took them, so that no later one's is touched; one that
        does not answer ends by itself, or once its shard asks home."""
        nothing = {s: tuple(x._replace(quantity=0) for x in lines) for s, lines in joining.items()}
        await asyncio.gather(
            self.set_back(rid, home, deadline),
            self._messages.conform(rid, claim._replace(state=State.HELD), nothing, deadline),
        )

    async def _rewrite(
        self, rid: str, home: int, claim: ClaimRecord, deadline: Deadline, *, growing: bool
    ) -> StepReply:
        """Raise a claim's change without changing its lines; only the mark."""
        body = decode_body(claim)
        marked = encode_body(msgspec.structs.replace(body, growing=growing))
        step = ReviseStep(
            rid, claim.attempt, claim.change, claim.state, claim.state, claim.revision,
            claim.expire_ms, marked, body.legs().get(home, ()),
        )  # fmt: skip
        return (await self._index.revise(home, [step], deadline.left()))[0]

    async def set_back(self, rid: str, home: int, deadline: Deadline) -> bool:
        """Make legs that were asked for more what their claim says; False when a shard did not
        answer. The claim's change is raised twice, beyond what such a message could still carry."""
        for _ in range(_SET_BACK_TRIES):
            reply = (await self._index.read_claims(home, [rid], deadline.left()))[0]
            claim = reply.claim
            if not claim or claim.state not in (State.HELD, State.CONFIRMED):
                return True
            if not decode_body(claim).growing:
                return True
            for growing in (True, False):
                reply = await self._rewrite(rid, home, claim, deadline, growing=growing)
                if reply.outcome not in (Outcome.DONE, Outcome.NEEDS_FOLLOW):
                    break
                claim = claim_of(reply)
            else:
                others = [shard for shard in claim.legs if shard != home]
                return len(await self.follow_change(rid, home, claim, deadline)) == len(others)
        return False

    async def follow_change(
        self, rid: str, home: int, claim: ClaimRecord, deadline: Deadline, *, ttl_ms: int = 0
    ) -> dict[int, Position]:
        """Make every leg what its changed claim says; those that answered, and where they stand.
        Each keeps its own end, unless ``ttl_ms`` is given."""
        lines = decode_body(claim).legs()
        wanted = {shard: lines[shard] for shard in claim.legs if shard != home}
        replies = await self._messages.conform(rid, claim, wanted, deadline, ttl_ms=ttl_ms)
        # A leg of a later attempt takes the place only of one that has ended: ours has followed.
        fine = (*GRANTED, Outcome.OTHER_PLAN) if claim.state in _CLOSED else GRANTED
        done = {s: r for s, r in replies.items() if r.outcome in fine}
        if len(done) == len(wanted):
            settled = self._messages.settle(
                rid, home, claim.attempt, State(claim.state), claim.change
            )
            self._tasks.start(settled)
        elif any(r.outcome == Outcome.REFUSED for r in replies.values()):
            raise InvariantBroken(f"a leg of reservation {rid} cannot be what its claim says")
        return {s: Position(r.epoch, r.sequence) for s, r in done.items()}

    async def _as_claimed(self, rid: str, home: int) -> None:
        """Set legs back to what their claim says, after a change that came to nothing."""
        deadline = Deadline(BACKGROUND_SECONDS)
        reply = (await self._index.read_claims(home, [rid], deadline.left()))[0]
        if not reply.claim:
            return
        others = [shard for shard in reply.claim.legs if shard != home]
        if reply.state == State.HELD and not decode_body(reply.claim).growing:
            left_ms = max(1, reply.claim.expire_ms - reply.time_ms)
            await self.follow_change(rid, home, reply.claim, deadline, ttl_ms=left_ms)
        elif reply.state == State.EXPIRED:
            await self._messages.follow(rid, reply.claim.attempt, State.EXPIRED, others, deadline)


def _grows(now: Sequence[LegLine], wanted: Sequence[LegLine]) -> bool:
    units = {line[:3]: line.quantity for line in now}
    return any(line.quantity > units.get(line[:3], 0) for line in wanted)


def _agreed(
    replies: Mapping[int, StepReply], shards: Iterable[int], joining: Collection[int] = ()
) -> bool:
    """Whether every leg has what was asked for before home decides. One that has ended agrees to
    all that follows its claim, and to nothing more than it had; joining legs are granted or not."""
    found = [(shard in joining, replies.get(shard)) for shard in shards]
    return all(r and r.outcome in GRANTED and (joins or r.state in STANDING) for joins, r in found)
