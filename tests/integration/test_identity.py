"""A start with the wrong prefix, shard count or order store, on real engines."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator

import pytest

from promise_svc.adapters.embedded import EmbeddedValkey
from promise_svc.adapters.order_store import PoolConfig, PostgresOrderStore
from promise_svc.application.identity import bind_cluster
from promise_svc.errors import EngineRefused
from tests.support.shards import TIMEOUT, new_index

SHARDS = 8


@pytest.fixture
async def bound(valkey: EmbeddedValkey, database: str, key_prefix: str) -> AsyncIterator[str]:
    """The id of a cluster of eight shards that was started once, with no shard taken over."""
    index = new_index(valkey.urls, key_prefix, SHARDS)
    await index.start(fsync=True)
    store = await PostgresOrderStore.open(PoolConfig(url=database, connections_max=2))
    yield await bind_cluster(index, store, key_prefix, SHARDS)
    await store.close()
    index.close()


async def test_the_index_keeps_the_first_id_and_shows_it_whatever_the_shard_count(
    bound: str, valkey: EmbeddedValkey, key_prefix: str
) -> None:
    """Also to a start that has the number of shards wrong and so knows none of its keys."""
    index = new_index(valkey.urls, key_prefix, 2 * SHARDS)
    await index.start(fsync=True)

    assert await index.cluster_id(TIMEOUT) == bound
    assert await index.bind_cluster("another", TIMEOUT) == bound
    index.close()


async def test_a_fresh_order_store_is_no_record_of_a_bound_index(
    bound: str, valkey: EmbeddedValkey, key_prefix: str, database: str
) -> None:
    """As when the name of the database is mistyped: refused, whatever the shard count."""
    index = new_index(valkey.urls, key_prefix, 2 * SHARDS)
    await index.start(fsync=True)
    store = await PostgresOrderStore.open(PoolConfig(url=database, connections_max=2))
    # The fixture's database is bound; what it was before is what a fresh one is.
    async with store._pool.acquire() as connection:
        await connection.execute("DELETE FROM cluster_identity")

    with pytest.raises(EngineRefused, match=bound):
        await bind_cluster(index, store, key_prefix, 2 * SHARDS)

    assert await store.cluster() is None
    await store.close()
    index.close()


@pytest.mark.parametrize("wrong", ["key_prefix", "shard_count"])
async def test_serve_refuses_a_mistyped_setting_before_it_takes_a_shard(
    bound: str, valkey: EmbeddedValkey, database: str, key_prefix: str, wrong: str
) -> None:
    """One line that names the setting and both values, code 1, and not a key written."""
    prefix = f"x{key_prefix}" if wrong == "key_prefix" else key_prefix
    shards = 16 if wrong == "shard_count" else SHARDS
    settings = {
        "PROMISE_INDEX_URLS": ",".join(valkey.urls),
        "PROMISE_ORDER_STORE_URL": database,
        "PROMISE_LISTEN": "127.0.0.1:0",
        "PROMISE_METRICS_LISTEN": "127.0.0.1:0",
        "PROMISE_KEY_PREFIX": prefix,
        "PROMISE_SHARD_COUNT": str(shards),
    }

    ended = subprocess.run(
        [sys.executable, "-m", "promise_svc", "serve"],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert ended.returncode == 1
    assert wrong in ended.stderr and "Traceback" not in ended.stderr
    index = new_index(valkey.urls, prefix, shards)
    await index.start(fsync=True)
    metas = [await index.read_meta(shard, TIMEOUT) for shard in range(shards)]
    index.close()
    assert {meta.owner for meta in metas} == {""}
