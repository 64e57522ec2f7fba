"""Workers, the background process and the supervisor are killed, and restarted, under load.

One service with embedded engines for all of them, in the order in which they stand here: each test
leaves it whole, and the last one kills it.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import grpc
import psutil
import pytest

from tests.support.supervised import (
    CONFIRMED,
    HELD,
    Caller,
    Supervised,
    audited,
    callers,
    stock,
    until,
)

pytestmark = [pytest.mark.fault, pytest.mark.timeout(120)]
PAUSE_SECONDS = 0.01
names = count(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("supervised")


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[Supervised]:
    service = Supervised(folder)

    async def begin() -> None:
        await service.serving()
        await stock(service)

    try:
        asyncio.run(begin())
        yield service
    finally:
        service.kill()


@dataclass
class Load:
    """What callers who hardly rest were told, by caller."""

    ok: Counter[int] = field(default_factory=Counter)
    failed: dict[int, list[tuple[grpc.StatusCode, str | None]]] = field(default_factory=dict)

    async def more(self, calls: int, who: set[int]) -> None:
        """Return when each of ``who`` was answered so many times more."""
        target = {caller: self.ok[caller] + calls for caller in who}
        await until(
            lambda: all(self.ok[caller] >= wanted for caller, wanted in target.items()),
            15,
            lambda: (self.ok, self.failed),
        )


@asynccontextmanager
async def under_load(*works: Callable[[], Awaitable[None]]) -> AsyncIterator[Load]:
    """Each of ``works`` again and again, one at a time each, until the block ends."""
    load, stop = Load(), asyncio.Event()

    async def repeat(number: int, work: Callable[[], Awaitable[None]]) -> None:
        while not stop.is_set():
            try:
                await work()
                load.ok[number] += 1
            except grpc.aio.AioRpcError as error:
                load.failed.setdefault(number, []).append((error.code(), error.details()))
            await asyncio.sleep(PAUSE_SECONDS)  # leaves the processes under test some CPU

    tasks = [asyncio.create_task(repeat(n, work)) for n, work in enumerate(works)]
    try:
        yield load
    finally:
        stop.set()
        await asyncio.gather(*tasks)


def buying(caller: Caller) -> Callable[[], Awaitable[None]]:
    """See, hold, and confirm for good."""

    async def buy() -> None:
        name = f"r-{next(names)}"
        assert await caller.ats() > 0
        assert await caller.hold(name) == HELD
        assert await caller.confirm(name) == CONFIRMED

    return buy


def looking(caller: Caller) -> Callable[[], Awaitable[None]]:
    async def look() -> None:
        await caller.ats()

    return look


async def test_a_killed_worker_takes_only_its_own_calls_along(service: Supervised) -> None:
    """Its callers hear UNAVAILABLE and are served by the other before the replacement is there;
    the other's callers notice nothing; the supervisor replaces it."""
    async with callers(service, 8) as found:
        before = service.children()
        doomed = await callers_of(service, before["worker-1"], found)
        spared = set(range(len(found))) - doomed
        async with under_load(*(looking(caller) for caller in found)) as load:
            await load.more(20, doomed | spared)
            os.kill(before["worker-1"], signal.SIGKILL)
            await load.more(20, doomed | spared)
            served_by_others = "worker-1" not in service.children() or not service.peers(
                service.children()["worker-1"]
            )
            await until(lambda: service.metric("promise_processes_ready", role="worker") == 2, 30)
            await load.more(20, doomed | spared)

    after = service.children()
    assert served_by_others
    assert set(load.failed) <= doomed
    assert {code for told in load.failed.values() for code, _ in told} <= {
        grpc.StatusCode.UNAVAILABLE
    }
    assert after["worker-1"] != before["worker-1"]
    assert (after["worker-2"], after["background"]) == (before["worker-2"], before["background"])
    assert service.metric("promise_processes_died_total", role="worker") == 1


