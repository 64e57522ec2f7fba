"""Why a figure is what it is, lists of reservations, yes or no for many: against a real server."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from promise_svc.client import CallFailed, PromiseClient
from promise_svc.load.folder import read_folder
from promise_svc.load.send import send_folder
from promise_svc.v1 import admin_service_pb2 as admin_pb
from promise_svc.v1 import availability_service_pb2 as availability_pb
from promise_svc.v1 import network_service_pb2 as network_pb
from promise_svc.v1 import reservation_service_pb2 as pb
from promise_svc.v1 import supply_service_pb2 as supply_pb
from promise_svc.v1 import types_pb2 as types_pb
from tests.e2e.conftest import Served
from tests.support.folders import write_folder


@pytest.fixture
async def shop(served: Served, tmp_path: Path) -> AsyncIterator[PromiseClient]:
    """A client of a server that has the small folder loaded."""
    async with PromiseClient(f"127.0.0.1:{served.port}", shard_count=8) as client:
        loaded = await send_folder(client, read_folder(write_folder(tmp_path)))
        assert loaded.refusals == []
        yield client


async def hold(client: PromiseClient, owner: str, sku: str, units: int, node: str) -> str:
    request = client.reservation(owner, [(sku, units, node)], order_reference=f"order {owner}")
    reply = await client.call(client.reservations.CreateReservation, request)
    assert reply.outcome == pb.CREATE_RESERVATION_OUTCOME_HELD
    return request.reservation_id


async def confirm(client: PromiseClient, rid: str) -> None:
    request = pb.ConfirmReservationRequest(reservation_id=rid)
    await client.call(client.reservations.ConfirmReservation, request)


async def stored(client: PromiseClient) -> None:
    """Wait until the order store has everything: the audit does."""
    await client.call(client.admin.Verify, admin_pb.VerifyRequest(), deadline_seconds=60)


def reasons(story: availability_pb.ExplainAvailabilityResponse) -> list[str]:
    name = availability_pb.AvailabilityReason.Name
    return [name(reason).removeprefix("AVAILABILITY_REASON_") for reason in story.reasons]


async def explained(
    client: PromiseClient, sku: str, node: str
) -> availability_pb.ExplainAvailabilityResponse:
    await stored(client)
    request = availability_pb.ExplainAvailabilityRequest(sku=sku, node_id=node)
    return await client.call(client.availability.ExplainAvailability, request)


async def test_a_zero_is_explained_from_every_side(served: Served, shop: PromiseClient) -> None:
    """The feed that counted, who keeps the units, what happened last, and every reason that takes
    something off; the node switched off on top of it."""
    order = await hold(shop, "explain", "sku-1", 2, "store-1")
    await confirm(shop, order)
    cart = await hold(shop, "explain", "sku-1", 1, "store-1")

    story = await explained(shop, "sku-1", "store-1")

    assert story.ats == story.table_ats == 0
    assert reasons(story) == ["SAFETY_STOCK", "COMMITTED", "RESERVED"]
    figures = story.breakdown
    assert (figures.on_hand, figures.committed, figures.reserved, figures.safety_stock) == (
        5, 2, 1, 2,
    )  # fmt: skip
    assert (story.source, story.totals.confirmed_total) == ("load", 2)
    keeps = {r.reservation_id: (r.confirmed, r.quantity) for r in story.reservations}
    assert keeps == {order: (True, 2), cart: (False, 1)}
    assert story.reservation_count == 2
    assert [event.subject for event in story.events] == [cart, order, order, ""]
    assert [event.held for event in story.events] == [1, 0, 2, 0]
    assert story.events[-1].event_type == "SUPPLY_SYNCED"
    assert story.order_store_as_of.sequence == story.as_of.sequence

    (due,) = (await explained(shop, "sku-1", "dc-1")).inbound
    assert (due.bucket, due.on_hand, due.safety_stock, due.arrived) == ("po-7-1", 50, 10, False)
    assert due.arrival_time.seconds == 1_799_074_800
    (here,) = (await explained(shop, "sku-2", "store-1")).inbound
    assert (here.bucket, here.on_hand, here.arrived) == ("po-8-1", 0, True)

    switch = network_pb.SetNodeStatusRequest(
        node_id="store-1", node_status=types_pb.NODE_STATUS_OFF
    )
    await shop.call(shop.network.SetNodeStatus, switch)
    assert "NODE_OFF" in reasons(await explained(shop, "sku-1", "store-1"))
    switch.node_status = types_pb.NODE_STATUS_ON
    await shop.call(shop.network.SetNodeStatus, switch)


async def test_changes_and_sales_are_told_by_the_ids_their_callers_gave(
    shop: PromiseClient,
) -> None:
    """As sent, whichever row of the call it was."""
    place = {"sku": "sku-2", "node_id": "dc-1"}
    await shop.call(shop.supply.AdjustSupply, supply_pb.AdjustSupplyRequest(
        idempotency_key="receipt-7", reason="test",
        rows=[supply_pb.SupplyDelta(**place, quantity_delta=n) for n in (2, 1)],
    ))  # fmt: skip
    await shop.call(shop.supply.RecordSale, supply_pb.RecordSaleRequest(
        sale_id="till-9", lines=[supply_pb.SaleLine(**place, quantity=1)]
    ))  # fmt: skip

    story = await explained(shop, "sku-2", "dc-1")

    assert [(event.event_type, event.subject) for event in story.events[:3]] == [
        ("SALE_RECORDED", "till-9"),
        ("SUPPLY_ADJUSTED", "receipt-7"),
        ("SUPPLY_ADJUSTED", "receipt-7"),
    ]


async def test_units_sold_elsewhere_that_nobody_had_are_told_as_owed(
    served: Served, shop: PromiseClient
) -> None:
    """Not as an order's; the command says so in words, beside the totals."""
    place = {"sku": "sku-1", "node_id": "store-2"}
    sale = supply_pb.SaleLine(**place, quantity=3)
    await shop.call(
        shop.supply.RecordSale, supply_pb.RecordSaleRequest(sale_id="till-10", lines=[sale])
    )

    story = await explained(shop, *place.values())
    told = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "promise_svc", "explain", *place.values(),
        "--target", f"127.0.0.1:{served.port}",
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await told.communicate()

    assert (story.owed, story.breakdown.committed) == (3, 3)
    assert b"3 of the committed are of no order: sold elsewhere" in out
    assert b"orders since the beginning: 0 confirmed, 0 cancelled, 0 fulfilled" in out


