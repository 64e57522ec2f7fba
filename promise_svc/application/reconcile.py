"""Compare the index with the order store: a sample at a time, all the time, or all of it once.

Only what stands still can be compared: it counts when the shard is exactly where the order store's
cursor is, before and after. A busy shard gives no verdict.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from promise_svc.application.ports import AtsIndex, OrderStore
from promise_svc.application.verify_report import differences
from promise_svc.domain.audit import ALIVE, Finding, ShardRecords
from promise_svc.domain.events import PositionImage
from promise_svc.domain.inventory import PositionKey, StockPosition
from promise_svc.domain.reservation import ClaimRecord, LegRecord
from promise_svc.domain.sharding import Position

SAMPLE_SKUS = 200
"""SKUs of one look; their positions are read from the shard, so this is its cost."""

_COUNTERS = 7
"""Fields of a StockPosition that both keep: the source and its sequence may move without event."""

_TIMEOUT = 5.0

OnDrift = Callable[[int, PositionKey, StockPosition, StockPosition | None], None]
"""Shard, position, what the index has, what the order store has."""


class DriftWatch:
    """Visits shards; ``drift_count`` adds up the last verdict of each."""

    def __init__(
        self,
        index: AtsIndex,
        store: OrderStore,
        sweep: Callable[[int], Awaitable[int]],
        on_drift: OnDrift,
        sample_skus: int = SAMPLE_SKUS,
    ) -> None:
        """``sweep`` writes down what is due in a shard."""
        self._index = index
        self._store = store
        self._sweep = sweep
        self._on_drift = on_drift
        self._sample_skus = sample_skus
        self._last_sku: dict[int, str] = {}
        self._found: dict[int, int] = {}
        self._suspects: dict[int, frozenset[PositionKey]] = {}

    @property
    def drift_count(self) -> int:
        """Positions that differed in two looks in a row; zero at rest."""
        return sum(self._found.values())

    async def visit(self, shard: int) -> int:
        """Look at the next SKUs of one shard, in turn; how many positions looked at are adrift.

        A difference counts when the next look still sees it, also once what is due was swept: to a
        read of the index a hold that is due is free before any event says so.
        """
        suspects = self._suspects.get(shard, frozenset())
        suspected = {key.sku for key in suspects}
        after = self._last_sku.get(shard, "")
        cursor, stored = await self._store.read_some_positions(
            shard, after, self._sample_skus, suspected
        )
        by_sku: dict[str, list[PositionImage]] = defaultdict(list)
        for image in stored:
            by_sku[image.sku].append(image)
        skus = sorted(by_sku.keys() | suspected)
        at, different = await self._differences(shard, skus, by_sku)
        if at != cursor:
            return self._found.get(shard, 0)
        # Suspects may lie far beyond the SKUs whose turn it was. Short of a full sample the shard's
        # last SKU was among those: then it begins anew.
        later = sorted((sku for sku in by_sku if sku.encode() > after.encode()), key=str.encode)
        whole = len(later) >= self._sample_skus
        self._last_sku[shard] = later[self._sample_skus - 1] if whole else ""
        self._suspects[shard] = frozenset(different)
        if different.keys() & suspects:
            await self._sweep(shard)
            at, different = await self._differences(shard, sorted(suspected), by_sku)
            if at != cursor:
                return self._found.get(shard, 0)
        adrift = different.keys() & suspects
        for key in sorted(adrift):
            self._on_drift(shard, key, *different[key])
        self._found[shard] = len(adrift)
        return len(adrift)

    async def _differences(
        self, shard: int, skus: Sequence[str], by_sku: Mapping[str, Sequence[PositionImage]]
    ) -> tuple[Position, dict[PositionKey, tuple[StockPosition, StockPosition | None]]]:
        """Where the shard stands, and what it has otherwise than is stored."""
        different: dict[PositionKey, tuple[StockPosition, StockPosition | None]] = {}
        at, _, found = await self._index.read_positions(shard, skus, _TIMEOUT)
        for sku, images in zip(skus, found, strict=True):
            kept = {PositionKey(*image[:3]): image.row for image in by_sku.get(sku, ())}
            for image in images:
                key = PositionKey(*image[:3])
                theirs = kept.pop(key, None)
                if theirs is None or theirs[:_COUNTERS] != image.row[:_COUNTERS]:
                    different[key] = image.row, theirs
            different.update({key: (StockPosition(), row) for key, row in kept.items()})
        return at, different


COMPARE_ATTEMPTS_MAX = 20
COMPARE_SECONDS = 0.25
"""Between attempts at a shard that did not stand still, or was ahead of the order store."""

_RecordT = TypeVar("_RecordT", LegRecord, ClaimRecord)


@dataclass(slots=True)
class Reconciliation:
    """What index and order store disagree about; counts are of what was compared."""

    shard_count: int = 0
    position_count: int = 0
    reservation_count: int = 0
    findings: list[Finding] = field(default_factory=list)
    uncompared_shard_ids: list[int] = field(default_factory=list)
    """Shards that never stood still."""


async def compare_all(
    index: AtsIndex, store: OrderStore, shard_ids: Sequence[int]
) -> Reconciliation:
    """Compare the rows of whole shards, one after the other; reads no events, so it costs far less
    than the audit and sees nothing but drift. Unavailable when an engine is away."""
    found = Reconciliation()
    for shard in shard_ids:
        for _ in range(COMPARE_ATTEMPTS_MAX):
            if await _compare(index, store, shard, found):
                found.shard_count += 1
                break
            await asyncio.sleep(COMPARE_SECONDS)
        else:
            found.uncompared_shard_ids.append(shard)
    return found


async def _compare(index: AtsIndex, store: OrderStore, shard: int, found: Reconciliation) -> bool:
    """False where the two did not stand at one point."""
    stored = await store.read_shard(shard)
    if (await index.read_meta(shard, _TIMEOUT)).at != stored.at:
        return False
    there = ShardRecords(*await index.scan(shard))
    if (await index.read_meta(shard, _TIMEOUT)).at != stored.at:
        return False
    expected = ShardRecords(
        stored.positions, _known(stored.legs, there.legs), _known(stored.claims, there.claims)
    )
    found.position_count += len(there.positions)
    found.reservation_count += len(there.claims)
    found.findings += differences(shard, expected, there, drift=True)
    return True


def _known(stored: Mapping[str, _RecordT], there: Mapping[str, _RecordT]) -> dict[str, _RecordT]:
    """What the index must have: it forgets what is resolved, some time after its window."""
    return {rid: row for rid, row in stored.items() if row.state in ALIVE or rid in there}
