"""The one door to native: each name is the compiled twin, or its specification when asked.

``PROMISE_PURE_PYTHON=1`` takes the specifications; nothing else does. A missing extension is an
ImportError, never a silent fall-back. mypy checks both branches against each other: a twin whose
signature differs from its specification is an "Incompatible import" here.
"""

from __future__ import annotations

import os

COMPILED = os.environ.get("PROMISE_PURE_PYTHON") != "1"
"""False when the specifications run. The server logs it; load tests refuse to publish without."""

if COMPILED:
    try:
        from native._sharding import shard_of, stable_hash
    except ImportError as error:
        raise ImportError(
            f"native extensions are not built ({error}); run `make setup`, "
            "or set PROMISE_PURE_PYTHON=1 for the slow specifications"
        ) from error
else:
    from promise_svc.domain.sharding import shard_of, stable_hash

__all__ = ["COMPILED", "shard_of", "stable_hash"]
