"""What must hold inside: at every step of every shard, and of everything once it is at rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from promise_svc.application.reservation_body import decode_body
from promise_svc.domain.audit import ShardRecords, Verdict, judge, unbalanced
from promise_svc.domain.events import EventType
from promise_svc.domain.inventory import PositionKey
from promise_svc.domain.ledger import ShardLedger
from promise_svc.domain.reservation import OPEN, ClaimRecord, LegRecord, State, may_move
from promise_svc.domain.sharding import START, Position
from tests.sim.stock_laws import StockLaws
from tests.sim.valkey import Cluster, Shard
from tests.support.fake_order_store import FakeOrderStore

_ALIVE = OPEN | {State.CONFIRMED}


class Laws:
    """Follows every shard's events as they are written."""

    def __init__(
        self,
        cluster: Cluster,
        broken: Callable[[str], None],
        most_on_hand: dict[PositionKey, int],
        stock: StockLaws,
    ) -> None:
        """``most_on_hand`` is filled: the most units there ever were at a position, with those
        that have left."""
        self._broken = broken
        self._stock = stock
        self._most = most_on_hand
        self._seen = [0] * len(cluster.shards)
        self._at = [START] * len(cluster.shards)
        self._time = [0] * len(cluster.shards)
        self._taken: dict[PositionKey, int] = {}
        self._claims: dict[str, ClaimRecord] = {}
        self._keys: set[tuple[int, str]] = set()
        self._steps = 0

    def step(self, shard: Shard, verb: str, args: list[bytes]) -> None:
        """Look at what a function call has just written."""
        ledger, number = shard.ledger, shard.number
        for at, event in ledger.events[self._seen[number] :]:
            self._follows(number, at, event.type, event.previous)
            if event.time_ms < self._time[number]:
                self._broken(f"shard {number}: time falls at {at}")
            self._time[number] = event.time_ms
            self._stock.follow(number, event)
            older = ledger.legs.get(event.leg.replaces) if event.leg else None
            twice = older.lines if older is not None and older.state == State.HELD else ()
            for image in event.positions:
                key, row = PositionKey(*image[:3]), image.row
                taken = row.held + row.committed - row.sold_short
                own = sum(line.quantity for line in twice if line[:3] == key)
                sold = taken - own
                if taken > self._taken.get(key, 0) and sold > row.on_hand - row.safety_stock:
                    self._broken(f"{key} is oversold: {row[:4]}")
                self._taken[key] = taken
                ever = row.on_hand + row.fulfilled_total
                self._most[key] = max(self._most.get(key, 0), ever)
            if event.claim:
                self._moves(event.subject, event.claim)
            if event.type in (EventType.SUPPLY_ADJUSTED, EventType.SALE_RECORDED):
                self._once(number, event.subject)
        self._seen[number] = len(ledger.events)
        self._steps += 1
        if self._steps % 16 == 0:
            self._balanced(ledger)

    def _once(self, shard: int, key: str) -> None:
        """A key of a change of stock has one effect, however old it is when it comes again."""
        if (shard, key) in self._keys:
            self._broken(f"shard {shard}: {key} took effect twice")
        self._keys.add((shard, key))

    def _follows(
        self, number: int, at: Position, kind: int, previous: Position | tuple[()]
    ) -> None:
        before = self._at[number]
        begins = kind == EventType.EPOCH_STARTED
        expected = (
            Position(before.epoch + 1, 1) if begins else Position(before.epoch, before.sequence + 1)
        )
        if at != expected or (begins and previous != before):
            self._broken(f"shard {number}: {at} follows {before}")
        self._at[number] = at

    def _moves(self, rid: str, claim: ClaimRecord) -> None:
        before = self._claims.get(rid)
        self._claims[rid] = claim
        if before is None or before.attempt != claim.attempt:
            again = claim.reacquired and before and before.state == State.EXPIRED
            if before is not None and before.state != State.ABORTED and not again:
                self._broken(f"{rid}: another attempt over one that is {State(before.state).name}")
        elif claim.state == before.state and claim.change > before.change:
            return
        elif not may_move(State(before.state), State(claim.state)):
            moved = f"{State(before.state).name} became {State(claim.state).name}"
            self._broken(f"{rid}: resolved twice: {moved}")

    def _balanced(self, ledger: ShardLedger) -> None:
        for finding in unbalanced(ledger.number, _records(ledger)):
            self._broken(f"shard {ledger.number}: {finding.detail}")


