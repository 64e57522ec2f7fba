"""The table's rules and limits, on specification and twin."""

from __future__ import annotations

import gc
import resource
import tracemalloc
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from native import _ats_table
from promise_svc.application.ports import AtsRow
from promise_svc.domain.ats_table import COUNTER_KEPT_MAX, COUNTER_MAX
from promise_svc.domain.copied_positions import HEADER_SIZE
from promise_svc.domain.events import PositionImage
from promise_svc.domain.inventory import (
    ARRIVED,
    ID_LENGTH_MAX,
    QUANTITY_MAX,
    Protection,
    StockPosition,
)
from promise_svc.domain.sharding import START, Position, shard_of
from tests.support.copied import END, copied

NewTable = Callable[..., Any]
LARGEST = (QUANTITY_MAX, COUNTER_MAX, COUNTER_MAX, COUNTER_MAX)


def image(sku: str = "a", node_id: str = "n", bucket: str = "", on_hand: int = 5) -> Any:
    return PositionImage(sku, node_id, bucket, StockPosition(on_hand=on_hand))


def one_shard(new_table: NewTable) -> Any:
    return new_table(shard_count=1, make_row=partial(tuple.__new__, AtsRow))


def test_a_row_comes_back_as_what_make_row_builds(new_table: NewTable) -> None:
    """The caller's row type is filled in the documented order."""
    table = one_shard(new_table)
    table.load(0, 1, 1, 9, [PositionImage("a", "n", "po-1", StockPosition(9, 1, 2, 3))])

    (row,) = table.rows("a")

    assert AtsRow("n", "po-1", 9, 1, 2, 3, 0) == row
    assert type(row) is AtsRow


def test_a_bucket_tells_when_it_arrives(new_table: NewTable) -> None:
    """The last date told, and that it is here; no position more for it, and no unit."""
    table = one_shard(new_table)
    for at, arrival_ms in enumerate((0, 5, 2**53, ARRIVED), 1):
        row = StockPosition(9, arrival_ms=arrival_ms)
        here = StockPosition(2, arrival_ms=7)
        images = [PositionImage("a", "n", "po-1", row), PositionImage("a", "n", "", here)]
        table.apply(0, 1, at, 9, images)

        rows = {found.bucket: found for found in table.rows("a")}
        assert rows == {
            "": AtsRow("n", "", 2, 0, 0, 0, 0),
            "po-1": AtsRow("n", "po-1", 9, 0, 0, 0, arrival_ms),
        }
        assert (table.cell_count(), table.ats("a"), table.ats("a", ["n"])) == (2, 2, 2)


def test_a_staged_image_shows_only_after_load(new_table: NewTable) -> None:
    """Readers see the old shard until the load, and none of it afterwards."""
    table = one_shard(new_table)
    table.load(0, 1, 1, 9, [image("old")])
    table.stage(0, [image("new", on_hand=1), image("new", on_hand=2)])

    assert table.rows("new") is None
    table.load(0, 1, 7, 10, [image("new", on_hand=3)])
    assert table.rows("old") is None
    assert table.ats("new") == 3
    assert table.clock(0) == (1, 7, 10)


def test_an_unstaged_image_never_shows(new_table: NewTable) -> None:
    """A load given up leaves nothing behind for the next one."""
    table = one_shard(new_table)
    table.stage(0, [image("a")])
    table.unstage(0)
    table.load(0, 1, 1, 1, [image("b")])

    assert table.rows("a") is None


def test_copied_rows_are_staged_in_steps(new_table: NewTable) -> None:
    """Each once, seen at the load alone; those with shares are handed back instead."""
    table = one_shard(new_table)
    shares = (Protection("web", 4, 1),)
    shared = PositionImage(
        "a", "n", "po-1", StockPosition(4, 1, 2, 3, arrival_ms=9, protected=shares)
    )
    images = [*(image("a", f"n-{number}") for number in range(5)), shared, image("b", on_hand=1)]
    rows = copied(Position(3, 4), images)

    offset, back, steps = 0, [], 0
    while steps == 0 or offset:
        offset, found = table.stage_copied(0, rows, offset, 2)
        back, steps = back + found, steps + 1

    assert (steps, table.rows("a")) == (4, None)
    assert back == [("a", "n", "po-1", 4, 1, 2, 3, 9, '[["web", 4, 1, 0, 0]]')]
    table.load(0, 3, 4, 9, [])
    assert (table.cell_count(), table.ats("a"), table.ats("b")) == (6, 25, 1)


