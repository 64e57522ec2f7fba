"""What the demo runs on: embedded engines, and a server process that is started as users do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

from promise_svc.adapters.embedded import EmbeddedPostgres, EmbeddedValkey
from promise_svc.adapters.embedded.folder import free_port
from promise_svc.adapters.embedded.process import guarded
from promise_svc.errors import Unavailable

STOP_SECONDS_MAX = 30.0
LOG_LINES = 20
LOG_LINE_CHARACTERS = 1_500


class DemoHost:
    """Engines on a folder and `promise-svc serve` beside them; methods may block for seconds.

    The demo holds the engines, not the server, so that it can kill one of them.
    """

    def __init__(self, folder: Path, progress: Callable[[str], None]) -> None:
        self._folder = folder
        self._valkey = EmbeddedValkey(folder / "valkey", progress=progress)
        self._postgres = EmbeddedPostgres(folder / "postgres", progress=progress)
        self._server: subprocess.Popen[bytes] | None = None
        self.port = 0

    def __enter__(self) -> Self:
        try:
            with ThreadPoolExecutor() as pool:
                for started in [pool.submit(self._valkey.start), pool.submit(self._postgres.start)]:
                    started.result()
            self._serve()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.stop_server()
        self._valkey.stop()
        self._postgres.stop()

    @property
    def index_urls(self) -> tuple[str, ...]:
        """URLs of the Valkey cluster."""
        return self._valkey.urls

    @property
    def order_store_url(self) -> str:
        """URL of the order store."""
        return self._postgres.dsn

    def stop_server(self) -> None:
        """SIGTERM, and wait while it drains."""
        if self._server is None:
            return
        self._server.send_signal(signal.SIGTERM)
        try:
            self._server.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()
        self._server = None

    def kill_index(self) -> int:
        """kill -9 the Valkey process; returns its process id."""
        pid = self._valkey.processes[0].pid
        self._valkey.kill()
        return pid

    def restart_index(self) -> None:
        """Start it again on its folder and port (2 to 3 s)."""
        self._valkey.restart()

    def check_server(self) -> None:
        """Raise Unavailable with the end of the server's log if it has ended."""
        if self._server is not None and self._server.poll() is not None:
            log = "\n".join(self.log_lines(LOG_LINES))
            raise Unavailable(f"the server ended with code {self._server.returncode}:\n{log}")

    @property
    def log_path(self) -> Path:
        """The server's log, one JSON object a line."""
        return self._folder / "server.log"

    def log_lines(self, count: int) -> list[str]:
        """The last lines of the server's log, each cut at a few hundred characters."""
        lines = self.log_path.read_text(errors="replace").splitlines()
        return [line[:LOG_LINE_CHARACTERS] for line in lines[-count:]]

    def _serve(self) -> None:
        self.port = free_port()
        # By environment, not by flags: the URLs hold passwords, and flags are public.
        settings = {
            "PROMISE_LISTEN": f"127.0.0.1:{self.port}",
            "PROMISE_METRICS_LISTEN": "127.0.0.1:0",
            "PROMISE_INDEX_URLS": ",".join(self.index_urls),
            "PROMISE_ORDER_STORE_URL": self.order_store_url,
        }
        kept = {k: v for k, v in os.environ.items()
                if not k.startswith("PROMISE_") or k == "PROMISE_PURE_PYTHON"}  # fmt: skip
        command = [sys.executable, "-m", "promise_svc", "serve"]
        with self.log_path.open("wb") as log:
            self._server = subprocess.Popen(
                guarded(command, signal.SIGTERM),
                env=kept | settings,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
