"""The demo's network and stock: real places, sound documents, the same for the same seed."""

from __future__ import annotations

import random
from collections import Counter
from datetime import date
from zoneinfo import ZoneInfo

import pytest

from promise_svc.demo.geography import Place, load_places
from promise_svc.demo.network import (
    GROUND,
    HUBS,
    NEXT_DAY,
    STORES_CALENDAR,
    TWO_DAY,
    VENDOR_COUNT,
    DemoNetwork,
    make_network,
    transit_days,
)
from promise_svc.demo.run import _large_city
from promise_svc.demo.stock import BEST_SELLERS, DemoStock, make_stock
from promise_svc.v1 import network_service_pb2 as pb

TODAY = date(2026, 11, 22)
STORES = 60


@pytest.fixture(scope="module")
def places() -> tuple[Place, ...]:
    return load_places()


@pytest.fixture(scope="module")
def network(places: tuple[Place, ...]) -> DemoNetwork:
    return make_network(places, seed=1, store_count=STORES, today=TODAY)


@pytest.fixture(scope="module")
def stock(network: DemoNetwork) -> DemoStock:
    return make_stock(network, seed=1, sku_count=1_000)


def test_the_same_seed_makes_the_same_network_and_stock(
    places: tuple[Place, ...], network: DemoNetwork, stock: DemoStock
) -> None:
    """And another seed another one."""
    again = make_network(places, seed=1, store_count=STORES, today=TODAY)
    other = make_network(places, seed=2, store_count=STORES, today=TODAY)

    assert again == network
    assert other.nodes != network.nodes
    assert make_stock(network, seed=1, sku_count=1_000) == stock
    assert make_stock(network, seed=2, sku_count=1_000).rows != stock.rows


def test_it_has_the_nodes_asked_for_at_real_places(
    places: tuple[Place, ...], network: DemoNetwork
) -> None:
    """Every node stands at a postal code of its own city, in that place's zone."""
    kinds = Counter(node.node_type for node in network.nodes)
    known = {place.postal_code: place for place in places}

    assert kinds == {
        pb.NODE_TYPE_STORE: STORES,
        pb.NODE_TYPE_DISTRIBUTION_CENTER: len(HUBS),
        pb.NODE_TYPE_VENDOR: VENDOR_COUNT,
    }
    assert len({node.node_id for node in network.nodes}) == len(network.nodes)
    for node in network.nodes:
        place = known[node.address.postal_code]
        assert node.name.startswith(f"{place.city}, {place.region}")
        assert node.time_zone == place.time_zone == ZoneInfo(place.time_zone).key


def test_every_name_a_document_uses_is_there(network: DemoNetwork) -> None:
    """Calendars, nodes, groups and carrier services; no lane stands twice."""
    calendars = {calendar.calendar_id for calendar in network.calendars}
    nodes = {node.node_id for node in network.nodes}
    groups = {group.node_group_id for group in network.node_groups}
    services = {service.carrier_service for service in network.carrier_services}
    names = Counter(
        (lane.node_id, lane.node_group_id, lane.postal_prefix, lane.carrier_service)
        for lane in network.lanes
    )

    assert {node.calendar_id for node in network.nodes} <= calendars
    assert {service.calendar_id for service in network.carrier_services} <= calendars
    assert {node_id for group in network.node_groups for node_id in group.node_ids} <= nodes
    assert {lane.node_id for lane in network.lanes} - {""} <= nodes
    assert {lane.node_group_id for lane in network.lanes} - {""} <= groups
    assert {lane.carrier_service for lane in network.lanes} == services
    assert max(names.values()) == 1


def test_every_contiguous_place_is_reached_from_every_center_and_no_outlying_one(
    places: tuple[Place, ...], network: DemoNetwork
) -> None:
    """Ground lanes cover all postal codes; Honolulu, Anchorage and San Juan have none."""
    center = network.node_ids(pb.NODE_TYPE_DISTRIBUTION_CENTER)[0]
    prefixes = tuple(
        lane.postal_prefix
        for lane in network.lanes
        if lane.node_id == center and lane.carrier_service == GROUND
    )

    assert all(place.postal_code.startswith(prefixes) for place in places)
    assert not any(code.startswith(prefixes) for code in ("96813", "99501", "00901"))


