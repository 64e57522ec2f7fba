"""Held legs whose claim never came, or is another's."""

from __future__ import annotations

from promise_svc.application.ports import AtsIndex
from promise_svc.application.reservation_body import Body, decode_body, encode_body
from promise_svc.application.several_shards.messages import BACKGROUND_SECONDS, Messages
from promise_svc.application.tasks import Deadline
from promise_svc.domain.network import FulfillmentMethod
from promise_svc.domain.reservation import ClaimDraft, CreateStep, LegLine, LegRecord, State


class Orphans:
    """Legs that wait for a claim that never came."""

    def __init__(self, index: AtsIndex) -> None:
        self._index = index
        self._messages = Messages(index)

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
                await self._messages.each(rid, leg.attempt, State.HELD, [shard], deadline)
            elif not decode_body(claim).growing:
                # It joined for a change that was not decided.
                nothing = {shard: tuple(line._replace(quantity=0) for line in leg.lines)}
                told = claim._replace(state=State.HELD)
                await self._messages.conform(rid, told, nothing, deadline)
            return
        open_to_it = not claim or (claim.state == State.ABORTED and claim.attempt < leg.attempt)
        if open_to_it and not await self._barred_at_home(rid, home, shard, leg, deadline):
            return
        await self._messages.each(rid, leg.attempt, State.ABORTED, [shard], deadline)

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
