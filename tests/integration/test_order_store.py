"""The order store on a real PostgreSQL: tables, migrations, settings, losses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import msgspec
import pytest

from promise_svc.adapters.embedded import EmbeddedPostgres
from promise_svc.adapters.order_store import PoolConfig, PostgresOrderStore
from promise_svc.adapters.order_store.pool import health, open_pool
from promise_svc.adapters.order_store.schema import Migration, load_migrations, migrate
from promise_svc.application.relay import Relay
from promise_svc.domain.inventory import StockPosition
from promise_svc.domain.reservation import ClaimRecord, LegRecord, State
from promise_svc.domain.sharding import START, Position
from promise_svc.errors import (
    ConfigError,
    EngineRefused,
    Fork,
    InvariantBroken,
    OutcomeUnknown,
    PreconditionFailed,
    Unavailable,
)
from promise_svc.workers.relay_loop import RelayLoop
from tests.support.fake_outbox import FakeOutbox, Observed
from tests.support.stored_events import History


@pytest.fixture
async def store(database: str) -> AsyncIterator[PostgresOrderStore]:
    opened = await PostgresOrderStore.open(PoolConfig(url=database, lock_timeout_seconds=0.2))
    yield opened
    await opened.close()


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Any]:
    """A connection of the test's own."""
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


# -- tables ---------------------------------------------------------------------------------


async def test_a_reservation_is_a_row_people_can_read(
    store: PostgresOrderStore, database: str
) -> None:
    """Owner and order reference come from the claim's body; legs and tombstones have rows."""
    history = History(5)
    events = [history.start_epoch(), history.move("r", State.HELD), history.tombstone("t")]

    await store.append(5, START, events)

    async with connected(database) as connection:
        row = dict(await connection.fetchrow("SELECT * FROM reservations"))
        legs = await connection.fetch("SELECT * FROM legs ORDER BY reservation_id")
    claim = msgspec.msgpack.decode(row.pop("claim"), type=ClaimRecord)
    assert claim == events[1].event.claim
    assert row == {
        "reservation_id": "r", "home": 5, "state": State.HELD, "revision": 1,
        "owner_id": "owner", "order_reference": "order", "create_ms": 10, "expire_ms": 20,
        "update_ms": events[1].event.time_ms, "epoch": 1, "sequence": 2,
    }  # fmt: skip
    assert [(leg["reservation_id"], leg["state"]) for leg in legs] == [
        ("r", State.HELD),
        ("t", State.ABORTED),
    ]
    tombstone = msgspec.msgpack.decode(legs[1]["leg"], type=LegRecord)
    assert tombstone.lines == ()


@pytest.mark.parametrize("body", ["", "[]", "nope", '{"owner_id": 5}', '{"other": 1}'])
async def test_a_body_without_an_owner_is_kept_all_the_same(
    store: PostgresOrderStore, body: str
) -> None:
    """The body is not the order store's business: it must never hold up the relay."""
    history = History(0)
    start, held = history.start_epoch(), history.move("r", State.HELD)
    assert held.event.claim
    event = held.event._replace(claim=held.event.claim._replace(body=body))

    await store.append(0, START, [start, held._replace(event=event)])

    stored = await store.reservation("r")
    assert stored is not None and stored.claim.body == body


async def test_every_counter_of_a_position_has_a_column(
    store: PostgresOrderStore, database: str
) -> None:
    """A counter added to the domain needs a migration: else a rebuild would forget it."""
    async with connected(database) as connection:
        rows = await connection.fetch(
            "SELECT column_name FROM information_schema.columns"
            " WHERE table_name = 'positions' ORDER BY ordinal_position"
        )

    others = {"shard", "sku", "node_id", "bucket", "epoch", "sequence"}
    assert tuple(row[0] for row in rows if row[0] not in others) == StockPosition._fields


async def test_a_value_that_cannot_be_stored_breaks_an_invariant(store: PostgresOrderStore) -> None:
    """NUL in an id should have been refused at the door; trying again cannot help."""
    history = History(0)

    with pytest.raises(InvariantBroken):
        await store.append(0, START, [history.start_epoch(), history.sync("a\0b", 1)])

    assert await store.cursor(0) == START


# -- migrations -----------------------------------------------------------------------------


