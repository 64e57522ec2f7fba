"""Races that the simulator lost first, each as its own schedule."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from promise_svc.application.changed_lines import ChangeLine
from promise_svc.application.ports import StoredReservation
from promise_svc.application.reservation_body import body_hash
from promise_svc.application.reservation_changes import ChangeCommand
from promise_svc.application.several_shards import Hold
from promise_svc.application.tasks import Deadline
from promise_svc.domain.network import NodeStatus
from promise_svc.domain.reservation import (
    ClaimDraft,
    CreateOutcome,
    CreateStep,
    FollowStep,
    LegLine,
    Outcome,
    ResolveStep,
    ReviseStep,
    State,
    SupplyRow,
    TransitionOutcome,
)
from promise_svc.domain.sharding import Position
from promise_svc.errors import (
    IdempotencyWindowPassed,
    OutcomeUnknown,
    PromiseServiceError,
    Unavailable,
)
from tests.contract.test_reservation_rivals import CART, RID, hooked, outcome, state_of
from tests.support.networks import a_node, a_snapshot
from tests.support.reservation_world import NODES, Worker, World, a_cart
from tests.support.shards import TIMEOUT, WINDOW_MS


async def lost_leg(world: World, rid: str = RID) -> Worker:
    """A worker whose message for C never arrives; its claim and the other legs do."""
    await world.stock(A=5, B=5, C=5)

    async def loses(verb: str, shard: int, step: Any, when: str) -> None:
        if verb == "create" and shard == world.shard("C") and when == "before":
            raise OutcomeUnknown("lost on its way")

    worker = hooked(world, loses)
    assert await outcome(worker.reservations.create(a_cart(rid, CART), TIMEOUT)) is OutcomeUnknown
    return worker


async def test_a_cancel_shows_no_hold_that_may_come_to_nothing(world: World) -> None:
    """NOT_CONFIRMED would show it HELD; the resolver then aborts it, and it is not found."""
    await lost_leg(world)

    cancelled = await outcome(
        world.worker().reservations.cancel(ChangeCommand(reservation_id=RID), TIMEOUT)
    )

    assert cancelled is OutcomeUnknown
    world.advance(2_001)
    await world.resolve_everything()
    assert await state_of(world) is None


async def test_a_retry_beside_a_confirm_is_told_of_no_hold_without_its_legs(world: World) -> None:
    """The confirm has pinned the claim of a create that never reached C, and its worker is gone."""
    await lost_leg(world)

    async def dies(verb: str, shard: int, step: Any, when: str) -> None:
        if verb == "follow":
            raise Unavailable("this worker is gone")

    confirmed = hooked(world, dies).reservations.confirm(RID, 0, None, TIMEOUT)
    assert await outcome(confirmed) is OutcomeUnknown

    told = await outcome(world.worker().reservations.create(a_cart(RID, CART), TIMEOUT))
    shown = await outcome_of_get(world)
    world.advance(2_001)
    await world.resolve_everything()

    assert (told, shown) == (OutcomeUnknown, OutcomeUnknown)
    assert await state_of(world) is None


async def outcome_of_get(world: World) -> Any:
    """What a get shows, or the error's class."""
    try:
        return (await world.worker().reservations.get(RID, TIMEOUT)).state
    except PromiseServiceError as error:
        return type(error)


async def test_a_retry_after_a_cancel_keeps_no_claim_from_being_settled(world: World) -> None:
    """Its new plan takes the place of legs that were cancelled, and is let go of; the resolver,
    which has yet to settle the cancel, then finds legs of a later attempt."""
    await world.stock(A=5, B=5, C=5)
    await world.worker().reservations.create(a_cart(RID, CART), TIMEOUT)
    await world.worker().reservations.confirm(RID, 0, None, TIMEOUT)
    await world.resolve_everything()

    async def dies(verb: str, shard: int, step: Any, when: str) -> None:
        if verb == "settle":
            raise Unavailable("this worker is gone")

    dying = hooked(world, dies)
    await dying.reservations.cancel(ChangeCommand(reservation_id=RID), TIMEOUT)
    await dying.rest()
    world.advance(1)

    again = await world.worker().reservations.create(a_cart(RID, CART), TIMEOUT)
    world.advance(2_001)
    await world.resolve_everything()

    assert again.reservation is not None and again.reservation.state is State.CANCELLED
    assert await world.index.open_claims(world.shard(RID), 10, TIMEOUT) == []
    await world.check()


async def test_a_leg_granted_to_a_retry_is_not_taken_back_by_the_first_worker(world: World) -> None:
    """A leg is refused for another plan's sake; before the first worker bars it, that plan has made
    way and a retry of the same attempt was granted the leg, and tells HELD."""
    await world.stock(A=5, B=5, C=5)
    shard_c = world.shard("C")
    other = CreateStep(RID, 1, "another", 60_000, 10, 1, (LegLine("C", "n1", "", 1),))
    await world.index.create(shard_c, [other], TIMEOUT)
    told: list[Any] = []

    async def retries(verb: str, shard: int, step: Any, when: str) -> None:
        if verb == "follow" and shard == shard_c and not told:
            told.append(None)
            await world.index.follow(shard_c, [FollowStep(RID, 1, State.ABORTED)], TIMEOUT)
            world.clock.now -= 1  # so its own plan is the older one, and it falls back on ours
            again = world.worker().reservations.create(a_cart(RID, CART), TIMEOUT)
            told[0] = await outcome(again), await attempt_of(world)

    first = await outcome(hooked(world, retries).reservations.create(a_cart(RID, CART), TIMEOUT))
    world.advance(2_001)
    await world.resolve_everything()

    assert told == [(CreateOutcome.HELD, await attempt_of(world))]
    assert first is CreateOutcome.HELD
    assert await state_of(world) is State.HELD
    assert [await world.held_and_committed(sku) for sku in CART] == [(1, 0)] * 3
    await world.check()


async def attempt_of(world: World) -> int:
    """Of the claim that stands."""
    claim = (await world.index.read_claims(world.shard(RID), [RID], TIMEOUT))[0].claim
    return claim.attempt if claim else 0


async def test_the_order_store_shows_no_hold_that_is_not_decided(world: World) -> None:
    """Home does not know the claim yet, or no more; the order store heard of it being opened."""
    await lost_leg(world)
    home = world.shard(RID)
    claim = (await world.index.read_claims(home, [RID], TIMEOUT))[0].claim
    world.store._reservations["r-2"] = StoredReservation("r-2", claim, home, Position(1, 1), 0)

    with pytest.raises(OutcomeUnknown):
        await world.worker().reservations.get("r-2", TIMEOUT)


async def test_a_confirm_before_the_home_leg_has_come_aborts_and_bars_it(world: World) -> None:
    """A cart held shard by shard opens its claim first. EXPIRED would be a lie, and the leg would
    land under it: its worker would tell HELD."""
    await world.stock(A=5)
    shard = world.shard("A")
    rid = next(f"r{n}" for n in range(10_000) if world.shard(f"r{n}") == shard)
    draft = ClaimDraft("body", 0, tuple(sorted((shard, shard ^ 1))), "{}")
    claim = CreateStep(rid, 1, "plan", 60_000, 10, 1, (), draft)
    leg = CreateStep(rid, 1, "plan", 60_000, 10, 1, (LegLine("A", "n1", "", 1),))

    await world.index.create(shard, [claim], TIMEOUT)
    confirm = (await world.index.resolve(shard, [ResolveStep(rid, State.CONFIRMED)], TIMEOUT))[0]
    late = (await world.index.create(shard, [leg], TIMEOUT))[0]

    assert (confirm.outcome, confirm.state) == (Outcome.REFUSED, State.ABORTED)
    assert late.outcome == Outcome.RESOLVED
    assert await world.held_and_committed("A") == (0, 0)


async def test_a_hold_that_ended_while_a_confirm_lay_unfinished_is_expired_not_lost(
    world: World,
) -> None:
    """It was acknowledged. The confirm's worker died, the legs ended, and a retry's plan took their
    places for a moment: that must not read as a hold that was never complete."""
    await world.stock(A=5, B=5, C=5)
    await world.worker().reservations.create(a_cart(RID, CART, ttl_ms=1_000), TIMEOUT)

    async def dies(verb: str, shard: int, step: Any, when: str) -> None:
        if verb == "follow":
            raise Unavailable("this worker is gone")

    confirmed = hooked(world, dies).reservations.confirm(RID, 0, None, TIMEOUT)
    assert await outcome(confirmed) is OutcomeUnknown
    world.advance(1_001)
    await outcome(world.worker().reservations.create(a_cart(RID, CART, ttl_ms=1_000), TIMEOUT))
    world.advance(2_001)
    await world.resolve_everything()

    assert await state_of(world) is State.EXPIRED
    assert [await world.held_and_committed(sku) for sku in CART] == [(0, 0)] * 3


