"""What the service said against what it did: an audit that trusts nobody.

Clients keep logs of what was acknowledged to them (README.md tells the fields). Afterwards:

- the index alone and the order store alone, by `promise-svc verify` and by plain SQL here;
- both against the logs: nothing acknowledged is lost, nothing is resolved twice, every key has one
  outcome, an expiry came by the clock alone;
- nothing is oversold: units of reservations that stand, added up from the logs alone and from the
  order store alone, against what was stocked.

`python -m loadtest.verify --index-url URL --order-store-url URL LOG...`; the service must run, for
what is half done is the resolver's to finish. Ends with code 1 when something is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg

from promise_svc.application.verify_report import VerifyReport
from promise_svc.bootstrap import open_audit
from promise_svc.config import ClusterConfig

CREATE, CONFIRM, RELEASE, CANCEL = (
    f"{verb}Reservation" for verb in ("Create", "Confirm", "Release", "Cancel")
)
OK = 0
NOTHING_DONE = frozenset({"UNAVAILABLE", "NOT_SERVING", "OVERLOADED"})
"""Reasons by which the service promises that nothing was done."""

# Numbers of the index and the order store, written down a second time on purpose.
PENDING, HELD, PINNED, CONFIRMED, RELEASED, CANCELLED, EXPIRED, ABORTED = 1, 2, 3, 4, 5, 6, 7, 10
STATE_NAMES = {
    0: "missing", PENDING: "PENDING", HELD: "HELD", PINNED: "PINNED", CONFIRMED: "CONFIRMED",
    RELEASED: "RELEASED", CANCELLED: "CANCELLED", EXPIRED: "EXPIRED", ABORTED: "ABORTED",
}  # fmt: skip
EVENT_CONFIRMED, EVENT_RELEASED, EVENT_CANCELLED, EVENT_EXPIRED = 13, 14, 15, 16
ACKNOWLEDGED = {CREATE: (1, HELD), CONFIRM: (1, CONFIRMED), RELEASE: (2, RELEASED),
                CANCEL: (3, CANCELLED)}  # fmt: skip
"""Method -> (outcome that acknowledges it, state it acknowledges)."""
SUM_ATTEMPTS_MAX = 6
SKEW_MS = 5_000
"""A claim and its legs expire by their own shards' clocks."""

Place = tuple[str, str]
"""SKU and node."""


class Problem(NamedTuple):
    """One thing that is not as it was said."""

    kind: str
    subject: str
    detail: str


@dataclass(slots=True)
class Told:
    """All that clients know of one reservation, over all their attempts."""

    lines: tuple[tuple[str, int], ...] = ()
    """SKU and units, as asked."""
    places: set[tuple[tuple[str, str, int], ...]] = field(default_factory=set)
    """Each distinct plan that was told: SKU, node, units."""
    acknowledged: set[int] = field(default_factory=set)
    """States that were acknowledged."""
    asked: set[str] = field(default_factory=set)
    """Methods that may have been carried out."""
    outcomes: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    """Method -> outcomes of its answers."""
    unknown: set[str] = field(default_factory=set)
    """Methods whose last attempt has no answer."""

    def units(self) -> Counter[str]:
        """By SKU."""
        total: Counter[str] = Counter()
        for sku, quantity in self.lines:
            total[sku] += quantity
        return total


class Stored(NamedTuple):
    """One reservation as the order store, or the index, has it."""

    state: int
    expire_ms: int
    update_ms: int
    """0 where it is not known."""


@dataclass(slots=True, kw_only=True)
class LoadAudit:
    """The verdict."""

    problems: list[Problem]
    report: VerifyReport
    acknowledged: Counter[str]
    """State -> acknowledgements that were looked for."""
    reservations: int
    unknown: int
    """Reservations with an attempt that never got an answer: either is right."""
    events: int

    @property
    def sound(self) -> bool:
        return not self.problems

    def summary(self) -> str:
        """One line for people."""
        told = ", ".join(f"{count:,} {state}" for state, count in self.acknowledged.items())
        return (
            f"audit: {'ok' if self.sound else f'{len(self.problems)} PROBLEMS'}; "
            f"{self.reservations:,} reservations in the logs, acknowledged: {told or 'none'}; "
            f"{self.unknown} without an answer, {self.events:,} events, "
            f"{self.report.oversold_count} oversold, {self.report.drift_count} drift"
        )


