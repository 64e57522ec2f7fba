"""Take stock in: absolute counts, changes, sales made elsewhere; each row with its own outcome.

Rows go to their shards in parallel, a shard's rows in request order. A shard that is away does not
keep the others from applying theirs; the call then ends in an error that says so, because the
contract has no outcome for a row nobody answered. All calls are idempotent: sent again, they
finish the rest.

A row's shard is that of its item's shard key, in a network that may be a poll old. Shard keys are
fixed, so such a network has the right one or lacks the item; then the row is UNKNOWN_SKU, as it was
before the item, and is sent again. It never goes to the shard of the SKU's own hash: a position
there without an item would have had the item with that shard key refused (``ShardKeys``).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from enum import IntEnum
from typing import NamedTuple, Protocol, TypeVar

from promise_svc.application.own_writes import OwnWrites
from promise_svc.application.ports import AtsIndex
from promise_svc.application.tasks import Deadline, OwnedTasks
from promise_svc.domain.network import NetworkSnapshot
from promise_svc.domain.reservation import (
    AdjustRow,
    DurabilityMode,
    Outcome,
    ProtectRow,
    SupplyReply,
    SupplyRow,
)
from promise_svc.errors import (
    DeadlineExceeded,
    OutcomeUnknown,
    PromiseServiceError,
    Unavailable,
)
from promise_svc.hotpath import shard_of

ROWS_MAX = 1_000
"""Most rows of one call."""

SHARD_ROWS_MAX = 100
"""Most rows of one call to a shard, which answers nobody else meanwhile: about a millisecond."""

KEEP_SAFETY_STOCK = -1


class SupplyOutcome(IntEnum):
    """What happened to one row; numbers are the contract's and the precedence."""

    APPLIED = 1
    UNCHANGED = 2
    IDEMPOTENCY_KEY_REUSED = 10
    IDEMPOTENCY_WINDOW_PASSED = 15
    UNKNOWN_SKU = 20
    BUNDLE = 25
    UNKNOWN_NODE = 30
    STALE_SEQUENCE = 40
    ALREADY_ARRIVED = 45
    MORE_THAN_ORDERED = 48
    BELOW_ZERO = 50
    QUANTITY_TOO_LARGE = 60
    TOO_MANY_SEGMENTS = 70


class SupplyCount(NamedTuple):
    """The count of one position."""

    sku: str
    node_id: str
    bucket: str
    on_hand: int
    safety_stock: int = KEEP_SAFETY_STOCK
    """KEEP_SAFETY_STOCK leaves it as it is."""
    arrival_ms: int = 0
    """As in ``SupplyRow``."""
    deducted: int = -1
    """As in ``SupplyRow``."""


class SupplyDelta(NamedTuple):
    """A change of one position; negative takes."""

    sku: str
    node_id: str
    bucket: str
    quantity_delta: int


class ProtectionLevel(NamedTuple):
    """The share of one position of stock here now that is kept for a segment; 0 for none."""

    sku: str
    node_id: str
    segment: str
    level: int


class SaleLine(NamedTuple):
    """Units of stock here now that were sold elsewhere."""

    sku: str
    node_id: str
    quantity: int


class SupplyResult(NamedTuple):
    """What happened to one row, and the position after it."""

    outcome: SupplyOutcome
    on_hand: int = 0
    ats: int = 0
    shortage: int = 0
    replayed: bool = False


class SupplyAnswer(NamedTuple):
    """One result a row, in request order."""

    results: tuple[SupplyResult, ...]
    durability: DurabilityMode


_OUTCOMES = {
    Outcome.DONE: SupplyOutcome.APPLIED,
    Outcome.REPEATED: SupplyOutcome.APPLIED,
    Outcome.UNCHANGED: SupplyOutcome.UNCHANGED,
    Outcome.BODY_DIFFERS: SupplyOutcome.IDEMPOTENCY_KEY_REUSED,
    Outcome.WINDOW_PASSED: SupplyOutcome.IDEMPOTENCY_WINDOW_PASSED,
    Outcome.STALE_SEQUENCE: SupplyOutcome.STALE_SEQUENCE,
    Outcome.BELOW_ZERO: SupplyOutcome.BELOW_ZERO,
    Outcome.ABOVE_MAXIMUM: SupplyOutcome.QUANTITY_TOO_LARGE,
    Outcome.ALREADY_ARRIVED: SupplyOutcome.ALREADY_ARRIVED,
    Outcome.MORE_THAN_ORDERED: SupplyOutcome.MORE_THAN_ORDERED,
    Outcome.TOO_MANY_SEGMENTS: SupplyOutcome.TOO_MANY_SEGMENTS,
}

_RowT = TypeVar("_RowT", SupplyRow, AdjustRow, ProtectRow)
_Row = SupplyRow | AdjustRow | ProtectRow
_Send = Callable[[int, Sequence[_RowT], float], Awaitable[list[SupplyReply]]]
_Answered = dict[int, SupplyResult]
"""Results by row index."""


