"""Answers for a node that is away or stalled: at once, until it is heard of again.

Half open is the task that reconnects, for a node that is away, and for one that hangs the answers
that are still due from it: any of them closes the breaker.
"""

from __future__ import annotations

from typing import Literal, Protocol

from promise_svc.adapters.ats_index.connection import Node
from promise_svc.errors import Unavailable

WATCH_SECONDS = 0.25
"""Between looks at a connection."""

SILENT_LOOKS_MAX = 4
"""Looks in a row at which answers were due and nothing had come: then a node is stalled. A second,
where a full batch takes a millisecond. A loop of ours that was busy costs one look only."""

Why = Literal["AWAY", "STALLED", "QUEUE_FULL"]
_TEXTS: dict[Why, str] = {
    "AWAY": "is away",
    "STALLED": "does not answer",
    "QUEUE_FULL": "has too much waiting for it",
}


class NodeObserver(Protocol):
    """Who counts and logs."""

    def refused(self, why: str) -> None:
        """A call was not sent."""
        ...

    def lost(self, node: str, why: str) -> None:
        """From now on calls are refused."""
        ...

    def found(self, node: str) -> None: ...


class Breaker:
    """Of one node."""

    def __init__(self, node: Node, observer: NodeObserver | None) -> None:
        self.why: Why | None = None
        """Why calls are refused; None while they are not."""
        self._node = f"{node.host}:{node.port}"
        self._observer = observer
        self._silent_looks = 0

    def refusal(self, why: Why) -> Unavailable:
        """Counts a call that is not sent, and says what its caller is told."""
        if self._observer is not None:
            self._observer.refused(why)
        return Unavailable(f"index node {self._node} {_TEXTS[why]}")

    def open(self, why: Why) -> None:
        if self._observer is not None and self.why is None:
            self._observer.lost(self._node, why)
        self.why = why

    def close(self) -> None:
        if self._observer is not None and self.why is not None:
            self._observer.found(self._node)
        self.why = None
        self._silent_looks = 0

    def look(self, *, silent: bool) -> bool:
        """Tell whether answers are due and nothing came since the last look; True at the look that
        opens the breaker."""
        self._silent_looks = self._silent_looks + 1 if silent else 0
        if self._silent_looks != SILENT_LOOKS_MAX:
            return False
        self.open("STALLED")
        return True
