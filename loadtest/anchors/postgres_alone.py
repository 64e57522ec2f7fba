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

CONFIRM_SHARE, RELEASE_SHARE = 0.8, 0.12
"""As the service's own load settles them."""

SCHEMA = """
CREATE TABLE position (sku text, node_id text, on_hand int NOT NULL, held int NOT NULL DEFAULT 0,
    committed int NOT NULL DEFAULT 0, PRIMARY KEY (sku, node_id)) WITH (fillfactor = 80);
CREATE TABLE reservation (reservation_id text PRIMARY KEY, owner_id text NOT NULL,
    state text NOT NULL DEFAULT 'HELD', skus text[], nodes text[], quantities int[],
    expire_time timestamptz) WITH (fillfactor = 80);
CREATE TABLE unit (unit_id bigserial PRIMARY KEY, sku text NOT NULL, reservation_id text);
CREATE INDEX ON unit (sku) WHERE reservation_id IS NULL;
CREATE FUNCTION reserve(rid text, skus text[], nodes text[], quantities int[]) RETURNS bool AS $$
BEGIN
  FOR i IN 1 .. array_length(skus, 1) LOOP
    UPDATE position SET held = held + quantities[i] WHERE sku = skus[i] AND node_id = nodes[i]
      AND on_hand - held - committed >= quantities[i];
    IF NOT FOUND THEN RAISE EXCEPTION 'insufficient'; END IF;
  END LOOP;
  INSERT INTO reservation VALUES (rid, rid, 'HELD', skus, nodes, quantities,
    now() + interval '15 minutes');
  RETURN true;
END $$ LANGUAGE plpgsql;
CREATE FUNCTION settle(rid text, confirmed bool) RETURNS bool AS $$
DECLARE r reservation;
BEGIN
  UPDATE reservation SET state = CASE WHEN confirmed THEN 'CONFIRMED' ELSE 'RELEASED' END
    WHERE reservation_id = rid AND state = 'HELD' AND expire_time > now() RETURNING * INTO r;
  IF NOT FOUND THEN RETURN false; END IF;
  FOR i IN 1 .. array_length(r.skus, 1) LOOP
    UPDATE position SET held = held - r.quantities[i],
      committed = committed + CASE WHEN confirmed THEN r.quantities[i] ELSE 0 END
      WHERE sku = r.skus[i] AND node_id = r.nodes[i];
  END LOOP;
  RETURN true;
END $$ LANGUAGE plpgsql;
CREATE FUNCTION reserve_unit(rid text, wanted text) RETURNS bool AS $$
BEGIN
  UPDATE unit SET reservation_id = rid WHERE unit_id = (
    SELECT unit_id FROM unit WHERE sku = wanted AND reservation_id IS NULL
    LIMIT 1 FOR UPDATE SKIP LOCKED);
  IF NOT FOUND THEN RETURN false; END IF;
  INSERT INTO reservation VALUES (rid, rid, 'HELD', ARRAY[wanted], NULL, NULL,
    now() + interval '15 minutes');
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
            "position", records=[(sku, node, 10**6, 0, 0) for sku, node in places]
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
            pool,
            seconds,
            "SELECT reserve($1, $2, $3, $4)",
            lambda: rng.choice(arguments),
            settled=True,
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
    pool: asyncpg.Pool,
    seconds: float,
    statement: str,
    arguments: Callable[[], tuple[object, ...]],
    *,
    settled: bool = False,
) -> int:
    """How many were held; with ``settled`` most are confirmed or released as well."""
    stop = time.monotonic() + seconds
    done = 0

    async def worker(number: int) -> None:
        nonlocal done
        rng = random.Random(number)
        async with pool.acquire() as connection:
            reserve = await connection.prepare(statement)
            settle = await connection.prepare("SELECT settle($1, $2)")
            count = 0
            while time.monotonic() < stop:
                count += 1
                rid = f"{statement[7:15]}-{number}-{count}"
                if await reserve.fetchval(rid, *arguments()):
                    done += 1
                draw = rng.random()
                if settled and draw < CONFIRM_SHARE + RELEASE_SHARE:
                    await settle.fetchval(rid, draw < CONFIRM_SHARE)

    await asyncio.gather(*(worker(number) for number in range(CONNECTIONS)))
    return done
