"""The published page holds what was measured, and nothing that was only tried."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from xml.etree import ElementTree

import pytest
import typer

from loadtest import results
from loadtest.bench.row import row
from loadtest.bodies import CREATE
from loadtest.recorder import Histogram, MethodRecord, RunRecord

SOAK = "soak: seed 7, 300 s\n  3 s  100 calls\naudit: ok; 0 oversold\nsoak: ok (seed 7, 9 faults)\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(results, "PAGE", tmp_path / "RESULTS.md")
    monkeypatch.setattr(results, "PLOTS", tmp_path / "results")
    return tmp_path


def _run(offered: float, milliseconds: int, *, valid: bool = True) -> dict[str, object]:
    method = MethodRecord(latency=Histogram())
    for _ in range(100):
        method.latency.observe(milliseconds / 1000)
    method.outcomes[0, 1] = 98
    method.outcomes[8, 0] = 2
    record = RunRecord(seconds=10.0, methods={CREATE: method})
    return {
        "scenario": {"about": "Visitors."}, "offered": offered, "valid": valid,
        "record": record.to_json(10.0),
    }  # fmt: skip


def _files(folder: Path, *, short: bool = False, valid: bool = True) -> tuple[Path, Path, Path]:
    bench = {
        "machine": {"cores": 2}, "versions": {"commit": "abc"}, "short": short,
        "rows": [asdict(row("x_us", 7.0, "us", "<= 6", "a | b"))],
    }  # fmt: skip
    runs = {"runs": [_run(50, 3), _run(100, 9, valid=valid)]}
    paths = folder / "bench.json", folder / "mix.json", folder / "soak.log"
    for path, text in zip(paths, (json.dumps(bench), json.dumps(runs), SOAK), strict=True):
        path.write_text(text)
    return paths


def test_the_page_tells_latency_by_load_the_audit_and_every_goal_that_is_missed(
    folder: Path,
) -> None:
    results.results(*_files(folder))

    page = (folder / "RESULTS.md").read_text()
    assert "| 100 | CreateReservation | 10 | 9." in page
    assert "| 2 |\n" in page
    assert "| x_us | 7 | us | <= 6 | **misses** | a \\| b |" in page
    assert "audit: ok; 0 oversold\nsoak: ok (seed 7, 9 faults)\n" in page
    assert "100 calls\n" not in page
    ElementTree.parse(folder / "results" / "CreateReservation.svg")


def test_a_run_that_does_not_count_says_so(folder: Path) -> None:
    results.results(*_files(folder, valid=False))

    assert "| 100 (NOT VALID) | CreateReservation |" in (folder / "RESULTS.md").read_text()


def test_a_short_bench_is_not_published(folder: Path) -> None:
    with pytest.raises(typer.BadParameter, match="not to cite"):
        results.results(*_files(folder, short=True))
    assert not (folder / "RESULTS.md").exists()
