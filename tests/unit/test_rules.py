"""Sourcing rules: what they drop, what they prefer, and that the answer says so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promise_svc.application.promise import PlanRequest, plan
from promise_svc.application.sourced_lines import REFUSALS
from promise_svc.domain.cart import Cart, promise_cart
from promise_svc.domain.network import (
    BundleComponent,
    Item,
    NodeGroup,
    NodeStatus,
    SourcingRule,
)
from promise_svc.domain.network_validation import violations
from promise_svc.domain.reach import Address, Line, Reach, UnfulfilledReason, Wanted
from promise_svc.domain.sourcing import Candidate, Demand
from promise_svc.domain.verdicts import Explanation, Verdict
from tests.property.test_sourcing import all_keys
from tests.support.market import Market
from tests.support.networks import PICKUP, SHIP, a_lane, a_node, a_service, a_snapshot
from tests.unit.test_promise import NOW, SAN_FRANCISCO, a_market, cart, places, refusals


def a_rule(rule_id: str = "r", **says: object) -> SourcingRule:
    return SourcingRule(rule_id=rule_id, **says)  # type: ignore[arg-type]


@pytest.fixture
def market() -> Market:
    """S is cold; DC1 and DC2 are centers."""
    market = a_market()
    market.add(
        Item(sku="S", weight_grams=1500, handling_class="cold"),
        NodeGroup(node_group_id="centers", node_ids=("DC1", "DC2")),
        NodeGroup(node_group_id="vendors", node_ids=("VENDOR",)),
        NodeGroup(node_group_id="stores", node_ids=("STORE",)),
    )
    return market


def rule(market: Market, *rules: SourcingRule) -> None:
    market.add(*rules)


async def explained(market: Market, *lines: tuple[str, int], **other: object) -> Explanation:
    reply = await market.promise(cart(*lines, explain=True, **other))
    assert reply.explanation is not None
    return reply.explanation


def fates(told: Explanation) -> dict[str, tuple[str, tuple[str, ...]]]:
    return {node.node_id: (node.verdict.name, node.rule_ids) for node in told.nodes}


async def test_an_excluded_class_never_leaves_the_nodes_a_rule_names(market: Market) -> None:
    """Other items do; and what only those nodes have is refused by the rule, not by the stock."""
    rule(market, a_rule("no-cold", handling_class="cold", node_group_id="vendors", excluded=True))
    market.table.put("S", "VENDOR", 9)
    market.table.put("S", "DC1", 2)
    market.table.put("T", "VENDOR", 9)

    reply = await market.promise(cart(("S", 2), ("T", 1)))
    short = await market.promise(cart(("S", 3)))
    shorter = await market.promise(cart(("S", 12)))

    assert sorted(places(reply)) == [("DC1", [("1", 2)]), ("VENDOR", [("2", 1)])]
    assert refusals(short) == [("1", UnfulfilledReason.EXCLUDED_BY_RULE, 2)]
    assert refusals(shorter) == [("1", UnfulfilledReason.INSUFFICIENT_STOCK, 2)]


async def test_lower_priorities_are_used_only_where_the_others_cannot(market: Market) -> None:
    """Though one shipment from the store would do for what takes two from the centers."""
    rule(market, a_rule("centers", node_group_id="centers", priority=1))
    for node_id, units in (("DC1", 1), ("DC2", 1), ("STORE", 9)):
        market.table.put("T", node_id, units)

    two = await market.promise(cart(("T", 2)))
    three = await market.promise(cart(("T", 3)))

    assert sorted(node for node, _ in places(two)) == ["DC1", "DC2"]
    assert places(three) == [("STORE", [("1", 3)])]


async def test_nodes_that_lack_a_line_are_not_searched_for_the_rest(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The centers have no T, so how S could come from them is no question, and takes no work from
    the answer: nothing was left out of it."""
    monkeypatch.setattr("promise_svc.domain.cart.WORK_MAX", 2)
    rule(market, a_rule("centers", node_group_id="centers", priority=1))
    for sku, node_id, units in (
        ("S", "DC1", 1),
        ("S", "DC2", 1),
        ("S", "STORE", 9),
        ("T", "STORE", 9),
    ):
        market.table.put(sku, node_id, units)

    reply = await market.promise(cart(("S", 2), ("T", 1), max_options=1))

    assert places(reply) == [("STORE", [("1", 2), ("2", 1)])]
    assert reply.options[0].exact


