"""One look at everything that Consul has: what the reconciler compares the declarations with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, TypeVar

from registry_admin.consul.api import ConsulApi, Reply
from registry_admin.consul.entries import Entries
from registry_admin.consul.types import CheckResult, ServiceInstance, health_of
from registry_admin.errors import ConsulUnavailableError, InvalidReplyError, InvalidValueError

NODES_AT_ONCE = 8
_ITSELF = "consul"  # servers register themselves in the catalog under this name
_NO_LEADER = ("No cluster leader", "No known Consul servers")  # how Consul says it with a 500

T = TypeVar("T")
_Service = tuple[str, ServiceInstance]  # an instance's ID, and what is registered under it: without its checks
_Check = tuple[str, CheckResult]  # the ID of the instance that it belongs to, "" for the node itself, and what it said


@dataclass(frozen=True, kw_only=True)
class Observation:
    """Everything that Consul has, as one look found it.

    `node_id` changes when our agent has lost its data folder. `here` is what is registered on our agent, by instance
    ID, as the agent itself says: without delay. `elsewhere` is on the other nodes, as the catalog says. `filtered`:
    ACLs have left something out; before Consul 1.11 nothing tells that. `surely_empty`: nothing is here, and the
    catalog, which our token may read, agrees.
    """

    node: str
    node_id: str
    here: Mapping[str, ServiceInstance]
    elsewhere: tuple[ServiceInstance, ...] = ()
    filtered: bool = False
    surely_empty: bool = False


class Observer:
    """Looks at Consul through one ConsulApi, and remembers what it saw. Safe to share between threads.

    An instance of which Consul says the same as at the last look is the same object again.
    """

    def __init__(self, api: ConsulApi) -> None:
        self._api = api
        self._services = Entries(_service, keyed=True)
        self._checks = Entries(lambda _id, raw: _check(raw), keyed=True)
        self._states = Entries(lambda _id, raw: (str(raw.get("Node") or ""), _check(raw)), keyed=False)
        self._here = _Node()
        self._others: Mapping[str, _Node] = {}

    def look(self) -> Observation:
        """Reads everything once.

        Raises ConsulUnavailableError, which says so where the cluster has no leader, and ConsulRefusedError.
        """
        try:
            return self._look()
        except ConsulUnavailableError as error:
            if error.status is not None and any(words in str(error) for words in _NO_LEADER):
                raise self._no_leader(error.status) from error
            raise

    def _look(self) -> Observation:
        name, node_id = self._api.agent_node()
        if not self._api.leader():
            raise self._no_leader()
        # First services, then checks: what is registered in between would else be seen without its checks, as passing.
        services, checks = self._api.text("agent", "services"), self._api.text("agent", "checks")
        here = self._here.seen_again(name, self._read(self._services, services), self._read(self._checks, checks))
        nodes = self._catalog("catalog", "nodes")
        others = [node for node in self._names(nodes) if node.lower() != name.lower()]
        elsewhere, filtered = self._look_elsewhere(others)
        self._here = here
        return Observation(
            node=name,
            node_id=node_id,
            here=here.instances,
            elsewhere=elsewhere,
            filtered=filtered or any(reply.filtered_by_acls for reply in (services, checks, nodes)),
            surely_empty=not here.instances and self._is_surely_empty(name),
        )

    def _is_surely_empty(self, node: str) -> bool:
        """The servers are in the catalog as a service of their own: who doesn't see that may see nothing else."""
        reply = self._read_node(node)
        return _ITSELF in self._api.services().data and reply is not None and not self._parse_node(reply.data)

    def _look_elsewhere(self, names: list[str]) -> tuple[tuple[ServiceInstance, ...], bool]:
        """What is on these nodes, and whether ACLs have left something out of it."""
        if not names:
            self._others = {}
            return (), False
        with ThreadPoolExecutor(min(NODES_AT_ONCE, len(names))) as pool:
            replies = dict(zip(names, pool.map(self._read_node, names), strict=True))
        states = self._catalog("health", "state", "any")
        checks: dict[str, list[_Check]] = {}
        for name, check in self._read(self._states, states):
            checks.setdefault(name, []).append(check)
        others = {}
        for name, reply in replies.items():
            if reply is not None and reply.data.strip() != "null":  # that is: it has gone since it was listed
                before = self._others.get(name, _Node())
                services = before.services if reply.data == before.text else self._parse_node(reply.data)
                others[name] = before.seen_again(name, services, tuple(checks.get(name, ())), text=reply.data)
        self._others = others
        found = (instance for node in others.values() for instance in node.instances.values())
        return tuple(found), any(reply.filtered_by_acls for reply in (states, *replies.values()) if reply is not None)

    def _read_node(self, name: str) -> Reply[str] | None:
        try:
            return self._catalog("catalog", "node", name)
        except InvalidValueError:
            return None  # a stranger's name, such as `..`, that no URL can hold: nobody can look there

    def _parse_node(self, text: str) -> tuple[_Service, ...]:
        """What is registered on a node, without Consul's own servers."""
        data = self._parse(text, dict)
        node, services = data.get("Node"), data.get("Services")
        services = {} if services is None else services  # null is how Go writes an empty one
        if not isinstance(node, dict) or not isinstance(services, dict):
            raise self._invalid("a node without its Services")
        address = str(node.get("Address") or "")
        found = ((key, ServiceInstance.from_agent(raw, (), node_address=address)) for key, raw in services.items())
        return tuple((key, service) for key, service in found if service.service != _ITSELF)

    def _names(self, nodes: Reply[str]) -> list[str]:
        found: list[Any] = self._parse(nodes.data, list)
        names = [node.get("Node") for node in found if isinstance(node, dict)]
        if len(names) != len(found) or not all(isinstance(name, str) for name in names):
            raise self._invalid("a node without a name")
        return [str(name) for name in names]

    def _catalog(self, *path: str) -> Reply[str]:
        """What the leader says: a server that answers in its place may know nothing yet, and not say so."""
        reply = self._api.text(*path)
        if not reply.known_leader:
            raise self._no_leader()
        return reply

    def _read(self, entries: Entries[T], reply: Reply[str]) -> tuple[T, ...]:
        try:
            return entries.read(reply.data)
        except ValueError as error:
            raise self._invalid(str(error)) from None

    def _parse(self, text: str, shape: type[T]) -> T:
        try:
            data = json.loads(text)
        except (ValueError, RecursionError):
            raise self._invalid("not JSON") from None
        if not isinstance(data, shape):
            raise self._invalid(f"{type(data).__name__} where {shape.__name__} was expected")
        return data

    def _invalid(self, why: str) -> InvalidReplyError:
        return InvalidReplyError(f"Consul at {self._api.config.url} gave an invalid reply: {why}.")

    def _no_leader(self, status: int = 200) -> ConsulUnavailableError:
        where = self._api.config.url
        return ConsulUnavailableError(
            f"Consul at {where} has no leader: its servers can't agree on one.", status=status
        )


