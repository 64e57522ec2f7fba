"""What an audit tells, and how two sets of records become findings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from promise_svc.domain import audit
from promise_svc.domain.audit import Finding, FindingKind, ShardRecords
from promise_svc.domain.inventory import StockPosition
from promise_svc.domain.replay import Replay
from promise_svc.domain.reservation import OPEN, ClaimRecord, State
from promise_svc.domain.sharding import Position


@dataclass(slots=True, kw_only=True)
class VerifyReport:
    """The result of an audit. Counts are complete; ``findings`` is cut at a limit."""

    verify_time_ms: int
    elapsed_seconds: float = 0.0
    shard_count: int = 0
    position_count: int = 0
    reservation_counts: Counter[State] = field(default_factory=Counter)
    """Claims in the index by state. Those still being decided count as HELD; aborted attempts,
    which nobody was promised anything by, are left out."""
    order_store_event_count: int = 0
    order_store_reservation_count: int = 0
    """Rows that were acknowledged at some time: aborted attempts are left out here too."""
    order_store_confirmed_count: int = 0
    in_flight_event_count: int = 0
    """Events that the order store did not have when it was read."""
    oversold_count: int = 0
    drift_count: int = 0
    shortage_count: int = 0
    unsettled_count: int = 0
    """Reservations whose legs were still following. Not a finding."""
    orphan_count: int = 0
    """Held legs without a claim, which expire by themselves. Not a finding."""
    uncompared_shard_ids: list[int] = field(default_factory=list)
    """Shards that did not stand still, or that the order store did not catch up with in time:
    no verdict on drift there."""
    finding_count: int = 0
    findings: list[Finding] = field(default_factory=list)
    """By shard, then kind."""

    @property
    def consistent(self) -> bool:
        """Whether there is no finding at all."""
        return self.finding_count == 0

    def counts(self) -> list[tuple[str, str]]:
        """Every count, named and written for people."""
        states = ", ".join(f"{n:,} {s.name}" for s, n in sorted(self.reservation_counts.items()))
        numbers: tuple[tuple[str, int], ...] = (
            ("shards", self.shard_count),
            ("positions", self.position_count),
            ("reservations in the order store", self.order_store_reservation_count),
            ("of them confirmed", self.order_store_confirmed_count),
            ("events in the order store", self.order_store_event_count),
            ("events on their way", self.in_flight_event_count),
            ("legs still following", self.unsettled_count),
            ("held legs without a claim", self.orphan_count),
            ("positions short after a correction", self.shortage_count),
            ("positions oversold", self.oversold_count),
            ("drift between index and order store", self.drift_count),
            ("shards without a verdict", len(self.uncompared_shard_ids)),
            ("findings", self.finding_count),
        )
        return [
            ("reservations in the index", states or "none"),
            *((name, f"{number:,}") for name, number in numbers),
            ("seconds", f"{self.elapsed_seconds:.1f}"),
        ]


@dataclass(frozen=True, slots=True)
class ShardScan:
    """One shard of the index, read while it stood still at ``at``."""

    at: Position
    time_ms: int
    records: ShardRecords


def count_index(scan: ShardScan, report: VerifyReport) -> None:
    """Add what the index has; a due hold counts as EXPIRED."""
    report.position_count += len(scan.records.positions)
    report.shortage_count += audit.shortage_count(scan.records, scan.time_ms)
    for claim in scan.records.claims.values():
        due = claim.state in (State.PENDING, State.HELD) and scan.time_ms >= claim.expire_ms
        if claim.state != State.ABORTED:
            state = State.HELD if claim.state in OPEN else State(claim.state)
            report.reservation_counts[State.EXPIRED if due else state] += 1


def count_stored(claims: Collection[ClaimRecord], report: VerifyReport) -> None:
    """Add what the order store has."""
    states = Counter(claim.state for claim in claims)
    report.order_store_reservation_count += len(claims) - states[State.ABORTED]
    report.order_store_confirmed_count += states[State.CONFIRMED]


def differences(
    shard: int, expected: ShardRecords, actual: ShardRecords, *, drift: bool
) -> Iterator[Finding]:
    """What differs: events against index (drift), or events against the order store's own rows."""
    sides = "order store against index" if drift else "events against rows"
    kind = FindingKind.POSITION_DRIFT if drift else FindingKind.REPLAY_MISMATCH
    for key, text in audit.position_differences(expected.positions, actual.positions):
        sellable = [_sellable(side.positions.get(key)) for side in (expected, actual)]
        yield Finding(kind, shard, f"{sides}: {text}", sellable[0], sellable[1], *key)
    kind = FindingKind.RESERVATION_DRIFT if drift else FindingKind.REPLAY_MISMATCH
    pairs = [
        *audit.claim_differences(expected.claims, actual.claims),
        *audit.leg_differences(expected.legs, actual.legs),
    ]
    for rid, text in pairs:
        yield Finding(kind, shard, f"{sides}: {text}", reservation_id=rid)


def _sellable(row: StockPosition | None) -> int:
    """One figure that stands for a position: what is left to sell before safety stock."""
    return row.on_hand - row.committed - row.held if row else 0


def unlike_rows(shard: int, replay: Replay, at: Position, rows: ShardRecords) -> Iterator[Finding]:
    """Where the order store's rows and cursor are not what its own events add up to."""
    if replay.at != at:
        text = f"the cursor stands at {tuple(at)}, the last event is {tuple(replay.at)}"
        yield Finding(FindingKind.SEQUENCE_GAP, shard, text, at.sequence, replay.at.sequence)
    yield from differences(shard, replay.records, rows, drift=False)


def index_behind(shard: int, at: Position, stored: Position) -> Finding:
    """The order store knows events that the index has lost."""
    text = f"the order store has events up to {tuple(stored)}, the index stands at {tuple(at)}"
    return Finding(FindingKind.RESERVATION_DRIFT, shard, text, stored.sequence, at.sequence)
