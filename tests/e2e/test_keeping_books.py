"""doctor, verify, explain, reconcile and rebuild: the commands, beside a real server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import date
from pathlib import Path

import pytest
import redis

from promise_svc.adapters.ats_index.keys import Keys
from promise_svc.adapters.embedded import EmbeddedValkey
from promise_svc.client import CallFailed, PromiseClient
from promise_svc.hotpath import shard_of
from promise_svc.load.folder import read_folder
from promise_svc.load.send import send_folder
from promise_svc.v1 import admin_service_pb2 as admin_pb
from promise_svc.v1 import availability_service_pb2 as availability_pb
from promise_svc.v1 import network_service_pb2 as network_pb
from promise_svc.v1 import reservation_service_pb2 as pb
from promise_svc.v1 import supply_service_pb2 as supply_pb
from promise_svc.v1 import types_pb2 as types_pb
from tests.e2e.conftest import Served
from tests.support.folders import write_folder


def run(served: Served, *arguments: str, engines: bool = True) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command that looks at the server's engines."""
    told = {
        "PROMISE_INDEX_URLS": ",".join(served.index_urls),
        "PROMISE_ORDER_STORE_URL": served.order_store_url,
        "PROMISE_KEY_PREFIX": served.cluster.key_prefix,
        "PROMISE_SHARD_COUNT": str(served.cluster.shard_count),
    }
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PROMISE_")}
    done = subprocess.run(
        [sys.executable, "-m", "promise_svc", *arguments],
        env=kept | {"COLUMNS": "250"} | (told if engines else {}),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
async def shop(served: Served, tmp_path: Path) -> AsyncIterator[PromiseClient]:
    """A client of the server, with the small folder loaded."""
    async with PromiseClient(f"127.0.0.1:{served.port}", shard_count=8) as client:
        loaded = await send_folder(client, read_folder(write_folder(tmp_path)))
        assert loaded.refusals == []
        yield client


async def sell(client: PromiseClient, sku: str, units: int) -> str:
    request = client.reservation("books", [(sku, units, "dc-1")])
    reply = await client.call(client.reservations.CreateReservation, request)
    assert reply.outcome == 1
    confirm = pb.ConfirmReservationRequest(reservation_id=request.reservation_id)
    await client.call(client.reservations.ConfirmReservation, confirm)
    return request.reservation_id


async def ats(client: PromiseClient, sku: str, node: str) -> int:
    query = availability_pb.QueryAvailabilityRequest(
        entries=[
            availability_pb.AvailabilityQuery(
                sku=sku, nodes=availability_pb.NodeList(node_ids=[node])
            )
        ],
        consistency=types_pb.Consistency(strong=True),
    )
    reply = await client.call(client.availability.QueryAvailability, query)
    return reply.entries[0].ats


async def test_a_healthy_cluster_has_nothing_to_complain_about(
    served: Served, shop: PromiseClient
) -> None:  # fmt: skip
    """Every check is there, and none fails."""
    code, out, _ = run(served, "doctor", "--json")

    checks = {check["name"]: check for check in json.loads(out)}
    assert code == 0, out
    assert {"versions", "settings", "index settings", "order store settings", "order store clock",
            "order store schema", "cluster", "shards", "relay"} <= checks.keys()  # fmt: skip
    assert [check for check in checks.values() if check["level"] == "fail"] == []
    assert checks["shards"]["found"] == "all 8 serve"


def test_doctor_is_told_the_number_of_shards(served: Served) -> None:
    """By a flag, as the server was: another number is another cluster's."""
    code, out, _ = run(served, "doctor", "--json", "--shard-count", "4")

    assert code == 1
    (failed,) = [check for check in json.loads(out) if check["level"] == "fail"]
    assert (failed["name"], "8" in failed["found"]) == ("cluster", True), failed


async def test_doctor_names_a_setting_changed_at_run_time(
    served: Served, valkey: EmbeddedValkey
) -> None:  # fmt: skip
    """fsync turned off under a running server breaks its promise: it is seen, with what to do."""
    with redis.Redis.from_url(valkey.urls[0]) as engine:
        engine.config_set("appendfsync", "everysec")
        try:
            code, out, _ = run(served, "doctor", "--json")
        finally:
            engine.config_set("appendfsync", "always")

    assert code == 1
    (failed,) = [check for check in json.loads(out) if check["level"] == "fail"]
    assert failed["name"] == "index settings"
    assert "appendfsync always, not yes and everysec" in failed["found"]
    assert failed["remedy"]


def test_doctor_tells_what_is_away(served: Served) -> None:
    """An engine that does not answer: which, and what to look at."""
    code, out, _ = run(served, "doctor", "--json", "--index-url", "redis://127.0.0.1:1")
    assert (code, [c["name"] for c in json.loads(out) if c["level"] == "fail"]) == (1, ["index"])

    code, out, _ = run(served, "doctor", "--json", "--order-store-url",
                       "postgresql://127.0.0.1:1/nothing")  # fmt: skip
    failed = [c["name"] for c in json.loads(out) if c["level"] == "fail"]
    assert (code, failed) == (1, ["order store"])


def test_doctor_without_engines_checks_the_installation(served: Served) -> None:
    """And says that it looked at nothing else."""
    code, out, _ = run(served, "doctor", "--json", engines=False)

    levels = {check["name"]: check["level"] for check in json.loads(out)}
    assert code == 0
    assert levels["settings"] == "ok"
    assert levels["engines"] == "warn"


@pytest.mark.parametrize(("given", "seen", "missing"), [
    ("index", "index settings", ("order store", "--order-store-url")),
    ("order store", "order store settings", ("index", "--index-url")),
])  # fmt: skip
def test_doctor_with_one_engine_checks_that_one_and_names_the_other(
    served: Served, given: str, seen: str, missing: tuple[str, str]
) -> None:  # fmt: skip
    """The shards, which need both, are not looked at."""
    url = (
        ("--index-url", served.index_urls[0])
        if given == "index"
        else ("--order-store-url", served.order_store_url)
    )
    code, out, _ = run(served, "doctor", "--json", *url, engines=False)

    checks = {check["name"]: check for check in json.loads(out)}
    name, flag = missing
    assert code == 0, out
    assert checks[seen]["level"] == "ok"
    assert (checks[name]["level"], checks[name]["remedy"]) == ("warn", f"give {flag}")
    assert not {f"{name} settings", "cluster", "shards", "relay"} & checks.keys()


async def test_verify_asks_the_engines_or_the_server(
    served: Served, shop: PromiseClient
) -> None:  # fmt: skip
    """Both find the same books balanced, as JSON too."""
    await sell(shop, "sku-2", 1)
    target = ("--target", f"127.0.0.1:{served.port}")

    direct = run(served, "verify", "--json")
    asked = run(served, "verify", "--json", *target, engines=False)
    table = run(served, "verify", *target, engines=False)

    assert direct[0] == asked[0] == table[0] == 0
    found = [json.loads(answer[1]) for answer in (direct, asked)]
    assert found[0]["consistent"] and found[1]["consistent"]
    assert found[0]["positionCount"] == found[1]["positionCount"] != "0"
    assert "positions oversold" in table[1]


async def test_explain_tells_the_story_to_people_and_scripts(
    served: Served, shop: PromiseClient
) -> None:  # fmt: skip
    """The figures, the reasons in words, who keeps what and what happened."""
    rid = await sell(shop, "sku-2", 2)
    target = ("--target", f"127.0.0.1:{served.port}")

    code, out, _ = run(served, "explain", "sku-2", "dc-1", *target, engines=False)
    story = run(served, "explain", "sku-2", "dc-1", "--json", *target, engines=False)

    assert code == story[0] == 0
    assert "sku-2 at dc-1:" in out
    assert "units are committed: orders that have not left, or owed" in out
    assert rid in out
    assert "SUPPLY_SYNCED by load, number " in out
    assert "PROTECTION_SET: " in out, "no feed has set it"
    count = int(json.loads(story[1])["reservationCount"])
    assert ("1 reservation keeps" if count == 1 else f"{count} reservations keep") in out
    assert "AVAILABILITY_REASON_COMMITTED" in json.loads(story[1])["reasons"]


async def test_capacity_tells_which_reservations_fill_a_day(
    served: Served, shop: PromiseClient
) -> None:  # fmt: skip
    """Holds and orders of that day by id, by method; what has left is counted, and not named."""
    counter = network_pb.Node(
        node_id="counter", node_type=network_pb.NODE_TYPE_STORE, calendar_id="every-day",
        time_zone="America/Chicago", address=types_pb.Address(
            country="US", postal_code="60601",
            coordinates=types_pb.Coordinates(latitude_degrees=41.9, longitude_degrees=-87.6),
        ),
    )  # fmt: skip
    method = types_pb.FULFILLMENT_METHOD_PICKUP_IN_STORE
    counter.methods.add(
        fulfillment_method=method,
        cutoff_time=network_pb.TimeOfDay(hours=23, minutes=59),
    )
    counter.capacities.add(fulfillment_method=method, orders_per_day_max=4)
    await shop.call(shop.network.UpsertNodes, network_pb.UpsertNodesRequest(nodes=[counter]))
    rows = [supply_pb.SupplyRow(sku="sku-2", node_id="counter", on_hand=9)]
    feed = supply_pb.SyncSupplyRequest(source="counter", source_sequence=1, rows=rows)
    await shop.call(shop.supply.SyncSupply, feed)
    held = []
    for _ in range(3):
        request = shop.reservation("fills", [("sku-2", 1, "counter")], pickup_node_id="counter")
        reply = await shop.call(shop.reservations.CreateReservation, request)
        held.append(reply.reservation)
    gone, order, hold = (x.reservation_id for x in held)
    for rid in (gone, order):
        await shop.call(
            shop.reservations.ConfirmReservation, pb.ConfirmReservationRequest(reservation_id=rid)
        )
    await shop.call(
        shop.reservations.FulfillReservation, pb.FulfillReservationRequest(reservation_id=gone)
    )
    await shop.call(shop.admin.Verify, admin_pb.VerifyRequest(), deadline_seconds=60)
    (day,) = {date(x.date.year, x.date.month, x.date.day) for r in held for x in r.work_days}
    target = ("--target", f"127.0.0.1:{served.port}")

    code, out, _ = run(served, "capacity", "counter", f"{day}", *target, engines=False)
    told = run(served, "capacity", "counter", f"{day}", "--json", *target, engines=False)[1]

    assert code == 0
    assert "PICKUP_IN_STORE: 2 reservations to be worked" in out
    assert f"  {order}, an order" in out
    assert f"  {hold}, held until " in out
    assert gone not in out
    named = json.loads(told)["reservations"]["PICKUP_IN_STORE"]
    assert {x["reservationId"] for x in named} == {order, hold}
    assert json.loads(told)["days"][0]["workedOrders"] == "1"

    about = availability_pb.ExplainAvailabilityRequest(
        node_id="counter", capacity_date=held[0].work_days[0].date, fulfillment_method=method
    )
    story = await shop.call(shop.availability.ExplainAvailability, about)
    taken = story.breakdown
    assert (story.ats, story.table_ats, list(story.reasons)) == (1, 1, [])
    assert (taken.on_hand, taken.reserved, taken.committed, taken.safety_stock) == (4, 1, 1, 1)
    about.sku = "sku-2"
    with pytest.raises(CallFailed, match="sku: is left out"):
        await shop.call(shop.availability.ExplainAvailability, about)


async def test_entries_that_nothing_uses_are_deleted_by_name(
    served: Served, shop: PromiseClient
) -> None:  # fmt: skip
    """What became of each; what is in use says by what, and what no lane can be called is refused
    before anything is."""
    target = ("--target", f"127.0.0.1:{served.port}")
    lane = "node:store-1>US:606>ground"

    deleted = run(served, "delete", "lane", lane, *target, engines=False)
    again = run(served, "delete", "lane", lane, "--json", *target, engines=False)
    used = run(served, "delete", "carrier-service", "ground", "air", *target, engines=False)
    wrong = run(served, "delete", "lane", "60-6", *target, engines=False)

    assert deleted[:2] == (0, f"lane {lane}: deleted\n")
    assert (again[0], json.loads(again[1])) == (0, {lane: "not there"})
    assert used[0] == 1
    assert "carrier-service ground: in use by lane " in used[1]
    assert wrong[0] == 1
    assert "names[0]" in wrong[2]


async def test_drift_is_found_by_reconcile_and_mended_by_rebuild(
    served: Served, shop: PromiseClient, valkey: EmbeddedValkey
) -> None:  # fmt: skip
    """A position that vanished from the index behind everybody's back is told; the shard is filled
    again from the order store under a new epoch, while the server runs; then the books balance and
    sales go on."""
    rid = await sell(shop, "sku-1", 3)
    before = await ats(shop, "sku-1", "dc-1")
    shard = shard_of("sku-1", 8)
    assert run(served, "reconcile")[0] == 0
    position = Keys(served.cluster.key_prefix, 8).bases[shard] + "p:sku-1"
    with redis.Redis.from_url(valkey.urls[0]) as engine:
        assert engine.delete(position) == 1

    code, out, _ = run(served, "reconcile", "--shard", str(shard), "--json")
    assert code == 1
    found = json.loads(out)["findings"]
    assert {(f["kind"], f["sku"], f["node_id"]) for f in found} == {
        ("POSITION_DRIFT", "sku-1", "dc-1"), ("POSITION_DRIFT", "sku-1", "store-1"),
    }  # fmt: skip

    code, out, errors = run(served, "rebuild", "--shard", str(shard), "--yes")

    assert code == 0, errors
    assert f"shard {shard}: stood at" in out
    assert await ats(shop, "sku-1", "dc-1") == before
    get = pb.GetReservationRequest(reservation_id=rid)
    kept = await shop.call(shop.reservations.GetReservation, get)
    assert kept.reservation.state == pb.Reservation.STATE_CONFIRMED
    await sell(shop, "sku-1", 1)
    assert run(served, "reconcile")[0] == 0
    assert run(served, "verify")[0] == 0


def test_rebuild_refuses_a_shard_that_is_none_and_asks_first(served: Served) -> None:
    """Nothing is thrown away by a mistyped number, or without a yes."""
    assert "there is no shard 8: 0 to 7" in run(served, "rebuild", "--shard", "8", "--yes")[2]
    assert run(served, "rebuild", "--shard", "1")[0] == 1
    assert "there is no shard -1: 0 to 7" in run(served, "reconcile", "--shard", "-1")[2]
