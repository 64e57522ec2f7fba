"""N worker processes and one for the background loops: start, replace, restart one by one, stop.

The supervisor answers no calls. It holds what must outlive a worker: the port, the metrics, and,
through the composition root, embedded engines. Each worker has a listening socket of its own on the
shared port (SO_REUSEPORT), bound here and inherited:

- In a restart the new worker inherits the socket of the old one, which therefore never closes: no
  connection that waits in it is lost.
- Of a worker that died the socket is closed at once, so that new connections go to the others, and
  the replacement gets a fresh one, which takes part as soon as it listens.
"""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from promise_svc.errors import Unavailable
from promise_svc.rpc.child import ChildProcess
from promise_svc.rpc.listeners import Door
from promise_svc.rpc.supervised import BACKGROUND, WORKER, Assignment
from promise_svc.telemetry import EventLog, MergedMetrics, SupervisorMetrics

PAGE_WAIT_SECONDS = 1.0
"""How long a scrape waits for a child that does not answer; then only its counters stand in."""

_log = EventLog("promise_svc.supervisor")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How patient the supervisor is; seconds."""

    back_off: tuple[float, float] = (0.5, 10.0)
    """A child that died is replaced at once; each further time in a row, doubling between these."""
    stable: float = 10.0
    """A child that worked this long may die once more without being counted with those before."""
    crashes_max: int = 5
    """So many deaths in a row end the service. A child that lacked an engine, or met a file that
    cannot be used, is not counted: it is tried again until that is mended."""
    start: float = 900.0
    """For a child to be ready; loading a table of 100 million cells takes minutes."""
    stop: float = 30.0
    """For a child to end in order."""
    look: float = 5.0
    """Between looks at the children and their metrics; what a killed one counted since is lost."""
    silent_max: int = 4
    """So many looks in a row without an answer, and a child is taken for hung, killed and replaced.
    Counted in looks, so that a supervisor that was halted itself gives the others time."""


@dataclass(eq=False, slots=True)
class _Slot:
    """A place for one child after the other."""

    role: str
    number: int
    listeners: list[socket.socket] = field(default_factory=list)
    child: ChildProcess | None = None
    deaths: int = 0
    """In a row, for the back-off."""
    crashes: int = 0
    """In a row, less those for lack of something that may come back."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by who puts another child in."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class Supervisor:
    """Runs once. ``command`` turns an assignment into a command line."""

    def __init__(
        self,
        command: Callable[[Assignment], Sequence[str]],
        *,
        environment: Mapping[str, str],
        door: Door,
        workers: int,
        background: bool,
        supervisor_pid: int,
        metrics: SupervisorMetrics,
        merged: MergedMetrics,
        pace: Pace,
    ) -> None:
        self._command = command
        self._environment = environment
        self._door = door
        self._supervisor_pid = supervisor_pid
        self._metrics = metrics
        self._merged = merged
        self._pace = pace
        self._background = [_Slot(BACKGROUND, 0)] if background else []
        self._workers = [_Slot(WORKER, number) for number in range(1, workers + 1)]
        self._children: dict[ChildProcess, _Slot] = {}
        for slots in (self._background, self._workers):
            for slot in slots[:1]:
                metrics.watch(slot.role, lambda slots=slots: sum(map(_ready, slots)))  # type: ignore[misc]

    async def run(
        self, stop: asyncio.Event, restart: asyncio.Event, on_serving: Callable[[], None]
    ) -> None:
        """Work until ``stop`` is set, then let all workers drain, then end the background loops.

        ``on_serving`` is called once, when every child is ready; ``restart`` may be set any time.
        Unavailable when a child cannot be started at first, or dies again and again.
        """
        work = asyncio.create_task(self._work(restart, on_serving))
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
        finally:
            for task in (work, stopping):
                task.cancel()
            await asyncio.gather(work, stopping, return_exceptions=True)
            _log.info("draining")
            # A confirm that waits for its record needs the relay until the last worker is gone.
            for role in (WORKER, BACKGROUND):
                children = [c for c, slot in self._children.items() if slot.role == role]
                await asyncio.gather(*(self._end(child) for child in children))
            for slot in self._workers:
                self._door.give_up(slot.listeners)

    async def refresh(self) -> None:
        """Have every child's metrics told anew; takes no longer than ``PAGE_WAIT_SECONDS``."""
        await asyncio.gather(*(self._answered(child) for child in [*self._children]))

    async def _answered(self, child: ChildProcess) -> bool:
        """Whether it told its metrics anew. Of one that did not, only what it counted is shown."""
        child.silent = not await child.refresh(PAGE_WAIT_SECONDS)
        if child.silent and child in self._children:
            self._merged.silent(child)
        return not child.silent

    async def _work(self, restart: asyncio.Event, on_serving: Callable[[], None]) -> None:
        for slots in (self._background, self._workers):
            await asyncio.gather(*(self._start(slot) for slot in slots))
        on_serving()
        slots = [*self._background, *self._workers]
        tasks = [asyncio.create_task(self._keep(slot)) for slot in slots]
        tasks.append(asyncio.create_task(self._restart_when_told(restart)))
        tasks.append(asyncio.create_task(self._look_often()))
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _start(self, slot: _Slot) -> None:
        slot.child = child = await self._spawn(slot)
        if not await child.started(self._pace.start):
            raise Unavailable(f"{child.name} did not start: {child.why()}")

    async def _spawn(self, slot: _Slot) -> ChildProcess:
        if slot.role == WORKER and not slot.listeners:
            slot.listeners = self._door.place()
        listen = self._door.address_of(slot.listeners) if slot.role == WORKER else ""

        def command(link_fd: int) -> Sequence[str]:
            return self._command(
                Assignment(slot.role, slot.number, listen, link_fd, self._supervisor_pid)
            )

        child = await ChildProcess.spawn(
            Assignment(slot.role, slot.number, "", 0, 0).name,
            command,
            environment=self._environment,
            inherited=slot.listeners,
            on_page=self._merged.update,
            on_end=self._ended,
        )
        self._children[child] = slot
        return child

    def _ended(self, child: ChildProcess) -> None:
        self._merged.ended(child)
        self._children.pop(child).changed.set()

    async def _keep(self, slot: _Slot) -> None:
        """Replace the slot's child whenever it ends unasked."""
        while True:
            await slot.changed.wait()
            slot.changed.clear()
            async with slot.lock:
                assert slot.child is not None
                if slot.child.ended.is_set():
                    await self._revive(slot, slot.child)

    async def _revive(self, slot: _Slot, dead: ChildProcess) -> None:
        if dead.ready_seconds() >= self._pace.stable:
            slot.deaths = slot.crashes = 0
        slot.deaths += 1
        slot.crashes += not dead.temporary
        self._metrics.died(slot.role)
        _log.error(
            "child died",
            child=dead.name, child_pid=dead.pid, error=dead.why(), attempt=slot.deaths,
        )  # fmt: skip
        self._door.give_up(slot.listeners)
        slot.listeners = []
        if slot.crashes >= self._pace.crashes_max:
            raise Unavailable(
                f"{dead.name} died {slot.crashes} times in a row, the last time of: {dead.why()}"
            )
        if slot.deaths > 1:
            first, longest = self._pace.back_off
            seconds = min(longest, first * 2 ** min(slot.deaths - 2, 16))
            await asyncio.sleep(seconds * random.uniform(0.75, 1.0))
        slot.child = child = await self._spawn(slot)
        _log.info("child started", child=child.name, child_pid=child.pid, attempt=slot.deaths)

    async def _restart_when_told(self, restart: asyncio.Event) -> None:
        while True:
            await restart.wait()
            restart.clear()
            began = time.monotonic()
            _log.info("restarting")
            slots = [*self._background, *self._workers]
            for at, slot in enumerate(slots):
                failed = await self._replace(slot)
                if failed is not None:
                    _log.error(
                        "restart given up; SIGHUP begins it anew",
                        child=failed.name, child_pid=failed.pid, error=failed.why(),
                        restarted=_named(slots[:at]), not_restarted=_named(slots[at:]),
                    )  # fmt: skip
                    break
            else:
                _log.info("restarted", seconds=round(time.monotonic() - began, 3))

    async def _replace(self, slot: _Slot) -> ChildProcess | None:
        """A new child, then the end of the old one; the new one if it did not come up, and then the
        old one works on."""
        async with slot.lock:
            old = slot.child
            assert old is not None
            child = await self._spawn(slot)
            if not await child.started(self._pace.start):
                await self._end(child)
                return child
            slot.child = child
            slot.deaths = slot.crashes = 0
        slot.changed.set()
        await self._end(old)
        return None

    async def _end(self, child: ChildProcess) -> None:
        if not await child.stop(self._pace.stop):
            _log.error("child had to be killed", child=child.name, child_pid=child.pid)

    async def _look_often(self) -> None:
        while True:
            await asyncio.sleep(self._pace.look)
            await asyncio.gather(*(self._look(child) for child in [*self._children]))

    async def _look(self, child: ChildProcess) -> None:
        """Have its metrics told; end it if it hangs, for ``_keep`` to replace it."""
        child.unanswered = 0 if await self._answered(child) else child.unanswered + 1
        if child.stopping or child.ended.is_set():
            return
        if child.unanswered >= self._pace.silent_max:
            child.kill(f"it hung: {child.unanswered} looks in a row were not answered")
        elif not child.ready.is_set() and child.seconds() > self._pace.start:
            child.kill("it was not ready in time")


def _named(slots: Sequence[_Slot]) -> str:
    return " ".join(f"{slot.child.name}:{slot.child.pid}" for slot in slots if slot.child)


def _ready(slot: _Slot) -> bool:
    child = slot.child
    if child is None or child.silent:
        return False
    return child.ready.is_set() and not child.ended.is_set()
