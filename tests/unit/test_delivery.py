"""Cutoffs, handling, carrier days and pickup times, at named instants in named zones."""

from __future__ import annotations

from datetime import date, time, timedelta

import pytest

from promise_svc.domain.delivery import (
    DeliveryDates,
    PickupTimes,
    delivery_dates,
    pickup_times,
)
from promise_svc.domain.network import Calendar, NodeMethod
from promise_svc.errors import NoBusinessDay
from tests.support.networks import CHICAGO, EVERY_DAY, PICKUP, a_calendar, a_method, a_node, ms

FRIDAY = date(2026, 11, 20)
SATURDAY = date(2026, 11, 21)
SUNDAY = date(2026, 11, 22)
MONDAY = date(2026, 11, 23)
TUESDAY = date(2026, 11, 24)
DAY = timedelta(days=1)
SECOND_MS = 1000


def shipped(
    order_ms: int,
    method: NodeMethod,
    *,
    zone: str = CHICAGO,
    node_calendar: Calendar | None = None,
    carrier_calendar: Calendar | None = None,
    transit: tuple[int, int] = (1, 2),
) -> DeliveryDates:
    return delivery_dates(
        order_ms,
        node=a_node(time_zone=zone, methods=[method]),
        method=method,
        node_calendar=node_calendar or a_calendar(),
        carrier_calendar=carrier_calendar or a_calendar("carrier"),
        transit_business_days=transit,
    )


def collected(
    order_ms: int, method: NodeMethod, *, zone: str = CHICAGO, calendar: Calendar | None = None
) -> PickupTimes:
    return pickup_times(
        order_ms,
        node=a_node(time_zone=zone, methods=[method]),
        method=method,
        node_calendar=calendar or a_calendar("daily", EVERY_DAY),
    )


@pytest.mark.parametrize("zone", [CHICAGO, "Asia/Kolkata", "Pacific/Kiritimati", "Pacific/Niue"])
@pytest.mark.parametrize(
    ("late_ms", "expected"), [(-1, FRIDAY), (0, FRIDAY), (1, MONDAY), (SECOND_MS, MONDAY)]
)
def test_the_cutoff_is_inclusive_in_the_nodes_zone(zone: str, late_ms: int, expected: date) -> None:
    """At the cutoff is in time; the first millisecond after it waits for the next business day."""
    order_ms = ms("2026-11-20T17:00", zone) + late_ms

    assert expected == shipped(order_ms, a_method(), zone=zone).ship_date


def test_an_order_after_midnight_utc_still_counts_for_the_nodes_day() -> None:
    """20:00 in Los Angeles on Thursday is Friday in UTC; a 21:00 cutoff keeps it on Thursday."""
    order_ms = ms("2026-11-20T04:00", "UTC")

    found = shipped(order_ms, a_method(cutoff_time=time(21)), zone="America/Los_Angeles")

    assert found.ship_date == FRIDAY - DAY


def test_transit_counts_days_of_the_carrier_after_the_ship_date() -> None:
    """Friday plus one and two weekdays is Monday and Tuesday."""
    found = shipped(ms("2026-11-20T12:00", CHICAGO), a_method())

    assert found[:3] == (FRIDAY, MONDAY, TUESDAY)
    assert ms("2026-11-20T17:00", CHICAGO) == found.order_by_ms


def test_a_carriers_holiday_moves_the_delivery_and_not_the_ship_date() -> None:
    """Node and carrier calendars differ."""
    carrier = a_calendar("carrier", exceptions={MONDAY: False})

    found = shipped(ms("2026-11-20T12:00", CHICAGO), a_method(), carrier_calendar=carrier)

    assert found[:3] == (FRIDAY, TUESDAY, TUESDAY + DAY)


def test_goods_leave_on_a_day_that_node_and_carrier_both_work() -> None:
    """A node open daily hands Saturday's order over on Monday; until Monday's cutoff nothing
    changes, so the answer stands that long."""
    daily = a_calendar("daily", EVERY_DAY)

    found = shipped(ms("2026-11-21T12:00", CHICAGO), a_method(), node_calendar=daily)

    assert found.ship_date == MONDAY
    assert ms("2026-11-23T17:00", CHICAGO) == found.order_by_ms


def test_handling_days_are_business_days_of_the_node() -> None:
    """Friday plus two handling days is Tuesday."""
    found = shipped(ms("2026-11-20T12:00", CHICAGO), a_method(days=2))

    assert found.ship_date == TUESDAY


def test_handling_by_the_clock_that_passes_midnight_leaves_the_next_business_day() -> None:
    """16:00 plus nine hours is Saturday 01:00; weekdays only, so Monday. Up to 14:59:59.999 the
    same order leaves on Friday, and its answer says so."""
    method = a_method(minutes=9 * 60)

    late = shipped(ms("2026-11-20T16:00", CHICAGO), method)
    early = shipped(ms("2026-11-20T14:00", CHICAGO), method)

    assert (late.ship_date, early.ship_date) == (MONDAY, FRIDAY)
    assert ms("2026-11-20T15:00", CHICAGO) - 1 == early.order_by_ms


