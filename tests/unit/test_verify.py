"""The audit: silent over sound books, and each check catches the fault planted for it."""

from __future__ import annotations

import asyncio
import dataclasses
from types import SimpleNamespace
from typing import NoReturn, cast

import pytest

from promise_svc.adapters.event_codec import encode_event
from promise_svc.application.ports import Clock
from promise_svc.application.verify import Verify, VerifyReport
from promise_svc.domain.audit import FindingKind, Verdict, judge
from promise_svc.domain.events import EventType, PositionImage, StoredEvent
from promise_svc.domain.inventory import PositionKey, StockPosition
from promise_svc.domain.ledger import ShardLedger
from promise_svc.domain.replay import Replay
from promise_svc.domain.reservation import (
    AdjustRow,
    ClaimDraft,
    ClaimRecord,
    ConformStep,
    CreateStep,
    FollowStep,
    LegLine,
    LegRecord,
    Outcome,
    ResolveStep,
    SettleStep,
    State,
    SupplyRow,
)
from promise_svc.domain.sharding import Position, shard_of
from promise_svc.errors import NotServing, Unavailable
from tests.support.fake_ats_index import FakeAtsIndex
from tests.support.fake_order_store import FakeOrderStore

WINDOW_MS = 3_600_000
TTL_MS = 600_000
HOME, OTHER = 0, 1


class Books:
    """Two shards with stock at one node each, their order store, and the audit over both."""

    def __init__(self) -> None:
        self.index = FakeAtsIndex(2)
        self.index.serve_all()
        self.store = FakeOrderStore()
        for shard, ledger in enumerate(self.index.ledgers):
            row = SupplyRow(f"sku-{shard}", "node", "", 10, 1, "erp", 1)
            ledger.sync_supply([row], self.index.now_ms)

    def key(self, shard: int) -> PositionKey:
        return PositionKey(f"sku-{shard}", "node", "")

    def hold(self, quantity: int = 2) -> str:
        """A held reservation over both shards, settled."""
        rid = next(r for i in range(99) if shard_of(r := f"r{i}", 2) == HOME and r not in self.ids)
        draft = ClaimDraft("body", 0, (HOME, OTHER), "{}")
        for shard in (HOME, OTHER):
            line = LegLine(*self.key(shard), quantity)
            claim = draft if shard == HOME else ()
            step = CreateStep(rid, 1, "plan", TTL_MS, 0, 1, (line,), claim)
            self.index.ledgers[shard].create(step, self.index.now_ms)
        self.settle(rid, State.PENDING)
        return rid

    @property
    def ids(self) -> set[str]:
        return set(self.index.ledgers[HOME].claims)

    def settle(self, rid: str, state: State) -> None:
        self.index.ledgers[HOME].settle(SettleStep(rid, 1, state), self.index.now_ms)

    def move(self, rid: str, target: State, *, settle: bool = True) -> None:
        """Decide at home and let the other leg follow."""
        now_ms, (home, other) = self.index.now_ms, self.index.ledgers
        if target is State.CONFIRMED:
            home.resolve(ResolveStep(rid, target), now_ms)
            other.follow(FollowStep(rid, 1, target), now_ms)
        home.resolve(ResolveStep(rid, target, pinned=1), now_ms)
        if settle:
            other.follow(FollowStep(rid, 1, target), now_ms)
            self.settle(rid, target)

    def set_safety_stock(self, safety_stock: int) -> None:
        """Rewrite history: it always was so."""

        def rewritten(image: PositionImage) -> PositionImage:
            return image._replace(row=image.row._replace(safety_stock=safety_stock))

        for shard, ledger in enumerate(self.index.ledgers):
            row = ledger.positions[self.key(shard)]
            ledger.positions[self.key(shard)] = row._replace(safety_stock=safety_stock)
            ledger.events[:] = [
                (at, event._replace(positions=tuple(map(rewritten, event.positions))))
                for at, event in ledger.events
            ]

    async def relay(self) -> None:
        """Carry what the order store lacks."""
        for shard in range(self.index.shard_count):
            after = await self.store.cursor(shard)
            events = await self.index.read_outbox(shard, after, 1_000, 1.0)
            await self.store.append(shard, after, events)

    async def audit(
        self,
        shard_ids: list[int] | None = None,
        findings_max: int = 100,
        settle_seconds: float = 0.0,
    ) -> VerifyReport:
        clock = SimpleNamespace(now_ms=lambda: self.index.now_ms, monotonic=lambda: 0.0)
        verify = Verify(
            self.index,
            self.store,
            cast(Clock, clock),
            window_ms=WINDOW_MS,
            settle_seconds=settle_seconds,
            recheck_seconds=0.0,
        )
        return await verify.run(shard_ids, findings_max=findings_max)


