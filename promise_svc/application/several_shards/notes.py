"""Notes to home that can wait for others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from promise_svc.application.ports import AtsIndex
from promise_svc.application.several_shards.messages import BACKGROUND_SECONDS
from promise_svc.application.tasks import OwnedTasks
from promise_svc.domain.reservation import ResolveStep, SettleStep, StepReply

NOTES_MAX = 32
"""Notes of one function call: a shard's other callers wait for no more than a millisecond."""

_Noted = TypeVar("_Noted", SettleStep, ResolveStep)


class Notes:
    """Tells home that holds are complete, or confirmed: a moment later, and many at once."""

    def __init__(self, index: AtsIndex, tasks: OwnedTasks, seconds: float) -> None:
        self._index = index
        self._tasks = tasks
        self._seconds = seconds
        self.waiting: dict[str, tuple[int, SettleStep | ResolveStep]] = {}
        """By reservation; what is decided meanwhile makes its note needless."""
        self._noting = False

    def note(self, rid: str, home: int, step: SettleStep | ResolveStep) -> None:
        """Have home told, soon, that every leg is held, or confirmed. Whoever asks meanwhile finds
        it PENDING, or PINNED, and looks at the legs; a note that is lost is the resolver's."""
        if not self._noting:
            self._noting = True
            self._tasks.start(self.send())
        self.waiting[rid] = home, step

    async def send(self) -> None:
        """Send what there is, once the moment is over."""
        try:
            await asyncio.sleep(self._seconds)
        finally:
            notes, self.waiting, self._noting = self.waiting, {}, False
        held: dict[int, list[SettleStep]] = {}
        decided: dict[int, list[ResolveStep]] = {}
        for home, step in notes.values():
            if isinstance(step, SettleStep):
                held.setdefault(home, []).append(step)
            else:
                decided.setdefault(home, []).append(step)
        sent = [*_sent(self._index.settle, held), *_sent(self._index.resolve, decided)]
        await asyncio.gather(*sent, return_exceptions=True)


def _sent(
    send: Callable[[int, Sequence[_Noted], float], Awaitable[list[StepReply]]],
    by_home: Mapping[int, Sequence[_Noted]],
) -> Iterator[Awaitable[list[StepReply]]]:
    for home, steps in by_home.items():
        for first in range(0, len(steps), NOTES_MAX):
            yield send(home, steps[first : first + NOTES_MAX], BACKGROUND_SECONDS)
