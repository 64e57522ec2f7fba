"""Waiting for the order store where an acknowledgement must survive the loss of the index."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from promise_svc.application.ports import DurabilityWatch
from promise_svc.application.tasks import Deadline, all_of
from promise_svc.domain.reservation import DurabilityMode
from promise_svc.domain.sharding import Position
from promise_svc.errors import Unavailable

SECONDS_MAX = 5.0
"""Longest wait for the order store; a caller that waits keeps a place others need."""

_SHARE = 0.9
"""Of the caller's time: what is left tells it the outcome is unknown, before it stops listening."""


class Recorder:
    """``store_away`` tells whether the order store is known to be away: then nothing is begun that
    would have to wait for it."""

    def __init__(self, watch: DurabilityWatch, store_away: Callable[[], bool]) -> None:
        self._watch = watch
        self._store_away = store_away

    def refuse_unrecordable(self, mode: DurabilityMode) -> None:
        """Unavailable where RECORDED is asked for and cannot be had now."""
        if mode is DurabilityMode.RECORDED and self._store_away():
            raise Unavailable("the order store is away, so nothing can be recorded; a hold stands")

    async def recorded(
        self,
        home: int,
        at: Position,
        answered_epoch: int,
        legs: Mapping[int, Position],
        deadline: Deadline,
    ) -> None:
        """Wait until the order store has the decision and every leg under it: with the decision
        alone, a rebuilt index would sell the legs' units again. Raises OutcomeUnknown."""
        timeout = min(SECONDS_MAX, deadline.left() * _SHARE)
        waits = [self._watch.wait_durable(home, at, answered_epoch, timeout)]
        waits += [self._watch.wait_durable(s, leg, leg.epoch, timeout) for s, leg in legs.items()]
        await all_of(waits)
