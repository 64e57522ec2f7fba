"""The load generator's own arithmetic: a tool that flatters is worse than none."""

from __future__ import annotations

import asyncio
import io
import json
import math
import random
from collections import Counter
from collections.abc import AsyncIterator
from itertools import count, islice
from pathlib import Path

import grpc.aio
import pytest
from rich.console import Console

from loadtest.bench.row import row, slower
from loadtest.bodies import CONFIRM, CREATE, QUERY, Step, read_bodies, write_bodies
from loadtest.catalog import SHARD_COUNT, Catalog, CatalogSize
from loadtest.driver.process import ClientKind, DriverMissing, Load, drive, raw_driver
from loadtest.overload import print_multiples
from loadtest.pacer import intended_times
from loadtest.recorder import (
    AckLog,
    Histogram,
    MethodRecord,
    RunRecord,
    bucket_of,
    highest_of,
    merged,
)
from loadtest.run import RunResult, Verdict, judge
from loadtest.scenario import SCENARIOS, ScenarioError, load_scenario, with_load
from loadtest.workload import Workload, WorkloadOptions
from promise_svc.domain.sharding import shard_of
from promise_svc.v1 import reservation_service_pb2 as pb

STALL_SECONDS = 0.5


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return Catalog(CatalogSize(store_count=30, sku_count=500), seed=3)


def test_a_percentile_is_within_one_percent_and_never_flatters() -> None:
    """What a histogram tells is at least the true value and at most 0.8 % above it."""
    rng = random.Random(4)
    values = sorted(int(rng.lognormvariate(8, 2)) for _ in range(20_000))
    histogram = Histogram()
    for value in values:
        histogram.observe((value + 0.5) / 1e6)

    for percent in (1, 50, 90, 99, 99.9):
        # Rounded first: 99.9 has no exact double, and one rank more is another value.
        true = values[math.ceil(round(len(values) * percent / 100, 6)) - 1]
        assert true <= histogram.percentile_ms(percent) * 1000 <= true * 1.008 + 1


def test_every_value_lies_in_the_bucket_that_ends_with_the_highest() -> None:
    """bucket_of and highest_of agree at every edge."""
    for bits in range(1, 36):
        for value in (2**bits - 1, 2**bits, 2**bits + 1):
            highest = highest_of(bucket_of(value))
            assert value <= highest
            assert bucket_of(highest) == bucket_of(value)
            assert bucket_of(highest + 1) == bucket_of(value) + 1


def test_intended_times_keep_the_rate_and_the_seed() -> None:
    """As many arrivals as asked for, the same for the same seed, within the time."""
    for arrivals in ("poisson", "uniform"):
        drawn = [
            list(intended_times(500, start=7, seconds=20, arrivals=arrivals, seed=1))
            for _ in range(2)
        ]
        assert drawn[0] == drawn[1] == sorted(drawn[0])
        assert 9_500 < len(drawn[0]) < 10_500
        assert drawn[0][0] >= 7 and drawn[0][-1] < 27


def test_nine_carts_of_ten_cross_shards_and_lines_are_one_to_five(catalog: Catalog) -> None:
    """The mix the goals are stated for."""
    workload = Workload(catalog, WorkloadOptions(kind="reserve"), seed=1, run="t")
    carts = [workload.cart() for _ in range(3_000)]
    shards = [{shard_of(sku, SHARD_COUNT) for sku, _ in cart} for cart in carts]

    assert {len(cart) for cart in carts} == {1, 2, 3, 4, 5}
    assert 0.88 < sum(len(s) > 1 for s in shards) / len(carts) < 0.92


def test_the_same_seed_asks_the_same_and_ids_are_never_repeated(catalog: Catalog) -> None:
    """Two runs compare; two client processes never share a reservation id."""

    def drawn(run: str) -> list[pb.CreateReservationRequest]:
        workload = Workload(catalog, WorkloadOptions(kind="reserve"), seed=1, run=run)
        return [
            pb.CreateReservationRequest.FromString(session[0].message)
            for session in islice(workload.sessions(), 500)
        ]

    first, second = drawn("a"), drawn("b")
    assert [r.lines for r in first] == [r.lines for r in second]
    assert len({r.reservation_id for r in (*first, *second)}) == 1_000
    assert all(
        shard_of(r.reservation_id, SHARD_COUNT) == shard_of(r.lines[0].sku, SHARD_COUNT)
        for r in first
    )


