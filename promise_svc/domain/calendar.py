"""Business days, and wall times in the zone of the place they belong to.

Instants are ms since 1970. A wall time that daylight saving skips means the instant the clock
jumps to; one that comes twice means the first. A civil date a zone skipped as a whole (Samoa,
2011-12-30) still counts as a day of the calendar.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from promise_svc.domain.network import Calendar
from promise_svc.errors import NoBusinessDay, NotFound

SEARCH_DAYS_MAX = 366
"""How far ahead one business day is looked for."""

_DAY = timedelta(days=1)
_EPOCH = datetime(1970, 1, 1)


@lru_cache(maxsize=1024)  # there are about 600 names
def zone_of(time_zone: str) -> ZoneInfo:
    """The zone of an IANA name. NotFound when this host's database has none of that name."""
    try:
        return ZoneInfo(time_zone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise NotFound("time zone", time_zone) from error


def local_date(instant_ms: int, zone: ZoneInfo) -> date:
    """The civil date at an instant."""
    seconds, rest_ms = divmod(instant_ms, 1000)
    instant = datetime.fromtimestamp(seconds, UTC) + timedelta(milliseconds=rest_ms)
    return instant.astimezone(zone).date()


@lru_cache(maxsize=8192)  # cutoffs and openings of the days that orders fall on
def instant_ms(day: date, wall_time: time, zone: ZoneInfo) -> int:
    """The instant at which clocks in ``zone`` show ``wall_time`` on ``day``."""
    wall = datetime.combine(day, wall_time)
    before = _offset_ms(wall, zone, fold=0)
    after = _offset_ms(wall, zone, fold=1)
    wall_ms = (wall - _EPOCH) // timedelta(milliseconds=1)
    if after > before:
        return _jump_ms(wall_ms - after, wall_ms - before, zone)
    return wall_ms - before


def end_of_day_ms(day: date, zone: ZoneInfo) -> int:
    """The last millisecond of a civil date."""
    return instant_ms(day + _DAY, time(0), zone) - 1


def business_day(calendar: Calendar, day: date) -> bool:
    """Whether ``day`` is worked."""
    exception = calendar.exceptions.get(day)
    return day.isoweekday() in calendar.working_days if exception is None else exception


def next_business_day(*calendars: Calendar, start: date) -> date:
    """The first day from ``start`` on, ``start`` included, that all ``calendars`` work.

    NoBusinessDay after SEARCH_DAYS_MAX days.
    """
    day = start
    for _ in range(SEARCH_DAYS_MAX):
        if all(business_day(calendar, day) for calendar in calendars):
            return day
        day += _DAY
    names = " and ".join(sorted({calendar.calendar_id for calendar in calendars}))
    raise NoBusinessDay(names, start.isoformat(), SEARCH_DAYS_MAX)


def add_business_days(calendar: Calendar, day: date, day_count: int) -> date:
    """The ``day_count``-th business day after ``day``; for 0, ``day`` itself or the next one
    worked. NoBusinessDay as above."""
    found = next_business_day(calendar, start=day) if day_count == 0 else day
    for _ in range(day_count):
        found = next_business_day(calendar, start=found + _DAY)
    return found


def _offset_ms(wall: datetime, zone: ZoneInfo, *, fold: int) -> int:
    offset = wall.replace(tzinfo=zone, fold=fold).utcoffset()
    assert offset is not None, "a ZoneInfo knows its offset"
    return offset // timedelta(milliseconds=1)


def _jump_ms(early_ms: int, late_ms: int, zone: ZoneInfo) -> int:
    """The instant between two at which clocks jump forward (jumps fall on whole seconds)."""
    early, late = early_ms // 1000, -(-late_ms // 1000)
    target = datetime.fromtimestamp(late, zone).utcoffset()
    while late - early > 1:
        middle = (early + late) // 2
        if datetime.fromtimestamp(middle, zone).utcoffset() == target:
            late = middle
        else:
            early = middle
    return late * 1000
