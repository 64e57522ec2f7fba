"""Appends of many shards in few transactions.

A commit costs a round trip and an fsync whatever it holds, so appends that arrive while others are
being written are written together. A caller that goes away does not stop a write in flight.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import asyncpg

from promise_svc.adapters.order_store import queries
from promise_svc.adapters.order_store.batch import append_arguments
from promise_svc.adapters.order_store.pool import FAILURES, ConnectionPool, borrowed, translated
from promise_svc.application.ports import ShardEvents
from promise_svc.domain.sharding import Position
from promise_svc.errors import Fork, OutcomeUnknown, PromiseServiceError, Unavailable

EVENTS_MAX = 1_000
"""Events of one statement, but for a single larger batch: about 50 ms of PostgreSQL."""

WRITERS_MAX = 2
"""Statements in flight: one is prepared while the other commits."""

GATHER_SECONDS = 0.005
"""How long a writer waits for others to join its statement. A statement costs about a millisecond
of CPU before its first event, so at 300 reservations a second this halves the cost of each, and
costs a RECORDED answer as much time as one fsync of a slow disk."""


class Appender:
    """Writes batches; lives on one event loop. Each shard is in one statement at a time."""

    def __init__(self, pool: ConnectionPool, timeout: float) -> None:
        self._pool = pool
        self._timeout = timeout
        self._waiting: list[tuple[ShardEvents, asyncio.Future[bool]]] = []
        self._busy_shards: set[int] = set()
        self._writers: set[asyncio.Task[None]] = set()
        self._writer_count = 0

    async def append(self, batch: ShardEvents) -> bool:
        """Write one batch; False when its shard's cursor stood elsewhere.

        Raises Fork, Unavailable (nothing of it was done), OutcomeUnknown, InvariantBroken.
        """
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append((batch, done))
        if self._writer_count < WRITERS_MAX:
            self._writer_count += 1
            writer = asyncio.create_task(self._write_waiting(), name="order store appender")
            self._writers.add(writer)
            writer.add_done_callback(self._writers.discard)
        return await done

    async def append_all(self, batches: Sequence[ShardEvents]) -> list[bool | PromiseServiceError]:
        """Write batches of different shards at once, in one statement: they have been gathered
        already. What ``append`` returns or raises for each."""
        loop = asyncio.get_running_loop()
        taken = [(batch, loop.create_future()) for batch in batches]
        await self._write_taken(taken)
        return [_outcome(done) for _, done in taken]

    async def close(self) -> None:
        """Wait for what is being written, refuse what still waits."""
        waiting, self._waiting = self._waiting, []
        for _, done in waiting:
            _fail(done, Unavailable("the order store is being closed"))
        if self._writers:
            await asyncio.wait(self._writers)

    async def _write_waiting(self) -> None:
        try:
            while True:
                await asyncio.sleep(GATHER_SECONDS)
                taken = self._take()
                if not taken:
                    return
                await self._write_taken(taken)
        finally:
            # In the same step as the last look at what waits: an append that comes later starts
            # a writer of its own. The task's callback would come too late for that.
            self._writer_count -= 1

    async def _write_taken(self, taken: Sequence[tuple[ShardEvents, asyncio.Future[bool]]]) -> None:
        shards = {batch.shard for batch, _ in taken}
        self._busy_shards |= shards
        try:
            await self._write(taken)
        except BaseException as error:
            for _, done in taken:
                _fail(done, OutcomeUnknown(f"the write was cut off: {type(error).__name__}"))
            raise
        finally:
            self._busy_shards -= shards

    def _take(self) -> list[tuple[ShardEvents, asyncio.Future[bool]]]:
        """What goes into the next statement: in order of arrival, each shard once."""
        taken: list[tuple[ShardEvents, asyncio.Future[bool]]] = []
        left: list[tuple[ShardEvents, asyncio.Future[bool]]] = []
        shards = set(self._busy_shards)
        count = 0
        for entry in self._waiting:
            batch = entry[0]
            fits = not taken or count + len(batch.events) <= EVENTS_MAX
            if batch.shard in shards or not fits:
                left.append(entry)
            else:
                taken.append(entry)
                count += len(batch.events)
            shards.add(batch.shard)  # a later batch of the shard must not overtake
        self._waiting = left
        return taken

    async def _write(self, taken: Sequence[tuple[ShardEvents, asyncio.Future[bool]]]) -> None:
        if len(taken) == 1:
            await self._write_alone(*taken[0])
            return
        try:
            moved = await self._run(queries.APPEND, [batch for batch, _ in taken])
        except FAILURES as error:
            meaning = translated(error, writing=True)
            if isinstance(meaning, OutcomeUnknown):
                for _, done in taken:
                    _fail(done, translated(error, writing=True))
                return
            # Nothing was written. One shard is to blame; the others must not suffer for it.
            await asyncio.gather(*(self._write_alone(batch, done) for batch, done in taken))
        except PromiseServiceError as error:
            for _, done in taken:
                _fail(done, type(error)(error.message))
        else:
            for batch, done in taken:
                if not done.done():
                    done.set_result(batch.shard in moved)

    async def _write_alone(self, batch: ShardEvents, done: asyncio.Future[bool]) -> None:
        try:
            try:
                moved = await self._run(queries.APPEND, [batch])
            except asyncpg.UniqueViolationError:
                await self._refuse_fork(batch)
                moved = await self._run(queries.APPEND_OVER_KNOWN, [batch])
        except FAILURES as error:
            _fail(done, translated(error, writing=True))
        except PromiseServiceError as error:
            _fail(done, error)
        else:
            if not done.done():
                done.set_result(batch.shard in moved)

    async def _run(self, statement: str, batches: Sequence[ShardEvents]) -> set[int]:
        """Shards whose cursor moved. The driver's failures pass: the caller tells them apart."""
        arguments = append_arguments(batches)
        async with borrowed(self._pool, self._timeout, passing=FAILURES) as connection:
            return {row[0] for row in await connection.fetch(statement, *arguments)}

    async def _refuse_fork(self, batch: ShardEvents) -> None:
        at = [stored.at for stored in batch.events]
        epochs, sequences = [p.epoch for p in at], [p.sequence for p in at]
        async with borrowed(self._pool, self._timeout) as connection:
            rows = await connection.fetch(queries.READ_PAYLOADS, batch.shard, epochs, sequences)
        known = {Position(row[0], row[1]): row[2] for row in rows}
        for stored in batch.events:
            if known.get(stored.at, stored.payload) != stored.payload:
                raise Fork(
                    f"shard {batch.shard}: event {stored.at.epoch}-{stored.at.sequence} is stored "
                    "with another payload",
                    shard=batch.shard,
                    epoch=stored.at.epoch,
                    sequence=stored.at.sequence,
                )


def _outcome(done: asyncio.Future[bool]) -> bool | PromiseServiceError:
    error = done.exception()
    if error is None:
        return done.result()
    assert isinstance(error, PromiseServiceError)
    return error


def _fail(done: asyncio.Future[bool], error: PromiseServiceError) -> None:
    if not done.done():
        done.set_exception(error)
