"""`promise-svc doctor`: is everything as it must be, and what to do if not."""

from __future__ import annotations

import asyncio
import json
import os

import typer
from rich.console import Console
from rich.table import Table

from promise_svc.cli.checks import (
    Check,
    check_index,
    check_installation,
    check_order_store,
    check_shards,
    ok,
)
from promise_svc.cli.options import AsJson, IndexUrls, OrderStoreUrl, ShardCount
from promise_svc.cli.settings import load_settings
from promise_svc.config import ClusterConfig, ProcessConfig
from promise_svc.errors import ConfigError

_STYLES = {"ok": "green", "warn": "yellow", "fail": "red"}


def doctor(
    index_url: IndexUrls = None,
    order_store_url: OrderStoreUrl = None,
    shard_count: ShardCount = None,
    as_json: AsJson = False,
) -> None:
    """Check versions, settings, engines, durability, clocks, schema, shards and relay.

    Looks at engines as they run now, changes nothing, and says what to do. URLs may also come from
    PROMISE_INDEX_URLS and PROMISE_ORDER_STORE_URL; with one of them that engine alone is checked,
    without both only this installation. Ends with code 1 when something fails.

    Embedded engines listen on 127.0.0.1; the server prints their ports as it starts. In its data
    folder, the index is redis://:PASSWORD@127.0.0.1:PORT with the password in valkey/password, the
    order store postgresql://promise:PASSWORD@127.0.0.1:PORT/promise with that in postgres/password.
    """
    checks = list(check_installation())
    flags = {
        "index_urls": tuple(index_url) if index_url else None,
        "order_store_url": order_store_url,
        "shard_count": shard_count,
    }
    try:
        cluster, process = load_settings(flags, os.environ)
    except ConfigError as error:
        checks.append(Check("settings", "fail", error.message, "correct the flag or variable"))
    else:
        checks.append(ok("settings", "every flag and PROMISE_* variable is in its range"))
        checks += asyncio.run(_engines(cluster, process))
    if as_json:
        print(json.dumps([check._asdict() for check in checks]))
    else:
        _print(checks)
    if any(check.level == "fail" for check in checks):
        raise typer.Exit(1)


async def _engines(cluster: ClusterConfig, process: ProcessConfig) -> list[Check]:
    found = []
    if not process.index_urls and not process.order_store_url:
        missing = "no URLs: the service would start embedded engines; nothing else was looked at"
        return [Check("engines", "warn", missing, "give --index-url and --order-store-url")]
    if process.index_urls:
        found += [check async for check in check_index(process)]
    else:
        found.append(Check("index", "warn", "no URL: not looked at", "give --index-url"))
    if process.order_store_url:
        found += [check async for check in check_order_store(process)]
    else:
        found.append(
            Check("order store", "warn", "no URL: not looked at", "give --order-store-url")
        )
    both = process.index_urls and process.order_store_url
    if both and all(check.level != "fail" for check in found):
        found += [check async for check in check_shards(cluster, process)]
    return found


def _print(checks: list[Check]) -> None:
    table = Table("", "check", "found", "do")
    for check in checks:
        style = _STYLES[check.level]
        table.add_row(f"[{style}]{check.level}[/{style}]", check.name, check.found, check.remedy)
    Console(highlight=False).print(table)
