"""Node capacity: how many orders a node works of a day by a method, counted in accounts.

An account is a position that has no stock but counts: on hand is the most it may come to, safety
stock what left already, so that what is available to sell is what is left. A shipment takes one
unit of the account of its working day in the same all-or-nothing hold as its stock. It is given
back with the hold or the order, but not when the goods leave: that day's work was done.

An account is one row in one shard, found by its name alone. It has no row before its first order,
and its limit comes with every line that takes of it, from the network that the plan was made on:
an edit of the network reaches it by the network floor. Long after its day the sweeper deletes it,
unless an order of it has not left.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from functools import lru_cache
from typing import NamedTuple

from promise_svc.domain.network import FulfillmentMethod, NetworkSnapshot
from promise_svc.domain.reservation import LegLine
from promise_svc.domain.sharding import shard_of

CAPACITY_MAX = 1_000_000
"""Most orders of a day."""

WORK_DAYS_MAX = 14
"""Working days looked ahead for one with room; beyond them a node is full."""

ACCOUNT_KEPT_MS = 32 * 86_400_000
"""From a day's beginning in UTC on: 30 days beyond its end anywhere on Earth."""

ACCOUNT_LOOK_MS = 86_400_000
"""Between two looks at one that is as old and still has orders that have not left."""

_PREFIX = "~"
"""Begins no SKU of a caller's."""

_ACCOUNTS_KEPT = 65_536
"""Names kept: some 200 bytes each."""

_EPOCH = date(1970, 1, 1)

_SPREAD = 4096
"""Accounts of one day and method share this many names, so that they spread over all shards."""


class CapacityUse(NamedTuple):
    """The unit of an account that a reservation's shipments from one node take."""

    account: str
    node_id: str
    shard: int
    limit: int
    """As of the plan."""
    buckets: tuple[str, ...]
    """Of its lines at the node, those whose units are worked then; empty for stock here now."""


@lru_cache(maxsize=_ACCOUNTS_KEPT)
def account_of(method: FulfillmentMethod, day: date, node_id: str) -> str:
    """Name of an account: a SKU to the shards. It fits in every SKU's length, whatever the id."""
    return f"{_PREFIX}{method}/{day.isoformat()}/{shard_of(node_id, _SPREAD):03x}"


def day_of(account: str) -> date:
    """The working day of an account."""
    return date.fromisoformat(account.split("/")[1])


def orders_max(snapshot: NetworkSnapshot, account: str, node_id: str) -> int:
    """The most orders that an account may come to as the network is now; 0 where the node's are
    not counted."""
    node = snapshot.node(node_id)
    method, day, _ = account.removeprefix(_PREFIX).split("/")
    capacity = node.capacity(FulfillmentMethod(method)) if node else None
    return capacity.on(date.fromisoformat(day)) if capacity else 0


def closes_ms(account: str) -> int:
    """From when on an account is deleted, if nothing of it is held or committed, ms since 1970."""
    return (day_of(account) - _EPOCH).days * 86_400_000 + ACCOUNT_KEPT_MS


def is_account(sku: str) -> bool:
    """Whether a shard counts orders under this name, not stock."""
    return sku.startswith(_PREFIX)


def used_line(use: CapacityUse, units: Iterable[tuple[int, int]]) -> LegLine:
    """What a use comes to, by open and fulfilled quantity of its units: given back when nothing of
    the shipment is open any more, worked for good once anything of it left."""
    parts = list(units)
    left = any(fulfilled for _, fulfilled in parts)
    stands = not left and any(open_quantity for open_quantity, _ in parts)
    return LegLine(use.account, use.node_id, "", int(stands), int(left), use.limit)
