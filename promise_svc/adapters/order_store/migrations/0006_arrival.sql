-- A process of the version before leaves the column alone.
ALTER TABLE positions ADD COLUMN arrival_ms bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN positions.arrival_ms IS 'Of a bucket: when it is expected, ms since 1970; 0 for not known; -1 once it is here';
