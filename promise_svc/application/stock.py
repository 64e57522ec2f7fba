"""Stock figures of many SKUs, as fresh as the caller asked for: table first, shards if need be."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import IntEnum
from typing import NamedTuple, Protocol

from promise_svc.application.ports import AtsReader, AtsRow, Clock
from promise_svc.domain.bundle import bundle_units
from promise_svc.domain.events import PositionImage
from promise_svc.domain.inventory import StockPosition, ats, for_segment
from promise_svc.domain.network import BundleComponent, NetworkSnapshot
from promise_svc.domain.sharding import Position
from promise_svc.errors import PromiseServiceError, Unavailable
from promise_svc.hotpath import shard_of

FEED_BEHIND_MS = 5_000
"""Age from which the table says it is behind: five missed heartbeats of a second."""

SHARD_READS_MAX = 64
"""Shard reads under way at once for answers that may be stale; beyond it they stay stale."""

REFRESH_SECONDS_MAX = 0.25
"""The longest a read with a bound waits for a shard, and never more than half of its timeout: the
table's answer, said to be stale, is worth more than none. A healthy shard needs a millisecond."""


class DegradedReason(IntEnum):
    """Why an answer is degraded; numbers are the contract's, 0 where it is not."""

    NONE = 0
    FEED_BEHIND = 1
    INDEX_UNREACHABLE = 2
    READ_BUDGET_SPENT = 3


class Consistency(NamedTuple):
    """How fresh an answer must be; without a bound the table answers, however old it is."""

    max_age_ms: int | None = None
    strong: bool = False


class AsOf(NamedTuple):
    """The point in a shard's history that a SKU's figures come from."""

    shard_id: int
    at: Position
    time_ms: int
    """Shard time up to which they are current, ms since 1970."""


class Freshness(NamedTuple):
    """How fresh an answer is: its oldest part."""

    as_of_ms: int
    age_ms: int
    degraded: bool = False
    degraded_reason: DegradedReason = DegradedReason.NONE


class SkuStock(NamedTuple):
    """All positions of one SKU; None when it never had one."""

    rows: Sequence[AtsRow] | None
    as_of: AsOf
    protected: Mapping[tuple[str, str], StockPosition] = {}
    """Those that keep shares for segments, by node and bucket."""


class Stock(NamedTuple):
    """What one call computes with."""

    by_sku: Mapping[str, SkuStock]
    freshness: Freshness


class StockIndex(Protocol):
    """The part of ``AtsIndex`` that stock is read by."""

    shard_count: int

    async def read_positions(
        self, shard: int, skus: Sequence[str], timeout: float
    ) -> tuple[Position, int, list[list[PositionImage]]]: ...


