"""`promise-svc verify`: do the books balance?"""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import Annotated

import typer
from google.protobuf.json_format import MessageToDict
from rich.console import Console
from rich.table import Table

from promise_svc.application.verify_report import VerifyReport
from promise_svc.bootstrap.books import open_audit
from promise_svc.cli.options import (
    AsJson,
    CaFile,
    Connect,
    IndexUrls,
    OrderStoreUrl,
    Target,
    Token,
    connected,
    engines_of,
)
from promise_svc.config import ClusterConfig
from promise_svc.rpc.convert.admin import verify_to
from promise_svc.v1 import admin_service_pb2 as pb
from promise_svc.v1.reservation_service_pb2 import Reservation

VERIFY_SECONDS_MAX = 600.0


def verify(
    index_url: IndexUrls = None,
    order_store_url: OrderStoreUrl = None,
    target: Target = "",
    ca_file: CaFile = None,
    token: Token = "",
    findings: Annotated[
        int, typer.Option(min=1, max=10_000, help="The most findings to list.")
    ] = 100,
    as_json: AsJson = False,
) -> None:
    """Audit the index, the order store, and one against the other. Changes nothing.

    With --target the service does it, else the engines are read from here.
    URLs may also come from PROMISE_INDEX_URLS and PROMISE_ORDER_STORE_URL. The service must run,
    or legs that are still on their way to follow their claims stay where they are. Ends with code
    1 when something does not balance.
    """
    if target:
        message = asyncio.run(_ask(partial(connected, target, ca_file, token), findings))
        rows = _counts(message)
    else:
        engines = engines_of("verify", index_url, order_store_url)
        report = asyncio.run(_read(*engines, findings_max=findings))
        message, rows = verify_to(report), report.counts()
    if as_json:
        print(json.dumps(MessageToDict(message, always_print_fields_with_no_presence=True)))
    else:
        _print(message, rows)
    if not message.consistent or message.uncompared_shard_ids:
        raise typer.Exit(1)


async def _ask(connect: Connect, findings_max: int) -> pb.VerifyResponse:
    async with connect() as client:
        request = pb.VerifyRequest(max_findings=findings_max)
        return await client.call(client.admin.Verify, request, deadline_seconds=VERIFY_SECONDS_MAX)


async def _read(
    cluster: ClusterConfig, index_urls: tuple[str, ...], order_store_url: str, *, findings_max: int
) -> VerifyReport:
    async with open_audit(cluster, index_urls, order_store_url) as audit:
        return await audit.run(findings_max=findings_max)


def _counts(message: pb.VerifyResponse) -> list[tuple[str, str]]:
    states = ", ".join(
        f"{each.reservation_count:,} {Reservation.State.Name(each.state).removeprefix('STATE_')}"
        for each in message.reservation_counts
    )
    numbers = (
        ("shards", message.shard_count),
        ("positions", message.position_count),
        ("reservations in the order store", message.order_store_reservation_count),
        ("events in the order store", message.order_store_event_count),
        ("events on their way", message.in_flight_event_count),
        ("positions short after a correction", message.shortage_count),
        ("positions oversold", message.oversold_count),
        ("drift between index and order store", message.drift_count),
        ("shards without a verdict", len(message.uncompared_shard_ids)),
        ("findings", message.finding_count),
    )
    return [("reservations in the index", states or "none"),
            *((name, f"{number:,}") for name, number in numbers)]  # fmt: skip


def _print(message: pb.VerifyResponse, rows: list[tuple[str, str]]) -> None:
    console = Console()
    table = Table("audit", "")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for finding in message.findings:
        where = " ".join(filter(None, (finding.sku, finding.node_id, finding.bucket)))
        kind = pb.VerifyFindingKind.Name(finding.kind).removeprefix("VERIFY_FINDING_KIND_")
        name = f"{kind} shard {finding.shard_id} {where or finding.reservation_id}"
        console.print(f"{name}: {finding.detail}", markup=False, highlight=False)
