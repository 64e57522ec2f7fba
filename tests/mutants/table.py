"""The breaks: one a promise. Each must be noticed by each of the tests that it names.

``old`` stands once in its file, so that a moved rule asks for its mutant to be moved too.
"""

from __future__ import annotations

from typing import NamedTuple

LUA = "promise_svc/adapters/ats_index/lua"
PROTECTION = "tests/contract/test_protection.py::"
RESERVATIONS = "tests/contract/test_reservations.py::"
RACES = "tests/contract/test_reservation_races.py::"
QUOTES = "tests/contract/test_quotes.py::"
RIVALS = "tests/contract/test_reservation_rivals.py::"
CHANGES = "tests/contract/test_reservation_changes.py::"
BUNDLES = "tests/contract/test_bundles.py::"
RULES = "tests/unit/test_rules.py::"
AMENDS = "tests/contract/test_reservation_amends.py::"
LIMITS = "tests/contract/test_customer_limits.py::"
REPLACEMENTS = "tests/contract/test_replacements.py::"
COUNTERS = "tests/contract/test_counters.py::"
CAPACITY = "tests/contract/test_node_capacity.py::"
LEDGER = "tests/property/test_ledger.py::test_the_ledger_keeps_its_invariants"
TWIN = "tests/property/test_ledger.py::test_the_functions_do_exactly_what_the_ledger_does"
SUPERVISOR = "promise_svc/rpc/supervisor.py"
SUPERVISED = "tests/integration/test_supervisor.py::"
TAKEOVER = "tests/fault/test_takeover.py::"
KINDS = "tests/sim/test_simulator.py::test_forty_seeds_of_every_kind_break_no_promise_either"
SIMULATOR = "tests/sim/test_simulator.py::test_forty_other_seeds_break_no_promise_either"


class Mutant(NamedTuple):
    """One deliberate break."""

    name: str
    path: str
    old: str
    new: str
    tests: tuple[str, ...]
    """Each must fail. Without parameters: at least one of its variants must."""
    why: str
    """What would become of a shopper, or of the books."""


