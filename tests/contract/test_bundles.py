"""Bundles held and changed, on reference ledgers and on the real Functions alike."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from promise_svc.application.changed_lines import ChangeLine
from promise_svc.application.reservation_body import RequestedLine
from promise_svc.application.reservation_changes import ChangeCommand
from promise_svc.domain.bundle import BundleLine
from promise_svc.domain.network import BundleComponent, Item
from promise_svc.domain.reservation import CreateOutcome, HoldPolicy, State
from promise_svc.errors import IdempotencyKeyReused
from promise_svc.rpc.convert.quote import quoted_create_from
from promise_svc.rpc.convert.reservation import TtlLimits, create_to, reservation_to
from promise_svc.v1 import reservation_service_pb2 as pb
from tests.contract.test_quotes import (
    create,
    held,
    in_one_step,
    network,
    put,
    quoted,
    with_token,
)
from tests.support.networks import a_snapshot
from tests.support.reservation_world import World, a_cart
from tests.support.shards import TIMEOUT

SET = (BundleComponent("A", 2), BundleComponent("B", 1))


def with_bundle(*components: BundleComponent) -> Any:
    """Two A and one B, or other components, make a SET."""
    documents = network().documents
    return a_snapshot(
        *documents.nodes.values(),
        *documents.items.values(),
        *documents.carrier_services.values(),
        *documents.lanes.values(),
        Item(sku="SET", components=components or SET),
    )


@pytest.fixture
def shop(world: World) -> World:
    world.network.now = with_bundle()
    return world


async def confirmed(shop: World, sets: int) -> None:
    assert (await create(shop, a_cart("r-1", ["SET"], sets))).outcome is CreateOutcome.HELD
    await shop.worker().reservations.confirm("r-1", 0, None, TIMEOUT)


async def test_a_bundle_is_held_as_its_components(shop: World) -> None:
    """Summed with a loose line of one of them, on the shards of the components."""
    await shop.stock(A=5, B=2)

    result = await create(shop, a_cart("r-1", ["SET", "A"], 1))

    assert result.reservation is not None
    assert [(x.line_id, x.sku, x.quantity) for x in result.reservation.lines] == [
        ("l0#1", "A", 2),
        ("l0#2", "B", 1),
        ("l1", "A", 1),
    ]
    assert (await held(shop, "A"), await held(shop, "B")) == ({"n1": 3}, {"n1": 1})
    told = create_to(result)
    assert [(x.line_id, x.outcome) for x in told.line_outcomes] == [("l0", 1), ("l1", 1)]
    line = told.reservation.bundle_lines[0]
    assert (line.line_id, line.sku, line.quantity) == ("l0", "SET", 1)
    assert list(line.component_line_ids) == ["l0#1", "l0#2"]
    await shop.check()


async def test_lines_that_share_a_component_are_refused_when_their_sum_does_not_fit(
    shop: World,
) -> None:
    """By the shard, whatever the table showed; told of the bundle in sets, and nothing is kept."""
    await shop.stock(A=4, B=9)

    result = await create(shop, a_cart("r-1", ["SET", "A"], 2))

    assert [(x.line_id, x.outcome, x.ats) for x in result.lines] == [
        ("l0", CreateOutcome.INSUFFICIENT_STOCK, 2),
        ("l1", CreateOutcome.INSUFFICIENT_STOCK, 4),
    ]
    assert (await held(shop, "A"), await held(shop, "B")) == ({}, {})


async def test_a_retry_gets_the_components_it_was_held_with(shop: World) -> None:
    """Though the bundle was given others since; another body under the key is still refused."""
    await shop.stock(A=8, B=8)
    first = await create(shop, a_cart("r-1", ["SET"]))
    shop.network.now = with_bundle(BundleComponent("B", 5))

    again = await create(shop, a_cart("r-1", ["SET"]))

    assert again.replayed
    assert again.reservation == first.reservation
    with pytest.raises(IdempotencyKeyReused):
        await create(shop, a_cart("r-1", ["SET"], 2))


async def test_as_many_bundles_as_there_are_under_a_partial_policy(shop: World) -> None:
    """Three were asked for, seven A are enough for all and one B for one."""
    await shop.stock(A=7, B=1)

    result = await create(shop, a_cart("r-1", ["SET"], 3, policy=HoldPolicy.PARTIAL))

    told = create_to(result).line_outcomes[0]
    assert result.outcome is CreateOutcome.PARTLY_HELD
    assert (told.line_id, told.held_quantity) == ("l0", 1)
    assert (await held(shop, "A"), await held(shop, "B")) == ({"n1": 2}, {"n1": 1})


async def test_a_quoted_bundle_is_held_as_it_was_promised(shop: World) -> None:
    """Also after the bundle changed; the request may repeat its lines as they were asked for."""
    await put(shop, "A", "n1", 4)
    await put(shop, "B", "n2", 2)
    quote = await quoted(shop, ("SET", 2))
    shop.network.now = with_bundle(BundleComponent("B", 1))
    request = pb.CreateReservationRequest(owner_id="shopper")
    request.lines.add(line_id="0", sku="SET", quantity=2)

    command = quoted_create_from(request, quote, 0, TtlLimits())
    result = await create(shop, command)

    assert quote.bundles == (BundleLine("0", "SET", SET),)
    assert command.lines == (RequestedLine("0", "SET", 2),)
    assert result.outcome is CreateOutcome.HELD
    assert (await held(shop, "A"), await held(shop, "B")) == ({"n1": 4}, {"n2": 2})


async def test_a_quoted_bundle_stands_where_it_was_asked_for(shop: World) -> None:
    """Though its components leave from different nodes, after another line's."""
    await put(shop, "A", "n3", 2)
    await put(shop, "B", "n2", 1)
    await put(shop, "C", "n1", 1)
    quote = await quoted(shop, ("SET", 1), ("C", 1))

    result = await create(shop, with_token(quote))

    assert [line.sku for line in quote.requested_lines] == ["SET", "C"]
    assert result.reservation is not None
    assert [line.line_id for line in result.reservation.lines] == ["0#1", "0#2", "1"]


