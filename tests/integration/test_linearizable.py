"""What several clients see of one SKU at once is what one of them could have seen after another.

Histories are recorded on a real Valkey: each call with the instants at which it was sent and
answered: holds, moves, changes (amended, at another node, shipped or cancelled in part), sales and
receipts elsewhere, reads. A search for an order that respects those instants and explains every
answer (Wing and Gong's, with the states it has been in remembered) is small, because the state of a
SKU is: units left at each node, and who holds how many.
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
    AdjustRow,
    ClaimDraft,
    CreateStep,
    LegLine,
    Outcome,
    ResolveStep,
    ReviseStep,
    State,
    SupplyRow,
)
from tests.support.engines import flush
from tests.support.shards import TIMEOUT, running_index

SHARD = 3
UNITS = 3
SKUS = ("A", "B")
NODES = ("n1", "n2")
CHANGES = ("RELEASED", "CONFIRMED", "CONFIRMED", "change", "change", "change")
"""What is done to a reservation."""


class Call(NamedTuple):
    """One call of one client on one SKU, with its answer."""

    sent: float
    answered: float
    verb: str
    rid: str
    wanted: tuple[int, ...]
    """Of a create: node and units; of a change: the change and the state it was computed from, then
    for each node what shall be put aside and what has left; of a sale or a receipt: the units."""
    answer: tuple[int, ...]
    """The outcome; of a read, units left at each node; of a sale or a receipt, at the first."""


class Held(NamedTuple):
    """One reservation of the SKU."""

    rid: str
    state: int
    change: int
    units: tuple[int, ...]
    """Put aside at each node."""


class Stock(NamedTuple):
    """Everything a SKU's answers depend on, for each node."""

    on_hand: tuple[int, ...]
    short: tuple[int, ...]
    """Sold elsewhere and not there."""
    held: frozenset[Held]

    def left(self) -> list[int]:
        """Below zero once more was sold elsewhere than there was."""
        taken = [held.units for held in self.held if held.state in (State.HELD, State.CONFIRMED)]
        return [
            there - short - sum(units[node] for units in taken)
            for node, (there, short) in enumerate(zip(self.on_hand, self.short, strict=True))
        ]


START = Stock((UNITS,) * len(NODES), (0,) * len(NODES), frozenset())


def do(stock: Stock, call: Call) -> tuple[tuple[int, ...], Stock]:
    """What the call is answered in ``stock``, and what becomes of it."""
    if call.verb == "read":
        return tuple(stock.left()), stock
    if call.verb == "supply":
        after = supplied(stock, call.wanted[0])
        return (max(0, after.left()[0]),), after
    mine = next((held for held in stock.held if held.rid == call.rid), None)
    if call.verb == "create":
        node, quantity = call.wanted
        if quantity > stock.left()[node]:
            return (Outcome.INSUFFICIENT,), stock
        units = tuple(quantity if at == node else 0 for at in range(len(NODES)))
        made = Held(call.rid, State.HELD, 0, units)
        return (Outcome.DONE,), stock._replace(held=stock.held | {made})
    if mine is None:
        return (Outcome.MISSING,), stock
    if call.verb == "change":
        return changed(stock, mine, call)
    target = State[call.verb]
    if mine.state == target:
        return (Outcome.REPEATED,), stock
    if mine.state != (State.CONFIRMED if target is State.CANCELLED else State.HELD):
        return (Outcome.REFUSED,), stock
    if target is State.CANCELLED and mine.change:
        return (Outcome.NEEDS_REVISION,), stock
    moved = mine._replace(state=target)
    return (Outcome.DONE,), stock._replace(held=stock.held - {mine} | {moved})


def supplied(stock: Stock, units: int) -> Stock:
    """After a receipt at the first node, which pays what was sold short, or a sale elsewhere."""
    there, short = stock.on_hand[0], stock.short[0]
    if units < 0:
        there, short = max(0, there + units), short + max(0, -units - there)
    else:
        there, short = there + max(0, units - short), max(0, short - units)
    return stock._replace(on_hand=(there, *stock.on_hand[1:]), short=(short, *stock.short[1:]))


