"""`promise-svc delete`: entries of the network that nothing uses any more."""

from __future__ import annotations

import asyncio
import json
from enum import StrEnum
from functools import partial
from typing import Annotated

import typer
from rich.console import Console

from promise_svc.cli.options import TARGET, AsJson, CaFile, Connect, Target, Token, connected
from promise_svc.v1 import network_service_pb2 as pb

NAMES_MAX = 1_000
"""Most names of one call; more go in several."""


class Kind(StrEnum):
    """What can be deleted."""

    NODE_GROUP = "node-group"
    CALENDAR = "calendar"
    CARRIER_SERVICE = "carrier-service"
    LANE = "lane"
    SOURCING_RULE = "sourcing-rule"


def delete(
    kind: Annotated[Kind, typer.Argument(help="Kind of the entries.")],
    names: Annotated[
        list[str],
        typer.Argument(help="Their names; of a lane such as 'node:dc-1>US:606>ground'."),
    ],
    target: Target = TARGET,
    ca_file: CaFile = None,
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Delete entries of the network that no other entry names. What was held or promised stands.

    Tells what became of each name. Ends with code 1 when one is in use, and says by what.
    """
    names = list(dict.fromkeys(names))
    results = asyncio.run(_delete(partial(connected, target, ca_file, token), kind, names))
    told = {name: _told(result) for name, result in zip(names, results, strict=True)}
    if as_json:
        print(json.dumps(told))
    else:
        console = Console(highlight=False)
        for name, text in told.items():
            console.print(f"{kind} {name}: {text}", markup=False, soft_wrap=True)
    if any(result.outcome == pb.DELETE_OUTCOME_IN_USE for result in results):
        raise typer.Exit(1)


async def _delete(connect: Connect, kind: Kind, names: list[str]) -> list[pb.DeleteResult]:
    number = pb.NetworkEntryKind.Value(f"NETWORK_ENTRY_KIND_{kind.name}")
    results: list[pb.DeleteResult] = []
    async with connect() as client:
        for first in range(0, len(names), NAMES_MAX):
            some = names[first : first + NAMES_MAX]
            request = pb.DeleteNetworkEntriesRequest(kind=number, names=some)
            reply = await client.call(client.network.DeleteNetworkEntries, request)
            results += reply.results
    return results


def _told(result: pb.DeleteResult) -> str:
    if result.outcome == pb.DELETE_OUTCOME_IN_USE:
        return f"in use by {result.used_by}"
    return "deleted" if result.outcome == pb.DELETE_OUTCOME_DELETED else "not there"
