"""`promise-svc explain`: why a figure is what it is."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import Annotated

import typer
from google.protobuf.json_format import MessageToDict
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console

from promise_svc.cli.options import TARGET, AsJson, CaFile, Connect, Target, Token, connected
from promise_svc.v1 import availability_service_pb2 as pb

EXPLAIN_SECONDS_MAX = 30.0

TEXTS = {
    "NO_ITEM": "the network has no item of this SKU: load it, or the SKU is mistyped",
    "BUNDLE": "it is a bundle: its components decide; explain the one there is least of",
    "UNKNOWN_NODE": "the network has no such node: load it, or its name is mistyped",
    "NODE_OFF": "the node is OFF: SetNodeStatus switches it on",
    "NO_METHOD": "the node offers no method, so nothing is sold from it",
    "NEVER_COUNTED": "no feed ever counted the SKU at this node",
    "NOTHING_ON_HAND": "the last count says that nothing is on hand",
    "SAFETY_STOCK": "units are withheld as safety stock",
    "PROTECTED": "units are protected for segments, and are not sold to others",
    "COMMITTED": "units are committed: orders that have not left, or owed",
    "RESERVED": "units are reserved by holds",
    "SHORTAGE": "demand exceeds supply: a count was corrected downwards, or less came than was "
    "sold",
}


def explain(
    sku: Annotated[str, typer.Argument(help="The SKU.")],
    node_id: Annotated[str, typer.Argument(help="The node.")],
    target: Target = TARGET,
    ca_file: CaFile = None,
    token: Token = "",
    limit: Annotated[
        int, typer.Option(min=1, max=1_000, help="Most reservations and events told.")
    ] = 20,
    as_json: AsJson = False,
) -> None:
    """Tell the whole story of one SKU at one node: figures, reasons, feed, holds, events.

    The answer to "why is this 0?". Reads the shard that decides and the order store.
    """
    request = pb.ExplainAvailabilityRequest(sku=sku, node_id=node_id, limit=limit)
    story = asyncio.run(_ask(partial(connected, target, ca_file, token), request))
    if as_json:
        print(json.dumps(MessageToDict(story, always_print_fields_with_no_presence=True)))
    else:
        _print(story, sku, node_id)


async def _ask(
    connect: Connect, request: pb.ExplainAvailabilityRequest
) -> pb.ExplainAvailabilityResponse:
    async with connect() as client:
        return await client.call(
            client.availability.ExplainAvailability, request, deadline_seconds=EXPLAIN_SECONDS_MAX
        )


def _print(story: pb.ExplainAvailabilityResponse, sku: str, node_id: str) -> None:
    console = Console(highlight=False)
    now = story.breakdown
    console.print(f"{sku} at {node_id}: {story.ats} can be sold", style="bold", markup=False)
    for part in story.components:
        console.print(f"= {part.ats} of {part.sku}, {part.quantity} in each", markup=False)
    if not story.components:
        left = now.on_hand - now.committed - now.reserved - now.safety_stock
        kept = sum(max(0, share.level - share.taken) for share in story.shares)
        protected = max(0, min(left, kept))
        console.print(
            f"= {now.on_hand} on hand - {now.committed} committed - {now.reserved} "
            f"reserved - {now.safety_stock} safety stock"
            + (f" - {protected} protected" if protected else "")
            + (f", short by {now.shortage}" if now.shortage else "")
        )
    for share in story.shares:
        console.print(
            f"kept for {share.segment}: {max(0, share.level - share.taken)} of {share.level}",
            markup=False,
        )
    for reason in story.reasons:
        name = pb.AvailabilityReason.Name(reason).removeprefix("AVAILABILITY_REASON_")
        console.print(f"- {TEXTS.get(name, name)}")
    at, stored = story.as_of, story.order_store_as_of
    console.print(f"decided by shard {at.shard_id}, at {at.epoch}-{at.sequence}; the order store "
                  f"has it up to {stored.epoch}-{stored.sequence}")  # fmt: skip
    age = story.table_freshness.age.ToMilliseconds()
    console.print(f"reads are told {story.table_ats}, from a copy {age} ms old")
    if story.source:
        console.print(f"last counted by {story.source}, number {story.source_sequence}")
    if story.owed:
        console.print(
            f"{story.owed} of the committed are of no order: sold elsewhere, or missed by a count; "
            "the next receipt pays them"
        )
    console.print(f"orders since the beginning: {_totals(story.totals)}")
    for supply in story.inbound:
        where = "here, and kept" if supply.arrived else "on its way"
        until = (
            f", expected {instant(supply.arrival_time)}" if supply.HasField("arrival_time") else ""
        )
        lacks = supply.committed + supply.reserved - supply.on_hand if supply.arrived else 0
        console.print(
            f"{where}: {supply.on_hand} of {supply.bucket} ({supply.committed} committed, "
            f"{supply.reserved} reserved, {supply.safety_stock} withheld){until}"
            + (f", short by {lacks}" if lacks > 0 else "")
            + f"; since the beginning {_totals(supply.totals)}",
            markup=False,
            soft_wrap=True,
        )
    # Lines, not tables: ids are long, and are what is looked for next.
    if story.reservations:
        many = story.reservation_count > 1
        who = f"{story.reservation_count} reservations keep" if many else "1 reservation keeps"
        console.print(f"{who} units:")
    for keeps in story.reservations:
        until = "an order" if keeps.confirmed else f"held until {instant(keeps.expire_time)}"
        of = f" of {keeps.bucket}" if keeps.bucket else ""
        text = f"  {keeps.quantity}{of} by {keeps.reservation_id}, {until}"
        console.print(text, markup=False, soft_wrap=True)
    if story.events:
        console.print("what happened, newest first (UTC; figures after it):")
    for event in story.events:
        counted = event.event_type == "SUPPLY_SYNCED" and event.source
        about = f"by {event.source}, number {event.source_sequence}" if counted else event.subject
        figures = f"{event.on_hand} on hand, {event.committed} committed, {event.held} held"
        what = f"{event.event_type} {about}".rstrip()
        text = f"  {instant(event.as_of.as_of_time)} {what}: {figures}"
        console.print(text, markup=False, soft_wrap=True)


def _totals(totals: pb.PositionTotals) -> str:
    return (
        f"{totals.confirmed_total} confirmed, {totals.cancelled_total} cancelled, "
        f"{totals.fulfilled_total} fulfilled"
    )


def instant(when: Timestamp) -> str:
    """As people read it, in UTC."""
    return when.ToDatetime().isoformat(" ", "milliseconds")