def changed(stock: Stock, mine: Held, call: Call) -> tuple[tuple[int, ...], Stock]:
    """Amended, moved to another node, shipped or cancelled in part: all by one step."""
    change, source, *numbers = call.wanted
    if mine.change != change:
        return (Outcome.REVISION_DIFFERS,), stock
    if mine.state != source or source not in (State.HELD, State.CONFIRMED):
        return (Outcome.REFUSED,), stock
    units, gone = numbers[::2], numbers[1::2]
    growth = [new + away - old for old, new, away in zip(mine.units, units, gone, strict=True)]
    if any(more > max(0, left) for more, left in zip(growth, stock.left(), strict=True)):
        return (Outcome.INSUFFICIENT,), stock
    there = tuple(max(0, old - away) for old, away in zip(stock.on_hand, gone, strict=True))
    moved = mine._replace(change=change + 1, units=tuple(units))
    return (Outcome.DONE,), stock._replace(on_hand=there, held=stock.held - {mine} | {moved})


def linearizable(history: Sequence[Call]) -> bool:
    """Whether some order of the calls, none before one that had been answered when it was sent,
    explains all answers."""
    start = (frozenset(range(len(history))), START)
    seen, waiting = {start}, [start]
    while waiting:
        rest, stock = waiting.pop()
        if not rest:
            return True
        first_answer = min(history[index].answered for index in rest)
        for index in rest:
            if history[index].sent <= first_answer:
                answer, following = do(stock, history[index])
                state = (rest - {index}, following)
                if answer == history[index].answer and state not in seen:
                    seen.add(state)
                    waiting.append(state)
    return False


class Client:
    """One caller with a connection of its own; what it knows of reservations, all clients know."""

    def __init__(self, index: ClusterAtsIndex, chance: random.Random, shared: Shared) -> None:
        self._index = index
        self._chance = chance
        self._shared = shared

    async def call(self) -> None:
        """One call of some kind, and its place in the history of its SKU."""
        chance, verbs = self._chance, ("create", "read", "supply", "CANCELLED", *CHANGES, *CHANGES)
        verb, known = chance.choice(verbs), self._shared.known[-4:]
        sku, rid, wanted = chance.choice(SKUS), "", ()
        if verb == "supply":
            wanted = (chance.choice((-2, -1, 1)),)
        elif verb in CHANGES and known:
            sku, rid = chance.choice(known)
        elif verb != "read":
            verb, wanted = "create", (chance.randrange(len(NODES)), chance.choice((1, 2)))
            rid = f"r{next(self._shared.numbers)}"
        sent = time.monotonic()
        verb, wanted, answer = await self._ask(verb, sku, rid, wanted)
        made = Call(sent, time.monotonic(), verb, rid, wanted, answer)
        self._shared.history[sku].append(made)

    async def _ask(
        self, verb: str, sku: str, rid: str, wanted: tuple[int, ...]
    ) -> tuple[str, tuple[int, ...], tuple[int, ...]]:
        index, numbers = self._index, self._shared.numbers
        if verb == "read":
            _, _, (images,) = await index.read_positions(SHARD, [sku], TIMEOUT)
            left = {x.node_id: x.row.on_hand - x.row.committed - x.row.held for x in images}
            return verb, (), tuple(left[node] for node in NODES)
        if verb == "supply":
            (delta,), key = wanted, f"k{next(numbers)}"
            row = AdjustRow(sku, NODES[0], "", delta, key, "body", 0, int(delta < 0))
            reply = (await index.adjust_supply(SHARD, [row], TIMEOUT))[0]
            return verb, wanted, (reply.ats,)
        if verb == "create":
            node, quantity = wanted
            lines = (LegLine(sku, NODES[node], "", quantity),)
            draft = ClaimDraft("body", 0, (SHARD,), "{}")
            step = CreateStep(rid, 1, "plan", 600_000, 9, 0, lines, draft)
            reply = (await index.create(SHARD, [step], TIMEOUT))[0]
            self._shared.known.append((sku, rid))
            self._shared.lines[rid] = [(0, State.HELD, lines)]
            return verb, wanted, (reply.outcome,)
        if verb == "change":
            return await self._change(sku, rid)
        target = State[verb]
        reply = (await index.resolve(SHARD, [ResolveStep(rid, target)], TIMEOUT))[0]
        if reply.outcome == Outcome.DONE:
            change, _, lines = self._shared.lines[rid][-1]
            self._shared.lines[rid].append((change, target, lines))
        return verb, (), (reply.outcome,)

    async def _change(self, sku: str, rid: str) -> tuple[str, tuple[int, ...], tuple[int, ...]]:
        """From what was told last, or the time before; others may have changed it."""
        change, state, lines = self._chance.choice(self._shared.lines[rid][-2:])
        before, after = {line.node_id: line for line in lines}, []
        numbers = []
        for node in NODES:
            old = before.get(node, LegLine(sku, node, "", 0))
            leaves = self._chance.randrange(old.quantity + 1) if state is State.CONFIRMED else 0
            units = self._chance.choice((0, 1, 2))
            numbers += [units, leaves]
            after.append(LegLine(sku, node, "", units, old.fulfilled + leaves))
        step = ReviseStep(rid, 1, change, state, state, change + 2, 2**41, "{}", tuple(after))
        reply = (await self._index.revise(SHARD, [step], TIMEOUT))[0]
        if reply.outcome == Outcome.DONE:
            self._shared.lines[rid].append((change + 1, state, tuple(after)))
        return "change", (change, state, *numbers), (reply.outcome,)