@dataclass(frozen=True, kw_only=True)
class _Node:
    """A node's instances as they were seen last, and what they were made of."""

    name: str = ""
    text: str = ""
    services: tuple[_Service, ...] = ()
    checks: tuple[_Check, ...] = ()
    instances: Mapping[str, ServiceInstance] = field(default_factory=lambda: MappingProxyType({}))

    def seen_again(
        self, name: str, services: tuple[_Service, ...], checks: tuple[_Check, ...], *, text: str = ""
    ) -> _Node:
        """The node as it is now. Its own checks count for each of its instances, as they do in Consul."""
        if (name, services, checks) == (self.name, self.services, self.checks):
            return self if text == self.text else replace(self, text=text)
        results: dict[str, list[CheckResult]] = {}
        for owner, result in checks:
            results.setdefault(owner, []).append(result)
        of_node, before = results.pop("", []), dict(self.services)
        instances = {}
        for key, service in services:
            said = (*results.get(key, ()), *of_node)
            known = self.instances.get(key)
            if known is None or name != self.name or said != known.checks or service != before[key]:
                known = replace(service, node=name, checks=said, health=health_of(said))
            instances[key] = known
        return _Node(name=name, text=text, services=services, checks=checks, instances=MappingProxyType(instances))


def _service(key: str, raw: dict[str, Any]) -> _Service:
    return key, ServiceInstance.from_agent(raw, ())


def _check(raw: dict[str, Any]) -> _Check:
    return str(raw.get("ServiceID") or ""), CheckResult.from_consul(raw)
