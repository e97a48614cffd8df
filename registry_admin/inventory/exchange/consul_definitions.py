"""Reads Consul's service definitions and dumps into entries of a document, and lists what can't be carried over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from registry_admin.consul import CheckKind
from registry_admin.consul.marks import RESERVED_META
from registry_admin.consul.tagged_addresses import endpoint, without_added
from registry_admin.consul.uncarried import is_set
from registry_admin.inventory.exchange.consul_checks import CheckReader
from registry_admin.inventory.exchange.consul_shapes import ConsulDocument, FoundService, squash
from registry_admin.inventory.exchange.entries import Entry
from registry_admin.inventory.exchange.errors import Problem
from registry_admin.inventory.exchange.strict_yaml import line_of
from registry_admin.inventory.models import Instance, Service
from registry_admin.inventory.models.declared_fields import Declaration, declared_fields

_READ = frozenset({"name", "service", "id", "address", "port", "tags", "meta", "check", "checks", "weights"})
# What dumps show of every service, and nobody has asked for.
_ABOUT_THE_ENTRY = frozenset(
    {"datacenter", "contenthash", "createindex", "modifyindex", "raftindex", "peername", "lockedregistrations"}
)
_REASONS = {
    "token": "a secret; our own token registers the service",
    "socketpath": "a Unix socket can't be declared",
    "ports": "an instance has one port here",
    "namespace": "namespaces can't be declared",
    "partition": "partitions can't be declared",
}


@dataclass(frozen=True, kw_only=True)
class _Read:
    """A service as it can be declared: values by their keys in our documents."""

    found: FoundService
    name: str
    instance: Mapping[str, Any]
    tags: Sequence[str]
    meta: Mapping[str, str]
    check: Mapping[str, Any] | None
    later: Mapping[str, Any]


@dataclass
class ConsulReader:
    """Makes entries of found services. `notes`: what can't be carried over; `problems`: what must be corrected."""

    notes: list[Problem] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def read(self, document: ConsulDocument) -> list[Entry]:
        """Returns an entry for each service name, with the instances of that name."""
        self.notes += document.notes
        by_name: dict[str, list[_Read]] = {}
        for found in document.services:
            if service := self._service(found):
                by_name.setdefault(service.name.lower(), []).append(service)
        if not by_name and not self.problems:
            self.problems.append(
                Problem("document", 0, f"read as {document.label}, it holds nothing that can be declared")
            )
        return [self._entry(services) for services in by_name.values()]

    def _service(self, found: FoundService) -> _Read | None:
        fields = {squash(key): value for key, value in found.fields.items() if value is not None}
        names = {squash(key): key for key in found.fields}
        name = fields.get("service", fields.get("name")) if found.is_dumped else fields.get("name")
        if not isinstance(name, str) or not name:
            self._problem(found, names.get("name", ""), "name: is missing" if not name else "name: must be text")
            return None
        if len(names) < len(found.fields):
            self._problem(found, "", "a key is there twice, spelled differently")
            return None
        if not isinstance(fields.get("meta", {}), dict):
            self._problem(found, names["meta"], "meta: must be pairs of texts")
            return None
        if reason := _unsuitable(name, fields):
            self._note(found, "", f"left out: {reason}")
            return None
        address = fields.get("address") or found.address
        port = fields.get("port", 0)
        weights = {squash(key): value for key, value in _mapping(fields.get("weights")).items()}
        weight = weights.get("passing", 1)
        later = _later(fields, names, own=(address, port))
        if weights.get("warning", weight) != weight:
            later["warning_weight"] = ("weights.warning", weights["warning"])
        for key, value in fields.items():
            if key not in _READ | _ABOUT_THE_ENTRY | {"enabletagoverride", "taggedaddresses"} and _is_set(value, key):
                self._note(found, names[key], _REASONS.get(key, "can't be declared here"))
        return _Read(
            found=found,
            name=name,
            instance={"address": address, "port": port, "id": fields.get("id") or name, "weight": weight},
            tags=fields.get("tags", []),
            meta=self._meta(found, fields.get("meta", {})),
            check=self._check(found, fields, address=address, port=port),
            later=later,
        )

    def _check(
        self, found: FoundService, fields: Mapping[str, Any], *, address: str, port: Any
    ) -> dict[str, Any] | None:
        """Returns the declared check, or None where a dump doesn't tell."""
        if found.is_dumped:
            own = [item for item in found.checks or () if isinstance(item, dict) and item.get("ServiceID")]
            return {"kind": CheckKind.NONE.value} if found.checks is not None and not own else None
        checks: list[tuple[str, Any]] = []
        for key in ("check", "checks"):
            value = fields.get(key)
            if isinstance(value, list):
                checks += [(f"{key}[{number}]", item) for number, item in enumerate(value, start=1)]
            elif value is not None:
                checks.append((key, value))

        def note(key: str, text: str) -> None:
            self._note(found, key.partition(".")[0].partition("[")[0], text, key)

        return CheckReader(address=address, port=port, note=note).read(checks)

    def _meta(self, found: FoundService, value: Any) -> dict[str, Any]:
        meta: dict[str, Any] = {}
        for key, content in _mapping(value).items():
            if str(key).lower().startswith("consul-"):
                self._note(found, "meta", "reserved by Consul", f"meta.{key}")
            elif key not in RESERVED_META:
                is_number = isinstance(content, int) and not isinstance(content, bool)
                meta[key] = str(content) if is_number else content  # as Consul reads it
        return meta

    def _entry(self, services: Sequence[_Read]) -> Entry:
        """Returns the entry of all instances of a name. What they have in common is the service's."""
        first = services[0]
        same_tags = all(service.tags == first.tags for service in services)
        metas = [service.meta for service in services]
        common = {key for key, value in first.meta.items() if all(meta.get(key) == value for meta in metas)}
        meta = {key: value for key, value in first.meta.items() if key in common}
        checks = [(service, service.check) for service in services if service.check is not None]
        fields: dict[str, Any] = {"name": first.name, "tags": first.tags if same_tags else [], "meta": meta}
        defaults: dict[str, Any] = {}
        check_names = {declared.leaf: declared.name for declared in declared_fields(Service) if declared.is_of_check}
        if checks:
            fields |= {check_names[leaf]: value for leaf, value in checks[0][1].items()}
            for service, check in checks:
                if check != checks[0][1]:
                    owner = checks[0][0].found.where
                    self._note(
                        service.found, "check", f"a service has one check here: that of {owner} is declared", "check"
                    )
        else:
            defaults |= {check_names["kind"]: CheckKind.KEEP.value, check_names["deregister_after"]: ""}
            text = "the dump doesn't tell how it is checked; a service that is new here keeps its checks in Consul"
            self._note(first.found, "", text, "check")
        shared = {leaf: value for leaf, (_, value) in first.later.items() if leaf in _leaves(Service)}
        fields |= {_leaves(Service)[leaf]: value for leaf, value in shared.items()}
        return Entry(
            where=first.found.where,
            line=first.found.line,
            fields=fields,
            defaults=defaults,
            keeps_left_out=True,
            instances=tuple(
                self._instance(service, tags=[] if same_tags else service.tags, meta=meta, shared=shared)
                for service in services
            ),
        )

    def _instance(self, service: _Read, *, tags: Any, meta: Mapping[str, str], shared: Mapping[str, Any]) -> Entry:
        own_meta = {key: value for key, value in service.meta.items() if key not in meta}
        values = dict(service.instance) | {"tags": tags, "meta": own_meta}
        for leaf, (key, value) in service.later.items():
            if leaf in _leaves(Instance):
                values[leaf] = value
            elif shared.get(leaf) != value:
                self._note(service.found, key, "differs from that of the service's first instance, which is declared")
        names = _leaves(Instance)
        return Entry(
            where=service.found.where,
            line=service.found.line,
            fields={names[leaf]: value for leaf, value in values.items()},
            keeps_left_out=True,
        )

    def _note(self, found: FoundService, key: str, text: str, shown: str = "") -> None:
        line = line_of(found.fields, key) or found.line
        label = shown or key
        self.notes.append(Problem(found.where, line, f"{label}: {text}" if label else text))

    def _problem(self, found: FoundService, key: str, text: str) -> None:
        self.problems.append(Problem(found.where, line_of(found.fields, key) or found.line, text))