async def test_a_bundle_is_promised_and_held_in_one_step(shop: World) -> None:
    """The shipments name the components."""
    await put(shop, "A", "n2", 2)
    await put(shop, "B", "n2", 1)

    result = await create(shop, in_one_step(("SET", 1)))

    assert result.reservation is not None and result.reservation.promised is not None
    (shipment,) = result.reservation.promised.shipments
    assert [line[:3] for line in shipment.lines] == [("0#1", "A", 2), ("0#2", "B", 1)]
    assert await held(shop, "A") == {"n2": 2}


async def test_an_order_of_bundles_is_amended_sent_and_taken_back_by_the_bundle(
    shop: World,
) -> None:
    """In bundles by the line's own name, or one component alone by its own."""
    await shop.stock(A=9, B=9)
    await confirmed(shop, 3)
    changes = shop.worker().reservations.changes

    def change(key: str, line_id: str, units: int) -> ChangeCommand:
        line = ChangeLine(line_id, units)
        return ChangeCommand(reservation_id="r-1", idempotency_key=key, lines=(line,))

    await changes.amend(change("a", "l0", 4), TIMEOUT)
    await changes.fulfill(change("f", "l0", 2), TIMEOUT)
    await changes.cancel(change("c", "l0#1", 1), TIMEOUT)
    result = await changes.cancel(change("d", "l0#2", 1), TIMEOUT)

    told = reservation_to(result.reservation)
    assert [(x.quantity, x.fulfilled_quantity, x.cancelled_quantity) for x in told.lines] == [
        (8, 4, 1),
        (4, 2, 1),
    ]
    assert told.bundle_lines[0].quantity == 4
    assert told.state == pb.Reservation.STATE_CONFIRMED
    ended = await changes.cancel(ChangeCommand(reservation_id="r-1"), TIMEOUT)
    assert ended.reservation.state is State.FULFILLED
    await shop.check()


async def test_a_process_that_has_not_heard_of_a_bundle_asks_before_it_refuses(
    shop: World,
) -> None:
    """The item was loaded through another process a moment ago."""
    await shop.stock(A=2, B=1)
    shop.network.now, shop.network.next = network(), replace(with_bundle(), version=4)

    result = await create(shop, in_one_step(("SET", 1)))

    assert result.outcome is CreateOutcome.HELD
