"""Sockets that workers share, as the kernel treats them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from promise_svc.rpc.listeners import connections_move

ROOT = Path(__file__).parents[2]

CLOSE_ONE_OF_TWO = """
import socket, sys
from promise_svc.rpc.listeners import MIGRATE, bind_all, connections_move, port_of

MIGRATE.write_text(sys.argv[1])
closing = bind_all("127.0.0.1:0", port_shared=True)
staying = bind_all(f"127.0.0.1:{port_of(closing)}", port_shared=True)
for listener in (*closing, *staying):
    listener.listen(100)
callers = [socket.create_connection(listener.getsockname()) for _ in range(64)]
closing[0].close()
served = 0
while True:
    try:
        staying[0].accept()
    except BlockingIOError:
        break
    served += 1
print(connections_move(), served == len(callers))
"""


@pytest.mark.parametrize(("switch", "expected"), [("1", "True True"), ("0", "False False")])
def test_connections_that_wait_move_where_the_kernel_is_told_to(switch: str, expected: str) -> None:
    """What is said of workers that bind for themselves, in a network of the test's own."""
    alone = ["unshare", "--map-root-user", "--net", "sh", "-c"]
    up = "ip link set lo up"
    if not shutil.which("unshare") or subprocess.run([*alone, up], check=False).returncode:
        pytest.skip("no network of one's own here")
    done = subprocess.run(
        [*alone, f'{up} && exec "$@"', "-", sys.executable, "-c", CLOSE_ONE_OF_TWO, switch],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.stdout.strip() == expected, done.stderr


def test_an_old_kernel_moves_nothing(tmp_path: Path) -> None:
    """It has no such switch."""
    assert not connections_move(tmp_path / "tcp_migrate_req")
