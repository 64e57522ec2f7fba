"""Numbered, forward-only migrations: the files in ``migrations/``, applied under one lock."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from importlib.resources import files
from typing import NamedTuple

from promise_svc.adapters.order_store import queries
from promise_svc.adapters.order_store.pool import ConnectionPool, borrowed
from promise_svc.errors import EngineRefused

_LOCK_KEY = 0x70726F6D697365
"""Advisory lock of the migrations: "promise" in ASCII."""

_FILE_NAME = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")


class Migration(NamedTuple):
    """One step of the schema."""

    version: int
    """1, 2, 3 ... without holes."""
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the text: an applied migration is never edited."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def load_migrations() -> list[Migration]:
    """The migrations of this version of the program, in order."""
    found = []
    for entry in files(__package__).joinpath("migrations").iterdir():
        match = _FILE_NAME.fullmatch(entry.name)
        if match:
            found.append(Migration(int(match[1]), match[2], entry.read_text(encoding="utf-8")))
    found.sort()
    assert [m.version for m in found] == list(range(1, len(found) + 1)), "numbers without holes"
    return found


async def migrate(
    pool: ConnectionPool, timeout: float, migrations: Sequence[Migration] | None = None
) -> list[str]:
    """Bring the schema up to date; returns the names applied, none when it already was.

    All or nothing, one process at a time, safe to repeat. EngineRefused when the schema is newer
    than this program or an applied migration differs from ours; nothing is changed then.
    """
    known = load_migrations() if migrations is None else list(migrations)
    async with borrowed(pool, timeout) as connection, connection.transaction():
        # Another process may be migrating: wait for it as long as a statement may run.
        await connection.execute("SET LOCAL lock_timeout = 0")
        await connection.execute(queries.LOCK_MIGRATIONS, _LOCK_KEY)
        await connection.execute(queries.CREATE_MIGRATIONS)
        rows = await connection.fetch(queries.READ_MIGRATIONS)
        applied = {row["version"]: (row["name"], row["checksum"]) for row in rows}
        _refuse_foreign(applied, known)
        names = []
        for migration in known:
            if migration.version not in applied:
                await connection.execute(migration.sql)
                await connection.execute(queries.RECORD_MIGRATION, *_record(migration))
                names.append(f"{migration.version:04}_{migration.name}")
    return names


def _record(migration: Migration) -> tuple[int, str, str]:
    return migration.version, migration.name, migration.checksum


def _refuse_foreign(applied: dict[int, tuple[str, str]], known: Sequence[Migration]) -> None:
    by_version = {m.version: m for m in known}
    for version, (name, checksum) in sorted(applied.items()):
        ours = by_version.get(version)
        if ours is None:
            raise EngineRefused(
                f"the order store's schema has migration {version:04}_{name}, newer than this "
                f"program's {len(known):04}: run a newer version",
                migration=f"{version:04}_{name}",
            )
        if ours.checksum != checksum:
            raise EngineRefused(
                f"migration {version:04}_{ours.name} was applied with another text",
                migration=f"{version:04}_{ours.name}",
            )
