"""What a break is, and the tests that many of them name."""

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
SOLD = "tests/contract/test_reservation_sold.py::"
RULES = "tests/unit/test_rules.py::"
AMENDS = "tests/contract/test_reservation_amends.py::"
LIMITS = "tests/contract/test_customer_limits.py::"
REPLACEMENTS = "tests/contract/test_replacements.py::"
COUNTERS = "tests/contract/test_counters.py::"
LATE = "tests/contract/test_reservation_late.py::"
DEDUCTED = "tests/contract/test_deducted_total.py::"
CAPACITY = "tests/contract/test_node_capacity.py::"
CAPACITY_CHANGES = "tests/contract/test_node_capacity_changes.py::"
LEDGER = "tests/property/test_ledger.py::test_the_ledger_keeps_its_invariants"
TWIN = "tests/property/test_ledger.py::test_the_functions_do_exactly_what_the_ledger_does"
SUPERVISOR = "promise_svc/rpc/supervisor.py"
SUPERVISED = "tests/integration/test_supervisor.py::"
TAKEOVER = "tests/fault/test_takeover.py::"
FORGOTTEN = (
    "tests/sim/test_simulator.py::"
    "test_whatever_is_asked_again_when_its_key_is_forgotten_has_no_second_effect"
)
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
