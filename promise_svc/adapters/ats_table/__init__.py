"""The in-memory copy for reads: the table, and the feed that keeps it following the shards."""
