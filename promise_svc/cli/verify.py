"""`promise-svc verify`: do the books balance?"""

from __future__ import annotations

import asyncio
import os
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from promise_svc.application.verify_report import VerifyReport
from promise_svc.bootstrap import open_audit
from promise_svc.cli.settings import load_settings
from promise_svc.config import ClusterConfig
from promise_svc.errors import ConfigError


def verify(
    index_url: Annotated[
        list[str] | None,
        typer.Option(help="URL of a node of the Valkey cluster; may be given several times."),
    ] = None,
    order_store_url: Annotated[
        str | None, typer.Option(help="postgresql:// URL of the order store.")
    ] = None,
    findings: Annotated[
        int, typer.Option(min=1, max=10_000, help="The most findings to list.")
    ] = 100,
) -> None:
    """Audit the index, the order store, and one against the other. Changes nothing.

    URLs may also come from PROMISE_INDEX_URLS and PROMISE_ORDER_STORE_URL. The service must run,
    or legs that are still on their way to follow their claims stay where they are. Ends with code
    1 when something does not balance.
    """
    flags = {"index_urls": tuple(index_url) if index_url else None,
             "order_store_url": order_store_url}  # fmt: skip
    cluster, process = load_settings(flags, os.environ)
    if not process.index_urls or not process.order_store_url:
        raise ConfigError("verify needs --index-url and --order-store-url: what is it to read?")
    report = asyncio.run(
        _run(cluster, process.index_urls, process.order_store_url, findings_max=findings)
    )
    console = Console()
    table = Table("audit", "")
    for row in report.counts():
        table.add_row(*row)
    console.print(table)
    for finding in report.findings:
        where = " ".join(filter(None, (finding.sku, finding.node_id, finding.bucket)))
        name = f"{finding.kind.name} shard {finding.shard} {where or finding.reservation_id}"
        console.print(f"{name}: {finding.detail}", markup=False, highlight=False)
    if not report.consistent or report.uncompared_shard_ids:
        raise typer.Exit(1)


async def _run(
    cluster: ClusterConfig, index_urls: tuple[str, ...], order_store_url: str, *, findings_max: int
) -> VerifyReport:
    async with open_audit(cluster, index_urls, order_store_url) as audit:
        return await audit.run(findings_max=findings_max)