async def test_confirms_wait_out_the_death_of_the_background_process(service: Supervised) -> None:
    """A RECORDED confirm needs the relay: those under way when it is killed are answered by its
    replacement's, in time and without an error."""
    before = service.children()
    async with (
        callers(service, 6) as found,
        under_load(*(buying(caller) for caller in found)) as load,
    ):
        everybody = set(range(len(found)))
        await load.more(3, everybody)
        os.kill(before["background"], signal.SIGKILL)
        await load.more(3, everybody)

    after = service.children()
    audit = await audited(service)
    assert load.failed == {}
    assert after["background"] != before["background"]
    assert (after["worker-1"], after["worker-2"]) == (before["worker-1"], before["worker-2"])
    assert (audit.consistent, audit.oversold_count) == (True, 0), audit


async def test_a_rolling_restart_fails_no_call(service: Supervised) -> None:
    """SIGHUP replaces every child while calls go on, over old connections and new ones: not one
    fails, though no client sends again what was sent."""
    before = service.children()

    async def call_and_hang_up() -> None:
        caller = Caller(service.target)
        try:
            await caller.ats()
        finally:
            await caller.close()

    async with callers(service, 6) as found:
        works = [*(looking(caller) for caller in found[:3]), *(buying(caller) for caller in found)]
        async with under_load(*works, *[call_and_hang_up] * 4) as load:
            service.process.send_signal(signal.SIGHUP)
            await service.logged('"restarted"')
            await load.more(5, set(range(len(works))))

    after = service.children()
    audit = await audited(service)
    assert load.failed == {}
    assert sum(load.ok.values()) > 200
    assert set(before) == set(after)
    assert not set(before.values()) & set(after.values())
    assert service.process.poll() is None
    assert (audit.consistent, audit.oversold_count) == (True, 0), audit


async def test_the_metrics_of_all_processes_add_up(service: Supervised) -> None:
    """Calls to either worker are counted once; what a killed worker counted is not lost; ages are
    those of the worst process, not sums."""

    def calls() -> float:
        return service.metric("promise_calls_total", outcome="OK")

    async with callers(service, 8) as found:
        before = calls()
        for caller in found:
            for _ in range(5):
                await caller.ats()
        counted = calls()
        observed = service.metric("promise_call_seconds_count")
        os.kill(service.children()["worker-2"], signal.SIGKILL)
        await until(lambda: service.metric("promise_processes_ready", role="worker") == 1, 10)
        kept = calls()
        await until(lambda: service.metric("promise_processes_ready", role="worker") == 2, 30)

    assert counted - before == 40
    assert kept >= counted
    assert service.metric("promise_call_seconds_count") >= observed
    assert service.metric("promise_table_positions") == 1
    assert service.metric("promise_build_info") == 1
    assert service.metric("promise_table_age_seconds") < 60
    assert service.metric("promise_calls_in_flight") == 0


async def test_a_killed_supervisor_leaves_nothing_behind(service: Supervised, folder: Path) -> None:
    """Children and engines end with it. The next start finds the books in order, and ends on
    SIGTERM with code 0, engines last."""
    async with (
        callers(service, 4) as found,
        under_load(*(buying(caller) for caller in found)) as load,
    ):
        await load.more(2, set(range(len(found))))
        everybody = service.everybody()
        service.kill()
        gone, alive = psutil.wait_procs(everybody, timeout=20)
        for process in alive:  # this test shall leave nothing behind either
            process.kill()

    assert alive == []
    assert len(gone) > 5, "the supervisor, three children, two engines"
    again = Supervised(folder)
    try:
        await again.serving()
        audit = await audited(again)
        everybody = again.everybody()
        code = again.stop()
    finally:
        again.kill()
    assert (audit.consistent, audit.oversold_count) == (True, 0), audit
    assert code == 0, again.log()
    assert psutil.wait_procs(everybody, timeout=10)[1] == []


async def callers_of(service: Supervised, pid: int, found: list[Caller]) -> set[int]:
    """Which callers have their connection to this process: those it leaves waiting while it is
    stopped, for a channel does not tell its port."""

    async def answered(caller: Caller) -> bool:
        try:
            await caller.ats(timeout=3)
        except grpc.aio.AioRpcError:
            return False
        return True

    os.kill(pid, signal.SIGSTOP)
    try:
        answers = await asyncio.gather(*(answered(caller) for caller in found))
    finally:
        os.kill(pid, signal.SIGCONT)
    return {number for number, answer in enumerate(answers) if not answer}
