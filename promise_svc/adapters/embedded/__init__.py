"""Starts and stops the bundled Valkey and PostgreSQL: for the demo, `serve` without URLs, tests."""

from promise_svc.adapters.embedded.postgres import EmbeddedPostgres
from promise_svc.adapters.embedded.valkey import EmbeddedValkey

__all__ = ["EmbeddedPostgres", "EmbeddedValkey"]
