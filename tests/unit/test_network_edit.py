"""Upserts of the network: an outcome an entry, what is accepted becomes visible together."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

from promise_svc.adapters.network_source import NetworkSource, encode_document
from promise_svc.application.network import NetworkAdmin, ShardKeys
from promise_svc.application.network_edit import DeleteOutcome, NetworkEditor, UpsertOutcome
from promise_svc.application.ports import DELETED
from promise_svc.application.tasks import OwnedTasks
from promise_svc.domain.network import (
    Document,
    Item,
    NetworkDocuments,
    NodeCapacity,
    NodeGroup,
    NodeStatus,
    SourcingRule,
)
from promise_svc.domain.sharding import shard_of
from promise_svc.errors import NotFound, OutcomeUnknown, Unavailable
from tests.support.fake_ats_reader import FakeAtsReader, FakeClock
from tests.support.fake_order_store import FakeOrderStore
from tests.support.fake_outbox import FakeOutbox
from tests.support.networks import SHIP, a_calendar, a_lane, a_node, a_service

Outcome = UpsertOutcome
TIMEOUT = 5.0


class World:
    """An editor over a store, with calendars ``weekdays`` and ``carrier`` in it."""

    def __init__(self) -> None:
        self.index = FakeOutbox()
        self.store = FakeOrderStore()
        self.source = NetworkSource(self.store, FakeClock(0))
        self.table = FakeAtsReader(0)
        shard_keys = ShardKeys(self.table, self.index.shard_count)
        check = partial(self.source.check, fits_stock=shard_keys.fit_stock)
        self.editor = NetworkEditor(
            admin=NetworkAdmin(self.index, self.store, check),  # type: ignore[arg-type]
            store=self.store,
            network=self.source,
            shard_keys=shard_keys,
            encode=encode_document,
            tasks=OwnedTasks(),
        )

    async def upsert(
        self, kind: str, *documents: Document, kept: frozenset[str] = frozenset()
    ) -> list[tuple[UpsertOutcome, str]]:
        reply = await self.editor.upsert(kind, documents, TIMEOUT, kept)
        assert reply.network_version == self.source.snapshot().version
        return [tuple(result) for result in reply.results]  # type: ignore[misc]


@pytest.fixture
async def world() -> World:
    world = World()
    await world.upsert("calendar", a_calendar(), a_calendar("carrier"))
    return world


async def test_an_entry_is_created_updated_or_unchanged(world: World) -> None:
    """And seen by this process when the call returns."""
    node = a_node("n1")

    assert await world.upsert("node", node) == [(Outcome.CREATED, "")]
    assert await world.upsert("node", node) == [(Outcome.UNCHANGED, "")]
    assert await world.upsert("node", replace(node, name="One")) == [(Outcome.UPDATED, "")]
    assert world.editor.snapshot().documents.nodes["n1"].name == "One"


async def test_nothing_changed_makes_no_version(world: World) -> None:
    """The version before is told."""
    await world.upsert("node", a_node("n1"))
    before = world.source.snapshot().version

    reply = await world.editor.upsert("node", [a_node("n1")], TIMEOUT)

    assert reply.network_version == before == await world.store.network_version()


async def test_a_refused_entry_leaves_the_others_alone(world: World) -> None:
    """In request order, with the name that is missing."""
    outcomes = await world.upsert(
        "node", a_node("n1"), a_node("n2", calendar_id="moon"), a_node("n3")
    )

    assert outcomes == [
        (Outcome.CREATED, ""),
        (Outcome.UNKNOWN_CALENDAR, "moon"),
        (Outcome.CREATED, ""),
    ]
    assert set(world.editor.snapshot().documents.nodes) == {"n1", "n3"}


async def test_references_must_be_there(world: World) -> None:
    """Each kind names what it misses."""
    await world.upsert("node", a_node("n1"))
    group = NodeGroup(node_group_id="g", node_ids=("n1", "n9"))

    assert await world.upsert("node_group", group) == [(Outcome.UNKNOWN_NODE, "n9")]
    assert await world.upsert("lane", a_lane("n9")) == [(Outcome.UNKNOWN_NODE, "n9")]
    assert await world.upsert("lane", a_lane("g", from_group=True)) == [
        (Outcome.UNKNOWN_NODE_GROUP, "g")
    ]
    assert await world.upsert("lane", a_lane("n1")) == [(Outcome.UNKNOWN_CARRIER_SERVICE, "ground")]
    assert await world.upsert("carrier_service", a_service()) == [(Outcome.CREATED, "")]
    assert await world.upsert("lane", a_lane("n1")) == [(Outcome.CREATED, "")]


async def test_entries_of_one_call_must_fit_each_other(world: World) -> None:
    """Two currencies cannot come in by one door either."""
    euros = replace(a_service("post"), currency_code="EUR")

    assert await world.upsert("carrier_service", a_service(), euros) == [
        (Outcome.CREATED, ""),
        (Outcome.CURRENCY_MISMATCH, ""),
    ]


async def test_a_shard_key_stays(world: World) -> None:
    """Stock lies where the first one said."""
    await world.upsert("item", Item(sku="a"))

    assert await world.upsert("item", Item(sku="a", shard_key="b"), Item(sku="a2")) == [
        (Outcome.SHARD_KEY_FIXED, ""),
        (Outcome.CREATED, ""),
    ]


async def test_a_new_item_does_not_part_its_sku_from_its_stock(world: World) -> None:
    """Stock of a SKU that is no item yet lies in some shard; only keys of that shard are taken."""
    count = world.index.shard_count
    here = shard_of("a", count)
    away = next(key for key in "bcdefg" if shard_of(key, count) != here)
    beside = next(key for key in "hijklmnopqrstuvwxyz" if shard_of(key, count) == here)
    world.table.shards = {"a": here, "a2": here, "a3": shard_of(away, count)}

    outcomes = await world.upsert(
        "item",
        Item(sku="a", shard_key=away),
        Item(sku="a2", shard_key=beside),
        Item(sku="a3", shard_key=away),
        Item(sku="a4", shard_key=away),
    )

    assert outcomes == [(Outcome.SHARD_KEY_FIXED, ""), *[(Outcome.CREATED, "")] * 3]
    assert set(world.editor.snapshot().documents.items) == {"a2", "a3", "a4"}


async def test_an_upsert_keeps_the_status_it_does_not_name(world: World) -> None:
    """A nightly load must not switch a closed store on again."""
    await world.upsert("node", a_node("n1"))
    change = await world.editor.set_node_status("n1", NodeStatus.OFF, TIMEOUT)
    kept = frozenset({"n1"})

    assert await world.upsert("node", a_node("n1"), kept=kept) == [(Outcome.UNCHANGED, "")]
    renamed = replace(a_node("n1"), name="One")
    assert await world.upsert("node", renamed, kept=kept) == [(Outcome.UPDATED, "")]

    assert change.previous is NodeStatus.ON
    assert world.editor.snapshot().documents.nodes["n1"].status is NodeStatus.OFF
    assert world.editor.snapshot().documents.nodes["n1"].name == "One"


async def test_a_status_that_is_named_is_set_on_every_shard(world: World) -> None:
    """The floor rises when an upsert brings a node that is OFF."""
    await world.upsert("node", a_node("n1", status=NodeStatus.OFF))

    version = world.source.snapshot().version
    assert world.index.floors == dict.fromkeys(range(4), version)


async def test_a_capacity_asked_for_again_reaches_the_shards_that_had_not_heard(
    world: World,
) -> None:
    """The first call could not tell all shards: the same call again finishes, changing nothing."""
    capacity = NodeCapacity(fulfillment_method=SHIP, orders_per_day_max=5)
    node = replace(a_node("n1"), capacities=(capacity,))
    world.index.floor_errors = {1: Unavailable("away")}
    with pytest.raises(OutcomeUnknown):
        await world.upsert("node", node)
    world.index.floor_errors.clear()

    assert await world.upsert("node", node) == [(Outcome.UNCHANGED, "")]

    version = world.source.snapshot().version
    assert world.index.floors == dict.fromkeys(range(4), version)


async def test_the_status_of_no_node_is_not_found(world: World) -> None:
    """NOT_FOUND, nothing changed."""
    with pytest.raises(NotFound):
        await world.editor.set_node_status("n9", NodeStatus.OFF, TIMEOUT)


async def test_what_nothing_uses_is_deleted_and_what_is_used_names_its_user(world: World) -> None:
    """From the rules to the calendars, each kind in turn; for this process, for one that follows
    and for one that reads all anew."""
    group = NodeGroup(node_group_id="g", node_ids=("n1",))
    rule = SourcingRule(rule_id="r", node_group_id="g", excluded=True)
    lane = a_lane("g", from_group=True)
    for kind, document in (
        ("node", a_node("n1")),
        ("node_group", group),
        ("carrier_service", a_service()),
        ("lane", lane),
        ("sourcing_rule", rule),
    ):
        assert await world.upsert(kind, document) == [(Outcome.CREATED, "")]
    follower = NetworkSource(world.store, FakeClock(0))
    await follower.refresh()

    async def delete(kind: str, *names: str) -> list[tuple[DeleteOutcome, str]]:
        reply = await world.editor.delete(kind, names)
        assert reply.network_version == world.source.snapshot().version
        return [tuple(result) for result in reply.results]  # type: ignore[misc]

    gone, in_use = DeleteOutcome.DELETED, DeleteOutcome.IN_USE
    assert await delete("node_group", "g") == [(in_use, f"lane {lane.lane_id}")]
    assert await delete("carrier_service", "ground") == [(in_use, f"lane {lane.lane_id}")]
    assert await delete("calendar", "weekdays") == [(in_use, "node n1")]
    assert await delete("lane", "no such", lane.lane_id) == [
        (DeleteOutcome.NOT_THERE, ""),
        (gone, ""),
    ]
    assert await delete("node_group", "g") == [(in_use, "sourcing_rule r")]
    for kind, name in (
        ("sourcing_rule", "r"),
        ("node_group", "g"),
        ("carrier_service", "ground"),
        ("calendar", "carrier"),
    ):
        assert await delete(kind, name) == [(gone, "")]
        assert await delete(kind, name) == [(DeleteOutcome.NOT_THERE, "")]

    anew = NetworkSource(world.store, FakeClock(0))
    for source in (world.source, follower, anew):
        left = (await source.refresh()).documents
        assert left == NetworkDocuments(
            nodes={"n1": a_node("n1")}, calendars={"weekdays": a_calendar()}
        )
    assert await world.upsert("node_group", group) == [(Outcome.CREATED, "")]


async def test_a_calendar_deleted_meanwhile_is_missed_by_the_node_that_names_it(
    world: World,
) -> None:
    """The node is judged by the very version it is written to."""
    real, seen = world.store.network, []

    async def late(after: int = 0):  # type: ignore[no-untyped-def]
        if after == 0 and not seen:
            seen.append(after)
            await world.store.upsert_network("calendar", {"weekdays": DELETED})
        return await real(after)

    await world.source.refresh()
    world.store.network = late  # type: ignore[method-assign]

    assert await world.upsert("node", a_node("n1")) == [(Outcome.UNKNOWN_CALENDAR, "weekdays")]


async def test_an_edit_that_another_came_before_is_judged_anew(world: World) -> None:
    """The version is compared when it is written, so what came between counts."""
    real, seen = world.store.upsert_network, []
    euros = replace(a_service("post"), currency_code="EUR")

    async def late(kind, documents, expected_version=None):
        if not seen:
            seen.append(expected_version)
            await real("carrier_service", {"post": encode_document(euros)})
        return await real(kind, documents, expected_version)

    world.store.upsert_network = late  # type: ignore[method-assign]

    assert await world.upsert("carrier_service", a_service()) == [(Outcome.CURRENCY_MISMATCH, "")]
    assert set(world.editor.snapshot().documents.carrier_services) == {"post"}
