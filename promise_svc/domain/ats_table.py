"""The ATS table's contract and its dict-based specification; ``native/_ats_table`` is the twin.

The table is a copy of all positions, kept per shard, for reads that ask nobody else. A position
once seen never goes away: it stays with zero on hand.

A SKU's shard is the one it was loaded or applied under: its shard key may have put it elsewhere
than where ``shard_of(sku)`` says. Shards write in any order, so it is not order that decides should
a SKU ever stand in several: the one of ``shard_of(sku)`` comes first, then the lowest.

Limits: ids as in ``ID_LENGTH_MAX``; ``on_hand`` is 0..QUANTITY_MAX; the other counters, epochs,
sequences and times are 0..COUNTER_MAX. ATS of a position is at most its ``on_hand``, so sums over
2**32 positions fit 64 bits. Committed, held and safety stock beyond ``COUNTER_KEPT_MAX`` are shown
as that many: the position has nothing to sell either way, and a cell needs half the memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Generic, Protocol, TypeAlias, TypeVar

from promise_svc.domain.copied_positions import NO_SHARES, CopiedRow, copied_rows
from promise_svc.domain.inventory import (
    ARRIVED,
    ID_LENGTH_MAX,
    QUANTITY_MAX,
    StockPosition,
    ats,
)
from promise_svc.domain.sharding import SHARD_COUNT_MAX, shard_of

COUNTER_MAX = 2**53
"""Largest counter; the shards count in doubles, which are exact up to here."""

COUNTER_KEPT_MAX = 2**32 - 1
"""Largest counter that rows show."""

RowT = TypeVar("RowT")
Counters: TypeAlias = tuple[int, int, int, int, *tuple[object, ...]]
"""on_hand, committed, held, safety_stock, then anything: a StockPosition is one, and tells when a
bucket arrives."""
Image: TypeAlias = tuple[str, str, str, Counters]
"""sku, node_id, bucket, counters: a PositionImage is one."""
RowValues: TypeAlias = tuple[str, str, int, int, int, int, int]
"""node_id, bucket, on_hand, committed, held, safety_stock, arrival_ms (0 of stock here now)."""


class AtsTableCore(Protocol[RowT]):
    """What specification and twin both are. One thread at a time.

    Bad input raises ValueError (TypeError for a wrong type) and changes nothing.
    """

    def load(
        self, shard: int, epoch: int, sequence: int, time_ms: int, images: Iterable[Image]
    ) -> None:
        """Replace the shard's positions by the staged ones and ``images``, at this point; those of
        other shards stay."""
        ...

    def stage(self, shard: int, images: Iterable[Image]) -> None:
        """Add to the shard's next load without showing it to readers; the later image wins."""
        ...

    def stage_copied(
        self, shard: int, rows: bytes, offset: int, limit: int
    ) -> tuple[int, list[CopiedRow]]:
        """``stage`` up to ``limit`` rows of ``copied_positions`` from ``offset`` on, 0 for the
        first. Returns the offset after them, 0 at the end, and those rows of which segments have
        shares: they are not staged."""
        ...

    def unstage(self, shard: int) -> None:
        """Forget what was staged."""
        ...

    def apply(
        self, shard: int, epoch: int, sequence: int, time_ms: int, images: Iterable[Image]
    ) -> None:
        """Overwrite positions by after-images; the point may not fall, the time never does."""
        ...

    def clock(self, shard: int) -> tuple[int, int, int]:
        """Epoch, sequence and shard time in ms up to which the shard is followed; zeros before."""
        ...

    def shard(self, sku: str) -> int | None:
        """The shard that has the SKU's positions; None when it never had one."""
        ...

    def as_of(self, sku: str) -> tuple[int, int, int]:
        """``clock`` of the SKU's shard; of ``shard_of(sku)`` when it never had a position."""
        ...

    def rows(self, sku: str) -> list[RowT] | None:
        """All positions of the SKU, in no promised order; None when it never had one."""
        ...

    def ats(self, sku: str, node_ids: Sequence[str] | None = None) -> int:
        """ATS summed over here-now positions of these nodes (repeats count once), None for all."""
        ...

    def sku_count(self) -> int: ...
    def cell_count(self) -> int:
        """Positions of all loaded shards, staged ones left out."""
        ...

    def memory_size(self) -> int:
        """Bytes held for SKUs and positions; 0 where nobody counts them."""
        ...


