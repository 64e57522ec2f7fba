"""Reservation states, their only legal moves, and the records and steps the shards exchange.

A reservation lives in two kinds of records. The *claim*, at the reservation's home shard, decides.
A *leg*, one per shard that holds some of its stock, follows. ``domain/ledger`` says what each
step does to them; the Functions in ``adapters/ats_index/lua`` are its twins.

Everything here crosses to the shards as arrays, in field order: adding a field means adding it last
with a default. Absent records are empty tuples, never None, because Lua cannot keep nil in arrays.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import NamedTuple

RECORD_LAYOUT = 1
"""First field of every stored record; a reader knows this one and the one before."""

RESOLVE_AFTER_MS = 2_000
"""How long a claim may stand incomplete before the resolver finishes or aborts it."""

DOUBT_MS = 10_000
"""How long a leg may stand at a shard that does not have its claim before home is asked about it:
longer than a create takes, far shorter than a hold lives."""

CONTENDED_MS = 250
"""A hold over several shards younger than this may still be given back by its own abort."""

LINES_MAX = 2000
"""Most lines of one reservation; the largest basket in the public data we test with has 1,114."""

TTL_MS_MIN = 1_000
TTL_MS_MAX = 4 * 3_600_000
TTL_MS_DEFAULT = 15 * 60_000


class State(IntEnum):
    """State of a claim or a leg. PENDING and ABORTED belong to claims not (yet) acknowledged."""

    PENDING = 1
    HELD = 2
    PINNED = 3
    CONFIRMED = 4
    RELEASED = 5
    CANCELLED = 6
    EXPIRED = 7
    SUPERSEDED = 8
    FULFILLED = 9
    ABORTED = 10


_MOVES: dict[State, frozenset[State]] = {
    State.PENDING: frozenset(
        {State.HELD, State.PINNED, State.RELEASED, State.EXPIRED, State.ABORTED}
    ),
    State.HELD: frozenset(
        {State.PINNED, State.CONFIRMED, State.RELEASED, State.EXPIRED, State.SUPERSEDED}
    ),
    State.PINNED: frozenset({State.CONFIRMED, State.EXPIRED, State.ABORTED}),
    State.CONFIRMED: frozenset({State.CANCELLED, State.FULFILLED}),
}

OPEN = frozenset({State.PENDING, State.HELD, State.PINNED})
"""States whose units count as held."""

_SOLD = frozenset({State.CONFIRMED, State.CANCELLED, State.FULFILLED})


def may_move(source: State, target: State) -> bool:
    """Whether a claim or leg in ``source`` may become ``target``. Nothing else decides this."""
    return target in _MOVES.get(source, frozenset())


class LegLine(NamedTuple):
    """Units of one position inside one leg; each position appears once."""

    sku: str
    node_id: str
    bucket: str
    quantity: int
    """Units put aside now: neither fulfilled nor given back."""
    fulfilled: int = 0
    """Units that have left under this leg."""
    limit: int = -1
    """Of an account, which has no stock but counts (``capacity.py``): the most it may come to, what
    left included. -1 for stock."""


class CustomerLimit(NamedTuple):
    """The most units of a SKU that one owner may have; of all SKUs with its counter together."""

    sku: str
    counter: str
    quantity_max: int
    window_ms: int
    """Units count in the window of the shard's clock that they were taken in, also once they left;
    0: as long as they are held or committed."""
    window: int = 0
    """Number of the window, since 1970; the shard sets it."""


class LegRecord(NamedTuple):
    """The part of a reservation in one shard."""

    layout: int
    state: int
    attempt: int
    plan_hash: str
    expire_ms: int
    multi: int
    """1 when the reservation takes part in more than one shard."""
    lines: tuple[LegLine, ...]
    change: int = 0
    """The change of the claim that the leg was last made to conform to."""
    ended: int = 0
    """The latest attempt whose leg ended here by its time before this one came; 0 for none."""
    replaces: str = ""
    """The hold whose units here counted as free when it was taken."""
    segment: str = ""
    """Whose share its units drew on, and return to."""
    owner: str = ""
    """Whom its units count for, where there are limits."""
    limits: tuple[CustomerLimit, ...] = ()
    """As they were when it was taken; more units are checked against them too."""
    epoch: int = 0
    """With a segment, where the shard stood when it was taken: it drew on shares of then."""
    sequence: int = 0


class ClaimRecord(NamedTuple):
    """The record that decides a reservation, at its home shard."""

    layout: int
    state: int
    attempt: int
    revision: int
    body_hash: str
    plan_hash: str
    create_ms: int
    """Shard time at which the claim was first opened, ms since 1970."""
    expire_ms: int
    legs: tuple[int, ...]
    """Shards that hold a leg, ascending."""
    body: str
    """What the shards need not understand: owner, lines with nodes, method, reference (JSON)."""
    epoch: int
    sequence: int
    """Event of the last move: a repeated answer waits for the same durability as the first."""
    settled: int
    """1 when every leg is known to have followed."""
    change: int = 0
    """Raised by every change of lines or expiry; legs conform to the highest they have seen."""
    reacquired: int = 0
    """1 when it holds again what had ended by the clock: if it comes to nothing, it has EXPIRED."""
    replaces: str = ""
    """The hold whose place it takes. While PENDING it is no hold yet and does not expire: the older
    one's home decides, by becoming SUPERSEDED."""
    replaced_attempt: int = 0
    successor: str = ""
    """When SUPERSEDED, which reservation took its place, and which attempt of it."""
    successor_attempt: int = 0


