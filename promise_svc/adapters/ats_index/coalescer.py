"""Many calls of one tick become one function call per shard and verb.

Calls gather while earlier ones are under way: idle, a call leaves at the next turn of the loop;
busy, the bounded window makes batches grow. Verbs that free or resolve leave before verbs that
take, because a shard serves first in, first out; each LEAST_TURN-th call is one of the least
urgent, so that under whatever load nobody waits for ever.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from heapq import heapify, heappop, heappush
from typing import Any

from promise_svc.adapters.ats_index.breaker import WATCH_SECONDS, Breaker, NodeObserver, Why
from promise_svc.adapters.ats_index.connection import (
    Access,
    Command,
    Connection,
    Node,
    Reply,
)
from promise_svc.errors import DeadlineExceeded, OutcomeUnknown, PromiseServiceError, Unavailable

STEPS_MAX = 64
"""Steps of one function call; 64 legs keep a shard busy for about a millisecond."""

IN_FLIGHT_MAX = 16
"""Function calls under way per node; more would only queue where nothing can be sorted."""

SUPPLY_IN_FLIGHT_MAX = 4
"""Of these, how many may be rows of a feed, which are long: who comes has all of them before him,
whatever his priority. Four keep a node at work; README.md."""

LEAST_TURN = 8
"""Of so many function calls one is of the least urgent verb that waits."""

QUEUED_STEPS_MAX = 20_000
"""Steps waiting per node before new ones are refused."""

ANSWERED_MAX = 256
"""Answered calls that may lie among the deadlines before they are looked through."""

_RECONNECT_SECONDS = (0.02, 1.0)

_PRIORITY = {
    "resolve": 0,
    "follow": 0,
    "settle": 0,
    "revise": 0,
    "conform": 0,
    "mark_durable": 0,
    # What those who settle, or ask what became of it, have to read.
    "read_claims": 0,
    "read_legs": 0,
    "read_meta": 0,
    # Sales elsewhere: until they are in, their units are sold once more.
    "adjust_supply": 1,
    "create": 2,
    "sync_supply": 4,
    "protect": 4,
}
_OTHERS, _SUPPLY = 3, 4


class _Call:
    """What one caller asked of one shard. Cancelling ``done`` gives up waiting, nothing else."""

    __slots__ = ("args", "done", "sent", "settle")

    def __init__(
        self, args: list[bytes], done: asyncio.Future[Any], settle: Callable[[Reply], None]
    ) -> None:
        self.args = args
        self.done = done
        self.settle: Callable[[Reply], None] | None = settle
        """Gives ``done`` its result; asked only while that waits."""
        self.sent = False

    @property
    def waiting(self) -> bool:
        """Whether somebody still waits for an answer that may still come."""
        return self.settle is not None and not self.done.done()

    def answer(self, reply: Reply) -> None:
        settle, self.settle = self.settle, None
        if settle is not None and not self.done.done():
            try:
                settle(reply)
            except Exception as error:  # noqa: BLE001 - of one answer; others come after it
                self.done.set_exception(error)
        # The call may lie among the deadlines for long; what was asked and answered must not.
        del self.done, self.args


class _Batch:
    __slots__ = ("calls", "function", "key", "priority", "size", "steps")

    def __init__(self, function: bytes, key: bytes, priority: int, steps: bool) -> None:
        self.function = function
        self.key = key
        self.priority = priority
        self.steps = steps
        self.calls: list[_Call] = []
        self.size = 0


class Lane:
    """The way to one node: its connection, what waits for it, what is under way."""

    def __init__(self, node: Node, access: Access, observer: NodeObserver | None = None) -> None:
        self.node = node
        self.loop = asyncio.get_running_loop()
        """Kept: to ask for the running loop is a system call."""
        self.breaker = Breaker(node, observer)
        self._looking: asyncio.TimerHandle | None = None
        self._access = access
        self._connection: Connection | None = None
        self._gathering: dict[tuple[bytes, bytes], _Batch] = {}
        self._queues: tuple[deque[_Batch], ...] = tuple(deque() for _ in range(_SUPPLY + 1))
        self._queued = 0
        self._in_flight = 0
        self._supply_in_flight = 0
        self._turns = 0
        self._scheduled = False
        self._connecting: asyncio.Task[None] | None = None
        self._connected = asyncio.Event()
        self._tried = asyncio.Event()
        self._closing = False
        self._calls = 0
        self._deadlines: list[tuple[float, int, _Call]] = []
        """A heap; answered calls lie in it until their time has come, or they are the most."""
        self._answered = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def connected(self) -> bool:
        """Whether ``post`` may be asked."""
        return self._connected.is_set()

    async def call(
        self, function: bytes, verb: str, key: bytes, args: list[bytes], timeout: float, steps: bool
    ) -> Reply:
        """Run a function. With ``steps``, ``args`` may share a call with others and the reply is
        their part of it; otherwise the call is alone and the reply is whole.

        Raises Unavailable or DeadlineExceeded where nothing was sent, OutcomeUnknown where it was.
        """
        deadline = self.loop.time() + timeout
        if not self._connected.is_set():
            try:
                async with asyncio.timeout_at(deadline):
                    await self._wait_connected()
            except TimeoutError:
                raise _too_late(sent=False) from None
        done: asyncio.Future[Reply] = self.loop.create_future()
        self.post(function, verb, key, args, deadline, steps, done, done.set_result)
        return await done

    def post(
        self,
        function: bytes,
        verb: str,
        key: bytes,
        args: list[bytes],
        deadline: float,
        steps: bool,
        done: asyncio.Future[Any],
        settle: Callable[[Reply], None],
    ) -> None:
        """``call`` without a task and a timer of its own: ``settle`` gives ``done`` its result, by
        the loop's time ``deadline`` or it fails. Unavailable where nothing is sent: the queue is
        full, the node stalled."""
        if self._queued + len(args) > QUEUED_STEPS_MAX:
            raise self.breaker.refusal("QUEUE_FULL")
        if self.breaker.why:
            raise self.breaker.refusal(self.breaker.why)
        call = _Call(args, done, settle)
        self._enqueue(call, function, verb, key, steps)
        self._calls += 1
        heappush(self._deadlines, (deadline, self._calls, call))
        if self._timer is None or deadline < self._timer.when():
            self._watch()

    def _watch(self) -> None:
        """Fail the calls whose time has passed; look again when the next one's may have."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        loop, deadlines = self.loop, self._deadlines
        while deadlines:
            deadline, _, call = deadlines[0]
            if call.waiting:
                if deadline > loop.time():
                    self._timer = loop.call_at(deadline, self._watch)
                    return
                call.done.set_exception(_too_late(sent=call.sent))
            heappop(deadlines)

    async def command(self, command: Command, timeout: float) -> Reply:
        """A plain read command beside the queue; Unavailable when it is not answered in time."""
        try:
            async with asyncio.timeout(timeout):
                if not self._connected.is_set():
                    await self._wait_connected()
                if self._connection is None or self.breaker.why:
                    raise self.breaker.refusal(self.breaker.why or "AWAY")
                return await self._connection.send([command])[0]
        except (TimeoutError, OutcomeUnknown):
            raise Unavailable("the index did not answer a read in time") from None

    def close(self) -> None:
        self._closing = True
        for timer in (self._timer, self._looking):
            if timer is not None:
                timer.cancel()
        if self._connecting is not None:
            self._connecting.cancel()
        if self._connection is not None:
            self._connection.close()

    # queueing

    def _enqueue(self, call: _Call, function: bytes, verb: str, key: bytes, steps: bool) -> None:
        batch = self._gathering.get((key, function)) if steps else None
        if batch is None or batch.size + len(call.args) > STEPS_MAX:
            batch = _Batch(function, key, _PRIORITY.get(verb, _OTHERS), steps)
            self._queues[batch.priority].append(batch)
            if steps:
                self._gathering[key, function] = batch
        batch.calls.append(call)
        batch.size += len(call.args)
        self._queued += len(call.args)
        if not self._scheduled:
            self._schedule()

    def _schedule(self) -> None:
        self._scheduled = True
        self.loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        if self._connection is None:
            self._refuse_queued("AWAY")
            return
        batches: list[_Batch] = []
        while batch := self._next():
            if self._gathering.get((batch.key, batch.function)) is batch:
                del self._gathering[batch.key, batch.function]
            self._queued -= batch.size
            batch.calls = [call for call in batch.calls if call.waiting]
            if batch.calls:
                self._count(batch, 1)
                batches.append(batch)
        if batches:
            self._send(self._connection, batches)

    def _next(self) -> _Batch | None:
        """What goes next, if there is room: the most urgent, or in its turn the least."""
        if self._in_flight >= IN_FLIGHT_MAX:
            return None
        full = self._supply_in_flight >= SUPPLY_IN_FLIGHT_MAX
        queues = self._queues[:_SUPPLY] if full else self._queues
        least = (self._turns + 1) % LEAST_TURN == 0
        for queue in reversed(queues) if least else queues:
            if queue:
                self._turns += 1
                return queue.popleft()
        return None

    def _count(self, batch: _Batch, change: int) -> None:
        self._in_flight += change
        if batch.priority == _SUPPLY:
            self._supply_in_flight += change

    def _send(self, connection: Connection, batches: list[_Batch]) -> None:
        commands: list[Command] = []
        for batch in batches:
            args = [arg for call in batch.calls for arg in call.args]
            commands.append((b"FCALL", batch.function, 1, batch.key, *args))
            for call in batch.calls:
                call.sent = True
        try:
            connection.send_all(commands, [partial(self._answer, batch) for batch in batches])
        except Unavailable as error:
            for batch in batches:
                self._count(batch, -1)
                _fail(batch, error)

    def _answer(self, batch: _Batch, reply: Reply | OutcomeUnknown) -> None:
        self._count(batch, -1)
        if not self._scheduled and any(self._queues):
            self._schedule()
        if isinstance(reply, OutcomeUnknown):
            _fail(batch, reply)
            return
        if self.breaker.why:
            self.breaker.close()
        at = 0
        for call in batch.calls:
            part, size = reply, len(call.args)
            if batch.steps and isinstance(reply, list):
                part = reply[at : at + size]
                at += size
            call.answer(part)
        self._answered += len(batch.calls)
        if self._answered > ANSWERED_MAX and 2 * self._answered > len(self._deadlines):
            self._deadlines = [entry for entry in self._deadlines if entry[2].waiting]
            heapify(self._deadlines)
            self._answered = 0

    def _refuse_queued(self, why: Why) -> None:
        self._gathering.clear()
        self._queued = 0
        for queue in self._queues:
            while queue:
                _fail(queue.popleft(), self.breaker.refusal(why))

    def _look(self) -> None:
        """Look whether the node says anything while answers are due."""
        connection = self._connection
        if connection is None:
            return
        if self.breaker.look(silent=connection.waiting and not connection.heard):
            self._refuse_queued("STALLED")
        if connection.heard:
            self.breaker.close()
        connection.heard = False
        loop = asyncio.get_running_loop()
        self._looking = loop.call_later(WATCH_SECONDS, self._look)

    # connecting

    async def _wait_connected(self) -> None:
        """The first caller waits for the first attempt; while the node is away, callers fail at
        once and one task keeps trying."""
        if self._connecting is None or self._connecting.done():
            self._tried.clear()
            self._connecting = asyncio.get_running_loop().create_task(self._keep_connected())
        if not self._tried.is_set():
            await self._tried.wait()
        if not self._connected.is_set():
            raise self.breaker.refusal("AWAY")

    async def _keep_connected(self) -> None:
        delay, longest = _RECONNECT_SECONDS
        while not self._closing:
            try:
                connection = await Connection.open(self.node, self._access)
            except PromiseServiceError:
                self.breaker.open("AWAY")
                self._tried.set()
                await asyncio.sleep(delay * random.uniform(0.5, 1.5))
                delay = min(longest, delay * 2)
                continue
            self._connection = connection
            opened = asyncio.get_running_loop().time()
            self.breaker.close()
            self._connected.set()
            self._tried.set()
            self._look()
            with suppress(asyncio.CancelledError):
                await asyncio.shield(connection.closed)
            self._connected.clear()
            self._connection = None
            if self._looking is not None:
                self._looking.cancel()
            if not self._closing:
                self.breaker.open("AWAY")
            self._refuse_queued("AWAY")
            # A node that lets us in and throws us out again is no better than one that is away.
            lived = asyncio.get_running_loop().time() - opened
            delay = _RECONNECT_SECONDS[0] if lived > longest else min(longest, delay * 2)
            await asyncio.sleep(delay * random.uniform(0.5, 1.5))


def _too_late(*, sent: bool) -> PromiseServiceError:
    if sent:
        return OutcomeUnknown("the index did not answer in time; ask again")
    return DeadlineExceeded("time ran out before anything was sent to the index")


def _fail(batch: _Batch, error: PromiseServiceError) -> None:
    for call in batch.calls:
        if call.waiting:
            call.done.set_exception(error)