def restless(
    cluster: Cluster, store: FakeOrderStore, orders_per_day: dict[str, int]
) -> Iterator[str]:
    """Why the system is not at rest yet, one sentence each."""
    legs: dict[str, dict[int, LegRecord]] = {}
    for shard in cluster.shards:
        ledger = shard.ledger
        if shard.owner != shard.node.run_id:
            yield f"shard {shard.number} does not serve"
        for rid in ledger.open_until:
            yield f"{rid} is {State(ledger.claims[rid].state).name} and not settled"
        if store._cursors.get(shard.number, START) != ledger.at:
            yield f"shard {shard.number} is at {ledger.at}, its record is not"
        if shard.durable != ledger.at:
            yield f"shard {shard.number} is not told how far its record is"
        now_ms = cluster.now_ms(shard.node)
        for rid in ledger.legs:
            leg = ledger.read_leg(rid, now_ms)
            if leg and leg.state in _ALIVE:
                legs.setdefault(rid, {})[shard.number] = leg
        if any(
            leg.state in OPEN and leg.state != State.PINNED and leg.expire_ms <= now_ms
            for leg in ledger.legs.values()
        ):
            yield f"shard {shard.number} has due legs"
    yield from _unspoken_for(cluster, legs, orders_per_day)


def _unspoken_for(
    cluster: Cluster, legs: dict[str, dict[int, LegRecord]], orders_per_day: dict[str, int]
) -> Iterator[str]:
    """Legs that no claim stands for, and claims without their legs."""
    claims: dict[str, ClaimRecord | None] = {}
    for shard in cluster.shards:
        for rid in shard.ledger.claims:
            reply = shard.ledger.read_claim(rid, cluster.now_ms(shard.node))
            claims[rid] = reply.claim or None
    forgotten = {rid: claim for shard in cluster.shards for rid, claim in shard.forgotten.items()}
    yield from _replaced(forgotten | claims)
    yield from _without_a_day(claims, orders_per_day)
    for rid in legs.keys() | claims.keys():
        every = {
            shard.number: shard.ledger.read_leg(rid, cluster.now_ms(shard.node))
            for shard in cluster.shards
        }
        verdict, why = judge(claims.get(rid) or None, every)
        if verdict is not Verdict.FINE:
            yield f"{rid}: {verdict.value}: {why}"


def _without_a_day(
    claims: dict[str, ClaimRecord | None], orders_per_day: dict[str, int]
) -> Iterator[str]:
    """Units at a bounded node that no day of it is taken for."""
    for rid, claim in claims.items() if orders_per_day else ():
        if not claim or claim.state not in _ALIVE:
            continue
        body = decode_body(claim)
        has = {(use.node_id, bucket) for use in body.capacity for bucket in use.buckets}
        for line in body.lines:
            for part in line.planned_units:
                bounded = part.node_id in orders_per_day and part.open_quantity
                if bounded and (part.node_id, part.bucket) not in has:
                    yield f"{rid} has {part} and no day of the node"


def _replaced(claims: dict[str, ClaimRecord | None]) -> Iterator[str]:
    """Of a hold and the one that replaces it both stand, or neither ever did."""
    for rid, claim in claims.items():
        if claim and claim.replaces and claim.state != State.ABORTED:
            older = claims.get(claim.replaces)
            if not older or (older.state, older.successor) != (State.SUPERSEDED, rid):
                yield f"{rid} stands, and so does {claim.replaces} that it replaces"
        if claim and claim.state == State.SUPERSEDED:
            newer = claims.get(claim.successor)
            if not newer or newer.state in (State.PENDING, State.ABORTED):
                yield f"{rid} made way for {claim.successor}, which never stood"


def unlike(cluster: Cluster, store: FakeOrderStore) -> Iterator[str]:
    """Where index, events and order store differ once all is at rest."""
    for shard in cluster.shards:
        ledger, number = shard.ledger, shard.number
        stored = sorted((at, e) for (s, at), e in store.events.items() if s == number)
        if [at for at, _ in stored] != [at for at, _ in ledger.events]:
            yield f"shard {number}: the order store has other events than the shard wrote"
        if any(e.payload != shard.payload(i) for i, (_, e) in enumerate(stored)):
            yield f"shard {number}: the order store has another body for an event"
        other = ShardLedger(number)
        other.restore((at, e.event) for at, e in stored)
        if {k: row[:7] for k, row in other.positions.items()} != {
            k: row[:7] for k, row in ledger.positions.items()
        }:
            yield f"shard {number}: replayed positions differ"
        for name, ours, theirs in (
            ("claim", ledger.claims, other.claims),
            ("leg", _with_lines(ledger.legs), _with_lines(other.legs)),
        ):
            states = {rid: (r.state, r.attempt) for rid, r in ours.items()}  # type: ignore[attr-defined]
            replayed = {rid: (r.state, r.attempt) for rid, r in theirs.items()}  # type: ignore[attr-defined]
            if {k: v for k, v in replayed.items() if k in states} != states:
                yield f"shard {number}: a replayed {name} differs"
        for finding in unbalanced(number, _records(ledger)):
            yield f"shard {number}: {finding.detail}"


def _with_lines(legs: dict[str, LegRecord]) -> dict[str, LegRecord]:
    """A tombstone is no event."""
    return {rid: leg for rid, leg in legs.items() if leg.lines}


def _records(ledger: ShardLedger) -> ShardRecords:
    return ShardRecords(ledger.positions, ledger.legs, ledger.claims)
