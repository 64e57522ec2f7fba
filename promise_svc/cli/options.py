"""Options that several commands have, and what they stand for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import grpc
import typer

from promise_svc.cli.settings import load_settings
from promise_svc.client import PromiseClient
from promise_svc.config import ClusterConfig
from promise_svc.errors import ConfigError

TARGET = "127.0.0.1:50051"

Target = Annotated[str, typer.Option(help="host:port of the service.")]
CaFile = Annotated[
    Path | None, typer.Option(help="PEM roots of the service's certificate; without, no TLS.")
]
Token = Annotated[
    str, typer.Option(envvar="PROMISE_TOKEN", help="Bearer token; better by the variable.")
]
IndexUrls = Annotated[
    list[str] | None,
    typer.Option(
        "--index-url", help="URL of a node of the Valkey cluster; may be given several times."
    ),
]
OrderStoreUrl = Annotated[str | None, typer.Option(help="postgresql:// URL of the order store.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object instead.")]


def client_of(target: str, ca_file: Path | None, token: str) -> PromiseClient:
    """A client; to be made within the event loop that uses it."""
    credentials = grpc.ssl_channel_credentials(ca_file.read_bytes()) if ca_file else None
    return PromiseClient(target, credentials=credentials, token=token)


def engines_of(
    command: str, index_urls: list[str] | None, order_store_url: str | None
) -> tuple[ClusterConfig, tuple[str, ...], str]:
    """The cluster's settings and both URLs, from flags or variables. ConfigError without both."""
    flags = {
        "index_urls": tuple(index_urls) if index_urls else None,
        "order_store_url": order_store_url,
    }
    cluster, process = load_settings(flags, os.environ)
    if not process.index_urls or not process.order_store_url:
        raise ConfigError(f"{command} needs --index-url and --order-store-url: what is it to read?")
    return cluster, process.index_urls, process.order_store_url
