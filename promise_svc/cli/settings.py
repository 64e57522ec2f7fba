"""Reads the configuration once: a flag wins over its `PROMISE_*` variable, that over the default.

The variable of a setting is its name in capitals: `shard_count` is `PROMISE_SHARD_COUNT`.
"""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from promise_svc.config import PREFIX, ClusterConfig, ProcessConfig
from promise_svc.errors import ConfigError

READ_ELSEWHERE = frozenset(
    # native/ reads these before there is a configuration, the tests and clients read the others.
    {
        "PROMISE_PURE_PYTHON",
        "PROMISE_NATIVE_DEBUG",
        "PROMISE_TEST_SEED",
        "PROMISE_TEST_DATA",
        "PROMISE_TOKEN",
    }
)
BOOLEANS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}

Config = TypeVar("Config", ClusterConfig, ProcessConfig)


def load_settings(
    flags: Mapping[str, object], environment: Mapping[str, str]
) -> tuple[ClusterConfig, ProcessConfig]:
    """Build both configurations; a flag that is None was not given.

    Raises ConfigError naming the setting, its range and the value; a variable that begins with
    PROMISE_ and names no setting is refused too, for it is a typing error that would go unseen.
    """
    _refuse_unknown(environment)
    return _load(ClusterConfig, flags, environment), _load(ProcessConfig, flags, environment)


def _load(
    config: type[Config], flags: Mapping[str, object], environment: Mapping[str, str]
) -> Config:
    hints = typing.get_type_hints(config)
    given: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        variable = PREFIX + field.name.upper()
        if flags.get(field.name) is not None:
            given[field.name] = flags[field.name]
        elif variable in environment:
            given[field.name] = _parse(variable, environment[variable], hints[field.name])
    return config(**given)


def _parse(variable: str, text: str, kind: Any) -> object:
    readers: dict[Any, Callable[[str], object]] = {
        int: lambda value: int(value.replace("_", "")),
        float: float,
        bool: lambda value: BOOLEANS[value.lower()],
        Path: Path,
        Path | None: Path,
        tuple[str, ...]: lambda value: tuple(part.strip() for part in value.split(",") if part),
    }
    try:
        return readers.get(kind, str)(text)
    except (ValueError, KeyError):
        wanted = "true or false" if kind is bool else "a number"
        raise ConfigError(f"{variable} must be {wanted}, not {text!r}") from None


def _refuse_unknown(environment: Mapping[str, str]) -> None:
    fields = (*dataclasses.fields(ClusterConfig), *dataclasses.fields(ProcessConfig))
    known = {PREFIX + field.name.upper() for field in fields} | READ_ELSEWHERE
    for variable in environment:
        if variable.startswith(PREFIX) and variable not in known:
            near = difflib.get_close_matches(variable, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(f"{variable} names no setting{hint}")
