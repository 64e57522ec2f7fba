"""`make mutants`: break the product on purpose, one rule at a time; a named test must notice.

Each mutant gets a copy of the tree, with the compiled extensions, and runs in it only the tests
that it names. First all of those must pass in a copy that nobody touched: a test that always fails
kills nothing. Ends with code 1 when a mutant lives, or cannot be made.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tests.mutants.mutant import Mutant
from tests.mutants.table import MUTANTS

ROOT = Path(__file__).parents[2]
COPIED = ("promise_svc", "native", "loadtest", "tests", "protos", "setup.py", "pyproject.toml")
NOT_COPIED = shutil.ignore_patterns("__pycache__", ".hypothesis")
SECONDS_MAX = 300
"""Of one run; a test that hangs is ended by its own limit before."""
FAILED = re.compile(r"^FAILED (\S+?)(?:\[.*?\])?(?: - |$)", re.MULTILINE)


class Verdict(NamedTuple):
    """What became of one mutant."""

    mutant: Mutant
    killed: bool
    told: str
    seconds: float


class CannotRun(Exception):
    """The text says why there is no verdict."""


def main() -> int:
    """Run all, or those named; returns the exit code."""
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="mutants to run; all, if none is named")
    parser.add_argument("--jobs", type=int, default=2, help="mutants at once (default 2)")
    parser.add_argument("--list", action="store_true", help="print the table and run nothing")
    options = parser.parse_args()
    known = {mutant.name: mutant for mutant in MUTANTS}
    if unknown := set(options.names) - known.keys():
        parser.error(f"no mutant is named {', '.join(sorted(unknown))}")
    chosen = [known[name] for name in options.names] or list(MUTANTS)
    if options.list:
        for mutant in chosen:
            print(f"{mutant.name:34} {mutant.path}\n    {mutant.why}")
        return 0
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="promise-mutants-") as folder:
        try:
            _check_healthy(Path(folder), chosen)
            verdicts = _run_all(Path(folder), chosen, options.jobs)
        except CannotRun as error:
            print(f"mutants: {error}", file=sys.stderr)
            return 2
    alive = [verdict for verdict in verdicts if not verdict.killed]
    print(
        f"mutants: {len(verdicts) - len(alive)} of {len(verdicts)} killed in "
        f"{time.monotonic() - begun:.0f} s" + (f", {len(alive)} LIVE" if alive else "")
    )
    return 1 if alive else 0


def _check_healthy(folder: Path, mutants: Sequence[Mutant]) -> None:
    """All named tests pass where nothing is broken, and it is the copy that they test."""
    tree = _copy(folder / "healthy")
    for mutant in mutants:
        _mutated(tree, mutant)  # each still finds its place
    code = "import native._sharding, promise_svc; print(promise_svc.__file__)"
    found = _python(tree, "-c", code)
    if not found.stdout.startswith(str(tree)):
        raise CannotRun(f"the copy is not what would be tested:\n{found.stdout}{found.stderr}")
    tests = sorted({test for mutant in mutants for test in mutant.tests})
    begun = time.monotonic()
    print(f"{len(tests)} tests on the tree as it is", end=" ", flush=True)
    done = _pytest(tree, tests)
    if done.returncode != 0:
        raise CannotRun(f"a test fails without any mutant:\n{done.stdout[-3000:]}{done.stderr}")
    print(f"pass, {time.monotonic() - begun:.0f} s", flush=True)
    shutil.rmtree(tree)


def _run_all(folder: Path, mutants: Sequence[Mutant], jobs: int) -> list[Verdict]:
    width = max(len(mutant.name) for mutant in mutants)
    verdicts = []
    with ThreadPoolExecutor(jobs) as pool:
        for verdict in pool.map(lambda mutant: _run(folder, mutant), mutants):
            verdicts.append(verdict)
            word = "killed" if verdict.killed else "LIVES "
            print(f"{word} {verdict.mutant.name:{width}} {verdict.seconds:5.1f} s  {verdict.told}",
                  flush=True)  # fmt: skip
    return verdicts


def _run(folder: Path, mutant: Mutant) -> Verdict:
    begun = time.monotonic()
    tree = _copy(folder / mutant.name)
    (tree / mutant.path).write_text(_mutated(tree, mutant))
    try:
        killed, told = _judge(tree, mutant)
    except subprocess.TimeoutExpired:
        killed, told = False, f"no verdict within {SECONDS_MAX} s"
    finally:
        shutil.rmtree(tree)
    return Verdict(mutant, killed, told, time.monotonic() - begun)


def _judge(tree: Path, mutant: Mutant) -> tuple[bool, str]:
    """A mutant that does not even load, or breaks a fixture, shows nothing about its tests."""
    if mutant.path.startswith("native/"):
        built = _python(tree, "setup.py", "--quiet", "build_ext", "--inplace")
        if built.returncode != 0:
            return False, f"does not compile: {built.stderr[-300:]}"
    done = _pytest(tree, mutant.tests)
    failed = set(FAILED.findall(done.stdout))
    passed = [
        test
        for test in mutant.tests
        if not any(name == test or name.startswith(f"{test}::") for name in failed)
    ]
    if passed:
        if done.returncode not in (0, 1) or "\nERROR " in done.stdout:
            return False, f"cannot be run: {done.stdout[-300:]}"
        return False, f"passed: {' '.join(passed)}"
    return True, ", ".join(test.rsplit("::", 1)[-1] for test in mutant.tests)


def _mutated(tree: Path, mutant: Mutant) -> str:
    text = (tree / mutant.path).read_text()
    if text.count(mutant.old) != 1:
        raise CannotRun(
            f"{mutant.name}: {mutant.path} has its text {text.count(mutant.old)} times, not once: "
            f"the rule has moved, so must its mutant\n{mutant.old}"
        )
    return text.replace(mutant.old, mutant.new)


def _copy(target: Path) -> Path:
    target.mkdir()
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=NOT_COPIED)
        else:
            shutil.copy2(source, target / name)
    # Without its record the build would take every C file to be of another mode.
    (target / "build").mkdir()
    if (ROOT / "build" / "native-mode").exists():
        shutil.copy2(ROOT / "build" / "native-mode", target / "build")
    return target


def _pytest(tree: Path, tests: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return _python(
        tree, "-m", "pytest", "-q", "-rfE", "--tb=no", "--timeout=60", "-p", "no:cacheprovider",
        "--hypothesis-profile=unshrunk", "--hypothesis-seed=0", *tests,
    )  # fmt: skip


def _python(tree: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    settings = {
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": str(tree),
        "PROMISE_TEST_SEED": "1",
        "HYPOTHESIS_PROFILE": "unshrunk",
        "COLUMNS": "400",
    }
    return subprocess.run(
        [sys.executable, *arguments], cwd=tree, env=os.environ | settings,
        capture_output=True, text=True, check=False, timeout=SECONDS_MAX,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