async def test_a_line_nobody_has_does_not_open_lower_priorities_for_the_rest(
    market: Market,
) -> None:
    """The lines that can be promised at all decide."""
    rule(market, a_rule("stores-last", node_group_id="stores", priority=9))
    market.table.put("T", "DC1", 1)
    market.table.put("T", "STORE", 1)

    reply = await market.promise(cart(("T", 1), ("S", 1)))

    assert [x[0] for x in refusals(reply)] == ["2"]
    assert [node for node, _ in places(reply)] == ["DC1"]


async def test_an_extra_cost_turns_the_choice_and_is_not_told_as_a_price(market: Market) -> None:
    """DC2 is nearer; among equal dates and shipments the rule's cost outweighs that."""
    for node_id in ("DC1", "DC2"):
        market.table.put("T", node_id, 1)
    before = await market.promise(cart(("T", 1)))
    market.add(NodeGroup(node_group_id="west", node_ids=("DC2",)))
    rule(market, a_rule("dear", node_group_id="west", cost_micros=1_000_000))

    after = await market.promise(cart(("T", 1)))

    assert [node for node, _ in places(before)] == ["DC2"]
    assert [node for node, _ in places(after)] == ["DC1"]
    forced = await market.promise(cart(("T", 2)))
    assert [s.cost_micros for s in forced.options[0].shipments] == [5_000_000] * 2


async def test_a_rule_may_lower_the_split_limit_and_never_raises_it(market: Market) -> None:
    """For the region it names."""
    for node_id in ("DC1", "DC2"):
        market.table.put("T", node_id, 1)
    rule(market, a_rule("one-box", country="US", postal_prefix="94", max_shipments=1))

    here = await market.promise(cart(("T", 2)))
    elsewhere = await market.promise(
        cart(("T", 2), address=replace(SAN_FRANCISCO, postal_code="10001"))
    )
    asked = await market.promise(
        cart(("T", 2), address=replace(SAN_FRANCISCO, postal_code="10001"), max_shipments=1)
    )

    assert [x[1] for x in refusals(here)] == [UnfulfilledReason.SPLIT_LIMIT]
    assert refusals(elsewhere) == []
    assert [x[1] for x in refusals(asked)] == [UnfulfilledReason.SPLIT_LIMIT]


@pytest.mark.parametrize(
    ("fits", "says"),
    [
        (True, {"country": "US", "region": "CA"}),
        (False, {"country": "US", "region": "NY"}),
        (False, {"country": "CA"}),
        (True, {"country": "US", "postal_prefix": "941"}),
        (False, {"country": "US", "postal_prefix": "942"}),
        (True, {"fulfillment_method": SHIP}),
        (False, {"fulfillment_method": PICKUP}),
    ],
)
async def test_a_rule_speaks_only_of_the_orders_it_names(
    market: Market, fits: bool, says: dict[str, object]
) -> None:
    """By method, country, region and postal prefix."""
    market.table.put("T", "DC1", 1)
    rule(market, a_rule(excluded=True, **says))

    told = await explained(market, ("T", 1), address=replace(SAN_FRANCISCO, region="CA"))

    assert told.rule_ids == (("r",) if fits else ())
    assert told.nodes[0].verdict is (Verdict.EXCLUDED_BY_RULE if fits else Verdict.CHOSEN)


async def test_a_rule_of_a_pickup_holds_at_the_pickup_node(market: Market) -> None:
    """And a rule with a country is of no pickup."""
    market.table.put("S", "STORE", 1)
    asked = cart(("S", 1), address=None, pickup_node_id="STORE")
    rule(market, a_rule("far", country="US", excluded=True))
    assert (await market.promise(asked)).options

    rule(market, a_rule("cold", handling_class="cold", fulfillment_method=PICKUP, excluded=True))

    assert refusals(await market.promise(asked)) == [("1", UnfulfilledReason.EXCLUDED_BY_RULE, 0)]