def test_bodies_come_back_as_they_were_written(tmp_path: Path) -> None:
    """The file loses nothing; sessions keep their calls."""
    sessions = [[Step(QUERY, b"q")], [Step(CREATE, b"c" * 300, b'"reservation_id":"r"')] * 2]
    assert write_bodies(tmp_path / "bodies", sessions) == (2, 3)

    found = read_bodies(tmp_path / "bodies")
    assert [[Step(*entry[:3]) for entry in session] for session in found] == sessions


def test_every_scenario_can_be_read() -> None:
    """And a misspelled key is told, not ignored."""
    names = {file.stem for file in SCENARIOS.glob("*.toml")}
    expected = {"availability_read", "list_page", "checkout_mix", "hot_sku", "expiry_storm"}
    assert expected <= names
    for name in names:
        assert load_scenario(name).about


def test_a_scenario_with_an_unknown_key_is_refused(tmp_path: Path) -> None:
    """It would otherwise run with the default and look right."""
    file = tmp_path / "wrong.toml"
    file.write_text('[workload]\nkind = "reserve"\n[load]\nrat = 5\n')
    with pytest.raises(ScenarioError, match="rat"):
        load_scenario(str(file))


def test_a_run_says_when_the_generator_was_the_limit() -> None:
    """Late sends and a busy client process make a run not valid; a slow server does not."""
    load = Load(rate=100, seconds=10)
    record = RunRecord(seconds=10, cpu_share_max=0.2)
    for _ in range(1_000):
        record.lateness.observe(0.0001)
        record.waiting.observe(3.0)
    assert judge(record, load, 1, 0.5).valid

    record.cpu_share_max = 0.95
    assert "GENERATOR LIMIT" in judge(record, load, 1, 0.5).remarks[0]

    record.cpu_share_max = 0.2
    for _ in range(50):
        record.lateness.observe(0.02)
    assert not judge(record, load, 1, 0.5).valid


def test_few_arrivals_by_chance_do_not_spoil_a_run_but_sessions_that_never_began_do() -> None:
    """Poisson draws 92 where 100 were meant; every one of them began. Then ten did not."""
    load = Load(rate=10, seconds=10)
    record = RunRecord(seconds=10, cpu_share_max=0.1)
    for _ in range(92):
        record.lateness.observe(0.0001)
        record.waiting.observe(0.0001)
    assert judge(record, load, 1, 0.5).valid

    for _ in range(10):
        record.lateness.observe(0.0001)
    assert "of 102 sessions offered, 92" in judge(record, load, 1, 0.5).remarks[0]


def test_a_slower_build_and_a_lost_goal_are_told() -> None:
    """In the direction of the unit; anchors and small changes are left out."""
    before = {
        each.name: each
        for each in (
            row("a_us", 10, "us", "<= 12"),
            row("b_s", 1000, "calls/s", ">= 100"),
            row("c_us", 10, "us", "<= 12"),
            row("anchor", 10, "us"),
        )
    }
    now = [
        row("a_us", 11, "us", "<= 12"),
        row("b_s", 700, "calls/s", ">= 100"),
        row("c_us", 12.4, "us", "<= 12"),
        row("anchor", 90, "us"),
    ]
    told = slower(now, before)
    assert [sentence.split(":")[0] for sentence in told] == ["b_s", "c_us"]
    assert "goal is lost" in told[1]


def test_a_row_that_can_no_longer_be_measured_is_told() -> None:
    """A build that does not even start must not pass as no slower."""
    before = {"a_us": row("a_us", 10, "us", "<= 12"), "b_us": row("b_us", 10, "us", "<= 12")}
    told = slower([row("a_us", None, "us", "<= 12", "FAILED")], before, ["a_us", "b_us"])
    assert [sentence.split(":")[0] for sentence in told] == ["a_us", "b_us"]


def test_the_log_of_acknowledgements_is_one_json_line_a_call(tmp_path: Path) -> None:
    """With the fields the README tells."""
    log = AckLog(tmp_path / "acks.jsonl")
    log.write("CreateReservation", 0, 1, b'"reservation_id":"r","lines":[["s",1]]')
    log.close()

    (line,) = (tmp_path / "acks.jsonl").read_text().splitlines()
    told = json.loads(line)
    assert told.pop("time_ms") > 0
    assert told == {
        "method": "CreateReservation", "code": 0, "outcome": 1,
        "reservation_id": "r", "lines": [["s", 1]],
    }  # fmt: skip


