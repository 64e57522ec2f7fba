"""What is let in, what is shed, in which order.

Two things run out. Calls that wait for an engine take a place, and each priority may fill the house
up to its own mark. And the event loop has one core: a turn of it begins so many calls as fit into
`TURN_SECONDS` by what they cost lately, the highest priority first; the others wait for the next.
How many may wait follows from that cost (Little's law): whoever would wait longer than
`PATIENCE_SECONDS` is shed at once, whoever did is shed then. So the lowest priority goes first, as
much is done as ever, and a confirm waits for a turn, not for a queue.

Shedding by the delay of queueing instead of by load: Nichols and Jacobson, Controlling Queue Delay,
ACM Queue 2012; in a server, Maurer, Fail at Scale, ACM Queue 2015; with priorities, Zhou et al.,
Overload Control for Scaling WeChat Microservices, SoCC 2018.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from enum import IntEnum
from time import monotonic
from typing import NamedTuple

from promise_svc.errors import Overloaded

RETRY_DELAY_MS = 250
"""When a shed caller is asked to come back: long beside a call, short beside a shopper."""

TURN_SECONDS = 0.003
"""Of a turn of the loop for calls that are not SETTLE. A confirm takes about six turns."""

CROWD = 64
"""Calls that may wait however long it takes: so few end by themselves. CoDel, too, never drops the
last packet; without this, 32 callers of a machine that others use were refused half of their calls.
"""

COST_SECONDS = 0.0002
"""What a call is taken to cost before one was measured."""

COST_WEIGHT = 1 / 16
"""Of the newest call in the mean."""


class Priority(IntEnum):
    """Who goes first; the highest number is shed last."""

    AVAILABILITY = 1
    PROMISE = 2
    OTHER_SUPPLY = 3
    RESERVE = 4
    SUPPLY_DOWN = 5
    """Supply that lowers stock: late news of it oversells."""
    SETTLE = 6
    """Confirm, release, cancel, fulfill. Waits for no turn, and is shed only without a place."""


_SHARES = {
    Priority.AVAILABILITY: 0.70,
    Priority.PROMISE: 0.75,
    Priority.OTHER_SUPPLY: 0.80,
    Priority.RESERVE: 0.85,
    Priority.SUPPLY_DOWN: 0.90,
    Priority.SETTLE: 1.0,
}
"""Share of the limit that may be taken, by whomever, when a call of this priority comes."""


PATIENCE_SECONDS = {
    Priority.AVAILABILITY: 0.1,
    Priority.PROMISE: 0.25,
    Priority.OTHER_SUPPLY: 0.5,
    Priority.RESERVE: 0.5,
    Priority.SUPPLY_DOWN: 1.0,
}
"""How long a call waits for its turn: bursts up to this are ridden out, what lasts longer is
overload. Who waits delays nobody above, so this is what its own caller bears."""


class _Waiting(NamedTuple):
    turn: asyncio.Future[None]
    since: float


class Admission:
    """Places and turns of one event loop; cost: a few comparisons a call."""

    def __init__(self, in_flight_max: int, clock: Callable[[], float] = monotonic) -> None:
        self.in_flight = 0
        self._marks = {
            priority: math.ceil(in_flight_max * share) for priority, share in _SHARES.items()
        }
        self._costs = dict.fromkeys(Priority, COST_SECONDS)
        self._queues: dict[Priority, deque[_Waiting]] = {
            priority: deque() for priority in sorted(Priority, reverse=True)
        }
        self._waiting_count = 0
        self._seconds_left = TURN_SECONDS
        self._turning = False
        self._clock = clock

    @property
    def waiting_count(self) -> int:
        """Calls that wait for a turn."""
        return self._waiting_count

    def mark(self, priority: Priority) -> int:
        """Calls in flight at which a call of this priority is shed."""
        return self._marks[priority]

    def refusal(self, priority: Priority) -> str:
        """The limit for which a call would be shed now, IN_FLIGHT or TURN; empty for none."""
        if self.in_flight >= self._marks[priority]:
            return "IN_FLIGHT"
        if self._waiting_count > CROWD and priority is not Priority.SETTLE:
            ahead = 0.0
            for other, queue in self._queues.items():
                if other < priority:
                    break
                ahead += len(queue) * self._costs[other]
            if ahead > PATIENCE_SECONDS[priority]:
                return "TURN"
        return ""

    def enter(self, priority: Priority) -> None:
        """Take a place; pair with ``leave``. Overloaded when there is none."""
        if limit := self.refusal(priority):
            raise shed(priority, limit)
        self.in_flight += 1

    def leave(self) -> None:
        """Give the place back."""
        self.in_flight -= 1
        assert self.in_flight >= 0, "every leave has its enter"

    def begins(self, priority: Priority) -> bool:
        """Whether a call may begin in this turn; if not, await ``turn``."""
        if priority is Priority.SETTLE:
            return True
        if self._waiting_count or self._seconds_left <= 0:
            return False
        self._seconds_left -= self._costs[priority]
        self._end_turn_soon()
        return True

    async def turn(self, priority: Priority) -> None:
        """Wait for a turn. Overloaded in a crowd when ``PATIENCE_SECONDS`` end before."""
        waiting = _Waiting(asyncio.get_running_loop().create_future(), self._clock())
        self._queues[priority].append(waiting)
        self._waiting_count += 1
        self._end_turn_soon()
        await waiting.turn

    def took(self, priority: Priority, seconds: float) -> None:
        """Tell how long the loop was busy with beginning a call."""
        self._costs[priority] += (seconds - self._costs[priority]) * COST_WEIGHT

    def _end_turn_soon(self) -> None:
        if not self._turning:
            self._turning = True
            # Comes after all that can be read now, and before anything is waited for.
            asyncio.get_running_loop().call_soon(self._next_turn)

    def _next_turn(self) -> None:
        self._turning = False
        self._seconds_left = TURN_SECONDS
        now, crowded = self._clock(), self._waiting_count > CROWD
        for priority, queue in self._queues.items():
            while queue:
                turn, since = queue[0]
                if turn.done():
                    pass  # its caller went away
                elif crowded and now - since > PATIENCE_SECONDS[priority]:
                    turn.set_exception(shed(priority, "TURN"))
                elif self._seconds_left > 0:
                    self._seconds_left -= self._costs[priority]
                    turn.set_result(None)
                else:
                    break
                queue.popleft()
                self._waiting_count -= 1
        if self._waiting_count:
            self._end_turn_soon()


def shed(priority: Priority, limit: str) -> Overloaded:
    """What the caller is told; ``limit`` is IN_FLIGHT or TURN."""
    why = "too many calls are in flight" if limit == "IN_FLIGHT" else "too many calls are waiting"
    return Overloaded(
        f"{why}; those of priority {priority.name} are shed",
        RETRY_DELAY_MS,
        priority=priority.name,
        limit=limit,
    )
