"""What goes to the Functions and comes back: msgpack arrays in the field order of the NamedTuples.

Strings are msgpack str both ways (Lua's cmsgpack knows no bin), and nothing is nil.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import NamedTuple

import msgspec

from promise_svc.adapters.event_codec import (
    ClaimEntry,
    LegEntry,
    claim_or_empty,
    decode_event,
    leg_or_empty,
)
from promise_svc.application.ports import ShardMeta, ShardNews
from promise_svc.domain.events import PositionImage, StoredEvent
from promise_svc.domain.inventory import StockPosition
from promise_svc.domain.reservation import (
    ClaimRecord,
    LegRecord,
    Shortfall,
    StepReply,
    SupplyReply,
    SweepReply,
)
from promise_svc.domain.sharding import Position


class _ReplyEntry(NamedTuple):
    """``StepReply`` as it is written: an absent claim is an empty array."""

    outcome: int
    epoch: int
    sequence: int
    time_ms: int
    state: int
    claim: ClaimEntry
    shortfalls: tuple[Shortfall, ...]
    contended: int
    attempt: int = 0


class _NewsEntry(NamedTuple):
    epoch: int
    sequence: int
    durable_epoch: int
    durable_sequence: int
    time_ms: int
    events: list[msgspec.Raw]


_encoder = msgspec.msgpack.Encoder()
# Without the Python frame of a NamedTuple's own constructor.
_step_reply = partial(tuple.__new__, StepReply)
_position = partial(tuple.__new__, Position)
_stored_event = partial(tuple.__new__, StoredEvent)
_shard_news = partial(tuple.__new__, ShardNews)
_step_replies = msgspec.msgpack.Decoder(_ReplyEntry)
_supply_replies = msgspec.msgpack.Decoder(SupplyReply)
_sweeps = msgspec.msgpack.Decoder(SweepReply)
_claims = msgspec.msgpack.Decoder(ClaimEntry)
_open_claims = msgspec.msgpack.Decoder(tuple[str, ClaimEntry])
_legs = msgspec.msgpack.Decoder(LegEntry)
_rows = msgspec.msgpack.Decoder(StockPosition)
_images = msgspec.msgpack.Decoder(list[PositionImage])
_news = msgspec.msgpack.Decoder(_NewsEntry)
_integers = msgspec.msgpack.Decoder(tuple[int, ...])
_durable = msgspec.msgpack.Decoder(list[tuple[int, Position]])
_metas = msgspec.msgpack.Decoder(tuple[str, str, int, int, int, int, int, int])


def encode(steps: Iterable[tuple[object, ...]]) -> list[bytes]:
    """One argument a step."""
    return [_encoder.encode(step) for step in steps]


def decode_step_reply(raw: bytes) -> StepReply:
    # In order, not by name: this is on the path of every call of a reservation.
    outcome, epoch, sequence, time_ms, state, claim, short, contended, attempt = (
        _step_replies.decode(raw)
    )
    known = claim_or_empty(claim)
    return _step_reply((outcome, epoch, sequence, time_ms, state, known, short, contended, attempt))


def decode_supply_reply(raw: bytes) -> SupplyReply:
    return _supply_replies.decode(raw)


def decode_sweep(raw: bytes) -> SweepReply:
    return _sweeps.decode(raw)


def decode_leg(raw: bytes) -> LegRecord | tuple[()]:
    return leg_or_empty(_legs.decode(raw))


def decode_claim(raw: bytes) -> ClaimRecord | tuple[()]:
    return claim_or_empty(_claims.decode(raw))


def decode_open_claim(raw: bytes) -> tuple[str, ClaimRecord]:
    reservation_id, entry = _open_claims.decode(raw)
    return reservation_id, ClaimRecord(*entry)


def decode_row(raw: bytes) -> StockPosition:
    return _rows.decode(raw)


def decode_images(raw: bytes) -> list[PositionImage]:
    return _images.decode(raw)


def decode_integers(raw: bytes) -> tuple[int, ...]:
    return _integers.decode(raw)


def decode_meta(raw: bytes) -> ShardMeta:
    owner, process, epoch, sequence, durable_epoch, durable_sequence, time_ms, floor = (
        _metas.decode(raw)
    )
    return ShardMeta(
        owner,
        process,
        Position(epoch, sequence),
        Position(durable_epoch, durable_sequence),
        time_ms,
        floor,
    )


def decode_news(shard: int, raw: bytes) -> ShardNews:
    """A channel message. Its events end at the position it states."""
    epoch, sequence, durable_epoch, durable_sequence, time_ms, packed = _news.decode(raw)
    at, durable = _position((epoch, sequence)), _position((durable_epoch, durable_sequence))
    if len(packed) == 1:  # nearly all of them
        events: tuple[StoredEvent, ...] = (stored_event(shard, at, bytes(packed[0])),)
    else:
        first = sequence - len(packed) + 1
        events = tuple(
            stored_event(shard, _position((epoch, first + index)), bytes(event))
            for index, event in enumerate(packed)
        )
    return _shard_news((shard, at, durable, time_ms, events))


def encode_durable(at: Mapping[int, Position]) -> bytes:
    return _encoder.encode(list(at.items()))


def decode_durable(raw: bytes) -> list[tuple[int, Position]]:
    """Shard and position of each mark."""
    return _durable.decode(raw)


def stored_event(shard: int, at: Position, payload: bytes) -> StoredEvent:
    return _stored_event((shard, at, decode_event(payload), payload))


def decode_stream_id(raw: bytes) -> Position:
    epoch, _, sequence = raw.partition(b"-")
    return Position(int(epoch), int(sequence))
