"""`serve` with LOADTEST_FILL_SKUS SKUs more in its ATS table than anything else knows of.

Ten million positions through feeds would take longer than the rest of the bench, and reads touch
nothing but the table. So the rows are put straight into it, at the nodes of LOADTEST_FILL_NODES,
before the server says SERVING; all else is `serve`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

from loadtest.catalog import SHARD_COUNT, sku_name
from promise_svc.adapters.ats_table.table import AtsTable
from promise_svc.bootstrap.service import Service
from promise_svc.cli import main
from promise_svc.domain.events import PositionImage
from promise_svc.domain.inventory import StockPosition
from promise_svc.hotpath import shard_of

STEP_SKUS = 500


async def fill(table: AtsTable, numbers: range, node_ids: Sequence[str]) -> None:
    """Rows of SKUs ``numbers`` at every one of ``node_ids``."""
    stocked = StockPosition(on_hand=1_000_000, safety_stock=2)
    by_shard: dict[int, list[str]] = {shard: [] for shard in range(SHARD_COUNT)}
    for number in numbers:
        by_shard[shard_of(sku_name(number), SHARD_COUNT)].append(sku_name(number))
    for shard, skus in by_shard.items():
        for first in range(0, len(skus), STEP_SKUS):
            images = [
                PositionImage(sku, node_id, "", stocked)
                for sku in skus[first : first + STEP_SKUS]
                for node_id in node_ids
            ]
            at, time_ms = table.clock(shard)
            table.apply(shard, at, time_ms, images)
            await asyncio.sleep(0)


def _fill_when_followed(first: int, count: int, node_ids: Sequence[str]) -> None:
    follow = Service._follow

    async def followed(self: Service) -> None:
        await follow(self)
        await fill(self.table, range(first, first + count), node_ids)

    Service._follow = followed  # type: ignore[method-assign]


if __name__ == "__main__":
    _fill_when_followed(
        int(os.environ["LOADTEST_FILL_FIRST"]),
        int(os.environ["LOADTEST_FILL_SKUS"]),
        os.environ["LOADTEST_FILL_NODES"].split(","),
    )
    main()