async def test_a_hold_of_supply_on_its_way_and_a_share_kept_are_told(shop: PromiseClient) -> None:
    """The bucket's units apart from those here now; the share as what it is, not as a count."""
    place = {"sku": "sku-2", "node_id": "store-2"}
    expected = supply_pb.SupplyRow(**place, bucket="po-9", on_hand=5)
    expected.arrival_time.FromSeconds(int(time.time()) + 86_400)
    feed = supply_pb.SyncSupplyRequest(source="erp", source_sequence=1, rows=[expected])
    await shop.call(shop.supply.SyncSupply, feed)
    web = supply_pb.ProtectionLevel(**place, segment="web", level=0)
    lines = [("sku-2", 3, "store-2")]
    request = shop.reservation("later", lines, pickup_node_id="store-2")
    request.allow_backorder = True

    reply = await shop.call(shop.reservations.CreateReservation, request)
    for level in (1, 0):
        web.level = level
        levels = supply_pb.SetProtectionLevelsRequest(rows=[web])
        await shop.call(shop.supply.SetProtectionLevels, levels)

    story = await explained(shop, "sku-2", "store-2")
    assert reply.outcome == pb.CREATE_RESERVATION_OUTCOME_HELD
    keeps = [(r.reservation_id, r.bucket, r.quantity) for r in story.reservations]
    assert keeps == [(request.reservation_id, "", 1), (request.reservation_id, "po-9", 2)]
    assert [event.event_type for event in story.events][:2] == ["PROTECTION_SET"] * 2

    # It came, and the next count is of all that stands there: two of it are the cart's.
    came = supply_pb.SupplyRow(**place, bucket="po-9", on_hand=5, arrived=True)
    there = supply_pb.SupplyRow(**place, on_hand=7)
    whole = supply_pb.SyncSupplyRequest(
        source="erp", source_sequence=2, rows=[came, there], counts_include_arrived=True
    )
    counted = await shop.call(shop.supply.SyncSupply, whole)
    assert [row.on_hand for row in counted.results] == [2, 5]
    await shop.call(
        shop.reservations.ConfirmReservation,
        pb.ConfirmReservationRequest(reservation_id=request.reservation_id),
    )
    (bucket,) = (await explained(shop, "sku-2", "store-2")).inbound
    assert bucket.totals.confirmed_total == 2
    assert "SHORTAGE" not in reasons(await explained(shop, "sku-2", "store-2"))
    lost = supply_pb.SupplyDelta(**place, bucket="po-9", quantity_delta=-1)
    fewer = supply_pb.AdjustSupplyRequest(idempotency_key="lost", reason="test", rows=[lost])
    await shop.call(shop.supply.AdjustSupply, fewer)
    assert "SHORTAGE" in reasons(await explained(shop, "sku-2", "store-2"))


