"""The service, slowed on purpose: each read and each hold burns LOADTEST_BURN_US more of CPU.

For showing that the bench would notice: `python -m loadtest bench --against build/bench.json
--serve 'python -m loadtest.bench.slowed serve'` must end with `verdict: slower`.
"""

from __future__ import annotations

import os
import time
from typing import Any

from promise_svc.application.creation import Creation
from promise_svc.cli import main
from promise_svc.rpc.availability import NetworkReads

BURN_US_DEFAULT = 500


def _slow(kind: type, name: str, seconds: float) -> None:
    original = getattr(kind, name)

    async def slowed(*arguments: Any, **options: Any) -> Any:
        stop = time.perf_counter() + seconds
        while time.perf_counter() < stop:
            pass
        return await original(*arguments, **options)

    setattr(kind, name, slowed)


def _slow_at_once(kind: type, name: str, seconds: float) -> None:
    original = getattr(kind, name)

    def slowed(*arguments: Any) -> Any:
        stop = time.perf_counter() + seconds
        while time.perf_counter() < stop:
            pass
        return original(*arguments)

    setattr(kind, name, slowed)


if __name__ == "__main__":
    burn = float(os.environ.get("LOADTEST_BURN_US", BURN_US_DEFAULT)) / 1e6
    _slow_at_once(NetworkReads, "query", burn)
    _slow(Creation, "create", burn)
    main()
