"""Random protobuf messages with a liking for edges: every field may hold anything it can."""

from __future__ import annotations

import random
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

_TEXTS = (
    "", "a", "A-1", "x" * 64, "x" * 65, "x" * 5000, " ", "a b", "\0", "é", "\u202e", "-a", "a\n",
    "US", "us", "USD", "60601", "America/Chicago", "../../etc/passwd", "/", "😀" * 17,
)  # fmt: skip
_WHOLE = (0, 1, -1, 2, 7, 23, 24, 59, 60, 61, 200, 1000, 10**6, 10**9 - 1, 10**12)
_REAL = (0.0, -0.0, 90.0, 90.1, -180.0, 181.0, float("nan"), float("inf"), float("-inf"), 1e308)
_BITS = {
    FieldDescriptor.CPPTYPE_INT32: 32,
    FieldDescriptor.CPPTYPE_INT64: 64,
    FieldDescriptor.CPPTYPE_ENUM: 32,
}


def random_message(kind: type[Message], rng: random.Random, depth: int = 0) -> Any:
    """A message of ``kind``; nested messages end at some depth."""
    message = kind()
    for field in kind.DESCRIPTOR.fields:
        if rng.random() < 0.25 or (field.message_type and depth > 4):
            continue
        if field.is_repeated:
            for _ in range(rng.choice((0, 1, 1, 2, 3))):
                _add(getattr(message, field.name), field, rng, depth)
        elif field.message_type:
            nested = random_message(field.message_type._concrete_class, rng, depth + 1)
            getattr(message, field.name).CopyFrom(nested)
        else:
            setattr(message, field.name, _scalar(field, rng))
    return message


def _add(values: Any, field: FieldDescriptor, rng: random.Random, depth: int) -> None:
    if field.message_type:
        values.append(random_message(field.message_type._concrete_class, rng, depth + 1))
    else:
        values.append(_scalar(field, rng))


def _scalar(field: FieldDescriptor, rng: random.Random) -> Any:
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return rng.choice(_TEXTS)
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return rng.random() < 0.5
    if field.cpp_type == FieldDescriptor.CPPTYPE_DOUBLE:
        return rng.choice((*_REAL, rng.uniform(-200, 200)))
    bits = _BITS[field.cpp_type]
    edge = rng.choice((-(2 ** (bits - 1)), 2 ** (bits - 1) - 1, 2**31 - 1, rng.getrandbits(20)))
    whole = rng.choice((*_WHOLE, edge))
    return whole if -(2 ** (bits - 1)) <= whole < 2 ** (bits - 1) else 1