MUTANTS = (
    # -- node capacity
    Mutant(
        "a_day_has_room_for_ever",
        f"{LUA}/prelude.lua",
        "local units = (limit or row[ON_HAND]) - row[SAFETY]",
        "local units = (limit and 1000 or row[ON_HAND]) - row[SAFETY]",
        (f"{CAPACITY}test_a_day_takes_no_more_orders_than_its_capacity_however_many_ask", TWIN),
        "A store would be promised more orders for today than its people can pack.",
    ),
    Mutant(
        "a_parcel_that_left_frees_its_day",
        f"{LUA}/revise.lua",
        "      row[SAFETY] = row[SAFETY] + gone\n",
        "",
        (
            f"{CAPACITY}"
            "test_capacity_is_given_back_with_the_hold_or_the_order_and_not_when_goods_leave",
            TWIN,
        ),
        "Each order packed in the morning would make room for one more by the evening.",
    ),
    Mutant(
        "a_joined_leg_makes_way_for_an_older_change",
        f"{LUA}/create.lua",
        "if before < change and state ~= CONFIRMED",
        "if state ~= CONFIRMED",
        (TWIN,),
        "A message that was late would take back the day of a transfer that was told done.",
    ),
    Mutant(
        "a_day_asked_for_in_vain_is_kept",
        "promise_svc/application/several_shards.py",
        "            elif not decode_body(claim).growing:\n",
        "            elif False:\n",
        (f"{CAPACITY}test_a_transfer_may_die_at_any_message",),
        "A worker that dies in a transfer would keep a place of a node's day for hours.",
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
        "a_change_asks_no_floor",
        f"{LUA}/revise.lua",
        "  if step[8] > 0 and step[8] < S.floor then",
        "  if false then",
        (TWIN,),
        "A closed store would be sent orders by whoever had not heard of it.",
    ),
    Mutant(
        "a_lowered_capacity_is_told_to_nobody",
        "promise_svc/application/network.py",
        '    return _status(document) is NodeStatus.OFF or bool(document.get("capacities"))\n',
        "    return _status(document) is NodeStatus.OFF\n",
        ("tests/unit/test_network_admin.py::test_a_capacity_is_known_to_every_shard_on_return",),
        "For seconds after the edit, workers would sell by the old number.",
    ),
    Mutant(
        "a_day_taken_again_as_it_was",
        "promise_svc/application/reservation.py",
        "        body = self._as_of_now(decode_body(claim), snapshot)\n",
        "        body = decode_body(claim)\n",
        (f"{CAPACITY}test_a_hold_that_is_taken_again_takes_a_day_as_it_is_now",),
        "A confirm after the hold would take a day that is closed by now.",
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
        "a_full_day_is_promised",
        "promise_svc/application/capacity.py",
        "        return not self.bounds or not any(",
        "        return True or not any(",
        (f"{CAPACITY}test_a_promise_offers_no_day_that_is_full",),
        "A shopper would be shown a date that no checkout can give them.",
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
        "an_order_nothing_is_left_of_keeps_its_day",
        "promise_svc/domain/capacity.py",
        "    stands = not left and any(open_quantity for open_quantity, _ in parts)\n",
        "    stands = not left\n",
        (f"{CAPACITY}test_a_part_of_an_order_keeps_its_day_until_nothing_of_it_is_open",),
        "Orders cancelled line by line would fill a node's day.",
    ),
    Mutant(
        "a_transfer_takes_no_day",
        "promise_svc/application/reservation_changes.py",
        "            if new and capacity.bounded(node_id, method):\n",
        "            if False:\n",
        (f"{CAPACITY}test_a_transfer_takes_the_new_nodes_day_and_gives_the_old_ones_back",),
        "A store that is full could be given more by transfer.",
    ),
    Mutant(
        "a_leg_that_joins_is_a_contradiction",
        "promise_svc/domain/audit.py",
        "if (leg.attempt, leg.state) == (claim.attempt, State.HELD) and",
        "if False and",
        ("tests/unit/test_verify.py::test_a_leg_taken_for_a_change_that_is_not_decided_is_fine",),
        "An audit beside transfers would cry wolf.",
    ),
    Mutant(
        "a_tombstone_forgets_what_left",
        f"{LUA}/prelude.lua",
        "  if before and before[L_STATE] == FULFILLED then return end\n",
        "",
        (f"{LIMITS}test_what_left_counts_whatever_a_later_attempt_is_probed_for",),
        "Who has bought as many as they may could buy as many again.",
    ),
    # -- due lists
    Mutant(
        "sku_keeps_a_leg_that_gave_it_up",
        f"{LUA}/prelude.lua",
        "for _, line in ipairs(was and before[L_LINES] or {}) do",
        "for _, line in ipairs(was and not is and before[L_LINES] or {}) do",
        (
            "tests/contract/test_reservation_found.py::"
            "test_a_leg_that_gave_a_sku_up_is_no_longer_looked_at_for_it",
        ),
        "A SKU would be read slower with every amendment, and not at all once one is forgotten.",
    ),
    # -- the network
    Mutant(
        "any_text_names_a_lane",
        "promise_svc/rpc/convert/network.py",
        "            if lane and not names_a_lane(lane):\n",
        "            if False:\n",
        ("tests/e2e/test_shopper.py::test_a_rule_that_was_deleted_rules_no_more",),
        "A lane that was to be gone, and whose name was mistyped, would go on promising dates.",
    ),
    Mutant(
        "limit_told_less_than_it_leaves",
        "promise_svc/application/reservation.py",
        "CreateOutcome.CUSTOMER_LIMIT, left[line.sku])",
        "CreateOutcome.CUSTOMER_LIMIT, max(0, left[line.sku] - line.quantity))",
        (
            "tests/contract/test_hold_policies.py::test_what_lines_share_is_told_to_each_of_them_whole",
        ),
        "A shopper would be told, and given, fewer than they may still have.",
    ),
    # -- counts of all that stands there
    Mutant(
        "missing_units_forgotten",
        f"{LUA}/supply.lua",
        "    owed = math.min(math.max(0, had - on_hand), QUANTITY_MAX)\n",
        "",
        (
            "tests/contract/test_inbound.py::"
            "test_what_a_count_of_all_does_not_find_is_sold_to_nobody",
        ),
        "Units that a count did not find would be sold once their first owner gives them back.",
    ),
    # -- legs' own time
    Mutant(
        "amended_legs_end_by_another_clock",
        f"{LUA}/revise.lua",
        "local expire = ttl > 0 and S.time + ttl or leg[L_EXPIRE]",
        "local expire = S.time + ttl",
        (RACES + "test_a_leg_whose_clock_is_ahead_lives_as_long_after_a_change_too",),
        "A cart that was changed would lose a line long before the time that its shopper was told.",
    ),
    Mutant(
        "extended_legs_keep_their_end",
        "promise_svc/application/several_shards.py",
        "no_lines, deadline, ttl_ms=wanted.ttl_ms)",
        "no_lines, deadline)",
        (RACES + "test_a_leg_whose_clock_is_ahead_lives_as_long_after_a_change_too",),
        "A shopper who was given more time would lose a line before it.",
    ),
    Mutant(
        "due_holds_alarm_as_drift",
        "promise_svc/application/reconcile.py",
        "            await self._sweep(shard)\n",
        "",
        (
            "tests/unit/test_drift.py::"
            "test_a_hold_that_is_due_is_no_drift_however_long_nobody_sweeps_it",
        ),
        "Whoever is on call would be woken by an alarm about books that balance.",
    ),
    Mutant(
        "leg_times_out_under_its_confirm",
        f"{LUA}/follow.lua",
        "if leg and (target ~= CONFIRMED or leg[L_ATTEMPT] ~= attempt) then leg = leg_now(rid) end",
        "leg = leg_now(rid)",
        (RACES + "test_a_confirm_that_was_in_time_at_home_is_in_time_everywhere",),
        "A shopper who paid in time would be told that the cart had expired a moment before.",
    ),
    # -- deleted entries
    Mutant(
        "deleted_though_in_use",
        "promise_svc/application/network_edit.py",
        "if name in there and name not in users}",
        "if name in there}",
        (
            "tests/unit/test_network_edit.py::"
            "test_what_nothing_uses_is_deleted_and_what_is_used_names_its_user",
        ),
        "A node without a calendar would have no date any more, and nobody would know why.",
    ),
    Mutant(
        "node_judged_by_an_older_network",
        "promise_svc/application/network.py",
        "if expected_version not in (None, network.version):",
        "if not documents:",
        (
            "tests/unit/test_network_edit.py::"
            "test_a_calendar_deleted_meanwhile_is_missed_by_the_node_that_names_it",
        ),
        "A node would be loaded with a calendar that was deleted a moment before.",
    ),
    # -- counts
    Mutant(
        "owed_units_counted_twice",
        f"{LUA}/supply.lua",
        "elseif step[9] == 1 and bucket == '' then",
        "elseif step[9] == 2 and bucket == '' then",
        (
            "tests/contract/test_inbound.py::"
            "test_a_count_of_all_that_stands_at_a_node_leaves_out_what_is_owed",
        ),
        "Units that came for an order would be sold once more by the next count.",
    ),
    # -- shares
    Mutant(
        "share_takes_back_what_it_never_gave",
        f"{LUA}/prelude.lua",
        "if share[1] == segment and not older then",
        "if share[1] == segment then",
        (PROTECTION + "test_a_hold_older_than_the_share_gives_nothing_back_to_it",),
        "Units of a segment that were sold would be kept for it once more, from everybody else.",
    ),
    Mutant(
        "share_unseen_by_the_cells",
        "promise_svc/adapters/ats_table/table.py",
        "                    self._protected_skus.add(image.sku)\n",
        "                    pass\n",
        (
            "tests/unit/test_ats_table.py::"
            "test_which_skus_keep_shares_is_known_to_who_reads_the_cells",
        ),
        "A segment would be told that its own share is not for sale to it.",
    ),
    Mutant(
        "shares_lost_at_a_start",
        "promise_svc/adapters/ats_table/table.py",
        "    shares = decode_shares(row[-1])\n",
        "    shares = ()\n",
        ("tests/unit/test_ats_table.py::test_shares_of_copied_rows_are_kept_like_any",),
        "After each restart pages would offer everybody the units that a segment keeps.",
    ),
    # -- pickup
    Mutant(
        "pickup_ignores_rules",
        "promise_svc/application/pickup.py",
        "all(self._rules.allowed(sku, {node_id: 0}, PRIORITY_MAX) for sku in skus)",
        "bool(skus)",
        (
            "tests/unit/test_availability.py::"
            "test_a_node_that_rules_exclude_is_not_offered_for_pickup",
        ),
        "A shopper would choose a shop that the cart is then refused at.",
    ),
    # -- less than was asked for
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
        "unchanged_amendment_forgets_its_key",
        "promise_svc/application/reservation_changes.py",
        "            # A change of nothing is one too: its key is kept and tells the same later.\n",
        "            if lines == body.lines:\n                return _Computed(done)\n",
        (AMENDS + "test_what_changes_nothing_is_a_change_of_its_own",),
        "A late copy of a message that changed nothing would undo what the shopper changed since.",
    ),
    # -- bundles
    Mutant(
        "bundle_not_opened",
        "promise_svc/application/sourced_lines.py",
        "wanted, bundles = exploded(command.lines, snapshot.bundles, LINES_MAX)",
        "wanted, bundles = exploded(command.lines, {}, LINES_MAX)",
        (BUNDLES + "test_a_bundle_is_held_as_its_components",),
        "A bundle would be looked for as stock of its own, and never be sold.",
    ),
    Mutant(
        "bundle_promised_in_part",
        "promise_svc/domain/cart.py",
        "for group in together(lines):",
        "for group in zip(lines):",
        (
            "tests/unit/test_bundles.py::test_a_bundle_that_lacks_one_component_is_told_as_the_bundle",
        ),
        "A shopper would be sent the table top, and no legs.",
    ),
    Mutant(
        "bundle_in_a_bundle",
        "promise_svc/domain/network_validation.py",
        "        if part is not None and part.components:\n",
        "        if part is None:\n",
        ("tests/unit/test_bundles.py::test_bundles_hold_no_bundles_from_either_side",),
        "A bundle inside a bundle would be looked for as stock, and neither could be sold.",
    ),
    Mutant(
        "report_counted_again",
        f"{LUA}/supply.lua",
        "if step[6] ~= '' and not moved and arrival ~= ARRIVED then",
        "if false then",
        (COUNTERS + "test_a_report_counts_a_position_once",),
        "A feed sent again after units left would put them back on the shelf, and sell them twice.",
    ),
    Mutant(
        "followed_blindly",
        "promise_svc/adapters/network_source.py",
        "            before, self._followed = self._followed, None\n",
        "            before = self._followed\n",
        (
            "tests/unit/test_network_source.py::test_after_a_look_that_failed_the_network_is_read_whole",
        ),
        "After a restore of the order store, nodes that are no longer there would go on selling.",
    ),
    Mutant(
        "page_of_another_list",
        "promise_svc/rpc/convert/reservation_list.py",
        "        if name != _name(query):\n",
        "        if not name:\n",
        (
            "tests/unit/test_reservation_list.py::test_a_page_token_is_good_for_its_own_list_and_no_other",
        ),
        "One shopper's second page would begin where another's first ended, and leave out some.",
    ),
    # -- sourcing rules
    Mutant(
        "rule_excludes_nothing",
        "promise_svc/domain/rules.py",
        "                    return _NEVER\n",
        "                    continue\n",
        (RULES + "test_an_excluded_class_never_leaves_the_nodes_a_rule_names",),
        "Cold goods would leave from where nothing is cooled.",
    ),
    Mutant(
        "priority_forgotten",
        "promise_svc/domain/cart.py",
        "    for priority in earlier:\n",
        "    for priority in earlier[:0]:\n",
        (
            RULES + "test_lower_priorities_are_used_only_where_the_others_cannot",
            RULES + "test_rules_choose_what_brute_force_chooses",
        ),
        "Stores would ship what the centers have.",
    ),
    Mutant(
        "rule_cost_charged",
        "promise_svc/domain/cart.py",
        "                self._service(planned),\n",
        "                self._service(planned)._replace(\n"
        "                    base_cost_micros=planned.option.base_cost_micros\n"
        "                ),\n",
        (RULES + "test_an_extra_cost_turns_the_choice_and_is_not_told_as_a_price",),
        "Shoppers would pay for a preference of ours.",
    ),
    Mutant(
        "rule_of_another_class",
        "promise_svc/domain/rules.py",
        'if rule.handling_class in ("", handling_class) and self._names(rule, node_id):',
        "if self._names(rule, node_id):",
        (RULES + "test_rules_choose_what_brute_force_chooses",),
        "A rule for cold goods would keep all others at home too.",
    ),
    # -- the compiled search
    Mutant(
        "search_needs_fewer_nodes",
        "native/_sourcing.pyx",
        "            if rank >= self.most:\n",
        "            if rank + 1 >= self.most:\n",
        ("tests/native/test_sourcing.py::test_the_plans_are_the_specifications",),
        "A cart would be refused, or come in more parcels, for want of a node that was left out.",
    ),
    Mutant(
        "search_forgets_who_was_left_out",
        "promise_svc/application/plain_cart.py",
        "return {number: -1 for number in numbers if number is not None}",
        "return {number: 0 for number in numbers if number is not None}",
        ("tests/property/test_plain_cart.py::test_the_compiled_search_changes_no_answer",),
        "A node that the caller ruled out would send the cart.",
    ),
    Mutant(
        "search_sells_another_segments_share",
        "promise_svc/application/stock.py",
        "if segment and any(self.copy.protected(sku) for sku in skus):",
        "if segment and not skus:",
        ("tests/property/test_plain_cart.py::test_the_compiled_search_changes_no_answer",),
        "Members would be told that their own share is not theirs.",
    ),
    Mutant(
        "search_collects_elsewhere",
        "promise_svc/application/plain_cart.py",
        "return made, {number: nobody}",
        "return made, {0: nobody}",
        ("tests/property/test_plain_cart.py::test_the_compiled_search_changes_no_answer",),
        "A shopper would be sent to another store for the goods.",
    ),
    Mutant(
        "search_knows_no_priorities",
        "promise_svc/application/plain_cart.py",
        "        priorities=terms.priorities(rules, weights),\n",
        "        priorities=[],\n",
        ("tests/property/test_plain_cart.py::test_the_compiled_search_changes_no_answer",),
        "Stores would ship what the centers have, and what no store may ship.",
    ),
    Mutant(
        "search_forgets_extra_costs",
        "promise_svc/application/plain_cart.py",
        "base_cost_micros=option.base_cost_micros + extra) if extra else option",
        "base_cost_micros=option.base_cost_micros) if extra else option",
        ("tests/property/test_plain_cart.py::test_the_compiled_search_changes_no_answer",),
        "What the merchant would rather not ship from would be shipped from all the same.",
    ),
    Mutant(
        "parts_of_a_cart_use_up_its_work",
        "promise_svc/domain/cart.py",
        "        if whole and len(kept) < len(lines):\n",
        "        if whole and not lines:\n",
        (RULES + "test_nodes_that_lack_a_line_are_not_searched_for_the_rest",),
        "The best plan would be told as one that may not be.",
    ),
    Mutant(
        "plan_counts_units_twice",
        "promise_svc/application/promise.py",
        "searched = table.search is not None and not request.taken and",
        "searched = table.search is not None and",
        ("tests/property/test_plain_cart.py::test_the_compiled_search_changes_no_answer",),
        "A hold would be planned on units that its own other lines take, and be refused.",
    ),
    # -- the Functions
    Mutant(
        "idempotency_dropped",
        f"{LUA}/create.lua",
        "  if claim[C_BODY_HASH] ~= draft[1] then return BODY_DIFFERS end\n",
        "",
        (RESERVATIONS + "test_the_same_key_with_another_body_is_refused_wherever_its_skus_live",),
        "Another cart under a used key would be answered with the first cart's hold.",
    ),
    Mutant(
        "no_check",
        f"{LUA}/create.lua",
        "    if free < line[4] then\n",
        "    if not row then\n",
        (RESERVATIONS + "test_one_of_two_buyers_gets_the_last_unit",),
        "Everybody would get the last unit.",
    ),
    Mutant(
        "check_after_write",
        f"{LUA}/create.lua",
        "  if #shortfalls > 0 then return INSUFFICIENT, shortfalls, contended end\n",
        "  if #shortfalls > 0 then\n"
        "    for _, line in ipairs(lines) do\n"
        "      local row = get_row(line[1], line[2], line[3])\n"
        "      if row then\n"
        "        row[HELD_UNITS] = row[HELD_UNITS] + line[4]\n"
        "        touch_row(line[1], line[2], line[3], row)\n"
        "      end\n"
        "    end\n"
        "    return INSUFFICIENT, shortfalls, contended\n"
        "  end\n",
        (RESERVATIONS + "test_a_cart_that_does_not_fit_holds_nothing_and_says_what_is_left",),
        "A refused cart would leave units held that nobody has: written first, checked after.",
    ),
    Mutant(
        "window_ignored",
        f"{LUA}/create.lua",
        "    return late and WINDOW_PASSED or DONE\n",
        "    return DONE\n",
        (RESERVATIONS + "test_a_key_older_than_the_window_is_refused_and_not_carried_out",),
        "A retry of last week would buy again.",
    ),
    Mutant(
        "network_floor_ignored",
        f"{LUA}/create.lua",
        "  if step[5] < S.floor then return NETWORK_CHANGED end\n",
        "",
        (RESERVATIONS + "test_a_reserve_planned_on_an_older_network_is_planned_again",),
        "A store switched off would go on selling until every host had heard of it.",
    ),
    Mutant(
        "leg_ignores_plan",
        f"{LUA}/create.lua",
        "    if leg[L_PLAN] ~= step[3] then return OTHER_PLAN end\n",
        "",
        (RACES + "test_a_late_message_of_an_old_plan_moves_nothing_of_the_new_one",),
        "A leg of another plan would count as this plan's leg.",
    ),
    Mutant(
        "leg_ignores_attempt",
        f"{LUA}/follow.lua",
        "  if leg and leg[L_ATTEMPT] ~= attempt then\n",
        "  if leg and leg[L_ATTEMPT] < attempt then\n",
        (RACES + "test_a_late_message_of_an_old_plan_moves_nothing_of_the_new_one",),
        "A late abort of the old plan would let go of what the new plan holds.",
    ),
    Mutant(
        "expiry_by_the_workers_clock",
        f"{LUA}/create.lua",
        "held, S.time + step[4], draft[3]",
        "held, math.floor(step[2] / 1000) + step[4], draft[3]",
        (RACES + "test_a_hold_lives_by_the_shards_clock_and_not_by_the_workers",),
        "A host whose clock is wrong would grant holds that last an hour, or none at all.",
    ),
    Mutant(
        "expiry_a_moment_late",
        f"{LUA}/prelude.lua",
        "  return (state == HELD or state == PENDING) and S.time >= expire\n",
        "  return (state == HELD or state == PENDING) and S.time > expire\n",
        (RESERVATIONS + "test_a_hold_ends_at_its_very_instant",),
        "At its very instant a hold would be both over and confirmable.",
    ),
    Mutant(
        "resolver_without_tombstone",
        f"{LUA}/follow.lua",
        "  local barring = target == PENDING or LETTING_GO[target]\n",
        "  local barring = LETTING_GO[target]\n",
        (RACES + "test_a_leg_that_comes_while_the_resolver_works_never_makes_a_false_answer",),
        "A leg that lands between probe and abort would let its worker acknowledge the aborted.",
    ),
    Mutant(
        "growth_past_the_limit",
        f"{LUA}/revise.lua",
        "  local limits = leg[L_LIMITS]\n",
        "  local limits = false\n",
        (LIMITS + "test_more_by_an_amendment_counts_and_another_node_does_not",),
        "Who may have three would hold one and amend it to thirty.",
    ),
    Mutant(
        "limit_not_given_back",
        f"{LUA}/prelude.lua",
        "  for key, units in pairs(counted_of(was)) do S.taken[key] = units_of(key) - units end\n",
        "",
        (LIMITS + "test_units_that_are_given_back_may_be_taken_again",),
        "A shopper whose hold ran out could never buy the item again.",
    ),
    Mutant(
        "left_units_forgotten",
        f"{LUA}/create.lua",
        "  if state == FULFILLED then return RESOLVED end\n",
        "",
        (LIMITS + "test_what_left_counts_whatever_is_asked_again",),
        "Who sends an order that was shipped once more could buy as much again.",
    ),
    Mutant(
        "refused_and_not_told_expired",
        "promise_svc/application/reservation.py",
        "        for _ in range(2):  # where its legs",
        "        for _ in range(1):  # where its legs",
        (
            "tests/contract/test_reservation_found.py::"
            "test_a_retry_that_finds_a_leg_ended_does_not_lose_what_was_acknowledged",
        ),
        "A shopper who was told that the cart is held would hear that it never was.",
    ),
    Mutant(
        "limit_past_its_window",
        "promise_svc/domain/ledger/limits.py",
        "                left = line.fulfilled if limit.window_ms else 0\n",
        "                left = 0\n",
        (LIMITS + "test_in_a_window_units_count_until_it_is_over_also_once_they_left",),
        "Two a day would be two at a time: whoever ships fast buys it all.",
    ),
    Mutant(
        "own_units_counted_twice",
        f"{LUA}/create.lua",
        "    free = free + mine\n",
        "",
        (REPLACEMENTS + "test_a_shopper_is_not_blocked_by_their_own_older_hold",),
        "A shopper who changes the cart would be refused for units that they hold themselves.",
    ),
    Mutant(
        "replacement_held_before_it_is_decided",
        f"{LUA}/settle.lua",
        "  if replacing(claim) and step[5] == 0 then return reply(REFUSED, rid) end\n",
        "",
        (TWIN,),
        "The new hold would stand while the old one does: one shopper, the units of two.",
    ),
    Mutant(
        "replacement_given_up_without_a_bar",
        "promise_svc/application/several_shards.py",
        "            stands = not await self._barred_successor(rid, claim.attempt,",
        "            stands = stands and await self._barred_successor(rid, claim.attempt,",
        (
            REPLACEMENTS
            + "test_a_replacement_that_ended_before_it_was_decided_takes_nothings_place",
        ),
        "A late message of a dead attempt would end the old hold for a new one that never stood.",
    ),
    Mutant(
        "confirmed_while_it_replaces",
        "promise_svc/domain/ledger/resolve.py",
        "    if is_replacing(claim) and target is not State.ABORTED:\n"
        "        return shard.reply(Outcome.UNSETTLED, rid)\n",
        "",
        (REPLACEMENTS + "test_whatever_else_happens_to_either_meanwhile_one_of_the_two_stands",),
        "Whoever releases or confirms the new hold too early would leave both, or neither.",
    ),
    Mutant(
        "refund_counted_twice",
        f"{LUA}/prelude.lua",
        "      row[COMMITTED] = row[COMMITTED] - quantity\n",
        "      row[COMMITTED] = math.max(0, row[COMMITTED] - 2 * quantity)\n",
        (
            "tests/contract/test_counters.py::test_a_cancel_gives_back_its_own_units_and_nobody_elses",
        ),
        "A cancel would free units that another order has bought.",
    ),
    Mutant(
        "owner_not_compared",
        f"{LUA}/prelude.lua",
        "  if S.owner ~= this_process() then\n",
        "  if not S.owner then\n",
        (TAKEOVER + "test_a_killed_shard_serves_nobody_until_it_is_taken_over_and_has_everything",),
        "After a failover, sequences that are taken already would be given out again.",
    ),
    Mutant(
        "epoch_not_raised",
        f"{LUA}/shard.lua",
        "  S.epoch, S.sequence, S.shard = S.epoch + 1, 0, tonumber(args[1])\n",
        "  S.epoch, S.shard = math.max(S.epoch, 1), tonumber(args[1])\n",
        (TAKEOVER + "test_a_killed_shard_serves_nobody_until_it_is_taken_over_and_has_everything",),
        "Two lives of a shard would write one history.",
    ),
    Mutant(
        "trim_too_early",
        f"{LUA}/shard.lua",
        "'MINID', '~', args[1] .. '-' .. string.format('%d', sequence - keep))",
        "'MINID', S.epoch .. '-' .. string.format('%d', S.sequence))",
        ("tests/integration/test_relay.py::test_what_the_order_store_lacks_is_never_trimmed",),
        "Events would be gone before the order store had them.",
    ),
    Mutant(
        "adjustment_repeated",
        f"{LUA}/supply.lua",
        "  if seen then\n",
        "  if seen and false then\n",
        (COUNTERS + "test_a_change_of_stock_is_applied_once_a_key",),
        "A feed's retry would add its units a second time.",
    ),
    Mutant(
        "late_adjustment_executed",
        f"{LUA}/supply.lua",
        "  if step[7] > 0 and S.time - step[7] > WINDOW_MS then",
        "  if false then",
        (COUNTERS + "test_a_key_older_than_the_window_changes_nothing",),
        "A retry that comes too late would add its units a second time.",
    ),
    Mutant(
        "sale_below_zero_forgotten",
        f"{LUA}/supply.lua",
        "    return covered, -delta - covered\n",
        "    return covered, 0\n",
        (COUNTERS + "test_a_sale_made_elsewhere_leaves_holds_alone_and_tells_the_shortage",),
        "What a till sold beyond the count would be sold again from the next receipt.",
    ),
    # -- the reference ledger
    Mutant(
        "ledger_takes_no_safety_stock",
        "promise_svc/domain/ledger/state.py",
        "    return row.on_hand - row.safety_stock - row.committed - row.held - kept\n",
        "    return row.on_hand - row.committed - row.held - kept\n",
        (LEDGER,),
        "Units withheld by rule would be sold.",
    ),
    # -- the protocol over several shards
    Mutant(
        "resolver_aborts_home_first",
        "promise_svc/application/several_shards.py",
        "        probes = await self._each(rid, claim.attempt, State.PENDING,"
        " claim.legs, deadline)\n",
        "        legs = await self._each(rid, claim.attempt, State.HELD, claim.legs, deadline)\n"
        "        if any(leg.outcome == Outcome.MISSING for leg in legs):\n"
        "            step = ResolveStep(rid, State.ABORTED, claim.attempt)\n"
        "            await self._index.resolve(home, [step], deadline.left())\n"
        "        probes = await self._each(rid, claim.attempt, State.PENDING,"
        " claim.legs, deadline)\n",
        (RACES + "test_a_leg_that_comes_while_the_resolver_works_never_makes_a_false_answer",),
        "A worker would acknowledge what home has just aborted.",
    ),
    Mutant(
        "confirm_without_legs",
        "promise_svc/application/several_shards.py",
        "claim.attempt, State.CONFIRMED, others, deadline)\n        if any(",
        "claim.attempt, State.CONFIRMED, (others := []), deadline)\n        if any(",
        (
            RACES + "test_a_confirm_whose_legs_expired_before_they_were_pinned_confirms_nothing",
            RESERVATIONS + "test_confirming_keeps_units_that_would_expire_meanwhile",
        ),
        "A sale would be decided whose units have expired and been sold to somebody else.",
    ),
    Mutant(
        "failed_confirm_keeps_legs",
        f"{LUA}/prelude.lua",
        "(target == CANCELLED or target == EXPIRED or target == ABORTED)",
        "target == CANCELLED",
        (RIVALS + "test_a_confirm_that_met_an_ended_leg_gives_back_what_it_had_confirmed",),
        "Units of an order that never came about would be sold to nobody, for ever.",
    ),
    Mutant(
        "release_ignores_confirm",
        "promise_svc/application/several_shards.py",
        "        if reply.outcome == Outcome.REFUSED and reply.state == State.PINNED:\n",
        "        if False:\n",
        (RIVALS + "test_a_release_after_a_confirm_began_comes_second",),
        "A shopper would hear nothing true of an order that stands.",
    ),
    Mutant(
        "change_not_compared",
        f"{LUA}/revise.lua",
        "  if (claim[C_CHANGE] or 0) ~= step[3] then return reply(REVISION_DIFFERS, rid) end\n",
        "",
        (CHANGES + "test_two_shipments_at_once_both_count",),
        "One of two parcels told at once would be forgotten.",
    ),
    Mutant(
        "older_change_obeyed",
        f"{LUA}/revise.lua",
        "  if change < (leg[L_CHANGE] or 0) or overtaken then",
        "  if overtaken then",
        (CHANGES + "test_a_leg_refuses_what_an_older_change_said",),
        "A late message would bring units back that have left.",
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
        "extension_of_home_alone",
        "promise_svc/application/several_shards.py",
        "        longer = others if wanted.ttl_ms else []\n",
        "        longer: list[int] = []\n",
        (CHANGES + "test_a_hold_near_its_end_is_extended_in_every_shard_or_not_at_all",),
        "A hold would be told as extended of which a leg has ended.",
    ),
    Mutant(
        "fulfilled_not_counted",
        f"{LUA}/revise.lua",
        "    row[ON_HAND] = math.max(0, row[ON_HAND] - gone)\n",
        "",
        (CHANGES + "test_goods_that_left_lower_on_hand_and_committed_together",),
        "What left the store would be sold again.",
    ),
    Mutant(
        "one_shard_in_order",
        "promise_svc/application/several_shards.py",
        "        in_order = ordered and multi\n",
        "        in_order = ordered\n",
        (RACES + "test_a_cart_of_one_shard_that_met_a_young_hold_is_not_told_held",),
        "A shopper would be told HELD and hold nothing.",
    ),
    Mutant(
        "begun_confirm_told_as_nothing_done",
        "promise_svc/application/several_shards.py",
        "        except (Unavailable, DeadlineExceeded) as error:\n            # Of the step",
        "        except DeadlineExceeded as error:\n            # Of the step",
        (RACES + "test_a_confirm_that_cannot_reach_a_leg_does_not_say_that_nothing_was_done",),
        "An order given up as not placed would be placed all the same.",
    ),
    Mutant(
        "expired_taken_for_aborted",
        "promise_svc/application/several_shards.py",
        "        elif not all(reply.outcome in _GRANTED or reply.state in _ENDED for reply in"
        " replies):\n",
        "        elif not all(reply.outcome in _GRANTED for reply in replies):\n",
        (
            "tests/contract/test_reservation_found.py::"
            "test_a_hold_that_ended_while_a_confirm_lay_unfinished_is_expired_not_lost",
        ),
        "A hold that ran out would be told as one that never was.",
    ),
    Mutant(
        "refused_legs_kept",
        "promise_svc/application/several_shards.py",
        "            let_go = await self._end(rid, at_home, hold.attempt, hold.legs, target,"
        " deadline)\n",
        "            let_go = True\n",
        (RESERVATIONS + "test_a_cart_that_does_not_fit_holds_nothing_and_says_what_is_left",),
        "The other lines of a refused cart would stay held.",
    ),
    Mutant(
        "ended_leg_forgotten",
        "promise_svc/domain/ledger/state.py",
        "        return leg.attempt if leg.state == State.EXPIRED else leg.ended\n",
        "        return leg.ended\n",
        (
            "tests/contract/test_reservation_found.py::"
            "test_a_leg_that_ended_and_whose_place_was_taken_is_expired_not_lost",
        ),
        "A hold that was acknowledged, and ran out, would not be found.",
    ),
    Mutant(
        "refused_claim_settled_blindly",
        "promise_svc/application/several_shards.py",
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
        "promise_svc/application/several_shards.py",
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
        "promise_svc/application/several_shards.py",
        "        if reply.time_ms - claim.expire_ms > WRITTEN_MS:\n",
        "        if reply.time_ms > WRITTEN_MS:\n",
        (
            "tests/contract/test_reservation_found.py::"
            "test_an_expiry_is_written_down_before_it_is_told",
        ),
        "A hold told EXPIRED would stand again after a clock was set back.",
    ),
    Mutant(
        "shares_of_others_sold",
        "promise_svc/domain/inventory.py",
        "    return sum(max(0, p.level - p.taken) for p in row.protected if",
        "    return sum(0 for p in row.protected if",
        (PROTECTION + "test_nobody_else_is_sold_what_is_protected", KINDS),
        "A marketplace would sell the units kept for the shop's own customers.",
    ),
    Mutant(
        "share_not_drawn_on",
        "promise_svc/adapters/ats_index/lua/create.lua",
        "    draw(row, leg, line[4])\n",
        "",
        (PROTECTION + "test_a_segment_draws_on_its_own_share_first",),
        "Units a segment has bought would be withheld from others a second time.",
    ),
    Mutant(
        "replaced_share_not_given_back",
        "promise_svc/adapters/ats_index/lua/prelude.lua",
        "[CANCELLED] = true,\n  [SUPERSEDED] = true}\n",
        "[CANCELLED] = true}\n",
        (PROTECTION + "test_a_replaced_hold_gives_its_share_to_no_other_segment",),
        "Every edit of a cart would take more of its segment's share, for good.",
    ),
    Mutant(
        "share_not_given_back",
        "promise_svc/domain/ledger/state.py",
        "            if target in GIVING_BACK:\n",
        "            if target in ():\n",
        (PROTECTION + "test_what_a_segment_gives_back_returns_to_its_share", KINDS),
        "A share would melt away with every hold that was let go.",
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
        "late_hold_revived_unchecked",
        f"{LUA}/resolve.lua",
        "  if target == ABORTED and claim[C_REACQUIRED] == 1 then target = EXPIRED end\n",
        "",
        (
            "tests/contract/test_reacquire.py::"
            "test_units_sold_to_another_meanwhile_are_not_sold_twice",
        ),
        "A hold that ran out would be told as one that never was.",
    ),
    Mutant(
        "growing_without_a_mark",
        "promise_svc/application/several_shards.py",
        "        if claim.change and decode_body(claim).growing and",
        "        if False and",
        (AMENDS + "test_a_late_message_makes_no_leg_grow_again",),
        "Units asked for by a worker that died would be held by an order that does not name them.",
    ),
    Mutant(
        "home_leg_not_asked_for",
        "promise_svc/application/several_shards.py",
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
        "promise_svc/application/several_shards.py",
        "and (joins or r.state in _STANDING)",
        "and True",
        (
            "tests/contract/test_reservation_found.py::"
            "test_a_leg_that_has_ended_neither_grows_nor_lives_longer",
        ),
        "A shopper would be told of more units, or of more time, on a cart that had run out.",
    ),
    Mutant(
        "units_move_before_it_is_decided",
        "promise_svc/application/several_shards.py",
        "ttl_ms, (), int(plan > 0), plan\n",
        "ttl_ms, (), 0, plan\n",
        (AMENDS + "test_units_that_are_to_move_stay_until_that_is_decided",),
        "A transfer that comes to nothing would leave an order without its units.",
    ),
    Mutant(
        "growth_not_checked",
        f"{LUA}/revise.lua",
        "      if free < -back then\n",
        "      if false then\n",
        (AMENDS + "test_with_too_little_of_one_line_nothing_changes",),
        "An amended order would be sold more than there is.",
    ),
    Mutant(
        "orphan_not_barred_at_home",
        "promise_svc/application/several_shards.py",
        " and not await self._barred_at_home(rid, home, shard, leg, deadline):\n",
        " and False:\n",
        (
            "tests/contract/test_reservation_orphans.py::"
            "test_a_claim_that_comes_after_its_leg_was_let_go_is_refused",
        ),
        "A shopper would be told HELD by a worker whose leg was just let go.",
    ),
    Mutant(
        "orphan_never_named",
        f"{LUA}/create.lua",
        "  if multi == 1 and #step[8] == 0 then S.doubt[step[1]] = S.time + DOUBT_MS end\n",
        "",
        (
            "tests/contract/test_reservation_orphans.py::"
            "test_a_leg_whose_claim_never_came_is_let_go_long_before_its_time",
        ),
        "Units that nobody holds would not be sold for hours.",
    ),
    Mutant(
        "new_place_cannot_be_left",
        f"{LUA}/revise.lua",
        "    if (old[5] or 0) > 0 and not wanted[place] then return false end\n",
        "    if not wanted[place] then return false end\n",
        (AMENDS + "test_a_place_that_a_leg_never_had_is_left_again",),
        "A refused amendment would leave units put aside for nobody, and the order stuck.",
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
        "end_told_as_confirm",
        "promise_svc/application/several_shards.py",
        "        if step.target != State.CONFIRMED and reply.outcome in _GRANTED:\n",
        "        if False:\n",
        (RIVALS + "test_an_end_that_another_worker_decided_is_no_confirm",),
        "A shopper would be told CONFIRMED of an order that does not stand.",
    ),
    Mutant(
        "replaced_leg_waited_for",
        "promise_svc/application/several_shards.py",
        "        fine = (*_GRANTED, Outcome.OTHER_PLAN) if claim.state in _CLOSED else _GRANTED\n",
        "        fine = _GRANTED\n",
        (CHANGES + "test_a_leg_whose_place_a_refused_retry_took_counts_as_followed",),
        "An order that has left would be looked after for ever.",
    ),
    Mutant(
        "dead_engine_left",
        "promise_svc/adapters/embedded/watch.py",
        "            if name := engine.fallen():\n",
        "            if name := engine.fallen()[:0]:\n",
        ("tests/e2e/test_engines_die.py::test_a_killed_engine_comes_back_and_sells_again",),
        "A shop with the bundled engines would be closed until somebody looks.",
    ),
    Mutant(
        "retry_sources_anew",
        "promise_svc/application/reservation.py",
        "            attempt=claim.attempt,\n            plan_hash=claim.plan_hash,\n",
        "            attempt=claim.attempt + 1,\n            plan_hash=claim.plan_hash,\n",
        (RESERVATIONS + "test_a_retry_finishes_what_a_dead_worker_began_with_its_plan",),
        "A retry would hold a second plan beside the first.",
    ),
    Mutant(
        "refused_plan_not_made_again",
        "promise_svc/application/reservation.py",
        "        return bool(reply.shortfalls)\n",
        "        return any(missing.values())\n",
        (
            "tests/contract/test_reservation_rivals.py"
            "::test_a_refused_plan_is_made_again_also_when_the_table_has_caught_up",
        ),
        "A cart that another node could fill would be refused for the one that just sold out.",
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
        "recorded_not_awaited",
        "promise_svc/application/reservation.py",
        "        if mode is DurabilityMode.RECORDED and outcome <= TransitionOutcome.CANCELLED:\n",
        "        if mode is DurabilityMode.MEMORY:\n",
        (RESERVATIONS + "test_a_recorded_confirm_is_answered_only_when_the_order_store_has_it",),
        "A sale would be acknowledged that the loss of the index takes away.",
    ),
    Mutant(
        "confirmed_home_leg_taken_for_lost",
        "promise_svc/domain/ledger/resolve.py",
        "    standing = OPEN if claim.state != State.PINNED else OPEN | {State.CONFIRMED}\n",
        "    standing = OPEN\n",
        ("tests/contract/test_reservation_at_home.py",),
        "Home would expire what it has just pinned, and no confirm over shards would come through.",
    ),
    Mutant(
        "late_note_forgotten",
        "promise_svc/application/several_shards.py",
        "            notes, self._notes, self._noting = self._notes, {}, False\n",
        "            notes, self._notes, self._noting = {}, {}, False\n",
        ("tests/contract/test_reservation_notes.py",),
        "Every hold would be looked at by the resolver, leg by leg.",
    ),
    # -- relay, takeover, order store
    Mutant(
        "marked_before_committed",
        "promise_svc/application/relay.py",
        "            ours = await self._append(shard, cursor, events) if events else 0\n",
        "            await (self._tell(shard, events[-1].at) if events else asyncio.sleep(0))\n"
        "            ours = await self._append(shard, cursor, events) if events else 0\n",
        ("tests/unit/test_relay.py::test_what_is_marked_durable_has_been_stored_before",),
        "Waiting confirms would be told recorded while PostgreSQL may still refuse.",
    ),
    Mutant(
        "marks_of_who_spoke_last",
        "promise_svc/application/relay.py",
        "for shard, cursor in self._unmarked.items()]",
        "for shard, cursor in moved.items()]",
        ("tests/unit/test_relay.py::test_marks_of_all_shards_are_made_together_now_and_then",),
        "A shard's outbox would not be trimmed until something happens at a lucky moment.",
    ),
    Mutant(
        "refused_append_told",
        "promise_svc/application/relay.py",
        "                if error is None:\n                    last",
        "                if True:\n                    last",
        ("tests/unit/test_relay.py::test_a_shard_whose_append_failed_is_not_told_and_is_drained",),
        "What PostgreSQL refused would be told recorded.",
    ),
    Mutant(
        "old_news_carried",
        "promise_svc/application/relay.py",
        "time() - heard.when >= NEWS_SECONDS:",
        "time() - heard.when >= 2 * NEWS_SECONDS:",
        ("tests/unit/test_relay.py::test_news_from_before_a_failover_are_not_carried",),
        "What a shard has lost would be stored, and its next epoch would not follow.",
    ),
    Mutant(
        "news_carried_over_a_gap",
        "promise_svc/application/relay.py",
        "            heard.events.clear()\n        if len(heard.events)",
        "            pass\n        if len(heard.events)",
        (
            "tests/unit/test_relay.py::test_news_that_left_something_out_send_the_relay_to_the_outbox",
        ),
        "A lost message would stop the shard with a gap that is none.",
    ),
    Mutant(
        "takeover_without_replay",
        "promise_svc/application/takeover.py",
        "        while at < cursor:\n",
        "        while False:\n",
        (
            TAKEOVER + "test_a_shard_that_lost_its_last_events_gets_them_back_before_it_serves",
            TAKEOVER + "test_a_lost_shard_is_rebuilt_from_the_order_store",
        ),
        "What a lagging replica lost would be sold again.",
    ),
    Mutant(
        "takeover_restores_without_pause",
        "promise_svc/application/takeover.py",
        "        if step and size > RESTORED_BYTES_MAX:\n",
        "        if False:\n",
        ("tests/unit/test_rebuild.py::test_events_are_given_back_in_bounded_steps",),
        "While one shard comes back, the others of its process would sell nothing for seconds.",
    ),
    Mutant(
        "takeover_of_another_history",
        "promise_svc/application/fork.py",
        "    if not theirs or theirs[0].at != common or ours[0].payload != theirs[0].payload:\n",
        "    if False:\n",
        (TAKEOVER + "test_a_shard_with_another_history_stays_shut",),
        "Two histories would be spliced together.",
    ),
    Mutant(
        "conflicting_body_merged",
        "promise_svc/adapters/order_store/appender.py",
        "            if known.get(stored.at, stored.payload) != stored.payload:\n",
        "            if False:\n",
        ("tests/contract/test_order_store.py::test_two_bodies_under_one_identity_are_a_fork",),
        "The second of two events under one name would vanish in silence.",
    ),
    Mutant(
        "texts_not_escaped",
        "promise_svc/adapters/order_store/batch.py",
        '    if "\\\\" in joined or joined',
        "    if joined",
        ("tests/contract/test_order_store.py::test_texts_are_kept_whatever_is_in_them",),
        "A SKU with a backslash would be stored under another name, and never found again.",
    ),
    Mutant(
        "gap_skipped",
        "promise_svc/adapters/order_store/batch.py",
        "            follows = at.sequence == after.sequence + 1\n",
        "            follows = at.sequence > after.sequence\n",
        (
            "tests/contract/test_order_store.py::test_a_gap_is_refused_wherever_it_is",
            "tests/integration/test_relay.py"
            "::test_an_outbox_that_lost_an_entry_stops_its_shard_only",
        ),
        "A lost event would stay lost, and nobody would know.",
    ),
    Mutant(
        "cursor_not_compared",
        "promise_svc/adapters/order_store/queries.py",
        "    WHERE (c.epoch, c.sequence) = (\n",
        "    WHERE (c.epoch, c.sequence) >= (\n",
        (
            "tests/contract/test_order_store.py::test_a_cursor_that_stands_elsewhere_refuses_the_append",
        ),
        "A relay that was overtaken would set the order store back.",
    ),
    # -- the ATS table and its feed
    Mutant(
        "feed_skips_a_gap",
        "promise_svc/adapters/ats_table/catch_up.py",
        "    return stored.at == (at.epoch, at.sequence + 1)\n",
        "    return stored.at > at\n",
        ("tests/unit/test_feed.py::test_a_lost_message_is_filled_from_the_outbox",),
        "Product pages would show stock that was sold, until the next restart.",
    ),
    Mutant(
        "feed_takes_every_shard_for_level",
        "promise_svc/adapters/ats_table/catch_up.py",
        "        more = meta.at != at ",
        "        more = meta.at < at ",
        ("tests/unit/test_feed.py::test_a_start_loads_the_order_store_and_the_outbox_after_it",),
        "What the order store lacks at a start would be read from the shard itself, each time.",
    ),
    Mutant(
        "feed_ignores_epochs",
        "promise_svc/adapters/ats_table/catch_up.py",
        "        return stored.event.previous == at\n",
        "        return stored.event.previous is not None\n",
        ("tests/unit/test_feed.py::test_an_epoch_that_lost_events_resyncs",),
        "Rows of a history that the shard has lost would stay on sale.",
    ),
    Mutant(
        "sku_known_by_half_its_hash",
        "native/_wire.pyx",
        "                if entry.block == NULL or not is_of(\n",
        "                if entry.block == NULL or False and not is_of(\n",
        ("tests/native/test_wire.py::test_skus_of_nearly_the_same_hash_are_told_apart",),
        "One SKU of a million would be sold from another one's stock.",
    ),
    Mutant(
        "copied_rows_run_over_their_end",
        "native/_ats_table.pyx",
        "            if size > end - at:\n",
        "            if size < 0:\n",
        ("tests/native/test_ats_table.py::test_copied_rows_cut_short_are_refused",),
        "A copy cut short would be read beyond its memory.",
    ),
    Mutant(
        "twin_takes_no_safety_stock",
        "native/_ats_table.pyx",
        "max(<int64_t>0, on_hand - committed - held - safety_stock)",
        "max(<int64_t>0, on_hand - committed - held)",
        ("tests/native/test_ats_table_equality.py",),
        "The compiled table would offer units that the rules withhold.",
    ),
    # -- dates and sourcing
    Mutant(
        "cutoff_exclusive",
        "promise_svc/domain/delivery.py",
        "        if order_ms <= self.cutoff_ms(day):\n",
        "        if order_ms < self.cutoff_ms(day):\n",
        ("tests/unit/test_delivery.py::test_the_cutoff_is_inclusive_in_the_nodes_zone",),
        "An order at the cutoff itself would be promised a day late.",
    ),
    Mutant(
        "second_of_two_equal_times",
        "promise_svc/domain/calendar.py",
        "    return wall_ms - before\n",
        "    return wall_ms - after\n",
        ("tests/unit/test_calendar.py::test_a_wall_time_that_comes_twice_is_the_first",),
        "On one night in autumn every cutoff would be an hour late.",
    ),
    Mutant(
        "split_limit_passed",
        "promise_svc/domain/search.py",
        "            if len(chosen) == self._max_shipments:\n",
        "            if len(chosen) > self._max_shipments:\n",
        ("tests/unit/test_sourcing.py::test_the_split_limit_holds_where_each_sku_alone_would_fit",),
        "A cart would come in more parcels than the caller allowed.",
    ),
    # -- quotes
    Mutant(
        "quote_planned_again",
        "promise_svc/application/reservation.py",
        "        if command.quote is not None:\n            return quoted_lines(",
        "        if command.quote is not None and missing:\n            return quoted_lines(",
        (QUOTES + "test_the_very_plan_is_held_though_a_better_one_came_up",),
        "The shopper would be shown one plan and sent another.",
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
        "refused_plan_left_unsettled",
        "promise_svc/application/reservation.py",
        "                await self._shards.settle_refused(hold, reply)\n",
        "",
        (QUOTES + "test_a_crowd_gets_every_unit_of_every_node",),
        "In a crowd, shoppers would be turned away while other nodes have units.",
    ),
    Mutant(
        "quote_key_of_each_host",
        "promise_svc/bootstrap/service.py",
        "        keys = keys or (await self.store.quote_key(secrets.token_bytes(32)),)\n",
        "        keys = keys or (secrets.token_bytes(32),)\n",
        ("tests/e2e/test_quotes.py::test_a_token_of_one_host_is_held_by_another",),
        "A promise would be refused as forged by every host but the one that made it.",
    ),
    Mutant(
        "promise_not_kept",
        "promise_svc/application/reservation.py",
        "            promised=sourced.promised,\n",
        "",
        (
            QUOTES + "test_the_promised_dates_stay_with_the_reservation",
            QUOTES + "test_a_retry_in_one_step_tells_the_promise_first_made",
        ),
        "A retry would promise dates anew for a hold that was promised others.",
    ),
    # -- the front
    Mutant(
        "plain_though_unheld",
        "promise_svc/rpc/convert/plain.py",
        "    if reservation.unheld:\n",
        "    if False:\n",
        (
            "tests/native/test_cart_wire.py"
            "::test_a_reply_that_is_not_plain_is_left_to_the_specification",
        ),
        "A shopper would hear that a line is held which is not.",
    ),
    Mutant(
        "scope_unseen",
        "promise_svc/rpc/guard.py",
        "known(context.metadata(AUTHORIZATION)) & scope:",
        "known(context.metadata(AUTHORIZATION)):",
        ("tests/contract/test_front_auth.py::test_a_token_opens_the_methods_of_its_scopes",),
        "A feed's token would read what shoppers are promised.",
    ),
    Mutant(
        "withdrawn_remembered",
        "promise_svc/rpc/auth.py",
        "        self._verified: dict[str | bytes | None, int] = {}\n",
        "        self._verified = getattr(self, '_verified', {})\n",
        (
            "tests/contract/test_front_auth.py::test_a_token_withdrawn_is_refused_though_it_was_seen",
        ),
        "Whoever stole a token could go on after it was withdrawn.",
    ),
    Mutant(
        "door_left_open",
        "promise_svc/config.py",
        "        if not on_loopback(self.listen):\n",
        "        if False:\n",
        ("tests/unit/test_auth.py::test_an_open_door_is_refused",),
        "A start with one wrong address would let anybody cancel orders.",
    ),
    Mutant(
        "drain_of_grpcio_cuts_off",
        "promise_svc/rpc/transport_grpcio.py",
        "await self._server.stop(grace_seconds)",
        "await self._server.stop(0)",
        ("tests/contract/test_front.py::test_a_drain_under_load_breaks_no_call",),
        "Each restart would fail the checkouts under way.",
    ),
    Mutant(
        "drain_cuts_off",
        "promise_svc/rpc/transport_native.py",
        "        await asyncio.wait({self._front.vacated()}, timeout=grace_seconds)\n",
        "",
        ("tests/contract/test_front.py::test_a_drain_under_load_breaks_no_call",),
        "Each restart would fail the checkouts under way.",
    ),
    Mutant(
        "unknown_outcome_invites_a_retry",
        "promise_svc/rpc/status.py",
        '    "OUTCOME_UNKNOWN": Verdict(grpc.StatusCode.UNKNOWN),\n',
        '    "OUTCOME_UNKNOWN": Verdict(grpc.StatusCode.UNAVAILABLE, retryable=True),\n',
        ("tests/unit/test_status.py::test_only_what_did_nothing_may_be_retried",),
        "Proxies would blindly resend what may have been done.",
    ),
    Mutant(
        "deadline_not_clamped",
        "promise_svc/rpc/guard.py",
        "        if seconds is None or seconds > method.seconds_max:\n",
        "        if seconds is None:\n",
        ("tests/unit/test_guard.py::test_a_deadline_is_clamped_to_the_servers_maximum",),
        "A caller could keep its place for an hour.",
    ),
    Mutant(
        "write_dies_with_its_caller",
        "promise_svc/rpc/guard.py",
        "        except asyncio.CancelledError:\n            waited_for = False\n",
        "        except asyncio.CancelledError:\n            waited_for = False\n"
        "            task.cancel()\n",
        (
            "tests/unit/test_guard.py"
            "::test_a_write_whose_caller_went_away_ends_and_its_failure_is_logged",
            "tests/contract/test_front.py::test_a_cancelled_write_goes_on_and_keeps_its_place",
        ),
        "A shopper who closes the page would leave a reservation half done.",
    ),
    Mutant(
        "sheds_one_too_late",
        "promise_svc/application/admission.py",
        "        if self.in_flight >= self._marks[priority]:\n",
        "        if self.in_flight > self._marks[priority]:\n",
        ("tests/unit/test_admission.py::test_each_priority_is_shed_at_its_mark_and_not_before",),
        "The room kept for confirms would be taken by reads.",
    ),
    Mutant(
        "lowest_first",
        "promise_svc/application/admission.py",
        "sorted(Priority, reverse=True)",
        "sorted(Priority)",
        ("tests/unit/test_admission.py::test_the_highest_priority_has_the_next_turn",),
        "A crowd on cart pages would keep those who check out waiting.",
    ),
    Mutant(
        "turns_without_end",
        "promise_svc/application/admission.py",
        "        if self._waiting_count or self._seconds_left <= 0:\n",
        "        if self._waiting_count:\n",
        (
            "tests/unit/test_admission.py"
            "::test_a_turn_begins_as_many_calls_as_fit_by_what_they_cost",
        ),
        "A payment would wait until every cart that was read is worked out.",
    ),
    Mutant(
        "waits_for_ever",
        "promise_svc/application/admission.py",
        "                elif crowded and now - since > PATIENCE_SECONDS[priority]:\n",
        "                elif now - since > 1e9:\n",
        ("tests/unit/test_admission.py::test_who_has_waited_too_long_in_a_crowd_is_shed",),
        "Calls would be worked on whose callers gave up long ago.",
    ),
    Mutant(
        "few_are_a_crowd",
        "promise_svc/application/admission.py",
        "        now, crowded = self._clock(), self._waiting_count > CROWD\n",
        "        now, crowded = self._clock(), True\n",
        ("tests/unit/test_admission.py::test_who_has_waited_too_long_in_a_crowd_is_shed",),
        "A shop with ten shoppers on a busy machine would refuse half of them.",
    ),
    Mutant(
        "shed_too_late",
        "promise_svc/application/admission.py",
        "            if ahead > PATIENCE_SECONDS[priority]:\n",
        "            if ahead > 1e9:\n",
        (
            "tests/unit/test_admission.py"
            "::test_who_would_wait_too_long_is_shed_at_once_the_lowest_priority_first",
        ),
        "Each call of a crowd would cost a task and a wait before it is refused.",
    ),
    Mutant(
        "place_kept_while_waiting",
        "promise_svc/rpc/guard.py",
        "        except BaseException:\n            self._admission.leave()\n            raise\n",
        "        except BaseException:\n            raise\n",
        (
            "tests/unit/test_guard.py"
            "::test_a_caller_who_goes_while_waiting_gives_place_and_turn_back",
        ),
        "Shoppers who went away would fill the house until nobody gets in.",
    ),
    Mutant(
        "drift_skips_skus",
        "promise_svc/application/reconcile.py",
        'later[self._sample_skus - 1] if whole else ""',
        'later[-1] if whole else ""',
        ("tests/unit/test_drift.py::test_every_sku_has_its_turn",),
        "After one difference the watch would never look at the SKUs before it.",
    ),
    Mutant(
        "loop_faults_unsaid",
        "promise_svc/telemetry/metrics.py",
        "        if now - self._told.get(reason, -TELL_SECONDS) >= TELL_SECONDS:\n",
        "        if now - self._told.get(reason, now) >= TELL_SECONDS:\n",
        ("tests/unit/test_telemetry.py::test_what_a_loop_meets_is_said_in_words_once_a_minute",),
        "Whoever is called at night would see that something fails and not what.",
    ),
    Mutant(
        "functions_not_loaded",
        "promise_svc/adapters/ats_index/index.py",
        "            await _within(deadline, self.topology.load(self._library))\n",
        "",
        (
            "tests/integration/test_lost_functions.py"
            "::test_functions_that_are_gone_are_loaded_and_the_calls_made_once_more",
        ),
        "After a slot moved to a new node, nothing on it could be bought until a restart.",
    ),
    Mutant(
        "map_not_read",
        "promise_svc/adapters/ats_index/index.py",
        "            await _within(deadline, self._refresh())\n",
        "",
        (
            "tests/integration/test_lost_functions.py"
            "::test_a_shard_that_moved_is_found_at_its_new_node",
        ),
        "A shard that moved would answer nobody until a restart.",
    ),
    # -- an index node that hangs
    Mutant(
        "stalled_and_waited_for",
        "promise_svc/adapters/ats_index/coalescer.py",
        "        if self.breaker.why:\n            raise",
        '        if self.breaker.why == "AWAY":\n            raise',
        (
            "tests/integration/test_connection.py"
            "::test_a_stalled_node_is_not_waited_for_and_its_first_word_is_enough",
        ),
        "Every shopper would wait out the deadline while one machine is sick.",
    ),
    Mutant(
        "one_silent_look",
        "promise_svc/adapters/ats_index/breaker.py",
        "        self._silent_looks = self._silent_looks + 1 if silent else 0\n",
        "        self._silent_looks += silent\n",
        ("tests/unit/test_breaker.py::test_a_word_in_between_begins_the_count_anew",),
        "A node that is only slow would be given up now and then.",
    ),
    Mutant(
        "queue_kept_when_stalled",
        "promise_svc/adapters/ats_index/coalescer.py",
        '            self._refuse_queued("STALLED")\n',
        "            pass\n",
        (
            "tests/integration/test_connection.py"
            "::test_what_waits_for_its_turn_is_refused_when_the_node_stalls",
        ),
        "Calls that were never sent would wait for a node that does not answer.",
    ),
    Mutant(
        "let_in_is_enough",
        "promise_svc/adapters/ats_index/connection.py",
        '                await connection.send([("PING",)])[0]\n',
        "                pass\n",
        (
            "tests/integration/test_connection.py"
            "::test_a_node_that_lets_us_in_and_says_nothing_is_away",
        ),
        "After a reconnect to a node that hangs everybody would wait for it again.",
    ),
    # -- the processes of one host
    Mutant(
        "orphans",
        "promise_svc/host.py",
        "    die_with(assignment.supervisor_pid)\n",
        "",
        ("tests/fault/test_workers.py::test_a_killed_supervisor_leaves_nothing_behind",),
        "Workers that nobody looks after would serve beside those of the next start.",
    ),
    Mutant(
        "renewed_certificate_unseen",
        "promise_svc/rpc/tls.py",
        "        connection.context = self._context\n",
        "        return\n",
        ("tests/contract/test_front_tls.py::test_a_renewed_certificate_is_shown_to_new_callers",),
        "Ninety days after the start nobody could buy any more.",
    ),
    Mutant(
        "broken_file_is_a_crash_loop",
        "promise_svc/rpc/supervised.py",
        "isinstance(error, Unavailable | OutcomeUnknown | ConfigError)",
        "isinstance(error, Unavailable | OutcomeUnknown)",
        (SUPERVISED + "test_lack_of_what_may_come_back_is_no_crash_loop",),
        "A typo in the tokens file and one dead worker would end all the others.",
    ),
    Mutant(
        "hung_worker_kept",
        SUPERVISOR,
        "        if child.unanswered >= self._pace.silent_max:\n",
        "        if child.unanswered < 0:\n",
        (SUPERVISED + "test_a_child_that_hangs_is_killed_and_replaced",),
        "Every second shopper's connection would go to a worker that answers nothing.",
    ),
    Mutant(
        "dead_workers_socket_kept",
        SUPERVISOR,
        "        self._door.give_up(slot.listeners)\n        slot.listeners = []\n        if",
        "        if",
        (SUPERVISED + "test_a_dead_worker_is_replaced_and_the_other_serves_meanwhile",),
        "New connections would wait for a worker that is dead.",
    ),
    Mutant(
        "restart_closes_sockets",
        "promise_svc/rpc/listeners.py",
        "        self._inherited = inherited\n",
        "        self._inherited = False\n",
        (SUPERVISED + "test_connections_that_wait_are_served_by_the_worker_that_replaces_theirs",),
        "Each restart would reset the connections that wait to be accepted.",
    ),
    Mutant(
        "restart_goes_on_blindly",
        SUPERVISOR,
        "                await self._end(child)\n                return child\n",
        "                pass\n",
        (SUPERVISED + "test_a_restart_whose_new_worker_does_not_come_up_changes_nothing",),
        "A broken release would replace every worker that serves.",
    ),
    Mutant(
        "counts_of_the_dead_lost",
        "promise_svc/telemetry/merged.py",
        "        self._ended = _merge([self._ended, counted])\n",
        "",
        ("tests/unit/test_merged.py::test_what_an_ended_process_counted_stays_and_its_gauges_go",),
        "Sums would fall at each death, and rates show calls that never were.",
    ),
    # -- noticed by the simulator: rules that only crashes and lost messages put to the test
    Mutant(
        "tombstone_not_left",
        "promise_svc/domain/ledger/state.py",
        "        self.legs[rid] = tombstone\n",
        "",
        (SIMULATOR,),
        "A late message would bring a leg to life that its reservation was refused for.",
    ),
    Mutant(
        "claim_expires_by_the_workers_clock",
        "promise_svc/domain/ledger/create.py",
        "else shard.time_ms,\n            shard.time_ms + step.ttl_ms,\n",
        "else shard.time_ms,\n            step.attempt // 1000 + step.ttl_ms,\n",
        (SIMULATOR,),
        "Hosts with wrong clocks would grant holds that are over, or outlive their units.",
    ),
    Mutant(
        "body_ignored",
        "promise_svc/domain/ledger/create.py",
        "    if claim.body_hash != draft.body_hash:\n",
        '    if claim.body_hash == "":\n',
        (SIMULATOR,),
        "Another cart under a used key would be told that it is held.",
    ),
    Mutant(
        "undecided_shown",
        "promise_svc/application/reservation.py",
        "        if claim.state in (State.PENDING, State.PINNED) and not await",
        "        if claim.state in () and not await",
        (SIMULATOR,),
        "A shopper would see a hold that then never was.",
    ),
    Mutant(
        "settled_before_its_legs",
        "promise_svc/application/several_shards.py",
        "        if not refused:\n            if stopped:",
        "        if opened and hold.multi:\n"
        "            await self._settle(hold.reservation_id, hold.home, hold.attempt)\n"
        "        if not refused:\n            if stopped:",
        (SIMULATOR,),
        "A cart would be noted as held whole while a leg of it was refused.",
    ),
    Mutant(
        "goodbye_is_internal",
        "promise_svc/adapters/order_store/pool.py",
        "    asyncpg.InternalClientError,\n",
        "",
        ("tests/integration/test_order_store.py",),
        "A PostgreSQL that shuts down would be told to callers as a fault of ours.",
    ),
    Mutant(
        "overtaken_confirm_told_already",
        "promise_svc/application/several_shards.py",
        "            if reply.outcome == Outcome.OTHER_PLAN:\n",
        "            if False:\n",
        ("tests/contract/test_reservation_found.py",),
        "A confirm that others overtook would be told as done before it is recorded.",
    ),
    Mutant(
        "resolver_never_probes",
        "promise_svc/application/several_shards.py",
        "        probes = await self._each(rid, claim.attempt, State.PENDING, claim.legs",
        "        return await self._settle(rid, home, claim.attempt)\n"
        "        probes = await self._each(rid, claim.attempt, State.PENDING, claim.legs",
        (SIMULATOR,),
        "What a dead worker left half done would be noted as held.",
    ),
    Mutant(
        "recorded_waits_for_nothing",
        "promise_svc/adapters/ats_index/news.py",
        "        elif durable >= self.at:\n",
        "        else:\n",
        (SIMULATOR,),
        "A sale would be told recorded, and be lost with the index.",
    ),
    # -- the audit itself
    Mutant(
        "audit_trusts_counters",
        "promise_svc/domain/audit.py",
        "            if expected != actual:\n",
        "            if expected < 0:\n",
        ("tests/unit/test_verify.py::test_a_counter_that_is_not_the_sum_of_its_legs_is_found",),
        "Units that nobody holds would be gone and no audit would say so.",
    ),
    Mutant(
        "audit_overlooks_overselling",
        "promise_svc/domain/replay.py",
        "            if demand > _granted(before) and demand > supply:\n",
        "            if demand > _granted(before) and demand > supply + 1:\n",
        ("tests/unit/test_verify.py::test_an_event_that_granted_too_much_is_found",),
        "The one incident that matters would not be told.",
    ),
    # -- supply on its way
    Mutant(
        "short_bucket_owes_what_it_has",
        "promise_svc/adapters/ats_index/lua/supply.lua",
        "math.max(row[ON_HAND], row[COMMITTED] + row[HELD_UNITS])",
        "row[ON_HAND]",
        (
            "tests/contract/test_inbound.py::"
            "test_a_count_of_all_leaves_out_what_a_short_bucket_lacks_too",
        ),
        "What was sold of a short delivery would be sold again from the shelf.",
    ),
    Mutant(
        "counted_before_it_arrives",
        "promise_svc/application/supply.py",
        "sorted(enumerate(rows), key=_counts_last)",
        "enumerate(rows)",
        ("tests/unit/test_supply.py::test_a_count_includes_what_its_own_report_says_has_arrived",),
        "A delivery would stand on the shelf twice.",
    ),
    Mutant(
        "arrived_units_stay",
        "promise_svc/adapters/ats_index/lua/prelude.lua",
        "  if row[ARRIVAL_MS] ~= ARRIVED then return end\n",
        "  if true then return end\n",
        (
            "tests/contract/test_inbound.py::"
            "test_an_arrival_leaves_holds_where_they_are_and_frees_the_rest",
        ),
        "A delivery would stand on the floor and be sold to nobody.",
    ),
    Mutant(
        "backorder_unasked",
        "promise_svc/application/promise.py",
        "\n    later = rows if request.allow_backorder else {}\n",
        "\n    later = rows\n",
        (
            "tests/unit/test_backorder.py::"
            "test_a_hold_is_sourced_from_what_is_not_here_only_where_allowed",
        ),
        "A shopper who wants it tomorrow would wait for a ship from overseas.",
    ),
    Mutant(
        "overdue_promised",
        "promise_svc/application/promise.py",
        "        if row.bucket and row.arrival_ms > now_ms:\n",
        "        if row.bucket and row.arrival_ms:\n",
        ("tests/unit/test_backorder.py::test_a_bucket_that_nobody_can_date_is_promised_to_nobody",),
        "A delivery that is late would be promised for today.",
    ),
    Mutant(
        "waits_for_nothing",
        "promise_svc/domain/inbound.py",
        "    for sku in lacking:\n",
        "    for sku in inbound:\n",
        (
            "tests/unit/test_backorder.py::"
            "test_a_line_that_is_here_does_not_wait_for_one_that_is_not",
        ),
        "What lies on the shelf would wait for another line's delivery.",
    ),
    Mutant(
        "arrives_twice",
        "promise_svc/adapters/ats_index/lua/supply.lua",
        "  if row[ARRIVAL_MS] == ARRIVED then\n",
        "  if false then\n",
        ("tests/contract/test_inbound.py::test_a_bucket_arrives_once",),
        "A receipt sent again would sell one delivery twice.",
    ),
    Mutant(
        "arrival_moves_holds",
        "promise_svc/domain/inventory.py",
        "    spare = bucket.on_hand - bucket.committed - bucket.held\n",
        "    spare = bucket.on_hand - bucket.committed\n",
        (KINDS,),
        "What arrives would be sold past the shoppers who have been waiting for it.",
    ),
    # -- what only schedules show, by the simulator's draws
    Mutant(
        "limits_ignored",
        "promise_svc/domain/ledger/state.py",
        "            if more > 0 and self.have(",
        "            if more > 99 and self.have(",
        (LIMITS + "test_one_owner_gets_what_the_limit_allows_however_many_carts", KINDS),
        "A reseller would empty the shelf in one cart.",
    ),
    Mutant(
        "floor_not_heard",
        "promise_svc/domain/ledger/create.py",
        "    if step.network_version < shard.network_floor:\n",
        "    if False:\n",
        (KINDS,),
        "A store that closed would go on selling by plans made a second before.",
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
        "taken_again_at_a_node_that_is_off",
        "promise_svc/application/reservation.py",
        "        if not all(map(snapshot.switched_on, nodes)):\n",
        "        if False:\n",
        ("tests/contract/test_reacquire.py::test_a_node_that_is_off_sells_nothing_again",),
        "A late payment would sell from a store that cannot send anything.",
    ),
    Mutant(
        "made_when_taken_again",
        f"{LUA}/create.lua",
        "before and before[C_CREATE] or S.time",
        "S.time",
        ("tests/contract/test_reacquire.py::test_it_was_made_when_it_was_first_held",),
        "An order would tell two times at which it was made, and its life would start anew.",
    ),
    # -- loading, listing, rebuilding, and who calls
    Mutant(
        "wrong_folder_sent",
        "promise_svc/cli/load.py",
        "    if not read.refusals and not dry_run:\n",
        "    if not dry_run:\n",
        ("tests/e2e/test_load.py::test_a_folder_is_checked_loaded_and_loaded_again_for_nothing",),
        "One wrong line, and half a network would go live.",
    ),
    Mutant(
        "refusal_sent_again",
        "promise_svc/client.py",
        "            if failed.reason not in AGAIN or (",
        "            if (",
        ("tests/unit/test_client.py::test_a_refusal_is_not_sent_again",),
        "A caller's mistake would be sent until its time is up.",
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
        "unrecorded_thrown_away",
        "promise_svc/application/rebuild.py",
        "            if ahead and not lose_unrecorded:\n",
        "            if False:\n",
        ("tests/unit/test_rebuild.py::test_rebuild_keeps_what_the_order_store_has_not",),
        "A rebuild would lose holds and counts that only the index had.",
    ),
    Mutant(
        "cleared_under_a_write",
        "promise_svc/adapters/ats_index/topology.py",
        "                await steps.watch(guard)\n",
        '                await steps.watch(guard + b"?")\n',
        (
            "tests/integration/test_clear.py::"
            "test_a_shard_that_is_written_to_is_cleared_whole_or_not",
        ),
        "A rebuild beside a sale would leave a position without its history.",
    ),
)
"""At least one for each room that decides something."""
