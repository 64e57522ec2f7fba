"""The system's clock."""

from __future__ import annotations

import time


class SystemClock:
    """Clock of ``application/ports.py``."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        return time.monotonic()
