"""Carts from bytes to values and back, against protobuf runtime and conversions.

Whatever the bytes: None, or exactly the values that the specification reads. Whatever the values:
None, or exactly the bytes that it writes.
"""

from __future__ import annotations

import random
import resource
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from typing import Any, NamedTuple

import pytest
from google.protobuf.message import DecodeError, Message

from promise_svc.application.promise import PlannedUnits, PromiseCartReply, PromiseOutcome
from promise_svc.application.quote import NoQuoteReason, PromisedPlan, QuoteToken
from promise_svc.application.reservation import CreateResult, LineOutcome, Reservation
from promise_svc.application.reservation_body import ReservationLine, UnheldLine
from promise_svc.application.stock import DegradedReason, Freshness
from promise_svc.application.transition import TransitionResult
from promise_svc.domain.cart import UnfulfilledLine
from promise_svc.domain.delivery import DeliveryPromise, Shipment, ShipmentLine
from promise_svc.domain.network import FulfillmentMethod
from promise_svc.domain.reach import UnfulfilledReason
from promise_svc.domain.reservation import CreateOutcome, DurabilityMode, TransitionOutcome
from promise_svc.errors import InvalidRequest
from promise_svc.rpc.convert import plain
from promise_svc.rpc.convert.promise import cart_from, cart_to
from promise_svc.rpc.convert.reservation import (
    STATE_NUMBERS,
    TtlLimits,
    create_from,
    create_to,
    transition_to,
)
from promise_svc.v1 import promise_service_pb2 as promise_pb
from promise_svc.v1 import reservation_service_pb2 as pb
from promise_svc.v1 import types_pb2
from tests.support.odd_encodings import odd_encodings, varint
from tests.support.random_messages import random_message

NOW_MS = 1_800_000_000_000
TTL = TtlLimits()
IDS = ("a", "A-1", "9.z_:/-", "x" * 64, "sku-000123")
SHIP, PICK = (1, 5), (2, 3, 4)
STRANGE = (b"\xa2\x06\x02hi", b"\xa0\x06\x07", b"\xa5\x06abcd", b"\x72\x01a", b"\x70\x01", b"\x0a")


class Kind(NamedTuple):
    """One kind of request, and both ways to read it."""

    message: type[Message]
    good: Callable[[random.Random], Message]
    plain: Callable[[bytes], Any]
    specified: Callable[[Any], Any]


def good_create(rng: random.Random) -> pb.CreateReservationRequest:
    request = pb.CreateReservationRequest(reservation_id=rng.choice(IDS), owner_id=rng.choice(IDS))
    placed = rng.random() < 0.3
    for number in range(rng.choice((1, 2, 5, 40))):
        node_id = rng.choice(IDS) if placed or rng.random() < 0.2 else ""
        request.lines.add(
            line_id=f"l{number}", sku=rng.choice(IDS), node_id=node_id,
            quantity=rng.choice((1, 2, 200, 2**31 - 1)),
        )  # fmt: skip
    set_destination(request, rng, optional=placed)
    fitting = {"address": SHIP, "pickup_node_id": PICK, None: SHIP + PICK}
    request.fulfillment_method = rng.choice(fitting[request.WhichOneof("destination")])
    if rng.random() < 0.5:
        request.segment = rng.choice(("", *IDS))
        request.order_reference = rng.choice(("", "order 17 / b", "~" * 128))
        request.durability_mode, request.policy = rng.randrange(5), rng.randrange(4)
    if rng.random() < 0.5:
        request.create_time.FromMilliseconds(rng.choice((1, NOW_MS, NOW_MS + 300_000)))
        request.ttl.FromMilliseconds(rng.choice((1000, 1001, 900_000, TTL.max_ms)))
    return request


def good_cart(rng: random.Random) -> promise_pb.PromiseCartRequest:
    request = promise_pb.PromiseCartRequest()
    for number in range(rng.choice((1, 2, 5, 40))):
        request.lines.add(
            line_id=f"l{number}", sku=rng.choice(IDS), quantity=rng.choice((1, 200, 2**31 - 1))
        )
    set_destination(request, rng)
    fitting = SHIP if request.HasField("address") else PICK
    request.fulfillment_methods.extend(rng.sample(fitting, rng.randrange(len(fitting) + 1)))
    if rng.random() < 0.5:
        request.carrier_services.extend(rng.choices(IDS, k=rng.randrange(4)))
        request.segment = rng.choice(("", *IDS))
        request.max_options, request.max_shipments = rng.randrange(21), rng.randrange(21)
    if rng.random() < 0.3:
        request.order_time.FromMilliseconds(NOW_MS + rng.choice((-1, 0, 86_400_000)))
    if rng.random() < 0.3:
        request.consistency.max_age.FromMilliseconds(rng.choice((0, 900, 3_600_000)))
    elif rng.random() < 0.3:
        request.consistency.strong = False
    return request


