"""The ATS index over a Valkey or Redis cluster: AtsIndex of ``application/ports.py``."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

import hiredis

from promise_svc.adapters.ats_index import codec
from promise_svc.adapters.ats_index.breaker import NodeObserver
from promise_svc.adapters.ats_index.coalescer import Lane
from promise_svc.adapters.ats_index.connection import Access, Node, Reply
from promise_svc.adapters.ats_index.functions import library
from promise_svc.adapters.ats_index.keys import Keys
from promise_svc.adapters.ats_index.topology import Topology
from promise_svc.application.ports import OpenClaim, ShardMeta
from promise_svc.domain.events import PositionImage, StoredEvent
from promise_svc.domain.inventory import PositionKey, StockPosition
from promise_svc.domain.reservation import (
    AdjustRow,
    ClaimRecord,
    ConformStep,
    CreateStep,
    FollowStep,
    LegRecord,
    ProtectRow,
    ResolveStep,
    ReviseStep,
    SettleStep,
    StepReply,
    SupplyReply,
    SupplyRow,
    SweepReply,
)
from promise_svc.domain.sharding import START, Position
from promise_svc.errors import (
    InvariantBroken,
    NotServing,
    PreconditionFailed,
    PromiseServiceError,
    Unavailable,
)

_SCAN_SECONDS = 60.0
"""For one read of a scan: an audit of a large shard keeps its own event loop busy for seconds."""

_SCAN_KEYS_AT_ONCE = 64
"""Reads of a scan under way together: a round trip each, one after the other, took longer than all
else of an audit."""

_MOVED = ("MOVED", "ASK", "CLUSTERDOWN", "TRYAGAIN", "READONLY")
_VERBS = (
    "create",
    "resolve",
    "follow",
    "settle",
    "revise",
    "conform",
    "sweep",
    "sync_supply",
    "protect",
    "adjust_supply",
    "read_claims",
    "read_legs",
    "read_positions",
    "open_claims",
    "read_meta",
    "mark_durable",
    "raise_network_floor",
    "take_over",
    "restore",
)
_AWAY = ("LOADING", "OOM", "NOAUTH", "NOPERM", "MASTERDOWN", "MISCONF", "NOREPLICAS", "BUSY")


class ClusterAtsIndex:
    """Speaks to each shard through one lane per node. Lives on one event loop.

    ``recover`` is called with a shard that answered NOT_SERVING; the call is then tried once more.
    Everything else is tried once: a mutation is never resent by this class unless the answer
    proves that it was not carried out.
    """

    def __init__(
        self,
        topology: Topology,
        access: Access,
        *,
        key_prefix: str,
        shard_count: int,
        window_ms: int,
        outbox_kept: int,
        observer: NodeObserver | None = None,
    ) -> None:
        self.shard_count = shard_count
        self.keys = Keys(key_prefix, shard_count)
        self.topology = topology
        self.recover: Callable[[int], Awaitable[None]] | None = None
        self._access = access
        self._observer = observer
        self._library = library(window_ms)
        self._outbox_kept = outbox_kept
        self._seen = [START] * shard_count
        self._lanes: dict[Node, Lane] = {}
        self._lanes_by_shard: list[Lane | None] = [None] * shard_count
        """Of shards that have answered, as the map was then: who moved says so."""
        self._repeating: set[asyncio.Task[list[StepReply]]] = set()
        self._refreshing: asyncio.Task[None] | None = None
        self._functions = {verb: f"{self._library.name}_{verb}".encode() for verb in _VERBS}

    async def start(self, *, fsync: bool) -> None:
        """Find the cluster, refuse settings that break a promise, load the Functions."""
        await self.topology.refresh()
        await self.topology.check(fsync=fsync)
        await self.topology.load(self._library)

    @property
    def lost_node_count(self) -> int:
        """Nodes to which nothing is sent at the moment."""
        lanes = (self._lanes.get(node) for node in self.topology.primaries)
        return sum(lane is not None and lane.breaker.why is not None for lane in lanes)

    def close(self) -> None:
        for task in self._repeating:
            task.cancel()
        for lane in self._lanes.values():
            lane.close()

    def seen(self, shard: int) -> Position:
        return self._seen[shard]

    # steps

    def create(
        self, shard: int, steps: Sequence[CreateStep], timeout: float
    ) -> Awaitable[list[StepReply]]:
        return self._steps(shard, "create", steps, timeout)

    def resolve(
        self, shard: int, steps: Sequence[ResolveStep], timeout: float
    ) -> Awaitable[list[StepReply]]:
        return self._steps(shard, "resolve", steps, timeout)

    def follow(
        self, shard: int, steps: Sequence[FollowStep], timeout: float
    ) -> Awaitable[list[StepReply]]:
        return self._steps(shard, "follow", steps, timeout)

    def settle(
        self, shard: int, steps: Sequence[SettleStep], timeout: float
    ) -> Awaitable[list[StepReply]]:
        return self._steps(shard, "settle", steps, timeout)

    def revise(
        self, shard: int, steps: Sequence[ReviseStep], timeout: float
    ) -> Awaitable[list[StepReply]]:
        return self._steps(shard, "revise", steps, timeout)

    def conform(
        self, shard: int, steps: Sequence[ConformStep], timeout: float
    ) -> Awaitable[list[StepReply]]:
        return self._steps(shard, "conform", steps, timeout)

    async def sync_supply(
        self, shard: int, rows: Sequence[SupplyRow], timeout: float
    ) -> list[SupplyReply]:
        return await self._supply(shard, "sync_supply", rows, timeout)

    async def protect(
        self, shard: int, rows: Sequence[ProtectRow], timeout: float
    ) -> list[SupplyReply]:
        return await self._supply(shard, "protect", rows, timeout)

    async def adjust_supply(
        self, shard: int, rows: Sequence[AdjustRow], timeout: float
    ) -> list[SupplyReply]:
        return await self._supply(shard, "adjust_supply", rows, timeout, steps=True)

    # reads

    async def read_claims(
        self, shard: int, reservation_ids: Sequence[str], timeout: float
    ) -> list[StepReply]:
        args = [rid.encode() for rid in reservation_ids]
        replies = await self._list(shard, "read_claims", args, timeout, steps=True)
        return [codec.decode_step_reply(raw) for raw in replies]

    async def read_legs(
        self, shard: int, reservation_ids: Sequence[str], timeout: float
    ) -> list[LegRecord | tuple[()]]:
        args = [rid.encode() for rid in reservation_ids]
        replies = await self._list(shard, "read_legs", args, timeout, steps=True)
        return [codec.decode_leg(raw) for raw in replies]

    async def read_positions(
        self, shard: int, skus: Sequence[str], timeout: float
    ) -> tuple[Position, int, list[list[PositionImage]]]:
        args = [sku.encode() for sku in skus]
        head, *rest = await self._list(shard, "read_positions", args, timeout)
        epoch, sequence, time_ms = codec.decode_integers(head)
        images = [sorted(codec.decode_images(raw), key=_place) for raw in rest]
        return Position(epoch, sequence), time_ms, images

    async def open_claims(self, shard: int, limit: int, timeout: float) -> list[OpenClaim]:
        replies = await self._list(shard, "open_claims", [b"%d" % limit], timeout)
        return [OpenClaim(*codec.decode_open_claim(raw)) for raw in replies]

    async def read_meta(self, shard: int, timeout: float) -> ShardMeta:
        return codec.decode_meta(await self._bytes(shard, "read_meta", [], timeout))

    # workers' verbs

    async def sweep(self, shard: int, limit: int, timeout: float) -> SweepReply:
        return codec.decode_sweep(await self._bytes(shard, "sweep", [b"%d" % limit], timeout))

    async def mark_durable(self, shard: int, at: Position, timeout: float) -> None:
        args = [b"%d" % at.epoch, b"%d" % at.sequence, b"%d" % self._outbox_kept]
        await self._call(shard, "mark_durable", args, timeout)

    async def tell_durable(self, at: Mapping[int, Position], timeout: float) -> None:
        message = codec.encode_durable(at)
        await self._of_cluster(timeout, b"SPUBLISH", self.keys.durable, message)

    async def raise_network_floor(self, shard: int, version: int, timeout: float) -> None:
        await self._call(shard, "raise_network_floor", [b"%d" % version], timeout)

    async def take_over(self, shard: int, expected: Position, timeout: float) -> Position:
        args = [b"%d" % number for number in (shard, *expected)]
        epoch, sequence = codec.decode_integers(
            await self._bytes(shard, "take_over", args, timeout)
        )
        return Position(epoch, sequence)

    async def clear(self, shard: int, expected: Position, timeout: float) -> bool:
        node = self.topology.node_of(self.keys.slots[shard])
        return await self.topology.remove_all(
            node,
            f"{self.keys.bases[shard]}*",
            self.keys.meta[shard],
            {b"epoch": b"%d" % expected.epoch, b"sequence": b"%d" % expected.sequence},
        )

    async def restore(self, shard: int, events: Sequence[StoredEvent], timeout: float) -> None:
        args = [b"%d" % shard]
        for event in events:
            args += [b"%d" % event.at.epoch, b"%d" % event.at.sequence, event.payload]
        await self._call(shard, "restore", args, timeout)

    async def read_outbox(
        self, shard: int, after: Position, limit: int, timeout: float
    ) -> list[StoredEvent]:
        entries = await self._command(
            shard,
            timeout,
            b"XRANGE",
            self.keys.outbox[shard],
            b"(%d-%d" % after,
            b"+",
            b"COUNT",
            limit,
        )
        assert isinstance(entries, list)
        return [
            codec.stored_event(shard, codec.decode_stream_id(entry[0]), entry[1][1])  # type: ignore[index,arg-type]
            for entry in entries
        ]

    async def cluster_id(self, timeout: float) -> str:
        return _text(await self._of_cluster(timeout, b"GET", self.keys.cluster_id))

    async def bind_cluster(self, cluster_id: str, timeout: float) -> str:
        if found := await self.cluster_id(timeout):
            return found
        key = self.keys.cluster_id
        # Answers with what stood there, nothing when it wrote.
        found = _text(await self._of_cluster(timeout, b"SET", key, cluster_id, b"NX", b"GET"))
        return found or cluster_id

    async def scan(
        self, shard: int
    ) -> tuple[dict[PositionKey, StockPosition], dict[str, LegRecord], dict[str, ClaimRecord]]:
        base = self.keys.bases[shard]
        positions: dict[PositionKey, StockPosition] = {}
        legs: dict[str, LegRecord] = {}
        claims: dict[str, ClaimRecord] = {}
        node = self.topology.node_of(self.keys.slots[shard])
        keys = sorted(await self.topology.scan(node, f"{base}[plc]:*"))
        for first in range(0, len(keys), _SCAN_KEYS_AT_ONCE):
            chunk = keys[first : first + _SCAN_KEYS_AT_ONCE]
            kinds = [key[len(base) :].decode().split(":", 1) for key in chunk]
            reads = (
                self._command(shard, _SCAN_SECONDS, b"HGETALL" if kind == "p" else b"GET", key)
                for key, (kind, _) in zip(chunk, kinds, strict=True)
            )
            for (kind, name), found in zip(kinds, await asyncio.gather(*reads), strict=True):
                if isinstance(found, list):
                    for field, raw in zip(found[::2], found[1::2], strict=True):
                        node_id, _, bucket = field.decode().partition("\t")  # type: ignore[union-attr]
                        row = codec.decode_row(raw)  # type: ignore[arg-type]
                        positions[PositionKey(name, node_id, bucket)] = row
                elif isinstance(found, bytes) and kind == "l":
                    if leg := codec.decode_leg(found):
                        legs[name] = leg
                elif isinstance(found, bytes) and (claim := codec.decode_claim(found)):
                    claims[name] = claim
        return positions, legs, claims

    # the way there

    def _steps(
        self, shard: int, verb: str, steps: Sequence[tuple[object, ...]], timeout: float
    ) -> Awaitable[list[StepReply]]:
        """Sent by the time this returns where the node is connected: a future, no task, no timer;
        these are nearly all calls of a reservation."""
        args, lane = codec.encode(steps), self._lanes_by_shard[shard]
        if lane is None or not lane.connected:
            slowly = self._steps_slowly(shard, verb, args, timeout)
            return asyncio.get_running_loop().create_task(slowly)
        deadline, done = lane.loop.time() + timeout, lane.loop.create_future()
        settle = partial(self._settle, done, shard, verb, args, deadline)
        key, function = self.keys.meta[shard], self._functions[verb]
        try:
            lane.post(function, verb, key, args, deadline, True, done, settle)
        except Unavailable as error:
            done.set_exception(error)
        return done

    def _settle(
        self,
        done: asyncio.Future[list[StepReply]],
        shard: int,
        verb: str,
        args: list[bytes],
        deadline: float,
        reply: Reply,
    ) -> None:
        if not isinstance(reply, hiredis.ReplyError):
            done.set_result(self._answers(shard, reply))
            return
        # The task is the waiter's own now: it ends by the deadline, and may end unheard.
        task = asyncio.ensure_future(self._steps_again(shard, verb, args, deadline, str(reply)))
        self._repeating.add(task)
        task.add_done_callback(partial(self._repeated, done))

    def _repeated(
        self, done: asyncio.Future[list[StepReply]], task: asyncio.Task[list[StepReply]]
    ) -> None:
        self._repeating.discard(task)
        if task.cancelled():
            done.cancel()
            return
        error = task.exception()
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(task.result())

    async def _steps_slowly(
        self, shard: int, verb: str, args: list[bytes], timeout: float
    ) -> list[StepReply]:
        reply = await self._call(shard, verb, args, timeout, steps=True)
        self._lanes_by_shard[shard] = self._lane(shard)
        return self._answers(shard, reply)

    async def _steps_again(
        self, shard: int, verb: str, args: list[bytes], deadline: float, met: str
    ) -> list[StepReply]:
        timeout = deadline - asyncio.get_running_loop().time()
        reply = await self._call(shard, verb, args, timeout, steps=True, met=met)
        return self._answers(shard, reply)

    def _answers(self, shard: int, reply: Reply) -> list[StepReply]:
        assert isinstance(reply, list), reply
        answers = [codec.decode_step_reply(raw) for raw in reply]  # type: ignore[arg-type]
        self._note(shard, answers)
        return answers

    async def _supply(
        self,
        shard: int,
        verb: str,
        rows: Sequence[tuple[object, ...]],
        timeout: float,
        *,
        steps: bool = False,
    ) -> list[SupplyReply]:
        replies = await self._list(shard, verb, codec.encode(rows), timeout, steps=steps)
        answers = [codec.decode_supply_reply(raw) for raw in replies]
        self._note(shard, answers)
        return answers

    def _note(self, shard: int, answers: Sequence[StepReply | SupplyReply]) -> None:
        """Only a batch's last answer matters: positions do not fall within one."""
        if answers:
            last, seen = answers[-1], self._seen
            if (last.epoch, last.sequence) > seen[shard]:
                seen[shard] = Position(last.epoch, last.sequence)

    async def _list(
        self, shard: int, verb: str, args: list[bytes], timeout: float, *, steps: bool = False
    ) -> list[bytes]:
        reply = await self._call(shard, verb, args, timeout, steps=steps)
        assert isinstance(reply, list), reply
        return reply  # type: ignore[return-value]

    async def _bytes(self, shard: int, verb: str, args: list[bytes], timeout: float) -> bytes:
        reply = await self._call(shard, verb, args, timeout)
        assert isinstance(reply, bytes), reply
        return reply

    async def _call(
        self,
        shard: int,
        verb: str,
        args: list[bytes],
        timeout: float,
        *,
        steps: bool = False,
        met: str = "",
    ) -> Reply:
        """``met`` is the error that a first try has met already."""
        deadline = asyncio.get_running_loop().time() + timeout
        last: PromiseServiceError | None = None
        for attempt in range(2):
            if not met:
                left = deadline - asyncio.get_running_loop().time()
                lane, key = self._lane(shard), self.keys.meta[shard]
                reply = await lane.call(self._functions[verb], verb, key, args, left, steps)
                if not isinstance(reply, hiredis.ReplyError):
                    return reply
                met = str(reply)
            last, met = await self._recovered(shard, met, attempt, deadline), ""
        assert last is not None
        raise last

    async def _recovered(
        self, shard: int, text: str, attempt: int, deadline: float
    ) -> PromiseServiceError:
        """Repair what an error names and return it for the second attempt; raise what is final.

        Each of these errors says that the function did not run.
        """
        code = text.split(" ", 1)[0]
        if code in _MOVED:
            await _within(deadline, self._refresh())
            return Unavailable(f"the index moved shard {shard}: {code}")
        if "Function not found" in text:
            await _within(deadline, self.topology.load(self._library))
            return Unavailable(f"shard {shard} lost its Functions")
        if code == "NOT_SERVING":
            error = NotServing(f"shard {shard} awaits a takeover", shard=shard)
            if self.recover is None or attempt > 0:
                raise error
            left = deadline - asyncio.get_running_loop().time()
            recovery = asyncio.ensure_future(self.recover(shard))
            # Of a recovery that takes longer than this call nobody reads the outcome.
            recovery.add_done_callback(lambda done: done.cancelled() or done.exception())
            try:
                await asyncio.wait_for(asyncio.shield(recovery), left)
            except TimeoutError:
                raise error from None
            return error
        if code in ("SERVING", "MOVED_ON"):
            raise PreconditionFailed(text, shard=shard)
        if code in _AWAY:
            raise Unavailable(f"shard {shard} cannot write now: {code}", shard=shard)
        raise InvariantBroken(f"shard {shard}: {text}"[:300], shard=shard)

    async def _command(self, shard: int, timeout: float, *command: str | bytes | int) -> Reply:
        lane = self._lane(shard)
        reply = await lane.command(command, timeout)
        if isinstance(reply, hiredis.ReplyError):
            if str(reply).split(" ", 1)[0] in _MOVED:
                await self._refresh()
            raise Unavailable(f"shard {shard}: {reply}"[:200], shard=shard)
        return reply

    async def _of_cluster(self, timeout: float, *command: str | bytes) -> Reply:
        """A command on a key that is no shard's; repeating it must be safe."""
        lane = self._lane_of(self.keys.cluster_slot)
        reply = await lane.command(command, timeout)
        if isinstance(reply, hiredis.ReplyError):
            raise Unavailable(f"{command[0]!r} for the cluster: {reply}"[:200])
        return reply

    def _lane(self, shard: int) -> Lane:
        return self._lane_of(self.keys.slots[shard])

    def _lane_of(self, slot: int) -> Lane:
        node = self.topology.node_of(slot)
        lane = self._lanes.get(node)
        if lane is None:
            lane = self._lanes[node] = Lane(node, self._access, self._observer)
        return lane

    async def _refresh(self) -> None:
        """Single flight: a burst of MOVED replies asks for the map once."""
        self._lanes_by_shard = [None] * self.shard_count
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.ensure_future(self.topology.refresh())
        await asyncio.shield(self._refreshing)


async def _within(deadline: float, work: Awaitable[None]) -> None:
    """Wait for a repair as long as the caller has time; Unavailable then, for nothing ran."""
    try:
        async with asyncio.timeout_at(deadline):
            await work
    except TimeoutError:
        raise Unavailable("the index did not come right in time") from None


def _text(reply: Reply) -> str:
    return reply.decode() if isinstance(reply, bytes) else ""


def _place(image: PositionImage) -> tuple[str, str]:
    return image.node_id, image.bucket
