"""The messages of the protocol, and how their answers are read."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence

from promise_svc.application.ports import AtsIndex
from promise_svc.application.tasks import Deadline, all_of
from promise_svc.domain.reservation import (
    TTL_MS_MAX,
    ClaimRecord,
    ConformStep,
    CreateStep,
    FollowStep,
    LegLine,
    Outcome,
    SettleStep,
    State,
    StepReply,
)
from promise_svc.errors import InvariantBroken, PromiseServiceError

GRANTED = (Outcome.DONE, Outcome.REPEATED)

_FOLLOWED = (Outcome.DONE, Outcome.REPEATED, Outcome.MISSING)
STANDING = (State.HELD, State.PINNED, State.CONFIRMED)

BACKGROUND_SECONDS = 5.0
"""Time for what follows a reply; the resolver takes over after that."""


class Messages:
    """What legs and homes are told, whoever drives a reservation."""

    def __init__(self, index: AtsIndex) -> None:
        self._index = index

    async def each(
        self, rid: str, attempt: int, target: State, shards: Iterable[int], deadline: Deadline
    ) -> list[StepReply]:
        steps, left = [FollowStep(rid, attempt, target)], deadline.left()
        replies = await all_of([self._index.follow(shard, steps, left) for shard in shards])
        return [reply[0] for reply in replies]

    async def follow(
        self, rid: str, attempt: int, target: State, shards: Iterable[int], deadline: Deadline
    ) -> bool:
        """Let legs follow; False when one did not answer. A leg that contradicts its claim is an
        InvariantBroken: units would be sold that nobody holds."""
        try:
            replies = await self.each(rid, attempt, target, shards, deadline)
        except InvariantBroken:
            raise
        except PromiseServiceError:
            return False
        if target == State.CONFIRMED and not all(map(stands_confirmed, replies)):
            raise InvariantBroken(f"a leg of confirmed reservation {rid} is not held")
        if target == State.CONFIRMED:
            return True
        # A leg of a later attempt takes the place only of one that has ended: ours has followed.
        return all(r.outcome in (*_FOLLOWED, Outcome.OTHER_PLAN) for r in replies)

    async def follow_end(self, rid: str, home: int, claim: ClaimRecord, deadline: Deadline) -> bool:
        """Let the legs follow a claim that has ended, and note it; False where one did not hear."""
        state = State(claim.state)
        # A claim opened shard by shard may lack its own home leg: an abort must bar that too.
        others = [s for s in claim.legs if s != home or state is State.ABORTED]
        if not await self.follow(rid, claim.attempt, state, others, deadline):
            return False
        return await self.settle(rid, home, claim.attempt, state, claim.change)

    async def settle(
        self,
        rid: str,
        home: int,
        attempt: int,
        state: State = State.PENDING,
        change: int = 0,
        *,
        replaced: bool = False,
    ) -> bool:
        """Off the caller's path; what fails here the resolver does again."""
        try:
            step = SettleStep(rid, attempt, state, change, int(replaced))
            await self._index.settle(home, [step], BACKGROUND_SECONDS)
        except PromiseServiceError:
            return False
        return True

    async def conform(
        self,
        rid: str,
        claim: ClaimRecord,
        lines: Mapping[int, tuple[LegLine, ...]],
        deadline: Deadline,
        *,
        ttl_ms: int = 0,
        plan: int = 0,
    ) -> dict[int, StepReply]:
        """Replies of the legs that answered. ``plan`` is the network version of more units that
        legs are asked for before home decides."""
        step = ConformStep(
            rid, claim.attempt, claim.change, claim.state, ttl_ms, (), int(plan > 0), plan
        )
        replies = await asyncio.gather(
            *(
                self._index.conform(shard, [step._replace(lines=wanted)], deadline.left())
                for shard, wanted in lines.items()
            ),
            return_exceptions=True,
        )
        answers = {shard: one_reply(reply) for shard, reply in zip(lines, replies, strict=True)}
        return {shard: reply for shard, reply in answers.items() if isinstance(reply, StepReply)}

    async def join(
        self,
        rid: str,
        claim: ClaimRecord,
        legs: Mapping[int, tuple[LegLine, ...]],
        network_version: int,
        time_ms: int,
        deadline: Deadline,
    ) -> dict[int, StepReply]:
        """Take legs in shards that have had none of the marked claim; replies of those that
        answered. Until home has decided, such a leg ends by itself: with the claim if that is a
        hold, and no later than any hold."""
        held = claim.state == State.HELD
        ttl_ms = max(1, claim.expire_ms - time_ms) if held else TTL_MS_MAX
        step = CreateStep(
            rid, claim.attempt, claim.plan_hash, ttl_ms, network_version, 1, change=claim.change
        )
        replies = await asyncio.gather(
            *(
                self._index.create(shard, [step._replace(lines=lines)], deadline.left())
                for shard, lines in legs.items()
            ),
            return_exceptions=True,
        )
        answers = {shard: one_reply(reply) for shard, reply in zip(legs, replies, strict=True)}
        return {shard: reply for shard, reply in answers.items() if isinstance(reply, StepReply)}


def stands_confirmed(reply: StepReply) -> bool:
    """Whether a leg that was told CONFIRMED is, or was: what ends the order may have overtaken the
    confirm on the way."""
    return reply.outcome in GRANTED or reply.state in (State.CANCELLED, State.FULFILLED)


def claim_of(reply: StepReply) -> ClaimRecord:
    if not reply.claim:
        raise InvariantBroken("a home shard answered about a claim without showing it")
    return reply.claim


def one_reply(reply: Sequence[StepReply] | BaseException) -> StepReply | PromiseServiceError:
    if isinstance(reply, PromiseServiceError):
        return reply
    if isinstance(reply, BaseException):
        raise reply
    return reply[0]


async def quietly(work: object) -> None:
    """Background work whose failure the resolver makes good."""
    try:
        await work  # type: ignore[misc]
    except InvariantBroken:
        raise
    except PromiseServiceError:
        return
