"""`make soak`: shoppers under random faults for a bounded time, then the audit.

`python -m loadtest.soak --seconds 120 --seed 7`. Ends with code 1 when the audit finds something,
a call never got its answer, the service stopped making progress, or something grew without end.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import redis

from loadtest.faults import FAULTS, FaultyHost, Health, Ordeal, wait_for_calls

CALM_SECONDS = (1.0, 6.0)
"""Between two faults."""
CALLS_BETWEEN_FAULTS = 30
PROGRESS_SECONDS = 30.0
HEALTH_SECONDS = 5.0
RSS_GROWTH_MAX = 1.5
FDS_GROWTH_MAX = 64


class Trend:
    """What was measured while all parts ran, and what of it grew."""

    def __init__(self) -> None:
        self.samples: list[Health] = []
        self._next = 0.0

    def take(self, ordeal: Ordeal, begun: float) -> None:
        """Measure, at most every HEALTH_SECONDS, and print a line."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + HEALTH_SECONDS
        with suppress(redis.RedisError):
            health = ordeal.health()
            self.samples.append(health)
            print(
                f"{now - begun:6.0f} s  {ordeal.calls():8,} calls  {len(ordeal.faults):4} faults  "
                f"server {health.server_rss_mib:4.0f} MiB {health.server_fds:3} fds  "
                f"valkey {health.valkey_rss_mib:4.0f} MiB  outbox {health.outbox_entries:7,}  "
                f"log {health.log_lines:,}",
                flush=True,
            )

    def grown(self) -> list[str]:
        """What the last third has more of than the first; a server that was killed began anew, so
        its memory is compared over all its lives."""
        third = len(self.samples) // 3
        if third < 2:
            return []
        first, last = self.samples[:third], self.samples[-third:]
        found = []
        rss = [max(sample.server_rss_mib for sample in part) for part in (first, last)]
        if rss[1] > rss[0] * RSS_GROWTH_MAX:
            found.append(f"server memory grew from {rss[0]:.0f} to {rss[1]:.0f} MiB")
        fds = [max(sample.server_fds for sample in part) for part in (first, last)]
        if fds[1] > fds[0] + FDS_GROWTH_MAX:
            found.append(f"open files grew from {fds[0]} to {fds[1]}")
        return found


def soak(seconds: float, seed: int, folder: Path) -> int:
    """Run; returns the exit code."""
    calm, trend, begun = random.Random(f"calm {seed}"), Trend(), time.monotonic()
    with FaultyHost(folder) as host, Ordeal(host, seed) as ordeal:
        begun = time.monotonic()
        wrong = []
        try:
            while time.monotonic() - begun < seconds:
                for fault in ordeal.order(FAULTS, len(FAULTS)):
                    _rest(ordeal, trend, begun, calm.uniform(*CALM_SECONDS))
                    if time.monotonic() - begun >= seconds:
                        break
                    took = ordeal.strike(fault)
                    print(f"{time.monotonic() - begun:6.0f} s  {fault}, {took:.1f} s", flush=True)
        except TimeoutError as error:
            wrong.append(str(error))
        if not ordeal.finish():
            wrong.append("a call that was sent again and again never got its answer")
        trend.take(ordeal, begun)
        verdict = ordeal.audit()
    wrong += trend.grown()
    wrong += [f"{p.kind} {p.subject}: {p.detail}" for p in verdict.problems[:50]]
    for line in wrong:
        print(f"WRONG {line}")
    print(verdict.summary())
    counts = {kind: ordeal.faults.count(kind) for kind in FAULTS}
    print("faults: " + ", ".join(f"{count} x {kind}" for kind, count in counts.items()))
    print(f"soak: {'FAILED' if wrong else 'ok'} (seed {seed}, {len(ordeal.faults)} faults)")
    return 1 if wrong else 0


def _rest(ordeal: Ordeal, trend: Trend, begun: float, seconds: float) -> None:
    """Let the service work; TimeoutError when it does not."""
    until = time.monotonic() + seconds
    wait_for_calls(
        ordeal, CALLS_BETWEEN_FAULTS, PROGRESS_SECONDS, lambda: trend.take(ordeal, begun)
    )
    while time.monotonic() < until:
        trend.take(ordeal, begun)
        time.sleep(0.1)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--seed", type=int, help="order of the faults; drawn and told without")
    parser.add_argument("--folder", type=Path, help="keep data, logs and acknowledgements here")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(2**32) if options.seed is None else options.seed
    print(f"soak: seed {seed}, {options.seconds:.0f} s", flush=True)
    if options.folder:
        options.folder.mkdir(parents=True, exist_ok=True)
        if any(options.folder.iterdir()):
            parser.error(f"{options.folder} is not empty: old logs would be held against a new run")
        return soak(options.seconds, seed, options.folder)
    with tempfile.TemporaryDirectory(prefix="promise-soak-") as folder:
        Path(folder).chmod(0o755)
        return soak(options.seconds, seed, Path(folder))


if __name__ == "__main__":
    sys.exit(main())
