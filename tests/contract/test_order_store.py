"""The promises of the port ``OrderStore``, held by PostgreSQL and by the fake alike."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable

import asyncpg
import pytest

from promise_svc.adapters.order_store import PoolConfig, PostgresOrderStore
from promise_svc.application.ports import DELETED, ClusterIdentity, OrderStore, ShardEvents
from promise_svc.domain.events import Event, EventType, PositionImage, StoredEvent
from promise_svc.domain.inventory import QUANTITY_MAX, Protection, StockPosition
from promise_svc.domain.reservation import State
from promise_svc.domain.sharding import START, Position
from promise_svc.errors import Fork, InvalidRequest, PreconditionFailed, SequenceGap
from tests.support.copied import images_of, positions_of
from tests.support.fake_order_store import FakeOrderStore
from tests.support.stored_events import History

SetCursor = Callable[[int, Position], Awaitable[None]]


@pytest.fixture(params=["fake", "postgres"])
def url(request: pytest.FixtureRequest) -> str | None:
    """Where an empty database is; None for the fake."""
    return request.getfixturevalue("database") if request.param == "postgres" else None


@pytest.fixture
async def both(url: str | None) -> AsyncIterator[tuple[OrderStore, SetCursor]]:
    """A store without rows, and a way to set a cursor back behind its back."""
    if url is None:
        fake = FakeOrderStore()

        async def set_fake(shard: int, at: Position) -> None:
            fake.set_cursor(shard, at)

        yield fake, set_fake
        return
    store = await PostgresOrderStore.open(PoolConfig(url=url))

    async def set_real(shard: int, at: Position) -> None:
        connection = await asyncpg.connect(url)
        await connection.execute(
            "UPDATE cursors SET epoch = $2, sequence = $3 WHERE shard = $1", shard, *at
        )
        await connection.close()

    yield store, set_real
    await store.close()


@pytest.fixture
def order_store(both: tuple[OrderStore, SetCursor]) -> OrderStore:
    return both[0]


@pytest.fixture
def set_cursor(both: tuple[OrderStore, SetCursor]) -> SetCursor:
    return both[1]


HOSTILE_IDS = [
    "x'); DROP TABLE events; --",
    "' OR '1'='1",
    '"; SELECT pg_sleep(10); --',
    "$1",
    "%s {0} \\",
    "ünïcödé 漢字 🦊",
    "",
    " ",
    "a" * 64,
    "new\nline\ttab",
]


async def test_a_shard_without_events_stands_at_the_start(order_store: OrderStore) -> None:
    """START, no rows, no reservation: an empty store answers, it does not fail."""
    assert await order_store.cursor(3) == START
    assert await order_store.cursors() == {}
    assert await order_store.read_events(3, START, 10) == []
    assert await positions_of(order_store, 3) == (START, [])
    assert await order_store.reservation("none") is None


async def test_an_append_moves_the_cursor_and_keeps_the_bytes(order_store: OrderStore) -> None:
    """What is read back equals what the shard wrote, byte for byte, in order."""
    history = History(3)
    events = [history.start_epoch(), history.sync("a", 5), history.move("r", State.HELD)]

    at = await order_store.append(3, START, events)

    assert at == Position(1, 3)
    assert await order_store.cursor(3) == at
    assert await order_store.cursors() == {3: at}
    assert await order_store.read_events(3, START, 10) == events
    assert await order_store.read_events(3, Position(1, 1), 1) == [events[1]]
    assert await order_store.read_events(3, at, 10) == []


async def test_batches_of_several_shards_are_told_apart(order_store: OrderStore) -> None:
    """Shards whose cursor stands elsewhere, or whose events do not follow, are refused each by its
    error; the others are stored."""
    histories = [History(shard) for shard in range(5)]
    first = [history.start_epoch() for history in histories]
    for start in first:
        await order_store.append(start.shard, START, [start])
    at = Position(1, 1)
    events = [[history.sync("a", 5), history.sync("a", 6)] for history in histories]
    await order_store.append(4, at, events[4])
    other = [History(4, at).sync("a", 7)]

    outcomes = await order_store.append_all(
        [
            ShardEvents(0, at, events[0]),
            ShardEvents(1, START, first[1:2]),
            ShardEvents(2, at, events[2][1:]),
            ShardEvents(3, at, events[3][:1]),
            ShardEvents(4, at, other),
        ]
    )

    assert [type(outcome) for outcome in outcomes] == [
        type(None), PreconditionFailed, SequenceGap, type(None), PreconditionFailed,
    ]  # fmt: skip
    cursors = await order_store.cursors()
    assert [cursors[shard].sequence for shard in range(5)] == [3, 1, 1, 2, 3]
    assert await order_store.append_all([]) == []


async def test_some_positions_are_those_of_the_next_skus_and_of_the_named_ones(
    order_store: OrderStore,
) -> None:
    """By the bytes of the SKU, with the cursor, also of none."""
    history = History(3)
    skus = ["B", "a", "b", "c-1", "c1", "zz"]
    events = [history.start_epoch(), *(history.sync(sku, 1) for sku in reversed(skus))]
    at = await order_store.append(3, START, events)

    async def read(after: str, limit: int, *named: str) -> list[str]:
        cursor, rows = await order_store.read_some_positions(3, after, limit, named)
        assert cursor == at
        return sorted((row.sku for row in rows), key=str.encode)

    assert await read("", 3) == ["B", "a", "b"]
    assert await read("b", 10) == ["c-1", "c1", "zz"]
    assert await read("b", 1, "zz", "B", "unknown", "c-1") == ["B", "c-1", "zz"]
    assert await read("zz", 2) == []
    assert await order_store.read_some_positions(4, "", 5, ["a"]) == (START, [])


async def test_an_empty_append_changes_nothing(order_store: OrderStore) -> None:
    """No events, no move."""
    assert await order_store.append(3, START, []) == START
    assert await order_store.cursors() == {}


async def test_the_last_image_of_a_batch_wins(order_store: OrderStore) -> None:
    """A batch that touches one record many times leaves its last state."""
    history = History(0)
    events = [history.start_epoch(), history.move("r", State.HELD, 1)]
    events += [history.sync("sku", count) for count in (7, 8, 9)]
    events += [history.move("r", State.CONFIRMED, 2), history.sync("sku", 4)]

    at = await order_store.append(0, START, events)

    cursor, rows = await positions_of(order_store, 0)
    assert cursor == at
    assert rows == [PositionImage("sku", "node", "", StockPosition(4, source="erp"))]
    stored = await order_store.reservation("r")
    assert stored is not None
    assert stored.claim.state == State.CONFIRMED
    assert (stored.home, stored.at, stored.update_ms) == (
        0,
        Position(1, 6),
        events[5].event.time_ms,
    )
    assert stored.claim == events[5].event.claim


async def test_later_appends_replace_earlier_images(order_store: OrderStore) -> None:
    """The same over two appends, the second in a new epoch with a smaller sequence."""
    history = History(0)
    first = [history.start_epoch(), history.sync("a", 1), history.move("r", State.HELD)]
    second = [history.start_epoch(), history.move("r", State.RELEASED)]

    middle = await order_store.append(0, START, first)
    at = await order_store.append(0, middle, second)

    assert at == Position(2, 2)
    stored = await order_store.reservation("r")
    assert stored is not None
    assert (stored.claim.state, stored.at) == (State.RELEASED, at)


async def test_a_cursor_that_stands_elsewhere_refuses_the_append(order_store: OrderStore) -> None:
    """The fence: nothing is written by who thinks the cursor is where it is not."""
    history = History(0)
    first = [history.start_epoch()]
    second = [history.sync("a", 1)]
    await order_store.append(0, START, first)

    with pytest.raises(PreconditionFailed):
        await order_store.append(0, START, first)
    await order_store.append(0, Position(1, 1), second)
    with pytest.raises(PreconditionFailed):
        await order_store.append(0, Position(1, 1), second)
    with pytest.raises(PreconditionFailed):
        late = History(0, Position(1, 7))
        await order_store.append(0, Position(1, 7), [late.sync("a", 2)])

    assert await order_store.cursor(0) == Position(1, 2)
    assert await order_store.read_events(0, START, 10) == [*first, *second]


async def test_a_shard_that_never_began_has_no_other_cursor(order_store: OrderStore) -> None:
    """An append after an unknown position does not create the cursor."""
    history = History(0, Position(1, 7))

    with pytest.raises(PreconditionFailed):
        await order_store.append(0, Position(1, 7), [history.sync("a", 1)])

    assert await order_store.cursors() == {}
    assert await order_store.read_events(0, START, 10) == []


async def test_of_two_racing_relays_one_wins_and_nothing_is_doubled(
    order_store: OrderStore,
) -> None:
    """Both carry the same batch after the same cursor, many times over."""
    history = History(0)
    after = await order_store.append(0, START, [history.start_epoch()])
    for count in range(10):
        batch = [history.sync("a", count), history.sync("b", count)]
        results = await asyncio.gather(
            *(order_store.append(0, after, batch) for _ in range(3)), return_exceptions=True
        )
        after = batch[-1].at

        assert [r for r in results if not isinstance(r, BaseException)] == [after]
        lost = [r for r in results if isinstance(r, BaseException)]
        assert [type(r) for r in lost] == [PreconditionFailed] * 2

    events = await order_store.read_events(0, START, 100)
    assert [stored.at.sequence for stored in events] == list(range(1, 22))


async def test_the_very_first_append_races_too(order_store: OrderStore) -> None:
    """No cursor row exists yet to be locked."""
    batch = [History(0).start_epoch()]

    results = await asyncio.gather(
        *(order_store.append(0, START, batch) for _ in range(4)), return_exceptions=True
    )

    assert sorted(str(type(r).__name__) for r in results) == ["Position"] + 3 * [
        "PreconditionFailed"
    ]


async def test_shards_do_not_see_each_other(order_store: OrderStore) -> None:
    """Same identities, same keys, other shard."""
    histories = [History(0), History(1)]
    for shard, history in enumerate(histories):
        events = [history.start_epoch(), history.sync("a", shard + 1)]
        await order_store.append(shard, START, events)

    for shard in (0, 1):
        _, rows = await positions_of(order_store, shard)
        assert [row.row.on_hand for row in rows] == [shard + 1]


async def test_a_gap_is_refused_wherever_it_is(order_store: OrderStore) -> None:
    """Before the batch, inside it, in a new epoch without its start, or of another shard."""
    history = History(0)
    start, one, two, three = (
        history.start_epoch(),
        history.sync("a", 1),
        history.sync("a", 2),
        history.sync("a", 3),
    )
    epoch = history.start_epoch()
    skipped = History(0, Position(2, 9)).start_epoch()
    unstarted = History(0, Position(1, 0)).sync("a", 1)
    foreign = History(1).start_epoch()

    for batch in ([one], [start, two], [start, one, three], [start, epoch], [skipped]):
        with pytest.raises(SequenceGap):
            await order_store.append(0, START, batch)
    for batch in ([unstarted], [foreign], [start, start]):
        with pytest.raises(SequenceGap):
            await order_store.append(0, START, batch)
    await order_store.append(0, START, [start, one])
    with pytest.raises(SequenceGap):
        await order_store.append(0, one.at, [three])

    assert await order_store.cursor(0) == one.at


async def test_a_new_epoch_names_the_last_event_of_the_old_one(order_store: OrderStore) -> None:
    """EPOCH_STARTED with another predecessor means lost events."""
    history = History(0)
    at = await order_store.append(0, START, [history.start_epoch(), history.sync("a", 1)])
    forgetful = History(0, Position(1, 1)).start_epoch()

    with pytest.raises(SequenceGap):
        await order_store.append(0, at, [forgetful])

    assert await order_store.append(0, at, [history.start_epoch()]) == Position(2, 1)


@pytest.mark.parametrize("hostile", HOSTILE_IDS)
async def test_ids_are_plain_data(order_store: OrderStore, hostile: str) -> None:
    """Whatever an id holds, it comes back as it went in and does nothing on its way."""
    history = History(0)
    sync = history.start_epoch(), history.sync(hostile, 3, node_id=hostile, bucket=hostile)
    move = history.move(hostile, State.HELD)

    await order_store.append(0, START, [*sync, move])
    await order_store.upsert_network("node", {hostile: json.dumps({"name": hostile})})

    _, rows = await positions_of(order_store, 0)
    assert (hostile, hostile, hostile) in [row[:3] for row in rows]
    stored = await order_store.reservation(hostile)
    assert stored is not None and stored.reservation_id == hostile
    documents = (await order_store.network()).documents["node"]
    assert json.loads(documents[hostile]) == {"name": hostile}


async def test_the_largest_numbers_fit(order_store: OrderStore) -> None:
    """Quantities up to QUANTITY_MAX, totals and sequences up to 2**53."""
    history = History(0)
    start = history.start_epoch()
    row = StockPosition(
        *[QUANTITY_MAX] * 4, *[2**53] * 3, source="s" * 64, source_sequence=2**53,
        multi_hold_ms=2**53, sold_short=QUANTITY_MAX, arrival_ms=-1,
        protected=(Protection("web", QUANTITY_MAX, 2**53),),
    )  # fmt: skip
    image = PositionImage("sku", "node", "", row)
    event = history.next(Event(EventType.SUPPLY_SYNCED, 2**53, "", positions=(image,)))

    await order_store.append(0, START, [start, event])

    assert (await positions_of(order_store, 0))[1] == [image]


async def test_accounts_that_were_closed_are_stored_no_more(order_store: OrderStore) -> None:
    """In one append with what came before and after, or in appends of their own; one that is opened
    again stands, and so does everything else."""
    history, names = History(0), [f"~SHIP_TO_ADDRESS/2026-01-0{n}/000" for n in range(1, 5)]

    def images(*chosen: int, row: StockPosition) -> tuple[PositionImage, ...]:
        return tuple(PositionImage(names[n], "n1", "", row) for n in chosen)

    def event(kind: EventType, *chosen: int, row: StockPosition) -> StoredEvent:
        return history.next(Event(kind, 1, "", positions=images(*chosen, row=row)))

    full, none = StockPosition(3, safety_stock=2), StockPosition()
    begun = [history.start_epoch(), event(EventType.LEG_HELD, 0, 1, 2, row=full)]
    begun.append(history.sync("sku", 9, "n1"))
    at = await order_store.append(0, START, begun)

    closed = event(EventType.ACCOUNTS_CLOSED, 0, 1, row=none)
    opened = event(EventType.LEG_HELD, 1, 3, row=full)
    at = await order_store.append(0, at, [closed, opened])
    stored = (await positions_of(order_store, 0))[1]
    assert sorted(stored)[1:] == list(images(1, 2, 3, row=full))

    again = event(EventType.LEG_HELD, 0, row=full)
    last = event(EventType.ACCOUNTS_CLOSED, 0, 1, 2, 3, row=none)
    await order_store.append(0, at, [again, last])

    assert [image.sku for image in (await positions_of(order_store, 0))[1]] == ["sku"]


async def test_positions_are_copied_out_as_they_are_stored(order_store: OrderStore) -> None:
    """All of them, with what the ATS table shows, and the cursor they stand at."""
    assert images_of((await order_store.copy_positions(0))[1]) == []
    history = History(0)
    at = await order_store.append(0, START, [history.start_epoch()])
    cursor, rows = await order_store.copy_positions(0)
    assert (cursor, images_of(rows)) == (at, [])
    shares = (Protection("wéb", QUANTITY_MAX, 2**53), Protection("b", 2, 1, 3, 4))
    images = (
        PositionImage("é", "n", "", StockPosition(9, 1, 2, 3)),
        PositionImage("é", "n", "po-1", StockPosition(QUANTITY_MAX, 2**53, 0, 5, arrival_ms=-1)),
        PositionImage("a", "m", "", StockPosition(7, protected=shares)),
        PositionImage("a", "m", "po-2", StockPosition(arrival_ms=2**53)),
    )
    event = history.next(Event(EventType.SUPPLY_SYNCED, 1, "", positions=images))
    other = History(1)

    at = await order_store.append(0, at, [event])
    await order_store.append(1, START, [other.start_epoch(), other.sync("elsewhere", 1)])

    cursor, rows = await order_store.copy_positions(0)
    assert cursor == at
    assert sorted(images_of(rows)) == sorted(images)


async def test_a_batch_of_the_relays_size_is_one_append(order_store: OrderStore) -> None:
    """500 events over many records."""
    history = History(0)
    events = [history.start_epoch()]
    events += [history.move(f"r{i % 50}", State.HELD, i) for i in range(250)]
    events += [history.sync(f"sku{i % 70}", i) for i in range(249)]

    at = await order_store.append(0, START, events)

    assert at == Position(1, 500)
    assert len((await positions_of(order_store, 0))[1]) == 71
    assert await order_store.read_events(0, START, 1000) == events


async def test_a_tombstone_is_kept(order_store: OrderStore) -> None:
    """An aborted leg without lines is an event like any other."""
    history = History(0)
    events = [history.start_epoch(), history.tombstone("r")]

    at = await order_store.append(0, START, events)

    stored = (await order_store.read_events(0, START, 10))[-1]
    assert (stored.at, stored.event) == (at, events[-1].event)
    assert await order_store.reservation("r") is None


async def test_the_network_version_rises_only_with_changes(order_store: OrderStore) -> None:
    """The same document again, in another spelling, is no change."""
    assert await order_store.network_version() == 0
    assert await order_store.upsert_network("node", {"n1": '{"a": 1, "b": 2}', "n2": "{}"}) == 1
    assert await order_store.upsert_network("node", {"n1": '{"b":2,"a":1}'}) == 1
    assert await order_store.upsert_network("node", {}) == 1
    assert await order_store.upsert_network("node", {"n1": '{"a": 2}', "n2": "{}"}) == 2
    assert await order_store.upsert_network("lane", {"n1": "{}"}) == 3

    assert {k: sorted(v) for k, v in (await order_store.network(1)).documents.items()} == {
        "lane": ["n1"],
        "node": ["n1"],
    }
    assert await order_store.network(3) == (3, {})
    network = await order_store.network()

    assert network.version == await order_store.network_version() == 3
    assert {k: sorted(v) for k, v in network.documents.items()} == {
        "lane": ["n1"],
        "node": ["n1", "n2"],
    }
    assert json.loads(network.documents["node"]["n1"]) == {"a": 2}


async def test_a_document_that_was_deleted_is_told_to_who_follows(order_store: OrderStore) -> None:
    """And can be there again."""
    await order_store.upsert_network("lane", {"l1": '{"a": 1}', "l2": "{}"})

    assert await order_store.upsert_network("lane", {"l1": DELETED}) == 2
    assert (await order_store.network(1)).documents == {"lane": {"l1": DELETED}}
    assert (await order_store.network()).documents["lane"]["l1"] == DELETED
    assert await order_store.upsert_network("lane", {"l1": '{"a": 1}'}) == 3


async def test_concurrent_network_edits_are_counted_one_by_one(order_store: OrderStore) -> None:
    """Ten edits, ten versions."""
    edits = (order_store.upsert_network("node", {f"n{i}": "{}"}) for i in range(10))

    assert sorted(await asyncio.gather(*edits)) == list(range(1, 11))


async def test_an_edit_of_an_older_version_is_refused(order_store: PostgresOrderStore) -> None:
    """Read, change, write: whoever read before somebody else wrote must read again."""
    assert await order_store.upsert_network("node", {"n": '{"a": 1}'}, 0) == 1

    with pytest.raises(PreconditionFailed):
        await order_store.upsert_network("node", {"n": '{"a": 2}'}, 0)

    assert json.loads((await order_store.network()).documents["node"]["n"]) == {"a": 1}
    assert await order_store.upsert_network("node", {"n": '{"a": 2}'}, 1) == 2


@pytest.mark.parametrize("document", ["", "{", "nope", '{"a": NaN}', '"\\u0000"'])
async def test_what_is_no_json_is_the_callers_mistake(
    order_store: OrderStore, document: str
) -> None:
    """Named by document, and nothing of the batch is kept."""
    with pytest.raises(InvalidRequest) as caught:
        await order_store.upsert_network("node", {"good": "{}", "bad": document})

    assert "bad" in caught.value.violations[0].field
    assert await order_store.network_version() == 0
    assert dict((await order_store.network()).documents) == {}


async def test_two_bodies_under_one_identity_are_a_fork(
    order_store: OrderStore, set_cursor: SetCursor
) -> None:
    """After a cursor was set back: the same events pass, another body is refused as a whole."""
    history = History(0)
    events = [history.start_epoch(), history.sync("a", 1), history.sync("a", 2)]
    at = await order_store.append(0, START, events)
    other = History(0, Position(1, 1))
    forked = [other.sync("a", 1), other.sync("a", 99), other.sync("z", 5)]
    await set_cursor(0, Position(1, 1))

    with pytest.raises(Fork):
        await order_store.append(0, Position(1, 1), forked)

    assert await order_store.cursor(0) == Position(1, 1)
    assert await order_store.read_events(0, START, 10) == events
    assert await order_store.append(0, Position(1, 1), events[1:]) == at


async def test_an_older_image_never_overwrites_a_newer_one(
    order_store: OrderStore, set_cursor: SetCursor
) -> None:
    """Events carried a second time after the cursor was set back leave the newer rows alone."""
    history = History(0)
    start, old = history.start_epoch(), [history.sync("sku", 1), history.move("r", State.HELD)]
    new = [history.sync("sku", 2), history.move("r", State.CONFIRMED), history.sync("sku", 3)]
    await order_store.append(0, START, [start, *old, *new])
    await set_cursor(0, start.at)

    at = await order_store.append(0, start.at, old)

    assert at == old[-1].at
    assert [row.row.on_hand for row in (await positions_of(order_store, 0))[1]] == [3]
    stored = await order_store.reservation("r")
    assert stored is not None and stored.claim.state == State.CONFIRMED


async def test_a_shard_is_read_whole_and_alone(order_store: OrderStore) -> None:
    """Positions, legs and claims of one shard as last stored, with the cursor; none of another."""
    history, other = History(0), History(1)
    events = [
        history.start_epoch(),
        history.sync("a", 5),
        history.move("r", State.HELD),
        history.tombstone("t"),
        history.move("r", State.CONFIRMED),
    ]
    await order_store.append(0, START, events)
    await order_store.append(1, START, [other.start_epoch(), other.move("s", State.HELD)])

    stored = await order_store.read_shard(0)

    assert stored.at == Position(1, 5)
    assert {key.sku: row.on_hand for key, row in stored.positions.items()} == {"a": 5, "sku": 10}
    assert stored.legs == {"r": events[4].event.leg, "t": events[3].event.leg}
    assert stored.claims == {"r": events[4].event.claim}
    assert await order_store.read_shard(2) == (START, {}, {}, {})


async def test_an_order_store_is_bound_once_and_to_one_cluster(order_store: OrderStore) -> None:
    """Of several that start at once, one writes and all are told the same."""
    assert await order_store.cluster() is None

    wanted = [ClusterIdentity(f"id-{n}", "promise", 64) for n in range(4)]
    told = await asyncio.gather(*(order_store.bind_cluster(identity) for identity in wanted))

    assert len(set(told)) == 1
    assert await order_store.cluster() == told[0]
    assert await order_store.bind_cluster(ClusterIdentity("later", "other", 8)) == told[0]


async def test_reservations_are_listed_by_owner_or_reference_a_page_at_a_time(
    order_store: OrderStore,
) -> None:
    """By id, after the last one of the page before; with both, both must fit."""
    history = History(0)
    moves = [history.start_epoch(), *(history.move(rid, State.HELD) for rid in ("b", "a", "c"))]
    await order_store.append(0, START, moves)

    async def listed(owner: str, reference: str, after: str = "", limit: int = 10) -> list[str]:
        found = await order_store.list_reservations(owner, reference, after, limit)
        return [stored.reservation_id for stored in found]

    assert await listed("owner", "") == ["a", "b", "c"]
    assert await listed("owner", "order", "a", 1) == ["b"]
    assert await listed("", "order", "b") == ["c"]
    assert await listed("owner", "other") == await listed("somebody", "") == []
    (first, *_) = await order_store.list_reservations("owner", "", "", 1)
    assert first == await order_store.reservation("a")


async def test_legs_in_some_states_and_the_last_events_are_read(order_store: OrderStore) -> None:
    """Of one shard, or legs by shard and reservation; the newest event first."""
    history = History(0)
    events = [history.start_epoch(), history.move("r", State.HELD), history.tombstone("t"),
              history.move("s", State.CONFIRMED)]  # fmt: skip
    await order_store.append(0, START, events)

    assert await order_store.read_legs(0, [State.HELD, State.CONFIRMED]) == {
        "r": events[1].event.leg, "s": events[3].event.leg,
    }  # fmt: skip
    assert await order_store.read_legs(1, [State.HELD]) == {}
    assert await order_store.legs_at([(0, "r"), (0, "nobody"), (1, "s")]) == {
        (0, "r"): events[1].event.leg
    }
    assert await order_store.last_events(0, 2) == [events[3], events[2]]
    assert await order_store.last_events(1, 2) == []


async def test_the_key_of_quote_tokens_is_made_once_and_the_same_for_all(
    order_store: OrderStore,
) -> None:
    """Of several hosts that start at once each brings a key; the one that was kept signs."""
    made = [bytes([number]) * 32 for number in range(4)]
    told = await asyncio.gather(*(order_store.quote_key(key) for key in made))

    assert len(set(told)) == 1
    assert told[0] in made
    assert await order_store.quote_key(b"x" * 32) == told[0]


@pytest.mark.parametrize("sku", ['"', "\\", '\\"', "a,b", "{}", "NULL", "", "ä", "a\nb\t", "','"])
async def test_texts_are_kept_whatever_is_in_them(order_store: OrderStore, sku: str) -> None:
    """Beside plain ones in one batch: many texts go to the store as one."""
    history = History(0)
    events = [history.start_epoch(), *(history.sync(each, 1) for each in ("plain", sku))]

    await order_store.append(0, START, events)

    _, images = await positions_of(order_store, 0)
    assert {image.sku for image in images} == {"plain", sku}
