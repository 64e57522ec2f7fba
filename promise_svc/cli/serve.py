"""`promise-svc serve`: the service, on the engines named or on embedded ones."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from promise_svc import host
from promise_svc.bootstrap.run import serve as serve_alone
from promise_svc.cli.options import ShardCount
from promise_svc.cli.settings import load_settings
from promise_svc.config import address_text


def serve(
    listen: Annotated[str | None, typer.Option(help="host:port or unix:/path of gRPC.")] = None,
    front: Annotated[str | None, typer.Option(help="auto, native or grpcio.")] = None,
    workers: Annotated[
        int | None, typer.Option(help="Serving processes; SIGHUP restarts them one by one.")
    ] = None,
    background: Annotated[
        bool | None,
        typer.Option(
            "--background/--no-background",
            help="Run the background loops too; without them `promise-svc relay` must run.",
        ),
    ] = None,
    metrics_listen: Annotated[str | None, typer.Option(help="host:port of /metrics.")] = None,
    tokens_file: Annotated[
        Path | None, typer.Option(help="Who may call; `promise-svc token` adds to it.")
    ] = None,
    tls_certificate_file: Annotated[Path | None, typer.Option(help="PEM.")] = None,
    tls_key_file: Annotated[Path | None, typer.Option(help="PEM.")] = None,
    tls_client_ca_file: Annotated[
        Path | None, typer.Option(help="PEM; callers then need a certificate of it.")
    ] = None,
    allow_anonymous: Annotated[
        bool | None, typer.Option("--allow-anonymous", help="No tokens, though off loopback.")
    ] = None,
    allow_plaintext: Annotated[
        bool | None, typer.Option("--allow-plaintext", help="No TLS, though off loopback.")
    ] = None,
    index_urls: Annotated[
        list[str] | None,
        typer.Option(
            "--index-url", help="URL of a node of the Valkey cluster; without, one is started."
        ),
    ] = None,
    order_store_url: Annotated[
        str | None, typer.Option(help="postgresql:// URL; without, one is started.")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of the engines that are started.")
    ] = None,
    embedded_nodes: Annotated[
        int | None, typer.Option("--shards-nodes", help="Valkey processes to start.")
    ] = None,
    shard_count: ShardCount = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
) -> None:
    """Run the service until SIGTERM or Ctrl-C.

    Every setting of promise_svc/config.py is also a PROMISE_* variable, such as
    PROMISE_CONFIRM_DURABILITY; a flag wins over its variable. Logs are JSON lines on stderr.
    """
    flags = {**locals(), "index_urls": tuple(index_urls) if index_urls else None}
    cluster, process = load_settings(flags, os.environ)
    console = Console(highlight=False)

    def listening(port: int) -> None:
        console.print(f"serving gRPC on {address_text(process.listen, port)}; Ctrl-C to stop")

    run = serve_alone if process.workers == 1 else host.serve
    run(cluster, process, on_listening=listening, progress=console.print)
