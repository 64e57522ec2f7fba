"""Documents to JSON and back, and a snapshot that follows the order store."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from datetime import date, time

import pytest

from promise_svc.adapters.network_source import (
    NetworkSource,
    decode_document,
    decode_network,
    encode_document,
    id_of,
    kind_of,
)
from promise_svc.application.ports import StoredNetwork
from promise_svc.domain.network import (
    BundleComponent,
    Document,
    Item,
    NetworkSnapshot,
    NodeGroup,
    NodeStatus,
    SourcingRule,
)
from promise_svc.domain.routes import Routes
from promise_svc.errors import InvariantBroken, Unavailable
from tests.support.fake_ats_reader import FakeClock
from tests.support.fake_order_store import FakeOrderStore
from tests.support.networks import PICKUP, a_calendar, a_lane, a_method, a_node, a_service

DOCUMENTS: list[Document] = [
    a_calendar(exceptions={date(2026, 12, 26): True, date(2026, 12, 25): False}),
    a_node(methods=[a_method(), a_method(PICKUP, time(18, 30), minutes=90)]),
    NodeGroup(node_group_id="g", node_ids=("DC1",)),
    Item(sku="S", weight_grams=5, shard_key="style"),
    a_service(),
    a_lane(postal_prefix="941", base=7),
    a_lane("g", from_group=True),
]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: type(d).__name__)
def test_a_document_survives_its_json(document: Document) -> None:
    """Decoding gives the same document; encoding that gives the same bytes."""
    text = encode_document(document)

    back = decode_document(kind_of(document), text)

    assert document == back
    assert text == encode_document(back)


def test_equal_calendars_have_equal_json_whatever_the_order_of_their_dates() -> None:
    """A store can tell UNCHANGED by comparing text."""
    dates = {date(2026, 12, 26): True, date(2026, 12, 25): False}
    turned = dict(reversed(dates.items()))

    assert encode_document(a_calendar(exceptions=dates)) == encode_document(
        a_calendar(exceptions=turned)
    )


def test_a_field_can_be_left_out_to_be_kept_by_the_store() -> None:
    """A node without status: the edit keeps the one it has; read alone it is ON."""
    text = encode_document(a_node(status=NodeStatus.OFF), omit=frozenset({"status"}))

    assert '"status"' not in text
    assert decode_document("node", text) == a_node()


@pytest.mark.parametrize("text", ["", "{}", '{"sku": 1}', "[1]"])
def test_an_unreadable_document_is_our_fault(text: str) -> None:
    """It was checked before it was stored."""
    with pytest.raises(InvariantBroken):
        decode_document("item", text)


def test_lanes_of_a_node_and_of_a_group_have_different_ids() -> None:
    """Also when node and group share a name."""
    assert id_of(a_lane("x")) != id_of(a_lane("x", from_group=True))


async def stored(*documents: Document) -> FakeOrderStore:
    store = FakeOrderStore()
    for document in documents:
        await store.upsert_network(kind_of(document), {id_of(document): encode_document(document)})
    return store


async def test_the_snapshot_has_what_the_store_has() -> None:
    """All kinds, indexed, at the store's version."""
    store = await stored(*DOCUMENTS)
    source = NetworkSource(store, FakeClock(1000))

    snapshot = await source.refresh()

    assert await store.network_version() == snapshot.version
    assert snapshot.shard_key("S") == "style"
    assert [
        lane.base_cost_micros
        for postal_code in ("94107", "10001")
        for lane in snapshot.lanes("DC1", "US", postal_code)
    ] == [7, None]
    assert source.snapshot() is snapshot


async def test_an_edit_swaps_the_whole_snapshot_and_an_idle_look_keeps_it() -> None:
    """The old one stays as it was for those who hold it."""
    store = await stored(*DOCUMENTS)
    source = NetworkSource(store, FakeClock(1000))
    before = await source.refresh()

    assert await source.refresh() is before
    off = a_node(status=NodeStatus.OFF)
    await store.upsert_network("node", {"DC1": encode_document(off)})
    after = await source.refresh()

    assert (before.switched_on("DC1"), after.switched_on("DC1")) == (True, False)


def seen(network: NetworkSnapshot) -> tuple[object, ...]:
    """What callers see of a network, through each of its indices."""
    dc1 = network.documents.nodes["DC1"]
    return (
        network.version,
        network.documents,
        network.bundles,
        network.sourcing_rules,
        [network.node_group_ids(node_id) for node_id in sorted(network.documents.nodes)],
        network.lanes("DC1", "US", "94107"),
        list(network.derived(Routes).lanes(dc1, "US", "94107")),
        network.derived(Routes).nodes_of,
        network.nodes_within(41.0, -87.6, 2_000_000),
    )


