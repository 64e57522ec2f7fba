"""The order store's server: the fake of the tests behind a network, slow, away, or set back."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable
from typing import Any

from promise_svc.errors import PromiseServiceError, Unavailable
from tests.sim.loop import VirtualLoop
from tests.sim.network import Weather, outside
from tests.support.fake_order_store import FakeOrderStore

_PATIENCE_SECONDS = 5.0


class StoreServer:
    """Carries calls out, also those whose caller died meanwhile."""

    def __init__(self, loop: VirtualLoop, weather: Weather) -> None:
        self.store = FakeOrderStore()
        self.away = False
        self.slow_seconds = 0.0
        self.set_back_count = 0
        self._loop = loop
        self._weather = weather

    def client(self) -> StoreClient:
        return StoreClient(self, self._loop)

    def backup(self) -> dict[str, Any]:
        """What a later ``restore`` goes back to."""
        return {
            name: {key: copy.copy(value) for key, value in getattr(self.store, name).items()}
            for name in ("events", "_cursors", "_reservations", "_positions", "_legs")
        }

    def restore(self, backup: dict[str, Any]) -> None:
        self.set_back_count += 1
        for name, table in backup.items():
            setattr(self.store, name, table)

    def carry_out(
        self, verb: str, args: tuple[Any, ...], answer: Callable[[Any, bool], None]
    ) -> None:
        """Begin a call after its way here; ``answer`` gets result and whether it is an error."""
        chance = self._weather.chance
        delay = self._weather.latency() + chance.random() * self.slow_seconds
        lost = self._weather.cut()
        before = lost and chance.random() < 0.5

        async def work() -> None:
            if self.away or before:
                answer(Unavailable("the order store is away"), True)
                return
            try:
                result = await getattr(self.store, verb)(*args)
            except PromiseServiceError as error:
                answer(error, True)
            else:
                gone = self.away or lost
                answer(Unavailable("the connection broke") if gone else result, gone)

        self._loop.call_later(
            delay, lambda: self._loop.create_task(work(), context=outside()), context=outside()
        )


class StoreClient:
    """One process's pool: the ``OrderStore`` port, by the server's verbs."""

    def __init__(self, server: StoreServer, loop: VirtualLoop) -> None:
        self._server = server
        self._loop = loop

    async def close(self) -> None:
        pass

    def __getattr__(self, verb: str) -> Callable[..., Any]:
        async def call(*args: Any) -> Any:
            done: asyncio.Future[Any] = self._loop.create_future()

            def answer(result: Any, failed: bool) -> None:
                if not done.done():
                    (done.set_exception if failed else done.set_result)(result)

            self._server.carry_out(verb, args, answer)
            try:
                async with asyncio.timeout(_PATIENCE_SECONDS):
                    return await done
            except TimeoutError:
                raise Unavailable("the order store does not answer") from None

        return call
