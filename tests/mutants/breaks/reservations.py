"""Breaks of what a reservation is asked for and told."""

from __future__ import annotations

from tests.mutants.mutant import (
    AMENDS,
    BUNDLES,
    CAPACITY,
    CAPACITY_CHANGES,
    CHANGES,
    KINDS,
    QUOTES,
    RESERVATIONS,
    SIMULATOR,
    SOLD,
    Mutant,
)

MUTANTS = (
    Mutant(
        "a_forgotten_hold_is_told_refused",
        "promise_svc/application/creation.py",
        "        return 0 < command.create_ms < now_ms - self._window_ms\n",
        "        return False\n",
        (
            "tests/contract/test_reservation_found.py::"
            "test_a_key_that_was_forgotten_is_answered_as_it_was_though_nothing_is_left",
        ),
        "Who asks once more for what they bought would hear that it is sold out.",
    ),
    Mutant(
        "bundle_changed_in_part",
        "promise_svc/application/changed_lines.py",
        "quantity=change.quantity * quantity))",
        "quantity=change.quantity))",
        (KINDS,),
        "A bundle of two and one, cancelled once, would leave a part of it in the order.",
    ),
    Mutant(
        "expiry_waits_for_the_sweeper",
        "promise_svc/application/held_stock.py",
        "            more = more or gone < 0\n",
        "            more = False\n",
        (
            "tests/contract/test_reservation_rivals.py"
            "::test_a_hold_that_just_ran_out_is_planned_with_though_the_table_still_counts_it",
        ),
        "A shopper would be refused units whose hold is over, until somebody sweeps them.",
    ),
    Mutant(
        "a_full_node_hides_the_others",
        "promise_svc/application/hold_policy.py",
        "    CreateOutcome.CAPACITY_FULL,\n    CreateOutcome.EXCLUDED_BY_RULE,\n",
        "    CreateOutcome.EXCLUDED_BY_RULE,\n",
        (f"{CAPACITY}test_a_full_node_is_no_reason_to_hold_nothing_of_the_others",),
        "Who would take what there is would get nothing.",
    ),
    Mutant(
        "open_line_spends_what_it_has_elsewhere",
        "promise_svc/application/hold_policy.py",
        "pool.left -= max(0, fits * units - other)",
        "pool.left -= fits * units",
        (
            "tests/contract/test_hold_policies.py::"
            "test_lines_with_and_without_a_node_hold_all_there_is_together",
        ),
        "Units of one node would be counted against another's, and stay unsold.",
    ),
    Mutant(
        "split_limit_drops_the_line",
        "promise_svc/application/hold_policy.py",
        "return refusal.fits if refusal.outcome is CreateOutcome.SPLIT_LIMIT else 0",
        "return 0",
        (
            "tests/contract/test_hold_policies.py::"
            "test_a_line_beyond_the_split_limit_is_held_as_far_as_it_goes",
        ),
        "Who would rather have some gets none, where many places have a little each.",
    ),
    Mutant(
        "partial_lines_share_nothing",
        "promise_svc/application/hold_policy.py",
        "            pool.left -= max(0, fits * units - other)\n",
        "            pass\n",
        (
            "tests/contract/test_hold_policies.py::"
            "test_lines_of_one_sku_share_what_there_is_in_request_order",
        ),
        "Two lines of one SKU would each be promised the same units, and the hold refused.",
    ),
    Mutant(
        "partial_bundles_share_nothing",
        "promise_svc/application/hold_policy.py",
        "in snapshot.bundles.get(line.sku, (BundleComponent(line.sku, 1),)):",
        "in (BundleComponent(line.sku, 1),):",
        (
            "tests/contract/test_hold_policies.py::"
            "test_lines_that_share_units_hold_what_there_is_wherever_the_node_is_chosen",
        ),
        "A shopper who asks for sets and for one of their parts would get neither.",
    ),
    Mutant(
        "quote_not_signed",
        "promise_svc/application/quote.py",
        '        if not hmac.compare_digest(hmac.digest(key, signed, "sha256"), tag):\n',
        "        if len(tag) != _TAG_BYTES:\n",
        ("tests/unit/test_quote.py::test_a_token_with_any_character_changed_is_refused",),
        "Anybody could write dates and costs and have them held.",
    ),
    Mutant(
        "a_quoted_day_moves_in_silence",
        "promise_svc/application/quoted_lines.py",
        "    if shipment.work_date is not None:\n        return shipment\n",
        "",
        (f"{CAPACITY}test_the_day_that_was_quoted_is_the_day_that_is_held",),
        "The plan held would not be the plan promised.",
    ),
    Mutant(
        "quote_cutoff_exclusive",
        "promise_svc/application/quoted_lines.py",
        "    if now_ms > shipment.order_by_ms:\n",
        "    if now_ms >= shipment.order_by_ms:\n",
        (QUOTES + "test_a_quote_stands_up_to_its_cutoff_and_no_longer",),
        "An order at the cutoff itself would be refused its date.",
    ),
    Mutant(
        "quote_date_unchecked",
        "promise_svc/application/quoted_lines.py",
        "    elif latest > shipment.latest_delivery_date:\n",
        "    elif latest < shipment.latest_delivery_date:\n",
        (QUOTES + "test_a_date_that_moved_is_told_and_one_that_is_kept_stands",),
        "A date would be held that nobody can keep any more.",
    ),
    Mutant(
        "a_day_taken_again_as_it_was",
        "promise_svc/application/reservation.py",
        "        body = self._as_of_now(decode_body(claim), snapshot)\n",
        "        body = decode_body(claim)\n",
        (f"{CAPACITY_CHANGES}test_a_hold_that_is_taken_again_takes_a_day_as_it_is_now",),
        "A confirm after the hold would take a day that is closed by now.",
    ),
    Mutant(
        "limit_told_less_than_it_leaves",
        "promise_svc/application/refusals.py",
        "CreateOutcome.CUSTOMER_LIMIT, left[line.sku])",
        "CreateOutcome.CUSTOMER_LIMIT, max(0, left[line.sku] - line.quantity))",
        (
            "tests/contract/test_hold_policies.py::test_what_lines_share_is_told_to_each_of_them_whole",
        ),
        "A shopper would be told, and given, fewer than they may still have.",
    ),
    Mutant(
        "refused_and_not_told_expired",
        "promise_svc/application/creation.py",
        "        for _ in range(2):  # where its legs",
        "        for _ in range(1):  # where its legs",
        (
            "tests/contract/test_reservation_found.py::"
            "test_a_retry_that_finds_a_leg_ended_does_not_lose_what_was_acknowledged",
        ),
        "A shopper who was told that the cart is held would hear that it never was.",
    ),
    Mutant(
        "retry_sources_anew",
        "promise_svc/application/creation.py",
        "            attempt=claim.attempt,\n            plan_hash=claim.plan_hash,\n",
        "            attempt=claim.attempt + 1,\n            plan_hash=claim.plan_hash,\n",
        (RESERVATIONS + "test_a_retry_finishes_what_a_dead_worker_began_with_its_plan",),
        "A retry would hold a second plan beside the first.",
    ),
    Mutant(
        "refused_plan_not_made_again",
        "promise_svc/application/creation.py",
        "        return bool(reply.shortfalls)\n",
        "        return any(missing.values())\n",
        (
            "tests/contract/test_reservation_rivals.py"
            "::test_a_refused_plan_is_made_again_also_when_the_table_has_caught_up",
        ),
        "A cart that another node could fill would be refused for the one that just sold out.",
    ),
    Mutant(
        "recorded_not_awaited",
        "promise_svc/application/reservation.py",
        "        if mode is DurabilityMode.RECORDED and outcome <= TransitionOutcome.CANCELLED:\n",
        "        if mode is DurabilityMode.MEMORY:\n",
        (RESERVATIONS + "test_a_recorded_confirm_is_answered_only_when_the_order_store_has_it",),
        "A sale would be acknowledged that the loss of the index takes away.",
    ),
    Mutant(
        "quote_planned_again",
        "promise_svc/application/creation.py",
        "        if command.quote is not None:\n            return quoted_lines(",
        "        if command.quote is not None and missing:\n            return quoted_lines(",
        (QUOTES + "test_the_very_plan_is_held_though_a_better_one_came_up",),
        "The shopper would be shown one plan and sent another.",
    ),
    Mutant(
        "refused_plan_left_unsettled",
        "promise_svc/application/creation.py",
        "                await self._shards.settle_refused(hold, reply)\n",
        "",
        (QUOTES + "test_a_crowd_gets_every_unit_of_every_node",),
        "In a crowd, shoppers would be turned away while other nodes have units.",
    ),
    Mutant(
        "promise_not_kept",
        "promise_svc/application/creation.py",
        "            promised=sourced.promised,\n",
        "",
        (
            QUOTES + "test_the_promised_dates_stay_with_the_reservation",
            QUOTES + "test_a_retry_in_one_step_tells_the_promise_first_made",
        ),
        "A retry would promise dates anew for a hold that was promised others.",
    ),
    Mutant(
        "undecided_shown",
        "promise_svc/application/claims.py",
        "        if claim.state not in (State.PENDING, State.PINNED):\n",
        "        if claim.state != State.PINNED:\n",
        (SIMULATOR,),
        "A shopper would see a hold that then never was.",
    ),
    Mutant(
        "order_listed_as_a_hold",
        "promise_svc/application/reservation_list.py",
        "    if is_sold(claim, ",
        "    if False and is_sold(claim, ",
        ("tests/unit/test_reservation_list.py::test_a_pinned_claim_is_an_order_once_its_legs_are",),
        "A list read right after a recorded confirm would call the order a hold.",
    ),
    Mutant(
        "order_changed_as_a_hold",
        "promise_svc/application/reservation_changes.py",
        "        if claim.state == State.PINNED:\n            await",
        "        if False:\n            await",
        (SOLD + "test_whatever_is_asked_next_finds_the_order",),
        "A parcel that leaves at once would be refused, as of no order.",
    ),
    Mutant(
        "taken_again_at_a_node_that_is_off",
        "promise_svc/application/reservation.py",
        "        if not all(map(snapshot.switched_on, nodes)):\n",
        "        if False:\n",
        ("tests/contract/test_reacquire.py::test_a_node_that_is_off_sells_nothing_again",),
        "A late payment would sell from a store that cannot send anything.",
    ),
    Mutant(
        "a_mark_outlives_its_reservation",
        "promise_svc/application/reservation_changes.py",
        "            if body.growing and claim.state in (State.HELD, State.CONFIRMED):\n",
        "            if body.growing:\n",
        (f"{AMENDS}test_a_change_that_an_end_overtook_is_told_of_the_end",),
        "Whoever asks for a released cart would be told for an hour that others change it.",
    ),
    Mutant(
        "a_transfer_takes_no_day",
        "promise_svc/application/reservation_changes.py",
        "            if part.node_id in gaining and part.open_quantity\n",
        "            if False\n",
        (f"{CAPACITY_CHANGES}test_a_transfer_takes_the_new_nodes_day_and_gives_the_old_ones_back",),
        "A store that is full could be given more by transfer.",
    ),
    Mutant(
        "unchanged_amendment_forgets_its_key",
        "promise_svc/application/reservation_changes.py",
        "            # A change of nothing is one too: its key is kept and tells the same later.\n",
        "            if lines == body.lines:\n                return _Computed(done)\n",
        (AMENDS + "test_what_changes_nothing_is_a_change_of_its_own",),
        "A late copy of a message that changed nothing would undo what the shopper changed since.",
    ),
    Mutant(
        "shipment_key_forgotten",
        "promise_svc/application/reservation_changes.py",
        "                return _Computed(done, replayed=True)\n"
        "            state = State(claim.state)\n"
        "            if state is not State.CONFIRMED:\n",
        "                pass\n"
        "            state = State(claim.state)\n"
        "            if state is not State.CONFIRMED:\n",
        (CHANGES + "test_the_same_shipment_told_twice_counts_once",),
        "A parcel that is told twice would lower the stock twice.",
    ),
    Mutant(
        "revision_before_key",
        "promise_svc/application/reservation_changes.py",
        "            if revision and revision != claim.revision and not computed.replayed:\n",
        "            if revision and revision != claim.revision:\n",
        (
            CHANGES
            + "test_a_shipment_told_again_is_answered_as_before_whatever_revision_it_expected",
        ),
        "A caller that lost the answer would hear that its parcel was not counted.",
    ),
    Mutant(
        "expired_listed_as_held",
        "promise_svc/application/reservation_list.py",
        "        claim = claim._replace(state=State.EXPIRED)\n",
        "        pass\n",
        ("tests/unit/test_reservation_list.py::test_a_hold_past_its_time_is_expired_swept_or_not",),
        "A shopper would be shown a hold that somebody else may have bought.",
    ),
    Mutant(
        "bundle_not_opened",
        "promise_svc/application/sourced_lines.py",
        "wanted, bundles = exploded(command.lines, snapshot.bundles, LINES_MAX)",
        "wanted, bundles = exploded(command.lines, {}, LINES_MAX)",
        (BUNDLES + "test_a_bundle_is_held_as_its_components",),
        "A bundle would be looked for as stock of its own, and never be sold.",
    ),
)
