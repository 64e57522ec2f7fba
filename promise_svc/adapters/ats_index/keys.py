"""Every key of the ATS index, and nothing else builds one.

All keys of a shard share its hash tag, so one Function may touch them all. ``P`` is the prefix,
``{t}`` the tag; the Functions receive the meta key and derive the others from it:

====================  ======  ===================================================================
``P{t}:meta``         hash    owner, epoch, sequence, time, floor, depoch, dsequence, shard
``P{t}:out``          stream  the outbox; entry ``epoch-sequence``, field ``e`` = packed Event
``P{t}:news``         channel events and durable marks as they happen
``P{t}:p:<sku>``      hash    ``<node>\\t<bucket>`` -> packed StockPosition
``P{t}:d:<sku>``      zset    reservation ids of HELD legs by expire time, ms
``P{t}:l:<id>``       string  packed LegRecord
``P{t}:c:<id>``       string  packed ClaimRecord (home shard only)
``P{t}:a:<key>``      string  answer to an adjustment or sale, kept for the window
``P{t}:u:<...>``      string  units that count for an owner: counter, owner and window, a line each
``P{t}:legs-due``     zset    HELD legs by expire time; what the sweeper reads
``P{t}:doubt``        zset    HELD legs without their claim, by when home is to be asked about them
``P{t}:accounts``     zset    ``<sku>\\t<node>`` of accounts of days, by when they are deleted
``P{t}:claims-due``   zset    PENDING and HELD claims by expire time
``P{t}:open``         zset    unsettled claims by the time the resolver may take them
====================  ======  ===================================================================

``P{cluster}:id``, a string, names the cluster whose keys begin with ``P``. It has a tag of its own,
because the tags of shards depend on their number, and a wrong number must find it too. The channel
``P{cluster}:durable`` says of any shards how far the order store is.
"""

from __future__ import annotations

from promise_svc.domain.sharding import hash_tags, slot_of


class Keys:
    """Names of one cluster's keys."""

    def __init__(self, prefix: str, shard_count: int) -> None:
        tags = hash_tags(shard_count)
        self.cluster_id = f"{prefix}{{cluster}}:id".encode()
        self.durable = f"{prefix}{{cluster}}:durable".encode()
        self.cluster_slot = slot_of("cluster")
        self.slots = [slot_of(tag) for tag in tags]
        self.bases = [f"{prefix}{{{tag}}}:" for tag in tags]
        self.meta = [f"{base}meta".encode() for base in self.bases]
        self.outbox = [f"{base}out".encode() for base in self.bases]
        self.news = [f"{base}news".encode() for base in self.bases]
