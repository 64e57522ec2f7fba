"""Laws of dates for any order, node terms and zone, around every change of clocks."""

from __future__ import annotations

from datetime import date, time

from hypothesis import given, settings
from hypothesis import strategies as st

from promise_svc.domain.calendar import (
    business_day,
    end_of_day_ms,
    instant_ms,
    local_date,
    zone_of,
)
from promise_svc.domain.delivery import DeliveryDates, delivery_dates, pickup_times
from promise_svc.domain.network import Calendar, NodeMethod
from tests.support.networks import SHIP, a_method, a_node, ms

ZONES = (
    "America/Chicago",
    "America/Havana",
    "America/St_Johns",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "Europe/Berlin",
    "Pacific/Apia",
    "Pacific/Chatham",
    "Pacific/Kiritimati",
    "UTC",
)

zones = st.sampled_from(ZONES)
days = st.dates(date(2026, 1, 1), date(2027, 12, 31))
minutes_of_day = st.integers(0, 24 * 60 - 1)
walls = minutes_of_day.map(lambda minute: time(minute // 60, minute % 60))
instants = st.integers(ms("2026-01-01T00:00", "UTC"), ms("2027-12-31T00:00", "UTC"))


@st.composite
def calendars(draw: st.DrawFn, name: str) -> Calendar:
    exceptions = draw(st.dictionaries(days, st.booleans(), max_size=8))
    working = draw(st.frozensets(st.integers(1, 7), min_size=4))  # any two share a weekday
    return Calendar(calendar_id=name, working_days=working, exceptions=exceptions)


@st.composite
def methods(draw: st.DrawFn) -> NodeMethod:
    by_clock = draw(st.booleans())
    return a_method(
        SHIP,
        draw(walls),
        days=0 if by_clock else draw(st.integers(0, 6)),
        minutes=draw(st.integers(0, 24 * 60)) if by_clock else None,
        opening_time=draw(walls),
    )


@st.composite
def terms(draw: st.DrawFn) -> tuple[str, NodeMethod, Calendar, Calendar, tuple[int, int]]:
    fewest = draw(st.integers(0, 4))
    return (
        draw(zones),
        draw(methods()),
        draw(calendars("node")),
        draw(calendars("carrier")),
        (fewest, fewest + draw(st.integers(0, 3))),
    )


Terms = tuple[str, NodeMethod, Calendar, Calendar, tuple[int, int]]


def dates(order_ms: int, given_terms: Terms) -> DeliveryDates:
    zone, method, node_calendar, carrier_calendar, transit = given_terms
    return delivery_dates(
        order_ms,
        node=a_node(time_zone=zone, methods=[method]),
        method=method,
        node_calendar=node_calendar,
        carrier_calendar=carrier_calendar,
        transit_business_days=transit,
    )


@given(days, walls, zones)
def test_a_wall_time_is_shown_by_the_clock_or_lies_in_a_gap(
    day: date, wall: time, zone_name: str
) -> None:
    """Going to the instant and back gives the wall time, or a later one where it was skipped."""
    zone = zone_of(zone_name)

    found = instant_ms(day, wall, zone)

    assert local_date(found, zone) == day
    assert instant_ms(day, time(0), zone) <= found <= end_of_day_ms(day, zone)


@given(days, walls, walls, zones)
def test_wall_times_of_a_day_keep_their_order_as_instants(
    day: date, one: time, other: time, zone_name: str
) -> None:
    """Never later for an earlier wall time: gaps fold to one instant, overlaps take the first."""
    earlier, later = sorted((one, other))
    zone = zone_of(zone_name)

    assert instant_ms(day, earlier, zone) <= instant_ms(day, later, zone)


@given(instants, zones)
def test_every_instant_lies_within_its_own_day(order_ms: int, zone_name: str) -> None:
    """Between the first and the last millisecond of its local date."""
    zone = zone_of(zone_name)
    day = local_date(order_ms, zone)

    assert instant_ms(day, time(0), zone) <= order_ms <= end_of_day_ms(day, zone)


@settings(max_examples=200)
@given(instants, terms())
def test_dates_are_in_order_and_on_business_days(order_ms: int, given_terms: Terms) -> None:
    """Order, ship, earliest, latest never go back; ship dates are worked by both calendars,
    delivery dates by the carrier's."""
    zone, _, node_calendar, carrier_calendar, _ = given_terms

    found = dates(order_ms, given_terms)

    assert local_date(order_ms, zone_of(zone)) <= found.ship_date
    assert found.ship_date <= found.earliest_delivery_date <= found.latest_delivery_date
    assert business_day(node_calendar, found.ship_date)
    assert business_day(carrier_calendar, found.ship_date)
    assert business_day(carrier_calendar, found.earliest_delivery_date)
    assert business_day(carrier_calendar, found.latest_delivery_date)


@settings(max_examples=200)
@given(instants, terms())
def test_dates_stand_until_order_by_and_not_a_millisecond_longer(
    order_ms: int, given_terms: Terms
) -> None:
    """``order_by_ms`` is the last instant with these dates."""
    found = dates(order_ms, given_terms)

    assert order_ms <= found.order_by_ms
    assert found == dates(found.order_by_ms, given_terms)
    assert found[:3] < dates(found.order_by_ms + 1, given_terms)[:3]


@settings(max_examples=200)
@given(instants, st.integers(0, 10 * 24 * 3_600_000), terms())
def test_a_later_order_is_never_promised_earlier(
    order_ms: int, later_ms: int, given_terms: Terms
) -> None:
    """Each date is monotone in the instant of the order."""
    first, second = dates(order_ms, given_terms), dates(order_ms + later_ms, given_terms)

    assert all(a <= b for a, b in zip(first, second, strict=True))


@settings(max_examples=200)
@given(instants, zones, methods(), calendars("node"))
def test_a_pickup_is_ready_on_a_business_day_after_opening(
    order_ms: int, zone_name: str, method: NodeMethod, calendar: Calendar
) -> None:
    """Not before the order, not before that day's opening, on a day the node works; and ready on
    another day for an order one millisecond after ``order_by_ms``."""
    zone = zone_of(zone_name)
    node = a_node(time_zone=zone_name, methods=[method])

    found = pickup_times(order_ms, node=node, method=method, node_calendar=calendar)
    after = pickup_times(found.order_by_ms + 1, node=node, method=method, node_calendar=calendar)

    assert order_ms <= found.ready_ms
    assert local_date(found.ready_ms, zone) == found.ready_date
    assert business_day(calendar, found.ready_date)
    assert instant_ms(found.ready_date, method.opening_time, zone) <= found.ready_ms
    assert found.ready_date < after.ready_date
