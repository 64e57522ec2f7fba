"""The seeded workload: what shoppers ask, as sessions of encoded calls.

SKUs follow Zipf's law (weight 1/rank) or are uniform; carts have 1 to 5 lines, and 90 % of them
cross shards; destinations are real postal codes, most of them in the cart's home region; a share
of the carts wants hot SKUs. The same seed makes the same sessions but for the run's own ids.
"""

from __future__ import annotations

import json
import math
import random
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, count

from google.protobuf.duration_pb2 import Duration

from loadtest.bodies import CANCEL, CONFIRM, CREATE, PICKUP, PROMISE, QUERY, RELEASE, Session, Step
from loadtest.catalog import SHARD_COUNT, Catalog
from promise_svc.demo.geography import Place
from promise_svc.demo.network import address_of
from promise_svc.hotpath import shard_of
from promise_svc.v1 import availability_service_pb2 as availability_pb
from promise_svc.v1 import promise_service_pb2 as promise_pb
from promise_svc.v1 import reservation_service_pb2 as reservation_pb
from promise_svc.v1 import types_pb2 as types_pb

ONE_SHARD_SHARE = 0.1
"""Carts that lie in one shard; half of these have one line."""
REGIONAL_SHARE = 0.7
"""Destinations in the shopper's own region (first digit of the postal code), the rest anywhere."""

_SHIP = types_pb.FULFILLMENT_METHOD_SHIP_TO_ADDRESS


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadOptions:
    """How sessions are drawn; a scenario's [workload]."""

    kind: str
    """One of KINDS."""
    zipf: float = 1.0
    """Exponent of Zipf's law over SKUs; 0 is uniform."""
    lines_min: int = 1
    lines_max: int = 5
    hot_share: float = 0.0
    """Share of carts that want one unit of a hot SKU and nothing else."""
    named_nodes: bool = False
    """Lines of reservations name their nodes, as a caller does that holds a plan."""
    ttl_seconds: float = 900.0
    page_skus: int = 200
    """SKUs of a list page."""
    page_nodes: int = 20
    """Nodes each SKU of a list page is asked at."""
    view: str = "TOTAL"
    """TOTAL, NODES or BREAKDOWN."""
    confirm_share: float = 0.8
    release_share: float = 0.12
    cancel_share: float = 0.05
    """Of the confirmed ones."""


