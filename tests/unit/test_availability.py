"""ATS over scopes, freshness of answers, pickup nodes nearby."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import time

import pytest

from promise_svc.application.availability import (
    AvailabilityCheck,
    AvailabilityOutcome,
    AvailabilityQuery,
    AvailabilityReader,
    AvailabilityReply,
    AvailabilityView,
)
from promise_svc.application.pickup import (
    FindPickupNodesOutcome,
    FindPickupNodesRequest,
    PickupFinder,
)
from promise_svc.application.stock import (
    Consistency,
    DegradedReason,
    StockSource,
)
from promise_svc.domain.network import (
    FulfillmentMethod,
    Item,
    NodeGroup,
    NodeStatus,
    SourcingRule,
)
from promise_svc.domain.reach import Address, Line
from promise_svc.domain.sharding import START, Position, shard_of
from promise_svc.errors import InvalidRequest, NotServing, Unavailable
from tests.support.fake_ats_reader import FakeAtsReader, FakeClock
from tests.support.fake_stock_index import FakeStockIndex
from tests.support.networks import (
    CHICAGO,
    PICKUP,
    SHIP,
    VERSION,
    a_method,
    a_node,
    a_snapshot,
    ms,
)

NOW = ms("2026-11-20T12:00", CHICAGO)  # a Friday
STRONG = Consistency(strong=True)
PICKUP_TERMS = a_method(PICKUP, time(18), minutes=120, opening_time=time(9))


class World:
    """Three nodes, one of them OFF, and a table that is one second old."""

    def __init__(self) -> None:
        self.snapshot = a_snapshot(
            a_node("A", methods=[PICKUP_TERMS], latitude=41.0),
            a_node("B", methods=[PICKUP_TERMS], latitude=41.1),
            a_node("OFF", methods=[PICKUP_TERMS], latitude=41.05, status=NodeStatus.OFF),
            a_node("SHIPS", latitude=41.01),
            NodeGroup(node_group_id="g", node_ids=("OFF", "B", "SHIPS")),
            Item(sku="S"),
            Item(sku="NEVER_STOCKED"),
            Item(sku="KEYED", shard_key="style"),
        )
        self.clock = FakeClock(NOW)
        self.table = FakeAtsReader(NOW - 1000)
        self.index = FakeStockIndex(NOW - 5)
        self.stock = StockSource(
            table=self.table,
            index=self.index,
            network=lambda: self.snapshot,
            clock=self.clock,
            shard_reads_max=2,
        )
        self.reader = AvailabilityReader(stock=self.stock, network=lambda: self.snapshot)
        self.finder = PickupFinder(
            stock=self.stock, network=lambda: self.snapshot, clock=self.clock
        )

    async def query(
        self,
        *entries: AvailabilityQuery,
        consistency: Consistency = Consistency(),  # noqa: B008 - immutable
        view: AvailabilityView = AvailabilityView.BREAKDOWN,
    ) -> AvailabilityReply:
        return await self.reader.query(entries, consistency=consistency, view=view, timeout=1.0)

    async def ats(self, sku: str, consistency: Consistency) -> tuple[int, AvailabilityReply]:
        reply = await self.query(AvailabilityQuery(sku=sku), consistency=consistency)
        return reply.entries[0].ats, reply


@pytest.fixture
def world() -> World:
    return World()


async def test_ats_is_summed_over_nodes_that_are_on(world: World) -> None:
    """An OFF node is listed as OFF and counts as 0; a node the network lost is left out."""
    for node_id in ("A", "B", "OFF", "GONE"):
        world.table.put("S", node_id, 10)

    answer = (await world.query(AvailabilityQuery(sku="S"))).entries[0]

    assert answer.ats == 20
    assert [(node.node_id, node.ats, node.status) for node in answer.nodes] == [
        ("A", 10, NodeStatus.ON),
        ("B", 10, NodeStatus.ON),
        ("OFF", 0, NodeStatus.OFF),
    ]


async def checked(
    world: World, skus: tuple[str, ...], quantities: tuple[int, ...] = (), **scope: object
) -> tuple[AvailabilityOutcome, tuple[bool, ...], tuple[int, ...]]:
    check = AvailabilityCheck(
        skus=skus, quantities=quantities or (1,) * len(skus), **scope  # type: ignore[arg-type]
    )  # fmt: skip
    reply = await world.reader.check(check, consistency=Consistency(), timeout=1.0)
    return reply.outcome, reply.available, reply.unknown


async def test_a_check_says_yes_where_the_scope_has_enough_together(world: World) -> None:
    """Summed over its nodes that are ON, less inbound; a SKU nobody knows is a no, and named."""
    world.table.put("S", "A", 3)
    world.table.put("S", "B", 2)
    world.table.put("S", "OFF", 99)
    world.table.put("S", "A", 99, bucket="po-1")
    ok = AvailabilityOutcome.OK

    assert await checked(world, ("S", "X", "S", "NEVER_STOCKED"), (5, 1, 6, 1)) == (
        ok, (True, False, False, False), (1,),
    )  # fmt: skip
    assert await checked(world, ("S", "S"), (2, 3), node_group_id="g") == (ok, (True, False), ())
    assert await checked(world, ("S", "S"), (3, 4), node_ids=("A", "A", "OFF")) == (
        ok, (True, False), (),
    )  # fmt: skip


async def test_a_check_over_no_scope_says_so(world: World) -> None:
    """Rather than no for everything."""
    unknown_group = AvailabilityOutcome.UNKNOWN_NODE_GROUP
    assert await checked(world, ("S",), node_group_id="h") == (unknown_group, (), ())
    unknown_node = AvailabilityOutcome.UNKNOWN_NODE
    assert await checked(world, ("S",), node_ids=("A", "X")) == (unknown_node, (), ())


async def test_ats_is_what_is_left_and_never_counts_inbound(world: World) -> None:
    """Committed, held and safety stock are taken off; a bucket is not here yet; a shortage shows
    as 0 and is told."""
    world.table.put("S", "A", 10, committed=1, held=2, safety_stock=3)
    world.table.put("S", "A", 99, bucket="po-1")
    world.table.put("S", "B", 1, committed=4)

    answer = (await world.query(AvailabilityQuery(sku="S"))).entries[0]

    assert answer.ats == 4
    assert [
        (n.ats, n.on_hand, n.committed, n.reserved, n.safety_stock, n.shortage)
        for n in answer.nodes
    ] == [(4, 10, 1, 2, 3, 0), (0, 1, 4, 0, 0, 3)]


async def test_what_is_on_its_way_is_told_apart_by_when_it_arrives(world: World) -> None:
    """What may be sold of each bucket at the nodes of the scope that are ON, if asked for; not of
    what is here, and no part of ATS."""
    world.table.put("S", "A", 1)
    world.table.put("S", "A", 9, bucket="po-2", arrival_ms=7_000, held=2, safety_stock=3)
    world.table.put("S", "B", 5, bucket="po-1", arrival_ms=5_000)
    world.table.put("S", "B", 4, bucket="po-3")
    world.table.put("S", "B", 2, bucket="po-4", arrival_ms=6_000, committed=2)
    world.table.put("S", "A", 3, bucket="po-5", arrival_ms=-1)
    world.table.put("S", "OFF", 3, bucket="po-6", arrival_ms=1)
    asked = AvailabilityQuery(sku="S"), AvailabilityQuery(sku="S", node_ids=("A",))

    everywhere, at_a = (await world.query(*asked, view=AvailabilityView.INBOUND)).entries
    plain = (await world.query(asked[0])).entries[0]

    assert [tuple(x) for x in everywhere.inbound] == [
        ("B", "po-1", 5, 5_000), ("A", "po-2", 4, 7_000), ("B", "po-3", 4, 0),
    ]  # fmt: skip
    assert [x.bucket for x in at_a.inbound] == ["po-2"]
    assert (everywhere.ats, plain.ats, plain.inbound) == (1, 1, ())


async def test_each_entry_has_its_own_scope_and_outcome_in_request_order(world: World) -> None:
    """One unknown name leaves the others alone."""
    world.table.put("S", "A", 1)
    world.table.put("S", "B", 2)
    world.table.put("UNLISTED", "B", 4)

    reply = await world.query(
        AvailabilityQuery(entry_id="1", sku="S", node_ids=("B", "SHIPS", "B")),
        AvailabilityQuery(entry_id="2", sku="S", node_group_id="g"),
        AvailabilityQuery(entry_id="3", sku="S"),
        AvailabilityQuery(entry_id="4", sku="X"),
        AvailabilityQuery(entry_id="5", sku="S", node_group_id="h"),
        AvailabilityQuery(entry_id="6", sku="S", node_ids=("A", "X")),
        AvailabilityQuery(entry_id="7", sku="X", node_ids=("X",)),
        AvailabilityQuery(entry_id="8", sku="NEVER_STOCKED"),
        AvailabilityQuery(entry_id="9", sku="UNLISTED"),
    )

    outcome = AvailabilityOutcome
    found = [(e.entry_id, e.outcome, e.ats, [n.node_id for n in e.nodes]) for e in reply.entries]
    assert found == [
        ("1", outcome.OK, 2, ["B", "SHIPS"]),
        ("2", outcome.OK, 2, ["B"]),
        ("3", outcome.OK, 3, ["A", "B"]),
        ("4", outcome.UNKNOWN_SKU, 0, []),
        ("5", outcome.UNKNOWN_NODE_GROUP, 0, []),
        ("6", outcome.UNKNOWN_NODE, 0, []),
        ("7", outcome.UNKNOWN_SKU, 0, []),
        ("8", outcome.OK, 0, []),
        ("9", outcome.OK, 4, ["B"]),
    ]
    assert reply.entries[3].as_of is None


async def test_the_total_view_lists_no_nodes(world: World) -> None:
    """The sum alone."""
    world.table.put("S", "A", 1)

    reply = await world.query(AvailabilityQuery(sku="S"), view=AvailabilityView.TOTAL)

    assert (reply.entries[0].ats, reply.entries[0].nodes) == (1, ())


async def test_without_a_bound_the_table_answers_and_says_its_age(world: World) -> None:
    """No shard is asked, however old the table; past the heartbeats it says it is behind."""
    world.table.put("S", "A", 1)

    _, fresh = await world.ats("S", Consistency())
    world.clock.now += 5_000
    _, old = await world.ats("S", Consistency())

    assert fresh.freshness[:3] == (NOW - 1000, 1000, False)
    assert old.freshness == (NOW - 1000, 6000, True, DegradedReason.FEED_BEHIND)
    assert fresh.entries[0].as_of is not None
    assert Position(1, 7) == fresh.entries[0].as_of.at
    assert world.index.calls == []


async def test_a_strong_read_asks_the_shard_that_decides_the_sku(world: World) -> None:
    """By the item's shard key, once a shard; the table is not consulted."""
    world.table.put("KEYED", "A", 1)
    world.index.stock = {"KEYED": {"A": 7}}

    total, reply = await world.ats("KEYED", STRONG)

    shard = shard_of("style", 4)
    assert (7, [(shard, ("KEYED",))]) == (total, world.index.calls)
    assert reply.entries[0].as_of == (shard, Position(2, 9), NOW - 5)
    assert reply.freshness[:3] == (NOW - 5, 0, False)


