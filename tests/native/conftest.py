"""Both twins in one session: every test of this folder runs on each under a readable id."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from native import _ats_table, _sharding
from promise_svc.domain import ats_table, sharding


@pytest.fixture(params=["specification", "twin"])
def sharding_module(request: pytest.FixtureRequest) -> ModuleType:
    return {"specification": sharding, "twin": _sharding}[request.param]


@pytest.fixture(params=["specification", "twin"])
def new_table(request: pytest.FixtureRequest) -> Callable[..., Any]:
    return {"specification": ats_table.AtsTable, "twin": _ats_table.AtsTable}[request.param]
