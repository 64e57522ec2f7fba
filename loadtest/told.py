"""What clients were told, from their logs, and which states may follow it."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CREATE, CONFIRM, RELEASE, CANCEL, FULFILL = (
    f"{verb}Reservation" for verb in ("Create", "Confirm", "Release", "Cancel", "Fulfill")
)
"""Cancel and Fulfill of all that is left: logs of partial ones are not judged."""
OK = 0
NOTHING_DONE = frozenset({"UNAVAILABLE", "NOT_SERVING", "OVERLOADED"})
"""Reasons by which the service promises that nothing was done."""

# Numbers of the index and the order store, written down a second time on purpose.
PENDING, HELD, PINNED, CONFIRMED, RELEASED, CANCELLED, EXPIRED, ABORTED = 1, 2, 3, 4, 5, 6, 7, 10
FULFILLED = 9
STATE_NAMES = {
    0: "missing", PENDING: "PENDING", HELD: "HELD", PINNED: "PINNED", CONFIRMED: "CONFIRMED",
    RELEASED: "RELEASED", CANCELLED: "CANCELLED", EXPIRED: "EXPIRED", ABORTED: "ABORTED",
    FULFILLED: "FULFILLED",
}  # fmt: skip
ACKNOWLEDGED = {CREATE: (1, HELD), CONFIRM: (1, CONFIRMED), RELEASE: (2, RELEASED),
                CANCEL: (3, CANCELLED), FULFILL: (4, FULFILLED)}  # fmt: skip
"""Method -> (outcome that acknowledges it, state it acknowledges)."""


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


def judge(told: Told, state: int) -> Iterator[tuple[str, str]]:
    """Whether ``state`` may follow what was told; (kind, sentence) for each thing wrong.

    Legal is what was acknowledged last, or anything that was asked for and may have happened
    later. Nobody can ask for an expiry, so that is judged by the clock.
    """
    name = STATE_NAMES.get(state, str(state))
    if {CANCELLED, FULFILLED} <= told.acknowledged:
        yield "RESOLVED_TWICE", "both a cancel and a hand-over were acknowledged"
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
    if FULFILLED in acknowledged:
        return {FULFILLED}
    if RELEASED in acknowledged:
        return {RELEASED}
    ended = {state for verb, state in ((CANCEL, CANCELLED), (FULFILL, FULFILLED))
             if verb in told.asked}  # fmt: skip
    if CONFIRMED in acknowledged:
        # PINNED: confirmed by all its legs, and home has not decided it yet.
        return {PINNED, CONFIRMED, *ended}
    later = {EXPIRED}
    if CONFIRM in told.asked:
        later |= {PINNED, CONFIRMED, *ended}
    if RELEASE in told.asked:
        later.add(RELEASED)
    if HELD in acknowledged:
        # PENDING: held by all its legs, and home has not noted it yet.
        return {PENDING, HELD, *later}
    # What was never acknowledged may also run out before the resolver finds it.
    none = {0, ABORTED, EXPIRED}
    return {*none, PENDING, HELD, *later} if CREATE in told.unknown else none
