"""One engine process that never outlives the process that started it."""

import os
import queue
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path

from promise_svc.errors import Unavailable

POLL_SECONDS = 0.01
LOG_TAIL_BYTES = 2_000


class EngineProcess:
    """A child in a session of its own (Ctrl-C reaches us, not it), with a log and a pid file.

    The kernel signals it when we die. Should it survive all the same, `stop_orphan` finds it by
    its pid file and its working folder.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        folder: Path,
        cwd: Path,
        stop_signal: signal.Signals,
        setpriv_options: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.command = tuple(command)
        self.log_path = folder / "log"
        self._pid_path = folder / "pid"
        self._cwd = cwd
        self._stop_signal = stop_signal
        self._setpriv_options = tuple(setpriv_options)
        self._child: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @property
    def pid(self) -> int:
        """The process id; raises Unavailable if it was never started."""
        if self._child is None:
            raise Unavailable(f"{self.name} is not running")
        return self._child.pid

    def alive(self) -> bool:
        """Tell whether the process runs; reaps it if it has just ended."""
        return self._child is not None and self._child.poll() is None

    def start(self) -> None:
        """Launch and return at once; readiness is the caller's to await."""
        assert not self.alive(), f"{self.name} is already running"
        wrapped = guarded(self.command, self._stop_signal, self._setpriv_options)
        with open(os.open(self.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)) as log:
            self._log_start = os.fstat(log.fileno()).st_size
            self._child = _LAUNCHER.call(
                lambda: subprocess.Popen(
                    wrapped,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self._cwd,
                    start_new_session=True,
                )
            )
        self._pid_path.write_text(str(self._child.pid))

    def wait_until(self, ready: Callable[[], bool], timeout_seconds: float) -> None:
        """Block until `ready` answers true.

        Raises Unavailable with the end of the log if the process dies or the time runs out.
        """
        deadline = time.monotonic() + timeout_seconds
        while not ready():
            if not self.alive():
                raise Unavailable(f"{self.name} did not start; its log ends:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"{self.name} was not ready within {timeout_seconds:.0f} s; its log ends:\n"
                    f"{self.log_tail()}"
                )
            time.sleep(POLL_SECONDS)

    def stop(self, timeout_seconds: float) -> None:
        """Ask it to end in order, wait, and kill it if it does not; fine if it is not running."""
        if self._child is None:
            return
        if self._child.poll() is None:
            self._child.send_signal(self._stop_signal)
            # A stopped process takes no signal but this one.
            self._child.send_signal(signal.SIGCONT)
            try:
                self._child.wait(timeout_seconds)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()
        self._child = None
        self._pid_path.unlink(missing_ok=True)

    def kill(self) -> None:
        """kill -9 and reap: what a crash looks like from outside."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()

    def stop_orphan(self, timeout_seconds: float) -> bool:
        """End what a killed predecessor left running on this folder; true if there was one.

        Call it only while holding the folder's lock: then whoever runs here has no owner.
        """
        pid = self._orphan_pid()
        if pid is None:
            return False
        os.kill(pid, self._stop_signal)
        deadline = time.monotonic() + timeout_seconds
        while self._orphan_pid() is not None:
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
            time.sleep(POLL_SECONDS)
        return True

    def log_tail(self) -> str:
        """Return the end of what this start has logged, for an error message."""
        with self.log_path.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_start, size - LOG_TAIL_BYTES))
            return log.read().decode(errors="replace").strip() or "(empty)"

    def _orphan_pid(self) -> int | None:
        try:
            pid = int(self._pid_path.read_text())
            # The number may belong to somebody else by now; both engines work in their folder,
            # and a zombie has none.
            if Path(f"/proc/{pid}/cwd").resolve(strict=True) == self._cwd.resolve():
                return pid
        except (OSError, ValueError):
            pass
        return None


def guarded(
    command: Sequence[str], death_signal: signal.Signals, setpriv_options: Sequence[str] = ()
) -> list[str]:
    """Return the command so wrapped that the kernel sends `death_signal` when we die."""
    setpriv = shutil.which("setpriv", path=f"{os.environ.get('PATH', '')}:/usr/bin:/bin")
    if setpriv is None:
        raise Unavailable("embedded engines need the program setpriv (package util-linux)")
    name = death_signal.name.removeprefix("SIG")
    return [setpriv, *setpriv_options, "--pdeathsig", name, "--", *command]


class _Launcher:
    """Forks from one thread that lives as long as the process.

    Linux sends the death signal when the *thread* that forked ends (prctl(2)), and callers start
    engines from pool threads.
    """

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[
            tuple[Callable[[], subprocess.Popen[bytes]], Future[subprocess.Popen[bytes]]]
        ] = queue.SimpleQueue()
        self._owner_pid = 0
        self._start_lock = threading.Lock()

    def call(self, launch: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
        with self._start_lock:
            # After a fork the thread is gone from the child, which then needs its own.
            if self._owner_pid != os.getpid():
                self._jobs = queue.SimpleQueue()
                self._owner_pid = os.getpid()
                threading.Thread(target=self._run, name="engine-launcher", daemon=True).start()
        answer: Future[subprocess.Popen[bytes]] = Future()
        self._jobs.put((launch, answer))
        return answer.result()

    def _run(self) -> None:
        while True:
            launch, answer = self._jobs.get()
            try:
                answer.set_result(launch())
            except OSError as error:
                answer.set_exception(error)


_LAUNCHER = _Launcher()