class DurabilityMode(IntEnum):
    """What an acknowledgement survives; numbers are the contract's."""

    MEMORY = 1
    FSYNC = 2
    REPLICATED = 3
    RECORDED = 4


class HoldPolicy(IntEnum):
    """What a caller would rather have than nothing; numbers are the contract's."""

    ALL_OR_NOTHING = 1
    PER_LINE = 2
    PARTIAL = 3


class CreateOutcome(IntEnum):
    """Answer to a reservation or to one of its lines; numbers are the contract's, and where
    several refusals apply the lowest is told."""

    HELD = 1
    PARTLY_HELD = 2
    UNKNOWN_SKU = 10
    UNKNOWN_NODE = 20
    NODE_OFF = 30
    METHOD_NOT_OFFERED = 40
    NO_LANE = 50
    CUTOFF_PASSED = 52
    DATE_MOVED = 55
    CAPACITY_FULL = 57
    EXCLUDED_BY_RULE = 58
    INSUFFICIENT_STOCK = 60
    CUSTOMER_LIMIT = 62
    SPLIT_LIMIT = 65
    CONTENDED = 70
    REPLACED_UNKNOWN = 72
    REPLACED_NOT_HELD = 74
    OTHER_LINE_REFUSED = 100


class TransitionOutcome(IntEnum):
    """Answer to what moves or changes a reservation; numbers are the contract's and the
    precedence."""

    CONFIRMED = 1
    RELEASED = 2
    CANCELLED = 3
    FULFILLED = 4
    EXTENDED = 5
    AMENDED = 6
    TRANSFERRED = 7
    REVISION_MISMATCH = 10
    EXPIRED = 20
    ALREADY_RELEASED = 30
    ALREADY_CANCELLED = 40
    ALREADY_SUPERSEDED = 50
    ALREADY_FULFILLED = 60
    ALREADY_CONFIRMED = 70
    NOT_CONFIRMED = 80
    UNKNOWN_LINE = 85
    EXCEEDS_OPEN_QUANTITY = 90
    LIFE_LIMIT_REACHED = 95
    NODE_UNAVAILABLE = 96
    INSUFFICIENT_STOCK = 97
    CUSTOMER_LIMIT = 98
    CAPACITY_FULL = 99


class Outcome(IntEnum):
    """What a shard did with one step."""

    DONE = 1
    REPEATED = 2
    EXISTS = 3
    BODY_DIFFERS = 4
    WINDOW_PASSED = 5
    STALE_ATTEMPT = 6
    UNSETTLED = 7
    OTHER_PLAN = 8
    RESOLVED = 9
    INSUFFICIENT = 10
    NETWORK_CHANGED = 11
    MISSING = 12
    DUE = 13
    NEEDS_PINS = 14
    NEEDS_FOLLOW = 15
    REFUSED = 16
    UNCHANGED = 17
    STALE_SEQUENCE = 18
    BELOW_ZERO = 19
    ABOVE_MAXIMUM = 20
    REVISION_DIFFERS = 21
    NEEDS_REVISION = 22
    ALREADY_ARRIVED = 23
    LIMITED = 24
    TOO_MANY_SEGMENTS = 25
    MORE_THAN_ORDERED = 26


