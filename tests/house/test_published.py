"""What we publish: the lock, and no trace of the machine a file was written on."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.house.test_house import ROOT, tracked_files

# Written in pieces, so that this file does not hold what it looks for.
MACHINE_PATHS = re.compile(
    r"(?<![\w.{}$-])/(?:ho" + r"me|Us" + r"ers|ro" + r"ot|wo" + r"rk)/[\w.-]+"
)
REGISTRY_HOSTS = re.compile(r"py" + r"pi\.org|pythonho" + r"sted\.org|npm" + r"js\.org")
REQUIREMENT = re.compile(r"^([a-z0-9-]+)==\S+")


@pytest.fixture(scope="module")
def lock() -> str:
    return (ROOT / ".ci/lock.txt").read_text()


def test_every_locked_package_carries_hashes(lock: str) -> None:
    """pip refuses anything that is not byte for byte what was locked."""
    blocks = re.split(r"\n(?=\S)", lock.strip())

    assert len(blocks) > 50
    assert [block for block in blocks if not REQUIREMENT.match(block)] == []
    assert [block for block in blocks if "--hash=sha256:" not in block] == []


def test_the_lock_names_no_place(lock: str) -> None:
    """No index, no host, no file: packages come from wherever the user's pip takes them."""
    assert re.findall(r"://|--index|--find-links|^[^#\n]* @ ", lock, re.MULTILINE) == []


def test_the_lock_holds_what_pyproject_asks_for(lock: str) -> None:
    """A dependency added to pyproject.toml is in force only after `make lock`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    locked = {match[1] for line in lock.splitlines() if (match := REQUIREMENT.match(line))}

    missing = {re.split(r"[\[<>=~; ]", name)[0].lower() for name in asked} - locked
    assert missing == set()


@pytest.mark.parametrize("pattern", [MACHINE_PATHS, REGISTRY_HOSTS])
def test_no_file_names_the_machine_it_was_written_on(pattern: re.Pattern[str]) -> None:
    """No home folder, no clone's path, no registry's host."""
    found = []
    for path in tracked_files():
        try:
            text = (ROOT / path).read_text()
        except UnicodeDecodeError:
            continue
        found += [f"{path}: {match}" for match in pattern.findall(text)]

    assert found == []


@pytest.mark.parametrize("pattern", [MACHINE_PATHS, REGISTRY_HOSTS])
def test_no_commit_names_the_machine_it_was_made_on(pattern: re.Pattern[str]) -> None:
    """The same for commit messages."""
    log = subprocess.run(
        ["git", "log", "--format=%B"], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert pattern.findall(log.stdout) == []


def test_no_tracked_file_is_built_or_large() -> None:
    """Sources only: what a build makes is made again."""
    built = (".so", ".c", ".pyc", ".whl", ".o")
    large = [path for path in tracked_files() if Path(ROOT / path).stat().st_size > 2_000_000]

    # The load generator's C is written by hand; native's comes out of Cython.
    files = [path for path in tracked_files() if not path.startswith("loadtest/")]
    assert [path for path in files if path.endswith(built)] == []
    assert large == []
