"""The corpus of the wire's oddities: one good message, written in every way that a writer may, must
not, or never would."""

from __future__ import annotations

from collections.abc import Iterator

_SIZES = {1: 8, 5: 4}


def odd_encodings(message: bytes, depth: int = 2) -> Iterator[bytes]:
    """Field by field, also of messages within: doubled, moved, left out, cut, of another type, with
    longer numbers than needed, with groups, with numbers no field may have."""
    fields = list(_fields(message))
    yield b"".join(reversed(fields))
    for place, field in enumerate(fields):
        before, after = b"".join(fields[:place]), b"".join(fields[place + 1 :])
        for odd in (*_odd(field), *_odd_inside(field, depth)):
            yield before + odd + after
        yield before + after + field
        yield before + field[:-1]


def varint(value: int, spare: int = 0) -> bytes:
    """As short as it can be, or with ``spare`` bytes that add nothing."""
    if value < 128 and not spare:
        return bytes([value])
    return bytes([value & 127 | 128]) + varint(value >> 7, spare if value >= 128 else spare - 1)


def _odd(field: bytes) -> Iterator[bytes]:
    tag, at = _number(field, 0)
    rest = field[at:]
    yield b""
    yield field + field
    for spare in (1, 3, 4, 5, 9):
        yield varint(tag, spare) + rest
        if tag & 7 in (0, 2):
            number, end = _number(rest, 0)
            yield varint(tag) + varint(number, spare) + rest[end:]
    for wire_type in {0, 1, 2, 3, 4, 5, 6, 7} - {tag & 7}:
        yield varint(tag & ~7 | wire_type) + rest
    if tag & 7 == 0:
        for value in (0, 2**31, 2**32, 2**35 - 1, 2**35, 2**63, 2**64 - 1):
            yield varint(tag) + varint(value)
    if tag & 7 == 2:
        for text in (b"", b"\xff", b"\xc3\xa9", b"\xed\xa0\x80", b"\0", rest[1:] + b" "):
            yield varint(tag) + varint(len(text)) + text
        yield varint(tag) + varint(2**31 - 1) + rest
        yield varint(tag) + varint(2**34) + rest
    group = varint(tag & ~7 | 3) + varint(tag & ~7 | 4)
    yield from (group, group + field, field + group[: len(group) // 2])
    for strange in (0, 1, 2, 99 << 3, 2**32 - 8, 2**32, 2**34 | tag):
        yield field + varint(strange) + rest


def _odd_inside(field: bytes, depth: int) -> Iterator[bytes]:
    tag, at = _number(field, 0)
    if tag & 7 != 2 or not depth:
        return
    size, at = _number(field, at)
    inner = field[at : at + size]
    try:
        list(_fields(inner))
    except (IndexError, KeyError):
        return  # a text
    for odd in odd_encodings(inner, depth - 1):
        yield varint(tag) + varint(len(odd)) + odd


def _fields(message: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(message):
        began = at
        tag, at = _number(message, at)
        if tag & 7 == 0:
            at = _number(message, at)[1]
        elif tag & 7 == 2:
            size, at = _number(message, at)
            at += size
        else:
            at += _SIZES[tag & 7]
        if at > len(message) or not tag >> 3:
            raise IndexError
        yield message[began:at]


def _number(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 127) << shift
        shift += 7
        at += 1
        if data[at - 1] < 128:
            return value, at
