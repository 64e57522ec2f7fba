"""`promise-svc load` against a real server."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import asyncpg

from promise_svc.client import PromiseClient
from promise_svc.v1 import admin_service_pb2 as admin_pb
from promise_svc.v1 import availability_service_pb2 as availability_pb
from promise_svc.v1 import promise_service_pb2 as promise_pb
from promise_svc.v1 import reservation_service_pb2 as reservation_pb
from promise_svc.v1 import types_pb2 as types_pb
from tests.e2e.conftest import Served
from tests.support.folders import COUNTS, FILES, write_folder

COUNTED = ("supply", "protection levels", "inbound")
_EVERYTHING = admin_pb.VerifyRequest()


def load(served: Served, folder: Path, *more: str) -> tuple[int, dict[str, dict[str, object]]]:
    """Exit code and answer of the command."""
    done = subprocess.run(
        [sys.executable, "-m", "promise_svc", "load", str(folder), "--json", "--target",
         f"127.0.0.1:{served.port}", *more],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    return done.returncode, json.loads(done.stdout)


async def cursors(served: Served) -> list[tuple[int, ...]]:
    """Where every shard's history ends, once the order store has all of it."""
    async with PromiseClient(f"127.0.0.1:{served.port}", shard_count=8) as client:
        await client.call(client.admin.Verify, _EVERYTHING, deadline_seconds=60)
    connection = await asyncpg.connect(served.order_store_url)
    try:
        rows = await connection.fetch("SELECT shard, epoch, sequence FROM cursors ORDER BY shard")
        return [tuple(row) for row in rows]
    finally:
        await connection.close()


async def test_a_folder_is_checked_loaded_and_loaded_again_for_nothing(
    served: Served, tmp_path: Path
) -> None:
    """A dry run and a folder with a wrong line send nothing; a full feed of unchanged rows writes
    no event: no shard's sequence moves. What changed is one event."""
    folder = write_folder(tmp_path / "right")
    wrong = write_folder(tmp_path / "wrong", supply=FILES["supply.csv"].replace("40,3", "40,x"))
    before = await cursors(served)

    assert load(served, folder, "--dry-run") == (0, {"read": COUNTS, "loaded": {}, "refusals": []})
    code, answer = load(served, wrong)
    assert (code, answer["loaded"]) == (1, {})
    assert [(r["file"], r["line"]) for r in answer["refusals"]] == [("supply.csv", 4)]
    assert await cursors(served) == before

    code, answer = load(served, folder)
    assert code == 0
    created = {name: {"created": count} for name, count in COUNTS.items() if name not in COUNTED}
    counted = {name: {"applied": COUNTS[name]} for name in COUNTED}
    assert answer["loaded"] == created | counted
    first = await cursors(served)
    assert first != before

    code, answer = load(served, folder, "--source-sequence", str(2**50))
    assert (code, answer["loaded"]) == (0, {n: {"unchanged": c} for n, c in COUNTS.items()})
    assert await cursors(served) == first

    write_folder(folder, supply=FILES["supply.csv"].replace("40,3", "41,3"))
    code, answer = load(served, folder, "--source-sequence", str(2**50 + 1))
    assert answer["loaded"]["supply"] == {"applied": 1, "unchanged": 3}
    moved = await cursors(served)
    assert sum(row[2] for row in moved) == sum(row[2] for row in first) + 1


async def test_what_the_service_refuses_is_told_by_file_and_line(
    served: Served, tmp_path: Path
) -> None:
    """A folder of counts alone names a node that nobody knows; the other rows are applied."""
    load(served, write_folder(tmp_path / "all"))
    (tmp_path / "supply.csv").write_text("sku,node_id,on_hand\nsku-1,dc-1,7\nsku-1,dc-9,7\n")

    code, answer = load(served, tmp_path, "--source", "other")

    assert code == 1
    assert answer["loaded"] == {"supply": {"applied": 1, "refused": 1}}
    text = "the service says UNKNOWN_NODE"
    assert answer["refusals"] == [{"file": "supply.csv", "line": 3, "text": text}]


async def test_the_client_holds_and_confirms_what_was_loaded(
    served: Served, tmp_path: Path
) -> None:
    """The minted id has its home on the shard of the first line's SKU; sent again, the same request
    is the same hold; a strong read sees it."""
    assert load(served, write_folder(tmp_path), "--source", "another")[0] == 0
    async with PromiseClient(f"127.0.0.1:{served.port}", shard_count=8) as client:
        hold = client.reservation("cart", [("sku-2", 3)], country="US", postal_code="60606")
        held = await client.call(client.reservations.CreateReservation, hold)
        again = await client.call(client.reservations.CreateReservation, hold)
        query = availability_pb.QueryAvailabilityRequest(
            entries=[availability_pb.AvailabilityQuery(sku="sku-2")],
            consistency=types_pb.Consistency(strong=True),
        )
        answer = await client.call(client.availability.QueryAvailability, query)

    assert held.outcome == again.outcome == 1
    assert (held.replayed, again.replayed) == (False, True)
    # Four are kept for the marketplace.
    assert answer.entries[0].ats == (40 - 3 - 4) + (2 - 1) - 3


async def test_a_loaded_rule_decides_promises_and_holds_and_says_so(
    served: Served, tmp_path: Path
) -> None:
    """Fragile goods are not sent from stores, though the center alone has too few: 100 of which 30
    are kept for a segment."""
    assert load(served, write_folder(tmp_path), "--source", "rules")[0] == 0
    async with PromiseClient(f"127.0.0.1:{served.port}", shard_count=8) as client:
        cart = promise_pb.PromiseCartRequest(
            lines=[types_pb.Line(line_id="1", sku="sku-1", quantity=72)],
            address=types_pb.Address(country="US", postal_code="60606"),
            explain=True,
        )
        refused = await client.call(client.promises.PromiseCart, cart)
        cart.lines[0].quantity = 70
        promised = await client.call(client.promises.PromiseCart, cart)
        hold = client.reservation("fragile", [("sku-1", 72)], country="US", postal_code="60606")
        held = await client.call(client.reservations.CreateReservation, hold)

    line = refused.unfulfilled_lines[0]
    assert (line.reason, line.ats) == (promise_pb.UNFULFILLED_REASON_EXCLUDED_BY_RULE, 70)
    rules = ["fragile-not-from-stores", "stores-last"]
    told = promised.explanation
    assert list(told.rule_ids) == [*rules, "two-boxes"]
    assert told.max_shipments == 2
    assert [(node.node_id, node.verdict, list(node.rule_ids)) for node in told.nodes] == [
        ("dc-1", promise_pb.NodeVerdict.VERDICT_CHOSEN, ["two-boxes"]),
        ("store-1", promise_pb.NodeVerdict.VERDICT_EXCLUDED_BY_RULE, [*rules, "two-boxes"]),
    ]
    assert held.outcome == reservation_pb.CREATE_RESERVATION_OUTCOME_EXCLUDED_BY_RULE


def test_the_readmes_example_runs_as_it_stands(served: Served, tmp_path: Path) -> None:
    """Only the address is another one."""
    assert load(served, write_folder(tmp_path), "--source", "readme")[0] == 0
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    (example,) = [block for block in re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
                  if "PromiseClient" in block]  # fmt: skip

    done = subprocess.run(
        [sys.executable, "-c", example.replace("127.0.0.1:50051", f"127.0.0.1:{served.port}")],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip

    assert done.stdout.startswith("1 20"), done.stderr  # HELD, until a time of this century
    assert len(example.strip().splitlines()) <= 12