class StockSource:
    """Reads stock for the use cases. One a process; its budget is shared by all calls."""

    def __init__(
        self,
        *,
        table: AtsReader,
        index: StockIndex,
        network: Callable[[], NetworkSnapshot],
        clock: Clock,
        feed_behind_ms: int = FEED_BEHIND_MS,
        shard_reads_max: int = SHARD_READS_MAX,
    ) -> None:
        self.copy = table
        self.search = table.search
        """What finds the plans of plain carts in the table; None where nothing is compiled."""
        self._index = index
        self._network = network
        self._clock = clock
        self._feed_behind_ms = feed_behind_ms
        self._shard_reads_max = shard_reads_max
        self._flights: dict[str, asyncio.Task[dict[str, SkuStock]]] = {}
        self._shard_read_count = 0

    async def read(
        self, skus: Iterable[str], consistency: Consistency, timeout: float, segment: str = ""
    ) -> Stock:
        """Stock of ``skus`` for a sale to ``segment``: safety stock includes what is protected for
        others and unsold. ``timeout`` in seconds bounds reads of shards.

        Raises what ``StockIndex.read_positions`` raises for a strong read, and Unavailable where
        the table never heard of a shard that cannot be read either. Cost: a look-up a SKU, plus
        one round trip where a shard must be asked (shards in parallel).

        A bundle has a row at each node that has all its components: as many on hand as can be sold
        there, as old as the oldest of them.
        """
        wanted = dict.fromkeys(skus)
        bundles = self._network().bundles
        if bundles.keys().isdisjoint(wanted):
            return _to(segment, await self._read(list(wanted), consistency, timeout))
        asked = {sku: bundles[sku] for sku in wanted if sku in bundles}
        counted = [sku for sku in wanted if sku not in asked]
        counted += [part.sku for parts in asked.values() for part in parts]
        found = await self._read(list(dict.fromkeys(counted)), consistency, timeout)
        stock = _to(segment, found)
        whole = {sku: _bundled(parts, stock.by_sku) for sku, parts in asked.items()}
        return stock._replace(by_sku={**stock.by_sku, **whole})

    async def _read(self, wanted: list[str], consistency: Consistency, timeout: float) -> Stock:
        if consistency.strong:
            known = await self._read_shards(wanted, timeout)
            now_ms = self._clock.now_ms()
            as_of_ms = min((stock.as_of.time_ms for stock in known.values()), default=now_ms)
            return Stock(known, Freshness(as_of_ms, 0))
        known = {sku: self._in_table(sku) for sku in wanted}
        stale = [sku for sku in wanted if self._too_old(known[sku].as_of.time_ms, consistency)]
        reason = DegradedReason.NONE
        if stale:
            # Where the table has nothing to fall back on, the shard gets all the time there is.
            heard = all(known[sku].as_of.time_ms for sku in stale)
            patience = min(timeout / 2, REFRESH_SECONDS_MAX) if heard else timeout
            fresh, reason = await self._refreshed(stale, timeout, patience)
            known |= fresh
            self._refuse_unknown(known)
        return self._answer(known, reason)

    def table(self, skus: Iterable[str]) -> Stock:
        """Stock as the table has it: no I/O, no bound."""
        known = {sku: self._in_table(sku) for sku in skus}
        return self._answer(known, DegradedReason.NONE)

    def fresh(
        self, skus: Sequence[str], consistency: Consistency, segment: str = ""
    ) -> Freshness | None:
        """How fresh the table is for ``skus``, none of them a bundle; None where ``read`` would ask
        shards, or has shares for segments to count."""
        if consistency.strong:
            return None
        oldest_ms = min([self.copy.as_of(sku)[1] for sku in skus])
        if self._too_old(oldest_ms, consistency):
            return None
        if segment and any(self.copy.protected(sku) for sku in skus):
            return None
        return self._freshness(oldest_ms, DegradedReason.NONE)

    def _in_table(self, sku: str) -> SkuStock:
        shard = self.copy.shard(sku)
        if shard is None:  # never seen, as far as the shard that would have it was followed
            shard = self._shard(sku)
        as_of = AsOf(shard, *self.copy.clock(shard))
        return SkuStock(self.copy.rows(sku), as_of, self.copy.protected(sku))

    def _shard(self, sku: str) -> int:
        return shard_of(self._network().shard_key(sku), self._index.shard_count)

    def _too_old(self, time_ms: int, consistency: Consistency) -> bool:
        if time_ms == 0:  # the table never heard of the shard: it cannot answer at all
            return True
        if consistency.max_age_ms is None:
            return False
        return self._clock.now_ms() - time_ms > consistency.max_age_ms

    def _refuse_unknown(self, known: Mapping[str, SkuStock]) -> None:
        missing = sorted({s.as_of.shard_id for s in known.values() if s.as_of.time_ms == 0})
        if missing:
            raise Unavailable(
                f"shards {missing} are neither in the table yet nor to be reached",
                shards=",".join(map(str, missing)),
            )

    def _answer(self, known: Mapping[str, SkuStock], reason: DegradedReason) -> Stock:
        as_of_ms = min((stock.as_of.time_ms for stock in known.values()), default=None)
        return Stock(known, self._freshness(as_of_ms, reason))

    def _freshness(self, as_of_ms: int | None, reason: DegradedReason) -> Freshness:
        now_ms = self._clock.now_ms()
        if as_of_ms is None:
            as_of_ms = now_ms
        age_ms = max(0, now_ms - as_of_ms)
        if not reason and age_ms > self._feed_behind_ms:
            reason = DegradedReason.FEED_BEHIND
        return Freshness(as_of_ms, age_ms, bool(reason), reason)

    async def _refreshed(
        self, skus: Sequence[str], timeout: float, patience: float
    ) -> tuple[dict[str, SkuStock], DegradedReason]:
        """What could be read of the shards in ``patience`` seconds, and why the rest could not.
        Reads of a SKU already under way are joined; one that is late goes on for who comes next.
        """
        flights = {self._flights[sku] for sku in skus if sku in self._flights}
        reason = DegradedReason.NONE
        for shard, shard_skus in self._by_shard(s for s in skus if s not in self._flights).items():
            if self._shard_read_count >= self._shard_reads_max:
                reason = DegradedReason.READ_BUDGET_SPENT
            else:
                flights.add(self._take_off(shard, shard_skus, timeout))
        if flights:
            # A caller that gives up cancels its waiting, never a read that others joined.
            await asyncio.wait(flights, timeout=patience)
        fresh: dict[str, SkuStock] = {}
        for flight in flights:
            if flight.done() and not flight.cancelled() and flight.exception() is None:
                fresh |= flight.result()
            else:
                reason = DegradedReason.INDEX_UNREACHABLE
        return {sku: fresh[sku] for sku in skus if sku in fresh}, reason

    def _take_off(
        self, shard: int, skus: Sequence[str], timeout: float
    ) -> asyncio.Task[dict[str, SkuStock]]:
        flight = asyncio.create_task(self._read_shard(shard, skus, timeout))
        self._shard_read_count += 1
        self._flights |= dict.fromkeys(skus, flight)

        def land(flight: asyncio.Task[dict[str, SkuStock]]) -> None:
            self._shard_read_count -= 1
            for sku in skus:
                del self._flights[sku]
            if not flight.cancelled():
                flight.exception()  # seen, also when every caller has gone

        flight.add_done_callback(land)
        return flight

    async def _read_shards(self, skus: Sequence[str], timeout: float) -> dict[str, SkuStock]:
        by_shard = self._by_shard(skus)
        reads = (self._read_shard(shard, some, timeout) for shard, some in by_shard.items())
        answers = await asyncio.gather(*reads, return_exceptions=True)
        failed = [answer for answer in answers if isinstance(answer, BaseException)]
        if failed:
            # Ours first: they say whether the same call may be sent again.
            raise min(failed, key=lambda error: not isinstance(error, PromiseServiceError))
        return {
            sku: stock
            for answer in answers
            if not isinstance(answer, BaseException)
            for sku, stock in answer.items()
        }

    async def _read_shard(
        self, shard: int, skus: Sequence[str], timeout: float
    ) -> dict[str, SkuStock]:
        at, time_ms, answers = await self._index.read_positions(shard, skus, timeout)
        as_of = AsOf(shard, at, time_ms)
        return {
            sku: SkuStock(_rows(images), as_of, _protected(images))
            for sku, images in zip(skus, answers, strict=True)
        }

    def _by_shard(self, skus: Iterable[str]) -> dict[int, list[str]]:
        found: dict[int, list[str]] = defaultdict(list)
        for sku in skus:
            found[self._shard(sku)].append(sku)
        return found


