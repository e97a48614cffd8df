"""All services that a process calls on one Consul, shared by all of its clients. See docs/decisions/0010."""

from __future__ import annotations

import logging
import os
import threading
import weakref

from registry_admin.consul.api import ConsulApi
from registry_admin.consul.config import ConsulConfig
from registry_admin.consul.registry import ServiceRegistry
from registry_admin.discovery.asked import Asked
from registry_admin.discovery.cache import Cache
from registry_admin.discovery.roster import Roster
from registry_admin.errors import ConsulRefusedError, RegistryError

logger = logging.getLogger(__name__)

IDLE_S = 300.0  # a watch that nobody used for so long ends


class Directory:
    """All services that this process calls on one Consul. Shared by threads, event loops and forked children."""

    def __init__(self, api: ConsulApi, *, cache: Cache | None = None, idle_s: float = IDLE_S) -> None:
        """A watch that nobody used for `idle_s` seconds ends."""
        self.api = api
        self.cache = cache or Cache.from_env(consul=api.config.url)
        self.idle_s = idle_s
        self._rosters: dict[str, Roster] = {}
        self._lock = threading.Lock()
        self._node: Asked[str] | None = None
        _all.add(self)

    @classmethod
    def of(cls, registry: ServiceRegistry) -> Directory:
        """The process's directory for the Consul of `registry`."""
        with _table_lock:
            directory = _table.get(registry.api.config)
            if directory is None:
                directory = _table[registry.api.config] = cls(registry.api)
            return directory

    def roster(self, service: str) -> Roster:
        """The service's instances; the name must be valid."""
        roster = self._rosters.get(service)
        if roster is None:
            with self._lock:
                roster = self._rosters.setdefault(service, Roster(self, service))
        roster.used = True
        return roster

    def forget(self, service: str) -> None:
        """Nothing is known of it, and nobody asks any more."""
        self._rosters.pop(service, None)

    def node(self) -> Asked[str]:
        """Our agent's node, asked on a thread of its own; nothing where the token doesn't allow it."""
        with self._lock:
            if self._node is None:
                self._node = Asked()
                try:
                    threading.Thread(target=self._ask_node, args=(self._node,), name="agent-node", daemon=True).start()
                except RuntimeError:
                    self._node.settle("")
            return self._node

    def _ask_node(self, node: Asked[str]) -> None:
        try:
            node.settle(self.api.agent_node()[0])
        except RegistryError as error:
            logger.warning("Which instances are on the same node is not known: %s", error)
            if not isinstance(error, ConsulRefusedError):
                self._node = None  # it is asked again when a list has changed
            node.settle("")

    def after_fork(self) -> None:
        """In a child: no thread runs here, and a lock may have been held by one that doesn't exist."""
        self._lock = threading.Lock()
        self._node = None
        for roster in self._rosters.values():
            roster.after_fork()


_table: weakref.WeakValueDictionary[ConsulConfig, Directory] = weakref.WeakValueDictionary()
_all: weakref.WeakSet[Directory] = weakref.WeakSet()
_table_lock = threading.Lock()


def _after_fork() -> None:
    global _table_lock  # noqa: PLW0603
    _table_lock = threading.Lock()
    for directory in list(_all):
        directory.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
