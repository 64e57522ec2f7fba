"""An attempt to hold a plan, as steps for its shards, and what became of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

from promise_svc.application.ports import AtsIndex
from promise_svc.application.several_shards.messages import (
    BACKGROUND_SECONDS,
    GRANTED,
    STANDING,
    Messages,
    one_reply,
    quietly,
)
from promise_svc.application.tasks import Deadline, OwnedTasks, settled
from promise_svc.domain.reservation import (
    ClaimDraft,
    ClaimRecord,
    CreateStep,
    CustomerLimit,
    LegLine,
    Outcome,
    Shortfall,
    State,
    StepReply,
)
from promise_svc.domain.sharding import Position
from promise_svc.errors import OutcomeUnknown, PromiseServiceError

# Without the Python frame of a NamedTuple's own constructor: one for every leg.
_create_step = partial(tuple.__new__, CreateStep)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """One attempt to hold one plan."""

    reservation_id: str
    home: int
    attempt: int
    plan_hash: str
    ttl_ms: int
    network_version: int
    legs: Mapping[int, tuple[LegLine, ...]]
    """Shard -> lines, each position once."""
    claim: ClaimDraft | tuple[()]
    """Empty when an existing claim's legs are sent again."""
    segment: str = ""
    replaces: str = ""
    """The hold whose place it takes, and which attempt of it."""
    replaced_attempt: int = 0
    owner_id: str = ""
    limits: Mapping[int, tuple[CustomerLimit, ...]] = field(default_factory=dict)
    """Shard -> limits of its lines' SKUs for one owner."""

    @property
    def multi(self) -> bool:
        """Whether more than one record decides: claim and legs span shards, or it replaces."""
        return bool(self.replaces) or not self.legs.keys() <= {self.home}


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldReply:
    """What became of a hold. ``outcome`` DONE means every leg is held."""

    outcome: Outcome
    claim: ClaimRecord | None = None
    epoch: int = 0
    """The home shard's epoch when it answered."""
    time_ms: int = 0
    points: Mapping[int, Position] = field(default_factory=dict)
    """Where each leg's shard stood when it had granted its leg."""
    shortfalls: tuple[tuple[LegLine, Shortfall], ...] = ()
    contended: bool = False
    attempt: int = 0
    """The highest attempt a refusing leg has seen."""
    let_go: bool = True
    """Whether no leg of a refused hold stands any more."""


class Opening:
    """Sends the steps of an attempt: at once, or shard by shard."""

    def __init__(self, index: AtsIndex, tasks: OwnedTasks, messages: Messages) -> None:
        self._index = index
        self._tasks = tasks
        self._messages = messages

    async def at_once(
        self, hold: Hold, deadline: Deadline
    ) -> dict[int, StepReply | PromiseServiceError]:
        shards = sorted({hold.home, *hold.legs}) if hold.claim else sorted(hold.legs)
        multi = hold.multi
        steps = [
            _step(hold, shard, hold.claim if shard == hold.home else (), multi) for shard in shards
        ]
        left = deadline.left()
        replies = await settled(
            [self._index.create(s, [step], left) for s, step in zip(shards, steps, strict=True)]
        )
        by_shard = {shard: one_reply(reply) for shard, reply in zip(shards, replies, strict=True)}
        by_shard.setdefault(hold.home, StepReply(Outcome.REPEATED, 0, 0, 0))
        return by_shard

    async def in_order(
        self, hold: Hold, deadline: Deadline
    ) -> dict[int, StepReply | PromiseServiceError]:
        """The claim first, so that the resolver knows of every leg that is taken after it."""
        claim_only = _step(hold, hold.home, hold.claim, hold.multi)._replace(lines=())
        replies: dict[int, StepReply | PromiseServiceError] = {}
        opened = await self._create(hold.home, claim_only, deadline)
        replies[hold.home] = opened
        if isinstance(opened, PromiseServiceError) or opened.outcome not in GRANTED:
            return replies
        for shard in sorted(hold.legs):
            reply = await self._create(shard, _step(hold, shard, (), hold.multi), deadline)
            if shard != hold.home or isinstance(reply, PromiseServiceError):
                replies[shard] = reply
            elif reply.outcome not in GRANTED:
                replies[shard] = reply._replace(claim=opened.claim)
            if isinstance(reply, PromiseServiceError) or reply.outcome not in GRANTED:
                break
        return replies

    async def _create(
        self, shard: int, step: CreateStep, deadline: Deadline
    ) -> StepReply | PromiseServiceError:
        try:
            return (await self._index.create(shard, [step], deadline.left()))[0]
        except PromiseServiceError as error:
            return error

    async def bar(
        self, hold: Hold, refused: Mapping[int, StepReply], deadline: Deadline
    ) -> dict[int, StepReply]:
        """Legs that another plan still keeps from ours. Their refusals left no tombstone, as others
        do, and one must stand before the abort; but meanwhile the other plan may have made way, and
        a retry been granted the leg and told so: such a leg is refused no longer."""
        rid, attempt = hold.reservation_id, hold.attempt
        probes = await self._messages.each(rid, attempt, State.PENDING, refused, deadline)
        return {
            shard: reply
            for (shard, reply), probe in zip(refused.items(), probes, strict=True)
            if probe.outcome != Outcome.DONE or probe.state not in STANDING
        }

    async def give_up(
        self,
        hold: Hold,
        answers: Mapping[int, StepReply],
        errors: Mapping[int, PromiseServiceError],
    ) -> None:
        """Raise what the caller must know. A claim that was opened is the resolver's, or the
        caller's retry's; legs whose claim was never sent have nobody and are let go."""
        unknown = [error for error in errors.values() if isinstance(error, OutcomeUnknown)]
        if unknown:
            raise unknown[0]
        if hold.claim and hold.home in errors:
            taken = [shard for shard, reply in answers.items() if reply.outcome == Outcome.DONE]
            grace = Deadline(BACKGROUND_SECONDS)
            work = self._messages.follow(
                hold.reservation_id, hold.attempt, State.ABORTED, taken, grace
            )
            self._tasks.start(quietly(work))
        raise next(iter(errors.values()))


