"""`promise-svc replay`: hands over to the load test of the repository, which plays real orders."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import typer

import promise_svc
from promise_svc.errors import ConfigError

PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
"""Every argument, --help too, is for the other program."""


def replay(context: typer.Context) -> None:
    """Play a public set's real orders against the service, then audit it (from the repository)."""
    root = Path(promise_svc.__file__).parent.parent
    if not (root / "loadtest" / "replay").is_dir():
        raise ConfigError(
            "replay is no part of the installed package: run it from a clone of the repository"
        )
    paths = filter(None, (str(root), os.environ.get("PYTHONPATH")))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    # Another program in this one's place: nothing here may import what is above it.
    command = [sys.executable, "-m", "loadtest.replay", *context.args]
    os.execve(sys.executable, command, environment)
