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

from promise_svc.cli.explain import EXPLAIN_SECONDS_MAX, instant
from promise_svc.cli.options import TARGET, AsJson, CaFile, Connect, Target, Token, connected
from promise_svc.v1 import availability_service_pb2 as pb
from promise_svc.v1 import types_pb2

CAPACITY_SECONDS_MAX = 10.0

RESERVATIONS_TOLD_MAX = 1_000


def capacity(
    node_id: Annotated[str, typer.Argument(help="The node.")],
    day: Annotated[
        datetime | None,
        typer.Argument(formats=["%Y-%m-%d"], help="Tell which reservations fill this day."),
    ] = None,
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
    """Tell how much of a node's capacity is taken, day by day and method by method.

    With a day, also which holds and orders fill it, as the order store has them; that needs a token
    of the scope admin.
    """
    request = pb.QueryNodeCapacityRequest(node_id=node_id, day_count=1 if day else days)
    if first := day or first:
        request.first_date.CopyFrom(
            types_pb2.Date(year=first.year, month=first.month, day=first.day)
        )
    connect = partial(connected, target, ca_file, token)
    told, fill = asyncio.run(_ask(connect, request, filled=day is not None))
    if as_json:
        answer = MessageToDict(told, always_print_fields_with_no_presence=True)
        for method, story in fill.items():
            standing = MessageToDict(story, always_print_fields_with_no_presence=True)
            answer.setdefault("reservations", {})[method] = standing["reservations"]
        print(json.dumps(answer))
    else:
        _print(told, node_id)
        for method, story in fill.items():
            _print_reservations(method, story)


async def _ask(
    connect: Connect, request: pb.QueryNodeCapacityRequest, *, filled: bool
) -> tuple[pb.QueryNodeCapacityResponse, dict[str, pb.ExplainAvailabilityResponse]]:
    """How full the days are; and, method by method, who fills the first."""
    async with connect() as client:
        told = await client.call(
            client.availability.QueryNodeCapacity, request, deadline_seconds=CAPACITY_SECONDS_MAX
        )
        fill = {}
        for x in told.days if filled else ():
            about = pb.ExplainAvailabilityRequest(
                node_id=request.node_id,
                capacity_date=x.date,
                fulfillment_method=x.fulfillment_method,
                limit=RESERVATIONS_TOLD_MAX,
            )
            fill[_method(x)] = await client.call(
                client.availability.ExplainAvailability, about, deadline_seconds=EXPLAIN_SECONDS_MAX
            )
    return told, fill


def _method(x: pb.NodeCapacityDay) -> str:
    name = types_pb2.FulfillmentMethod.Name(x.fulfillment_method)
    return name.removeprefix("FULFILLMENT_METHOD_")


def _print_reservations(method: str, story: pb.ExplainAvailabilityResponse) -> None:
    console = Console(highlight=False)
    count = story.reservation_count
    console.print(f"{method}: {count} reservation{'s' if count != 1 else ''} to be worked")
    for x in story.reservations:
        until = "an order" if x.confirmed else f"held until {instant(x.expire_time)}"
        console.print(f"  {x.reservation_id}, {until}", markup=False, soft_wrap=True)
    if count > len(story.reservations):
        console.print(f"  and {count - len(story.reservations)} more")


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
        figures = (
            x.orders_max, x.held_orders, x.committed_orders, x.worked_orders, x.left_orders
        )  # fmt: skip
        table.add_row(f"{day:%a %Y-%m-%d}", _method(x), *map(str, figures))
    console.print(table)
    as_of = told.as_of_time.ToDatetime().isoformat(" ", "seconds")
    console.print(f"as of {as_of} UTC, network version {told.network_version}")