async def test_migrations_run_once_however_often_and_concurrently_they_are_asked_for(
    database: str,
) -> None:
    """Five processes start at the same time; one of them makes the schema."""
    pools = [await open_pool(PoolConfig(url=database)) for _ in range(5)]

    applied = await asyncio.gather(*(migrate(pool, 5.0) for pool in pools))
    again = await migrate(pools[0], 5.0)

    ours = [f"{migration.version:04}_{migration.name}" for migration in load_migrations()]
    assert sorted(applied) == [[], [], [], [], ours]
    assert again == []
    for pool in pools:
        await pool.close()


async def test_a_failing_migration_leaves_nothing_behind(database: str) -> None:
    """All pending migrations are one transaction."""
    pool = await open_pool(PoolConfig(url=database))
    ours = load_migrations()
    failing = "CREATE TABLE x (); SELECT 1 / 0;"
    broken = [*ours, Migration(len(ours) + 1, "broken", failing)]

    with pytest.raises(InvariantBroken):
        await migrate(pool, 5.0, broken)

    async with connected(database) as connection:
        tables = await connection.fetchval(
            "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
        )
    assert tables == 0
    await pool.close()


async def test_a_newer_schema_is_refused_by_name(store: PostgresOrderStore, database: str) -> None:
    """An old program must not write to tables it does not know."""
    async with connected(database) as connection:
        await connection.execute(
            "INSERT INTO schema_migrations (version, name, checksum) VALUES (9999, 'later', 'x')"
        )

    with pytest.raises(EngineRefused, match="9999_later"):
        await PostgresOrderStore.open(PoolConfig(url=database))


async def test_an_edited_migration_is_refused_by_name(
    store: PostgresOrderStore, database: str
) -> None:
    """The text that was applied is the text we have."""
    async with connected(database) as connection:
        await connection.execute("UPDATE schema_migrations SET checksum = 'other'")

    with pytest.raises(EngineRefused, match="0001_order_store"):
        await PostgresOrderStore.open(PoolConfig(url=database))


# -- settings and addresses -------------------------------------------------------------------


async def test_a_server_that_may_forget_is_refused_by_name(database: str) -> None:
    """``recorded`` would be a lie."""
    async with connected(database) as connection:
        name = await connection.fetchval("SELECT current_database()")
        await connection.execute(f'ALTER DATABASE "{name}" SET synchronous_commit = off')

    with pytest.raises(EngineRefused, match="synchronous_commit"):
        await PostgresOrderStore.open(PoolConfig(url=database))


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("postgresql://user:s3cret@127.0.0.1:1/db", Unavailable),
        ("postgresql://user:s3/cret@127.0.0.1:5432/db", ConfigError),
        ("mysql://user:s3cret@127.0.0.1:1/db", ConfigError),
        ("postgresql://user:s3cret@127.0.0.1:99999/db", ConfigError),
        ("postgresql://user:s3cret@no.such.host.invalid:5432/db", Unavailable),
    ],
)
async def test_a_password_is_never_told(url: str, error: type[Exception]) -> None:
    """Neither by an error, nor by its notes, nor by the settings' text."""
    config = PoolConfig(url=url, connect_timeout_seconds=2.0)

    with pytest.raises(error) as caught:
        await PostgresOrderStore.open(config)

    told = f"{caught.value} {caught.value.__cause__} {config}"
    assert "s3" not in told and "cret" not in told


async def test_wrong_credentials_are_refused_by_name(database: str) -> None:
    """Waiting does not help, so it is not Unavailable."""
    head, tail = database.split("://")[1].split("@")
    user = head.split(":")[0]

    with pytest.raises(EngineRefused, match="credentials"):
        await PostgresOrderStore.open(PoolConfig(url=f"postgresql://{user}:s3cret@{tail}"))


@pytest.mark.parametrize("changes", [{"connections_max": 0}, {"lock_timeout_seconds": 0.0}])
def test_limits_out_of_range_are_refused(changes: dict[str, Any]) -> None:
    """Before anything is opened."""
    with pytest.raises(ConfigError):
        PoolConfig(url="postgresql://h/d", **changes)


