"""Nodes whose orders of a day are bounded: three of n1..n3, asked as one worker after the other."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from typing import Any

from promise_svc.application.pickup import FindPickupNodesRequest, PickupFinder, PickupNode
from promise_svc.application.promise import PromiseCartReply, PromiseCartRequest
from promise_svc.application.quote import Quote, Quotes
from promise_svc.application.reservation import CreateResult
from promise_svc.application.reservation_body import CreateCommand, RequestedLine
from promise_svc.application.stock import StockSource
from promise_svc.domain.calendar import local_date, zone_of
from promise_svc.domain.capacity import account_of, is_account
from promise_svc.domain.network import Item, NodeCapacity
from promise_svc.domain.reach import Address, Line
from promise_svc.domain.reservation import SupplyRow
from tests.support.market import a_promiser
from tests.support.networks import PICKUP, SHIP, a_lane, a_method, a_node, a_service, a_snapshot
from tests.support.quotes import a_signer
from tests.support.reservation_world import NODES, World
from tests.support.shards import TIMEOUT

CHICAGO = Address(country="US", postal_code="60601")


def bounded(*capacities: NodeCapacity, nodes: tuple[str, ...] = ("n1",), version: int = 3) -> Any:
    """``nodes`` have these capacities, the others of n1..n3 have none."""
    methods = (a_method(SHIP), a_method(PICKUP))
    made = [a_node(node, methods=methods, calendar_id="daily") for node in NODES]
    made = [replace(n, capacities=capacities) if n.node_id in nodes else n for n in made]
    items = [Item(sku=sku) for sku in "ABCDEFG"]
    lanes = [a_lane(node) for node in NODES]
    return a_snapshot(*made, *items, a_service(), *lanes, version=version)


def a_day(orders: int) -> NodeCapacity:
    """So many orders to ship a day."""
    return NodeCapacity(fulfillment_method=SHIP, orders_per_day_max=orders)


async def opened(world: World, *capacities: NodeCapacity, **other: Any) -> World:
    """Plenty of A to F at each node, and these capacities at n1. It is Monday morning."""
    world.network.now = bounded(*capacities, **other)
    zone = zone_of("America/Chicago")
    while local_date(world.clock.now, zone).weekday() != 6:
        world.advance(12 * 3_600_000)
    while local_date(world.clock.now, zone).weekday() != 0:
        world.advance(3_600_000)
    world.advance(7 * 3_600_000)
    for sku in "ABCDEF":
        rows = [SupplyRow(sku, node, "", 50, 0, "", 0) for node in NODES]
        await world.index.sync_supply(world.shard(sku), rows, TIMEOUT)
        for node in NODES:
            world.table.put(sku, node, 50)
    return world


def today(world: World) -> date:
    return local_date(world.clock.now, zone_of("America/Chicago"))


def cart(name: str, *skus: str, node_id: str = "n1", **other: Any) -> CreateCommand:
    """A hold of one of each SKU at a node, or, where that is empty, wherever is best."""
    lines = tuple(RequestedLine(f"l{i}", sku, 1, node_id) for i, sku in enumerate(skus or "AB"))
    values: dict[str, Any] = {"fulfillment_method": SHIP, "address": CHICAGO, **other}
    return CreateCommand(reservation_id=name, owner_id="shopper", lines=lines, **values)


async def take(world: World, command: CreateCommand, *, seen: bool = True) -> CreateResult:
    """The hold, as one worker; not ``seen``, and the table is not told of it."""
    worker = world.worker()
    result = await worker.reservations.create(command, TIMEOUT)
    await worker.rest()
    if seen:
        await follow(world)
    return result


async def follow(world: World) -> None:
    """Let the table see what the shards count."""
    for shard in range(world.index.shard_count):
        positions, _, _ = await world.index.scan(shard)
        for (sku, node_id, bucket), row in positions.items():
            if is_account(sku):
                world.table.put(
                    sku, node_id, row.on_hand, bucket=bucket, committed=row.committed,
                    held=row.held, safety_stock=row.safety_stock,
                )  # fmt: skip


async def counts(world: World, node_id: str = "n1", method: Any = SHIP) -> list[int]:
    """Orders that count for today, tomorrow and the day after, by the shards alone."""
    found = []
    for offset in range(3):
        account = account_of(method, today(world) + timedelta(offset), node_id)
        shard = world.shard(account)
        _, _, images = await world.index.read_positions(shard, [account], TIMEOUT)
        rows = [image.row for image in images[0] if image.node_id == node_id]
        found.append(sum(row.committed + row.held + row.safety_stock for row in rows))
    return found


def days(result: CreateResult) -> list[tuple[str, date, bool]]:
    assert result.reservation is not None
    return [tuple(day) for day in result.reservation.work_days]


async def promised(world: World, *skus: str, **other: Any) -> PromiseCartReply:
    snapshot = world.network.snapshot
    request = PromiseCartRequest(
        lines=tuple(Line(f"l{i}", sku, 1) for i, sku in enumerate(skus)),
        **{"address": CHICAGO, **other},
    )
    promiser = a_promiser(world.table, world.index, snapshot, world.clock)
    return await promiser.promise_cart(request, timeout=TIMEOUT)


async def near(world: World) -> PickupNode:
    """n1, as a search for where to collect one unit of A tells of it."""
    snapshot = world.network.snapshot
    stock = StockSource(table=world.table, index=world.index, network=snapshot, clock=world.clock)
    finder = PickupFinder(stock=stock, network=snapshot, clock=world.clock)
    origin = replace(CHICAGO, latitude=41.9, longitude=-87.6)
    request = FindPickupNodesRequest(origin=origin, lines=(Line("l0", "A", 1),))
    reply = await finder.find(request, timeout=TIMEOUT)
    return next(found for found in reply.nodes if found.node.node_id == "n1")


async def quoted(world: World, *skus: str, **other: Any) -> Quote:
    reply = await promised(world, *skus, **other)
    request = PromiseCartRequest(
        lines=tuple(Line(f"l{i}", sku, 1) for i, sku in enumerate(skus)),
        **{"address": CHICAGO, **other},
    )
    signer = a_signer()
    network = world.network.snapshot
    tokens = Quotes(signer, network, world.index.shard_count).tokens(request, reply)
    return signer.read(tokens[0].text)


def with_token(quote: Quote) -> CreateCommand:
    return CreateCommand(
        reservation_id=quote.reservation_id,
        owner_id="shopper",
        lines=tuple(RequestedLine(*line) for line in quote.lines),
        fulfillment_method=quote.fulfillment_method,
        address=quote.address,
        pickup_node_id=quote.pickup_node_id,
        quote=quote,
    )
