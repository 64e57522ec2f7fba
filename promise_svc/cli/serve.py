"""`promise-svc serve`: the service, on the engines named or on embedded ones."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from promise_svc import bootstrap
from promise_svc.cli.settings import load_settings


def serve(
    listen: Annotated[str | None, typer.Option(help="host:port of gRPC.")] = None,
    front: Annotated[str | None, typer.Option(help="auto, native or grpcio.")] = None,
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
    index_url: Annotated[
        list[str] | None,
        typer.Option(help="URL of a node of the Valkey cluster; without, one is started."),
    ] = None,
    order_store_url: Annotated[
        str | None, typer.Option(help="postgresql:// URL; without, one is started.")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of the engines that are started.")
    ] = None,
    shards_nodes: Annotated[int | None, typer.Option(help="Valkey processes to start.")] = None,
    shard_count: Annotated[
        int | None, typer.Option(help="Shards; fixed once the first event is written.")
    ] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
) -> None:
    """Run the service until SIGTERM or Ctrl-C.

    Every setting of promise_svc/config.py is also a PROMISE_* variable, such as
    PROMISE_CONFIRM_DURABILITY; a flag wins over its variable. Logs are JSON lines on stderr.
    """
    flags = {
        "listen": listen,
        "front": front,
        "metrics_listen": metrics_listen,
        "tokens_file": tokens_file,
        "tls_certificate_file": tls_certificate_file,
        "tls_key_file": tls_key_file,
        "tls_client_ca_file": tls_client_ca_file,
        "allow_anonymous": allow_anonymous,
        "allow_plaintext": allow_plaintext,
        "index_urls": tuple(index_url) if index_url else None,
        "order_store_url": order_store_url,
        "data_dir": data_dir,
        "embedded_nodes": shards_nodes,
        "shard_count": shard_count,
        "log_level": log_level,
    }
    cluster, process = load_settings(flags, os.environ)
    console = Console(highlight=False)
    bootstrap.serve(
        cluster,
        process,
        on_listening=lambda port: console.print(f"serving gRPC on port {port}; Ctrl-C to stop"),
        progress=console.print,
    )
