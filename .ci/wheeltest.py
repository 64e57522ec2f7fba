"""Serves from an installed wheel, with embedded engines, in the folder it is run in: an empty one.

Arguments: the front that must answer, and the environment's folder.
"""

import json
import subprocess
import sys
import threading
from importlib.resources import files
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from promise_svc.v1 import availability_service_pb2 as pb
from promise_svc.v1 import availability_service_pb2_grpc as rpc

front, folder = sys.argv[1], Path(sys.argv[2])
command = str(folder / "bin" / "promise-svc")

package = files("promise_svc")
for needed in (
    "adapters/ats_index/lua/create.lua",
    "adapters/order_store/migrations/0001_order_store.sql",
    "v1/types_pb2.pyi",
    "py.typed",
):
    assert package.joinpath(needed).is_file(), needed
version = subprocess.run([command, "version"], capture_output=True, text=True, check=True).stdout
assert f"front {front}" in version, version

server = subprocess.Popen(
    [command, "serve", "--workers", "2", "--listen", "127.0.0.1:0", "--metrics-listen", ""],
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
)
watchdog = threading.Timer(120, server.kill)
watchdog.daemon = True
watchdog.start()
try:
    lines = []
    for line in server.stderr:
        lines.append(json.loads(line))
        if lines[-1]["event"] == "serving" and lines[-1]["process"] == "supervisor":
            break
    serving = lines[-1]
    assert serving["event"] == "serving", lines
    assert (serving["front"], serving["compiled"]) == (front, True), serving
    threading.Thread(target=server.stderr.read, daemon=True).start()

    worker = next(line for line in lines if line.get("process") == "worker-1")
    maps = Path(f"/proc/{worker['pid']}/maps").read_text().splitlines()
    loaded = {line.split()[-1] for line in maps if "nghttp2" in line}
    own = {path for path in loaded if path.startswith(str(folder.resolve()))}
    assert loaded == own, f"not from the wheel: {loaded - own}"
    assert bool(own) == (front == "native"), loaded
    if front == "grpcio":
        assert any("native front is not built" in line["event"] for line in lines), lines

    with grpc.insecure_channel(serving["address"]) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        assert health.Check(health_pb2.HealthCheckRequest(), timeout=10).status == 1
        query = pb.QueryAvailabilityRequest(entries=[pb.AvailabilityQuery(sku="sku-1")])
        reply = rpc.AvailabilityServiceStub(channel).QueryAvailability(query, timeout=10)
        assert len(reply.entries) == 1, reply
finally:
    server.terminate()
    code = server.wait(60)
assert code == 0, code
print(f"wheeltest: {front} serves;", *(Path(path).name for path in sorted(own)))
