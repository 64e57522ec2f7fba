"""What the load audit concludes from a client's log and a state, with no engine in sight."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from loadtest.told import STATE_NAMES, Told, judge, read_logs
from promise_svc.domain.events import EventType
from promise_svc.domain.reservation import State

CREATE, CONFIRM = "CreateReservation", "ConfirmReservation"
RELEASE, CANCEL = "ReleaseReservation", "CancelReservation"
FULFILL = "FulfillReservation"
HELD_REPLY = (CREATE, 0, 1, "")
CONFIRMED_REPLY = (CONFIRM, 0, 1, "")
BROKEN = (14, 0, "")
AWAY = (14, 0, "UNAVAILABLE")

LEGAL: dict[str, tuple[list[tuple[str, int, int, str]], set[str]]] = {
    "a hold may expire": ([HELD_REPLY], {"PENDING", "HELD", "EXPIRED"}),
    "a refusal holds nothing": ([(CREATE, 0, 60, "")], {"missing", "ABORTED", "EXPIRED"}),
    "nothing done is nothing held": ([(CREATE, *AWAY)], {"missing", "ABORTED", "EXPIRED"}),
    "a broken create is either": (
        [(CREATE, *BROKEN)],
        {"missing", "ABORTED", "EXPIRED", "PENDING", "HELD"},
    ),
    "a broken create that was then refused holds nothing": (
        [(CREATE, *BROKEN), (CREATE, 0, 60, "")],
        {"missing", "ABORTED", "EXPIRED"},
    ),
    "a broken confirm is either": (
        [HELD_REPLY, (CONFIRM, *BROKEN)],
        {"PENDING", "HELD", "PINNED", "CONFIRMED", "EXPIRED"},
    ),
    "a confirm that did nothing sold nothing": (
        [HELD_REPLY, (CONFIRM, *AWAY)],
        {"PENDING", "HELD", "EXPIRED"},
    ),
    "a sale stands": ([HELD_REPLY, CONFIRMED_REPLY], {"PINNED", "CONFIRMED"}),
    "a sale may be cancelled by who asked for it": (
        [HELD_REPLY, CONFIRMED_REPLY, (CANCEL, *BROKEN)],
        {"PINNED", "CONFIRMED", "CANCELLED"},
    ),
    "a release stands": ([HELD_REPLY, (RELEASE, 0, 2, "")], {"RELEASED"}),
    "a hand-over stands": (
        [HELD_REPLY, CONFIRMED_REPLY, (FULFILL, 0, 4, "")],
        {"FULFILLED"},
    ),
    "a sale may be handed over by who asked for it": (
        [HELD_REPLY, CONFIRMED_REPLY, (FULFILL, *BROKEN)],
        {"PINNED", "CONFIRMED", "FULFILLED"},
    ),
    "what was handed over is not cancelled too": (
        [HELD_REPLY, CONFIRMED_REPLY, (FULFILL, 0, 4, ""), (CANCEL, 0, 3, "")],
        set(),
    ),
    "a cancel stands": ([HELD_REPLY, CONFIRMED_REPLY, (CANCEL, 0, 3, "")], {"CANCELLED"}),
}


def told_by(folder: Path, attempts: list[tuple[str, int, int, str]], **more: Any) -> Told:
    log = folder / "acks.jsonl"
    log.write_text(
        "".join(
            json.dumps(
                {"method": m, "code": c, "outcome": o, "reason": r, "reservation_id": "r", **more}
            )
            + "\n"
            for m, c, o, r in attempts
        )
    )
    return read_logs([log])["r"]


@pytest.mark.parametrize("case", LEGAL)
def test_only_what_was_asked_for_may_follow_what_was_acknowledged(
    tmp_path: Path, case: str
) -> None:
    """Every state is judged, the legal ones and all others."""
    attempts, legal = LEGAL[case]
    told = told_by(tmp_path, attempts)

    assert {name for state, name in STATE_NAMES.items() if not list(judge(told, state))} == legal


def test_two_plans_under_one_key_are_two_answers(tmp_path: Path) -> None:
    """A retry must tell the first plan again."""
    first = told_by(tmp_path, [HELD_REPLY], places=[["a", "n1", 1]])
    again = told_by(tmp_path, [HELD_REPLY, HELD_REPLY], places=[["a", "n2", 1]])
    first.places |= again.places

    assert [kind for kind, _ in judge(first, State.HELD)] == ["TWO_ANSWERS"]


def test_a_torn_last_line_is_what_a_killed_client_leaves_and_any_other_is_not(
    tmp_path: Path,
) -> None:
    """Only the end of a log may be half written."""
    told_by(tmp_path, [HELD_REPLY])
    log = tmp_path / "acks.jsonl"
    whole = log.read_text()

    log.write_text(whole + whole[:20])
    assert list(read_logs([log])) == ["r"]

    log.write_text(whole[:20] + "\n" + whole)
    with pytest.raises(ValueError, match="no line of a log"):
        read_logs([log])


def test_the_numbers_written_down_twice_agree() -> None:
    """The audit does not import them, so that a changed number is noticed here."""
    theirs = {int(state): state.name for state in State}

    assert {n: name for n, name in STATE_NAMES.items() if n} == {
        n: theirs[n] for n in STATE_NAMES if n
    }
    assert (
        EventType.RESERVATION_CONFIRMED, EventType.RESERVATION_RELEASED,
        EventType.RESERVATION_CANCELLED, EventType.RESERVATION_EXPIRED,
    ) == (13, 14, 15, 16)  # fmt: skip
