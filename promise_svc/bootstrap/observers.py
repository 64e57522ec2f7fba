"""What composed parts tell of themselves, as lines of the log and counts."""

from __future__ import annotations

import asyncio

from promise_svc.domain.inventory import PositionKey, StockPosition
from promise_svc.domain.reservation import State
from promise_svc.domain.sharding import Position
from promise_svc.errors import InvariantBroken, PromiseServiceError
from promise_svc.telemetry import EventLog, LoopMetrics, Metrics

_TOGETHER_SECONDS = 0.5
"""Shards taken over within it are told in one line of the log."""

_log = EventLog("promise_svc")


class TakeoverLog:
    """Shards come in crowds, at a start or a failover: one line tells of those that came
    together."""

    def __init__(self) -> None:
        self._new_epochs: dict[int, int] = {}
        """Of shards taken over that the log does not tell of yet."""
        self._restored: dict[int, int] = {}
        """Events that these had lost and got back."""

    def taken_over(self, shard: int, at: Position, restored_count: int) -> None:
        if not self._new_epochs:
            asyncio.get_running_loop().call_later(_TOGETHER_SECONDS, self.tell)
        self._new_epochs[shard] = at.epoch
        if restored_count:
            self._restored[shard] = restored_count

    def tell(self) -> None:
        """What came together so far."""
        epochs = " ".join(f"{shard}:{epoch}" for shard, epoch in sorted(self._new_epochs.items()))
        _log.info("shards taken over", shard_count=len(self._new_epochs), epochs=epochs)
        if self._restored:
            _log.warning(
                "shards had lost events and were filled from the order store",
                shard_count=len(self._restored),
                event_count=sum(self._restored.values()),
                shards=" ".join(f"{shard}:{n}" for shard, n in sorted(self._restored.items())),
            )
        self._new_epochs.clear()
        self._restored.clear()


class ResolverObserver:
    """Counts what the resolver did, and says what it could not do."""

    def __init__(self, metrics: Metrics) -> None:
        self._index = metrics.index
        self._loop = metrics.loop("resolver")

    def resolved(self, state: State) -> None:
        self._index.resolved(state.name)

    def failed(self, shard: int, reservation_id: str, error: Exception) -> None:
        loop_failed(self._loop, shard, error, reservation_id)


def loop_failed(
    observer: LoopMetrics, shard: int, error: Exception, reservation_id: str | None = None
) -> None:
    if isinstance(error, InvariantBroken):
        observer.stopped(shard, error.reason, error.message, reservation_id)
    elif isinstance(error, PromiseServiceError):
        observer.failed(shard, error.reason, error.message)
    else:
        observer.faulted(shard, error, reservation_id)


class EngineObserver:
    """Says in the log what became of an embedded engine."""

    def died(self, engine: str) -> None:
        _log.error("embedded engine died; starting it again", engine=engine)

    def back(self, engine: str) -> None:
        _log.info("embedded engine is back", engine=engine)

    def failed(self, engine: str, error: Exception) -> None:
        _log.error("embedded engine did not start; trying again", engine=engine, error=str(error))


def drifted(
    shard: int, key: PositionKey, ours: StockPosition, theirs: StockPosition | None
) -> None:
    _log.error(
        "index and order store disagree about a position",
        shard=shard,
        sku=key.sku,
        node_id=key.node_id,
        error=f"index {ours[:4]}, order store {theirs and theirs[:4]} "
        "(on_hand, committed, held, safety_stock)",
    )
