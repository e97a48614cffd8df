"""Speaking to one and the same agent for a while, also where the address leads to several.

Registrations belong to an agent, and nothing in Consul's replies names it. A balancer may choose an agent for each
connection or for each request: docs/decisions/0022.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import consul.base

from registry_admin.consul.api import AgentIdentity, ConsulApi
from registry_admin.consul.config import ConsulConfig
from registry_admin.consul.transport import IDENTITY_PATH, Transport
from registry_admin.errors import DifferentAgentsError

PROOF_CONNECTIONS = 8  # of two requests each: a fair coin shows one side 16 times in a row once in 30,000 times
PROOF_VALID_S = 600.0

# When an address was last asked often enough, and who answered; for each connection pool that lives.
_proofs: weakref.WeakKeyDictionary[ConsulApi, tuple[AgentIdentity, float]] = weakref.WeakKeyDictionary()


class OneAgentApi(ConsulApi):
    """ConsulApi whose connections all lead to the same agent. Raises DifferentAgentsError as soon as another answers.

    Each new connection asks who is at its other end before anything else is sent over it. `before_write` is called
    before each write, and prevents it by raising.
    """

    def __init__(
        self,
        config: ConsulConfig,
        *,
        agent: AgentIdentity | None = None,
        before_write: Callable[[], object] = lambda: None,
    ) -> None:
        self._identity = agent
        self._lock = threading.Lock()
        self._before_write = before_write
        super().__init__(config)

    def connect(self, *_args: object, **_kwargs: object) -> Transport:
        return Transport(self.config, on_connect=self._check_reply)

    http_connect = connect

    @property
    def identity(self) -> AgentIdentity:
        """Who the agent is."""
        if self._identity is None:
            self._check_reply(self.http.request("GET", IDENTITY_PATH))
        assert self._identity is not None  # noqa: S101 - for the type checker
        return self._identity

    def check_agent(self, connections: int = 1) -> None:
        """Opens so many new connections, and asks twice over each who answers."""
        for _ in range(connections):
            with closing(Transport(self.config, on_connect=self._check_reply)) as transport:
                self._check_reply(transport.request("GET", IDENTITY_PATH))

    def _check_reply(self, reply: consul.base.Response) -> None:
        agent = self.agent_of(reply)
        with self._lock:
            expected = self._identity = self._identity or agent
        if agent != expected:
            raise DifferentAgentsError(self.config.url, _names(expected, agent))

    def _put(self, *args: object, **options: object) -> None:
        self._before_write()
        super()._put(*args, **options)  # type: ignore[arg-type]  # as the method above has them


@contextmanager
def on_one_agent(
    api: ConsulApi, agent: AgentIdentity | None = None, *, before_write: Callable[[], object] = lambda: None
) -> Iterator[OneAgentApi]:
    """Yields an API on connections of its own to `agent`, or else to whichever answers first.

    Asks over new connections at the end, and at the beginning too where this hasn't been done for a while. Raises
    DifferentAgentsError where another agent answers, at any time.
    """
    agent_api = OneAgentApi(api.config, agent=agent, before_write=before_write)
    try:
        proven, proven_at = _proofs.get(api, (None, 0.0))
        if proven != agent_api.identity or time.monotonic() - proven_at > PROOF_VALID_S:
            agent_api.check_agent(PROOF_CONNECTIONS)
            _proofs[api] = agent_api.identity, time.monotonic()
        yield agent_api
        agent_api.check_agent()
    except DifferentAgentsError:
        _proofs.pop(api, None)
        raise
    finally:
        agent_api.close()


def _names(*agents: AgentIdentity) -> list[str]:
    """Returns the agents' names, with what tells them apart where the names are the same."""
    if len({agent.name for agent in agents}) == len(agents):
        return sorted(agent.name for agent in agents)
    return sorted(f"{agent.name} ({agent.id} in {agent.datacenter})" for agent in agents)
