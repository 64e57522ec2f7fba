"""Checks of single fields. Complaints are collected, so that a caller learns all of them at once.

A check returns a value that is safe to go on with even when it complained: nothing computed from
it is used, because ``done`` raises.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from datetime import date
from typing import Any, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from promise_svc.domain.inventory import ID_LENGTH_MAX, QUANTITY_MAX
from promise_svc.errors import FieldViolation, InvalidRequest
from promise_svc.v1 import types_pb2

VIOLATIONS_MAX = 100
"""Most complaints about one request; the rest of it is not read."""

NAME_BYTES_MAX = 128
YEAR_MIN = 1970
YEAR_MAX = 9999
TIME_MS_MAX = 253_402_300_799_999
"""9999-12-31T23:59:59.999Z, where Timestamp ends."""

_ID = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._:/-]{{0,{ID_LENGTH_MAX - 1}}}")
_COUNTRY = re.compile("[A-Z]{2}")
_CURRENCY = re.compile("[A-Z]{3}")
_DURATION_SECONDS_MAX = 315_576_000_000

ValueT = TypeVar("ValueT")


class Fields:
    """The complaints about one request."""

    __slots__ = ("_violations",)

    def __init__(self) -> None:
        self._violations: list[FieldViolation] = []

    def complain(self, path: str, reason: str, description: str) -> None:
        """Note one complaint; raises InvalidRequest when there are enough."""
        self._violations.append(FieldViolation(path, reason, description))
        if len(self._violations) >= VIOLATIONS_MAX:
            raise InvalidRequest(self._violations)

    def done(self) -> None:
        """Raise InvalidRequest if there was anything to complain about."""
        if self._violations:
            raise InvalidRequest(self._violations)

    def id(self, path: str, value: str, *, optional: bool = False) -> str:
        """An id or SKU."""
        if _ID.fullmatch(value):
            return value
        if not value:
            if not optional:
                self.complain(path, "REQUIRED", "must not be empty")
        elif len(value.encode()) > ID_LENGTH_MAX:
            self.complain(path, "TOO_LONG", f"must be at most {ID_LENGTH_MAX} bytes")
        else:
            self.complain(
                path,
                "BAD_CHARACTERS",
                "must begin with a letter or digit and go on with letters, digits and ._:/-",
            )
        return value

    def line_id(self, path: str, value: str) -> str:
        """The id of a line, or of a bundle's component on it."""
        line_id, mark, number = value.partition("#")
        self.id(path, line_id)
        if mark and not (number.isascii() and number.isdigit()):
            self.complain(path, "BAD_CHARACTERS", "after # comes a component's number")
        return value

    def text(self, path: str, value: str, bytes_max: int, *, optional: bool = True) -> str:
        """Text for people: UTF-8 without control characters."""
        if not value:
            if not optional:
                self.complain(path, "REQUIRED", "must not be empty")
        elif len(value.encode()) > bytes_max:
            self.complain(path, "TOO_LONG", f"must be at most {bytes_max} bytes")
        elif not value.isprintable() and any(_control(character) for character in value):
            self.complain(path, "BAD_CHARACTERS", "must not hold control characters")
        return value

    def country(self, path: str, value: str) -> str:
        """An ISO 3166-1 alpha-2 code by its form."""
        if not value:
            self.complain(path, "REQUIRED", "must not be empty")
        elif not _COUNTRY.fullmatch(value):
            self.complain(path, "BAD_CHARACTERS", "must be two capital letters, such as US")
        return value

    def currency(self, path: str, value: str) -> str:
        """An ISO 4217 code by its form."""
        if not value:
            self.complain(path, "REQUIRED", "must not be empty")
        elif not _CURRENCY.fullmatch(value):
            self.complain(path, "BAD_CHARACTERS", "must be three capital letters, such as USD")
        return value

    def number(self, path: str, value: int, low: int, high: int, *, default: int = -1) -> int:
        """An integer in a range; where there is a ``default``, 0 stands for it."""
        if value == 0 and default >= 0:
            return default
        if not low <= value <= high:
            self.complain(path, "OUT_OF_RANGE", f"must be {low} to {high}, not {value}")
        return value

    def quantity(self, path: str, value: int, low: int = 1) -> int:
        """Units, ``low`` to QUANTITY_MAX."""
        return self.number(path, value, low, QUANTITY_MAX)

    def degrees(self, path: str, value: float, bound: int) -> float:
        """A latitude or longitude; NaN is in no range."""
        if not -bound <= value <= bound:
            self.complain(path, "OUT_OF_RANGE", f"must be -{bound} to {bound} degrees")
        return value

    def count(self, path: str, count: int, low: int, high: int) -> int:
        """How many of a repeated field there are; those beyond ``high`` need not be read: the
        return value says how many to go on with."""
        if count < low:
            self.complain(path, "REQUIRED", f"must have {low} to {high} entries, not {count}")
        elif count > high:
            self.complain(path, "TOO_MANY", f"must have {low} to {high} entries, not {count}")
        return min(count, high)

    def unique(self, path: str, value: ValueT, seen: set[ValueT]) -> None:
        """That ``value`` comes for the first time; adds it to ``seen``."""
        if value in seen:
            self.complain(path, "DUPLICATE", "must stand once only")
        seen.add(value)

    def enum(
        self,
        path: str,
        number: int,
        values: Mapping[Any, ValueT],
        *,
        default: ValueT | None = None,
        known: Collection[int] = (),
    ) -> ValueT:
        """The value of an enum number. ``known`` numbers beyond ``values`` exist but do not fit."""
        if number in values:
            return values[number]
        if number == 0:
            if default is None:
                self.complain(path, "REQUIRED", "must be set")
        elif number in known:
            self.complain(path, "DOES_NOT_FIT", "does not fit the rest of the request")
        else:
            self.complain(path, "UNKNOWN_ENUM_VALUE", f"{number} is none of its values")
        return default if default is not None else next(iter(values.values()))

    def duration_ms(self, path: str, value: Duration, low_ms: int, high_ms: int) -> int:
        """A duration in whole ms, cut off below."""
        if abs(value.seconds) > _DURATION_SECONDS_MAX or abs(value.nanos) > 999_999_999:
            self.complain(path, "OUT_OF_RANGE", "is not a valid duration")
            return low_ms
        nanos = value.seconds * 1_000_000_000 + value.nanos
        if not low_ms * 1_000_000 <= nanos <= high_ms * 1_000_000:
            bounds = f"{low_ms / 1000:g} to {high_ms / 1000:g} seconds"
            self.complain(path, "OUT_OF_RANGE", f"must be {bounds}")
            return low_ms
        return nanos // 1_000_000

    def time_ms(self, path: str, value: Timestamp, low_ms: int, high_ms: int) -> int:
        """An instant in ms since 1970, cut off below."""
        time_ms = value.seconds * 1000 + value.nanos // 1_000_000
        if not 0 <= value.nanos <= 999_999_999 or not 0 <= time_ms <= TIME_MS_MAX:
            self.complain(path, "OUT_OF_RANGE", "must be an instant of the years 1970 to 9999")
        elif time_ms > high_ms:
            self.complain(path, "OUT_OF_RANGE", "is too far in the future")
        elif time_ms < low_ms:
            self.complain(path, "OUT_OF_RANGE", "is too far in the past")
        else:
            return time_ms
        return low_ms

    def date(self, path: str, value: types_pb2.Date) -> date:
        """A civil date."""
        try:
            if YEAR_MIN <= value.year <= YEAR_MAX:
                return date(value.year, value.month, value.day)
        except ValueError:
            pass
        self.complain(
            path,
            "INVALID_DATE",
            f"must be a date of the years {YEAR_MIN} to {YEAR_MAX}; the month has that day",
        )
        return date(YEAR_MIN, 1, 1)


def _control(character: str) -> bool:
    return character < " " or "\x7f" <= character <= "\x9f"
