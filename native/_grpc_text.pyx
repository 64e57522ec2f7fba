"""gRPC's text encodings: grpc-timeout, grpc-message, binary metadata.

Specification: "gRPC over HTTP2" of the gRPC project; grpc.aio under tests/contract. No twin in
domain, which knows no wire.
Limits: none but memory; the caller bounds what a peer may send.
"""

import binascii

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t

cdef char* HEXADECIMAL = "0123456789ABCDEF"


cdef double timeout_seconds(const uint8_t* text, size_t size) noexcept nogil:
    """Seconds of 1 to 8 digits and a unit; -1 when it is anything else."""
    cdef double value = 0
    cdef size_t i
    if size < 2 or size > 9:
        return -1
    for i in range(size - 1):
        if text[i] < 48 or text[i] > 57:
            return -1
        value = value * 10 + (text[i] - 48)
    cdef uint8_t unit = text[size - 1]
    if unit == c"H":
        return value * 3600
    if unit == c"M":
        return value * 60
    if unit == c"S":
        return value
    if unit == c"m":
        return value * 1e-3
    if unit == c"u":
        return value * 1e-6
    if unit == c"n":
        return value * 1e-9
    return -1


cdef bytes percent_encoded(str text):
    """Printable ASCII but the percent sign as it is, every other byte of UTF-8 as %XX."""
    cdef bytes plain = text.encode("utf-8", "replace")
    cdef const uint8_t* source = <const uint8_t*>PyBytes_AS_STRING(plain)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(plain)
    cdef Py_ssize_t i, escaped = 0
    for i in range(size):
        escaped += source[i] < 0x20 or source[i] > 0x7E or source[i] == c"%"
    if escaped == 0:
        return plain
    cdef bytes encoded = PyBytes_FromStringAndSize(NULL, size + 2 * escaped)
    cdef char* target = PyBytes_AS_STRING(encoded)
    for i in range(size):
        if source[i] < 0x20 or source[i] > 0x7E or source[i] == c"%":
            target[0] = c"%"
            target[1] = HEXADECIMAL[source[i] >> 4]
            target[2] = HEXADECIMAL[source[i] & 15]
            target += 3
        else:
            target[0] = <char>source[i]
            target += 1
    return encoded


cdef bytes base64_encoded(bytes value):
    """Without padding, as gRPC asks of senders."""
    return binascii.b2a_base64(value, newline=False).rstrip(b"=")


cdef object metadata_value(bytes name, bytes value):
    """A peer's value as servicers see it: bytes under a ``-bin`` key, else str.

    Several binary values joined by commas stay apart only on the wire; the first is taken. None
    when it is no base64.
    """
    if not name.endswith(b"-bin"):
        try:
            return value.decode("ascii")
        except UnicodeDecodeError:
            return value.decode("utf-8", "replace")
    cdef bytes first = value.split(b",", 1)[0].strip()
    try:
        return binascii.a2b_base64(first + b"=" * (-len(first) & 3), strict_mode=True)
    except ValueError:
        return None


def parse_timeout(bytes text not None):
    cdef double seconds = timeout_seconds(
        <const uint8_t*>PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text)
    )
    return None if seconds < 0 else seconds


def encode_message(str text not None):
    return percent_encoded(text)


def encode_binary(bytes value not None):
    return base64_encoded(value)


def decode_value(bytes name not None, bytes value not None):
    return metadata_value(name, value)
