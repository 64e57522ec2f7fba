"""Breaks of the compiled twins."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

MUTANTS = (
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
    Mutant(
        "search_needs_fewer_nodes",
        "native/_sourcing.pyx",
        "            if rank >= self.most:\n",
        "            if rank + 1 >= self.most:\n",
        ("tests/native/test_sourcing.py::test_the_plans_are_the_specifications",),
        "A cart would be refused, or come in more parcels, for want of a node that was left out.",
    ),
    Mutant(
        "sku_known_by_half_its_hash",
        "native/_wire.pyx",
        "                if entry.block == NULL or not is_of(\n",
        "                if entry.block == NULL or False and not is_of(\n",
        ("tests/native/test_wire.py::test_skus_of_nearly_the_same_hash_are_told_apart",),
        "One SKU of a million would be sold from another one's stock.",
    ),
)
