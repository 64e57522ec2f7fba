"""The plan promised is the plan held, on reference ledgers and on the real Functions alike.

Each test is a schedule in which rivals promise one thing and hold another: somebody acts between
the promise and the hold.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import Any

import pytest

from promise_svc.application.promise import PromiseCartRequest
from promise_svc.application.quote import PromisedPlan, Quote, Quotes
from promise_svc.application.reservation import CreateResult
from promise_svc.application.reservation_body import CreateCommand, PromiseTerms, RequestedLine
from promise_svc.domain.network import Document, Item, NodeStatus
from promise_svc.domain.reach import Address, Line
from promise_svc.domain.reservation import CreateOutcome, State, SupplyRow
from promise_svc.errors import IdempotencyKeyReused
from tests.support.market import a_promiser
from tests.support.networks import SHIP, a_lane, a_node, a_service, a_snapshot
from tests.support.quotes import a_signer
from tests.support.reservation_world import NODES, Died, World, a_cart
from tests.support.shards import TIMEOUT

CHICAGO = Address(country="US", postal_code="60601")
RID = "r-1"


def network(*changed: Document, transit: tuple[int, int] = (1, 2), version: int = 3) -> Any:
    """n1, n2 and n3 ship by ground; ``changed`` nodes are as given."""
    nodes = {node: a_node(node) for node in NODES} | {
        node.node_id: node for node in changed if hasattr(node, "node_id")
    }
    items = [Item(sku=sku) for sku in "ABC"]
    lanes = [a_lane(node, transit=transit) for node in NODES]
    return a_snapshot(*nodes.values(), *items, a_service(), *lanes, version=version)


@pytest.fixture
def shop(world: World) -> World:
    world.network.now = network()
    return world


async def put(shop: World, sku: str, node_id: str, units: int, *, seen: bool = True) -> None:
    """Units at a node; not ``seen``, and the table still shows what it showed."""
    row = SupplyRow(sku, node_id, "", units, 0, "", 0)
    await shop.index.sync_supply(shop.shard(sku), [row], TIMEOUT)
    if seen:
        shop.table.put(sku, node_id, units)


async def held(shop: World, sku: str) -> dict[str, int]:
    """Node -> units of ``sku`` held there."""
    _, _, images = await shop.index.read_positions(shop.shard(sku), [sku], TIMEOUT)
    return {image.node_id: image.row.held for image in images[0] if image.row.held}


async def quoted(shop: World, *lines: tuple[str, int]) -> Quote:
    """What the token of the best option says."""
    request = PromiseCartRequest(
        lines=tuple(Line(str(i), *line) for i, line in enumerate(lines)), address=CHICAGO
    )
    snapshot = shop.network.snapshot
    promiser = a_promiser(shop.table, shop.index, snapshot, shop.clock)
    reply = await promiser.promise_cart(request, timeout=TIMEOUT)
    signer = a_signer()
    tokens = Quotes(signer, snapshot, shop.index.shard_count).tokens(request, reply)
    return signer.read(tokens[0].text)


def with_token(quote: Quote, reservation_id: str = "", **other: Any) -> CreateCommand:
    """CreateReservation with a token and nothing else."""
    return CreateCommand(
        reservation_id=reservation_id or quote.reservation_id,
        owner_id="shopper",
        lines=tuple(RequestedLine(*line) for line in quote.lines),
        fulfillment_method=quote.fulfillment_method,
        address=quote.address,
        quote=quote,
        **other,
    )


def in_one_step(
    *lines: tuple[str, int], reservation_id: str = RID, max_shipments: int = 3, **other: Any
) -> CreateCommand:
    """PromiseAndReserve."""
    return CreateCommand(
        reservation_id=reservation_id,
        owner_id="shopper",
        lines=tuple(RequestedLine(str(i), *line) for i, line in enumerate(lines)),
        fulfillment_method=SHIP,
        address=CHICAGO,
        terms=PromiseTerms(frozenset(), max_shipments),
        **other,
    )


async def create(shop: World, command: CreateCommand) -> CreateResult:
    worker = shop.worker()
    result = await worker.reservations.create(command, TIMEOUT)
    await worker.rest()
    return result


def places(plan: PromisedPlan | None) -> list[tuple[str, str, int]]:
    assert plan is not None
    return [(x.node_id, line.sku, line.quantity) for x in plan.shipments for line in x.lines]


def told(result: CreateResult) -> list[tuple[CreateOutcome, int, str]]:
    return [(line.outcome, line.ats, line.node_id) for line in result.lines]


async def test_the_very_plan_is_held_though_a_better_one_came_up(shop: World) -> None:
    """Promised from two nodes; then one of them could send it all, and still both are held."""
    await put(shop, "A", "n1", 5)
    await put(shop, "A", "n2", 5)
    await put(shop, "B", "n2", 1)
    quote = await quoted(shop, ("A", 7), ("B", 1))
    await put(shop, "A", "n2", 50)
    await put(shop, "B", "n2", 50)

    result = await create(shop, with_token(quote))

    assert result.outcome is CreateOutcome.HELD
    assert result.reservation is not None
    promised = {(node, sku): units for node, sku, units in places(quote.plan)}
    assert {node for node, _ in promised} == {"n1", "n2"}
    for sku in ("A", "B"):
        assert await held(shop, sku) == {n: u for (n, s), u in promised.items() if s == sku}
    assert {
        (units.node_id, line.sku): units.quantity
        for line in result.reservation.lines
        for units in line.planned_units
    } == promised
    await shop.check()


async def test_the_promised_dates_stay_with_the_reservation(shop: World) -> None:
    """Told with the hold, by every later read, and after the network has changed."""
    await put(shop, "A", "n1", 1)
    quote = await quoted(shop, ("A", 1))
    result = await create(shop, with_token(quote))

    shop.network.now = network(transit=(5, 9), version=4)
    read = await shop.worker().reservations.get(quote.reservation_id, TIMEOUT)

    assert result.reservation is not None
    assert result.reservation.promised == read.promised == quote.plan


async def test_a_quoted_cart_is_held_in_the_order_it_was_asked_for(shop: World) -> None:
    """Whatever order its shipments come in; a split line stands once, and before those after it."""
    await put(shop, "A", "n3", 3)
    await put(shop, "A", "n2", 1)
    await put(shop, "B", "n1", 2)
    await put(shop, "C", "n2", 1)

    quote = await quoted(shop, ("A", 4), ("B", 2), ("C", 1))
    result = await create(shop, with_token(quote))

    assert [line.node_id for line in quote.plan.shipments] == ["n1", "n2", "n3"]
    assert result.reservation is not None
    assert [(x.line_id, x.sku) for x in result.reservation.lines] == [
        ("0", "A"),
        ("1", "B"),
        ("2", "C"),
    ]


async def test_stock_that_went_between_is_told_with_what_is_left_and_nothing_is_held(
    shop: World,
) -> None:
    """Another cart took some at the quoted node. Others have plenty: they were not promised."""
    await put(shop, "A", "n1", 3)
    await put(shop, "B", "n1", 3)
    quote = await quoted(shop, ("A", 2), ("B", 2))
    await put(shop, "A", "n2", 50)
    rival = await create(shop, a_cart("rival", ("A",), 2))
    assert rival.outcome is CreateOutcome.HELD

    result = await create(shop, with_token(quote))

    assert result.outcome is CreateOutcome.INSUFFICIENT_STOCK
    assert told(result) == [
        (CreateOutcome.INSUFFICIENT_STOCK, 1, "n1"),
        (CreateOutcome.OTHER_LINE_REFUSED, -1, ""),
    ]
    assert (await held(shop, "A"), await held(shop, "B")) == ({"n1": 2}, {})
    await shop.check()


async def test_of_a_split_line_the_node_that_ran_out_is_named(shop: World) -> None:
    """And a line of the same SKU from another node is not blamed."""
    await put(shop, "A", "n1", 1)
    await put(shop, "A", "n2", 1)
    quote = await quoted(shop, ("A", 1), ("A", 1))
    await put(shop, "A", "n2", 0, seen=False)

    result = await create(shop, with_token(quote))

    at = {line.line_id: x.node_id for x in quote.plan.shipments for line in x.lines}
    assert {line.line_id: line.outcome for line in result.lines} == {
        line_id: (
            CreateOutcome.INSUFFICIENT_STOCK if node == "n2" else CreateOutcome.OTHER_LINE_REFUSED
        )
        for line_id, node in at.items()
    }
    assert await held(shop, "A") == {}


@pytest.mark.parametrize("heard", [True, False], ids=["heard", "not heard yet"])
async def test_a_node_that_went_off_between_is_told(shop: World, heard: bool) -> None:
    """Also by a worker that has not heard of it: the shard has."""
    await put(shop, "A", "n1", 1)
    await put(shop, "B", "n2", 1)
    quote = await quoted(shop, ("A", 1), ("B", 1))
    off = network(a_node("n2", status=NodeStatus.OFF), version=9)
    await shop.index.raise_network_floor(shop.shard("B"), 9, TIMEOUT)
    if heard:
        shop.network.now = off
    else:
        shop.network.next = off

    result = await create(shop, with_token(quote))

    assert result.outcome is CreateOutcome.NODE_OFF
    assert sorted(told(result)) == [
        (CreateOutcome.NODE_OFF, -1, "n2"),
        (CreateOutcome.OTHER_LINE_REFUSED, -1, ""),
    ]
    assert (await held(shop, "A"), await held(shop, "B")) == ({}, {})
    await shop.check()


async def test_a_quote_of_a_newer_network_is_read_with_that_network(shop: World) -> None:
    """The promise came from a host that heard of a new lane first."""
    await put(shop, "A", "n1", 1)
    old = shop.network.now
    shop.network.now = newer = network(transit=(0, 1), version=4)
    quote = await quoted(shop, ("A", 1))
    shop.network.now, shop.network.next = old, newer

    result = await create(shop, with_token(quote))

    assert result.outcome is CreateOutcome.HELD
    assert result.reservation is not None and result.reservation.promised == quote.plan


async def test_a_quote_stands_up_to_its_cutoff_and_no_longer(shop: World) -> None:
    """The cutoff itself is met; a millisecond later the reply says when it would come now."""
    await put(shop, "A", "n1", 2)
    quote = await quoted(shop, ("A", 1))
    (shipment,) = quote.plan.shipments

    shop.clock.now = shipment.order_by_ms
    met = await create(shop, with_token(quote, "met"))
    shop.clock.now = shipment.order_by_ms + 1
    late = await create(shop, with_token(quote, "late"))

    assert (met.outcome, late.outcome) == (CreateOutcome.HELD, CreateOutcome.CUTOFF_PASSED)
    (line,) = late.lines
    assert line.node_id == "n1"
    assert line.latest_delivery_date is not None
    assert line.latest_delivery_date > shipment.latest_delivery_date
    assert await held(shop, "A") == {"n1": 1}


@pytest.mark.parametrize(
    ("transit", "outcome"),
    [
        ((1, 4), CreateOutcome.DATE_MOVED),
        ((0, 1), CreateOutcome.HELD),
        ((2, 2), CreateOutcome.HELD),
    ],
    ids=["later", "earlier", "the same at the latest"],
)
async def test_a_date_that_moved_is_told_and_one_that_is_kept_stands(
    shop: World, transit: tuple[int, int], outcome: CreateOutcome
) -> None:
    """The carrier became slower, or faster, between promise and hold."""
    await put(shop, "A", "n1", 1)
    quote = await quoted(shop, ("A", 1))
    shop.network.now = network(transit=transit, version=4)

    result = await create(shop, with_token(quote))

    assert result.outcome is outcome
    if outcome is CreateOutcome.HELD:
        assert result.reservation is not None and result.reservation.promised == quote.plan
    else:
        (shipment,) = quote.plan.shipments
        (line,) = result.lines
        assert line.latest_delivery_date is not None
        assert line.latest_delivery_date > shipment.latest_delivery_date
        assert await held(shop, "A") == {}


async def test_of_two_carts_with_tokens_for_the_last_unit_one_gets_it(shop: World) -> None:
    """Over two shards each, so that either could stop the other half-way."""
    await put(shop, "A", "n1", 1)
    await put(shop, "B", "n1", 1)
    first = await quoted(shop, ("A", 1), ("B", 1))
    second = await quoted(shop, ("B", 1), ("A", 1))

    results = await asyncio.gather(
        create(shop, with_token(first)), create(shop, with_token(second))
    )

    outcomes = sorted(result.outcome for result in results)
    assert outcomes[0] is CreateOutcome.HELD
    assert outcomes[1] in (CreateOutcome.INSUFFICIENT_STOCK, CreateOutcome.CONTENDED)
    assert (await held(shop, "A"), await held(shop, "B")) == ({"n1": 1}, {"n1": 1})
    await shop.check()


async def test_a_token_sent_twice_holds_once(shop: World) -> None:
    await put(shop, "A", "n1", 5)
    quote = await quoted(shop, ("A", 1))

    first = await create(shop, with_token(quote))
    again = await create(shop, with_token(quote))

    assert (first.replayed, again.replayed) == (False, True)
    assert first.reservation == again.reservation
    assert await held(shop, "A") == {"n1": 1}


async def test_a_token_sent_twice_at_once_holds_once(shop: World) -> None:
    """An impatient shopper, two workers: both are told the same hold."""
    await put(shop, "A", "n1", 5)
    await put(shop, "B", "n1", 5)
    quote = await quoted(shop, ("A", 1), ("B", 1))

    results = await asyncio.gather(*(create(shop, with_token(quote)) for _ in range(4)))

    assert {result.outcome for result in results} == {CreateOutcome.HELD}
    assert {result.reservation and result.reservation.promised for result in results} == {
        quote.plan
    }
    assert (await held(shop, "A"), await held(shop, "B")) == ({"n1": 1}, {"n1": 1})
    await shop.check()


async def test_what_was_held_is_told_again_whatever_has_changed_since(shop: World) -> None:
    """The answer was lost; at the retry the cutoff has passed and the node is off."""
    await put(shop, "A", "n1", 1)
    quote = await quoted(shop, ("A", 1))
    first = await create(shop, with_token(quote))

    shop.network.now = network(a_node("n1", status=NodeStatus.OFF), version=4)
    shop.clock.now = quote.plan.shipments[0].order_by_ms + 1
    again = await create(shop, with_token(quote))

    assert (again.outcome, again.replayed) == (CreateOutcome.HELD, True)
    assert again.reservation == first.reservation


async def test_another_token_under_a_used_id_is_refused_by_name(shop: World) -> None:
    """So is the cart without its token, and the other way round."""
    await put(shop, "A", "n1", 9)
    first, second = await quoted(shop, ("A", 1)), await quoted(shop, ("A", 2))
    await create(shop, with_token(first, RID))

    for other in (with_token(second, RID), a_cart(RID, ("A",)), in_one_step(("A", 1))):
        with pytest.raises(IdempotencyKeyReused):
            await create(shop, other)

    assert await held(shop, "A") == {"n1": 1}


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("way", ["token", "one step"])
async def test_a_retry_after_a_crash_gets_the_plan_first_promised(
    shop: World, way: str, after: bool
) -> None:
    """The worker dies at its nth call; the cart is sent again to another, when a better plan has
    come up. Whoever holds, holds one plan once, and tells the dates of that plan."""
    for nth in range(1, 6):
        for sku in ("A", "B"):
            await put(shop, sku, "n1", 100 * nth)
            shop.table.put(sku, "n2", 0)
        command = in_one_step(("A", 1), ("B", 1), reservation_id=f"r-{nth}")
        if way == "token":
            quote = await quoted(shop, ("A", 1), ("B", 1))
            command = with_token(quote, f"r-{nth}")
        dying = shop.worker(nth, after=after)
        with contextlib.suppress(Died):
            await dying.reservations.create(command, TIMEOUT)
        await dying.rest()

        shop.table.put("A", "n1", 0)
        for sku in ("A", "B"):
            await put(shop, sku, "n2", 100 * nth)
        result = await create(shop, command)
        await shop.resolve_everything()

        assert result.outcome is CreateOutcome.HELD, (nth, result)
        read = await shop.worker().reservations.get(f"r-{nth}", TIMEOUT)
        assert read.state is State.HELD
        assert read.promised is not None and result.reservation is not None
        assert read.promised == result.reservation.promised
        assert sorted(places(read.promised)) == sorted(
            (units.node_id, line.sku, units.quantity)
            for line in read.lines
            for units in line.planned_units
        )
        if way == "token":
            assert read.promised == quote.plan
        assert sum((await held(shop, "A")).values()) == nth
        assert sum((await held(shop, "B")).values()) == nth
        await shop.check()


# -- promise and reserve in one step ----------------------------------------------------------


async def test_what_is_promised_in_one_step_is_the_first_option_and_is_held(shop: World) -> None:
    await put(shop, "A", "n1", 5)
    await put(shop, "A", "n2", 5)
    await put(shop, "B", "n2", 5)
    shown = await quoted(shop, ("A", 2), ("B", 1))

    result = await create(shop, in_one_step(("A", 2), ("B", 1)))

    assert result.outcome is CreateOutcome.HELD
    assert result.reservation is not None and result.reservation.promised == shown.plan
    assert (await held(shop, "A"), await held(shop, "B")) == ({"n2": 2}, {"n2": 1})


async def test_a_plan_that_a_shard_refuses_is_replaced_and_the_other_one_is_told(
    shop: World,
) -> None:
    """The table still showed units at n1; the promise that is answered is the one held."""
    await put(shop, "A", "n1", 1)
    await put(shop, "A", "n2", 1)
    first = places((await quoted(shop, ("A", 1))).plan)[0][0]
    other = {"n1": "n2", "n2": "n1"}[first]
    await put(shop, "A", first, 0, seen=False)

    result = await create(shop, in_one_step(("A", 1)))

    assert result.outcome is CreateOutcome.HELD
    assert result.reservation is not None
    assert places(result.reservation.promised) == [(other, "A", 1)]
    assert await held(shop, "A") == {other: 1}


@pytest.mark.parametrize("way", ["one step", "create"])
async def test_a_crowd_gets_every_unit_of_every_node(shop: World, way: str) -> None:
    """All plan for the same node; those who are refused there are not told CONTENDED by the claims
    of their own last plans while other nodes have units."""
    for node_id in NODES:
        await put(shop, "A", node_id, 7)
    commands = [in_one_step(("A", 1), reservation_id=f"r-{n}") for n in range(30)]
    if way == "create":
        commands = [replace(command, terms=None) for command in commands]

    results = await asyncio.gather(*(create(shop, command) for command in commands))

    outcomes = [result.outcome for result in results]
    assert outcomes.count(CreateOutcome.HELD) == 21, outcomes
    assert outcomes.count(CreateOutcome.INSUFFICIENT_STOCK) == 9, outcomes
    assert await held(shop, "A") == dict.fromkeys(NODES, 7)
    await shop.check()


async def test_a_retry_in_one_step_tells_the_promise_first_made(shop: World) -> None:
    """A better plan and other dates came up since."""
    await put(shop, "A", "n1", 1)
    await put(shop, "A", "n2", 1)
    first = await create(shop, in_one_step(("A", 2)))

    await put(shop, "A", "n1", 50)
    shop.network.now = network(transit=(0, 1), version=4)
    again = await create(shop, in_one_step(("A", 2)))

    assert (first.replayed, again.replayed) == (False, True)
    assert again.reservation is not None and first.reservation is not None
    assert again.reservation == first.reservation
    assert sorted(places(again.reservation.promised)) == [("n1", "A", 1), ("n2", "A", 1)]
    assert await held(shop, "A") == {"n1": 1, "n2": 1}


async def test_a_cart_over_more_nodes_than_allowed_is_refused_as_such(shop: World) -> None:
    """There is enough, and the reply does not say there were not."""
    await put(shop, "A", "n1", 1)
    await put(shop, "A", "n2", 1)

    result = await create(shop, in_one_step(("A", 2), max_shipments=1))

    assert result.outcome is CreateOutcome.SPLIT_LIMIT
    assert await held(shop, "A") == {}


async def test_other_terms_under_a_used_id_are_refused_by_name(shop: World) -> None:
    await put(shop, "A", "n1", 5)
    await create(shop, in_one_step(("A", 1)))

    fewer = in_one_step(("A", 1), max_shipments=2)
    faster = replace(fewer, terms=PromiseTerms(frozenset({"ground"}), 3))
    for other in (fewer, faster, a_cart(RID, ("A",))):
        with pytest.raises(IdempotencyKeyReused):
            await create(shop, other)


async def test_a_reservation_without_a_promise_has_no_dates(shop: World) -> None:
    """Nothing was promised, so nothing is told as if it had been."""
    await put(shop, "A", "n1", 1)

    result = await create(shop, a_cart(RID, ("A",)))

    assert result.reservation is not None and result.reservation.promised is None