@pytest.fixture
def books() -> Books:
    return Books()


def kinds(report: VerifyReport) -> set[FindingKind]:
    return {finding.kind for finding in report.findings}


def altered(kept: StoredEvent, **changes: object) -> StoredEvent:
    event = kept.event._replace(**changes)  # type: ignore[arg-type]
    return kept._replace(event=event, payload=encode_event(event))


async def test_sound_books_have_no_finding(books: Books) -> None:
    """Every state of a reservation, all of it relayed: counts, and nothing else."""
    for target in (State.CONFIRMED, State.RELEASED, State.HELD):
        rid = books.hold()
        if target is not State.HELD:
            books.move(rid, target)
    await books.relay()

    report = await books.audit()

    assert report.findings == []
    assert report.consistent
    assert (report.shard_count, report.position_count) == (2, 2)
    assert report.reservation_counts == {State.CONFIRMED: 1, State.RELEASED: 1, State.HELD: 1}
    assert (report.order_store_reservation_count, report.order_store_confirmed_count) == (3, 1)
    assert report.order_store_event_count == sum(len(x.events) for x in books.index.ledgers)
    assert (report.in_flight_event_count, report.uncompared_shard_ids) == (0, [])


async def test_a_due_hold_is_expired_and_no_fault(books: Books) -> None:
    """Counters include due holds until they are swept; claims and legs read EXPIRED meanwhile."""
    books.hold()
    await books.relay()
    books.index.now_ms += TTL_MS

    report = await books.audit()

    assert report.findings == []
    assert report.reservation_counts == {State.EXPIRED: 1}


async def test_what_the_index_forgot_after_the_window_is_no_drift(books: Books) -> None:
    """Resolved records leave the index after the window; the order store keeps them."""
    rid = books.hold()
    books.move(rid, State.RELEASED)
    await books.relay()
    books.index.now_ms += WINDOW_MS
    for ledger in books.index.ledgers:
        ledger.claims.pop(rid, None)
        ledger.legs.pop(rid, None)

    assert (await books.audit()).findings == []


async def test_what_the_index_lost_within_the_window_is_drift(books: Books) -> None:
    """The negative control of the one before."""
    rid = books.hold()
    books.move(rid, State.RELEASED)
    await books.relay()
    del books.index.ledgers[HOME].claims[rid]

    assert FindingKind.RESERVATION_DRIFT in kinds(await books.audit())


@pytest.mark.parametrize(
    ("field", "kind"),
    [("held", FindingKind.HELD_MISMATCH), ("committed", FindingKind.COMMITTED_MISMATCH)],
)
async def test_a_counter_that_is_not_the_sum_of_its_legs_is_found(
    books: Books, field: str, kind: FindingKind
) -> None:
    """One unit too many, in the index: found by the sums and as drift."""
    books.hold()
    await books.relay()
    row = books.index.ledgers[OTHER].positions[books.key(OTHER)]
    wrong = row._replace(**{field: getattr(row, field) + 1})
    books.index.ledgers[OTHER].positions[books.key(OTHER)] = wrong

    report = await books.audit()

    assert kinds(report) == {kind, FindingKind.POSITION_DRIFT}
    assert report.drift_count == 1
    mismatch = next(f for f in report.findings if f.kind is kind)
    assert (mismatch.sku, mismatch.actual - mismatch.expected) == ("sku-1", 1)


