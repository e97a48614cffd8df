"""Speaking to Consul: knows nothing of Django, of calls between services, or of what should be."""

from registry_admin.consul.api import ConsulApi
from registry_admin.consul.config import ConsulConfig
from registry_admin.consul.observe import Observation, Observer
from registry_admin.consul.registry import ServiceRegistry
from registry_admin.consul.types import CheckKind, CheckResult, CheckSpec, Health, ServiceInstance, ServiceSpec

__all__ = [
    "CheckKind",
    "CheckResult",
    "CheckSpec",
    "ConsulApi",
    "ConsulConfig",
    "Health",
    "Observation",
    "Observer",
    "ServiceInstance",
    "ServiceRegistry",
    "ServiceSpec",
]
