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
from promise_svc.cli.options import AsJson, IndexUrls, OrderStoreUrl
from promise_svc.cli.settings import load_settings
from promise_svc.config import ClusterConfig, ProcessConfig
from promise_svc.errors import ConfigError

_STYLES = {"ok": "green", "warn": "yellow", "fail": "red"}


def doctor(
    index_url: IndexUrls = None, order_store_url: OrderStoreUrl = None, as_json: AsJson = False
) -> None:
    """Check versions, settings, engines, durability, clocks, schema, shards and relay.

    Looks at engines as they run now, changes nothing, and says what to do. URLs may also come from
    PROMISE_INDEX_URLS and PROMISE_ORDER_STORE_URL; without them only this installation is checked.
    Ends with code 1 when something fails.
    """
    checks = list(check_installation())
    flags = {
        "index_urls": tuple(index_url) if index_url else None,
        "order_store_url": order_store_url,
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
    if not process.index_urls or not process.order_store_url:
        missing = "no URLs: the service would start embedded engines; nothing else was looked at"
        return [Check("engines", "warn", missing, "give --index-url and --order-store-url")]
    found += [check async for check in check_index(process)]
    found += [check async for check in check_order_store(process)]
    if all(check.level != "fail" for check in found):
        found += [check async for check in check_shards(cluster, process)]
    return found


def _print(checks: list[Check]) -> None:
    table = Table("", "check", "found", "do")
    for check in checks:
        style = _STYLES[check.level]
        table.add_row(f"[{style}]{check.level}[/{style}]", check.name, check.found, check.remedy)
    Console(highlight=False).print(table)
