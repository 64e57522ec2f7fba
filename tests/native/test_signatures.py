"""Parameter names of specification, twin and contract; mypy ignores names where it matches a class
against a Protocol, so they are held here."""

from __future__ import annotations

import inspect

from native import _ats_table, _sharding
from promise_svc.domain import ats_table, sharding

METHODS = sorted(name for name in vars(ats_table.AtsTableCore) if not name.startswith("_"))


def parameters(function: object) -> list[tuple[str, object]]:
    signature = inspect.signature(function)  # type: ignore[arg-type]
    return [(parameter.name, parameter.default) for parameter in signature.parameters.values()]


def test_the_functions_take_the_same_parameters() -> None:
    """A caller may pass any argument by name, to either."""
    for name in ("stable_hash", "shard_of"):
        assert parameters(getattr(sharding, name)) == parameters(getattr(_sharding, name))


def test_the_tables_take_the_same_parameters() -> None:
    """Contract, specification and twin have the same methods with the same names and defaults."""
    assert "ats" in METHODS
    for name in METHODS:
        expected = parameters(getattr(ats_table.AtsTableCore, name))

        assert expected == parameters(getattr(ats_table.AtsTable, name)), name
        assert expected == parameters(getattr(_ats_table.AtsTable, name)), name


def test_the_twin_has_no_method_of_its_own() -> None:
    """What the specification does not say, the twin does not do."""
    public = {name for name in vars(_ats_table.AtsTable) if not name.startswith("_")}

    assert set(METHODS) == public
