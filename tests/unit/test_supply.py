"""Counts and changes: grouped by shard, answered a row, finished when a shard is away."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

import pytest

from promise_svc.application.own_writes import OwnWrites
from promise_svc.application.supply import (
    ROWS_MAX,
    SHARD_ROWS_MAX,
    SaleLine,
    SupplyCount,
    SupplyDelta,
    SupplyOutcome,
    SupplyResult,
    SupplyWriter,
)
from promise_svc.application.tasks import OwnedTasks
from promise_svc.domain.inventory import ARRIVED, QUANTITY_MAX, PositionKey
from promise_svc.domain.network import BundleComponent, Item
from promise_svc.domain.reservation import (
    ClaimDraft,
    CreateStep,
    DurabilityMode,
    LegLine,
    SupplyReply,
    SupplyRow,
)
from promise_svc.domain.sharding import shard_of
from promise_svc.errors import (
    DeadlineExceeded,
    OutcomeUnknown,
    PromiseServiceError,
    Unavailable,
)
from tests.support.fake_ats_index import FakeAtsIndex
from tests.support.networks import a_node, a_snapshot

SHARDS = 8
SKUS = [f"sku-{index}" for index in range(40)]
TIMEOUT = 5.0
WINDOW_MS = 3_600_000
Outcome = SupplyOutcome


class World:
    """Eight shards, two nodes, forty items, one of them with a shard key of its own."""

    def __init__(self) -> None:
        self.index = FakeAtsIndex(SHARDS)
        self.index.serve_all()
        items = [Item(sku=sku) for sku in SKUS] + [Item(sku="styled", shard_key="style")]
        self.snapshot = a_snapshot(a_node("n1"), a_node("n2"), *items)
        self.tasks = OwnedTasks()
        self.writer = SupplyWriter(
            index=self.index,
            network=lambda: self.snapshot,
            tasks=self.tasks,
            own_writes=OwnWrites(self.index, self.index.seen),
            durability=DurabilityMode.FSYNC,
            observer=self,
        )
        self.sales: list[tuple[int, int]] = []
        self.answers = Counter[SupplyOutcome]()

    def answered(self, outcome: SupplyOutcome, row_count: int) -> None:
        self.answers[outcome] += row_count

    def sold_elsewhere(self, line_count: int, short_count: int) -> None:
        self.sales.append((line_count, short_count))

    async def sync(
        self, *rows: SupplyCount, sequence: int = 1, timeout: float = TIMEOUT
    ) -> list[SupplyOutcome]:
        answer = await self.writer.sync("erp", sequence, rows, timeout)
        return [result.outcome for result in answer.results]

    async def adjust(self, key: str, *rows: SupplyDelta, create_ms: int = 0) -> list[SupplyOutcome]:
        answer = await self.writer.adjust(key, create_ms, rows, TIMEOUT)
        return [result.outcome for result in answer.results]

    async def sell(self, sale_id: str, *lines: SaleLine) -> list[SupplyResult]:
        return list((await self.writer.record_sale(sale_id, 0, lines, TIMEOUT)).results)

    def on_hand(self, sku: str, node_id: str = "n1") -> int:
        shard = shard_of(self.snapshot.shard_key(sku), SHARDS)
        position = self.index.ledgers[shard].positions.get(PositionKey(sku, node_id))
        return -1 if position is None else position.on_hand

    def break_shard(self, shard: int, error: PromiseServiceError) -> None:
        """Every supply call to the shard fails."""
        sync = self.index.sync_supply

        async def failing(
            asked: int, rows: Sequence[SupplyRow], timeout: float
        ) -> list[SupplyReply]:
            if asked == shard:
                raise error
            return await sync(asked, rows, timeout)

        self.index.sync_supply = failing  # type: ignore[method-assign]


@pytest.fixture
def world() -> World:
    return World()


async def test_a_bundle_is_not_counted(world: World) -> None:
    """Its components are; nothing of it reaches a shard."""
    bundle = Item(sku="set", components=(BundleComponent("sku-1", 2),))
    world.snapshot = a_snapshot(a_node("n1"), Item(sku="sku-1"), bundle)

    outcomes = await world.sync(count("set"), count("sku-1"), count("set", node_id="n9"))

    assert outcomes == [Outcome.BUNDLE, Outcome.APPLIED, Outcome.BUNDLE]
    assert world.on_hand("set") == -1


def count(sku: str, on_hand: int = 5, node_id: str = "n1") -> SupplyCount:
    return SupplyCount(sku, node_id, "", on_hand)


def delta(sku: str, quantity_delta: int, node_id: str = "n1") -> SupplyDelta:
    return SupplyDelta(sku, node_id, "", quantity_delta)


async def test_rows_reach_their_shards_and_answers_come_in_request_order(world: World) -> None:
    """Each row tells its own figures, whatever shard it went to."""
    rows = [count(sku, on_hand) for on_hand, sku in enumerate(SKUS)]

    answer = await world.writer.sync("erp", 1, rows, TIMEOUT)

    assert [result.outcome for result in answer.results] == [Outcome.APPLIED] * len(SKUS)
    assert [result.on_hand for result in answer.results] == list(range(len(SKUS)))
    assert [world.on_hand(sku) for sku in SKUS] == list(range(len(SKUS)))
    assert answer.durability is DurabilityMode.FSYNC


async def test_a_sku_goes_where_its_shard_key_says(world: World) -> None:
    """Not where the SKU itself would."""
    await world.sync(count("styled", 7))

    home = world.index.ledgers[shard_of("style", SHARDS)]
    assert home.positions[PositionKey("styled", "n1")].on_hand == 7


async def test_a_network_older_than_the_item_puts_no_stock_elsewhere(world: World) -> None:
    """An item was made with a shard key a moment ago, and this process has not heard of it: the row
    is refused, and goes to the right shard once it has."""
    newer = world.snapshot
    world.snapshot = a_snapshot(a_node("n1"), a_node("n2"))
    assert shard_of("styled", SHARDS) != shard_of("style", SHARDS)

    before = await world.sync(count("styled", 7)) + await world.adjust("k", delta("styled", 7))
    stray = [ledger.positions for ledger in world.index.ledgers if ledger.positions]
    world.snapshot = newer
    after = await world.sync(count("styled", 7))

    assert before == [Outcome.UNKNOWN_SKU] * 2
    assert stray == []
    assert (after, world.on_hand("styled")) == ([Outcome.APPLIED], 7)


async def test_the_same_count_again_changes_nothing(world: World) -> None:
    """UNCHANGED, and no event is written."""
    await world.sync(count("sku-0"))
    before = [len(ledger.events) for ledger in world.index.ledgers]

    again = await world.sync(count("sku-0"), sequence=2)

    assert again == [Outcome.UNCHANGED]
    assert [len(ledger.events) for ledger in world.index.ledgers] == before


async def test_a_count_includes_what_its_own_report_says_has_arrived(world: World) -> None:
    """In whatever order the rows come: twenty stand there, the five that arrived among them."""
    came = SupplyCount("sku-0", "n1", "po-1", 5, arrival_ms=ARRIVED)
    rows = [count("sku-0", 20), came]

    answer = await world.writer.sync("erp", 1, rows, TIMEOUT, arrived_counted=True)

    assert [result.on_hand for result in answer.results] == [20, 0]
    assert world.on_hand("sku-0") == 20


async def test_an_older_report_is_refused(world: World) -> None:
    """STALE_SEQUENCE with the count that stands."""
    await world.sync(count("sku-0", 5), sequence=2)

    answer = await world.writer.sync("erp", 1, [count("sku-0", 9)], TIMEOUT)

    assert [(result.outcome, result.on_hand) for result in answer.results] == [
        (Outcome.STALE_SEQUENCE, 5)
    ]


async def test_unknown_names_refuse_their_rows_alone(world: World) -> None:
    """The SKU comes before the node; the row between them is applied."""
    outcomes = await world.sync(
        count("nothing", node_id="nowhere"), count("sku-0"), count("sku-1", node_id="nowhere")
    )

    assert outcomes == [Outcome.UNKNOWN_SKU, Outcome.APPLIED, Outcome.UNKNOWN_NODE]
    assert world.answers == dict.fromkeys(outcomes, 1)
    assert world.on_hand("sku-1", "nowhere") == -1


async def test_a_position_without_an_item_is_known(world: World) -> None:
    """It is looked for in its shard, not in a table that may be behind."""
    ledger = world.index.ledgers[shard_of("old", SHARDS)]
    ledger.sync_supply([SupplyRow("old", "n2", "", 3, -1, "erp", 1)], world.index.now_ms)

    assert await world.sync(count("old", 4, "n2"), sequence=2) == [Outcome.APPLIED]


async def test_a_change_is_applied_once_a_key(world: World) -> None:
    """The retry tells what the first call did, with ``replayed``."""
    await world.sync(count("sku-0", 5))

    first = await world.writer.adjust("k", 0, [delta("sku-0", -2)], TIMEOUT)
    again = await world.writer.adjust("k", 0, [delta("sku-0", -2)], TIMEOUT)

    assert (first.results[0].on_hand, first.results[0].replayed) == (3, False)
    assert (again.results[0].outcome, again.results[0].on_hand) == (Outcome.APPLIED, 3)
    assert again.results[0].replayed
    assert world.on_hand("sku-0") == 3


async def test_a_key_with_other_rows_is_refused(world: World) -> None:
    """IDEMPOTENCY_KEY_REUSED; nothing of it is applied to what the key has touched."""
    await world.sync(count("sku-0", 5))
    await world.adjust("k", delta("sku-0", -2))

    assert await world.adjust("k", delta("sku-0", -1)) == [Outcome.IDEMPOTENCY_KEY_REUSED]
    assert world.on_hand("sku-0") == 3


async def test_a_key_with_rows_of_another_shard_is_refused(world: World) -> None:
    """Wherever the rows live: no row of the other body is applied."""
    await world.sync(count("sku-0", 5), count("sku-1", 5))
    await world.adjust("k", delta("sku-0", -2))

    reused = await world.adjust("k", delta("sku-1", -1), delta("sku-0", -2))

    assert reused == [Outcome.IDEMPOTENCY_KEY_REUSED] * 2
    assert (world.on_hand("sku-0"), world.on_hand("sku-1")) == (3, 5)


async def test_a_key_that_looks_like_another_keys_row_is_a_key_of_its_own(world: World) -> None:
    """``k:0`` and the first row of ``k`` are two effects."""
    await world.sync(count("sku-0", 0))
    shard = shard_of("sku-0", SHARDS)
    key = next(k for k in (f"k{n}" for n in range(999)) if shard_of(f"{k}:0", SHARDS) == shard)

    for name in (f"{key}:0", key):
        await world.adjust(name, delta("sku-0", 5))

    assert world.on_hand("sku-0") == 10


async def test_a_position_may_change_twice_in_one_call(world: World) -> None:
    """In request order; each row has its own key."""
    await world.sync(count("sku-0", 1))

    outcomes = await world.adjust(
        "k", delta("sku-0", -2), delta("sku-0", 4), delta("sku-0", -5), delta("sku-0", -2)
    )

    assert outcomes == [
        Outcome.BELOW_ZERO, Outcome.APPLIED, Outcome.APPLIED, Outcome.BELOW_ZERO,
    ]  # fmt: skip
    assert world.on_hand("sku-0") == 0


async def test_a_change_beyond_the_largest_quantity_is_refused(world: World) -> None:
    """At the limit it is taken."""
    await world.sync(count("sku-0", 1))

    assert await world.adjust("k", delta("sku-0", QUANTITY_MAX)) == [Outcome.QUANTITY_TOO_LARGE]
    assert await world.adjust("l", delta("sku-0", QUANTITY_MAX - 1)) == [Outcome.APPLIED]


async def test_a_shortage_is_told_with_the_count(world: World) -> None:
    """A count below what is held is taken, and says how far."""
    await world.sync(count("sku-0", 9))
    ledger = world.index.ledgers[shard_of("sku-0", SHARDS)]
    line = LegLine("sku-0", "n1", "", 7)
    draft = ClaimDraft("body", 0, (ledger.number,), "{}")
    step = CreateStep("r", 1, "plan", 600_000, 0, 0, (line,), draft)
    ledger.create(step, world.index.now_ms)

    row = SupplyCount("sku-0", "n1", "", 0, 2)
    answer = await world.writer.sync("erp", 2, [row], TIMEOUT)

    assert (answer.results[0].ats, answer.results[0].shortage) == (0, 9)


async def test_a_key_older_than_the_window_is_refused(world: World) -> None:
    """Its answer may be forgotten, so it is never carried out; at the window's end it still is."""
    await world.sync(count("sku-0", 5))
    oldest = world.index.now_ms - WINDOW_MS

    late = await world.adjust("k", delta("sku-0", -1), delta("sku-1", 1), create_ms=oldest - 1)
    in_time = await world.adjust("k", delta("sku-0", -2), create_ms=oldest)

    assert late == [Outcome.IDEMPOTENCY_WINDOW_PASSED] * 2
    assert (in_time, world.on_hand("sku-0")) == ([Outcome.APPLIED], 3)