def set_destination(request: Any, rng: random.Random, *, optional: bool = False) -> None:
    way = rng.random()
    if way < 0.2:
        request.pickup_node_id = rng.choice(IDS)
    elif way < 0.8 or not optional:
        address = request.address
        address.country, address.postal_code = "US", rng.choice(("60601", "K1A 0B1", "(1)"))
        if rng.random() < 0.4:
            address.region = rng.choice(("IL", "!" * 16))
        if rng.random() < 0.4:
            point = address.coordinates
            point.latitude_degrees = rng.choice((0.0, -0.0, 90.0, 41.88))
            point.longitude_degrees = rng.choice((0.0, -180.0, 5e-324))


KINDS = (
    Kind(
        pb.CreateReservationRequest,
        good_create,
        lambda body: plain.read_create(body, NOW_MS, TTL),
        lambda request: None if request.quote_token else create_from(request, NOW_MS, TTL),
    ),
    Kind(
        promise_pb.PromiseCartRequest,
        good_cart,
        lambda body: plain.read_cart(body, NOW_MS),
        lambda request: cart_from(request, NOW_MS),
    ),
)
each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.message.__name__)


def specified(kind: Kind, body: bytes) -> Any:
    """What the general path reads; None where it refuses."""
    try:
        return kind.specified(kind.message.FromString(body))
    except (DecodeError, InvalidRequest):
        return None


@each_kind
@pytest.mark.parametrize("seed", range(4))
def test_a_plain_request_is_read_as_specified(kind: Kind, seed: int) -> None:
    """Every field at its edges, to the type: 0.0 is not -0.0, and True is not 1."""
    rng = random.Random(seed)
    for _ in range(200):
        body = kind.good(rng).SerializeToString()

        values = kind.plain(body)

        assert values is not None
        assert repr(specified(kind, body)) == repr(values)


@each_kind
@pytest.mark.parametrize("seed", range(4))
def test_whatever_the_bytes_they_are_never_read_otherwise(kind: Kind, seed: int) -> None:
    """Random messages, unknown fields, repeated ones, bytes changed, cut and put together."""
    rng = random.Random(seed)
    read = 0
    for _ in range(1500):
        body = mangled(kind, rng)

        values = kind.plain(body)

        if values is not None:
            read += 1
            assert repr(specified(kind, body)) == repr(values), body.hex()
    assert read > 50


def mangled(kind: Kind, rng: random.Random) -> bytes:
    body = kind.good(rng).SerializeToString()
    way, at = rng.randrange(7), rng.randrange(len(body))
    if way == 0:
        return random_message(kind.message, rng).SerializeToString()
    if way == 1:
        return rng.randbytes(rng.randrange(30))
    if way == 2:
        return body + kind.good(rng).SerializeToString()
    if way == 3:
        return body + rng.choice(STRANGE)
    if way == 4:
        return body[:at]
    if way == 5:
        return body[:at] + rng.randbytes(1) + body[at + 1 :]
    return body[:at] + body[at + rng.randrange(4) :]


@each_kind
def test_what_is_written_oddly_is_never_read_otherwise(kind: Kind) -> None:
    """The corpus: each field in every way that the wire allows, and some that it does not."""
    read = tried = 0
    for seed in range(3):
        request: Any = kind.good(random.Random(seed))
        del request.lines[2:]
        for body in odd_encodings(request.SerializeToString()):
            values = kind.plain(body)

            tried += 1
            if values is not None:
                read += 1
                assert repr(specified(kind, body)) == repr(values), body.hex()
    assert tried > 2000
    assert read > 300


