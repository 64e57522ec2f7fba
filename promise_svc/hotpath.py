"""The one door to native: each name is the compiled twin, or its specification when asked.

``PROMISE_PURE_PYTHON=1`` takes the specifications; nothing else does. A missing extension is an
ImportError, never a silent fall-back. mypy holds both branches against each other: a twin whose
signature differs from its specification is an error in this file.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from promise_svc.domain.ats_table import AtsTableCore, RowValues

if TYPE_CHECKING:
    from native._sourcing import CartSearch, Nodes, Options
    from native._wire import AvailabilityReads

COMPILED = os.environ.get("PROMISE_PURE_PYTHON") != "1"
"""False when the specifications run. The server logs it; load tests refuse to publish without."""

try:
    from native import _grpc as grpc_session
    from native._grpc import Call as GrpcCall
    from native._grpc import Method as GrpcMethod

    NATIVE_FRONT = True
except ImportError:
    NATIVE_FRONT = False
"""Whether the sessions of the native front are there: they are built where libnghttp2 is. Their
specification is grpc.aio, so they are no twin and pure mode does not matter to them."""

_RowT = TypeVar("_RowT")

if COMPILED:
    try:
        from native import _cart_wire as cart_wire
        from native import _sourcing as sourcing
        from native import _wire as wire
        from native._ats_table import AtsTable as _NativeAtsTable
        from native._sharding import shard_of, stable_hash
    except ImportError as error:
        raise ImportError(
            f"native extensions are not built ({error}); run `make setup`, "
            "or set PROMISE_PURE_PYTHON=1 for the slow specifications"
        ) from error

    def ats_table(shard_count: int, make_row: Callable[[RowValues], _RowT]) -> AtsTableCore[_RowT]:
        """A new, empty ATS table; ``make_row`` turns its values into what ``rows`` returns."""
        return _NativeAtsTable(shard_count=shard_count, make_row=make_row)

    def availability_reads(
        table: AtsTableCore[Any], feed_behind_ms: int, protected: set[str]
    ) -> AvailabilityReads | None:
        """Answers plain reads of this table from bytes to bytes; None where nothing is compiled.
        ``protected``, its SKUs that keep shares for segments, may change. Its specification is the
        protobuf runtime, so it has no twin."""
        assert isinstance(table, _NativeAtsTable)
        return wire.AvailabilityReads(table, feed_behind_ms=feed_behind_ms, protected=protected)

    def cart_search(table: AtsTableCore[Any]) -> CartSearch | None:
        """Finds the plans of plain carts straight from this table; None where nothing is compiled.
        Its specification is ``domain.cart``, which has all other carts."""
        assert isinstance(table, _NativeAtsTable)
        return sourcing.CartSearch(table)
else:
    from promise_svc.domain.ats_table import AtsTable as _PlainAtsTable
    from promise_svc.domain.sharding import shard_of, stable_hash

    # Their specifications, the protobuf runtime and domain.cart, are used where they are None.
    cart_wire = sourcing = wire = None  # type: ignore[assignment]

    def ats_table(shard_count: int, make_row: Callable[[RowValues], _RowT]) -> AtsTableCore[_RowT]:
        """A new, empty ATS table; ``make_row`` turns its values into what ``rows`` returns."""
        return _PlainAtsTable(shard_count=shard_count, make_row=make_row)

    def availability_reads(
        table: AtsTableCore[Any], feed_behind_ms: int, protected: set[str]
    ) -> AvailabilityReads | None:
        """Answers plain reads of this table from bytes to bytes; None where nothing is compiled.
        ``protected``, its SKUs that keep shares for segments, may change. Its specification is the
        protobuf runtime, so it has no twin."""
        return None

    def cart_search(table: AtsTableCore[Any]) -> CartSearch | None:
        """Finds the plans of plain carts straight from this table; None where nothing is compiled.
        Its specification is ``domain.cart``, which has all other carts."""
        return None


__all__ = [
    "AvailabilityReads",
    "COMPILED",
    "CartSearch",
    "GrpcCall",
    "GrpcMethod",
    "NATIVE_FRONT",
    "Nodes",
    "Options",
    "ats_table",
    "availability_reads",
    "cart_search",
    "cart_wire",
    "grpc_session",
    "shard_of",
    "sourcing",
    "stable_hash",
    "wire",
]
