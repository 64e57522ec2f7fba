"""What callers do: each operation is one small function in ``OPERATIONS``."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from promise_svc.application.changed_lines import ChangeLine, TransferLine
from promise_svc.application.reservation import CreateResult
from promise_svc.application.reservation_body import CreateCommand, PromiseTerms
from promise_svc.application.reservation_changes import ChangeCommand
from promise_svc.application.supply import SaleLine, SupplyCount, SupplyDelta
from promise_svc.application.transition import TransitionResult
from promise_svc.domain.reach import Address
from promise_svc.domain.reservation import DurabilityMode, HoldPolicy, State, TransitionOutcome
from promise_svc.errors import NotFound, OutcomeUnknown, PromiseServiceError
from tests.sim.draws import OWNERS, PLAIN, SEGMENTS
from tests.sim.process import Gone, Worker
from tests.support.reservation_world import PICKUP, a_cart

if TYPE_CHECKING:
    from tests.sim.world import World

ADDRESS = Address(country="US", postal_code="60601")

Operation = Callable[["Shopper"], Awaitable[None]]
OPERATIONS: dict[Operation, tuple[int, str]] = {}
"""Operation -> how often, relative to the others; and the kind that a seed must have drawn."""


def operation(weight: int, kind: str = "") -> Callable[[Operation], Operation]:
    """Let shoppers do this, ``weight`` times as often as something of weight 1."""

    def enter(work: Operation) -> Operation:
        OPERATIONS[work] = weight, kind
        return work

    return enter


class Shopper:
    """One caller: does one thing after another, sometimes two at once with one key."""

    def __init__(self, world: World, chance: random.Random) -> None:
        self.world = world
        self.chance = chance

    async def shop(self) -> None:
        """Until the world says that it is enough."""
        kinds = self.world.draws.kinds | {""}
        works = [work for work, (_, kind) in OPERATIONS.items() if kind in kinds]
        weights = [OPERATIONS[work][0] for work in works]
        while self.world.open:
            await self.chance.choices(works, weights)[0](self)
            await asyncio.sleep(self.chance.random() * self.world.pause_seconds)

    async def ask_again(self, works: Sequence[Operation]) -> None:
        """What was asked before."""
        for work in works:
            await work(self)
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
        cart = replace(_at(cart, node), create_ms=world.made_ms())
        return cart if world.draws is PLAIN else self._of_its_kind(cart)

    def _of_its_kind(self, cart: CreateCommand) -> CreateCommand:
        """The cart with what the seed is about."""
        draws, chance = self.world.draws, self.chance
        lines, fields = list(cart.lines), {}
        if chance.random() < 0.15:
            fields["durability"] = DurabilityMode.RECORDED
        if draws.lines_max and chance.random() < 0.3:
            for at in range(len(lines), chance.randrange(len(lines), draws.lines_max)):
                line = lines[0]._replace(line_id=f"l{at}", sku=chance.choice(self.world.plenty))
                lines.append(line)
        if draws.bundles and chance.random() < 0.6:
            at = chance.choice((0, len(lines) - 1))
            lines[at] = lines[at]._replace(sku=chance.choice(draws.bundles))
        if "segments" in draws.kinds:
            fields["segment"] = chance.choice(("", *SEGMENTS, "web"))
        if "limits" in draws.kinds:
            fields["owner_id"] = chance.choice(OWNERS)
        if "inbound" in draws.kinds:
            fields["allow_backorder"] = chance.random() < 0.6
        if "sourcing" in draws.kinds:
            fields["policy"] = chance.choice((*HoldPolicy, HoldPolicy.ALL_OR_NOTHING))
            fields["address"] = ADDRESS
            share = chance.choice((0.0, 0.5, 1.0))
            if share == 1.0 and chance.random() < 0.5:
                fields["terms"] = PromiseTerms(frozenset(), chance.choice((1, 3)))
            lines = [x._replace(node_id="") if chance.random() < share else x for x in lines]
        if "pickup" in draws.kinds and chance.random() < 0.5:
            place = chance.choice(self.world.node_ids)
            fields |= {"fulfillment_method": PICKUP, "pickup_node_id": place, "address": None}
            lines = [x._replace(node_id=x.node_id and place) for x in lines]
        return replace(cart, lines=tuple(lines), **fields)


async def create_as(shopper: Shopper, cart: CreateCommand, *, name: str = "create") -> None:
    """Ask for a cart; the world hears what was told."""
    world, began = shopper.world, shopper.world.now()
    world.again.append(partial(create_as, cart=cart, name="again"))
    answer = await shopper.ask(
        f"{name} {cart.reservation_id}", lambda w: w.reservations.create(cart, 3.0)
    )
    world.told.created(cart, answer, began)
    held = isinstance(answer, CreateResult) and answer.reservation is not None
    if held and answer.durability is DurabilityMode.RECORDED:
        world.check_changed(answer.reservation)


@operation(8)
async def create(shopper: Shopper) -> None:
    world = shopper.world
    cart = shopper.new_cart(f"r{len(world.carts)}")
    world.carts.append(cart)
    await create_as(shopper, cart)


@operation(2)
async def create_twice_at_once(shopper: Shopper) -> None:
    """An impatient caller: the same key by two workers."""
    world = shopper.world
    cart = shopper.new_cart(f"r{len(world.carts)}")
    world.carts.append(cart)
    await asyncio.gather(create_as(shopper, cart), create_as(shopper, cart))


@operation(4)
async def retry(shopper: Shopper) -> None:
    if cart := shopper.cart():
        await create_as(shopper, cart, name="retry")


@operation(3)
async def take_its_place(shopper: Shopper) -> None:
    """A new cart in the place of an older one."""
    world, older = shopper.world, shopper.cart()
    if older is None:
        return
    cart = replace(shopper.new_cart(f"r{len(world.carts)}"), replaces=older.reservation_id)
    if cart.owner_id != older.owner_id and shopper.chance.random() < 0.9:
        cart = replace(cart, owner_id=older.owner_id)
    world.carts.append(cart)
    world.told.hold(older.reservation_id).asked.add(State.SUPERSEDED)
    await create_as(shopper, cart, name=f"replace {older.reservation_id} by")


@operation(1)
async def other_body(shopper: Shopper) -> None:
    """A used key with another cart."""
    if cart := shopper.cart():
        await create_as(shopper, shopper.new_cart(cart.reservation_id), name="reuse")


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


async def move(
    shopper: Shopper,
    target: State,
    name: str,
    verb: Callable[[Worker, str, Any], Awaitable[Any]],
    *,
    reacquires: bool = False,
) -> None:
    """Ask for a move of a cart somebody asked for lately; ``verb`` gets worker, id and mode."""
    cart = shopper.cart()
    if cart is None:
        return
    rid = cart.reservation_id
    mode = shopper.chance.choice((None, None, DurabilityMode.FSYNC))
    work = partial(moved, rid=rid, target=target, reacquires=reacquires)
    shopper.world.again.append(
        partial(work, name=f"{name} again", verb=lambda worker: verb(worker, rid, mode))
    )
    await work(shopper, name=name, verb=lambda worker: verb(worker, rid, mode))


async def moved(
    shopper: Shopper,
    *,
    rid: str,
    target: State,
    reacquires: bool,
    name: str,
    verb: Callable[[Worker], Awaitable[Any]],
) -> None:
    """Ask for a move; the world hears what was told."""
    world, began = shopper.world, shopper.world.now()
    hold = world.told.hold(rid)
    hold.reacquired |= reacquires
    late = target not in hold.asked and world.expired_at_home(rid)
    hold.asked.add(target)
    answer = await shopper.ask(f"{name} {rid}", verb)
    world.told.moved(rid, target, answer, began)
    if not isinstance(answer, Exception) and answer.reservation.state is target:
        if late and target in (State.CONFIRMED, State.RELEASED) and not hold.reacquired:
            world.broken(f"{rid}: {target.name} after it had expired")
        if answer.durability is DurabilityMode.RECORDED and target is State.CONFIRMED:
            world.check_recorded(answer.reservation)
        elif _recorded(answer):
            world.check_changed(answer.reservation)
        world.told.count(rid)


@operation(5)
async def confirm(shopper: Shopper) -> None:
    await move(
        shopper, State.CONFIRMED, "confirm", lambda w, rid, m: w.reservations.confirm(rid, 0, m, 3)
    )


@operation(2)
async def release(shopper: Shopper) -> None:
    await move(
        shopper, State.RELEASED, "release", lambda w, rid, m: w.reservations.release(rid, 0, m, 3)
    )


@operation(2)
async def cancel(shopper: Shopper) -> None:
    await move(
        shopper, State.CANCELLED, "cancel", lambda w, rid, m: w.reservations.cancel(_all(rid, m), 3)
    )


@operation(1)
async def fulfill(shopper: Shopper) -> None:
    await move(
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
    await move(
        shopper,
        State.CANCELLED,
        "cancel a line of",
        lambda w, rid, m: w.reservations.cancel(
            ChangeCommand(reservation_id=rid, idempotency_key=key, lines=lines, durability=m), 3
        ),
    )


@operation(2)
async def extend(shopper: Shopper) -> None:
    await move(
        shopper,
        State.HELD,
        "extend",
        lambda w, rid, m: w.reservations.changes.extend(rid, 3_000, 8_000, 0, m, 3),
    )


async def change(
    shopper: Shopper,
    name: str,
    verb: Callable[[Worker, ChangeCommand], Awaitable[Any]],
    mode: DurabilityMode | None = None,
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
        durability=shopper.chance.choice((None, DurabilityMode.FSYNC)) if mode is None else mode,
    )
    world.again.append(partial(changed, command=command, name=f"{name} again", verb=verb))
    for _ in range(shopper.chance.choice((1, 1, 2))):
        await changed(shopper, command=command, name=name, verb=verb)


async def changed(
    shopper: Shopper,
    *,
    command: ChangeCommand,
    name: str,
    verb: Callable[[Worker, ChangeCommand], Awaitable[Any]],
) -> None:
    """Ask for a change; the world hears what was told."""
    world, rid, began = shopper.world, command.reservation_id, shopper.world.now()
    answer = await shopper.ask(f"{name} {rid}", lambda worker: verb(worker, command))
    if isinstance(answer, NotFound):
        world.told.missed(rid, began)
    elif not isinstance(answer, Exception):
        world.told.shown(answer.reservation, began)
        if _recorded(answer):
            world.check_changed(answer.reservation)


@operation(2)
async def amend(shopper: Shopper) -> None:
    """The first line to one, two or three units; the last one too, where there are several."""
    chance = shopper.chance
    lines = {"l0": chance.choice((1, 2, 3)), "l1": chance.choice((1, 2))}
    wanted = tuple(ChangeLine(*line) for line in list(lines.items())[: chance.choice((1, 2))])
    await change(
        shopper, "amend", lambda w, c: w.reservations.changes.amend(replace(c, lines=wanted), 3)
    )


@operation(1)
async def transfer(shopper: Shopper) -> None:
    """One unit of the first line from one node to another."""
    source, target = shopper.chance.choices(shopper.world.node_ids, k=2)
    lines = (TransferLine("l0", 1, source, target),)
    await change(shopper, "transfer", lambda w, c: w.reservations.changes.transfer(c, lines, 3))


def _recorded(answer: TransitionResult) -> bool:
    done = answer.outcome <= TransitionOutcome.TRANSFERRED
    return done and answer.durability is DurabilityMode.RECORDED


def _all(rid: str, mode: DurabilityMode | None) -> ChangeCommand:
    """All that is still open of a reservation."""
    return ChangeCommand(reservation_id=rid, durability=mode)


@operation(1)
async def sync_supply(shopper: Shopper) -> None:
    """Of what is plenty: nobody's bound on the scarce moves."""
    world, chance = shopper.world, shopper.chance
    sequence = int(world.now() * 1_000)
    rows = [
        SupplyCount(sku, chance.choice(world.node_ids), "", chance.randrange(*_units(world, sku)))
        for sku in sorted(set(chance.choices(_counted(world), k=3)))
    ]
    await shopper.ask("sync", lambda w: w.supply.sync("erp", sequence, rows, 2.0))


