"""Consul as it is in production: three servers with data folders, and a client agent on a machine with modules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parts.agent import PORTS, ConsulAgent
from tests.parts.waiting import free_ports, wait_until

SERVERS = 3


class ConsulCluster:
    """`servers` and `client` are agents like any other: `stop` (SIGKILL), `freeze`, `thaw`, `start` each as you like.

    `options` are those of every agent.
    """

    def __init__(self, folder: Path, *, settings: dict[str, Any] | None = None, **options: Any) -> None:
        names = [f"server-{number + 1}" for number in range(SERVERS)] + ["client"]
        ports = iter(free_ports(len(names) * len(PORTS)))
        own = {name: {kind: next(ports) for kind in PORTS} for name in names}
        join = [f"127.0.0.1:{own[name]['serf_lan']}" for name in names[:SERVERS]]

        def agent(name: str, role: dict[str, Any]) -> ConsulAgent:
            (folder / name).mkdir()
            common = {"node_name": name, "ports": own[name], "retry_join": join, "retry_interval": "1s"}
            return ConsulAgent(folder / name, durable=True, settings=common | role | (settings or {}), **options)

        self.servers = tuple(agent(name, {"bootstrap_expect": SERVERS}) for name in names[:SERVERS])
        self.client = agent("client", {"server": False, "bootstrap_expect": 0})

    @property
    def agents(self) -> tuple[ConsulAgent, ...]:
        """All four."""
        return (*self.servers, self.client)

    def start(self) -> ConsulCluster:
        """Starts all at the same time and waits until each sees the leader, and the leader each of them."""
        for agent in self.agents:
            agent.launch()
        for agent in self.agents:
            agent.await_ready()
        wait_until(
            lambda: len(self.client.request("GET", "/v1/catalog/nodes")) == len(self.agents), 30, "all nodes to join"
        )
        return self

    def stop(self) -> None:
        """Ends all of them at once."""
        for agent in self.agents:
            agent.stop()

    def leader(self) -> ConsulAgent:
        """The server that leads, as all that run agree; waits for an election."""
        result = wait_until(self.agreed_leader, 30, "a leader")
        assert result
        return result

    def replace_client(self) -> None:
        """The client agent's machine is lost, and comes back later under the same name with an empty data folder.

        The servers must have given up the old one before: until then they keep its name for it, and the new one's
        registrations don't get into the catalog.
        """
        self.client.lose_state()
        wait_until(self._client_is_given_up, 60, "the servers to give the client agent up")
        self.client.start()

    def _client_is_given_up(self) -> bool:
        checks = self.leader().request("GET", "/v1/health/node/client")
        return any(check["CheckID"] == "serfHealth" and check["Status"] == "critical" for check in checks)

    def followers(self) -> list[ConsulAgent]:
        """The servers that run and don't lead."""
        leader = self.leader()
        return [server for server in self.servers if server.is_running and server is not leader]

    def agreed_leader(self) -> ConsulAgent | None:
        """The server that leads now, or None while those that run don't agree on one of them."""
        running = [server for server in self.servers if server.is_running]
        addresses = {server.request("GET", "/v1/status/leader") for server in running}
        return next((item for item in running if addresses == {f"{item.host}:{item.ports['server']}"}), None)
