"""What is done beside plain carts and counts: receipts, quotes, nodes off, holds taken again."""

from __future__ import annotations

from dataclasses import replace

from promise_svc.application.changed_lines import ChangeLine, TransferLine
from promise_svc.application.promise import PromiseCartRequest
from promise_svc.application.quote import Quote
from promise_svc.application.reservation_body import CreateCommand, RequestedLine
from promise_svc.application.reservation_changes import ChangeCommand
from promise_svc.application.supply import ProtectionLevel, SupplyCount
from promise_svc.application.transition import TransitionResult
from promise_svc.domain.inventory import ARRIVED, PositionKey
from promise_svc.domain.network import NodeStatus
from promise_svc.domain.reach import Line
from promise_svc.domain.reservation import DurabilityMode, State
from tests.sim.draws import LATER_MS, SEGMENTS
from tests.sim.process import Worker
from tests.sim.shoppers import ADDRESS, Shopper, change, create_as, move, operation


@operation(2, "inbound")
async def receive(shopper: Shopper) -> None:
    """Supply comes, as expected, more or less of it; told twice."""
    world, chance = shopper.world, shopper.chance
    row = chance.choice(world.draws.inbound) if world.draws.inbound else None
    if row is None:
        return
    on_hand = max(0, row.on_hand + chance.choice((-1, 0, 0, 1)))
    bucket = chance.choice(("po", "po", "po-2"))
    rows = [SupplyCount(row.sku, row.node_id, bucket, on_hand, arrival_ms=ARRIVED)]
    sequence = int(world.now() * 1_000)
    for _ in range(chance.choice((1, 2))):
        await shopper.ask("receive", lambda w: w.supply.sync("wms", sequence, rows, 2.0))


@operation(2, "inbound")
async def announce(shopper: Shopper) -> None:
    """More supply is on its way, or the same is expected later."""
    world, chance = shopper.world, shopper.chance
    sku, node = chance.choice(world.scarce), chance.choice(world.node_ids)
    arrival_ms = LATER_MS + chance.choice((0, 3_600_000, 86_400_000))
    bucket = chance.choice(("po", "po-2"))
    rows = [SupplyCount(sku, node, bucket, chance.choice((1, 2, 3)), arrival_ms=arrival_ms)]
    sequence = int(world.now() * 1_000)
    await shopper.ask("announce", lambda w: w.supply.sync("wms", sequence, rows, 2.0))


@operation(1, "segments")
async def protect(shopper: Shopper) -> None:
    """Shares of what is plenty, which change; those of the scarce do not."""
    world, chance = shopper.world, shopper.chance
    sku, node = chance.choice(world.plenty), chance.choice(world.node_ids)
    rows = [ProtectionLevel(sku, node, chance.choice(SEGMENTS), chance.choice((0, 10, 39)))]
    await shopper.ask("protect", lambda w: w.supply.protect(rows, 2.0))


@operation(2, "edited shares")
async def edit_a_share(shopper: Shopper) -> None:
    """Of what is scarce: larger, smaller, none any more, or for the other segment."""
    world, chance = shopper.world, shopper.chance
    sku, node, segment = (chance.choice(x) for x in (world.scarce, world.node_ids, SEGMENTS))
    level = chance.choice((0, 1, 2, 3))
    world.told.share_edited(PositionKey(sku, node, ""), segment, level)
    rows = [ProtectionLevel(sku, node, segment, level)]
    await shopper.ask("edit a share", lambda w: w.supply.protect(rows, 2.0))


@operation(1, "edited limits")
async def edit_a_limit(shopper: Shopper) -> None:
    """More or fewer of an item from now on; who holds some keeps the limit of then."""
    world, chance = shopper.world, shopper.chance
    sku = chance.choice(sorted(world.draws.limits()))
    item, most = world.draws.items[sku], chance.choice((1, 2, 3, 4))
    assert item.customer_limit
    world.told.limit_edited(sku, most)
    limit = replace(item.customer_limit, quantity_max=most)
    documents = [replace(item, customer_limit=limit)]
    await shopper.ask("edit a limit", lambda w: w.editor.upsert("item", documents, 2.0))


@operation(6, "net figures")
async def send_a_net_figure(shopper: Shopper) -> None:
    """An ERP's, net of the orders in the order store, as it was some time before it is heard."""
    world, chance = shopper.world, shopper.chance
    places = [PositionKey(sku, node) for sku in world.scarce for node in world.node_ids]
    rows = []
    for place in places:
        stored = world.store.store._positions.get(world.shard(place.sku).number, {})
        if place in stored:
            row = stored[place][1].row
            taken = row.confirmed_total - row.cancelled_total
            rows.append(
                SupplyCount(*place, row.on_hand + row.fulfilled_total - taken, deducted=taken)
            )
    sequence = int(world.now() * 1_000)
    await world.pause(1.0)
    for _ in range(chance.choice((1, 2))):
        await shopper.ask("net figure", lambda w: w.supply.sync("net", sequence, rows, 2.0))


@operation(2, "counts of all")
async def count_all(shopper: Shopper) -> None:
    """What stands at a node, what has arrived and is owed included; often fewer than that."""
    world, chance = shopper.world, shopper.chance
    place = (chance.choice(world.scarce), chance.choice(world.node_ids))
    rows = [SupplyCount(*place, "", chance.randrange(7))]
    sequence = int(world.now() * 1_000)
    await shopper.ask(
        "count all", lambda w: w.supply.sync("till", sequence, rows, 2.0, arrived_counted=True)
    )


