"""UCI Online Retail (CC BY 4.0): one node, wholesale baskets, cancellations.

Stock is what was sold over the whole set, so that nothing runs out. There are no carriers: the set
has no dates to promise.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path

from loadtest.datasets.files import (
    SHIPPING,
    SUPPLY,
    WEEK,
    Rows,
    rows_of,
    write_calendars,
    write_files,
)

NODE = "uk-dc"
_GOODS = re.compile(r"\d{5}[A-Za-z]{0,2}")
"""Stock codes of goods; the others are postage, fees and corrections."""


@dataclass(slots=True)
class Invoice:
    """One invoice; units of a cancellation are positive too."""

    invoice_id: str
    time: datetime
    customer: str
    cancellation: bool
    lines: list[tuple[str, int]] = field(default_factory=list)
    """As they stand, repeats and all."""

    def units(self) -> Counter[str]:
        """By SKU."""
        total: Counter[str] = Counter()
        for sku, quantity in self.lines:
            total[sku] += quantity
        return total


def read_invoices(source: Path) -> tuple[list[Invoice], Counter[str]]:
    """Invoices by time, and how many lines were left out and why."""
    invoices: dict[str, Invoice] = {}
    left_out: Counter[str] = Counter()
    for row in rows_of(source / "online_retail.csv.gz"):
        name, quantity = row["InvoiceNo"], int(row["Quantity"])
        cancellation = name.startswith("C")
        if not _GOODS.fullmatch(row["StockCode"]):
            left_out["not goods"] += 1
        elif quantity == 0 or (quantity < 0) != cancellation:
            left_out["stock corrections"] += 1
        else:
            invoice = invoices.get(name)
            if invoice is None:
                time = datetime.fromisoformat(row["InvoiceDate"])
                invoice = Invoice(name, time, row["CustomerID"], cancellation)
                invoices[name] = invoice
            invoice.lines.append((row["StockCode"].upper(), abs(quantity)))
    return sorted(invoices.values(), key=lambda each: (each.time, each.invoice_id)), left_out


def convert(source: Path, out: Path, *, today: date) -> dict[str, int]:
    """Write the folder; rows by file."""
    out.mkdir(parents=True, exist_ok=True)
    sold: Counter[str] = Counter()
    for invoice in read_invoices(source)[0]:
        if not invoice.cancellation:
            sold += invoice.units()
    files: dict[str, tuple[str, Rows]] = {
        "nodes.csv": (
            "node_id node_type country latitude longitude time_zone calendar_id",
            [(NODE, "DISTRIBUTION_CENTER", "GB", 51.5, -0.1, "Europe/London", "uk-week")],
        ),
        "methods.csv": (SHIPPING, [(NODE, "SHIP_TO_ADDRESS", "16:00", 1)]),
        "items.csv": ("sku", [(sku,) for sku in sorted(sold)]),
        "supply.csv": (SUPPLY, [(sku, NODE, units) for sku, units in sorted(sold.items())]),
    }
    calendars = write_calendars(out / "calendars.toml", {"uk-week": (WEEK, ())})
    return {"calendars.toml": calendars, **write_files(out, files)}
