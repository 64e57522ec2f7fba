"""Starts and stops the bundled Valkey and PostgreSQL: for the demo, `serve` without URLs, tests."""

from promise_svc.adapters.embedded.postgres import EmbeddedPostgres
from promise_svc.adapters.embedded.valkey import EmbeddedValkey
from promise_svc.adapters.embedded.versions import engine_versions
from promise_svc.adapters.embedded.watch import keep_alive

__all__ = ["EmbeddedPostgres", "EmbeddedValkey", "engine_versions", "keep_alive"]
