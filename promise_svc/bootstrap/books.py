"""Index and order store for those who look after them, without the service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from promise_svc.adapters.ats_index.index import ClusterAtsIndex
from promise_svc.adapters.ats_index.topology import Topology, parse_urls
from promise_svc.adapters.clock import SystemClock
from promise_svc.adapters.order_store.pool import PoolConfig
from promise_svc.adapters.order_store.store import PostgresOrderStore
from promise_svc.application.identity import refuse_foreign
from promise_svc.application.rebuild import Rebuild, Rebuilt
from promise_svc.application.reconcile import Reconciliation, compare_all
from promise_svc.application.takeover import Takeover
from promise_svc.application.verify import Verify
from promise_svc.config import ClusterConfig


@dataclass(frozen=True, slots=True)
class Books:
    """Index and order store with connections of their own, for those who look after them."""

    index: ClusterAtsIndex
    store: PostgresOrderStore
    window_ms: int

    def audit(self) -> Verify:
        """The whole audit."""
        return Verify(self.index, self.store, SystemClock(), window_ms=self.window_ms)

    async def compare(self, shard_ids: Sequence[int]) -> Reconciliation:
        """Rows of the index against rows of the order store."""
        return await compare_all(self.index, self.store, shard_ids)

    async def rebuild(self, shard: int, *, lose_unrecorded: bool) -> Rebuilt:
        """A shard from the order store, under a new epoch."""
        takeover = Takeover(self.index, self.store, lambda *_: None)
        return await Rebuild(self.index, self.store, takeover).run(
            shard, lose_unrecorded=lose_unrecorded
        )


@asynccontextmanager
async def open_books(
    cluster: ClusterConfig, index_urls: tuple[str, ...], order_store_url: str
) -> AsyncIterator[Books]:
    """For those who do not want to ask the server. Refuses engines that are not each other's."""
    async with AsyncExitStack() as closing:
        store = await PostgresOrderStore.open(PoolConfig(url=order_store_url))
        closing.push_async_callback(store.close)
        seeds, access = parse_urls(index_urls)
        window_ms = cluster.idempotency_window_seconds * 1000
        index = ClusterAtsIndex(
            Topology(seeds, access),
            access,
            key_prefix=cluster.key_prefix,
            shard_count=cluster.shard_count,
            window_ms=window_ms,
            outbox_kept=cluster.outbox_events_kept,
        )
        closing.callback(index.close)
        await index.start(fsync=False)
        await refuse_foreign(index, store, cluster.key_prefix, cluster.shard_count)
        yield Books(index, store, window_ms)


@asynccontextmanager
async def open_audit(
    cluster: ClusterConfig, index_urls: tuple[str, ...], order_store_url: str
) -> AsyncIterator[Verify]:
    """The audit alone."""
    async with open_books(cluster, index_urls, order_store_url) as books:
        yield books.audit()
