"""`promise-svc reconcile`: do index and order store tell the same?"""

from __future__ import annotations

import asyncio
import json
from typing import Annotated

import typer
from rich.console import Console

from promise_svc.application.reconcile import Reconciliation
from promise_svc.bootstrap.books import open_books
from promise_svc.cli.options import (
    AsJson,
    IndexUrls,
    OrderStoreUrl,
    engines_of,
    refuse_other_shards,
)
from promise_svc.config import ClusterConfig


def reconcile(
    index_url: IndexUrls = None,
    order_store_url: OrderStoreUrl = None,
    shard: Annotated[list[int] | None, typer.Option(help="Only this shard; repeatable.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare every row of index and order store, at one point of each shard's history.

    Changes nothing; cheaper than verify, for it reads no events, and it sees nothing but drift.
    Which side is right, verify tells; where it is the order store, rebuild the shard. Ends with
    code 1 when they differ, or a shard never stood still.
    """
    cluster, urls, store_url = engines_of("reconcile", index_url, order_store_url)
    refuse_other_shards(cluster, shard or ())
    found = asyncio.run(_compare(cluster, urls, store_url, shard_ids=shard))
    if as_json:
        print(json.dumps({
            "shard_count": found.shard_count,
            "position_count": found.position_count,
            "reservation_count": found.reservation_count,
            "findings": [finding._asdict() | {"kind": finding.kind.name}
                         for finding in found.findings],
            "uncompared_shard_ids": found.uncompared_shard_ids,
        }))  # fmt: skip
    else:
        console = Console(highlight=False)
        for finding in found.findings:
            what = finding.reservation_id or f"{finding.sku} {finding.node_id}"
            text = f"{finding.kind.name} shard {finding.shard} {what}: {finding.detail}"
            console.print(text, markup=False, soft_wrap=True)
        if found.uncompared_shard_ids:
            console.print(f"shards that never stood still: {found.uncompared_shard_ids}")
        console.print(
            f"{found.shard_count} shards, {found.position_count:,} positions and "
            f"{found.reservation_count:,} reservations compared, {len(found.findings)} differences"
        )
    if found.findings or found.uncompared_shard_ids:
        raise typer.Exit(1)


async def _compare(
    cluster: ClusterConfig,
    index_urls: tuple[str, ...],
    order_store_url: str,
    *,
    shard_ids: list[int] | None,
) -> Reconciliation:
    async with open_books(cluster, index_urls, order_store_url) as books:
        return await books.compare(shard_ids or range(cluster.shard_count))