async def test_a_negative_figure_is_found(books: Books) -> None:
    """Also where the sums agree."""
    await books.relay()
    books.index.ledgers[HOME].positions[books.key(HOME)] = StockPosition(-1)

    assert FindingKind.NEGATIVE_QUANTITY in kinds(await books.audit())


async def test_a_confirmed_claim_without_its_leg_is_found(books: Books) -> None:
    """Units sold that nobody holds."""
    rid = books.hold()
    books.move(rid, State.CONFIRMED)
    await books.relay()
    del books.index.ledgers[OTHER].legs[rid]

    report = await books.audit()

    found = [f for f in report.findings if f.kind is FindingKind.UNRESOLVED_CLAIM]
    assert [f.reservation_id for f in found] == [rid]


async def test_a_living_leg_under_a_resolved_claim_is_found(books: Books) -> None:
    """A released reservation whose other leg is still held."""
    rid = books.hold()
    held = books.index.ledgers[OTHER].legs[rid]
    books.move(rid, State.RELEASED)
    books.index.ledgers[OTHER].legs[rid] = held._replace(state=State.PINNED)

    assert FindingKind.UNRESOLVED_CLAIM in kinds(await books.audit())


async def test_a_leg_of_another_attempt_is_found(books: Books) -> None:
    """No two attempts of one reservation live side by side."""
    rid = books.hold()
    leg = books.index.ledgers[OTHER].legs[rid]
    books.index.ledgers[OTHER].legs[rid] = leg._replace(attempt=2)

    assert FindingKind.UNRESOLVED_CLAIM in kinds(await books.audit())


async def test_a_held_leg_without_a_claim_is_counted_apart(books: Books) -> None:
    """It expires by itself; a confirmed one would not."""
    rid = books.hold()
    await books.relay()
    leg = books.index.ledgers[OTHER].legs[rid]
    for state in (State.HELD, State.CONFIRMED):
        books.index.ledgers[OTHER].legs["stray"] = LegRecord(
            1, state, 1, "plan", leg.expire_ms, 1, ()
        )

        report = await books.audit()

        assert report.orphan_count == (state is State.HELD)
        strays = {f.kind for f in report.findings if f.reservation_id == "stray"}
        assert (FindingKind.UNRESOLVED_CLAIM in strays) == (state is State.CONFIRMED)


async def test_a_claim_that_is_still_young_is_no_finding_and_an_overdue_one_is(
    books: Books,
) -> None:
    """Legs that follow are counted as unsettled, until the resolver should have finished."""
    rid = books.hold()
    books.move(rid, State.RELEASED, settle=False)
    await books.relay()

    young = await books.audit()
    books.index.now_ms += 60_000
    overdue = await books.audit()

    assert (young.findings, young.unsettled_count) == ([], 1)
    assert [f.kind for f in overdue.findings] == [FindingKind.UNRESOLVED_CLAIM]


async def test_a_missing_event_is_found(books: Books) -> None:
    """A hole between two stored events, with rows and cursor as they should be."""
    books.hold()
    await books.relay()
    del books.store.events[HOME, Position(1, 2)]

    assert FindingKind.SEQUENCE_GAP in kinds(await books.audit())


async def test_a_missing_last_event_is_found(books: Books) -> None:
    """No event after it tells of the hole; the cursor does."""
    books.hold()
    await books.relay()
    last = books.index.ledgers[HOME].at
    del books.store.events[HOME, last]

    assert FindingKind.SEQUENCE_GAP in kinds(await books.audit())