class Shared:
    """What all clients have done and know."""

    def __init__(self) -> None:
        self.history: dict[str, list[Call]] = {sku: [] for sku in SKUS}
        self.known: list[tuple[str, str]] = []
        self.lines: dict[str, list[tuple[int, State, tuple[LegLine, ...]]]] = {}
        """Versions of each reservation, as they were told."""
        self.numbers = itertools.count()


async def record(
    engine: EmbeddedValkey, key_prefix: str, rng: random.Random, clients: int, calls: int
) -> dict[str, list[Call]]:
    """Clients with a connection each work on two SKUs, all at once; their calls by SKU."""
    shared = Shared()

    async def work(client: Client) -> None:
        for _ in range(calls):
            await client.call()

    async with AsyncExitStack() as connections:
        indexes = [
            await connections.enter_async_context(running_index(engine.urls, key_prefix))
            for _ in range(clients)
        ]
        meta = await indexes[0].read_meta(SHARD, TIMEOUT)
        await indexes[0].take_over(SHARD, meta.at, TIMEOUT)
        rows = [SupplyRow(sku, node, "", UNITS, 0, "", 0) for sku in SKUS for node in NODES]
        await indexes[0].sync_supply(SHARD, rows, TIMEOUT)
        made = [Client(index, random.Random(rng.random()), shared) for index in indexes]
        await asyncio.gather(*map(work, made))
    return shared.history


async def test_what_clients_see_of_one_sku_happened_in_some_order(
    valkey: EmbeddedValkey, key_prefix: str, rng: random.Random
) -> None:
    """Four clients, sixty calls each, three units of each SKU at each node."""
    flush(valkey)

    history = await record(valkey, key_prefix, rng, clients=4, calls=60)

    assert sum(len(calls) for calls in history.values()) == 240
    assert all(linearizable(calls) for calls in history.values()), history
    every = [call for calls in history.values() for call in calls]
    told = {call.answer[0] for call in every if call.verb not in ("read", "supply")}
    assert {Outcome.DONE, Outcome.INSUFFICIENT} <= told, "never scarce"


@pytest.mark.parametrize(
    ("whole", "broken"),
    [
        ("if free < line[4] then", "if free < line[4] - 1 then"),
        ("      if free < -back then", "      if false then"),
        ("row[COMMITTED] - gone - back", "row[COMMITTED] - gone"),
    ],
    ids=["a unit too many", "growth unchecked", "nothing comes back"],
)
async def test_a_broken_function_is_not_linearizable(
    valkey: EmbeddedValkey,
    key_prefix: str,
    rng: random.Random,
    monkeypatch: pytest.MonkeyPatch,
    whole: str,
    broken: str,
) -> None:
    """The negative control: the same, by Functions with one rule broken."""
    flush(valkey)
    found = functions.library(3_600_000)
    source = found.source.replace(whole, broken)
    assert source != found.source
    name = "promise_broken0"
    library = Library(name, source.replace(found.name, name))
    monkeypatch.setattr("promise_svc.adapters.ats_index.index.library", lambda _: library)

    history = await record(valkey, key_prefix, rng, clients=4, calls=60)

    assert not all(linearizable(calls) for calls in history.values())