@each_kind
def test_a_field_it_does_not_know_is_left_to_the_specification(kind: Kind) -> None:
    """Of any number and wire type, in the request and in what it holds: tomorrow's contract."""
    rng = random.Random(1)
    body = kind.good(rng).SerializeToString()
    known = {field.number for field in kind.message.DESCRIPTOR.fields}
    for number in set(range(1, 40)) - known:
        for wire_type, value in ((0, b"\x01"), (2, b"\x01a"), (5, b"abcd"), (1, b"abcdefgh")):
            head = varint(number << 3 | wire_type)

            assert kind.plain(body + head + value) is None
    line = kind.message.DESCRIPTOR.fields_by_name["lines"]
    held = line.message_type._concrete_class(line_id="x", sku="y", quantity=1)
    for strange in STRANGE:
        inner = held.SerializeToString() + strange
        assert kind.plain(body + varint(line.number << 3 | 2) + varint(len(inner)) + inner) is None


CREATE_BREAKS: dict[str, Callable[[Any], object]] = {
    "a quote token": lambda r: setattr(r, "quote_token", "psvq"),
    "no reservation id": lambda r: r.ClearField("reservation_id"),
    "no owner": lambda r: r.ClearField("owner_id"),
    "an id too long": lambda r: setattr(r, "owner_id", "x" * 65),
    "no lines": lambda r: r.ClearField("lines"),
    "a line twice": lambda r: r.lines.append(r.lines[0]),
    "2,001 lines": lambda r: r.lines.extend(
        pb.ReservationRequestLine(line_id=f"m{n}", sku="s", quantity=1) for n in range(2000)
    ),
    "nothing of a line": lambda r: setattr(r.lines[0], "quantity", 0),
    "a quantity too great": lambda r: setattr(r.lines[0], "quantity", 2**31),
    "less than nothing": lambda r: setattr(r.lines[0], "quantity", -1),
    "no destination": lambda r: r.ClearField("address"),
    "a method that does not fit": lambda r: setattr(r, "fulfillment_method", 2),
    "no method": lambda r: r.ClearField("fulfillment_method"),
    "a country in small letters": lambda r: setattr(r.address, "country", "us"),
    "a postal code of signs": lambda r: setattr(r.address, "postal_code", "--"),
    "a region too long": lambda r: setattr(r.address, "region", "x" * 17),
    "north of the pole": lambda r: setattr(r.address.coordinates, "latitude_degrees", 90.1),
    "nowhere": lambda r: setattr(r.address.coordinates, "longitude_degrees", float("nan")),
    "a key from the future": lambda r: r.create_time.FromMilliseconds(NOW_MS + 300_001),
    "a key from before time": lambda r: r.create_time.FromMilliseconds(0),
    "a hold too short": lambda r: r.ttl.FromMilliseconds(999),
    "a hold too long by a nanosecond": lambda r: r.ttl.FromNanoseconds(TTL.max_ms * 10**6 + 1),
    "a reference too long": lambda r: setattr(r, "order_reference", "x" * 129),
    "a reference that is not ASCII": lambda r: setattr(r, "order_reference", "café"),
    "an unknown mode": lambda r: setattr(r, "durability_mode", 5),
    "an unknown policy": lambda r: setattr(r, "policy", 4),
    "a segment that is no id": lambda r: setattr(r, "segment", "-"),
    "a backorder allowed": lambda r: setattr(r, "allow_backorder", True),
}
CART_BREAKS: dict[str, Callable[[Any], object]] = {
    "no lines": lambda r: r.ClearField("lines"),
    "a line twice": lambda r: r.lines.append(r.lines[0]),
    "no destination": lambda r: r.ClearField("address"),
    "a method twice": lambda r: r.fulfillment_methods.extend([1, 1]),
    "a method that does not fit": lambda r: r.fulfillment_methods.append(3),
    "51 services": lambda r: r.carrier_services.extend(["x"] * 51),
    "an order of another age": lambda r: r.order_time.FromMilliseconds(1),
    "21 options": lambda r: setattr(r, "max_options", 21),
    "21 shipments": lambda r: setattr(r, "max_shipments", 21),
    "a backorder allowed": lambda r: setattr(r, "allow_backorder", True),
    "a strong read": lambda r: setattr(r.consistency, "strong", True),
    "an age of more than an hour": lambda r: r.consistency.max_age.FromMilliseconds(3_600_001),
}


