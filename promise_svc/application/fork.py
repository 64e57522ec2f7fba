"""Whether a shard and the order store tell one history."""

from __future__ import annotations

from promise_svc.application.ports import AtsIndex, OrderStore
from promise_svc.domain.sharding import START, Position
from promise_svc.errors import Fork, Unavailable


async def refuse_fork(
    index: AtsIndex, store: OrderStore, shard: int, common: Position, timeout: float
) -> None:
    """Compare the event at ``common``, the newest that both may have.

    Fork where they differ; Unavailable where the order store was set back behind it meanwhile. The
    shard keeps only a window of its outbox; outside it there is nothing to compare.
    """
    if common == START:
        return
    before = Position(common.epoch, common.sequence - 1)
    ours = await index.read_outbox(shard, before, 1, timeout)
    if not ours or ours[0].at != common:
        return
    for _ in range(2):  # set back, and filled again by another relay between two reads
        theirs = await store.read_events(shard, before, 1)
        if theirs:
            break
        if await store.cursor(shard) < common:
            text = f"the order store was set back meanwhile at shard {shard}"
            raise Unavailable(text, shard=shard)
    if not theirs or theirs[0].at != common or ours[0].payload != theirs[0].payload:
        raise Fork(
            f"shard {shard}: the index and the order store have different events "
            f"{common.epoch}-{common.sequence}; neither is touched until somebody has looked",
            shard=shard,
        )
