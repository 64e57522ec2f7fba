"""Connections to PostgreSQL: limits, time limits, and what their failures mean to a caller."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import urlsplit

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from promise_svc.adapters.order_store import queries
from promise_svc.errors import (
    ConfigError,
    EngineRefused,
    InvariantBroken,
    OutcomeUnknown,
    PromiseServiceError,
    Unavailable,
)

# Strings: the driver's classes take a parameter in their stubs only.
Connection: TypeAlias = "PoolConnectionProxy[asyncpg.Record]"
ConnectionPool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

SERVER_VERSION_MIN = 140000
"""PostgreSQL 14: older ones are out of support."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolConfig:
    """How to reach PostgreSQL."""

    url: str = field(repr=False)
    """``postgresql://user:password@host:port/database``; never logged or put in a message."""
    connections_max: int = 8
    """1..1000. The relay uses up to its concurrency, reads the rest."""
    connect_timeout_seconds: float = 5.0
    """Above 0; covers the wait for a free connection and the making of a new one."""
    statement_timeout_seconds: float = 10.0
    """Above 0; the longest a statement may run: the server ends it then, we a second later."""
    lock_timeout_seconds: float = 3.0
    """Above 0; the longest wait for a row another relay is writing."""
    idle_seconds_max: float = 300.0
    """A connection idle for longer is closed."""
    prepared_statements: bool = True
    """False behind a transaction pooler that does not follow prepared statements."""
    session_settings: bool = True
    """False behind a pooler that refuses startup parameters: set the role's time limits instead."""
    application_name: str = "promise-svc"

    def __post_init__(self) -> None:
        if not 1 <= self.connections_max <= 1000:
            raise ConfigError("order store: connections_max must be 1..1000")
        limits = (
            self.connect_timeout_seconds,
            self.statement_timeout_seconds,
            self.lock_timeout_seconds,
            self.idle_seconds_max,
        )
        if min(limits) <= 0:
            raise ConfigError("order store: every time limit must be above 0 seconds")


class Health(NamedTuple):
    """The order store answered."""

    round_trip_ms: float
    connection_count: int
    idle_count: int


async def open_pool(config: PoolConfig) -> ConnectionPool:
    """Connect once and return the pool; Unavailable, ConfigError or EngineRefused otherwise.

    asyncpg reconnects by itself: a connection that broke is replaced at its next use.
    """
    settings = {"application_name": config.application_name}
    if config.session_settings:
        settings["statement_timeout"] = str(_ms(config.statement_timeout_seconds))
        settings["lock_timeout"] = str(_ms(config.lock_timeout_seconds))
        # APPEND's best plan never depends on its values, and planning it costs 0.5 ms.
        settings["plan_cache_mode"] = "force_generic_plan"
    try:
        pool = asyncpg.create_pool(
            config.url,
            min_size=1,
            max_size=config.connections_max,
            timeout=config.connect_timeout_seconds,
            command_timeout=config.statement_timeout_seconds + 1,
            max_inactive_connection_lifetime=config.idle_seconds_max,
            statement_cache_size=100 if config.prepared_statements else 0,
            server_settings=settings,
            reset=_reset,
        )
    except (ValueError, TypeError, asyncpg.InterfaceError):
        # The driver's message may quote a part of the password.
        raise ConfigError("the order store's URL or limits cannot be read") from None
    try:
        return await pool
    except (asyncpg.exceptions.ClientConfigurationError, ValueError, OverflowError):
        # OverflowError is asyncio's answer to a port above 65535.
        raise ConfigError("the order store's URL cannot be read") from None
    except (asyncpg.InvalidPasswordError, asyncpg.InvalidAuthorizationSpecificationError) as error:
        raise EngineRefused(f"{place(config.url)} refused our credentials") from error
    except (asyncpg.InvalidCatalogNameError, asyncpg.InsufficientPrivilegeError) as error:
        raise EngineRefused(f"{place(config.url)}: the database is missing or closed") from error
    except FAILURES as error:
        raise Unavailable(f"{place(config.url)} does not answer: {_name(error)}") from error


