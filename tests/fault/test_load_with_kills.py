"""Shoppers in their own processes against a real server, while everything is killed in turn.

The server, Valkey and PostgreSQL are processes of their own. What the shoppers were told is in
fsynced logs; afterwards index, order store and logs must tell one story. The seed is printed; it
fixes the order of the kills and what each shopper wants, not the moments.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from loadtest.faults import KILLS, FaultyHost, Ordeal, wait_for_calls
from loadtest.stored import stored_problems
from loadtest.told import read_logs

pytestmark = pytest.mark.fault

CALLS_BETWEEN_KILLS = 50
PROGRESS_SECONDS = 20.0

Lie = Callable[[list[dict[str, Any]]], dict[str, Any]]


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_nothing_acknowledged_is_lost_or_sold_twice_whatever_is_killed(
    tmp_path: Path, rng: random.Random
) -> None:
    """Each of the three is killed twice under load; then each planted lie is found."""
    seed = rng.randrange(2**32)
    print(f"seed of this ordeal: {seed}")
    tmp_path.chmod(0o755)
    with FaultyHost(tmp_path) as host, Ordeal(host, seed) as ordeal:
        for fault in ordeal.order(KILLS, 2 * len(KILLS)):
            wait_for_calls(ordeal, CALLS_BETWEEN_KILLS, PROGRESS_SECONDS)
            ordeal.strike(fault)
        wait_for_calls(ordeal, CALLS_BETWEEN_KILLS, PROGRESS_SECONDS)
        answered = ordeal.finish()
        verdict = ordeal.audit()

        assert answered, "a retried call never got its answer"
        assert verdict.problems == [], (seed, ordeal.faults)
        assert verdict.unknown == 0
        for state in ("HELD", "CONFIRMED", "RELEASED", "CANCELLED"):
            assert verdict.acknowledged[state] > 10, verdict.summary()
        found = asyncio.run(_found_among_lies(ordeal))
        for lie, kind in LIES.items():
            assert kind in found[lie], lie.__doc__


# -- the negative control: what a client could have been told, and was not --------------------


def _lost_hold(_entries: list[dict[str, Any]]) -> dict[str, Any]:
    """A hold nobody granted."""
    return {
        "method": "CreateReservation", "code": 0, "outcome": 1,
        "reservation_id": "never-granted", "lines": [["hot-000", 1]],
    }  # fmt: skip


def _lost_confirm(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """A confirm acknowledged for what was released."""
    rid = _of(entries, "ReleaseReservation", 2)
    return {"method": "ConfirmReservation", "code": 0, "outcome": 1, "reservation_id": rid}


def _lost_release(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """A release acknowledged for what stands sold."""
    rid = _of(entries, "CancelReservation", 3)
    return {"method": "ReleaseReservation", "code": 0, "outcome": 2, "reservation_id": rid}


def _other_plan(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """A second plan under a used key."""
    rid = _of(entries, "CreateReservation", 1)
    return {
        "method": "CreateReservation", "code": 0, "outcome": 1, "reservation_id": rid,
        "places": [["hot-000", "elsewhere", 1]],
    }  # fmt: skip


def _other_lines(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """More units sold than the counters say."""
    cancelled = {e["reservation_id"] for e in entries if e["method"] == "CancelReservation"}
    sold = [e for e in entries if e["method"] == "ConfirmReservation" and e["outcome"] == 1]
    rid = next(e["reservation_id"] for e in sold if e["reservation_id"] not in cancelled)
    return {
        "method": "CreateReservation", "code": 0, "outcome": 1, "reservation_id": rid,
        "lines": [["hot-000", 1_000]],
    }  # fmt: skip


LIES: dict[Lie, str] = {
    _lost_hold: "LOST",
    _lost_confirm: "RESOLVED_TWICE",
    _lost_release: "RESOLVED_TWICE",
    _other_plan: "TWO_ANSWERS",
    _other_lines: "OVERSOLD",
}


def _of(entries: list[dict[str, Any]], method: str, outcome: int) -> str:
    found = (e for e in entries if (e["method"], e["outcome"]) == (method, outcome))
    return str(next(found)["reservation_id"])


async def _found_among_lies(ordeal: Ordeal) -> dict[Lie, set[str]]:
    """Each lie, alone in a log of its own: the kinds of problem that come to light."""
    entries = [json.loads(x) for log in ordeal.logs for x in log.read_text().splitlines()]
    planted = ordeal.host.folder / "lie.jsonl"
    found = {}
    store = await asyncpg.connect(ordeal.host.order_store_url)
    for lie in LIES:
        planted.write_text(json.dumps({"time_ms": 0, **lie(entries)}) + "\n")
        told = read_logs([*ordeal.logs, planted])
        problems = await stored_problems(store, told, sum_attempts_max=1)
        found[lie] = {problem.kind for problem in problems}
    await store.close()
    return found