async def test_a_sku_is_as_old_as_the_shard_that_has_it_or_would(world: World) -> None:
    """Never seen, the item's shard key says which; seen, the table does, whatever is said
    by a network that has not heard of the item."""
    style = shard_of("style", 4)
    other = (style + 1) % 4
    world.table.clocks = {style: (Position(1, 3), NOW - 9_000), other: (Position(1, 4), NOW - 7)}

    _, never_seen = await world.ats("KEYED", Consistency())
    world.table.put("KEYED", "A", 1)
    world.table.shards["KEYED"] = other
    _, seen = await world.ats("KEYED", Consistency())

    assert never_seen.freshness.as_of_ms == NOW - 9_000
    assert seen.entries[0].as_of == (other, Position(1, 4), NOW - 7)


async def test_a_strong_read_never_falls_back_to_the_table(world: World) -> None:
    """The shard's own error is the answer."""
    world.table.put("S", "A", 1)
    world.index.failures = {shard: NotServing("takeover") for shard in range(4)}

    with pytest.raises(NotServing):
        await world.ats("S", STRONG)


async def test_shards_are_read_in_parallel_and_each_once(world: World) -> None:
    """Many SKUs, at most one call a shard, all under way before any is answered."""
    world.index.gate = asyncio.Event()
    skus = [f"SKU-{i}" for i in range(40)]

    waiting = asyncio.create_task(
        world.query(*(AvailabilityQuery(sku=sku) for sku in [*skus, *skus]), consistency=STRONG)
    )
    await world.index.entered.wait()
    calls = list(world.index.calls)
    world.index.gate.set()
    await waiting

    assert sorted(shard for shard, _ in calls) == [0, 1, 2, 3]
    assert sorted(skus) == sorted(sku for _, some in calls for sku in some)


