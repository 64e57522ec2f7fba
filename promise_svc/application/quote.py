"""Quote tokens: a promised plan, signed, so that a later call can hold exactly that plan.

Base64url without padding of: layout (1 byte), key id (4), the quote (msgpack), HMAC-SHA-256 (32).
Nobody but holders of a key can make one, so what is read is what was promised. Keys are derived for
the cluster: a token of another cluster is signed with a key that is unknown here.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import itertools
import secrets
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

import msgspec

from promise_svc.application.promise import PromiseCartReply, PromiseCartRequest
from promise_svc.domain.bundle import BundleLine, requested_line_id
from promise_svc.domain.delivery import DeliveryPromise, Shipment
from promise_svc.domain.network import FulfillmentMethod, NetworkSnapshot, normalized_postal_code
from promise_svc.domain.reach import Address, Line
from promise_svc.errors import QuoteTokenInvalid
from promise_svc.hotpath import shard_of

QUOTE_TOKEN_BYTES_MAX = 16_384
"""Longest token, in base64url: 80 lines with the longest ids, some 700 with short ones. Callers
keep tokens in sessions and send them back; what is larger is reserved in one step."""

_LAYOUT = b"\x01"
_KEY_ID_BYTES = 4
_TAG_BYTES = 32
_SHORTEST = len(_LAYOUT) + _KEY_ID_BYTES + _TAG_BYTES
_MINT_TRIES_MAX = 1024
"""Of finding an id whose home is a leg's shard; one that is not costs a step more, nothing else."""

_SPARE_IDS_MAX = 8
"""Kept a shard: ids made while looking for one of another shard."""


class NoQuoteReason(IntEnum):
    """Why a plan has no token; numbers are the contract's."""

    ORDER_TIME_GIVEN = 10
    TOO_LARGE = 20
    HELD = 30


class PromisedPlan(NamedTuple):
    """Shipments as they were promised, and the currency of their costs."""

    currency_code: str
    shipments: tuple[Shipment, ...]


class Quote(msgspec.Struct, frozen=True, array_like=True):
    """What a token says. Field order is the token's layout: a new field comes last, with a
    default. Of the destination it keeps what the dates depend on."""

    reservation_id: str
    network_version: int
    country: str
    """Empty for a pickup."""
    postal_code: str
    pickup_node_id: str
    segment: str
    plan: PromisedPlan
    bundles: tuple[BundleLine, ...] = ()
    """What was asked for as a bundle; the plan has its components."""
    places: tuple[int, ...] = ()
    """Of each line of the plan, its place in the request; empty where they stand as asked for."""

    @property
    def fulfillment_method(self) -> FulfillmentMethod:
        """Of every shipment: a destination is served by one method."""
        return self.plan.shipments[0].fulfillment_method

    @property
    def address(self) -> Address | None:
        """The destination as far as it is known; None for a pickup."""
        if self.pickup_node_id:
            return None
        return Address(country=self.country, postal_code=self.postal_code)

    @property
    def lines(self) -> tuple[Line, ...]:
        """The lines of the plan, in request order."""
        units: dict[tuple[str, str], int] = {}
        for shipment in self.plan.shipments:
            for line_id, sku, quantity, _ in shipment.lines:
                units[line_id, sku] = units.get((line_id, sku), 0) + quantity
        lines = [Line(*line, quantity) for line, quantity in units.items()]
        if len(self.places) == len(lines):
            lines = [line for _, line in sorted(zip(self.places, lines, strict=True))]
        return tuple(lines)

    @property
    def requested_lines(self) -> tuple[Line, ...]:
        """The lines as they were asked for: bundles, not their components."""
        if not self.bundles:
            return self.lines
        units = {line.line_id: line.quantity for line in self.lines}
        whole = {bundle.line_id: bundle for bundle in self.bundles}
        asked: dict[str, Line] = {}
        for line in self.lines:
            line_id = requested_line_id(line.line_id)
            bundle = whole.get(line_id)
            asked[line_id] = (
                line if bundle is None else Line(line_id, bundle.sku, bundle.quantity(units))
            )
        return tuple(asked.values())

    def fits(self, address: Address) -> bool:
        """Whether ``address`` is the one it was made for, as far as dates depend on it."""
        ours, theirs = map(normalized_postal_code, (self.postal_code, address.postal_code))
        return not self.pickup_node_id and (self.country, ours) == (address.country, theirs)


