"""`promise-svc capacity`: how much of a node's days is taken."""

from __future__ import annotations

import asyncio
import json
from datetime import date, datetime
from functools import partial
from typing import Annotated

import typer
from google.protobuf.json_format import MessageToDict
from rich.console import Console
from rich.table import Table

from promise_svc.cli.options import TARGET, AsJson, CaFile, Connect, Target, Token, connected
from promise_svc.v1 import availability_service_pb2 as pb
from promise_svc.v1 import types_pb2

CAPACITY_SECONDS_MAX = 10.0


def capacity(
    node_id: Annotated[str, typer.Argument(help="The node.")],
    target: Target = TARGET,
    ca_file: CaFile = None,
    token: Token = "",
    first: Annotated[
        datetime | None,
        typer.Option("--from", formats=["%Y-%m-%d"], help="First day; today at the node."),
    ] = None,
    days: Annotated[int, typer.Option(min=1, max=60, help="Days told.")] = 7,
    as_json: AsJson = False,
) -> None:
    """Tell how much of a node's capacity is taken, day by day and method by method."""
    request = pb.QueryNodeCapacityRequest(node_id=node_id, day_count=days)
    if first is not None:
        request.first_date.CopyFrom(
            types_pb2.Date(year=first.year, month=first.month, day=first.day)
        )
    told = asyncio.run(_ask(partial(connected, target, ca_file, token), request))
    if as_json:
        print(json.dumps(MessageToDict(told, always_print_fields_with_no_presence=True)))
    else:
        _print(told, node_id)


async def _ask(
    connect: Connect, request: pb.QueryNodeCapacityRequest
) -> pb.QueryNodeCapacityResponse:
    async with connect() as client:
        return await client.call(
            client.availability.QueryNodeCapacity, request, deadline_seconds=CAPACITY_SECONDS_MAX
        )


def _print(told: pb.QueryNodeCapacityResponse, node_id: str) -> None:
    console = Console(highlight=False)
    if not told.days:
        console.print(f"{node_id} has no capacities: its orders are not counted", markup=False)
        return
    table = Table("day", "method", title=f"{node_id}: orders of a day")
    for name in ("most", "held", "committed", "worked", "left"):
        table.add_column(name, justify="right")
    for x in told.days:
        day = date(x.date.year, x.date.month, x.date.day)
        method = types_pb2.FulfillmentMethod.Name(x.fulfillment_method)
        figures = (
            x.orders_max, x.held_orders, x.committed_orders, x.worked_orders, x.left_orders
        )  # fmt: skip
        table.add_row(
            f"{day:%a %Y-%m-%d}", method.removeprefix("FULFILLMENT_METHOD_"), *map(str, figures)
        )
    console.print(table)
    as_of = told.as_of_time.ToDatetime().isoformat(" ", "seconds")
    console.print(f"as of {as_of} UTC, network version {told.network_version}")
