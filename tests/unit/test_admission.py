"""Who is let in, who waits for a turn of the loop, who is shed, and in which order."""

from __future__ import annotations

import asyncio

import pytest

from promise_svc.application.admission import (
    COST_SECONDS,
    CROWD,
    PATIENCE_SECONDS,
    TURN_SECONDS,
    Admission,
    Priority,
)
from promise_svc.errors import Overloaded

PACED = [priority for priority in Priority if priority is not Priority.SETTLE]


def used_up(admission: Admission, priority: Priority = Priority.RESERVE) -> None:
    """Begin calls until a turn has no room."""
    while admission.begins(priority):
        pass


async def waits(admission: Admission, priority: Priority) -> asyncio.Task[None]:
    """A call that has begun to wait."""
    before = admission.waiting_count
    task = asyncio.create_task(admission.turn(priority))
    while admission.waiting_count == before:
        await asyncio.sleep(0)
    return task


def test_each_priority_is_shed_at_its_mark_and_not_before() -> None:
    """At the limit of a hundred; the marks rise with the priority, the last is the limit."""
    marks = []
    for priority in Priority:
        admission = Admission(100)
        for _ in range(admission.mark(priority)):
            admission.enter(priority)
        with pytest.raises(Overloaded) as raised:
            admission.enter(priority)
        admission.leave()
        admission.enter(priority)
        marks.append(admission.mark(priority))
        assert raised.value.retry_delay_ms > 0
        assert raised.value.metadata["limit"] == "IN_FLIGHT"

    assert sorted(set(marks)) == marks
    assert marks[-1] == 100


def test_a_limit_of_one_lets_everybody_in_alone() -> None:
    """No share rounds down to nothing."""
    for priority in Priority:
        Admission(1).enter(priority)


@pytest.mark.parametrize("priority", PACED)
async def test_a_turn_begins_as_many_calls_as_fit_by_what_they_cost(priority: Priority) -> None:
    """The cost is learned, by priority; the next turn has room again."""
    admission = Admission(1_000, clock=lambda: 0.0)
    for _ in range(200):
        admission.took(priority, TURN_SECONDS / 5)
    begun = sum(admission.begins(priority) for _ in range(100))
    await asyncio.sleep(0)
    again = sum(admission.begins(priority) for _ in range(100))

    assert begun in (5, 6)
    assert again == begun


async def test_a_settling_call_waits_for_no_turn() -> None:
    """Neither when the turn is used up nor when others wait."""
    admission = Admission(1_000, clock=lambda: 0.0)
    used_up(admission)
    waiting = await waits(admission, Priority.SUPPLY_DOWN)

    assert admission.begins(Priority.SETTLE)
    assert not admission.begins(Priority.SUPPLY_DOWN)
    await waiting


async def test_the_highest_priority_has_the_next_turn() -> None:
    """Whoever came first; within a priority, whoever came first."""
    admission = Admission(1_000, clock=lambda: 0.0)
    for priority in Priority:
        for _ in range(200):
            admission.took(priority, TURN_SECONDS)  # one a turn
    order: list[tuple[Priority, int]] = []

    async def call(priority: Priority, number: int) -> None:
        await admission.turn(priority)
        order.append((priority, number))

    used_up(admission)
    async with asyncio.TaskGroup() as calls:
        for number in range(2):
            for priority in PACED:
                calls.create_task(call(priority, number))

    assert order == [(priority, number) for priority in reversed(PACED) for number in range(2)]


async def test_who_comes_while_others_wait_does_not_overtake_them() -> None:
    """Even when a turn has room."""
    admission = Admission(1_000, clock=lambda: 0.0)
    used_up(admission)
    waiting = await waits(admission, Priority.PROMISE)

    assert not admission.begins(Priority.PROMISE)
    await waiting
    assert admission.begins(Priority.PROMISE)


@pytest.mark.parametrize(("count", "shed_count"), [(CROWD, 0), (CROWD + 1, CROWD + 1)])
async def test_who_has_waited_too_long_in_a_crowd_is_shed(count: int, shed_count: int) -> None:
    """By the clock given; a few callers of a slow machine are no crowd."""
    now = 0.0
    admission = Admission(1_000, lambda: now)
    for _ in range(200):
        admission.took(Priority.PROMISE, TURN_SECONDS)  # one a turn
    used_up(admission)
    waiting = [asyncio.create_task(admission.turn(Priority.PROMISE)) for _ in range(count)]

    def later() -> None:
        nonlocal now
        now += PATIENCE_SECONDS[Priority.PROMISE] * 1.01

    asyncio.get_running_loop().call_soon(later)
    await asyncio.wait(waiting)

    errors = [error for task in waiting if (error := task.exception())]
    assert len(errors) == shed_count
    assert all(isinstance(error, Overloaded) for error in errors)
    assert all(error.metadata == {"priority": "PROMISE", "limit": "TURN"} for error in errors)  # type: ignore[attr-defined]
    assert admission.waiting_count == 0


async def test_a_few_may_wait_whatever_they_cost() -> None:
    """Nobody is refused at the door for a queue of which nobody is a crowd."""
    admission = Admission(1_000, clock=lambda: 0.0)
    for _ in range(200):
        admission.took(Priority.PROMISE, 1.0)
    used_up(admission)
    waiting = [asyncio.create_task(admission.turn(Priority.PROMISE)) for _ in range(CROWD + 1)]
    seen: list[str] = []
    loop = asyncio.get_running_loop()
    loop.call_soon(lambda: seen.append(admission.refusal(Priority.PROMISE)))
    loop.call_soon(waiting[0].cancel)
    await asyncio.sleep(0)
    while admission.waiting_count > CROWD:
        await asyncio.sleep(0)
    seen.append(admission.refusal(Priority.PROMISE))
    await asyncio.wait(waiting)

    assert seen == ["TURN", ""]


async def test_who_would_wait_too_long_is_shed_at_once_the_lowest_priority_first() -> None:
    """As many wait as can begin within patience by what they cost; those of lower priority do not
    count against those above them."""
    admission = Admission(1_000, clock=lambda: 0.0)
    used_up(admission)
    room = round(PATIENCE_SECONDS[Priority.PROMISE] / COST_SECONDS)
    waiting = [asyncio.create_task(admission.turn(Priority.PROMISE)) for _ in range(room + 2)]
    # The queue is looked at before the loop's next turn can shorten it.
    seen: list[list[str]] = []
    asyncio.get_running_loop().call_soon(
        lambda: seen.append([admission.refusal(priority) for priority in Priority])
    )
    await asyncio.gather(*waiting)

    assert seen == [["TURN", "TURN", "", "", "", ""]]


async def test_a_caller_who_went_away_leaves_the_queue() -> None:
    """And takes nobody's turn."""
    admission = Admission(1_000, clock=lambda: 0.0)
    used_up(admission)
    gone, stays = [asyncio.create_task(admission.turn(Priority.RESERVE)) for _ in range(2)]
    asyncio.get_running_loop().call_soon(gone.cancel)
    await stays
    await asyncio.wait({gone})

    assert gone.cancelled()
    assert admission.waiting_count == 0
