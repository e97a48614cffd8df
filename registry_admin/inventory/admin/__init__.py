"""The operator's view: declarations beside what Consul has, in the stock Django admin."""

from registry_admin.inventory.admin.audit import AuditEventAdmin
from registry_admin.inventory.admin.declarations import ServiceAdmin
from registry_admin.inventory.admin.history import EvictionHaltAdmin, HealthTransitionAdmin, SyncRunAdmin
from registry_admin.inventory.admin.observed import ObservedInstanceAdmin

__all__ = [
    "AuditEventAdmin",
    "EvictionHaltAdmin",
    "HealthTransitionAdmin",
    "ObservedInstanceAdmin",
    "ServiceAdmin",
    "SyncRunAdmin",
]
