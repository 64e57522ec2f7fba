"""Bound sockets by address: what a front listens on, and what a supervisor hands to its workers."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

UNIX = "unix:"
INHERITED = "fd:"

MIGRATE = Path("/proc/sys/net/ipv4/tcp_migrate_req")
"""The switch of ``connections_move``."""


class Door:
    """The address that workers share; holds the port while none of them listens.

    With ``inherited`` False each worker binds for itself, as grpc.aio must: then connections that
    wait at one that ends are lost, unless ``connections_move``. OSError when the address cannot
    be had.
    """

    def __init__(self, address: str, *, inherited: bool) -> None:
        self._unix = address.startswith(UNIX)
        self._inherited = inherited
        self._held = bind_all(address, port_shared=True)
        self.port = port_of(self._held)
        self.address = address if self._unix else f"{address.rpartition(':')[0]}:{self.port}"

    def place(self) -> list[socket.socket]:
        """Sockets for one worker. A Unix socket is one for all."""
        if not self._inherited:
            return []
        return list(self._held) if self._unix else bind_all(self.address, port_shared=True)

    def address_of(self, listeners: Iterable[socket.socket]) -> str:
        """What a worker is told to listen on."""
        inherited = ",".join(str(listener.fileno()) for listener in listeners)
        return f"{INHERITED}{inherited}" if inherited else self.address

    def give_up(self, listeners: Iterable[socket.socket]) -> None:
        """Close the sockets of a worker that died, so that connections go to others."""
        close_all(listener for listener in listeners if listener not in self._held)

    def close(self) -> None:
        """Let go of the address."""
        close_all(self._held)
        if self._unix:
            Path(self.address.removeprefix(UNIX)).unlink(missing_ok=True)


def bind_all(address: str, *, port_shared: bool = False) -> list[socket.socket]:
    """Sockets for ``host:port``, ``:port``, ``unix:path`` or ``fd:3,4``; OSError if one is taken.

    They do not listen yet, but for those of ``fd:``, which another process may listen on already.
    ``port_shared`` sets SO_REUSEPORT: connections are spread over all sockets that listen.
    """
    if address.startswith(INHERITED):
        return [socket.socket(fileno=int(fd)) for fd in address[len(INHERITED) :].split(",")]
    if address.startswith(UNIX):
        return [_bound(socket.AF_UNIX, address.removeprefix(UNIX), False)]
    host, _, port_text = address.rpartition(":")
    found = socket.getaddrinfo(
        host.strip("[]") or None,
        int(port_text),
        type=socket.SOCK_STREAM,
        flags=socket.AI_PASSIVE,
    )
    listeners: list[socket.socket] = []
    port = int(port_text)
    try:
        for family, _, _, _, target in dict.fromkeys(found):
            listener = _bound(family, (target[0], port, *target[2:]), port_shared)
            listeners.append(listener)
            # Port 0 means any, but one for all addresses of the host.
            port = listener.getsockname()[1]
    except OSError:
        close_all(listeners)
        raise
    return listeners


def remove_abandoned(address: str) -> None:
    """Remove the file of a Unix socket that nobody listens on: a killed server leaves it.

    OSError where somebody does, or where the file is none of a socket.
    """
    path = address.removeprefix(UNIX)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        try:
            caller.connect(path)
        except FileNotFoundError:
            return
        except ConnectionRefusedError:
            if not stat.S_ISSOCK(os.stat(path).st_mode):
                raise
            os.unlink(path)
            return
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def close_all(listeners: Iterable[socket.socket]) -> None:
    """This process's hold on them; others that have them go on."""
    for listener in listeners:
        listener.close()


def connections_move(switch: Path = MIGRATE) -> bool:
    """Whether the kernel gives the connections that wait in a closing socket to others on its port:
    from Linux 5.14 on, where ``net.ipv4.tcp_migrate_req`` is 1, per network namespace."""
    try:
        return switch.read_text().strip() == "1"
    except OSError:
        return False


def port_of(listeners: Iterable[socket.socket]) -> int:
    """The port they share; 0 for a Unix socket."""
    return next((s.getsockname()[1] for s in listeners if s.family != socket.AF_UNIX), 0)


def _bound(family: int, target: Any, port_shared: bool) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family != socket.AF_UNIX:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if port_shared and family != socket.AF_UNIX:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(target)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener
