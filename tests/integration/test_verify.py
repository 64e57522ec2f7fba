"""The audit over a real Valkey and a real PostgreSQL: sound books, and faults planted by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NamedTuple

import asyncpg
import msgspec
import pytest
import redis

from promise_svc.adapters.ats_index.index import ClusterAtsIndex
from promise_svc.adapters.clock import SystemClock
from promise_svc.adapters.embedded import EmbeddedValkey
from promise_svc.adapters.order_store import PoolConfig, PostgresOrderStore
from promise_svc.application.relay import Relay
from promise_svc.application.verify import Verify
from promise_svc.domain.audit import FindingKind
from promise_svc.domain.inventory import StockPosition
from promise_svc.domain.reservation import (
    ClaimDraft,
    CreateStep,
    LegLine,
    ResolveStep,
    State,
    SupplyRow,
)
from promise_svc.hotpath import shard_of
from tests.support.fake_outbox import Observed
from tests.support.shards import TIMEOUT, WINDOW_MS, running_index, serve_all

SHARDS = 2
HOLDS = 6


class Books(NamedTuple):
    """Both engines with a few reservations in them, all relayed, and the audit."""

    index: ClusterAtsIndex
    verify: Verify
    valkey_url: str
    database: str

    async def kinds(self) -> set[FindingKind]:
        report = await self.verify.run()
        assert report.consistent == (not report.findings)
        return {finding.kind for finding in report.findings}

    async def execute(self, statement: str) -> None:
        """Change the order store behind everybody's back."""
        connection = await asyncpg.connect(self.database)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()


@pytest.fixture
async def books(valkey: EmbeddedValkey, database: str, key_prefix: str) -> AsyncIterator[Books]:
    store = await PostgresOrderStore.open(PoolConfig(url=database))
    async with running_index(valkey.urls, key_prefix, SHARDS) as index:
        await serve_all(index)
        for shard in range(SHARDS):
            row = SupplyRow(f"sku-{shard}", "node", "", 100, 5, "erp", 1)
            await index.sync_supply(shard, [row], TIMEOUT)
        for number in range(HOLDS):
            await _reserve(index, f"r{number}", confirm=number % 2 == 0)
        relay = Relay(index, store, Observed())
        for shard in range(SHARDS):
            await relay.drain(shard)
        verify = Verify(
            index,
            store,
            SystemClock(),
            window_ms=WINDOW_MS,
            settle_seconds=0.5,
            recheck_seconds=0.01,
        )
        yield Books(index, verify, valkey.urls[0], database)
    await store.close()


async def test_sound_books_have_no_finding(books: Books) -> None:
    """And every count is what was done."""
    report = await books.verify.run()

    assert report.findings == []
    assert report.uncompared_shard_ids == []
    assert report.reservation_counts == {State.CONFIRMED: HOLDS / 2, State.HELD: HOLDS / 2}
    assert report.order_store_reservation_count == HOLDS
    assert report.position_count == SHARDS


async def test_a_unit_changed_in_valkey_is_found(books: Books) -> None:
    """A position row overwritten in the index."""
    key = f"{books.index.keys.bases[0]}p:sku-0"
    with redis.Redis.from_url(books.valkey_url) as client:
        stored = client.hgetall(key)
        assert isinstance(stored, dict)
        for field, raw in stored.items():
            row = msgspec.msgpack.decode(raw, type=StockPosition)
            changed = msgspec.msgpack.encode(row._replace(held=row.held + 1))
            client.hset(key, field, changed)

    assert await books.kinds() == {FindingKind.HELD_MISMATCH, FindingKind.POSITION_DRIFT}


async def test_a_claim_deleted_in_valkey_is_found(books: Books) -> None:
    """A confirmed reservation that the index forgot."""
    home = shard_of("r0", SHARDS)
    with redis.Redis.from_url(books.valkey_url) as client:
        assert client.delete(f"{books.index.keys.bases[home]}c:r0") == 1

    assert await books.kinds() == {FindingKind.RESERVATION_DRIFT, FindingKind.UNRESOLVED_CLAIM}


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        ("UPDATE positions SET on_hand = on_hand + 1", FindingKind.REPLAY_MISMATCH),
        ("DELETE FROM reservations WHERE reservation_id = 'r0'", FindingKind.REPLAY_MISMATCH),
        ("DELETE FROM legs WHERE reservation_id = 'r0'", FindingKind.REPLAY_MISMATCH),
        ("DELETE FROM events WHERE sequence = 3", FindingKind.SEQUENCE_GAP),
        (
            "UPDATE events SET payload = other.payload FROM events other "
            "WHERE events.sequence = 2 AND other.sequence = 1 AND other.shard = events.shard",
            FindingKind.FORK,
        ),
    ],
    ids=["position", "reservation", "leg", "missing event", "other event"],
)
async def test_a_row_changed_in_the_order_store_is_found(
    books: Books, statement: str, kind: FindingKind
) -> None:
    """Whatever table it is in."""
    await books.execute(statement)

    assert kind in await books.kinds()


async def _reserve(index: ClusterAtsIndex, rid: str, *, confirm: bool) -> None:
    """Hold two units in the reservation's own shard."""
    home = shard_of(rid, SHARDS)
    line = LegLine(f"sku-{home}", "node", "", 2)
    step = CreateStep(rid, 1, "plan", 60_000, 0, 0, (line,), ClaimDraft("b", 0, (home,), "{}"))
    await index.create(home, [step], TIMEOUT)
    if confirm:
        await index.resolve(home, [ResolveStep(rid, State.CONFIRMED)], TIMEOUT)
