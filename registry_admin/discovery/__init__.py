"""Finding and calling services by name, and registering oneself: knows nothing of Django."""

from typing import TYPE_CHECKING, Any

from registry_admin.consul.registry import ServiceRegistry
from registry_admin.discovery.adapter import requests_adapter
from registry_admin.discovery.asgi import lifespan
from registry_admin.discovery.client import SyncServiceDiscoveryClient, call_service
from registry_admin.discovery.registration import Registration, registered

if TYPE_CHECKING:
    from registry_admin.discovery.async_client import ServiceDiscoveryClient, acall_service

__all__ = [
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


def __getattr__(name: str) -> Any:
    """Imports the asynchronous client, and aiohttp with it, when it is first asked for."""
    if name not in ("ServiceDiscoveryClient", "acall_service"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from registry_admin.discovery import async_client  # noqa: PLC0415

    return getattr(async_client, name)