def _step(hold: Hold, shard: int, claim: ClaimDraft | tuple[()], multi: bool) -> CreateStep:
    limits = hold.limits.get(shard, ())
    return _create_step((
        hold.reservation_id, hold.attempt, hold.plan_hash, hold.ttl_ms, hold.network_version,
        int(multi), hold.legs.get(shard, ()), claim, hold.replaces, hold.replaced_attempt,
        hold.segment, hold.owner_id if limits else "", limits, 0,
    ))  # fmt: skip


def sorted_out(
    replies: Mapping[int, StepReply | PromiseServiceError],
) -> tuple[dict[int, StepReply], dict[int, StepReply], dict[int, PromiseServiceError]]:
    """Answers, those of them that are refusals, and errors."""
    answers: dict[int, StepReply] = {}
    refused: dict[int, StepReply] = {}
    errors: dict[int, PromiseServiceError] = {}
    for shard, reply in replies.items():
        if isinstance(reply, PromiseServiceError):
            errors[shard] = reply
            continue
        answers[shard] = reply
        if reply.outcome not in GRANTED:
            refused[shard] = reply
    return answers, refused, errors


def all_other_plans(refused: Mapping[int, StepReply]) -> bool:
    return all(reply.outcome == Outcome.OTHER_PLAN for reply in refused.values())


def refusal_of(hold: Hold, home: StepReply, refused: Mapping[int, StepReply]) -> HoldReply:
    """The refusal to tell: the claim's own first, then the network, then plans, then stock."""
    about_claim = (
        Outcome.BODY_DIFFERS,
        Outcome.EXISTS,
        Outcome.WINDOW_PASSED,
        Outcome.UNSETTLED,
        Outcome.STALE_ATTEMPT,
    )
    outcomes = {Outcome(reply.outcome) for reply in refused.values()}
    precedence = (
        *about_claim,
        Outcome.NETWORK_CHANGED,
        Outcome.OTHER_PLAN,
        Outcome.RESOLVED,
        Outcome.LIMITED,
        Outcome.INSUFFICIENT,
    )
    told = next(outcome for outcome in precedence if outcome in outcomes)
    return HoldReply(
        outcome=told,
        claim=home.claim or None,
        epoch=home.epoch,
        time_ms=home.time_ms,
        shortfalls=tuple(
            (hold.legs[shard][shortfall.line_index], shortfall)
            for shard, reply in sorted(refused.items())
            if reply.outcome == told
            for shortfall in reply.shortfalls
        ),
        contended=any(reply.contended for reply in refused.values()),
        attempt=max(reply.attempt for reply in refused.values()),
    )