def test_an_order_in_the_future_gets_dates_of_its_own_day() -> None:
    """Nothing looks at today."""
    found = shipped(ms("2027-07-02T12:00", CHICAGO), a_method())

    assert found.ship_date == date(2027, 7, 2)


def test_transit_of_no_days_delivers_on_the_ship_date() -> None:
    """Same-day services exist."""
    found = shipped(ms("2026-11-20T12:00", CHICAGO), a_method(), transit=(0, 0))

    assert found[:3] == (FRIDAY, FRIDAY, FRIDAY)


def test_calendars_without_days_are_an_error_by_name() -> None:
    """Either calendar, and two that never work together."""
    order_ms = ms("2026-11-20T12:00", CHICAGO)
    never = a_calendar("never", frozenset())
    weekend = a_calendar("weekend", frozenset({6, 7}))

    for wrong in (never, weekend):
        with pytest.raises(NoBusinessDay):
            shipped(order_ms, a_method(), carrier_calendar=wrong)
    with pytest.raises(NoBusinessDay):
        shipped(order_ms, a_method(), node_calendar=never)


@pytest.mark.parametrize(
    ("zone", "day", "cutoff", "standing"),
    [
        # The cutoff is skipped: orders are taken until the instant the clock jumps.
        ("America/New_York", date(2026, 3, 8), time(2, 30), "2026-03-08T03:00"),
        ("Australia/Lord_Howe", date(2026, 10, 4), time(2, 15), "2026-10-04T02:30"),
        # The cutoff comes twice: the first counts.
        ("America/New_York", date(2026, 11, 1), time(1, 30), "2026-11-01T01:30"),
        ("Australia/Lord_Howe", date(2026, 4, 5), time(1, 45), "2026-04-05T01:45"),
    ],
)
def test_a_cutoff_within_a_change_of_clocks_is_one_instant(
    zone: str, day: date, cutoff: time, standing: str
) -> None:
    """At that instant an order still leaves the same day, a millisecond later the next."""
    daily = a_calendar("daily", EVERY_DAY)
    at_ms = ms(standing, zone, fold=0)

    in_time, late = (
        shipped(instant, a_method(cutoff_time=cutoff), zone=zone, node_calendar=daily,
                carrier_calendar=daily)
        for instant in (at_ms, at_ms + 1)
    )  # fmt: skip

    assert (day, at_ms) == (in_time.ship_date, in_time.order_by_ms)
    assert day + DAY == late.ship_date


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("2026-11-20T06:00", "2026-11-20T11:00"),  # before opening at 9: from opening
        ("2026-11-20T12:34", "2026-11-20T14:34"),  # open: from the order
        ("2026-11-20T18:00", "2026-11-20T20:00"),  # the cutoff itself
        ("2026-11-20T18:01", "2026-11-21T11:00"),  # after it: from the next opening
    ],
)
def test_pickup_preparation_runs_from_the_order_or_from_opening(order: str, expected: str) -> None:
    """Two hours of preparation, open from nine, cutoff at six."""
    method = a_method(PICKUP, time(18), minutes=120, opening_time=time(9))

    found = collected(ms(order, CHICAGO), method)

    assert ms(expected, CHICAGO) == found.ready_ms
    assert date.fromisoformat(expected[:10]) == found.ready_date


def test_pickup_is_ordered_by_the_cutoff_that_keeps_the_day() -> None:
    """The instant up to which goods are ready on the same day."""
    method = a_method(PICKUP, time(18), minutes=120, opening_time=time(9))

    found = collected(ms("2026-11-20T12:00", CHICAGO), method)

    assert ms("2026-11-20T18:00", CHICAGO) == found.order_by_ms


def test_a_store_closed_for_the_weekend_is_ready_on_monday() -> None:
    """Ordered on Saturday, from Monday's opening."""
    method = a_method(PICKUP, time(18), minutes=30, opening_time=time(9))

    found = collected(ms("2026-11-21T12:00", CHICAGO), method, calendar=a_calendar())

    assert ms("2026-11-23T09:30", CHICAGO) == found.ready_ms


def test_preparation_that_ends_on_a_day_off_is_ready_at_the_next_opening() -> None:
    """Friday 17:00 plus ten hours is Saturday 03:00: Monday at nine."""
    method = a_method(PICKUP, time(18), minutes=600, opening_time=time(9))

    found = collected(ms("2026-11-20T17:00", CHICAGO), method, calendar=a_calendar())

    assert ms("2026-11-23T09:00", CHICAGO) == found.ready_ms


def test_pickup_after_handling_days_is_ready_at_opening() -> None:
    """Whole business days end at opening."""
    method = a_method(PICKUP, time(18), days=1, opening_time=time(9))

    found = collected(ms("2026-11-20T12:00", CHICAGO), method)

    assert ms("2026-11-21T09:00", CHICAGO) == found.ready_ms


def test_no_preparation_is_ready_at_once() -> None:
    """Within opening hours, the instant of the order."""
    order_ms = ms("2026-11-20T12:34", CHICAGO)

    assert order_ms == collected(order_ms, a_method(PICKUP, time(18))).ready_ms
