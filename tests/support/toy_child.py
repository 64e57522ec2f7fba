"""A child that answers each connection with its process id, and misbehaves as a file says.

``python -m tests.support.toy_child MODE_FILE ROLE NUMBER LISTEN LINK_FD SUPERVISOR_PID``
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter

from promise_svc.errors import ConfigError, Unavailable
from promise_svc.rpc.listeners import bind_all
from promise_svc.rpc.supervised import Assignment, SupervisorLink, die_with


async def main(mode: str, assignment: Assignment) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set if mode != "deaf" else lambda: None)
    link = await SupervisorLink.open(assignment.link_fd)
    match mode:
        case "crash":
            return 7
        case "misconfigured":
            await link.failed(ConfigError("nothing fits"))
            return 1
        case "no second worker" if assignment.number == 2:
            await link.failed(Unavailable("the engine died"))
            return 1
        case "no engine":
            await link.failed(Unavailable("the engine is away"))
            return 1
    registry = CollectorRegistry()
    answered = Counter("answered", "Connections answered", registry=registry)

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answered.inc()
        writer.write(str(os.getpid()).encode())
        writer.close()

    listeners = bind_all(assignment.listen, port_shared=True) if assignment.listen != "-" else []
    servers = [await asyncio.start_server(answer, sock=listener) for listener in listeners]
    link.show(registry)
    await link.ready()
    await stop.wait()
    for server in servers:
        server.close()
    # What was accepted in this turn of the loop is answered in the next few.
    for _ in range(10):
        await asyncio.sleep(0)
    await link.close(registry)
    return 0


if __name__ == "__main__":
    mode_file, role, number, listen, link_fd, supervisor_pid = sys.argv[1:]
    die_with(int(supervisor_pid))
    sys.exit(
        asyncio.run(
            main(
                Path(mode_file).read_text().strip(),
                Assignment(role, int(number), listen, int(link_fd), int(supervisor_pid)),
            )
        )
    )
