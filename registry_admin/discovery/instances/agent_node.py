"""Node of the Consul agent that this process uses, to prefer instances on the same machine."""

from __future__ import annotations

import logging
import threading

from registry_admin.consul.api import ConsulApi
from registry_admin.discovery.instances.pending import Pending
from registry_admin.errors import ConsulRefusedError, RegistryError

logger = logging.getLogger(__name__)


class AgentNode:
    """Looks up the name of the agent's node, once, on a thread of its own."""

    def __init__(self, api: ConsulApi) -> None:
        self._api = api
        self._lock = threading.Lock()
        self._lookup: Pending[str] | None = None

    def look_up(self) -> Pending[str]:
        """Returns the lookup of the name, and starts it the first time. An empty result means that it isn't known."""
        with self._lock:
            if self._lookup is None:
                self._lookup = Pending()
                try:
                    threading.Thread(target=self._run, args=(self._lookup,), name="agent-node", daemon=True).start()
                except RuntimeError:  # the system has no thread left
                    self._lookup.resolve("")
            return self._lookup

    def _run(self, lookup: Pending[str]) -> None:
        try:
            lookup.resolve(self._api.agent_node().name)
        except RegistryError as error:
            logger.warning("same_node_first has no effect, because the agent's node is not known: %s", error)
            if not isinstance(error, ConsulRefusedError):
                self._lookup = None  # the next change of an instance list starts another lookup
            lookup.resolve("")

    def after_fork(self) -> None:
        """Starts anew in a forked child, where neither the thread nor the owner of a lock exists."""
        self._lock = threading.Lock()
        self._lookup = None