def _bundled(parts: Sequence[BundleComponent], stock: Mapping[str, SkuStock]) -> SkuStock:
    at_node: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for sku, quantity in parts:
        for node_id, units in here_now(stock[sku].rows or ()).items():
            at_node[node_id].append((units, quantity))
    rows = [
        AtsRow(node_id, "", bundle_units(sets), 0, 0, 0)
        for node_id, sets in at_node.items()
        if len(sets) == len(parts)
    ]
    return SkuStock(rows, min((stock[sku].as_of for sku, _ in parts), key=lambda a: a.time_ms))


def _rows(images: Sequence[PositionImage]) -> list[AtsRow] | None:
    rows = [
        AtsRow(image.node_id, image.bucket, *for_segment(image.row, ""), image.row.arrival_ms)
        for image in images
    ]
    return rows or None


def _protected(images: Sequence[PositionImage]) -> dict[tuple[str, str], StockPosition]:
    return {(i.node_id, i.bucket): i.row for i in images if i.row.protected}


def row_ats(row: AtsRow) -> int:
    """What can be sold of one position, here now or on its way."""
    return ats(*row[2:6])


def here_now(rows: Iterable[AtsRow]) -> dict[str, int]:
    """Node -> ATS of one SKU: its buckets are no part of what can be sold now."""
    return {
        node_id: ats(on_hand, committed, held, safety_stock)
        for node_id, bucket, on_hand, committed, held, safety_stock, _ in rows
        if not bucket
    }


def rows_to(
    segment: str,
    rows: Sequence[AtsRow] | None,
    protected: Mapping[tuple[str, str], StockPosition],
) -> Sequence[AtsRow] | None:
    """Rows for a sale to a segment, of rows for a sale to none."""
    if not segment or not protected or not rows:
        return rows
    return [
        AtsRow(*row[:2], *for_segment(protected[row[:2]], segment), *row[6:])
        if row[:2] in protected
        else row
        for row in rows
    ]


def rows_of(table: AtsReader, sku: str, segment: str) -> Sequence[AtsRow]:
    """The table's rows of a SKU for a sale to a segment."""
    return rows_to(segment, table.rows(sku), table.protected(sku)) or ()


def ats_at(table: AtsReader, sku: str, node_id: str, segment: str, bucket: str = "") -> int:
    """What the table says can be sold of one position to a segment."""
    if not segment and not bucket:
        return table.ats(sku, [node_id])
    rows = rows_of(table, sku, segment)
    return sum(map(row_ats, (row for row in rows if row[:2] == (node_id, bucket))))


def _to(segment: str, stock: Stock) -> Stock:
    if not segment:
        return stock
    found = stock.by_sku.items()
    return stock._replace(
        by_sku={s: x._replace(rows=rows_to(segment, x.rows, x.protected)) for s, x in found}
    )
