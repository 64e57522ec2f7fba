"""The demo from an empty folder to the audit."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import grpc
from rich.table import Table

from promise_svc.application.verify import Verify
from promise_svc.application.verify_report import VerifyReport
from promise_svc.demo import journey, wording
from promise_svc.demo.client import Client, reason_of
from promise_svc.demo.crowd import Crowd, latencies
from promise_svc.demo.geography import Place, by_city, load_places
from promise_svc.demo.host import DemoHost
from promise_svc.demo.load import load_network, load_stock
from promise_svc.demo.network import DemoNetwork, make_network
from promise_svc.demo.stock import DemoStock, make_stock
from promise_svc.demo.story import Story
from promise_svc.domain.reservation import State
from promise_svc.errors import PromiseServiceError
from promise_svc.v1 import network_service_pb2 as network_pb

OpenAudit = Callable[[tuple[str, ...], str], AbstractAsyncContextManager[Verify]]
"""Index URLs and order store URL to an audit with connections of its own."""

START_SECONDS_MAX = 60.0
LARGE_CITIES = 20
BROWSING_SHARE = 0.3
FAILURE_LOG_LINES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """What may be chosen."""

    seed: int
    sku_count: int
    store_count: int
    shopper_count: int
    """In each of the two crowds."""


def run_demo(options: DemoOptions, folder: Path, open_audit: OpenAudit, story: Story) -> bool:
    """Play it all on ``folder``; True when nothing was broken. Prints the closing line."""
    start = time.monotonic()
    story.chapter(f"promise-svc demo, seed {options.seed}, {wording.now_text()}")
    with ThreadPoolExecutor(1) as pool:
        # Engines take seconds to start, in which this process has nothing else to do.
        generated = pool.submit(_generate, options, story)
        with DemoHost(folder, story.note) as host:
            network, stock = generated.result()
            try:
                return asyncio.run(_play(options, host, network, stock, open_audit, story, start))
            except (grpc.aio.AioRpcError, PromiseServiceError) as error:
                _tell_failure(error, host, story)
                return False


def _generate(options: DemoOptions, story: Story) -> tuple[DemoNetwork, DemoStock]:
    start = time.monotonic()
    network = make_network(
        load_places(),
        seed=options.seed,
        store_count=options.store_count,
        today=datetime.now(UTC).date(),
    )
    stock = make_stock(network, seed=options.seed, sku_count=options.sku_count)
    story.step(
        f"generated {len(network.nodes)} nodes and {len(stock.rows):,} positions of "
        f"{len(stock.items):,} SKUs ({len(stock.sold_out)} sold out, {len(stock.scarce)} scarce)",
        (time.monotonic() - start) * 1000,
    )
    return network, stock


async def _play(
    options: DemoOptions,
    host: DemoHost,
    network: DemoNetwork,
    stock: DemoStock,
    open_audit: OpenAudit,
    story: Story,
    start: float,
) -> bool:
    client = Client(host.port)
    try:
        await client.wait_serving(START_SECONDS_MAX, host.check_server)
        story.note(f"the server process serves on 127.0.0.1:{host.port}")
        story.chapter("Load")
        await load_network(client, network, stock.items, story)
        await load_stock(client, stock, story)
        client.seconds.clear()
        rng = random.Random(f"shoppers {options.seed}")
        place = _large_city(network, rng)
        basket = journey.shoppers_basket(stock, rng)
        shopper = journey.Shopper(client, place, basket, f"demo-{time.time_ns():x}")
        await _one_shopper(shopper, stock, story)
        lost = await _many_shoppers(options, host, shopper, network, stock, rng, story)
        _tell_latencies(client, story)
        report = await _audit(host, open_audit, story)
        return _close(report, lost, story, time.monotonic() - start)
    finally:
        await client.close()


async def _one_shopper(shopper: journey.Shopper, stock: DemoStock, story: Story) -> None:
    plan = await journey.browse(shopper, story)
    await journey.buy(shopper, plan, story)
    await journey.change_minds(shopper, story)
    await journey.last_unit(shopper, stock, story)
    await journey.node_off(shopper, stock, story)


async def _many_shoppers(
    options: DemoOptions,
    host: DemoHost,
    shopper: journey.Shopper,
    network: DemoNetwork,
    stock: DemoStock,
    rng: random.Random,
    story: Story,
) -> int:
    """A crowd through a crash, another on a quiet day; how many acknowledgements were lost."""
    crowd = Crowd(shopper.client, stock, network.places, shopper.prefix, rng)
    story.chapter("Valkey is killed under a crowd of shoppers")
    await crowd.shop_through_a_crash(host, options.shopper_count, story)
    lost = await crowd.lost(story)
    story.chapter("And a quiet hour")
    await crowd.shop("quiet", options.shopper_count, story, browsing_share=BROWSING_SHARE)
    return lost + await crowd.lost(story)


def _large_city(network: DemoNetwork, rng: random.Random) -> Place:
    """Somewhere in a city that has a store for sure."""
    stores = {
        (node.address.region, node.name.partition(",")[0])
        for node in network.nodes
        if node.node_type == network_pb.NODE_TYPE_STORE
    }
    cities = [
        city
        for city in by_city(network.places)[:LARGE_CITIES]
        if (city[0].region, city[0].city) in stores
    ]
    return rng.choice(rng.choice(cities))


def _tell_failure(
    error: grpc.aio.AioRpcError | PromiseServiceError, host: DemoHost, story: Story
) -> None:
    """An answer nobody expected, and what the server says of it; the closing line."""
    story.chapter("The end of the server's log")
    for line in host.log_lines(FAILURE_LOG_LINES):
        story.detail(line)
    if isinstance(error, grpc.aio.AioRpcError):
        text = f"{error.code().name} {reason_of(error)}: {error.details()}"
    else:
        text = f"{error.reason}: {error.message}"
    story.console.print(f"\ndemo: FAILED {text}", markup=False, soft_wrap=True)


def _tell_latencies(client: Client, story: Story) -> None:
    table = Table(
        "method", "calls", "median ms", "p99 ms", title="Answered calls, as the client saw them"
    )
    for method, count, median, p99 in latencies(client):
        table.add_row(method, f"{count:,}", f"{median:.1f}", f"{p99:.1f}")
    story.console.print(table)


async def _audit(host: DemoHost, open_audit: OpenAudit, story: Story) -> VerifyReport:
    story.chapter("The audit, with connections of its own")
    async with open_audit(host.index_urls, host.order_store_url) as audit:
        report = await audit.run()
    table = Table("audit", "")
    for row in report.counts():
        table.add_row(*row)
    story.console.print(table)
    for finding in report.findings[:20]:
        story.detail(f"{finding.kind.name} shard {finding.shard} {finding.sku} {finding.node_id} "
                     f"{finding.reservation_id}: {finding.detail}")  # fmt: skip
    return report


def _close(report: VerifyReport, lost: int, story: Story, seconds: float) -> bool:
    """The closing line: every figure but ``lost`` and ``broken`` is the audit's."""
    good = (
        report.consistent
        and not report.uncompared_shard_ids
        and not story.broken
        and lost == 0
        and report.in_flight_event_count == 0
    )
    figures = {
        "reservations": sum(report.reservation_counts.values()),
        "confirmed": report.reservation_counts[State.CONFIRMED],
        "order_store_rows": report.order_store_reservation_count,
        "order_store_confirmed": report.order_store_confirmed_count,
        "events": report.order_store_event_count,
        "oversold": report.oversold_count,
        "drift": report.drift_count,
        "findings": report.finding_count,
        "lost": lost,
        "broken": len(story.broken),
    }
    told = " ".join(f"{name}={value}" for name, value in figures.items())
    story.console.print(f"\nthe whole demo took {seconds:.1f} s")
    story.console.print(
        f"demo: {'ok' if good else 'FAILED'} {told}", style="bold", markup=False, soft_wrap=True
    )
    return good
