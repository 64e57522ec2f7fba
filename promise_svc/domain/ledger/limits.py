"""How many units an owner has by a limit: what a leg counts for. Twin: ``lua/limits.lua``."""

from __future__ import annotations

from promise_svc.domain.reservation import OPEN, CustomerLimit, LegLine, LegRecord, State


def windowed(limits: tuple[CustomerLimit, ...], time_ms: int) -> tuple[CustomerLimit, ...]:
    """Limits with the window that units taken now count in."""
    return tuple(
        limit._replace(window=time_ms // limit.window_ms if limit.window_ms else 0)
        for limit in limits
    )


def counted(
    owner: str, limits: tuple[CustomerLimit, ...], lines: tuple[LegLine, ...], *, alive: bool
) -> dict[tuple[str, str, int], int]:
    """Units that lines count for: those put aside, and in a window also those that left."""
    units: dict[tuple[str, str, int], int] = {}
    for limit in limits:
        key = limit.counter, owner, limit.window
        for line in lines:
            if line.sku == limit.sku:
                left = line.fulfilled if limit.window_ms else 0
                units[key] = units.get(key, 0) + left + (line.quantity if alive else 0)
    return units


def counted_of(leg: LegRecord) -> dict[tuple[str, str, int], int]:
    alive = leg.state in OPEN or leg.state == State.CONFIRMED
    return counted(leg.owner, leg.limits, leg.lines, alive=alive)