@pytest.mark.parametrize(
    ("kind", "breaks"), [(KINDS[0], CREATE_BREAKS), (KINDS[1], CART_BREAKS)], ids=["hold", "cart"]
)
def test_what_is_not_plain_is_left_to_the_specification(
    kind: Kind, breaks: dict[str, Callable[[Any], object]]
) -> None:
    """Each of these has an answer or a complaint that only the general path can give."""
    for name, spoil in breaks.items():
        request: Any = kind.message()
        request.lines.add(line_id="l", sku="s", quantity=1)
        request.address.CopyFrom(types_pb2.Address(country="US", postal_code="60601"))
        if kind is KINDS[0]:
            request.reservation_id = request.owner_id = "r"
            request.fulfillment_method = 1
        assert kind.plain(request.SerializeToString()) is not None

        spoil(request)

        assert kind.plain(request.SerializeToString()) is None, name


def a_result(rng: random.Random) -> CreateResult:
    outcome = rng.choice(tuple(CreateOutcome))
    count = rng.choice((1, 2, 7, 300))
    if rng.random() < 0.3:
        lines = tuple(
            LineOutcome(
                f"l{number}",
                rng.choice(tuple(CreateOutcome)),
                rng.choice((-1, 0, 5, 2**40)),
                rng.choice(("", *IDS)),
            )
            for number in range(count)
        )
        return CreateResult(outcome=outcome, lines=lines, durability=DurabilityMode.FSYNC)
    held = Reservation(
        reservation_id=rng.choice(IDS),
        owner_id=rng.choice(IDS),
        state=rng.choice(tuple(STATE_NUMBERS)),
        revision=rng.choice((1, 2**31)),
        create_ms=NOW_MS + rng.randrange(5000),
        expire_ms=rng.choice((0, NOW_MS)),
        lines=tuple(a_line(f"l{number}", rng) for number in range(count)),
        fulfillment_method=rng.choice(tuple(FulfillmentMethod)),
        segment=rng.choice(("", "web")),
        order_reference=rng.choice(("", "café 😀", "x" * 9000)),
    )
    return CreateResult(
        outcome=CreateOutcome.HELD,
        reservation=held,
        replayed=rng.random() < 0.5,
        durability=rng.choice(tuple(DurabilityMode)),
    )


def a_line(line_id: str, rng: random.Random) -> ReservationLine:
    units = (0, 1, 300, 2**31 - 1)
    parts = tuple(
        PlannedUnits(rng.choice(IDS), rng.choice(("", "po-1")), *(rng.choice(units),) * 3)
        for _ in range(rng.randrange(3))
    )
    return ReservationLine(line_id, rng.choice(IDS), rng.choice(units), 5, parts)


def a_promise(rng: random.Random) -> tuple[PromiseCartReply, list[QuoteToken]]:
    options = tuple(
        DeliveryPromise(
            shipments=tuple(a_shipment(rng) for _ in range(rng.choice((1, 2, 9)))),
            exact=True,
            shipment_count_bound=1,
        )
        for _ in range(rng.randrange(4))
    )
    tokens = [
        rng.choice((QuoteToken("x" * 5000, "r-1"), QuoteToken(absent=NoQuoteReason.TOO_LARGE)))
        for _ in options
    ]
    unfulfilled = tuple(
        UnfulfilledLine(f"l{n}", rng.choice(tuple(UnfulfilledReason)), rng.choice((None, 0, 7)))
        for n in range(rng.randrange(3))
    )
    degraded = rng.random() < 0.5
    reply = PromiseCartReply(
        outcome=rng.choice(tuple(PromiseOutcome)),
        options=options,
        unfulfilled_lines=unfulfilled,
        network_version=rng.choice((0, 7, 2**50)),
        currency_code=rng.choice(("", "USD")),
        freshness=Freshness(NOW_MS, 17, degraded, DegradedReason(int(degraded))),
        order_ms=NOW_MS + 1,
    )
    return reply, tokens


def a_shipment(rng: random.Random) -> Shipment:
    def day() -> date:
        return date(1970, 1, 1) + timedelta(days=rng.randrange(2_000_000))

    lines = (ShipmentLine(f"l{n}", rng.choice(IDS), n) for n in range(rng.randrange(4)))
    return Shipment(
        node_id=rng.choice(IDS),
        lines=tuple(lines),
        fulfillment_method=rng.choice(tuple(FulfillmentMethod)),
        carrier_service=rng.choice(("", "ground")),
        ship_date=day(),
        earliest_delivery_date=day(),
        latest_delivery_date=day(),
        cost_micros=rng.choice((0, 4_990_000, 2**45)),
        order_by_ms=NOW_MS + rng.randrange(100_000),
        ready_ms=rng.choice((None, 0, NOW_MS)),
    )


