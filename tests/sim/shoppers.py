"""What callers do: each operation is one small function in ``OPERATIONS``."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from promise_svc.application.changed_lines import ChangeLine, TransferLine
from promise_svc.application.reservation_body import CreateCommand
from promise_svc.application.reservation_changes import ChangeCommand
from promise_svc.application.supply import SaleLine, SupplyCount, SupplyDelta
from promise_svc.domain.reservation import DurabilityMode, State
from promise_svc.errors import NotFound, OutcomeUnknown, PromiseServiceError
from tests.sim.process import Gone, Worker
from tests.support.reservation_world import a_cart

if TYPE_CHECKING:
    from tests.sim.world import World

Operation = Callable[["Shopper"], Awaitable[None]]
OPERATIONS: dict[Operation, int] = {}
"""Operation -> how often, relative to the others."""


def operation(weight: int) -> Callable[[Operation], Operation]:
    """Let shoppers do this, ``weight`` times as often as something of weight 1."""

    def enter(work: Operation) -> Operation:
        OPERATIONS[work] = weight
        return work

    return enter


class Shopper:
    """One caller: does one thing after another, sometimes two at once with one key."""

    def __init__(self, world: World, chance: random.Random) -> None:
        self.world = world
        self.chance = chance

    async def shop(self) -> None:
        """Until the world says that it is enough."""
        works, weights = list(OPERATIONS), list(OPERATIONS.values())
        while self.world.open:
            await self.chance.choices(works, weights)[0](self)
            await asyncio.sleep(self.chance.random() * self.world.pause_seconds)

    async def ask(self, name: str, work: Callable[[Worker], Awaitable[Any]]) -> Any:
        """The answer of some worker, or the error that is all the caller has."""
        worker = self.chance.choice(self.world.workers)
        timeout = 3.0 if self.chance.random() < 0.85 else self.chance.random() * 0.05
        try:
            answer = await worker.ask(work, timeout)
        except (PromiseServiceError, Gone, TimeoutError) as error:
            answer = error
        except Exception as error:
            self.world.broken(f"{name} raised {error!r}")
            answer = error
        told = getattr(answer, "outcome", None)
        self.world.note(name, worker.process.name, told.name if told else type(answer).__name__)
        return answer

    def cart(self) -> CreateCommand | None:
        """A cart somebody asked for lately."""
        carts = self.world.carts[-12:]
        return self.chance.choice(carts) if carts else None

    def new_cart(self, rid: str) -> CreateCommand:
        """One to five lines, most of them of what is scarce."""
        world, chance = self.world, self.chance
        skus = [
            chance.choice(world.scarce if chance.random() < 0.7 else world.plenty)
            for _ in range(chance.choice((1, 1, 2, 2, 3, 5)))
        ]
        ttl_ms = chance.choice(world.ttls_ms)
        cart = a_cart(rid, skus, chance.choice((1, 1, 1, 2)), ttl_ms=ttl_ms)
        node = chance.choice(world.node_ids)
        return _at(cart, node)


async def _create(shopper: Shopper, cart: CreateCommand, *, name: str = "create") -> None:
    world, began = shopper.world, shopper.world.now()
    answer = await shopper.ask(
        f"{name} {cart.reservation_id}", lambda w: w.reservations.create(cart, 3.0)
    )
    world.told.created(cart, answer, began)


@operation(8)
async def create(shopper: Shopper) -> None:
    world = shopper.world
    cart = shopper.new_cart(f"r{len(world.carts)}")
    world.carts.append(cart)
    await _create(shopper, cart)


@operation(2)
async def create_twice_at_once(shopper: Shopper) -> None:
    """An impatient caller: the same key by two workers."""
    world = shopper.world
    cart = shopper.new_cart(f"r{len(world.carts)}")
    world.carts.append(cart)
    await asyncio.gather(_create(shopper, cart), _create(shopper, cart))


@operation(4)
async def retry(shopper: Shopper) -> None:
    if cart := shopper.cart():
        await _create(shopper, cart, name="retry")


@operation(3)
async def take_its_place(shopper: Shopper) -> None:
    """A new cart in the place of an older one."""
    world, older = shopper.world, shopper.cart()
    if older is None:
        return
    cart = replace(shopper.new_cart(f"r{len(world.carts)}"), replaces=older.reservation_id)
    world.carts.append(cart)
    world.told.hold(older.reservation_id).asked.add(State.SUPERSEDED)
    await _create(shopper, cart, name=f"replace {older.reservation_id} by")


@operation(1)
async def other_body(shopper: Shopper) -> None:
    """A used key with another cart."""
    if cart := shopper.cart():
        await _create(shopper, shopper.new_cart(cart.reservation_id), name="reuse")


@operation(3)
async def get(shopper: Shopper) -> None:
    world, cart, began = shopper.world, shopper.cart(), shopper.world.now()
    if cart is None:
        return
    rid = cart.reservation_id
    answer = await shopper.ask(f"get {rid}", lambda w: w.reservations.get(rid, 2.0))
    if isinstance(answer, NotFound):
        world.told.missed(rid, began)
    elif not isinstance(answer, Exception):
        world.told.shown(answer, began)


async def _move(
    shopper: Shopper, target: State, name: str, verb: Callable[[Worker, str, Any], Awaitable[Any]]
) -> None:
    """Ask for a move of a cart somebody asked for lately; ``verb`` gets worker, id and mode."""
    world, cart, began = shopper.world, shopper.cart(), shopper.world.now()
    if cart is None:
        return
    rid = cart.reservation_id
    mode = shopper.chance.choice((None, None, DurabilityMode.FSYNC))
    hold = world.told.hold(rid)
    late = target not in hold.asked and world.expired_at_home(rid)
    hold.asked.add(target)
    answer = await shopper.ask(f"{name} {rid}", lambda worker: verb(worker, rid, mode))
    world.told.moved(rid, target, answer, began)
    if not isinstance(answer, Exception) and answer.reservation.state is target:
        if late and target in (State.CONFIRMED, State.RELEASED):
            world.broken(f"{rid}: {target.name} after it had expired")
        if answer.durability is DurabilityMode.RECORDED and target is State.CONFIRMED:
            world.check_recorded(answer.reservation)
        world.told.count(rid)


@operation(5)
async def confirm(shopper: Shopper) -> None:
    await _move(
        shopper, State.CONFIRMED, "confirm", lambda w, rid, m: w.reservations.confirm(rid, 0, m, 3)
    )


@operation(2)
async def release(shopper: Shopper) -> None:
    await _move(
        shopper, State.RELEASED, "release", lambda w, rid, m: w.reservations.release(rid, 0, m, 3)
    )


@operation(2)
async def cancel(shopper: Shopper) -> None:
    await _move(
        shopper, State.CANCELLED, "cancel", lambda w, rid, m: w.reservations.cancel(_all(rid, m), 3)
    )


@operation(1)
async def fulfill(shopper: Shopper) -> None:
    await _move(
        shopper,
        State.FULFILLED,
        "fulfill",
        lambda w, rid, m: w.reservations.changes.fulfill(_all(rid, m), 3),
    )


@operation(1)
async def cancel_a_line(shopper: Shopper) -> None:
    """One unit of the first line, under a key."""
    key = f"c{shopper.chance.randrange(10**6)}"
    lines = (ChangeLine("l0", 1),)
    await _move(
        shopper,
        State.CANCELLED,
        "cancel a line of",
        lambda w, rid, m: w.reservations.cancel(
            ChangeCommand(reservation_id=rid, idempotency_key=key, lines=lines, durability=m), 3
        ),
    )


@operation(2)
async def extend(shopper: Shopper) -> None:
    await _move(
        shopper,
        State.HELD,
        "extend",
        lambda w, rid, m: w.reservations.changes.extend(rid, 3_000, 8_000, 0, m, 3),
    )


async def _change(
    shopper: Shopper, name: str, verb: Callable[[Worker, ChangeCommand], Awaitable[Any]]
) -> None:
    """Ask for other units of a cart somebody asked for lately, now and then twice with one key."""
    world, cart = shopper.world, shopper.cart()
    if cart is None:
        return
    rid = cart.reservation_id
    world.told.hold(rid).amended = True
    command = ChangeCommand(
        reservation_id=rid,
        idempotency_key=f"a{shopper.chance.randrange(10**6)}",
        durability=shopper.chance.choice((None, DurabilityMode.FSYNC)),
    )
    for _ in range(shopper.chance.choice((1, 1, 2))):
        began = world.now()
        answer = await shopper.ask(f"{name} {rid}", lambda worker: verb(worker, command))
        if isinstance(answer, NotFound):
            world.told.missed(rid, began)
        elif not isinstance(answer, Exception):
            world.told.shown(answer.reservation, began)


@operation(2)
async def amend(shopper: Shopper) -> None:
    """The first line to one, two or three units; the last one too, where there are several."""
    chance = shopper.chance
    lines = {"l0": chance.choice((1, 2, 3)), "l1": chance.choice((1, 2))}
    wanted = tuple(ChangeLine(*line) for line in list(lines.items())[: chance.choice((1, 2))])
    await _change(
        shopper, "amend", lambda w, c: w.reservations.changes.amend(replace(c, lines=wanted), 3)
    )


@operation(1)
async def transfer(shopper: Shopper) -> None:
    """One unit of the first line from one node to another."""
    source, target = shopper.chance.choices(shopper.world.node_ids, k=2)
    lines = (TransferLine("l0", 1, source, target),)
    await _change(shopper, "transfer", lambda w, c: w.reservations.changes.transfer(c, lines, 3))


def _all(rid: str, mode: DurabilityMode | None) -> ChangeCommand:
    """All that is still open of a reservation."""
    return ChangeCommand(reservation_id=rid, durability=mode)


@operation(1)
async def sync_supply(shopper: Shopper) -> None:
    """Of what is plenty: nobody's bound on the scarce moves."""
    world, chance = shopper.world, shopper.chance
    sequence = int(world.now() * 1_000)
    rows = [
        SupplyCount(sku, chance.choice(world.node_ids), "", chance.randrange(4, 40))
        for sku in sorted(set(chance.choices(world.plenty, k=3)))
    ]
    await shopper.ask("sync", lambda w: w.supply.sync("erp", sequence, rows, 2.0))