async def test_a_followed_network_is_the_one_a_whole_read_gives(rng: random.Random) -> None:
    """Edit by edit of any kind, indices included; and only what changed is read."""
    store = await stored(*DOCUMENTS)
    source = NetworkSource(store, FakeClock(1000))
    await source.refresh()
    edits: list[Callable[[int], Document]] = [
        lambda n: Item(sku=f"S{n % 3}", shard_key=f"k{n}"),
        lambda n: Item(sku="SET", components=(BundleComponent("S", 1 + n % 5),)),
        lambda n: a_node(f"DC{n % 3}", latitude=30.0 + n),
        lambda n: NodeGroup(node_group_id="g", node_ids=("DC1", f"DC{n % 3}")),
        lambda n: a_lane("g", postal_prefix=str(n), from_group=True),
        lambda n: SourcingRule(rule_id=f"r{n % 2}", priority=n % 9),
    ]
    read: list[int] = []
    whole = store.network

    async def counted(after: int = 0) -> StoredNetwork:
        found = await whole(after)
        read.append(sum(map(len, found.documents.values())))
        return found

    store.network = counted  # type: ignore[method-assign]
    for number in range(40):
        document = rng.choice(edits)(number)
        await store.upsert_network(kind_of(document), {id_of(document): encode_document(document)})
        if number % 3:
            continue
        followed = await source.refresh()
        expected = decode_network(await whole())
        assert seen(followed) == seen(expected)
    assert max(read) <= 3


async def test_after_a_look_that_failed_the_network_is_read_whole() -> None:
    """The order store may have been set back meanwhile, and have come to a higher version since."""
    store = await stored(*DOCUMENTS)
    source = NetworkSource(store, FakeClock(1000))
    await source.refresh()
    store.fail_next = Unavailable("away")
    with pytest.raises(Unavailable):
        await source.refresh()

    restored = await stored(*DOCUMENTS[:1], *[a_node(f"N{n}") for n in range(20)])
    source._store = restored
    after = await source.refresh()

    assert after.documents == decode_network(await restored.network()).documents
    assert set(after.documents.items) == set()


async def test_before_the_first_read_there_is_no_network() -> None:
    """Unavailable, not an empty network."""
    with pytest.raises(Unavailable):
        NetworkSource(FakeOrderStore(), FakeClock(0)).snapshot()


async def test_with_the_order_store_away_the_last_snapshot_serves_and_ages() -> None:
    """The age counts from the last successful look."""
    store, clock = await stored(*DOCUMENTS), FakeClock(1000)
    source = NetworkSource(store, clock)
    snapshot = await source.refresh()

    clock.now = 5000
    store.fail_next = Unavailable("away")
    with pytest.raises(Unavailable):
        await source.refresh()

    assert source.snapshot() is snapshot
    assert source.age_ms() == 4000
    await source.refresh()
    assert source.age_ms() == 0


async def test_an_unreadable_document_keeps_the_last_snapshot_whole() -> None:
    """Never half a network."""
    store = await stored(*DOCUMENTS)
    source = NetworkSource(store, FakeClock(1000))
    snapshot = await source.refresh()
    await store.upsert_network("node", {"DC9": '{"no": "node"}'})

    with pytest.raises(InvariantBroken):
        await source.refresh()

    assert source.snapshot() is snapshot


@pytest.mark.timeout(10)
async def test_following_survives_failures_and_sees_later_edits() -> None:
    """The loop says what went wrong, goes on, and ends with close."""
    store = await stored(*DOCUMENTS)
    store.fail_next = Unavailable("away")
    source = NetworkSource(store, FakeClock(1000), poll_seconds=0.001)

    source.start()
    while not source.problem:
        await asyncio.sleep(0)
    while source.problem:
        await asyncio.sleep(0.001)
    await store.upsert_network("item", {"N": encode_document(Item(sku="N"))})
    while source.snapshot().item("N") is None:
        await asyncio.sleep(0.001)
    await source.close()

    assert (source.problem, source.failure_count) == ("", 1)


async def test_checking_names_the_document_and_the_field() -> None:
    """Malformed text, a wrong field, a missing reference, another document's id."""
    source = NetworkSource(await stored(*DOCUMENTS), FakeClock(1000))
    await source.refresh()

    found = source.check(
        "item",
        {
            "bad": "{",
            "S": encode_document(Item(sku="S")),
            "T": encode_document(Item(sku="T", weight_grams=-1)),
            "U": encode_document(Item(sku="V")),
            "W": encode_document(Item(sku="W")),
            "X": encode_document(Item(sku="X")),
        },
        lambda item: item.sku != "X",
    )

    assert [(violation.field, violation.reason) for violation in found] == [
        ("item[bad]", "MALFORMED"),
        ("item[S].shard_key", "SHARD_KEY_FIXED"),
        ("item[T].weight_grams", "OUT_OF_RANGE"),
        ("item[U]", "MALFORMED"),
        ("item[X].shard_key", "SHARD_KEY_FIXED"),
    ]
