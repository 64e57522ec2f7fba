from collections.abc import Container, Iterable, Mapping
from typing import Any, final

from native._ats_table import AtsTable

@final
class AvailabilityReads:
    def __init__(
        self, table: AtsTable[Any], *, feed_behind_ms: int, protected: set[str]
    ) -> None: ...
    def follow(
        self, nodes: Mapping[str, bool], groups: Mapping[str, Iterable[str]], items: Container[str]
    ) -> None: ...
    def query(self, body: bytes, now_ms: int) -> bytes | None: ...
    def check(self, body: bytes, now_ms: int) -> bytes | None: ...
