"""Speaking to Consul: knows nothing of Django, of calls between services, or of what should be."""

import importlib
from typing import TYPE_CHECKING, Any

from registry_admin.consul.api import ConsulApi
from registry_admin.consul.checks import CheckKind, CheckSpec
from registry_admin.consul.config import ConsulConfig
from registry_admin.consul.health import CheckResult, Health
from registry_admin.consul.marks import Mark, Owner, Place
from registry_admin.consul.registry import ServiceRegistry
from registry_admin.consul.service_spec import ServiceSpec
from registry_admin.consul.types import ServiceInstance

if TYPE_CHECKING:
    from registry_admin.consul.snapshot import Snapshot, SnapshotReader

__all__ = [
    "CheckKind",
    "CheckResult",
    "CheckSpec",
    "ConsulApi",
    "ConsulConfig",
    "Health",
    "Mark",
    "Owner",
    "Place",
    "ServiceInstance",
    "ServiceRegistry",
    "ServiceSpec",
    "Snapshot",
    "SnapshotReader",
]


def __getattr__(name: str) -> Any:
    """Imports what reads snapshots when it is first used: a process that only calls services doesn't."""
    if name not in {"Snapshot", "SnapshotReader"}:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module("registry_admin.consul.snapshot"), name)
    return value
