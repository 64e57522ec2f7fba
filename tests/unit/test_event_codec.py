"""Events to bytes and back: the form the shards' Functions write."""

from __future__ import annotations

import msgspec
import pytest

from promise_svc.adapters import event_codec
from promise_svc.adapters.event_codec import (
    decode_claim,
    decode_event,
    encode_claim,
    encode_event,
)
from promise_svc.domain.events import Event, EventType
from promise_svc.domain.reservation import ClaimRecord, LegRecord, State
from promise_svc.domain.sharding import Position
from promise_svc.errors import InvariantBroken
from tests.support.stored_events import History, claim_record

CLAIM = claim_record(State.HELD, Position(1, 2), 3)


@pytest.mark.parametrize(
    "event",
    [
        History(0).start_epoch().event,
        History(0).sync("a", 5).event,
        History(0).move("r", State.PINNED).event,
        History(0).tombstone("r").event,
        Event(EventType.RESERVATION_EXPIRED, 5, "r", claim=CLAIM),
        Event(EventType.SUPPLY_ADJUSTED, 5, "key", "hash"),
    ],
)
def test_an_event_comes_back_as_it_was(event: Event) -> None:
    """Equal, and of the domain's own types: equality of named tuples does not tell them apart."""
    decoded = decode_event(encode_event(event))

    assert decoded == event
    assert [type(value) for value in decoded[4:8]] == [type(value) for value in event[4:8]]
    assert [type(image.row) for image in decoded.positions] == [
        type(image.row) for image in event.positions
    ]


def test_absent_records_are_empty_arrays() -> None:
    """Lua cannot keep nil in arrays."""
    raw = msgspec.msgpack.decode(encode_event(Event(EventType.EPOCH_STARTED, 1, "")))

    assert raw == [1, 1, "", "", [], [], [], []]


def test_fields_added_last_may_be_missing() -> None:
    """An event written before a field was added reads with the field's default."""
    short = msgspec.msgpack.encode([2, 1, "", "", [], [], [["a", "n", "", [5, 1]]]])

    assert decode_event(short).positions[0].row.on_hand == 5
    assert decode_event(short).previous == ()


@pytest.mark.parametrize(
    "entry",
    [
        [],
        ["2", 1, "", "", [], [], [], []],
        [2, 1, "", "", [1, 2, 3], [], [], []],
        [2, 1, "", "", [], [1, 2, 3, "h", 5, 0], [], []],
        [2, 1, "", "", [], [], [["a", "n"]], []],
        [2, 1, "", "", [], [], [], [1]],
        {"type": 1},
    ],
)
def test_what_is_no_event_is_refused(entry: object) -> None:
    """Cut short, of another type, or not an array."""
    with pytest.raises(InvariantBroken):
        decode_event(msgspec.msgpack.encode(entry))


@pytest.mark.parametrize("payload", [b"", b"\xc1", b"\x98\x01", b"\x93\x01\x02\xa1\xff"])
def test_what_is_no_msgpack_is_refused(payload: bytes) -> None:
    """Empty, reserved byte, cut off, text that is not UTF-8."""
    with pytest.raises(InvariantBroken):
        decode_event(payload)
    with pytest.raises(InvariantBroken):
        decode_claim(payload)


def test_a_claim_by_itself_comes_back_as_it_was() -> None:
    """The form in which the order store keeps the last claim."""
    assert decode_claim(encode_claim(CLAIM)) == CLAIM
    assert type(decode_claim(encode_claim(CLAIM))) is ClaimRecord


def test_the_entries_follow_the_domains_records_field_by_field() -> None:
    """A field added to a record must be added to the decoder, or it would be read into another."""
    assert event_codec.ClaimEntry._fields == ClaimRecord._fields
    assert event_codec.LegEntry._fields == LegRecord._fields
    assert event_codec._EventEntry._fields == Event._fields
