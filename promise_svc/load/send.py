"""Sends a folder through the API, so it works against any server. Sending again is safe."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import Message

from promise_svc.client import PromiseClient
from promise_svc.hotpath import shard_of
from promise_svc.load.folder import Folder
from promise_svc.load.parts import COUNTS, PROTECTION_LEVELS, Part
from promise_svc.load.rows import Refusal
from promise_svc.v1 import network_service_pb2 as pb
from promise_svc.v1 import supply_service_pb2 as supply_pb

CALLS_AT_ONCE = 4
"""Of counts, which go to shards; network edits come one after the other anyway."""

DEADLINE_SECONDS = 60.0
SORTING_SHARDS = 64
"""Rows that are decided together travel together; with another number of shards it is only slower.
"""

OnProgress = Callable[[str, int], None]
"""Name of the kind, entries answered just now."""


@dataclass(slots=True)
class Loaded:
    """What the service answered."""

    counts: dict[str, Counter[str]] = field(default_factory=dict)
    """Name of the kind -> outcome -> entries."""
    refusals: list[Refusal] = field(default_factory=list)


async def send_folder(
    client: PromiseClient,
    folder: Folder,
    *,
    source: str = "load",
    on_progress: OnProgress = lambda _name, _count: None,
) -> Loaded:
    """Send all parts in order. CallFailed when the service cannot be reached any more; what was
    answered until then stands, and a new run finishes the rest."""
    loaded = Loaded()
    for part in folder.parts.values():
        if not part.entries:
            continue
        loaded.counts[part.kind.name] = Counter()
        if part.kind.name in COUNTS:
            report: dict[str, str | int] = {
                "source": source,
                "source_sequence": folder.source_sequences[part.kind.name],
            }
            await _send_rows(client, part, report, loaded, on_progress)
        elif part.kind is PROTECTION_LEVELS:
            await _send_rows(client, part, {}, loaded, on_progress)
        else:
            method = getattr(client.network, part.kind.method)
            for indices, request in part.pages():
                reply = await client.call(method, request, deadline_seconds=DEADLINE_SECONDS)
                _note(loaded, part, indices, reply.results, pb.UpsertOutcome.Name)
                on_progress(part.kind.name, len(indices))
    loaded.refusals.sort()
    return loaded


async def _send_rows(
    client: PromiseClient,
    part: Part,
    report: Mapping[str, str | int],
    loaded: Loaded,
    on_progress: OnProgress,
) -> None:
    order = sorted(
        range(len(part.entries)), key=lambda i: shard_of(part.entries[i].sku, SORTING_SHARDS)
    )
    sorted_part = Part(
        part.kind, [part.entries[i] for i in order], [part.origins[i] for i in order]
    )
    slots = asyncio.Semaphore(CALLS_AT_ONCE)

    async def send(indices: Sequence[int], request: Message) -> None:
        async with slots:
            reply = await client.call(
                getattr(client.supply, part.kind.method),
                request,
                deadline_seconds=DEADLINE_SECONDS,
            )
        _note(loaded, sorted_part, indices, reply.results, supply_pb.SupplyOutcome.Name)
        on_progress(part.kind.name, len(indices))

    pages = sorted_part.pages(**report)
    async with asyncio.TaskGroup() as group:
        for indices, request in pages:
            group.create_task(send(indices, request))


_GOOD = frozenset({"CREATED", "UPDATED", "UNCHANGED", "APPLIED"})


def _note(
    loaded: Loaded,
    part: Part,
    indices: Sequence[int],
    results: Sequence[Any],
    name_of: Callable[[Any], str],
) -> None:
    counts = loaded.counts[part.kind.name]
    for index, result in zip(indices, results, strict=True):
        outcome = name_of(result.outcome).partition("OUTCOME_")[2]
        if outcome in _GOOD:
            counts[outcome.lower()] += 1
            continue
        counts["refused"] += 1
        missing = f" {result.missing_id}" if getattr(result, "missing_id", "") else ""
        loaded.refusals.append(
            Refusal(*part.origins[index], f"the service says {outcome}{missing}")
        )
