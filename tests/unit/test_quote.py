"""Quote tokens: what they say, who may make them, and what passes for one."""

from __future__ import annotations

import base64
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promise_svc.application.promise import PromiseCartReply, PromiseCartRequest, PromiseOutcome
from promise_svc.application.quote import (
    QUOTE_TOKEN_BYTES_MAX,
    Mint,
    NoQuoteReason,
    Quotes,
    QuoteToken,
)
from promise_svc.application.stock import DegradedReason, Freshness
from promise_svc.domain.delivery import DeliveryPromise
from promise_svc.domain.inventory import QUANTITY_MAX
from promise_svc.domain.network import Item
from promise_svc.domain.reach import Address, Line
from promise_svc.domain.sharding import shard_of
from promise_svc.errors import QuoteTokenInvalid
from tests.support.networks import a_snapshot
from tests.support.quotes import KEY, a_quote, a_shipment, a_signer

OTHER_KEY = b"k" * 32
BASE64URL = string.ascii_letters + string.digits + "-_"
SHARDS = 64


def invalid(token: str) -> bool:
    """Whether a token is refused, and by the error that callers are promised."""
    try:
        a_signer().read(token)
    except QuoteTokenInvalid as error:
        assert error.reason == "QUOTE_TOKEN_INVALID"
        assert [violation.field for violation in error.violations] == ["quote_token"]
        return True
    return False


def test_a_token_says_what_was_signed() -> None:
    """Every field, dates and instants included, and a line that is split over two nodes."""
    quote = a_quote(
        a_shipment(("1", "A", 2), ("2", "B", QUANTITY_MAX)),
        a_shipment(("1", "A", 1), node_id="n2")._replace(ready_ms=7),
        segment="vip",
    )

    read = a_signer().read(a_signer().sign(quote))

    assert read == quote
    assert read.lines == (Line("1", "A", 3), Line("2", "B", QUANTITY_MAX))


def test_a_token_with_any_character_changed_is_refused() -> None:
    """Every place, every other character, the unused bits of the last one included."""
    token = a_signer().sign(a_quote())

    passed = [
        (index, other)
        for index, character in enumerate(token)
        for other in BASE64URL
        if other != character and not invalid(token[:index] + other + token[index + 1 :])
    ]

    assert passed == []


def test_a_token_cut_or_grown_is_refused() -> None:
    """Every length below, padding, and more behind it."""
    token = a_signer().sign(a_quote())

    assert all(invalid(token[:length]) for length in range(len(token)))
    assert all(invalid(token + more) for more in ("A", "=", "==", "AAAA", "\n", " "))


@given(st.text() | st.binary().map(lambda raw: base64.urlsafe_b64encode(raw).decode().rstrip("=")))
def test_nothing_else_passes_for_a_token(text: str) -> None:
    """Whatever is sent, the answer is a refusal by name, never a fault."""
    assert invalid(text)


def test_a_text_longer_than_any_token_is_refused_unread() -> None:
    assert invalid("A" * (QUOTE_TOKEN_BYTES_MAX + 1))


def test_a_token_of_another_cluster_is_refused_though_the_keys_are_the_same() -> None:
    assert invalid(a_signer(cluster_id="cluster-2").sign(a_quote()))


def test_a_token_signed_with_a_key_unknown_here_is_refused() -> None:
    assert invalid(a_signer(OTHER_KEY).sign(a_quote()))


def test_keys_can_be_rotated_without_refusing_a_quote() -> None:
    """New key second everywhere, then first, then the old one goes; hosts may be a step apart."""
    steps = [a_signer(KEY), a_signer(KEY, OTHER_KEY), a_signer(OTHER_KEY, KEY), a_signer(OTHER_KEY)]

    for earlier, later in zip(steps, steps[1:], strict=False):
        assert later.read(earlier.sign(a_quote())) == a_quote()
        assert earlier.read(later.sign(a_quote())) == a_quote()
    with pytest.raises(QuoteTokenInvalid):
        steps[-1].read(steps[0].sign(a_quote()))


