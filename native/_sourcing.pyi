from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, final

from native._ats_table import AtsTable

_Option: TypeAlias = tuple[str, int, int, int]
"""Name, latest delivery day as an ordinal, base cost and cost a kilogram in millionths."""
_Shipment: TypeAlias = tuple[int, int, tuple[int, ...]]
"""Node by number, option by its place in the node's set, units a demand."""
_Plan: TypeAlias = tuple[tuple[_Shipment, ...], int, int, int]
"""Shipments by node, cost in thousandths of a millionth, distance in meters, latest day."""

@final
class Arena: ...

@final
class Nodes:
    def __init__(
        self,
        node_ids: Sequence[str],
        places: Sequence[tuple[float, float]],
        origins: Sequence[int],
    ) -> None: ...
    @property
    def node_ids(self) -> list[str]: ...

@final
class Options:
    def __init__(self, sets: Sequence[Sequence[_Option]], set_of_origin: Sequence[int]) -> None: ...

@final
class CartSearch:
    def __init__(self, table: AtsTable[Any]) -> None: ...
    def plans(
        self,
        nodes: Nodes,
        options: Options,
        demands: list[tuple[str, int, int]],
        *,
        place: tuple[float, float] | None,
        other_sets: Mapping[int, int],
        max_shipments: int,
        best_only: bool,
        work_max: int,
    ) -> tuple[list[_Plan], bool, int] | None: ...