@pytest.mark.parametrize("seed", range(4))
def test_a_plain_reply_is_written_as_specified(seed: int) -> None:
    """Byte for byte, small and large."""
    rng = random.Random(seed)
    for _ in range(100):
        result, (reply, tokens) = a_result(rng), a_promise(rng)

        assert create_to(result).SerializeToString() == plain.create_reply(result)
        assert cart_to(reply, tokens).SerializeToString() == plain.cart_reply(reply, tokens)


@pytest.mark.parametrize("seed", range(4))
def test_a_plain_reply_of_a_move_is_written_as_specified(seed: int) -> None:
    """Byte for byte, of each call that has one; what is not plain is left to the specification."""
    rng = random.Random(seed)
    moves = (pb.ConfirmReservationResponse, pb.ReleaseReservationResponse,
             pb.CancelReservationResponse)  # fmt: skip
    held = (each.reservation for each in iter(lambda: a_result(rng), None) if each.reservation)
    for _, reservation in zip(range(100), held, strict=False):
        wanted, outcome = (rng.choice(tuple(TransitionOutcome)) for _ in range(2))
        durability = rng.choice(tuple(DurabilityMode))
        result = TransitionResult(
            outcome=outcome, reservation=reservation, replayed=rng.random() < 0.5,
            durability=durability,
        )  # fmt: skip

        for kind in moves:
            told = transition_to(kind, wanted, result).SerializeToString()
            assert told == plain.transition_reply(wanted, result)
        fields = {name: getattr(reservation, name) for name in Reservation.__slots__}
        grown = Reservation(**fields | {"replaced_by": "another"})
        assert plain.transition_reply(wanted, replace(result, reservation=grown)) is None


def test_a_reply_that_is_not_plain_is_left_to_the_specification() -> None:
    """Promised shipments, lines not held, a date that moved; and values that have grown."""
    rng = random.Random(2)
    held: Any = next(r for r in iter(lambda: a_result(rng), None) if r.reservation)
    assert plain.create_reply(held) is not None

    def but(**values: Any) -> CreateResult:
        fields = {name: getattr(held.reservation, name) for name in Reservation.__slots__}
        reservation = Reservation(**fields | values)
        return CreateResult(outcome=held.outcome, reservation=reservation, durability=2)

    class Grown(NamedTuple):
        line_id: str
        sku: str
        quantity: int
        shard: int
        planned_units: tuple[PlannedUnits, ...]
        gift: str = ""

    line = held.reservation.lines[0]
    moved = LineOutcome("l", CreateOutcome.DATE_MOVED, latest_delivery_date=date(2026, 1, 1))
    for later, _ in plain._OF_HELD:
        assert plain.create_reply(but(**{later: "what the codec never heard of"})) is None
    for result in (
        but(promised=PromisedPlan((a_shipment(rng),), "USD")),
        but(unheld=(UnheldLine("l", 0, 1, 60, 0, "n"),)),
        but(lines=(Grown(*line, "wrapped"),)),
        CreateResult(outcome=CreateOutcome.DATE_MOVED, lines=(moved,), durability=2),
    ):
        assert plain.create_reply(result) is None
    assert plain.create_reply(but(lines=(Grown(*line),))) == plain.create_reply(but(lines=(line,)))


def test_a_value_of_another_kind_is_a_fault() -> None:
    """Not a crash: the buffer is as good as before."""
    line = LineOutcome("l", CreateOutcome.CONTENDED)
    good = CreateResult(outcome=CreateOutcome.CONTENDED, lines=(line,), durability=2)
    bad = CreateResult(
        outcome=CreateOutcome.CONTENDED, lines=(line._replace(line_id=7),), durability=2
    )
    for _ in range(3):
        with pytest.raises(TypeError):
            plain.create_reply(bad)

        assert create_to(good).SerializeToString() == plain.create_reply(good)


def test_reading_and_writing_do_not_grow_the_process() -> None:
    """Whatever the outcome."""
    rng = random.Random(3)
    bodies = [(kind, mangled(kind, rng)) for kind in KINDS for _ in range(50)]
    results = [a_result(rng) for _ in range(20)]

    def work() -> None:
        for _ in range(200):
            for kind, body in bodies:
                kind.plain(body)
            for result in results:
                plain.create_reply(result)

    work()
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    work()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident < 2048
