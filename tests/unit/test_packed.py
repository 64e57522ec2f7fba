"""Vectors packed into one integer behave as the vectors do."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from promise_svc.domain.packed import Packing


@st.composite
def vectors(draw: st.DrawFn) -> tuple[list[int], list[int], list[int]]:
    """(maxima, one, other), each of the two within the maxima; widths around every step."""
    sizes = st.sampled_from([1, 3, 127, 128, 2**15 - 1, 2**15, 2**31 - 1, 2**31, 2**40])
    maxima = draw(st.lists(sizes, min_size=1, max_size=5))
    one, other = ([draw(st.integers(0, most)) for most in maxima] for _ in range(2))
    return maxima, one, other


@given(vectors())
def test_packed_quantities_compare_and_subtract_field_by_field(
    given_vectors: tuple[list[int], list[int], list[int]],
) -> None:
    """Covers, less, counts and totals equal those of the lists."""
    maxima, one, other = given_vectors
    packing = Packing(maxima)
    have, want = packing.pack(one), packing.pack(other)
    pairs = list(zip(one, other, strict=True))

    assert packing.unpack(have) == tuple(one)
    assert packing.covers(have, want) == all(a >= b for a, b in pairs)
    assert packing.unpack(packing.less(want, have)) == tuple(max(0, b - a) for a, b in pairs)
    assert packing.nonzero_count(have) == sum(units > 0 for units in one)
    assert packing.total(have) == sum(one)
    assert [bool(have & packing.field(i)) for i in range(len(one))] == [u > 0 for u in one]
