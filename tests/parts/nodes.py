"""Several Consul agents that have joined each other: one server, and clients on nodes of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.parts.agent import PORTS, ConsulAgent
from tests.parts.waiting import free_ports, wait_until

# So that a node is known to have failed within two seconds, not ten.
_FAST_GOSSIP = {
    "probe_interval": "100ms",
    "probe_timeout": "100ms",
    "gossip_interval": "50ms",
    "suspicion_mult": 2,
}


class ConsulNodes:
    """A server on node `hub`, and the clients that `add` starts."""

    def __init__(self, make_folder: Callable[[str], Path]) -> None:
        self._make_folder = make_folder
        self._ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        self._agents: list[ConsulAgent] = []
        self.hub = self._start("hub", {"ports": self._ports, "server": True, "bootstrap_expect": 1})

    def add(self, name: str) -> ConsulAgent:
        """Starts a client agent on a node of this name, and waits until the server knows it."""
        join = [f"127.0.0.1:{self._ports['serf_lan']}"]
        agent = self._start(name, {"server": False, "bootstrap_expect": 0, "retry_join": join, "retry_interval": "1s"})
        wait_until(lambda: name in self._nodes(), 20, f"node {name} in the catalog")
        return agent

    def fail(self, agent: ConsulAgent, name: str) -> None:
        """Kills the agent of this node, and waits until the others have noticed."""
        agent.stop()
        wait_until(lambda: self._has_failed(name), 30, f"the failure of node {name} to be known")

    def stop(self) -> None:
        """Ends all agents."""
        for agent in self._agents:
            agent.stop()

    def _start(self, name: str, settings: dict[str, Any]) -> ConsulAgent:
        common = {"node_name": name, "gossip_lan": _FAST_GOSSIP}
        agent = ConsulAgent(self._make_folder(name), durable=True, settings=common | settings)
        self._agents.append(agent)
        return agent.start()

    def _nodes(self) -> set[str]:
        return {node["Node"] for node in self.hub.request("GET", "/v1/catalog/nodes")}

    def _has_failed(self, name: str) -> bool:
        checks = self.hub.request("GET", f"/v1/health/node/{name}")
        return any(check["CheckID"] == "serfHealth" and check["Status"] == "critical" for check in checks)
