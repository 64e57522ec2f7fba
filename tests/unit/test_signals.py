"""What a process does when it is told to stop."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys

import pytest

from promise_svc.rpc.server import stop_on_signals

WAITS = """
import asyncio, signal
from promise_svc.rpc.server import stop_on_signals
async def main():
    stop = asyncio.Event()
    stop_on_signals(stop)
    print("waits", flush=True)
    await stop.wait()
    print("drains", flush=True)
asyncio.run(main())
"""


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_process_told_to_stop_drains(told: signal.Signals) -> None:
    """Also by a terminal that is closed."""
    with subprocess.Popen([sys.executable, "-c", WAITS], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"waits\n"
        process.send_signal(told)
        assert process.stdout.readline() == b"drains\n"
    assert process.returncode == 0


async def test_a_process_that_ignores_hangups_goes_on_doing_so() -> None:
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    try:
        stop_on_signals(stop)
        os.kill(os.getpid(), signal.SIGHUP)
        await asyncio.sleep(0)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert not stop.is_set()
    finally:
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(each)
        signal.signal(signal.SIGHUP, before)