class AtsTable(Generic[RowT]):
    """The specification, plain and slow. Fulfills ``AtsTableCore``."""

    def __init__(self, shard_count: int, make_row: Callable[[RowValues], RowT]) -> None:
        if not 1 <= shard_count <= SHARD_COUNT_MAX:
            raise ValueError(f"shard_count {shard_count} is outside 1..{SHARD_COUNT_MAX}")
        self._shard_count = shard_count
        self._make_row = make_row
        self._shards: list[_Shard] = [{} for _ in range(shard_count)]
        self._staged: list[_Shard] = [{} for _ in range(shard_count)]
        self._clocks = [(0, 0, 0)] * shard_count

    def load(
        self, shard: int, epoch: int, sequence: int, time_ms: int, images: Iterable[Image]
    ) -> None:
        checked = self._check(shard, images)
        _check_point(epoch, sequence, time_ms)
        _write(self._staged[shard], checked)
        self._shards[shard] = self._staged[shard]
        self._staged[shard] = {}
        self._clocks[shard] = (epoch, sequence, time_ms)

    def stage(self, shard: int, images: Iterable[Image]) -> None:
        checked = self._check(shard, images)
        _write(self._staged[shard], checked)

    def stage_copied(
        self, shard: int, rows: bytes, offset: int, limit: int
    ) -> tuple[int, list[CopiedRow]]:
        found, offset = copied_rows(rows, offset, limit)
        self.stage(
            shard,
            [
                (*row[:3], StockPosition(*row[3:7], arrival_ms=row[7]))
                for row in found
                if row[-1] == NO_SHARES
            ],
        )
        return offset, [row for row in found if row[-1] != NO_SHARES]

    def unstage(self, shard: int) -> None:
        self._check(shard, ())
        self._staged[shard] = {}

    def apply(
        self, shard: int, epoch: int, sequence: int, time_ms: int, images: Iterable[Image]
    ) -> None:
        checked = self._check(shard, images)
        _check_point(epoch, sequence, time_ms)
        past = self._clocks[shard]
        if (epoch, sequence) < past[:2]:
            raise ValueError(f"shard {shard} stands at {past[:2]}, after {(epoch, sequence)}")
        _write(self._shards[shard], checked)
        self._clocks[shard] = (epoch, sequence, max(time_ms, past[2]))

    def clock(self, shard: int) -> tuple[int, int, int]:
        self._check(shard, ())
        return self._clocks[shard]

    def shard(self, sku: str) -> int | None:
        own = shard_of(sku, self._shard_count)
        if sku in self._shards[own]:
            return own
        return next((shard for shard, skus in enumerate(self._shards) if sku in skus), None)

    def as_of(self, sku: str) -> tuple[int, int, int]:
        shard = self.shard(sku)
        return self._clocks[shard_of(sku, self._shard_count) if shard is None else shard]

    def rows(self, sku: str) -> list[RowT] | None:
        cells = self._cells(sku)
        if cells is None:
            return None
        return [self._make_row((*place, *counters)) for place, counters in cells.items()]

    def ats(self, sku: str, node_ids: Sequence[str] | None = None) -> int:
        cells = self._cells(sku) or {}
        wanted = None if node_ids is None else set(node_ids)
        return sum(
            ats(*counters[:4])
            for (node_id, bucket), counters in cells.items()
            if not bucket and (wanted is None or node_id in wanted)
        )

    def sku_count(self) -> int:
        return sum(len(shard) for shard in self._shards)

    def cell_count(self) -> int:
        return sum(len(cells) for shard in self._shards for cells in shard.values())

    def memory_size(self) -> int:
        return 0

    def _cells(self, sku: str) -> _Cells | None:
        shard = self.shard(sku)
        return None if shard is None else self._shards[shard][sku]

    def _check(self, shard: int, images: Iterable[Image]) -> list[Image]:
        if not 0 <= shard < self._shard_count:
            raise ValueError(f"shard {shard} is outside 0..{self._shard_count - 1}")
        checked = list(images)
        for sku, node_id, bucket, counters in checked:
            _check_id("sku", sku, 1)
            _check_id("node_id", node_id, 1)
            _check_id("bucket", bucket, 0)
            _check_counters(counters)
            if bucket and len(counters) > _ARRIVAL_FIELD:
                _check_number("arrival_ms", counters[_ARRIVAL_FIELD], COUNTER_MAX, ARRIVED)
        return checked


_Cells: TypeAlias = dict[tuple[str, str], tuple[int, int, int, int, int]]
_Shard: TypeAlias = dict[str, _Cells]

_ARRIVAL_FIELD = StockPosition._fields.index("arrival_ms")

_COUNTER_LIMITS = (
    ("on_hand", QUANTITY_MAX),
    ("committed", COUNTER_MAX),
    ("held", COUNTER_MAX),
    ("safety_stock", COUNTER_MAX),
)


def _write(shard: _Shard, images: Iterable[Image]) -> None:
    for sku, node_id, bucket, counters in images:
        cells = shard.setdefault(sku, {})
        on_hand, committed, held, safety_stock = counters[:4]
        cells[node_id, bucket] = (
            on_hand,
            min(committed, COUNTER_KEPT_MAX),
            min(held, COUNTER_KEPT_MAX),
            min(safety_stock, COUNTER_KEPT_MAX),
            _arrival_ms(bucket, counters),
        )


def _arrival_ms(bucket: str, counters: Counters) -> int:
    told = counters[_ARRIVAL_FIELD] if bucket and len(counters) > _ARRIVAL_FIELD else 0
    assert isinstance(told, int), "checked"
    return told


def _check_point(epoch: int, sequence: int, time_ms: int) -> None:
    _check_number("epoch", epoch, COUNTER_MAX)
    _check_number("sequence", sequence, COUNTER_MAX)
    _check_number("time_ms", time_ms, COUNTER_MAX)


def _check_id(name: str, value: str, size_min: int) -> None:
    if not size_min <= len(value.encode()) <= ID_LENGTH_MAX:
        raise ValueError(f"{name} {value!r} is not {size_min}..{ID_LENGTH_MAX} bytes long")


def _check_counters(counters: object) -> None:
    if not isinstance(counters, tuple):
        raise TypeError(f"counters must be a tuple, not {type(counters).__name__}")
    if len(counters) < len(_COUNTER_LIMITS):
        raise ValueError(f"counters are {len(counters)}, not at least {len(_COUNTER_LIMITS)}")
    for (name, maximum), value in zip(_COUNTER_LIMITS, counters, strict=False):
        _check_number(name, value, maximum)


def _check_number(name: str, value: object, maximum: int, minimum: int = 0) -> None:
    if not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if not minimum <= value <= maximum:
        raise ValueError(f"{name} {value} is outside {minimum}..{maximum}")