async def test_a_late_retry_finishes_no_row_whose_shard_may_have_forgotten(world: World) -> None:
    """Home still knows the key, and a row's shard does not: it may have applied the row."""
    await world.sync(count("sku-0", 5), count("sku-1", 5))
    create_ms = world.index.now_ms
    rows = delta("sku-0", -2), delta("sku-1", -2)
    await world.adjust("k", *rows, create_ms=create_ms)
    del world.index.ledgers[shard_of("sku-1", SHARDS)].adjustments["k 1"]
    world.index.now_ms += WINDOW_MS + 1

    again = await world.adjust("k", *rows, create_ms=create_ms)

    assert again == [Outcome.APPLIED, Outcome.IDEMPOTENCY_WINDOW_PASSED]
    assert (world.on_hand("sku-0"), world.on_hand("sku-1")) == (3, 3)


async def test_a_sale_made_elsewhere_is_taken_though_it_is_not_there(world: World) -> None:
    """On hand falls to zero, the rest is owed: a receipt pays it first."""
    await world.sync(count("sku-0", 2), count("sku-1", 9))

    sold = await world.sell("till-1", SaleLine("sku-0", "n1", 5), SaleLine("sku-1", "n1", 4))
    assert [(r.outcome, r.on_hand, r.ats, r.shortage) for r in sold] == [
        (Outcome.APPLIED, 0, 0, 3), (Outcome.APPLIED, 5, 5, 0),
    ]  # fmt: skip

    received = await world.writer.adjust("receipt", 0, [delta("sku-0", 10)], TIMEOUT)
    assert received.results[0][1:4] == (7, 7, 0)


