"""Intended send times of an open loop: decided beforehand, never moved by how the server does."""

from __future__ import annotations

import random
from collections.abc import Iterator


def intended_times(
    rate: float, *, start: float, seconds: float, arrivals: str, seed: int
) -> Iterator[float]:
    """Instants from ``start``, ``rate`` a second on average, for ``seconds``.

    ``arrivals`` is poisson (exponential gaps, as independent shoppers come) or uniform.
    """
    if rate <= 0:
        raise ValueError(f"rate must be positive, not {rate}")
    if arrivals not in {"poisson", "uniform"}:
        raise ValueError(f"arrivals must be poisson or uniform, not {arrivals!r}")
    rng = random.Random(f"pacer {seed}")
    at = start
    while at < start + seconds:
        yield at
        at += rng.expovariate(rate) if arrivals == "poisson" else 1 / rate