async def test_it_works_without_prepared_statements_and_session_settings(database: str) -> None:
    """As behind a transaction pooler."""
    config = PoolConfig(url=database, prepared_statements=False, session_settings=False)
    store = await PostgresOrderStore.open(config)
    history = History(0)

    await store.append(0, START, [history.start_epoch(), history.move("r", State.HELD)])
    await store.upsert_network("node", {"n": "{}"})

    assert await store.cursor(0) == Position(1, 2)
    await store.close()


async def test_health_tells_the_round_trip(store: PostgresOrderStore) -> None:
    """For the doctor and the metrics."""
    health = await store.health(1.0)

    assert health.round_trip_ms > 0
    assert health.connection_count >= 1


# -- many shards at once ------------------------------------------------------------------------


async def test_appends_of_many_shards_share_their_commits(
    store: PostgresOrderStore, database: str
) -> None:
    """Twenty shards at the same time take a few transactions, not twenty."""
    starts = [History(shard).start_epoch() for shard in range(20)]

    await asyncio.gather(*(store.append(start.shard, START, [start]) for start in starts))

    async with connected(database) as connection:
        count = await connection.fetchval("SELECT count(DISTINCT xmin::text) FROM cursors")
    assert await store.cursors() == {shard: Position(1, 1) for shard in range(20)}
    assert count <= 3


async def test_a_shard_that_is_refused_costs_the_others_nothing(
    store: PostgresOrderStore, database: str
) -> None:
    """A fork, a value that cannot be stored and a moved cursor beside seven good batches."""
    histories = [History(shard) for shard in range(10)]
    for history in histories:
        await store.append(history.shard, START, [history.start_epoch(), history.sync("a", 1)])
    async with connected(database) as connection:
        await connection.execute("UPDATE cursors SET sequence = 1 WHERE shard = 0")
    forked = History(0, Position(1, 1)).sync("a", 9)
    good = [(h.at, h.sync("b", 2)) for h in histories[3:]]
    calls = [
        store.append(0, Position(1, 1), [forked]),
        store.append(1, histories[1].at, [histories[1].sync("a\0", 1)]),
        store.append(2, Position(1, 9), [History(2, Position(1, 9)).sync("a", 1)]),
        *(store.append(event.shard, after, [event]) for after, event in good),
    ]

    results = await asyncio.gather(*calls, return_exceptions=True)

    assert [type(result) for result in results[:3]] == [Fork, InvariantBroken, PreconditionFailed]
    assert results[3:] == [event.at for _, event in good]
    assert await store.cursors() == {
        0: Position(1, 1), 1: Position(1, 2), 2: Position(1, 2),
        **{shard: Position(1, 3) for shard in range(3, 10)},
    }  # fmt: skip


async def test_a_caller_that_goes_away_does_not_stop_the_write(
    store: PostgresOrderStore, database: str
) -> None:
    """Cancelled while the statement waits for a lock: it is carried out all the same."""
    history = History(0)
    at = await store.append(0, START, [history.start_epoch()])
    event = history.sync("a", 1)
    async with connected(database) as connection, connection.transaction():
        await connection.execute("SELECT * FROM cursors WHERE shard = 0 FOR UPDATE")
        caller = asyncio.create_task(store.append(0, at, [event]))
        while not await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        ):
            await asyncio.sleep(0)
        caller.cancel()
        await asyncio.wait([caller])

    with pytest.raises(PreconditionFailed):
        await store.append(0, at, [event])
    assert await store.cursor(0) == event.at


# -- losses -----------------------------------------------------------------------------------


async def test_waiting_too_long_for_a_lock_did_nothing(
    store: PostgresOrderStore, database: str
) -> None:
    """Another relay hangs inside its transaction: Unavailable, and it works afterwards."""
    history = History(0)
    at = await store.append(0, START, [history.start_epoch()])
    batch = [history.sync("a", 1)]
    async with connected(database) as connection, connection.transaction():
        await connection.execute("SELECT * FROM cursors WHERE shard = 0 FOR UPDATE")
        with pytest.raises(Unavailable):
            await store.append(0, at, batch)

    assert await store.append(0, at, batch) == batch[-1].at