@pytest.mark.parametrize(
    ("kilometers", "ground", "next_day"),
    [
        (0, (1, 1), (1, 1)),
        (250, (1, 1), (1, 1)),
        (250.1, (1, 2), (1, 1)),
        (1_000, (1, 2), (1, 1)),
        (2_500, (3, 4), (1, 1)),
        (2_500.1, (3, 4), None),
        (4_500, (4, 5), None),
    ],
)
def test_transit_days_go_by_distance_bands(
    kilometers: float, ground: tuple[int, int], next_day: tuple[int, int] | None
) -> None:
    """The service standards as they are stated, limits included."""
    assert transit_days(kilometers, GROUND) == ground
    assert transit_days(kilometers, NEXT_DAY) == next_day
    assert transit_days(kilometers, TWO_DAY) == (2, 2)


def test_calendars_know_the_federal_holidays(network: DemoNetwork) -> None:
    """Nodes and carrier rest on Labor Day 2027, stores do not; all rest on Thanksgiving."""
    off = {
        calendar.calendar_id: {
            (e.date.year, e.date.month, e.date.day) for e in calendar.exceptions if not e.working
        }
        for calendar in network.calendars
    }

    for calendar_id, days in off.items():
        assert (2026, 11, 26) in days
        assert ((2027, 9, 6) in days) == (calendar_id != STORES_CALENDAR)


def test_stock_is_deep_in_centers_and_shallow_in_stores(stock: DemoStock) -> None:
    """Some SKUs are sold out, some are scarce, each position stands once."""
    units: dict[str, list[int]] = {"dc": [], "store": [], "vendor": []}
    for row in stock.rows:
        units[row.node_id.partition("-")[0]].append(row.on_hand)
    totals: Counter[str] = Counter()
    for row in stock.rows:
        totals[row.sku] += row.on_hand

    assert len({(row.sku, row.node_id) for row in stock.rows}) == len(stock.rows)
    assert sum(units["dc"]) / len(units["dc"]) > 5 * sum(units["store"]) / len(units["store"])
    assert stock.sold_out
    assert all(totals[sku] == 0 for sku in stock.sold_out)
    assert stock.scarce
    assert all(totals[sku] in (1, 2) for sku in stock.scarce)
    assert set(totals) == {item.sku for item in stock.items}


def test_popularity_is_skewed(stock: DemoStock, rng: random.Random) -> None:
    """Half of the picks fall on a thirtieth of the SKUs: rank r has the weight 1/r."""
    picks = Counter(stock.popular(rng) for _ in range(4_000))
    top = {item.sku for item in stock.items[: len(stock.items) // 30]}

    assert 0.4 < sum(picks[sku] for sku in top) / 4_000 < 0.6
    assert set(picks) <= {item.sku for item in stock.items}


@pytest.mark.parametrize("seed", range(8))
def test_a_tiny_demo_has_a_last_unit_best_sellers_and_a_city_with_a_store(
    places: tuple[Place, ...], seed: int
) -> None:
    """What the journey relies on, at the smallest size that may be asked for."""
    network = make_network(places, seed=seed, store_count=20, today=TODAY)
    stock = make_stock(network, seed=seed, sku_count=50)
    place = _large_city(network, random.Random(seed))
    best = {item.sku for item in stock.items[:BEST_SELLERS]}
    stores = [node for node in network.nodes if node.node_type == pb.NODE_TYPE_STORE]

    assert any(row.on_hand == 1 and row.sku in stock.scarce for row in stock.rows)
    assert best.isdisjoint({*stock.sold_out, *stock.scarce})
    assert any(node.name.startswith(f"{place.city}, {place.region}") for node in stores)
