"""The ATS table as the use cases and the feed see it, compiled and in pure mode."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from promise_svc.adapters.ats_table.table import AtsTable
from promise_svc.application.ports import AtsRow
from promise_svc.domain.events import PositionImage
from promise_svc.domain.inventory import Protection, StockPosition
from promise_svc.domain.sharding import START, Position, shard_of
from promise_svc.hotpath import COMPILED
from tests.support.copied import copied

SHARD_COUNT = 4
ROOT = Path(__file__).parents[2]

PURE_CHECK = """
from promise_svc import hotpath
from promise_svc.adapters.ats_table.table import AtsTable
from promise_svc.domain import ats_table, sharding
assert hotpath.COMPILED is False
assert hotpath.stable_hash is sharding.stable_hash
assert type(AtsTable(4)._core) is ats_table.AtsTable
assert hotpath.wire is None and hotpath.cart_wire is None
from promise_svc.rpc import promise, reservation
import sys
twins = {"native._ats_table", "native._sharding", "native._wire", "native._cart_wire"}
assert not twins & set(sys.modules)
"""

ABSENT_CHECK = """
import sys
sys.modules["native._sharding"] = None
try:
    import promise_svc.hotpath
except ImportError as error:
    assert "make setup" in str(error) and "PROMISE_PURE_PYTHON=1" in str(error)
else:
    raise SystemExit("a missing extension went unnoticed")
"""


@pytest.fixture
def table() -> AtsTable:
    return AtsTable(SHARD_COUNT)


def image(sku: str, node_id: str, bucket: str = "", **counters: Any) -> PositionImage:
    return PositionImage(sku, node_id, bucket, StockPosition(**counters))


def load(table: AtsTable, *images: PositionImage) -> None:
    for shard in range(SHARD_COUNT):
        mine = [one for one in images if shard_of(one.sku, SHARD_COUNT) == shard]
        table.load(shard, Position(1, 5), 1_000 + shard, mine)


def test_rows_and_ats_of_a_loaded_sku(table: AtsTable) -> None:
    """Rows carry the counters; ATS leaves out inbound, held, committed and safety stock."""
    load(
        table,
        image("a", "n1", on_hand=10, committed=1, held=2, safety_stock=3),
        image("a", "n2", on_hand=5),
        image("a", "n2", "po-1", on_hand=100),
        image("b", "n1", on_hand=1, held=9),
    )

    rows = table.rows("a")
    assert rows is not None
    assert set(rows) == {
        AtsRow("n1", "", 10, 1, 2, 3),
        AtsRow("n2", "", 5, 0, 0, 0),
        AtsRow("n2", "po-1", 100, 0, 0, 0),
    }
    assert table.ats("a") == 9
    assert table.ats("a", ["n1"]) == 4
    assert [table.ats(sku, ["n2"]) for sku in ("b", "a", "unknown")] == [0, 5, 0]
    assert table.ats("b") == 0


def test_an_unknown_sku_has_no_rows_and_no_ats(table: AtsTable) -> None:
    """None, not an empty list: never had a position differs from sold out."""
    load(table, image("a", "n1"))

    assert table.rows("unknown") is None
    assert table.ats("unknown") == 0
    assert table.rows("a") == [AtsRow("n1", "", 0, 0, 0, 0)]


def test_the_age_is_that_of_the_skus_shard(table: AtsTable) -> None:
    """(START, 0) before any load, then the point and time of the SKU's own shard."""
    assert table.as_of("a") == (START, 0)
    assert table.oldest_time_ms() == 0

    load(table, image("a", "n1"))
    shard = shard_of("a", SHARD_COUNT)
    table.apply(shard, Position(2, 1), 9_000, [])

    assert table.as_of("a") == (Position(2, 1), 9_000)
    assert table.at(shard) == Position(2, 1)
    others = [other for other in range(SHARD_COUNT) if other != shard]
    assert table.oldest_time_ms() == 1_000 + min(others)


def test_counts_follow_what_is_loaded(table: AtsTable) -> None:
    """SKUs, positions and bytes, for the metrics."""
    load(table, image("a", "n1"), image("a", "n2"), image("b", "n1"))

    skus, positions, size = table.counts()

    assert (skus, positions) == (2, 3)
    assert (size > 0) == COMPILED


@pytest.mark.parametrize(
    ("check", "pure"), [(PURE_CHECK, "1"), (ABSENT_CHECK, "")], ids=["pure mode", "not built"]
)
def test_the_door_to_native_is_explicit(check: str, pure: str) -> None:
    """Pure mode loads no compiled twin; without it, a missing extension stops the process."""
    environment = {**os.environ, "PROMISE_PURE_PYTHON": pure}
    done = subprocess.run(
        [sys.executable, "-c", check],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr


def test_which_skus_keep_shares_is_known_to_who_reads_the_cells(table: AtsTable) -> None:
    """From the event that sets one to the one that ends the last, and through a load anew."""
    share = (Protection("web", 2),)
    kept = [image("A", "n1", on_hand=5, protected=share), image("A", "n2", protected=share)]
    shard = shard_of("A", SHARD_COUNT)
    load(table)
    skus = table._protected_skus

    table.apply(shard, Position(1, 6), 2_000, kept)
    set_by_events = set(skus)
    table.apply(shard, Position(1, 7), 2_000, [image("A", "n1", on_hand=5)])
    one_left = set(skus)
    table.apply(shard, Position(1, 8), 2_000, [image("A", "n2")])
    ended = set(skus)
    table.load(shard, Position(2, 1), 3_000, kept)
    loaded = set(skus)
    table.load(shard, Position(2, 2), 3_000, [image("A", "n1", on_hand=5)])

    assert (set_by_events, one_left, ended, loaded) == ({"A"}, {"A"}, set(), {"A"})
    assert skus == set()


def test_shares_of_copied_rows_are_kept_like_any(table: AtsTable) -> None:
    """A start reads them as the order store has them, and they withhold their units."""
    shares = (Protection("web", 2), Protection("app", 1, 1))
    images = [image("A", "n1", on_hand=5, protected=shares), image("A", "n2", on_hand=4)]
    shard = shard_of("A", SHARD_COUNT)

    offset = table.stage_copied(shard, copied(Position(1, 6), images), 0, 9)
    table.load(shard, Position(1, 6), 2_000, ())

    assert (offset, table.ats("A"), table._protected_skus) == (0, 7, {"A"})
    assert table.protected("A") == {("n1", ""): images[0].row}
