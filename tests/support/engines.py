"""Real engines for tests: one Valkey and one PostgreSQL a process, an empty place in them a test.

A test that kills or pauses an engine starts its own (EmbeddedValkey, EmbeddedPostgres on
`tmp_path`): a crash of the shared one would be every other test's failure.
"""

import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest
import redis

from promise_svc.adapters.embedded import EmbeddedPostgres, EmbeddedValkey


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    """The process's Valkey: one node, cluster mode, append-only file with fsync always."""
    with EmbeddedValkey(tmp_path_factory.mktemp("valkey"), durability="fsync") as engine:
        yield engine


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """The process's PostgreSQL; a test takes `database`, which is empty and its own."""
    with EmbeddedPostgres(tmp_path_factory.mktemp("postgres")) as engine:
        yield engine


@pytest.fixture
def empty_valkey(valkey: EmbeddedValkey) -> EmbeddedValkey:
    """The process's Valkey without a key in it; loaded Functions stay."""
    flush(valkey)
    return valkey


@pytest.fixture
async def database(postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    """The DSN of an empty database, dropped after the test."""
    name = f"test_{secrets.token_hex(6)}"
    async with _administrator(postgres) as connection:
        await connection.execute(f'CREATE DATABASE "{name}" TEMPLATE template0')
    yield postgres.dsn_of(name)
    async with _administrator(postgres) as connection:
        await connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def key_prefix() -> str:
    """A prefix no other test uses, for code that takes one."""
    return f"t{secrets.token_hex(4)}"


def flush(engine: EmbeddedValkey) -> None:
    """Remove every key of every node."""
    for url in engine.urls:
        with redis.Redis.from_url(url) as client:
            client.flushall(asynchronous=False)


def make_closed_folder(path: Path) -> Path:
    """Return a new folder below one that only its owner may enter, as a home folder is."""
    closed = path / "closed"
    closed.mkdir(mode=0o700)
    return closed / "engine"


class _administrator:
    """A connection to the database `postgres`, closed on leaving."""

    def __init__(self, engine: EmbeddedPostgres) -> None:
        self._dsn = engine.dsn_of("postgres")

    async def __aenter__(self) -> asyncpg.Connection:
        self._connection = await asyncpg.connect(self._dsn)
        return self._connection

    async def __aexit__(self, *_exc_info: object) -> None:
        await self._connection.close()
