"""Breaks of the protocol over several shards."""

from __future__ import annotations

from tests.mutants.mutant import (
    AMENDS,
    CAPACITY_CHANGES,
    CHANGES,
    LATE,
    RACES,
    REPLACEMENTS,
    RESERVATIONS,
    RIVALS,
    SIMULATOR,
    SOLD,
    Mutant,
)

MUTANTS = (
    Mutant(
        "a_day_asked_for_in_vain_is_kept",
        "promise_svc/application/several_shards/orphans.py",
        "            elif not decode_body(claim).growing:\n",
        "            elif False:\n",
        (f"{CAPACITY_CHANGES}test_a_transfer_may_die_at_any_message",),
        "A worker that dies in a transfer would keep a place of a node's day for hours.",
    ),
    Mutant(
        "extended_legs_keep_their_end",
        "promise_svc/application/several_shards/changes.py",
        "no_lines, deadline, ttl_ms=wanted.ttl_ms\n            )",
        "no_lines, deadline)",
        (CHANGES + "test_a_hold_near_its_end_is_extended_in_every_shard_or_not_at_all",),
        "A shopper who was given more time would lose a line before it.",
    ),
    Mutant(
        "replacement_given_up_without_a_bar",
        "promise_svc/application/several_shards/protocol.py",
        "            stands = not await self._barred_successor(rid, claim.attempt,",
        "            stands = stands and await self._barred_successor(rid, claim.attempt,",
        (
            REPLACEMENTS
            + "test_a_replacement_that_ended_before_it_was_decided_takes_nothings_place",
        ),
        "A late message of a dead attempt would end the old hold for a new one that never stood.",
    ),
    Mutant(
        "resolver_aborts_home_first",
        "promise_svc/application/several_shards/protocol.py",
        "probes = await self._messages.each(rid, claim.attempt, State.PENDING, "
        "claim.legs, deadline)",
        "legs = await self._messages.each(rid, claim.attempt, State.HELD, claim.legs, "
        "deadline)\n"
        "        if any(leg.outcome == Outcome.MISSING for leg in legs):\n"
        "            step = ResolveStep(rid, State.ABORTED, claim.attempt)\n"
        "            await self._index.resolve(home, [step], deadline.left())\n"
        "        probes = await self._messages.each(rid, claim.attempt, State.PENDING, "
        "claim.legs, deadline)",
        (RACES + "test_a_leg_that_comes_while_the_resolver_works_never_makes_a_false_answer",),
        "A worker would acknowledge what home has just aborted.",
    ),
    Mutant(
        "confirm_without_legs",
        "promise_svc/application/several_shards/protocol.py",
        "claim.attempt, State.CONFIRMED, others, deadline)\n        if any(",
        "claim.attempt, State.CONFIRMED, (others := []), deadline)\n        if any(",
        (
            RACES + "test_a_confirm_whose_legs_expired_before_they_were_pinned_confirms_nothing",
            RESERVATIONS + "test_confirming_keeps_units_that_would_expire_meanwhile",
        ),
        "A sale would be decided whose units have expired and been sold to somebody else.",
    ),
    Mutant(
        "release_ignores_confirm",
        "promise_svc/application/several_shards/protocol.py",
        "        if reply.outcome == Outcome.REFUSED and reply.state == State.PINNED:\n",
        "        if False:\n",
        (RIVALS + "test_a_release_after_a_confirm_began_comes_second",),
        "A shopper would hear nothing true of an order that stands.",
    ),
    Mutant(
        "extension_of_home_alone",
        "promise_svc/application/several_shards/changes.py",
        "        longer = others if wanted.ttl_ms else []\n",
        "        longer: list[int] = []\n",
        (CHANGES + "test_a_hold_near_its_end_is_extended_in_every_shard_or_not_at_all",),
        "A hold would be told as extended of which a leg has ended.",
    ),
    Mutant(
        "one_shard_in_order",
        "promise_svc/application/several_shards/protocol.py",
        "        in_order = ordered and multi\n",
        "        in_order = ordered\n",
        (RACES + "test_a_cart_of_one_shard_that_met_a_young_hold_is_not_told_held",),
        "A shopper would be told HELD and hold nothing.",
    ),
    Mutant(
        "begun_confirm_told_as_nothing_done",
        "promise_svc/application/several_shards/protocol.py",
        "        except (Unavailable, DeadlineExceeded) as error:\n            # Of the step",
        "        except DeadlineExceeded as error:\n            # Of the step",
        (RACES + "test_a_confirm_that_cannot_reach_a_leg_does_not_say_that_nothing_was_done",),
        "An order given up as not placed would be placed all the same.",
    ),
    Mutant(
        "told_before_its_legs_followed",
        "promise_svc/application/several_shards/protocol.py",
        "not claim.change and all(leg.outcome in GRANTED for leg in legs.values()):",
        "not claim.change:",
        (RACES + "test_a_confirm_whose_legs_expired_before_they_were_pinned_confirms_nothing",),
        "A shopper would be told of an order whose units somebody else has.",
    ),
    Mutant(
        "order_shown_as_a_hold",
        "promise_svc/application/several_shards/protocol.py",
        "        if is_sold(claim, legs):\n",
        "        if False:\n",
        (SOLD + "test_whoever_looks_is_shown_the_order",),
        "A shopper who has paid would be shown a hold that ends.",
    ),
    Mutant(
        "home_never_told_to_decide",
        "promise_svc/application/several_shards/protocol.py",
        "self._notes.note(rid, home, _decided(rid, claim))",
        "",
        (SOLD + "test_the_answer_comes_with_the_last_leg_and_home_decides_many_at_once",),
        "Every order would wait for the resolver, and its event with it.",
    ),
    Mutant(
        "expired_taken_for_aborted",
        "promise_svc/application/several_shards/protocol.py",
        "elif not all(leg.outcome in GRANTED or leg.state in _ENDED for leg in legs):",
        "elif not all(leg.outcome in GRANTED for leg in legs):",
        (
            "tests/contract/test_reservation_found.py::"
            "test_a_hold_that_ended_while_a_confirm_lay_unfinished_is_expired_not_lost",
        ),
        "A hold that ran out would be told as one that never was.",
    ),
    Mutant(
        "refused_legs_kept",
        "promise_svc/application/several_shards/protocol.py",
        "            let_go = await self._end_refused(hold, refused.values(), deadline)\n",
        "            let_go = True\n",
        (RESERVATIONS + "test_a_cart_that_does_not_fit_holds_nothing_and_says_what_is_left",),
        "The other lines of a refused cart would stay held.",
    ),
    Mutant(
        "refused_claim_settled_blindly",
        "promise_svc/application/several_shards/protocol.py",
        "        if hold.multi and reply.let_go:\n",
        "        if hold.multi:\n",
        (
            "tests/contract/test_reservation_found.py::"
            "test_a_refused_claim_is_not_settled_while_a_leg_of_it_may_stand",
        ),
        "Units of a leg that nobody could reach would be gone for ever.",
    ),
    Mutant(
        "confirm_does_not_bar_another_plans_leg",
        "promise_svc/application/several_shards/protocol.py",
        "        if any(reply.outcome in (Outcome.MISSING, Outcome.OTHER_PLAN) for reply in"
        " replies):\n",
        "        if any(reply.outcome == Outcome.MISSING for reply in replies):\n",
        (
            "tests/contract/test_reservation_found.py::"
            "test_a_confirm_bars_a_leg_before_it_gives_up_on_it_for_another_plan",
        ),
        "A shopper who was told HELD would find nothing.",
    ),
    Mutant(
        "expiry_told_but_not_written",
        "promise_svc/application/several_shards/protocol.py",
        "        if reply.time_ms - claim.expire_ms > WRITTEN_MS:\n",
        "        if reply.time_ms > WRITTEN_MS:\n",
        (
            "tests/contract/test_reservation_found.py::"
            "test_an_expiry_is_written_down_before_it_is_told",
        ),
        "A hold told EXPIRED would stand again after a clock was set back.",
    ),
    Mutant(
        "growing_without_a_mark",
        "promise_svc/application/several_shards/protocol.py",
        "        if claim.change and decode_body(claim).growing and",
        "        if False and",
        (AMENDS + "test_a_late_message_makes_no_leg_grow_again",),
        "Units asked for by a worker that died would be held by an order that does not name them.",
    ),
    Mutant(
        "home_leg_not_asked_for",
        "promise_svc/application/several_shards/protocol.py",
        "            if stopped:\n",
        "            if not hold.legs.keys() <= answers.keys():\n",
        (
            "tests/contract/test_reservation_found.py::"
            "test_a_hold_taken_shard_by_shard_has_its_leg_at_home_too",
        ),
        "Two clicks on the last units, and a cart would be told as held that lacks one of them.",
    ),
    Mutant(
        "ended_legs_agree",
        "promise_svc/application/several_shards/changes.py",
        "and (joins or r.state in STANDING)",
        "and True",
        (
            "tests/contract/test_reservation_found.py::"
            "test_a_leg_that_has_ended_neither_grows_nor_lives_longer",
        ),
        "A shopper would be told of more units, or of more time, on a cart that had run out.",
    ),
    Mutant(
        "units_move_before_it_is_decided",
        "promise_svc/application/several_shards/messages.py",
        "ttl_ms, (), int(plan > 0), plan\n",
        "ttl_ms, (), 0, plan\n",
        (AMENDS + "test_units_that_are_to_move_stay_until_that_is_decided",),
        "A transfer that comes to nothing would leave an order without its units.",
    ),
    Mutant(
        "orphan_not_barred_at_home",
        "promise_svc/application/several_shards/orphans.py",
        " and not await self._barred_at_home(rid, home, shard, leg, deadline):\n",
        " and False:\n",
        (
            "tests/contract/test_reservation_orphans.py::"
            "test_a_claim_that_comes_after_its_leg_was_let_go_is_refused",
        ),
        "A shopper would be told HELD by a worker whose leg was just let go.",
    ),
    Mutant(
        "end_told_as_confirm",
        "promise_svc/application/several_shards/protocol.py",
        "if step.target != State.CONFIRMED and reply.outcome in GRANTED:",
        "if False:",
        (RIVALS + "test_an_end_that_another_worker_decided_is_no_confirm",),
        "A shopper would be told CONFIRMED of an order that does not stand.",
    ),
    Mutant(
        "replaced_leg_waited_for",
        "promise_svc/application/several_shards/changes.py",
        "fine = (*GRANTED, Outcome.OTHER_PLAN) if claim.state in _CLOSED else GRANTED",
        "fine = GRANTED",
        (CHANGES + "test_a_leg_whose_place_a_refused_retry_took_counts_as_followed",),
        "An order that was cancelled would be looked after for ever.",
    ),
    Mutant(
        "late_note_forgotten",
        "promise_svc/application/several_shards/notes.py",
        "notes, self.waiting, self._noting = self.waiting, {}, False",
        "notes, self.waiting, self._noting = {}, {}, False",
        ("tests/contract/test_reservation_notes.py",),
        "Every hold would be looked at by the resolver, leg by leg.",
    ),
    Mutant(
        "settled_before_its_legs",
        "promise_svc/application/several_shards/protocol.py",
        "        if not refused:\n            if stopped:",
        "        if opened and hold.multi:\n"
        "            await self._settle(hold.reservation_id, hold.home, hold.attempt)\n"
        "        if not refused:\n            if stopped:",
        (SIMULATOR,),
        "A cart would be noted as held whole while a leg of it was refused.",
    ),
    Mutant(
        "overtaken_confirm_told_already",
        "promise_svc/application/several_shards/protocol.py",
        "            if reply.outcome == Outcome.OTHER_PLAN:\n",
        "            if False:\n",
        ("tests/contract/test_reservation_found.py",),
        "A confirm that others overtook would be told as done before it is recorded.",
    ),
    Mutant(
        "resolver_never_probes",
        "promise_svc/application/several_shards/protocol.py",
        "probes = await self._messages.each(rid, claim.attempt, State.PENDING, claim.legs",
        "return await self._messages.settle(rid, home, claim.attempt)\n"
        "        probes = await self._messages.each(rid, claim.attempt, State.PENDING, "
        "claim.legs",
        (SIMULATOR,),
        "What a dead worker left half done would be noted as held.",
    ),
    Mutant(
        "late_resolver_lets_an_order_go",
        "promise_svc/application/several_shards/protocol.py",
        "late = any(probe.state in _AFTER_HELD for probe in probes)",
        "late = False",
        (LATE + "test_a_resolver_that_is_late_lets_no_leg_of_an_order_go",),
        "A worker that was stopped for a while would sell an order's units to somebody else.",
    ),
    Mutant(
        "late_create_lets_an_order_go",
        "promise_svc/application/several_shards/protocol.py",
        "(reply.outcome, reply.state == State.EXPIRED) == (Outcome.RESOLVED, False)",
        "False",
        (LATE + "test_a_create_sent_again_that_is_late_lets_no_leg_of_an_order_go",),
        "A retry that was slow on its way would sell an order's units to somebody else.",
    ),
    Mutant(
        "legs_end_as_before_an_extension",
        "promise_svc/application/several_shards/changes.py",
        "rid, home, claim_of(reply), deadline, ttl_ms=wanted.ttl_ms",
        "rid, home, claim_of(reply), deadline",
        (LATE + "test_an_extended_hold_lives_as_long_as_was_told_whatever_its_first_try_left",),
        "A shopper who was told another minute would find the cart gone at the old time.",
    ),
)