def _unsuitable(name: str, fields: Mapping[str, Any]) -> str:
    """Returns why a service can't be declared without harm; empty where it can.

    A registration replaces the whole service: without its mesh settings it would leave the mesh.
    """
    if name.lower() == "consul":
        return "Consul's own"
    kind = fields.get("kind")
    if kind and kind != "typical":
        return f"it is part of the mesh ({kind}), which can't be declared here"
    connect = {squash(key): value for key, value in _mapping(fields.get("connect")).items()}
    if "sidecarservice" in connect or connect.get("native") or _is_set(fields.get("proxy"), "proxy"):
        return "it is part of the mesh (connect), which can't be declared here"
    return ""


def _later(fields: Mapping[str, Any], names: Mapping[str, str], *, own: tuple[Any, Any]) -> dict[str, tuple[str, Any]]:
    """Returns the fields that few services have, each with its key in the document."""
    later: dict[str, tuple[str, Any]] = {}
    if fields.get("enabletagoverride") is True:
        later["tag_override"] = (names["enabletagoverride"], True)
    addresses: dict[str, str] = {}
    for name, entry in _mapping(fields.get("taggedaddresses")).items():
        values = {squash(key): value for key, value in _mapping(entry).items()}
        host = values.get("address", "")
        if isinstance(host, str) and host:
            addresses[name] = endpoint(host, values.get("port", 0))
    if addresses := without_added(addresses, *own):
        later["tagged_addresses"] = (names["taggedaddresses"], addresses)
    return later


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _is_set(value: Any, key: str = "") -> bool:
    """Returns whether a field holds anything. Dumps show unused ones as nothing, or as objects of nothing."""
    if key in ("namespace", "partition") and value == "default":
        return False
    return is_set(value)


def _leaves(model: type[Declaration]) -> dict[str, str]:
    return {declared.leaf: declared.name for declared in declared_fields(model) if not declared.is_of_check}
