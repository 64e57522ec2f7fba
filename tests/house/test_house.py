"""The house rules that a machine can hold: arrows, names, rooms, targets, sizes."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("protos", "promise_svc", "native", "loadtest", "tests", "deploy")
OURS = ("promise_svc/", "native/", "loadtest/", "tests/", "protos/", "setup.py")
TARGETS = (
    "demo", "serve", "test", "check", "bench", "protos", "build", "lock", "setup", "clean", "help",
)  # fmt: skip

FUNCTION_LINES_MAX = 70
LONG_FUNCTIONS: dict[str, str] = {
    # "path::name": "one honest sentence on why nobody would split it"
}

NAMELESS = frozenset({"util", "utils", "common", "helper", "helpers", "manager", "misc", "data"})
"""Names of files and classes that say nothing of what is inside."""

SYNONYMS = {
    # From GLOSSARY.md: the wrong word and ours.
    "warehouse": "node",
    "facility": "node",
    "variant": "sku",
    "qty": "quantity",
    "allocate": "reserve",
    "allocation": "reservation or sourcing plan",
    "fulfilment": "fulfillment",
    "cancelation": "cancellation",
}
SYNONYMS_ALLOWED: dict[str, str] = {
    # "path::identifier": "why the foreign word is right there"
}


@cache
def tracked_files() -> tuple[str, ...]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return tuple(path for path in listed.stdout.split("\0") if path and (ROOT / path).is_file())


def source_files() -> list[str]:
    return [
        path
        for path in tracked_files()
        if path.endswith(".py") and path.startswith(OURS) and "promise_svc/v1/" not in path
    ]


@cache
def tree_of(path: str) -> ast.Module:
    return ast.parse((ROOT / path).read_text())


def test_imports_keep_the_contracts() -> None:
    """Arrows go down, hotpath is the only door to native, no cycles (pyproject.toml)."""
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [linter, "--no-logo", "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr


def test_a_function_fits_on_a_screen() -> None:
    """70 lines at most; an outlier carries its sentence, and leaves the list when it shrinks."""
    long = {name for path in source_files() for name in long_functions(path)}

    assert long == set(LONG_FUNCTIONS)


def long_functions(path: str) -> Iterator[str]:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            if node.end_lineno - node.lineno + 1 > FUNCTION_LINES_MAX:
                yield f"{path}::{node.name}"


def test_names_of_files_and_classes_say_what_is_inside() -> None:
    """No utils, common, helpers, manager."""
    found = [path for path in tracked_files() if Path(path).stem.lower() in NAMELESS]
    for path in source_files():
        found += [
            f"{path}::{node.name}"
            for node in ast.walk(tree_of(path))
            if isinstance(node, ast.ClassDef) and NAMELESS & set(words(node.name))
        ]

    assert found == []


def test_names_are_the_glossarys() -> None:
    """One word, one meaning: functions, classes, arguments and attributes use our words."""
    found = {
        f"{path}::{name}": sorted(SYNONYMS[word] for word in SYNONYMS.keys() & set(words(name)))
        for path in source_files()
        for name in identifiers(tree_of(path))
        if SYNONYMS.keys() & set(words(name))
    }

    assert {name: ours for name, ours in found.items() if name not in SYNONYMS_ALLOWED} == {}


def identifiers(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def words(name: str) -> list[str]:
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)]


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_has_a_readme(room: str) -> None:
    """A stranger who opens a room reads there what it is and how to enter."""
    if not any(path.startswith(f"{room}/") for path in tracked_files()):
        return  # not built yet

    assert f"{room}/README.md" in tracked_files()


def test_only_the_planned_rooms_stand() -> None:
    """The ground plan is fixed: a new top-level folder is a decision, not an accident."""
    folders = {path.split("/")[0] for path in tracked_files() if "/" in path}

    assert folders <= {*ROOMS, ".ci"}


def test_the_documented_targets_exist() -> None:
    """Every target that a README or the house names is in the Makefile, with its help line."""
    makefile = (ROOT / "Makefile").read_text()
    helped = set(re.findall(r"^([a-z]+):.*## ", makefile, re.MULTILINE))
    documented = {
        target
        for path in tracked_files()
        if path.endswith("README.md")
        for target in re.findall(
            r"(?:`|^\s+)make ([a-z]+)", (ROOT / path).read_text(), re.MULTILINE
        )
    }

    assert documented | set(TARGETS) <= helped


def test_the_top_readme_is_short() -> None:
    """Up to 150 lines: what it is, two commands, promises and limits, where to read next."""
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize(
    "path", [path for path in source_files() if path.endswith("__init__.py") and "v1" not in path]
)
def test_a_package_face_names_what_it_shows(path: str) -> None:
    """A package that imports names into its face lists them, sorted, in __all__."""
    body = tree_of(path).body
    imported = {
        alias.asname or alias.name
        for node in body
        if isinstance(node, ast.ImportFrom) and node.module != "__future__"
        for alias in node.names
    }
    listed = [
        ast.literal_eval(node.value)
        for node in body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]

    if imported:
        assert listed, "no __all__"
        assert imported <= set(listed[0])