@operation(1, "bundles")
async def edit_a_bundle(shopper: Shopper) -> None:
    """From now on another set; what was asked for before stays what it was."""
    world, chance = shopper.world, shopper.chance
    name = chance.choice(world.draws.bundles)
    item = world.draws.items[name]
    parts = [x._replace(quantity=chance.choice((1, 2, 3))) for x in item.components]
    documents = [replace(item, components=tuple(parts))]
    await shopper.ask("edit", lambda w: w.editor.upsert("item", documents, 2.0))


@operation(1, "counts")
async def withhold(shopper: Shopper) -> None:
    """A count with another safety stock, also of what is scarce and on its way."""
    world, chance = shopper.world, shopper.chance
    place = (chance.choice(world.scarce), chance.choice(world.node_ids))
    rows = [SupplyCount(*place, "", chance.randrange(6), chance.choice((0, 1, 3)))]
    sequence = int(world.now() * 1_000)
    await shopper.ask("withhold", lambda w: w.supply.sync("pos", sequence, rows, 2.0))


@operation(2, "network")
async def switch(shopper: Shopper) -> None:
    """A node off, and a while later on again; one such edit at a time."""
    world, node = shopper.world, shopper.chance.choice(shopper.world.node_ids)
    if world.editing:
        return
    world.editing = True
    off = await shopper.ask(
        f"off {node}", lambda w: w.editor.set_node_status(node, NodeStatus.OFF, 2.0)
    )
    if not isinstance(off, Exception) and node not in world.doubtful:
        world.off.add(node)
    await world.pause(0.5)
    world.off.discard(node)
    on = await shopper.ask(
        f"on {node}", lambda w: w.editor.set_node_status(node, NodeStatus.ON, 2.0)
    )
    if isinstance(on, Exception):
        world.doubtful.add(node)
    world.editing = False


@operation(3, "sourcing")
async def hold_a_quote(shopper: Shopper) -> None:
    """Promise a cart, and hold what was promised, a while later and perhaps twice."""
    world, chance = shopper.world, shopper.chance
    asked = shopper.new_cart("")
    request = PromiseCartRequest(
        lines=tuple(Line(x.line_id, x.sku, x.quantity) for x in asked.lines),
        address=ADDRESS,
        segment=asked.segment,
        allow_backorder=asked.allow_backorder,
    )

    async def promise(worker: Worker) -> list[Quote]:
        reply = await worker.promiser.promise_cart(request, timeout=2.0)
        return [
            worker.quotes.read(token.text)
            for token in worker.quotes.tokens(request, reply)
            if token.text
        ]

    quotes = await shopper.ask("promise", promise)
    if isinstance(quotes, Exception) or not quotes:
        return
    quote = chance.choice(quotes)
    cart = CreateCommand(
        reservation_id=quote.reservation_id,
        owner_id=asked.owner_id,
        lines=tuple(RequestedLine(*line) for line in quote.requested_lines),
        fulfillment_method=quote.fulfillment_method,
        address=quote.address,
        segment=quote.segment,
        quote=quote,
        ttl_ms=asked.ttl_ms,
        allow_backorder=asked.allow_backorder,
        create_ms=world.made_ms(),
    )
    world.carts.append(cart)
    await world.pause(0.5)
    for _ in range(chance.choice((1, 1, 2))):
        await create_as(shopper, cart, name="hold the quote")


@operation(6, "parts")
async def end_a_part(shopper: Shopper) -> None:
    """A unit of one line leaves, or is cancelled; under a key, and now and then told twice."""
    chance = shopper.chance
    target = chance.choice((State.FULFILLED, State.CANCELLED))
    recorded = chance.choice((None, DurabilityMode.RECORDED))
    key, line = f"p{chance.randrange(10**6)}", ChangeLine(f"l{chance.choice((0, 0, 1, 2))}", 1)

    async def verb(worker: Worker, rid: str, mode: DurabilityMode | None) -> TransitionResult:
        command = ChangeCommand(
            reservation_id=rid, idempotency_key=key, lines=(line,), durability=mode or recorded
        )
        if target is State.CANCELLED:
            return await worker.reservations.cancel(command, 3)
        return await worker.reservations.changes.fulfill(command, 3)

    await move(shopper, target, f"{target.name} in part", verb)


@operation(3, "parts")
async def amend_somewhere(shopper: Shopper) -> None:
    """Other quantities, more of them at a node that may not have had any; or units move there."""
    world, chance = shopper.world, shopper.chance
    line, node = f"l{chance.choice((0, 0, 1, 2))}", chance.choice(world.node_ids)
    lines = (ChangeLine(line, chance.choice((1, 2, 3, 4)), node),)
    moves = (TransferLine(line, chance.choice((1, 1, 2)), chance.choice(world.node_ids), node),)

    async def amends(worker: Worker, command: ChangeCommand) -> TransitionResult:
        return await worker.reservations.changes.amend(replace(command, lines=lines), 3)

    async def moves_units(worker: Worker, command: ChangeCommand) -> TransitionResult:
        return await worker.reservations.changes.transfer(command, moves, 3)

    verb = chance.choice((amends, moves_units))
    mode = chance.choice((None, DurabilityMode.RECORDED))
    await change(shopper, f"{verb.__name__} of {line} at {node}", verb, mode)


@operation(4, "reacquire")
async def confirm_again(shopper: Shopper) -> None:
    """A confirm that takes the units again where the hold has ended by the clock."""
    cart = shopper.cart()
    if cart is not None:
        await move(
            shopper,
            State.CONFIRMED,
            "confirm again",
            lambda w, rid, m: w.reservations.confirm(rid, 0, m, 3, reacquire=True),
            reacquires=True,
        )


__all__ = ["Shopper"]
