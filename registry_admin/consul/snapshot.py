"""Snapshots of everything that is registered in Consul, for the reconciler to compare with the declarations."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from types import MappingProxyType
from typing import Any, TypeVar

from registry_admin.consul.api import AgentIdentity, ConsulApi, ConsulReply
from registry_admin.consul.health import CheckResult, health_of
from registry_admin.consul.incremental_json import IncrementalJson
from registry_admin.consul.one_agent import OneAgentApi, on_one_agent
from registry_admin.consul.own_node import NO_DIFFERENCE, CatalogComparison, OwnNodeReader
from registry_admin.consul.types import ServiceInstance
from registry_admin.errors import ConsulRefusedError, InvalidReplyError, InvalidValueError, NoLeaderError

NODES_AT_ONCE = 8
_HIDDEN = "null"  # a node that Consul has none of, or that the token may not read
_ITSELF = "consul"  # servers register themselves in the catalog under this name
_AGENT_CHECK = "serfHealth"  # of a node: whether its agent answers the others' gossip

T = TypeVar("T")
_Service = tuple[str, ServiceInstance]  # an instance's ID, and what is registered under it: without its checks
_Check = tuple[str, CheckResult]  # the ID of the instance that it belongs to, "" for the node itself, and its result


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Everything that was registered in Consul at one time.

    `node_id` changes when our agent has lost its data folder. `local` is what is registered on our agent, by instance
    ID, as the agent itself says: without delay. `remote` is on the other nodes, as the catalog says; `nodes` are their
    names, and `failed_nodes` those whose agent has failed (`serfHealth` is critical). `is_filtered`: ACLs have left
    something out (always false before Consul 1.11). `is_confirmed_empty`: nothing is here, and the catalog, which our
    token may read, agrees. `catalog`: where the catalog has our node otherwise than the agent; None where our token may
    not read all of it.
    """

    node: str
    node_id: str
    local: Mapping[str, ServiceInstance]
    remote: tuple[ServiceInstance, ...] = ()
    datacenter: str = ""
    nodes: frozenset[str] = frozenset()
    failed_nodes: frozenset[str] = frozenset()
    is_filtered: bool = False
    is_confirmed_empty: bool = False
    catalog: CatalogComparison | None = NO_DIFFERENCE

    @property
    def agent(self) -> AgentIdentity:
        """The agent that was read."""
        return AgentIdentity(name=self.node, id=self.node_id, datacenter=self.datacenter)

    @cached_property
    def local_ids_in_lower_case(self) -> Mapping[str, str]:
        """The IDs on our agent, by their lower case: the catalog doesn't tell cases apart."""
        return {instance_id.lower(): instance_id for instance_id in sorted(self.local)}


