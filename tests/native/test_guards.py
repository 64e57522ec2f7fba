"""Two of the four guards of the native room that need tools of their own: stubs, checked build."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted(
    f"native.{source.stem}"
    for source in (ROOT / "native").glob("_*.pyx")
    # Left out where libnghttp2 is missing.
    if source.stem != "_grpc" or importlib.util.find_spec("native._grpc")
)


def run(command: list[str], folder: Path, **environment: str) -> None:
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_stubs_agree_with_the_binaries() -> None:
    """What mypy believes of an extension is what the extension has."""
    assert "native._ats_table" in MODULES

    run(
        ["-m", "mypy.stubtest", *MODULES, "--allowlist", "native/stubtest.allow"]
        + ["--ignore-unused-allowlist"],
        ROOT,
        PYTHONPATH=str(ROOT),
        MYPYPATH=str(ROOT),
    )


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_checked_build_passes_the_same_suite(tmp_path: Path) -> None:
    """Bounds, overflow and initialization are checked while every test of this folder runs.

    It is built in a copy: Cython takes no notice of changed directives, so the C files of a checked
    build must not lie where the next release build finds them.
    """
    (tmp_path / "tests").mkdir()
    ignored = shutil.ignore_patterns("*.c", "*.so", "__pycache__", Path(__file__).name)
    shutil.copytree(ROOT / "native", tmp_path / "native", ignore=ignored)
    shutil.copytree(ROOT / "tests" / "native", tmp_path / "tests" / "native", ignore=ignored)
    (tmp_path / "tests" / "support").symlink_to(ROOT / "tests" / "support")
    (tmp_path / "promise_svc").symlink_to(ROOT / "promise_svc")
    for name in ("setup.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)

    run(
        ["setup.py", "--quiet", "build_ext", "--inplace", "--parallel", "2"],
        tmp_path,
        PROMISE_NATIVE_DEBUG="1",
        CFLAGS="-O0",
    )
    run(
        ["-c", f"import native._sharding as n; assert n.__file__.startswith({str(tmp_path)!r})"],
        tmp_path,
    )
    run(
        ["-m", "pytest", "-q", "--rootdir", ".", "-p", "no:cacheprovider", "tests/native"], tmp_path
    )
