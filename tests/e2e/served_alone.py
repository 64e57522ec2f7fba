"""Runs the server as ``serve`` does without URLs, on the data folder given; tells port and pids."""

from __future__ import annotations

import sys
from pathlib import Path

from promise_svc.bootstrap.run import serve
from promise_svc.config import ClusterConfig, ProcessConfig


def main(folder: str) -> None:
    process = ProcessConfig(
        listen="127.0.0.1:0",
        metrics_listen="",
        data_dir=Path(folder),
        lame_duck_seconds=0.1,
        drain_seconds=5,
    )
    serve(ClusterConfig(shard_count=8), process, on_listening=lambda port: print(port, flush=True))


if __name__ == "__main__":
    main(sys.argv[1])
