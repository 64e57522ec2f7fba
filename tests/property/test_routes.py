"""What is worked out once a snapshot equals what the specification says, whoever asked before."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from promise_svc.domain.calendar import business_day
from promise_svc.domain.delivery import arrival, delivery_dates
from promise_svc.domain.network import Node, NodeGroup, build_snapshot
from promise_svc.domain.reach import Address, Reach, Wanted
from promise_svc.domain.routes import STAYS_MAX, Routes
from tests.support.networks import (
    CHICAGO,
    SHIP,
    a_lane,
    a_method,
    a_node,
    a_service,
    a_snapshot,
    ms,
)

HOUR_MS = 3_600_000
START = ms("2026-10-25T00:00", CHICAGO)  # the week before clocks change
METHODS = (a_method(), a_method(days=2), a_method(minutes=600))
SNAPSHOT = a_snapshot(*(a_node(f"N{i}", methods=[method]) for i, method in enumerate(METHODS)))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 30 * 24 * 4)), max_size=40))
def test_dates_known_from_other_orders_are_the_dates_of_this_one(
    orders: list[tuple[int, int]],
) -> None:
    """Whatever orders were asked for before, in any order of time."""
    routes = Routes(SNAPSHOT)
    node_calendar, carrier_calendar = SNAPSHOT.calendar("weekdays"), SNAPSHOT.calendar("carrier")
    assert node_calendar is not None
    assert carrier_calendar is not None
    for index, quarters in orders:
        node, method = SNAPSHOT.node(f"N{index}"), METHODS[index]
        assert node is not None
        order_ms = START + quarters * HOUR_MS // 4

        leaves = routes.ship_date(order_ms, node, method, (node_calendar, carrier_calendar))

        found = routes.arrival(leaves, carrier_calendar, (1, 3))
        assert found == arrival(leaves, carrier_calendar, (1, 3))
        assert found == delivery_dates(
            order_ms,
            node=node,
            method=method,
            node_calendar=node_calendar,
            carrier_calendar=carrier_calendar,
            transit_business_days=(1, 3),
        )
        assert business_day(carrier_calendar, found.latest_delivery_date)


def test_ship_dates_stay_right_when_more_are_asked_for_than_are_kept() -> None:
    """A year of days is more than the bound."""
    routes, days = Routes(SNAPSHOT), range(2 * STAYS_MAX)
    node, method = SNAPSHOT.documents.nodes["N0"], METHODS[0]
    calendars = SNAPSHOT.documents.calendars["weekdays"], SNAPSHOT.documents.calendars["carrier"]

    def dates() -> list[object]:
        return [routes.ship_date(START + d * 24 * HOUR_MS, node, method, calendars) for d in days]

    first = dates()

    assert first == dates()
    assert first == [Routes(SNAPSHOT).ship_date(START + d * 24 * HOUR_MS, node, method, calendars)
                     for d in days]  # fmt: skip


LIKE = [a_node(node_id) for node_id in ("A", "B", "C")]
GROUPS = (NodeGroup(node_group_id="g", node_ids=("A", "B", "D")),)
OTHER: list[Node] = [a_node("D", methods=[a_method(days=1)]), a_node("E")]
LANES = (
    a_lane("g", postal_prefix="941", from_group=True),
    a_lane("g", "air", from_group=True),
    a_lane("E", postal_prefix="9"),
    a_lane("B", "air", (3, 3)),
)


def test_nodes_are_alike_only_with_equal_terms_groups_and_no_lanes_of_their_own() -> None:
    """D has other terms, E and B lanes of their own, C is in no group; B would else be like A."""
    routes = Routes(a_snapshot(*LIKE, *OTHER, *GROUPS, *LANES[:3]))
    apart = Routes(a_snapshot(*LIKE, *OTHER, *GROUPS, *LANES))

    assert routes.origin_ids == {"A": "A", "B": "A", "C": "C", "D": "D", "E": "E"}
    assert apart.origin_ids["B"] == "B"


def test_lanes_of_a_zone_are_those_of_each_postal_code_in_it() -> None:
    """Codes longer than any prefix share an answer; shorter ones and other countries do not."""
    snapshot = a_snapshot(*LIKE, *OTHER, *GROUPS, *LANES)
    routes = Routes(snapshot)
    codes = ("94107", "94108", "941", "94", "9", "", "10001", "94 1-x")

    for node in snapshot.documents.nodes.values():
        for country in ("US", "CA"):
            for code in (*codes, *codes):
                expected = snapshot.lanes(node.node_id, country, code)
                assert list(routes.lanes(node, country, code)) == expected


ADDRESS = Address(country="US", postal_code="94107")
REACHED = a_snapshot(*LIKE, *OTHER, *GROUPS, *LANES, a_service(), a_service("air"))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 8 * 24 * 4),
            st.sampled_from(["94107", "94199", "10001"]),
            st.sampled_from([frozenset[str](), frozenset({"air"})]),
            st.sampled_from([frozenset[str](), frozenset({"A"})]),
        ),
        max_size=12,
    )
)
def test_what_a_destination_is_served_by_does_not_depend_on_who_asked_before(
    orders: list[tuple[int, str, frozenset[str], frozenset[str]]],
) -> None:
    """Other instants, zones, services and exclusions: each gets what a fresh snapshot answers."""
    for quarters, postal_code, carrier_services, excluded in orders:
        wanted = Wanted(
            address=replace(ADDRESS, postal_code=postal_code),
            fulfillment_methods=frozenset({SHIP}),
            carrier_services=carrier_services,
            order_ms=START + quarters * HOUR_MS // 4,
            excluded_node_ids=excluded,
        )
        fresh = Reach(build_snapshot(1, REACHED.documents), wanted)
        reach = Reach(REACHED, wanted)

        assert reach.served == fresh.served
        assert reach.nowhere == fresh.nowhere
        for node_id in (*REACHED.documents.nodes, "nobody"):
            assert reach.services(node_id) == fresh.services(node_id)
        assert reach.options(sorted(reach.served)) == fresh.options(sorted(fresh.served))