async def test_every_node_with_stock_is_told_with_what_kept_or_dropped_it(market: Market) -> None:
    """A verdict each, best first, and the rules that speak of it."""
    rule(
        market,
        a_rule("1-centers", node_group_id="centers", priority=1),
        a_rule("2-no-vendors", node_group_id="vendors", excluded=True),
        a_rule("3-no-pickup", fulfillment_method=PICKUP, excluded=True),
    )
    market.add(a_node("DC3", status=NodeStatus.OFF), a_node("ALONE"))
    for node_id in ("DC1", "DC2", "STORE", "VENDOR", "DC3", "ALONE", "GONE"):
        market.table.put("T", node_id, 1)
    market.table.put("T", "EMPTY", 0)

    told = await explained(market, ("T", 1), max_shipments=2)

    assert fates(told) == {
        "DC2": ("CHOSEN", ("1-centers",)),
        "DC1": ("NOT_NEEDED", ("1-centers",)),
        "GONE": ("UNKNOWN_NODE", ()),
        "DC3": ("NODE_OFF", ()),
        "ALONE": ("NO_LANE", ()),
        "VENDOR": ("EXCLUDED_BY_RULE", ("2-no-vendors",)),
        "STORE": ("LOWER_PRIORITY", ()),
    }
    assert list(fates(told))[0] == "DC2"
    assert (told.rule_ids, told.max_shipments) == (("1-centers", "2-no-vendors"), 2)
    assert told.node_count == 7


async def test_what_rules_keep_of_a_node_that_is_used_is_told_by_sku(market: Market) -> None:
    """It sends the one and not the other."""
    rule(market, a_rule("cold", handling_class="cold", node_group_id="vendors", excluded=True))
    market.table.put("S", "VENDOR", 1)
    market.table.put("S", "DC1", 1)
    market.table.put("T", "VENDOR", 1)

    told = await explained(market, ("S", 1), ("T", 1))

    (vendor,) = [node for node in told.nodes if node.node_id == "VENDOR"]
    assert (vendor.verdict, vendor.excluded_skus) == (Verdict.CHOSEN, ("S",))


async def test_a_bundle_is_sourced_by_the_classes_of_its_components(market: Market) -> None:
    """The cold one does not leave the vendor, the other may."""
    market.add(Item(sku="SET", components=(BundleComponent("S", 1), BundleComponent("T", 1))))
    rule(market, a_rule("cold", handling_class="cold", node_group_id="vendors", excluded=True))
    for sku in "ST":
        market.table.put(sku, "VENDOR", 1)

    alone = await market.promise(cart(("SET", 1)))
    market.table.put("S", "DC1", 1)
    both = await market.promise(cart(("SET", 1)))

    assert refusals(alone) == [("1", UnfulfilledReason.EXCLUDED_BY_RULE, 0)]
    assert sorted(places(both)) == [("DC1", [("1#1", 1)]), ("VENDOR", [("1#2", 1)])]


def test_a_reservation_is_sourced_by_the_same_rules(market: Market) -> None:
    """The plan that is held is the plan that is promised; its refusal has an outcome."""
    rule(market, a_rule(node_group_id="centers", excluded=True))
    market.table.put("T", "DC1", 1)
    request = PlanRequest(
        lines=(Line("1", "T", 1),), fulfillment_method=SHIP, address=SAN_FRANCISCO, order_ms=NOW
    )

    refused = plan(market.snapshot, market.table, request)
    market.table.put("T", "STORE", 1)
    planned = plan(market.snapshot, market.table, request)

    assert [REFUSALS[x.reason].name for x in refused.unfulfilled_lines] == ["EXCLUDED_BY_RULE"]
    assert [units.node_id for units in planned.units["1"]] == ["STORE"]


NODES = ("N0", "N1", "N2")


@st.composite
def rules(draw: st.DrawFn) -> list[SourcingRule]:
    return [
        SourcingRule(
            rule_id=f"r{index}",
            node_group_id=draw(st.sampled_from(["", *NODES])),
            handling_class=(handling_class := draw(st.sampled_from(["", "cold"]))),
            excluded=draw(st.sampled_from([False, False, True])),
            priority=draw(st.integers(0, 9)),
            cost_micros=0 if handling_class else draw(st.integers(0, 3)),
        )
        for index in range(draw(st.integers(0, 4)))
    ]


