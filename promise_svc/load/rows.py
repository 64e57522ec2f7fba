"""Rows of CSV files with the lines they stand on, and complaints that name file and line."""

from __future__ import annotations

import csv
import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf.timestamp_pb2 import Timestamp

from promise_svc.domain.inventory import QUANTITY_MAX

MICROS = 1_000_000


class Refusal(NamedTuple):
    """One thing wrong with one line of one file; line 0 is about the file."""

    file: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.text}" if self.line else f"{self.file}: {self.text}"


class Columns(NamedTuple):
    """The columns of a file. ``unsupported`` ones may stand there, empty: the service cannot do
    what they ask, and saying nothing would be a lie."""

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()
    unsupported: Mapping[str, str] = {}


@dataclass(slots=True)
class Row:
    """One row; what cannot be read is complained about, and a harmless value returned."""

    file: str
    line: int
    values: Mapping[str, str]
    refusals: list[Refusal] = field(repr=False)

    def refuse(self, text: str) -> None:
        """Complain about this line."""
        self.refusals.append(Refusal(self.file, self.line, text))

    def text(self, column: str) -> str:
        """The value, empty where the column or the value is missing."""
        return self.values.get(column, "")

    def integer(self, column: str, default: int = 0) -> int:
        """A whole number."""
        value = self.text(column)
        try:
            number = int(value) if value else default
        except ValueError:
            self.refuse(f"{column} must be a whole number, not {value!r}")
            return default
        if abs(number) > QUANTITY_MAX:
            self.refuse(f"{column} must be at most {QUANTITY_MAX}, not {value}")
            return default
        return number

    def decimal(self, column: str) -> float:
        """A number with a point, such as a coordinate."""
        value = self.text(column)
        try:
            return float(value)
        except ValueError:
            self.refuse(f"{column} must be a number, not {value!r}")
            return 0.0

    def micros(self, column: str) -> int:
        """Money such as 4.99, in millionths."""
        value = self.text(column)
        try:
            amount = Decimal(value or "0") * MICROS
            if amount == int(amount):
                return int(amount)
        except (InvalidOperation, OverflowError, ValueError):
            pass
        self.refuse(f"{column} must be an amount such as 4.99, not {value!r}")
        return 0

    def wall_time(self, column: str) -> tuple[int, int]:
        """Hours and minutes of HH:MM."""
        hours, colon, minutes = self.text(column).partition(":")
        if colon and hours.isdigit() and minutes.isdigit():
            return int(hours), int(minutes)
        self.refuse(f"{column} must be a time such as 17:30, not {self.text(column)!r}")
        return 0, 0

    def instant(self, column: str) -> Timestamp:
        """An instant of RFC 3339, such as 2026-12-01T09:00:00-06:00."""
        found, value = Timestamp(), self.text(column)
        try:
            found.FromJsonString(value)
        except ValueError:
            self.refuse(f"{column} must be a time such as 2026-12-01T09:00:00-06:00, not {value!r}")
        return found

    def yes(self, column: str) -> bool:
        """Whether it says yes."""
        value = self.text(column)
        if value not in ("", "yes", "no"):
            self.refuse(f"{column} must be yes or no, not {value!r}")
        return value == "yes"

    def one_of(self, column: str, kind: Any, prefix: str) -> Any:
        """The number of an enum value, written without its prefix; 0 where it is left out."""
        value = self.text(column)
        try:
            return kind.Value(prefix + value) if value else 0
        except ValueError:
            names = [name.removeprefix(prefix) for name in kind.keys()[1:]]  # noqa: SIM118
            self.refuse(f"{column} must be one of {', '.join(names)}, not {value!r}")
            return 0


def read_rows(path: Path, columns: Columns, refusals: list[Refusal]) -> Iterator[Row]:
    """Rows of a CSV file in UTF-8 with a header; a header that is wrong is refused whole."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            header = next(reader, [])
            if problem := _header_problem(header, columns):
                refusals.append(Refusal(path.name, 1, problem))
                return
            yield from _rows(path.name, header, reader, columns, refusals)
        except (csv.Error, UnicodeDecodeError) as error:
            refusals.append(Refusal(path.name, reader.line_num, f"cannot be read: {error}"))


def _rows(
    name: str, header: Sequence[str], reader: Iterator[list[str]], columns: Columns,
    refusals: list[Refusal],
) -> Iterator[Row]:  # fmt: skip
    line = 2
    for cells in reader:
        here, line = line, reader.line_num + 1  # type: ignore[attr-defined]
        if not cells:
            continue
        if len(cells) != len(header):
            text = f"has {len(cells)} values, the header names {len(header)} columns"
            refusals.append(Refusal(name, here, text))
            continue
        row = Row(name, here, dict(zip(header, map(str.strip, cells), strict=True)), refusals)
        for column in columns.required:
            if not row.text(column):
                row.refuse(f"{column} must not be empty")
        for column, why in columns.unsupported.items():
            if row.text(column):
                row.refuse(f"{column}: {why}")
        yield row


def _header_problem(header: Sequence[str], columns: Columns) -> str:
    known = [*columns.required, *columns.optional, *columns.unsupported]
    for column in header:
        if column not in known:
            near = difflib.get_close_matches(column, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(known)}"
            return f"unknown column {column!r}{hint}"
    if len(set(header)) != len(header):
        return "a column stands twice"
    missing = [column for column in columns.required if column not in header]
    return f"lacks the columns {', '.join(missing)}" if missing else ""