# -- the logs ----------------------------------------------------------------------------------


def read_logs(paths: Iterable[Path]) -> dict[str, Told]:
    """What clients were told. The last line of a log may be torn: its client was killed."""
    told: dict[str, Told] = defaultdict(Told)
    for path in paths:
        lines = path.read_bytes().split(b"\n")
        for number, line in enumerate(lines):
            try:
                entry = json.loads(line)
            except ValueError:
                if number < len(lines) - 1:
                    raise ValueError(f"{path}:{number + 1} is no line of a log") from None
                continue
            _note(told[entry["reservation_id"]], entry)
    return dict(told)


def _note(told: Told, entry: Mapping[str, Any]) -> None:
    method, code, outcome = entry["method"], entry["code"], entry["outcome"]
    if method == CREATE and entry.get("lines"):
        told.lines = tuple((sku, quantity) for sku, quantity in entry["lines"])
    if code != OK:
        if entry.get("reason") not in NOTHING_DONE:
            told.asked.add(method)
            told.unknown.add(method)
        return
    told.unknown.discard(method)
    told.asked.add(method)
    told.outcomes[method].add(outcome)
    if outcome == ACKNOWLEDGED[method][0]:
        told.acknowledged.add(ACKNOWLEDGED[method][1])
    if entry.get("places"):
        told.places.add(tuple(sorted((s, n, q) for s, n, q in entry["places"])))


# -- one reservation ---------------------------------------------------------------------------


def judge(told: Told, state: int) -> Iterator[tuple[str, str]]:
    """Whether ``state`` may follow what was told; (kind, sentence) for each thing wrong.

    Legal is what was acknowledged last, or anything that was asked for and may have happened
    later. Nobody can ask for an expiry, so that is judged by the clock.
    """
    name = STATE_NAMES.get(state, str(state))
    final = told.acknowledged & {CONFIRMED, RELEASED}
    if len(final) > 1:
        yield "RESOLVED_TWICE", "both a confirm and a release were acknowledged"
    if len(told.places) > 1:
        yield "TWO_ANSWERS", f"two plans were told under one key: {sorted(told.places)}"
    legal = _legal_states(told)
    if state not in legal:
        was = ", ".join(STATE_NAMES[s] for s in sorted(told.acknowledged)) or "nothing"
        allowed = ", ".join(STATE_NAMES[s] for s in sorted(legal))
        kind = "LOST" if told.acknowledged else "NOT_ASKED_FOR"
        yield kind, f"acknowledged was {was}; it is {name}; legal were {allowed}"


def _legal_states(told: Told) -> set[int]:
    acknowledged = told.acknowledged
    if CANCELLED in acknowledged:
        return {CANCELLED}
    if RELEASED in acknowledged:
        return {RELEASED}
    cancelled = {CANCELLED} if CANCEL in told.asked else set()
    if CONFIRMED in acknowledged:
        return {CONFIRMED, *cancelled}
    later = {EXPIRED}
    if CONFIRM in told.asked:
        later |= {PINNED, CONFIRMED, *cancelled}
    if RELEASE in told.asked:
        later.add(RELEASED)
    if HELD in acknowledged:
        # PENDING: held by all its legs, and home has not noted it yet.
        return {PENDING, HELD, *later}
    # What was never acknowledged may also run out before the resolver finds it.
    none = {0, ABORTED, EXPIRED}
    return {*none, PENDING, HELD, *later} if CREATE in told.unknown else none


# -- the order store, by plain SQL -------------------------------------------------------------

GAPS = """
SELECT shard, epoch, min(sequence) AS low, max(sequence) AS high, count(*) AS count
FROM events GROUP BY shard, epoch ORDER BY shard, epoch"""

RESOLVED_OFTEN = f"""
SELECT subject, array_agg(type ORDER BY epoch, sequence) AS types
FROM events WHERE type IN ({EVENT_CONFIRMED}, {EVENT_RELEASED}, {EVENT_CANCELLED}, {EVENT_EXPIRED})
GROUP BY subject HAVING count(*) > 1"""

UNSOUND_POSITIONS = """
SELECT sku, node_id, on_hand, committed, held, safety_stock, confirmed_total, cancelled_total,
       fulfilled_total
FROM positions
WHERE least(on_hand, committed, held, safety_stock) < 0
   OR committed + held > on_hand - safety_stock
   OR confirmed_total - cancelled_total - fulfilled_total <> committed"""