def test_copied_rows_cut_short_are_refused(new_table: NewTable) -> None:
    """At whatever byte, and with a field too many; nothing of the step is staged."""
    table = one_shard(new_table)
    rows = copied(Position(3, 4), [image("a"), image("b")])
    count = HEADER_SIZE + 1
    wrong = [(rows[:size], 2) for size in range(len(rows) - len(END))]
    wrong += [(rows[:-1], 9), (rows[:-2], 9)]
    wrong.append((rows[:count] + bytes([rows[count] + 1]) + rows[count + 1 :], 9))
    for cut, limit in wrong:
        with pytest.raises(ValueError, match="copied row"):
            table.stage_copied(0, cut, 0, limit)
    for offset in (-1, len(rows), 2**62):
        with pytest.raises(ValueError, match="copied rows end"):
            table.stage_copied(0, rows, offset, 9)
    with pytest.raises(ValueError, match="8 bytes"):
        table.stage_copied(0, rows.replace(b"\0\0\0\x08" + bytes(7) + b"\x05", b"\0\0\0\1\5"), 0, 9)
    assert table.stage_copied(0, copied(START, ()), 0, 9) == (0, [])
    assert table.stage_copied(0, copied(Position(1, 1), ()), 0, 9)[1] == []
    table.load(0, 0, 0, 0, [])

    assert table.sku_count() == 0


def test_apply_never_goes_back(new_table: NewTable) -> None:
    """An older point is refused whole; time stays where it was when a message brings less."""
    table = one_shard(new_table)
    table.apply(0, 2, 5, 100, [image()])
    for older in ((2, 4), (1, 9)):
        with pytest.raises(ValueError, match="stands at"):
            table.apply(0, *older, 200, [image(on_hand=1)])
    table.apply(0, 2, 5, 50, [])

    assert table.ats("a") == 5
    assert table.clock(0) == (2, 5, 100)


def test_bad_input_changes_nothing(new_table: NewTable) -> None:
    """One bad image refuses the whole call, whichever call it is."""
    table = one_shard(new_table)
    for call in (table.load, table.apply):
        with pytest.raises(ValueError, match="on_hand"):
            call(0, 1, 1, 1, [image("a"), image("b", on_hand=-1)])
    with pytest.raises(ValueError, match="on_hand"):
        table.stage(0, [image("a"), image("b", on_hand=QUANTITY_MAX + 1)])
    table.load(0, 0, 0, 0, [])

    assert table.sku_count() == 0
    assert table.clock(0) == (0, 0, 0)


@pytest.mark.parametrize(
    "bad",
    [
        ("", "n", "", (0, 0, 0, 0)),
        ("a" * (ID_LENGTH_MAX + 1), "n", "", (0, 0, 0, 0)),
        ("é" * 33, "n", "", (0, 0, 0, 0)),
        ("\ud800", "n", "", (0, 0, 0, 0)),
        ("a", "", "", (0, 0, 0, 0)),
        ("a", "n" * (ID_LENGTH_MAX + 1), "", (0, 0, 0, 0)),
        ("a", "n", "p" * (ID_LENGTH_MAX + 1), (0, 0, 0, 0)),
        ("a", "n", "", (QUANTITY_MAX + 1, 0, 0, 0)),
        ("a", "n", "", (0, COUNTER_MAX + 1, 0, 0)),
        ("a", "n", "", (0, 0, -1, 0)),
        ("a", "n", "", (0, 0, 0, 2**70)),
        ("a", "n", "", (0, 0, 0)),
        ("a", "n", ""),
    ],
)
def test_one_beyond_a_limit_is_refused(new_table: NewTable, bad: Any) -> None:
    """The limits are exact, in bytes for ids, and a huge int is no different from a large one."""
    with pytest.raises(ValueError, match=r"\S"):
        one_shard(new_table).apply(0, 1, 1, 1, [bad])


@pytest.mark.parametrize(
    "bad",
    [
        (b"a", "n", "", (0, 0, 0, 0)),
        ("a", "n", "", [0, 0, 0, 0]),
        ("a", None, "", (0, 0, 0, 0)),
        ("a", "n", "", (1.0, 0, 0, 0)),
        ("a", "n", "", ("1", 0, 0, 0)),
    ],
)
def test_a_wrong_type_is_refused(new_table: NewTable, bad: Any) -> None:
    """Whatever the caller's types are, memory stays sound."""
    with pytest.raises((TypeError, AttributeError)):
        one_shard(new_table).apply(0, 1, 1, 1, [bad])


