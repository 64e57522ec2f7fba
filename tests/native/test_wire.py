"""Availability from bytes to bytes, against protobuf runtime, conversions and use case.

Whatever the bytes: None, or exactly the bytes that the specification answers.
"""

from __future__ import annotations

import random
import resource
from dataclasses import replace

import pytest
from google.protobuf.message import DecodeError

from native._ats_table import AtsTable
from native._sharding import stable_hash
from native._wire import AvailabilityReads
from promise_svc.application.availability import AvailabilityReader
from promise_svc.application.ports import AtsRow
from promise_svc.application.stock import FEED_BEHIND_MS, StockSource
from promise_svc.domain.inventory import StockPosition
from promise_svc.domain.network import Item, NetworkDocuments, NodeGroup, NodeStatus, build_snapshot
from promise_svc.domain.sharding import Position, shard_of
from promise_svc.errors import InvalidRequest
from promise_svc.rpc.availability import NetworkReads
from promise_svc.rpc.convert.availability import check_from, check_to, query_from, query_to
from promise_svc.v1 import availability_service_pb2 as pb
from tests.support.networks import a_node
from tests.support.odd_encodings import odd_encodings
from tests.support.random_messages import random_message

SHARD_COUNT = 8
NOW_MS = 1_800_000_000_000
NODES = [f"n-{number}" for number in range(12)]
SKUS = [f"sku-{number}" for number in range(20)]
VIEWS = (pb.AVAILABILITY_VIEW_UNSPECIFIED, 1, 2, 3)


class Clock:
    """Stands where it is put."""

    def __init__(self) -> None:
        self.ms = NOW_MS

    def now_ms(self) -> int:
        return self.ms

    def monotonic(self) -> float:
        return self.ms / 1000


class TableOfCore:
    """``AtsReader`` over the twin; its shards are never asked."""

    shard_count = SHARD_COUNT
    search = None

    def __init__(self, core: AtsTable) -> None:
        self.rows, self.shard = core.rows, core.shard
        self._core = core

    def protected(self, sku: str) -> dict[tuple[str, str], StockPosition]:
        return {}

    def clock(self, shard: int) -> tuple[Position, int]:
        epoch, sequence, time_ms = self._core.clock(shard)
        return Position(epoch, sequence), time_ms

    async def read_positions(self, shard, skus, timeout):
        raise AssertionError("a plain read asks no shard")


