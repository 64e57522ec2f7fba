"""CPU of a reservation by part, of two checkouts in turns on one machine.

Usage: python -m loadtest.compare OLD_CHECKOUT NEW_CHECKOUT [ROUNDS [SECONDS]]

Each checkout runs from its own `.venv`, with engines of its own, as `serve --no-background` and
`relay`, so that what answers and what carries are told apart. While one is driven the other rests.
Prints the median of the rounds: microseconds of CPU a reservation from the operating system, and
reservations a second of the closed loop, which mean little on a shared machine.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from loadtest.bodies import CONFIRM, CREATE, write_bodies
from loadtest.catalog import Catalog, CatalogSize
from loadtest.driver.process import BUILD_FOLDER, Load, drive
from loadtest.host import ServiceHost, tree_cpu
from loadtest.loader import load_catalog
from loadtest.workload import Workload, WorkloadOptions

SESSIONS_A_SECOND = 2_500
KINDS = ("reserve", "reserve_and_settle")
PARTS = ("server", "relay", "Valkey", "PostgreSQL", "all", "a second", "confirm p99 ms")


class Side(NamedTuple):
    """One checkout, serving."""

    host: ServiceHost
    relay_pid: int

    def burned(self) -> tuple[float, float, float, float]:
        cpu = self.host.cpu()
        return cpu.front, tree_cpu(self.relay_pid), cpu.shards, cpu.store


@contextmanager
def serving(checkout: Path, folder: Path) -> Iterator[Side]:
    """Engines, a server and its relay, of that checkout's code."""
    program = ("env", "-C", str(checkout), str(checkout / ".venv/bin/python"), "-m", "promise_svc")
    with ServiceHost(folder, (*program, "serve", "--no-background")) as host:
        settings = {
            "PROMISE_INDEX_URLS": ",".join(host.index_urls),
            "PROMISE_ORDER_STORE_URL": host.order_store_url,
            "PROMISE_METRICS_LISTEN": "",
        }
        with (folder / "relay.log").open("ab") as log:
            relay = subprocess.Popen(
                (*program, "relay"), env=os.environ | settings, stdout=log, stderr=log
            )
        try:
            yield Side(host, relay.pid)
        finally:
            relay.terminate()
            relay.wait()


def measure(
    side: Side, catalog: Catalog, kind: str, path: Path, load: Load, seed: int
) -> list[float]:
    """Values of ``PARTS`` for one drive."""
    options = WorkloadOptions(
        kind=kind, zipf=0.0, named_nodes=True,
        lines_min=2 if kind == "reserve" else 1, lines_max=2 if kind == "reserve" else 5,
    )  # fmt: skip
    run = f"c{int(time.time()) % 10**6:x}{seed}"
    sessions = Workload(catalog, options, seed=seed, run=run)
    write_bodies(path, sessions.take(int(SESSIONS_A_SECOND * load.seconds)))
    before = side.burned()
    record = drive(side.host.target, [path], load)
    time.sleep(1.0)  # what was noted and carried afterwards is of these reservations too
    burned = [after - was for after, was in zip(side.burned(), before, strict=True)]
    held = max(1, record.count(CREATE, 0, 1))
    each = [1e6 * part / held for part in burned]
    return [*each, sum(each), held / record.seconds, record.latency(CONFIRM).percentile_ms(99)]


def main(old: str, new: str, rounds: str = "5", seconds: str = "4") -> None:
    BUILD_FOLDER.mkdir(parents=True, exist_ok=True)
    catalog = Catalog(CatalogSize(store_count=100, sku_count=2_000), seed=11)
    found: dict[tuple[str, str], list[list[float]]] = {}
    with ExitStack() as stack:
        # PostgreSQL runs as another account, which must pass through here.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=BUILD_FOLDER.absolute())))
        folder.chmod(0o711)
        sides = {}
        for name, checkout in (("old", old), ("new", new)):
            (folder / name).mkdir()
            side = stack.enter_context(serving(Path(checkout).absolute(), folder / name))
            asyncio.run(load_catalog(side.host.target, catalog))
            sides[name] = side
        load = Load(connections=4, streams=16, seconds=float(seconds), once=True)
        for number in range(int(rounds)):
            for kind in KINDS:
                for name in ("old", "new") if number % 2 else ("new", "old"):
                    values = measure(sides[name], catalog, kind, folder / "bodies", load, number)
                    found.setdefault((kind, name), []).append(values)
    print(f"{'':26}" + "".join(f"{part:>15}" for part in PARTS))
    for (kind, name), rows in sorted(found.items(), key=lambda item: item[0]):
        medians = [statistics.median(column) for column in zip(*rows, strict=True)]
        print(f"{kind:20}{name:6}" + "".join(f"{value:15,.0f}" for value in medians))


if __name__ == "__main__":
    main(*sys.argv[1:])
