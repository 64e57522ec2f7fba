"""The watch over index and order store: silent at rest, loud when somebody changes one of them."""

from __future__ import annotations

from collections import Counter

import pytest

from promise_svc.application.reconcile import DriftWatch
from promise_svc.application.relay import Relay
from promise_svc.application.resolver import Sweeper
from promise_svc.domain.inventory import PositionKey, StockPosition
from promise_svc.domain.reservation import ClaimDraft, CreateStep, LegLine, SupplyRow
from tests.support.fake_ats_index import FakeAtsIndex
from tests.support.fake_order_store import FakeOrderStore

SHARD = 3


class Quiet:
    """A relay's observer."""

    def carried(self, shard: int, event_count: int, newest_ms: int) -> None: ...
    def fenced(self, shard: int) -> None: ...
    def alarmed(self, shard: int, error: Exception) -> None: ...


class World:
    """One shard with forty SKUs, carried to the order store."""

    def __init__(self, sample_skus: int = 200) -> None:
        self.index = FakeAtsIndex(8)
        self.index.serve_all()
        self.store = FakeOrderStore()
        self.told: list[tuple[int, PositionKey, StockPosition, StockPosition | None]] = []
        sweeper = Sweeper(self.index)
        self.watch = DriftWatch(
            self.index,
            self.store,
            sweeper.sweep,
            lambda *drift: self.told.append(drift),
            sample_skus,
        )

    async def carry(self) -> None:
        await Relay(self.index, self.store, Quiet()).drain(SHARD)

    async def stocked(self) -> None:
        rows = [SupplyRow(f"s{number}", "n1", "", 5, 0, "", 0) for number in range(40)]
        await self.index.sync_supply(SHARD, rows, 1.0)
        await self.carry()

    def tamper(self, on_hand: int) -> PositionKey:
        key = PositionKey("s7", "n1")
        positions = self.index.ledgers[SHARD].positions
        positions[key] = positions[key]._replace(on_hand=on_hand)
        return key


async def test_equal_books_are_no_drift() -> None:
    world = World()
    await world.stocked()

    assert [await world.watch.visit(SHARD) for _ in range(3)] == [0, 0, 0]
    assert not world.told


async def test_a_position_changed_behind_our_back_is_told_with_both_values() -> None:
    """At the second look, and until it is mended."""
    world = World()
    await world.stocked()
    key = world.tamper(6)

    seen = [await world.watch.visit(SHARD) for _ in range(2)]
    world.tamper(5)
    seen.append(await world.watch.visit(SHARD))

    assert seen == [0, 1, 0]
    assert [
        (key, ours.on_hand, theirs and theirs.on_hand) for _, key, ours, theirs in world.told
    ] == [(key, 6, 5)]
    assert world.watch.drift_count == 0


async def test_a_shard_ahead_of_the_order_store_gives_no_verdict() -> None:
    """What is in flight is not drift."""
    world = World()
    await world.stocked()
    row = SupplyRow("s7", "n1", "", 9, 0, "", 0)
    await world.index.sync_supply(SHARD, [row], 1.0)

    assert [await world.watch.visit(SHARD) for _ in range(3)] == [0, 0, 0]


async def test_a_hold_that_is_due_is_no_drift_however_long_nobody_sweeps_it() -> None:
    """To the index's readers its units are free, in the order store they are held; a change behind
    our back of the same position is told all the same."""
    world = World()
    await world.stocked()
    line = (LegLine("s7", "n1", "", 2),)
    step = CreateStep("r-1", 1, "p", 1_000, 0, 0, line, ClaimDraft("h", 0, (SHARD,), "{}"))
    await world.index.create(SHARD, [step], 1.0)
    await world.carry()
    world.index.now_ms += 1_000

    seen = []
    for _ in range(3):
        seen.append(await world.watch.visit(SHARD))
        await world.carry()
    key = world.tamper(6)
    seen += [await world.watch.visit(SHARD) for _ in range(2)]

    assert seen == [0, 0, 0, 0, 1]
    assert [drift[1] for drift in world.told] == [key]


@pytest.mark.parametrize("sample_skus", [1, 7, 39, 40, 41])
async def test_every_sku_has_its_turn(sample_skus: int) -> None:
    """Forty SKUs, so many a look: after a round each was looked at; one that differs is looked at
    again at once, and the round goes on where it was. The next round begins anew."""
    world = World(sample_skus)
    await world.stocked()
    key = world.tamper(6)
    asked: list[tuple[str, ...]] = []
    read = world.index.read_positions

    async def heard(shard, skus, timeout):
        asked.append(tuple(skus))
        return await read(shard, skus, timeout)

    world.index.read_positions = heard  # type: ignore[method-assign]
    looks = 40 // sample_skus + 1
    seen = [await world.watch.visit(SHARD) for _ in range(2 * looks)]

    counts = Counter(sku for skus in asked for sku in skus)
    assert set(counts) == {f"s{number}" for number in range(40)}
    assert all(count == 2 for sku, count in counts.items() if sku != key.sku)
    assert max(map(len, asked)) <= sample_skus + 1
    assert 1 in seen and seen[-1] == 1
