"""`promise-svc rebuild`: a shard of the index anew, from the order store."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer
from rich.console import Console

from promise_svc.bootstrap.books import open_books
from promise_svc.cli.options import IndexUrls, OrderStoreUrl, engines_of, refuse_other_shards
from promise_svc.config import ClusterConfig


def rebuild(
    shard: Annotated[list[int], typer.Option(help="The shard; repeatable.")],
    index_url: IndexUrls = None,
    order_store_url: OrderStoreUrl = None,
    lose_unrecorded: Annotated[
        bool,
        typer.Option(help="Give up what the shard has and the order store has not: holds, counts."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Throw a shard of the index away and fill it again from the order store, under a new epoch.

    For a shard that verify or reconcile found wrong. A lost one fills itself: this is not needed
    after a crash. Servers may run, and refuse calls for this shard meanwhile; a shard that is
    written to all the time cannot be rebuilt. Refused while the order store lacks events of it.
    """
    cluster, urls, store_url = engines_of("rebuild", index_url, order_store_url)
    refuse_other_shards(cluster, shard)
    if not yes:
        typer.confirm(f"Throw away shard {', '.join(map(str, shard))} of the index?", abort=True)
    asyncio.run(_rebuild(cluster, urls, store_url, shard, lose_unrecorded))


async def _rebuild(
    cluster: ClusterConfig,
    index_urls: tuple[str, ...],
    order_store_url: str,
    shards: list[int],
    lose_unrecorded: bool,
) -> None:
    console = Console(highlight=False)
    async with open_books(cluster, index_urls, order_store_url) as books:
        for shard in shards:
            rebuilt = await books.rebuild(shard, lose_unrecorded=lose_unrecorded)
            lost = rebuilt.lost_event_count
            console.print(
                f"shard {shard}: stood at {rebuilt.before.epoch}-{rebuilt.before.sequence}, serves "
                f"at {rebuilt.after.epoch}-{rebuilt.after.sequence}"
                + (f", {lost} events given up" if lost else "")
            )
