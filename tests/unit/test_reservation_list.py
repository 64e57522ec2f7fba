"""Listing reservations: pages, states as a shard would tell them, and the lag."""

from __future__ import annotations

import pytest

from promise_svc.application.reservation_body import Body, encode_body
from promise_svc.application.reservation_list import ListQuery, ListReply, ReservationLister
from promise_svc.domain.network import FulfillmentMethod
from promise_svc.domain.reservation import State
from promise_svc.domain.sharding import START
from promise_svc.errors import InvalidRequest
from promise_svc.rpc.convert.reservation_list import list_from, list_to
from promise_svc.v1 import reservation_service_pb2 as pb
from tests.support.fake_ats_reader import FakeClock
from tests.support.fake_order_store import FakeOrderStore
from tests.support.stored_events import History

EXPIRES_MS = 20
BODY = encode_body(Body("owner", "order", FulfillmentMethod.SHIP_TO_ADDRESS, "", 1, ()))


async def listed(
    *states: State, now_ms: int = 10, lag_seconds: float = 0.0, **query: object
) -> ListReply:
    """Of reservations r0, r1, ... in these states, which expire at 20 ms."""
    store, history = FakeOrderStore(), History(0)
    events = [history.start_epoch()]
    for number, state in enumerate(states):
        moved = history.move(f"r{number}", state)
        claim = moved.event.claim._replace(body=BODY)
        events.append(moved._replace(event=moved.event._replace(claim=claim)))
    await store.append(0, START, events)
    lister = ReservationLister(
        store=store, clock=FakeClock(now_ms), lag_seconds=lambda: lag_seconds
    )
    return await lister.list(ListQuery(owner_id="owner", **query))  # type: ignore[arg-type]


def states_of(reply: ListReply) -> dict[str, State]:
    return {r.reservation_id: r.state for r in reply.reservations}


async def test_a_hold_past_its_time_is_expired_swept_or_not() -> None:
    """But never an order. Aborted attempts are nobody's."""
    states = (State.HELD, State.PENDING, State.CONFIRMED, State.ABORTED)

    before = await listed(*states, now_ms=EXPIRES_MS - 1)
    after = await listed(*states, now_ms=EXPIRES_MS)

    held, confirmed, expired = State.HELD, State.CONFIRMED, State.EXPIRED
    assert states_of(before) == {"r0": held, "r1": held, "r2": confirmed}
    assert states_of(after) == {"r0": expired, "r1": expired, "r2": confirmed}


@pytest.mark.parametrize(
    ("leg", "shown"),
    [(State.HELD, State.HELD), (State.CONFIRMED, State.CONFIRMED), (None, State.HELD),
     (State.FULFILLED, State.CONFIRMED)],
)  # fmt: skip
async def test_a_pinned_claim_is_an_order_once_its_legs_are(
    leg: State | None, shown: State
) -> None:
    """Its confirm may have been told by then, and home not have decided; it no longer expires."""
    store, home, other = FakeOrderStore(), History(0), History(1)
    events = [home.start_epoch(), home.move("r", State.PINNED)]
    claim = events[1].event.claim._replace(legs=(0, 1), body=BODY)
    events[1] = events[1]._replace(event=events[1].event._replace(claim=claim))
    legs = [other.start_epoch()]
    if leg is not None:
        moved = other.move("r", leg)
        legs.append(moved._replace(event=moved.event._replace(claim=())))
    await store.append(0, START, events)
    await store.append(1, START, legs)
    lister = ReservationLister(store=store, clock=FakeClock(EXPIRES_MS), lag_seconds=lambda: 0.0)

    reply = await lister.list(ListQuery(owner_id="owner"))

    assert states_of(reply) == {"r": shown}


async def test_states_choose_what_is_told_not_what_is_paged() -> None:
    """A page may be empty and another follow: the token is the last id that was looked at."""
    states = (State.RELEASED, State.RELEASED, State.CONFIRMED)
    wanted = frozenset({State.CONFIRMED})

    first = await listed(*states, states=wanted, page_size=2)
    second = await listed(*states, states=wanted, page_size=2, after=first.after)

    assert (states_of(first), first.after) == ({}, "r1")
    assert (states_of(second), second.after) == ({"r2": State.CONFIRMED}, "")


async def test_the_answer_says_by_how_much_the_order_store_is_behind() -> None:
    """And judges expiry by the time it is of; beyond five seconds it is degraded."""
    fresh = await listed(State.HELD, now_ms=EXPIRES_MS)
    behind = await listed(State.HELD, now_ms=6_000, lag_seconds=5.99)

    assert (fresh.freshness.as_of_ms, fresh.freshness.age_ms) == (EXPIRES_MS, 0)
    assert not fresh.freshness.degraded
    assert (behind.freshness.as_of_ms, behind.freshness.age_ms) == (10, 5_990)
    assert behind.freshness.degraded
    assert states_of(behind) == {"r0": State.HELD}


def a_page(token: str = "", **changed: object) -> pb.ListReservationsRequest:
    values = {"owner_id": "owner", "states": [1, 2], "page_token": token, **changed}
    return pb.ListReservationsRequest(**values)  # type: ignore[arg-type]


async def test_a_page_token_is_good_for_its_own_list_and_no_other() -> None:
    """Whatever the page's size and the order of states; another list's is refused by name."""
    query = list_from(a_page())
    token = list_to(query, await listed(State.HELD, State.HELD, page_size=1)).next_page_token

    again = list_from(a_page(token, page_size=7, states=[2, 1]))

    assert (again.after, again.page_size) == ("r0", 7)
    others: list[dict[str, object]] = [
        {"owner_id": "else"}, {"order_reference": "order"}, {"states": [1]}, {"states": []},
    ]  # fmt: skip
    for other in others:
        with pytest.raises(InvalidRequest) as refused:
            list_from(a_page(token, **other))
        assert [v[:2] for v in refused.value.violations] == [("page_token", "DOES_NOT_FIT")]
    for wrong in ("r0", token.partition("/")[0] + "/", token[:8] + "/r 0"):
        with pytest.raises(InvalidRequest):
            list_from(a_page(wrong))