class ClaimDraft(NamedTuple):
    """The claim's part of a create step; sent to the home shard only."""

    body_hash: str
    create_ms: int
    """The client's ``create_time``, ms since 1970; 0 when it sent none."""
    legs: tuple[int, ...]
    body: str
    reacquires: int = 0
    """1 to hold the same again after the hold ended by the clock: a new attempt under its name."""


class CreateStep(NamedTuple):
    """Open a claim, take a leg, or both. ``lines`` is empty where the shard holds no leg."""

    reservation_id: str
    attempt: int
    """Rises with every new plan for one reservation id; a leg obeys the highest it has seen."""
    plan_hash: str
    ttl_ms: int
    network_version: int
    multi: int
    """1 when claim and legs together span more than one shard."""
    lines: tuple[LegLine, ...] = ()
    claim: ClaimDraft | tuple[()] = ()
    replaces: str = ""
    """A hold of the same owner whose units count as free for this one: only one of the two will
    stand. ``multi`` is 1 then."""
    replaced_attempt: int = 0
    segment: str = ""
    """Whom the units are for: its share may be drawn on."""
    owner: str = ""
    limits: tuple[CustomerLimit, ...] = ()
    """For SKUs of the lines that have one, at most one each."""
    change: int = 0
    """Above 0 where a change adds a leg to a claim that stands: the change that marked it. Such a
    leg takes the place of any that an earlier change left here."""


class Shortfall(NamedTuple):
    """A line that does not fit, its true ATS, and whether the position exists at all; where a limit
    refuses it, the units its owner may still have."""

    line_index: int
    ats: int
    known: int


class StepReply(NamedTuple):
    """A shard's answer to one step; ``epoch``/``sequence`` name the event that recorded it."""

    outcome: int
    epoch: int
    sequence: int
    time_ms: int
    state: int = 0
    """Leg's state after the step, or the claim's where the step spoke to a claim only."""
    claim: ClaimRecord | tuple[()] = ()
    shortfalls: tuple[Shortfall, ...] = ()
    contended: int = 0
    """1 when a hold young enough to be incomplete stood in the way: worth one ordered retry."""
    attempt: int = 0
    """Attempt of the leg that was met, where it refused: the next one must be higher."""


class ResolveStep(NamedTuple):
    """Ask the home shard to move a claim to ``target``."""

    reservation_id: str
    target: int
    attempt: int = 0
    """Only if the claim is of this attempt; 0 for any."""
    revision: int = 0
    """Only if the claim is at this revision; 0 for any."""
    pinned: int = 0
    """1 when every other leg is confirmed, so that the claim may be."""
    successor: str = ""
    """With target SUPERSEDED, the reservation that takes its place, all of whose legs are held.
    With ABORTED, one that must never: the claim itself is not moved."""
    successor_attempt: int = 0


class FollowStep(NamedTuple):
    """Make a leg follow its claim. Target PENDING is the resolver's probe: it moves nothing, but
    leaves a tombstone where the leg never arrived."""

    reservation_id: str
    attempt: int
    target: int


class SettleStep(NamedTuple):
    """Tell the home shard that every leg has followed the claim into ``state``.

    PENDING means: every leg is held, so the claim is now HELD.
    """

    reservation_id: str
    attempt: int
    state: int
    change: int = 0
    """The change they conform to."""
    replaced: int = 0
    """1 when the hold that a PENDING claim replaces is SUPERSEDED by it."""


