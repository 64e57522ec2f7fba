"""Compare the index with the order store, a sample of a shard at a time, all the time.

Only what stands still can be compared: a sample counts when the shard is exactly where the order
store's cursor is, before and after. A busy shard gives no verdict and keeps its last one.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable

from promise_svc.application.ports import AtsIndex, OrderStore
from promise_svc.domain.events import PositionImage
from promise_svc.domain.inventory import PositionKey, StockPosition

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
        self, index: AtsIndex, store: OrderStore, on_drift: OnDrift, chance: random.Random
    ) -> None:
        self._index = index
        self._store = store
        self._on_drift = on_drift
        self._chance = chance
        self._found: dict[int, int] = {}
        self._suspects: dict[int, frozenset[PositionKey]] = {}

    @property
    def drift_count(self) -> int:
        """Positions that differed in two looks in a row; zero at rest."""
        return sum(self._found.values())

    async def visit(self, shard: int) -> int:
        """Look at a sample of one shard; how many of its positions are adrift.

        A difference counts when the next look still sees it: a hold that is due and not yet swept
        differs for a moment, rightly.
        """
        cursor, stored = await self._store.read_positions(shard)
        by_sku: dict[str, list[PositionImage]] = defaultdict(list)
        for image in stored:
            by_sku[image.sku].append(image)
        suspects = self._suspects.get(shard, frozenset())
        chosen = {key.sku for key in suspects}
        others = sorted(by_sku.keys() - chosen)
        chosen.update(self._chance.sample(others, min(SAMPLE_SKUS, len(others))))
        skus = sorted(chosen)
        at, _, found = await self._index.read_positions(shard, skus, _TIMEOUT)
        if at != cursor:
            return self._found.get(shard, 0)
        different: dict[PositionKey, tuple[StockPosition, StockPosition | None]] = {}
        for sku, images in zip(skus, found, strict=True):
            kept = {PositionKey(*image[:3]): image.row for image in by_sku[sku]}
            for image in images:
                key = PositionKey(*image[:3])
                theirs = kept.pop(key, None)
                if theirs is None or theirs[:_COUNTERS] != image.row[:_COUNTERS]:
                    different[key] = image.row, theirs
            different.update({key: (StockPosition(), row) for key, row in kept.items()})
        adrift = different.keys() & suspects
        for key in sorted(adrift):
            self._on_drift(shard, key, *different[key])
        self._suspects[shard] = frozenset(different)
        self._found[shard] = len(adrift)
        return len(adrift)
