"""Every statement of the order store, by name. Parameters only; no text is ever pasted in.

``APPEND`` carries batches of any number of shards in one statement: one round trip, one commit.
Every write joins ``moved``, so nothing of a shard is written before its cursor's compare-and-set
has passed, and a shard that fails it costs the others nothing. Cursors are locked in shard order;
all other rows belong to one shard, so two appends that meet further down have met at a cursor.
"""

from __future__ import annotations

import re

_MOVED = """
moved AS (
    INSERT INTO cursors AS c (shard, epoch, sequence)
    SELECT w.shard, w.epoch, w.sequence
    FROM unnest($1::int[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[])
        AS w (shard, old_epoch, old_sequence, epoch, sequence)
    WHERE (w.old_epoch, w.old_sequence) = (0, 0)
        OR EXISTS (SELECT FROM cursors k WHERE k.shard = w.shard)
    ORDER BY w.shard
    ON CONFLICT (shard) DO UPDATE SET epoch = excluded.epoch, sequence = excluded.sequence
    WHERE (c.epoch, c.sequence) = (
        SELECT old.epoch, old.sequence
        FROM unnest($1::int[], $2::bigint[], $3::bigint[]) AS old (shard, epoch, sequence)
        WHERE old.shard = c.shard
    )
    RETURNING c.shard
)"""
# $1 shards, $2 $3 the cursors expected, $4 $5 the cursors wanted; each shard once. A shard that is
# not returned stood elsewhere.

_EVENTS = """
new_events AS (
    INSERT INTO events (shard, epoch, sequence, type, time_ms, subject, payload)
    SELECT n.* FROM unnest(
        $6::int[], $7::bigint[], $8::bigint[], $9::smallint[], $10::bigint[], $11::text[],
        $12::bytea[]
    ) AS n (shard, epoch, sequence, type, time_ms, subject, payload)
    JOIN moved USING (shard)
    {on_conflict}
)"""

_RESERVATIONS = """
new_reservations AS (
    INSERT INTO reservations AS r (
        home, reservation_id, state, revision, owner_id, order_reference,
        create_ms, expire_ms, update_ms, claim, epoch, sequence
    )
    SELECT n.* FROM unnest(
        $13::int[], $14::text[], $15::smallint[], $16::int[], $17::text[], $18::text[],
        $19::bigint[], $20::bigint[], $21::bigint[], $22::bytea[], $23::bigint[], $24::bigint[]
    ) AS n (shard, reservation_id, state, revision, owner_id, order_reference,
            create_ms, expire_ms, update_ms, claim, epoch, sequence)
    JOIN moved USING (shard)
    ON CONFLICT (reservation_id) DO UPDATE SET
        state = excluded.state, revision = excluded.revision, owner_id = excluded.owner_id,
        order_reference = excluded.order_reference, create_ms = excluded.create_ms,
        expire_ms = excluded.expire_ms, update_ms = excluded.update_ms, claim = excluded.claim,
        epoch = excluded.epoch, sequence = excluded.sequence
    WHERE (r.epoch, r.sequence) < (excluded.epoch, excluded.sequence)
)"""

_LEGS = """
new_legs AS (
    INSERT INTO legs AS l (shard, reservation_id, state, leg, epoch, sequence)
    SELECT n.* FROM unnest(
        $25::int[], $26::text[], $27::smallint[], $28::bytea[], $29::bigint[], $30::bigint[]
    ) AS n (shard, reservation_id, state, leg, epoch, sequence)
    JOIN moved USING (shard)
    ON CONFLICT (shard, reservation_id) DO UPDATE SET
        state = excluded.state, leg = excluded.leg,
        epoch = excluded.epoch, sequence = excluded.sequence
    WHERE (l.epoch, l.sequence) < (excluded.epoch, excluded.sequence)
)"""