SUMS = """
SELECT sku, sum(committed)::bigint AS committed, sum(held)::bigint AS held,
       sum(on_hand)::bigint AS on_hand
FROM positions GROUP BY sku"""


async def stored_problems(
    store: asyncpg.Connection,
    told: Mapping[str, Told],
    stocked: Mapping[Place, int] | None = None,
    *,
    sum_attempts_max: int = SUM_ATTEMPTS_MAX,
) -> list[Problem]:
    """The order store alone, and against the logs. Legs whose events are still on their way would
    make sums differ, so those are added up again before they are told."""
    for attempt in range(sum_attempts_max):
        async with store.transaction(isolation="repeatable_read", readonly=True):
            found = await _stored_problems(store, told, stocked)
        if attempt == sum_attempts_max - 1 or all(problem.kind != "SUM" for problem in found):
            break
        await asyncio.sleep(1)
    return found


async def _stored_problems(
    store: asyncpg.Connection, told: Mapping[str, Told], stocked: Mapping[Place, int] | None
) -> list[Problem]:
    found = [*await _gaps(store), *await _resolved_twice(store), *await _unsound(store, stocked)]
    rows = await store.fetch("SELECT reservation_id, state, expire_ms, update_ms FROM reservations")
    stored = {row[0]: Stored(row[1], row[2], row[3]) for row in rows}
    found += against_logs(told, stored, "order store")
    found += await _sums(store, told, stored)
    return found


def against_logs(
    told: Mapping[str, Told], stored: Mapping[str, Stored], where: str
) -> Iterator[Problem]:
    """Each reservation of the logs in one of the two places."""
    for rid, mine in told.items():
        there = stored.get(rid, Stored(0, 0, 0))
        for kind, text in judge(mine, there.state):
            yield Problem(kind, rid, f"{where}: {text}")
        early = there.update_ms and there.update_ms < there.expire_ms - SKEW_MS
        if there.state == EXPIRED and early:
            text = f"expired at {there.update_ms}, {there.expire_ms} was promised"
            yield Problem("EXPIRED_EARLY", rid, f"{where}: {text}")


async def _gaps(store: asyncpg.Connection) -> list[Problem]:
    """Sequences 1 to n in each epoch, epochs 1 to m, and the cursor at the end."""
    found, last = [], dict[int, tuple[int, int]]()
    for shard, epoch, low, high, count in await store.fetch(GAPS):
        if (low, high) != (1, count):
            text = f"epoch {epoch} has {count} events from {low} to {high}"
            found.append(Problem("GAP", f"shard {shard}", text))
        before = last.get(shard, (0, 0))[0]
        if epoch != before + 1:
            found.append(Problem("GAP", f"shard {shard}", f"epoch {epoch} follows {before}"))
        last[shard] = epoch, high
    cursors = {r[0]: (r[1], r[2]) for r in await store.fetch("SELECT * FROM cursors")}
    if cursors != last:
        shards = sorted(s for s in cursors.keys() | last.keys() if cursors.get(s) != last.get(s))
        found.append(Problem("GAP", f"shards {shards}", "the cursor is not at the last event"))
    return found


async def _resolved_twice(store: asyncpg.Connection) -> list[Problem]:
    """Out of HELD once; only a cancel may follow, and only a confirm."""
    return [
        Problem("RESOLVED_TWICE", row[0], f"events of types {list(row[1])}")
        for row in await store.fetch(RESOLVED_OFTEN)
        if list(row[1]) != [EVENT_CONFIRMED, EVENT_CANCELLED]
    ]


async def _unsound(store: asyncpg.Connection, stocked: Mapping[Place, int] | None) -> list[Problem]:
    found = [
        Problem("OVERSOLD", f"{row[0]} at {row[1]}", str(dict(row)))
        for row in await store.fetch(UNSOUND_POSITIONS)
    ]
    if stocked is not None:
        query = "SELECT sku, node_id, on_hand FROM positions"
        there = {(row[0], row[1]): row[2] for row in await store.fetch(query)}
        found += [
            Problem("STOCK_CHANGED", f"{sku} at {node}", f"{there.get((sku, node))}, not {units}")
            for (sku, node), units in stocked.items()
            if there.get((sku, node)) != units
        ]
    return found


