"""The C++ anchor of availability reads: built where Debian's gRPC is, absent otherwise."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loadtest.bench.context import Bench
from loadtest.driver.process import BUILD_FOLDER
from loadtest.host import free_port

SOURCE = Path(__file__).parents[1] / "anchors" / "availability.cc"
ABSENT = "absent: apt-get install libgrpc++-dev libprotobuf-dev protobuf-compiler-grpc pkg-config"


def build_cpp() -> tuple[Path | None, str]:
    """The C++ anchor, compiled (a minute, once); or None and why not."""
    binary = BUILD_FOLDER / "availability-cpp"
    if binary.exists() and binary.stat().st_mtime > SOURCE.stat().st_mtime:
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
            str(SOURCE),
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
