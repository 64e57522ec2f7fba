"""Quantities of every SKU of a cart as one integer, so that comparing two such is one subtraction.

A field a SKU, wide enough for its largest quantity and a guard bit on top. Subtracting with guards
set leaves a guard standing exactly where the field did not borrow: where one is at least the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct

_FORMATS = {8: "B", 16: "H", 32: "I", 64: "Q"}


class Packing:
    """The layout for vectors with at most ``maxima``, below 2**63, a field.

    Cost of a call: well under a microsecond for a few fields, about one for 200.
    """

    def __init__(self, maxima: Sequence[int]) -> None:
        largest = max(maxima, default=0)
        self.bits = next(bits for bits in _FORMATS if largest < 1 << (bits - 1))
        self._layout = Struct(f"<{len(maxima)}{_FORMATS[self.bits]}")
        self._ones = self.pack([1] * len(maxima))
        self.guards = self._ones << (self.bits - 1)

    def pack(self, values: Sequence[int]) -> int:
        """One integer of all ``values``, the first lowest."""
        return int.from_bytes(self._layout.pack(*values), "little")

    def unpack(self, packed: int) -> tuple[int, ...]:
        """The values of ``pack``."""
        values: tuple[int, ...] = self._layout.unpack(packed.to_bytes(self._layout.size, "little"))
        return values

    def field(self, index: int) -> int:
        """A mask over one field."""
        return ((1 << (self.bits - 1)) - 1) << (index * self.bits)

    def covers(self, have: int, want: int) -> bool:
        """Whether no field of ``have`` is below that of ``want``."""
        guards = self.guards
        return ((have | guards) - want) & guards == guards

    def less(self, want: int, have: int) -> int:
        """``want - have`` field by field, 0 where there is more than wanted."""
        rest = (want | self.guards) - have
        standing = rest & self.guards
        return rest & (standing - (standing >> (self.bits - 1)))

    def nonzero_count(self, packed: int) -> int:
        """Fields that are not 0."""
        return (((packed | self.guards) - self._ones) & self.guards).bit_count()

    def total(self, packed: int) -> int:
        """The sum of all fields."""
        return sum(self.unpack(packed))
