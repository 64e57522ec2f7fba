"""python -m loadtest.datasets SET DIR OUT: a public data set as a folder to load."""

from __future__ import annotations

import time
from datetime import date
from pathlib import Path
from typing import Annotated

import typer

from loadtest.datasets import olist as olist_set
from loadtest.datasets import online_retail as online_retail_set
from loadtest.datasets import us_retailer as us_retailer_set

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Convert a public data set to a folder that `promise-svc load` takes.",
)

Source = Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder of the set.")]
Out = Annotated[Path, typer.Argument(file_okay=False, help="Folder to write.")]
Seed = Annotated[int, typer.Option(help="Same seed, same folder.")]


@app.command()
def olist(
    source: Source,
    out: Out,
    month: Annotated[str, typer.Option(help="The month to be replayed.")] = "2018-05",
    seed: Seed = 1,
) -> None:
    """Olist (olist/): sellers are nodes, products SKUs; stock for the orders of one month."""
    begun = time.monotonic()
    _tell(olist_set.convert(source, out, month=month, today=date.today(), seed=seed), begun)


@app.command()
def us_retailer(
    source: Source,
    out: Out,
    skus: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many SKUs.")] = 2_000,
    seed: Seed = 1,
) -> None:
    """Real US stores, distribution centers and USPS zones (locations/, carrier_zones/ in DIR)."""
    begun = time.monotonic()
    counts = us_retailer_set.convert(source, out, today=date.today(), sku_count=skus, seed=seed)
    _tell(counts, begun)


@app.command()
def online_retail(source: Source, out: Out) -> None:
    """UCI Online Retail (online_retail/): one node, every article that was sold."""
    begun = time.monotonic()
    _tell(online_retail_set.convert(source, out, today=date.today()), begun)


def _tell(counts: dict[str, int], begun: float) -> None:
    for name, count in counts.items():
        print(f"{name:24}{count:>10,}")
    print(f"{time.monotonic() - begun:.1f} s")


if __name__ == "__main__":
    app()
