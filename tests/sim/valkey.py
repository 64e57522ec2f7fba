"""A cluster of simulated Valkey nodes: RESP in, RESP out, the reference ledgers in between.

A node knows the Functions by their names only; what each does is ``ShardLedger``'s. Data survive a
restart (append-only file, fsync always); connections, and with a slot move the Functions, do not.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable
from functools import cache
from typing import Any

import hiredis
import msgspec

from promise_svc.adapters.ats_index.keys import Keys
from promise_svc.adapters.event_codec import decode_event, encode_event
from promise_svc.domain.audit import ALIVE
from promise_svc.domain.events import Event
from promise_svc.domain.ledger import ShardLedger
from promise_svc.domain.reservation import (
    AdjustRow,
    ClaimDraft,
    ClaimRecord,
    ConformStep,
    CreateStep,
    CustomerLimit,
    FollowStep,
    LegLine,
    ProtectRow,
    ResolveStep,
    ReviseStep,
    SettleStep,
    SupplyRow,
)
from promise_svc.domain.sharding import SLOT_COUNT, START, Position
from tests.sim.loop import VirtualLoop
from tests.sim.network import Wire

EPOCH_MS = 1_800_000_000_000
"""What the clocks show when a run begins."""

LATE_MS = 12_000
"""Keys are kept for so long beyond the window, as for minutes in service: more than clocks are set
forth by and messages are late."""

Step = Callable[["Shard", str, list[bytes]], None]
"""Shard, verb and arguments of a call that was just carried out."""

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder().decode


@cache
def keys_of(shard_count: int) -> Keys:
    """Of every run with this number of shards: finding the tags takes longer than a run."""
    return Keys("promise", shard_count)


class Refused(Exception):
    """An error reply; its text begins with the code."""


class Node:
    """One Valkey process and its clock."""

    def __init__(self, number: int) -> None:
        self.host = "valkey"
        self.port = 7000 + number
        self.run_id = f"{number:040x}"
        self.starts = 0
        self.up = True
        self.offset_ms = 0
        self.libraries: set[str] = set()
        self.wires: list[Wire] = []
        self.hangs_until = 0.0

    def new_process(self) -> None:
        self.starts += 1
        self.run_id = f"{self.starts:020x}{self.port:020x}"


class Shard:
    """One shard's keys: a ledger, its owner, its outbox."""

    def __init__(self, number: int, window_ms: int, node: Node) -> None:
        self.number = number
        self.node = node
        self.ledger = ShardLedger(number, window_ms)
        self.owner = ""
        self.durable = START
        self.trimmed = START
        self.listeners: dict[int, Session] = {}
        self.forgotten: dict[str, ClaimRecord] = {}
        """Claims whose time has come, as they were last."""
        self._written: dict[tuple[str, str], tuple[Any, int]] = {}
        self._looked_ms = 0
        self._payloads: list[bytes] = []

    def payload(self, index: int) -> bytes:
        """The outbox entry of event ``index``."""
        events = self.ledger.events
        while len(self._payloads) < len(events):
            self._payloads.append(encode_event(events[len(self._payloads)][1]))
        return self._payloads[index]

    def forget(self, now_ms: int) -> None:
        """Lose the keys whose time has come, as the Functions set it when they last wrote them."""
        if abs(now_ms - self._looked_ms) < 200:
            return
        self._looked_ms, ledger = now_ms, self.ledger
        kept_ms = ledger.window_ms + LATE_MS
        legs = [(rid, x) for rid, x in ledger.legs.items() if x.state not in ALIVE]
        claims = [x for x in ledger.claims.items() if x[1].settled and x[1].state not in ALIVE]
        for rid, leg in legs:
            if self._past("leg", rid, leg, now_ms, kept_ms if leg.plan_hash else LATE_MS):
                del ledger.legs[rid]
        for rid, claim in claims:
            if self._past("claim", rid, claim, now_ms, kept_ms):
                self.forgotten[rid] = ledger.claims.pop(rid)
        for key, answer in list(ledger.adjustments.items()):
            if self._past("adjustment", key, answer, now_ms, kept_ms):
                del ledger.adjustments[key]

    def _past(self, kind: str, key: str, record: Any, now_ms: int, kept_ms: int) -> bool:
        """Whether a record is as old; it is as young as this was first seen of it."""
        seen, since_ms = self._written.get((kind, key), (None, 0))
        if seen is not record:
            self._written[kind, key] = record, now_ms
            return False
        return now_ms - since_ms > kept_ms

    def outbox(self, after: Position, limit: int) -> list[tuple[Position, bytes]]:
        """Entries after a position that were not trimmed."""
        events = self.ledger.events
        first = bisect_right(events, max(after, self.trimmed), key=lambda entry: entry[0])
        last = min(len(events), first + limit)
        return [(events[index][0], self.payload(index)) for index in range(first, last)]


