"""A small market for promises: a network of a few documents, a table that is a second old."""

from __future__ import annotations

from collections.abc import Callable

from promise_svc.application.ports import AtsReader, Clock
from promise_svc.application.promise import CartPromiser, PromiseCartReply, PromiseCartRequest
from promise_svc.application.stock import StockIndex, StockSource
from promise_svc.domain.network import Document, NetworkSnapshot
from tests.support.fake_ats_reader import FakeAtsReader, FakeClock
from tests.support.fake_stock_index import FakeStockIndex
from tests.support.networks import a_snapshot

_IDS = ("sku", "lane_id", "rule_id", "node_group_id", "node_id", "carrier_service")


class Market:
    """Asked at ``now_ms``; the table is empty until a test puts stock there."""

    def __init__(self, now_ms: int, *documents: Document) -> None:
        self._documents: dict[tuple[str, str], Document] = {}
        self.add(*documents)
        self.table = FakeAtsReader(now_ms - 1000)
        self.index = FakeStockIndex(now_ms)
        self.clock = FakeClock(now_ms)

    def add(self, *documents: Document) -> None:
        """Put documents into the network; one of a known id takes its place."""
        self._documents |= {_named(document): document for document in documents}
        self.snapshot = a_snapshot(*self._documents.values())

    async def promise(self, request: PromiseCartRequest) -> PromiseCartReply:
        promiser = a_promiser(self.table, self.index, lambda: self.snapshot, self.clock)
        return await promiser.promise_cart(request, timeout=1.0)


def a_promiser(
    table: AtsReader, index: StockIndex, network: Callable[[], NetworkSnapshot], clock: Clock
) -> CartPromiser:
    """The use case over these parts."""
    stock = StockSource(table=table, index=index, network=network, clock=clock)
    return CartPromiser(stock=stock, network=network, clock=clock)


def _named(document: Document) -> tuple[str, str]:
    field = next(field for field in _IDS if hasattr(document, field))
    return type(document).__name__, str(getattr(document, field))
