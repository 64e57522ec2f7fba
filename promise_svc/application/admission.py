"""What is let in, what is shed, in which order.

A static limit for now: each priority may fill the house up to its own mark, so that what must not
wait still finds room when everything below it has been shed.
"""

from __future__ import annotations

import math
from enum import IntEnum

from promise_svc.errors import Overloaded

RETRY_DELAY_MS = 250
"""When a shed caller is asked to come back: long beside a call, short beside a shopper."""


class Priority(IntEnum):
    """Who goes first; the highest number is shed last."""

    AVAILABILITY = 1
    PROMISE = 2
    OTHER_SUPPLY = 3
    RESERVE = 4
    SUPPLY_DOWN = 5
    """Supply that lowers stock: late news of it oversells."""
    SETTLE = 6
    """Confirm, release, cancel, fulfill."""


_SHARES = {
    Priority.AVAILABILITY: 0.70,
    Priority.PROMISE: 0.75,
    Priority.OTHER_SUPPLY: 0.80,
    Priority.RESERVE: 0.85,
    Priority.SUPPLY_DOWN: 0.90,
    Priority.SETTLE: 1.0,
}
"""Share of the limit that may be taken, by whomever, when a call of this priority comes."""


class Admission:
    """Counts calls in flight against a limit. One event loop; cost: a comparison."""

    def __init__(self, in_flight_max: int) -> None:
        self.in_flight = 0
        self._marks = {
            priority: math.ceil(in_flight_max * share) for priority, share in _SHARES.items()
        }

    def mark(self, priority: Priority) -> int:
        """Calls in flight at which a call of this priority is shed."""
        return self._marks[priority]

    def enter(self, priority: Priority) -> None:
        """Take a place; pair with ``leave``. Overloaded when there is none."""
        if self.in_flight >= self._marks[priority]:
            raise Overloaded(
                f"{self.in_flight} calls are in flight; calls of priority {priority.name} are "
                f"shed from {self._marks[priority]} on",
                RETRY_DELAY_MS,
                priority=priority.name,
            )
        self.in_flight += 1

    def leave(self) -> None:
        """Give the place back."""
        self.in_flight -= 1
        assert self.in_flight >= 0, "every leave has its enter"
