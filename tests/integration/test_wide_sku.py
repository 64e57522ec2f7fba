"""One SKU at thousands of nodes: more fields than the Lua stack takes at once."""

from __future__ import annotations

from promise_svc.adapters.embedded import EmbeddedValkey
from promise_svc.domain.reservation import Outcome, SupplyRow
from promise_svc.domain.sharding import START
from tests.support.shards import TIMEOUT, running_index

NODES = 9_000
SHARD = 3


async def test_a_sku_at_thousands_of_nodes_is_written_and_rebuilt(
    valkey: EmbeddedValkey, key_prefix: str
) -> None:
    """In one call, and by a restore that carries all of its events at once."""
    rows = [SupplyRow("A", f"n{number}", "", 1, 0, "", 0) for number in range(NODES)]
    async with running_index(valkey.urls, key_prefix) as index:
        replies = await index.sync_supply(SHARD, rows, TIMEOUT)
        events = await index.read_outbox(SHARD, START, 10, TIMEOUT)
        positions, _, _ = await index.scan(SHARD)
    async with running_index(valkey.urls, f"{key_prefix}-again") as other:
        await other.restore(SHARD, events, TIMEOUT)
        rebuilt, _, _ = await other.scan(SHARD)

    assert {reply.outcome for reply in replies} == {Outcome.DONE}
    assert len(positions) == NODES
    assert rebuilt == positions