class ReviseStep(NamedTuple):
    """Rewrite a claim at home, if it still is what the caller has read; home's own leg conforms in
    the same step. Raises ``change`` by one."""

    reservation_id: str
    attempt: int
    change: int
    """Only if the claim is at this change."""
    source: int
    """Only from this state."""
    target: int
    """The same state, or one it may move to."""
    revision: int
    """Public number of the lines after the step."""
    expire_ms: int
    body: str
    lines: tuple[LegLine, ...] = ()
    """Home's own leg afterwards. Empty where home holds none."""
    legs: tuple[int, ...] = ()
    """Shards that hold a leg from now on, where the change added some; empty where it did not."""
    network_version: int = 0
    """Where more units are wanted, the network they were planned on; 0 where none are."""


class ConformStep(NamedTuple):
    """Make a leg what a change of its claim says; never what an older change said.

    Without lines it only makes the leg live ``ttl_ms`` at least: what an extension asks of every
    leg before it is decided, so that none can end before its claim.
    """

    reservation_id: str
    attempt: int
    change: int
    target: int
    """State of the claim: HELD, CONFIRMED, FULFILLED or CANCELLED."""
    ttl_ms: int
    """How long it lives from now, by its own shard's clock; 0 leaves its end as it is."""
    lines: tuple[LegLine, ...] = ()
    """What the leg shall have; units at positions that are not named go back."""
    keeps: int = 0
    """1 while home has not decided: the leg takes more, and gives nothing back yet. Then ``change``
    is the one that the claim is at."""
    network_version: int = 0
    """As of ``ReviseStep``."""


class SupplyRow(NamedTuple):
    """Absolute count of one position from one feed; ``safety_stock`` -1 leaves it as it is."""

    sku: str
    node_id: str
    bucket: str
    on_hand: int
    safety_stock: int
    source: str
    source_sequence: int
    arrival_ms: int = 0
    """Of a bucket: when it is expected, ms since 1970; 0 leaves it as it is; ARRIVED says that it
    is here, ``on_hand`` being what came."""
    arrived_counted: int = 0
    """Of stock here now: 1 where ``on_hand`` includes what arrived buckets of the node still have
    for their holds and orders, which is taken off then."""
    deducted: int = -1
    """Of stock here now: units of orders that ``on_hand`` has taken off already, 0 or more, or -1
    where it counts what is there and says no more; as in ``stock_here``."""


class AdjustRow(NamedTuple):
    """A change of on hand under an idempotency key; without a SKU, only the key is claimed.

    A key older than the window is carried out no more: its answer may be forgotten.
    """

    sku: str
    node_id: str
    bucket: str
    quantity_delta: int
    idempotency_key: str
    body_hash: str
    create_ms: int = 0
    """The client's ``create_time``, ms since 1970; 0 when it sent none."""
    sale: int = 0
    """1 for a sale that happened elsewhere: taken also where on hand does not cover it."""


class ProtectRow(NamedTuple):
    """The share of one position kept for a segment; ``level`` 0 ends it."""

    sku: str
    node_id: str
    bucket: str
    segment: str
    level: int


class SupplyReply(NamedTuple):
    """Outcome for one supply row: DONE, UNCHANGED, STALE_SEQUENCE, REPEATED, BODY_DIFFERS,
    WINDOW_PASSED, BELOW_ZERO, ABOVE_MAXIMUM, ALREADY_ARRIVED, MORE_THAN_ORDERED or
    TOO_MANY_SEGMENTS, and the position after it."""

    outcome: int
    on_hand: int
    ats: int
    epoch: int
    sequence: int
    shortage: int = 0
    """Due holds count until they are swept."""


class SweepReply(NamedTuple):
    """What one sweep did."""

    expired_legs: int
    expired_claims: int
    more: int
    """1 when the limit stopped it and due holds remain."""
    doubtful: tuple[str, ...] = ()
    """Reservations whose leg here nobody has spoken for since it was taken."""


def is_sold(claim: ClaimRecord, legs: Iterable[LegRecord | tuple[()]]) -> bool:
    """Whether a PINNED claim can become nothing but CONFIRMED: ``legs``, those of other shards than
    its home, all are, or were before the order ended. Its own was confirmed as it was pinned."""
    return claim.state == State.PINNED and all(
        leg and leg.attempt == claim.attempt and leg.state in _SOLD for leg in legs
    )


def confirmed(claim: ClaimRecord) -> ClaimRecord:
    """Such a claim as its home will have it, once it has decided."""
    return claim._replace(state=State.CONFIRMED, settled=1)