async def _sums(
    store: asyncpg.Connection, told: Mapping[str, Told], stored: Mapping[str, Stored]
) -> list[Problem]:
    """Units that stand, added up from the clients' own lines, against the counters.

    Only where the logs know of everybody: a SKU that others bought too cannot be added up.
    """
    strangers = stored.keys() - told.keys()
    if any(stored[rid].state in (PENDING, HELD, PINNED, CONFIRMED) for rid in strangers):
        return []
    committed, held = Counter[str](), Counter[str]()
    for rid, mine in told.items():
        state = stored.get(rid, Stored(0, 0, 0)).state
        if state == CONFIRMED:
            committed += mine.units()
        elif state in (PENDING, HELD, PINNED):
            held += mine.units()
    found = []
    for sku, are_committed, are_held, on_hand in await store.fetch(SUMS):
        if (committed[sku], held[sku]) != (are_committed, are_held):
            text = (
                f"the logs add up to {committed[sku]} committed and {held[sku]} held, the order "
                f"store says {are_committed} and {are_held}"
            )
            found.append(Problem("SUM", sku, text))
        if committed[sku] + held[sku] > on_hand:
            text = f"{committed[sku]} sold and {held[sku]} held of {on_hand}"
            found.append(Problem("OVERSOLD", sku, f"by the logs alone: {text}"))
    return found


# -- everything --------------------------------------------------------------------------------


async def audit_load(
    cluster: ClusterConfig,
    index_urls: Sequence[str],
    order_store_url: str,
    logs: Iterable[Path],
    *,
    stocked: Mapping[Place, int] | None = None,
) -> LoadAudit:
    """Audit when the load has ended. ``stocked``: what the positions named must have on hand."""
    told = read_logs(logs)
    async with open_audit(cluster, tuple(index_urls), order_store_url) as audit:
        report = await audit.run(findings_max=50)
        problems = [
            Problem(f.kind.name, f.reservation_id or f"{f.sku} {f.node_id}", f.detail)
            for f in report.findings
        ]
        problems += [
            Problem("UNCOMPARED", f"shard {shard}", "it never stood still, or was not stored")
            for shard in report.uncompared_shard_ids
        ]
        index = audit._index  # the audit's own connection to it
        claims = await _claims_of_index(index, cluster.shard_count)
    # The index forgets resolved ones after its window; of those it has, each must be right.
    known = {rid: mine for rid, mine in told.items() if rid in claims or _stands(mine)}
    problems += against_logs(known, claims, "index")
    store = await asyncpg.connect(order_store_url)
    try:
        problems += await stored_problems(store, told, stocked)
        events = await store.fetchval("SELECT count(*) FROM events")
    finally:
        await store.close()
    acknowledged = Counter(STATE_NAMES[s] for mine in told.values() for s in mine.acknowledged)
    unknown = sum(bool(mine.unknown) for mine in told.values())
    return LoadAudit(
        problems=problems, report=report, acknowledged=acknowledged, reservations=len(told),
        unknown=unknown, events=events,
    )  # fmt: skip


def _stands(told: Told) -> bool:
    """Whether the index must still have it: a sale that nobody cancelled stays for ever."""
    return CONFIRMED in told.acknowledged and CANCEL not in told.asked


async def _claims_of_index(index: Any, shard_count: int) -> dict[str, Stored]:
    found = {}
    for shard in range(shard_count):
        time_ms = (await index.read_meta(shard, 5.0)).time_ms
        _, _, claims = await index.scan(shard)
        for rid, claim in claims.items():
            due = claim.state in (PENDING, HELD) and time_ms >= claim.expire_ms
            found[rid] = Stored(EXPIRED if due else int(claim.state), claim.expire_ms, 0)
    return found


def main() -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.verify")
    parser.add_argument("logs", nargs="*", type=Path, help="logs of acknowledgements")
    parser.add_argument("--index-url", action="append", required=True)
    parser.add_argument("--order-store-url", required=True)
    options = parser.parse_args()
    cluster = ClusterConfig()
    verdict = asyncio.run(
        audit_load(cluster, options.index_url, options.order_store_url, options.logs)
    )
    for problem in verdict.problems[:100]:
        print(f"{problem.kind} {problem.subject}: {problem.detail}")
    print(verdict.summary())
    return 0 if verdict.sound else 1


if __name__ == "__main__":
    sys.exit(main())
