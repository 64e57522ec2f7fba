"""The data folder of one engine: who holds it, its password, the ports it used last."""

import fcntl
import json
import os
import random
import secrets
import socket
from pathlib import Path
from typing import Any

from promise_svc.errors import ConfigError, Unavailable

# Below the range from which Linux takes ports for outgoing connections (32768 and up), so a port
# is seldom taken while its engine is down.
PORT_RANGE = range(20_000, 32_000)
PORT_ATTEMPTS_MAX = 200


class EngineFolder:
    """One engine's folder, held by at most one process at a time."""

    def __init__(self, path: Path, *, mode: int = 0o700) -> None:
        self.path = path.absolute()
        self._mode = mode
        self._lock_fd: int | None = None

    def acquire(self) -> None:
        """Create the folder if need be and take its lock.

        The lock belongs to the open file, so it falls with the process however that ends.
        Raises ConfigError naming the holder if another process runs on this folder.
        """
        if self._lock_fd is not None:
            raise ConfigError(f"{self.path} is already in use by this object: stop() comes first")
        self.path.mkdir(mode=self._mode, parents=True, exist_ok=True)
        lock_fd = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(lock_fd, 32).decode() or "unknown"
            os.close(lock_fd)
            raise ConfigError(
                f"{self.path} is in use by process {holder}: stop it, or name another data folder",
                folder=str(self.path),
                holder=holder,
            ) from None
        os.ftruncate(lock_fd, 0)
        os.write(lock_fd, str(os.getpid()).encode())
        self._lock_fd = lock_fd

    def release(self) -> None:
        """Let go of the lock; does nothing when it is not held."""
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def password(self) -> str:
        """Return this folder's password, made at random on first use, readable by the owner."""
        path = self.path / "password"
        if not path.exists():
            write_private(path, secrets.token_urlsafe(24))
        return path.read_text()

    def recall(self, name: str) -> dict[str, Any]:
        """Return what `remember` stored under this name, or an empty dict."""
        try:
            stored: dict[str, Any] = json.loads((self.path / f"{name}.json").read_text())
        except FileNotFoundError:
            return {}
        return stored

    def remember(self, name: str, values: dict[str, Any]) -> None:
        """Store values under a name, whole or not at all."""
        write_private(self.path / f"{name}.json", json.dumps(values))


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner reads, whole or not at all, also over a power loss."""
    draft = path.with_name(f"{path.name}.new")
    draft.unlink(missing_ok=True)
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def free_port(*, preferred: int = 0, taken: set[int] | None = None) -> int:
    """Return a loopback port nobody listens on: the preferred one if it is free.

    `taken` names ports already promised to others and grows by the answer.
    """
    taken = set() if taken is None else taken
    candidates = [preferred] if preferred else []
    # Not a secret: two engines that start at once shall merely try different ports.
    candidates += random.sample(PORT_RANGE, PORT_ATTEMPTS_MAX)
    for port in candidates:
        if port not in taken and _bindable(port):
            taken.add(port)
            return port
    raise Unavailable(f"no free loopback port in {PORT_RANGE} after {PORT_ATTEMPTS_MAX} tries")


def _bindable(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As the engines do: a port in TIME_WAIT is free, one that is listened on is not.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
