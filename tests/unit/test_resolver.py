"""The resolver: a claim that cannot be finished keeps no other from its end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from promise_svc.application.resolver import Resolver
from promise_svc.application.tasks import OwnedTasks
from promise_svc.domain.reservation import State
from promise_svc.domain.sharding import START, Position
from promise_svc.errors import InvariantBroken, Unavailable
from tests.support.fake_ats_index import FakeAtsIndex
from tests.support.reservation_world import Worker, World, a_cart
from tests.support.shards import TIMEOUT


class Hindered:
    """An index of which some calls fail."""

    def __init__(self, inner: Any, error: Callable[[str, int], Exception | None]) -> None:
        self._inner = inner
        self._error = error
        self.shard_count = inner.shard_count

    def seen(self, shard: int) -> Position:
        return START

    def __getattr__(self, verb: str) -> Callable[..., Any]:
        async def call(shard: int, *args: Any) -> Any:
            error = self._error(verb, shard)
            if error is not None:
                raise error
            return await getattr(self._inner, verb)(shard, *args)

        return call


class Told:
    def __init__(self) -> None:
        self.states: list[State] = []
        self.failures: list[tuple[int, str, Exception]] = []

    def resolved(self, state: State) -> None:
        self.states.append(state)

    def failed(self, shard: int, reservation_id: str, error: Exception) -> None:
        self.failures.append((shard, reservation_id, error))


@pytest.fixture
def world() -> World:
    index = FakeAtsIndex()
    index.serve_all()

    def advance(milliseconds: int) -> int:
        index.now_ms += milliseconds
        return index.now_ms

    return World(index, advance, index.now_ms)


async def three_open_claims(world: World) -> tuple[int, list[str]]:
    """Held reservations of one home that nobody has settled; only the oldest has a leg at A."""
    await world.stock(A=9, B=9, C=9)
    home = world.shard("q0")
    rids = [rid for rid in (f"q{i}" for i in range(4000)) if world.shard(rid) == home][:3]
    for rid, skus in zip(rids, (("A", "B"), ("B", "C"), ("B", "C")), strict=True):
        unsettling = Hindered(
            world.index, lambda verb, _: Unavailable("died") if verb == "settle" else None
        )
        worker = Worker(world, unsettling)
        await worker.reservations.create(a_cart(rid, skus), TIMEOUT)
        await worker.rest()
        world.advance(1)
    world.advance(3000)
    assert len(await world.index.open_claims(home, 100, TIMEOUT)) == 3
    return home, rids


@pytest.mark.parametrize(
    "error", [Unavailable("its node is away"), InvariantBroken("a leg lies"), IndexError("a bug")]
)
async def test_a_claim_that_cannot_be_finished_keeps_no_other_open(
    world: World, error: Exception
) -> None:
    """The oldest claim's leg shard fails; the two behind it are settled in the same round."""
    home, rids = await three_open_claims(world)
    away, told = world.shard("A"), Told()
    hindered = Hindered(world.index, lambda _, shard: error if shard == away else None)
    resolver = Resolver(hindered, OwnedTasks(), told)

    assert await resolver.resolve(home) == 2

    still_open = await world.index.open_claims(home, 100, TIMEOUT)
    assert [claim.reservation_id for claim in still_open] == rids[:1]
    assert told.failures == [(home, rids[0], error)]
    assert told.states == [State.PENDING, State.PENDING]


async def test_a_claim_that_failed_is_left_alone_for_a_while_and_then_finished(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not tried every round, which would be an alarm every half second; but not forgotten."""
    home, rids = await three_open_claims(world)
    told, errors = Told(), [InvariantBroken("a leg lies")]
    away = world.shard("A")
    hindered = Hindered(
        world.index, lambda _, shard: errors[0] if errors and shard == away else None
    )
    resolver = Resolver(hindered, OwnedTasks(), told)

    await resolver.resolve(home)
    await resolver.resolve(home)
    assert len(told.failures) == 1

    errors.clear()
    resolver._put_off[home][rids[0]] = resolver._put_off[home][rids[0]]._replace(until=0.0)
    assert await resolver.resolve(home) == 1
    assert await world.index.open_claims(home, 100, TIMEOUT) == []
