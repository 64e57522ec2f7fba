"""PromiseService: decode, call, encode."""

from __future__ import annotations

from promise_svc.application.admission import Priority
from promise_svc.application.ports import Clock
from promise_svc.application.promise import CartPromiser, PromiseCartRequest
from promise_svc.application.quote import Quotes
from promise_svc.rpc.auth import Scope
from promise_svc.rpc.convert import plain
from promise_svc.rpc.convert.promise import cart_from, cart_to
from promise_svc.rpc.guard import Call, MethodRule, Plain
from promise_svc.v1 import promise_service_pb2 as pb


class PromiseServicer:
    """Answers by when a cart can be with the shopper."""

    service = pb.DESCRIPTOR.services_by_name["PromiseService"]
    rules = {"PromiseCart": MethodRule(Priority.PROMISE, Scope.READ)}

    def __init__(self, promiser: CartPromiser, quotes: Quotes, clock: Clock) -> None:
        self._promiser = promiser
        self._quotes = quotes
        self._clock = clock
        self.plain = {"PromiseCart": Plain(self._read, self._promise)} if plain.PLAIN else {}

    def _read(self, body: bytes) -> PromiseCartRequest | None:
        return plain.read_cart(body, self._clock.now_ms())

    async def _promise(self, wanted: PromiseCartRequest, call: Call) -> bytes:
        reply = await self._promiser.promise_cart(wanted, timeout=call.timeout)
        tokens = self._quotes.tokens(wanted, reply)
        return plain.cart_reply(reply, tokens) or cart_to(reply, tokens).SerializeToString()

    async def PromiseCart(
        self, request: pb.PromiseCartRequest, call: Call
    ) -> pb.PromiseCartResponse:
        wanted = cart_from(request, self._clock.now_ms())
        reply = await self._promiser.promise_cart(wanted, timeout=call.timeout)
        return cart_to(reply, self._quotes.tokens(wanted, reply))
