"""The breaks: one a promise. Each must be noticed by each of the tests that it names.

``old`` stands once in its file, so that a moved rule asks for its mutant to be moved too.
"""

from __future__ import annotations

from tests.mutants.breaks import (
    adapters,
    books,
    domain,
    front,
    functions,
    native,
    promises,
    reservations,
    several_shards,
)

MUTANTS = (
    *functions.MUTANTS,
    *domain.MUTANTS,
    *several_shards.MUTANTS,
    *reservations.MUTANTS,
    *promises.MUTANTS,
    *books.MUTANTS,
    *adapters.MUTANTS,
    *front.MUTANTS,
    *native.MUTANTS,
)
