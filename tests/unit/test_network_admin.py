"""Network edits: stored first, then every shard knows, and retries finish what was begun."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence

import pytest

from promise_svc.application.network import NetworkAdmin
from promise_svc.domain.network import NodeStatus
from promise_svc.errors import (
    FieldViolation,
    InvalidRequest,
    NotFound,
    OutcomeUnknown,
    Unavailable,
)
from tests.support.fake_order_store import FakeOrderStore
from tests.support.fake_outbox import FakeOutbox


def check(kind: str, documents: Mapping[str, str]) -> Sequence[FieldViolation]:
    """Refuse documents that say so."""
    return [FieldViolation(id, "BAD", "is bad") for id, doc in documents.items() if "bad" in doc]


class World:
    """An index with four shards, a store, and the use cases over them."""

    def __init__(self) -> None:
        self.index = FakeOutbox()
        self.store = FakeOrderStore()
        self.admin = NetworkAdmin(self.index, self.store, check)  # type: ignore[arg-type]

    async def node(self, node_id: str) -> dict[str, object]:
        node: dict[str, object] = json.loads(
            (await self.store.network()).documents["node"][node_id]
        )
        return node


@pytest.fixture
async def world() -> World:
    world = World()
    await world.admin.upsert("node", {"n1": '{"id": "n1"}', "n2": '{"id": "n2"}'}, 1.0)
    return world


async def test_a_node_switched_off_is_known_to_every_shard_on_return(world: World) -> None:
    """The floor of all shards is the version that switched it off."""
    change = await world.admin.set_node_status("n1", NodeStatus.OFF, 1.0)

    assert (change.network_version, change.previous) == (2, NodeStatus.ON)
    assert world.index.floors == dict.fromkeys(range(4), 2)
    assert await world.node("n1") == {"id": "n1", "status": "OFF"}
    assert await world.node("n2") == {"id": "n2", "status": "ON"}


async def test_a_shard_that_does_not_answer_makes_the_outcome_unknown(world: World) -> None:
    """The others know; the same call again finishes, at the same version."""
    world.index.floor_errors = {1: Unavailable("away"), 3: OutcomeUnknown("lost")}
    with pytest.raises(OutcomeUnknown) as caught:
        await world.admin.set_node_status("n1", NodeStatus.OFF, 1.0)
    assert caught.value.metadata["shards"] == "1,3"
    assert world.index.floors == {0: 2, 2: 2}

    world.index.floor_errors.clear()
    change = await world.admin.set_node_status("n1", NodeStatus.OFF, 1.0)

    assert (change.network_version, change.previous) == (2, NodeStatus.OFF)
    assert world.index.floors == dict.fromkeys(range(4), 2)


async def test_a_store_away_changes_nothing(world: World) -> None:
    """No shard hears of a version that was not stored."""
    world.store.fail_next = Unavailable("away")

    with pytest.raises(Unavailable):
        await world.admin.set_node_status("n1", NodeStatus.OFF, 1.0)

    assert world.index.floors == {}


async def test_an_unknown_node_is_not_found(world: World) -> None:
    """Switching it neither stores nor tells."""
    with pytest.raises(NotFound):
        await world.admin.set_node_status("n9", NodeStatus.OFF, 1.0)

    assert await world.store.network_version() == 1


async def test_upserting_a_node_keeps_the_status_it_was_given(world: World) -> None:
    """An edit of its address does not open a closed store."""
    await world.admin.set_node_status("n1", NodeStatus.OFF, 1.0)

    version = await world.admin.upsert("node", {"n1": '{"id": "n1", "name": "new"}'}, 1.0)

    assert await world.node("n1") == {"id": "n1", "name": "new", "status": "OFF"}
    assert world.index.floors == dict.fromkeys(range(4), version)


async def test_a_node_upserted_off_is_known_to_every_shard(world: World) -> None:
    """The same promise as of switching it."""
    version = await world.admin.upsert("node", {"n1": '{"id": "n1", "status": "OFF"}'}, 1.0)

    assert world.index.floors == dict.fromkeys(range(4), version)


async def test_a_capacity_is_known_to_every_shard_on_return(world: World) -> None:
    """Who has not heard of it plans again; to bound a node no more is not urgent."""
    bounded = {"n1": '{"id": "n1", "capacities": [{"orders_per_day_max": 1}]}'}
    version = await world.admin.upsert("node", bounded, 1.0)
    floors = dict(world.index.floors)
    await world.admin.upsert("node", {"n1": '{"id": "n1", "capacities": []}'}, 1.0)

    assert floors == dict.fromkeys(range(4), version)
    assert world.index.floors == floors


async def test_other_edits_leave_the_shards_alone(world: World) -> None:
    """Lanes and open nodes change answers, not what may be held."""
    await world.admin.upsert("lane", {"l1": "{}"}, 1.0)
    await world.admin.upsert("node", {"n3": "{}"}, 1.0)

    assert world.index.floors == {}


@pytest.mark.parametrize("switching_first", [True, False])
async def test_edits_at_the_same_time_lose_none(world: World, switching_first: bool) -> None:
    """Both read the same version: whoever writes second reads again, so both edits stand."""
    edits = [
        world.admin.set_node_status("n1", NodeStatus.OFF, 1.0),
        world.admin.upsert("node", {"n1": '{"id": "n1", "name": "new"}'}, 1.0),
    ]
    await asyncio.gather(*(edits if switching_first else reversed(edits)))

    assert await world.node("n1") == {"id": "n1", "name": "new", "status": "OFF"}


async def test_wrong_documents_are_listed_and_none_is_stored(world: World) -> None:
    """All of them at once; an unknown kind is wrong in itself."""
    with pytest.raises(InvalidRequest) as caught:
        await world.admin.upsert("lane", {"a": "bad", "b": "{}", "c": "bad"}, 1.0)
    with pytest.raises(InvalidRequest):
        await world.admin.upsert("planet", {"a": "{}"}, 1.0)

    assert [v.field for v in caught.value.violations] == ["a", "c"]
    assert await world.store.network_version() == 1
