"""Bundles: SKUs sold as one and counted as their components.

A line of a bundle becomes a line of each component before anything is checked, so lines that share
a component are checked together. Bundles hold no bundles, so there is one step and no cycle.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple, Protocol, TypeVar

from promise_svc.domain.inventory import ID_LENGTH_MAX, QUANTITY_MAX
from promise_svc.domain.network import BundleComponent
from promise_svc.errors import FieldViolation, InvalidRequest

_MARK = "#"
"""Stands in no id of a caller's, so a component's line is never one of theirs."""

Bundles = Mapping[str, tuple[BundleComponent, ...]]
"""SKU of a bundle -> its components."""


class BundleLine(NamedTuple):
    """A line that asked for a bundle. Its components are the lines ``line_id#1``, ``line_id#2``."""

    line_id: str
    sku: str
    components: tuple[BundleComponent, ...]

    def part_ids(self) -> list[str]:
        """Lines of the components, in order."""
        return [f"{self.line_id}{_MARK}{n}" for n in range(1, len(self.components) + 1)]

    def sets(self, part_id: str, units: int) -> int:
        """Bundles that ``units`` of the component on line ``part_id`` are enough for."""
        return units // self.component(part_id).quantity

    def component(self, part_id: str) -> BundleComponent:
        """The component on line ``part_id``."""
        return self.components[int(part_id.rpartition(_MARK)[2]) - 1]

    def quantity(self, units: Mapping[str, int]) -> int:
        """Whole bundles in ``units`` (line -> units)."""
        return min(self.sets(part_id, units.get(part_id, 0)) for part_id in self.part_ids())


class _Line(Protocol):
    @property
    def line_id(self) -> str: ...
    @property
    def sku(self) -> str: ...
    @property
    def quantity(self) -> int: ...


LineT = TypeVar("LineT", bound=_Line)


def requested_line_id(line_id: str) -> str:
    """The line of the request that a line came from."""
    return line_id.partition(_MARK)[0]


def exploded(
    lines: Sequence[LineT], bundles: Bundles, lines_max: int
) -> tuple[tuple[LineT, ...], tuple[BundleLine, ...]]:
    """Lines with each bundle's components in its place, and what was a bundle.

    InvalidRequest where that makes more than ``lines_max`` lines, more units than a line may have,
    or line ids that are too long.
    """
    if not bundles or bundles.keys().isdisjoint(line.sku for line in lines):
        return tuple(lines), ()
    found: list[LineT] = []
    whole: list[BundleLine] = []
    for index, line in enumerate(lines):
        components = bundles.get(line.sku)
        if components is None:
            found.append(line)
            continue
        whole.append(BundleLine(line.line_id, line.sku, components))
        over = len(whole[-1].part_ids()[-1]) - ID_LENGTH_MAX
        if over > 0:
            most = len(line.line_id) - over
            text = f"of a bundle with {len(components)} components must be at most {most} bytes"
            raise InvalidRequest([FieldViolation(f"lines[{index}].line_id", "TOO_LONG", text)])
        found += _parts(f"lines[{index}].quantity", line, whole[-1])
    if len(found) > lines_max:
        text = f"bundles count as their components: {len(found)} lines, at most {lines_max}"
        raise InvalidRequest([FieldViolation("lines", "TOO_MANY", text)])
    return tuple(found), tuple(whole)


def together(lines: Iterable[LineT]) -> Iterator[tuple[LineT, ...]]:
    """Lines that only make sense together: the components of a bundle, else each by itself."""
    for _, group in groupby(lines, key=lambda line: requested_line_id(line.line_id)):
        yield tuple(group)


def bundle_units(parts: Sequence[tuple[int, int]]) -> int:
    """Bundles that (ATS, quantity a bundle) of all components at one node are enough for."""
    return min(units // quantity for units, quantity in parts)


def _parts(path: str, line: LineT, bundle: BundleLine) -> Iterator[LineT]:
    for part_id, (sku, quantity) in zip(bundle.part_ids(), bundle.components, strict=True):
        units = line.quantity * quantity
        if units > QUANTITY_MAX:
            text = f"needs {units} of {sku}; a line has at most {QUANTITY_MAX} units"
            raise InvalidRequest([FieldViolation(path, "OUT_OF_RANGE", text)])
        replaced = {"line_id": part_id, "sku": sku, "quantity": units}
        yield line._replace(**replaced)  # type: ignore[attr-defined]
