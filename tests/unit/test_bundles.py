"""Bundles: exploded, summed, told as what was asked for."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promise_svc.application.availability import AvailabilityCheck, AvailabilityQuery
from promise_svc.application.network_edit import UpsertOutcome
from promise_svc.application.pickup import FindPickupNodesRequest
from promise_svc.application.stock import Consistency
from promise_svc.domain.bundle import exploded
from promise_svc.domain.cart import Cart, promise_cart
from promise_svc.domain.inventory import QUANTITY_MAX
from promise_svc.domain.network import BundleComponent, Item
from promise_svc.domain.network_validation import violations
from promise_svc.domain.reach import Address, Line, UnfulfilledReason, Wanted
from promise_svc.errors import InvalidRequest
from tests.support.market import Market
from tests.support.networks import SHIP, a_lane, a_node, a_service, a_snapshot
from tests.unit import test_availability, test_network_edit
from tests.unit.test_promise import NOW, SAN_FRANCISCO, TUESDAY, a_market, cart, places, refusals

SET = (BundleComponent("S", 2), BundleComponent("T", 1))
Outcome = UpsertOutcome


def a_bundle(sku: str, **components: int) -> Item:
    parts = tuple(BundleComponent(*part) for part in components.items())
    return Item(sku=sku, components=parts)


@pytest.fixture
def shelf() -> test_availability.World:
    """SET is two S and one T."""
    world = test_availability.World()
    documents = world.snapshot.documents
    nodes = [*documents.nodes.values(), *documents.node_groups.values()]
    items = [*documents.items.values(), Item(sku="T"), Item(sku="SET", components=SET)]
    world.snapshot = a_snapshot(*nodes, *items)
    return world


async def test_a_node_has_as_many_bundles_as_its_scarcest_component_is_enough_for(
    shelf: test_availability.World,
) -> None:
    """Whole sets at each node, summed: what A lacks, B does not lend to the figure."""
    for sku, node_id, units in (("S", "A", 9), ("T", "A", 3), ("S", "B", 5), ("T", "OFF", 7)):
        shelf.table.put(sku, node_id, units)
    shelf.table.put("T", "B", 8)

    answer = (await shelf.query(AvailabilityQuery(sku="SET"))).entries[0]
    check = AvailabilityCheck(skus=("SET", "SET", "S"), quantities=(5, 6, 14))
    checked = await shelf.reader.check(check, consistency=Consistency(), timeout=1.0)

    assert [(node.node_id, node.ats) for node in answer.nodes] == [("A", 3), ("B", 2)]
    assert answer.ats == 5
    assert checked.available == (True, False, True)


async def test_a_bundle_never_counted_is_none_and_not_unknown(
    shelf: test_availability.World,
) -> None:
    """Zero of something we sell."""
    answer = (await shelf.query(AvailabilityQuery(sku="SET"))).entries[0]

    assert (answer.outcome.name, answer.ats, answer.nodes) == ("OK", 0, ())


async def test_a_pickup_node_is_complete_only_for_the_sum_of_bundles_and_components(
    shelf: test_availability.World,
) -> None:
    """Two sets take four S: a fifth must be there for the loose one."""
    shelf.table.put("S", "A", 4)
    shelf.table.put("S", "B", 5)
    for node_id in "AB":
        shelf.table.put("T", node_id, 2)
    request = FindPickupNodesRequest(
        origin=Address(country="US", postal_code="", latitude=41.0, longitude=-87.6),
        lines=(Line("1", "SET", 2), Line("2", "S", 1)),
    )

    found = await shelf.finder.find(request, timeout=1.0)

    assert [(x.node.node_id, x.complete) for x in found.nodes] == [("A", False), ("B", True)]
    assert [line.ats for line in found.nodes[0].lines] == [2, 4]


@pytest.fixture
def shop() -> Market:
    market = a_market()
    market.add(Item(sku="SET", components=SET))
    return market


async def test_a_promise_shows_the_components_of_a_bundle(shop: Market) -> None:
    """Two sets from one node, by the weight of their components: six kilograms at one each."""
    shop.table.put("S", "DC1", 4)
    shop.table.put("T", "DC1", 2)

    reply = await shop.promise(cart(("SET", 2)))

    assert places(reply) == [("DC1", [("1#1", 4), ("1#2", 2)])]
    assert reply.options[0].latest_delivery_date == TUESDAY
    assert reply.options[0].total_cost_micros == 11_000_000


async def test_a_bundle_that_lacks_one_component_is_told_as_the_bundle(
    shop: Market,
) -> None:
    """In sets, by its scarcest part; and it keeps nothing from the line after it."""
    shop.table.put("S", "DC1", 3)
    shop.table.put("T", "DC1", 9)

    reply = await shop.promise(cart(("SET", 2), ("T", 9)))

    assert refusals(reply) == [("1", UnfulfilledReason.INSUFFICIENT_STOCK, 1)]
    assert places(reply) == [("DC1", [("2", 9)])]


async def test_two_bundles_that_share_a_component_are_checked_together(
    shop: Market,
) -> None:
    """Each alone would fit."""
    shop.add(Item(sku="PAIR", components=(BundleComponent("T", 2),)))
    shop.table.put("S", "DC1", 9)
    shop.table.put("T", "DC1", 2)

    reply = await shop.promise(cart(("SET", 1), ("PAIR", 1)))

    assert refusals(reply) == [("2", UnfulfilledReason.INSUFFICIENT_STOCK, 1)]
    assert places(reply) == [("DC1", [("1#1", 2), ("1#2", 1)])]


async def test_a_bundle_beyond_the_split_limit_is_refused_whole(shop: Market) -> None:
    """Its parts lie in two places and one shipment is allowed."""
    shop.table.put("S", "DC1", 2)
    shop.table.put("T", "DC2", 1)

    apart = await shop.promise(cart(("SET", 1), max_shipments=1))
    together = await shop.promise(cart(("SET", 1), max_shipments=2))

    assert [x[:2] for x in refusals(apart)] == [("1", UnfulfilledReason.SPLIT_LIMIT)]
    assert apart.options == ()
    assert sorted(node for node, _ in places(together)) == ["DC1", "DC2"]


def test_more_lines_or_units_than_a_request_may_have_are_refused() -> None:
    """Counted after the bundles are opened."""
    bundles = {"SET": SET}
    lines = [Line("1", "SET", QUANTITY_MAX // 2), Line("2", "T", 1)]

    assert len(exploded(lines, bundles, 3)[0]) == 3
    with pytest.raises(InvalidRequest) as many:
        exploded(lines, bundles, 2)
    with pytest.raises(InvalidRequest) as large:
        exploded([Line("0", "T", 1), Line("1", "SET", QUANTITY_MAX // 2 + 1)], bundles, 9)

    assert [v[:2] for v in many.value.violations] == [("lines", "TOO_MANY")]
    assert [v[:2] for v in large.value.violations] == [("lines[1].quantity", "OUT_OF_RANGE")]


def test_a_line_id_that_its_components_would_make_too_long_is_refused() -> None:
    """A reservation shows their ids, and callers send them back."""
    fits = Line("x" * 62, "SET", 1)

    parts, _ = exploded([fits], {"SET": SET}, 9)
    with pytest.raises(InvalidRequest) as long:
        exploded([Line("0", "T", 1), fits._replace(line_id="x" * 63)], {"SET": SET}, 9)

    assert max(len(line.line_id) for line in parts) == 64
    assert [v[:2] for v in long.value.violations] == [("lines[1].line_id", "TOO_LONG")]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["A", "B", "AB", "BB"]), st.integers(1, 3)), max_size=5),
    st.dictionaries(st.sampled_from("AB"), st.lists(st.integers(0, 4), min_size=2, max_size=2)),
)
def test_lines_are_kept_in_order_as_long_as_their_components_last(
    asked: list[tuple[str, int]], counts: dict[str, list[int]]
) -> None:
    """Against a count by hand: a line is kept if all its components are left, and then whole."""
    recipes = {"A": {"A": 1}, "B": {"B": 1}, "AB": {"A": 1, "B": 2}, "BB": {"B": 2}}
    nodes = ["N1", "N2"]
    snapshot = a_snapshot(
        *map(a_node, nodes),
        *map(a_lane, nodes),
        a_service(),
        *(Item(sku=sku) for sku in "AB"),
        *(a_bundle(sku, **recipes[sku]) for sku in ("AB", "BB")),
    )
    lines = tuple(Line(str(i), *line) for i, line in enumerate(asked))
    left = {sku: sum(counts.get(sku, ())) for sku in "AB"}
    expected: dict[str, dict[str, int]] = {}
    for line in lines:
        need = {sku: units * line.quantity for sku, units in recipes[line.sku].items()}
        if all(left[sku] >= units for sku, units in need.items()):
            left = {sku: units - need.get(sku, 0) for sku, units in left.items()}
            expected[line.line_id] = need

    stock = {sku: dict(zip(nodes, units, strict=True)) for sku, units in counts.items()}
    wanted = Wanted(address=SAN_FRANCISCO, fulfillment_methods=frozenset({SHIP}), order_ms=NOW)
    opened, _ = exploded(lines, snapshot.bundles, 100)
    promised = promise_cart(
        snapshot, Cart(lines=opened, stock=stock, wanted=wanted, max_shipments=2, max_options=1)
    )

    sent: dict[str, dict[str, int]] = {}
    for shipment in promised.options[0].shipments if promised.options else ():
        for line_id, sku, units, _ in shipment.lines:
            line = sent.setdefault(line_id.partition("#")[0], {})
            line[sku] = line.get(sku, 0) + units
    assert sent == expected
    refused = {x.line_id.partition("#")[0] for x in promised.unfulfilled_lines}
    assert refused == {line.line_id for line in lines} - set(expected)


@pytest.fixture
async def office() -> test_network_edit.World:
    world = test_network_edit.World()
    await world.upsert("item", Item(sku="S"), Item(sku="T"), Item(sku="SET", components=SET))
    return world


async def test_a_bundle_needs_components_that_are_items(office: test_network_edit.World) -> None:
    """Known before, or earlier in the same call."""
    outcomes = await office.upsert(
        "item", a_bundle("DUO", S=1, U=1), Item(sku="U"), a_bundle("TRIO", S=1, U=1)
    )

    assert outcomes == [
        (Outcome.UNKNOWN_COMPONENT, "U"),
        (Outcome.CREATED, ""),
        (Outcome.CREATED, ""),
    ]
    assert set(office.editor.snapshot().bundles) == {"SET", "TRIO"}


async def test_bundles_hold_no_bundles_from_either_side(office: test_network_edit.World) -> None:
    """Neither a bundle as a component, nor a component that becomes one."""
    assert await office.upsert("item", a_bundle("BOX", SET=1)) == [(Outcome.NESTED_BUNDLE, "SET")]
    assert await office.upsert("item", a_bundle("S", T=1)) == [(Outcome.NESTED_BUNDLE, "SET")]

    changed = replace(office.editor.snapshot().documents.items["SET"], components=SET[1:])
    assert await office.upsert("item", changed, a_bundle("S", T=1)) == [
        (Outcome.UPDATED, ""),
        (Outcome.UPDATED, ""),
    ]


async def test_what_was_counted_cannot_become_a_bundle(office: test_network_edit.World) -> None:
    """Its units would be in no answer any more."""
    office.table.shards = {"OLD": 0}

    assert await office.upsert("item", a_bundle("OLD", S=1)) == [(Outcome.BUNDLE_HAS_STOCK, "OLD")]


def test_a_bundle_names_each_component_once_and_never_itself() -> None:
    """And no more units than a bundle may have."""
    wrong = Item(
        sku="X",
        components=(*SET, BundleComponent("S", 1), BundleComponent("X", 1)),
    )

    assert [v[0] for v in violations(wrong)] == ["components[2].sku", "components[3].sku"]
    assert [v[0] for v in violations(a_bundle("X", S=1001))] == ["components[0].quantity"]