def test_the_largest_values_are_no_ats(new_table: NewTable) -> None:
    """Counters at their limits do not overflow; rows show 2**32 - 1, more than could be sold."""
    table = one_shard(new_table)
    sku = "z" * ID_LENGTH_MAX
    table.load(0, COUNTER_MAX, COUNTER_MAX, COUNTER_MAX, [(sku, "n", "", LARGEST)])
    table.apply(
        0,
        COUNTER_MAX,
        COUNTER_MAX,
        COUNTER_MAX,
        [(sku, f"n{i}", "", (QUANTITY_MAX, 0, 0, 0)) for i in range(5000)],
    )

    assert table.ats(sku) == 5000 * QUANTITY_MAX
    assert table.ats(sku, ["n"]) == 0
    shown = AtsRow("n", "", QUANTITY_MAX, COUNTER_KEPT_MAX, COUNTER_KEPT_MAX, COUNTER_KEPT_MAX)
    assert shown in table.rows(sku)
    table.apply(0, COUNTER_MAX, COUNTER_MAX, 0, [(sku, "n", "", (9, COUNTER_KEPT_MAX, 1, 0))])
    assert AtsRow("n", "", 9, COUNTER_KEPT_MAX, 1, 0) in table.rows(sku)


@pytest.mark.parametrize(("point", "name"), [((-1, 0, 0), "epoch"), ((0, 2**53 + 1, 0), "seq")])
def test_a_point_beyond_its_limit_is_refused(
    new_table: NewTable, point: tuple[int, int, int], name: str
) -> None:
    """Epoch, sequence and time have limits too."""
    with pytest.raises(ValueError, match=name):
        one_shard(new_table).load(0, *point, [])


@pytest.mark.parametrize("shard_count", [0, -1, 4097])
def test_an_illegal_shard_count_is_refused(new_table: NewTable, shard_count: int) -> None:
    """A table has 1..SHARD_COUNT_MAX shards."""
    with pytest.raises(ValueError, match="shard_count"):
        new_table(shard_count=shard_count, make_row=tuple)


@pytest.mark.parametrize("shard", [-1, 2, 2**31])
def test_an_unknown_shard_is_refused(new_table: NewTable, shard: int) -> None:
    """Every method that takes a shard checks it."""
    table = new_table(shard_count=2, make_row=tuple)
    for call in (
        partial(table.load, shard, 0, 0, 0, []),
        partial(table.apply, shard, 0, 0, 0, []),
        partial(table.stage, shard, []),
        partial(table.unstage, shard),
        partial(table.clock, shard),
    ):
        with pytest.raises(ValueError, match="shard"):
            call()


def test_a_sku_is_found_in_the_shard_it_was_put_under(new_table: NewTable) -> None:
    """A shard key moves a SKU out of the shard of its own hash: rows, ATS and clock follow it."""
    table = new_table(shard_count=64, make_row=partial(tuple.__new__, AtsRow))
    skus = [f"style-{number}" for number in range(5000)]
    for shard in (5, 7):
        table.stage(shard, [image(sku, "n1", "", 1) for sku in skus[shard::64]])
        table.load(shard, 1, shard, 100 + shard, [image(sku) for sku in skus[shard::64]])
    table.apply(9, 2, 9, 109, [image(sku) for sku in skus[9::64]])
    placed = {sku: number % 64 for number, sku in enumerate(skus) if number % 64 in (5, 7, 9)}

    assert sum(shard_of(sku, 64) != shard for sku, shard in placed.items()) > 200
    assert placed == {sku: shard for sku in skus if (shard := table.shard(sku)) is not None}
    assert {table.as_of(sku) for sku in placed} == {(1, 5, 105), (1, 7, 107), (2, 9, 109)}
    assert [table.ats(sku, ["n"]) for sku in skus] == [5 if sku in placed else 0 for sku in skus]
    assert table.ats(skus[5]) == 6
    assert len(table.rows(skus[7])) == 2
    assert table.rows(skus[8]) is None


def test_a_load_replaces_the_skus_of_its_shard_alone(new_table: NewTable) -> None:
    """Those that the load leaves out are gone; a SKU whose hash names the shard and that another
    shard has is not one of them."""
    table = new_table(shard_count=64, make_row=partial(tuple.__new__, AtsRow))
    own = shard_of("a", 64)
    table.load((own + 1) % 64, 1, 1, 1, [image("a"), image("b")])
    table.load(own, 1, 1, 1, [image("c")])
    table.load(own, 1, 2, 2, [])
    assert (table.ats("a"), table.rows("c"), table.sku_count()) == (5, None, 2)

    table.load((own + 1) % 64, 1, 2, 2, [image("b")])

    assert (table.rows("a"), table.shard("a"), table.ats("b")) == (None, None, 5)
    table.apply((own + 2) % 64, 1, 1, 1, [image("a", on_hand=3)])
    assert (table.shard("a"), table.ats("a")) == ((own + 2) % 64, 3)


