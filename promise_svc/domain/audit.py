"""What an audit looks for: each check by itself, over values somebody else has read.

The checks share no code with the Functions and none with the relay. Those over the order store's
events are in ``replay.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum, IntEnum
from typing import NamedTuple

from promise_svc.domain.inventory import PositionKey, StockPosition, shortage
from promise_svc.domain.reservation import OPEN, ClaimRecord, LegRecord, State

CLOCK_SKEW_MS = 5_000
"""A leg and its claim expire by the clocks of two shards; they may disagree this long."""

ALIVE = OPEN | {State.CONFIRMED}
"""States whose units count."""


Leg = LegRecord | tuple[()]


class FindingKind(IntEnum):
    """What an audit can find; numbers are the contract's."""

    HELD_MISMATCH = 1
    COMMITTED_MISMATCH = 2
    NEGATIVE_QUANTITY = 3
    OVERSOLD = 4
    POSITION_DRIFT = 5
    RESERVATION_DRIFT = 6
    SEQUENCE_GAP = 7
    FORK = 8
    UNRESOLVED_CLAIM = 9
    ILLEGAL_MOVE = 10
    REPLAY_MISMATCH = 11


class Finding(NamedTuple):
    """One thing that does not balance."""

    kind: FindingKind
    shard: int
    detail: str
    """One sentence for people."""
    expected: int = 0
    actual: int = 0
    sku: str = ""
    node_id: str = ""
    bucket: str = ""
    reservation_id: str = ""


class ShardRecords(NamedTuple):
    """Everything one shard has, or had, at one point of its history."""

    positions: Mapping[PositionKey, StockPosition]
    legs: Mapping[str, LegRecord]
    claims: Mapping[str, ClaimRecord]


class Verdict(Enum):
    """What the records of one reservation say together."""

    FINE = "fine"
    UNSETTLED = "unsettled"
    """Legs are still following; not wrong."""
    ORPHANED = "orphaned"
    """A held leg without a claim: it will expire by itself."""
    WRONG = "wrong"


# -- the index alone ---------------------------------------------------------------------------


def unbalanced(shard: int, records: ShardRecords) -> Iterator[Finding]:
    """Positions whose counters are not the sums of their legs, or are negative. Cost: linear."""
    held: dict[PositionKey, int] = {}
    committed: dict[PositionKey, int] = {}
    for leg in records.legs.values():
        sums = held if leg.state in OPEN else committed
        if leg.state in ALIVE:
            for line in leg.lines:
                key = PositionKey(*line[:3])
                sums[key] = sums.get(key, 0) + line.quantity
    for key in records.positions.keys() | held.keys() | committed.keys():
        row = records.positions.get(key, StockPosition())
        owed = committed.get(key, 0) + row.sold_short
        for kind, name, expected, actual in (
            (FindingKind.HELD_MISMATCH, "held", held.get(key, 0), row.held),
            (FindingKind.COMMITTED_MISMATCH, "committed", owed, row.committed),
        ):
            if expected != actual:
                text = f"{name} is {actual}, its legs add up to {expected}"
                yield Finding(kind, shard, text, expected, actual, *key)
        least = min(*row[:7], row.sold_short)
        if least < 0:
            text = f"a figure is negative: {_figures(row)}"
            yield Finding(FindingKind.NEGATIVE_QUANTITY, shard, text, 0, least, *key)


def shortage_count(records: ShardRecords, time_ms: int) -> int:
    """Positions whose demand exceeds supply at ``time_ms``; due holds are no demand."""
    due: dict[PositionKey, int] = {}
    for leg in records.legs.values():
        if leg.state == State.HELD and time_ms >= leg.expire_ms:
            for line in leg.lines:
                key = PositionKey(*line[:3])
                due[key] = due.get(key, 0) + line.quantity
    return sum(
        shortage(row.on_hand, row.committed, row.held - due.get(key, 0), row.safety_stock) > 0
        for key, row in records.positions.items()
    )


def judge(claim: ClaimRecord | None, legs: Mapping[int, Leg]) -> tuple[Verdict, str]:
    """Compare a claim with its legs by shard, both read as of now (a due one reads EXPIRED)."""
    alive = {shard: leg for shard, leg in legs.items() if leg and leg.state in ALIVE}
    if claim is None:
        if all(leg.state == State.HELD for leg in alive.values()):
            return (Verdict.ORPHANED if alive else Verdict.FINE), "a held leg has no claim"
        return Verdict.WRONG, f"{_legs(alive)} without a claim"
    state = State(claim.state)
    if state is not State.CONFIRMED and not claim.settled:
        return Verdict.UNSETTLED, ""
    # Taken for a change that is not decided, or came to nothing: it asks home, and ends by itself.
    joining = {
        shard
        for shard, leg in alive.items()
        if (leg.attempt, leg.state) == (claim.attempt, State.HELD) and shard not in claim.legs
    }
    if any(line.quantity for shard in joining for line in alive[shard].lines):
        return Verdict.UNSETTLED, ""
    alive = {shard: leg for shard, leg in alive.items() if shard not in joining}
    strangers = {
        shard: leg
        for shard, leg in alive.items()
        if leg.attempt != claim.attempt or shard not in claim.legs
    }
    if strangers:
        return Verdict.WRONG, f"{_legs(strangers)} beside attempt {claim.attempt} of its claim"
    if state is State.CONFIRMED:
        return _judge_confirmed(claim, legs)
    if state is State.HELD:
        return _judge_held(claim, legs)
    for shard, leg in alive.items():
        if state is not State.EXPIRED or leg.expire_ms > claim.expire_ms + CLOCK_SKEW_MS:
            return Verdict.WRONG, f"{_legs({shard: leg})} under a claim that is {state.name}"
    return (Verdict.UNSETTLED if alive else Verdict.FINE), ""


