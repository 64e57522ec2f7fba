"""A random history written to both tables: every read agrees after every step."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from native import _ats_table
from promise_svc.domain import ats_table
from promise_svc.domain.events import PositionImage
from promise_svc.domain.inventory import (
    ARRIVED,
    ID_LENGTH_MAX,
    QUANTITY_MAX,
    Protection,
    StockPosition,
)
from promise_svc.domain.sharding import Position, shard_of
from tests.support.copied import copied

SHARD_COUNT = 3
SKUS = ["a", "b", "c-7", "d" * 8, "e" * 9, "é" * (ID_LENGTH_MAX // 2), "z" * ID_LENGTH_MAX]
SKUS += [f"s{number}" for number in range(30)]
NODES = ["n", "b", "store-1", "n" * ID_LENGTH_MAX, *(f"n{number}" for number in range(12))]
BUCKETS = ["", "", "", "po-1", "b", "p" * ID_LENGTH_MAX]

counters = st.tuples(
    st.integers(0, QUANTITY_MAX) | st.integers(0, 9),
    st.integers(0, ats_table.COUNTER_MAX) | st.integers(0, 4),
    st.integers(0, ats_table.COUNTER_MAX) | st.integers(0, 4),
    st.integers(0, ats_table.COUNTER_MAX) | st.integers(0, 4),
)
dated = st.builds(
    lambda figures, arrival_ms: StockPosition(*figures, arrival_ms=arrival_ms),
    counters,
    st.sampled_from([-2, ARRIVED, 0, 5, ats_table.COUNTER_MAX]),
)
images = st.lists(
    st.tuples(
        st.sampled_from(SKUS), st.sampled_from(NODES), st.sampled_from(BUCKETS), counters | dated
    ),
    max_size=40,
)
numbers = st.integers(0, ats_table.COUNTER_MAX) | st.integers(0, 5)
shards = st.integers(0, SHARD_COUNT - 1)


def as_stored(image: Any) -> PositionImage:
    """Of every tenth or so, a segment has a share."""
    *place, figures = image
    arrival_ms = figures.arrival_ms if isinstance(figures, StockPosition) else 0
    shares = (Protection("web", 5),) if figures[0] == 9 else ()
    row = StockPosition(*figures[:4], arrival_ms=arrival_ms, protected=shares)
    return PositionImage(*place, row)


class BothTables(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.plain = ats_table.AtsTable(SHARD_COUNT, tuple)
        self.native = _ats_table.AtsTable(SHARD_COUNT, tuple)

    def both(self, method: str, *arguments: Any) -> Any:
        answers = []
        for table in (self.plain, self.native):
            try:
                answers.append(getattr(table, method)(*arguments))
            except ValueError:
                answers.append(ValueError)
        assert answers[0] == answers[1]
        return answers[0]

    @initialize(placed=st.none() | st.lists(shards, min_size=len(SKUS), max_size=len(SKUS)))
    def place(self, placed: list[int] | None) -> None:
        """Every SKU in the shard of its hash, or where shard keys put it."""
        hashed = [shard_of(sku, SHARD_COUNT) for sku in SKUS]
        self.placed = dict(zip(SKUS, placed or hashed, strict=True))

    def of_shard(self, shard: int, chosen: list[Any]) -> list[Any]:
        return [image for image in chosen if self.placed[image[0]] == shard]

    @rule(shard=shards, epoch=numbers, sequence=numbers, time_ms=numbers, chosen=images)
    def load(self, shard: int, epoch: int, sequence: int, time_ms: int, chosen: list[Any]) -> None:
        self.both("load", shard, epoch, sequence, time_ms, self.of_shard(shard, chosen))

    @rule(shard=shards, chosen=images)
    def stage(self, shard: int, chosen: list[Any]) -> None:
        self.both("stage", shard, self.of_shard(shard, chosen))

    @rule(shard=shards, chosen=images, limit=st.integers(1, 9), cut=st.integers(0, 30))
    def stage_copied(self, shard: int, chosen: list[Any], limit: int, cut: int) -> None:
        """Whole rows mostly, cut short or with limits overstepped at times."""
        rows = copied(Position(1, 1), map(as_stored, self.of_shard(shard, chosen)))
        rows = rows[: len(rows) - max(0, cut - 20)]
        offset = 0
        for _ in range(len(chosen) // limit + 1):
            answer = self.both("stage_copied", shard, rows, offset, limit)
            if answer is ValueError or not answer[0]:
                return
            offset = answer[0]

    @rule(shard=shards)
    def unstage(self, shard: int) -> None:
        self.both("unstage", shard)

    @rule(shard=shards, steps=st.integers(0, 3), time_ms=numbers, chosen=images)
    def apply(self, shard: int, steps: int, time_ms: int, chosen: list[Any]) -> None:
        epoch, sequence, _ = self.plain.clock(shard)
        sequence = min(sequence + steps, ats_table.COUNTER_MAX)
        self.both("apply", shard, epoch, sequence, time_ms, self.of_shard(shard, chosen))

    @rule(shard=shards, chosen=images)
    def stage_anywhere(self, shard: int, chosen: list[Any]) -> None:
        self.both("stage", shard, chosen)

    @rule(shard=shards, epoch=numbers, sequence=numbers, chosen=images)
    def apply_anything(self, shard: int, epoch: int, sequence: int, chosen: list[Any]) -> None:
        self.both("apply", shard, epoch, sequence, 0, chosen)

    @precondition(lambda self: self.plain.cell_count() > 0)
    @rule(node_ids=st.lists(st.sampled_from([*NODES, "", "unknown"]), max_size=20))
    def read_by_nodes(self, node_ids: list[str]) -> None:
        for sku in SKUS:
            self.both("ats", sku, node_ids)

    @rule(node_id=st.sampled_from([*NODES, "", "unknown", "po-1"]))
    def read_of_one_node(self, node_id: str) -> None:
        for sku in [*SKUS, "unknown", "", "x" * 65]:
            self.both("ats", sku, [node_id])

    @invariant()
    def all_reads_agree(self) -> None:
        for sku in [*SKUS, "unknown", "", "x" * 65]:
            plain, native = self.plain.rows(sku), self.native.rows(sku)
            assert (plain is None) == (native is None)
            assert sorted(plain or []) == sorted(native or [])
            assert self.plain.ats(sku) == self.native.ats(sku)
            assert self.plain.as_of(sku) == self.native.as_of(sku)
            assert self.plain.shard(sku) == self.native.shard(sku)
        for shard in range(SHARD_COUNT):
            assert self.plain.clock(shard) == self.native.clock(shard)
        assert self.plain.sku_count() == self.native.sku_count()
        assert self.plain.cell_count() == self.native.cell_count()


BothTables.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestBothTables = BothTables.TestCase
