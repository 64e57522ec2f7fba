"""What a claim keeps of a reservation beyond what the shards decide on, and its hashes.

JSON, because the order store reads two of its keys in SQL: ``owner_id`` and ``order_reference``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import NamedTuple

import msgspec

from promise_svc.application.promise import PlannedUnits
from promise_svc.application.quote import PromisedPlan, Quote
from promise_svc.domain.bundle import BundleLine
from promise_svc.domain.capacity import CapacityUse, day_of, used_line
from promise_svc.domain.network import FulfillmentMethod
from promise_svc.domain.reach import Address
from promise_svc.domain.reservation import (
    OPEN,
    TTL_MS_DEFAULT,
    ClaimRecord,
    DurabilityMode,
    HoldPolicy,
    LegLine,
    State,
)


class ReservationLine(NamedTuple):
    """One line and where its units are held. ``shard`` is where the SKU lives."""

    line_id: str
    sku: str
    quantity: int
    shard: int
    planned_units: tuple[PlannedUnits, ...]


class WorkDay(NamedTuple):
    """A day on which a node works a reservation."""

    node_id: str
    date: date
    counts: bool
    """Whether it takes of the node's capacity now."""


class UnheldLine(NamedTuple):
    """Units of a line that were asked for and not held, and why not."""

    line_id: str
    line_index: int
    """Place of the line in the request, from 0."""
    quantity: int
    outcome: int
    ats: int
    """-1 where it was not looked at."""
    node_id: str


class Change(NamedTuple):
    """A change that was made under a caller's key, kept so that the key makes it once."""

    idempotency_key: str
    body_hash: str


class RequestedLine(NamedTuple):
    """Units asked for; the service sources the line where ``node_id`` is empty."""

    line_id: str
    sku: str
    quantity: int
    node_id: str = ""


class PromiseTerms(NamedTuple):
    """What a promise made with the hold is bound to."""

    carrier_services: frozenset[str]
    """Empty for all."""
    max_shipments: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateCommand:
    """A reservation asked for. ``reservation_id`` is its idempotency key."""

    reservation_id: str
    owner_id: str
    lines: tuple[RequestedLine, ...]
    fulfillment_method: FulfillmentMethod
    address: Address | None = None
    pickup_node_id: str = ""
    segment: str = ""
    ttl_ms: int = TTL_MS_DEFAULT
    create_ms: int = 0
    """When the caller minted the id, ms since 1970; 0 when it does not say."""
    order_reference: str = ""
    durability: DurabilityMode | None = None
    """None for the server's default."""
    policy: HoldPolicy = HoldPolicy.ALL_OR_NOTHING
    unheld: tuple[UnheldLine, ...] = ()
    """What was given up of the request so far, under its policy."""
    quote: Quote | None = None
    """Hold its plan and no other; lines, method, destination and segment are the quote's."""
    terms: PromiseTerms | None = None
    """Promise dates, and keep them with the hold. No line names its node then."""
    replaces: str = ""
    """The owner's older hold, whose place this one takes: one of the two stands."""
    allow_backorder: bool = False
    """Where stock here now does not do, hold supply on its way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """The resource as callers see it. ``state`` is none of PENDING, PINNED, ABORTED."""

    reservation_id: str
    owner_id: str
    state: State
    revision: int
    create_ms: int
    expire_ms: int
    lines: tuple[ReservationLine, ...]
    fulfillment_method: FulfillmentMethod
    segment: str = ""
    order_reference: str = ""
    promised: PromisedPlan | None = None
    """What was promised when it was held, if anything was."""
    unheld: tuple[UnheldLine, ...] = ()
    """What was asked for and not held, under the request's policy."""
    bundles: tuple[BundleLine, ...] = ()
    """What was asked for as a bundle; ``lines`` has its components."""
    replaces: str = ""
    """The hold whose place it took."""
    replaced_by: str = ""
    """The hold that took its place, when SUPERSEDED."""
    work_days: tuple[WorkDay, ...] = ()
    """Whose capacity it takes."""


class Body(msgspec.Struct, frozen=True, omit_defaults=True):
    """The JSON in a claim."""

    owner_id: str
    order_reference: str
    fulfillment_method: FulfillmentMethod
    segment: str
    network_version: int
    """Of the plan: legs that are sent again are held to it."""
    lines: tuple[ReservationLine, ...]
    changes: tuple[Change, ...] = ()
    """Latest last."""
    promised: PromisedPlan | None = None
    unheld: tuple[UnheldLine, ...] = ()
    bundles: tuple[BundleLine, ...] = ()
    growing: bool = False
    """While legs are being asked for more than the lines say. Whoever finds it on a claim that is
    overdue sets the legs back."""
    replaces: str = ""
    capacity: tuple[CapacityUse, ...] = ()
    """What the lines take of nodes' working days."""

    def legs(self) -> dict[int, tuple[LegLine, ...]]:
        """Shard -> what is put aside and counted there, each position once."""
        return legs_of(self.lines, self.capacity)


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Body)


