"""The demo as users start it, small; and that its closing line can say FAILED."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from promise_svc.application.verify_report import VerifyReport
from promise_svc.demo.run import _close
from promise_svc.demo.story import Story
from promise_svc.domain.audit import Finding, FindingKind
from promise_svc.domain.reservation import State

SMALL = ("--skus", "300", "--stores", "30", "--shoppers", "40")
DEMO = (sys.executable, "-m", "promise_svc", "demo")


@pytest.fixture(scope="module")
def played(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[subprocess.CompletedProcess[str], Path]:
    """One small demo with its folder kept."""
    folder = tmp_path_factory.mktemp("demo") / "kept"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PROMISE_")}
    done = subprocess.run(
        [*DEMO, *SMALL, "--keep", str(folder)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env=environment,
    )
    return done, folder


@pytest.mark.slow
def test_the_demo_ends_well_and_says_what_the_audit_counted(
    played: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    """Exit code 0; the last line adds up; the crash happened; plain output without colors."""
    done, _ = played

    last = done.stdout.rstrip().splitlines()[-1]

    assert done.returncode == 0, done.stdout[-3_000:] + done.stderr[-3_000:]
    assert last.startswith("demo: ok ")
    figures = {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", last)}
    assert figures["reservations"] == figures["order_store_rows"] > 40
    assert 0 < figures["confirmed"] == figures["order_store_confirmed"] < figures["reservations"]
    for name in ("oversold", "drift", "findings", "lost", "broken"):
        assert figures[name] == 0
    assert "kill -9" in done.stdout
    assert "HELD and INSUFFICIENT_STOCK" in done.stdout
    assert "IDEMPOTENCY_KEY_REUSED" in done.stdout
    assert "\x1b[" not in done.stdout


@pytest.mark.slow
def test_a_kept_folder_has_the_data_and_no_process_on_it(
    played: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    """Engines and server are gone; their data and the log are there."""
    _, folder = played

    assert (folder / "valkey").is_dir()
    assert (folder / "postgres" / "pgdata").is_dir()
    assert "stopped" in (folder / "server.log").read_text()
    assert not [
        process
        for process in Path("/proc").glob("[0-9]*/cwd")
        if str(folder) in str(_target(process))
    ]


def test_a_folder_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    """Nothing of somebody else's is mixed with ours."""
    (tmp_path / "file").touch()

    done = subprocess.run(
        [*DEMO, "--keep", str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 2
    assert "not empty" in done.stderr


@pytest.mark.parametrize("fault", ["finding", "uncompared", "in flight", "lost", "broken", "none"])
def test_the_closing_line_says_failed_for_every_kind_of_fault(fault: str) -> None:
    """One fault is enough; without any it says ok."""
    report = VerifyReport(verify_time_ms=0)
    report.reservation_counts[State.CONFIRMED] = 2
    story = Story(Console(file=io.StringIO()))
    if fault == "finding":
        report.findings = [Finding(FindingKind.OVERSOLD, 0, "too much")]
        report.finding_count = report.oversold_count = 1
    if fault == "uncompared":
        report.uncompared_shard_ids.append(3)
    if fault == "in flight":
        report.in_flight_event_count = 1
    if fault == "broken":
        story.expect(False, "something")

    good = _close(report, int(fault == "lost"), story, 1.0)

    text = story.console.file.getvalue()  # type: ignore[attr-defined]
    assert good == (fault == "none")
    assert text.splitlines()[-1].startswith("demo: ok" if good else "demo: FAILED")


def _target(link: Path) -> Path | None:
    try:
        return link.readlink()
    except OSError:
        return None