async def test_an_answer_older_than_the_bound_is_read_from_the_shard(world: World) -> None:
    """At the bound the table will do; a millisecond tighter it will not."""
    world.table.put("S", "A", 1)
    world.index.stock = {"S": {"A": 5}}

    at_bound, _ = await world.ats("S", Consistency(max_age_ms=1000))
    tighter, reply = await world.ats("S", Consistency(max_age_ms=999))

    assert (at_bound, tighter) == (1, 5)
    assert (reply.freshness.age_ms, reply.freshness.degraded) == (5, False)


async def test_a_stale_answer_that_cannot_be_refreshed_says_degraded(world: World) -> None:
    """The table's figure, its true age, and why."""
    world.table.put("S", "A", 1)
    world.index.failures = {shard: Unavailable("away") for shard in range(4)}

    total, reply = await world.ats("S", Consistency(max_age_ms=0))

    assert total == 1
    assert reply.freshness == (NOW - 1000, 1000, True, DegradedReason.INDEX_UNREACHABLE)


@pytest.mark.parametrize("timeout", [0.2, 30.0])
async def test_a_shard_that_hangs_leaves_time_for_the_stale_answer(
    world: World, timeout: float
) -> None:
    """Half of the caller's time, and a quarter of a second at most; then the table's figure."""
    world.table.put("S", "A", 1)
    world.index.gate = asyncio.Event()  # never set: the shard's node is paused

    async with asyncio.timeout(min(timeout, 2.0)):
        stock = await world.stock.read(["S"], Consistency(max_age_ms=0), timeout)

    assert stock.freshness == (NOW - 1000, 1000, True, DegradedReason.INDEX_UNREACHABLE)
    world.index.gate.set()


