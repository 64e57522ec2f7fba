-- A process of the version before leaves the column alone.
ALTER TABLE positions ADD COLUMN sold_short bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN positions.sold_short IS 'Units sold elsewhere that on hand did not cover; part of committed';
