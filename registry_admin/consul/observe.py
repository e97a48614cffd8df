"""One look at everything that Consul has: what the reconciler compares the declarations with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from registry_admin.consul.api import ConsulApi, Reply
from registry_admin.consul.types import CheckResult, ServiceInstance
from registry_admin.errors import ConsulUnavailableError, InvalidReplyError, InvalidValueError

CONSUL_ITSELF = "consul"  # servers register themselves in the catalog under this name


@dataclass(frozen=True, kw_only=True)
class Observation:
    """Everything that Consul has, as one look found it.

    `node_id` changes when our agent has lost its data folder. `here` is what is registered on our agent, by instance
    ID, as the agent itself says: no lag. `elsewhere` is on the other nodes, as the catalog says. `filtered`: ACLs have
    left something out; before Consul 1.11 nothing tells that.
    """

    node: str
    node_id: str
    here: Mapping[str, ServiceInstance]
    elsewhere: tuple[ServiceInstance, ...] = ()
    filtered: bool = False


class Observer:
    """Looks at Consul through one ConsulApi."""

    def __init__(self, api: ConsulApi) -> None:
        self._api = api

    def look(self) -> Observation:
        """Reads everything once. Raises ConsulUnavailableError, also without a leader, and ConsulRefusedError."""
        node, node_id = self._api.agent_node()
        self._require(self._api.leader())
        services, checks, nodes = self._api.agent_services(), self._api.agent_checks(), self._api.nodes()
        self._require(nodes.known_leader)
        others = [name for name in nodes.data if name.lower() != node.lower()]
        elsewhere, filtered = self._elsewhere(others) if others else ((), False)
        by_id = _by_instance(checks.data.values())
        of_node = by_id.get(("", ""), ())
        return Observation(
            node=node,
            node_id=node_id,
            here={
                key: ServiceInstance.from_agent(raw, (*by_id.get(("", key), ()), *of_node), node=node)
                for key, raw in services.data.items()
            },
            elsewhere=elsewhere,
            filtered=filtered or any(reply.filtered_by_acls for reply in (services, checks, nodes)),
        )

    def _elsewhere(self, names: list[str]) -> tuple[tuple[ServiceInstance, ...], bool]:
        replies: list[Reply[Any]] = []
        for name in names:
            try:
                replies.append(self._api.node(name))
            except InvalidValueError:
                continue  # a name that no URL can hold: nobody can look there
        states = self._api.health_states(stale=True)
        checks = _by_instance(states.data, by_node=True)
        found = []
        for reply in replies:
            self._require(reply.known_leader)
            if reply.data is None:
                continue  # it has gone since it was listed
            node, services = reply.data.get("Node"), reply.data.get("Services") or {}
            if not isinstance(node, dict) or not isinstance(services, dict):
                raise InvalidReplyError("Consul's reply is not what it should be: a node without its Services.")
            name, address = str(node.get("Node") or ""), str(node.get("Address") or "")
            found += [
                ServiceInstance.from_node(
                    raw, (*checks.get((name, key), ()), *checks.get((name, ""), ())), node=name, node_address=address
                )
                for key, raw in services.items()
                if not isinstance(raw, dict) or raw.get("Service") != CONSUL_ITSELF
            ]
        return tuple(found), states.filtered_by_acls or any(reply.filtered_by_acls for reply in replies)

    def _require(self, leader: object) -> None:
        if not leader:
            raise ConsulUnavailableError(f"Consul at {self._api.config.url} has no leader.", status=500)


def _by_instance(raw_checks: Any, *, by_node: bool = False) -> dict[tuple[str, str], tuple[CheckResult, ...]]:
    found: dict[tuple[str, str], tuple[CheckResult, ...]] = {}
    for raw in raw_checks:
        result = CheckResult.from_consul(raw)
        key = (str(raw.get("Node") or "") if by_node else "", str(raw.get("ServiceID") or ""))
        found[key] = (*found.get(key, ()), result)
    return found