@operation(1)
async def adjust_supply(shopper: Shopper) -> None:
    """A change, told twice: it counts once."""
    world, chance = shopper.world, shopper.chance
    sku, key = chance.choice(world.plenty), f"k{chance.randrange(10**6)}"
    rows = [SupplyDelta(sku, chance.choice(world.node_ids), "", chance.randrange(-3, 6))]
    for _ in range(chance.choice((1, 2))):
        answer = await shopper.ask("adjust", lambda w: w.supply.adjust(key, 0, rows, 2.0))
        if isinstance(answer, OutcomeUnknown):
            await shopper.ask("adjust", lambda w: w.supply.adjust(key, 0, rows, 2.0))


@operation(1)
async def record_sale(shopper: Shopper) -> None:
    """Of what is plenty, told twice: it lands once, also where nothing is left."""
    world, chance = shopper.world, shopper.chance
    sale = f"s{chance.randrange(10**6)}"
    lines = [SaleLine(chance.choice(world.plenty), chance.choice(world.node_ids), 1)]
    for _ in range(chance.choice((1, 2))):
        await shopper.ask("sale", lambda w: w.supply.record_sale(sale, 0, lines, 2.0))


def _at(cart: CreateCommand, node_id: str) -> CreateCommand:
    lines = tuple(line._replace(node_id=node_id) for line in cart.lines)
    return CreateCommand(
        reservation_id=cart.reservation_id,
        owner_id=cart.owner_id,
        lines=lines,
        fulfillment_method=cart.fulfillment_method,
        ttl_ms=cart.ttl_ms,
    )