class World:
    """A random table and network, and both ways to answer from them."""

    def __init__(self, seed: int) -> None:
        rng = self.rng = random.Random(seed)
        self.clock = Clock()
        self.core = AtsTable(shard_count=SHARD_COUNT, make_row=AtsRow._make)
        for shard in range(SHARD_COUNT):
            self.core.load(shard, rng.choice((1, 300)), 0, NOW_MS - rng.randrange(900), [])
        for shard in range(SHARD_COUNT):
            images = [
                (sku, node, bucket, self.counters())
                for sku in SKUS
                for node in rng.sample([*NODES, "n-unknown"], rng.randrange(13))
                for bucket in rng.choice((("",), ("", "po-1"), ("po-1",)))
                if self.shard_of(sku) == shard
            ]
            self.core.apply(shard, 301, rng.choice((0, 7, 2**40)), NOW_MS - 500, images)
        self.switch()
        table = TableOfCore(self.core)
        stock = StockSource(
            table=table, index=table, network=lambda: self.network, clock=self.clock
        )
        self.reader = AvailabilityReader(stock=stock, network=lambda: self.network)
        self.protected: set[str] = set()
        reads = AvailabilityReads(
            self.core, feed_behind_ms=FEED_BEHIND_MS, protected=self.protected
        )
        self.reads = NetworkReads(reads, lambda: self.network, self.clock)

    def shard_of(self, sku: str) -> int:
        # Some live where their shard key put them.
        return hash_of(sku) if sku not in SKUS[:3] else 5

    def counters(self) -> tuple[int, int, int, int]:
        rng = self.rng
        return tuple(rng.choice((0, 1, rng.randrange(300), 2**31 - 1)) for _ in range(4))

    def switch(self) -> None:
        """Another network: nodes on and off, groups."""
        rng = self.rng
        nodes = {
            node: replace(a_node(node), status=rng.choice((NodeStatus.ON, NodeStatus.OFF)))
            for node in NODES
        }
        groups = {
            name: NodeGroup(
                node_group_id=name, node_ids=tuple(rng.sample([*NODES, "n-gone"], size))
            )
            for name, size in (("few", 2), ("many", 11), ("none", 0))
        }
        items = {"sku-item": Item(sku="sku-item"), SKUS[4]: Item(sku=SKUS[4])}
        self.network = build_snapshot(
            1, NetworkDocuments(nodes=nodes, node_groups=groups, items=items)
        )

    async def specified_check(self, body: bytes) -> bytes | None:
        """What the general path answers a CheckAvailability; None where it refuses."""
        try:
            request = pb.CheckAvailabilityRequest.FromString(body)
            check, consistency = check_from(request)
        except (DecodeError, InvalidRequest):
            return None
        reply = await self.reader.check(check, consistency=consistency, timeout=1)
        return check_to(reply).SerializeToString()

    async def specified(self, body: bytes) -> bytes | None:
        """What the general path answers a QueryAvailability; None where it refuses."""
        try:
            request = pb.QueryAvailabilityRequest.FromString(body)
            entries, consistency, view = query_from(request)
        except (DecodeError, InvalidRequest):
            return None
        reply = await self.reader.query(entries, consistency=consistency, view=view, timeout=1)
        return query_to(reply, view).SerializeToString()

    def plain_check(self) -> pb.CheckAvailabilityRequest:
        """A request that must be answered at once."""
        rng = self.rng
        request = pb.CheckAvailabilityRequest()
        request.skus.extend(rng.choices([*SKUS, "sku-none"], k=rng.choice((1, 3, 200))))
        # Only a SKU with a position or without an item is plain.
        plain = [s for s in request.skus if self.core.shard(s) is not None or s != SKUS[4]]
        del request.skus[:]
        request.skus.extend(plain or ["sku-none"])
        if rng.random() < 0.5:
            wanted = rng.choices((1, 5, 200, 2**31 - 1), k=len(request.skus))
            request.quantities.extend(wanted)
        scope = rng.random()
        if scope < 0.4:
            request.nodes.node_ids.extend(rng.choices(NODES, k=rng.choice((1, 2, 12))))
        elif scope < 0.6:
            request.node_group_id = rng.choice(("few", "many", "none"))
        if rng.random() < 0.3:
            request.consistency.max_age.FromMilliseconds(1000)
        return request

    def plain(self) -> pb.QueryAvailabilityRequest:
        """A request that must be answered at once."""
        rng = self.rng
        known = [sku for sku in SKUS if self.core.shard(sku) is not None]
        request = pb.QueryAvailabilityRequest(view=rng.choice(VIEWS))
        if rng.random() < 0.2:
            request.entries.add(sku="sku-none", entry_id="x")
        for _ in range(rng.choice((1, 1, 3, 30))):
            entry = request.entries.add(sku=rng.choice(known))
            if rng.random() < 0.5:
                entry.entry_id = rng.choice(("e", "x" * 64))
            scope = rng.random()
            if scope < 0.4:
                entry.nodes.node_ids.extend(rng.choices(NODES, k=rng.choice((1, 2, 12))))
            elif scope < 0.6:
                entry.node_group_id = rng.choice(("few", "many", "none"))
        if rng.random() < 0.3:
            request.consistency.max_age.FromMilliseconds(rng.choice((900, 1000, 3_600_000)))
        elif rng.random() < 0.3:
            request.consistency.strong = False
        return request


def hash_of(sku: str) -> int:
    return shard_of(sku, SHARD_COUNT)


@pytest.mark.parametrize("seed", range(8))
async def test_a_plain_request_is_answered_as_specified(seed: int) -> None:
    """Byte for byte, whatever the scope, the view and the network, which changes meanwhile."""
    world = World(seed)
    for turn in range(150):
        if turn % 40 == 39:
            world.switch()
        if turn % 50 == 49:
            images = [("sku-0", f"n-{turn % 12}", f"po-{turn}", world.counters())]
            world.core.apply(5, 302 + turn, 0, NOW_MS - 400, images)
        body = world.plain().SerializeToString()

        answer = world.reads.query(body)

        assert answer is not None
        assert await world.specified(body) == answer


@pytest.mark.parametrize("seed", range(8))
async def test_a_plain_check_is_answered_as_specified(seed: int) -> None:
    """Known and unknown SKUs, quantities or none, every scope."""
    world = World(seed)
    for turn in range(150):
        if turn % 40 == 39:
            world.switch()
        body = world.plain_check().SerializeToString()

        answer = world.reads.check(body)

        assert answer is not None
        assert await world.specified_check(body) == answer


@pytest.mark.parametrize("seed", range(8))
async def test_whatever_the_bytes_a_check_is_never_answered_otherwise(seed: int) -> None:
    """The same for CheckAvailability."""
    world = World(seed)
    answered = 0
    for _ in range(400):
        body = mangled(world, world.plain_check, pb.CheckAvailabilityRequest)

        answer = world.reads.check(body)

        if answer is not None:
            answered += 1
            assert await world.specified_check(body) == answer, body.hex()
    assert answered > 20


