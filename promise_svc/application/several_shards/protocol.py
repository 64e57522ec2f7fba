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
from collections.abc import Collection, Iterable
from dataclasses import replace

from promise_svc.application.ports import AtsIndex
from promise_svc.application.reservation_body import decode_body
from promise_svc.application.several_shards.changes import CHANGED, Changes
from promise_svc.application.several_shards.hold import (
    Hold,
    HoldReply,
    Opening,
    all_other_plans,
    refusal_of,
    sorted_out,
)
from promise_svc.application.several_shards.messages import (
    BACKGROUND_SECONDS,
    GRANTED,
    STANDING,
    Messages,
    claim_of,
    quietly,
    stands_confirmed,
)
from promise_svc.application.several_shards.notes import Notes
from promise_svc.application.tasks import Deadline, OwnedTasks
from promise_svc.domain.reservation import (
    ClaimRecord,
    Outcome,
    ResolveStep,
    SettleStep,
    State,
    StepReply,
    confirmed,
    is_sold,
)
from promise_svc.domain.sharding import Position
from promise_svc.errors import DeadlineExceeded, OutcomeUnknown, Unavailable
from promise_svc.hotpath import shard_of

_ENDED = (State.EXPIRED, State.RELEASED, State.CANCELLED, State.FULFILLED)
"""Ends of a leg that was granted once."""

_AFTER_HELD = (State.RELEASED, State.CANCELLED, State.FULFILLED, State.SUPERSEDED)
"""What a leg becomes only once home has decided otherwise than to abort."""

_SUPERSEDE_TRIES = 3
"""The older hold may still be being made or confirmed; that comes to its end first."""

WRITTEN_MS = 10_000
"""After this the sweeper has written an expiry down long ago."""


