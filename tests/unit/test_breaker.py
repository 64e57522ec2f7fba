"""When calls to an index node are refused without being sent, and when no longer."""

from __future__ import annotations

from promise_svc.adapters.ats_index.breaker import SILENT_LOOKS_MAX, Breaker
from promise_svc.adapters.ats_index.connection import Node


class Told:
    """Remembers."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, ...]] = []

    def refused(self, why: str) -> None:
        self.seen.append(("refused", why))

    def lost(self, node: str, why: str) -> None:
        self.seen.append(("lost", node, why))

    def found(self, node: str) -> None:
        self.seen.append(("found", node))


def a_breaker() -> tuple[Breaker, Told]:
    told = Told()
    return Breaker(Node("n", 1), told), told


def test_a_node_that_is_silent_for_a_second_is_stalled() -> None:
    """At the fourth look in a row, told once."""
    breaker, told = a_breaker()

    opened = [breaker.look(silent=True) for _ in range(2 * SILENT_LOOKS_MAX)]

    assert opened.index(True) == SILENT_LOOKS_MAX - 1
    assert opened.count(True) == 1
    assert told.seen == [("lost", "n:1", "STALLED")]


def test_a_word_in_between_begins_the_count_anew() -> None:
    """A slow node is no stalled one, nor is one that nobody asks."""
    breaker, told = a_breaker()
    for _ in range(3):
        for _ in range(SILENT_LOOKS_MAX - 1):
            assert not breaker.look(silent=True)
        assert not breaker.look(silent=False)

    assert (breaker.why, told.seen) == (None, [])


def test_after_an_answer_it_takes_the_full_silence_again() -> None:
    """Closing forgets the looks before."""
    breaker, told = a_breaker()
    for _ in range(SILENT_LOOKS_MAX):
        breaker.look(silent=True)
    breaker.close()

    again = [breaker.look(silent=True) for _ in range(SILENT_LOOKS_MAX)]

    assert again == [False] * (SILENT_LOOKS_MAX - 1) + [True]
    assert [what for what, *_ in told.seen] == ["lost", "found", "lost"]


def test_it_is_told_once_that_a_node_is_lost_and_once_that_it_is_back() -> None:
    """Whatever becomes of it in between: it tries to connect ten times a second."""
    breaker, told = a_breaker()
    breaker.close()
    breaker.open("STALLED")
    breaker.open("AWAY")
    breaker.open("AWAY")
    breaker.close()
    breaker.close()

    assert told.seen == [("lost", "n:1", "STALLED"), ("found", "n:1")]


def test_a_refusal_names_the_node_and_is_counted() -> None:
    """Nothing was sent, so it may be retried."""
    breaker, told = a_breaker()

    error = breaker.refusal("STALLED")

    assert error.reason == "UNAVAILABLE"
    assert "n:1" in error.message
    assert told.seen == [("refused", "STALLED")]
