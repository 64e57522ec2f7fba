"""What goes wrong: each fault is one small function in ``FAULTS``, and ends what it began."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.sim.world import World

Fault = Callable[["World"], Awaitable[None]]
FAULTS: list[Fault] = []


def fault(work: Fault) -> Fault:
    """Let this go wrong now and then."""
    FAULTS.append(work)
    return work


@fault
async def worker_dies(world: World) -> None:
    """At some await, with all it had begun; another one starts a while later."""
    at = world.chance.randrange(len(world.workers))
    world.kill_worker(at)
    await world.pause(1.5)
    world.start_worker(at)


@fault
async def worker_dies_while_it_speaks(world: World) -> None:
    """The very moment some of its messages are on their way."""
    at = world.chance.randrange(len(world.workers))
    await world.until_speaking(world.workers[at].process)
    world.kill_worker(at)
    await world.pause(0.5)
    world.start_worker(at)


@fault
async def node_restarts(world: World) -> None:
    node = world.chance.choice(world.cluster.nodes)
    world.cluster.stop(node)
    await world.pause(0.8)
    world.cluster.start(node)


@fault
async def node_hangs(world: World) -> None:
    node = world.chance.choice(world.cluster.nodes)
    node.hangs_until = world.now() + world.chance.random() * 2.0


@fault
async def slot_moves(world: World) -> None:
    shard = world.chance.choice(world.cluster.shards)
    world.cluster.move(shard, world.chance.choice(world.cluster.nodes))


@fault
async def functions_are_lost(world: World) -> None:
    world.chance.choice(world.cluster.nodes).libraries.clear()


@fault
async def clock_jumps(world: World) -> None:
    """Forth, and later back."""
    node = world.chance.choice(world.cluster.nodes)
    world.cluster.jump(node, world.chance.choice((-400, 300, 1_200, 4_000)))
    await world.pause(1.5)
    if world.chance.random() < 0.5:
        world.cluster.jump(node, 0)


@fault
async def connections_break(world: World) -> None:
    for wire in [wire for node in world.cluster.nodes for wire in node.wires]:
        if world.chance.random() < 0.5:
            wire.cut()


@fault
async def order_store_is_slow(world: World) -> None:
    world.store.slow_seconds = world.chance.choice((0.05, 0.5, 2.0))
    await world.pause(2.0)
    world.store.slow_seconds = 0.0


@fault
async def order_store_is_away(world: World) -> None:
    world.store.away = True
    await world.pause(2.0)
    world.store.away = False


@fault
async def order_store_is_set_back(world: World) -> None:
    """Restored from a backup, which the shards' outboxes reach."""
    if world.outbox_kept < 1_000:
        return
    backup = world.store.backup()
    await world.pause(1.0)
    world.store.restore(backup)


async def trouble(world: World) -> None:
    """One fault after another, of a few kinds this seed is about."""
    kinds = world.chance.sample(FAULTS, world.chance.choice((1, 2, 3, 4)))
    while world.open:
        await asyncio.sleep(0.1 + world.chance.random() * world.chance.choice((0.3, 1.5)))
        await world.chance.choice(kinds)(world)