_POSITIONS = """
new_positions AS (
    INSERT INTO positions AS p (
        shard, sku, node_id, bucket, on_hand, committed, held, safety_stock, confirmed_total,
        cancelled_total, fulfilled_total, source, source_sequence, multi_hold_ms, sold_short,
        arrival_ms, protected, epoch, sequence
    )
    SELECT n.* FROM unnest(
        $31::int[], $32::text[], $33::text[], $34::text[], $35::bigint[], $36::bigint[],
        $37::bigint[], $38::bigint[], $39::bigint[], $40::bigint[], $41::bigint[], $42::text[],
        $43::bigint[], $44::bigint[], $45::bigint[], $46::bigint[], $47::jsonb[], $48::bigint[],
        $49::bigint[]
    ) AS n (shard, sku, node_id, bucket, on_hand, committed, held, safety_stock, confirmed_total,
            cancelled_total, fulfilled_total, source, source_sequence, multi_hold_ms,
            sold_short, arrival_ms, protected, epoch, sequence)
    JOIN moved USING (shard)
    ON CONFLICT (shard, sku, node_id, bucket) DO UPDATE SET
        on_hand = excluded.on_hand, committed = excluded.committed, held = excluded.held,
        safety_stock = excluded.safety_stock, confirmed_total = excluded.confirmed_total,
        cancelled_total = excluded.cancelled_total, fulfilled_total = excluded.fulfilled_total,
        source = excluded.source, source_sequence = excluded.source_sequence,
        multi_hold_ms = excluded.multi_hold_ms, sold_short = excluded.sold_short,
        arrival_ms = excluded.arrival_ms,
        protected = excluded.protected,
        epoch = excluded.epoch, sequence = excluded.sequence
    WHERE (p.epoch, p.sequence) < (excluded.epoch, excluded.sequence)
)"""


_CLOSED = """
closed AS (
    DELETE FROM positions p
    USING unnest(
        $50::int[], $51::text[], $52::text[], $53::bigint[], $54::bigint[]
    ) AS n (shard, sku, node_id, epoch, sequence) JOIN moved USING (shard)
    WHERE (p.shard, p.sku, p.node_id, p.bucket) = (n.shard, n.sku, n.node_id, '')
        AND (p.epoch, p.sequence) < (n.epoch, n.sequence)
)"""


def _append(on_conflict: str) -> str:
    new_events = _EVENTS.format(on_conflict=on_conflict)
    parts = [_MOVED, new_events, _RESERVATIONS, _LEGS, _POSITIONS, _CLOSED]
    statement = "WITH" + ",".join(parts) + "\nSELECT shard FROM moved"
    # All arrays but those of bytes come as text; see ``batch``.
    return re.sub(r"(\$\d+)::(\w*int|text|jsonb)\[\]", r"\1::text::\2[]", statement)


APPEND = _append("")
"""Fails with a unique violation where an event's identity exists already."""

APPEND_OVER_KNOWN = _append("ON CONFLICT DO NOTHING")
"""The same for events whose stored payloads were found equal: the cursor was set back."""

READ_PAYLOADS = """
SELECT epoch, sequence, payload FROM events JOIN unnest($2::bigint[], $3::bigint[])
    AS wanted (epoch, sequence) USING (epoch, sequence)
WHERE shard = $1
"""

READ_CURSOR = "SELECT epoch, sequence FROM cursors WHERE shard = $1"

READ_CURSORS = "SELECT shard, epoch, sequence FROM cursors"

READ_EVENTS = """
SELECT epoch, sequence, payload FROM events
WHERE shard = $1 AND (epoch, sequence) > ($2, $3)
ORDER BY epoch, sequence LIMIT $4
"""

LAST_EVENTS = """
SELECT epoch, sequence, payload FROM events
WHERE shard = $1 ORDER BY epoch DESC, sequence DESC LIMIT $2
"""

LIST_BY_OWNER = """
SELECT reservation_id, home, update_ms, claim, epoch, sequence FROM reservations
WHERE owner_id = $1 AND ($2 = '' OR order_reference = $2) AND reservation_id > $3
ORDER BY reservation_id LIMIT $4
"""

LIST_BY_REFERENCE = """
SELECT reservation_id, home, update_ms, claim, epoch, sequence FROM reservations
WHERE order_reference = $1 AND reservation_id > $2
ORDER BY reservation_id LIMIT $3
"""

READ_LEGS_IN = "SELECT reservation_id, leg FROM legs WHERE shard = $1 AND state = ANY($2::int[])"

READ_LEGS_AT = """
SELECT shard, reservation_id, leg FROM legs JOIN unnest($1::int[], $2::text[])
    AS wanted (shard, reservation_id) USING (shard, reservation_id)
"""

_AT_CURSOR = """
SELECT c.epoch, c.sequence, p.sku, node_id, bucket, on_hand, committed, held, safety_stock,
       confirmed_total, cancelled_total, fulfilled_total, source, source_sequence, multi_hold_ms,
       sold_short, arrival_ms, protected
"""
# One statement is one snapshot: cursor and positions agree.

