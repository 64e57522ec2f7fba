"""A real Valkey that forgets the Functions, and a real cluster that moves a slot."""

from __future__ import annotations

import asyncio
from pathlib import Path

import redis

from promise_svc.adapters.embedded import EmbeddedValkey
from tests.support.shards import TIMEOUT, running_index


async def test_functions_that_are_gone_are_loaded_and_the_calls_made_once_more(
    empty_valkey: EmbeddedValkey,
) -> None:
    """They do not travel with slots, nor does a replacement have them: callers do not notice."""
    async with running_index(empty_valkey.urls, "lost", shard_count=4) as index:
        for shard in range(4):
            await index.read_positions(shard, ["sku"], TIMEOUT)
        with redis.Redis.from_url(empty_valkey.urls[0]) as client:
            client.function_delete(index._library.name)
        answers = await asyncio.gather(
            *(index.read_positions(n % 4, [f"sku-{n}"], TIMEOUT) for n in range(40))
        )
        with redis.Redis.from_url(empty_valkey.urls[0]) as client:
            loaded = client.function_list(library=index._library.name)

    assert [images for _, _, images in answers] == [[[]]] * 40
    assert len(loaded) == 1


async def test_a_shard_that_moved_is_found_at_its_new_node(tmp_path: Path) -> None:
    """MOVED means that nothing ran: the map is read once, the calls are made once more, and later
    ones go there at once."""
    valkey = EmbeddedValkey(tmp_path, nodes=2)
    await asyncio.to_thread(valkey.start)
    try:
        async with running_index(valkey.urls, "moved", shard_count=4) as index:
            # Without keys its slot moves by a word to each node.
            slot = index.keys.slots[0]
            (other,) = set(index.topology.primaries) - {index.topology.node_of(slot)}
            refreshes = 0
            refresh = index.topology.refresh

            async def counted() -> None:
                nonlocal refreshes
                refreshes += 1
                await refresh()

            index.topology.refresh = counted  # type: ignore[method-assign]
            await index.read_meta(0, TIMEOUT)
            _give(valkey, slot, other.port)
            await asyncio.gather(*(index.read_meta(0, TIMEOUT) for _ in range(20)))
            await index.read_meta(0, TIMEOUT)

            assert index.topology.node_of(slot) == other
            assert refreshes == 1
    finally:
        await asyncio.to_thread(valkey.stop)


def _give(valkey: EmbeddedValkey, slot: int, port: int) -> None:
    clients = [redis.Redis.from_url(url) for url in valkey.urls]
    try:
        owner = next(c for c in clients if c.connection_pool.connection_kwargs["port"] == port)
        node_id = owner.execute_command("CLUSTER", "MYID").decode()
        # The new owner first: the old one then knows whom to name.
        for client in sorted(clients, key=lambda client: client is not owner):
            client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", node_id)
    finally:
        for client in clients:
            client.close()
