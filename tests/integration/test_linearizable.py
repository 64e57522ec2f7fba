"""What several clients see of one SKU at once is what one of them could have seen after another.

Histories are recorded on a real Valkey: each call with the instants at which it was sent and
answered. A search for an order that respects those instants and explains every answer (Wing and
Gong's, with the states it has been in remembered) is small, because the state of a SKU is: units
left, and who holds how many.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import NamedTuple

import pytest

from promise_svc.adapters.ats_index import functions
from promise_svc.adapters.ats_index.functions import Library
from promise_svc.adapters.ats_index.index import ClusterAtsIndex
from promise_svc.adapters.embedded import EmbeddedValkey
from promise_svc.domain.reservation import (
    ClaimDraft,
    CreateStep,
    LegLine,
    Outcome,
    ResolveStep,
    State,
    SupplyRow,
)
from tests.support.engines import flush
from tests.support.shards import TIMEOUT, running_index

SHARD = 3
UNITS = 3
SKUS = ("A", "B")


class Call(NamedTuple):
    """One call of one client on one SKU, with its answer."""

    sent: float
    answered: float
    verb: str
    rid: str
    quantity: int
    done: bool
    """Of a create: whether it was granted; of a release or a confirm: whether it moved the hold."""


class Stock(NamedTuple):
    """Everything a SKU's answers depend on."""

    left: int
    held: frozenset[tuple[str, int]]


def after(stock: Stock, call: Call) -> Stock | None:
    """The state after ``call``, None where its answer could not have been given in ``stock``."""
    mine = next(((rid, units) for rid, units in stock.held if rid == call.rid), None)
    if call.verb == "create":
        granted = call.quantity <= stock.left
        if granted is not call.done:
            return None
        held = stock.held | {(call.rid, call.quantity)}
        return Stock(stock.left - call.quantity, held) if granted else stock
    if (mine is not None) is not call.done:
        return None
    if mine is None:
        return stock
    back = mine[1] if call.verb == "release" else 0
    return Stock(stock.left + back, stock.held - {mine})


def linearizable(history: Sequence[Call], units: int) -> bool:
    """Whether some order of the calls, none before one that had been answered when it was sent,
    explains all answers."""
    start = (frozenset(range(len(history))), Stock(units, frozenset()))
    seen, waiting = {start}, [start]
    while waiting:
        rest, stock = waiting.pop()
        if not rest:
            return True
        first_answer = min(history[index].answered for index in rest)
        for index in rest:
            if history[index].sent <= first_answer:
                following = after(stock, history[index])
                state = (rest - {index}, following)
                if following is not None and state not in seen:
                    seen.add(state)  # type: ignore[arg-type]
                    waiting.append(state)  # type: ignore[arg-type]
    return False


async def record(
    engine: EmbeddedValkey, key_prefix: str, rng: random.Random, clients: int, calls: int
) -> dict[str, list[Call]]:
    """Clients with a connection each work on two SKUs, all at once; their calls by SKU."""
    history: dict[str, list[Call]] = {sku: [] for sku in SKUS}
    numbers = itertools.count()
    known: list[tuple[str, str]] = []

    async def client(index: ClusterAtsIndex, chance: random.Random) -> None:
        for _ in range(calls):
            verb = chance.choice(("create", "create", "release", "confirm"))
            if verb == "create" or not known:
                rid, sku = f"r{next(numbers)}", chance.choice(SKUS)
                quantity = chance.choice((1, 2))
                draft = ClaimDraft("body", 0, (SHARD,), "{}")
                lines = (LegLine(sku, "n1", "", quantity),)
                sent = time.monotonic()
                step = CreateStep(rid, 1, "plan", 600_000, 9, 0, lines, draft)
                reply = (await index.create(SHARD, [step], TIMEOUT))[0]
                known.append((rid, sku))
                verb = "create"
            else:
                (rid, sku), quantity = chance.choice(known[-6:]), 0
                target = State.RELEASED if verb == "release" else State.CONFIRMED
                sent = time.monotonic()
                reply = (await index.resolve(SHARD, [ResolveStep(rid, target)], TIMEOUT))[0]
            done = reply.outcome == Outcome.DONE
            history[sku].append(Call(sent, time.monotonic(), verb, rid, quantity, done))

    async with AsyncExitStack() as connections:
        indexes = [
            await connections.enter_async_context(running_index(engine.urls, key_prefix))
            for _ in range(clients)
        ]
        meta = await indexes[0].read_meta(SHARD, TIMEOUT)
        await indexes[0].take_over(SHARD, meta.at, TIMEOUT)
        rows = [SupplyRow(sku, "n1", "", UNITS, 0, "", 0) for sku in SKUS]
        await indexes[0].sync_supply(SHARD, rows, TIMEOUT)
        await asyncio.gather(*(client(index, random.Random(rng.random())) for index in indexes))
    return history


async def test_what_clients_see_of_one_sku_happened_in_some_order(
    valkey: EmbeddedValkey, key_prefix: str, rng: random.Random
) -> None:
    """Four clients, forty calls each, three units of each SKU."""
    flush(valkey)

    history = await record(valkey, key_prefix, rng, clients=4, calls=40)

    assert sum(len(calls) for calls in history.values()) == 160
    for calls in history.values():
        assert any(call.verb == "create" and not call.done for call in calls), "never scarce"
        assert linearizable(calls, UNITS), calls


async def test_a_broken_function_is_not_linearizable(
    valkey: EmbeddedValkey, key_prefix: str, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: the same, by Functions that grant one unit too many."""
    flush(valkey)
    whole = functions.library(3_600_000)
    broken = whole.source.replace("if free < line[4] then", "if free < line[4] - 1 then")
    assert broken != whole.source
    name = "promise_broken0"
    library = Library(name, broken.replace(whole.name, name))
    monkeypatch.setattr("promise_svc.adapters.ats_index.index.library", lambda _: library)

    history = await record(valkey, key_prefix, rng, clients=4, calls=40)

    assert not all(linearizable(calls, UNITS) for calls in history.values())
