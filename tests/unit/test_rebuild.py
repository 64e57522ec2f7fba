"""A shard thrown away and filled again: what is refused, and what is lost only when given up."""

from __future__ import annotations

import pytest

from promise_svc.application.rebuild import Rebuild
from promise_svc.application.takeover import RESTORED_BYTES_MAX, Takeover
from promise_svc.domain.events import Event, EventType, PositionImage, StoredEvent
from promise_svc.domain.inventory import StockPosition
from promise_svc.domain.sharding import START
from promise_svc.errors import PreconditionFailed
from tests.support.fake_ats_index import FakeAtsIndex
from tests.support.fake_order_store import FakeOrderStore
from tests.support.stored_events import History


async def test_who_comes_second_to_a_lost_shard_leaves_it_to_the_first() -> None:
    """Also where the first has finished while the second still gives events back."""
    index, store, history = FakeAtsIndex(2), FakeOrderStore(), History(0)
    await store.append(0, START, [history.start_epoch(), history.sync("sku", 5)])
    first = Takeover(index, store, lambda *_: None)
    told: list[object] = []

    class Slow:
        """The index, of a process that is overtaken."""

        def __getattr__(self, verb: str) -> object:
            return getattr(index, verb)

        async def restore(self, *args: object) -> None:
            await first.run(0)
            await index.restore(*args)  # type: ignore[arg-type]

    await Takeover(Slow(), store, lambda *done: told.append(done)).run(0)  # type: ignore[arg-type]

    assert told == []
    assert index.owners[0] == index.process
    assert index.ledgers[0].at.epoch == 2


async def test_events_are_given_back_in_bounded_steps() -> None:
    """Other shards of the process get their turn between them; all events, in order, none twice."""
    index, store, history = FakeAtsIndex(1), FakeOrderStore(), History(0)
    images = tuple(
        PositionImage(f"sku-{n}", "node", "", StockPosition(n, source="erp")) for n in range(400)
    )
    report = Event(EventType.SUPPLY_SYNCED, 1, "", positions=images)
    events = [history.start_epoch(), *(history.next(report) for _ in range(30))]
    await store.append(0, START, events)
    given: list[list[StoredEvent]] = []

    class Told:
        """The index, and what it is given."""

        def __getattr__(self, verb: str) -> object:
            return getattr(index, verb)

        async def restore(self, shard: int, step: list[StoredEvent], timeout: float) -> None:
            given.append(step)
            await index.restore(shard, step, timeout)

    await Takeover(Told(), store, lambda *_: None).run(0)  # type: ignore[arg-type]

    sizes = [sum(len(stored.payload) for stored in step) for step in given]
    assert events == [stored for step in given for stored in step]
    assert max(sizes) <= RESTORED_BYTES_MAX < sum(sizes)


async def test_rebuild_keeps_what_the_order_store_has_not() -> None:
    """Events that the relay has not carried are not thrown away unless they are given up."""
    index, store, history = FakeAtsIndex(2), FakeOrderStore(), History(0)
    await store.append(0, START, [history.start_epoch(), history.sync("sku", 5)])
    await index.restore(0, await store.read_events(0, START, 10), 1.0)
    takeover = Takeover(index, store, lambda *_: None)
    await takeover.run(0)
    rebuild = Rebuild(index, store, takeover)
    at = index.ledgers[0].at

    with pytest.raises(PreconditionFailed, match="wait for the relay"):
        await rebuild.run(0)
    assert index.ledgers[0].at == at

    rebuilt = await rebuild.run(0, lose_unrecorded=True)
    assert rebuilt.lost_event_count == 1
    assert rebuilt.after.epoch == at.epoch
