"""Olist's orders of one month as cases, and its promises beside ours."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from loadtest.datasets.olist import Month, Order, month_orders, read_orders
from loadtest.replay.case import Case, Event, Verb

ZONE = ZoneInfo("America/Sao_Paulo")
"""The set's times are wall times without a zone."""

CANCEL_AFTER = timedelta(days=1)
"""The set does not say when an order was taken back: a day after the last thing it tells."""
OFF = frozenset({"canceled", "unavailable"})


@dataclass(frozen=True, slots=True)
class Replay:
    """What is played, and the orders it was made from."""

    cases: list[Case]
    orders: dict[str, Order]
    without_lines: int
    """Orders that the set has no lines of; they cannot be held."""
    shift_days: int


def read_replay(source: Path, folder: Path, limit: int = 0) -> Replay:
    """The month and the shift that ``folder`` was converted with; at most ``limit`` orders."""
    about = json.loads((folder / "replay.json").read_text())
    month = Month(date.fromisoformat(f"{about['month']}-01"), about["shift_days"])
    chosen = month_orders(read_orders(source), month, limit)
    start = datetime.combine(month.first, datetime.min.time())
    cases = [case_of(order, start, month.shift_days) for order in chosen if order.lines]
    return Replay(
        cases, {order.order_id: order for order in chosen}, len(chosen) - len(cases),
        month.shift_days,
    )  # fmt: skip


def case_of(order: Order, start: datetime, shift_days: int) -> Case:
    """The order's life. Where the set has no approval, the hold is let go; an approval before the
    purchase, or a hand-over before the approval, comes right after what it needs."""

    def at(moment: datetime) -> float:
        return (moment - start).total_seconds()

    events = [Event(at(order.purchase), Verb.BROWSE), Event(at(order.purchase), Verb.RESERVE)]
    last = order.purchase
    if order.approved is None:
        events.append(Event(at(last + CANCEL_AFTER), Verb.RELEASE))
    else:
        last = max(last, order.approved)
        events.append(Event(at(last), Verb.CONFIRM))
        if order.handed_over is not None:
            events.append(Event(at(max(last, order.handed_over)), Verb.FULFILL))
        elif order.status in OFF:
            events.append(Event(at(last + CANCEL_AFTER), Verb.CANCEL))
    moved = order.purchase + timedelta(days=shift_days)
    lines = [(sku, units, seller) for (sku, seller), units in sorted(order.lines.items())]
    return Case(
        order.order_id, lines, events, "BR", order.postal_code, moved.replace(tzinfo=ZONE)
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Dates:
    """Promised dates of delivered orders against what came true, in calendar days."""

    orders: int
    same_sellers: int
    """Orders whose best plan ships from the very sellers that sold it."""
    ours_days: float
    theirs_days: float
    true_days: float
    ours_on_time: float
    theirs_on_time: float

    def rows(self) -> list[tuple[str, str]]:
        """For people."""
        return [
            ("delivered orders with both promises", f"{self.orders:,}"),
            ("of them planned from the same sellers", f"{self.same_sellers:,}"),
            ("promised, marketplace", f"{self.theirs_days:.1f} days"),
            ("promised, this service", f"{self.ours_days:.1f} days"),
            ("delivered", f"{self.true_days:.1f} days"),
            ("on time, marketplace", f"{self.theirs_on_time:.1%}"),
            ("on time, this service", f"{self.ours_on_time:.1%}"),
        ]


def compare_dates(replay: Replay) -> Dates | None:
    """None where no delivered order was promised. Only orders whose best plan ships from the very
    sellers that sold it are compared: another seller's parcel was never sent."""
    shift = timedelta(days=replay.shift_days)
    both = [
        (case, replay.orders[case.key])
        for case in replay.cases
        if case.promised is not None and replay.orders[case.key].delivered is not None
    ]
    found = []
    for case, order in both:
        if case.promised_nodes == {node for _, _, node in case.lines}:
            assert case.promised is not None and order.delivered is not None
            found.append((order.purchase.date(), case.promised - shift, order))
    if not found:
        return None
    return Dates(
        len(both), len(found),
        _mean((ours - bought).days for bought, ours, _ in found),
        _mean((order.estimated - bought).days for bought, _, order in found),
        _mean((_delivered(order) - bought).days for bought, _, order in found),
        _mean(_delivered(order) <= ours for _, ours, order in found),
        _mean(_delivered(order) <= order.estimated for _, _, order in found),
    )  # fmt: skip


def _delivered(order: Order) -> date:
    assert order.delivered is not None
    return order.delivered.date()


def _mean(values: Iterable[float]) -> float:
    kept: Sequence[float] = list(values)
    return statistics.fmean(kept)
