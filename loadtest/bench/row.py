"""A row of the bench: a figure, its goal, and how it came about."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SLOWER_SHARE = 1.25
"""A row worse by more than a quarter is called slower; runs on one quiet machine differ by 10 %."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """``value`` is None where it could not be measured; ``how`` then says why."""

    name: str
    value: float | None
    unit: str
    goal: str = ""
    """`<= 6`, `>= 20`; empty for an anchor, which is only there to be compared with."""
    how: str = ""
    meets: bool | None = None
    """Whether the goal is met; worked out from ``goal`` unless given."""


def row(
    name: str, value: float | None, unit: str, goal: str = "", how: str = "", **rest: Any
) -> Row:
    """A row whose ``meets`` follows from a goal of the form `<= number`."""
    meets = rest.pop("meets", None)
    match = re.match(r"(<=|>=) ([\d.,]+)", goal)
    if meets is None and match and value is not None:
        limit = float(match[2].replace(",", ""))
        meets = value <= limit if match[1] == "<=" else value >= limit
    rounded = None if value is None else float(f"{value:.4g}")
    return Row(name=name, value=rounded, unit=unit, goal=goal, how=how, meets=meets, **rest)


def write_rows(path: Path, rows: Sequence[Row], about: dict[str, Any]) -> None:
    """`build/bench.json`: machine, versions, rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(about | {"rows": [asdict(each) for each in rows]}, indent=1) + "\n")


def read_rows(path: Path) -> dict[str, Row]:
    """The rows of an earlier run by name."""
    return {each["name"]: Row(**each) for each in json.loads(path.read_text())["rows"]}


def lower_is_better(unit: str) -> bool | None:
    """None where neither is: a count of bytes read, a share."""
    if unit in {"us", "ms", "bytes", "calls", "ratio (low)"}:
        return True
    if unit.endswith("/s") or unit == "ratio (high)":
        return False
    return None


def slower(now: Iterable[Row], before: dict[str, Row], expected: Iterable[str] = ()) -> list[str]:
    """Sentences about rows that got worse by more than SLOWER_SHARE, lost their goal, or are gone.

    ``expected`` names the rows this run should have. Anchors are left out: they say how the machine
    was, not how we were.
    """
    rows = {each.name: each for each in now}
    told = []
    for name in dict.fromkeys((*rows, *expected)):
        past, each = before.get(name), rows.get(name)
        if past is None or not past.goal or past.value is None:
            continue
        if each is None or each.value is None:
            why = each.how if each else "it is not there"
            told.append(f"{name}: was {past.value:g} {past.unit}, could not be measured now: {why}")
            continue
        sentence = _worse(each, past)
        if sentence:
            told.append(sentence)
    return told


def _worse(each: Row, past: Row) -> str:
    direction = lower_is_better(each.unit)
    if direction is None or past.value is None or each.value is None:
        return ""
    better, worse = (past.value, each.value) if direction else (each.value, past.value)
    share = worse / better if better else float("inf") if worse else 1.0
    lost = past.meets and each.meets is False
    if share <= SLOWER_SHARE and not (lost and share > 1):
        return ""
    goal = "; its goal is lost" if lost else ""
    return (
        f"{each.name}: {past.value:g} -> {each.value:g} {each.unit.split(' ')[0]}, "
        f"worse by {share - 1:.0%}{goal}"
    )