async def early_leg(world: World, ttl_ms: int, *, noted: bool) -> None:
    """An acknowledged hold whose leg at C ends 800 ms before its claim: its message came first.
    Where it is not ``noted``, its worker dies before home hears that the hold is complete."""
    await world.stock(A=5, B=5, C=5)
    came = asyncio.Event()

    async def overtakes(verb: str, shard: int, step: Any, when: str) -> None:
        if verb == "settle" and not noted:
            raise Unavailable("this worker is gone")
        if verb != "create":
            return
        if shard != world.shard("C"):
            await came.wait()
        elif when == "after":
            world.advance(800)
            came.set()

    worker = hooked(world, overtakes)
    told = await outcome(worker.reservations.create(a_cart(RID, CART, ttl_ms=ttl_ms), TIMEOUT))
    assert told is CreateOutcome.HELD
    await worker.rest()


async def test_a_leg_that_ended_and_whose_place_was_taken_is_expired_not_lost(
    world: World,
) -> None:
    """The refused leg of a retry remembers that an attempt was granted there, and ended."""
    await early_leg(world, 1_000, noted=True)
    world.advance(300)
    other = CreateStep(RID, 2**52, "other", 1_000, 10, 1, (LegLine("C", "n1", "", 99),))
    refused = (await world.index.create(world.shard("C"), [other], TIMEOUT))[0]

    confirmed = await outcome(world.worker().reservations.confirm(RID, 0, None, TIMEOUT))

    assert refused.outcome == Outcome.INSUFFICIENT
    assert confirmed is TransitionOutcome.EXPIRED
    assert await state_of(world) is State.EXPIRED


@pytest.mark.parametrize("off", [False, True], ids=["planned", "refused"])
async def test_a_retry_that_finds_a_leg_ended_does_not_lose_what_was_acknowledged(
    world: World, off: bool
) -> None:
    """It sends the plan again, and is told of the hold that was, not of a new one; also where its
    own plan would be refused by now."""
    await early_leg(world, 1_000, noted=False)
    world.advance(300)
    if off:
        nodes = [a_node("n1", status=NodeStatus.OFF), *map(a_node, NODES[1:])]
        world.network.now = a_snapshot(*nodes)

    again = await world.worker().reservations.create(a_cart(RID, CART, ttl_ms=1_000), TIMEOUT)

    assert again.reservation is not None
    assert (again.replayed, again.reservation.state) == (True, State.EXPIRED)
    assert again.reservation.expire_ms <= world.clock.now
    assert await state_of(world) is State.EXPIRED


@pytest.mark.parametrize("verb", ["amend", "extend"])
async def test_a_leg_that_has_ended_neither_grows_nor_lives_longer(world: World, verb: str) -> None:
    """Home would still call it a hold; then nobody is told of more, but that it has ended."""
    await early_leg(world, 1_000, noted=True)
    world.advance(300)
    worker = world.worker()

    if verb == "amend":
        more = ChangeCommand(reservation_id=RID, lines=(ChangeLine("l2", 3),))
        told = await worker.reservations.changes.amend(more, TIMEOUT)
    else:
        told = await worker.reservations.changes.extend(RID, 9_000, 90_000, 0, None, TIMEOUT)
    await worker.rest()

    assert told.outcome is TransitionOutcome.EXPIRED
    assert await state_of(world) is State.EXPIRED
    assert [await world.held_and_committed(sku) for sku in CART] == [(0, 0)] * 3


async def test_a_resolver_that_finds_a_leg_ended_does_not_lose_what_was_acknowledged(
    world: World,
) -> None:
    """Home never heard that the hold was complete; its legs say so."""
    await early_leg(world, 3_000, noted=False)
    world.advance(2_300)
    await world.resolve_everything()

    assert await state_of(world) is State.EXPIRED
    assert [await world.held_and_committed(sku) for sku in CART] == [(0, 0)] * 3