async def test_readers_of_one_stale_sku_share_one_flight(world: World) -> None:
    """Two callers, one call; one giving up does not take the other down."""
    world.index.gate = asyncio.Event()
    world.index.stock = {"S": {"A": 5}}
    world.table.put("S", "A", 1)

    callers = [asyncio.create_task(world.ats("S", Consistency(max_age_ms=0))) for _ in range(3)]
    await world.index.entered.wait()
    await asyncio.sleep(0)  # the others join
    callers[0].cancel()
    await asyncio.wait(callers[:1])
    world.index.gate.set()
    totals = [(await caller)[0] for caller in callers[1:]]

    assert (totals, len(world.index.calls)) == ([5, 5], 1)


async def test_a_spent_budget_of_shard_reads_leaves_the_rest_stale(world: World) -> None:
    """Two reads at once are allowed here; the other shards' figures stay and say so."""
    skus = [f"SKU-{i}" for i in range(40)]
    for sku in skus:
        world.table.put(sku, "A", 1)
    world.index.stock = {sku: {"A": 5} for sku in skus}

    reply = await world.query(
        *(AvailabilityQuery(sku=sku) for sku in skus), consistency=Consistency(max_age_ms=0)
    )

    assert len(world.index.calls) == 2
    assert {1, 5} == {entry.ats for entry in reply.entries}
    assert reply.freshness.degraded_reason is DegradedReason.READ_BUDGET_SPENT


async def test_a_table_that_never_heard_of_the_shard_is_no_answer(world: World) -> None:
    """It asks the shard even without a bound, and is UNAVAILABLE if that fails too: never
    UNKNOWN_SKU, never 0."""
    world.table.at, world.table.time_ms = START, 0
    world.index.stock = {"S": {"A": 5}}

    total, _ = await world.ats("S", Consistency())
    world.index.failures = {shard: Unavailable("away") for shard in range(4)}

    assert total == 5
    with pytest.raises(Unavailable):
        await world.ats("S", Consistency())


def pickup(
    *lines: Line,
    latitude: float | None = 41.0,
    radius_meters: int = 50_000,
    limit: int = 20,
    fulfillment_method: FulfillmentMethod = PICKUP,
) -> FindPickupNodesRequest:
    return FindPickupNodesRequest(
        origin=Address(country="US", postal_code="", latitude=latitude, longitude=-87.6),
        lines=lines or (Line("1", "S", 2),),
        radius_meters=radius_meters,
        limit=limit,
        fulfillment_method=fulfillment_method,
    )


async def test_pickup_nodes_come_nearest_first_with_stock_and_ready_time(world: World) -> None:
    """Only nodes that are ON and hand over; those with too little are listed too."""
    world.table.put("S", "B", 3)
    world.table.put("S", "OFF", 3)

    reply = await world.finder.find(pickup(), timeout=1.0)

    assert [(n.node.node_id, n.lines[0].ats, n.complete) for n in reply.nodes] == [
        ("A", 0, False),
        ("B", 3, True),
    ]
    assert [n.distance_meters for n in reply.nodes] == [0, 11120]
    assert ms("2026-11-20T14:00", CHICAGO) == reply.nodes[1].ready_ms
    assert ms("2026-11-20T18:00", CHICAGO) == reply.nodes[1].order_by_ms
    assert (reply.network_version, reply.freshness.as_of_ms) == (VERSION, NOW - 1000)


