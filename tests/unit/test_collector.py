"""Python's collector sleeps while everything is loaded, and no longer."""

from __future__ import annotations

import gc

from promise_svc.bootstrap.collector import YOUNG_OBJECTS_MAX, collect_later, collect_seldom


def test_the_collector_runs_again_once_all_is_loaded() -> None:
    """A process that forgot it would grow by every cycle it makes."""
    threshold = gc.get_threshold()
    try:
        collect_later()
        asleep = not gc.isenabled()
        collect_seldom()

        assert asleep
        assert gc.isenabled()
        assert gc.get_threshold()[0] == YOUNG_OBJECTS_MAX
    finally:
        gc.unfreeze()
        gc.set_threshold(*threshold)
        gc.enable()
