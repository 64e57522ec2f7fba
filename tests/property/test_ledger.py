"""The rules of one shard, over the reference ledger and over the real Functions.

Every step drawn here is carried out by the ledger. The twin machine carries it out by the
Functions too, and demands the same reply, the same records and the same events.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule, run_state_machine_as_test

from promise_svc.adapters.ats_index.index import ClusterAtsIndex
from promise_svc.adapters.embedded import EmbeddedValkey
from promise_svc.domain.events import EventType
from promise_svc.domain.inventory import (
    ARRIVED,
    QUANTITY_MAX,
    PositionKey,
    StockPosition,
    protected_units,
)
from promise_svc.domain.ledger import ShardLedger
from promise_svc.domain.reservation import (
    OPEN,
    CreateStep,
    LegRecord,
    Outcome,
    State,
    SupplyRow,
    may_move,
)
from promise_svc.domain.sharding import START
from tests.support.engines import flush
from tests.support.shard_steps import ACCOUNT, SHARD, Steps, ids, skus
from tests.support.shards import TIMEOUT, WINDOW_MS, ShardClock, new_index


class LedgerMachine(Steps):
    """The reference ledger alone: invariants that must hold after every step."""

    reached: Counter[str] = Counter()
    """How often each path was really taken, over all runs."""

    def begin(self) -> None:
        """Scarce from the first step on, with some units withheld: a rule that is never put to
        the test is not tested."""
        super().begin()
        rows = [SupplyRow(sku, node, "", 4, 2, "", 0) for sku in "AB" for node in ("n1", "n2")]
        self.both("sync_supply", rows)

    def both(self, verb: str, steps: list[Any]) -> None:
        if verb == "create":
            for step in steps:
                self.creates(step)
            return
        if verb != "adjust_supply":
            for step in steps:
                reply = self.on_ledger(verb, [step])[0]
                if verb in ("conform", "revise"):
                    self.reached[f"{verb} {Outcome(reply.outcome).name}"] += 1
            return
        for step in steps:
            key = PositionKey(*step[:3])
            before = self.ledger.positions.get(key, StockPosition())
            there = self.units_of(key)
            outcome = Outcome(self.on_ledger(verb, [step])[0].outcome)
            after = self.ledger.positions.get(key, StockPosition())
            applied = step.quantity_delta if outcome is Outcome.DONE and step.sku else 0
            assert self.units_of(key) - there == applied, (
                "no unit is lost, whether it was there or is owed"
            )
            assert after[2:4] == before[2:4], "holds are not touched"
            assert not (step.sale and outcome is Outcome.BELOW_ZERO)
            kind = "sale" if step.sale else "change"
            short = after.sold_short - before.sold_short
            told = "short" if short > 0 else "paid" if short < 0 else ""
            self.reached[f"{kind} {outcome.name} {told}".strip()] += 1

    def units_of(self, key: PositionKey) -> int:
        """There less owed, in a bucket and in the stock that it becomes."""
        places = {key, key._replace(bucket="")}
        rows = [self.ledger.positions.get(place, StockPosition()) for place in places]
        return sum(row.on_hand - row.sold_short for row in rows)

    @invariant()
    def what_nobody_has_of_an_arrived_bucket_is_here(self) -> None:
        """Its units are those of its holds and orders; and it never is on its way again."""
        arrived: set[tuple[str, ...]] = set()
        full = False
        for _, event in self.ledger.events:
            full = full or any(i.row.on_hand == QUANTITY_MAX for i in event.positions)
            for image in event.positions:
                row, key = image.row, image[:3]
                if row.arrival_ms == ARRIVED:
                    assert image.bucket
                    assert full or row.on_hand <= row.committed + row.held
                    self.reached["arrived with holds"] += row.held > 0
                    arrived.add(key)
                assert key not in arrived or row.arrival_ms == ARRIVED

    def creates(self, step: CreateStep) -> None:
        """Of a hold that replaces another: whether it needed that one's units, and got them."""
        fits = all(self.ledger.left(x, step.segment) >= x.quantity for x in step.lines)
        before = len(self.ledger.events)
        outcome = Outcome(self.on_ledger("create", [step])[0].outcome)
        self.reached[f"create {outcome.name}"] += 1
        if step.change:
            ended = len(self.ledger.events) > before + 1
            self.reached[f"join {outcome.name}{' again' if ended else ''}"] += 1
        expired = len(self.ledger.events) > before + 1
        if step.replaces and outcome is Outcome.DONE and not fits and not expired:
            self.reached["replace DONE by own units"] += 1

    @invariant()
    def one_of_two_stands(self) -> None:
        """What replaces another is no hold before the other is superseded by it; and what was
        superseded is so for good."""
        superseded: dict[str, tuple[str, int]] = {}
        for _, event in self.ledger.events:
            claim = event.claim
            if not claim:
                continue
            if claim.state == State.SUPERSEDED:
                by = (claim.successor, claim.successor_attempt)
                assert superseded.setdefault(event.subject, by) == by
                self.reached["replaced"] += 1

    @invariant()
    def nobody_takes_more_than_a_limit_allows(self) -> None:
        """Counters are the sums over the legs; no event leaves an owner more units of a limit than
        it had and the limit allows, but for a hold that will take the place of another."""
        taken: dict[tuple[str, str, int], int] = {}
        legs: dict[str, LegRecord] = {}
        for _, event in self.ledger.events:
            if not event.leg:
                continue
            leg, before = event.leg, legs.get(event.subject)
            older = legs.get(leg.replaces)
            own = _units_counted(older) if older and older.state == State.HELD else {}
            was = _units_counted(before) if before else {}
            for key, units in _units_counted(leg).items():
                grown = units - was.get(key, 0)
                sum_now = taken.get(key, 0) + grown
                most = min((x.quantity_max for x in leg.limits if x.counter == key[0]), default=0)
                assert grown <= 0 or sum_now - own.get(key, 0) <= most, (key, sum_now)
            for key in was.keys() | _units_counted(leg).keys():
                change = _units_counted(leg).get(key, 0) - was.get(key, 0)
                taken[key] = taken.get(key, 0) + change
            legs[event.subject] = leg
        counted = {key: units for key, units in self.ledger.taken.items() if units}
        assert counted == {key: units for key, units in taken.items() if units}

    @invariant()
    def an_account_counts_what_left_too(self) -> None:
        """It has what legs put aside and what left under any of them, and grows beyond no limit
        that its lines were taken under; the day is long past, so each sweep may close it."""
        closed = [e for _, e in self.ledger.events if e.type == EventType.ACCOUNTS_CLOSED]
        self.reached["account closed"] += bool(closed)
        left: Counter[tuple[str, ...]] = Counter()
        for leg in self.ledger.legs.values():
            for line in (line for line in leg.lines if line.limit >= 0):
                left[line[:3]] += line.fulfilled
                self.reached["account with units that left"] += line.fulfilled > 0
        for key, row in self.ledger.positions.items():
            known = 0 if closed else left[key]
            assert key.sku != ACCOUNT or row.safety_stock == row.fulfilled_total >= known

    @invariant()
    def what_was_sold_short_is_owed(self) -> None:
        """Nothing lies on the shelf while units sold elsewhere are owed."""
        for row in self.ledger.positions.values():
            assert row.sold_short >= 0
            assert row.sold_short == 0 or row.on_hand == 0

    @invariant()
    def held_and_committed_are_the_sums_of_the_legs(self) -> None:
        held: dict[tuple[str, ...], int] = {}
        committed: dict[tuple[str, ...], int] = {}
        for leg in self.ledger.legs.values():
            sums = held if leg.state in OPEN else committed if leg.state == State.CONFIRMED else {}
            for line in leg.lines:
                sums[line[:3]] = sums.get(line[:3], 0) + line.quantity
        for key, row in self.ledger.positions.items():
            owed = committed.get(key, 0) + row.sold_short
            assert (row.held, row.committed) == (held.get(key, 0), owed)

    @invariant()
    def no_grant_oversells(self) -> None:
        """An event that raises held must leave committed + held within on hand less safety."""
        before: dict[tuple[str, ...], int] = {}
        legs: dict[str, LegRecord] = {}
        for _, event in self.ledger.events:
            older = event.leg.replaces if event.leg else ""
            own = legs[older].lines if older in legs and legs[older].state == State.HELD else ()
            for image in event.positions:
                row, key = image.row, image[:3]
                if row.held > before.get(key, 0):
                    # Of a hold and the one that replaces it only one will stand.
                    twice = sum(line.quantity for line in own if line[:3] == key)
                    kept = protected_units(row, event.leg.segment if event.leg else "")
                    demand = row.committed + row.held - twice + kept
                    assert demand <= row.on_hand - row.safety_stock
                before[key] = row.held
            if event.leg:
                legs[event.subject] = event.leg

    @invariant()
    def a_claim_resolves_once(self) -> None:
        """Out of HELD once; then only CONFIRMED may be ended, once."""
        last: dict[tuple[str, int], State] = {}
        for _, event in self.ledger.events:
            if event.claim and event.claim.state not in OPEN:
                key, state = (event.subject, event.claim.attempt), State(event.claim.state)
                before = last.get(key, state)
                assert state is before or may_move(before, state)
                last[key] = state

    @invariant()
    def the_sequence_has_no_gaps(self) -> None:
        expected = [(1, index + 1) for index in range(len(self.ledger.events))]
        assert [tuple(at) for at, _ in self.ledger.events] == expected

    @invariant()
    def replaying_the_events_rebuilds_the_shard(self) -> None:
        other = ShardLedger(SHARD, WINDOW_MS)
        other.restore(self.ledger.events)
        counters = {key: _counted(row) for key, row in self.ledger.positions.items()}
        assert {key: _counted(row) for key, row in other.positions.items()} == counters
        assert other.adjustments == self.ledger.adjustments
        assert other.at == self.ledger.at
        assert +Counter(other.taken) == +Counter(self.ledger.taken)
        states = {rid: claim.state for rid, claim in self.ledger.claims.items()}
        assert {rid: claim.state for rid, claim in other.claims.items()} == states


