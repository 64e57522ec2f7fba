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
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg

from loadtest.stored import Place, Problem, Stored, against_logs, stored_problems
from loadtest.told import (
    CANCEL,
    CONFIRMED,
    EXPIRED,
    FULFILL,
    HELD,
    PENDING,
    STATE_NAMES,
    Told,
    read_logs,
)
from promise_svc.application.verify_report import VerifyReport
from promise_svc.bootstrap.books import open_audit
from promise_svc.config import ClusterConfig


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
            f"{self.report.orphan_count} held legs without a claim, "
            f"{self.report.oversold_count} oversold, {self.report.drift_count} drift"
        )


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
    """Whether the index must still have it: a sale neither cancelled nor handed over stays."""
    return CONFIRMED in told.acknowledged and not {CANCEL, FULFILL} & told.asked


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
