"""Steps of one shard, drawn at random and carried out by the reference ledger."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from promise_svc.domain.inventory import ARRIVED, QUANTITY_MAX
from promise_svc.domain.ledger import ShardLedger
from promise_svc.domain.reservation import (
    OPEN,
    AdjustRow,
    ClaimDraft,
    ConformStep,
    CreateStep,
    CustomerLimit,
    FollowStep,
    LegLine,
    ProtectRow,
    ResolveStep,
    ReviseStep,
    SettleStep,
    State,
    SupplyRow,
)
from tests.support.shards import WINDOW_MS

ACCOUNT = "~C/1969-01-01/000"
"""Of a day long past: whatever sweeps may delete it."""

SHARD = 3
OTHER_SHARD = 5

skus = st.sampled_from(["A", "B"])
nodes = st.sampled_from(["n1", "n2"])
buckets = st.sampled_from(["", "", "po-1"])
ids = st.sampled_from(["r1", "r2", "r3"])
attempts = st.integers(1, 4)
quantities = st.integers(1, 4)
keys = st.sampled_from([f"k{number}" for number in range(8)])
ages = st.sampled_from([0, 1, WINDOW_MS, WINDOW_MS + 1])
"""Of idempotency keys, ms; 0 where the caller does not say."""


owners = st.sampled_from(["o1", "o2"])
limited = st.sampled_from(
    [
        (),
        (),
        (CustomerLimit("A", "s:A", 3, 0),),
        (CustomerLimit("A", "k:AB", 3, 0), CustomerLimit("B", "k:AB", 3, 0)),
        (CustomerLimit("A", "s:A", 2, 7_000), CustomerLimit("B", "s:B", 4, 0)),
    ]
)


@st.composite
def legs(draw: st.DrawFn) -> tuple[LegLine, ...]:
    places = draw(st.lists(st.tuples(skus, nodes, buckets), max_size=3, unique=True))
    lines = [LegLine(*place, draw(quantities)) for place in places]
    if draw(st.integers(0, 3)) == 0:
        lines.append(draw(accounts()))
    return tuple(lines)


@st.composite
def accounts(draw: st.DrawFn) -> LegLine:
    """A line that counts, under a limit that others may know otherwise."""
    return LegLine(ACCOUNT, draw(nodes), "", draw(st.integers(1, 2)), limit=draw(st.integers(0, 4)))


@st.composite
def creates(draw: st.DrawFn) -> CreateStep:
    lines = draw(legs())
    attempt = draw(attempts)
    multi = draw(st.integers(0, 1))
    here = (SHARD,) if lines else ()
    shards = (*here, OTHER_SHARD) if multi else here
    draft = ClaimDraft(
        draw(st.sampled_from(["x", "y"])),
        draw(st.sampled_from([0, 1])),
        shards,
        "{}",
        draw(st.integers(0, 1)),
    )
    claim = draft if shards and (not multi or draw(st.booleans())) else ()
    plan = draw(st.sampled_from(["p", "q"]))
    ttl = draw(st.sampled_from([1_000, 5_000, 30_000]))
    version = draw(st.integers(0, 2))
    older = draw(st.sampled_from(["", "", "r1", "r2"])) if multi else ""
    replaced = draw(attempts) if older else 0
    rid = draw(ids)
    segment = draw(st.sampled_from(["", "", "v", "w"]))
    limits = draw(limited)
    change = 0 if claim or not multi else draw(st.sampled_from([0, 0, 1, 2, 3]))
    return CreateStep(
        rid, attempt, plan, ttl, version, multi, lines, claim, older, replaced, segment,
        draw(owners) if limits else "", limits, change,
    )  # fmt: skip


def _as_the_contract_takes_it(row: SupplyRow) -> SupplyRow:
    """Only a figure of stock here now that names what it took off may be below zero."""
    if row.bucket:
        row = row._replace(deducted=-1)
    return row if row.deducted >= 0 else row._replace(on_hand=max(0, row.on_hand))


targets = st.sampled_from(list(State))
kept = st.sampled_from([State.HELD, State.CONFIRMED])
plans = st.sampled_from([0, 0, 1, 2])
"""Network versions of changes; 0 where nothing grows."""
ends = st.sampled_from([State.HELD, State.CONFIRMED, State.FULFILLED, State.CANCELLED])


class Steps(RuleBasedStateMachine):
    """Every step a shard knows, carried out by the reference ledger."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = ShardLedger(SHARD, WINDOW_MS)
        self.now_ms = 1_000_000_000
        self.begin()

    def begin(self) -> None:
        self.ledger.take_over(self.now_ms)

    def both(self, verb: str, steps: list[Any]) -> None:
        self.on_ledger(verb, steps)

    def on_ledger(self, verb: str, steps: list[Any]) -> list[Any]:
        if verb in ("sync_supply", "adjust_supply", "protect"):
            return list(getattr(self.ledger, verb)(steps, self.now_ms))
        return [getattr(self.ledger, verb)(step, self.now_ms) for step in steps]

    @rule(steps=st.lists(creates(), min_size=1, max_size=3))
    def create(self, steps: list[CreateStep]) -> None:
        # The client's create_time is drawn as "none" or "older than the window".
        old = self.now_ms - WINDOW_MS - 1
        self.both(
            "create",
            [
                step._replace(claim=step.claim._replace(create_ms=old))
                if step.claim and step.claim.create_ms
                else step
                for step in steps
            ],
        )

    @rule(
        rid=ids,
        to=targets,
        attempt=st.integers(0, 2),
        revision=st.integers(0, 2),
        pinned=st.integers(0, 1),
    )
    def resolve(self, rid: str, to: int, attempt: int, revision: int, pinned: int) -> None:
        self.both("resolve", [ResolveStep(rid, to, attempt, revision, pinned)])

    @rule(rid=ids, to=targets)
    def resolve_any(self, rid: str, to: int) -> None:
        self.both("resolve", [ResolveStep(rid, to)])

    @rule(steps=st.lists(st.builds(FollowStep, ids, attempts, targets), min_size=1, max_size=3))
    def follow(self, steps: list[FollowStep]) -> None:
        self.both("follow", steps)

    @rule(
        rid=ids, attempt=attempts, state=targets, change=st.integers(0, 2), replaced=st.booleans()
    )
    def settle(self, rid: str, attempt: int, state: int, change: int, replaced: bool) -> None:
        self.both("settle", [SettleStep(rid, attempt, state, change, int(replaced))])

    @rule(rid=ids, by=ids, attempt=attempts, bars=st.booleans())
    def replaced(self, rid: str, by: str, attempt: int, bars: bool) -> None:
        to = State.ABORTED if bars else State.SUPERSEDED
        self.both("resolve", [ResolveStep(rid, to, 0, 0, 0, by, attempt)])

    @precondition(lambda self: self.living_legs())
    @rule(data=st.data(), more=st.integers(0, 1), end=st.sampled_from(["stands", "bars", ""]))
    def replace(self, data: st.DataObject, more: int, end: str) -> None:
        """A hold of the same units, and perhaps one more, in the place of one that lives."""
        older = data.draw(st.sampled_from(self.living_legs()))
        leg = self.ledger.legs[older]
        rid, attempt = f"n{len(self.ledger.claims)}", 1
        lines = tuple(
            x._replace(quantity=x.quantity + more, fulfilled=0)
            for x in leg.lines
            if x.quantity + more
        )
        if not lines:
            return
        draft = ClaimDraft("x", 0, (SHARD,), "{}")
        step = CreateStep(
            rid,
            attempt,
            "p",
            5_000,
            2,
            1,
            lines,
            draft,
            older,
            leg.attempt,
            leg.segment,
            leg.owner,
            leg.limits,
        )
        self.both("create", [step])
        # Told too early that it is decided, or rightly.
        self.both("settle", [SettleStep(rid, attempt, State.PENDING, 0, int(not end))])
        if end:
            to = State.ABORTED if end == "bars" else State.SUPERSEDED
            self.both("resolve", [ResolveStep(older, to, 0, 0, 0, rid, attempt)])
            self.both("settle", [SettleStep(rid, attempt, State.PENDING, 0, 1)])

    @rule(
        rid=ids,
        sku=skus,
        node=nodes,
        quantity=st.integers(1, 2),
        ended=st.booleans(),
        limits=limited,
    )
    def sell(
        self, rid: str, sku: str, node: str, quantity: int, ended: bool,
        limits: tuple[CustomerLimit, ...],
    ) -> None:  # fmt: skip
        """A hold that fits, mostly: what changes is for living reservations only."""
        line = LegLine(sku, node, "", quantity)
        shards = (SHARD,) if ended else (SHARD, OTHER_SHARD)
        draft = ClaimDraft("x", 0, shards, "{}")
        step = CreateStep(rid, 3, "p", 5_000, 2, int(not ended), (line,), draft)
        self.both("create", [step._replace(owner="o1", limits=limits)])
        if ended:
            self.both("resolve", [ResolveStep(rid, State.CONFIRMED)])
        else:
            self.both("settle", [SettleStep(rid, 3, State.PENDING)])

    @rule(owner=owners, node=nodes, most=st.integers(1, 2), alone=st.booleans(), plan=plans)
    def grow(self, owner: str, node: str, most: int, alone: bool, plan: int) -> None:
        """A hold that then wants a unit more than its owner may have, or than there is."""
        rid = f"g{len(self.ledger.claims)}"
        limits = (CustomerLimit("A", "s:A", most, 0),)
        line, shards = LegLine("A", node, "", 1), (SHARD,) if alone else (SHARD, OTHER_SHARD)
        draft = ClaimDraft("x", 0, shards, "{}")
        multi = int(not alone)
        step = CreateStep(rid, 1, "p", 5_000, 2, multi, (line,), draft, owner=owner, limits=limits)
        self.both("create", [step])
        more, expire_ms = (line._replace(quantity=2),), self.now_ms + 5_000
        if alone:
            args = (State.HELD, State.HELD, 2, expire_ms, "{}", more)
            self.both("revise", [ReviseStep(rid, 1, 0, *args, (), plan)])
        else:
            self.both("conform", [ConformStep(rid, 1, 1, State.HELD, 5_000, more, 0, plan)])

    @rule(line=accounts(), rest=st.integers(0, 1), node=nodes, plan=plans)
    def work(self, line: LegLine, rest: int, node: str, plan: int) -> None:
        """An order that counts, and perhaps would for more, and leaves, mostly; what left counts
        on."""
        rid, line = f"w{len(self.ledger.claims)}", line._replace(node_id=node)
        draft = ClaimDraft("x", 0, (SHARD,), "{}")
        self.both("create", [CreateStep(rid, 1, "p", 5_000, 2, 0, (line,), draft)])
        if plan:
            more = (line._replace(quantity=line.quantity + 1),)
            if plan == 1:
                self.raise_network_floor(2)
            told = (1, 0, State.HELD, State.HELD, 2, self.now_ms + 5_000, "{}", more, (), plan)
            if rest:
                self.both("revise", [ReviseStep(rid, *told)])
            self.both("conform", [ConformStep(rid, 1, 1, State.HELD, 5_000, more, 1, plan)])
        self.both("resolve", [ResolveStep(rid, State.CONFIRMED)])
        gone = line._replace(quantity=rest, fulfilled=max(0, line.quantity - rest))
        to = State.CONFIRMED if rest else State.FULFILLED
        told = (1, 0, State.CONFIRMED, to, 2, self.now_ms + 5_000, "{}", (gone,))
        self.both("revise", [ReviseStep(rid, *told)])

    @rule(
        rid=ids, line=accounts(), change=st.integers(1, 3), limit=st.integers(0, 3), node=nodes,
        stays=st.booleans(),
    )  # fmt: skip
    def join(
        self, rid: str, line: LegLine, change: int, limit: int, node: str, stays: bool
    ) -> None:
        """A change adds a leg to a claim that stands; others' changes may have tried before."""
        other = f"j{len(self.ledger.claims)}" if stays else rid
        draft = ClaimDraft("x", 0, (OTHER_SHARD,), "{}")
        self.both("create", [CreateStep(other, 3, "p", 5_000, 2, 1, (), draft)])
        self.both("settle", [SettleStep(other, 3, State.PENDING)])
        before = line._replace(node_id=node, limit=limit)
        for wanted, number in ((before, 1), (line, change)):
            step = CreateStep(other, 3, "p", 5_000, 2, 1, (wanted,), change=number)
            self.both("create", [step])
        claim = self.ledger.claims.get(other)
        told = (3, claim.change if claim else 0, State.HELD, State.HELD, 2, self.now_ms + 5_000)
        legs = (SHARD, OTHER_SHARD)
        self.both("revise", [ReviseStep(other, *told, "{}", (line,), legs)])

    @precondition(lambda self: self.living_legs())
    @rule(data=st.data(), to=ends)
    def conform(self, data: st.DataObject, to: int) -> None:
        rid = data.draw(st.sampled_from(self.living_legs()) | ids)
        leg = self.ledger.legs.get(rid)
        attempt = leg.attempt if leg else data.draw(attempts)
        change = (leg.change if leg else 0) + data.draw(st.integers(0, 2)) - 1
        lines = self.changed_lines(data, rid, to)
        ttl_ms = data.draw(st.sampled_from([0, 1_500, 9_000]))
        keeps = data.draw(st.integers(0, 1))
        plan = data.draw(plans)
        step = ConformStep(rid, attempt, max(0, change), to, ttl_ms, lines, keeps, plan)
        self.both("conform", [step])

    @precondition(lambda self: self.ledger.claims)
    @rule(data=st.data(), to=ends, stays=st.booleans())
    def revise(self, data: st.DataObject, to: int, stays: bool) -> None:
        rid = data.draw(st.sampled_from(sorted(self.ledger.claims)))
        claim = self.ledger.claims[rid]
        to = claim.state if stays else to
        source = claim.state if data.draw(st.integers(0, 3)) else State.HELD
        change = claim.change if data.draw(st.integers(0, 3)) else 1
        lines = self.changed_lines(data, rid, to)
        expire_ms = self.now_ms + data.draw(st.sampled_from([0, 1_500, 9_000]))
        plan = data.draw(plans)
        step = ReviseStep(
            rid, claim.attempt, change, source, to, 7, expire_ms, "{}", lines, (), plan
        )
        self.both("revise", [step])

    def living_legs(self) -> list[str]:
        return sorted(
            rid
            for rid, leg in self.ledger.legs.items()
            if leg.state in OPEN or leg.state == State.CONFIRMED
        )

    def changed_lines(self, data: st.DataObject, rid: str, target: int) -> tuple[LegLine, ...]:
        """Lines a leg may change to: some units left, some back, some more; or any lines."""
        leg = self.ledger.legs.get(rid)
        if leg is None or data.draw(st.integers(0, 4)) == 0:
            return data.draw(legs())
        lines = []
        for line in leg.lines:
            gone = 0 if target == State.HELD else data.draw(st.integers(0, line.quantity))
            rest = data.draw(st.integers(0, line.quantity - gone + 1))
            rest = 0 if target in (State.FULFILLED, State.CANCELLED) else rest
            lines.append(line._replace(quantity=rest, fulfilled=line.fulfilled + gone))
        return tuple(lines)

    @rule(
        rows=st.lists(
            st.builds(
                SupplyRow,
                skus,
                nodes,
                buckets,
                st.integers(-3, 8),
                st.integers(-1, 2),
                st.sampled_from(["", "erp", "wms"]),
                st.integers(0, 3),
                st.sampled_from([0, 0, 5_000_000, ARRIVED]),
                st.integers(0, 1),
                st.sampled_from([-1, 0, 1, 2, 4, 8]),
            ).map(_as_the_contract_takes_it),
            min_size=1,
            max_size=4,
        )
    )
    def sync_supply(self, rows: list[SupplyRow]) -> None:
        self.both("sync_supply", rows)

    @rule(
        rows=st.lists(
            st.builds(ProtectRow, skus, nodes, buckets, st.sampled_from("vw"), st.integers(0, 3)),
            min_size=1,
            max_size=3,
        )
    )
    def protect(self, rows: list[ProtectRow]) -> None:
        self.both("protect", rows)

    @rule(
        rows=st.lists(
            st.builds(
                AdjustRow,
                skus | st.just(""),
                nodes,
                buckets,
                st.integers(-5, 5) | st.just(QUANTITY_MAX),
                keys,
                st.sampled_from(["b1", "b2"]),
                ages,
                st.just(0),
            )
            | st.builds(
                AdjustRow,
                skus | st.just(""),
                nodes,
                buckets,
                st.integers(-5, -1) | st.just(-QUANTITY_MAX),
                keys,
                st.sampled_from(["b1", "b2"]),
                ages,
                st.just(1),
            ),
            min_size=1,
            max_size=3,
        )
    )
    def adjust_supply(self, rows: list[AdjustRow]) -> None:
        # Ages of keys become times of the shard's clock.
        self.both(
            "adjust_supply",
            [
                row._replace(create_ms=self.now_ms - row.create_ms) if row.create_ms else row
                for row in rows
            ],
        )

    @rule(sku=skus, node=nodes, units=st.integers(1, 6), age=ages, paid=st.booleans())
    def sell_elsewhere(self, sku: str, node: str, units: int, age: int, paid: bool) -> None:
        """More than is there, mostly, and perhaps the receipt that pays it; under fresh keys."""
        key = f"f{len(self.ledger.adjustments)}"
        create_ms = self.now_ms - age if age else 0
        rows = [AdjustRow(sku, node, "", -units, key, "b", create_ms, 1)]
        if paid:
            rows.append(AdjustRow(sku, node, "", units, f"{key} paid", "b"))
        self.both("adjust_supply", rows)

    @rule(
        sku=skus, node=nodes, units=st.integers(1, 4), came=st.integers(0, 6),
        counted=st.integers(-4, 8),
    )  # fmt: skip
    def deliver(self, sku: str, node: str, units: int, came: int, counted: int) -> None:
        """A bucket that is sold from before it is here, mostly, with more or less than expected;
        and perhaps a count of all that stands there then."""
        bucket, rid = f"po-{len(self.ledger.positions) % 8}", f"d{len(self.ledger.claims)}"
        self.both("sync_supply", [SupplyRow(sku, node, bucket, 4, 0, "", 0, 5_000_000)])
        draft = ClaimDraft("x", 0, (SHARD,), "{}")
        line = LegLine(sku, node, bucket, units)
        self.both("create", [CreateStep(rid, 1, "p", 5_000, 2, 0, (line,), draft)])
        self.both("sync_supply", [SupplyRow(sku, node, bucket, came, -1, "", 0, ARRIVED)])
        if counted >= 0:
            self.both("sync_supply", [SupplyRow(sku, node, "", counted, -1, "", 0, 0, 1)])

    @rule(limit=st.integers(1, 3))
    def sweep(self, limit: int) -> None:
        self.both("sweep", [limit])

    @rule(milliseconds=st.sampled_from([1, 249, 250, 999, 1_000, 2_000, 5_000, 10_000]))
    def advance(self, milliseconds: int) -> None:
        self.now_ms += milliseconds

    @rule(version=st.integers(0, 2))
    def raise_network_floor(self, version: int) -> None:
        self.ledger.raise_network_floor(version)
