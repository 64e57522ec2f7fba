"""In-memory connections: in order within one, in no order between two, and they break.

Bytes are under way for as long as the weather says. What a dead process had sent still arrives, or
a beginning of it; a connection that is cut loses what is under way one or both ways.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from tests.sim.loop import VirtualLoop


class Weather:
    """How the network behaves; ``calm`` ends all of it at once."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.stormy = True
        self.slow = chance.choice((0.0, 0.02, 0.1))
        """Share of messages that take up to ``slow_seconds``."""
        self.slow_seconds = chance.choice((0.05, 0.4, 3.0))
        self.cuts = chance.choice((0.0, 0.002, 0.01))
        """Share of messages whose connection breaks while they are under way."""

    def latency(self) -> float:
        """Seconds of one message on its way."""
        quick = 0.0002 + self.chance.random() * 0.0008
        if self.stormy and self.chance.random() < self.slow:
            return quick + self.chance.random() * self.slow_seconds
        return quick

    def cut(self) -> bool:
        """Whether a connection breaks now."""
        return self.stormy and self.chance.random() < self.cuts


class Session(Protocol):
    """The engine's end of a connection."""

    def received(self, data: bytes) -> None: ...
    def closed(self) -> None: ...


class Wire(asyncio.Transport):
    """Both directions of one connection; it is the client's transport."""

    def __init__(
        self, loop: VirtualLoop, weather: Weather, protocol: Any, on_close: Callable[[Wire], None]
    ) -> None:
        super().__init__()
        self.process = loop.process()
        self.session: Session | None = None
        self._loop = loop
        self._weather = weather
        self._protocol = protocol
        self._on_close = on_close
        self._context = contextvars.copy_context()
        self._up: deque[bytes] = deque()
        self._down: deque[bytes] = deque()
        self._up_free = self._down_free = 0.0
        self._closing = False
        self._broken = False

    # the client's end

    def write(self, data: Any) -> None:
        if self._closing or self._broken:
            return
        self._up.append(bytes(data))
        self._up_free = max(self._up_free, self._loop.time() + self._weather.latency())
        self._loop.call_at(self._up_free, self._arrive, context=_outside)

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._loop.call_soon(self._lost)
            end = max(self._up_free, self._loop.time())
            self._loop.call_at(end, self._end, context=_outside)

    def abort(self) -> None:
        self.close()

    def is_closing(self) -> bool:
        return self._closing or self._broken

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def can_write_eof(self) -> bool:
        return False

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    # the engine's end

    def send(self, data: bytes) -> None:
        """From the engine to the client."""
        if self._broken:
            return
        self._down_free = max(self._down_free, self._loop.time() + self._weather.latency())
        self._down.append(data)
        self._loop.call_at(self._down_free, self._deliver, context=self._context)

    # what happens to it

    def cut(self) -> None:
        """Break: replies under way are lost, and with luck what was sent too."""
        if self._broken:
            return
        self._broken = True
        if self._weather.chance.random() < 0.5:
            self._up.clear()
        later = self._loop.time() + self._weather.latency()
        self._loop.call_at(later, self._lost, context=self._context)
        self._loop.call_at(max(later, self._up_free), self._end, context=_outside)

    def reset(self) -> None:
        """The engine is gone, with everything it had not done yet."""
        self._up.clear()
        self.cut()

    def orphan(self) -> None:
        """The client's process died: some beginning of what it had sent arrives."""
        sent = b"".join(self._up)
        self._up.clear()
        self._closing = True
        if sent:
            whole = self._weather.chance.random() < 0.5
            self._up.append(sent if whole else sent[: self._weather.chance.randrange(len(sent))])
        later = max(self._loop.time() + self._weather.latency(), self._up_free)
        self._loop.call_at(later, self._arrive, context=_outside)
        self._loop.call_at(later, self._end, context=_outside)

    def hasten(self) -> None:
        """Nothing is late any more."""
        self._up_free = self._down_free = 0.0
        for _ in range(len(self._up)):
            self._arrive()

    def _arrive(self) -> None:
        if self._up and self.session is not None:
            data = self._up.popleft()
            if not self._broken and self._weather.cut():
                self.cut()
                if self._weather.chance.random() < 0.5:
                    return
            self.session.received(data)

    def _deliver(self) -> None:
        data = self._down.popleft()
        if not (self._broken or self._closing):
            if self._weather.cut():
                self.cut()
            else:
                self._protocol.data_received(data)

    def _lost(self) -> None:
        self._broken = True
        if self._protocol is not None:
            protocol, self._protocol = self._protocol, None
            protocol.connection_lost(None)

    def _end(self) -> None:
        self._broken = True
        session, self.session = self.session, None
        if session is not None:
            session.closed()
            self._on_close(self)


def outside() -> contextvars.Context:
    """Empty, so whatever runs in it belongs to no process that can die."""
    return contextvars.Context()


_outside = outside()