class _StallingServer(grpc.GenericRpcHandler):
    """Answers HELD; everything that comes in the first STALL_SECONDS waits until they are over."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.begun = False

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        return grpc.unary_unary_rpc_method_handler(self._answer)

    async def _answer(self, request: bytes, context: object) -> bytes:
        if not self.begun:
            self.begun = True
            asyncio.get_running_loop().call_later(STALL_SECONDS, self.opened.set)
        await self.opened.wait()
        return b"\x08\x01"


@pytest.fixture
async def stalling() -> AsyncIterator[str]:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_StallingServer(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


@pytest.mark.parametrize("kind", ["raw", "grpc"])
async def test_a_stall_is_seen_by_all_who_came_in_it(
    stalling: str, tmp_path: Path, kind: ClientKind
) -> None:
    """One stream only, so a generator that waited for it would see one slow call of many:
    coordinated omission. Counted from intended times, the stalled quarter of the run shows."""
    if kind == "raw":
        try:
            raw_driver()
        except DriverMissing as error:
            pytest.skip(str(error))
    bodies = tmp_path / "bodies"
    write_bodies(bodies, [[Step(CREATE, b"", b'"reservation_id":"r"')]] * 100)
    load = Load(rate=100, arrivals="uniform", seconds=4 * STALL_SECONDS,
                ack_log=tmp_path / "acks.jsonl")  # fmt: skip

    record = await asyncio.to_thread(drive, stalling, [bodies], load, kind=kind)

    # A session may fall on either side of the run's end.
    assert abs(record.done - 200) <= 2
    assert record.count(CREATE, 0, 1) == record.done
    assert record.latency().percentile_ms(90) > 0.4 * STALL_SECONDS * 1000
    slow = sum(n for path in record.methods.values()
               for b, n in path.service.buckets.items() if highest_of(b) > 100_000)  # fmt: skip
    assert slow <= 2
    assert len((tmp_path / "acks-0.jsonl").read_text().splitlines()) >= record.done


@pytest.mark.parametrize("kind", ["raw", "grpc"])
async def test_a_refusal_is_no_accepted_call(tmp_path: Path, kind: ClientKind) -> None:
    """Refusals are quick: they would flatter the latency of an overloaded service. They are counted
    by second and by reason."""
    if kind == "raw":
        try:
            raw_driver()
        except DriverMissing as error:
            pytest.skip(str(error))
    calls = count()

    async def refuse_every_third(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        if next(calls) % 3 == 0:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "not now")
        return b"\x08\x01"

    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(refuse_every_third)
    service, method = CREATE.strip("/").split("/")
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {method: handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    bodies = tmp_path / "bodies"
    write_bodies(bodies, [[Step(CREATE, b"")]] * 60)
    load = Load(rate=100, arrivals="uniform", seconds=0.6, streams=8)

    record = await asyncio.to_thread(drive, f"127.0.0.1:{port}", [bodies], load, kind=kind)
    await server.stop(None)

    refused = record.count(CREATE, 8)
    assert refused > 0
    assert record.errors == record.reasons["CODE_8"] == refused
    assert sum(record.errors_by_second) <= refused
    assert record.methods[CREATE].accepted.count == record.count(CREATE, 0) == record.done - refused


def test_records_of_several_processes_add_up() -> None:
    """Counts are summed, the busiest process and the longest time are kept."""
    parts = [RunRecord(seconds=s, cpu_share_max=s / 10, done=5, done_by_second=[5] * s,
                       errors_by_second=[1] * s)
             for s in (1, 2)]  # fmt: skip
    total = merged(RunRecord.from_json(part.to_json(1.0)) for part in parts)
    assert (total.seconds, total.done, total.done_by_second) == (2, 10, [10, 5])
    assert total.errors_by_second == [2, 1]


def test_a_run_of_multiples_tells_what_became_of_those_let_in() -> None:
    """A line a multiple: goodput, latency of the accepted, confirms done, the last error."""
    holds, confirms = (
        MethodRecord(Counter({(0, 1): 40, (8, 0): 60})),
        MethodRecord(Counter({(0, 1): 30, (14, 0): 2})),
    )
    for _ in range(40):
        holds.accepted.observe(0.25)
        holds.latency.observe(0.001)
    record = RunRecord(seconds=10, reasons=Counter({"OVERLOADED": 60}), errors_by_second=[5, 1, 0])
    record.methods = {CREATE: holds, CONFIRM: confirms}
    scenario = with_load(load_scenario("overload"), multiples=(2.0,))
    result = RunResult(scenario, Load(rate=8.0), 1, record, Verdict(), 0.5, "")
    console = Console(width=200, record=True, file=io.StringIO())

    print_multiples([result], console)

    told = [cell.strip() for cell in console.export_text().splitlines()[-2].strip("│").split("│")]
    assert told == ["2", "8", "4", "250", "250", "0", "93.75%", "OVERLOADED 60", "second 2"]
