"""A scenario: what is loaded, who asks what, how fast. Read from TOML; unknown keys are refused."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from loadtest.catalog import CatalogSize
from loadtest.driver.process import ClientKind
from loadtest.workload import KINDS, WorkloadOptions

SCENARIOS = Path(__file__).with_name("scenarios")


class ScenarioError(Exception):
    """The file says something that is no scenario; the text names the key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offered:
    """The load; a scenario's [load]."""

    rate: float = 100.0
    """Sessions a second of all clients together, open loop; 0 is the closed loop."""
    seconds: float = 20.0
    warmup: float = 2.0
    clients: int = 2
    """Client processes."""
    connections: int = 4
    """Of each process."""
    streams: int = 64
    """Calls in flight on each connection, at most."""
    arrivals: str = "poisson"
    client: ClientKind = "raw"
    rates: tuple[float, ...] = ()
    """Several rates one after the other, for the plot of throughput against offered load."""
    multiples: tuple[float, ...] = ()
    """Instead of rates, times what the closed loop does: one after the other without a pause."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One file of scenarios/."""

    name: str
    about: str
    workload: WorkloadOptions
    seed: int = 1
    catalog: CatalogSize = field(default_factory=CatalogSize)
    load: Offered = field(default_factory=Offered)


def load_scenario(name: str) -> Scenario:
    """A file, or the name of one in scenarios/. Raises ScenarioError."""
    path = Path(name) if name.endswith(".toml") else SCENARIOS / f"{name}.toml"
    if not path.exists():
        known = ", ".join(sorted(file.stem for file in SCENARIOS.glob("*.toml")))
        raise ScenarioError(f"there is no {path}; scenarios are {known}")
    data = tomllib.loads(path.read_text())
    _refuse_unknown(path.name, data, {f.name for f in fields(Scenario)} - {"name"})
    scenario = Scenario(
        name=path.stem,
        about=data.get("about", ""),
        seed=data.get("seed", 1),
        catalog=_table(CatalogSize, "catalog", data),
        workload=_table(WorkloadOptions, "workload", data),
        load=_table(Offered, "load", data),
    )
    if scenario.workload.kind not in KINDS:
        raise ScenarioError(f"workload.kind must be one of {', '.join(KINDS)}")
    return scenario


def with_load(scenario: Scenario, **changes: Any) -> Scenario:
    """The scenario with other load; a change that is None is none."""
    given = {name: value for name, value in changes.items() if value is not None}
    return dataclasses.replace(scenario, load=dataclasses.replace(scenario.load, **given))


_Table = TypeVar("_Table", CatalogSize, WorkloadOptions, Offered)


def _table(kind: type[_Table], name: str, data: Mapping[str, Any]) -> _Table:
    given = data.get(name, {})
    _refuse_unknown(name, given, {f.name for f in fields(kind)})
    try:
        values: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in given.items()
        }
        return kind(**values)
    except TypeError as error:
        raise ScenarioError(f"[{name}]: {error}") from None


def _refuse_unknown(where: str, given: Mapping[str, Any], known: set[str]) -> None:
    for name in given:
        if name not in known:
            raise ScenarioError(f"{where}: no key {name!r}; keys are {', '.join(sorted(known))}")
