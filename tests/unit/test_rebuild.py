"""A shard thrown away and filled again: what is refused, and what is lost only when given up."""

from __future__ import annotations

import pytest

from promise_svc.application.rebuild import Rebuild
from promise_svc.application.takeover import Takeover
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