@operation(1)
async def adjust_supply(shopper: Shopper) -> None:
    """A change, told twice: it counts once."""
    world, chance = shopper.world, shopper.chance
    sku, key = chance.choice(_counted(world)), f"k{chance.randrange(10**6)}"
    rows = [SupplyDelta(sku, chance.choice(world.node_ids), "", chance.randrange(-3, 6))]
    made_ms = world.made_ms()
    work = partial(_ask_for, "adjust", lambda w: w.supply.adjust(key, made_ms, rows, 2.0))
    world.again.append(work)
    for _ in range(chance.choice((1, 2))):
        if isinstance(await work(shopper), OutcomeUnknown):
            await work(shopper)


@operation(1)
async def record_sale(shopper: Shopper) -> None:
    """Of what is plenty, told twice: it lands once, also where nothing is left."""
    world, chance = shopper.world, shopper.chance
    sale = f"s{chance.randrange(10**6)}"
    lines = [SaleLine(chance.choice(_counted(world)), chance.choice(world.node_ids), 1)]
    made_ms = world.made_ms()
    work = partial(_ask_for, "sale", lambda w: w.supply.record_sale(sale, made_ms, lines, 2.0))
    world.again.append(work)
    for _ in range(chance.choice((1, 2))):
        await work(shopper)


async def _ask_for(name: str, work: Callable[[Worker], Awaitable[Any]], shopper: Shopper) -> Any:
    return await shopper.ask(name, work)


def _counted(world: World) -> list[str]:
    """What feeds and tills speak of: by default what is plenty, and nobody's bound moves."""
    scarce = "counts" in world.draws.kinds
    return [*world.plenty, *world.scarce] if scarce else world.plenty


def _units(world: World, sku: str) -> tuple[int, int]:
    return (0, 6) if sku in world.scarce else (4, 40)


def _at(cart: CreateCommand, node_id: str) -> CreateCommand:
    lines = tuple(line._replace(node_id=node_id) for line in cart.lines)
    return CreateCommand(
        reservation_id=cart.reservation_id,
        owner_id=cart.owner_id,
        lines=lines,
        fulfillment_method=cart.fulfillment_method,
        ttl_ms=cart.ttl_ms,
    )
