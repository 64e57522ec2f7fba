"""The note at home that a hold is complete: together with others, or not at all where a confirm,
a release or a RECORDED hold has said more."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from promise_svc.domain.reservation import SettleStep, State, TransitionOutcome
from tests.support.reservation_world import Worker, World, a_cart
from tests.support.shards import TIMEOUT

CART = ("A", "B", "C")


def patient(world: World) -> tuple[Worker, list[SettleStep]]:
    """A worker whose notes wait, and the steps it settles."""
    worker, steps = world.worker(), list[SettleStep]()
    settle = worker.index.settle

    async def settled(shard: int, asked: Sequence[SettleStep], timeout: float) -> Any:
        steps.extend(asked)
        return await settle(shard, asked, timeout)

    worker.index.settle = settled  # type: ignore[method-assign]
    worker.note_later()
    return worker, steps


async def test_holds_are_noted_a_moment_later_and_together(world: World) -> None:
    """Nobody waits for it; until then home has them PENDING, and callers read HELD."""
    await world.stock(A=5, B=5, C=5)
    worker, steps = patient(world)

    for rid in ("r-1", "r-2"):
        await worker.reservations.create(a_cart(rid, CART), TIMEOUT)
    before = [await _at_home(world, rid) for rid in ("r-1", "r-2")]
    read = await worker.reservations.get("r-1", TIMEOUT)
    assert not steps
    await worker.tell_home()

    assert before == [State.PENDING] * 2
    assert read.state is State.HELD
    assert [step.reservation_id for step in steps] == ["r-1", "r-2"]
    assert [await _at_home(world, rid) for rid in ("r-1", "r-2")] == [State.HELD] * 2
    await world.check()


MOVES: dict[str, Callable[[Worker], Awaitable[Any]]] = {
    "confirm": lambda worker: worker.reservations.confirm("r-1", 0, None, TIMEOUT),
    "release": lambda worker: worker.reservations.release("r-1", 0, None, TIMEOUT),
}


@pytest.mark.parametrize("move", MOVES)
async def test_what_is_decided_before_its_note_needs_none(world: World, move: str) -> None:
    """A step, an event and a row of the order store less for every cart bought at once."""
    await world.stock(A=5, B=5, C=5)
    worker, steps = patient(world)
    await worker.reservations.create(a_cart("r-1", CART), TIMEOUT)

    result = await MOVES[move](worker)
    await worker.tell_home()
    await worker.tasks.close(0)

    assert result.outcome in (TransitionOutcome.CONFIRMED, TransitionOutcome.RELEASED)
    assert all(step.state != State.PENDING for step in steps)
    assert (await _claim(world, "r-1")).settled
    await world.check()


async def test_a_note_that_was_lost_is_made_up_for(world: World) -> None:
    """The worker died with it: the resolver looks at the legs."""
    await world.stock(A=5, B=5, C=5)
    worker, steps = patient(world)
    await worker.reservations.create(a_cart("r-1", CART), TIMEOUT)

    await worker.tasks.close(0)
    world.advance(3_000)
    await world.resolve_everything()

    assert not steps
    assert await _at_home(world, "r-1") == State.HELD
    await world.check()


async def _claim(world: World, rid: str) -> Any:
    return (await world.index.read_claims(world.shard(rid), [rid], TIMEOUT))[0].claim


async def _at_home(world: World, rid: str) -> State:
    return State((await _claim(world, rid)).state)
