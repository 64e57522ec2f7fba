"""Runs the server as ``serve`` does, for a test that owns the process; tells the port on stdout."""

from __future__ import annotations

import sys

from promise_svc.bootstrap.run import serve
from promise_svc.config import ClusterConfig, ProcessConfig


def main(order_store_url: str, key_prefix: str, *index_urls: str) -> None:
    cluster = ClusterConfig(shard_count=8, key_prefix=key_prefix)
    process = ProcessConfig(
        listen="127.0.0.1:0",
        metrics_listen="",
        index_urls=index_urls,
        order_store_url=order_store_url,
        lame_duck_seconds=0.1,
        drain_seconds=5,
    )
    serve(cluster, process, on_listening=lambda port: print(port, flush=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
