from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import Any, TypeAlias, TypeVar, final

from native._ats_table import AtsTable

_Option: TypeAlias = tuple[str, int, int, int]
"""Name, latest delivery day as an ordinal, base cost and cost a kilogram in millionths."""
_Service: TypeAlias = tuple[str, str, date, date, date, int, int | None, int, int]
"""Method, carrier service, ship date, earliest and latest delivery date, order by, ready, and what
it costs, which its option may count dearer: base and a kilogram in millionths."""
_LineValues: TypeAlias = tuple[str, str, int, str]
"""Line id, SKU, units, no bucket."""
_LineT = TypeVar("_LineT")
_ShipmentT = TypeVar("_ShipmentT")
_ShipmentValues: TypeAlias = tuple[
    str, tuple[_LineT, ...], str, str, date, date, date, int, int, int | None, int, None
]
"""Node id, lines, the service up to the dates, cost in micros, order by, ready, and no arrival nor
work date."""

@final
class Arena: ...

@final
class Nodes:
    def __init__(
        self,
        node_ids: list[str],
        places: Sequence[tuple[float, float]],
        origins: Sequence[int],
    ) -> None: ...
    @property
    def node_ids(self) -> list[str]: ...

@final
class Options:
    def __init__(
        self,
        sets: Sequence[Sequence[_Option]],
        set_of_origin: Sequence[int],
        services: Sequence[Sequence[_Service]],
    ) -> None: ...

@final
class CartSearch:
    def __init__(self, table: AtsTable[Any]) -> None: ...
    def plans(
        self,
        nodes: Nodes,
        options: Options,
        lines: Sequence[tuple[str, str, int]],
        weights: dict[str, int],
        *,
        place: tuple[float, float] | None,
        other_origins: Mapping[int, int],
        priorities: list[bytes],
        priority_max: int,
        max_shipments: int,
        max_options: int,
        work_max: int,
        make_shipment: Callable[[_ShipmentValues[_LineT]], _ShipmentT],
        make_line: Callable[[_LineValues], _LineT],
    ) -> tuple[list[tuple[_ShipmentT, ...]], bool, int] | None: ...
