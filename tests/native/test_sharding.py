"""stable_hash and shard_of: specification and twin give one answer."""

from __future__ import annotations

from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from native import _sharding
from promise_svc.domain import sharding

# Surrogates have no UTF-8 form; everything else is a key.
KEYS = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)


@given(key=KEYS)
def test_the_twin_hashes_every_key_like_the_specification(key: str) -> None:
    """Stored data depends on the hash: one differing bit would lose a SKU."""
    assert sharding.stable_hash(key) == _sharding.stable_hash(key)


@given(key=KEYS, shard_count=st.integers(1, sharding.SHARD_COUNT_MAX))
def test_the_twin_finds_the_shard_of_the_specification(key: str, shard_count: int) -> None:
    """Both route every key alike, for every legal shard count."""
    assert sharding.shard_of(key, shard_count) == _sharding.shard_of(key, shard_count)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("", 0xEFD01F60BA992926),
        ("a", 0x82A2A958A9BECE5B),
        ("SKU-0012345", 0x5CA3F18902A5548F),
        ("é" * 32, 0x496989BA3679E73E),
    ],
)
def test_the_hash_never_changes(sharding_module: ModuleType, key: str, value: int) -> None:
    """These values are in every shard's data: a change needs a migration, not a new number here."""
    assert value == sharding_module.stable_hash(key)


@pytest.mark.parametrize("shard_count", [1, 3, 64])
def test_a_tag_is_the_smallest_number_that_lies_in_its_slot(shard_count: int) -> None:
    """Tags stand in every key of every shard: another one would find nothing."""
    found: dict[int, str] = {}
    for number in range(300_000):
        found.setdefault(sharding.slot_of(f"{number:x}"), f"{number:x}")

    slots = [round((shard + 0.5) * 16384 / shard_count - 0.5) for shard in range(shard_count)]
    assert sharding.hash_tags(shard_count) == [found[slot] for slot in slots]


@pytest.mark.parametrize(
    ("key", "shard_count", "error"),
    [("a", 0, ZeroDivisionError), ("\ud800", 64, UnicodeEncodeError)],
)
def test_what_has_no_shard_is_refused(
    sharding_module: ModuleType, key: str, shard_count: int, error: type[Exception]
) -> None:
    """Both raise the same error rather than return a number."""
    with pytest.raises(error):
        sharding_module.shard_of(key, shard_count)


def test_shards_of_serial_skus_are_even(sharding_module: ModuleType) -> None:
    """Short serial keys, the worst case of plain FNV-1a, spread within a fifth of the mean."""
    counts = [0] * 64
    for number in range(64_000):
        counts[sharding_module.shard_of(f"SKU-{number:06d}", 64)] += 1

    assert min(counts) > 800
    assert max(counts) < 1200