class SeveralShards:
    """The protocol's two sides: workers that act for a caller, and the resolver."""

    def __init__(self, index: AtsIndex, tasks: OwnedTasks, note_seconds: float = 0.0) -> None:
        """``note_seconds`` is how long home may be left without the note that a hold is complete,
        so that notes go together, and none where a confirm comes first."""
        self._index = index
        self._tasks = tasks
        self._messages = Messages(index)
        self._opening = Opening(index, tasks, self._messages)
        self._notes = Notes(index, tasks, note_seconds)
        self.changes = Changes(index, tasks, self._messages)

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
            self._opening.in_order(hold, deadline)
            if in_order
            else self._opening.at_once(hold, deadline)
        )
        answers, refused, errors = sorted_out(replies)
        if errors:
            await self._opening.give_up(hold, answers, errors)
        home = answers[hold.home]
        claim = home.claim or None
        opened = not hold.claim or (claim is not None and claim.attempt == hold.attempt)
        stopped = in_order and bool(refused)
        if refused and opened and multi and all_other_plans(refused):
            refused = await self._opening.bar(hold, refused, deadline)
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
                settled = self._messages.settle(
                    hold.reservation_id, hold.home, hold.attempt, replaced=True
                )
                self._tasks.start(settled)
            elif multi:
                held = SettleStep(hold.reservation_id, hold.attempt, State.PENDING)
                self._notes.note(hold.reservation_id, hold.home, held)
            return HoldReply(
                outcome=Outcome.DONE,
                claim=claim,
                epoch=home.epoch,
                time_ms=home.time_ms,
                points=points,
            )
        if opened and multi:
            if hold.replaces and not await self._barred_successor(
                hold.reservation_id, hold.attempt, hold.replaces, deadline
            ):
                # It took the older one's place before this leg ended by its time.
                return await self._has_taken_place(hold, deadline)
            let_go = await self._end_refused(hold, refused.values(), deadline)
        else:
            taken = [s for s, r in answers.items() if r.outcome == Outcome.DONE]
            rid = hold.reservation_id
            let_go = await self._messages.follow(rid, hold.attempt, State.ABORTED, taken, deadline)
        return replace(refusal_of(hold, home, refused), let_go=let_go)

    async def _end_refused(
        self, hold: Hold, refused: Collection[StepReply], deadline: Deadline
    ) -> bool:
        # Legs that ended by their time were granted once, and the hold perhaps acknowledged; but
        # not one that never took the place of another.
        ended = all(reply.state == State.EXPIRED for reply in refused)
        target = State.EXPIRED if ended and not hold.replaces else State.ABORTED
        # A leg that was there and is no more may have gone the way of a hold that succeeded.
        late = any(
            (reply.outcome, reply.state == State.EXPIRED) == (Outcome.RESOLVED, False)
            for reply in refused
        )
        return await self._end(
            hold.reservation_id, hold.home, hold.attempt, hold.legs, target, deadline, late=late
        )

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
        if reply.outcome not in GRANTED:
            await self._end(rid, hold.home, attempt, hold.legs, State.ABORTED, deadline)
            return False
        old_home = shard_of(hold.replaces, self._index.shard_count)
        at = Position(reply.epoch, reply.sequence)
        points[old_home] = max(at, points.get(old_home, at))
        return True

    async def _has_taken_place(self, hold: Hold, deadline: Deadline) -> HoldReply:
        """The hold as it is now, noted at home."""
        rid, home = hold.reservation_id, hold.home
        await self._messages.settle(rid, home, hold.attempt, replaced=True)
        reply = await self.read(rid, home, deadline)
        return HoldReply(
            outcome=Outcome.DONE, claim=claim_of(reply), epoch=reply.epoch, time_ms=reply.time_ms
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
                older = claim_of(reply)
                others = [shard for shard in older.legs if shard != home]
                if await self._messages.follow(
                    replaces, older.attempt, State.SUPERSEDED, others, deadline
                ):
                    settled = self._messages.settle(
                        replaces, home, older.attempt, State.SUPERSEDED, older.change
                    )
                    self._tasks.start(settled)
                return reply._replace(outcome=Outcome.DONE)
            deciding = reply.outcome in (Outcome.REFUSED, Outcome.UNSETTLED)
            if not deciding or reply.state not in (State.PENDING, State.PINNED):
                return reply
            await self.finish(replaces, home, claim_of(reply), deadline)
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
            await self.finish(rid, home, claim_of(reply), deadline)
            reply = (await self._index.resolve(home, [step], deadline.left()))[0]
        if reply.outcome == Outcome.UNSETTLED:
            raise OutcomeUnknown(f"reservation {rid} is being decided; ask again")
        return reply

    async def settle_refused(self, hold: Hold, reply: HoldReply) -> None:
        """Before another plan: else that would meet its own last one, not yet settled, at home. A
        claim whose legs may stand must stay: nobody else would speak for them."""
        if hold.multi and reply.let_go:
            await self._messages.settle(hold.reservation_id, hold.home, hold.attempt, State.ABORTED)

    async def _end(
        self,
        rid: str,
        home: int,
        attempt: int,
        legs: Iterable[int],
        target: State,
        deadline: Deadline,
        *,
        late: bool = False,
    ) -> bool:
        """Decide ABORTED or EXPIRED and let go of the legs, in one round trip; whether all heard.
        The attempt is barred at one of its legs already, or has ended there, so it cannot succeed
        whichever half a crash leaves undone. Where we may be ``late`` instead, and the hold have
        succeeded, home is asked first, and if it refuses, no leg is touched."""
        if late:
            step = ResolveStep(rid, target, attempt)
            reply = (await self._index.resolve(home, [step], deadline.left()))[0]
            if reply.outcome not in (*GRANTED, Outcome.NEEDS_FOLLOW):
                return False
            return await self._messages.follow_end(rid, home, claim_of(reply), deadline)
        decided, followed = await asyncio.gather(
            self._index.resolve(home, [ResolveStep(rid, target, attempt)], deadline.left()),
            self._messages.follow(rid, attempt, target, legs, deadline),
            return_exceptions=True,
        )
        done = followed is True and not isinstance(decided, BaseException)
        if done:
            self._tasks.start(self._messages.settle(rid, home, attempt, target))
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
            self._notes.waiting.pop(rid, None)
        elif (reply.outcome, reply.state) != (Outcome.REPEATED, State.PINNED):
            return reply, {}
        claim = claim_of(reply)
        try:
            legs = await self._confirm_legs(rid, home, claim, deadline)
            points = {shard: Position(leg.epoch, leg.sequence) for shard, leg in legs.items()}
            # Where legs must still conform to a change, or an end has overtaken us, home is asked.
            if not claim.change and all(leg.outcome in GRANTED for leg in legs.values()):
                self._notes.note(rid, home, _decided(rid, claim))
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
        replies = await self._messages.each(rid, claim.attempt, State.CONFIRMED, others, deadline)
        if any(reply.outcome in (Outcome.MISSING, Outcome.OTHER_PLAN) for reply in replies):
            # The create is still under way, or died, or another plan makes way for it. Probing bars
            # the legs that have not come.
            await self._messages.each(rid, claim.attempt, State.PENDING, others, deadline)
            replies = await self._messages.each(
                rid, claim.attempt, State.CONFIRMED, others, deadline
            )
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
        if all(map(stands_confirmed, legs)):
            step = _decided(rid, claim)
        elif not all(leg.outcome in GRANTED or leg.state in _ENDED for leg in legs):
            # Never complete, so never acknowledged: nobody was promised anything.
            step = ResolveStep(rid, State.ABORTED, claim.attempt)
        else:
            step = ResolveStep(rid, State.EXPIRED, claim.attempt)
        reply = (await self._index.resolve(home, [step], deadline.left()))[0]
        if reply.outcome == Outcome.NEEDS_FOLLOW:
            # A confirm that came to nothing: its legs are let go, also those already confirmed. Or
            # legs that must still conform to an earlier change.
            self._tasks.start(quietly(self.finish(rid, home, claim_of(reply))))
            reply = reply._replace(outcome=Outcome.DONE)
        if step.target != State.CONFIRMED and reply.outcome in GRANTED:
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
            await self._confirm_pinned(rid, home, claim_of(reply), deadline)
            reply = (await self._index.resolve(home, [step], deadline.left()))[0]
        if reply.outcome == Outcome.NEEDS_FOLLOW:
            self._notes.waiting.pop(rid, None)
            claim = claim_of(reply)
            others = [shard for shard in claim.legs if shard != home]
            if await self._messages.follow(rid, claim.attempt, target, others, deadline):
                self._tasks.start(
                    self._messages.settle(rid, home, claim.attempt, target, claim.change)
                )
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
        behind = claim.state in CHANGED and not claim.settled
        if others and behind and not await self.finish(rid, home, claim, deadline):
            raise OutcomeUnknown("a shard did not answer whether it followed; ask again")
        metas = await asyncio.gather(
            *(self._index.read_meta(shard, deadline.left()) for shard in others)
        )
        return {shard: meta.at for shard, meta in zip(others, metas, strict=True)}

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
            return await self.changes.set_back(rid, home, deadline)
        if claim.change and state in CHANGED:
            followed = await self.changes.follow_change(rid, home, claim, deadline)
            return len(followed) == len([shard for shard in claim.legs if shard != home])
        return await self._messages.follow_end(rid, home, claim, deadline)

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
        stand = (x and (x.attempt, x.state in STANDING) == (claim.attempt, True) for x in legs)
        return claim if all(stand) else None

    async def settled(
        self, rid: str, home: int, claim: ClaimRecord, deadline: Deadline
    ) -> StepReply:
        """Note that every leg is held, and say where that stands in the shard's history."""
        if claim.replaces:
            reply = await self._supersede(
                rid, claim.attempt, claim.replaces, claim.replaced_attempt, deadline
            )
            if reply.outcome not in GRANTED:
                raise OutcomeUnknown(f"reservation {rid} is being decided; ask again")
        step = SettleStep(rid, claim.attempt, State.PENDING, 0, int(bool(claim.replaces)))
        self._notes.waiting.pop(rid, None)
        return (await self._index.settle(home, [step], deadline.left()))[0]

    async def _complete_or_abort(
        self, rid: str, home: int, claim: ClaimRecord, deadline: Deadline
    ) -> bool:
        probes = await self._messages.each(rid, claim.attempt, State.PENDING, claim.legs, deadline)
        standing = [p.outcome == Outcome.DONE and p.state in STANDING for p in probes]
        stands = all(standing)
        if claim.replaces and stands:
            reply = await self._supersede(
                rid, claim.attempt, claim.replaces, claim.replaced_attempt, deadline
            )
            stands = reply.outcome in GRANTED
        elif claim.replaces:
            stands = not await self._barred_successor(rid, claim.attempt, claim.replaces, deadline)
        if stands:
            return await self._messages.settle(
                rid, home, claim.attempt, replaced=bool(claim.replaces)
            )
        ended = [probe.state == State.EXPIRED for probe in probes]
        # Complete once, and perhaps acknowledged: it has ended by its time, as its first leg did.
        complete = all(map(operator.or_, standing, ended)) and not claim.replaces
        target = State.EXPIRED if complete else State.ABORTED
        late = any(probe.state in _AFTER_HELD for probe in probes)
        await self._end(rid, home, claim.attempt, claim.legs, target, deadline, late=late)
        return True


def _decided(rid: str, claim: ClaimRecord) -> ResolveStep:
    """Home's last step of a confirm whose legs have followed."""
    return ResolveStep(rid, State.CONFIRMED, claim.attempt, 0, 1)
