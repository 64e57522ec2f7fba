"""Versions of what a bench ran on."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from importlib import metadata

from promise_svc.adapters.embedded.postgres import binary_folder
from promise_svc.adapters.embedded.valkey import server_path

PACKAGES = ("grpcio", "protobuf", "uvloop", "redis", "hiredis", "asyncpg", "msgspec")
COMMANDS: dict[str, Callable[[], list[str]]] = {
    "valkey": lambda: [str(server_path()), "--version"],
    "postgresql": lambda: [str(binary_folder() / "postgres"), "--version"],
    "libnghttp2": lambda: ["h2load", "--version"],
    "commit": lambda: ["git", "describe", "--always", "--dirty"],
}


def versions() -> dict[str, str]:
    """By name; what is not there is left out."""
    found = {name: metadata.version(name) for name in PACKAGES}
    for name, command in COMMANDS.items():
        try:
            done = subprocess.run(command(), capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            continue
        found[name] = done.stdout.strip()
    return found
