"""PostgreSQL alone doing the reservation, at its best: one round trip, one transaction, fsynced.

A function takes all lines with conditional updates in a fixed order and writes the reservation;
a hot SKU has one row a unit, taken with SKIP LOCKED. No gRPC stands before it, and its client's CPU
is not counted.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import asyncpg

CONNECTIONS = 16

SCHEMA = """
CREATE TABLE position (sku text, node_id text, on_hand int NOT NULL, held int NOT NULL DEFAULT 0,
    PRIMARY KEY (sku, node_id)) WITH (fillfactor = 80);
CREATE TABLE reservation (reservation_id text PRIMARY KEY, owner_id text, lines jsonb,
    expire_time timestamptz);
CREATE TABLE unit (unit_id bigserial PRIMARY KEY, sku text NOT NULL, reservation_id text);
CREATE INDEX ON unit (sku) WHERE reservation_id IS NULL;
CREATE FUNCTION reserve(rid text, skus text[], nodes text[], quantities int[]) RETURNS bool AS $$
DECLARE i int;
BEGIN
  FOR i IN 1 .. array_length(skus, 1) LOOP
    UPDATE position SET held = held + quantities[i]
      WHERE sku = skus[i] AND node_id = nodes[i] AND on_hand - held >= quantities[i];
    IF NOT FOUND THEN RAISE EXCEPTION 'insufficient'; END IF;
  END LOOP;
  INSERT INTO reservation VALUES (rid, rid, to_jsonb(skus), now() + interval '15 minutes');
  RETURN true;
END $$ LANGUAGE plpgsql;
CREATE FUNCTION reserve_unit(rid text, wanted text) RETURNS bool AS $$
BEGIN
  UPDATE unit SET reservation_id = rid WHERE unit_id = (
    SELECT unit_id FROM unit WHERE sku = wanted AND reservation_id IS NULL
    LIMIT 1 FOR UPDATE SKIP LOCKED);
  IF NOT FOUND THEN RETURN false; END IF;
  INSERT INTO reservation VALUES (rid, rid, to_jsonb(wanted), now() + interval '15 minutes');
  RETURN true;
END $$ LANGUAGE plpgsql;
"""

Cart = Sequence[tuple[str, str, int]]
"""sku, node_id, quantity."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Reservations a second."""

    carts: float
    hot: float
    carts_cpu_us: float
    hot_cpu_us: float


async def measure(
    dsn: str, carts: Sequence[Cart], seconds: float, cpu_seconds: Callable[[], float]
) -> Rates:
    """Both rates; ``dsn`` names an empty database, ``cpu_seconds`` tells the server's CPU."""
    pool = await asyncpg.create_pool(dsn, min_size=CONNECTIONS, max_size=CONNECTIONS)
    async with pool:
        await pool.execute(SCHEMA)
        places = {(sku, node_id) for cart in carts for sku, node_id, _ in cart}
        await pool.copy_records_to_table(
            "position", records=[(sku, node, 10**6, 0) for sku, node in places]
        )
        await pool.execute("INSERT INTO unit (sku) SELECT 'hot' FROM generate_series(1, 200000)")
        await pool.execute("ANALYZE")

        def cart_arguments() -> Iterator[tuple[object, ...]]:
            for cart in carts:
                # Fixed lock order, or two carts could wait for each other.
                lines = sorted(cart)
                yield ([s for s, _, _ in lines], [n for _, n, _ in lines], [q for *_, q in lines])

        arguments = list(cart_arguments())
        rng = random.Random(1)
        begun = cpu_seconds()
        cart_count = await _drive(
            pool, seconds, "SELECT reserve($1, $2, $3, $4)", lambda: rng.choice(arguments)
        )
        middle = cpu_seconds()
        hot_count = await _drive(pool, seconds, "SELECT reserve_unit($1, $2)", lambda: ("hot",))
        ended = cpu_seconds()
    return Rates(
        cart_count / seconds,
        hot_count / seconds,
        1e6 * (middle - begun) / max(1, cart_count),
        1e6 * (ended - middle) / max(1, hot_count),
    )


async def _drive(
    pool: asyncpg.Pool, seconds: float, statement: str, arguments: Callable[[], tuple[object, ...]]
) -> int:
    stop = time.monotonic() + seconds
    done = 0

    async def worker(number: int) -> None:
        nonlocal done
        async with pool.acquire() as connection:
            prepared = await connection.prepare(statement)
            count = 0
            while time.monotonic() < stop:
                count += 1
                rid = f"{statement[7:15]}-{number}-{count}"
                if await prepared.fetchval(rid, *arguments()):
                    done += 1

    await asyncio.gather(*(worker(number) for number in range(CONNECTIONS)))
    return done
