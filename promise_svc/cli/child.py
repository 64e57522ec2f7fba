"""`promise-svc child`: one process of a supervised service. Nobody but the supervisor calls it."""

from __future__ import annotations

import os

from promise_svc import host
from promise_svc.cli.settings import load_settings
from promise_svc.rpc.supervised import Assignment


def child(role: str, number: int, listen: str, link_fd: int, supervisor_pid: int) -> None:
    """Run a part of a supervised service; `serve --workers` starts it."""
    cluster, process = load_settings({}, os.environ)
    host.run_child(cluster, process, Assignment(role, number, listen, link_fd, supervisor_pid))
