"""Positions as the order store copies them out, and back to images."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable

from promise_svc.adapters.event_codec import decode_shares
from promise_svc.application.ports import OrderStore
from promise_svc.domain.copied_positions import FIELD_COUNT, copied_rows
from promise_svc.domain.events import PositionImage
from promise_svc.domain.inventory import StockPosition
from promise_svc.domain.sharding import START, Position

HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
END = b"\xff\xff"


def copied(at: Position, images: Iterable[PositionImage]) -> bytes:
    """As PostgreSQL would write them."""
    cursor = (_number(at.epoch), _number(at.sequence))
    rows = [_row(*cursor, *_fields(image)) for image in images]
    if not rows and at != START:
        rows = [_row(*cursor, *[None] * (FIELD_COUNT - 2))]
    return HEADER + b"".join(rows) + END


async def positions_of(store: OrderStore, shard: int) -> tuple[Position, list[PositionImage]]:
    """What an order store has of a shard, whole."""
    stored = await store.read_shard(shard)
    return stored.at, [PositionImage(*key, row) for key, row in stored.positions.items()]


def images_of(rows: bytes) -> list[PositionImage]:
    """With what was copied of each position, which is not all."""
    found, _ = copied_rows(rows, 0, len(rows))
    return [
        PositionImage(
            *row[:3],
            StockPosition(*row[3:7], arrival_ms=row[7], protected=decode_shares(row[-1])),
        )
        for row in found
    ]


def _number(value: int) -> bytes:
    return struct.pack(">q", value)


def _fields(image: PositionImage) -> list[bytes]:
    row = image.row
    numbers = (*row[:4], row.arrival_ms)
    shares = b"\x01" + json.dumps(row.protected).encode()
    return [*(text.encode() for text in image[:3]), *map(_number, numbers), shares]


def _row(*fields: bytes | None) -> bytes:
    parts = [struct.pack(">h", len(fields))]
    for field in fields:
        parts.append(struct.pack(">i", -1 if field is None else len(field)) + (field or b""))
    return b"".join(parts)