async def test_an_epoch_that_names_another_predecessor_is_found(books: Books) -> None:
    """EPOCH_STARTED says where the epoch before ended."""
    books.index.ledgers[HOME].take_over(books.index.now_ms)
    await books.relay()
    at = Position(2, 1)
    stored = books.store.events[HOME, at]
    books.store.events[HOME, at] = altered(stored, previous=Position(1, 1))

    assert FindingKind.SEQUENCE_GAP in kinds(await books.audit())


async def test_two_bodies_under_one_identity_are_found(books: Books) -> None:
    """The outbox and the order store tell different stories of one event."""
    await books.relay()
    stored = books.store.events[HOME, Position(1, 2)]
    books.store.events[HOME, Position(1, 2)] = altered(stored, time_ms=stored.event.time_ms + 1)

    assert FindingKind.FORK in kinds(await books.audit())


async def test_an_event_that_granted_too_much_is_found(books: Books) -> None:
    """Index, rows and events agree with each other, and still units were sold that were not there:
    ten on hand, one of them safety stock, ten held."""
    books.set_safety_stock(0)
    books.hold(quantity=10)
    books.set_safety_stock(1)
    await books.relay()

    report = await books.audit()

    assert kinds(report) == {FindingKind.OVERSOLD}
    assert report.oversold_count == 2


async def test_a_correction_below_demand_is_a_shortage_and_no_oversell(books: Books) -> None:
    """The feed may tell of fewer units than are held; no event granted too much."""
    books.hold(quantity=5)
    row = SupplyRow("sku-0", "node", "", 3, 0, "erp", 2)
    books.index.ledgers[HOME].sync_supply([row], books.index.now_ms)
    await books.relay()

    report = await books.audit()

    assert (report.findings, report.oversold_count, report.shortage_count) == ([], 0, 1)


async def test_a_sale_made_elsewhere_below_zero_is_a_shortage_and_no_oversell(
    books: Books,
) -> None:
    """Nobody granted it, and the books balance: what is owed is no leg's."""
    books.hold(quantity=5)
    row = AdjustRow("sku-0", "node", "", -12, "till-1", "body", sale=1)
    books.index.ledgers[HOME].adjust_supply([row], books.index.now_ms)
    await books.relay()

    report = await books.audit()

    assert (report.findings, report.oversold_count, report.shortage_count) == ([], 0, 1)


async def test_a_reservation_that_resolved_twice_is_found(books: Books) -> None:
    """A released claim that is confirmed by a later event."""
    rid = books.hold()
    books.move(rid, State.RELEASED)
    ledger = books.index.ledgers[HOME]
    ledger.set_claim(rid, ledger.claims[rid]._replace(state=State.CONFIRMED))
    ledger.emit(rid)
    await books.relay()

    assert FindingKind.ILLEGAL_MOVE in kinds(await books.audit())


async def test_a_leg_that_came_alive_again_is_found(books: Books) -> None:
    """A released leg of the same attempt that is held by a later event."""
    rid = books.hold()
    books.move(rid, State.RELEASED)
    ledger = books.index.ledgers[OTHER]
    ledger.set_leg(rid, ledger.legs[rid]._replace(state=State.HELD))
    ledger.emit(rid)
    await books.relay()

    assert FindingKind.ILLEGAL_MOVE in kinds(await books.audit())


async def test_rows_that_are_not_what_their_events_add_up_to_are_found(books: Books) -> None:
    """A position row changed by hand in the order store."""
    await books.relay()
    at, image = books.store._positions[HOME][books.key(HOME)]
    row = image.row._replace(on_hand=11)
    books.store._positions[HOME][books.key(HOME)] = (at, image._replace(row=row))

    assert kinds(await books.audit()) == {FindingKind.REPLAY_MISMATCH}