def _counts_last(indexed: tuple[int, _Row]) -> bool:
    """Whether a row counts what arrives by other rows of its report too: those come first."""
    _, row = indexed
    return isinstance(row, SupplyRow) and bool(row.arrived_counted) and not row.bucket


class SupplyObserver(Protocol):
    """Who counts rows by what became of them, and sales made elsewhere."""

    def answered(self, outcome: SupplyOutcome, row_count: int) -> None:
        """So many rows of a call that was answered."""
        ...

    def sold_elsewhere(self, line_count: int, short_count: int) -> None:
        """Lines newly recorded, and how many of them found or left a shortage."""
        ...


class SupplyWriter:
    """The use cases of SupplyService."""

    def __init__(
        self,
        *,
        index: AtsIndex,
        network: Callable[[], NetworkSnapshot],
        tasks: OwnedTasks,
        own_writes: OwnWrites,
        durability: DurabilityMode,
        observer: SupplyObserver,
    ) -> None:
        """``durability`` is what the index's acknowledgement survives; ``tasks`` carry rows to
        their end when the caller goes away, for half a report is worse than all of it."""
        self._index = index
        self._network = network
        self._own_writes = own_writes
        self._durability = durability
        self._tasks = tasks
        self._observer = observer

    async def sync(
        self,
        source: str,
        source_sequence: int,
        rows: Sequence[SupplyCount],
        timeout: float,
        *,
        arrived_counted: bool = False,
    ) -> SupplyAnswer:
        """Set positions to counts; each position at most once, up to ROWS_MAX rows.
        ``arrived_counted`` as of ``SupplyRow``.

        Unavailable or OutcomeUnknown when a shard could not be asked or did not answer; rows of
        other shards are applied. ``timeout`` in seconds is for all of it. Cost: a round trip,
        another where a SKU has no item.
        """
        counted = int(arrived_counted)
        sent = [
            SupplyRow(*row[:5], source, source_sequence, row.arrival_ms, counted, row.deducted)
            for row in rows
        ]
        return await self._tasks.shielded(self._apply(sent, self._index.sync_supply, timeout))

    async def protect(self, rows: Sequence[ProtectionLevel], timeout: float) -> SupplyAnswer:
        """Keep shares of stock here now for segments. Errors and cost as ``sync``."""
        sent = [ProtectRow(row.sku, row.node_id, "", row.segment, row.level) for row in rows]
        return await self._tasks.shielded(self._apply(sent, self._index.protect, timeout))

    async def adjust(
        self, idempotency_key: str, create_ms: int, rows: Sequence[SupplyDelta], timeout: float
    ) -> SupplyAnswer:
        """Add or take units, each row once per key. ``create_ms`` is when the caller made up the
        key, ms since 1970, 0 where it does not say; one older than the window is refused. Errors as
        ``sync``; cost: two round trips."""
        key = AdjustRow("", "", "", 0, idempotency_key, _body_hash(rows), create_ms)
        return await self._tasks.shielded(self._adjust(key, rows, timeout))

    async def record_sale(
        self, sale_id: str, create_ms: int, lines: Sequence[SaleLine], timeout: float
    ) -> SupplyAnswer:
        """Take what was sold elsewhere, each line once per sale, whether or not it is there; what
        is not becomes shortage. ``create_ms``, errors and cost as ``adjust``."""
        rows = [SupplyDelta(line.sku, line.node_id, "", -line.quantity) for line in lines]
        # A blank stands in no id of a caller's, and "sale" is no row's number: sales and changes
        # do not share their keys.
        key = AdjustRow("", "", "", 0, f"{sale_id} sale", _body_hash(rows), create_ms, sale=1)
        return await self._tasks.shielded(self._adjust(key, rows, timeout))

    async def _adjust(
        self, key: AdjustRow, rows: Sequence[SupplyDelta], timeout: float
    ) -> SupplyAnswer:
        """The key is claimed at its own home shard first, so that another body is recognised
        wherever its rows go. Rows go by the key's age again: their shards may have forgotten what
        they did while home still knows the key."""
        deadline = Deadline(timeout)
        home = shard_of(key.idempotency_key, self._index.shard_count)
        claimed = (await self._index.adjust_supply(home, [key], timeout))[0]
        if claimed.outcome in (Outcome.BODY_DIFFERS, Outcome.WINDOW_PASSED):
            refused = SupplyResult(_OUTCOMES[Outcome(claimed.outcome)])
            return self._answer([refused] * len(rows))
        sent = [
            key._replace(**row._asdict(), idempotency_key=f"{key.idempotency_key} {index}")
            for index, row in enumerate(rows)
        ]
        return await self._apply(sent, self._index.adjust_supply, deadline.left())

    async def _apply(
        self, rows: Sequence[_RowT], send: _Send[_RowT], timeout: float
    ) -> SupplyAnswer:
        deadline = Deadline(timeout)
        refused = await self._refused(rows, timeout)
        shards = self._by_shard(
            (index, row.sku)
            for index, row in sorted(enumerate(rows), key=_counts_last)
            if index not in refused
        )

        async def tell(shard: int, indices: Sequence[int]) -> _Answered | PromiseServiceError:
            answered: _Answered = {}
            try:
                for start in range(0, len(indices), SHARD_ROWS_MAX):
                    chunk = indices[start : start + SHARD_ROWS_MAX]
                    if not (left := deadline.left()):
                        raise DeadlineExceeded("time ran out before all rows were sent")
                    replies = await send(shard, [rows[index] for index in chunk], left)
                    self._count_sales([rows[index] for index in chunk], replies)
                    for index, reply in zip(chunk, replies, strict=True):
                        answered[index] = _result(reply)
            except PromiseServiceError as error:
                return error
            return answered

        answers = await asyncio.gather(*(tell(*each) for each in shards.items()))
        failed = {
            shard: answer
            for shard, answer in zip(shards, answers, strict=True)
            if isinstance(answer, PromiseServiceError)
        }
        if failed:
            raise _failure(failed, sum(len(shards[shard]) for shard in failed), len(rows))
        await self._own_writes.visible(shards)
        results = dict(refused)
        for answer in answers:
            assert not isinstance(answer, PromiseServiceError), "failures were raised above"
            results |= answer
        return self._answer([results[i] for i in range(len(rows))])

    def _answer(self, results: Sequence[SupplyResult]) -> SupplyAnswer:
        for outcome, row_count in Counter(result.outcome for result in results).items():
            self._observer.answered(outcome, row_count)
        return SupplyAnswer(tuple(results), self._durability)

    async def _refused(self, rows: Sequence[_Row], timeout: float) -> _Answered:
        """Rows that name what does not exist, in the contract's precedence."""
        snapshot = self._network()
        doubtful = {row.sku for row in rows if snapshot.item(row.sku) is None}
        unknown = await self._without_position(doubtful, timeout) if doubtful else doubtful
        refused: _Answered = {}
        for index, row in enumerate(rows):
            if row.sku in unknown:
                refused[index] = SupplyResult(SupplyOutcome.UNKNOWN_SKU)
            elif row.sku in snapshot.bundles:
                refused[index] = SupplyResult(SupplyOutcome.BUNDLE)
            elif snapshot.node(row.node_id) is None:
                refused[index] = SupplyResult(SupplyOutcome.UNKNOWN_NODE)
        return refused

    async def _without_position(self, skus: Iterable[str], timeout: float) -> set[str]:
        """Of SKUs that are no items, those that have no position either; asked of the shards,
        because the table may not have heard of a SKU yet."""
        ordered = sorted(skus)
        shards = self._by_shard(enumerate(ordered))
        answers = await asyncio.gather(
            *(
                self._index.read_positions(shard, [ordered[i] for i in indices], timeout)
                for shard, indices in shards.items()
            )
        )
        return {
            ordered[index]
            for indices, (_, _, found) in zip(shards.values(), answers, strict=True)
            for index, images in zip(indices, found, strict=True)
            if not images
        }

    def _count_sales(self, rows: Sequence[_Row], replies: Sequence[SupplyReply]) -> None:
        """Here, because a call may record some lines and then fail."""
        new = [
            reply
            for row, reply in zip(rows, replies, strict=True)
            if isinstance(row, AdjustRow) and row.sale and reply.outcome == Outcome.DONE
        ]
        if new:
            self._observer.sold_elsewhere(len(new), sum(reply.shortage > 0 for reply in new))

    def _by_shard(self, skus: Iterable[tuple[int, str]]) -> dict[int, list[int]]:
        snapshot = self._network()
        shards: dict[int, list[int]] = defaultdict(list)
        for index, sku in skus:
            shards[shard_of(snapshot.shard_key(sku), self._index.shard_count)].append(index)
        return shards


def _result(reply: SupplyReply) -> SupplyResult:
    outcome = Outcome(reply.outcome)
    return SupplyResult(
        _OUTCOMES[outcome], reply.on_hand, reply.ats, reply.shortage, outcome is Outcome.REPEATED
    )


def _failure(
    failed: Mapping[int, PromiseServiceError], failed_count: int, row_count: int
) -> PromiseServiceError:
    """What a call is told when shards failed; the reason that promises least wins."""
    shards = ",".join(map(str, sorted(failed)))
    reasons = ", ".join(sorted({error.reason for error in failed.values()}))
    text = f"{failed_count} of {row_count} rows have no answer ({reasons}); send the same again"
    known_untouched = (Unavailable, DeadlineExceeded)
    kind = (
        Unavailable
        if all(isinstance(error, known_untouched) for error in failed.values())
        else OutcomeUnknown
    )
    return kind(text, shards=shards, row_count=failed_count)


def callers_key(subject: str) -> str:
    """The id that a caller gave, of a key made here from it; any other id as it is."""
    return subject.partition(" ")[0]


def _body_hash(rows: Sequence[SupplyDelta]) -> str:
    return hashlib.blake2b(json.dumps(rows).encode(), digest_size=16).hexdigest()
