"""A reservation over several shards: claim at home, legs where the stock is.

One round trip opens the claim and takes all legs; success needs all of them. Every later move is
decided at home, once, and the legs follow; the resolver finishes what a dead worker left. The
steps' rules are in ``domain/ledger``; here is only their order, and why each crash is safe:

- before any reply to the caller, a claim is PENDING and in its home's open list. The resolver
  probes the legs, which tombstones those that never came, and then completes or aborts.
- an attempt is barred at a leg before it is aborted at home: by the tombstone of a refusal, of a
  probe or of a letting-go. Several workers may drive one attempt (a retry sends the same plan
  again), and none of them may acknowledge what another aborts.
- a confirm pins the claim, which then no longer expires, then confirms the other legs. Once all are
  CONFIRMED the caller is told, and home decides a moment later, with others: a leg of one attempt
  is confirmed, or it is barred or has ended, and stays so; and nobody aborts or ends a pinned claim
  without a leg that is barred or has ended. So the resolver can only finish it as confirmed, and
  pin and legs are all that the order store must have. Until then who reads looks at the legs
  (``seen``), and who would move or change it decides first. Where a leg had ended, the confirm
  comes to nothing, nobody heard of it, and the legs follow that. A claim that had been changed is
  decided before the answer: its legs may have to conform.
- what is decided at home is never undone; following is idempotent.
- a hold that replaces another of its owner is decided at that one's home: once all its legs are
  held, the older claim becomes SUPERSEDED by this very attempt, and only then is the new one a
  hold. Whoever gives the attempt up bars it at the older claim's home first. So one of the two
  stands, always.
"""

from __future__ import annotations

import asyncio
import operator
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple, TypeVar

import msgspec

from promise_svc.application.ports import AtsIndex
from promise_svc.application.reservation_body import Body, decode_body, encode_body
from promise_svc.application.tasks import Deadline, OwnedTasks, all_of, settled
from promise_svc.domain.network import FulfillmentMethod
from promise_svc.domain.reservation import (
    TTL_MS_MAX,
    ClaimDraft,
    ClaimRecord,
    ConformStep,
    CreateStep,
    CustomerLimit,
    FollowStep,
    LegLine,
    LegRecord,
    Outcome,
    ResolveStep,
    ReviseStep,
    SettleStep,
    Shortfall,
    State,
    StepReply,
    confirmed,
    is_sold,
)
from promise_svc.domain.sharding import Position
from promise_svc.errors import (
    DeadlineExceeded,
    InvariantBroken,
    OutcomeUnknown,
    PromiseServiceError,
    Unavailable,
)
from promise_svc.hotpath import shard_of

_GRANTED = (Outcome.DONE, Outcome.REPEATED)
_FOLLOWED = (Outcome.DONE, Outcome.REPEATED, Outcome.MISSING)
_CLOSED = (State.FULFILLED, State.CANCELLED)
_CHANGED = (State.HELD, State.CONFIRMED, State.FULFILLED, State.CANCELLED)
_ENDED = (State.EXPIRED, State.RELEASED, State.CANCELLED, State.FULFILLED)
"""Ends of a leg that was granted once."""
_STANDING = (State.HELD, State.PINNED, State.CONFIRMED)

_SUPERSEDE_TRIES = 3
"""The older hold may still be being made or confirmed; that comes to its end first."""

_SET_BACK_TRIES = 8
"""Others may change a reservation meanwhile; the resolver tries again."""

WRITTEN_MS = 10_000
"""After this the sweeper has written an expiry down long ago."""

BACKGROUND_SECONDS = 5.0
"""Time for what follows a reply; the resolver takes over after that."""

NOTES_MAX = 32
"""Notes of one function call: a shard's other callers wait for no more than a millisecond."""


_Noted = TypeVar("_Noted", SettleStep, ResolveStep)


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


