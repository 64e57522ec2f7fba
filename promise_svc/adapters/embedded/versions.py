"""What the bundled engines call themselves."""

import subprocess
from collections.abc import Callable
from pathlib import Path

from promise_svc.adapters.embedded.postgres import binary_folder
from promise_svc.adapters.embedded.valkey import server_path
from promise_svc.errors import Unavailable

ANSWER_SECONDS_MAX = 10.0


def engine_versions() -> list[str]:
    """Return one line an engine, as its binary prints it, or why there is none."""
    return [_version(server_path), _version(lambda: binary_folder() / "postgres")]


def _version(find: Callable[[], Path]) -> str:
    try:
        command = [str(find()), "--version"]
    except Unavailable as error:
        return error.message
    answer = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=ANSWER_SECONDS_MAX
    )
    return answer.stdout.strip() or f"{command[0]} does not run here: {answer.stderr.strip()}"
