"""The command line: what runs here, and how a refusal looks."""

import os
import subprocess
import sys

import promise_svc


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "promise_svc", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_version_tells_service_python_and_engines() -> None:
    """One line each, from the binaries themselves."""
    answer = run("version")

    assert answer.returncode == 0
    assert f"promise-svc {promise_svc.__version__}" in answer.stdout
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
