"""The supervisor over real processes that do next to nothing, and misbehave when told."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from promise_svc.errors import Unavailable
from promise_svc.rpc.child import ChildProcess
from promise_svc.rpc.listeners import Door
from promise_svc.rpc.supervised import Assignment
from promise_svc.rpc.supervisor import Pace, Supervisor
from promise_svc.telemetry import MergedMetrics, SupervisorMetrics
from tests.support.supervised import until

ROOT = Path(__file__).parents[2]
QUICK = Pace(back_off=(0.05, 0.1), stable=60.0, crashes_max=3, start=20.0, stop=10.0)


class Rig:
    """A supervisor of two workers and a background process, and what it is told."""

    def __init__(self, folder: Path, pace: Pace, *, inherited: bool = True) -> None:
        self.mode = folder / "mode"
        self.mode.write_text("steady")
        self.registry, merged = CollectorRegistry(), MergedMetrics()
        self.registry.register(merged)
        self.door = Door("127.0.0.1:0", inherited=inherited)
        self.stop, self.restart, self.serving = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.started: list[Assignment] = []
        self.supervisor = Supervisor(
            self._command,
            environment={**os.environ, "PYTHONPATH": str(ROOT)},
            door=self.door,
            workers=2,
            background=True,
            supervisor_pid=os.getpid(),
            metrics=SupervisorMetrics(self.registry),
            merged=merged,
            pace=pace,
        )
        self.running = asyncio.create_task(
            self.supervisor.run(self.stop, self.restart, self.serving.set)
        )

    def _command(self, assignment: Assignment) -> list[str]:
        self.started.append(assignment)
        words = (*assignment[:2], assignment.listen or "-", *assignment[3:])
        return [sys.executable, "-m", "tests.support.toy_child", str(self.mode), *map(str, words)]

    async def server(self) -> int:
        """The process that answers a new connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.door.port)
        try:
            return int(await asyncio.wait_for(reader.read(), 20))
        finally:
            writer.close()
            await writer.wait_closed()

    async def servers(self) -> set[int]:
        """The processes that answer many new connections."""
        return set(await asyncio.gather(*(self.server() for _ in range(40))))

    def children(self) -> list[ChildProcess]:
        return list(self.supervisor._children)

    def metric(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0

    def ready(self, role: str = "worker") -> float:
        return self.metric("promise_processes_ready", role=role)


@asynccontextmanager
async def supervised(
    folder: Path, pace: Pace = QUICK, *, inherited: bool = True
) -> AsyncIterator[Rig]:
    rig = Rig(folder, pace, inherited=inherited)
    try:
        yield rig
    finally:
        rig.stop.set()
        try:
            async with asyncio.timeout(30):
                await asyncio.gather(rig.running, return_exceptions=True)
        finally:
            rig.door.close()


async def serving(rig: Rig) -> None:
    waits = [asyncio.ensure_future(rig.serving.wait()), rig.running]
    await asyncio.wait(waits, timeout=30, return_when=asyncio.FIRST_COMPLETED)
    if rig.running.done():
        rig.running.result()
    assert rig.serving.is_set()


async def test_both_workers_share_the_port_and_all_end_in_order(tmp_path: Path) -> None:
    """New connections go to both; the background process is started first and ended last."""
    async with supervised(tmp_path) as rig:
        await serving(rig)
        pids = await rig.servers()
        ready = rig.ready("worker"), rig.ready("background")

    assert len(pids) == 2
    assert ready == (2, 1)
    assert [assignment.role for assignment in rig.started] == ["background", "worker", "worker"]
    assert rig.running.exception() is None
    assert not any(alive(pid) for pid in pids)


async def test_a_dead_worker_is_replaced_and_the_other_serves_meanwhile(tmp_path: Path) -> None:
    """Its socket is closed, so no new connection waits for the replacement. What it had counted
    stays in the sum."""
    async with supervised(tmp_path) as rig:
        await serving(rig)
        pids = await rig.servers()
        await rig.supervisor.refresh()
        counted = rig.metric("answered_total")
        rig.mode.write_text("no engine")
        os.kill(min(pids), signal.SIGKILL)
        await until(lambda: rig.ready() == 1, 10)
        alone = await rig.servers()
        rig.mode.write_text("steady")
        await until(lambda: rig.ready() == 2, 20)
        both = await rig.servers()
        await rig.supervisor.refresh()

    assert alone == {max(pids)}
    assert len(both) == 2 and min(pids) not in both
    assert counted == 40
    assert rig.metric("answered_total") >= counted
    assert rig.metric("promise_processes_died_total", role="worker") >= 1


async def test_connections_that_wait_are_served_by_the_worker_that_replaces_theirs(
    tmp_path: Path,
) -> None:
    """A restart passes the listening socket on: what a frozen worker never accepted is not lost."""
    async with supervised(tmp_path) as rig:
        await serving(rig)
        pids = await rig.servers()
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        waiting = [asyncio.create_task(rig.server()) for _ in range(20)]
        rig.restart.set()
        # The first worker's successor serves what waited for it, while that one is still frozen.
        done, _ = await asyncio.wait(waiting, timeout=20, return_when=asyncio.FIRST_COMPLETED)
        frozen = [alive(pid) for pid in pids]
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        answered = set(await asyncio.gather(*waiting))
        new = await until_other(rig, pids)

    assert done and frozen == [True, True]
    assert {task.result() for task in done} <= new
    assert answered <= new | pids
    assert len(new) == 2


async def test_a_restart_whose_new_worker_does_not_come_up_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The old processes work on; a later restart may succeed."""
    async with supervised(tmp_path) as rig:
        await serving(rig)
        pids = await rig.servers()
        rig.mode.write_text("misconfigured")
        rig.restart.set()
        await until(lambda: "restart given up" in caplog.text, 30)
        same = await rig.servers()
        tried = len(rig.started) - 3
        rig.mode.write_text("steady")
        rig.restart.set()
        await until(lambda: len(rig.started) == 7 and rig.ready() == 2, 20)
        new = await until_other(rig, pids)

    assert (same, tried) == (pids, 1)
    assert not new & pids
    assert rig.running.exception() is None


async def test_a_restart_given_up_half_way_says_who_is_new_and_begins_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An engine died before the last process was replaced: the log names the new ones and the old
    one by their process ids, all serve, and SIGHUP again replaces them all."""
    async with supervised(tmp_path) as rig:
        await serving(rig)
        old = await rig.servers()
        rig.mode.write_text("no second worker")
        rig.restart.set()
        await until(lambda: "restart given up" in caplog.text, 30)
        told = next(r for r in caplog.records if "restart given up" in r.getMessage())
        fields = told.__dict__["promise_fields"]
        both, before = await rig.servers(), {child.pid for child in rig.children()}
        rig.mode.write_text("steady")
        rig.restart.set()
        await until(lambda: not before & {child.pid for child in rig.children()}, 30)
        new = await rig.servers()

    named = [
        dict(x.split(":") for x in fields[to].split()) for to in ("restarted", "not_restarted")
    ]
    assert [sorted(names) for names in named] == [["background", "worker-1"], ["worker-2"]]
    assert {int(named[0]["worker-1"]), int(named[1]["worker-2"])} == both
    assert int(named[1]["worker-2"]) in old and int(named[0]["worker-1"]) not in old
    assert fields["error"] == "the engine died"
    assert not new & (both | old)


async def test_a_child_that_hangs_is_killed_and_replaced(tmp_path: Path) -> None:
    """Neither dead nor alive: it answers nothing any more. Those that answer are left alone."""
    watchful = replace(QUICK, look=0.05, silent_max=2)
    async with supervised(tmp_path, watchful) as rig:
        await serving(rig)
        pids = await rig.servers()
        background, worker = (c for c in rig.children() if c.pid not in pids - {min(pids)})
        for child in (background, worker):
            os.kill(child.pid, signal.SIGSTOP)
        await until(lambda: (rig.ready(), rig.ready("background")) == (1, 0), 20)
        await until(lambda: len(rig.started) == 5 and rig.ready() == 2, 20)
        await until(lambda: rig.ready("background") == 1, 20)
        both = await rig.servers()

    for child in (background, worker):
        assert not alive(child.pid)
        assert child.why() == "it hung: 2 looks in a row were not answered"
    assert len(both) == 2 and max(pids) in both
    assert rig.metric("promise_processes_died_total", role="worker") == 1


async def test_a_crash_loop_ends_the_service_and_says_of_what(tmp_path: Path) -> None:
    """Replaced so many times, each time a little later; then all is ended with one sentence."""
    async with supervised(tmp_path) as rig:
        await serving(rig)
        pids = await rig.servers()
        rig.mode.write_text("crash")
        os.kill(min(pids), signal.SIGKILL)
        with pytest.raises(Unavailable, match=r"worker-\d died 3 times in a row.*exit code 7"):
            await asyncio.wait_for(rig.running, 20)

        assert not any(alive(pid) for pid in pids)


@pytest.mark.parametrize("lack", ["no engine", "misconfigured"])
async def test_lack_of_what_may_come_back_is_no_crash_loop(tmp_path: Path, lack: str) -> None:
    """A worker that cannot start while the order store is away, or a tokens file is broken, is
    tried until that is mended, and the others serve."""
    async with supervised(tmp_path) as rig:
        await serving(rig)
        rig.mode.write_text(lack)
        os.kill(await rig.server(), signal.SIGKILL)
        await until(lambda: len(rig.started) > 3 + QUICK.crashes_max, 20)
        rig.mode.write_text("steady")
        await until(lambda: rig.ready() == 2, 20)

    assert rig.running.exception() is None


async def test_a_service_that_cannot_start_says_why(tmp_path: Path) -> None:
    """The child's own sentence, after its name; nothing is left running."""
    async with supervised(tmp_path) as rig:
        rig.mode.write_text("misconfigured")
        with pytest.raises(Unavailable, match="background did not start: nothing fits"):
            await asyncio.wait_for(rig.running, 20)


async def test_a_child_that_does_not_end_is_killed(tmp_path: Path) -> None:
    """After the time that a drain may take."""
    async with supervised(tmp_path, Pace(start=20.0, stop=0.3)) as rig:
        rig.mode.write_text("deaf")
        await serving(rig)
        pids = await rig.servers()

    assert len(pids) == 2
    assert not any(alive(pid) for pid in pids)


async def test_a_stop_in_the_middle_of_a_start_is_heard(tmp_path: Path) -> None:
    """It does not wait for the children to be ready."""
    async with supervised(tmp_path) as rig:
        await until(lambda: bool(rig.started), 10)
        rig.stop.set()
        await asyncio.wait_for(rig.running, 30)

    assert not rig.serving.is_set()


async def until_other(rig: Rig, before: set[int]) -> set[int]:
    """The servers, once none of those before is left."""
    async with asyncio.timeout(30):
        while (now := await rig.servers()) & before:
            pass
    return now


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
