"""ListReservations."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

from promise_svc.application.reservation_list import PAGE_DEFAULT, PAGE_MAX, ListQuery, ListReply
from promise_svc.domain.reservation import State
from promise_svc.rpc.convert.fields import Fields
from promise_svc.rpc.convert.reservation import (
    ORDER_REFERENCE_BYTES_MAX,
    STATE_NUMBERS,
    reservation_to,
)
from promise_svc.rpc.convert.types import freshness_to
from promise_svc.v1 import reservation_service_pb2 as pb

_STATES = {number: state for state, number in STATE_NUMBERS.items()}


def list_from(request: pb.ListReservationsRequest) -> ListQuery:
    """Whose, which states, which page. A page token names the list it belongs to, and the last id
    of the page before."""
    fields = Fields()
    if not request.owner_id and not request.order_reference:
        fields.complain("owner_id", "REQUIRED", "owner_id or order_reference must be set")
    fields.id("owner_id", request.owner_id, optional=True)
    fields.text("order_reference", request.order_reference, ORDER_REFERENCE_BYTES_MAX)
    states: set[State] = set()
    for index in range(fields.count("states", len(request.states), 0, len(_STATES))):
        path = f"states[{index}]"
        fields.unique(path, fields.enum(path, request.states[index], _STATES), states)
    page_size = fields.number("page_size", request.page_size, 1, PAGE_MAX, default=PAGE_DEFAULT)
    query = ListQuery(
        owner_id=request.owner_id,
        order_reference=request.order_reference,
        states=frozenset(states),
        page_size=page_size,
    )
    if request.page_token:
        name, _, after = request.page_token.partition("/")
        if name != _name(query):
            text = "is of another list: owner, order reference and states must be as they were"
            fields.complain("page_token", "DOES_NOT_FIT", text)
        query = replace(query, after=fields.id("page_token", after))
    fields.done()
    return query


def _name(query: ListQuery) -> str:
    """Eight letters for a list; pages of any size are of the same one."""
    parts = query.owner_id, query.order_reference, sorted(map(int, query.states))
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=4).hexdigest()


def list_to(query: ListQuery, reply: ListReply) -> pb.ListReservationsResponse:
    return pb.ListReservationsResponse(
        reservations=[reservation_to(reservation) for reservation in reply.reservations],
        next_page_token=f"{_name(query)}/{reply.after}" if reply.after else "",
        freshness=freshness_to(reply.freshness),
    )
