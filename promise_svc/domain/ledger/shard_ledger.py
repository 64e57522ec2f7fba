"""The reference ledger of one shard: what every Function must do, in plain Python.

The Functions in ``adapters/ats_index/lua`` are its twins, one file here for one file there; one
Hypothesis suite runs over both, and the fake index of the tests is made of these. Slow and obvious
on purpose. Time is passed in.
"""

from __future__ import annotations

from promise_svc.domain.ledger.create import create
from promise_svc.domain.ledger.follow import follow
from promise_svc.domain.ledger.read import open_claims, read_claim, read_leg, read_positions
from promise_svc.domain.ledger.resolve import resolve
from promise_svc.domain.ledger.revise import conform, revise
from promise_svc.domain.ledger.settle import settle
from promise_svc.domain.ledger.shard import raise_network_floor, restore, take_over
from promise_svc.domain.ledger.state import ShardState
from promise_svc.domain.ledger.supply import adjust_supply, protect, sync_supply
from promise_svc.domain.ledger.sweep import sweep


class ShardLedger(ShardState):
    """Positions, claims, legs and events of one shard, decided by one caller at a time."""

    # A reservation's steps.
    create = create
    resolve = resolve
    revise = revise
    conform = conform
    follow = follow
    settle = settle
    sweep = sweep

    read_claim = read_claim
    read_leg = read_leg
    read_positions = read_positions
    open_claims = open_claims

    sync_supply = sync_supply
    adjust_supply = adjust_supply
    protect = protect

    # Life of the shard.
    take_over = take_over
    restore = restore
    raise_network_floor = raise_network_floor
