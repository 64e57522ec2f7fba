"""Online Retail's invoices as cases: wholesale baskets, orders taken back, goods returned."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from loadtest.datasets.online_retail import NODE, Invoice, read_invoices
from loadtest.replay.case import Case, Event, Verb

SHIP_AFTER = timedelta(days=1)


def read_cases(source: Path, limit: int = 0) -> tuple[list[Case], Counter[str]]:
    """Cases by time, and what was left out. A cancellation of just what one earlier invoice of the
    customer sold takes that order back; any other is goods that came back."""
    invoices, left_out = read_invoices(source)
    return cases_of(invoices[:limit] if limit else invoices), left_out


def cases_of(invoices: Sequence[Invoice]) -> list[Case]:
    """One case an invoice, but a cancellation that takes an order back is part of that one."""
    cases: dict[str, Case] = {}
    open_orders: dict[str, list[Invoice]] = defaultdict(list)
    for invoice in invoices:
        at = (invoice.time - invoices[0].time).total_seconds()
        lines = [(sku, units, NODE) for sku, units in invoice.lines]
        if not invoice.cancellation:
            events = [Event(at, Verb.RESERVE), Event(at, Verb.CONFIRM)]
            events.append(Event(at + SHIP_AFTER.total_seconds(), Verb.FULFILL))
            cases[invoice.invoice_id] = Case(invoice.invoice_id, lines, events)
            if invoice.customer:
                open_orders[invoice.customer].append(invoice)
        elif taken_back := _sold_just_that(open_orders[invoice.customer], invoice):
            open_orders[invoice.customer].remove(taken_back)
            case = cases[taken_back.invoice_id]
            case.events = [*case.events[:2], Event(at, Verb.CANCEL)]
        else:
            cases[invoice.invoice_id] = Case(invoice.invoice_id, lines, [Event(at, Verb.RETURN)])
    return list(cases.values())


def _sold_just_that(orders: Sequence[Invoice], cancellation: Invoice) -> Invoice | None:
    """The latest of the customer's orders with the same units of the same SKUs."""
    units = cancellation.units()
    return next((order for order in reversed(orders) if order.units() == units), None)
