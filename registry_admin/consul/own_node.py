"""Our own node as the catalog has it, compared with what its agent says.

Callers ask the catalog; only the agent knows what is registered, and tells the catalog. It can't where the token that
an instance was registered with is gone: docs/decisions/0023-agent-and-catalog.md.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from operator import attrgetter
from types import MappingProxyType
from typing import Any

from registry_admin.consul.api import ConsulApi
from registry_admin.consul.health import CheckResult, Health, health_of
from registry_admin.consul.incremental_json import IncrementalJson
from registry_admin.consul.types import ServiceInstance
from registry_admin.errors import ConsulPermissionError, InvalidReplyError, NoLeaderError

MAX_SHARE = 0.05  # of the time that the comparison may take, while nothing asks for it
_ITSELF = "consul"
_UNKNOWN = "null"  # a node that Consul has none of, or that the token may not read
_AGENT_CHECK = "serfHealth"
_FAILING = ("critical", "warning")
_COMPARED = {
    "service": "service", "address": "registered_address", "port": "port", "weight": "weight",
    "warning weight": "warning_weight", "tags": "tags", "meta": "meta",
}  # fmt: skip
_compared_values = attrgetter(*_COMPARED.values())

_NO_TEXTS: Mapping[str, str] = MappingProxyType({})
_NO_INSTANCES: Mapping[str, ServiceInstance] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class CatalogComparison:
    """Where the catalog isn't as our agent says, of what carries a mark or registers itself, by instance ID.

    `differing`: how the catalog shows what the agent has. `orphans`: what the catalog has on our node and the agent
    hasn't; nobody runs their checks.
    """

    differing: Mapping[str, str] = field(default_factory=lambda: _NO_TEXTS)
    orphans: Mapping[str, ServiceInstance] = field(default_factory=lambda: _NO_INSTANCES)

    @property
    def ids(self) -> frozenset[str]:
        """The IDs of all that differs."""
        return frozenset(self.differing) | frozenset(self.orphans)

    def at(self, node: str, datacenter: str) -> CatalogComparison:
        """Returns the comparison with the orphans on this node."""
        orphans = {key: replace(orphan, node=node, datacenter=datacenter) for key, orphan in self.orphans.items()}
        return replace(self, orphans=orphans) if orphans else self

    def without(self, instance_ids: Iterable[str]) -> CatalogComparison:
        """Returns the comparison without these instances."""
        excluded = set(instance_ids)
        return CatalogComparison(
            differing={key: text for key, text in self.differing.items() if key not in excluded},
            orphans={key: orphan for key, orphan in self.orphans.items() if key not in excluded},
        )


NO_DIFFERENCE = CatalogComparison()


def compare(
    local: Mapping[str, ServiceInstance],
    catalog: Mapping[str, ServiceInstance],
    failing: Mapping[str, Iterable[CheckResult]],
) -> CatalogComparison:
    """Compares `local`, as the agent says, with the `catalog` of its node, both by instance ID.

    `failing`: the checks that the catalog shows as critical or warning, by instance ID; "" has the node's own.
    """
    differing = {}
    for instance_id, instance in local.items():
        if _is_compared(instance) and (text := _difference(instance, catalog.get(instance_id), failing)):
            differing[instance_id] = text
    known = {instance_id.lower() for instance_id in local}  # the catalog doesn't tell cases apart
    return CatalogComparison(
        differing=differing,
        orphans={
            instance_id: replace(instance, health=Health.UNKNOWN)
            for instance_id, instance in catalog.items()
            if _is_compared(instance) and instance_id.lower() not in known
        },
    )


def _is_compared(instance: ServiceInstance) -> bool:
    return instance.is_marked or instance.registered_itself


def _difference(
    instance: ServiceInstance, entry: ServiceInstance | None, failing: Mapping[str, Iterable[CheckResult]]
) -> str:
    if entry is None:
        return "the catalog doesn't have it, so callers don't find it"
    values, entry_values = _compared_values(instance), _compared_values(entry)
    if values != entry_values:
        pairs = zip(_COMPARED, values, entry_values, strict=True)
        names = [name for name, value, entry_value in pairs if value != entry_value]
        if instance.tag_override and "tags" in names:  # others may change them in the catalog
            names.remove("tags")
        if names:
            return f"the catalog has another {', '.join(names)} than its agent"
    reported = health_of((*failing.get(instance.id, ()), *failing.get("", ())))
    if reported is not instance.health:
        return f"the catalog shows it as {reported}, and its agent as {instance.health}"
    return ""


class OwnNodeReader:
    """Reads and compares our own node, for at most a twentieth of the time: in between, what is known still holds."""

    def __init__(self) -> None:
        self._entries = IncrementalJson(_entry, keyed=True, member="Services")
        self._last: tuple[Mapping[str, ServiceInstance], CatalogComparison] = ({}, NO_DIFFERENCE)
        self._due_at = float("-inf")

    def read(
        self, api: ConsulApi, *, node: str, datacenter: str, local: Mapping[str, ServiceInstance], force: bool = False
    ) -> CatalogComparison | None:
        """Returns the comparison with `local`; None where the token may not read all of it.

        `force`: compares even if that was done just now. Raises InvalidReplyError, NoLeaderError and what reading does.
        """
        started = time.monotonic()
        if started < self._due_at and not force:
            return _still_valid(*self._last, local)
        text = self._read_text(api, node)
        if text == _UNKNOWN and not api.http.token:  # nothing is hidden: the agent has just started
            return NO_DIFFERENCE
        if text is None or text == _UNKNOWN:
            return None
        catalog = self._parse(api, text)
        comparison = compare(local, catalog, _read_failing(api, node)).at(node, datacenter)
        ended = time.monotonic()
        self._last, self._due_at = (local, comparison), ended + (ended - started) / MAX_SHARE
        return comparison

    def _read_text(self, api: ConsulApi, node: str) -> str | None:
        """Returns the node as Consul has it; None where the token may not read all of it."""
        try:
            reply = api.text("catalog", "node", node)
        except ConsulPermissionError:
            return None
        if not reply.known_leader:
            raise NoLeaderError(api.config.url)
        return None if reply.filtered_by_acls else reply.data.strip()

    def _parse(self, api: ConsulApi, text: str) -> dict[str, ServiceInstance]:
        """Returns what carries a mark or registers itself."""
        try:
            entries = self._entries.read(text)
        except ValueError as error:
            raise _invalid(api, str(error)) from None
        return {key: entry for key, entry in entries if entry.service != _ITSELF and _is_compared(entry)}


def _entry(key: str, raw: dict[str, Any]) -> tuple[str, ServiceInstance]:
    return key, ServiceInstance.from_agent(raw, ())


def failing_on_one_side(api: ConsulApi) -> frozenset[tuple[str, str]]:
    """Returns the checks that fail at the agent or in the catalog, and not in the same way at both, with their status.

    Four short replies, however much is registered.
    """
    at_agent = {(key, check.status) for key, check in api.failing_checks().items()}
    catalog = _read_failing(api, api.agent_node().name)
    return frozenset(at_agent ^ {(check.id, check.status) for checks in catalog.values() for check in checks})


def _still_valid(
    before: Mapping[str, ServiceInstance], comparison: CatalogComparison, local: Mapping[str, ServiceInstance]
) -> CatalogComparison:
    """Returns what of an earlier comparison is about instances that haven't changed since at the agent."""
    if not comparison.ids:
        return comparison
    return comparison.without(
        {key for key in comparison.differing if local.get(key) is not before.get(key)}
        | {key for key in comparison.orphans if key in local}
    )


def _read_failing(api: ConsulApi, node: str) -> dict[str, list[CheckResult]]:
    """Returns the node's checks that don't pass in the catalog: two short lists, however much is registered."""
    failing: dict[str, list[CheckResult]] = {}
    for state in _FAILING:
        entries = _parsed(api, api.text("health", "state", state).data)
        if not isinstance(entries, list) or not all(isinstance(raw, dict) for raw in entries):
            raise _invalid(api, "a list of checks that is none")
        for raw in entries:
            if str(raw.get("Node", "")).lower() == node.lower() and raw.get("CheckID") != _AGENT_CHECK:
                failing.setdefault(str(raw.get("ServiceID") or ""), []).append(CheckResult.from_consul(raw))
    return failing


def _parsed(api: ConsulApi, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise _invalid(api, "not JSON") from None


def _invalid(api: ConsulApi, reason: str) -> InvalidReplyError:
    return InvalidReplyError(f"Consul at {api.config.url} gave an invalid reply: {reason}.")