async def test_a_hold_taken_shard_by_shard_has_its_leg_at_home_too(world: World) -> None:
    """Another plan keeps a leg and makes way, a retry is granted it: then the legs after it must be
    asked for, and home, which has opened the claim, has no unit for its own."""
    low, home = sorted(CART, key=world.shard)[:2]
    rid = next(x for x in map(str, range(9_999)) if world.shard(x) == world.shard(home))
    await world.stock(**{low: 5, home: 0})
    lines = {world.shard(sku): (LegLine(sku, "n1", "", 1),) for sku in (low, home)}
    step = CreateStep(rid, 1, "old", 60_000, 9, 1, lines[world.shard(low)])
    retry = step._replace(attempt=2, plan_hash="new")
    await world.index.create(world.shard(low), [step], TIMEOUT)

    async def makes_way(verb: str, shard: int, step: Any, when: str) -> None:
        if verb == "follow" and step.target == State.PENDING and when == "before":
            old = FollowStep(rid, 1, State.ABORTED)
            await world.index.follow(shard, [old], TIMEOUT)
            await world.index.create(shard, [retry], TIMEOUT)

    draft = ClaimDraft("body", 0, tuple(sorted(lines)), "{}")
    hold = Hold(
        reservation_id=rid, home=world.shard(home), attempt=2, plan_hash="new", ttl_ms=60_000,
        network_version=9, legs=lines, claim=draft,
    )  # fmt: skip
    worker = hooked(world, makes_way)
    told = await worker.reservations._shards.hold(hold, Deadline(TIMEOUT), ordered=True)
    await worker.rest()

    assert told.outcome is Outcome.INSUFFICIENT
    assert await world.held_and_committed(low) == (0, 0)


async def test_a_refused_claim_is_not_settled_while_a_leg_of_it_may_stand(world: World) -> None:
    """A confirm moved B's leg; the refusal at C cannot reach it. A new plan must not make home
    forget the old one: nobody would let go of those units."""
    await world.stock(A=5, B=5, C=1)
    await world.worker().reservations.create(a_cart("r-0", ("A", "C")), TIMEOUT)
    shard_b, home = world.shard("B"), world.shard(RID)
    lost: list[str] = []

    async def confirms(verb: str, shard: int, step: Any, when: str) -> None:
        if verb == "follow" and shard == shard_b and not lost:
            lost.append(verb)
            await world.index.resolve(home, [ResolveStep(RID, State.CONFIRMED)], TIMEOUT)
            moved = FollowStep(RID, step.attempt, State.CONFIRMED)
            assert (await world.index.follow(shard_b, [moved], TIMEOUT))[0].outcome == Outcome.DONE
            raise Unavailable("lost on its way")

    told = await outcome(hooked(world, confirms).reservations.create(a_cart(RID, CART), TIMEOUT))
    world.advance(2_001)
    await world.resolve_everything()

    assert lost and told is CreateOutcome.INSUFFICIENT_STOCK
    assert await world.held_and_committed("B") == (0, 0)
    await world.check()


async def test_a_confirm_bars_a_leg_before_it_gives_up_on_it_for_another_plan(
    world: World,
) -> None:
    """The other plan makes way the next moment, and a retry of ours is granted the leg and told."""
    await lost_leg(world)
    shard_c = world.shard("C")
    claim = (await world.index.read_claims(world.shard(RID), [RID], TIMEOUT))[0].claim
    other = CreateStep(RID, 1, "another", 60_000, 10, 1, (LegLine("C", "n1", "", 1),))
    await world.index.create(shard_c, [other], TIMEOUT)
    granted: list[Any] = []

    async def makes_way(verb: str, shard: int, step: Any, when: str) -> None:
        if verb == "follow" and shard == shard_c and when == "after" and not granted:
            await world.index.follow(shard_c, [FollowStep(RID, 1, State.ABORTED)], TIMEOUT)
            ours = other._replace(attempt=claim.attempt, plan_hash=claim.plan_hash)
            granted.extend(await world.index.create(shard_c, [ours], TIMEOUT))

    confirmed = await outcome(hooked(world, makes_way).reservations.confirm(RID, 0, None, TIMEOUT))

    assert granted[0].outcome == Outcome.DONE
    assert confirmed is TransitionOutcome.CONFIRMED


async def test_an_expiry_is_written_down_before_it_is_told(world: World) -> None:
    """A read decides nothing; but a clock set back after it must not bring the hold to life."""
    await world.stock(A=5, B=5, C=5)
    await world.worker().reservations.create(a_cart(RID, CART, ttl_ms=1_000), TIMEOUT)
    world.advance(1_001)

    shown = await state_of(world)
    _, _, claims = await world.index.scan(world.shard(RID))

    assert (shown, claims[RID].state) == (State.EXPIRED, State.EXPIRED)