async def test_a_sale_is_taken_once_and_counted_once(world: World) -> None:
    """Its retry tells the first answer; its id is no key of AdjustSupply."""
    await world.sync(count("sku-0", 5))
    line = SaleLine("sku-0", "n1", 2)

    first, again = await world.sell("x", line), await world.sell("x", line)
    other = await world.sell("x", line._replace(quantity=1))
    await world.adjust("x", delta("sku-0", -2))

    assert (first[0].replayed, again[0].replayed) == (False, True)
    assert (again[0].on_hand, other[0].outcome) == (3, Outcome.IDEMPOTENCY_KEY_REUSED)
    assert world.on_hand("sku-0") == 1
    assert world.sales == [(1, 0)]


async def test_a_sale_that_leaves_a_shortage_is_counted_so(world: World) -> None:
    """The metric tells how many lines were sold twice."""
    await world.sync(count("sku-0", 1), count("sku-1", 1))

    await world.sell("x", SaleLine("sku-0", "n1", 1), SaleLine("sku-1", "n1", 2))

    lines, short = (sum(column) for column in zip(*world.sales, strict=True))
    assert (lines, short) == (2, 1)


async def test_a_full_call_goes_to_a_shard_in_chunks(world: World) -> None:
    """No single call to a shard is larger than its limit; order is kept."""
    sizes: list[int] = []
    adjust = world.index.adjust_supply

    async def counted(shard, rows, timeout):
        sizes.append(len(rows))
        return await adjust(shard, rows, timeout)

    world.index.adjust_supply = counted  # type: ignore[method-assign]
    outcomes = await world.adjust("k", *(delta("sku-0", 1) for _ in range(ROWS_MAX)))

    assert outcomes == [Outcome.APPLIED] * ROWS_MAX
    chunks = [SHARD_ROWS_MAX] * (ROWS_MAX // SHARD_ROWS_MAX)
    assert sizes == [1, *chunks], "the key, then the rows"
    assert world.on_hand("sku-0") == ROWS_MAX


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (Unavailable("away"), Unavailable),
        (DeadlineExceeded("late"), Unavailable),
        (OutcomeUnknown("?"), OutcomeUnknown),
    ],
)
async def test_a_shard_that_is_away_leaves_the_others_applied(
    world: World, error: PromiseServiceError, told: type[PromiseServiceError]
) -> None:
    """The call says how many rows have no answer; sent again, it finishes the rest."""
    away = shard_of("sku-0", SHARDS)
    mine = [sku for sku in SKUS if shard_of(sku, SHARDS) == away]
    whole = world.index.sync_supply
    world.break_shard(away, error)

    with pytest.raises(told) as raised:
        await world.sync(*(count(sku) for sku in SKUS))

    assert type(raised.value) is told
    assert raised.value.metadata == {"shards": str(away), "row_count": str(len(mine))}
    assert {world.on_hand(sku) for sku in mine} == {-1}
    assert {world.on_hand(sku) for sku in SKUS if sku not in mine} == {5}

    world.index.sync_supply = whole  # type: ignore[method-assign]
    again = await world.sync(*(count(sku) for sku in SKUS))
    assert again.count(Outcome.APPLIED) == len(mine)
    assert again.count(Outcome.UNCHANGED) == len(SKUS) - len(mine)