def test_a_sku_never_seen_is_as_old_as_the_shard_of_its_hash(new_table: NewTable) -> None:
    """Nobody has said that it is elsewhere."""
    table = new_table(shard_count=64, make_row=tuple)
    own = shard_of("a", 64)
    table.load(own, 1, 2, 3, [])

    assert (table.shard("a"), table.as_of("a")) == (None, (1, 2, 3))


def test_a_sku_in_several_shards_has_one_answer_whatever_the_order(new_table: NewTable) -> None:
    """It must not be; should it, its own shard comes first, then the lowest."""
    own = shard_of("a", 64)
    others = [shard for shard in range(64) if shard != own]
    for order in ([own, others[3], others[9]], [others[9], others[3], own]):
        table = new_table(shard_count=64, make_row=tuple)
        for shard in order:
            table.apply(shard, 1, 1, 1, [image("a", on_hand=shard)])
        assert (table.shard("a"), table.ats("a")) == (own, own)
        table.load(own, 1, 1, 1, [])
        assert (table.shard("a"), table.ats("a")) == (others[3], others[3])


def test_only_stock_here_now_counts(new_table: NewTable) -> None:
    """Inbound buckets are rows but no ATS; a node named twice counts once; zero is the floor."""
    table = one_shard(new_table)
    table.load(
        0,
        1,
        1,
        1,
        [
            image("a", "n1", "", 4),
            image("a", "n1", "po-1", 50),
            ("a", "n2", "", (3, 2, 2, 0)),
            image("a", "n3", "", 6),
        ],
    )

    assert table.ats("a") == 10
    assert table.ats("a", ["n1", "n1", "n2", "unknown", ""]) == 4
    assert table.ats("a", []) == 0
    assert (table.ats("a", ["n3"]), table.ats("b", ["n3"]), table.ats("a", ["po-1"])) == (6, 0, 0)


def test_a_sku_at_many_nodes_answers_for_few_and_for_all(new_table: NewTable) -> None:
    """Few named nodes are searched, many are scanned: one answer."""
    table = one_shard(new_table)
    node_ids = [f"n{number * 7919 % 2000}" for number in range(2000)]
    table.load(0, 1, 1, 1, [image("a", node_id, "", int(node_id[1:])) for node_id in node_ids])

    assert table.ats("a", ["n5", "n1999", "n5", "unknown"]) == 2004
    assert table.ats("a", node_ids + node_ids) == sum(range(2000)) == table.ats("a")


@pytest.mark.parametrize("grouped", [True, False], ids=["grouped by SKU", "in any order"])
def test_a_load_packs_its_positions(grouped: bool) -> None:
    """Whatever order a snapshot comes in, a position of a SKU at 20 nodes costs under 32 bytes."""
    table = one_shard(_ats_table.AtsTable)
    images = [image(f"sku-{i:06d}", f"node-{j}") for i in range(2000) for j in range(20)]
    if not grouped:
        images.sort(key=lambda one: one.node_id)
    table.load(0, 1, 1, 1, images)

    assert table.memory_size() / len(images) < 32


@pytest.mark.parametrize("shard_count", [1, 64], ids=["of their hash", "of a shard key"])
def test_memory_is_flat_over_many_writes(shard_count: int) -> None:
    """A hundred thousand writes over the same positions hold what the first thousand held,
    wherever their SKUs belong."""
    table: Any = _ats_table.AtsTable(shard_count, partial(tuple.__new__, AtsRow))
    images = [image(f"s{i % 50}", f"n{i % 7}", "", i) for i in range(1000)]

    def work(rounds: int) -> None:
        for number in range(rounds):
            table.apply(0, 1, 0, number, images)
            table.stage(0, images)
            if number % 3:
                table.unstage(0)
            else:
                table.load(0, 1, 0, 0, images)
            table.rows("s1")
            table.ats("s3", ["n1", "n2"])

    work(5)
    size = table.memory_size()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    work(50)
    gc.collect()
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()

    assert table.memory_size() == size
    assert after - before < 4096
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident < 2048


def test_a_table_frees_what_it_held() -> None:
    """Tables made and dropped leave no memory behind."""
    images = [image(f"s{i}", f"n{i % 20}") for i in range(20_000)]

    def make() -> None:
        table = one_shard(_ats_table.AtsTable)
        table.load(0, 1, 1, 1, images)
        assert table.memory_size() > 1_000_000

    for _ in range(3):
        make()
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(20):
        make()

    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident < 4096