def test_a_signer_shows_no_key() -> None:
    """Neither the key nor what is derived from it, in a log line with the signer in it."""
    assert KEY.hex() not in repr(a_signer()) and repr(KEY) not in repr(a_signer())


# -- tokens for an answer ---------------------------------------------------------------------


def a_reply(*options: DeliveryPromise) -> PromiseCartReply:
    return PromiseCartReply(
        outcome=PromiseOutcome.COMPLETE,
        options=options,
        unfulfilled_lines=(),
        network_version=3,
        currency_code="USD",
        freshness=Freshness(0, 0, False, DegradedReason.NONE),
        order_ms=1,
    )


def an_option(line_count: int, id_length: int = 3) -> DeliveryPromise:
    lines = [(f"{n:0{id_length}}", f"{n:0{id_length}}", 1) for n in range(line_count)]
    shipments = (a_shipment(*lines),)
    return DeliveryPromise(shipments=shipments, exact=True, shipment_count_bound=1)


REQUEST = PromiseCartRequest(
    lines=(Line("0", "0", 1),), address=Address(country="US", postal_code="60601")
)


def tokens(request: PromiseCartRequest, *options: DeliveryPromise) -> tuple[QuoteToken, ...]:
    """For a request of the lines that the options have."""
    snapshot = a_snapshot(Item(sku="000", shard_key="style"))
    parts = [line for option in options for line in option.shipments[0].lines]
    asked = dict.fromkeys(Line(part.line_id, part.sku, part.quantity) for part in parts)
    request = request._replace(lines=tuple(asked))
    return Quotes(a_signer(), lambda: snapshot, SHARDS).tokens(request, a_reply(*options))


def test_each_option_gets_a_token_of_its_own_plan() -> None:
    first, second = tokens(REQUEST, an_option(1), an_option(2))

    assert a_signer().read(first.text).plan.shipments == an_option(1).shipments
    assert a_signer().read(second.text).plan.shipments == an_option(2).shipments
    assert first.reservation_id != second.reservation_id
    assert a_signer().read(first.text).reservation_id == first.reservation_id


def test_the_reservation_will_be_at_home_where_a_leg_is() -> None:
    """By the item's shard key: the claim then costs no step of its own."""
    homes = {
        shard_of(token.reservation_id, SHARDS) for token in tokens(REQUEST, *[an_option(1)] * 20)
    }

    assert homes == {shard_of("style", SHARDS)}


@pytest.mark.parametrize("shard_count", [1, 64, 4096])
def test_minted_ids_are_ids_and_never_the_same(shard_count: int) -> None:
    """Nor is one of those kept back given twice."""
    mint = Mint(shard_count)
    minted = [mint.new_id({n % shard_count, n * 7 % shard_count}) for n in range(500)]

    assert len(set(minted)) == 500
    assert all(len(id_) <= 64 and set(id_) <= set(BASE64URL) for id_ in minted)


def test_a_plan_too_large_for_a_token_gets_none_and_says_so() -> None:
    """Bounded by bytes: 80 lines fit with the longest ids."""
    fits, large = tokens(REQUEST, an_option(80, 64), an_option(1000, 64))

    assert 0 < len(fits.text) <= QUOTE_TOKEN_BYTES_MAX
    assert large == QuoteToken(absent=NoQuoteReason.TOO_LARGE)


def test_the_largest_token_is_read() -> None:
    """The bound of writing is the bound of reading, to the byte."""
    sizes = []
    for count in range(80, 100):
        (token,) = tokens(REQUEST, an_option(count, 64))
        if token.text:
            sizes.append(len(token.text))
            assert len(a_signer().read(token.text).lines) == count

    assert QUOTE_TOKEN_BYTES_MAX - 300 < max(sizes) <= QUOTE_TOKEN_BYTES_MAX


def test_an_answer_for_another_moment_gets_no_token() -> None:
    (token,) = tokens(REQUEST._replace(order_ms=1), an_option(1))

    assert token == QuoteToken(absent=NoQuoteReason.ORDER_TIME_GIVEN)
