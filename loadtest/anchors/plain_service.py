"""What a team writes in a week: grpc.aio, redis-py and one Lua script; CreateReservation only.

No claim, no outbox, no fence, no expiry, no order store, one Valkey and no cluster: it answers the
same call for named nodes, checks and takes all lines in one script, and remembers the reservation.
Usage: python -m loadtest.anchors.plain_service PORT VALKEY_URL
"""

from __future__ import annotations

import json
import sys
from typing import Any

import grpc.aio
import redis.asyncio
import uvloop

from promise_svc.v1 import reservation_service_pb2 as pb
from promise_svc.v1 import reservation_service_pb2_grpc as pb_grpc

RESERVE = """
local known = redis.call('GET', KEYS[1])
if known then return {1, known} end
local count = (#ARGV - 2)
for i = 1, count do
  local have = tonumber(redis.call('HGET', KEYS[i + 1], 'on_hand') or '0')
  local held = tonumber(redis.call('HGET', KEYS[i + 1], 'held') or '0')
  if have - held < tonumber(ARGV[i]) then return {0, i} end
end
for i = 1, count do redis.call('HINCRBY', KEYS[i + 1], 'held', ARGV[i]) end
redis.call('SET', KEYS[1], ARGV[count + 1], 'EX', ARGV[count + 2])
return {1, ARGV[count + 1]}
"""
DEFAULT_TTL_SECONDS = 900


class Reservations(pb_grpc.ReservationServiceServicer):
    """One method."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._reserve = client.register_script(RESERVE)

    async def CreateReservation(
        self, request: pb.CreateReservationRequest, context: Any
    ) -> pb.CreateReservationResponse:
        if not request.reservation_id or not request.lines:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "reservation_id and lines")
        keys = [f"r:{request.reservation_id}"]
        keys += [f"p:{line.sku}:{line.node_id}" for line in request.lines]
        body = json.dumps([[line.sku, line.node_id, line.quantity] for line in request.lines])
        ttl = request.ttl.seconds or DEFAULT_TTL_SECONDS
        quantities = [line.quantity for line in request.lines]
        held, _ = await self._reserve(keys=keys, args=[*quantities, body, ttl])
        reply = pb.CreateReservationResponse()
        if not held:
            reply.outcome = pb.CREATE_RESERVATION_OUTCOME_INSUFFICIENT_STOCK
            return reply
        reply.outcome = pb.CREATE_RESERVATION_OUTCOME_HELD
        reservation = reply.reservation
        reservation.reservation_id = request.reservation_id
        reservation.owner_id = request.owner_id
        reservation.state = pb.Reservation.STATE_HELD
        reservation.expire_time.GetCurrentTime()
        reservation.expire_time.seconds += ttl
        for line in request.lines:
            kept = reservation.lines.add(line_id=line.line_id, sku=line.sku, quantity=line.quantity)
            kept.planned_units.add(node_id=line.node_id, quantity=line.quantity)
            reply.line_outcomes.add(line_id=line.line_id, outcome=reply.outcome)
        return reply


async def _main(port: str, url: str) -> None:
    async with redis.asyncio.Redis.from_url(url, max_connections=256) as client:
        server = grpc.aio.server()
        pb_grpc.add_ReservationServiceServicer_to_server(Reservations(client), server)  # type: ignore[abstract]
        server.add_insecure_port(f"127.0.0.1:{port}")
        await server.start()
        print("serving", flush=True)
        await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(_main(*sys.argv[1:]))
