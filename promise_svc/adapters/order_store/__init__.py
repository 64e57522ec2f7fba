"""PostgreSQL: the durable record of events, reservations, positions and the network."""

from promise_svc.adapters.order_store.pool import Health, PoolConfig
from promise_svc.adapters.order_store.store import PostgresOrderStore

__all__ = ["Health", "PoolConfig", "PostgresOrderStore"]
