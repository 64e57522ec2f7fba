"""A shard's positions as the order store copies them out: PostgreSQL's COPY in binary, as it comes.

``HEADER_SIZE`` bytes, then rows, then the field count -1. A row is its field count (2 bytes), then
each field behind its size (4 bytes, -1 and no more for NULL): the cursor's epoch and sequence; sku,
node_id, bucket; on_hand, committed, held, safety_stock, arrival_ms; protected, as JSON behind a
byte for its version. All numbers are signed and big-endian, those in fields of 8 bytes. A shard
without a position is one row whose sku is NULL; one without a cursor has no row.

``native/_ats_table`` reads the rows as ``AtsTable.stage_copied`` does here.
"""

from __future__ import annotations

import struct
from typing import TypeAlias

HEADER_SIZE = 19
"""Signature, flags, and the size of an extension, which is 0."""

FIELD_COUNT = 11

NO_SHARES = "[]"
"""``protected`` of a position of which no segment has a share: of nearly all."""


CopiedRow: TypeAlias = tuple[str, str, str, int, int, int, int, int, str]
"""sku, node_id, bucket, on_hand, committed, held, safety_stock, arrival_ms, protected."""


def copied_cursor(rows: bytes) -> tuple[int, int]:
    """Epoch and sequence that the rows stand at; zeros without a cursor."""
    if _field_count(rows, HEADER_SIZE) < 0:
        return 0, 0
    epoch, sequence = struct.unpack_from(">4xq4xq", rows, HEADER_SIZE + 2)
    return epoch, sequence


def copied_rows(rows: bytes, offset: int, limit: int) -> tuple[list[CopiedRow], int]:
    """Up to ``limit`` rows from ``offset`` on, 0 for the first; and the offset after them, 0 at the
    end. ValueError where the bytes are no such rows."""
    offset = offset or HEADER_SIZE
    found: list[CopiedRow] = []
    for _ in range(limit):
        count = _field_count(rows, offset)
        if count < 0:
            return found, 0
        if count != FIELD_COUNT:
            raise ValueError(f"a copied row has {count} fields, not {FIELD_COUNT}")
        fields, offset = _fields(rows, offset + 2)
        if fields[2] is not None:
            found.append(_row(fields))
    return found, offset


def _field_count(rows: bytes, offset: int) -> int:
    if not 0 <= offset <= len(rows) - 2:
        raise ValueError("copied rows end too early")
    return int.from_bytes(rows[offset : offset + 2], signed=True)


def _fields(rows: bytes, offset: int) -> tuple[list[bytes | None], int]:
    fields: list[bytes | None] = []
    for _ in range(FIELD_COUNT):
        size = int.from_bytes(rows[offset : offset + 4], signed=True)
        offset += 4
        if offset + max(0, size) > len(rows):
            raise ValueError("copied rows end too early")
        fields.append(None if size < 0 else rows[offset : offset + size])
        offset += max(0, size)
    return fields, offset


def _row(fields: list[bytes | None]) -> CopiedRow:
    sku, node_id, bucket, *numbers, protected = (field or b"" for field in fields[2:])
    if any(len(number) != 8 for number in numbers):
        raise ValueError("a copied number is not 8 bytes long")
    on_hand, committed, held, safety_stock, arrival_ms = (
        int.from_bytes(number, signed=True) for number in numbers
    )
    return (
        sku.decode(), node_id.decode(), bucket.decode(),
        on_hand, committed, held, safety_stock, arrival_ms, protected[1:].decode(),
    )  # fmt: skip