async def test_a_node_that_rules_exclude_is_not_offered_for_pickup(world: World) -> None:
    """As PromiseCart refuses it: for every item, for a class of items, and not for other methods.
    The next node takes its place in the answer."""
    cold = Item(sku="COLD", handling_class="cold")
    group = NodeGroup(node_group_id="a", node_ids=("A",))
    cold_rule = SourcingRule(
        rule_id="r",
        node_group_id="a",
        handling_class="cold",
        fulfillment_method=PICKUP,
        excluded=True,
    )
    every = replace(cold_rule, handling_class="")
    for sku in ("S", "COLD"):
        world.table.put(sku, "A", 3)
        world.table.put(sku, "B", 2)
    known = *world.snapshot.documents.nodes.values(), Item(sku="S"), cold, group

    async def offered(rule: SourcingRule, *skus: str) -> list[tuple[str, list[int], bool]]:
        world.snapshot = a_snapshot(*known, rule)
        lines = [Line(str(n), sku, 2) for n, sku in enumerate(skus)]
        reply = await world.finder.find(pickup(*lines, limit=1), timeout=1.0)
        return [(n.node.node_id, [x.ats for x in n.lines], n.complete) for n in reply.nodes]

    assert await offered(every, "S") == [("B", [2], True)]
    assert await offered(cold_rule, "COLD") == [("B", [2], True)]
    assert await offered(cold_rule, "COLD", "S") == [("A", [0, 3], False)]
    assert await offered(cold_rule, "S") == [("A", [3], True)]
    assert await offered(replace(every, fulfillment_method=SHIP), "S") == [("A", [3], True)]


async def test_a_node_is_complete_only_if_repeats_of_a_sku_fit_together(world: World) -> None:
    """Two lines of two need four."""
    world.table.put("S", "A", 3)
    world.table.put("S", "B", 4)

    reply = await world.finder.find(pickup(Line("1", "S", 2), Line("2", "S", 2)), timeout=1.0)

    assert [node.complete for node in reply.nodes] == [False, True]


async def test_an_unknown_sku_is_an_outcome_of_its_line(world: World) -> None:
    """The other line is answered."""
    world.table.put("S", "A", 9)

    reply = await world.finder.find(pickup(Line("1", "S", 2), Line("2", "X", 1)), timeout=1.0)

    assert [line.outcome for line in reply.nodes[0].lines] == [
        AvailabilityOutcome.OK,
        AvailabilityOutcome.UNKNOWN_SKU,
    ]
    assert not reply.nodes[0].complete


async def test_inbound_stock_cannot_be_collected(world: World) -> None:
    """It is not there yet."""
    world.table.put("S", "A", 9, bucket="po-1")

    reply = await world.finder.find(pickup(), timeout=1.0)

    assert (reply.nodes[0].lines[0].ats, reply.nodes[0].complete) == (0, False)


async def test_radius_and_limit_bound_the_search(world: World) -> None:
    """B is 11.1 km away."""
    narrow = await world.finder.find(pickup(radius_meters=11_000), timeout=1.0)
    one = await world.finder.find(pickup(limit=1), timeout=1.0)

    assert ["A"] == [n.node.node_id for n in narrow.nodes] == [n.node.node_id for n in one.nodes]


async def test_a_store_without_business_days_has_no_ready_time(world: World) -> None:
    """Listed, because it has the goods; nobody knows when."""
    world.snapshot = a_snapshot(
        a_node("A", methods=[PICKUP_TERMS], latitude=41.0, calendar_id="unknown"), Item(sku="S")
    )

    reply = await world.finder.find(pickup(), timeout=1.0)

    assert [(n.ready_ms, n.order_by_ms) for n in reply.nodes] == [(None, None)]


async def test_an_origin_without_coordinates_is_an_outcome(world: World) -> None:
    """Unless the postal code is known to the finder."""
    reply = await world.finder.find(pickup(latitude=None), timeout=1.0)
    knows = PickupFinder(
        stock=world.stock,
        network=lambda: world.snapshot,
        clock=world.clock,
        locate=lambda country, postal_code: (41.0, -87.6),
    )

    assert FindPickupNodesOutcome.UNKNOWN_ORIGIN is reply.outcome
    assert reply.nodes == ()
    assert len((await knows.find(pickup(latitude=None), timeout=1.0)).nodes) == 2


async def test_only_methods_of_collection_can_be_asked_for(world: World) -> None:
    """A request error with the field's path."""
    with pytest.raises(InvalidRequest) as caught:
        wrong = pickup(fulfillment_method=FulfillmentMethod.SHIP_TO_ADDRESS)
        await world.finder.find(wrong, timeout=1.0)

    assert caught.value.violations[0].field == "fulfillment_method"
