"""What the shards have more than the table: units of holds that ran out and were not swept yet."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, MutableMapping

from promise_svc.application.ports import AtsIndex, AtsReader
from promise_svc.application.stock import ats_at
from promise_svc.application.tasks import Deadline
from promise_svc.domain.inventory import ats, for_segment
from promise_svc.domain.network import NetworkSnapshot
from promise_svc.errors import PromiseServiceError
from promise_svc.hotpath import shard_of


async def look_behind_holds(
    index: AtsIndex,
    table: AtsReader,
    snapshot: NetworkSnapshot,
    skus: Iterable[str],
    segment: str,
    missing: MutableMapping[tuple[str, str], int],
    deadline: Deadline,
) -> bool:
    """Put into ``missing`` how much less (SKU, node) has than the table says; below zero it has
    more, and then the answer is True.

    An expiry counts from its instant on; the table hears of it when it is swept. Costs a strong
    read a shard, and nothing where the table counts no units as held. Without its shard the table's
    word stands.
    """
    by_shard: dict[int, list[str]] = {}
    for sku in sorted(skus):
        if any(row.held and not row.bucket for row in table.rows(sku) or ()):
            shard = shard_of(snapshot.shard_key(sku), index.shard_count)
            by_shard.setdefault(shard, []).append(sku)
    reads = (index.read_positions(s, skus, deadline.left()) for s, skus in by_shard.items())
    more = False
    for answer in await asyncio.gather(*reads, return_exceptions=True):
        if isinstance(answer, PromiseServiceError):
            continue
        if isinstance(answer, BaseException):
            raise answer
        for image in (image for images in answer[2] for image in images if not image.bucket):
            shown = ats_at(table, image.sku, image.node_id, segment)
            gone = shown - ats(*for_segment(image.row, segment))
            missing[image.sku, image.node_id] = gone
            more = more or gone < 0
    return more
