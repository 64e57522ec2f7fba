"""Breaks of what keeps the books: supply, network, relay, takeover, rebuild, reconcile, verify."""

from __future__ import annotations

from tests.mutants.mutant import TAKEOVER, Mutant

MUTANTS = (
    Mutant(
        "a_day_is_explained_as_stock",
        "promise_svc/application/explain.py",
        "        if is_account(sku):\n",
        "        if False:\n",
        ("tests/e2e/test_keeping_books.py::test_capacity_tells_which_reservations_fill_a_day",),
        "Who asks why a store is full would be told that nobody ever counted it.",
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
        "a_lowered_capacity_is_told_to_nobody",
        "promise_svc/application/network.py",
        '    return _status(document) is NodeStatus.OFF or bool(document.get("capacities"))\n',
        "    return _status(document) is NodeStatus.OFF\n",
        ("tests/unit/test_network_admin.py::test_a_capacity_is_known_to_every_shard_on_return",),
        "For seconds after the edit, workers would sell by the old number.",
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
        "unrecorded_thrown_away",
        "promise_svc/application/rebuild.py",
        "            if ahead and not lose_unrecorded:\n",
        "            if False:\n",
        ("tests/unit/test_rebuild.py::test_rebuild_keeps_what_the_order_store_has_not",),
        "A rebuild would lose holds and counts that only the index had.",
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
        "drift_skips_skus",
        "promise_svc/application/reconcile.py",
        'later[self._sample_skus - 1] if whole else ""',
        'later[-1] if whole else ""',
        ("tests/unit/test_drift.py::test_every_sku_has_its_turn",),
        "After one difference the watch would never look at the SKUs before it.",
    ),
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
        "counted_before_it_arrives",
        "promise_svc/application/supply.py",
        "sorted(enumerate(rows), key=_counts_last)",
        "enumerate(rows)",
        ("tests/unit/test_supply.py::test_a_count_includes_what_its_own_report_says_has_arrived",),
        "A delivery would stand on the shelf twice.",
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
)
