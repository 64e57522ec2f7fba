"""The world of the reservation suites: reference ledgers, then the real Functions."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from promise_svc.adapters.embedded import EmbeddedValkey
from tests.support.engines import flush
from tests.support.fake_ats_index import FakeAtsIndex
from tests.support.reservation_world import World
from tests.support.shards import ShardClock, running_index, serve_all


@pytest.fixture(params=["ledger", "functions"])
async def world(
    request: pytest.FixtureRequest, valkey: EmbeddedValkey, key_prefix: str
) -> AsyncIterator[World]:
    if request.param == "ledger":
        fake = FakeAtsIndex()
        fake.serve_all()

        def advance(milliseconds: int) -> int:
            fake.now_ms += milliseconds
            return fake.now_ms

        def ahead(shard: int, milliseconds: int) -> None:
            fake.ledgers[shard].time_ms = fake.now_ms + milliseconds

        yield World(fake, advance, fake.now_ms, ahead)
        return
    flush(valkey)
    async with running_index(valkey.urls, key_prefix) as index:
        await serve_all(index)
        clock = ShardClock(index, valkey.urls[0])

        def advance_shards(milliseconds: int) -> int:
            clock.advance(milliseconds)
            return clock.now_ms

        yield World(index, advance_shards, clock.now_ms, clock.ahead)
        clock.close()
