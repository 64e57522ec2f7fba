"""What must hold of shares, limits, supply on its way and nodes that are off, event by event.

Worked out from the events alone and from what the seed has drawn, beside what the shards count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from promise_svc.domain.capacity import is_account
from promise_svc.domain.events import Event, PositionImage
from promise_svc.domain.inventory import ARRIVED, PositionKey, StockPosition
from promise_svc.domain.reservation import OPEN, LegLine, LegRecord, State
from tests.sim.draws import Draws

_ALIVE = OPEN | {State.CONFIRMED}
_NO_LEG = LegRecord(1, State.ABORTED, 0, "", 0, 0, ())


class StockLaws:
    """Follows the events of all shards; each SKU and each count lives in one of them."""

    def __init__(self, draws: Draws, off: set[str], broken: Callable[[str], None]) -> None:
        """``off`` are the nodes that are off now, and whoever asked for it was told so."""
        self._limits = draws.limits()
        self._orders_per_day = draws.orders_per_day
        self._off = off
        self._broken = broken
        self._rows: dict[PositionKey, StockPosition] = {}
        self._legs: dict[tuple[int, str], LegRecord] = {}
        self._growing: dict[str, bool] = {}
        """Reservations that have units at two places until a change of theirs is decided."""
        self._taken: dict[tuple[PositionKey, str], int] = {}

    def follow(self, shard: int, event: Event) -> None:
        before = self._legs.get((shard, event.subject), _NO_LEG)
        leg = event.leg or before
        older = self._legs.get((shard, leg.replaces), _NO_LEG) if event.leg else _NO_LEG
        if event.leg:
            self._legs[shard, event.subject] = event.leg
            if event.leg.attempt != before.attempt:
                before = _NO_LEG
                self._off_nodes(event.subject, event.leg)
        units, had = _units(leg), _units(before)
        grown = {key: units.get(key, 0) - had.get(key, 0) for key in units.keys() | had.keys()}
        self._conserved(event, grown)
        for image in event.positions:
            key = PositionKey(*image[:3])
            self._shares(key, image.row, leg, grown.get(key, 0))
            if grown.get(key, 0) > 0:
                self._granted(key, image.row, leg.segment, older)
            if is_account(key.sku):
                self._counted_orders(event, key, image.row, grown.get(key, 0))
            if image.row.arrival_ms == ARRIVED and (
                image.row.on_hand > image.row.committed + image.row.held
            ):
                self._broken(f"{key} is here and keeps what nobody has of it: {image.row[:4]}")
            if image.row.arrival_ms == ARRIVED:
                self._owed_first(event, key, image.row)
            self._rows[key] = image.row
        if event.claim:
            self._growing[event.subject] = '"growing":true' in event.claim.body
        if event.leg and self._limits and not self._growing.get(event.subject):
            self._limited(shard, event.leg, grown, older)

    def _off_nodes(self, rid: str, leg: LegRecord) -> None:
        for line in leg.lines:
            if line.node_id in self._off and leg.state in _ALIVE:
                self._broken(f"{rid} is held at {line.node_id}, which is off")

    def _conserved(self, event: Event, grown: dict[PositionKey, int]) -> None:
        """Counts come from supply, and go with what leaves; holds and orders do not move else."""
        rows = [(x, self._before(x)) for x in event.positions if not is_account(x.sku)]
        if not event.leg and not event.claim:
            for image, old in rows:
                now = image.row
                if (now.held, now.committed - now.sold_short) != (
                    old.held,
                    old.committed - old.sold_short,
                ):
                    self._broken(f"supply moved holds or orders of {image[:3]}: {now[:4]}")
                stood = _there(old) + old.fulfilled_total
                if now.source == "net" and _there(now) + now.fulfilled_total != stood:
                    self._broken(f"a figure net of orders moved what is there: {image[:3]}: {now}")
            return
        left = sum(image.row.fulfilled_total - old.fulfilled_total for image, old in rows)
        gone = sum(_there(old) - _there(image.row) for image, old in rows)
        stopped = any(image.row.on_hand == 0 for image, _ in rows)
        if gone != left and not (stopped and 0 <= gone < left):
            self._broken(f"{event.subject}: {left} units left, and {gone} are gone")

    def _counted_orders(
        self, event: Event, key: PositionKey, row: StockPosition, grown: int
    ) -> None:
        """No day has more orders than its node works, none goes but with its hold or order, and
        each reservation is one."""
        orders = row.committed + row.held + row.safety_stock
        most = self._orders_per_day[key.node_id]
        own = 1 if event.leg and event.leg.replaces else 0
        if grown > 0 and orders - own > most:
            self._broken(f"{key}: {orders} orders, at most {most}: {event.subject}")
        if grown not in (-1, 0, 1):
            self._broken(f"{key}: {event.subject} counts for {grown} orders")
        old = self._rows.get(key, StockPosition())
        if orders - (old.committed + old.held + old.safety_stock) != grown:
            self._broken(f"{key}: {orders} orders, {grown} more than {old[:4]}")

    def _owed_first(self, event: Event, key: PositionKey, row: StockPosition) -> None:
        """Nothing of a bucket becomes stock here now while its own holds and orders lack units."""
        lacking = row.on_hand < row.committed + row.held
        for image in event.positions if lacking else ():
            gains = _there(image.row) > _there(self._before(image))
            if gains and image[:3] == key._replace(bucket=""):
                self._broken(f"{key} passes on what its holds and orders have: {row[:4]}")

    def _before(self, image: PositionImage) -> StockPosition:
        return self._rows.get(PositionKey(*image[:3]), StockPosition())

    def _shares(self, key: PositionKey, row: StockPosition, leg: LegRecord, grown: int) -> None:
        """What a segment has taken of its share is what legs taken since it began have of it."""
        known = {share.segment for share in self._rows.get(key, StockPosition()).protected}
        for share in row.protected:
            taken = self._taken.get((key, share.segment), 0) if share.segment in known else 0
            younger = (share.epoch, share.sequence) <= (leg.epoch, leg.sequence)
            if share.segment == leg.segment and younger:
                taken += grown
            self._taken[key, share.segment] = taken
            if share.taken != taken:
                self._broken(f"{key}: {share} has taken {taken} by its legs")

    def _granted(
        self, key: PositionKey, row: StockPosition, segment: str, older: LegRecord
    ) -> None:
        kept = sum(
            max(0, share.level - self._taken[key, share.segment])
            for share in row.protected
            if share.segment != segment
        )
        # Shares are of stock: a day is the owner's own, whoever it was for.
        unshared = is_account(key.sku) or older.segment in ("", segment)
        ours = older.state == State.HELD and unshared
        own = sum(line.quantity for line in older.lines if ours and line[:3] == key)
        if row.committed + row.held - own > row.on_hand - row.safety_stock - kept:
            self._broken(f"{key} sold {segment!r} what is kept for others: {row}")

    def _limited(
        self, shard: int, leg: LegRecord, grown: dict[PositionKey, int], older: LegRecord
    ) -> None:
        """Nobody has more than a limit allows, once they got more: the limit as their leg took it
        along, for it may be another by now."""
        for sku in {key.sku for key, units in grown.items() if units > 0} & self._limits.keys():
            counter, _ = self._limits[sku]
            mine = [x for x in leg.limits if (x.counter, x.sku) == (counter, sku)]
            if not mine:
                self._broken(f"a leg of {sku} without its limit")
                continue
            window, limit = mine[0].window, mine[0]
            have = sum(
                self._counted(other, counter, window)
                for (number, _), other in self._legs.items()
                if number == shard and other.owner == leg.owner
            )
            own = self._counted(older, counter, window) if older.state == State.HELD else 0
            if have - own > limit.quantity_max:
                self._broken(f"{leg.owner} has {have - own} of {counter}: {limit}")

    def _counted(self, leg: LegRecord, counter: str, window: int) -> int:
        alive = leg.state in _ALIVE
        skus = {x.sku for x in leg.limits if (x.counter, x.window) == (counter, window)}
        windows = any(x.window_ms for x in leg.limits if x.sku in skus)
        return sum(
            line.quantity * alive + line.fulfilled * windows
            for line in leg.lines
            if line.sku in skus
        )


def _there(row: StockPosition) -> int:
    return row.on_hand - row.sold_short


def _units(leg: LegRecord) -> dict[PositionKey, int]:
    """What a leg has taken and not given back."""
    return {PositionKey(*line[:3]): taken for line, taken in _taken(leg) if taken}


def _taken(leg: LegRecord) -> Iterator[tuple[LegLine, int]]:
    for line in leg.lines:
        yield line, line.fulfilled + line.quantity * (leg.state in _ALIVE)


__all__ = ["StockLaws"]