async def test_an_unknown_outcome_outweighs_a_shard_that_was_never_asked(world: World) -> None:
    """What may have happened must not be called undone."""
    world.break_shard(shard_of("sku-0", SHARDS), Unavailable("away"))
    other = next(sku for sku in SKUS if shard_of(sku, SHARDS) != shard_of("sku-0", SHARDS))
    world.break_shard(shard_of(other, SHARDS), OutcomeUnknown("?"))

    with pytest.raises(OutcomeUnknown):
        await world.sync(count("sku-0"), count(other))


async def test_no_time_left_sends_nothing(world: World) -> None:
    """Rows without an answer, not rows half sent."""
    with pytest.raises(Unavailable):
        await world.sync(count("sku-0"), timeout=0)

    assert world.on_hand("sku-0") == -1


async def test_a_caller_who_goes_away_does_not_stop_the_rows(world: World) -> None:
    """All of the report is applied."""
    entered, go_on = asyncio.Event(), asyncio.Event()
    sync = world.index.sync_supply

    async def slow(shard, rows, timeout):
        entered.set()
        await go_on.wait()
        return await sync(shard, rows, timeout)

    world.index.sync_supply = slow  # type: ignore[method-assign]
    call = asyncio.create_task(world.sync(*(count(sku) for sku in SKUS)))
    await entered.wait()
    call.cancel()
    await asyncio.wait({call})
    go_on.set()
    await world.tasks.close(TIMEOUT)

    assert call.cancelled()
    assert {world.on_hand(sku) for sku in SKUS} == {5}
