"""The audit: do the books balance? It trusts nobody, and changes nothing.

Shard by shard, several at a time: the index by itself, the order store by itself (every event is
applied again), and one against the other at the very event up to which the index was read. So it
may run beside traffic; a shard that never stood still long enough is said to be uncompared, which
is no verdict. The checks are in ``domain/audit.py``.

Cost: reads everything. Memory: `concurrency` shards at a time, each with all it ever had.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import defaultdict
from collections.abc import (
    AsyncIterator,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)

from promise_svc.application.ports import AtsIndex, Clock, OrderStore
from promise_svc.application.tasks import Deadline
from promise_svc.application.verify_report import (
    ShardScan,
    VerifyReport,
    count_index,
    count_stored,
    differences,
    index_behind,
    unlike_rows,
)
from promise_svc.domain import audit
from promise_svc.domain.audit import Finding, FindingKind, ShardRecords, Verdict
from promise_svc.domain.events import StoredEvent
from promise_svc.domain.replay import Replay, remembered
from promise_svc.domain.reservation import ClaimRecord, State
from promise_svc.domain.sharding import START, Position
from promise_svc.errors import NotServing
from promise_svc.hotpath import shard_of

PAGE_EVENTS = 2_000
PAGE_IDS = 500
READ_SECONDS = 60.0
"""For one read. The audit works on thousands of records between two of them, so an answer may have
waited here for seconds; a shard that is really away refuses the connection at once."""
SCAN_ATTEMPTS_MAX = 5
RECHECKS_MAX = 3
FINDINGS_MAX = 100
OVERDUE_CLAIMS_MAX = 1_000

_Listener = Callable[[int], None]


class Verify:
    """Runs audits; each ``run`` is independent.

    ``timeout`` bounds each single call, ``settle_seconds`` how long a shard may take to let its
    legs follow and its events reach the order store, ``recheck_seconds`` how long a suspicion
    rests before it is looked at again.
    """

    def __init__(
        self,
        index: AtsIndex,
        store: OrderStore,
        clock: Clock,
        *,
        window_ms: int,
        timeout: float = READ_SECONDS,
        settle_seconds: float = 10.0,
        recheck_seconds: float = 0.2,
        concurrency: int = 4,
    ) -> None:
        self._index = index
        self._store = store
        self._clock = clock
        self._window_ms = window_ms
        self._timeout = timeout
        self._settle_seconds = settle_seconds
        self._recheck_seconds = recheck_seconds
        self._concurrency = concurrency

    async def run(
        self,
        shard_ids: Sequence[int] | None = None,
        *,
        findings_max: int = FINDINGS_MAX,
        progress: _Listener = lambda _done: None,
    ) -> VerifyReport:
        """Audit the named shards, or all. Unavailable when an engine is away, or a shard has not
        been taken over within the time to settle: then no verdict.

        ``progress`` hears the number of shards done.
        """
        start = self._clock.monotonic()
        report = VerifyReport(verify_time_ms=self._clock.now_ms())
        places = asyncio.Semaphore(self._concurrency)
        findings: list[Finding] = []

        async def one(shard: int) -> None:
            async with places:
                found = await self._shard(shard, report)
            report.finding_count += len(found)
            findings.extend(found[:findings_max])
            report.shard_count += 1
            progress(report.shard_count)

        shards = range(self._index.shard_count) if shard_ids is None else shard_ids
        await self._await_taken_over()
        try:
            async with asyncio.TaskGroup() as group:
                for shard in shards:
                    group.create_task(one(shard))
        except BaseExceptionGroup as several:
            raise several.exceptions[0] from None
        findings.sort(key=lambda finding: (finding.shard, finding.kind))
        report.findings = findings[:findings_max]
        report.uncompared_shard_ids.sort()
        report.elapsed_seconds = self._clock.monotonic() - start
        return report

    async def _await_taken_over(self) -> None:
        """Let the service take over what an engine lost a moment ago: every shard, for legs of the
        audited ones may be anywhere."""
        deadline = Deadline(self._settle_seconds)
        for shard in range(self._index.shard_count):
            while True:
                try:
                    await self._index.open_claims(shard, 1, self._timeout)
                    break
                except NotServing:
                    if deadline.left() == 0:
                        raise
                await asyncio.sleep(min(self._recheck_seconds, deadline.left()))

    async def _shard(self, shard: int, report: VerifyReport) -> list[Finding]:
        found = await self._overdue(shard)
        stored_before = await self._store.cursor(shard)
        scan = await self._scan(shard)
        if scan is not None:
            found += audit.unbalanced(shard, scan.records)
            found += await self._unlike_legs(shard, scan.records, report)
            count_index(scan, report)
            if stored_before > scan.at:
                found.append(index_behind(shard, scan.at, stored_before))
            await self._await_stored(shard, scan.at)
        return found + await self._order_store(shard, scan, report)

    # -- the index alone ------------------------------------------------------------------------

    async def _overdue(self, shard: int) -> list[Finding]:
        """Claims the resolver should have finished; waits for it, within the time to settle."""
        deadline = Deadline(self._settle_seconds)
        while True:
            overdue = await self._index.open_claims(shard, OVERDUE_CLAIMS_MAX, self._timeout)
            if not overdue or deadline.left() == 0:
                break
            await asyncio.sleep(min(self._recheck_seconds, deadline.left()))
        return [
            Finding(
                FindingKind.UNRESOLVED_CLAIM,
                shard,
                f"a claim is {State(claim.state).name} and its legs have not followed",
                reservation_id=rid,
            )
            for rid, claim in overdue
        ]

    async def _scan(self, shard: int) -> ShardScan | None:
        """Read the shard whole; None when it moved each time while it was read."""
        for _ in range(SCAN_ATTEMPTS_MAX):
            before = await self._index.read_meta(shard, self._timeout)
            records = ShardRecords(*await self._index.scan(shard))
            after = await self._index.read_meta(shard, self._timeout)
            if before.at == after.at:
                return ShardScan(after.at, after.time_ms, records)
        return None

    async def _unlike_legs(
        self, shard: int, records: ShardRecords, report: VerifyReport
    ) -> list[Finding]:
        """Reservations of this home whose legs contradict them, and legs here without a claim.

        What looks wrong may be half of a step that spans shards, so it is read again before it
        is told.
        """
        homed = {rid: claim for rid, claim in records.claims.items() if _worth_asking(claim)}
        foreign = {rid for rid, leg in records.legs.items() if leg.state in audit.ALIVE}
        foreign -= records.claims.keys()
        suspects = await self._suspects(homed, report)
        suspects |= await self._suspects_among_legs(shard, foreign, records, report)
        for _ in range(RECHECKS_MAX):
            if not suspects:
                break
            await asyncio.sleep(self._recheck_seconds)
            suspects = {rid: text for rid in suspects if (text := await self._wrong(rid, shard))}
        return [
            Finding(FindingKind.UNRESOLVED_CLAIM, shard, text, reservation_id=rid)
            for rid, text in sorted(suspects.items())
        ]

    async def _suspects(
        self, claims: Mapping[str, ClaimRecord], report: VerifyReport
    ) -> dict[str, str]:
        """Judge claims by all their legs, one batch a shard."""
        asked: dict[int, list[str]] = defaultdict(list)
        for rid, claim in claims.items():
            for leg_shard in claim.legs:
                asked[leg_shard].append(rid)
        legs: dict[str, dict[int, audit.Leg]] = defaultdict(dict)
        for leg_shard, rids in asked.items():
            for page in _pages(rids, PAGE_IDS):
                read = await self._index.read_legs(leg_shard, page, self._timeout)
                for rid, leg in zip(page, read, strict=True):
                    legs[rid][leg_shard] = leg
        suspects = {}
        for rid, claim in claims.items():
            verdict, text = audit.judge(claim, legs[rid])
            report.unsettled_count += verdict is Verdict.UNSETTLED
            if verdict is Verdict.WRONG:
                suspects[rid] = text
        return suspects

    async def _suspects_among_legs(
        self, shard: int, rids: Iterable[str], records: ShardRecords, report: VerifyReport
    ) -> dict[str, str]:
        """Judge legs of other homes by what their claims say of this shard."""
        by_home: dict[int, list[str]] = defaultdict(list)
        for rid in sorted(rids):
            by_home[shard_of(rid, self._index.shard_count)].append(rid)
        suspects = {}
        for home, homed in by_home.items():
            for page in _pages(homed, PAGE_IDS):
                replies = await self._index.read_claims(home, page, self._timeout)
                for rid, reply in zip(page, replies, strict=True):
                    claim, leg = reply.claim, records.legs[rid]
                    if claim and shard in claim.legs and leg.attempt == claim.attempt:
                        continue  # judged at its home
                    verdict, text = audit.judge(claim or None, {shard: leg})
                    report.orphan_count += verdict is Verdict.ORPHANED
                    if claim or verdict is Verdict.WRONG:
                        suspects[rid] = text
        return suspects

    async def _wrong(self, rid: str, shard: int) -> str:
        """Read one reservation again from everywhere; why it is wrong, or nothing."""
        home = shard_of(rid, self._index.shard_count)
        claim = (await self._index.read_claims(home, [rid], self._timeout))[0].claim or None
        shards = {shard, *(claim.legs if claim else ())}
        legs = {s: (await self._index.read_legs(s, [rid], self._timeout))[0] for s in shards}
        verdict, text = audit.judge(claim, legs)
        return text if verdict is Verdict.WRONG else ""

    # -- the order store, and one against the other ---------------------------------------------

    async def _await_stored(self, shard: int, at: Position) -> None:
        deadline = Deadline(self._settle_seconds)
        while await self._store.cursor(shard) < at and deadline.left() > 0:
            await asyncio.sleep(min(self._recheck_seconds, deadline.left()))

    async def _order_store(
        self, shard: int, scan: ShardScan | None, report: VerifyReport
    ) -> list[Finding]:
        stored = await self._store.read_shard(shard)
        outbox = await self._outbox(shard)
        replay = Replay(shard, self._window_ms)
        found: list[Finding] = []
        compared = scan is not None and scan.at == START
        async for event in self._events(shard, stored.at):
            found += replay.apply(event)
            report.order_store_event_count += 1
            if outbox.get(event.at, (digest := _digest(event.payload))) != digest:
                text = f"event {event.at} is another one in the outbox"
                found.append(Finding(FindingKind.FORK, shard, text))
            if scan is not None and event.at == scan.at:
                compared = True
                found += self._drift(shard, scan, replay, report)
        found += unlike_rows(shard, replay, stored.at, ShardRecords(*stored[1:]))
        report.oversold_count += len(replay.oversold)
        count_stored(stored.claims.values(), report)
        if scan is not None:
            report.in_flight_event_count += _ahead(scan.at, stored.at)
        if not compared:
            report.uncompared_shard_ids.append(shard)
        return found

    async def _events(self, shard: int, until: Position) -> AsyncIterator[StoredEvent]:
        after = START
        while after < until:
            page = await self._store.read_events(shard, after, PAGE_EVENTS)
            if not page:
                return
            for stored in page:
                if stored.at <= until:
                    yield stored
            after = page[-1].at

    async def _outbox(self, shard: int) -> dict[Position, bytes]:
        """Digests of the events the shard still has."""
        kept: dict[Position, bytes] = {}
        after = START
        while page := await self._index.read_outbox(shard, after, PAGE_EVENTS, self._timeout):
            kept |= {stored.at: _digest(stored.payload) for stored in page}
            after = page[-1].at
        return kept

    def _drift(
        self, shard: int, scan: ShardScan, replay: Replay, report: VerifyReport
    ) -> list[Finding]:
        expected = remembered(replay, scan.records, scan.time_ms, self._window_ms)
        found = list(differences(shard, expected, scan.records, drift=True))
        places = {(f.sku, f.node_id, f.bucket, f.reservation_id) for f in found}
        report.drift_count += len(places)
        return found


def _worth_asking(claim: ClaimRecord) -> bool:
    """Whether the claim's legs must be somewhere, or must not."""
    return claim.state != State.ABORTED or bool(claim.settled)


def _ahead(at: Position, stored: Position) -> int:
    """Events between the two; across epochs only those of the last one can be told."""
    if stored >= at:
        return 0
    return at.sequence - (stored.sequence if stored.epoch == at.epoch else 0)


def _pages(ids: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for first in range(0, len(ids), size):
        yield ids[first : first + size]


def _digest(payload: bytes) -> bytes:
    return hashlib.blake2b(payload, digest_size=16).digest()