class QuoteToken(NamedTuple):
    """A plan's token, or why there is none."""

    text: str = ""
    reservation_id: str = ""
    absent: NoQuoteReason | None = None


class QuoteSigner:
    """Signs quotes with the first of its keys, reads those signed with any. Shows no key."""

    def __init__(self, keys: Sequence[bytes], cluster_id: str) -> None:
        assert keys, "one key signs; more may be read: the one before, or the one to come"
        context = b"promise-svc quote token " + cluster_id.encode()
        derived = [hmac.digest(key, context, "sha256") for key in keys]
        self._by_id = {_key_id(key): key for key in reversed(derived)}
        self._current = derived[0]
        self._head = _LAYOUT + _key_id(self._current)
        block = self._current.ljust(hashlib.sha256().block_size, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in block))
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(Quote)

    def sign(self, quote: Quote) -> str:
        """The token; empty where it would be longer than QUOTE_TOKEN_BYTES_MAX."""
        signed = self._head + self._encoder.encode(quote)
        token = base64.urlsafe_b64encode(signed + self._tag(signed)).rstrip(b"=").decode()
        return token if len(token) <= QUOTE_TOKEN_BYTES_MAX else ""

    def _tag(self, signed: bytes) -> bytes:
        """HMAC-SHA-256 under the first key, from where its blocks leave off: ``hmac.digest`` takes
        as long to begin as to hash a plan."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(signed)
        outer.update(inner.digest())
        return outer.digest()

    def read(self, token: str) -> Quote:
        """What a token of ours says; QuoteTokenInvalid for everything else."""
        raw = _decoded(token)
        signed, tag = raw[:-_TAG_BYTES], raw[-_TAG_BYTES:]
        if signed[:1] != _LAYOUT:
            raise QuoteTokenInvalid("is no quote token of this version")
        key = self._by_id.get(signed[1 : 1 + _KEY_ID_BYTES])
        if key is None:
            raise QuoteTokenInvalid("is signed with a key that is not, or no longer, known here")
        if not hmac.compare_digest(hmac.digest(key, signed, "sha256"), tag):
            raise QuoteTokenInvalid("was changed on its way")
        try:
            return self._decoder.decode(signed[1 + _KEY_ID_BYTES :])
        except msgspec.MsgspecError as error:
            raise QuoteTokenInvalid("is no quote token of this version") from error


class Quotes:
    """Tokens for the answers of PromiseCart, and what tokens say."""

    def __init__(
        self, signer: QuoteSigner, network: Callable[[], NetworkSnapshot], shard_count: int
    ) -> None:
        self._signer = signer
        self._network = network
        self._shard_count = shard_count
        self._mint = Mint(shard_count)
        self.read = signer.read

    def tokens(
        self, request: PromiseCartRequest, reply: PromiseCartReply
    ) -> tuple[QuoteToken, ...]:
        """One for each option. Cost: some 7 us an option."""
        if request.order_ms is not None:
            return (QuoteToken(absent=NoQuoteReason.ORDER_TIME_GIVEN),) * len(reply.options)
        asked = {line.line_id: index for index, line in enumerate(request.lines)}
        shards: dict[str, int] = {}
        return tuple(
            [self._token(request, reply, option, asked, shards) for option in reply.options]
        )

    def _token(
        self,
        request: PromiseCartRequest,
        reply: PromiseCartReply,
        option: DeliveryPromise,
        asked: Mapping[str, int],
        shards: dict[str, int],
    ) -> QuoteToken:
        """``asked`` has the place of each line in the request, ``shards`` those known of SKUs."""
        line_ids: dict[str, None] = {}  # in the plan's order
        homes: dict[int, None] = {}
        for shipment in option.shipments:
            for line_id, sku, _, _ in shipment.lines:
                line_ids[line_id] = None
                shard = shards.get(sku)
                if shard is None:
                    key = self._network().shard_key(sku)
                    shard = shards[sku] = shard_of(key, self._shard_count)
                homes[shard] = None
        bundles = reply.bundles
        if bundles:
            whole = set(map(requested_line_id, line_ids))
            bundles = tuple(bundle for bundle in bundles if bundle.line_id in whole)
        address = request.address
        quote = Quote(
            reservation_id=self._mint.new_id(homes),
            network_version=reply.network_version,
            country="" if address is None else address.country,
            postal_code="" if address is None else address.postal_code,
            pickup_node_id=request.pickup_node_id,
            segment=request.segment,
            plan=PromisedPlan(reply.currency_code, option.shipments),
            bundles=bundles,
            places=_places(asked, line_ids),
        )
        token = self._signer.sign(quote)
        if not token:
            return QuoteToken(absent=NoQuoteReason.TOO_LARGE)
        return QuoteToken(token, quote.reservation_id)


class Mint:
    """New reservation ids whose home is where a leg is: their claim costs no step of its own.

    Numbers behind a random stem; each is used for the shard it falls to: one or two tries an id
    where all shards are asked for alike, ``shard_count`` of them where only one ever is.
    """

    def __init__(self, shard_count: int) -> None:
        self._shard_count = shard_count
        self._stem = secrets.token_hex(12)
        self._numbers = itertools.count()
        self._spare: dict[int, list[str]] = {}

    def new_id(self, shards: Collection[int]) -> str:
        """An id at home in one of ``shards``; anywhere once _MINT_TRIES_MAX tries are spent."""
        for shard in shards:
            if self._spare.get(shard):
                return self._spare[shard].pop()
        for number in itertools.islice(self._numbers, _MINT_TRIES_MAX):
            made = f"q-{self._stem}-{number}"
            home = shard_of(made, self._shard_count)
            if home in shards:
                return made
            spare = self._spare.setdefault(home, [])
            if len(spare) < _SPARE_IDS_MAX:
                spare.append(made)
        return f"q-{self._stem}-{next(self._numbers)}"


def _places(asked: Mapping[str, int], line_ids: Iterable[str]) -> tuple[int, ...]:
    """Places of a plan's lines in the request, a bundle's components by number; none where the
    shipments have them in that order."""
    try:
        keys: list[Any] = [asked[line_id] for line_id in line_ids]
    except KeyError:  # a component's
        keys = [(asked[requested_line_id(each)], len(each), each) for each in line_ids]
    in_order = sorted(keys)
    if keys == in_order:
        return ()
    rank = {key: index for index, key in enumerate(in_order)}
    return tuple(rank[key] for key in keys)


def _key_id(key: bytes) -> bytes:
    return hmac.digest(key, b"key id", "sha256")[:_KEY_ID_BYTES]


def _decoded(token: str) -> bytes:
    """The bytes of a token; there is one text for them, so that no other text passes for it."""
    if len(token) > QUOTE_TOKEN_BYTES_MAX:
        raise QuoteTokenInvalid(f"must be at most {QUOTE_TOKEN_BYTES_MAX} bytes")
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error) as error:
        raise QuoteTokenInvalid("is not base64url") from error
    if base64.urlsafe_b64encode(raw).rstrip(b"=").decode() != token:
        raise QuoteTokenInvalid("is not base64url")
    if len(raw) <= _SHORTEST:
        raise QuoteTokenInvalid("is too short for a quote token")
    return raw