class Workload:
    """Sessions without end. ``run`` names the run in ids; give each client process its own."""

    def __init__(self, catalog: Catalog, options: WorkloadOptions, *, seed: int, run: str) -> None:
        if options.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {options.kind!r}")
        self._catalog = catalog
        self._options = options
        self._rng = random.Random(f"workload {seed}")
        self._run = run
        self._numbers = count()
        weights = ((rank + 1) ** -options.zipf for rank in range(len(catalog.skus)))
        self._cumulated = list(accumulate(weights))
        # Popularity must not follow the order in which SKUs were numbered.
        self._skus = list(catalog.skus)
        random.Random(f"popularity {catalog.seed}").shuffle(self._skus)
        self._by_region: dict[str, list[Place]] = {}
        for place in catalog.places:
            self._by_region.setdefault(place.postal_code[0], []).append(place)
        self._regions = sorted(self._by_region)
        self._make: Callable[[Workload], Session] = KINDS[options.kind]

    def sessions(self) -> Iterator[Session]:
        """One shopper after the other."""
        while True:
            yield self._make(self)

    def take(self, session_count: int) -> Iterator[Session]:
        """The next so many."""
        for _ in range(session_count):
            yield self._make(self)

    # ---- what shoppers want

    def sku(self) -> str:
        """One SKU by popularity."""
        draw = self._rng.random() * self._cumulated[-1]
        return self._skus[min(bisect_left(self._cumulated, draw), len(self._skus) - 1)]

    def destination(self) -> types_pb.Address:
        """Where a shopper is; shoppers of one region come in equal numbers."""
        rng = self._rng
        if rng.random() < REGIONAL_SHARE:
            return address_of(rng.choice(self._by_region[rng.choice(self._regions)]))
        return address_of(rng.choice(self._catalog.places))

    def cart(self) -> list[tuple[str, int]]:
        """SKUs with quantities, distinct."""
        rng, options = self._rng, self._options
        if rng.random() < options.hot_share:
            return [(rng.choice(self._catalog.hot_skus), 1)]
        first = self.sku()
        if options.lines_max == 1:
            return [(first, 1)]
        draw = rng.random()
        several = rng.randint(max(2, options.lines_min), options.lines_max)
        if draw < ONE_SHARD_SHARE / 2 and options.lines_min == 1:
            skus = [first]
        elif draw < ONE_SHARD_SHARE:
            skus = self._same_shard(first, several)
        else:
            skus = self._crossing(first, several)
        return [(sku, rng.choice((1, 1, 1, 2))) for sku in skus]

    def _same_shard(self, first: str, line_count: int) -> list[str]:
        others = self._catalog.skus_by_shard[shard_of(first, SHARD_COUNT)]
        drawn = self._rng.sample(others, min(line_count, len(others)))
        return [first, *(sku for sku in drawn if sku != first)][:line_count]

    def _crossing(self, first: str, line_count: int) -> list[str]:
        skus = [first]
        while len(skus) < line_count:
            sku = self.sku()
            if sku in skus:
                continue
            same = all(shard_of(s, SHARD_COUNT) == shard_of(sku, SHARD_COUNT) for s in skus)
            if len(skus) == line_count - 1 and same:
                continue
            skus.append(sku)
        return skus

    # ---- calls

    def query(self, skus: Sequence[str], node_ids: Sequence[str] = ()) -> Step:
        """ATS of SKUs at all nodes, or at those named."""
        scope = availability_pb.NodeList(node_ids=node_ids) if node_ids else None
        request = availability_pb.QueryAvailabilityRequest(
            entries=[availability_pb.AvailabilityQuery(sku=sku, nodes=scope) for sku in skus],
            view=availability_pb.AvailabilityView.Value(f"AVAILABILITY_VIEW_{self._options.view}"),
        )
        return Step(QUERY, request.SerializeToString())

    def pickup(self, cart: Sequence[tuple[str, int]]) -> Step:
        """Stores nearby that have it."""
        request = availability_pb.FindPickupNodesRequest(
            origin=self.destination(), radius_meters=50_000, lines=_lines(cart)
        )
        return Step(PICKUP, request.SerializeToString())

    def promise(self, cart: Sequence[tuple[str, int]], address: types_pb.Address) -> Step:
        """The best plans for a cart."""
        request = promise_pb.PromiseCartRequest(lines=_lines(cart), address=address, max_options=4)
        return Step(PROMISE, request.SerializeToString())

    def create(self, cart: Sequence[tuple[str, int]], address: types_pb.Address) -> Step:
        """A hold whose home is the shard of a leg, as our client mints ids."""
        rid = self._mint(cart)
        request = reservation_pb.CreateReservationRequest(
            reservation_id=rid,
            owner_id=f"o{rid}",
            address=address,
            fulfillment_method=_SHIP,
            ttl=_duration(self._options.ttl_seconds),
        )
        for number, (sku, quantity) in enumerate(cart):
            line = request.lines.add(line_id=str(number), sku=sku, quantity=quantity)
            if self._options.named_nodes:
                line.node_id = self._node_of(sku)
        tag = json.dumps({"reservation_id": rid, "lines": cart}, separators=(",", ":"))
        return Step(CREATE, request.SerializeToString(), tag[1:-1].encode())

    def settle(self, path: str, created: Step) -> Step:
        """Confirm, release or cancel what ``created`` held."""
        rid = json.loads(b"{" + created.tag + b"}")["reservation_id"]
        request = {
            CONFIRM: reservation_pb.ConfirmReservationRequest,
            RELEASE: reservation_pb.ReleaseReservationRequest,
            CANCEL: reservation_pb.CancelReservationRequest,
        }[path](reservation_id=rid)
        tag = json.dumps({"reservation_id": rid}, separators=(",", ":"))
        return Step(path, request.SerializeToString(), tag[1:-1].encode())

    def _mint(self, cart: Sequence[tuple[str, int]]) -> str:
        home = shard_of(cart[0][0], SHARD_COUNT)
        number = next(self._numbers)
        for salt in count():
            rid = f"lt-{self._run}-{number}-{salt}"
            if shard_of(rid, SHARD_COUNT) == home:
                return rid
        raise AssertionError

    def _node_of(self, sku: str) -> str:
        catalog = self._catalog
        if sku in catalog.hot_skus:
            return self._rng.choice(catalog.centers[:2])
        return self._rng.choice(catalog.nodes_of(sku))

    # ---- sessions

    def _availability_read(self) -> Session:
        return (self.query([self.sku()]),)

    def _list_page(self) -> Session:
        options, rng = self._options, self._rng
        skus = [self.sku() for _ in range(options.page_skus)]
        if options.page_nodes == 0:
            return (self.query(skus),)
        nodes = [*self._catalog.centers, *self._catalog.stores]
        if options.page_nodes == self._catalog.size.nodes_per_sku:
            return (self.query(skus, self._catalog.nodes_of(rng.choice(skus))),)
        return (self.query(skus, rng.sample(nodes, options.page_nodes)),)

    def _reserve(self) -> Session:
        return (self.create(self.cart(), self.destination()),)

    def _reserve_and_settle(self) -> Session:
        created = self._reserve()[0]
        return (created, *self._settled(created))

    def _settled(self, created: Step) -> Iterator[Step]:
        draw = self._rng.random()
        if draw < self._options.confirm_share:
            yield self.settle(CONFIRM, created)
            if self._rng.random() < self._options.cancel_share:
                yield self.settle(CANCEL, created)
        elif draw < self._options.confirm_share + self._options.release_share:
            yield self.settle(RELEASE, created)

    def _promise_cart(self) -> Session:
        skus = self._rng.sample(self._catalog.wide_skus, 3)
        return (self.promise([(sku, 1) for sku in skus], self.destination()),)

    def _sold_out(self) -> Session:
        cart = [(self._rng.choice(self._catalog.sold_out_skus), 1)]
        return (self.create(cart, self.destination()),)

    def _checkout_mix(self) -> Session:
        """Of 100: 60 look at a product, 12 at pickup too, 18 at a cart's dates, 10 check out."""
        draw = self._rng.random()
        cart, address = self.cart(), self.destination()
        look = self.query([sku for sku, _ in cart])
        if draw < 0.60:
            return (look,)
        if draw < 0.72:
            return (look, self.pickup(cart))
        promise = self.promise(cart, address)
        if draw < 0.90:
            return (look, promise)
        created = self.create(cart, address)
        return (look, promise, created, *self._settled(created))


KINDS: dict[str, Callable[[Workload], Session]] = {
    "availability_read": Workload._availability_read,
    "list_page": Workload._list_page,
    "promise_cart": Workload._promise_cart,
    "reserve": Workload._reserve,
    "reserve_and_settle": Workload._reserve_and_settle,
    "sold_out": Workload._sold_out,
    "checkout_mix": Workload._checkout_mix,
}


def _lines(cart: Sequence[tuple[str, int]]) -> list[types_pb.Line]:
    return [
        types_pb.Line(line_id=str(number), sku=sku, quantity=quantity)
        for number, (sku, quantity) in enumerate(cart)
    ]


def _duration(seconds: float) -> Duration:
    whole = math.floor(seconds)
    return Duration(seconds=whole, nanos=round((seconds - whole) * 1e9))
