CREATE TABLE quote_key (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    key bytea NOT NULL CHECK (length(key) = 32)
);
COMMENT ON TABLE quote_key IS 'At most one row: signs quote tokens where no key is configured';
