-- Identifiers compare by bytes (COLLATE "C"): faster, and the same on every machine.
-- epoch and sequence of a row are those of the event that last wrote it.

CREATE TABLE cluster_identity (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    cluster_id text NOT NULL,
    key_prefix text NOT NULL,
    shard_count integer NOT NULL
);
COMMENT ON TABLE cluster_identity IS 'At most one row, written at the first start, never changed';

CREATE TABLE events (
    shard integer NOT NULL,
    epoch bigint NOT NULL,
    sequence bigint NOT NULL,
    type smallint NOT NULL,
    time_ms bigint NOT NULL,
    subject text COLLATE "C" NOT NULL,
    payload bytea NOT NULL,
    PRIMARY KEY (shard, epoch, sequence)
);
COMMENT ON TABLE events IS 'Every event of every shard; payload is the outbox entry, byte for byte';

CREATE TABLE cursors (
    shard integer PRIMARY KEY,
    epoch bigint NOT NULL,
    sequence bigint NOT NULL
) WITH (fillfactor = 10);
COMMENT ON TABLE cursors IS 'Last event stored of each shard; its compare-and-set is the fence';

CREATE TABLE reservations (
    reservation_id text COLLATE "C" PRIMARY KEY,
    home integer NOT NULL,
    state smallint NOT NULL,
    revision integer NOT NULL,
    owner_id text NOT NULL,
    order_reference text NOT NULL,
    create_ms bigint NOT NULL,
    expire_ms bigint NOT NULL,
    update_ms bigint NOT NULL,
    claim bytea NOT NULL,
    epoch bigint NOT NULL,
    sequence bigint NOT NULL
) WITH (fillfactor = 80);
CREATE INDEX reservations_home ON reservations (home);
COMMENT ON INDEX reservations_home IS 'The audit reads a shard at a time; home never changes';
COMMENT ON COLUMN reservations.claim IS 'The whole claim after its last move (msgpack)';

CREATE TABLE legs (
    shard integer NOT NULL,
    reservation_id text COLLATE "C" NOT NULL,
    state smallint NOT NULL,
    leg bytea NOT NULL,
    epoch bigint NOT NULL,
    sequence bigint NOT NULL,
    PRIMARY KEY (shard, reservation_id)
) WITH (fillfactor = 80);
COMMENT ON COLUMN legs.leg IS 'The whole leg after its last move (msgpack); a tombstone has no lines';

CREATE TABLE positions (
    shard integer NOT NULL,
    sku text COLLATE "C" NOT NULL,
    node_id text COLLATE "C" NOT NULL,
    bucket text COLLATE "C" NOT NULL,
    on_hand bigint NOT NULL,
    committed bigint NOT NULL,
    held bigint NOT NULL,
    safety_stock bigint NOT NULL,
    confirmed_total bigint NOT NULL,
    cancelled_total bigint NOT NULL,
    fulfilled_total bigint NOT NULL,
    source text NOT NULL,
    source_sequence bigint NOT NULL,
    multi_hold_ms bigint NOT NULL,
    epoch bigint NOT NULL,
    sequence bigint NOT NULL,
    PRIMARY KEY (shard, sku, node_id, bucket)
) WITH (fillfactor = 70);

CREATE TABLE network_version (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    version bigint NOT NULL
);
COMMENT ON TABLE network_version IS 'One row; its lock orders all network edits';
INSERT INTO network_version (version) VALUES (0);

CREATE TABLE network_documents (
    kind text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    document jsonb NOT NULL,
    version bigint NOT NULL,
    PRIMARY KEY (kind, id)
);
COMMENT ON COLUMN network_documents.version IS 'Network version in which the document last changed';
