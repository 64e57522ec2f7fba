"""The ATS table of one process: ``AtsReader`` for the use cases, ``AtsSink`` for the feed.

The cells are ``hotpath``'s; this class speaks domain values. A mapping shared by all workers of a
host can take its place behind the same two ports.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from promise_svc.adapters.event_codec import decode_shares
from promise_svc.application.ports import AtsRow
from promise_svc.domain.copied_positions import CopiedRow
from promise_svc.domain.events import PositionImage
from promise_svc.domain.inventory import StockPosition, for_segment
from promise_svc.domain.sharding import Position
from promise_svc.hotpath import ats_table, availability_reads, cart_search

if TYPE_CHECKING:
    from promise_svc.hotpath import AvailabilityReads, CartSearch


_Protected: TypeAlias = dict[str, dict[tuple[str, str], StockPosition]]


class AtsTable:
    """All positions, in memory. One event loop's thread at a time; no method waits.

    Costs are in native/README.md: about a microsecond for a look-up that is not in the CPU cache.
    """

    def __init__(self, shard_count: int) -> None:
        self._shard_count = shard_count
        # As AtsRow._make, without its Python frame: a quarter of the time of reading many rows.
        self._core = ats_table(shard_count, partial(tuple.__new__, AtsRow))
        self.search: CartSearch | None = cart_search(self._core)
        # Few positions keep shares for segments. The cells know of them as withheld units, so that
        # whoever asks for no segment needs nothing else.
        self._protected: list[_Protected] = [{} for _ in range(shard_count)]
        self._staged: list[_Protected] = [{} for _ in range(shard_count)]
        self._protected_skus: set[str] = set()

    def reads(self, feed_behind_ms: int) -> AvailabilityReads | None:
        """What answers plain reads from bytes to bytes; None where nothing is compiled."""
        return availability_reads(self._core, feed_behind_ms, self._protected_skus)

    def rows(self, sku: str) -> Sequence[AtsRow] | None:
        """All positions of ``sku`` in no promised order; None when it never had one."""
        return self._core.rows(sku)

    def ats(self, sku: str, node_ids: Sequence[str] | None = None) -> int:
        """Summed ATS over here-now positions of these nodes (repeats count once), None for all."""
        return self._core.ats(sku, node_ids)

    def protected(self, sku: str) -> Mapping[tuple[str, str], StockPosition]:
        """Positions of ``sku`` that keep shares for segments, by node and bucket."""
        shard = self._core.shard(sku)
        return {} if shard is None else self._protected[shard].get(sku, {})

    def shard(self, sku: str) -> int | None:
        """The shard that has the positions of ``sku``; None when it never had one."""
        return self._core.shard(sku)

    def clock(self, shard: int) -> tuple[Position, int]:
        """Point and shard time, ms since 1970, up to which a shard was followed."""
        epoch, sequence, time_ms = self._core.clock(shard)
        return Position(epoch, sequence), time_ms

    def as_of(self, sku: str) -> tuple[Position, int]:
        """``clock`` of the SKU's shard; of the shard of its hash when it never had a position."""
        epoch, sequence, time_ms = self._core.as_of(sku)
        return Position(epoch, sequence), time_ms

    def at(self, shard: int) -> Position:
        """Where the copy of a shard stands; START when it was never loaded."""
        return Position(*self._core.clock(shard)[:2])

    def load(self, shard: int, at: Position, time_ms: int, rows: Sequence[PositionImage]) -> None:
        """Replace a shard's rows by the staged ones and ``rows``, which include all up to ``at``.

        Raises ValueError, as every write here, and changes nothing, when a row breaks a limit.
        """
        self._core.load(shard, *at, time_ms, _cells(rows))
        _note(self._staged[shard], rows)
        self._protected_skus.difference_update(self._protected[shard])
        self._protected[shard], self._staged[shard] = self._staged[shard], {}
        self._protected_skus.update(self._protected[shard])

    def stage(self, shard: int, rows: Sequence[PositionImage]) -> None:
        """Add rows to the shard's next load, unseen by readers; the later image wins."""
        self._core.stage(shard, _cells(rows))
        _note(self._staged[shard], rows)

    def stage_copied(self, shard: int, rows: bytes, offset: int, limit: int) -> int:
        """See ``AtsSink.stage_copied``."""
        offset, shared = self._core.stage_copied(shard, rows, offset, limit)
        if shared:
            self.stage(shard, [_image(row) for row in shared])
        return offset

    def unstage(self, shard: int) -> None:
        """Forget the staged rows of a load given up."""
        self._core.unstage(shard)
        self._staged[shard] = {}

    def apply(self, shard: int, at: Position, time_ms: int, rows: Sequence[PositionImage]) -> None:
        """Apply after-images of events up to ``at``; no rows only move the clock."""
        self._core.apply(shard, *at, time_ms, _cells(rows))
        kept = self._protected[shard]
        _note(kept, rows)
        if kept or self._protected_skus:
            for image in rows:
                if image.sku in kept:
                    self._protected_skus.add(image.sku)
                else:
                    self._protected_skus.discard(image.sku)

    def oldest_time_ms(self) -> int:
        """The smallest shard time any shard is followed to, ms; 0 while one never was."""
        return min(self._core.clock(shard)[2] for shard in range(self._shard_count))

    def counts(self) -> tuple[int, int, int]:
        """SKUs, positions, bytes."""
        return self._core.sku_count(), self._core.cell_count(), self._core.memory_size()


def _image(row: CopiedRow) -> PositionImage:
    """What the table needs of a position of which segments have shares."""
    shares = decode_shares(row[-1])
    return PositionImage(*row[:3], StockPosition(*row[3:7], arrival_ms=row[7], protected=shares))


def _cells(rows: Sequence[PositionImage]) -> Sequence[PositionImage]:
    """Images whose safety stock includes what is protected."""
    if not any(image.row.protected for image in rows):
        return rows
    return [
        image._replace(row=image.row._replace(safety_stock=for_segment(image.row, "")[3]))
        for image in rows
    ]


def _note(kept: _Protected, rows: Sequence[PositionImage]) -> None:
    for sku, node_id, bucket, row in rows:
        if row.protected:
            kept.setdefault(sku, {})[node_id, bucket] = row
        elif kept and sku in kept:
            kept[sku].pop((node_id, bucket), None)
            if not kept[sku]:
                del kept[sku]