@pytest.mark.parametrize("seed", range(8))
async def test_whatever_the_bytes_it_is_never_answered_otherwise(seed: int) -> None:
    """Random messages, unknown fields, repeated ones, bytes changed, cut and put together."""
    world = World(seed)
    answered = 0
    for _ in range(400):
        body = mangled(world)

        answer = world.reads.query(body)

        if answer is not None:
            answered += 1
            assert await world.specified(body) == answer, body.hex()
    assert answered > 20


async def test_what_is_written_oddly_is_never_answered_otherwise() -> None:
    """The corpus: each field in every way that the wire allows, and some that it does not."""
    world = World(3)
    for plain, ask, specified in (
        (world.plain, world.reads.query, world.specified),
        (world.plain_check, world.reads.check, world.specified_check),
    ):
        answered = tried = 0
        while tried < 1000:
            request = plain()
            if len(request.SerializeToString()) > 200:
                continue
            for body in odd_encodings(request.SerializeToString()):
                answer = ask(body)

                tried += 1
                if answer is not None:
                    answered += 1
                    assert await specified(body) == answer, body.hex()
        assert answered > 50


def mangled(world: World, plain=None, kind=pb.QueryAvailabilityRequest) -> bytes:
    rng, plain = world.rng, plain or world.plain
    body = plain().SerializeToString()
    way = rng.randrange(7)
    if way == 0:
        return random_message(kind, rng).SerializeToString()
    if way == 1:
        return bytes(rng.getrandbits(8) for _ in range(rng.randrange(30)))
    if way == 2:
        return body + plain().SerializeToString()
    if way == 3:
        return body + rng.choice(
            (b"\x20\x01", b"\x9a\x06\x02hi", b"\x18\x02", b"\x18\x07", b"\x0a")
        )
    at = rng.randrange(len(body))
    if way == 4:
        return body[:at]
    if way == 5:
        return body[:at] + bytes([rng.getrandbits(8)]) + body[at + 1 :]
    return body[:at] + body[at + rng.randrange(4) :]


async def test_what_is_not_plain_is_left_to_the_specification() -> None:
    """Each of these has an answer or a complaint that only the general path can give."""
    world = World(1)
    known = next(sku for sku in SKUS if world.core.shard(sku) is not None)

    def asked(**fields) -> pb.QueryAvailabilityRequest:
        return pb.QueryAvailabilityRequest(entries=[pb.AvailabilityQuery(sku=known, **fields)])

    assert world.reads.query(asked().SerializeToString()) is not None
    strong, fresh, negative = asked(), asked(), asked()
    strong.consistency.strong = True
    fresh.consistency.max_age.FromMilliseconds(3)
    negative.consistency.max_age.seconds = -1
    many = pb.QueryAvailabilityRequest(entries=[asked().entries[0]] * 1001)
    wide = pb.QueryAvailabilityRequest(view=2)
    for _ in range(26):
        wide.entries.add(sku=known).nodes.node_ids.extend([NODES[0]] * 2000)
    for request in (
        pb.QueryAvailabilityRequest(view=4, entries=asked().entries),
        pb.QueryAvailabilityRequest(),
        pb.QueryAvailabilityRequest(entries=[pb.AvailabilityQuery(sku="sku-item")]),
        pb.QueryAvailabilityRequest(
            entries=[pb.AvailabilityQuery(sku="sku-none", nodes=pb.NodeList(node_ids=["-"]))]
        ),
        asked(node_group_id="unheard"),
        asked(nodes=pb.NodeList(node_ids=[NODES[0], "unheard"])),
        asked(nodes=pb.NodeList()),
        asked(nodes=pb.NodeList(node_ids=[NODES[0]] * 2001)),
        asked(segment="-"),
        asked(entry_id="-"),
        strong,
        fresh,
        negative,
        many,
        wide,
    ):
        assert world.reads.query(request.SerializeToString()) is None
    del wide.entries[25]
    body = wide.SerializeToString()
    assert world.reads.query(body) == await world.specified(body)


async def test_a_check_that_is_not_plain_is_left_to_the_specification() -> None:
    """Each of these has an answer or a complaint that only the general path can give."""
    world = World(1)
    known = next(sku for sku in SKUS if world.core.shard(sku) is not None)

    def asked(**fields) -> pb.CheckAvailabilityRequest:
        return pb.CheckAvailabilityRequest(**{"skus": [known]} | fields)

    assert world.reads.check(asked().SerializeToString()) is not None
    strong = asked()
    strong.consistency.strong = True
    for request in (
        asked(skus=[]),
        asked(skus=["-"]),
        asked(skus=["sku-item"]),
        asked(skus=[known] * 10_001),
        asked(quantities=[1, 1]),
        asked(quantities=[0]),
        asked(quantities=[2**31]),
        asked(skus=[known, known], quantities=[1]),
        asked(node_group_id="unheard"),
        asked(nodes=pb.NodeList(node_ids=["unheard"])),
        asked(segment="-"),
        strong,
    ):
        assert world.reads.check(request.SerializeToString()) is None
    many = asked(skus=[known] * 10_000).SerializeToString()
    assert world.reads.check(many) == await world.specified_check(many)