class SnapshotReader:
    """Reads snapshots through one ConsulApi, and reuses the last one. Safe to share between threads.

    An instance that has not changed since the last snapshot is the same object.
    """

    def __init__(self, api: ConsulApi) -> None:
        self._api = api
        self._services = IncrementalJson(_service, keyed=True)
        self._checks = IncrementalJson(lambda _id, raw: _check(raw), keyed=True)
        self._states = IncrementalJson(lambda _id, raw: (str(raw.get("Node") or ""), _check(raw)), keyed=False)
        self._here = _Node()
        self._own_node = OwnNodeReader()
        self._remote_nodes: Mapping[str, _Node] = {}

    def read(self, *, agent: AgentIdentity | None = None, compare: bool = False) -> Snapshot:
        """Reads everything once, from one agent: from `agent` where it is given.

        `compare`: compares our node in the catalog even if that was done just now. Raises
        DifferentAgentsError where another agent answers meanwhile, NoLeaderError, ConsulUnavailableError and
        ConsulRefusedError.
        """
        with on_one_agent(self._api, agent) as api:
            return self._read(api, compare=compare)

    def _read(self, api: OneAgentApi, *, compare: bool) -> Snapshot:
        name, node_id, datacenter = api.identity
        if not api.leader():
            raise NoLeaderError(self._api.config.url)
        # First services, then checks: what is registered in between would else be seen without its checks, as passing.
        services, checks = api.text("agent", "services"), api.text("agent", "checks")
        nodes = self._catalog(api, "catalog", "nodes")
        addresses = self._addresses(nodes)
        local = self._here.updated(
            name,
            datacenter,
            self._read_entries(self._services, services),
            self._read_entries(self._checks, checks),
            address=addresses.get(name, ""),
        )
        remote_names = [node for node in addresses if node.lower() != name.lower()]
        remote, is_filtered = self._read_remote_nodes(api, remote_names, addresses, datacenter)
        self._here = local
        return Snapshot(
            node=name,
            node_id=node_id,
            local=local.instances,
            remote=remote,
            datacenter=datacenter,
            nodes=frozenset(remote_names),
            failed_nodes=frozenset(name for name, node in self._remote_nodes.items() if node.has_failed),
            is_filtered=is_filtered or any(reply.filtered_by_acls for reply in (services, checks, nodes)),
            is_confirmed_empty=not local.instances and self._is_confirmed_empty(api, name),
            catalog=self._own_node.read(api, node=name, datacenter=datacenter, local=local.instances, force=compare),
        )

    def _is_confirmed_empty(self, api: ConsulApi, node: str) -> bool:
        """Returns whether the node is empty and the token may read the catalog, where Consul's own servers are."""
        reply = self._read_node(api, node)
        if reply is None or reply.data.strip() == _HIDDEN:
            return False
        return _ITSELF in api.services().data and not self._parse_node(reply.data)

    def _read_remote_nodes(
        self, api: ConsulApi, names: list[str], addresses: Mapping[str, str], datacenter: str
    ) -> tuple[tuple[ServiceInstance, ...], bool]:
        """Returns the instances on these nodes, and whether ACLs have left some out."""
        if not names:
            self._remote_nodes = {}
            return (), False
        with ThreadPoolExecutor(min(NODES_AT_ONCE, len(names))) as pool:
            replies = dict(zip(names, pool.map(partial(self._read_node, api), names), strict=True))
        states = self._catalog(api, "health", "state", "any")
        checks: dict[str, list[_Check]] = {}
        for name, check in self._read_entries(self._states, states):
            checks.setdefault(name, []).append(check)
        nodes = {}
        for name, reply in replies.items():
            if reply is not None and reply.data.strip() != _HIDDEN:  # it has gone since it was listed
                before = self._remote_nodes.get(name, _Node())
                services = before.services if reply.data == before.text else self._parse_node(reply.data)
                all_checks = tuple(checks.get(name, ()))
                nodes[name] = before.updated(
                    name, datacenter, services, all_checks, text=reply.data, address=addresses[name]
                )
        self._remote_nodes = nodes
        instances = (instance for node in nodes.values() for instance in node.instances.values())
        return tuple(instances), any(
            reply.filtered_by_acls for reply in (states, *replies.values()) if reply is not None
        )

    def _read_node(self, api: ConsulApi, name: str) -> ConsulReply[str] | None:
        """Returns the reply about a node, or None where it has a stranger's name that no URL can hold."""
        try:
            return self._catalog(api, "catalog", "node", name)
        except InvalidValueError:  # such as `..`
            return None
        except ConsulRefusedError as error:
            if error.status != 400:
                raise
            return None  # Consul takes a name with a line break, and refuses every path that holds one

    def _parse_node(self, text: str) -> tuple[_Service, ...]:
        """Returns the services registered on a node, without Consul's own servers."""
        data = self._parse(text, dict)
        node, services = data.get("Node"), data.get("Services")
        services = {} if services is None else services  # null is how Go writes an empty one
        if not isinstance(node, dict) or not isinstance(services, dict):
            raise self._invalid("a node without its Services")
        instances = ((key, ServiceInstance.from_agent(raw, ())) for key, raw in services.items())
        return tuple((key, service) for key, service in instances if service.service != _ITSELF)

    def _addresses(self, nodes: ConsulReply[str]) -> dict[str, str]:
        """Returns the address of each node, by its name."""
        entries: list[Any] = self._parse(nodes.data, list)
        names = [node.get("Node") for node in entries if isinstance(node, dict)]
        if len(names) != len(entries) or not all(isinstance(name, str) for name in names):
            raise self._invalid("a node without a name")
        return {str(node["Node"]): str(node.get("Address") or "") for node in entries}

    def _catalog(self, api: ConsulApi, *path: str) -> ConsulReply[str]:
        """Returns the leader's reply. A server that knows no leader may have an empty catalog."""
        reply = api.text(*path)
        if not reply.known_leader:
            raise NoLeaderError(self._api.config.url)
        return reply

    def _read_entries(self, entries: IncrementalJson[T], reply: ConsulReply[str]) -> tuple[T, ...]:
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

    def _invalid(self, reason: str) -> InvalidReplyError:
        return InvalidReplyError(f"Consul at {self._api.config.url} gave an invalid reply: {reason}.")


@dataclass(frozen=True, kw_only=True)
class _Node:
    """Instances of a node at the last snapshot, and the replies that they were read from."""

    name: str = ""
    datacenter: str = ""
    address: str = ""
    text: str = ""
    services: tuple[_Service, ...] = ()
    checks: tuple[_Check, ...] = ()
    instances: Mapping[str, ServiceInstance] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def has_failed(self) -> bool:
        """True if the other agents can't reach this node's agent, as they agree by gossip."""
        return any(
            not owner and check.id == _AGENT_CHECK and check.status == "critical" for owner, check in self.checks
        )

    def updated(
        self,
        name: str,
        datacenter: str,
        services: tuple[_Service, ...],
        checks: tuple[_Check, ...],
        *,
        text: str = "",
        address: str = "",
    ) -> _Node:
        """Returns the node's new state. The node's own checks count for each of its instances, as in Consul.

        `address`: the node's, where instances without one of their own are.
        """
        is_same_node = (name, datacenter, address) == (self.name, self.datacenter, self.address)
        if is_same_node and (services, checks) == (self.services, self.checks):
            return self if text == self.text else replace(self, text=text)
        results: dict[str, list[CheckResult]] = {}
        for owner, result in checks:
            results.setdefault(owner, []).append(result)
        of_node, before = results.pop("", []), dict(self.services)
        instances = {}
        for key, service in services:
            all_checks = (*results.get(key, ()), *of_node)
            known = self.instances.get(key)
            if known is None or not is_same_node or all_checks != known.checks or service != before[key]:
                known = replace(
                    service,
                    address=service.address or address,
                    node=name,
                    datacenter=datacenter,
                    checks=all_checks,
                    health=health_of(all_checks),
                )
            instances[key] = known
        return _Node(
            name=name,
            datacenter=datacenter,
            address=address,
            text=text,
            services=services,
            checks=checks,
            instances=MappingProxyType(instances),
        )


def _service(key: str, raw: dict[str, Any]) -> _Service:
    return key, ServiceInstance.from_agent(raw, ())


def _check(raw: dict[str, Any]) -> _Check:
    return str(raw.get("ServiceID") or ""), CheckResult.from_consul(raw)
