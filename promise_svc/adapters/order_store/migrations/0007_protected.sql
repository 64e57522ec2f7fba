-- A process of the version before leaves the column alone.
ALTER TABLE positions ADD COLUMN protected jsonb NOT NULL DEFAULT '[]';
COMMENT ON COLUMN positions.protected IS 'Shares kept for segments: [segment, level, taken] each';
