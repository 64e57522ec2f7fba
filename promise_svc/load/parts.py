"""What a folder becomes: messages in the order they are sent, each with the line it came from."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from promise_svc.errors import InvalidRequest
from promise_svc.load.rows import Refusal
from promise_svc.rpc.convert import network as network_convert
from promise_svc.rpc.convert import supply as supply_convert
from promise_svc.v1 import network_service_pb2 as pb
from promise_svc.v1 import supply_service_pb2 as supply_pb

PAGE_MAX = 1_000
"""Most entries of one call."""

_WHERE = re.compile(r"\w+\[(\d+)\](?:\.\w+\[(\d+)\])?")


class Origin(NamedTuple):
    """Where something was written."""

    file: str
    line: int


class Kind(NamedTuple):
    """One kind of resource: its request, its method, and the service's own check of a request."""

    name: str
    field: str
    request: Callable[..., Any]
    method: str
    decode: Callable[[Any], object]
    key: Callable[[Any], str]


CALENDARS = Kind(
    "calendars", "calendars", pb.UpsertCalendarsRequest, "UpsertCalendars",
    network_convert.calendars_from, lambda entry: str(entry.calendar_id),
)  # fmt: skip
NODES = Kind(
    "nodes", "nodes", pb.UpsertNodesRequest, "UpsertNodes",
    network_convert.nodes_from, lambda entry: str(entry.node_id),
)  # fmt: skip
NODE_GROUPS = Kind(
    "node groups", "node_groups", pb.UpsertNodeGroupsRequest, "UpsertNodeGroups",
    network_convert.node_groups_from, lambda entry: str(entry.node_group_id),
)  # fmt: skip
ITEMS = Kind(
    "items", "items", pb.UpsertItemsRequest, "UpsertItems",
    network_convert.items_from, lambda entry: str(entry.sku),
)  # fmt: skip
CARRIER_SERVICES = Kind(
    "carrier services", "carrier_services", pb.UpsertCarrierServicesRequest,
    "UpsertCarrierServices", network_convert.carrier_services_from,
    lambda entry: str(entry.carrier_service),
)  # fmt: skip
LANES = Kind(
    "lanes", "lanes", pb.UpsertLanesRequest, "UpsertLanes", network_convert.lanes_from,
    lambda e: f"{e.node_id}>{e.node_group_id}>{e.country}{e.postal_prefix}>{e.carrier_service}",
)  # fmt: skip
SOURCING_RULES = Kind(
    "sourcing rules", "sourcing_rules", pb.UpsertSourcingRulesRequest, "UpsertSourcingRules",
    network_convert.sourcing_rules_from, lambda entry: str(entry.rule_id),
)  # fmt: skip
SUPPLY = Kind(
    "supply", "rows", supply_pb.SyncSupplyRequest, "SyncSupply", supply_convert.sync_from,
    lambda entry: f"{entry.sku} at {entry.node_id}",
)  # fmt: skip
PROTECTION_LEVELS = Kind(
    "protection levels", "rows", supply_pb.SetProtectionLevelsRequest, "SetProtectionLevels",
    supply_convert.levels_from, lambda entry: f"{entry.sku} at {entry.node_id} for {entry.segment}",
)  # fmt: skip
INBOUND = Kind(
    "inbound", "rows", supply_pb.SyncSupplyRequest, "SyncSupply", supply_convert.sync_from,
    lambda entry: f"{entry.bucket} of {entry.sku} to {entry.node_id}",
)  # fmt: skip
COUNTS = {SUPPLY.name: "supply.csv", INBOUND.name: "inbound.csv"}
"""Kinds that are counts, each a report of its own, numbered by the time its file was written."""

ORDER = (
    CALENDARS,
    NODES,
    NODE_GROUPS,
    ITEMS,
    CARRIER_SERVICES,
    LANES,
    SOURCING_RULES,
    SUPPLY,
    PROTECTION_LEVELS,
    INBOUND,
)
"""What is named comes before what names it."""


@dataclass(slots=True)
class Part:
    """All entries of one kind."""

    kind: Kind
    entries: list[Any] = field(default_factory=list)
    origins: list[Origin] = field(default_factory=list)
    inner: dict[tuple[int, int], Origin] = field(default_factory=dict)
    """(entry, its part): where a method or a member was written."""
    given: bool = False
    """Whether the folder has the file at all."""

    def add(self, entry: Any, origin: Origin) -> None:
        """Append one entry."""
        self.entries.append(entry)
        self.origins.append(origin)

    def keys(self) -> set[str]:
        """Names of all entries."""
        return set(map(self.kind.key, self.entries))

    def pages(self, **more: Any) -> Iterator[tuple[range, Any]]:
        """The requests that carry everything, each with the indices of its entries; ``more`` are
        other fields of the request."""
        for first in range(0, len(self.entries), PAGE_MAX):
            page = self.entries[first : first + PAGE_MAX]
            request = self.kind.request(**{self.kind.field: page}, **more)
            yield range(first, first + len(page)), request

    def problems(self, **more: Any) -> Iterator[Refusal]:
        """What the service itself would say of these requests, and names that stand twice."""
        first_at: dict[str, Origin] = {}
        for entry, origin in zip(self.entries, self.origins, strict=True):
            key = self.kind.key(entry)
            before = first_at.setdefault(key, origin)
            if before is not origin:
                yield Refusal(*origin, f"{key} stands already in {before.file}:{before.line}")
        twice = len(first_at) != len(self.entries)
        for indices, request in self.pages(**more):
            try:
                self.kind.decode(request)
            except InvalidRequest as error:
                for violation in error.violations:
                    if not (twice and violation.reason == "DUPLICATE"):
                        yield self._located(indices, violation.field, violation.description)

    def _located(self, indices: Sequence[int], path: str, text: str) -> Refusal:
        found = _WHERE.match(path)
        if found is None:
            return Refusal(*self.origins[indices[0]], f"{path} {text}")
        index = indices[int(found[1])]
        origin = self.origins[index]
        if found[2] is not None:
            origin = self.inner.get((index, int(found[2])), origin)
        column = path[found.end() :].lstrip(".") or path.rpartition(".")[2]
        return Refusal(*origin, f"{column} {text}")
