"""`python -m tests.sim`: run many seeds, or tell all of one; a failure says how to repeat it."""

from __future__ import annotations

import argparse
import multiprocessing
import random
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tests.sim.world import TTL_MS_MAX, Verdict, run_seed


def main() -> int:
    """Returns the exit code: 1 when a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seed", type=int, help="run this one, and tell all that happens in it")
    parser.add_argument("--first", type=int, help="first of many seeds (default: random)")
    parser.add_argument("--seeds", type=int, default=1_000, help="how many (default 1000)")
    parser.add_argument("--seconds", type=float, default=600, help="stop after this (default 600)")
    parser.add_argument("--jobs", type=int, default=1, help="seeds at once (default 1)")
    parser.add_argument(
        "--ttl-ms-max", type=int, default=TTL_MS_MAX, help="longest hold (default %(default)s)"
    )
    parser.add_argument("--plain", action="store_true", help="plain SKUs and carts only")
    options = parser.parse_args()
    if options.seed is not None:
        return _tell(_run(options)(options.seed, print))
    first = random.SystemRandom().randrange(10**9) if options.first is None else options.first
    return _many(first, options)


def _many(first: int, options: argparse.Namespace) -> int:
    print(f"seeds from {first} on, at most {options.seeds} or {options.seconds:.0f} s")
    began, done, rest, failed = time.monotonic(), 0, 0.0, 0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn()) as progress:
        bar = progress.add_task("seeds", total=options.seeds)
        for verdict in _verdicts(range(first, first + options.seeds), options):
            done, rest = done + 1, max(rest, verdict.rest_seconds)
            progress.advance(bar)
            if verdict.broken:
                failed += 1
                progress.console.print(f"seed={verdict.seed}: {verdict.broken[0][:300]}")
            if time.monotonic() - began > options.seconds:
                break
    seconds = time.monotonic() - began
    print(
        f"{done} seeds in {seconds:.0f} s, {failed} broke a promise; "
        f"at rest {rest:.1f} virtual s after the last fault at the latest"
    )
    return int(failed > 0)


def _verdicts(seeds: range, options: argparse.Namespace) -> Iterator[Verdict]:
    run = _run(options)
    if options.jobs == 1:
        yield from map(run, seeds)
        return
    with multiprocessing.get_context("spawn").Pool(options.jobs) as pool:
        yield from pool.imap_unordered(run, seeds)


def _run(options: argparse.Namespace) -> Callable[..., Verdict]:
    return partial(run_seed, ttl_ms_max=options.ttl_ms_max, plain=options.plain)


def _tell(verdict: Verdict) -> int:
    print(f"seed={verdict.seed} trace={verdict.trace}: {verdict.reservation_count} reservations, "
          f"{verdict.virtual_seconds:.1f} virtual s")  # fmt: skip
    for broken in verdict.broken:
        print(f"BROKEN {broken}")
    return int(bool(verdict.broken))


if __name__ == "__main__":
    sys.exit(main())