def place(url: str) -> str:
    """Host, port and database of a URL, without user and password."""
    try:
        parts = urlsplit(url)
        return f"order store at {parts.hostname or 'localhost'}:{parts.port or 5432}{parts.path}"
    except ValueError:
        return "order store"


FAILURES = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
)
"""All that a statement may raise for reasons outside its caller. InternalClientError is what the
driver says of a connection whose server has said goodbye and not hung up yet."""


@asynccontextmanager
async def borrowed(
    pool: ConnectionPool,
    timeout: float,
    *,
    writing: bool = False,
    passing: tuple[type[BaseException], ...] = (),
) -> AsyncIterator[Connection]:
    """A connection for one statement or transaction; failures inside become ours.

    Not getting one is Unavailable. A failure inside is Unavailable too, unless ``writing``: then a
    lost connection or a time limit here is OutcomeUnknown, for the commit may have happened.
    ``passing`` is left as it is, for a caller in this folder that handles it.
    """
    try:
        connection = await pool.acquire(timeout=timeout)
    except FAILURES as error:
        raise Unavailable(f"no connection to the order store: {_name(error)}") from error
    try:
        yield connection
    except passing:
        raise
    except FAILURES as error:
        raise translated(error, writing=writing) from error
    finally:
        # A connection that cannot be reset is cut by the pool itself. To its end also for a caller
        # that is gone: the driver's own task would fail with nobody to hear it.
        releasing = asyncio.ensure_future(pool.release(connection))
        releasing.add_done_callback(lambda done: done.cancelled() or done.exception())
        with suppress(*FAILURES):
            await asyncio.shield(releasing)


async def health(pool: ConnectionPool, timeout: float) -> Health:
    """Ask the server for one row; Unavailable when it does not answer in ``timeout`` seconds."""
    start = time.perf_counter()
    async with borrowed(pool, timeout) as connection:
        await connection.fetchval("SELECT 1", timeout=timeout)
    passed_ms = (time.perf_counter() - start) * 1000
    return Health(passed_ms, pool.get_size(), pool.get_idle_size())


async def refuse_unsafe_settings(pool: ConnectionPool, timeout: float) -> None:
    """EngineRefused where the server could lose what it acknowledged, or cannot be written to."""
    async with borrowed(pool, timeout) as connection:
        rows = await connection.fetch(queries.READ_SETTINGS)
        standby = await connection.fetchval(queries.READ_RECOVERY)
    settings = {row["name"]: row["setting"] for row in rows}
    for name in ("fsync", "full_page_writes", "synchronous_commit"):
        if settings[name] == "off":
            raise EngineRefused(f"PostgreSQL runs with {name} = off: set it on", setting=name)
    if settings["server_encoding"] != "UTF8":
        raise EngineRefused("the order store's database must have the encoding UTF8")
    if int(settings["server_version_num"]) < SERVER_VERSION_MIN:
        raise EngineRefused(f"PostgreSQL {SERVER_VERSION_MIN // 10000} or newer is needed")
    if standby:
        raise EngineRefused("PostgreSQL is a standby: give the URL of the primary")


def translated(error: BaseException, *, writing: bool) -> PromiseServiceError:
    """What a failed statement means: the SQL state's class decides (PostgreSQL, appendix A)."""
    state = getattr(error, "sqlstate", None) or ""
    if not state or state.startswith(("08", "57P")):
        if writing:
            return OutcomeUnknown(f"the order store was lost while writing: {_name(error)}")
        return Unavailable(f"the order store was lost while reading: {_name(error)}")
    if state.startswith(("42", "3F")):
        return EngineRefused(f"the order store's schema is not ours: {_name(error)}")
    if state.startswith(("21", "22", "23")):
        return InvariantBroken(f"the order store refused a value: {_name(error)}", sqlstate=state)
    return Unavailable(f"the order store refused for now: {_name(error)}", sqlstate=state)


async def _reset(connection: Any) -> None:
    """Nothing outlives a transaction here, so the usual round trip of resets is saved."""
    if connection.is_in_transaction():
        await connection.reset()


def _name(error: BaseException) -> str:
    """Kind of failure, without the driver's text: that may quote values or settings."""
    state = getattr(error, "sqlstate", None)
    return f"{type(error).__name__} ({state})" if state else type(error).__name__


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))
