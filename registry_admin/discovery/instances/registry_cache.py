"""Cache of all services that a process calls on one Consul, shared by its clients. See docs/decisions/0010."""

from __future__ import annotations

import os
import threading
import weakref

from registry_admin.consul.api import ConsulApi
from registry_admin.consul.config import ConsulConfig
from registry_admin.consul.registry import ServiceRegistry
from registry_admin.discovery.instances.agent_node import AgentNode
from registry_admin.discovery.instances.disk_cache import DiskCache
from registry_admin.discovery.instances.service_cache import ServiceCache
from registry_admin.discovery.instances.watch_slots import WatchSlots

IDLE_S = 300.0


class RegistryCache:
    """A ServiceCache for each called service of one Consul. Shared by threads, event loops and forked children.

    The watch of a service ends when no call has used it for `idle_s` seconds; that of a name without instances after
    UNKNOWN_IDLE_S. All watches together hold as many connections as WatchSlots has places.
    """

    def __init__(self, api: ConsulApi, *, disk_cache: DiskCache | None = None, idle_s: float = IDLE_S) -> None:
        self.api = api
        self._disk_cache = disk_cache or DiskCache.from_env(consul_url=api.config.url)
        self._idle_s = idle_s
        self._services: dict[str, ServiceCache] = {}
        self._lock = threading.Lock()
        self._agent_node = AgentNode(api)
        self._slots = WatchSlots()
        _instances.add(self)

    @classmethod
    def for_registry(cls, registry: ServiceRegistry) -> RegistryCache:
        """Returns the process's cache for the Consul of `registry`."""
        with _shared_lock:
            registry_cache = _shared.get(registry.api.config)
            if registry_cache is None:
                registry_cache = _shared[registry.api.config] = cls(registry.api)
            return registry_cache

    @property
    def services(self) -> frozenset[str]:
        """Names of the services that are cached."""
        return frozenset(self._services)

    def service_cache(self, service: str) -> ServiceCache:
        """Returns the cache of a service, whose name must be valid, and marks it as used."""
        service_cache = self._services.get(service)
        if service_cache is None:
            service_cache = self._add(service)
        service_cache.used = True
        return service_cache

    def _add(self, service: str) -> ServiceCache:
        with self._lock:
            service_cache = ServiceCache(
                service,
                api=self.api,
                disk_cache=self._disk_cache,
                agent_node=self._agent_node,
                slots=self._slots,
                idle_s=self._idle_s,
                on_unused=self._discard,
            )
            return self._services.setdefault(service, service_cache)

    def _discard(self, service: str) -> None:
        self._services.pop(service, None)

    def end_watches(self) -> None:
        """Ends each watch with its next reply, from now on, as if the service were idle. For tests."""
        self._idle_s = -1.0
        for service_cache in list(self._services.values()):
            service_cache.idle_s = -1.0

    def after_fork(self) -> None:
        """Replaces what a forked child can't share: locks, and threads that don't run there."""
        self._lock = threading.Lock()
        self._agent_node.after_fork()
        self._slots.after_fork()
        for service_cache in self._services.values():
            service_cache.after_fork()


_shared: weakref.WeakValueDictionary[ConsulConfig, RegistryCache] = weakref.WeakValueDictionary()
_shared_lock = threading.Lock()
_instances: weakref.WeakSet[RegistryCache] = weakref.WeakSet()


def clear() -> None:
    """Makes new clients begin with empty caches; existing clients keep theirs. For tests."""
    with _shared_lock:
        _shared.clear()


def end_watches() -> None:
    """Ends each watch of this process with its next reply. For tests, which leave no thread behind."""
    for registry_cache in list(_instances):
        registry_cache.end_watches()


def _after_fork() -> None:
    global _shared_lock  # noqa: PLW0603
    _shared_lock = threading.Lock()
    for registry_cache in list(_instances):
        registry_cache.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