READ_POSITIONS = f"{_AT_CURSOR} FROM cursors c LEFT JOIN positions p USING (shard) WHERE shard = $1"


def copy_positions(shard: int) -> str:
    """What COPY puts out as ``domain/copied_positions`` reads it. COPY takes no parameters, so the
    shard's number stands in the text."""
    return f"""
SELECT c.epoch, c.sequence, p.sku, node_id, bucket, on_hand, committed, held, safety_stock,
       arrival_ms, protected
FROM cursors c LEFT JOIN positions p USING (shard) WHERE shard = {shard:d}
"""


READ_SOME_POSITIONS = f"""
WITH chosen AS (
    (SELECT DISTINCT sku FROM positions WHERE shard = $1 AND sku > $2 ORDER BY sku LIMIT $3)
    UNION SELECT unnest($4::text[])
)
{_AT_CURSOR}
FROM cursors c LEFT JOIN (
    chosen CROSS JOIN LATERAL
    (SELECT * FROM positions WHERE shard = $1 AND sku = chosen.sku OFFSET 0) p
) ON true
WHERE c.shard = $1
"""
# OFFSET 0 keeps it to a look-up a SKU: planned as a join, it reads the whole shard.

READ_LEGS = "SELECT reservation_id, leg FROM legs WHERE shard = $1"

READ_CLAIMS = "SELECT reservation_id, claim FROM reservations WHERE home = $1"
# Reads the whole table: only audits and rebuilds ask, and an index would cost every reservation.

READ_RESERVATION = """
SELECT home, update_ms, claim, epoch, sequence FROM reservations WHERE reservation_id = $1
"""

READ_CLUSTER = "SELECT cluster_id, key_prefix, shard_count FROM cluster_identity"

BIND_CLUSTER = """
INSERT INTO cluster_identity (cluster_id, key_prefix, shard_count) VALUES ($1, $2, $3)
ON CONFLICT DO NOTHING
"""

READ_QUOTE_KEY = "SELECT key FROM quote_key"

KEEP_QUOTE_KEY = "INSERT INTO quote_key (key) VALUES ($1) ON CONFLICT DO NOTHING"

READ_NETWORK = """
SELECT v.version, d.kind, d.id, d.document::text
FROM network_version v LEFT JOIN network_documents d ON d.version > $1
"""

READ_NETWORK_VERSION = "SELECT version FROM network_version"

LOCK_NETWORK_VERSION = "SELECT version FROM network_version FOR UPDATE"

UPSERT_DOCUMENTS = """
INSERT INTO network_documents AS d (kind, id, document, version)
SELECT $1, n.id, n.document::jsonb, $4 FROM unnest($2::text[], $3::text[]) AS n (id, document)
ON CONFLICT (kind, id) DO UPDATE SET document = excluded.document, version = excluded.version
WHERE d.document IS DISTINCT FROM excluded.document
RETURNING 1
"""

SET_NETWORK_VERSION = "UPDATE network_version SET version = $1"

LOCK_MIGRATIONS = "SELECT pg_advisory_xact_lock($1)"
# Held by the transaction, not by the session, so that it also works behind a pooler.

CREATE_MIGRATIONS = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    version integer PRIMARY KEY,
    name text NOT NULL,
    checksum text NOT NULL,
    apply_time timestamptz NOT NULL DEFAULT now()
)
"""

READ_MIGRATIONS = "SELECT version, name, checksum FROM schema_migrations ORDER BY version"

RECORD_MIGRATION = "INSERT INTO schema_migrations (version, name, checksum) VALUES ($1, $2, $3)"

READ_SETTINGS = """
SELECT name, setting FROM pg_settings WHERE name IN
    ('fsync', 'full_page_writes', 'server_encoding', 'server_version_num', 'synchronous_commit')
"""

READ_VITALS = """
SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS time_ms,
    current_setting('server_version') AS version,
    current_setting('max_connections')::int AS connections_max,
    (SELECT count(*)::int FROM pg_stat_activity) AS connection_count,
    pg_database_size(current_database()) AS size_bytes
"""

MIGRATIONS_EXIST = "SELECT to_regclass('schema_migrations') IS NOT NULL"

READ_RECOVERY = "SELECT pg_is_in_recovery()"
