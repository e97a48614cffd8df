"""Finds and calls services by name, and registers the process itself. Knows no Django.

Each name is imported when it is first used, so that a process pays only for what it needs: one that calls doesn't load
what registers, one without an event loop doesn't load asyncio, and only PrometheusHooks needs the extra `metrics`. Its
`on_attempt` and `on_call` are those of a client that Prometheus watches.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from registry_admin.consul.registry import ServiceRegistry
    from registry_admin.discovery.asgi import lifespan
    from registry_admin.discovery.calls.async_client import ServiceDiscoveryClient, acall_service
    from registry_admin.discovery.calls.client import SyncServiceDiscoveryClient, call_service
    from registry_admin.discovery.calls.prometheus import PrometheusHooks
    from registry_admin.discovery.calls.requests_adapter import requests_adapter
    from registry_admin.discovery.registration.registration import Registration, registered

__all__ = [
    "PrometheusHooks",
    "Registration",
    "ServiceDiscoveryClient",
    "ServiceRegistry",
    "SyncServiceDiscoveryClient",
    "acall_service",
    "call_service",
    "lifespan",
    "registered",
    "requests_adapter",
]

_MODULES = {
    "PrometheusHooks": "registry_admin.discovery.calls.prometheus",
    "Registration": "registry_admin.discovery.registration.registration",
    "ServiceDiscoveryClient": "registry_admin.discovery.calls.async_client",
    "ServiceRegistry": "registry_admin.consul.registry",
    "SyncServiceDiscoveryClient": "registry_admin.discovery.calls.client",
    "acall_service": "registry_admin.discovery.calls.async_client",
    "call_service": "registry_admin.discovery.calls.client",
    "lifespan": "registry_admin.discovery.asgi",
    "registered": "registry_admin.discovery.registration.registration",
    "requests_adapter": "registry_admin.discovery.calls.requests_adapter",
}


def __getattr__(name: str) -> Any:
    """Imports a name of `_MODULES` when it is first used."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_MODULES[name]), name)
    return value
