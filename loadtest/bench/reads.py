"""Availability and promises: what a call costs the server, beside a C++ server's."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from loadtest.bench.context import BODIES_MIN, Bench
from loadtest.bench.cpp import build_cpp, cpp_server
from loadtest.bench.row import Row, row
from loadtest.bodies import QUERY, Step
from loadtest.catalog import ALL_NODES, FEW_NODES
from loadtest.channel import bearer_metadata
from loadtest.driver.process import Load, drive
from loadtest.host import tree_cpu
from promise_svc.v1 import availability_service_pb2 as availability_pb

SHAPES = {"busy": (4, 64, "<= 6", 0.2), "sparse": (16, 1, "<= 18", 0.4)}


def availability(bench: Bench) -> Iterator[Row]:
    """One SKU a call, 4 x 64 and 16 x 1, ours and C++."""
    workload = bench.workload("availability_read")
    path = bench.bodies("read", ((workload.query([sku]),) for sku in bench.catalog.skus))
    distinct = f"{len(bench.catalog.skus):,} bodies, one SKU each, all its nodes summed"
    ours, rates = {}, {}
    for name, (connections, streams, goal, _) in SHAPES.items():
        load = Load(connections=connections, streams=streams, seconds=bench.seconds)
        bench.drive(path, Load(connections=connections, streams=streams, seconds=0.5))
        driven = bench.drive(path, load)
        ours[name] = driven.front_us
        rates[name] = driven.record.rate
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
    yield _beside_aio(bench, path, rates["busy"])
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
        *(part for name, value in bearer_metadata() for part in ("-H", f"{name}: {value}")),
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
    """3 lines of SKUs that lie at 30 % of the nodes, 3 services, 4 options; then in a network of 20
    nodes."""
    load = Load(connections=4, streams=8, seconds=bench.seconds)
    path = bench.bodies("promise", bench.workload("promise_cart").take(BODIES_MIN))
    driven = bench.drive(path, load)
    nodes = len(bench.catalog.centers) + len(bench.catalog.stores)
    shape = "PromiseCart, 3 lines, stock at 30 % of the nodes, 3 services, 4 options"
    yield row(
        "promise_cart_cpu_us",
        driven.front_us,
        "us",
        "<= 150",
        f"{shape}, {nodes:,} nodes; {driven.how}",
    )
    workload = bench.workload("promise_cart", bench.small_catalog)
    path = bench.bodies("promise-small", workload.take(BODIES_MIN))
    small = bench.drive(path, load, bench.small)
    few = len(bench.small_catalog.centers) + len(bench.small_catalog.stores)
    yield row(
        "promise_growth",
        driven.front_us / small.front_us,
        "ratio (low)",
        "<= 6",
        f"{shape}: {nodes:,} nodes over {few}, {driven.front_us:,.0f} us over "
        f"{small.front_us:,.0f} us; {small.how}",
    )
