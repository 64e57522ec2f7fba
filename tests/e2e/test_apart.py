"""Servers without background loops, and `promise-svc relay` beside them; on a Unix socket."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest

from promise_svc.adapters.embedded import EmbeddedValkey
from tests.support.supervised import CONFIRMED, HELD, UNITS, Caller, load_stock, until


@contextmanager
def running(log: Path, *arguments: str, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
    """A `promise-svc` command whose output is in ``log``; killed if it still runs at the end."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "promise_svc", *arguments],
            env={**os.environ, "PROMISE_METRICS_LISTEN": "", **settings},
            stdout=output,
            stderr=output,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)


async def said(log: Path, text: str) -> None:
    await until(lambda: text in log.read_text(), 60, log.read_text)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("workers", [1, 2])
async def test_a_confirm_is_recorded_by_a_relay_elsewhere(
    tmp_path: Path, valkey: EmbeddedValkey, database: str, key_prefix: str, workers: int
) -> None:
    """Without one it says that the outcome is unknown; once one runs, the same key gets its
    answer. Both end on SIGTERM with code 0, and the server's socket goes with it."""
    socket = tmp_path / "promise.sock"
    settings = {
        "PROMISE_INDEX_URLS": ",".join(valkey.urls),
        "PROMISE_ORDER_STORE_URL": database,
        "PROMISE_KEY_PREFIX": key_prefix,
        "PROMISE_SHARD_COUNT": "8",
        "PROMISE_LAME_DUCK_SECONDS": "0",
    }
    serve = ("serve", "--no-background", "--listen", f"unix:{socket}", "--workers", str(workers))
    served, relayed = tmp_path / "serve.log", tmp_path / "relay.log"
    with running(served, *serve, **settings) as server:
        await said(served, "Ctrl-C to stop")
        await load_stock(f"unix:{socket}")
        caller = Caller(f"unix:{socket}")
        try:
            await held(caller)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await caller.confirm("r-1", timeout=1)
            with running(relayed, "relay", **settings) as relay:
                await said(relayed, "relaying;")
                outcome = await caller.confirm("r-1")
                ats = await caller.ats()
                relay.send_signal(signal.SIGTERM)
                relay_code = relay.wait(20)
        finally:
            await caller.close()
        server.send_signal(signal.SIGTERM)
        server_code = server.wait(20)

    assert refused.value.code() in {grpc.StatusCode.UNKNOWN, grpc.StatusCode.DEADLINE_EXCEEDED}
    assert (outcome, ats) == (CONFIRMED, UNITS - 1)
    assert (relay_code, server_code) == (0, 0), served.read_text()
    assert not socket.exists()


async def held(caller: Caller) -> None:
    """One unit for r-1, once this caller's worker knows the network."""
    while await caller.hold("r-1") != HELD:
        pass


async def test_a_relay_needs_to_know_whose_events_it_carries(tmp_path: Path) -> None:
    """It starts no engines of its own: nobody would serve from them."""
    log = tmp_path / "log"
    with running(log, "relay") as relay:
        assert relay.wait(30) == 1

    assert "relay needs --index-url and --order-store-url" in log.read_text()