def _judge_confirmed(claim: ClaimRecord, legs: Mapping[int, Leg]) -> tuple[Verdict, str]:
    """Decided is decided: a leg may lag behind (PINNED) while the claim is unsettled, no more."""
    lagging = False
    for shard in claim.legs:
        leg = legs.get(shard, ())
        if not leg or leg.attempt != claim.attempt:
            return Verdict.WRONG, f"a confirmed claim lacks its leg on shard {shard}"
        if leg.state != State.CONFIRMED:
            if leg.state != State.PINNED or claim.settled:
                return Verdict.WRONG, f"{_legs({shard: leg})} under a confirmed claim"
            lagging = True
    return (Verdict.UNSETTLED if lagging else Verdict.FINE), ""


def _judge_held(claim: ClaimRecord, legs: Mapping[int, Leg]) -> tuple[Verdict, str]:
    for shard in claim.legs:
        leg = legs.get(shard, ())
        if not leg or leg.attempt != claim.attempt:
            return Verdict.WRONG, f"a held claim lacks its leg on shard {shard}"
        if leg.state == State.EXPIRED and leg.expire_ms >= claim.expire_ms - CLOCK_SKEW_MS:
            return Verdict.UNSETTLED, ""
        if leg.state not in OPEN:
            return Verdict.WRONG, f"{_legs({shard: leg})} under a held claim"
    return Verdict.FINE, ""


# -- one against the other -----------------------------------------------------------------------


def position_differences(
    expected: Mapping[PositionKey, StockPosition], actual: Mapping[PositionKey, StockPosition]
) -> Iterator[tuple[PositionKey, str]]:
    """Positions that differ, with both values. A feed's own numbers move without an event, so
    they do not count."""
    unlike = [key for key, row in expected.items() if actual.get(key) != row]
    unlike += actual.keys() - expected.keys()
    for key in sorted(unlike):
        left, right = expected.get(key), actual.get(key)
        if left is None or right is None or _counted(left) != _counted(right):
            yield key, f"{_figures(left)} against {_figures(right)}"


def claim_differences(
    expected: Mapping[str, ClaimRecord], actual: Mapping[str, ClaimRecord]
) -> Iterator[tuple[str, str]]:
    """Claims that differ. ``settled`` moves without an event, so it does not count."""
    for rid in sorted(expected.keys() | actual.keys()):
        left, right = expected.get(rid), actual.get(rid)
        if left is None or right is None:
            there = left or right
            assert there is not None
            lacking = "second" if right is None else "first"
            yield rid, f"a claim that is {State(there.state).name} is missing in the {lacking}"
        elif left._replace(settled=0) != right._replace(settled=0):
            yield rid, f"claim: {left._replace(body='')} against {right._replace(body='')}"


def leg_differences(
    expected: Mapping[str, LegRecord], actual: Mapping[str, LegRecord]
) -> Iterator[tuple[str, str]]:
    """Legs that differ. A tombstone is written without an event, so only a living leg on the
    other side contradicts it."""
    for rid in sorted(expected.keys() | actual.keys()):
        left, right = expected.get(rid), actual.get(rid)
        if left == right:
            continue
        states = [leg.state for leg in (left, right) if leg is not None]
        tombstone = any(leg is None or not leg.lines for leg in (left, right))
        if not tombstone or any(state in ALIVE for state in states):
            yield rid, f"leg: {left} against {right}"


def _counted(row: StockPosition) -> StockPosition:
    return row._replace(source="", source_sequence=0)


def _figures(row: StockPosition | None) -> str:
    if row is None:
        return "none"
    return (
        f"on_hand={row.on_hand} committed={row.committed} held={row.held} "
        f"safety_stock={row.safety_stock} totals={row[4:7]} sold_short={row.sold_short} "
        f"arrival_ms={row.arrival_ms}"
    )


def _legs(legs: Mapping[int, LegRecord]) -> str:
    shown = (
        f"a {State(leg.state).name} leg (attempt {leg.attempt}) on shard {shard}"
        for shard, leg in sorted(legs.items())
    )
    return ", ".join(shown)