class TwinMachine(Steps):
    """The same steps by the Functions: same replies, same records, same events."""

    index: ClusterAtsIndex
    runner: asyncio.Runner
    engine: EmbeddedValkey

    def begin(self) -> None:
        flush(self.engine)
        self.clock = ShardClock(self.index, self.engine.urls[0], SHARD)
        self.now_ms = self.clock.now_ms
        self.run(self.index.take_over(SHARD, START, TIMEOUT))
        self.ledger.take_over(self.now_ms)

    def run(self, step: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(step)

    def both(self, verb: str, steps: list[Any]) -> None:
        expected = self.on_ledger(verb, steps)

        async def asked() -> Any:
            call = getattr(self.index, verb)
            if verb == "sweep":
                return [await call(SHARD, steps[0], TIMEOUT)]
            return await call(SHARD, steps, TIMEOUT)

        assert self.run(asked()) == expected

    @rule(milliseconds=st.sampled_from([1, 249, 250, 999, 1_000, 2_000, 5_000, 10_000]))
    def advance(self, milliseconds: int) -> None:
        self.now_ms += milliseconds
        self.clock.advance(milliseconds)

    @rule(version=st.integers(0, 2))
    def raise_network_floor(self, version: int) -> None:
        super().raise_network_floor(version)
        self.run(self.index.raise_network_floor(SHARD, version, TIMEOUT))

    @rule(rid=ids, sku=skus, limit=st.integers(1, 3))
    def read(self, rid: str, sku: str, limit: int) -> None:
        assert self.run(self.index.read_claims(SHARD, [rid], TIMEOUT)) == [
            self.ledger.read_claim(rid, self.now_ms)
        ]
        assert self.run(self.index.read_legs(SHARD, [rid], TIMEOUT)) == [
            self.ledger.read_leg(rid, self.now_ms)
        ]
        at, time_ms, images = self.run(self.index.read_positions(SHARD, [sku], TIMEOUT))
        assert (at, time_ms) == (self.ledger.at, self.now_ms)
        assert images == [self.ledger.read_positions(sku, self.now_ms)]
        opened = self.run(self.index.open_claims(SHARD, limit, TIMEOUT))
        assert [tuple(claim) for claim in opened] == self.ledger.open_claims(self.now_ms, limit)

    def teardown(self) -> None:
        positions, leg_records, claims = self.run(self.index.scan(SHARD))
        outbox = self.run(self.index.read_outbox(SHARD, START, 10_000, TIMEOUT))
        self.clock.close()

        assert positions == self.ledger.positions
        assert leg_records == self.ledger.legs
        assert claims == self.ledger.claims
        assert [(entry.at, entry.event) for entry in outbox] == self.ledger.events


def _units_counted(leg: LegRecord) -> dict[tuple[str, str, int], int]:
    """Units put aside, and with a window those that left."""
    alive = leg.state in OPEN or leg.state == State.CONFIRMED
    units: Counter[tuple[str, str, int]] = Counter()
    for limit in leg.limits:
        for line in (line for line in leg.lines if line.sku == limit.sku):
            counts = line.quantity if alive else 0
            counts += line.fulfilled if limit.window_ms else 0
            units[limit.counter, leg.owner, limit.window] += counts
    return dict(units)


PATHS = {
    "account closed",
    "account with units that left",
    "join DONE",
    "join DONE again",
    "join INSUFFICIENT",
    "join RESOLVED",
    "join REPEATED",
    "arrived with holds",
    "change DONE",
    "change WINDOW_PASSED",
    "change REPEATED",
    "change DONE paid",
    "replace DONE by own units",
    "replaced",
    "conform NETWORK_CHANGED",
    "revise NETWORK_CHANGED",
    "create LIMITED",
    "conform LIMITED",
    "revise LIMITED",
    "sale DONE short",
    "sale REPEATED",
    "sale WINDOW_PASSED",
}
"""What the runs must have come by, and do dozens of times each: a rule that is never reached is not
tested."""


def _counted(row: StockPosition) -> StockPosition:
    """A feed's own numbers move without an event."""
    return row._replace(source="", source_sequence=0)


@pytest.mark.timeout(400)
def test_the_ledger_keeps_its_invariants() -> None:
    """Never oversold, resolved once, gapless, replayable: after every step of any run."""
    taken = LedgerMachine.reached
    for _ in range(10):  # some paths are rare, and runs alike
        run_state_machine_as_test(
            LedgerMachine, settings=settings(max_examples=150, stateful_step_count=40)
        )
        if all(taken[path] for path in PATHS):
            break
    assert {path for path in PATHS if not taken[path]} == set(), taken


@pytest.fixture
def twin(valkey: EmbeddedValkey, key_prefix: str) -> Iterator[type[TwinMachine]]:
    with asyncio.Runner() as runner:
        index = new_index(valkey.urls, key_prefix)
        runner.run(index.start(fsync=True))
        yield type("Twin", (TwinMachine,), {"index": index, "runner": runner, "engine": valkey})
        index.close()


@pytest.mark.timeout(400)
def test_the_functions_do_exactly_what_the_ledger_does(twin: type[TwinMachine]) -> None:
    """Same replies, records and events from Lua as from the specification."""
    run_state_machine_as_test(
        twin,
        settings=settings(
            max_examples=120,
            stateful_step_count=40,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
