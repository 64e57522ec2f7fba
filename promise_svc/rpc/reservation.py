"""ReservationService: decode, call, encode."""

from __future__ import annotations

from promise_svc.application.admission import Priority
from promise_svc.application.ports import Clock
from promise_svc.application.quote import Quotes
from promise_svc.application.reservation import Reservations
from promise_svc.application.reservation_body import CreateCommand
from promise_svc.application.reservation_list import ReservationLister
from promise_svc.application.transition import TransitionResult
from promise_svc.domain.reservation import TransitionOutcome
from promise_svc.rpc.auth import Scope
from promise_svc.rpc.convert import plain
from promise_svc.rpc.convert.quote import (
    promise_and_reserve_from,
    promise_and_reserve_to,
    quoted_create_from,
)
from promise_svc.rpc.convert.reservation import (
    ReplyT,
    TtlLimits,
    change_from,
    create_from,
    create_to,
    extend_from,
    get_from,
    get_to,
    relined_to,
    transfer_from,
    transition_from,
    transition_to,
)
from promise_svc.rpc.convert.reservation_list import list_from, list_to
from promise_svc.rpc.guard import Call, MethodRule, Plain
from promise_svc.v1 import reservation_service_pb2 as pb


class ReservationServicer:
    """Holds stock for an owner, settles the hold once, and tells what became of the goods."""

    service = pb.DESCRIPTOR.services_by_name["ReservationService"]
    rules = {
        "CreateReservation": MethodRule(Priority.RESERVE, Scope.RESERVE, writes=True),
        "PromiseAndReserve": MethodRule(Priority.RESERVE, Scope.RESERVE, writes=True),
        "GetReservation": MethodRule(Priority.RESERVE, Scope.RESERVE),
        "ListReservations": MethodRule(Priority.RESERVE, Scope.RESERVE),
        "ConfirmReservation": MethodRule(Priority.SETTLE, Scope.RESERVE, writes=True),
        "ReleaseReservation": MethodRule(Priority.SETTLE, Scope.RESERVE, writes=True),
        "CancelReservation": MethodRule(Priority.SETTLE, Scope.RESERVE, writes=True),
        "ExtendReservation": MethodRule(Priority.SETTLE, Scope.RESERVE, writes=True),
        "FulfillReservation": MethodRule(Priority.SETTLE, Scope.RESERVE, writes=True),
        "AmendReservation": MethodRule(Priority.RESERVE, Scope.RESERVE, writes=True),
        "TransferReservation": MethodRule(Priority.RESERVE, Scope.RESERVE, writes=True),
    }

    def __init__(
        self,
        reservations: Reservations,
        quotes: Quotes,
        lister: ReservationLister,
        clock: Clock,
        ttl: TtlLimits,
    ) -> None:
        self._reservations = reservations
        self._quotes = quotes
        self._lister = lister
        self._ttl = ttl
        self._clock = clock
        self.plain = (
            {"CreateReservation": Plain(self._read_create, self._create)} if plain.PLAIN else {}
        )

    def _read_create(self, body: bytes) -> CreateCommand | None:
        return plain.read_create(body, self._clock.now_ms(), self._ttl)

    async def _create(self, command: CreateCommand, call: Call) -> bytes:
        result = await self._reservations.create(command, call.timeout)
        return plain.create_reply(result) or create_to(result).SerializeToString()

    async def CreateReservation(
        self, request: pb.CreateReservationRequest, call: Call
    ) -> pb.CreateReservationResponse:
        now_ms = self._clock.now_ms()
        if request.quote_token:
            quote = self._quotes.read(request.quote_token)
            command = quoted_create_from(request, quote, now_ms, self._ttl)
        else:
            command = create_from(request, now_ms, self._ttl)
        return create_to(await self._reservations.create(command, call.timeout))

    async def PromiseAndReserve(
        self, request: pb.PromiseAndReserveRequest, call: Call
    ) -> pb.PromiseAndReserveResponse:
        command = promise_and_reserve_from(request, self._clock.now_ms(), self._ttl)
        return promise_and_reserve_to(await self._reservations.create(command, call.timeout))

    async def GetReservation(
        self, request: pb.GetReservationRequest, call: Call
    ) -> pb.GetReservationResponse:
        return get_to(await self._reservations.get(get_from(request), call.timeout))

    async def ListReservations(
        self, request: pb.ListReservationsRequest, call: Call
    ) -> pb.ListReservationsResponse:
        query = list_from(request)
        return list_to(query, await self._lister.list(query))

    async def ConfirmReservation(
        self, request: pb.ConfirmReservationRequest, call: Call
    ) -> pb.ConfirmReservationResponse | bytes:
        result = await self._reservations.confirm(
            *transition_from(request), call.timeout, reacquire=request.reacquire
        )
        return _moved(pb.ConfirmReservationResponse, TransitionOutcome.CONFIRMED, result)

    async def ReleaseReservation(
        self, request: pb.ReleaseReservationRequest, call: Call
    ) -> pb.ReleaseReservationResponse | bytes:
        result = await self._reservations.release(*transition_from(request), call.timeout)
        return _moved(pb.ReleaseReservationResponse, TransitionOutcome.RELEASED, result)

    async def CancelReservation(
        self, request: pb.CancelReservationRequest, call: Call
    ) -> pb.CancelReservationResponse | bytes:
        result = await self._reservations.cancel(change_from(request), call.timeout)
        return _moved(pb.CancelReservationResponse, TransitionOutcome.CANCELLED, result)

    async def ExtendReservation(
        self, request: pb.ExtendReservationRequest, call: Call
    ) -> pb.ExtendReservationResponse:
        values = extend_from(request, self._ttl)
        result = await self._reservations.changes.extend(*values, call.timeout)
        return transition_to(pb.ExtendReservationResponse, TransitionOutcome.EXTENDED, result)

    async def AmendReservation(
        self, request: pb.AmendReservationRequest, call: Call
    ) -> pb.AmendReservationResponse:
        result = await self._reservations.changes.amend(change_from(request), call.timeout)
        return relined_to(pb.AmendReservationResponse, TransitionOutcome.AMENDED, result)

    async def TransferReservation(
        self, request: pb.TransferReservationRequest, call: Call
    ) -> pb.TransferReservationResponse:
        command, transfers = transfer_from(request)
        result = await self._reservations.changes.transfer(command, transfers, call.timeout)
        return relined_to(pb.TransferReservationResponse, TransitionOutcome.TRANSFERRED, result)

    async def FulfillReservation(
        self, request: pb.FulfillReservationRequest, call: Call
    ) -> pb.FulfillReservationResponse:
        result = await self._reservations.changes.fulfill(change_from(request), call.timeout)
        return transition_to(pb.FulfillReservationResponse, TransitionOutcome.FULFILLED, result)


def _moved(
    reply: type[ReplyT], wanted: TransitionOutcome, result: TransitionResult
) -> ReplyT | bytes:
    """``transition_to``, at a tenth of its cost where the reservation is plain."""
    plainly = plain.transition_reply(wanted, result) if plain.PLAIN else None
    return plainly or transition_to(reply, wanted, result)
