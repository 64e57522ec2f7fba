"""A client process on grpc.aio: the same file of bodies, options and output as unary.c.

Slower than the raw driver (about 150 us of its own CPU a call), and an independent opinion: it is
the gRPC library that callers use. Here a session waits for nothing but its intended time.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import dataclass
from itertools import count, cycle
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import uvloop
from google.rpc import error_details_pb2  # type: ignore[import-untyped]
from grpc_status import rpc_status

from loadtest.bodies import Entry, read_bodies
from loadtest.channel import bearer_metadata
from loadtest.pacer import intended_times
from loadtest.recorder import AckLog, MethodRecord, RunRecord

DRAIN_SECONDS = 10.0
CODE_BROKEN, CODE_UNANSWERED = 17, 18


@dataclass(slots=True)
class Options:
    """The key=value arguments of unary.c."""

    connections: int = 1
    streams: int = 1
    seconds: float = 5.0
    warmup: float = 0.0
    rate: float = 0.0
    arrivals: str = "poisson"
    seed: int = 1
    once: int = 0
    deadline_ms: int = 10_000
    ack_log: str = ""

    @classmethod
    def parse(cls, arguments: list[str]) -> Options:
        made = cls()
        for argument in arguments:
            name, _, value = argument.partition("=")
            setattr(made, name, type(getattr(made, name))(value))
        return made


class ClientProcess:
    """Runs the sessions of a file over N channels."""

    def __init__(self, target: str, sessions: list[list[Entry]], options: Options) -> None:
        self._options = options
        self._record = RunRecord(seconds=options.seconds)
        self._log = AckLog(Path(options.ack_log)) if options.ack_log else None
        self._metadata = bearer_metadata()
        self._numbers = count()
        self._sessions = iter(sessions) if options.once else cycle(sessions)
        # Own subchannels: by default channels of one target share a connection.
        arguments = [("grpc.use_local_subchannel_pool", 1)]
        self._channels = [
            grpc.aio.insecure_channel(target, options=arguments) for _ in range(options.connections)
        ]
        self._calls: list[dict[str, Any]] = [
            {path: channel.unary_unary(path) for path in {e.path for s in sessions for e in s}}
            for channel in self._channels
        ]
        self._slots = asyncio.Semaphore(options.connections * options.streams)
        self._measure = self._end = 0.0

    async def run(self) -> RunRecord:
        """Drive, then give what is in flight DRAIN_SECONDS to end."""
        options = self._options
        start = time.perf_counter() + 0.05
        self._measure = start + options.warmup
        self._end = self._measure + options.seconds
        teller = asyncio.create_task(self._tell(start))
        if options.rate:
            await self._open_loop(start)
        else:
            workers = options.connections * options.streams
            await asyncio.gather(*(self._closed_loop() for _ in range(workers)))
        teller.cancel()
        for channel in self._channels:
            await channel.close()
        if self._log:
            self._log.close()
        if self._record.exhausted:
            self._record.seconds = min(options.seconds, time.perf_counter() - self._measure)
        return self._record

    async def _open_loop(self, start: float) -> None:
        options, tasks = self._options, set[asyncio.Task[None]]()
        times = intended_times(
            options.rate, start=start, seconds=options.warmup + options.seconds,
            arrivals=options.arrivals, seed=options.seed,
        )  # fmt: skip
        for intended in times:
            now = time.perf_counter()
            if intended > now:
                await asyncio.sleep(intended - now)
                now = time.perf_counter()
            session = next(self._sessions, None)
            if session is None:
                self._record.exhausted = True
                break
            if intended >= self._measure:
                self._record.lateness.observe(now - intended)
            task = asyncio.create_task(self._begin(session, intended))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        if tasks:
            _, unanswered = await asyncio.wait(set(tasks), timeout=DRAIN_SECONDS)
            for task in unanswered:
                task.cancel()
            await asyncio.gather(*unanswered, return_exceptions=True)

    async def _begin(self, session: list[Entry], intended: float) -> None:
        async with self._slots:
            if intended >= self._measure:
                self._record.waiting.observe(time.perf_counter() - intended)
            await self._session(session, intended)

    async def _closed_loop(self) -> None:
        while time.perf_counter() < self._end:
            session = next(self._sessions, None)
            if session is None:
                self._record.exhausted = True
                return
            await self._session(session, time.perf_counter())

    async def _session(self, session: list[Entry], intended: float) -> None:
        for entry in session:
            code, outcome = await self._call(entry, intended)
            if code or outcome > 1:
                return
            intended = time.perf_counter()

    async def _call(self, entry: Entry, intended: float) -> tuple[int, int]:
        call = self._calls[next(self._numbers) % len(self._calls)][entry.path]
        sent = time.perf_counter()
        reason = ""
        code, outcome = CODE_UNANSWERED, 0
        try:
            reply = await call(
                entry.message,
                timeout=self._options.deadline_ms / 1000,
                metadata=self._metadata,
            )
            code, outcome = 0, _outcome(reply)
        except grpc.aio.AioRpcError as error:
            code, reason = error.code().value[0], reason_of_error(error)
        finally:
            self._note(entry, (code, outcome), reason, intended, sent)
        return code, outcome

    def _note(
        self, entry: Entry, told: tuple[int, int], reason: str, intended: float, sent: float
    ) -> None:
        now, record = time.perf_counter(), self._record
        record.all_done += 1
        if self._log and entry.tag:
            self._log.write(entry.path.rsplit("/", 1)[1], *told, entry.tag)
        if not self._measure <= intended < self._end:
            return
        method = record.methods.setdefault(entry.path, MethodRecord())
        method.outcomes[told] += 1
        method.latency.observe(now - intended)
        method.service.observe(now - sent)
        record.done += 1
        second = int(now - self._measure)
        for series in (record.done_by_second, record.errors_by_second):
            series.extend([0] * (second + 1 - len(series)))
        record.done_by_second[second] += 1
        if told[0] == 0:
            method.accepted.observe(now - intended)
        else:
            record.errors_by_second[second] += 1
            record.errors += 1
            record.reasons[reason or f"CODE_{told[0]}"] += 1

    async def _tell(self, start: float) -> None:
        while True:
            await asyncio.sleep(1)
            record = self._record
            told = {"progress": round(time.perf_counter() - start, 1), "done": record.all_done,
                    "errors": record.errors, "in_flight": 0, "waiting": 0}  # fmt: skip
            print(json.dumps(told), flush=True)


def _outcome(reply: bytes) -> int:
    """Field 1 of the reply when it is a number: the outcome of every reply that has one."""
    return reply[1] if len(reply) > 1 and reply[0] == 0x08 else 0


def reason_of_error(error: grpc.aio.AioRpcError) -> str:
    """ErrorInfo's reason; empty where the service did not say it, as when a connection broke."""
    status: Any = rpc_status.from_call(error)  # type: ignore[arg-type]
    for detail in status.details if status else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return str(info.reason)
    return ""


async def _main(host: str, port: str, file: str, *arguments: str) -> None:
    begun, options = time.perf_counter(), Options.parse(list(arguments))
    sessions = read_bodies(Path(file))
    cpu = time.process_time()
    record = await ClientProcess(f"{host}:{port}", sessions, options).run()
    record.cpu_seconds = time.process_time() - cpu
    print(json.dumps(record.to_json(time.perf_counter() - begun)))


if __name__ == "__main__":
    uvloop.run(_main(*sys.argv[1:]))