async def test_a_leg_that_gave_a_sku_up_is_no_longer_looked_at_for_it(world: World) -> None:
    """Else every shopper who finds too little of it would pass over all that once had some."""
    await world.stock(A=1, B=1)
    shard = world.shard("A")
    await world.index.sync_supply(shard, [SupplyRow("B", "n1", "", 1, 0, "", 0)], TIMEOUT)
    lines = LegLine("A", "n1", "", 1), LegLine("B", "n1", "", 1)
    claim = ClaimDraft("hash", 0, (shard,), "{}")
    create = CreateStep(RID, 1, "plan", 1_000, 10, 0, lines, claim)
    await world.index.create(shard, [create], TIMEOUT)
    opened = (await world.index.read_claims(shard, [RID], TIMEOUT))[0].claim
    kept = ReviseStep(
        RID, 1, 0, State.HELD, State.HELD, 2, opened.expire_ms, "{}", lines[1:]
    )  # fmt: skip
    await world.index.revise(shard, [kept], TIMEOUT)
    world.advance(1_000)

    other = CreateStep("r-2", 1, "plan", 1_000, 10, 1, (LegLine("A", "n1", "", 2),))
    (refused,) = await world.index.create(shard, [other], TIMEOUT)

    assert refused.outcome == Outcome.INSUFFICIENT
    assert (await world.index.scan(shard))[1][RID].state == State.HELD  # due, and not written


async def test_a_confirm_overtaken_by_a_newer_attempt_confirms_that_one(world: World) -> None:
    """While it finds that what it pinned was never complete, others end that, hold the cart anew
    and confirm it: it waits for the record as they did, and does not say ALREADY_CONFIRMED."""
    await lost_leg(world)
    others: list[Any] = []

    async def overtaken(verb: str, shard: int, step: Any, when: str) -> None:
        if verb == "resolve" and step.target == State.ABORTED and when == "before" and not others:
            others.append(None)
            await world.index.resolve(shard, [step], TIMEOUT)
            await world.resolve_everything()
            again = world.worker().reservations.create(a_cart(RID, CART), TIMEOUT)
            others.append(await outcome(again))
            others.append(await outcome(world.worker().reservations.confirm(RID, 0, None, TIMEOUT)))

    told = await outcome(hooked(world, overtaken).reservations.confirm(RID, 0, None, TIMEOUT))

    assert others[1:] == [CreateOutcome.HELD, TransitionOutcome.CONFIRMED]
    assert told is TransitionOutcome.CONFIRMED


@pytest.mark.parametrize("gone", ["node", "older hold"])
async def test_a_key_that_was_forgotten_is_answered_as_it_was_though_nothing_is_left(
    world: World, gone: str
) -> None:
    """The hold was granted and is long over; its key has left the index. The node closed, or the
    hold that it replaced gone: either would tell a shopper who has an order that they have none."""
    await world.stock(A=2)
    old = world.clock.now_ms() - WINDOW_MS - 1
    asked = a_cart("r-2", ("A",), create_ms=old, replaces="gone" if gone == "older hold" else "")
    await world.worker().reservations.create(a_cart(RID, ("A",)), TIMEOUT)
    home = world.shard(RID)
    claim = (await world.index.read_claims(home, [RID], TIMEOUT))[0].claim
    claim = claim._replace(state=State.RELEASED, body_hash=body_hash(asked))
    world.store._reservations["r-2"] = StoredReservation("r-2", claim, home, Position(1, 1), 0)
    if gone == "node":
        closed = [a_node(node_id, status=NodeStatus.OFF) for node_id in NODES]
        world.network.now = a_snapshot(*closed)

    again = await world.worker().reservations.create(asked, TIMEOUT)

    assert (again.outcome, again.replayed) == (CreateOutcome.HELD, True)
    with pytest.raises(IdempotencyWindowPassed):
        await world.worker().reservations.create(replace(asked, reservation_id="r-3"), TIMEOUT)
    young = replace(asked, reservation_id="r-4", create_ms=old + 10_000)
    refused = await world.worker().reservations.create(young, TIMEOUT)
    assert refused.outcome in (CreateOutcome.NODE_OFF, CreateOutcome.REPLACED_UNKNOWN)