async def test_what_nobody_knows_is_explained_too(shop: PromiseClient) -> None:
    """No item, no node, no count: answers, not errors."""
    assert reasons(await explained(shop, "sku-9", "nowhere")) == [
        "NO_ITEM", "UNKNOWN_NODE", "NEVER_COUNTED",
    ]  # fmt: skip
    assert reasons(await explained(shop, "sku-2", "store-1")) == ["NEVER_COUNTED"]


async def test_a_bundle_is_explained_by_its_components(shop: PromiseClient) -> None:
    """Not as something never counted."""
    parts = [network_pb.BundleComponent(sku=f"sku-{n}", quantity=4 - n) for n in (1, 2)]
    items = network_pb.UpsertItemsRequest(items=[network_pb.Item(sku="pair", components=parts)])
    await shop.call(shop.network.UpsertItems, items)

    story = await explained(shop, "pair", "dc-1")

    assert reasons(story) == ["BUNDLE"]
    units = {part.sku: part.ats for part in story.components}
    assert units == {sku: (await explained(shop, sku, "dc-1")).ats for sku in units}
    assert story.ats == min(part.ats // part.quantity for part in story.components) > 0
    assert story.table_ats == story.ats


async def test_reservations_are_listed_by_owner_with_the_lag(shop: PromiseClient) -> None:
    """All pages together are all of them, by id; by reference and state only those."""
    held = sorted([await hold(shop, "lister", "sku-2", 1, "dc-1") for _ in range(3)])
    await confirm(shop, held[0])
    await stored(shop)

    async def listed(**asked: object) -> pb.ListReservationsResponse:
        request = pb.ListReservationsRequest(**asked)  # type: ignore[arg-type]
        return await shop.call(shop.reservations.ListReservations, request)

    first = await listed(owner_id="lister", page_size=2)
    second = await listed(owner_id="lister", page_size=2, page_token=first.next_page_token)
    found = [*first.reservations, *second.reservations]
    assert [r.reservation_id for r in found] == held
    assert second.next_page_token == ""
    assert found[0].state == pb.Reservation.STATE_CONFIRMED
    assert found[1].lines[0].planned_units[0].node_id == "dc-1"
    assert not first.freshness.degraded
    confirmed = await listed(
        order_reference="order lister", states=[pb.Reservation.STATE_CONFIRMED]
    )
    assert [r.reservation_id for r in confirmed.reservations] == held[:1]
    with pytest.raises(CallFailed, match="owner_id or order_reference must be set"):
        await listed()


async def test_many_skus_are_checked_in_one_call(shop: PromiseClient) -> None:
    """In the order asked, unknown ones by index."""
    request = availability_pb.CheckAvailabilityRequest(
        skus=["sku-1", "sku-1", "sku-9"], quantities=[50, 100_000, 1], node_group_id="stores"
    )
    stores = await shop.call(shop.availability.CheckAvailability, request)
    request.ClearField("node_group_id")
    everywhere = await shop.call(shop.availability.CheckAvailability, request)

    assert list(stores.available) == [False, False, False]
    assert list(everywhere.available) == [True, False, False]
    assert list(everywhere.unknown_sku_indices) == [2]
