"""`promise-svc demo`: a shopper from product page to a row in PostgreSQL, then the audit."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from promise_svc.bootstrap.books import open_audit
from promise_svc.config import ClusterConfig
from promise_svc.demo.run import DemoOptions, run_demo
from promise_svc.demo.story import Story


def demo(
    seed: Annotated[int, typer.Option(help="Same seed, same network, stock and shoppers.")] = 1,
    skus: Annotated[int, typer.Option(min=50, max=100_000, help="How many SKUs.")] = 20_000,
    stores: Annotated[int, typer.Option(min=20, max=2_000, help="How many stores.")] = 300,
    shoppers: Annotated[
        int, typer.Option(min=10, max=100_000, help="Shoppers in each of the two crowds.")
    ] = 200,
    keep: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            file_okay=False,
            help="Keep engines' data and the server's log in this new or empty folder. Without it "
            "everything lies in a temporary folder and is removed.",
        ),
    ] = None,
) -> None:
    """Show the whole service at work, with nothing to install or start.

    Starts a Valkey cluster, a PostgreSQL and a server process on free loopback ports, loads a US
    retailer generated from real geography, plays a shopper and two crowds over gRPC (one while
    Valkey is killed), and audits the books. The last line is the audit's; code 1 when it failed.
    """
    options = DemoOptions(seed=seed, sku_count=skus, store_count=stores, shopper_count=shoppers)
    audit = partial(open_audit, ClusterConfig())
    if keep is not None:
        if keep.exists() and any(keep.iterdir()):
            raise typer.BadParameter(f"{keep} is not empty", param_hint="--keep")
        keep.mkdir(parents=True, exist_ok=True)
        good = run_demo(options, keep, audit, Story())
    else:
        with tempfile.TemporaryDirectory(prefix="promise-demo-") as folder:
            good = run_demo(options, Path(folder), audit, Story())
    if not good:
        raise typer.Exit(1)
