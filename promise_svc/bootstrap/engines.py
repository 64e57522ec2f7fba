"""The engines of a process: those that its configuration names, or embedded ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from promise_svc.adapters.embedded import EmbeddedPostgres, EmbeddedValkey, keep_alive
from promise_svc.bootstrap.observers import EngineObserver
from promise_svc.config import ProcessConfig
from promise_svc.errors import ConfigError


@asynccontextmanager
async def open_engines(
    process: ProcessConfig, progress: Callable[[str], None] = lambda _: None
) -> AsyncIterator[tuple[tuple[str, ...], str]]:
    """The URLs of index and order store: those given, or of embedded engines on the data folder."""
    index_urls, store_url = process.index_urls, process.order_store_url
    folder = process.data_dir
    engines: list[EmbeddedValkey | EmbeddedPostgres] = []
    async with AsyncExitStack() as closing:
        if not (index_urls and store_url):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError(f"data_dir {folder}: {error.strerror}") from error
        if not index_urls:
            memory = {process.reserve_durability, process.confirm_durability} == {"memory"}
            valkey = EmbeddedValkey(
                folder / "valkey",
                nodes=process.embedded_nodes,
                durability="memory" if memory else "fsync",
                progress=progress,
            )
            await asyncio.to_thread(valkey.start)
            closing.push_async_callback(asyncio.to_thread, valkey.stop)
            engines.append(valkey)
            index_urls = valkey.urls
        if not store_url:
            postgres = EmbeddedPostgres(folder / "postgres", progress=progress)
            await asyncio.to_thread(postgres.start)
            closing.push_async_callback(asyncio.to_thread, postgres.stop)
            engines.append(postgres)
            store_url = postgres.dsn
        stop = asyncio.Event()
        watching = asyncio.create_task(keep_alive(engines, EngineObserver(), stop))
        closing.push_async_callback(asyncio.wait, [watching])
        closing.callback(stop.set)
        yield index_urls, store_url