async def test_a_stored_reservation_changed_by_hand_is_found(books: Books) -> None:
    """The same for a reservation row."""
    rid = books.hold()
    await books.relay()
    stored = books.store._reservations[rid]
    claim = stored.claim._replace(state=State.CONFIRMED)
    books.store._reservations[rid] = stored._replace(claim=claim)

    assert kinds(await books.audit()) == {FindingKind.REPLAY_MISMATCH}


async def test_an_index_behind_its_order_store_is_found(books: Books) -> None:
    """The index lost events that were acknowledged as recorded."""
    books.hold()
    await books.relay()
    books.index.ledgers[OTHER] = ShardLedger(OTHER)
    books.index.ledgers[OTHER].take_over(books.index.now_ms)

    report = await books.audit()

    assert FindingKind.RESERVATION_DRIFT in kinds(report)
    assert report.consistent is False


async def test_events_on_their_way_are_counted_and_no_drift(books: Books) -> None:
    """A relay that lags is told of; the shard has no verdict on drift."""
    await books.relay()
    books.hold()

    report = await books.audit()

    assert report.findings == []
    assert report.in_flight_event_count == 3
    assert report.uncompared_shard_ids == [HOME, OTHER]


async def test_a_shard_that_never_stands_still_is_uncompared(books: Books) -> None:
    """No verdict is not a good one."""
    await books.relay()
    scan = books.index.scan

    async def scan_and_move(shard: int):  # type: ignore[no-untyped-def]
        if shard == OTHER:
            books.index.ledgers[shard].take_over(books.index.now_ms)
        return await scan(shard)

    books.index.scan = scan_and_move  # type: ignore[method-assign]

    report = await books.audit()

    assert (report.findings, report.uncompared_shard_ids) == ([], [OTHER])


async def test_findings_are_cut_at_the_limit_and_counted_whole(books: Books) -> None:
    """Counts are complete whatever the limit."""
    await books.relay()
    for index in range(5):
        books.index.ledgers[HOME].positions[PositionKey(f"x{index}", "n", "")] = StockPosition(-1)

    report = await books.audit(findings_max=3)

    assert (len(report.findings), report.finding_count) == (3, 10)
    assert report.drift_count == 5


async def test_only_the_named_shards_are_read(books: Books) -> None:
    """The fault is on the other one."""
    await books.relay()
    books.index.ledgers[OTHER].positions[books.key(OTHER)] = StockPosition(-1)

    report = await books.audit(shard_ids=[HOME])

    assert (report.shard_count, report.findings) == (1, [])


async def test_a_shard_that_is_being_taken_over_is_waited_for(books: Books) -> None:
    """An engine came back a moment ago and the service takes its shards over one by one."""
    books.hold()
    books.index.process = "process-2"

    async def take_over() -> None:
        for shard in range(2):
            await books.index.take_over(shard, books.index.ledgers[shard].at, 1.0)
        await books.relay()

    report, _ = await asyncio.gather(books.audit(settle_seconds=10.0), take_over())

    assert (report.findings, report.shard_count, report.uncompared_shard_ids) == ([], 2, [])


async def test_a_shard_that_nobody_takes_over_is_named(books: Books) -> None:
    """No verdict, and the error a caller can tell, not a group of them."""
    books.index.owners[OTHER] = "nobody"

    with pytest.raises(NotServing, match=f"shard {OTHER} "):
        await books.audit(shard_ids=[HOME])


async def test_an_engine_that_goes_away_in_the_audit_is_named(books: Books) -> None:
    """The first error, as itself."""

    async def away(shard: int) -> NoReturn:
        raise Unavailable(f"shard {shard} is away")

    books.index.scan = away  # type: ignore[method-assign]

    with pytest.raises(Unavailable, match="is away"):
        await books.audit()


