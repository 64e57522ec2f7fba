"""Availability and promises: what a call costs the server, beside a C++ server's."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc.aio

from loadtest.bench.context import Bench
from loadtest.bench.row import Row, row
from loadtest.bodies import CREATE, QUERY, Step
from loadtest.catalog import ALL_NODES, FEW_NODES
from loadtest.driver.process import BUILD_FOLDER, Load, drive
from loadtest.host import free_port, tree_cpu
from loadtest.workload import Workload
from promise_svc.v1 import availability_service_pb2 as availability_pb
from promise_svc.v1 import availability_service_pb2_grpc as availability_grpc
from promise_svc.v1 import reservation_service_pb2 as reservation_pb
from promise_svc.v1 import supply_service_pb2 as supply_pb
from promise_svc.v1 import supply_service_pb2_grpc as supply_grpc

SHAPES = {"busy": (4, 64, "<= 6", 0.2), "sparse": (16, 1, "<= 18", 0.4)}
ANCHOR = Path(__file__).parents[1] / "anchors" / "availability.cc"
ABSENT = "absent: apt-get install libgrpc++-dev libprotobuf-dev protobuf-compiler-grpc pkg-config"


def availability(bench: Bench) -> Iterator[Row]:
    """One SKU a call, 4 x 64 and 16 x 1, ours and C++."""
    workload = bench.workload("availability_read")
    path = bench.bodies("read", ((workload.query([sku]),) for sku in bench.catalog.skus))
    distinct = f"{len(bench.catalog.skus):,} bodies, one SKU each, all its nodes summed"
    ours, busy_rate = {}, 0.0
    for name, (connections, streams, goal, _) in SHAPES.items():
        load = Load(connections=connections, streams=streams, seconds=bench.seconds)
        bench.drive(path, Load(connections=connections, streams=streams, seconds=0.5))
        driven = bench.drive(path, load)
        ours[name] = driven.front_us
        busy_rate = max(busy_rate, driven.record.rate)
        bench.curves.append((f"availability {name}", driven.record.latency()))
        yield row(
            f"availability_{name}_cpu_us",
            driven.front_us,
            "us",
            goal,
            f"{bench.host.front} front, {driven.how}; {driven.record.rate:,.0f} calls/s; "
            f"{distinct}",
        )
    yield from _beside_cpp(bench, path, ours)
    yield _h2load(bench)
    yield _beside_aio(bench, path, busy_rate)
    _sweep(bench, path)


def _beside_cpp(bench: Bench, path: Path, ours: dict[str, float]) -> Iterator[Row]:
    binary, why = build_cpp()
    if binary is None:
        for name, (_, _, _, limit) in SHAPES.items():
            yield row(f"availability_{name}_vs_cpp", None, "ratio (low)", f"<= {limit}", why)
        return
    with cpp_server(bench, binary) as (target, pid):
        for name, (connections, streams, _, limit) in SHAPES.items():
            drive(target, [path], Load(connections=connections, streams=streams, seconds=0.5))
            before = tree_cpu(pid)
            load = Load(connections=connections, streams=streams, seconds=bench.seconds)
            record = drive(target, [path], load)
            anchor = 1e6 * (tree_cpu(pid) - before) / max(1, record.all_done)
            how = f"unary.c, {load.shape()}, {record.rate:,.0f} calls/s, same bodies"
            if record.cpu_share_max > 0.85:
                how += f"; GENERATOR LIMIT ({record.cpu_share_max:.0%} of a core)"
            yield row(f"cpp_availability_{name}_cpu_us", anchor, "us", "", how)
            yield row(
                f"availability_{name}_vs_cpp",
                ours[name] / anchor,
                "ratio (low)",
                f"<= {limit}",
                f"{ours[name]:.1f} us over {anchor:.1f} us of a C++ gRPC callback server",
            )


def build_cpp() -> tuple[Path | None, str]:
    """The C++ anchor, compiled (a minute, once); or None and why not."""
    binary = BUILD_FOLDER / "availability-cpp"
    if binary.exists() and binary.stat().st_mtime > ANCHOR.stat().st_mtime:
        return binary, ""
    plugin = shutil.which("grpc_cpp_plugin")
    if not plugin or not shutil.which("protoc") or not shutil.which("pkg-config"):
        return None, ABSENT
    generated = (BUILD_FOLDER / "cpp").absolute()
    generated.mkdir(parents=True, exist_ok=True)
    protos = ["promise_svc/v1/types.proto", "promise_svc/v1/availability_service.proto"]
    flags = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "grpc++", "protobuf"],
        capture_output=True,
        text=True,
        check=False,
    )
    if flags.returncode:
        return None, ABSENT
    generate = [
        "protoc",
        "-Iprotos",
        f"--cpp_out={generated}",
        f"--grpc_out={generated}",
        f"--plugin=protoc-gen-grpc={plugin}",
        *protos,
    ]
    done = subprocess.run(generate, capture_output=True, text=True, check=False)
    if not done.returncode:
        sources = map(str, sorted(generated.glob("promise_svc/v1/*.cc")))
        compile_ = [
            "g++",
            "-O2",
            "-std=c++17",
            f"-I{generated}",
            "-o",
            str(binary),
            str(ANCHOR),
            *sources,
            *flags.stdout.split(),
        ]
        done = subprocess.run(compile_, capture_output=True, text=True, check=False)
    return (None, f"does not build: {done.stderr[-300:]}") if done.returncode else (binary, "")


@contextmanager
def cpp_server(bench: Bench, binary: Path) -> Iterator[tuple[str, int]]:
    """The anchor, serving the same positions."""
    positions = bench.folder / "positions.txt"
    positions.write_text(
        "".join(
            f"{r.sku} {r.node_id} {r.on_hand} 0 0 {r.safety_stock}\n" for r in bench.catalog.rows()
        )
    )
    port = free_port()
    process = subprocess.Popen(
        [str(binary), str(port), str(positions)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield f"127.0.0.1:{port}", process.pid
    finally:
        process.terminate()
        process.wait()


def _beside_aio(bench: Bench, path: Path, rate: float) -> Row:
    """The same service with the other front; the one by default is put back after it."""
    name, goal, host = "availability_vs_aio", ">= 20", bench.host
    if host.front == "grpcio":
        return row(name, None, "ratio (high)", goal, "the native front is not built here")
    host.stop_server()
    host.serve(PROMISE_FRONT="grpcio")
    load = Load(connections=4, streams=64, seconds=bench.seconds)
    driven = bench.drive(path, load)
    host.stop_server()
    host.serve()
    return row(
        name,
        rate / max(1.0, driven.record.rate),
        "ratio (high)",
        goal,
        f"{rate:,.0f} calls/s over {driven.record.rate:,.0f} of PROMISE_FRONT=grpcio, whose CPU a "
        f"call is {driven.front_us:,.0f} us; {driven.how}; on two cores the driver has one of them",
    )


def _h2load(bench: Bench) -> Row:
    """An independent generator: one body, so only calls/s are compared, not costs."""
    name = "availability_h2load_calls_s"
    if not shutil.which("h2load"):
        return row(name, None, "calls/s", "", "absent: apt-get install nghttp2-client")
    step = bench.workload("availability_read").query([bench.catalog.skus[0]])
    body = bench.folder / "h2load.body"
    body.write_bytes(b"\0" + len(step.message).to_bytes(4, "big") + step.message)
    seconds = max(2, round(bench.seconds))
    command = [
        "h2load",
        "-D",
        str(seconds),
        "-c4",
        "-m64",
        "-t1",
        "-d",
        str(body),
        "-H",
        "content-type: application/grpc",
        "-H",
        "te: trailers",
        f"http://{bench.host.target}{QUERY}",
    ]
    told = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    rate = next(
        (
            float(line.split(",")[1].split()[0])
            for line in told.splitlines()
            if line.startswith("finished in")
        ),
        None,
    )
    return row(name, rate, "calls/s", "", f"h2load -c4 -m64 -t1 -D{seconds}, one body")


def _sweep(bench: Bench, path: Path) -> None:
    """Throughput against offered load, for the page."""
    capacity = bench.drive(path, Load(connections=4, streams=64, seconds=1.5)).record.rate
    points = []
    for share in (0.25, 0.5, 0.75, 0.9, 1.1):
        load = Load(
            connections=4,
            streams=64,
            seconds=max(1.5, bench.seconds / 2),
            rate=max(1.0, share * capacity),
        )
        record = bench.drive(path, load).record
        points.append((load.rate, sum(record.done_by_second) / record.seconds))
        bench.curves.append((f"read at {share:.0%}", record.latency()))
    bench.sweeps.append(("availability, one SKU", points))


def availability_batch(bench: Bench) -> Iterator[Row]:
    """200 SKUs x 20 nodes a call."""
    for name, view, goal in (("", "TOTAL", ">= 20,000,000"), ("_nodes", "NODES", ">= 8,000,000")):
        workload = bench.workload("list_page", view=view)
        path = bench.bodies(f"batch{name}", workload.take(500))
        driven = bench.drive(path, Load(connections=2, streams=2, seconds=bench.seconds))
        cells = driven.record.all_done * 200 * 20
        yield row(
            f"availability_batch{name}_cells_s",
            cells / max(1e-9, driven.cpu.front),
            "cells/s",
            goal,
            f"200 SKUs x 20 named nodes a call, view {view}, per core-second of the server; "
            f"500 distinct bodies; {driven.how}",
        )


def availability_growth(bench: Bench) -> Iterator[Row]:
    """One SKU in a group of all nodes over the same in a group of 20."""
    costs = []
    for group in (FEW_NODES, ALL_NODES):
        requests = (
            availability_pb.QueryAvailabilityRequest(
                entries=[availability_pb.AvailabilityQuery(sku=sku, node_group_id=group)]
            )
            for sku in bench.catalog.skus
        )
        sessions = ((Step(QUERY, request.SerializeToString()),) for request in requests)
        path = bench.bodies(group, sessions)
        load = Load(connections=4, streams=16, seconds=bench.seconds / 2)
        costs.append(bench.drive(path, load))
    few, all_ = (each.front_us for each in costs)
    nodes = len(bench.catalog.network.nodes)
    yield row(
        "availability_growth_nodes",
        all_ / few,
        "ratio (low)",
        "<= 1.2",
        f"one SKU in a group of {nodes:,} nodes over one of 20: {all_:.0f} us over {few:.0f} us; "
        f"{costs[1].how}",
    )


def promise_cart(bench: Bench) -> Iterator[Row]:
    """3 lines of SKUs that lie at 30 % of the nodes, 3 services, 4 options."""
    path = bench.bodies("promise", bench.workload("promise_cart").take(BODIES))
    driven = bench.drive(path, Load(connections=4, streams=8, seconds=bench.seconds))
    nodes = bench.catalog.size.store_count + 12
    yield row(
        "promise_cart_cpu_us",
        driven.front_us,
        "us",
        "<= 150",
        f"PromiseCart, 3 lines, {nodes:,} nodes, stock at 30 %, 3 services, 4 options; "
        f"{driven.how}",
    )


BODIES = 10_000


def change_visible(bench: Bench) -> Iterator[Row]:
    """From the acknowledgement of a change until a read shows it, while reads run."""
    path = bench.bodies("read-half", bench.workload("availability_read").take(BODIES))
    capacity = bench.drive(path, Load(connections=4, streams=16, seconds=1.5)).record.rate
    found, load = asyncio.run(_watch_changes(bench, path, capacity / 2))
    found.sort()
    yield row(
        "change_visible_p99_ms",
        found[int(0.99 * len(found))],
        "ms",
        "<= 10",
        f"{len(found)} AdjustSupply calls of one row, each followed by reads without pause "
        f"over grpc.aio, so one read's time is part of it; 1 worker; reads meanwhile: "
        f"{load.shape()}; median {found[len(found) // 2]:.2f} ms",
    )


async def _watch_changes(bench: Bench, path: Path, rate: float) -> tuple[list[float], Load]:
    load = Load(connections=4, streams=16, seconds=bench.seconds + 1, rate=rate)
    target, found = bench.host.target, []
    running = asyncio.create_task(asyncio.to_thread(drive, target, [path], load))
    async with grpc.aio.insecure_channel(target) as channel:
        supply = supply_grpc.SupplyServiceStub(channel)
        reads = availability_grpc.AvailabilityServiceStub(channel)
        sku, node = bench.catalog.hot_skus[-1], bench.catalog.centers[0]
        query = availability_pb.QueryAvailabilityRequest(
            entries=[availability_pb.AvailabilityQuery(sku=sku)],
            view=availability_pb.AVAILABILITY_VIEW_TOTAL,
        )
        number = 0
        while not running.done():
            before = (await reads.QueryAvailability(query)).entries[0].ats
            number += 1
            await supply.AdjustSupply(
                supply_pb.AdjustSupplyRequest(
                    idempotency_key=f"seen-{time.time_ns()}",
                    reason="bench",
                    rows=[supply_pb.SupplyDelta(sku=sku, node_id=node, quantity_delta=-1)],
                )
            )
            begun = time.perf_counter()
            while (await reads.QueryAvailability(query)).entries[0].ats != before - 1:
                pass
            found.append((time.perf_counter() - begun) * 1000)
        await running
    return found, load


def sold_out(bench: Bench) -> Iterator[Row]:
    """What a refusal costs the index, and how soon a restock is sold."""
    host = bench.host
    bench.quiet()
    path = bench.bodies("sold-out", bench.workload("sold_out", named_nodes=False).take(BODIES))
    idle_before = host.shard_calls()
    time.sleep(2)
    idle_rate = (host.shard_calls() - idle_before) / 2
    before, begun = host.shard_calls(), time.monotonic()
    driven = bench.drive(path, Load(connections=4, streams=8, seconds=bench.seconds, once=True))
    calls = host.shard_calls() - before - idle_rate * (time.monotonic() - begun)
    refused = driven.record.count(CREATE, 0, 60)
    yield row(
        "sold_out_index_calls",
        max(0.0, calls) / max(1, refused),
        "calls",
        "<= 0.01",
        f"FCALLs by INFO commandstats less those of {idle_rate:.0f}/s at rest, over "
        f"{refused:,} INSUFFICIENT_STOCK; {driven.how}",
    )
    restocked = sorted(asyncio.run(_restocks(bench)))
    expired = sorted(asyncio.run(_expiries(bench)))
    yield row(
        "sold_out_recovery_ms",
        max(restocked[-1], expired[-1]),
        "ms",
        "<= 20",
        f"until CreateReservation, asked without pause, is HELD: from the acknowledgement of a "
        f"restock (worst of {len(restocked)} {restocked[-1]:.1f}, median "
        f"{restocked[len(restocked) // 2]:.1f}), and from the expire_time of the last unit's hold "
        f"(worst of {len(expired)} {expired[-1]:.1f}, median {expired[len(expired) // 2]:.1f})",
    )


async def _restocks(bench: Bench) -> list[float]:
    found = []
    asking = bench.workload("sold_out", named_nodes=False)
    async with grpc.aio.insecure_channel(bench.host.target) as channel:
        for sku in bench.catalog.sold_out_skus[:20]:
            await _restock(bench, channel, sku)
            begun = time.time()
            found.append(1000 * (await _until_held(asking, channel, sku) - begun))
    return found


async def _expiries(bench: Bench) -> list[float]:
    found = []
    asking = bench.workload("sold_out", named_nodes=False)
    workload = bench.workload("sold_out", named_nodes=False, ttl_seconds=1.0)
    async with grpc.aio.insecure_channel(bench.host.target) as channel:
        create: Any = channel.unary_unary(CREATE)
        for sku in bench.catalog.sold_out_skus[20:25]:
            await _restock(bench, channel, sku)
            await asyncio.sleep(0.5)
            step = workload.create([(sku, 1)], workload.destination())
            reply = reservation_pb.CreateReservationResponse.FromString(await create(step.message))
            due = reply.reservation.expire_time.ToNanoseconds() / 1e9
            await asyncio.sleep(max(0.0, due - time.time()))
            found.append(1000 * (await _until_held(asking, channel, sku) - due))
    return found


async def _restock(bench: Bench, channel: grpc.aio.Channel, sku: str) -> None:
    delta = supply_pb.SupplyDelta(sku=sku, node_id=bench.catalog.centers[0], quantity_delta=1)
    request = supply_pb.AdjustSupplyRequest(
        idempotency_key=f"restock-{time.time_ns()}", reason="bench", rows=[delta]
    )
    await supply_grpc.SupplyServiceStub(channel).AdjustSupply(request)


async def _until_held(asking: Workload, channel: grpc.aio.Channel, sku: str) -> float:
    """When a reservation of one unit was held; tries for 5 s."""
    create: Any = channel.unary_unary(CREATE)
    stop = time.time() + 5
    while time.time() < stop:
        step = asking.create([(sku, 1)], asking.destination())
        if (await create(step.message))[:2] == b"\x08\x01":
            break
    return time.time()
