"""Recognises Consul's own formats by their content, and finds the services in them.

Service definitions are what agents read from their files, and take at `/v1/agent/service/register`; dumps are what the
API shows of the catalog and of an agent.
https://developer.hashicorp.com/consul/docs/reference/service
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from registry_admin.inventory.exchange.errors import DocumentError, Problem
from registry_admin.inventory.exchange.strict_yaml import line_of

_ASK_INSTEAD = "use what /v1/agent/services or /v1/health/service/NAME shows"
_CONFIG_ENTRIES = ("-defaults", "-router", "-splitter", "-resolver", "-intentions", "-certificate", "-route")
_OF_DEFINITIONS = frozenset(
    {"port", "address", "id", "check", "checks", "connect", "kind", "proxy", "taggedaddresses", "weights", "socketpath",
     "enabletagoverride", "token"}
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class FoundService:
    """A service in a document of Consul's.

    `fields`: as they are written there. `address`: the node's, where the service has none of its own. `is_dumped`: it
    comes from the API, which never shows how a check is defined. `checks`: their results, where the dump has them.
    """

    fields: Mapping[str, Any]
    where: str
    line: int = 0
    address: str = ""
    is_dumped: bool = False
    checks: Sequence[Any] | None = None


@dataclass(frozen=True, kw_only=True)
class ConsulDocument:
    """The services in a document of Consul's, and notes on what beside them is left out."""

    label: str
    services: Sequence[FoundService]
    notes: Sequence[Problem] = field(default=())


def squash(key: object) -> str:
    """Returns a key as Consul compares it: `EnableTagOverride` and `enable_tag_override` are the same."""
    return str(key).replace("_", "").lower()


def recognize(data: Any) -> ConsulDocument | None:
    """Returns the services of a document of Consul's, or None for any other.

    Raises DocumentError for what is Consul's and holds no service that could be declared.
    """
    if isinstance(data, list):
        return _of_list(data) if data and all(isinstance(item, dict) for item in data) else None
    if not isinstance(data, dict) or not data or "format" in data:
        return None
    keys = {squash(key): key for key in data}
    service, services = data.get(keys.get("service")), data.get(keys.get("services"))
    if "node" in keys and "services" in keys:
        return _of_node(data[keys["node"]], services)
    if isinstance(service, str):
        return ConsulDocument(label="a service of an agent", services=[_dumped(data)])
    if service is not None or _are_definitions(services):
        return _of_file(data)
    if all(isinstance(item, dict) and isinstance(item.get("Service"), str) for item in data.values()):
        return ConsulDocument(label="a dump of an agent", services=[_dumped(item) for item in data.values()])
    if "services" not in keys and all(_are_texts(item) for item in data.values()):
        raise DocumentError.at(0, f"it is /v1/catalog/services, which has only names and tags: {_ASK_INSTEAD}")
    return _of_fields(data, keys)


def _of_fields(data: Mapping[str, Any], keys: Mapping[str, str]) -> ConsulDocument | None:
    kind = str(data.get(keys.get("kind", ""), ""))
    if kind.endswith(_CONFIG_ENTRIES):
        raise DocumentError.at(0, f"it is a configuration entry of Consul ({kind[:60]}), not a service")
    if "name" in keys and not keys.keys().isdisjoint(_OF_DEFINITIONS):
        return ConsulDocument(label="a service definition of Consul", services=[_defined(data, "service")])
    return None


def _of_list(data: list[dict[str, Any]]) -> ConsulDocument | None:
    first = data[0]
    if "ServiceName" in first and "CheckID" not in first:
        return ConsulDocument(label="a dump of the catalog", services=[_of_catalog(item) for item in data])
    if isinstance(first.get("Service"), dict):
        return ConsulDocument(
            label="a dump of services with their checks", services=[_of_health(item) for item in data]
        )
    if "CheckID" in first:
        raise DocumentError.at(0, f"it has checks only: {_ASK_INSTEAD}")
    if "Node" in first and "Address" in first:
        raise DocumentError.at(0, f"it is /v1/catalog/nodes, which has no services: {_ASK_INSTEAD}")
    if _are_definitions(data):
        return _of_file({"services": data})
    return None


def _are_definitions(value: Any) -> bool:
    """Returns whether this is what Consul's `services` holds. Ours have their ports in `instances`."""
    if isinstance(value, dict):
        return "name" in map(squash, value)
    if not isinstance(value, list) or not value or not all(isinstance(item, dict) for item in value):
        return False
    keys = {squash(key) for item in value for key in item}
    return "instances" not in keys and not keys.isdisjoint(_OF_DEFINITIONS)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _of_file(data: Mapping[str, Any]) -> ConsulDocument:
    services: list[FoundService] = []
    notes: list[Problem] = []
    for key, value in data.items():
        if squash(key) not in ("service", "services"):
            notes.append(Problem("document", line_of(data, key), f"{key}: left out: not part of a service definition"))
            continue
        items = value if isinstance(value, list) else [value]
        for number, item in enumerate(items, start=1):
            where = f"{key}[{number}]" if isinstance(value, list) else str(key)
            if not isinstance(item, dict):
                raise DocumentError([Problem(where, line_of(data, key), "must be a mapping of keys and values")])
            services.append(_defined(item, where))
    return ConsulDocument(label="service definitions of Consul", services=services, notes=notes)


def _defined(fields: Mapping[str, Any], where: str) -> FoundService:
    name = next((value for key, value in fields.items() if squash(key) == "name"), None)
    place = f"{where} {name[:60]!r}" if isinstance(name, str) else where
    return FoundService(fields=fields, where=place, line=line_of(fields))


def _dumped(fields: Mapping[str, Any], *, node: Any = None, checks: Any = None) -> FoundService:
    about = node if isinstance(node, dict) else {}
    on = f" on {about['Node']}" if isinstance(about.get("Node"), str) else ""
    address = about.get("Address")
    return FoundService(
        fields=fields,
        where=f"service {str(fields.get('ID', ''))[:60]!r}{on}",
        line=line_of(fields),
        address=address if isinstance(address, str) else "",
        is_dumped=True,
        checks=checks if isinstance(checks, list) else None,
    )


def _of_node(node: Any, services: Any) -> ConsulDocument:
    items: Iterator[Any] = iter(services.values() if isinstance(services, dict) else services or ())
    found = [_dumped(item, node=node) for item in items if isinstance(item, dict)]
    return ConsulDocument(label="a dump of a node", services=found)


def _of_catalog(item: Mapping[str, Any]) -> FoundService:
    fields = {key.removeprefix("Service"): value for key, value in item.items() if key.startswith("Service")}
    return _dumped(fields, node=item)


def _of_health(item: Mapping[str, Any]) -> FoundService:
    service = item.get("Service")
    return _dumped(service if isinstance(service, dict) else {}, node=item.get("Node"), checks=item.get("Checks"))
