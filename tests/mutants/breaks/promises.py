"""Breaks of promises: stock, capacity, pickups."""

from __future__ import annotations

from tests.mutants.mutant import CAPACITY, CAPACITY_CHANGES, Mutant

MUTANTS = (
    Mutant(
        "a_full_day_is_promised",
        "promise_svc/application/capacity.py",
        "        return not self.bounds or not any(",
        "        return True or not any(",
        (f"{CAPACITY}test_a_promise_offers_no_day_that_is_full",),
        "A shopper would be shown a date that no checkout can give them.",
    ),
    Mutant(
        "a_backorder_is_worked_before_it_is_there",
        "promise_svc/application/capacity.py",
        "day = self.work_date(node_id, method, max(now_ms, arrival_ms))\n",
        "day = self.work_date(node_id, method, now_ms)\n",
        (f"{CAPACITY_CHANGES}test_what_is_on_its_way_takes_a_day_on_which_it_is_there",),
        "A store's day of today would be taken by goods that come tomorrow.",
    ),
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
    Mutant(
        "search_forgets_who_was_left_out",
        "promise_svc/application/plain_cart.py",
        "return {number: -1 for number in numbers if number is not None}",
        "return {number: 0 for number in numbers if number is not None}",
        ("tests/property/test_plain_cart.py::test_the_compiled_search_changes_no_answer",),
        "A node that the caller ruled out would send the cart.",
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
        "search_takes_full_nodes_for_free_ones",
        "promise_svc/application/plain_cart.py",
        "            others[number] = full\n",
        "            others[number] = kind\n",
        ("tests/property/test_plain_cart.py::test_in_a_crowd_it_changes_no_answer_either",),
        "At a peak shoppers would be offered stores that are full, a day later than others'.",
    ),
    Mutant(
        "search_stops_at_the_first_full_nodes",
        "promise_svc/application/plain_cart.py",
        "        if not full:\n            return promised\n",
        "        if arrivals or not full:\n            return promised\n",
        ("tests/property/test_plain_cart.py::test_in_a_crowd_it_changes_no_answer_either",),
        "A cart would come from a full node, days late, though the next one has room.",
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
        "plan_counts_units_twice",
        "promise_svc/application/promise.py",
        "searched = table.search is not None and not request.taken and",
        "searched = table.search is not None and",
        ("tests/property/test_plain_cart.py::test_the_compiled_search_changes_no_answer",),
        "A hold would be planned on units that its own other lines take, and be refused.",
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
        "search_sells_another_segments_share",
        "promise_svc/application/stock.py",
        "if segment and any(self.copy.protected(sku) for sku in skus):",
        "if segment and not skus:",
        ("tests/property/test_plain_cart.py::test_the_compiled_search_changes_no_answer",),
        "Members would be told that their own share is not theirs.",
    ),
)
