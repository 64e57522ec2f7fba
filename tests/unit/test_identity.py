"""Who belongs to whom: a start that would sell stock twice is refused before it touches a shard."""

from __future__ import annotations

import pytest

from promise_svc.application.identity import bind_cluster, refuse_foreign
from promise_svc.errors import ConfigError, EngineRefused
from tests.support.fake_ats_index import FakeAtsIndex
from tests.support.fake_order_store import FakeOrderStore


async def test_the_first_start_binds_and_the_next_finds_what_it_expects() -> None:
    """Both engines carry one id, and a restart changes nothing."""
    index, store = FakeAtsIndex(), FakeOrderStore()
    assert await refuse_foreign(index, store, "promise", 64) is None

    first = await bind_cluster(index, store, "promise", 64)

    assert await bind_cluster(index, store, "promise", 64) == first == index.bound_to


@pytest.mark.parametrize(
    ("prefix", "shard_count", "named"),
    [("prmise", 64, "key_prefix promise, not prmise"), ("promise", 32, "shard_count 64, not 32")],
)
async def test_another_prefix_or_shard_count_is_refused_by_name(
    prefix: str, shard_count: int, named: str
) -> None:
    """Its keys would all be missing, and a missing shard is rebuilt and served."""
    index, store = FakeAtsIndex(), FakeOrderStore()
    await bind_cluster(index, store, "promise", 64)
    unbound = FakeAtsIndex(shard_count)

    with pytest.raises(ConfigError, match=named):
        await bind_cluster(unbound, store, prefix, shard_count)

    assert unbound.bound_to == ""


async def test_an_index_of_another_cluster_is_refused() -> None:
    """The order store of one service with the index of another."""
    index, store = FakeAtsIndex(), FakeOrderStore()
    ours = await bind_cluster(index, store, "promise", 64)
    other_index, other_store = FakeAtsIndex(), FakeOrderStore()
    theirs = await bind_cluster(other_index, other_store, "promise", 64)

    with pytest.raises(EngineRefused, match=f"{ours}.*{theirs}"):
        await bind_cluster(other_index, store, "promise", 64)


async def test_a_fresh_order_store_for_a_bound_index_is_refused_and_stays_fresh() -> None:
    """A mistyped database name must not become that index's record."""
    index, wrong = FakeAtsIndex(), FakeOrderStore()
    await bind_cluster(index, FakeOrderStore(), "promise", 64)

    with pytest.raises(EngineRefused, match="never used"):
        await bind_cluster(index, wrong, "promise", 64)

    assert await wrong.cluster() is None


async def test_a_lost_index_is_bound_to_the_order_store_again() -> None:
    """It comes back empty and is rebuilt: that is the same cluster."""
    index, store = FakeAtsIndex(), FakeOrderStore()
    first = await bind_cluster(index, store, "promise", 64)
    lost = FakeAtsIndex()

    assert await bind_cluster(lost, store, "promise", 64) == first == lost.bound_to
