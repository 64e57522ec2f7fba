"""The public data sets, which are never shipped: tests that need them are skipped without."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def public_data(name: str) -> Path:
    """The folder of one set, below PROMISE_TEST_DATA or ../shared/data; skips the test else."""
    folder = Path(os.environ.get("PROMISE_TEST_DATA") or ROOT.parent / "shared" / "data") / name
    if not folder.is_dir():
        pytest.skip(f"the data set {name} is not at {folder} (PROMISE_TEST_DATA says where)")
    return folder
