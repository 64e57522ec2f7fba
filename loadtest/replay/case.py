"""One order as the player knows it, and what becomes of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime
from enum import StrEnum
from typing import NamedTuple


class Verb(StrEnum):
    """What happens to an order, in this order where it happens at one instant."""

    BROWSE = "browse"
    RESERVE = "reserve"
    CONFIRM = "confirm"
    RELEASE = "release"
    FULFILL = "fulfill"
    CANCEL = "cancel"
    RETURN = "return"


class Event(NamedTuple):
    """One thing that happens to one case."""

    at: float
    """Seconds since the first event of the replay, in the time of the data."""
    verb: Verb


@dataclass(slots=True)
class Case:
    """One order with its life, and its end as the player saw it."""

    key: str
    lines: list[tuple[str, int, str]]
    """SKU, units, node."""
    events: list[Event]
    country: str = ""
    postal_code: str = ""
    order_time: datetime | None = None
    """When it is asked to be promised for; None is now."""
    outcome: str = "not begun"
    """Where it ended: a state, or why it was refused."""
    reservation_id: str = ""
    promised: date | None = None
    """Latest delivery date of the best option."""
    promised_nodes: frozenset[str] = field(default_factory=frozenset)
