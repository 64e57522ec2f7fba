"""When Python's collector may walk what a process has loaded."""

from __future__ import annotations

import gc

YOUNG_OBJECTS_MAX = 25_000
"""Objects that calls in flight may add before a collection walks them, about 2 ms. Nearly all of
them go by themselves when their call ends; at Python's 700, a sixth of a reserve's CPU was this."""


def collect_later() -> None:
    """Not before ``collect_seldom``: the collector would walk all that is loaded again and again,
    and find nothing. Nor what was imported, not even then."""
    gc.disable()
    gc.freeze()


def collect_seldom() -> None:
    """Once all is loaded: what is alive then stays, so that collections need not walk the network
    and the tables again, and begin later."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS_MAX, 20, 20)
    gc.enable()
