"""Breaks of what speaks with the engines, and of the table that reads are answered from."""

from __future__ import annotations

from tests.mutants.mutant import SIMULATOR, Mutant

MUTANTS = (
    Mutant(
        "a_closed_account_is_stored_all_the_same",
        "promise_svc/adapters/order_store/batch.py",
        "                positions.pop(key, None)\n",
        "",
        ("tests/contract/test_order_store.py::test_accounts_that_were_closed_are_stored_no_more",),
        "The audit would miss in the index what only the order store still has.",
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
        "the_least_urgent_wait_for_ever",
        "promise_svc/adapters/ats_index/coalescer.py",
        "for queue in reversed(queues) if least else queues:",
        "for queue in queues:",
        (
            "tests/integration/test_connection.py::"
            "test_nobody_waits_for_ever_behind_holds_and_a_sale_elsewhere_for_none",
        ),
        "While shoppers crowd the checkout no due hold would be swept and no count be taken.",
    ),
    Mutant(
        "feed_fills_the_way",
        "promise_svc/adapters/ats_index/coalescer.py",
        "            self._supply_in_flight += change\n",
        "            pass\n",
        ("tests/integration/test_connection.py::test_a_hold_has_few_rows_of_a_feed_before_it",),
        "While the nightly feed runs, every shopper would wait at checkout for all of its rows.",
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
    Mutant(
        "recorded_waits_for_nothing",
        "promise_svc/adapters/ats_index/news.py",
        "        elif durable >= self.at:\n",
        "        else:\n",
        (SIMULATOR,),
        "A sale would be told recorded, and be lost with the index.",
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
    Mutant(
        "dead_engine_left",
        "promise_svc/adapters/embedded/watch.py",
        "            if name := engine.fallen():\n",
        "            if name := engine.fallen()[:0]:\n",
        ("tests/e2e/test_engines_die.py::test_a_killed_engine_comes_back_and_sells_again",),
        "A shop with the bundled engines would be closed until somebody looks.",
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
        "goodbye_is_internal",
        "promise_svc/adapters/order_store/pool.py",
        "    asyncpg.InternalClientError,\n",
        "",
        ("tests/integration/test_order_store.py",),
        "A PostgreSQL that shuts down would be told to callers as a fault of ours.",
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
)