class Cluster:
    """Nodes and shards; ``on_step`` hears of every function call that was carried out."""

    def __init__(
        self,
        loop: VirtualLoop,
        chance: random.Random,
        node_count: int,
        shard_count: int,
        window_ms: int,
    ) -> None:
        self.loop = loop
        self.chance = chance
        self.keys = keys_of(shard_count)
        self.nodes = [Node(number) for number in range(node_count)]
        self.shards = [
            Shard(number, window_ms, self.nodes[number * node_count // shard_count])
            for number in range(shard_count)
        ]
        self.cluster_id = b""
        self.durable_listeners: dict[int, Session] = {}
        self.latest_ms = 0
        """No clock that was set since showed more."""
        self.on_step: Step = lambda shard, verb, args: None
        self.shard_of_key = {key: self.shards[i] for i, key in enumerate(self.keys.meta)}
        self.shard_of_key |= {key: self.shards[i] for i, key in enumerate(self.keys.outbox)}
        self.shard_of_key |= {key: self.shards[i] for i, key in enumerate(self.keys.news)}

    def node_at(self, port: int) -> Node:
        return next(node for node in self.nodes if node.port == port)

    def now_ms(self, node: Node) -> int:
        """The node's wall clock."""
        return EPOCH_MS + int(self.loop.time() * 1000) + node.offset_ms

    def jump(self, node: Node, offset_ms: int) -> None:
        """Set the node's clock, ``offset_ms`` off the true time."""
        self.latest_ms = max(self.latest_ms, self.now_ms(node))
        node.offset_ms = offset_ms

    def stop(self, node: Node) -> None:
        """Kill the node's process; ``start`` brings its data back under another run id."""
        node.up = False
        for wire in list(node.wires):
            wire.reset()

    def start(self, node: Node) -> None:
        node.new_process()
        node.up = True

    def move(self, shard: Shard, node: Node) -> None:
        """Move the shard's slot: its keys go along, the Functions do not."""
        shard.node = node
        for session in shard.listeners.values():
            session.push([b"sunsubscribe", self.keys.news[shard.number], 0])
        shard.listeners.clear()

    def slots(self) -> list[Any]:
        """Reply to CLUSTER SLOTS: one range a shard, whose middle is the shard's slot."""
        width = SLOT_COUNT / len(self.shards)
        return [
            [
                round(width * shard.number),
                round(width * (shard.number + 1)) - 1,
                [shard.node.host.encode(), shard.node.port, b"x" * 40],
            ]
            for shard in self.shards
        ]


class Session:
    """One client of one node."""

    def __init__(self, cluster: Cluster, node: Node, wire: Wire) -> None:
        self._cluster = cluster
        self._node = node
        self._run_id = node.run_id
        self._wire = wire
        self._reader = hiredis.Reader()
        self._late: list[bytes] = []

    def received(self, data: bytes) -> None:
        """Carry commands out in order; a process that hangs does so later."""
        self._late.append(data)
        if self._node.hangs_until <= self._cluster.loop.time():
            self._work()
        elif len(self._late) == 1:
            self._cluster.loop.call_at(self._node.hangs_until, self._work)

    def _work(self) -> None:
        data = b"".join(self._late)
        self._late.clear()
        if not self._node.up or self._node.run_id != self._run_id:
            return
        self._reader.feed(data)
        while (command := self._reader.gets()) is not False:
            name = command[0].upper().decode()
            try:
                known = _COMMANDS.get(name, Session.unknown)
                reply = known(self, command)
            except Refused as error:
                reply = error
            self._wire.send(_resp(reply))

    def closed(self) -> None:
        for shard in self._cluster.shards:
            shard.listeners.pop(id(self), None)
        self._cluster.durable_listeners.pop(id(self), None)

    def push(self, message: list[Any]) -> None:
        self._wire.send(_resp(message))

    # commands

    def shard(self, key: bytes) -> Shard:
        shard = self._cluster.shard_of_key.get(key)
        if shard is None:
            base = key.rsplit(b"}:", 1)[0] + b"}:"
            shard = self._cluster.shard_of_key[base + b"meta"]
        if shard.node is not self._node:
            slot = self._cluster.keys.slots[shard.number]
            raise Refused(f"MOVED {slot} {shard.node.host}:{shard.node.port}")
        shard.forget(self._cluster.now_ms(self._node))
        return shard

    def fcall(self, command: list[Any]) -> Any:
        library, _, verb = command[1].decode().partition("_")[2].partition("_")
        if library not in self._node.libraries:
            raise Refused("ERR Function not found")
        shard = self.shard(command[3])
        args = command[4:]
        if shard.owner != self._node.run_id and verb not in ("read_meta", "take_over", "restore"):
            raise Refused("NOT_SERVING the shard is owned by another process until a takeover")
        ledger = shard.ledger
        before, time_ms = len(ledger.events), ledger.time_ms
        reply = _VERBS[verb](self, shard, args, self._cluster.now_ms(self._node))
        news = range(before, len(ledger.events))
        if verb != "restore" and not news:
            ledger.time_ms = time_ms  # the Functions store the time with their events only
        if news or verb in ("sweep", "mark_durable"):
            self._publish(shard, news)
        self._cluster.on_step(shard, verb, args)
        return reply

    def _publish(self, shard: Shard, news: range) -> None:
        if not shard.listeners:
            return
        now = max(shard.ledger.time_ms, self._cluster.now_ms(self._node))
        events = [msgspec.Raw(shard.payload(index)) for index in news]
        message = _pack((*shard.ledger.at, *shard.durable, now, events))
        channel = self._cluster.keys.news[shard.number]
        for session in list(shard.listeners.values()):
            session.push([b"smessage", channel, message])

    def subscribe(self, command: list[Any]) -> Any:
        if command[1] == self._cluster.keys.durable:
            self._cluster.durable_listeners[id(self)] = self
        else:
            self.shard(command[1]).listeners[id(self)] = self
        return [b"ssubscribe", command[1], 1]

    def publish(self, command: list[Any]) -> Any:
        listeners = list(self._cluster.durable_listeners.values())
        for session in listeners:
            session.push([b"smessage", command[1], command[2]])
        return len(listeners)

    def xrange(self, command: list[Any]) -> Any:
        epoch, _, sequence = command[2].lstrip(b"(").partition(b"-")
        found = self.shard(command[1]).outbox(Position(int(epoch), int(sequence)), int(command[5]))
        return [[b"%d-%d" % at, [b"e", payload]] for at, payload in found]

    def get(self, command: list[Any]) -> Any:
        key = command[1]
        if key == self._cluster.keys.cluster_id:
            return self._cluster.cluster_id or None
        ledger = self.shard(key).ledger
        kind, _, name = key.rsplit(b"}:", 1)[1].decode().partition(":")
        record = ledger.legs.get(name) if kind == "l" else ledger.claims.get(name)
        return record and _pack(record)

    def set(self, command: list[Any]) -> Any:
        found, self._cluster.cluster_id = (
            self._cluster.cluster_id,
            (self._cluster.cluster_id or command[2]),
        )
        return found or None

    def hgetall(self, command: list[Any]) -> Any:
        ledger = self.shard(command[1]).ledger
        sku = command[1].rsplit(b"}:p:", 1)[1].decode()
        flat: list[bytes] = []
        for key, row in ledger.positions.items():
            if key.sku == sku:
                flat += [f"{key.node_id}\t{key.bucket}".encode(), _pack(row)]
        return flat

    def scan(self, command: list[Any]) -> Any:
        base = command[3].partition(b"[")[0]
        ledger = self.shard(base + b"meta").ledger
        names = dict.fromkeys(b"p:" + key.sku.encode() for key in ledger.positions)
        found = [*names, *(b"l:" + rid.encode() for rid in ledger.legs)]
        found += [b"c:" + rid.encode() for rid in ledger.claims]
        return [b"0", [base + name for name in found]]

    def hello(self, command: list[Any]) -> Any:
        return {b"proto": int(command[1])}

    def unknown(self, command: list[Any]) -> Any:
        raise Refused(f"ERR unknown command {command[0]!r}")

    def info(self, command: list[Any]) -> Any:
        return (
            f"# Server\r\nredis_version:7.2.4\r\nvalkey_version:9.1.0\r\nrun_id:{self._run_id}\r\n"
        )

    def config(self, command: list[Any]) -> Any:
        return [command[2], _SETTINGS[command[2].decode()]]

    def function(self, command: list[Any]) -> Any:
        libraries = self._node.libraries
        if command[1].upper() == b"LIST":
            name = command[3].decode().removeprefix("promise_")
            return [[b"library_name", command[3]]] if name in libraries else []
        name = command[2].split(b"name=", 1)[1].split(b"\n", 1)[0].decode()
        libraries.add(name.removeprefix("promise_"))
        return name.encode()


_SETTINGS = {
    "maxmemory-policy": b"noeviction",
    "appendonly": b"yes",
    "appendfsync": b"always",
    "cluster-enabled": b"yes",
}
_COMMANDS: dict[str, Callable[[Session, list[Any]], Any]] = {
    "FCALL": Session.fcall,
    "XRANGE": Session.xrange,
    "SSUBSCRIBE": Session.subscribe,
    "PING": lambda session, command: b"PONG",
    "SPUBLISH": Session.publish,
    "GET": Session.get,
    "SET": Session.set,
    "HGETALL": Session.hgetall,
    "SCAN": Session.scan,
    "INFO": Session.info,
    "CONFIG": Session.config,
    "FUNCTION": Session.function,
    "CLUSTER": lambda session, _: session._cluster.slots(),
    "HELLO": Session.hello,
}


def _create_step(raw: list[Any]) -> CreateStep:
    step = CreateStep(*raw)
    claim = ClaimDraft(*step.claim)._replace(legs=tuple(step.claim[2])) if step.claim else ()
    limits = tuple(CustomerLimit(*limit) for limit in step.limits)
    lines = tuple(LegLine(*line) for line in step.lines)
    return step._replace(lines=lines, claim=claim, limits=limits)


def _changing(kind: Any) -> Callable[[bytes], Any]:
    """A step with a leg's lines."""

    def decode(arg: bytes) -> Any:
        step = kind(*_unpack(arg))
        if kind is ReviseStep:
            step = step._replace(legs=tuple(step.legs))
        return step._replace(lines=tuple(LegLine(*line) for line in step.lines))

    return decode


def _stepwise(method: str, decode: Callable[[bytes], Any]) -> Callable[..., Any]:
    """One packed reply a step."""

    def call(session: Session, shard: Shard, args: list[bytes], now_ms: int) -> list[bytes]:
        step_of = getattr(shard.ledger, method)
        return [_pack(step_of(decode(arg), now_ms)) for arg in args]

    return call


def _supply(method: str, row: Callable[..., Any]) -> Callable[..., Any]:
    def call(session: Session, shard: Shard, args: list[bytes], now_ms: int) -> list[bytes]:
        rows = [row(*_unpack(arg)) for arg in args]
        return [_pack(reply) for reply in getattr(shard.ledger, method)(rows, now_ms)]

    return call


def _read_positions(session: Session, shard: Shard, args: list[bytes], now_ms: int) -> list[bytes]:
    head = _pack((*shard.ledger.at, max(shard.ledger.time_ms, now_ms)))
    return [head, *(_pack(shard.ledger.read_positions(sku.decode(), now_ms)) for sku in args)]


def _read_meta(session: Session, shard: Shard, args: list[bytes], now_ms: int) -> bytes:
    ledger = shard.ledger
    time_ms = max(ledger.time_ms, now_ms)
    process = shard.node.run_id
    return _pack((shard.owner, process, *ledger.at, *shard.durable, time_ms, ledger.network_floor))


def _mark_durable(session: Session, shard: Shard, args: list[bytes], now_ms: int) -> int:
    epoch, sequence, keep = (int(arg) for arg in args)
    if Position(epoch, sequence) > shard.durable:
        shard.durable = Position(epoch, sequence)
        if sequence > keep:
            shard.trimmed = max(shard.trimmed, Position(epoch, sequence - keep - 1))
    return 1


def _raise_floor(session: Session, shard: Shard, args: list[bytes], now_ms: int) -> int:
    shard.ledger.raise_network_floor(int(args[0]))
    return 1


def _take_over(session: Session, shard: Shard, args: list[bytes], now_ms: int) -> bytes:
    expected = Position(int(args[1]), int(args[2]))
    if shard.owner == shard.node.run_id:
        raise Refused("SERVING the shard already serves")
    if shard.ledger.at != expected:
        raise Refused("MOVED_ON the shard stands elsewhere")
    shard.owner = shard.node.run_id
    return _pack(shard.ledger.take_over(now_ms))


def _restore(session: Session, shard: Shard, args: list[bytes], now_ms: int) -> int:
    if shard.owner == shard.node.run_id:
        raise Refused("SERVING the shard already serves")
    events: list[tuple[Position, Event]] = [
        (Position(int(args[i]), int(args[i + 1])), decode_event(args[i + 2]))
        for i in range(1, len(args), 3)
    ]
    shard.ledger.restore(events)
    return 1


_VERBS: dict[str, Callable[[Session, Shard, list[bytes], int], Any]] = {
    "create": _stepwise("create", lambda arg: _create_step(_unpack(arg))),
    "resolve": _stepwise("resolve", lambda arg: ResolveStep(*_unpack(arg))),
    "follow": _stepwise("follow", lambda arg: FollowStep(*_unpack(arg))),
    "revise": _stepwise("revise", _changing(ReviseStep)),
    "conform": _stepwise("conform", _changing(ConformStep)),
    "settle": _stepwise("settle", lambda arg: SettleStep(*_unpack(arg))),
    "read_claims": _stepwise("read_claim", bytes.decode),
    "read_legs": _stepwise("read_leg", bytes.decode),
    "sync_supply": _supply("sync_supply", SupplyRow),
    "protect": _supply("protect", ProtectRow),
    "adjust_supply": _supply("adjust_supply", AdjustRow),
    "read_positions": _read_positions,
    "sweep": lambda _, shard, args, now: _pack(shard.ledger.sweep(int(args[0]), now)),
    "open_claims": lambda _, shard, args, now: [
        _pack(claim) for claim in shard.ledger.open_claims(now, int(args[0]))
    ],
    "read_meta": _read_meta,
    "mark_durable": _mark_durable,
    "raise_network_floor": _raise_floor,
    "take_over": _take_over,
    "restore": _restore,
}


def _resp(reply: Any) -> bytes:
    if isinstance(reply, bytes):
        return b"$%d\r\n%b\r\n" % (len(reply), reply)
    if isinstance(reply, str):
        return _resp(reply.encode())
    if isinstance(reply, int):
        return b":%d\r\n" % reply
    if isinstance(reply, Refused):
        return b"-%b\r\n" % str(reply).encode()
    if isinstance(reply, dict):
        flat = [part for pair in reply.items() for part in pair]
        return b"%%%d\r\n%b" % (len(reply), b"".join([_resp(part) for part in flat]))
    if reply is None:
        return b"$-1\r\n"
    return b"*%d\r\n%b" % (len(reply), b"".join([_resp(part) for part in reply]))
