"""How far the order store is behind the shards, from the news the shards publish."""

from __future__ import annotations

from collections import deque

_Point = tuple[int, int]

MARKS_MAX = 1000
"""Undurable messages remembered per shard; beyond it only the oldest matter, and they stay."""


class RelayLag:
    """Tell it every message of a shard's channel; ask it when somebody scrapes."""

    def __init__(self, shard_count: int) -> None:
        self._latest: list[_Point] = [(0, 0)] * shard_count
        self._durable: list[_Point] = [(0, 0)] * shard_count
        self._marks: list[deque[tuple[_Point, int]]] = [deque() for _ in range(shard_count)]

    def heard(self, shard: int, at: _Point, durable: _Point, time_ms: int) -> None:
        """``at`` and ``durable`` are (epoch, sequence); messages may come late or twice."""
        if at > self._latest[shard]:
            self._latest[shard] = at
            marks = self._marks[shard]
            if len(marks) < MARKS_MAX and at > self._durable[shard]:
                marks.append((at, time_ms))
        if durable > self._durable[shard]:
            self.durable(shard, durable)

    def durable(self, shard: int, at: _Point) -> None:
        """The order store has the shard's events up to ``at``."""
        if at <= self._durable[shard]:
            return
        self._durable[shard] = at
        marks = self._marks[shard]
        while marks and marks[0][0] <= at:
            marks.popleft()

    def event_count(self) -> int:
        """Events of all shards that are not durable yet; of an older epoch's, at least as many."""
        return sum(map(_events_between, self._durable, self._latest))

    def seconds(self, now_ms: int) -> float:
        """Age of the oldest message, of any shard, that is not durable yet; 0 when all are."""
        oldest = [marks[0][1] for marks in self._marks if marks]
        return max(0, now_ms - min(oldest)) / 1000 if oldest else 0.0


def _events_between(durable: _Point, latest: _Point) -> int:
    if latest <= durable:
        return 0
    return latest[1] - durable[1] if latest[0] == durable[0] else latest[1]