class SeveralShards:
    """The protocol's two sides: workers that act for a caller, and the resolver."""

    def __init__(self, index: AtsIndex, tasks: OwnedTasks, note_seconds: float = 0.0) -> None:
        """``note_seconds`` is how long home may be left without the note that a hold is complete,
        so that notes go together, and none where a confirm comes first."""
        self._index = index
        self._tasks = tasks
        self._note_seconds = note_seconds
        self._notes: dict[str, tuple[int, SettleStep | ResolveStep]] = {}
        self._noting = False

    # -- hold -------------------------------------------------------------------------------

    async def hold(self, hold: Hold, deadline: Deadline, *, ordered: bool = False) -> HoldReply:
        """Open the claim and take every leg, or nothing.

        In parallel first. ``ordered`` goes shard by shard, which two carts that want the same last
        units need, once, to let one of them win. Raises OutcomeUnknown when a shard that was sent
        something does not answer, Unavailable when nothing stands.
        """
        # One shard decides alone: there a claim opened before its leg would be a hold of nothing.
        multi = hold.multi
        in_order = ordered and multi
        replies = await (
            self._in_order(hold, deadline) if in_order else self._at_once(hold, deadline)
        )
        answers, refused, errors = _sorted_out(replies)
        if errors:
            await self._give_up(hold, answers, errors)
        home = answers[hold.home]
        claim = home.claim or None
        opened = not hold.claim or (claim is not None and claim.attempt == hold.attempt)
        stopped = in_order and bool(refused)
        if refused and opened and multi and _all_other_plans(refused):
            refused = await self._bar(hold, refused, deadline)
        if not refused:
            if stopped:
                # Shard by shard, the legs after one that was refused have not been asked for yet,
                # home's own perhaps among them.
                rest = await self.hold(replace(hold, claim=()), deadline)
                return rest if rest.claim else replace(rest, claim=claim, epoch=home.epoch)
            points = {s: Position(answers[s].epoch, answers[s].sequence) for s in hold.legs}
            if hold.replaces and not await self._takes_place(hold, points, deadline):
                return HoldReply(outcome=Outcome.REFUSED, claim=claim, epoch=home.epoch)
            if hold.replaces:
                settled = self._settle(hold.reservation_id, hold.home, hold.attempt, replaced=True)
                self._tasks.start(settled)
            elif multi:
                held = SettleStep(hold.reservation_id, hold.attempt, State.PENDING)
                self._note(hold.reservation_id, hold.home, held)
            return HoldReply(
                outcome=Outcome.DONE,
                claim=claim,
                epoch=home.epoch,
                time_ms=home.time_ms,
                points=points,
            )
        if opened and multi:
            rid, at_home = hold.reservation_id, hold.home
            if hold.replaces and not await self._barred_successor(
                rid, hold.attempt, hold.replaces, deadline
            ):
                # It took the older one's place before this leg ended by its time.
                return await self._has_taken_place(hold, deadline)
            # Legs that ended by their time were granted once, and the hold perhaps acknowledged;
            # but not one that never took the place of another.
            ended = all(reply.state == State.EXPIRED for reply in refused.values())
            target = State.EXPIRED if ended and not hold.replaces else State.ABORTED
            let_go = await self._end(rid, at_home, hold.attempt, hold.legs, target, deadline)
        else:
            taken = [s for s, r in answers.items() if r.outcome == Outcome.DONE]
            rid = hold.reservation_id
            let_go = await self._follow(rid, hold.attempt, State.ABORTED, taken, deadline)
        return replace(_refusal(hold, home, refused), let_go=let_go)

    def _note(self, rid: str, home: int, step: SettleStep | ResolveStep) -> None:
        """Have home told, soon, that every leg is held, or confirmed. Whoever asks meanwhile finds
        it PENDING, or PINNED, and looks at the legs; a note that is lost is the resolver's."""
        if not self._noting:
            self._noting = True
            self._tasks.start(self._send_notes())
        self._notes[rid] = home, step

    async def _send_notes(self) -> None:
        try:
            await asyncio.sleep(self._note_seconds)
        finally:
            notes, self._notes, self._noting = self._notes, {}, False
        held: dict[int, list[SettleStep]] = {}
        decided: dict[int, list[ResolveStep]] = {}
        for home, step in notes.values():
            if isinstance(step, SettleStep):
                held.setdefault(home, []).append(step)
            else:
                decided.setdefault(home, []).append(step)
        sent = [*_sent(self._index.settle, held), *_sent(self._index.resolve, decided)]
        await asyncio.gather(*sent, return_exceptions=True)

    # -- replace ----------------------------------------------------------------------------

    async def _takes_place(
        self, hold: Hold, points: dict[int, Position], deadline: Deadline
    ) -> bool:
        """Let the older hold go for this one, whose legs are all held; False where that is no hold
        any more, and this attempt is aborted. Adds to ``points`` where that was decided."""
        rid, attempt = hold.reservation_id, hold.attempt
        try:
            reply = await self._supersede(
                rid, attempt, hold.replaces, hold.replaced_attempt, deadline
            )
        except (Unavailable, DeadlineExceeded) as error:
            raise OutcomeUnknown(
                "the replacement has begun and may be decided; ask again with the same key"
            ) from error
        if reply.outcome not in _GRANTED:
            await self._end(rid, hold.home, attempt, hold.legs, State.ABORTED, deadline)
            return False
        old_home = shard_of(hold.replaces, self._index.shard_count)
        at = Position(reply.epoch, reply.sequence)
        points[old_home] = max(at, points.get(old_home, at))
        return True

    async def _has_taken_place(self, hold: Hold, deadline: Deadline) -> HoldReply:
        """The hold as it is now, noted at home."""
        rid, home = hold.reservation_id, hold.home
        await self._settle(rid, home, hold.attempt, replaced=True)
        reply = await self.read(rid, home, deadline)
        return HoldReply(
            outcome=Outcome.DONE, claim=_claim(reply), epoch=reply.epoch, time_ms=reply.time_ms
        )

    async def _supersede(
        self, rid: str, attempt: int, replaces: str, replaced_attempt: int, deadline: Deadline
    ) -> StepReply:
        """The one step that decides between two holds. DONE or REPEATED where the older one is
        SUPERSEDED by this attempt; any other outcome is for good."""
        home = shard_of(replaces, self._index.shard_count)
        step = ResolveStep(replaces, State.SUPERSEDED, replaced_attempt, 0, 0, rid, attempt)
        for _ in range(_SUPERSEDE_TRIES):
            reply = (await self._index.resolve(home, [step], deadline.left()))[0]
            if reply.outcome == Outcome.NEEDS_FOLLOW:
                older = _claim(reply)
                others = [shard for shard in older.legs if shard != home]
                if await self._follow(replaces, older.attempt, State.SUPERSEDED, others, deadline):
                    settled = self._settle(
                        replaces, home, older.attempt, State.SUPERSEDED, older.change
                    )
                    self._tasks.start(settled)
                return reply._replace(outcome=Outcome.DONE)
            deciding = reply.outcome in (Outcome.REFUSED, Outcome.UNSETTLED)
            if not deciding or reply.state not in (State.PENDING, State.PINNED):
                return reply
            await self.finish(replaces, home, _claim(reply), deadline)
        raise OutcomeUnknown(f"reservation {replaces} is being decided; ask again")

    async def _barred_successor(
        self, rid: str, attempt: int, replaces: str, deadline: Deadline
    ) -> bool:
        """Bar the attempt at the older hold's home, before it is aborted at its own; False where it
        has taken the older one's place already, so that it stands."""
        home = shard_of(replaces, self._index.shard_count)
        step = ResolveStep(replaces, State.ABORTED, 0, 0, 0, rid, attempt)
        reply = (await self._index.resolve(home, [step], deadline.left()))[0]
        return reply.outcome == Outcome.DONE

    async def _resolve(
        self, rid: str, home: int, step: ResolveStep, deadline: Deadline
    ) -> StepReply:
        """A step at home; a hold that is still replacing another is decided first."""
        reply = (await self._index.resolve(home, [step], deadline.left()))[0]
        if reply.outcome == Outcome.UNSETTLED:
            await self.finish(rid, home, _claim(reply), deadline)
            reply = (await self._index.resolve(home, [step], deadline.left()))[0]
        if reply.outcome == Outcome.UNSETTLED:
            raise OutcomeUnknown(f"reservation {rid} is being decided; ask again")
        return reply

    async def settle_refused(self, hold: Hold, reply: HoldReply) -> None:
        """Before another plan: else that would meet its own last one, not yet settled, at home. A
        claim whose legs may stand must stay: nobody else would speak for them."""
        if hold.multi and reply.let_go:
            await self._settle(hold.reservation_id, hold.home, hold.attempt, State.ABORTED)

    async def _bar(
        self, hold: Hold, refused: Mapping[int, StepReply], deadline: Deadline
    ) -> dict[int, StepReply]:
        """Legs that another plan still keeps from ours. Their refusals left no tombstone, as others
        do, and one must stand before the abort; but meanwhile the other plan may have made way, and
        a retry been granted the leg and told so: such a leg is refused no longer."""
        rid, attempt = hold.reservation_id, hold.attempt
        probes = await self._each(rid, attempt, State.PENDING, refused, deadline)
        return {
            shard: reply
            for (shard, reply), probe in zip(refused.items(), probes, strict=True)
            if probe.outcome != Outcome.DONE or probe.state not in _STANDING
        }

    async def _at_once(
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
        by_shard = {shard: _one(reply) for shard, reply in zip(shards, replies, strict=True)}
        by_shard.setdefault(hold.home, StepReply(Outcome.REPEATED, 0, 0, 0))
        return by_shard

    async def _in_order(
        self, hold: Hold, deadline: Deadline
    ) -> dict[int, StepReply | PromiseServiceError]:
        """The claim first, so that the resolver knows of every leg that is taken after it."""
        claim_only = _step(hold, hold.home, hold.claim, hold.multi)._replace(lines=())
        replies: dict[int, StepReply | PromiseServiceError] = {}
        opened = await self._create(hold.home, claim_only, deadline)
        replies[hold.home] = opened
        if isinstance(opened, PromiseServiceError) or opened.outcome not in _GRANTED:
            return replies
        for shard in sorted(hold.legs):
            reply = await self._create(shard, _step(hold, shard, (), hold.multi), deadline)
            if shard != hold.home or isinstance(reply, PromiseServiceError):
                replies[shard] = reply
            elif reply.outcome not in _GRANTED:
                replies[shard] = reply._replace(claim=opened.claim)
            if isinstance(reply, PromiseServiceError) or reply.outcome not in _GRANTED:
                break
        return replies

    async def _create(
        self, shard: int, step: CreateStep, deadline: Deadline
    ) -> StepReply | PromiseServiceError:
        try:
            return (await self._index.create(shard, [step], deadline.left()))[0]
        except PromiseServiceError as error:
            return error

    async def _give_up(
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
            work = self._follow(hold.reservation_id, hold.attempt, State.ABORTED, taken, grace)
            self._tasks.start(_quietly(work))
        raise next(iter(errors.values()))

    async def _end(
        self,
        rid: str,
        home: int,
        attempt: int,
        legs: Iterable[int],
        target: State,
        deadline: Deadline,
    ) -> bool:
        """Decide ABORTED or EXPIRED and let go of the legs, in one round trip; whether all heard.
        The attempt is barred at one of its legs already, or has ended there, so it cannot succeed
        whichever half a crash leaves undone."""
        decided, followed = await asyncio.gather(
            self._index.resolve(home, [ResolveStep(rid, target, attempt)], deadline.left()),
            self._follow(rid, attempt, target, legs, deadline),
            return_exceptions=True,
        )
        done = followed is True and not isinstance(decided, BaseException)
        if done:
            self._tasks.start(self._settle(rid, home, attempt, target))
        return done

    # -- decide -----------------------------------------------------------------------------

    async def confirm(
        self, rid: str, home: int, revision: int, deadline: Deadline
    ) -> tuple[StepReply, dict[int, Position]]:
        """Pin the claim, confirm every other leg. The reply's outcome is DONE, REPEATED, REFUSED,
        MISSING or REVISION_DIFFERS, with the claim as it is then; with it, where the shards of the
        legs stand that were confirmed now.

        Once every leg is CONFIRMED the claim can become nothing else, so that home's decision
        waits for others, and the caller does not."""
        step = ResolveStep(rid, State.CONFIRMED, 0, revision)
        reply = await self._resolve(rid, home, step, deadline)
        if reply.outcome == Outcome.NEEDS_PINS:
            self._notes.pop(rid, None)
        elif (reply.outcome, reply.state) != (Outcome.REPEATED, State.PINNED):
            return reply, {}
        claim = _claim(reply)
        try:
            legs = await self._confirm_legs(rid, home, claim, deadline)
            points = {shard: Position(leg.epoch, leg.sequence) for shard, leg in legs.items()}
            # Where legs must still conform to a change, or an end has overtaken us, home is asked.
            if not claim.change and all(leg.outcome in _GRANTED for leg in legs.values()):
                self._note(rid, home, _decided(rid, claim))
                outcome = Outcome.DONE if reply.outcome == Outcome.NEEDS_PINS else Outcome.REPEATED
                claim = confirmed(claim)
                return reply._replace(outcome=outcome, state=claim.state, claim=claim), points
            reply = await self._decide(rid, home, claim, legs.values(), deadline)
            if reply.outcome == Outcome.OTHER_PLAN:
                # What we pinned came to nothing, and a newer attempt was held meanwhile.
                return await self.confirm(rid, home, revision, deadline)
            return reply, points
        except (Unavailable, DeadlineExceeded) as error:
            # Of the step that failed nothing was done; but the claim is pinned, and the resolver
            # confirms it as its caller wished.
            raise OutcomeUnknown(
                "the confirm has begun and may be decided; ask again with the same key"
            ) from error

    async def _confirm_pinned(
        self, rid: str, home: int, claim: ClaimRecord, deadline: Deadline
    ) -> StepReply:
        legs = await self._confirm_legs(rid, home, claim, deadline)
        return await self._decide(rid, home, claim, legs.values(), deadline)

    async def _confirm_legs(
        self, rid: str, home: int, claim: ClaimRecord, deadline: Deadline
    ) -> dict[int, StepReply]:
        """What became of a pinned claim's other legs."""
        others = [shard for shard in claim.legs if shard != home]
        replies = await self._each(rid, claim.attempt, State.CONFIRMED, others, deadline)
        if any(reply.outcome in (Outcome.MISSING, Outcome.OTHER_PLAN) for reply in replies):
            # The create is still under way, or died, or another plan makes way for it. Probing bars
            # the legs that have not come.
            await self._each(rid, claim.attempt, State.PENDING, others, deadline)
            replies = await self._each(rid, claim.attempt, State.CONFIRMED, others, deadline)
        return dict(zip(others, replies, strict=True))

    async def _decide(
        self,
        rid: str,
        home: int,
        claim: ClaimRecord,
        legs: Collection[StepReply],
        deadline: Deadline,
    ) -> StepReply:
        """Home's decision of a pinned claim, by what its legs said."""
        if all(map(_stands, legs)):
            step = _decided(rid, claim)
        elif not all(leg.outcome in _GRANTED or leg.state in _ENDED for leg in legs):
            # Never complete, so never acknowledged: nobody was promised anything.
            step = ResolveStep(rid, State.ABORTED, claim.attempt)
        else:
            step = ResolveStep(rid, State.EXPIRED, claim.attempt)
        reply = (await self._index.resolve(home, [step], deadline.left()))[0]
        if reply.outcome == Outcome.NEEDS_FOLLOW:
            # A confirm that came to nothing: its legs are let go, also those already confirmed. Or
            # legs that must still conform to an earlier change.
            self._tasks.start(_quietly(self.finish(rid, home, _claim(reply))))
            reply = reply._replace(outcome=Outcome.DONE)
        if step.target != State.CONFIRMED and reply.outcome in _GRANTED:
            # Also where another worker had decided the same: that is no confirm.
            reply = reply._replace(outcome=Outcome.REFUSED)
        return reply

    async def let_go(
        self, rid: str, home: int, target: State, revision: int, deadline: Deadline
    ) -> StepReply:
        """Release or cancel. Waits for the legs, so that the units can be sold when the caller
        hears; a leg that does not answer is the resolver's."""
        step = ResolveStep(rid, target, 0, revision)
        reply = await self._resolve(rid, home, step, deadline)
        if reply.outcome == Outcome.REFUSED and reply.state == State.PINNED:
            # A confirm has begun: it comes to its end first.
            await self._confirm_pinned(rid, home, _claim(reply), deadline)
            reply = (await self._index.resolve(home, [step], deadline.left()))[0]
        if reply.outcome == Outcome.NEEDS_FOLLOW:
            self._notes.pop(rid, None)
            claim = _claim(reply)
            others = [shard for shard in claim.legs if shard != home]
            if await self._follow(rid, claim.attempt, target, others, deadline):
                self._tasks.start(self._settle(rid, home, claim.attempt, target, claim.change))
            return reply._replace(outcome=Outcome.DONE)
        return reply

    async def stand(
        self, rid: str, home: int, claim: ClaimRecord, deadline: Deadline
    ) -> dict[int, Position]:
        """Where the shards of a repeated answer's other legs stand: those are no later than that,
        once they have followed. OutcomeUnknown where one cannot be made to follow now."""
        others = [shard for shard in claim.legs if shard != home]
        if claim.replaces:
            # That the older one made way must not be lost either.
            others = sorted({*others, shard_of(claim.replaces, self._index.shard_count)} - {home})
        behind = claim.state in _CHANGED and not claim.settled
        if others and behind and not await self.finish(rid, home, claim, deadline):
            raise OutcomeUnknown("a shard did not answer whether it followed; ask again")
        metas = await asyncio.gather(
            *(self._index.read_meta(shard, deadline.left()) for shard in others)
        )
        return {shard: meta.at for shard, meta in zip(others, metas, strict=True)}

    # -- change -----------------------------------------------------------------------------

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
            replies = await self._conform(rid, claim, no_lines, deadline, ttl_ms=wanted.ttl_ms)
            if not _agreed(replies, longer):
                self._tasks.start(_quietly(self._as_claimed(rid, home)))
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
            followed = await self._changed(rid, home, _claim(reply), deadline)
            return Revised(reply._replace(outcome=Outcome.DONE), followed)
        if longer:
            self._tasks.start(_quietly(self._as_claimed(rid, home)))
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
            self._tasks.start(_quietly(self.finish(rid, home, _claim(reply))))
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
            claim = _claim(marked)
            asked = await asyncio.gather(
                self._conform(rid, claim, growing, deadline, plan=wanted.network_version),
                self._join(rid, claim, joining, wanted.network_version, marked.time_ms, deadline),
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

    async def _join(
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
        answers = {shard: _one(reply) for shard, reply in zip(legs, replies, strict=True)}
        return {shard: reply for shard, reply in answers.items() if isinstance(reply, StepReply)}

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
            self._conform(rid, claim._replace(state=State.HELD), nothing, deadline),
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
                claim = _claim(reply)
            else:
                others = [shard for shard in claim.legs if shard != home]
                return len(await self._changed(rid, home, claim, deadline)) == len(others)
        return False

    async def _changed(
        self, rid: str, home: int, claim: ClaimRecord, deadline: Deadline, *, ttl_ms: int = 0
    ) -> dict[int, Position]:
        """Make every leg what its changed claim says; those that answered, and where they stand.
        Each keeps its own end, unless ``ttl_ms`` is given."""
        lines = decode_body(claim).legs()
        wanted = {shard: lines[shard] for shard in claim.legs if shard != home}
        replies = await self._conform(rid, claim, wanted, deadline, ttl_ms=ttl_ms)
        # A leg of a later attempt takes the place only of one that has ended: ours has followed.
        fine = (*_GRANTED, Outcome.OTHER_PLAN) if claim.state in _CLOSED else _GRANTED
        done = {s: r for s, r in replies.items() if r.outcome in fine}
        if len(done) == len(wanted):
            settled = self._settle(rid, home, claim.attempt, State(claim.state), claim.change)
            self._tasks.start(settled)
        elif any(r.outcome == Outcome.REFUSED for r in replies.values()):
            raise InvariantBroken(f"a leg of reservation {rid} cannot be what its claim says")
        return {s: Position(r.epoch, r.sequence) for s, r in done.items()}

    async def _conform(
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
        answers = {shard: _one(reply) for shard, reply in zip(lines, replies, strict=True)}
        return {shard: reply for shard, reply in answers.items() if isinstance(reply, StepReply)}

    async def _as_claimed(self, rid: str, home: int) -> None:
        """Set legs back to what their claim says, after a change that came to nothing."""
        deadline = Deadline(BACKGROUND_SECONDS)
        reply = (await self._index.read_claims(home, [rid], deadline.left()))[0]
        if not reply.claim:
            return
        others = [shard for shard in reply.claim.legs if shard != home]
        if reply.state == State.HELD and not decode_body(reply.claim).growing:
            left_ms = max(1, reply.claim.expire_ms - reply.time_ms)
            await self._changed(rid, home, reply.claim, deadline, ttl_ms=left_ms)
        elif reply.state == State.EXPIRED:
            await self._follow(rid, reply.claim.attempt, State.EXPIRED, others, deadline)

    # -- finish what others left ------------------------------------------------------------

    async def finish(
        self, rid: str, home: int, claim: ClaimRecord, deadline: Deadline | None = None
    ) -> bool:
        """Bring an unsettled claim to its end; False when a shard did not answer. Off a caller's
        path unless ``deadline`` is given."""
        deadline = deadline or Deadline(BACKGROUND_SECONDS)
        state = State(claim.state)
        if state is State.PENDING:
            return await self._complete_or_abort(rid, home, claim, deadline)
        if state is State.PINNED:
            await self._confirm_pinned(rid, home, claim, deadline)
            return True
        if claim.change and decode_body(claim).growing and state in (State.HELD, State.CONFIRMED):
            return await self.set_back(rid, home, deadline)
        if claim.change and state in _CHANGED:
            followed = await self._changed(rid, home, claim, deadline)
            return len(followed) == len([shard for shard in claim.legs if shard != home])
        # A claim opened shard by shard may lack its own home leg: an abort must bar that too.
        others = [s for s in claim.legs if s != home or state is State.ABORTED]
        if not await self._follow(rid, claim.attempt, state, others, deadline):
            return False
        return await self._settle(rid, home, claim.attempt, state, claim.change)

    async def ask_home(self, rid: str, home: int, shard: int) -> None:
        """Let a held leg go whose claim never came, or is another's: nobody would speak for it
        until it expired. Its attempt is barred at home first, so that its claim cannot come any
        more."""
        deadline = Deadline(BACKGROUND_SECONDS)
        leg = (await self._index.read_legs(shard, [rid], deadline.left()))[0]
        if not leg or leg.state != State.HELD:
            return
        claim = (await self._index.read_claims(home, [rid], deadline.left()))[0].claim
        if claim and claim.attempt == leg.attempt:
            if shard in claim.legs:
                await self._each(rid, leg.attempt, State.HELD, [shard], deadline)
            elif not decode_body(claim).growing:
                # It joined for a change that was not decided.
                nothing = {shard: tuple(line._replace(quantity=0) for line in leg.lines)}
                told = claim._replace(state=State.HELD)
                await self._conform(rid, told, nothing, deadline)
            return
        open_to_it = not claim or (claim.state == State.ABORTED and claim.attempt < leg.attempt)
        if open_to_it and not await self._barred_at_home(rid, home, shard, leg, deadline):
            return
        await self._each(rid, leg.attempt, State.ABORTED, [shard], deadline)

    async def _barred_at_home(
        self, rid: str, home: int, shard: int, leg: LegRecord, deadline: Deadline
    ) -> bool:
        """Open the leg's claim with a line that no shard can grant: it is aborted as it is opened.
        False where the claim came meanwhile, or an older one is not settled yet."""
        nothing = encode_body(Body("", "", FulfillmentMethod.SHIP_TO_ADDRESS, "", 0, ()))
        step = CreateStep(
            rid, leg.attempt, leg.plan_hash, 1, 0, 1, (LegLine("", "", "", 1),),
            ClaimDraft("", 0, (shard,), nothing),
        )  # fmt: skip
        reply = (await self._index.create(home, [step], deadline.left()))[0]
        claim = reply.claim or None
        if claim is None:
            return False
        return (claim.state, claim.attempt) == (State.ABORTED, leg.attempt)

    async def read(self, rid: str, home: int, deadline: Deadline) -> StepReply:
        """The claim as of now. A hold that has just run out is written down as EXPIRED before
        anybody is told: a clock that is set back may not bring it to life again."""
        reply = (await self._index.read_claims(home, [rid], deadline.left()))[0]
        claim = reply.claim
        if not claim or claim.state != State.EXPIRED:
            return reply
        if reply.time_ms - claim.expire_ms > WRITTEN_MS:
            return reply
        step = ResolveStep(rid, State.EXPIRED, claim.attempt)
        return (await self._index.resolve(home, [step], deadline.left()))[0]

    async def seen(
        self, rid: str, home: int, claim: ClaimRecord, deadline: Deadline
    ) -> ClaimRecord | None:
        """A PENDING or PINNED claim as its legs have it: CONFIRMED where it can be nothing else,
        itself where all of them stand, so that it can come to nothing only by its time; None where
        that is not sure."""
        # As a claim is pinned, its own leg is there and confirmed.
        asked = [shard for shard in claim.legs if shard != home or claim.state == State.PENDING]
        replies = await asyncio.gather(
            *(self._index.read_legs(shard, [rid], deadline.left()) for shard in asked)
        )
        legs = [reply[0] for reply in replies]
        if is_sold(claim, legs):
            return confirmed(claim)
        stand = (x and (x.attempt, x.state in _STANDING) == (claim.attempt, True) for x in legs)
        return claim if all(stand) else None

    async def settled(
        self, rid: str, home: int, claim: ClaimRecord, deadline: Deadline
    ) -> StepReply:
        """Note that every leg is held, and say where that stands in the shard's history."""
        if claim.replaces:
            reply = await self._supersede(
                rid, claim.attempt, claim.replaces, claim.replaced_attempt, deadline
            )
            if reply.outcome not in _GRANTED:
                raise OutcomeUnknown(f"reservation {rid} is being decided; ask again")
        step = SettleStep(rid, claim.attempt, State.PENDING, 0, int(bool(claim.replaces)))
        self._notes.pop(rid, None)
        return (await self._index.settle(home, [step], deadline.left()))[0]

    async def _complete_or_abort(
        self, rid: str, home: int, claim: ClaimRecord, deadline: Deadline
    ) -> bool:
        probes = await self._each(rid, claim.attempt, State.PENDING, claim.legs, deadline)
        standing = [p.outcome == Outcome.DONE and p.state in _STANDING for p in probes]
        stands = all(standing)
        if claim.replaces and stands:
            reply = await self._supersede(
                rid, claim.attempt, claim.replaces, claim.replaced_attempt, deadline
            )
            stands = reply.outcome in _GRANTED
        elif claim.replaces:
            stands = not await self._barred_successor(rid, claim.attempt, claim.replaces, deadline)
        if stands:
            return await self._settle(rid, home, claim.attempt, replaced=bool(claim.replaces))
        ended = [probe.state == State.EXPIRED for probe in probes]
        # Complete once, and perhaps acknowledged: it has ended by its time, as its first leg did.
        complete = all(map(operator.or_, standing, ended)) and not claim.replaces
        target = State.EXPIRED if complete else State.ABORTED
        await self._end(rid, home, claim.attempt, claim.legs, target, deadline)
        return True

    async def _follow(
        self, rid: str, attempt: int, target: State, shards: Iterable[int], deadline: Deadline
    ) -> bool:
        """Let legs follow; False when one did not answer. A leg that contradicts its claim is an
        InvariantBroken: units would be sold that nobody holds."""
        try:
            replies = await self._each(rid, attempt, target, shards, deadline)
        except InvariantBroken:
            raise
        except PromiseServiceError:
            return False
        if target == State.CONFIRMED and not all(map(_stands, replies)):
            raise InvariantBroken(f"a leg of confirmed reservation {rid} is not held")
        if target == State.CONFIRMED:
            return True
        # A leg of a later attempt takes the place only of one that has ended: ours has followed.
        return all(r.outcome in (*_FOLLOWED, Outcome.OTHER_PLAN) for r in replies)

    async def _each(
        self, rid: str, attempt: int, target: State, shards: Iterable[int], deadline: Deadline
    ) -> list[StepReply]:
        steps, left = [FollowStep(rid, attempt, target)], deadline.left()
        replies = await all_of([self._index.follow(shard, steps, left) for shard in shards])
        return [reply[0] for reply in replies]

    async def _settle(
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


def _sent(
    send: Callable[[int, Sequence[_Noted], float], Awaitable[list[StepReply]]],
    by_home: Mapping[int, Sequence[_Noted]],
) -> Iterator[Awaitable[list[StepReply]]]:
    for home, steps in by_home.items():
        for first in range(0, len(steps), NOTES_MAX):
            yield send(home, steps[first : first + NOTES_MAX], BACKGROUND_SECONDS)


def _step(hold: Hold, shard: int, claim: ClaimDraft | tuple[()], multi: bool) -> CreateStep:
    limits = hold.limits.get(shard, ())
    return _create_step((
        hold.reservation_id, hold.attempt, hold.plan_hash, hold.ttl_ms, hold.network_version,
        int(multi), hold.legs.get(shard, ()), claim, hold.replaces, hold.replaced_attempt,
        hold.segment, hold.owner_id if limits else "", limits, 0,
    ))  # fmt: skip


def _sorted_out(
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
        if reply.outcome not in _GRANTED:
            refused[shard] = reply
    return answers, refused, errors


def _all_other_plans(refused: Mapping[int, StepReply]) -> bool:
    return all(reply.outcome == Outcome.OTHER_PLAN for reply in refused.values())


def _refusal(hold: Hold, home: StepReply, refused: Mapping[int, StepReply]) -> HoldReply:
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


def _decided(rid: str, claim: ClaimRecord) -> ResolveStep:
    """Home's last step of a confirm whose legs have followed."""
    return ResolveStep(rid, State.CONFIRMED, claim.attempt, 0, 1)


def _grows(now: Sequence[LegLine], wanted: Sequence[LegLine]) -> bool:
    units = {line[:3]: line.quantity for line in now}
    return any(line.quantity > units.get(line[:3], 0) for line in wanted)


def _agreed(
    replies: Mapping[int, StepReply], shards: Iterable[int], joining: Collection[int] = ()
) -> bool:
    """Whether every leg has what was asked for before home decides. One that has ended agrees to
    all that follows its claim, and to nothing more than it had; joining legs are granted or not."""
    found = [(shard in joining, replies.get(shard)) for shard in shards]
    return all(
        r and r.outcome in _GRANTED and (joins or r.state in _STANDING) for joins, r in found
    )


def _stands(reply: StepReply) -> bool:
    """Whether a leg that was told CONFIRMED is, or was: what ends the order may have overtaken the
    confirm on the way."""
    return reply.outcome in _GRANTED or reply.state in (State.CANCELLED, State.FULFILLED)


def _claim(reply: StepReply) -> ClaimRecord:
    if not reply.claim:
        raise InvariantBroken("a home shard answered about a claim without showing it")
    return reply.claim


def _one(reply: Sequence[StepReply] | BaseException) -> StepReply | PromiseServiceError:
    if isinstance(reply, PromiseServiceError):
        return reply
    if isinstance(reply, BaseException):
        raise reply
    return reply[0]


async def _quietly(work: object) -> None:
    """Background work whose failure the resolver makes good."""
    try:
        await work  # type: ignore[misc]
    except InvariantBroken:
        raise
    except PromiseServiceError:
        return