def encode_body(body: Body) -> str:
    return _encoder.encode(body).decode()


def decode_body(claim: ClaimRecord) -> Body:
    return _decoder.decode(claim.body)


def body_hash(command: CreateCommand) -> str:
    """128 bits over everything that makes it the same request; when and how surely it is asked
    for do not."""
    address = command.address
    place = (
        ()
        if address is None
        else (
            address.country,
            address.postal_code,
            address.region,
            address.latitude,
            address.longitude,
        )
    )
    if command.quote is not None:
        quote = msgspec.structs.astuple(command.quote)
        while quote[-1] == ():  # fields that came later, left at their default
            quote = quote[:-1]
        quoted = (command.reservation_id, command.owner_id, quote)
        return _hash((*quoted, command.ttl_ms, command.order_reference, *_replacing(command)))
    covered: tuple[object, ...] = (
        command.reservation_id,
        command.owner_id,
        command.lines,
        command.fulfillment_method,
        place,
        command.pickup_node_id,
        command.segment,
        command.ttl_ms,
        command.order_reference,
    )
    if command.policy is not HoldPolicy.ALL_OR_NOTHING:
        covered = (*covered, command.policy)
    if command.terms is not None:
        services, max_shipments = command.terms
        covered = (*covered, sorted(services), max_shipments)
    return _hash((*covered, *_replacing(command)))


def _replacing(command: CreateCommand) -> tuple[object, ...]:
    later: tuple[object, ...] = ({"backorder": True},) if command.allow_backorder else ()
    return ({"replaces": command.replaces}, *later) if command.replaces else later


def _hash(covered: tuple[object, ...]) -> str:
    return hashlib.blake2b(_encoder.encode(covered), digest_size=16).hexdigest()


def plan_hash(
    attempt: int, lines: Sequence[ReservationLine], capacity: Sequence[CapacityUse]
) -> str:
    """64 bits over one attempt's plan; legs refuse another."""
    plan = (attempt, lines, capacity) if capacity else (attempt, lines)
    return hashlib.blake2b(_encoder.encode(plan), digest_size=8).hexdigest()


def legs_of(
    lines: Sequence[ReservationLine], capacity: Sequence[CapacityUse]
) -> dict[int, tuple[LegLine, ...]]:
    """Shard -> what is put aside there, each position once: repeated lines are summed."""
    units: dict[int, dict[tuple[str, str, str], LegLine]] = {}
    for _, sku, _, shard, planned_units in lines:
        places = units.setdefault(shard, {})
        for planned in planned_units:
            place = (sku, planned.node_id, planned.bucket)
            open_quantity, fulfilled = planned.open_quantity, planned.fulfilled
            if place in places:
                leg = places[place]
                open_quantity, fulfilled = leg.quantity + open_quantity, leg.fulfilled + fulfilled
            places[place] = LegLine(*place, open_quantity, fulfilled)
    if capacity:
        worked: dict[tuple[str, str], list[PlannedUnits]] = {}
        for part in (part for line in lines for part in line.planned_units):
            worked.setdefault((part.node_id, part.bucket), []).append(part)
        for use in capacity:
            parts = (part for b in use.buckets for part in worked.get((use.node_id, b), ()))
            counted = used_line(use, ((part.open_quantity, part.fulfilled) for part in parts))
            units.setdefault(use.shard, {})[counted[:3]] = counted
    return {
        shard: tuple(places[place] for place in sorted(places))
        for shard, places in sorted(units.items())
    }


_SEEN_AS: Mapping[State, State] = {State.PENDING: State.HELD, State.PINNED: State.HELD}


def reservation_of(
    reservation_id: str, claim: ClaimRecord, body: Body | None = None
) -> Reservation:
    """The resource of a claim, whose ``body`` the caller may have. One that is being completed or
    confirmed still reads HELD."""
    body = body or decode_body(claim)
    state = State(claim.state)
    return Reservation(
        reservation_id=reservation_id,
        owner_id=body.owner_id,
        state=_SEEN_AS.get(state, state),
        revision=claim.revision,
        create_ms=claim.create_ms,
        expire_ms=claim.expire_ms,
        lines=body.lines,
        fulfillment_method=body.fulfillment_method,
        segment=body.segment,
        order_reference=body.order_reference,
        promised=body.promised,
        unheld=body.unheld,
        bundles=body.bundles,
        replaces=body.replaces,
        replaced_by=claim.successor if state is State.SUPERSEDED else "",
        work_days=_work_days(body, state),
    )


def _work_days(body: Body, state: State) -> tuple[WorkDay, ...]:
    if not body.capacity:
        return ()
    stands = state in OPEN or state is State.CONFIRMED
    lines = {line[:2]: line for lines in body.legs().values() for line in lines}
    found = []
    for use in body.capacity:
        line = lines[use.account, use.node_id]
        counts = bool(line.fulfilled) or (stands and bool(line.quantity))
        found.append(WorkDay(use.node_id, day_of(use.account), counts))
    return tuple(sorted(found))
