"""What PostgreSQL tells of itself, for somebody who looks; changes nothing, migrates nothing."""

from __future__ import annotations

from typing import NamedTuple

from promise_svc.adapters.order_store import queries
from promise_svc.adapters.order_store.pool import (
    PoolConfig,
    borrowed,
    open_pool,
    refuse_unsafe_settings,
)
from promise_svc.adapters.order_store.schema import load_migrations

_TIMEOUT = 5.0


class StoreVitals(NamedTuple):
    """One look."""

    version: str
    time_ms: int
    """Its clock, ms since 1970."""
    connection_count: int
    """Of everybody, to all databases."""
    connections_max: int
    size_bytes: int
    """Of the database."""
    pending_migrations: int
    """The next start of the service applies them."""


async def read_vitals(url: str) -> StoreVitals:
    """EngineRefused where a setting would break a promise; Unavailable where nobody answers."""
    pool = await open_pool(PoolConfig(url=url, connections_max=1))
    try:
        await refuse_unsafe_settings(pool, _TIMEOUT)
        async with borrowed(pool, _TIMEOUT) as connection:
            row = await connection.fetchrow(queries.READ_VITALS)
            assert row is not None, "it has no FROM"
            applied = 0
            if await connection.fetchval(queries.MIGRATIONS_EXIST):
                applied = len(await connection.fetch(queries.READ_MIGRATIONS))
    finally:
        await pool.close()
    return StoreVitals(
        row["version"], row["time_ms"], row["connection_count"], row["connections_max"],
        row["size_bytes"], max(0, len(load_migrations()) - applied),
    )  # fmt: skip
