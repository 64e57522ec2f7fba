"""`promise-svc relay`: the background loops alone, for servers that run without them."""

from __future__ import annotations

import os
from typing import Annotated

import typer
from rich.console import Console

from promise_svc.bootstrap import run
from promise_svc.cli.settings import load_settings
from promise_svc.errors import ConfigError


def relay(
    index_url: Annotated[
        list[str] | None,
        typer.Option(help="URL of a node of the Valkey cluster; may be given several times."),
    ] = None,
    order_store_url: Annotated[
        str | None, typer.Option(help="postgresql:// URL of the order store.")
    ] = None,
    metrics_listen: Annotated[str | None, typer.Option(help="host:port of /metrics.")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
) -> None:
    """Carry events to the order store, finish what dead servers left, expire holds, watch drift.

    For servers of `serve --no-background`, until SIGTERM or Ctrl-C. One is enough: a second one
    beside it doubles the work and changes nothing. URLs may also come from PROMISE_INDEX_URLS and
    PROMISE_ORDER_STORE_URL.
    """
    flags = {
        "index_urls": tuple(index_url) if index_url else None,
        "order_store_url": order_store_url,
        "metrics_listen": metrics_listen,
        "log_level": log_level,
    }
    cluster, process = load_settings(flags, os.environ)
    if not process.index_urls or not process.order_store_url:
        raise ConfigError("relay needs --index-url and --order-store-url, those of the servers")
    console = Console(highlight=False)
    run.relay(cluster, process, on_running=lambda: console.print("relaying; Ctrl-C to stop"))
