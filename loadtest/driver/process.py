"""Starts client processes, follows their progress and merges what they saw."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from loadtest.recorder import RunRecord, merged

SOURCE = Path(__file__).with_name("unary.c")
BUILD_FOLDER = Path("build/loadtest")
GRACE_SECONDS = 40.0

ClientKind = Literal["raw", "grpc"]


class DriverMissing(Exception):
    """The raw driver cannot be built here; the text says what to install."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How calls are offered. Connections, streams and rate are of each process."""

    connections: int = 1
    streams: int = 1
    seconds: float = 5.0
    warmup: float = 0.0
    rate: float = 0.0
    """Sessions a second, open loop; 0 is the closed loop: every stream always busy."""
    arrivals: str = "poisson"
    seed: int = 1
    once: bool = False
    """Each session at most once; without, they start again from the first."""
    deadline_ms: int = 10_000
    ack_log: Path | None = None

    def shape(self) -> str:
        """The load in words."""
        sizes = f"{self.connections} connections x {self.streams} streams"
        if self.rate:
            return f"open loop {self.rate:,.0f}/s {self.arrivals}, {sizes}"
        return f"closed loop, {sizes}"

    def arguments(self) -> list[str]:
        """As both clients take it."""
        values: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("connections", "streams", "seconds", "warmup", "rate", "arrivals", "seed",
                         "deadline_ms")
        }  # fmt: skip
        values["once"] = int(self.once)
        if self.ack_log:
            values["ack_log"] = self.ack_log
        return [f"{name}={value}" for name, value in values.items()]


def raw_driver() -> Path:
    """The compiled driver; compiles it when it is missing or older than its source (2 s)."""
    binary = BUILD_FOLDER / "unary"
    if not binary.exists() or binary.stat().st_mtime < SOURCE.stat().st_mtime:
        BUILD_FOLDER.mkdir(parents=True, exist_ok=True)
        command = ["cc", "-O2", "-o", str(binary), str(SOURCE), "-lnghttp2", "-lm", "-lpthread"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError as error:
            raise DriverMissing("no C compiler: apt-get install gcc libnghttp2-dev") from error
        if done.returncode:
            raise DriverMissing(
                f"the raw driver does not compile; apt-get install libnghttp2-dev\n{done.stderr}"
            )
    return binary


def drive(
    target: str,
    bodies: Sequence[Path],
    load: Load,
    *,
    kind: ClientKind = "raw",
    on_progress: Callable[[int, dict[str, Any]], None] = lambda _process, _told: None,
) -> RunRecord:
    """Run one client process for each body file, all under ``load``; blocks until they end.

    ``on_progress`` hears each process's line of each second. Raises RuntimeError with what a
    failed process said.
    """
    host, port = target.rsplit(":", 1)
    program = (
        [str(raw_driver())] if kind == "raw" else [sys.executable, "-m", "loadtest.driver.client"]
    )
    processes = []
    for number, file in enumerate(bodies):
        mine = replace(load, seed=load.seed + number, ack_log=_numbered(load.ack_log, number))
        command = [*program, host, port, str(file), *mine.arguments()]
        processes.append(
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    results: dict[int, dict[str, Any]] = {}
    errors: dict[int, str] = {}

    def follow(number: int) -> None:
        process = processes[number]
        assert process.stdout is not None and process.stderr is not None
        for line in process.stdout:
            told = json.loads(line)
            if "progress" in told:
                on_progress(number, told)
            else:
                results[number] = told
        errors[number] = process.stderr.read()

    threads = [threading.Thread(target=follow, args=(n,)) for n in range(len(processes))]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(load.seconds + load.warmup + GRACE_SECONDS)
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
            # Waits, and closes the pipes.
            with process:
                pass
    if len(results) < len(processes):
        raise RuntimeError(f"a client process failed: {' '.join(errors.values()).strip()}")
    return merged(RunRecord.from_json(told) for told in results.values())


def _numbered(path: Path | None, number: int) -> Path | None:
    return path and path.with_name(f"{path.stem}-{number}{path.suffix}")
