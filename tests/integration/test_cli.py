"""The command line: what runs here, and how a refusal looks."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import promise_svc
from promise_svc.hotpath import NATIVE_FRONT
from tests.support.folders import write_folder


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "promise_svc", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_version_tells_service_python_front_and_engines() -> None:
    """One line each, from the binaries themselves."""
    answer = run("version")

    assert answer.returncode == 0
    assert f"promise-svc {promise_svc.__version__}" in answer.stdout
    assert f"front {'native' if NATIVE_FRONT else 'grpcio'}" in answer.stdout
    assert "Valkey server v=9." in answer.stdout
    assert "postgres (PostgreSQL) 18." in answer.stdout


def test_without_a_command_the_commands_are_listed() -> None:
    """A stranger who types the name alone learns what can follow."""
    answer = run()

    assert "version" in answer.stdout


def test_an_unknown_command_is_refused() -> None:
    """With a code other than 0 and the word that was wrong."""
    answer = run("sell")

    assert answer.returncode == 2
    assert "sell" in answer.stderr


@pytest.mark.parametrize("command", ["load", "explain", "verify"])
def test_a_service_that_is_not_there_is_told_at_once(tmp_path: Path, command: str) -> None:
    """One line with the address and what to look at, and a code of its own; no waiting for the
    half minute that an answer may take."""
    arguments = {
        "load": [str(write_folder(tmp_path / "folder"))],
        "explain": ["sku-1", "dc-1"],
        "verify": [],
    }
    begun = time.monotonic()

    answer = run(command, *arguments[command], "--target", "127.0.0.1:1")

    assert answer.returncode == 3
    (line,) = answer.stderr.splitlines()
    assert line.startswith("promise-svc: UNAVAILABLE: nothing answers at 127.0.0.1:1: ")
    assert time.monotonic() - begun < 25


def test_replay_is_handed_to_the_load_test() -> None:
    """With its arguments, --help among them."""
    answer = run("replay", "olist", "--help", COLUMNS="200")

    assert answer.returncode == 0
    assert "--speed" in answer.stdout


@pytest.mark.parametrize("name", ["listen", "metrics_listen"])
def test_a_port_that_is_taken_is_refused_before_an_engine_is_started(
    tmp_path: Path, name: str
) -> None:
    """One line with the setting and the address; no traceback, and nothing in the data folder."""
    with socket.create_server(("127.0.0.1", 0)) as holder:
        address = f"127.0.0.1:{holder.getsockname()[1]}"
        settings = {"PROMISE_LISTEN": "127.0.0.1:0", "PROMISE_METRICS_LISTEN": "127.0.0.1:0"}
        settings[f"PROMISE_{name.upper()}"] = address

        answer = run("serve", "--data-dir", str(tmp_path / "data"), **settings)

    assert answer.returncode == 1
    assert answer.stderr.splitlines() == [
        f"promise-svc: {name}: cannot listen on {address}: Address already in use"
    ]
    assert not (tmp_path / "data").exists()


def test_a_data_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    """As below a file: one line that names it."""
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "data"

    answer = run(
        "serve", "--data-dir", str(folder), "--listen", "127.0.0.1:0", "--metrics-listen",
        "127.0.0.1:0",
    )  # fmt: skip

    assert answer.returncode == 1
    assert answer.stderr.splitlines() == [f"promise-svc: data_dir {folder}: Not a directory"]