async def test_a_segment_is_answered_at_once_where_nothing_is_kept_for_any() -> None:
    """By SKU: shares are not in the cells, and most SKUs have none. What has changed counts."""
    world = World(1)
    known = [sku for sku in SKUS if world.core.shard(sku) is not None][:2]
    entries = [pb.AvailabilityQuery(sku=sku, segment="web") for sku in known]
    query = pb.QueryAvailabilityRequest(entries=entries, view=3).SerializeToString()
    check = pb.CheckAvailabilityRequest(skus=known, segment="web").SerializeToString()
    others = pb.CheckAvailabilityRequest(skus=known).SerializeToString()

    assert world.reads.query(query) == await world.specified(query)
    assert world.reads.check(check) == await world.specified_check(check)
    world.protected.add(known[1])
    assert world.reads.query(query) is None
    assert world.reads.check(check) is None
    assert world.reads.check(others) is not None
    world.protected.clear()
    assert world.reads.query(query) is not None


async def test_a_table_that_is_behind_is_left_to_the_specification() -> None:
    """Its answers say that they are degraded; up to the limit they do not."""
    world = World(2)
    body = world.plain().SerializeToString()
    oldest = min(world.core.clock(shard)[2] for shard in range(SHARD_COUNT))
    world.clock.ms = oldest + FEED_BEHIND_MS
    assert world.reads.query(all_skus(world)) == await world.specified(all_skus(world))

    world.clock.ms = NOW_MS + FEED_BEHIND_MS
    assert world.reads.query(body) is None
    world.clock.ms = NOW_MS - 10_000  # a shard's clock is ahead of ours
    assert world.reads.query(all_skus(world)) == await world.specified(all_skus(world))


def test_skus_of_nearly_the_same_hash_are_told_apart() -> None:
    """The index tells SKUs apart by one part of their hash and begins where another part says:
    of two that are alike in both, only one has stock."""
    core = AtsTable(shard_count=1, make_row=AtsRow._make)
    alike: dict[int, str] = {}
    pairs = []
    for number in range(600_000):
        sku = f"s{number}"
        hash_ = stable_hash(sku)
        other = alike.setdefault(hash_ & 0x7_FFFF_FFFF, sku)
        if other != sku:
            pairs.append((other, sku))
    images = [(stocked, "n", "", (5, 0, 0, 0)) for stocked, _ in pairs[:3]]
    core.load(0, 1, 1, NOW_MS, images)
    reads = AvailabilityReads(core, feed_behind_ms=FEED_BEHIND_MS, protected=set())
    reads.follow({"n": True}, {}, ())

    request = pb.CheckAvailabilityRequest(skus=[sku for pair in pairs[:3] for sku in pair])
    reply = pb.CheckAvailabilityResponse.FromString(
        reads.check(request.SerializeToString(), NOW_MS)
    )

    assert len(pairs) >= 3
    assert list(reply.available) == [True, False] * 3
    assert list(reply.unknown_sku_indices) == [1, 3, 5]


def all_skus(world: World) -> bytes:
    known = [sku for sku in SKUS if world.core.shard(sku) is not None]
    entries = [pb.AvailabilityQuery(sku=sku) for sku in known]
    return pb.QueryAvailabilityRequest(entries=entries, view=3).SerializeToString()


def test_a_shard_never_followed_is_left_to_the_specification() -> None:
    """It must be asked itself."""
    core = AtsTable(shard_count=1, make_row=AtsRow._make)
    reads = AvailabilityReads(core, feed_behind_ms=2**62, protected=set())
    core.apply(0, 1, 1, 0, [("a", "n", "", (1, 0, 0, 0))])
    body = pb.QueryAvailabilityRequest(entries=[pb.AvailabilityQuery(sku="a")]).SerializeToString()

    assert reads.query(body, 1) is None
    core.apply(0, 1, 2, 1, [])
    assert reads.query(body, 1) is not None


def test_answering_does_not_grow_the_process() -> None:
    """Nor does following one network after another."""
    world = World(3)
    bodies = [world.plain().SerializeToString() for _ in range(50)]

    def ask() -> None:
        for _ in range(300):
            world.switch()
            for body in bodies:
                world.reads.query(body)

    ask()
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ask()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident < 2048