@settings(max_examples=150, deadline=None)
@given(
    rules(),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=3, max_size=3),
    st.integers(1, 3),
    st.integers(1, 3),
)
def test_rules_choose_what_brute_force_chooses(
    said: list[SourcingRule], counts: list[tuple[int, int]], wanted: int, max_shipments: int
) -> None:
    """Over every allocation that the first sufficient priority leaves, at costs with extras: as
    many shipments, that date, cost and distance; in part only where no priority fills it."""
    snapshot = a_snapshot(
        *(a_node(n, latitude=40.0 + i) for i, n in enumerate(NODES)),
        *(a_lane(n, transit=(1, 1 + i % 2)) for i, n in enumerate(NODES)),
        *(NodeGroup(node_group_id=n, node_ids=(n,)) for n in NODES),
        a_service(base=2),
        Item(sku="A", handling_class="cold"),
        Item(sku="B"),
        *said,
    )
    wanted_by = Wanted(
        address=Address(country="US", postal_code="94107", latitude=40.0, longitude=-87.6),
        fulfillment_methods=frozenset({SHIP}),
        order_ms=NOW,
    )
    stock = {
        sku: {n: c[i] for n, c in zip(NODES, counts, strict=True)} for i, sku in enumerate("AB")
    }
    lines = tuple(Line(sku, sku, wanted) for sku in "AB")

    promised = promise_cart(
        snapshot,
        Cart(
            lines=lines, stock=stock, wanted=wanted_by, max_shipments=max_shipments, max_options=1
        ),
    )

    best = None
    reach = Reach(snapshot, wanted_by)
    for priority in range(1, 10):
        candidates = tuple(
            Candidate(
                node_id,
                tuple(
                    stock[sku][node_id] if _priority(said, sku, node_id) <= priority else 0
                    for sku in "AB"
                ),
                tuple(
                    option._replace(
                        base_cost_micros=option.base_cost_micros + _extra(said, node_id)
                    )
                    for option in reach.options([node_id])[0]
                ),
                reach.distances_meters([node_id])[0],
            )
            for node_id in NODES
        )
        demands = tuple(Demand(sku, wanted, 0) for sku in "AB")
        best = min(all_keys(demands, candidates, max_shipments), default=None)
        if best is not None:
            break
    assert (best is None) == bool(promised.unfulfilled_lines or not promised.options)
    if best is not None:
        (option,) = promised.options
        used = [shipment.node_id for shipment in option.shipments]
        extras = sum(_extra(said, node_id) for node_id in used)
        assert best == (
            len(used),
            option.latest_delivery_date,
            (option.total_cost_micros + extras) * 1000,
            sum(reach.distances_meters(used)),
        )


def _priority(said: list[SourcingRule], sku: str, node_id: str) -> int:
    """The specification, read again from the contract's words."""
    classes: Mapping[str, str] = {"A": "cold", "B": ""}
    of_it = [
        r
        for r in said
        if r.handling_class in ("", classes[sku]) and r.node_group_id in ("", node_id)
    ]
    if any(r.excluded for r in of_it):
        return 99
    return next((r.priority for r in of_it if r.priority), 5)


def _extra(said: list[SourcingRule], node_id: str) -> int:
    return sum(r.cost_micros for r in said if r.node_group_id in ("", node_id))


def test_a_rule_that_contradicts_itself_is_refused_by_field() -> None:
    """Each by what is wrong with it; one that says nothing is off, and fine."""
    wrong = {
        "country": a_rule(region="CA"),
        "priority": a_rule(priority=10),
        "max_shipments": a_rule(max_shipments=21),
        "cost_micros": a_rule(cost_micros=1, handling_class="cold"),
    }
    assert {path: [v[0] for v in violations(r)] for path, r in wrong.items()} == {
        path: [path] for path in wrong
    }
    limits = a_rule(max_shipments=1, node_group_id="g")
    assert [v[:2] for v in violations(limits)] == [("max_shipments", "DOES_NOT_FIT")]
    assert violations(a_rule()) == []
