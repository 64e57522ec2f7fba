"""Options that several commands have, and what they stand for."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Annotated

import grpc
import typer

from promise_svc.cli.settings import load_settings
from promise_svc.client import CallFailed, PromiseClient
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
ShardCount = Annotated[
    int | None, typer.Option(help="Shards; fixed once the first event is written.")
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object instead.")]


Connect = Callable[[], AbstractAsyncContextManager[PromiseClient]]
"""To be called within the event loop that uses the client: a channel belongs to its loop."""


@asynccontextmanager
async def connected(target: str, ca_file: Path | None, token: str) -> AsyncIterator[PromiseClient]:
    """A client that is connected. CallFailed at once where nothing answers."""
    credentials = grpc.ssl_channel_credentials(ca_file.read_bytes()) if ca_file else None
    async with PromiseClient(target, credentials=credentials, token=token) as client:
        try:
            await client.connect()
        except CallFailed as error:
            raise CallFailed(
                f"nothing answers at {target}: is the service running there (promise-svc serve), "
                "and does --target say where? A service with TLS wants --ca-file",
                reason=error.reason,
                code=error.code,
            ) from error
        yield client


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


def refuse_other_shards(cluster: ClusterConfig, shards: Iterable[int]) -> None:
    """ConfigError for a number that is no shard's."""
    for number in shards:
        if not 0 <= number < cluster.shard_count:
            raise ConfigError(f"there is no shard {number}: 0 to {cluster.shard_count - 1}")