def test_the_report_has_a_field_for_every_count_of_the_contract() -> None:
    """What VerifyResponse tells, the report knows under the same name."""
    names = {field.name for field in dataclasses.fields(VerifyReport)}

    assert names >= {
        "shard_count", "position_count", "order_store_event_count",
        "order_store_reservation_count", "in_flight_event_count", "oversold_count", "drift_count",
        "shortage_count", "finding_count", "findings",
    }  # fmt: skip


def test_a_leg_taken_for_a_change_that_is_not_decided_is_fine() -> None:
    """It is no contradiction while it has units, for it asks home and ends by itself; nor once it
    has none. One that is confirmed, or of another attempt, is."""
    claim = ClaimRecord(1, State.HELD, 5, 1, "b", "p", 0, 60_000, (1,), "{}", 1, 1, 1)
    leg = LegRecord(1, State.HELD, 5, "p", 60_000, 1, (LegLine("A", "n1", "", 1),))
    joining = leg._replace(change=2)

    told = [
        judge(claim, {1: leg, 2: other})[0]
        for other in (
            joining,
            joining._replace(lines=(LegLine("~C/2099-01-01/000", "n1", "", 0),)),
            joining._replace(state=State.CONFIRMED),
            joining._replace(attempt=4),
        )
    ]

    assert told == [Verdict.UNSETTLED, Verdict.FINE, Verdict.WRONG, Verdict.WRONG]


async def test_an_account_that_was_closed_is_no_finding_and_one_that_is_gone_is(
    books: Books,
) -> None:
    """Legs that took of it still name it. Without the event, its row is missed."""
    ledger = books.index.ledgers[OTHER]
    for name in ("~A/1969-01-01/000", "~B/1969-01-01/000"):
        line = LegLine(name, "node", "", 1, limit=3)
        ledger.create(CreateStep(name, 1, "plan", 1, 0, 0, (line,), ()), books.index.now_ms)
        ledger.follow(FollowStep(name, 1, State.CONFIRMED), books.index.now_ms)
        done = (line._replace(quantity=0, fulfilled=1),)
        ledger.conform(ConformStep(name, 1, 1, State.FULFILLED, 0, done), books.index.now_ms)
    assert [ledger.positions[PositionKey(line.sku, "node", "")].safety_stock] == [1]
    await books.relay()
    ledger.sweep(1, books.index.now_ms)
    await books.relay()
    closed = await books.audit()
    ledger.positions.pop(PositionKey(line.sku, "node", ""))

    assert [x.type for _, x in ledger.events].count(EventType.ACCOUNTS_CLOSED) == 1
    assert list(closed.findings) == []
    assert kinds(await books.audit()) != set()


def test_a_leg_that_joins_again_for_a_later_change_is_a_legal_move() -> None:
    """Asked for in vain and given up, then taken for another change; not for an earlier one."""
    ledger, now_ms = ShardLedger(1), 1_000_000
    ledger.take_over(now_ms)
    line = LegLine("~C/2099-01-01/000", "n1", "", 1, limit=3)
    join = CreateStep("r", 5, "p", 5_000, 2, 1, (line,), change=1)
    outcomes = [Outcome(ledger.create(join._replace(change=n), now_ms).outcome) for n in (1, 3)]
    ledger.sweep(9, now_ms + 5_001)
    outcomes.append(Outcome(ledger.create(join._replace(change=4), now_ms + 5_001).outcome))
    ledger.sweep(9, now_ms + 99_001)
    replay = Replay(1, WINDOW_MS)
    found = [x for at, e in ledger.events for x in replay.apply(StoredEvent(1, at, e, b""))]
    at, ended = ledger.events[-1]
    assert ended.leg
    taken = ended._replace(leg=ended.leg._replace(state=State.HELD, change=2))
    after = at._replace(sequence=at.sequence + 1)

    assert outcomes == [Outcome.DONE] * 3
    assert found == []
    assert [x.kind for x in replay.apply(StoredEvent(1, after, taken, b""))] == [
        FindingKind.ILLEGAL_MOVE
    ]