async def test_a_connection_lost_while_writing_leaves_the_outcome_unknown(
    store: PostgresOrderStore, database: str
) -> None:
    """Cut while the append waits for a lock; the next use has a new connection."""
    history = History(0)
    at = await store.append(0, START, [history.start_epoch()])
    batch = [history.sync("a", 1)]
    async with connected(database) as connection, connection.transaction():
        await connection.execute("SELECT * FROM cursors WHERE shard = 0 FOR UPDATE")
        append = asyncio.create_task(store.append(0, at, batch))
        while not await connection.fetchval(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        ):
            await asyncio.sleep(0)
        with pytest.raises(OutcomeUnknown):
            await append

    assert await store.cursor(0) == at
    assert await store.append(0, at, batch) == batch[-1].at


@pytest.mark.fault
async def test_a_server_that_has_said_goodbye_and_not_hung_up_is_away(database: str) -> None:
    """A backend that is shut down says so first; who asks before it closes is told Unavailable."""
    text = b"SFATAL\0VFATAL\0C57P01\0Mterminating connection\0\0"
    goodbye = b"E" + (len(text) + 4).to_bytes(4, "big") + text
    replies: list[tuple[asyncio.StreamWriter, asyncio.Task[None]]] = []
    real, hung_up = urlsplit(database), asyncio.Event()

    async def between(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection(real.hostname, real.port)
        replies.append((writer, asyncio.create_task(_copied(up_reader, writer))))
        await _copied(reader, up_writer)
        writer.close()
        hung_up.set()

    async with await asyncio.start_server(between, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        url = real._replace(netloc=real.netloc.rpartition(":")[0] + f":{port}").geturl()
        pool = await open_pool(PoolConfig(url=url, connections_max=1))
        await health(pool, 5.0)

        writer, copying = replies[0]
        copying.cancel()
        writer.write(goodbye)
        for _ in range(20):  # turns of the loop, in which the driver reads it
            await asyncio.sleep(0)
        with pytest.raises(Unavailable, match="InternalClientError"):
            await health(pool, 5.0)
        pool.terminate()
        await asyncio.wait_for(hung_up.wait(), 30)


async def _copied(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65_536):
            writer.write(data)
    writer.close()


@pytest.mark.fault
async def test_a_server_killed_and_started_again_loses_nothing(tmp_path: Path) -> None:
    """Away: errors of ours and no alarm. Back: the loop carries on, acknowledged rows are there."""
    outbox, observed, history = FakeOutbox(), Observed(), History(0)
    stop = asyncio.Event()
    with EmbeddedPostgres(tmp_path / "postgres") as engine:
        store = await PostgresOrderStore.open(PoolConfig(url=engine.dsn))
        relay = Relay(outbox, store, observed)  # type: ignore[arg-type]
        loop = RelayLoop(relay, 4, observed, poll_seconds=0.02)
        task = asyncio.create_task(loop.run(stop))
        outbox.write(history.start_epoch(), history.sync("a", 1))
        await _until(observed, lambda: observed.carried_counts.get(0) == 2)

        engine.kill()
        with pytest.raises(Unavailable):
            while True:  # its backends outlive the server by some milliseconds
                await store.health(1.0)
        outbox.write(history.sync("a", 2))
        await _until(observed, lambda: len(observed.failures) >= 3)
        await asyncio.to_thread(engine.restart)
        marked = asyncio.Event()
        outbox.before["mark_durable"] = _sets(marked)
        await _until(observed, lambda: observed.carried_counts[0] == 3)
        async with asyncio.timeout(30):
            while outbox.durable != {0: Position(1, 3)}:
                marked.clear()
                await marked.wait()
        stop.set()
        await task

        assert outbox.durable == {0: Position(1, 3)}
        assert len(await store.read_events(0, START, 10)) == 3
        assert observed.alarms == []
        assert {reason for _, reason in observed.failures} <= {"UNAVAILABLE", "OUTCOME_UNKNOWN"}
        await store.close()


def _sets(event: asyncio.Event) -> Callable[[int], Awaitable[None]]:
    async def set_soon(_shard: int) -> None:
        asyncio.get_running_loop().call_soon(event.set)

    return set_soon


async def _until(observed: Observed, condition: Any) -> None:
    async with asyncio.timeout(30):
        while not condition():
            observed.seen.clear()
            await observed.seen.wait()
