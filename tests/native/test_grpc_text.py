"""gRPC's text encodings, against the words of its specification and against grpc itself."""

from __future__ import annotations

import base64
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from native import _grpc_text


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (b"1H", 3600),
        (b"1M", 60),
        (b"1S", 1),
        (b"1m", 0.001),
        (b"1u", 0.000_001),
        (b"1n", 0.000_000_001),
        (b"0S", 0),
        (b"99999999H", 99_999_999 * 3600),
    ],
)
def test_a_timeout_is_digits_and_a_unit(text: bytes, seconds: float) -> None:
    """Up to eight digits."""
    parsed = _grpc_text.parse_timeout(text)

    assert parsed == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", [b"", b"S", b"1", b"1s", b"-1S", b"1.5S", b" 1S", b"1S ", b"100000000S", b"\xff1S"]
)
def test_anything_else_is_no_timeout(text: bytes) -> None:
    """Nine digits, other units, signs, spaces."""
    assert _grpc_text.parse_timeout(text) is None


@given(st.text())
def test_a_message_comes_back_from_its_percent_encoding(text: str) -> None:
    """Any text but lone surrogates, which become question marks; only printable ASCII travels."""
    encoded = _grpc_text.encode_message(text)

    assert all(0x20 <= byte <= 0x7E for byte in encoded)
    assert unquote(encoded.decode(), errors="strict") == text.encode("utf-8", "replace").decode()


def test_printable_ascii_travels_as_it_is() -> None:
    """All of it but the percent sign."""
    printable = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")

    assert _grpc_text.encode_message(printable) == printable.encode()


@given(st.binary())
def test_a_binary_value_is_read_with_and_without_padding(value: bytes) -> None:
    """Sent without, as gRPC asks."""
    encoded = _grpc_text.encode_binary(value)

    assert b"=" not in encoded
    assert _grpc_text.decode_value(b"x-bin", encoded) == value
    assert _grpc_text.decode_value(b"x-bin", base64.b64encode(value)) == value


@pytest.mark.parametrize("value", [b"!", b"a", b"a b", b"YQ==x", b"\xff\xff"])
def test_a_binary_value_that_is_no_base64_is_none(value: bytes) -> None:
    """The entry is dropped; the call goes on."""
    assert _grpc_text.decode_value(b"x-bin", value) is None


@given(st.binary())
def test_a_text_value_is_always_text(value: bytes) -> None:
    """Bytes that are no UTF-8 are replaced."""
    assert isinstance(_grpc_text.decode_value(b"x", value), str)
