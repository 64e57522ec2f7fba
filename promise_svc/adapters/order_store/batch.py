"""A batch of events as the arrays that ``queries.APPEND`` takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from promise_svc.adapters.event_codec import encode_claim, encode_leg
from promise_svc.domain.events import EventType, PositionImage, StoredEvent
from promise_svc.domain.reservation import ClaimRecord, LegRecord
from promise_svc.domain.sharding import START, Position
from promise_svc.errors import SequenceGap


class _Body(msgspec.Struct):
    """The two keys of a claim's body that have columns of their own."""

    owner_id: str = ""
    order_reference: str = ""


_body_decoder = msgspec.json.Decoder(_Body)

_POSITION_COLUMNS = 15
_RESERVATION_COLUMNS = 11
_LEG_COLUMNS = 5


def refuse_gap(shard: int, after: Position, events: Sequence[StoredEvent]) -> None:
    """SequenceGap unless the events follow ``after`` and each other without a hole.

    The next event is the next sequence of the epoch, or the first of the next epoch: an
    EPOCH_STARTED that names its predecessor.
    """
    for stored in events:
        at = stored.at
        if at.epoch == after.epoch and after != START:
            follows = at.sequence == after.sequence + 1
        else:
            started = stored.event.type == EventType.EPOCH_STARTED
            follows = started and stored.event.previous == after and at == (after.epoch + 1, 1)
        if not follows or stored.shard != shard:
            raise SequenceGap(
                f"shard {shard}: event {at.epoch}-{at.sequence} of shard {stored.shard} does not "
                f"follow {after.epoch}-{after.sequence}",
                shard=shard,
            )
        after = at


def append_arguments(shard: int, after: Position, events: Sequence[StoredEvent]) -> list[Any]:
    """Arguments of ``APPEND``. Of several images of one record the last one counts.

    Cost: about 10 us an event with a claim, a leg and two positions.
    """
    claims: dict[str, tuple[ClaimRecord, StoredEvent]] = {}
    legs: dict[str, tuple[LegRecord, Position]] = {}
    positions: dict[tuple[str, str, str], tuple[PositionImage, Position]] = {}
    for stored in events:
        event, at = stored.event, stored.at
        if event.claim:
            claims[event.subject] = (event.claim, stored)
        if event.leg:
            legs[event.subject] = (event.leg, at)
        for image in event.positions:
            positions[image[:3]] = (image, at)
    return [
        shard,
        *after,
        *events[-1].at,
        *_event_columns(events),
        *_columns([_claim_row(id, *value) for id, value in claims.items()], _RESERVATION_COLUMNS),
        *_columns([_leg_row(id, *value) for id, value in legs.items()], _LEG_COLUMNS),
        *_columns([_position_row(*value) for value in positions.values()], _POSITION_COLUMNS),
    ]


def _event_columns(events: Sequence[StoredEvent]) -> list[list[Any]]:
    return [
        [s.at[0] for s in events],
        [s.at[1] for s in events],
        [s.event[0] for s in events],
        [s.event[1] for s in events],
        [s.event[2] for s in events],
        [s.payload for s in events],
    ]


def _claim_row(id: str, claim: ClaimRecord, stored: StoredEvent) -> tuple[Any, ...]:
    owner_id, order_reference = _owner(claim.body)
    return (
        id, claim.state, claim.revision, owner_id, order_reference, claim.create_ms,
        claim.expire_ms, stored.event.time_ms, encode_claim(claim), *stored.at,
    )  # fmt: skip


def _leg_row(id: str, leg: LegRecord, at: Position) -> tuple[Any, ...]:
    return (id, leg.state, encode_leg(leg), *at)


def _position_row(image: PositionImage, at: Position) -> tuple[Any, ...]:
    return (image.sku, image.node_id, image.bucket, *image.row, *at)


def _columns(rows: list[tuple[Any, ...]], count: int) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[]] * count


def _owner(body: str) -> tuple[str, str]:
    """Owner and order reference of a claim's body; empty where they are not text."""
    try:
        found = _body_decoder.decode(body)
    except msgspec.MsgspecError:
        return "", ""
    return found.owner_id, found.order_reference
