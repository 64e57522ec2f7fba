"""Business days and wall times, across daylight saving in both directions."""

from __future__ import annotations

from datetime import date, time, timedelta

import pytest

from promise_svc.domain.calendar import (
    SEARCH_DAYS_MAX,
    add_business_days,
    business_day,
    instant_ms,
    local_date,
    next_business_day,
    zone_of,
)
from promise_svc.errors import NoBusinessDay, NotFound
from tests.support.networks import EVERY_DAY, WEEKDAYS, a_calendar, ms

FRIDAY = date(2026, 11, 20)
MONDAY = date(2026, 11, 23)
DAY = timedelta(days=1)


def test_a_weekend_is_no_business_day() -> None:
    """The week decides where no exception does."""
    assert [business_day(a_calendar(), FRIDAY + i * DAY) for i in range(4)] == [
        True,
        False,
        False,
        True,
    ]


def test_an_exception_wins_over_the_week_both_ways() -> None:
    """A holiday on a weekday is off, an open Saturday is worked."""
    calendar = a_calendar(exceptions={FRIDAY: False, FRIDAY + DAY: True})

    assert [business_day(calendar, FRIDAY + i * DAY) for i in range(2)] == [False, True]


def test_the_next_business_day_may_be_the_start_itself() -> None:
    """``start`` is included."""
    assert next_business_day(a_calendar(), start=FRIDAY) == FRIDAY
    assert next_business_day(a_calendar(), start=FRIDAY + DAY) == MONDAY


def test_several_calendars_must_all_work() -> None:
    """The first day common to both."""
    carrier = a_calendar("carrier", exceptions={MONDAY: False})

    assert next_business_day(a_calendar(), carrier, start=FRIDAY + DAY) == MONDAY + DAY


@pytest.mark.parametrize(
    ("start", "count", "expected"),
    [
        (FRIDAY, 0, FRIDAY),
        (FRIDAY + DAY, 0, MONDAY),
        (FRIDAY, 1, MONDAY),
        (FRIDAY + DAY, 1, MONDAY),
        (FRIDAY, 6, MONDAY + 7 * DAY),
    ],
)
def test_business_days_are_counted_after_the_start(start: date, count: int, expected: date) -> None:
    """0 rolls to a business day; n is the n-th business day strictly after."""
    assert expected == add_business_days(a_calendar(), start, count)


def test_a_calendar_without_any_day_is_an_error_by_name() -> None:
    """The search is bounded and names calendar and start."""
    with pytest.raises(NoBusinessDay) as caught:
        next_business_day(a_calendar("never", frozenset()), start=FRIDAY)

    assert caught.value.reason == "NO_BUSINESS_DAY"
    assert caught.value.metadata["calendar_id"] == "never"
    assert caught.value.metadata["start"] == "2026-11-20"


def test_the_last_day_of_the_search_counts_and_the_one_after_does_not() -> None:
    """366 days are looked at, the start included."""
    last = FRIDAY + (SEARCH_DAYS_MAX - 1) * DAY

    assert next_business_day(a_calendar("c", frozenset(), {last: True}), start=FRIDAY) == last
    with pytest.raises(NoBusinessDay):
        next_business_day(a_calendar("c", frozenset(), {last + DAY: True}), start=FRIDAY)


@pytest.mark.parametrize("name", ["America/Springfield", "", "../etc/passwd", "America", "\0"])
def test_an_unknown_zone_is_not_found(name: str) -> None:
    """Whatever the zone database makes of the name, callers see NotFound."""
    with pytest.raises(NotFound) as caught:
        zone_of(name)

    assert caught.value.metadata["name"] == name


@pytest.mark.parametrize(
    ("zone", "skipped", "jump"),
    [
        ("America/New_York", "2026-03-08T02:30", "2026-03-08T03:00"),
        ("Europe/Berlin", "2026-03-29T02:00", "2026-03-29T03:00"),
        ("Europe/Berlin", "2026-03-29T02:59", "2026-03-29T03:00"),
        ("Australia/Lord_Howe", "2026-10-04T02:15", "2026-10-04T02:30"),
        ("America/Havana", "2026-03-08T00:30", "2026-03-08T01:00"),  # midnight itself is skipped
        ("Pacific/Apia", "2011-12-30T12:00", "2011-12-31T00:00"),  # a whole day is skipped
    ],
)
def test_a_skipped_wall_time_is_the_instant_the_clock_jumps_to(
    zone: str, skipped: str, jump: str
) -> None:
    """Every wall time in the gap means the same instant: the end of the gap."""
    day, wall = skipped.split("T")

    found = instant_ms(date.fromisoformat(day), time.fromisoformat(wall), zone_of(zone))

    assert ms(jump, zone) == found


@pytest.mark.parametrize(
    ("zone", "repeated", "apart_minutes"),
    [
        ("America/New_York", "2026-11-01T01:30", 60),
        ("Australia/Lord_Howe", "2026-04-05T01:45", 30),
        ("Europe/Berlin", "2026-10-25T02:00", 60),
    ],
)
def test_a_wall_time_that_comes_twice_is_the_first(
    zone: str, repeated: str, apart_minutes: int
) -> None:
    """The first of the two, which the second follows by the length of the overlap."""
    day, wall = repeated.split("T")

    found = instant_ms(date.fromisoformat(day), time.fromisoformat(wall), zone_of(zone))

    assert ms(repeated, zone, fold=0) == found
    assert ms(repeated, zone, fold=1) == found + apart_minutes * 60_000


@pytest.mark.parametrize("zone", ["Asia/Kolkata", "Asia/Kathmandu", "Pacific/Kiritimati", "UTC"])
def test_local_dates_turn_at_local_midnight(zone: str) -> None:
    """The last ms of a day and the first of the next fall on their own dates."""
    midnight = instant_ms(MONDAY, time(0), zone_of(zone))

    assert local_date(midnight - 1, zone_of(zone)) == MONDAY - DAY
    assert local_date(midnight, zone_of(zone)) == MONDAY


def test_calendars_of_every_day_and_of_weekdays_differ_by_the_weekend() -> None:
    """Guards the constants other tests rest on."""
    assert {6, 7} == EVERY_DAY - WEEKDAYS
