from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

def read_create(
    body: bytes,
    create_ms_max: int,
    ttl_ms_default: int,
    ttl_ms_max: int,
    make_line: Callable[[tuple[Any, ...]], Any],
) -> tuple[Any, ...] | None: ...
def read_cart(
    body: bytes,
    order_ms_min: int,
    order_ms_max: int,
    make_line: Callable[[tuple[Any, ...]], Any],
) -> tuple[Any, ...] | None: ...
def write_held(
    outcome: int, reservation: tuple[Any, ...], replayed: bool, durability: int
) -> bytes | None: ...
def write_transition(
    outcome: int, reservation: tuple[Any, ...], replayed: bool, durability: int
) -> bytes | None: ...
def write_refused(outcome: int, lines: Sequence[tuple[Any, ...]]) -> bytes | None: ...
def write_promises(
    outcome: int,
    options: Sequence[Sequence[tuple[Any, ...]]],
    tokens: Sequence[tuple[Any, ...]],
    unfulfilled: Sequence[tuple[Any, ...]],
    terms: tuple[Any, ...],
    methods: Mapping[Any, int],
) -> bytes | None: ...

@final
class Writer: ...
